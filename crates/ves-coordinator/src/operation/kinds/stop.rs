//! stop, umount: a container goes down. Failure leaves it running where it still runs. Pure.

use serde::{Deserialize, Serialize};
use ves_proto::{Fault, Reason, coordinator as pb};
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

/// stop, or umount.
///
/// # Errors
/// `NOT_RUNNING`, `NOT_MOUNTED`, `RUNNING`, `BAD_VALUE`.
pub fn admit(
    record: &Record,
    phase: Phase,
    request: &pb::StopContainerRequest,
) -> Result<Action, Fault> {
    must_exist(record)?;
    let up = record.run == RunState::Running || phase != Phase::Absent;
    if request.unmount_only {
        return match record.run {
            _ if up => {
                let message = "is running; stop it, its volume is unmounted then";
                Err(refuse(Reason::Running, record, message))
            }
            RunState::Mounted => Ok(Action::Umount(Umount {})),
            RunState::Stopped | RunState::Running => {
                Err(refuse(Reason::NotMounted, record, "is not mounted"))
            }
        };
    }
    // What a failed stop has left is stopped once more, and what would be started again is not.
    let nothing = !record.maybe_dirty && record.problem.is_none();
    if !up && nothing && record.next_start().is_none() {
        return Err(refuse(Reason::NotRunning, record, "is not running"));
    }
    let grace_ms = grace(record, request.fast, request.grace_ms)?;
    Ok(Action::Stop(Stop { grace_ms, keep_mounted: request.skip_unmount }))
}

/// How long init may take to stop: what the caller says, or what the container has.
pub(super) fn grace(record: &Record, fast: bool, grace_ms: u32) -> Result<u32, Fault> {
    match grace_ms {
        _ if fast => Ok(0),
        0 => Ok(record.effective().grace_ms()),
        ms if ms > GREATEST_GRACE_MS => {
            let why = "it must be at most an hour";
            Err(Fault::bad_value("grace_ms", &ParseError::new("grace period", ms, why)))
        }
        ms => Ok(ms),
    }
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
