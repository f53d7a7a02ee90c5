//! What is stored of an operation. Pure: times and ids come from the clock it is given.

use std::fmt;

use serde::{Deserialize, Serialize};
use ves_proto::{Fault, Reason};
use ves_types::{CtId, ExitCause, NodeName};

use super::kinds::{Action, Stage};
use crate::clock::Clock;
use crate::problem::Problem;

/// An operation's id: a version 7 UUID, so that ids sort by age.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OpId(pub String);

impl fmt::Display for OpId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What makes a call that is repeated the same request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestKey {
    /// The caller and the id it chose: two callers may choose the same.
    pub id: String,
    /// Of the RPC and all that was asked, but for the id. None: of a release that did not keep it.
    pub digest: Option<String>,
}

/// Who asks, and by which request.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The user's name or id.
    pub principal: String,
    /// For whom that one asks, as far as it said.
    pub on_behalf_of: Option<String>,
    /// Where the request has an id.
    pub request: Option<RequestKey>,
}

/// Why the coordinator begins an operation that nobody asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The node has booted.
    Boot,
    /// The container ended, or rebooted.
    Container,
    /// The container is not as it should be.
    Node,
    /// It is time for a snapshot of its, or for one to go.
    Schedule,
}

impl Cause {
    const ALL: [Self; 4] = [Self::Boot, Self::Container, Self::Node, Self::Schedule];

    pub(super) fn principal(self) -> &'static str {
        match self {
            Self::Boot => "boot",
            Self::Container => "container",
            Self::Node => "node",
            Self::Schedule => "schedule",
        }
    }
}

impl Caller {
    /// The coordinator itself.
    pub fn own(cause: Cause) -> Self {
        Self { principal: cause.principal().to_owned(), on_behalf_of: None, request: None }
    }
}

impl RequestKey {
    /// Whether another request with the same id can be this one.
    pub fn is_repeated_by(&self, other: &Self) -> bool {
        self.digest.is_none() || self.digest == other.digest
    }
}

/// How far an operation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OpState {
    /// Working or waiting to.
    Running,
    /// Done.
    Succeeded,
    /// Not done, its effects taken back.
    Failed,
    /// Stopped on demand, its effects taken back.
    Cancelled,
}

/// An operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpRecord {
    /// Its id.
    pub id: OpId,
    /// What it does.
    pub action: Action,
    /// The node that carries it out.
    pub node: NodeName,
    /// The container worked on.
    pub ct: Option<CtId>,
    /// How far it is.
    pub state: OpState,
    /// The stage that was entered last.
    pub stage: Option<Stage>,
    /// It goes backwards because of this.
    pub undoing: Option<Problem>,
    /// Somebody wants it to stop.
    pub cancel: bool,
    /// What was done, one line a step.
    pub steps: Vec<String>,
    /// What somebody should know though it was done.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Why it failed.
    pub fault: Option<Problem>,
    /// In milliseconds since 1970.
    pub started_unix_ms: i64,
    /// In milliseconds since 1970.
    pub ended_unix_ms: Option<i64>,
    /// Who asked.
    pub principal: String,
    /// For whom that one asked, as far as it said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_behalf_of: Option<String>,
    /// The project of the container worked on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// It only plans; such a one is not kept.
    #[serde(skip)]
    pub validate_only: bool,
    /// The request it came by, where that had an id.
    pub request: Option<RequestKey>,
    /// What it is doing now; not kept.
    #[serde(skip)]
    pub progress: Progress,
    /// How the container was seen to have ended when the operation did; not kept.
    #[serde(skip)]
    pub exit: Option<ExitCause>,
}

/// What an operation is doing now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Progress {
    /// In a few words.
    pub what: String,
    /// How much is done.
    pub done: u64,
    /// How much there is.
    pub total: u64,
}

impl OpRecord {
    /// Why the coordinator began it, where it did.
    pub fn cause(&self) -> Option<Cause> {
        let own = Cause::ALL.into_iter().find(|c| c.principal() == self.principal);
        own.filter(|_| self.request.is_none())
    }

    /// Whether the coordinator began it, so that nobody knows of it who did not look.
    pub fn is_own(&self) -> bool {
        self.cause().is_some()
    }

    /// A new operation of a node, not stored yet.
    pub fn new(
        node: NodeName,
        ct: Option<CtId>,
        action: Action,
        caller: Caller,
        clock: &dyn Clock,
    ) -> Self {
        let Caller { principal, on_behalf_of, request } = caller;
        Self {
            id: OpId(clock.new_id().to_string()),
            action,
            node,
            ct,
            state: OpState::Running,
            stage: None,
            undoing: None,
            cancel: false,
            steps: vec![],
            warnings: vec![],
            fault: None,
            started_unix_ms: clock.now_ms(),
            ended_unix_ms: None,
            principal,
            on_behalf_of,
            project: None,
            validate_only: false,
            request,
            progress: Progress::default(),
            exit: None,
        }
    }

    /// Makes it end at `now_ms`, by `fault` or well.
    pub fn end(&mut self, now_ms: i64, fault: Option<&Fault>) {
        self.state = match fault {
            None => OpState::Succeeded,
            Some(fault) if fault.reason == Reason::Cancelled => OpState::Cancelled,
            Some(_) => OpState::Failed,
        };
        self.fault = fault.map(Problem::from);
        self.ended_unix_ms = Some(now_ms);
        self.progress = Progress::default();
    }

    /// The fault of one that somebody stopped.
    pub fn cancelled(&self) -> Fault {
        let kind = self.action.kind().name();
        let message = format!("{kind} was cancelled and what it did was taken back");
        Fault::new(Reason::Cancelled, message).fact("operation", &self.id)
    }
}
