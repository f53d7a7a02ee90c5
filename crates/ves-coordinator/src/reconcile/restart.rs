//! Starting containers again that ended by themselves, when it is time.
//!
//! What is to be started, and when, stands in the records, so that a restart of the coordinator or a boot of
//! the node changes nothing about it. Never here: whether and when ([`crate::container::retry`]).

use std::sync::Arc;
use std::time::Duration;

use ves_proto::Fault;
use ves_types::CtId;

use crate::admission::{begin_operation, idle};
use crate::container::record::Record;
use crate::coordinator::Coordinator;
use crate::operation::kinds::Action;
use crate::operation::kinds::start::Start;
use crate::operation::record::{Caller, Cause, OpId};

/// How long nobody looks after a look at all containers: each change of one wakes it.
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);
/// How long to wait before what could not be stored is tried again.
const PAUSE: Duration = Duration::from_secs(2);

impl Coordinator {
    /// Starts each when it is time, for ever.
    pub(crate) async fn restart_for_ever(self) {
        let mut revisions = self.state().revisions();
        loop {
            revisions.borrow_and_update();
            let wait = match self.next_restart() {
                Some((record, wait)) if wait.is_zero() => match self.start_again(&record).await {
                    Ok(op) => {
                        self.carry_out(op, None);
                        continue;
                    }
                    Err(fault) => {
                        tracing::warn!(ct = %record.id, error = %fault, "started again later");
                        self.clock().sleep(PAUSE).await;
                        continue;
                    }
                },
                Some((_, wait)) => Some(wait),
                None => None,
            };
            tokio::select! {
                changed = revisions.changed() => if changed.is_err() { return },
                () = async { self.clock().sleep(wait.unwrap_or_default()).await },
                    if wait.is_some() => {}
            }
            self.clock().sleep(BETWEEN_LOOKS).await;
        }
    }

    /// The container that is started next, and how long it is until then.
    fn next_restart(&self) -> Option<(Arc<Record>, Duration)> {
        let (index, now) = (self.state().read(), self.clock().now_ms());
        let idle = index.containers().filter(|record| index.at_work(record.id).is_none());
        let pending = idle.filter_map(|r| Some((Arc::clone(r), r.next_start()?.wait(now))));
        pending.min_by_key(|(record, wait)| (*wait, record.id))
    }

    /// Begins to start a container, unless somebody has taken it up.
    async fn start_again(&self, record: &Arc<Record>) -> Result<Option<OpId>, Fault> {
        let (own, ct, before): (_, CtId, _) = (self.clone(), record.id, Arc::clone(record));
        self.transact(move |index, change| {
            let now = index.container(ct)?;
            if !Arc::ptr_eq(now, &before) || idle(index, ct).is_err() {
                return Ok(None);
            }
            let mut record = Record::clone(now);
            record.retry = record.retry.map(|retry| retry.begun(own.clock().now_ms()));
            let (start, caller) = (Start { wait: false }, Caller::own(Cause::Container));
            let op = begin_operation(record, Action::Start(start), caller, own.clock(), change);
            Ok(Some(op.id))
        })
        .await
    }
}
