//! What can fail on the host, with its subject and its source.

use std::io;

/// A failed attempt on the host. `Display` says what was attempted on what; the cause is the source.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// A system call failed.
    #[error("{what}")]
    Sys {
        /// What was attempted on what, such as `mount /run/ves/ct/101/root`.
        what: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A command ended unsuccessfully.
    #[error("{program} {status}: {stderr}")]
    Command {
        /// The program's path.
        program: String,
        /// How it ended, in words.
        status: String,
        /// The last lines of its error output.
        stderr: String,
    },
    /// A command did not end in time and was killed.
    #[error("{program} did not end within {seconds} s and was killed")]
    Deadline {
        /// The program's path.
        program: String,
        /// How long it was given.
        seconds: u64,
    },
    /// The host said something that could not be understood.
    #[error("{what}: cannot understand {text:?}")]
    Parse {
        /// What was read.
        what: String,
        /// The text, cut.
        text: String,
    },
    /// This kernel or machine lacks a feature.
    #[error("this machine lacks {feature}: {why}")]
    Lacks {
        /// The feature.
        feature: String,
        /// How that was found out, and what would give it.
        why: String,
    },
}

impl HostError {
    /// The kernel's error number, where the failure has one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Sys { source, .. } => source.raw_os_error(),
            Self::Command { .. }
            | Self::Deadline { .. }
            | Self::Parse { .. }
            | Self::Lacks { .. } => None,
        }
    }
    /// Whether the failure is this error number.
    pub fn is(&self, errno: rustix::io::Errno) -> bool {
        self.errno() == Some(errno.raw_os_error())
    }
    /// Something that could not be understood; `text` is cut to 200 characters.
    pub fn parse(what: impl Into<String>, text: &str) -> Self {
        Self::Parse { what: what.into(), text: text.chars().take(200).collect() }
    }
}

/// Adds what was attempted to an error of the kernel.
pub trait Attempt<T> {
    /// Says what was attempted on what.
    ///
    /// # Errors
    /// [`HostError::Sys`] with the original as source.
    fn attempt(self, what: impl FnOnce() -> String) -> Result<T, HostError>;
}

impl<T, E: Into<io::Error>> Attempt<T> for Result<T, E> {
    fn attempt(self, what: impl FnOnce() -> String) -> Result<T, HostError> {
        self.map_err(|e| HostError::Sys { what: what(), source: e.into() })
    }
}
