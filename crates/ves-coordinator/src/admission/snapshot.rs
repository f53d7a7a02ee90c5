//! Admitting what is done with snapshots. Which there are, only storage knows.

use ves_proto::{Fault, coordinator as pb, storage};
use ves_types::SnapshotId;

use crate::container::refusal::Refusal;
use crate::coordinator::Coordinator;
use crate::operation::kinds::{self, Action};
use crate::operation::record::Caller;

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
        // All but the one that is to be taken are there.
        if !matches!(action, Action::Snapshot(_))
            && let Some(id) = action.kind().snapshot()
        {
            self.snapshot_is_there(&caller, &ct, id).await?;
        }
        let admit = move |record: &_, phase| kinds::snapshot::admit(record, phase, action);
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
        if self.state().read().repeated(caller)?.is_some() {
            return Ok(());
        }
        let ct = self.resolve(ct)?.id;
        let there = self.services().snapshots(ct, false).await?;
        let is = |s: &storage::Snapshot| s.id == id.to_string();
        if there.iter().any(is) {
            Ok(())
        } else {
            Err(Fault::from(&Refusal::SnapshotUnknown(ct, id)))
        }
    }
}
