//! stop, umount: a container goes down. Failure leaves it running where it still runs. Pure.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use ves_proto::{Fault, Reason};
use ves_types::{ParseError, Phase};

use super::{Action, Kind, Stage, Undo, must_exist, refuse};
use crate::container::observed::Observed;
use crate::container::record::{Record, RunState};

/// The longest init may be given to stop: an hour.
const GREATEST_GRACE_MS: u32 = 3_600_000;

/// Stops a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    /// How long init may take, in milliseconds.
    pub grace_ms: u32,
    /// Leave its volume mounted.
    pub keep_mounted: bool,
}

/// Unmounts a container's volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Umount {}

/// How a container is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// Its init is asked, and has as long as the container says.
    Gracefully,
    /// Its init is asked, and has so many milliseconds.
    Within(u32),
    /// It is killed.
    AtOnce,
}

impl How {
    /// So long, from 1 ms to an hour.
    ///
    /// # Errors
    /// `BAD_VALUE` on "grace".
    pub fn within(grace: Duration) -> Result<Self, Fault> {
        let ms = u32::try_from(grace.as_millis()).unwrap_or(u32::MAX);
        if (1..=GREATEST_GRACE_MS).contains(&ms) {
            return Ok(Self::Within(ms));
        }
        let why = "it must be from 1 ms to an hour";
        Err(Fault::bad_value("grace", &ParseError::new("grace period", ms, why)))
    }

    /// How long its init may take, in milliseconds.
    pub(super) fn grace_ms(self, record: &Record) -> u32 {
        match self {
            Self::Gracefully => record.effective().grace_ms(),
            Self::Within(ms) => ms,
            Self::AtOnce => 0,
        }
    }
}

/// stop.
///
/// # Errors
/// `NOT_RUNNING`.
pub fn admit(record: &Record, phase: Phase, how: How, keep_mounted: bool) -> Result<Action, Fault> {
    must_exist(record)?;
    // What a failed stop has left is stopped once more, and what would be started again is not.
    let nothing = !record.maybe_dirty && record.problem.is_none();
    if !is_up(record, phase) && nothing && record.next_start().is_none() {
        return Err(refuse(Reason::NotRunning, record, "is not running"));
    }
    Ok(Action::Stop(Stop { grace_ms: how.grace_ms(record), keep_mounted }))
}

/// umount.
///
/// # Errors
/// `NOT_MOUNTED`, `RUNNING`.
pub fn admit_umount(record: &Record, phase: Phase) -> Result<Action, Fault> {
    must_exist(record)?;
    match record.run {
        _ if is_up(record, phase) => {
            let message = "is running; stop it, its volume is unmounted then";
            Err(refuse(Reason::Running, record, message))
        }
        RunState::Mounted => Ok(Action::Umount(Umount {})),
        RunState::Stopped | RunState::Running => {
            Err(refuse(Reason::NotMounted, record, "is not mounted"))
        }
    }
}

fn is_up(record: &Record, phase: Phase) -> bool {
    record.run == RunState::Running || phase != Phase::Absent
}

fn run_on(record: &mut Record, observed: &Observed) -> Undo {
    if !matches!(observed.process.phase, Phase::Running | Phase::Frozen) {
        return Undo::RollForward;
    }
    record.set_run(RunState::Running);
    record.running = record.reserved.running.take().map(|spec| *spec);
    Undo::RollBack
}

impl Kind for Stop {
    fn name(&self) -> &'static str {
        "stop"
    }

    fn needs_volume(&self) -> bool {
        false
    }

    fn gives_back(&self) -> bool {
        true
    }

    fn stages(&self) -> &'static [Stage] {
        if self.keep_mounted { &[Stage::Mounted] } else { &[Stage::Stopped] }
    }

    fn undo(&self, record: &mut Record, observed: &Observed) -> Undo {
        run_on(record, observed)
    }

    fn grace_ms(&self, _: &Record) -> u32 {
        self.grace_ms
    }
}

impl Kind for Umount {
    fn name(&self) -> &'static str {
        "umount"
    }

    fn needs_volume(&self) -> bool {
        false
    }

    fn gives_back(&self) -> bool {
        true
    }

    fn stages(&self) -> &'static [Stage] {
        &[Stage::Stopped]
    }

    fn undo(&self, record: &mut Record, observed: &Observed) -> Undo {
        run_on(record, observed)
    }
}
