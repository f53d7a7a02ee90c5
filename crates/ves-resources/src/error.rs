//! What can fail in this service, and what a caller hears of it.

use ves_host::HostError;
use ves_proto::{Fault, Reason, fault};
use ves_types::CtId;

use crate::plan::Refusal;

/// A failure of this service.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The wish cannot be planned for.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The node cannot be observed.
    #[error("observe the control groups of this node")]
    Node(#[source] HostError),
    /// The container's groups cannot be observed.
    #[error("observe the control groups of container {ct}")]
    Observe {
        /// The container.
        ct: CtId,
        /// What the host said.
        #[source]
        source: HostError,
    },
    /// A step failed.
    #[error("container {ct}: {step}")]
    Step {
        /// The container.
        ct: CtId,
        /// What was to be done.
        step: String,
        /// What it was for, by the request's field.
        field: Option<&'static str>,
        /// What the host said.
        #[source]
        source: HostError,
    },
    /// There is nothing of the container.
    #[error("container {0} has no control groups on this node; EnsureLimits makes them")]
    Unknown(CtId),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        let busy = |source: &HostError| source.is(rustix::io::Errno::BUSY);
        let text = fault::chain(&error);
        match &error {
            Error::Refused(Refusal::Running(ct)) => Self::new(Reason::Running, text).fact("ct", ct),
            Error::Refused(Refusal::Lacks { field, feature, .. }) => {
                Self::new(Reason::KernelLacks, text).fact("feature", feature).fact("field", field)
            }
            Error::Refused(Refusal::NotThere { field, asked, there, .. }) => {
                let fault = Self::new(Reason::BadValue, text).fact("field", field);
                fault.fact("asked", asked).fact("there", there)
            }
            Error::Refused(Refusal::InUse { ct, .. }) => {
                Self::new(Reason::NeedsRestart, text).fact("field", "physpages").fact("ct", ct)
            }
            // The kernel cannot get below the new limit.
            Error::Step { ct, field: Some(field), source, .. } if busy(source) => Self::new(
                Reason::NeedsRestart,
                format!("{text}; more is in use, so free some inside, or stop the container first"),
            )
            .fact("field", field)
            .fact("ct", ct),
            // A process came in between looking and removing.
            Error::Step { ct, field: None, source, .. } if busy(source) => {
                Self::new(Reason::Running, text).fact("ct", ct)
            }
            Error::Step { ct, step, source, .. } => {
                let fault = Self::new(Reason::HostFailed, text).fact("ct", ct).fact("step", step);
                fault.fact_if_known("errno", source.errno())
            }
            Error::Unknown(ct) => Self::new(Reason::ContainerUnknown, text).fact("ct", ct),
            Error::Node(source) | Error::Observe { source, .. } => match source {
                HostError::Lacks { feature, .. } => {
                    Self::new(Reason::KernelLacks, text).fact("feature", feature)
                }
                HostError::Sys { .. }
                | HostError::Command { .. }
                | HostError::Deadline { .. }
                | HostError::Parse { .. } => Self::new(Reason::HostFailed, text),
            },
        }
    }
}
