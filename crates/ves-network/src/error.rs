//! What fails here, and how it is said on the wire.

use ves_host::HostError;
use ves_proto::{Fault, Reason};
use ves_types::{CtAddress, CtId};

use crate::plan::{Holder, Refusal};

/// A failure of the network service.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The plan is refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A step failed.
    #[error("{step}")]
    Step {
        /// The step's words.
        step: String,
        /// Why.
        #[source]
        source: StepError,
    },
    /// The kernel cannot be read.
    #[error("read {what}")]
    Observe {
        /// What was read.
        what: String,
        /// Why.
        #[source]
        source: HostError,
    },
    /// The container has no link.
    #[error("container {ct} has no link on this node; start it first")]
    NoLink {
        /// The container.
        ct: CtId,
    },
}

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// The kernel or a program refused.
    #[error(transparent)]
    Host(#[from] HostError),
    /// Somebody took the address between looking and acting.
    #[error("address {address} was just taken by {holder}")]
    Taken {
        /// The address.
        address: CtAddress,
        /// Who has it.
        holder: Holder,
    },
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        let message = ves_proto::fault::chain(&error);
        let taken = |address: &CtAddress, holder: &Holder| {
            Self::new(Reason::AddressTaken, &message)
                .fact("address", address)
                .fact("holder", holder)
        };
        match &error {
            Error::Refused(Refusal::NoNamespace { ct }) => {
                Self::new(Reason::NotRunning, message).fact("ct", ct)
            }
            Error::Refused(Refusal::PinLost { ct }) => {
                Self::new(Reason::Running, message).fact("ct", ct)
            }
            Error::Refused(Refusal::AddressTaken { address, holder })
            | Error::Step { source: StepError::Taken { address, holder }, .. } => {
                taken(address, holder)
            }
            Error::Refused(Refusal::ForeignLink { link }) => {
                Self::new(Reason::ForeignContents, message).fact("what", link)
            }
            Error::Refused(Refusal::Unreadable { .. }) => Self::new(Reason::HostFailed, message)
                .fact("step", "read the container's network namespace"),
            Error::Refused(Refusal::NoIpv6 { .. }) => {
                Self::new(Reason::KernelLacks, message).fact("feature", "IPv6")
            }
            Error::Step { step, source: StepError::Host(source) } => host(message, step, source),
            Error::Observe { what, source } => host(message, what, source),
            Error::NoLink { ct } => Self::new(Reason::ContainerUnknown, message).fact("ct", ct),
        }
    }
}

fn host(message: String, step: &str, source: &HostError) -> Fault {
    if let HostError::Lacks { feature, .. } = source {
        return Fault::new(Reason::KernelLacks, message).fact("feature", feature);
    }
    let fault = Fault::new(Reason::HostFailed, message).fact("step", step);
    match source {
        HostError::Sys { source, .. } => {
            fault.fact("errno", source.raw_os_error().unwrap_or_default())
        }
        HostError::Command { status, stderr, .. } => {
            fault.fact("status", status).fact("stderr", stderr)
        }
        HostError::Deadline { .. } | HostError::Parse { .. } | HostError::Lacks { .. } => fault,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_machine_lacks_is_told_from_what_failed() {
        let step = |source: HostError| {
            Fault::from(Error::Step { step: "set up the table".to_owned(), source: source.into() })
        };
        let why = "it is not installed; `apt-get install nftables` brings it".to_owned();
        let fault = step(HostError::Lacks { feature: "nft".to_owned(), why });
        assert_eq!((fault.reason, &*fault.facts["feature"]), (Reason::KernelLacks, "nft"));
        assert!(fault.message.contains("apt-get install nftables"), "{fault}");

        let source = rustix::io::Errno::BUSY.into();
        let fault = step(HostError::Sys { what: "add route 192.0.2.1".to_owned(), source });
        assert_eq!(fault.reason, Reason::HostFailed);
        assert_eq!((&*fault.facts["step"], &*fault.facts["errno"]), ("set up the table", "16"));
        assert!(fault.message.starts_with("set up the table: add route 192.0.2.1: "), "{fault}");
    }
}
