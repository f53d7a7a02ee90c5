//! How far a container's processes are, and why they ended.
//!
//! Never here: how that is found out, and what follows from it.

use serde::{Deserialize, Serialize};

/// How far a container's processes are.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// There are none.
    #[default]
    Absent,
    /// Namespaces are there, and the first process waits to become init.
    Created,
    /// Init runs.
    Running,
    /// They are frozen.
    Frozen,
}

/// Why a container's processes ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitCause {
    /// They were told to stop, and did.
    Stopped,
    /// They did not stop in time, or were to be stopped fast, and were killed.
    Killed,
    /// By halt or poweroff inside.
    Halted,
    /// By reboot inside.
    Rebooted,
    /// Init exited or died by itself.
    Exited,
}
