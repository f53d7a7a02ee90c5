//! Beginning what is done with snapshots. Which there are, only storage knows.
//!
//! Never here: steps ([`crate::plan`]), or whether the container's state allows it ([`crate::admit`]).

use ves_proto::{Fault, coordinator as pb, storage};
use ves_types::{SnapshotId, SnapshotName};

use crate::admit;
use crate::driver::snapshot_unknown;
use crate::model::Action;
use crate::service::{Caller, Coordinator};

/// Takes a snapshot. Its id is chosen once: whoever goes on with the operation takes the same one.
pub fn taking(name: Option<SnapshotName>) -> Action {
    Action::Snapshot { id: SnapshotId::from(uuid::Uuid::now_v7().as_u128()), name }
}

impl Coordinator {
    /// Begins to take a snapshot, to put a disk back to one, or to delete one.
    ///
    /// # Errors
    /// `SNAPSHOT_UNKNOWN`, `RUNNING`, `MOUNTED`, or as [`Self::begin`].
    pub async fn begin_snapshot(
        &self,
        caller: Caller,
        ct: String,
        dry_run: bool,
        action: Action,
    ) -> Result<pb::Operation, Fault> {
        if let Action::SnapshotSwitch { id } | Action::SnapshotDelete { id } = action {
            self.snapshot_is_there(&caller, &ct, id).await?;
        }
        let admit = move |record: &_, phase| admit::snapshot(record, phase, action);
        self.begin(caller, ct, dry_run, admit).await
    }

    /// The snapshots of a container, oldest first.
    ///
    /// # Errors
    /// As [`Self::resolve`], or when storage does not answer.
    pub async fn snapshots(&self, ct: &str) -> Result<Vec<storage::Snapshot>, Fault> {
        self.services().snapshots(self.resolve(ct)?.id, true).await
    }

    /// Refuses one that is not there, unless the very call was admitted before: a delete that is asked
    /// for again has been done.
    async fn snapshot_is_there(
        &self,
        caller: &Caller,
        ct: &str,
        id: SnapshotId,
    ) -> Result<(), Fault> {
        if self.state().read().request(&caller.key()?).is_some() {
            return Ok(());
        }
        let ct = self.resolve(ct)?.id;
        let there = self.services().snapshots(ct, false).await?;
        let is = |s: &storage::Snapshot| s.id == id.to_string();
        if there.iter().any(is) { Ok(()) } else { Err(snapshot_unknown(ct, id)) }
    }
}
