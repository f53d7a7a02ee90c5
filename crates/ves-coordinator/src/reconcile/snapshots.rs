//! Takes the snapshots that containers' schedules ask for, and deletes those that they keep no longer, by operations
//! like any other.
//!
//! What is due and what has expired stands in the records, so that a restart changes nothing about it. Never here:
//! when and which ([`crate::container::schedule`]).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ves_proto::Fault;
use ves_types::{CtId, SnapshotId, SnapshotInterval};

use crate::admission::{begin_operation, idle};
use crate::container::record::{Presence, Record, RunState};
use crate::coordinator::{Coordinator, Turns};
use crate::operation::kinds::Action;
use crate::operation::kinds::snapshot::{Delete, Take};
use crate::operation::record::{Caller, Cause, OpId, OpState};

/// How long it is from one look at all schedules to the next.
const BETWEEN_LOOKS: Duration = Duration::from_secs(60);

/// How long to wait before a snapshot is deleted that could not be, in milliseconds.
const AGAIN_MS: i64 = 3_600_000;

/// When a container's intervals begin, in milliseconds: of many containers some at any time.
fn begin_ms(record: &Record) -> i64 {
    // The last bits of a uid are random.
    let bits = record.uid.as_u128() & 0xffff_ffff;
    i64::try_from(bits).unwrap_or_default()
}

impl Coordinator {
    /// Looks at all schedules, for ever.
    pub(crate) async fn keep_schedules(self) {
        loop {
            if let Err(fault) = self.begin_schedules().await {
                tracing::warn!(error = %fault, "new schedules of snapshots begin later");
            }
            self.look_at_schedules().await;
            self.clock().sleep(BETWEEN_LOOKS).await;
        }
    }

    /// Looks at each container's schedule; one that cannot be served holds up no other.
    async fn look_at_schedules(&self) {
        for record in self.scheduled() {
            match self.look_at_schedule(&record).await {
                Ok(Some(op)) => {
                    let turn = Turns::take(&self.turns().repairs).await;
                    self.carry_out_now(op, turn);
                }
                Ok(None) => {}
                Err(fault) => {
                    tracing::warn!(ct = %record.id, error = %fault, "its schedule is looked at again");
                }
            }
        }
    }

    /// Begins what is due of one container, where something is.
    async fn look_at_schedule(&self, record: &Arc<Record>) -> Result<Option<OpId>, Fault> {
        let schedule = record.spec.snapshot_schedule;
        let due = record.scheduled.due(schedule, begin_ms(record), self.clock().now_ms());
        if !due.is_empty() && record.run != RunState::Stopped {
            return self.take_snapshot(record, due).await;
        }
        if record.scheduled.expired(schedule).is_empty() {
            return Ok(None);
        }
        self.delete_snapshot(record).await
    }

    /// Whether a schedule has tried in vain to delete a snapshot of a container lately.
    fn failed_lately(&self, ct: CtId, id: SnapshotId) -> bool {
        let since = self.clock().now_ms().saturating_sub(AGAIN_MS);
        let index = self.state().read();
        index.operations().rev().any(|op| {
            let its =
                op.ct == Some(ct) && matches!(&op.action, Action::SnapshotDelete(d) if d.id == id);
            its && op.state == OpState::Failed && op.ended_unix_ms.is_some_and(|end| end > since)
        })
    }

    /// Containers with a schedule at which nobody works.
    fn scheduled(&self) -> Vec<Arc<Record>> {
        let index = self.state().read();
        let all = index
            .containers()
            .filter(|record| record.presence == Presence::Present && !record.scheduled.is_empty());
        all.filter(|record| idle(&index, record.id).is_ok()).map(Arc::clone).collect()
    }

    /// Lets schedules begin that are new, all at once.
    async fn begin_schedules(&self) -> Result<(), Fault> {
        let now = self.clock().now_ms();
        let begun = move |record: &Arc<Record>| {
            let mut scheduled = record.scheduled.clone();
            let changed = scheduled.begin(record.spec.snapshot_schedule, begin_ms(record), now);
            changed.then_some(scheduled)
        };
        if !self.state().read().containers().any(|record| begun(record).is_some()) {
            return Ok(());
        }
        self.transact(move |index, change| {
            for record in index.containers() {
                // Who works on one stores it.
                if let Some(scheduled) = begun(record)
                    && idle(index, record.id).is_ok()
                {
                    change.containers.push(Record { scheduled, ..Record::clone(record) });
                }
            }
            Ok(())
        })
        .await
    }

    /// Begins to take a snapshot, unless somebody has taken the container up.
    async fn take_snapshot(
        &self,
        record: &Arc<Record>,
        due: BTreeSet<SnapshotInterval>,
    ) -> Result<Option<OpId>, Fault> {
        let id = SnapshotId::from(self.clock().new_id().as_u128());
        let now = self.clock().now_ms();
        let names: Vec<_> = due.iter().map(ToString::to_string).collect();
        let action = Action::Snapshot(Take { id, name: names.join(", ").parse().ok() });
        self.begin_scheduled(record, action, move |record| {
            let begin = begin_ms(record);
            record.scheduled.take(id, &due, begin, now);
        })
        .await
    }

    /// Begins to delete the oldest that has expired, of those that are there.
    async fn delete_snapshot(&self, record: &Arc<Record>) -> Result<Option<OpId>, Fault> {
        let ct = record.id;
        let there = self.services().snapshots(ct, false).await?;
        let there: BTreeSet<_> = there.iter().filter_map(|s| s.id.parse().ok()).collect();
        let mut scheduled = record.scheduled.clone();
        let forgotten = scheduled.keep_only(&there);
        let expired = scheduled.expired(record.spec.snapshot_schedule);
        let Some(id) = expired.into_iter().find(|id| !self.failed_lately(ct, *id)) else {
            if forgotten {
                self.forget_snapshots(record, there).await?;
            }
            return Ok(None);
        };
        let action = Action::SnapshotDelete(Delete { id });
        self.begin_scheduled(record, action, move |record| {
            record.scheduled.keep_only(&there);
        })
        .await
    }

    /// Notes which snapshots are gone.
    async fn forget_snapshots(
        &self,
        before: &Arc<Record>,
        there: BTreeSet<SnapshotId>,
    ) -> Result<(), Fault> {
        let before = Arc::clone(before);
        self.transact(move |index, change| {
            let now = index.container(before.id)?;
            if Arc::ptr_eq(now, &before) {
                let mut record = Record::clone(now);
                record.scheduled.keep_only(&there);
                change.containers.push(record);
            }
            Ok(())
        })
        .await
    }

    /// Begins an operation and notes in the record what it is for, both or neither.
    async fn begin_scheduled(
        &self,
        before: &Arc<Record>,
        action: Action,
        note: impl FnOnce(&mut Record) + Send + 'static,
    ) -> Result<Option<OpId>, Fault> {
        let (own, before) = (self.clone(), Arc::clone(before));
        self.transact(move |index, change| {
            let now = index.container(before.id)?;
            if !Arc::ptr_eq(now, &before) || idle(index, before.id).is_err() {
                return Ok(None);
            }
            let mut record = Record::clone(now);
            note(&mut record);
            let caller = Caller::own(Cause::Schedule);
            let op = begin_operation(record, action, caller, own.clock(), change);
            Ok(Some(op.id))
        })
        .await
    }
}
