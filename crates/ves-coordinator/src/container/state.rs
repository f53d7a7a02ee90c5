//! What a container is, from what it should be and what was seen of it last. Pure.
//!
//! Never here: how the API or a metric calls it.

use ves_types::Phase;

use super::cache::Cached;
use super::record::{Presence, Record, RunState};

/// How far a container is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Being created.
    Creating,
    /// Stopped, its volume not mounted.
    Stopped,
    /// Stopped, its volume mounted.
    Mounted,
    /// Its init runs.
    Running,
    /// Its init runs and goes down by itself.
    Stopping,
    /// Its processes are frozen.
    Paused,
    /// Being destroyed.
    Deleting,
    /// Down, and cannot be made to be what it should be.
    Broken,
}

impl State {
    /// That of a container.
    pub fn of(record: &Record, seen: &Cached) -> Self {
        match (record.presence, seen.process.phase) {
            (Presence::Creating, _) => Self::Creating,
            (Presence::Deleting, _) => Self::Deleting,
            (Presence::Present, Phase::Frozen) => Self::Paused,
            (Presence::Present, Phase::Running) if seen.process.stopping => Self::Stopping,
            (Presence::Present, Phase::Running) => Self::Running,
            (Presence::Present, Phase::Absent | Phase::Created) => match () {
                () if record.problem.is_some() => Self::Broken,
                () if seen.mounted || record.run == RunState::Mounted => Self::Mounted,
                () => Self::Stopped,
            },
        }
    }
}
