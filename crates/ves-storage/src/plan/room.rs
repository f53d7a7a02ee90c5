//! How much of the pool may be promised, and what has to be reserved under it before. Pure.
//!
//! ```text
//!  0                    reach              attainable      limit
//!  ├──────── backed ──────┼─ free below, less SPARE ─┤ … sparse ─┤   the pool's image
//!  └ file system ─────────┘
//! ```
//!
//! What is promised is reserved first: the pool's file system never reaches beyond what its image was
//! given under it, so that nobody who fills the file system below takes anything from a container; it
//! grows when a promise needs it to. In it, everything counts for the most it can come to take: a volume
//! for its size, a snapshot as if it shared nothing, a template and its base images for what they have,
//! and the file system for its own structures. So no copy-on-write of a shared block can fail.
//!
//! A directory beside others' files has nothing under it: what is free there now, less what snapshots can
//! still come to take of it, is all that may be promised, and others may take it first.

use ves_types::Bytes;

use super::Refusal;

/// Of so many bytes one is kept for extent maps, reference counts and free space trees.
const OVERHEAD: u64 = 32;
/// The log, and what small file systems take more.
const FIXED: u64 = 128 << 20;
/// What is left free under the pool: others keep their state there, and so do we.
pub const SPARE: u64 = 128 << 20;
const GIB: u64 = 1 << 30;

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
    /// Whether it is a file system of its own, in an image.
    pub own: bool,
    /// The most bytes it may come to have.
    pub limit: u64,
    /// How far its file system reaches now.
    pub reach: u64,
    /// Bytes under it that nobody else can take.
    pub backed: u64,
    /// Bytes free under it, for everybody.
    pub below: u64,
    /// Bytes in use, with the file system's own.
    pub used: u64,
    /// How much may be promised, in percent of what it can hold.
    pub overcommit_percent: u64,
}

/// How much a file system of this size can hold.
const fn usable(reach: u64) -> u64 {
    reach.saturating_sub(reach / OVERHEAD).saturating_sub(FIXED)
}

/// How large a file system must be to hold so much.
pub fn reach_for(bytes: u64) -> u64 {
    let reach = u128::from(bytes.saturating_add(FIXED)) * u128::from(OVERHEAD);
    let reach = reach.div_ceil(u128::from(OVERHEAD - 1)).next_multiple_of(4096);
    u64::try_from(reach).unwrap_or(u64::MAX)
}

/// By how much a pool of this size grows: a file system that was made small and has grown far is slow.
pub fn step(limit: u64) -> u64 {
    (limit / 64).next_multiple_of(GIB).max(GIB)
}

fn percent(bytes: u64, percent: u64) -> u64 {
    u64::try_from(u128::from(bytes) * u128::from(percent) / 100).unwrap_or(u64::MAX)
}

impl Room {
    /// How far the pool can come to reach with all of it backed; 0 where not even what is there can be.
    pub fn attainable(&self) -> u64 {
        if !self.own {
            return self.limit;
        }
        let most = self.backed.saturating_add(self.below.saturating_sub(SPARE));
        if most < self.reach && self.backed < self.reach {
            return 0;
        }
        most.max(self.reach).min(self.limit.max(self.reach))
    }

    /// Bytes free, where it may still grow too.
    pub fn free(&self) -> u64 {
        let inside = self.attainable().max(self.reach).saturating_sub(self.used);
        if self.own { inside } else { inside.min(self.below) }
    }
}

/// What an operator should know of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Alarm {
    /// The image has holes that what is under it could not fill, or not yet.
    #[error(
        "of the pool's {} only {} are backed, and {} are free under it: who fills what is under it \
         destroys volumes; make room there", Bytes(*reach), Bytes(*backed), Bytes(*below)
    )]
    NotBacked {
        /// How far the file system reaches.
        reach: u64,
        /// How much of that nobody else can take.
        backed: u64,
        /// Bytes free under it.
        below: u64,
    },
    /// There is little room under the pool.
    #[error("only {} are free under the pool; make room there", Bytes(*below))]
    LittleBelow {
        /// Bytes free.
        below: u64,
    },
    /// More was promised than there is.
    #[error(
        "{} are promised and the pool can hold {}: when containers use what they were promised, their \
         file systems fail", Bytes(*promised), Bytes(*holds)
    )]
    OverCommitted {
        /// What was promised.
        promised: u64,
        /// What it can hold.
        holds: u64,
    },
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
        let Room { own, below, overcommit_percent, .. } = self.room;
        // A snapshot takes nothing when it is made, and what it shares when the volume changes.
        let below = below.saturating_sub(if own { 0 } else { self.held.snapshots });
        let most = percent(usable(self.room.attainable()), overcommit_percent);
        let more = most.saturating_sub(self.committed());
        let free = percent(below.saturating_sub(SPARE), overcommit_percent);
        if own { more } else { more.min(free.saturating_sub(self.reserved)) }
    }

    /// Whether this much more may be promised.
    ///
    /// # Errors
    /// [`Refusal::PoolFull`].
    pub fn check(&self, need: u64) -> Result<(), Refusal> {
        let free = self.promisable();
        if need > free { Err(Refusal::PoolFull { need, free }) } else { Ok(()) }
    }

    /// How much has to be backed before this much more is promised; `None` where it is.
    ///
    /// # Errors
    /// [`Refusal::PoolFull`].
    pub fn back(&self, need: u64) -> Result<Option<u64>, Refusal> {
        self.check(need)?;
        let Room { own, limit, reach, backed, overcommit_percent, .. } = self.room;
        let attainable = self.room.attainable();
        if !own || attainable < reach {
            return Ok(None);
        }
        let all = u128::from(self.committed().saturating_add(need)) * 100;
        let all = all.div_ceil(u128::from(overcommit_percent.max(1)));
        let wanted = reach_for(u64::try_from(all).unwrap_or(u64::MAX));
        let wanted = wanted.checked_next_multiple_of(step(limit)).unwrap_or(u64::MAX);
        let wanted = wanted.min(attainable).max(reach);
        Ok((wanted > reach || backed < reach).then_some(wanted))
    }

    /// What an operator should know.
    pub fn alarms(&self) -> Vec<Alarm> {
        let Room { own, reach, backed, below, .. } = self.room;
        let holds = usable(self.room.attainable().max(reach));
        let promised = self.committed();
        let mut alarms = Vec::new();
        if own && backed < reach {
            alarms.push(Alarm::NotBacked { reach, backed, below });
        }
        if below < SPARE {
            alarms.push(Alarm::LittleBelow { below });
        }
        if promised > holds {
            alarms.push(Alarm::OverCommitted { promised, holds });
        }
        alarms
    }
}

#[cfg(test)]
mod laws;
