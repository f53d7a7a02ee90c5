//! The resource limits a process gets before it executes.
//!
//! Never here: which ones a container gets, which is planned.

/// A resource limit of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessLimit {
    /// What.
    pub what: Limited,
    /// What it is at first; none: unlimited.
    pub soft: Option<u64>,
    /// How far the process may raise it.
    pub hard: Option<u64>,
}

/// What a [`ProcessLimit`] limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limited {
    /// Open files.
    Files,
    /// Size of core dumps.
    Core,
    /// Locked memory.
    Memlock,
    /// Stack.
    Stack,
    /// Processes of the user.
    Processes,
    /// Pending signals of the user.
    Signals,
}
