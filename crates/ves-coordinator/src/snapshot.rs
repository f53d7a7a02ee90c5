//! Beginning what is done with snapshots. Which there are, only storage knows.
//!
//! Never here: steps ([`crate::plan`]), or whether the container's state allows it ([`crate::admit`]).

use ves_proto::{Fault, coordinator as pb, storage};
use ves_types::{SnapshotId, SnapshotName};

use crate::admit;
use crate::driver::snapshot_unknown;
use crate::model::Action;
use crate::service::{Caller, Coordinator};

impl Coordinator {
    /// Begins to take a snapshot.
    ///
    /// # Errors
    /// As [`Self::begin`].
    pub async fn take_snapshot(
        &self,
        caller: Caller,
        ct: String,
        name: Option<SnapshotName>,
        dry_run: bool,
    ) -> Result<pb::Operation, Fault> {
        // Chosen once: whoever goes on with the operation takes the same one.
        let id = SnapshotId::from(uuid::Uuid::now_v7().as_u128());
        let action = Action::Snapshot { id, name };
        self.begin(caller, ct, dry_run, move |record, _| admit::snapshot(record, action)).await
    }

    /// Begins to put a disk back.
    ///
    /// # Errors
    /// `SNAPSHOT_UNKNOWN`, `RUNNING`, `MOUNTED`, or as [`Self::begin`].
    pub async fn switch_snapshot(
        &self,
        caller: Caller,
        ct: String,
        id: SnapshotId,
        dry_run: bool,
    ) -> Result<pb::Operation, Fault> {
        self.snapshot_is_there(&caller, &ct, id).await?;
        let action = Action::SnapshotSwitch { id };
        let admit = move |record: &_, phase| admit::snapshot_switch(record, phase, action);
        self.begin(caller, ct, dry_run, admit).await
    }

    /// Begins to delete a snapshot.
    ///
    /// # Errors
    /// `SNAPSHOT_UNKNOWN`, or as [`Self::begin`].
    pub async fn delete_snapshot(
        &self,
        caller: Caller,
        ct: String,
        id: SnapshotId,
        dry_run: bool,
    ) -> Result<pb::Operation, Fault> {
        self.snapshot_is_there(&caller, &ct, id).await?;
        let action = Action::SnapshotDelete { id };
        self.begin(caller, ct, dry_run, move |record, _| admit::snapshot(record, action)).await
    }

    /// The snapshots of a container, oldest first.
    ///
    /// # Errors
    /// As [`Self::resolve`], or when storage does not answer.
    pub async fn snapshots(&self, ct: &str) -> Result<Vec<storage::Snapshot>, Fault> {
        self.peers().snapshots(self.resolve(ct)?.id, true).await
    }

    /// Refuses one that is not there, unless the very call was admitted before: a delete that is asked
    /// for again has been done.
    async fn snapshot_is_there(
        &self,
        caller: &Caller,
        ct: &str,
        id: SnapshotId,
    ) -> Result<(), Fault> {
        if self.ledger().read().request(&caller.key()?).is_some() {
            return Ok(());
        }
        let ct = self.resolve(ct)?.id;
        let there = self.peers().snapshots(ct, false).await?;
        let is = |s: &storage::Snapshot| s.id == id.to_string();
        if there.iter().any(is) { Ok(()) } else { Err(snapshot_unknown(ct, id)) }
    }
}
