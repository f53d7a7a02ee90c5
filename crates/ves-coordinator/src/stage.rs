//! The stages of each operation: which desired state it enters one after the other.
//!
//! Pure. An operation is a list of stages; entering one changes the record, then the driver converges
//! the container there. Undoing is one more such change. A restart takes up at the stage that was
//! entered last. Never here: steps of services ([`crate::plan`]), or when to try again.
//!
//! ```text
//!  create            ─ [stopped] ─ done                 undo: [gone]
//!  start, mount      ─ [running | mounted] ─ done       undo: [stopped]
//!  stop, umount      ─ [stopped | mounted] ─ done       undo: [running again, if it still runs]
//!  restart           ─ [mounted] ─ [running] ─ done     undo: [stopped]
//!  set               ─ [new values] ─ done              undo: [old values]
//!  set with restart  ─ [stopped] ─ [new values] ─ [running] ─ done   undo: [old values]
//!  destroy           ─ [gone] ─ record removed          undo: none, it is repeated
//!  snapshot          ─ [taken] ─ done                   undo: [deleted]
//!  snapshot-switch, snapshot-delete ─ [so] ─ done       undo: as it is then; each is one step
//! ```
//!
//! The step lines of an operation are stored with its stages: those since the last stage are lost
//! with the daemon. What was done is then seen again, not read there.

use crate::model::{Action, Presence, Record, RunState};
use crate::plan::snapshot::SnapshotWish;
use crate::plan::{Observed, Phase};

/// How many stages an action has.
pub const fn count(action: &Action) -> u32 {
    match action {
        Action::TemplateBuild { .. } => 0,
        Action::Create
        | Action::Start { .. }
        | Action::Mount
        | Action::Stop { .. }
        | Action::Umount
        | Action::Destroy
        | Action::Snapshot { .. }
        | Action::SnapshotSwitch { .. }
        | Action::SnapshotDelete { .. }
        | Action::Repair => 1,
        Action::Restart { .. } => 2,
        Action::Set { restart, .. } => {
            if *restart {
                3
            } else {
                1
            }
        }
    }
}

/// Changes the record to what stage `stage` (from 0) of `action` wants.
pub fn enter(action: &Action, stage: u32, record: &mut Record) {
    // What a failed operation could not take back is no wish of this one.
    record.snapshot = None;
    match (action, stage) {
        (Action::Create | Action::TemplateBuild { .. }, _) => {}
        (Action::Start { .. }, _) | (Action::Restart { .. }, 1) => {
            record.set_run(RunState::Running);
        }
        (Action::Mount, _) => record.set_run(RunState::Mounted),
        (Action::Stop { keep_mounted: true, .. }, _) => record.set_run(RunState::Mounted),
        (Action::Stop { .. } | Action::Umount, _) => record.set_run(RunState::Stopped),
        // The volume stays mounted: it is needed again at once.
        (Action::Restart { .. }, _) => record.set_run(RunState::Mounted),
        // Not only mounted: what changes may be the volume.
        (Action::Set { restart: true, .. }, 0) => record.set_run(RunState::Stopped),
        (Action::Set { restart: true, .. }, 2) => record.set_run(RunState::Running),
        (Action::Set { spec, running, .. }, _) => {
            record.set_specs((**spec).clone(), (**running).clone());
        }
        (Action::Destroy, _) => record.delete(),
        (Action::Repair, _) => record.ask_again(),
        (Action::Snapshot { id, name }, _) => {
            record.want_snapshot(Some(SnapshotWish::taken(*id, name.clone())));
        }
        (Action::SnapshotSwitch { id }, _) => {
            let since = record.generation.next();
            record.want_snapshot(Some(SnapshotWish::reverted(*id, since)));
        }
        (Action::SnapshotDelete { id }, _) => {
            record.want_snapshot(Some(SnapshotWish::deleted(*id)));
        }
    }
}

/// What becomes of an operation that cannot or shall not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undo {
    /// The record was changed; converge the container there.
    RollBack,
    /// There is no way back: what was begun is finished, if it is only cancelled; where it failed,
    /// the record keeps the wish and its problem, and repeating the command goes on.
    RollForward,
}

/// Changes the record to what undoing `action` wants, seen that the services show `observed`.
pub fn undo(action: &Action, record: &mut Record, observed: &Observed) -> Undo {
    match action {
        Action::Create => record.delete(),
        Action::Start { .. } | Action::Mount | Action::Restart { .. } => {
            record.set_run(RunState::Stopped);
        }
        Action::Stop { .. } | Action::Umount => {
            if !matches!(observed.process.phase, Phase::Running | Phase::Frozen) {
                return Undo::RollForward;
            }
            record.set_run(RunState::Running);
            record.running = record.reserved.running.take().map(|spec| *spec);
        }
        Action::Set { old_spec, old_running, restart, .. } => {
            let mut spec = (**old_spec).clone();
            let mut running = (**old_running).clone();
            // What grew stays grown.
            let grown = observed.volume.map_or(spec.disk, |v| v.size);
            if grown > spec.disk && record.spec.disk >= grown {
                spec.disk = grown;
                running.disk = grown;
            }
            if *restart {
                record.set_run(RunState::Running);
            }
            record.set_specs(spec, running);
            record.ask_again();
        }
        Action::Snapshot { id, .. } => {
            record.want_snapshot(Some(SnapshotWish::deleted(*id)));
        }
        // The disk is as it was or as it should be, never between.
        Action::SnapshotSwitch { .. } | Action::SnapshotDelete { .. } => record.want_snapshot(None),
        Action::Destroy | Action::Repair | Action::TemplateBuild { .. } => {
            return Undo::RollForward;
        }
    }
    Undo::RollBack
}

/// Changes the record of a container that is where the action wanted it; `None`: it is gone.
pub fn on_converged(mut record: Record) -> Option<Record> {
    match record.presence {
        Presence::Deleting => return None,
        Presence::Creating => {
            record.presence = Presence::Present;
            record.unborn = false;
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
