//! Takes the snapshots that containers' schedules ask for, and deletes those that they keep no longer, by operations
//! like any other.
//!
//! What is due and what has expired stands in the records, so that a restart changes nothing about it. Never here:
//! when and which ([`crate::container::schedule`]).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ves_proto::Fault;
use ves_types::{SnapshotId, SnapshotInterval};

use crate::admission::{begin_operation, idle};
use crate::container::record::{Presence, Record, RunState};
use crate::coordinator::{Coordinator, Turns};
use crate::operation::kinds::Action;
use crate::operation::kinds::snapshot::{Delete, Take};
use crate::operation::record::{Caller, Cause, OpId};

/// How long it is from one look at all schedules to the next.
const BETWEEN_LOOKS: Duration = Duration::from_secs(60);

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
            if let Err(fault) = self.look_at_schedules().await {
                tracing::warn!(error = %fault, "schedules of snapshots are looked at again");
            }
            self.clock().sleep(BETWEEN_LOOKS).await;
        }
    }

    async fn look_at_schedules(&self) -> Result<(), Fault> {
        self.begin_schedules().await?;
        for record in self.scheduled() {
            let (schedule, begin, now) =
                (record.spec.snapshot_schedule, begin_ms(&record), self.clock().now_ms());
            let due = record.scheduled.due(schedule, begin, now);
            let op = if !due.is_empty() && record.run != RunState::Stopped {
                self.take_snapshot(&record, due).await?
            } else if record.scheduled.expired(schedule).is_empty() {
                continue;
            } else {
                self.delete_snapshot(&record).await?
            };
            let Some(op) = op else { continue };
            let turn = Turns::take(&self.turns().repairs).await;
            self.carry_out_now(op, turn);
        }
        Ok(())
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
        let Some(id) = scheduled.expired(record.spec.snapshot_schedule).first().copied() else {
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
