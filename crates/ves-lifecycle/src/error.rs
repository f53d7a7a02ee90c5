//! What can fail on the node while a container's processes are handled, and what callers hear of it.

use rustix::io::Errno;
use ves_host::HostError;
use ves_init_proto::report::Failure;
use ves_proto::{Fault, Reason};
use ves_types::{CtId, DeviceName};

use crate::plan::Refusal;

/// A failed attempt.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The node failed.
    #[error("container {ct}: {what}")]
    Host {
        /// Which.
        ct: CtId,
        /// What was attempted.
        what: &'static str,
        /// Why.
        #[source]
        source: HostError,
    },
    /// The node failed at something that concerns no single container.
    #[error("look at the node")]
    Node(#[from] HostError),
    /// A step on the way to init failed.
    #[error("container {ct}: {}: {}", failure.step, failure.message)]
    Start {
        /// Which.
        ct: CtId,
        /// What happened.
        failure: Failure,
    },
    /// Something that was to be done inside a running container failed there.
    #[error("container {ct}: {}: {}", failure.step, failure.message)]
    Inside {
        /// Which.
        ct: CtId,
        /// What happened.
        failure: Failure,
    },
    /// The monitor neither answers nor ends.
    #[error("container {ct}: its monitor does not answer while asked to {what}")]
    Unresponsive {
        /// Which.
        ct: CtId,
        /// What it was asked.
        what: &'static str,
    },
    /// There is no monitor where there should be one.
    #[error("container {ct}: it ended in the meantime")]
    Gone {
        /// Which.
        ct: CtId,
    },
    /// Processes that do not die.
    #[error("container {ct}: its processes do not end, not even when killed")]
    Undying {
        /// Which.
        ct: CtId,
    },
    /// A fault on purpose, in tests.
    #[error("container {ct}: injected before: {step}")]
    Injected {
        /// Which.
        ct: CtId,
        /// The step that was not done.
        step: String,
    },
}

/// Says which container an error of the node is about, and what was attempted.
pub(crate) trait About<T> {
    /// See the trait.
    fn about(self, ct: CtId, what: &'static str) -> Result<T, Error>;
}

impl<T> About<T> for Result<T, HostError> {
    fn about(self, ct: CtId, what: &'static str) -> Result<T, Error> {
        self.map_err(|source| Error::Host { ct, what, source })
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        match &error {
            Error::Start { ct, failure } if failure.errno == Errno::NODEV.raw_os_error() => {
                Self::new(Reason::KernelLacks, format!("start {error}"))
                    .fact("ct", ct)
                    .fact("feature", &failure.step)
            }
            Error::Start { ct, failure } => {
                Self::new(Reason::StartFailed, format!("start {error}"))
                    .fact("ct", ct)
                    .fact("step", &failure.step)
                    .fact("errno", failure.errno)
            }
            Error::Inside { ct, failure } => Self::host(&error)
                .fact("ct", ct)
                .fact("step", &failure.step)
                .fact("errno", failure.errno),
            Error::Gone { ct } => Self::new(Reason::NotRunning, error.to_string()).fact("ct", ct),
            Error::Unresponsive { ct, what } => {
                Self::new(Reason::Timeout, error.to_string()).fact("ct", ct).fact("what", what)
            }
            Error::Host { source: HostError::Lacks { feature, .. }, .. }
            | Error::Node(HostError::Lacks { feature, .. }) => {
                Self::new(Reason::KernelLacks, ves_proto::fault::chain(&error))
                    .fact("feature", feature)
            }
            Error::Host { ct, what, source } => Self::host(&error)
                .fact("ct", ct)
                .fact("step", what)
                .fact_if_known("errno", source.errno()),
            Error::Node(source) => Self::host(&error).fact_if_known("errno", source.errno()),
            Error::Undying { ct } => {
                Self::new(Reason::WillNotStop, ves_proto::fault::chain(&error))
                    .fact("ct", ct)
                    .fact("step", "kill")
            }
            Error::Injected { ct, step } => Self::host(&error).fact("ct", ct).fact("step", step),
        }
    }
}

/// That a device is none the node gives.
pub(crate) fn device_refused(ct: CtId, device: &DeviceName) -> Fault {
    let message = format!("container {ct}: {}", ves_init_proto::devices::refusal(device));
    Fault::new(Reason::BadValue, message)
        .fact("ct", ct)
        .fact("field", "spec.grants")
        .fact("device", device)
}

/// A refusal as callers hear it.
pub(crate) fn refused(ct: CtId, refusal: Refusal) -> Fault {
    let reason = match refusal {
        Refusal::NotMounted => Reason::NotMounted,
        Refusal::NotGrouped => Reason::StartFailed,
        Refusal::NotRunning => Reason::NotRunning,
        Refusal::Unresponsive => Reason::Timeout,
        Refusal::Stray => Reason::Running,
        Refusal::NoSpec => return Fault::missing("spec"),
    };
    let fault = Fault::new(reason, format!("container {ct}: {refusal}")).fact("ct", ct);
    match refusal {
        Refusal::Unresponsive => fault.fact("what", "answer"),
        Refusal::Stray => fault.fact("lost", "monitor"),
        Refusal::NotGrouped => fault.fact("step", "join the control groups").fact("errno", 2),
        Refusal::NotMounted | Refusal::NotRunning | Refusal::NoSpec => fault,
    }
}
