//! Why an archive was not taken.

use std::{fmt, io};

use ves_host::HostError;

/// Why an archive was not taken.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// It is malformed or hostile.
    #[error("the archive's entry {entry:?} is refused: {why}")]
    Bad {
        /// The entry's name as the archive has it, cut; empty where it is about the whole.
        entry: String,
        /// What is wrong.
        why: String,
    },
    /// It expands beyond a limit.
    #[error("the archive is too large at {entry:?}: {limit}")]
    TooLarge {
        /// The entry's name.
        entry: String,
        /// Which limit, with its value.
        limit: String,
    },
    /// The target has no room.
    #[error("no room for the archive's contents")]
    NoRoom,
    /// Reading or writing failed on this side.
    #[error("{what}")]
    Io {
        /// What was attempted.
        what: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The confined process could not be run or ended strangely.
    #[error(transparent)]
    Host(#[from] HostError),
}

impl Refused {
    pub(crate) fn bad(entry: &[u8], why: impl fmt::Display) -> Self {
        Self::Bad { entry: lossy(entry), why: why.to_string() }
    }
    pub(crate) fn too_large(entry: &[u8], limit: impl fmt::Display) -> Self {
        Self::TooLarge { entry: lossy(entry), limit: limit.to_string() }
    }
}

/// A name for a message: cut, invalid bytes replaced.
pub(crate) fn lossy(name: &[u8]) -> String {
    String::from_utf8_lossy(name).chars().take(200).collect()
}
