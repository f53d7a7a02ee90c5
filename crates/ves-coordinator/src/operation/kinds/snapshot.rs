//! snapshot, snapshot-switch, snapshot-delete. A snapshot that fails is taken away again; the others
//! are one step, and the disk is as it was or as it should be, never between. Pure.

use serde::{Deserialize, Serialize};
use ves_proto::Fault;
use ves_types::{Phase, SnapshotId, SnapshotName};

use super::{Action, Kind, Stage, Undo, must_be_stopped, must_exist};
use crate::container::observed::Observed;
use crate::container::record::{Record, SnapshotWish};

/// Takes a snapshot. Its id is chosen once: whoever goes on with the operation takes the same one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Take {
    /// Its id.
    pub id: SnapshotId,
    /// Its name.
    pub name: Option<SnapshotName>,
}

/// Puts the disk back to a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switch {
    /// Its id.
    pub id: SnapshotId,
}

/// Deletes a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delete {
    /// Its id.
    pub id: SnapshotId,
}

/// snapshot, snapshot-switch, or snapshot-delete.
///
/// # Errors
/// `BUSY` while it is being created, `CONTAINER_UNKNOWN` while it goes; of a switch, `RUNNING` and
/// `MOUNTED`.
pub fn admit(record: &Record, phase: Phase, action: Action) -> Result<Action, Fault> {
    must_exist(record)?;
    if matches!(action, Action::SnapshotSwitch(_)) {
        must_be_stopped(record, phase)?;
    }
    Ok(action)
}

impl Kind for Take {
    fn name(&self) -> &'static str {
        "snapshot"
    }

    fn stages(&self) -> &'static [Stage] {
        &[Stage::SnapshotTaken]
    }

    fn enter(&self, _: Stage, record: &mut Record) {
        record.want_snapshot(Some(SnapshotWish::taken(self.id, self.name.clone())));
    }

    fn undo(&self, record: &mut Record, _: &Observed) -> Undo {
        record.want_snapshot(Some(SnapshotWish::deleted(self.id)));
        Undo::RollBack
    }

    fn snapshot(&self) -> Option<SnapshotId> {
        Some(self.id)
    }
}

impl Kind for Switch {
    fn name(&self) -> &'static str {
        "snapshot-switch"
    }

    fn stages(&self) -> &'static [Stage] {
        &[Stage::SnapshotSwitched]
    }

    fn enter(&self, _: Stage, record: &mut Record) {
        let since = record.generation.next();
        record.want_snapshot(Some(SnapshotWish::reverted(self.id, since)));
    }

    fn undo(&self, record: &mut Record, _: &Observed) -> Undo {
        record.want_snapshot(None);
        Undo::RollBack
    }

    fn may_be_cancelled(&self) -> bool {
        false
    }

    fn snapshot(&self) -> Option<SnapshotId> {
        Some(self.id)
    }
}

impl Kind for Delete {
    fn name(&self) -> &'static str {
        "snapshot-delete"
    }

    fn gives_back(&self) -> bool {
        true
    }

    fn stages(&self) -> &'static [Stage] {
        &[Stage::SnapshotDeleted]
    }

    fn enter(&self, _: Stage, record: &mut Record) {
        record.want_snapshot(Some(SnapshotWish::deleted(self.id)));
    }

    fn undo(&self, record: &mut Record, _: &Observed) -> Undo {
        record.want_snapshot(None);
        Undo::RollBack
    }

    fn may_be_cancelled(&self) -> bool {
        false
    }

    fn snapshot(&self) -> Option<SnapshotId> {
        Some(self.id)
    }
}
