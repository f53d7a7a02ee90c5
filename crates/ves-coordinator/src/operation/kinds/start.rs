//! start, mount, restart: a container comes up. Failure stops it. Pure.

use serde::{Deserialize, Serialize};
use ves_proto::{Fault, Reason};

use super::stop::How;
use super::{Action, Kind, Stage, Undo, must_exist, refuse};
use crate::container::observed::Observed;
use crate::container::record::{Record, RunState};

/// Starts a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// Until init says that it booted.
    pub wait: bool,
}

/// Mounts a container's volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {}

/// Stops a container, then starts it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restart {
    /// How long init may take to stop, in milliseconds.
    pub grace_ms: u32,
    /// Until init says that it booted.
    pub wait: bool,
}

/// start; of one that goes down by itself, the rest of that and a start. `wait`: until init says that it booted.
///
/// # Errors
/// `RUNNING`, `DISABLED`.
pub fn admit(record: &Record, stopping: bool, wait: bool, force: bool) -> Result<Action, Fault> {
    must_exist(record)?;
    if record.run == RunState::Running && stopping {
        may_start(record, force)?;
        let grace_ms = record.effective().grace_ms();
        return Ok(Action::Restart(Restart { grace_ms, wait }));
    }
    if record.run == RunState::Running {
        return Err(refuse(Reason::Running, record, "is running already"));
    }
    may_start(record, force)?;
    Ok(Action::Start(Start { wait }))
}

/// mount.
///
/// # Errors
/// `RUNNING`, `MOUNTED`.
pub fn admit_mount(record: &Record) -> Result<Action, Fault> {
    must_exist(record)?;
    match record.run {
        RunState::Running => Err(refuse(Reason::Running, record, "is running already")),
        RunState::Mounted => Err(refuse(Reason::Mounted, record, "is mounted already")),
        RunState::Stopped => Ok(Action::Mount(Mount {})),
    }
}

/// restart; of one that is stopped, start.
///
/// # Errors
/// `DISABLED` for one that is stopped.
pub fn admit_restart(record: &Record, how: How, wait: bool) -> Result<Action, Fault> {
    must_exist(record)?;
    if record.run != RunState::Running {
        may_start(record, false)?;
        return Ok(Action::Start(Start { wait }));
    }
    Ok(Action::Restart(Restart { grace_ms: how.grace_ms(record), wait }))
}

fn may_start(record: &Record, force: bool) -> Result<(), Fault> {
    if record.spec.disabled && !force {
        let message = "is disabled; start it with force, or set it to enabled";
        return Err(refuse(Reason::Disabled, record, message));
    }
    Ok(())
}

fn stop(record: &mut Record) -> Undo {
    record.set_run(RunState::Stopped);
    Undo::RollBack
}

impl Kind for Start {
    fn name(&self) -> &'static str {
        "start"
    }

    fn stages(&self) -> &'static [Stage] {
        &[Stage::Running]
    }

    fn starts(&self) -> bool {
        true
    }

    fn undo(&self, record: &mut Record, _: &Observed) -> Undo {
        stop(record)
    }

    fn waits_for_boot(&self) -> bool {
        self.wait
    }
}

impl Kind for Mount {
    fn name(&self) -> &'static str {
        "mount"
    }

    fn stages(&self) -> &'static [Stage] {
        &[Stage::Mounted]
    }

    fn undo(&self, record: &mut Record, _: &Observed) -> Undo {
        stop(record)
    }
}

impl Kind for Restart {
    fn name(&self) -> &'static str {
        "restart"
    }

    /// The volume stays mounted in between: it is needed again at once.
    fn stages(&self) -> &'static [Stage] {
        &[Stage::Mounted, Stage::Running]
    }

    fn starts(&self) -> bool {
        true
    }

    fn undo(&self, record: &mut Record, _: &Observed) -> Undo {
        stop(record)
    }

    fn grace_ms(&self, _: &Record) -> u32 {
        self.grace_ms
    }

    fn waits_for_boot(&self) -> bool {
        self.wait
    }
}
