//! Looks at everything, when the daemon starts and now and then: what is not as it should be is
//! repaired, by an operation like any other. So a half-way state, such as that of a destroy which failed,
//! is resumed without anybody asking. Never here: steps.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use ves_types::{CtId, Phase};

use crate::admission::begin_operation;
use crate::container::observed::Observed;
use crate::container::plan::{Desired, plan};
use crate::container::record::{Presence, Record, RunState};
use crate::coordinator::{Coordinator, Turns};
use crate::operation::kinds::repair;
use crate::operation::record::{Caller, Cause, OpId};
use crate::store::index::Index;

/// How long to wait at first, and at most, before the services are asked again.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// How long to wait at first before what could not be taken away is tried again; at most as long as between
/// two looks at everything.
const HALF_GONE_PAUSE: Duration = Duration::from_secs(1);

/// Whether a record is still the very one, and nobody works on its container.
fn untouched(index: &Index, record: &Arc<Record>) -> bool {
    index.container(record.id).is_ok_and(|now| Arc::ptr_eq(now, record))
        && index.at_work(record.id).is_none()
}

impl Coordinator {
    /// Looks again and again whether all containers are what they should be.
    pub(crate) async fn reconcile_for_ever(&self) {
        let mut first = true;
        loop {
            self.reconcile(std::mem::take(&mut first)).await;
            self.clock().sleep(Duration::from_secs(self.config().reconcile_every_s)).await;
        }
    }

    /// Looks at everything once and repairs what is not as it should be, a few at once. Waits for the
    /// services. What is known to be of no use is tried by the `first` look of a daemon only.
    async fn reconcile(&self, first: bool) {
        let mut pause = PAUSE.0;
        let (known_then, idle_then, all) = loop {
            let (known_then, idle_then) = (self.known(), self.idle_records());
            match self.services().observe_all().await {
                Ok(all) => break (known_then, idle_then, all),
                Err(fault) => {
                    tracing::warn!(error = %fault, "the services cannot be looked at yet");
                    self.clock().sleep(pause).await;
                    pause = (pause * 2).min(PAUSE.1);
                }
            }
        };
        self.note_unknown(&known_then, &all);
        for record in idle_then {
            let ct = record.id;
            let seen = all.get(&ct).cloned().unwrap_or_default();
            // What was touched since the look is in the hands of who touched it.
            if !untouched(&self.state().read(), &record) {
                continue;
            }
            self.take_in(ct, &seen);
            let ended = record.run == RunState::Running && seen.process.phase == Phase::Absent;
            if ended && record.presence == Presence::Present {
                self.look_at_end(ct);
                continue;
            }
            match plan(&Desired::of(&record), &seen) {
                Ok(steps) if steps.is_empty() && !record.is_behind(seen.newest()) => continue,
                Err(_) if record.problem.is_some() && !first => continue,
                Ok(_) | Err(_) => {}
            }
            let turn = Turns::take(&self.turns().repairs).await;
            let Some(id) = self.begin_repair(record).await else { continue };
            self.carry_out_now(id, turn);
        }
    }

    /// Goes on taking a container away that is half gone, by and by, until it is gone: whatever keeps it, such
    /// as a process of the node that has a file of its volume open, may end at any time. One at a time; a
    /// destroy that somebody asks for meanwhile is not hindered.
    pub(crate) fn finish_later(&self, ct: CtId) {
        if !self.finishing().insert(ct) {
            return;
        }
        let own = self.clone();
        tokio::spawn(async move {
            own.finish_by_and_by(ct).await;
            own.finishing().remove(&ct);
        });
    }

    async fn finish_by_and_by(&self, ct: CtId) {
        let most = Duration::from_secs(self.config().reconcile_every_s);
        let mut pause = HALF_GONE_PAUSE.min(most);
        loop {
            self.clock().sleep(pause).await;
            pause = (pause * 2).min(most);
            let Ok(record) = self.state().read().container(ct).map(Arc::clone) else { return };
            if record.presence != Presence::Deleting {
                return;
            }
            let turn = Turns::take(&self.turns().repairs).await;
            let Some(id) = self.begin_repair(record).await else { continue };
            self.carry_out_now(id, turn);
        }
    }

    /// Begins to repair a container, unless somebody has taken it up since it was looked at.
    async fn begin_repair(&self, record: Arc<Record>) -> Option<OpId> {
        let ct = record.id;
        let own = self.clone();
        let begun = self
            .transact(move |index, change| {
                if !untouched(index, &record) {
                    return Ok(None);
                }
                let (record, caller) = (Record::clone(&record), Caller::own(Cause::Node));
                let op = begin_operation(record, repair::action(), caller, own.clock(), change);
                Ok(Some(op.id))
            })
            .await;
        match begun {
            Ok(op) => {
                tracing::info!(%ct, operation = ?op, "not as it should be, repairing");
                op
            }
            Err(fault) => {
                tracing::error!(%ct, error = %fault, "repairing could not be stored");
                None
            }
        }
    }

    /// Notes what services show of containers that no record knew before they were asked, nor does now.
    fn note_unknown(&self, known_then: &BTreeSet<CtId>, all: &HashMap<CtId, Observed>) {
        let known = self.known();
        let nobodys = |ct: &CtId| !known_then.contains(ct) && !known.contains(ct);
        let unknown = all.iter().filter(|(ct, _)| nobodys(ct));
        let unknown = unknown.map(|(ct, seen)| (*ct, seen.everything()));
        let unknown: BTreeMap<_, _> = unknown.filter(|(_, what)| !what.is_empty()).collect();
        for (ct, what) in &unknown {
            tracing::warn!(%ct, what = what.join(", "), "there is something of a container nobody knows");
        }
        self.cache().set_unknown(unknown);
    }

    /// Containers that have a record, be it one that cannot be read.
    fn known(&self) -> BTreeSet<CtId> {
        self.state().read().known()
    }

    fn idle_records(&self) -> Vec<Arc<Record>> {
        let index = self.state().read();
        index.containers().filter(|r| index.at_work(r.id).is_none()).map(Arc::clone).collect()
    }
}
