//! [`Fault`]: one failure type on both sides of the wire, and its codec to `tonic::Status`.
//!
//! Programs branch on [`Reason`], never on text. The only place where a `Status` is made. Details
//! travel as google.rpc messages: `ErrorInfo` always, `RetryInfo` and `BadRequest` where they say
//! something.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};
use ves_types::ParseError;

pub use crate::api::Reason;

/// `ErrorInfo.domain` of every fault of ours.
pub const DOMAIN: &str = "ves";

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// For programs; the closed set in `errors.proto`.
    pub reason: Reason,
    /// For people: what was attempted, on what, why it failed, and what to do next.
    pub message: String,
    /// For programs: the names documented at each reason in `errors.proto`.
    pub facts: BTreeMap<String, String>,
    /// When the same call is worth repeating.
    pub retry_after: Option<Duration>,
    /// Where more than one field of the request is wrong: each of them.
    pub violations: Vec<Violation>,
}

/// A field of a request that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Its whole path, as in an update mask: `container.spec.hostname`.
    pub field: String,
    /// For people: what is wrong with it.
    pub message: String,
}

impl Fault {
    /// A fault without facts.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        let retry_after = matches!(reason, Reason::Busy | Reason::Starting | Reason::PeerDown)
            .then_some(Duration::from_millis(500));
        let violations = Vec::new();
        Self { reason, message: message.into(), facts: BTreeMap::new(), retry_after, violations }
    }

    /// All that is wrong with a request at once: of one fault itself; of more, the first one's reason and
    /// facts, with a violation for each of them. None: nothing is wrong.
    pub fn all(faults: Vec<Self>) -> Option<Self> {
        if faults.len() < 2 {
            return faults.into_iter().next();
        }
        let violations: Vec<Violation> = faults.iter().flat_map(Self::violations).collect();
        let said: Vec<&str> = faults.iter().map(|fault| fault.message.as_str()).collect();
        let message = said.join("; ");
        let first = faults.into_iter().next()?;
        Some(Self { message, violations, ..first })
    }

    /// The fields that are wrong.
    fn violations(&self) -> Vec<Violation> {
        match self.facts.get("field") {
            Some(field) if self.violations.is_empty() => {
                vec![Violation { field: field.clone(), message: self.message.clone() }]
            }
            _ => self.violations.clone(),
        }
    }

    /// The same with one more fact.
    #[must_use]
    pub fn fact(mut self, name: &str, value: impl fmt::Display) -> Self {
        self.facts.insert(name.to_owned(), value.to_string());
        self
    }

    /// The same with one more fact, where it is known.
    #[must_use]
    pub fn fact_if_known(self, name: &str, value: Option<impl fmt::Display>) -> Self {
        match value {
            Some(value) => self.fact(name, value),
            None => self,
        }
    }

    /// A malformed value in the request's `field`.
    pub fn bad_value(field: &str, error: &ParseError) -> Self {
        Self::new(Reason::BadValue, error.to_string()).fact("field", field)
    }

    /// A required field that is not there.
    pub fn missing(field: &str) -> Self {
        Self::new(Reason::MissingField, format!("the request lacks {field}")).fact("field", field)
    }

    /// A failure on the host; `error`'s whole chain of sources becomes the message, once.
    pub fn host(error: &(dyn std::error::Error + 'static)) -> Self {
        Self::new(Reason::HostFailed, chain(error))
    }

    /// The gRPC code of this fault's reason.
    pub const fn code(&self) -> Code {
        code_of(self.reason)
    }

    /// The name of the reason on the wire: without its prefix.
    pub fn reason_name(&self) -> &'static str {
        reason_name(self.reason)
    }

    /// Reads a status. One that is not ours keeps only its code's meaning.
    pub fn from_status(status: &Status) -> Self {
        let details = status.get_error_details();
        let ours = details.error_info().filter(|i| i.domain == DOMAIN);
        let retry_after = details.retry_info().and_then(|r| r.retry_delay);
        let fields = details.bad_request().map(|b| b.field_violations.as_slice());
        // One field alone is told by the facts.
        let violations = fields.filter(|fields| fields.len() > 1).unwrap_or_default().iter();
        let violations = violations
            .map(|v| Violation { field: v.field.clone(), message: v.description.clone() })
            .collect();
        match ours.and_then(|i| Some((reason_from_name(&i.reason)?, i))) {
            Some((reason, info)) => Self {
                reason,
                message: status.message().to_owned(),
                facts: info.metadata.clone().into_iter().collect(),
                retry_after,
                violations,
            },
            None => {
                let reason = match status.code() {
                    // A reset or an end of the connection, seen by this side of it.
                    Code::Internal | Code::Cancelled if broken(status) => Reason::PeerDown,
                    // Every status a peer of ours makes carries its reason; what is bare was made by
                    // the transport when the peer went away.
                    Code::Unavailable | Code::Unknown => Reason::PeerDown,
                    Code::Unimplemented => Reason::NotBuilt,
                    Code::DeadlineExceeded => Reason::Timeout,
                    Code::Cancelled | Code::Aborted => Reason::Cancelled,
                    Code::PermissionDenied => Reason::NotAllowed,
                    Code::Unauthenticated => Reason::Unauthenticated,
                    Code::InvalidArgument | Code::OutOfRange => Reason::BadValue,
                    Code::ResourceExhausted => Reason::TooMany,
                    Code::Ok
                    | Code::NotFound
                    | Code::AlreadyExists
                    | Code::FailedPrecondition
                    | Code::Internal
                    | Code::DataLoss => Reason::Bug,
                };
                Self {
                    reason,
                    message: status.message().to_owned(),
                    facts: BTreeMap::new(),
                    retry_after,
                    violations,
                }
            }
        }
    }

    /// The status that a call would fail with, as a message: what operations and containers show.
    pub fn to_message(self) -> tonic_types::Status {
        let status = Status::from(self);
        // It was encoded a moment ago.
        prost::Message::decode(status.details()).unwrap_or_default()
    }

    /// The reverse of [`Self::to_message`].
    pub fn from_message(message: &tonic_types::Status) -> Self {
        let details = prost::Message::encode_to_vec(message).into();
        let code = Code::from_i32(message.code);
        Self::from_status(&Status::with_details(code, message.message.clone(), details))
    }
}

/// Whether this side's transport made the status because the connection broke: such a status has a
/// source, which none that came over the wire has. Its own clock running out is something else.
fn broken(status: &Status) -> bool {
    let mut next = std::error::Error::source(status);
    let made_here = next.is_some();
    while let Some(source) = next {
        if source.is::<tonic::TimeoutExpired>() {
            return false;
        }
        next = source.source();
    }
    made_here
}

/// `error` and its sources, joined by colons.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}

/// The name of a reason on the wire.
pub fn reason_name(reason: Reason) -> &'static str {
    reason.as_str_name().trim_start_matches("REASON_")
}

/// The reverse of [`reason_name`].
pub fn reason_from_name(name: &str) -> Option<Reason> {
    Reason::from_str_name(&format!("REASON_{name}")).filter(|r| *r != Reason::Unspecified)
}

/// What a caller should do, as gRPC says it.
pub const fn code_of(reason: Reason) -> Code {
    use Reason as R;
    match reason {
        R::BadValue | R::MissingField | R::BadArchive | R::RequestIdReused => Code::InvalidArgument,
        R::ContainerUnknown
        | R::TemplateUnknown
        | R::OperationUnknown
        | R::VolumeUnknown
        | R::CommandUnknown
        | R::SnapshotUnknown
        | R::NodeUnknown
        | R::TokenUnknown => Code::NotFound,
        R::ContainerExists | R::NameTaken | R::AddressTaken | R::TemplateExists => {
            Code::AlreadyExists
        }
        R::NotRunning
        | R::Running
        | R::NotMounted
        | R::Mounted
        | R::WouldShrink
        | R::Disabled
        | R::TemplateInUse
        | R::ForeignContents
        | R::InitExited
        | R::WillNotStop
        | R::NeedsRestart
        | R::StartFailed
        | R::VolumeDamaged
        | R::DeleteProtected => Code::FailedPrecondition,
        R::StaleGeneration | R::StaleEpoch | R::Cancelled | R::EtagMismatch | R::Busy => {
            Code::Aborted
        }
        R::PoolFull
        | R::NoInodes
        | R::ArchiveTooLarge
        | R::IdsExhausted
        | R::TooMany
        | R::VolumeTooSmall
        | R::StoreFull => Code::ResourceExhausted,
        R::Starting | R::PeerDown => Code::Unavailable,
        R::KernelLacks | R::NotBuilt | R::NotOffered => Code::Unimplemented,
        R::NotAllowed => Code::PermissionDenied,
        R::Unauthenticated | R::TokenExpired => Code::Unauthenticated,
        R::Unspecified | R::HostFailed | R::Bug => Code::Internal,
        R::RecordCorrupt => Code::DataLoss,
        R::Timeout => Code::DeadlineExceeded,
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.message.fmt(f)
    }
}

impl std::error::Error for Fault {}

/// The most bytes of each text in a status: all of it is a header, of which clients take 8 KiB.
const TOLD: usize = 2048;

/// `text` as it may be told: what a caller sent, or a command printed, may be in it. It has its bound, and nothing
/// that a terminal would obey or that turns the order of what is read.
fn told(text: &str) -> String {
    let plain = |c: char| match c {
        '\n' | '\t' => c,
        '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
        c if c.is_control() => '\u{fffd}',
        c => c,
    };
    let mut told: String = text.chars().map(plain).collect();
    if told.len() > TOLD {
        told.truncate(told.floor_char_boundary(TOLD));
        told.push('…');
    }
    told
}

impl From<Fault> for Status {
    fn from(fault: Fault) -> Self {
        let mut details = ErrorDetails::new();
        let facts = fault.facts.iter().map(|(name, fact)| (told(name), told(fact)));
        details.set_error_info(
            fault.reason_name(),
            DOMAIN,
            facts.collect::<std::collections::HashMap<_, _>>(),
        );
        if let Some(after) = fault.retry_after {
            details.set_retry_info(Some(after));
        }
        if fault.code() == Code::InvalidArgument {
            for Violation { field, message } in fault.violations() {
                details.add_bad_request_violation(told(&field), told(&message));
            }
        }
        Self::with_error_details(fault.code(), told(&fault.message), details)
    }
}

impl From<Status> for Fault {
    fn from(status: Status) -> Self {
        Self::from_status(&status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> impl Iterator<Item = Reason> {
        (1..=200).filter_map(|n| Reason::try_from(n).ok())
    }

    #[test]
    fn every_reason_survives_the_wire() {
        assert!(all().count() > 40);
        for reason in all() {
            let fault = Fault::new(reason, "do a thing: it cannot be").fact("ct", 101);
            let back = Fault::from(Status::from(fault.clone()));
            assert_eq!(back, fault);
            assert_eq!(Fault::from_message(&fault.clone().to_message()), fault);
        }
    }

    #[test]
    fn all_that_is_wrong_is_told_at_once() {
        let one = Fault::missing("request_id");
        assert_eq!(Fault::all(vec![]), None);
        assert_eq!(Fault::all(vec![one.clone()]), Some(one.clone()));
        let two = Fault::new(Reason::BadValue, "is no name").fact("field", "container.alias");
        let both = Fault::all(vec![one, two]).expect("two are wrong");
        let fields: Vec<&str> = both.violations.iter().map(|v| v.field.as_str()).collect();
        assert_eq!(fields, ["request_id", "container.alias"]);
        assert!(both.message.contains("lacks request_id; is no name"), "{both}");
        assert_eq!(Fault::from(Status::from(both.clone())), both);
    }

    #[test]
    fn what_is_told_has_its_bound_and_moves_no_cursor() {
        let fault =
            Fault::new(Reason::BadValue, "\u{1b}[2J\u{202e}é\n").fact("got", "é".repeat(9000));
        let told = Fault::from(Status::from(fault));
        assert_eq!(told.message, "\u{fffd}[2J\u{fffd}é\n");
        assert!(told.facts["got"].len() <= TOLD + 3 && told.facts["got"].ends_with("é…"));
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the test plays the transport")]
    fn a_broken_connection_is_a_peer_that_is_down() {
        let made_here = |code| {
            let mut status = Status::new(code, "h2 protocol error");
            let source: std::sync::Arc<dyn std::error::Error + Send + Sync> =
                std::sync::Arc::new(std::io::Error::from(std::io::ErrorKind::ConnectionReset));
            status.set_source(source);
            Fault::from(status).reason
        };
        for code in [Code::Internal, Code::Cancelled, Code::Unknown, Code::Unavailable] {
            assert_eq!(made_here(code), Reason::PeerDown, "{code:?}");
        }
        assert_eq!(Fault::from(Status::cancelled("by the peer")).reason, Reason::Cancelled);
        assert_eq!(Fault::from(Status::internal("malformed")).reason, Reason::Bug);
    }

    #[test]
    fn foreign_status_is_not_mistaken_for_ours() {
        let fault = Fault::from(Status::with_error_details(
            Code::Internal,
            "from a proxy",
            ErrorDetails::with_error_info(
                "BUSY",
                "elsewhere.example",
                std::collections::HashMap::<String, String>::new(),
            ),
        ));
        assert_eq!(fault.reason, Reason::Bug);
    }
}
