//! What an operation does: one file a kind, with whether it may begin, its stages, and its way back.
//!
//! Pure. An operation is a list of stages; entering one changes the record, then the driver leads the
//! container there. Undoing is one more such change. A restart takes up at the stage that was entered
//! last, which is stored by its name. Never here: steps of services ([`crate::container::plan`]), or
//! when to try again.
//!
//! ```text
//!  create            ─ [created] ─ done                 undo: [gone]
//!  start, mount      ─ [running | mounted] ─ done       undo: [stopped]
//!  stop, umount      ─ [stopped | mounted] ─ done       undo: [running again, if it still runs]
//!  restart           ─ [mounted] ─ [running] ─ done     undo: [stopped]
//!  set               ─ [changed] ─ done                 undo: [as before]
//!  set with restart  ─ [stopped] ─ [changed] ─ [running] ─ done   undo: [as before]
//!  destroy           ─ [gone] ─ record removed          undo: none, it is repeated
//!  repair            ─ [repaired] ─ done                undo: none, it is repeated
//!  fsck              ─ [checked] ─ done                 undo: as it is then
//!  snapshot          ─ [snapshot_taken] ─ done          undo: [snapshot_deleted]
//!  snapshot-switch, snapshot-delete ─ [so] ─ done       undo: as it is then; each is one step
//! ```
//!
//! The step lines of an operation are stored with its stages: those since the last stage are lost
//! with the daemon. What was done is then seen again, not read there.

pub mod create;
pub mod destroy;
pub mod fsck;
pub mod repair;
pub mod set;
pub mod snapshot;
pub mod start;
pub mod stop;
pub mod template_build;

use serde::{Deserialize, Serialize};
use ves_proto::{Fault, Reason};
use ves_types::{Phase, SnapshotId};

use crate::container::observed::Observed;
use crate::container::plan::Desired;
use crate::container::record::{Presence, Record, RunState};

/// What an operation does; enough to go on with it after a crash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "do")]
pub enum Action {
    /// Makes a container.
    Create(create::Create),
    /// Starts one.
    Start(start::Start),
    /// Mounts its volume.
    Mount(start::Mount),
    /// Stops it.
    Stop(stop::Stop),
    /// Unmounts its volume.
    Umount(stop::Umount),
    /// Stops it, then starts it.
    Restart(start::Restart),
    /// Changes it.
    Set(set::Set),
    /// Takes it away.
    Destroy(destroy::Destroy),
    /// Makes it what it should be, without any change to that.
    Repair(repair::Repair),
    /// Checks its file system.
    Fsck(fsck::Fsck),
    /// Takes a snapshot.
    Snapshot(snapshot::Take),
    /// Puts the disk back to a snapshot.
    SnapshotSwitch(snapshot::Switch),
    /// Deletes a snapshot.
    SnapshotDelete(snapshot::Delete),
    /// Builds a template.
    TemplateBuild(template_build::TemplateBuild),
}

/// What a record wants in a stage. Stored by name, so a stage of one release is that of the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// It is there.
    Created,
    /// It runs.
    Running,
    /// Its volume is mounted.
    Mounted,
    /// It is stopped.
    Stopped,
    /// It has its new values.
    Changed,
    /// It is not there.
    Gone,
    /// It is what it should be, whatever its services show.
    Repaired,
    /// Its file system was checked.
    Checked,
    /// A snapshot is there.
    SnapshotTaken,
    /// A snapshot is not there.
    SnapshotDeleted,
    /// Its disk was put back to a snapshot.
    SnapshotSwitched,
}

impl Stage {
    /// Whether it is one that changes how far a container should be up.
    pub const fn says_how_far_up(self) -> bool {
        match self {
            Self::Running | Self::Mounted | Self::Stopped | Self::Gone => true,
            Self::Created
            | Self::Changed
            | Self::Repaired
            | Self::Checked
            | Self::SnapshotTaken
            | Self::SnapshotDeleted
            | Self::SnapshotSwitched => false,
        }
    }
}

/// What becomes of an operation that cannot or shall not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undo {
    /// The record was changed; lead the container there.
    RollBack,
    /// There is no way back: what was begun is finished, if it is only cancelled; where it failed,
    /// the record keeps the wish and its problem, and repeating the command goes on.
    RollForward,
}

/// What all kinds of operations have.
pub trait Kind {
    /// The word in `Operation.kind`.
    fn name(&self) -> &'static str;

    /// Its stages, in order; none where it is about no container.
    fn stages(&self) -> &'static [Stage];

    /// Changes the record to what undoing wants, seen that the services show `observed`.
    fn undo(&self, record: &mut Record, observed: &Observed) -> Undo;

    /// Changes the record to what a stage of its own wants, one of those that need more than the stage's
    /// name.
    fn enter(&self, stage: Stage, record: &mut Record) {
        let _ = (stage, record);
    }

    /// How long init may take where this stops a container, in milliseconds. 0: what this stops was
    /// never meant to run, or is what is left of a failure.
    fn grace_ms(&self, record: &Record) -> u32 {
        let _ = record;
        0
    }

    /// Whether it starts what does not run. Whatever does not honours the end of a container that should
    /// run, which is looked at when it is over.
    fn starts(&self) -> bool {
        false
    }

    /// Whether it is of no use to a container that has lost its volume.
    fn needs_volume(&self) -> bool {
        true
    }

    /// Whether it ends with less on the node than there was: begun also where there is no room.
    fn gives_back(&self) -> bool {
        false
    }

    /// Whether somebody may stop it. What has no way back is finished.
    fn may_be_cancelled(&self) -> bool {
        true
    }

    /// Whether it is done when it is stored.
    fn is_done_at_once(&self) -> bool {
        false
    }

    /// Whether it ends only when init says that it booted.
    fn waits_for_boot(&self) -> bool {
        false
    }

    /// The snapshot it is about.
    fn snapshot(&self) -> Option<SnapshotId> {
        None
    }

    /// The other way to do this where a service refuses it for `reason`, if there is one and the caller
    /// wants it.
    fn fallback(&self, record: &Record, reason: Reason) -> Option<Action> {
        let _ = (record, reason);
        None
    }
}

impl Action {
    /// What a record wants while this works on it.
    pub fn desired(&self, record: &Record) -> Desired {
        let starts = self.kind().starts() || record.seen_incarnation == 0;
        let grace_ms = self.kind().grace_ms(record);
        let needs_volume = self.kind().needs_volume();
        Desired { grace_ms, starts, needs_volume, ..Desired::of(record) }
    }

    /// What it has in common with all others.
    pub fn kind(&self) -> &dyn Kind {
        match self {
            Self::Create(kind) => kind,
            Self::Start(kind) => kind,
            Self::Mount(kind) => kind,
            Self::Stop(kind) => kind,
            Self::Umount(kind) => kind,
            Self::Restart(kind) => kind,
            Self::Set(kind) => kind,
            Self::Destroy(kind) => kind,
            Self::Repair(kind) => kind,
            Self::Fsck(kind) => kind,
            Self::Snapshot(kind) => kind,
            Self::SnapshotSwitch(kind) => kind,
            Self::SnapshotDelete(kind) => kind,
            Self::TemplateBuild(kind) => kind,
        }
    }

    /// The stage after `stage`; the first after none.
    pub fn stage_after(&self, stage: Option<Stage>) -> Option<Stage> {
        let stages = self.kind().stages();
        let next = match stage {
            None => 0,
            Some(stage) => stages.iter().position(|s| *s == stage)? + 1,
        };
        stages.get(next).copied()
    }

    /// Changes the record to what a stage wants.
    pub fn enter(&self, stage: Stage, record: &mut Record) {
        // What a failed operation could not take back is no wish of this one.
        record.snapshot = None;
        match stage {
            Stage::Created => {}
            Stage::Running => record.set_run(RunState::Running),
            Stage::Mounted => record.set_run(RunState::Mounted),
            Stage::Stopped => record.set_run(RunState::Stopped),
            Stage::Gone => record.delete(),
            Stage::Repaired => record.ask_again(),
            Stage::Changed
            | Stage::Checked
            | Stage::SnapshotTaken
            | Stage::SnapshotDeleted
            | Stage::SnapshotSwitched => self.kind().enter(stage, record),
        }
    }
}

/// Changes the record of a container that is where the action wanted it; `None`: it is gone.
pub fn on_converged(mut record: Record) -> Option<Record> {
    match record.presence {
        Presence::Deleting => return None,
        Presence::Creating => {
            record.presence = Presence::Present;
            record.creating_since = None;
        }
        Presence::Present => {}
    }
    if record.run != RunState::Running {
        record.maybe_dirty = false;
    }
    record.problem = None;
    record.snapshot = None;
    Some(record)
}

/// A refusal, of what this container is now.
fn refuse(reason: Reason, record: &Record, message: &str) -> Fault {
    Fault::new(reason, format!("container {} {message}", record.id)).fact("ct", record.id)
}

/// `BUSY` or `CONTAINER_UNKNOWN` unless the container was made and is to stay.
fn must_exist(record: &Record) -> Result<(), Fault> {
    match record.presence {
        Presence::Present => Ok(()),
        Presence::Creating => {
            let message = "is being created; wait for that, then try again";
            Err(refuse(Reason::Busy, record, message)
                .fact("holder", "create")
                .fact("since", record.created_unix))
        }
        Presence::Deleting => {
            let message = "is being destroyed; repeat destroy if that failed";
            Err(refuse(Reason::ContainerUnknown, record, message))
        }
    }
}

/// `RUNNING` or `MOUNTED` unless nothing of it is active.
fn must_be_stopped(record: &Record, phase: Phase) -> Result<(), Fault> {
    if record.run == RunState::Running || phase != Phase::Absent {
        return Err(refuse(Reason::Running, record, "is running; stop it first"));
    }
    if record.run == RunState::Mounted {
        return Err(refuse(Reason::Mounted, record, "is mounted; unmount it first"));
    }
    Ok(())
}
