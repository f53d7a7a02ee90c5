//! Carrying an operation out: one task from its first step to its stored end.
//!
//! Whatever happens in between is stored before it has effects, so a driver of the next process
//! goes on where this one was killed: the container is looked at again and planned for again.
//!
//! ```text
//!  stored ─ converge ─┬─ next stage … ─ Succeeded
//!                     └─ fault or cancel ─ undo ─ converge ─ Failed | Cancelled
//! converge: look → plan → each step, tried again while its service is away → what was answered → plan …
//! ```
//!
//! Never here: what the steps are ([`crate::container::plan`]) and what the stages are
//! ([`crate::operation::kinds`]).

mod converge;
mod template;

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tracing::Instrument;
use ves_proto::{Fault, Reason};
use ves_types::{CtId, Generation};

use crate::container::observed::Observed;
use crate::container::record::{Presence, Record};
use crate::coordinator::Coordinator;
use crate::operation::kinds::{self, Action, Undo};
use crate::operation::record::{OpId, OpRecord, OpState};
use crate::problem::Problem;
use crate::services::Services;

/// How long to wait at first before a store that failed is tried again, and at most.
const STORE_PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(10));

/// A look at a container that was begun before its operation was stored.
#[derive(Debug)]
pub(crate) enum FirstLook {
    /// What was seen.
    Seen(Box<Observed>),
    /// It is under way, and ends when nobody waits for it any more.
    Coming(JoinSet<Option<Observed>>),
}

impl FirstLook {
    /// Looks while something else is done.
    pub(crate) fn begin(services: Services, ct: CtId) -> Self {
        let mut look = JoinSet::new();
        look.spawn(async move { services.observe(ct).await.ok() }.in_current_span());
        Self::Coming(look)
    }

    /// What was seen; `None` where a service did not answer.
    async fn seen(self) -> Option<Observed> {
        match self {
            Self::Seen(seen) => Some(*seen),
            Self::Coming(mut look) => look.join_next().await?.ok()?,
        }
    }
}

/// Why converging ended before the container was where it should be.
#[derive(Debug)]
enum Stopped {
    Failed(Fault),
    Cancelled,
    /// Services have accepted something newer than the record, up to this.
    Behind(Generation),
}

impl From<Fault> for Stopped {
    fn from(fault: Fault) -> Self {
        Self::Failed(fault)
    }
}

impl Coordinator {
    /// Carries an operation out to its end.
    pub(crate) async fn drive(&self, id: OpId, look: Option<FirstLook>) {
        let Ok(op) = self.state().read().operation(&id).map(|op| OpRecord::clone(op)) else {
            return;
        };
        tracing::info!(principal = %op.principal, stage = ?op.stage, "operation goes on");
        if op.stage.is_none() {
            tracing::info!(
                target: "audit",
                operation = %op.id,
                kind = op.action.kind().name(),
                ct = op.ct.map(tracing::field::display),
                principal = op.principal,
                on_behalf_of = op.on_behalf_of,
                "begun",
            );
        }
        let active = self.metrics().begin(&op, self.clock().now_ms());
        match op.ct {
            Some(ct) => self.drive_container(&id, ct, look).await,
            None => self.drive_template(&op).await,
        }
        if let Ok(op) = self.state().read().operation(&id) {
            active.end(op);
            let fault = op.fault.as_ref().map(|f| f.message.as_str());
            if op.state == OpState::Failed {
                tracing::Span::current().record("otel.status_code", "ERROR");
            }
            tracing::info!(state = ?op.state, fault, "operation ended");
        }
    }

    async fn drive_container(&self, id: &OpId, ct: CtId, look: Option<FirstLook>) {
        let mut first = match look {
            Some(look) => look.seen().await,
            None => None,
        };
        loop {
            let current = {
                let index = self.state().read();
                index
                    .operation(id)
                    .map(|op| OpRecord::clone(op))
                    .and_then(|op| index.container(ct).map(|record| (op, Record::clone(record))))
            };
            if current.as_ref().is_ok_and(|(op, _)| op.state != OpState::Running) {
                return;
            }
            let (op, record) = match current {
                Ok(current) => current,
                Err(fault) => {
                    return self.end_lost(id, fault).await;
                }
            };
            let result = self.converge(&op, &record, first.take()).await;
            if self.advance(&op, record, result).await {
                return;
            }
        }
    }

    /// Stores the end of an operation whose container's record cannot be read: nothing is done to
    /// the container.
    pub(crate) async fn end_lost(&self, id: &OpId, fault: Fault) {
        tracing::error!(operation = %id, error = %fault, "an operation has lost its container");
        let op = self.state().read().operation(id).map(|op| OpRecord::clone(op));
        // One that cannot be read itself is no operation that somebody waits for.
        let Ok(op) = op else { return };
        let now = self.clock().now_ms();
        self.store(&op, move |op| op.end(now, Some(&fault)), None).await;
    }

    /// Stores what follows from a reached or failed stage; true: that was the end.
    async fn advance(
        &self,
        op: &OpRecord,
        record: Record,
        result: Result<Observed, Stopped>,
    ) -> bool {
        match (result, &op.undoing) {
            (Ok(seen), None) => {
                if let Some(stage) = op.action.stage_after(op.stage) {
                    let mut record = kinds::on_converged(record.clone()).unwrap_or(record);
                    record.note_run(&seen.process);
                    op.action.enter(stage, &mut record);
                    self.store(op, move |op| op.stage = Some(stage), Some(Some(record))).await;
                    return false;
                }
                let late = self.await_booted(op, &record).await;
                match late {
                    Err(Stopped::Cancelled) => self.roll_back(op, record, Stopped::Cancelled).await,
                    // A container that ended meanwhile did not start; one that is slow did.
                    Err(Stopped::Failed(f)) if f.reason != Reason::Timeout => {
                        self.roll_back(op, record, Stopped::Failed(f)).await
                    }
                    late => {
                        let fault = match late {
                            Err(Stopped::Failed(f)) => Some(f),
                            _ => None,
                        };
                        self.finish(op, record, Some(&seen), fault).await;
                        true
                    }
                }
            }
            (Ok(seen), Some(why)) => {
                let fault = why.fault();
                self.finish(op, record, Some(&seen), Some(fault)).await;
                true
            }
            (Err(Stopped::Behind(accepted)), _) => {
                let mut record = record;
                tracing::warn!(ct = %record.id, %accepted, "the record is behind the services");
                record.catch_up(accepted);
                self.store(op, |_| {}, Some(Some(record))).await;
                false
            }
            (Err(Stopped::Failed(fault)), None) => {
                match op.action.kind().fallback(&record, fault.reason) {
                    Some(action) => {
                        self.fall_back(op, record, action, &fault).await;
                        false
                    }
                    None => self.roll_back(op, record, Stopped::Failed(fault)).await,
                }
            }
            (Err(stopped), None) => self.roll_back(op, record, stopped).await,
            (Err(Stopped::Cancelled), Some(_)) => false,
            (Err(Stopped::Failed(second)), Some(why)) => {
                // It can neither be finished nor taken back now; the record says so.
                let mut record = record;
                record.problem = Some(Problem::from(&second));
                let fault = why.fault();
                tracing::error!(error = %second, first = %fault, "undoing an operation failed");
                self.finish(op, record, None, Some(fault)).await;
                true
            }
        }
    }

    /// Begins a change anew in the way the caller wants where it cannot be made at once.
    async fn fall_back(&self, op: &OpRecord, mut record: Record, action: Action, fault: &Fault) {
        tracing::info!(reason = %fault, "it cannot be done at once");
        let stage = action.stage_after(None);
        if let Some(stage) = stage {
            action.enter(stage, &mut record);
        }
        let line = format!("instead: {fault}");
        let update = move |op: &mut OpRecord| {
            op.action = action.clone();
            op.stage = stage;
            op.steps.push(line.clone());
        };
        self.store(op, update, Some(Some(record))).await;
    }

    /// Begins to undo, or says that there is no way back; true: that was the end.
    async fn roll_back(&self, op: &OpRecord, mut record: Record, stopped: Stopped) -> bool {
        let seen: Observed = self.look(op, record.id).await.unwrap_or_default();
        let cancelled = matches!(stopped, Stopped::Cancelled);
        let fault = match stopped {
            Stopped::Failed(fault) => self.explained(record.id, fault).await,
            Stopped::Cancelled | Stopped::Behind(_) => op.cancelled(),
        };
        match op.action.kind().undo(&mut record, &seen) {
            Undo::RollBack => {
                tracing::warn!(error = %fault, "undoing");
                let problem = Problem::from(&fault);
                let update = move |op: &mut OpRecord| {
                    op.undoing = Some(problem.clone());
                    op.steps.push(format!("undo: {fault}"));
                };
                self.store(op, update, Some(Some(record))).await;
                false
            }
            // Finished although somebody wanted it to stop.
            Undo::RollForward if cancelled => {
                self.store(op, |op| op.cancel = false, None).await;
                false
            }
            Undo::RollForward => {
                record.problem = Some(Problem::from(&fault));
                self.finish(op, record, None, Some(fault)).await;
                true
            }
        }
    }

    /// Stores the end. `seen`: the container is where its record wants it.
    async fn finish(
        &self,
        op: &OpRecord,
        mut record: Record,
        seen: Option<&Observed>,
        fault: Option<Fault>,
    ) {
        let (ct, uid) = (record.id, record.uid);
        let record = match seen {
            // It was led nowhere: how far it is up, and what became of it meanwhile, stays to be seen.
            Some(_) if record.snapshot.as_ref().is_some_and(|wish| wish.alone) => {
                record.snapshot = None;
                Some(record)
            }
            Some(seen) => {
                record.note_run(&seen.process);
                record.release();
                kinds::on_converged(record)
            }
            None => {
                record.forget_before();
                Some(record)
            }
        };
        let record = record.map(|record| match &record.retry {
            Some(retry) if fault.is_some() && op.is_own() && op.action.kind().starts() => {
                Record { retry: Some(retry.again(self.clock().now_ms())), ..record }
            }
            _ => record,
        });
        let gone = record.is_none();
        if gone {
            self.cache().forget(ct);
        }
        let half_gone = record.as_ref().is_some_and(|r| r.presence == Presence::Deleting);
        let now = self.clock().now_ms();
        let exit = seen.and_then(|seen| seen.process.end);
        let update = move |op: &mut OpRecord| {
            op.exit = exit;
            op.end(now, fault.as_ref());
        };
        self.store(op, update, Some(record)).await;
        if gone {
            self.usage().forget(ct, uid);
        }
        if half_gone {
            self.finish_later(ct);
        }
    }

    /// Stores a change of the operation and of its container, as often as the store fails: there is
    /// no going on without. What it refuses ends the operation. `record`: unchanged, gone, or new.
    async fn store(
        &self,
        op: &OpRecord,
        update: impl Fn(&mut OpRecord) + Send + Sync + 'static,
        record: Option<Option<Record>>,
    ) {
        let update = Arc::new(update);
        let mut pause = STORE_PAUSE.0;
        let mut refused = None;
        loop {
            let (id, record, update) = (op.id.clone(), record.clone(), Arc::clone(&update));
            let (why, now) = (refused.clone(), self.clock().now_ms());
            let own = self.clone();
            let result = self
                .transact(move |index, change| {
                    let mut new = OpRecord::clone(index.operation(&id)?);
                    if let Some(why) = why {
                        new.end(now, Some(&why));
                        if let Some(Ok(record)) = new.ct.map(|ct| index.container(ct)) {
                            let mut record = Record::clone(record);
                            record.problem = Some(Problem::from(&why));
                            change.containers.push(record);
                        }
                        change.operations.push(new);
                        return Ok(vec![]);
                    }
                    update(&mut new);
                    match (record, new.ct) {
                        (Some(Some(record)), Some(ct)) => {
                            change.containers.push(record);
                            change.usage.extend(own.usage().due(ct).map(|used| (ct, used)));
                        }
                        (Some(Some(record)), None) => change.containers.push(record),
                        (Some(None), Some(ct)) => {
                            let last = index.container(ct).ok().map(|r| own.usage().of(r));
                            change.usage.extend(last.map(|used| (ct, used)));
                            change.gone.push(ct);
                        }
                        (Some(None), None) | (None, _) => {}
                    }
                    change.operations.push(new);
                    Ok(change.usage.clone())
                })
                .await;
            match result {
                Ok(used) => {
                    for (ct, used) in used {
                        self.usage().stored(ct, &used);
                    }
                    return;
                }
                Err(fault) if fault.reason != Reason::HostFailed && refused.is_none() => {
                    tracing::error!(error = %fault, "an operation's change is refused");
                    refused = Some(fault);
                }
                Err(fault) if fault.reason != Reason::HostFailed => {
                    tracing::error!(error = %fault, "an operation's end is refused");
                    return;
                }
                Err(fault) => {
                    tracing::error!(error = %fault, "storing an operation failed, trying again");
                    self.clock().sleep(pause).await;
                    pause = (pause * 2).min(STORE_PAUSE.1);
                }
            }
        }
    }
}
