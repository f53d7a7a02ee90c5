//! What an archive may hold, and what one does.

use serde::{Deserialize, Serialize};

/// What an archive may expand to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes of all files, each rounded up to a block.
    pub bytes: u64,
    /// Files, directories and links.
    pub inodes: u64,
    /// Bytes of one path.
    pub path_bytes: usize,
    /// Directories in one path.
    pub depth: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: 16 << 30, inodes: 1_000_000, path_bytes: 1024, depth: 64 }
    }
}

/// The init system found in an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Init {
    /// systemd.
    Systemd,
    /// System V init.
    Sysvinit,
    /// Another `/sbin/init`.
    Other,
    /// There is none.
    Absent,
}

/// What a clean archive holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contents {
    /// Bytes of all files, each rounded up to a block.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
    /// The init system.
    pub init: Init,
    /// `PRETTY_NAME` of its os-release.
    pub os: Option<String>,
    /// How many device nodes below `dev/` were left out.
    pub devices_skipped: u64,
}
