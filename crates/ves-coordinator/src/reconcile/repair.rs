//! One look at everything when the daemon starts: what is not as it should be is repaired, by an
//! operation like any other. Never here: steps.

use std::sync::Arc;
use std::time::Duration;

use crate::admission::begin_operation;
use crate::container::observed::Phase;
use crate::container::plan::{Desired, plan};
use crate::container::record::{Presence, Record, RunState};
use crate::coordinator::Coordinator;
use crate::operation::kinds::repair;
use crate::store::state::Index;

/// How long to wait at first, and at most, before the services are asked again.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// Whether a record is still the very one, and nobody works on its container.
fn untouched(index: &Index, record: &Arc<Record>) -> bool {
    index.container(record.id).is_ok_and(|now| Arc::ptr_eq(now, record))
        && index.at_work(record.id).is_none()
}

impl Coordinator {
    /// Looks at everything once and repairs what is not as it should be. Waits for the services.
    pub(crate) async fn reconcile(&self) {
        let mut pause = PAUSE.0;
        let (idle_then, all) = loop {
            let idle_then = self.idle_records();
            match self.services().observe_all().await {
                Ok(all) => break (idle_then, all),
                Err(fault) => {
                    tracing::warn!(error = %fault, "the services cannot be looked at yet");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE.1);
                }
            }
        };
        for record in idle_then {
            let ct = record.id;
            let seen = all.get(&ct).cloned().unwrap_or_default();
            // What was touched since the look is in the hands of who touched it.
            if !untouched(&self.state().read(), &record) {
                continue;
            }
            self.cache().look(ct, &seen);
            let ended = record.run == RunState::Running && seen.process.phase == Phase::Absent;
            if ended && record.presence == Presence::Present {
                self.look_at_end(ct);
                continue;
            }
            if plan(&Desired::of(&record, 0), &seen).is_ok_and(|steps| steps.is_empty()) {
                continue;
            }
            tracing::info!(%ct, "not as it should be, repairing");
            let own = self.clone();
            let begun = self
                .transact(move |index, change| {
                    if !untouched(index, &record) {
                        return Ok(None);
                    }
                    let record = Record::clone(&record);
                    let key = String::new();
                    Ok(Some(
                        begin_operation(record, repair::action(), "node", key, own.clock(), change)
                            .id,
                    ))
                })
                .await;
            match begun {
                Ok(op) => self.carry_out(op),
                Err(fault) => tracing::error!(%ct, error = %fault, "repairing could not be stored"),
            }
        }
    }

    fn idle_records(&self) -> Vec<Arc<Record>> {
        let index = self.state().read();
        index.containers().filter(|r| index.at_work(r.id).is_none()).map(Arc::clone).collect()
    }
}
