//! How much of the pool may be promised. Pure.

use super::Refusal;

/// Sums of what is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sums {
    /// The sizes of all volumes.
    pub volumes: u64,
    /// What all snapshots can come to take.
    pub snapshots: u64,
    /// What all templates take.
    pub templates: u64,
}

/// The room of a pool, as one look finds it, however many volumes there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// All its bytes.
    pub size: u64,
    /// Free bytes.
    pub free: u64,
    /// How much may be promised, in percent of the size.
    pub overcommit_percent: u64,
}

/// The pool: its room and what was promised of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolFacts {
    /// Its room.
    pub room: Room,
    /// What is held. Snapshots do not grow, but what they share becomes theirs alone when the volume
    /// changes: each counts as if it shared nothing.
    pub held: Sums,
    /// What calls under way were promised and have not taken yet.
    pub reserved: u64,
}

impl PoolFacts {
    /// What was promised, in all.
    pub const fn committed(&self) -> u64 {
        let Sums { volumes, snapshots, templates } = self.held;
        volumes.saturating_add(snapshots).saturating_add(templates).saturating_add(self.reserved)
    }

    /// How much more may be promised.
    pub fn promisable(&self) -> u64 {
        let most = u128::from(self.room.size) * u128::from(self.room.overcommit_percent) / 100;
        u64::try_from(most).unwrap_or(u64::MAX).saturating_sub(self.committed())
    }

    /// Whether this much more may be promised.
    ///
    /// # Errors
    /// [`Refusal::PoolFull`].
    pub fn check(&self, need: u64) -> Result<(), Refusal> {
        let free = self.promisable();
        if need > free { Err(Refusal::PoolFull { need, free }) } else { Ok(()) }
    }
}
