//! fsck: the file system of a stopped container is checked. What loses nothing is mended first; only where
//! that is not enough all is mended, after a snapshot. Pure.

use serde::{Deserialize, Serialize};
use ves_proto::{Fault, Reason};
use ves_types::{Phase, SnapshotId};

use super::{Action, Kind, Stage, Undo, must_be_stopped, must_exist};
use crate::container::observed::Observed;
use crate::container::record::{Record, SnapshotWish};

/// Checks a container's volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fsck {
    /// The snapshot that is taken before all is mended. Its id is chosen once: whoever goes on with the
    /// operation takes the same one.
    pub before: SnapshotId,
    /// Whether all is mended, whatever is lost.
    pub mend_all: bool,
}

/// fsck.
///
/// # Errors
/// `BUSY` while it is being created, `CONTAINER_UNKNOWN` while it goes, `RUNNING`, `MOUNTED`.
pub fn admit(record: &Record, phase: Phase, before: SnapshotId) -> Result<Action, Fault> {
    must_exist(record)?;
    must_be_stopped(record, phase)?;
    Ok(Action::Fsck(Fsck { before, mend_all: false }))
}

impl Kind for Fsck {
    fn name(&self) -> &'static str {
        "fsck"
    }

    fn stages(&self) -> &'static [Stage] {
        &[Stage::Checked]
    }

    fn enter(&self, _: Stage, record: &mut Record) {
        let since = record.generation.next();
        let wish = SnapshotWish::checked(self.before, since, self.mend_all);
        record.want_snapshot(Some(wish));
    }

    fn undo(&self, record: &mut Record, _: &Observed) -> Undo {
        record.want_snapshot(None);
        Undo::RollBack
    }

    fn may_be_cancelled(&self) -> bool {
        false
    }

    fn fallback(&self, _: &Record, reason: Reason) -> Option<Action> {
        let more = reason == Reason::VolumeDamaged && !self.mend_all;
        more.then(|| Action::Fsck(Self { mend_all: true, ..self.clone() }))
    }
}
