//! The kinds of changes, as [`ves_daemon::converge`] takes them: what is looked at, which planner
//! plans, what is answered. The node as a whole is part of what is looked at, and its steps come before
//! the container's.
//!
//! Never here: decisions, how anything is done, locks of containers, fences, spans.

use std::fmt;
use std::sync::Arc;

use ves_daemon::converge::{Planned, variant};
use ves_daemon::{Call, Done};
use ves_proto::Fault;
use ves_types::{CtAddress, CtId};

use crate::error::Error;
use crate::host::Session;
use crate::plan::node::{NodeObserved, NodeStep};
use crate::plan::{self, Desired, Observed, node};
use crate::service::{Inner, Interface, Service};

/// A container's link and the node around it.
pub(crate) struct Seen {
    session: Box<dyn Session>,
    link: Observed,
    /// What the node is; `None` where a link is only to go.
    node: Option<NodeObserved>,
}

/// A change to the node or to a container's link.
#[derive(Debug)]
pub(crate) enum Step {
    Node(NodeStep),
    Link(plan::Step),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(step) => step.fmt(f),
            Self::Link(step) => step.fmt(f),
        }
    }
}

impl Step {
    fn kind(&self) -> String {
        match self {
            Self::Node(step) => variant(step),
            Self::Link(step) => variant(&step.change),
        }
    }
}

/// Looks at a container's link.
fn look(inner: &Inner, ct: CtId, wanted: &[CtAddress], whole: bool) -> Result<Seen, Error> {
    let mut session = inner.session(ct)?;
    let link = inner.observe(ct, &mut *session, wanted)?;
    let node = whole.then(|| inner.observe_node()).transpose()?;
    Ok(Seen { session, link, node })
}

fn apply(inner: &Inner, seen: &mut Seen, step: &Step) -> Result<(), Fault> {
    match step {
        Step::Node(step) => inner.apply_node(step)?,
        Step::Link(change) => inner.apply(&mut *seen.session, change)?,
    }
    Ok(())
}

/// Makes a container's link as desired.
pub(crate) struct EnsureInterface {
    pub(crate) inner: Arc<Inner>,
    pub(crate) ct: CtId,
    pub(crate) desired: Desired,
}

impl Planned for EnsureInterface {
    const RPC: &'static str = "EnsureInterface";
    type Observed = Seen;
    type Step = Step;
    type Answer = Interface;

    fn observe(&mut self) -> Result<Seen, Fault> {
        Ok(look(&self.inner, self.ct, &self.desired.addresses, true)?)
    }

    fn plan(&mut self, seen: &Seen) -> Result<Vec<Step>, Fault> {
        let link = plan::plan(Some(&self.desired), &seen.link).map_err(Error::from)?;
        let node = seen.node.iter().flat_map(|now| node::plan(self.inner.desired, now));
        Ok(node.map(Step::Node).chain(link.into_iter().map(Step::Link)).collect())
    }

    fn apply(&mut self, seen: &mut Seen, step: &Step) -> Result<(), Fault> {
        apply(&self.inner, seen, step)
    }

    fn ended(&mut self) {
        self.inner.ended(self.ct);
    }

    fn answer(&mut self, mut seen: Seen, changed: bool) -> Result<Interface, Fault> {
        if changed {
            seen.link = self.inner.observe(self.ct, &mut *seen.session, &[])?;
        }
        let interface = self.inner.render(&mut *seen.session, &seen.link)?;
        interface.ok_or_else(|| Error::NoLink { ct: self.ct }.into())
    }

    fn kind(step: &Step) -> String {
        step.kind()
    }
}

/// Makes a container's link not exist.
pub(crate) struct RemoveInterface {
    pub(crate) inner: Arc<Inner>,
    pub(crate) ct: CtId,
}

impl Planned for RemoveInterface {
    const RPC: &'static str = "RemoveInterface";
    type Observed = Seen;
    type Step = Step;
    type Answer = ();

    fn observe(&mut self) -> Result<Seen, Fault> {
        Ok(look(&self.inner, self.ct, &[], false)?)
    }

    fn plan(&mut self, seen: &Seen) -> Result<Vec<Step>, Fault> {
        let steps = plan::plan(None, &seen.link).map_err(Error::from)?;
        Ok(steps.into_iter().map(Step::Link).collect())
    }

    fn removes(&self, _: &Seen) -> bool {
        true
    }

    fn apply(&mut self, seen: &mut Seen, step: &Step) -> Result<(), Fault> {
        apply(&self.inner, seen, step)
    }

    fn ended(&mut self) {
        self.inner.ended(self.ct);
    }

    fn answer(&mut self, _: Seen, _: bool) -> Result<(), Fault> {
        Ok(())
    }

    fn kind(step: &Step) -> String {
        step.kind()
    }
}

impl Service {
    /// Makes a container's link as desired.
    pub async fn ensure(
        &self,
        call: impl Into<Call>,
        desired: Desired,
    ) -> Result<Done<Interface>, Fault> {
        let (call, inner) = (call.into(), Arc::clone(&self.inner));
        let planned = EnsureInterface { inner, ct: call.fence.ct, desired };
        self.inner.shell.converge(call, planned).await
    }

    /// Makes a container's link not exist.
    pub async fn remove(&self, call: impl Into<Call>) -> Result<Done<()>, Fault> {
        let (call, inner) = (call.into(), Arc::clone(&self.inner));
        self.inner.shell.converge(call, RemoveInterface { inner, ct: call.fence.ct }).await
    }
}
