//! How a command of virtctl ends other than well.
//!
//! Owns what can be the matter and which errors become which of it. Never here: how that is shown,
//! or the exit status.

use ves_proto::{Fault, Reason};
use ves_types::ParseError;

/// Why a command did not end with 0.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line asks for what cannot be asked; exit status 2.
    Usage(String),
    /// The coordinator refused or failed, or could not be asked.
    Fault(Fault),
    /// All went well and the command inside ended with this.
    Status(u8),
    /// Nobody reads our output any more.
    OutputClosed,
    /// The user stopped waiting for work that goes on.
    Detached {
        /// One sentence.
        hint: String,
        /// 128 + the signal.
        status: u8,
    },
}

/// What a verb answers.
pub(crate) type Outcome = Result<(), Failure>;

impl Failure {
    /// A request nobody could fulfil.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::Usage(message.into())
    }

    /// Something of the caller's machine failed: a file that was named, the terminal.
    pub(crate) fn local(what: &str, error: &std::io::Error) -> Self {
        let reason = match error.kind() {
            std::io::ErrorKind::NotFound
            | std::io::ErrorKind::IsADirectory
            | std::io::ErrorKind::NotADirectory => Reason::BadValue,
            std::io::ErrorKind::PermissionDenied => Reason::NotAllowed,
            _ => Reason::HostFailed,
        };
        Self::Fault(Fault::new(reason, format!("{what}: {error}")))
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<tonic::Status> for Failure {
    fn from(status: tonic::Status) -> Self {
        Self::Fault(Fault::from(status))
    }
}

impl From<ParseError> for Failure {
    fn from(error: ParseError) -> Self {
        Self::Usage(error.to_string())
    }
}

/// Only for writing to our own stdout.
impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            Self::OutputClosed
        } else {
            Self::local("cannot write the answer to stdout", &error)
        }
    }
}
