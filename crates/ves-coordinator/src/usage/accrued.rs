//! Counters that only grow, made of counters that begin anew with each group and each link. Pure.
//!
//! A [`Meter`] knows what the lives before counted, and what the present one said last. Lives are numbered by the
//! kernel, the later the greater, so that a reading that comes late counts for nothing, and one that comes twice
//! counts once. Never here: when something is read or stored.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// What can be counted on from an earlier life.
pub trait Tally: Copy + Default {
    /// Both together.
    #[must_use]
    fn plus(self, other: Self) -> Self;
    /// The greater of each.
    #[must_use]
    fn most(self, other: Self) -> Self;
}

macro_rules! tally {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
        #[serde(default)]
        pub struct $name {
            $($(#[$field_doc])* #[serde(skip_serializing_if = "Option::is_none")] pub $field: Option<u64>,)*
        }

        impl Tally for $name {
            fn plus(self, other: Self) -> Self {
                Self { $($field: plus(self.$field, other.$field),)* }
            }
            fn most(self, other: Self) -> Self {
                Self { $($field: self.$field.max(other.$field),)* }
            }
        }
    };
}

tally! {
    /// What the control groups of a container count. What a node cannot count is absent.
    Counts {
        /// Processor time, in microseconds.
        cpu_usec,
        /// How long it was held back by its limit of processor time, in microseconds.
        throttled_usec,
        /// Bytes read from disks.
        read_bytes,
        /// Bytes written to disks.
        write_bytes,
        /// How many reads.
        reads,
        /// How many writes.
        writes,
        /// Processes killed because memory ran out.
        oom_kills,
    }
}

tally! {
    /// What a link counts, as the container sees it.
    Through {
        /// Bytes to the container.
        receive_bytes,
        /// Bytes from the container.
        transmit_bytes,
        /// Packets to the container.
        receive_packets,
        /// Packets from the container.
        transmit_packets,
        /// Packets of either way that were dropped.
        dropped_packets,
    }
}

fn plus(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.saturating_add(other)),
        (one, other) => one.or(other),
    }
}

/// Counters of something that is made anew now and then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Meter<T> {
    /// What the lives before this one counted.
    base: T,
    /// Which life was read last; 0: none since the node's boot.
    life: u64,
    /// It has ended: what it counted is in the base.
    over: bool,
    /// What this life said last.
    last: T,
}

impl<T: Tally> Meter<T> {
    /// Takes in what a life counts. One that is over, or older than the present one, counts no more; neither does
    /// one that has no number.
    pub fn read(&mut self, life: u64, now: T) {
        if life == 0 || life < self.life || (life == self.life && self.over) {
            return;
        }
        if life > self.life {
            self.end();
            (self.life, self.over) = (life, false);
        }
        self.last = self.last.most(now);
    }

    /// Its present life is over.
    pub fn end(&mut self) {
        self.base = self.total();
        self.last = T::default();
        self.over = true;
    }

    /// The node has booted: nothing of before is there, and lives are numbered anew.
    fn boot(&mut self) {
        self.end();
        (self.life, self.over) = (0, false);
    }

    /// All it counted in all its lives.
    pub fn total(&self) -> T {
        self.base.plus(self.last)
    }
}

/// How long init ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Run {
    /// The runs before this one, in milliseconds.
    base_ms: u64,
    /// When this one began, in milliseconds since 1970.
    started_unix_ms: Option<i64>,
    /// How long it was when it was seen last, in milliseconds.
    last_ms: u64,
}

impl Run {
    /// It runs, since then, at `now`.
    pub fn read(&mut self, started_unix_ms: i64, now_unix_ms: i64) {
        if self.started_unix_ms != Some(started_unix_ms) {
            *self = Self {
                base_ms: self.total_ms(),
                started_unix_ms: Some(started_unix_ms),
                last_ms: 0,
            };
        }
        let ran = now_unix_ms.saturating_sub(started_unix_ms);
        self.last_ms = self.last_ms.max(u64::try_from(ran).unwrap_or(0));
    }

    /// All its runs, in milliseconds.
    pub const fn total_ms(&self) -> u64 {
        self.base_ms.saturating_add(self.last_ms)
    }
}

/// What a container has used since it was created.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accrued {
    /// Which of all containers there ever were.
    pub uid: Uuid,
    /// Since when there is counted, in milliseconds since 1970.
    pub since_unix_ms: i64,
    /// The boot of the node in which it was read last.
    pub boot: String,
    /// Its control groups.
    pub group: Meter<Counts>,
    /// Its link.
    pub link: Meter<Through>,
    /// How long it ran.
    pub run: Run,
}

impl Accrued {
    /// Nothing, since then.
    pub fn new(uid: Uuid, since_unix_ms: i64, boot: &str) -> Self {
        Self {
            uid,
            since_unix_ms,
            boot: boot.to_owned(),
            group: Meter::default(),
            link: Meter::default(),
            run: Run::default(),
        }
    }

    /// The node is in this boot; what another one numbered means nothing in it.
    pub fn enter_boot(&mut self, boot: &str) {
        if self.boot != boot {
            boot.clone_into(&mut self.boot);
            self.group.boot();
            self.link.boot();
        }
    }
}

#[cfg(test)]
mod laws;
