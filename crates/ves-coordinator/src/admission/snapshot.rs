//! Admitting what is done with snapshots. Which there are, only storage knows.

use ves_proto::{Fault, storage};
use ves_types::{CtId, SnapshotId};

use super::Ask;
use crate::container::observed::ProcessSeen;
use crate::container::record::Record;
use crate::container::refusal::Refusal;
use crate::coordinator::Coordinator;
use crate::operation::kinds::{self, Action};
use crate::operation::record::OpRecord;

impl Coordinator {
    /// Begins to take a snapshot, to put a disk back to one, or to delete one.
    ///
    /// # Errors
    /// `SNAPSHOT_UNKNOWN`, `RUNNING`, `MOUNTED`, or as [`Self::begin`].
    pub async fn begin_snapshot(&self, ask: Ask, action: Action) -> Result<OpRecord, Fault> {
        // All but the one that is to be taken are there.
        if !matches!(action, Action::Snapshot(_))
            && let Some(id) = action.kind().snapshot()
        {
            self.snapshot_is_there(ask.ct, id).await?;
        }
        let admit = move |record: &Record, process: &ProcessSeen| {
            kinds::snapshot::admit(record, process.phase, action.clone())
        };
        self.begin(ask, admit).await
    }

    /// Refuses one that is not there.
    async fn snapshot_is_there(&self, ct: CtId, id: SnapshotId) -> Result<(), Fault> {
        let there = self.services().snapshots(ct, false).await?;
        let is = |s: &storage::Snapshot| s.id == id.to_string();
        if there.iter().any(is) {
            Ok(())
        } else {
            Err(Fault::from(&Refusal::SnapshotUnknown(ct, id)))
        }
    }
}
