//! Admitting requests: each is stored as an operation and handed to a driver.
//!
//! An operation is stored, and its container's record changed, in the one transaction that checks
//! that nobody else works on the container. From then on it is carried out, by this process or the
//! next. Never here: whether a container's state allows it ([`crate::operation::kinds`]), steps
//! ([`crate::driver`]) or the wire ([`crate::api`]).

pub mod create;
mod snapshot;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tonic::Code;
use tracing::Instrument;
use uuid::Uuid;
use ves_proto::{Fault, Reason};
use ves_types::{CtId, Phase};

use crate::clock::{Clock, rfc3339};
use crate::container::observed::ProcessSeen;
use crate::container::plan::plan;
use crate::container::record::{Record, RunState};
use crate::coordinator::{Coordinator, Turns};
use crate::driver::FirstLook;
use crate::operation::kinds::{self, Action};
use crate::operation::record::{Caller, OpId, OpRecord, OpState};
use crate::queue::{Conflict, LONGEST_WAIT};
use crate::store::index::{Change, Index};

/// How long a request waits for an operation that the coordinator began, before it is refused as busy.
const OWN_WORK: Duration = Duration::from_secs(10);

/// How often it is looked meanwhile whether a look at an end was followed by none.
const NOTHING_FOLLOWED: Duration = Duration::from_millis(100);

/// A call that is to change a container, beside what it is to do.
#[derive(Debug, Clone)]
pub struct Ask {
    /// Whose it is.
    pub caller: Caller,
    /// The container.
    pub ct: CtId,
    /// Which of those that ever have its id; none: one that no record knows. A call that waits its turn may
    /// find another there, which is perhaps another tenant's.
    pub uid: Option<Uuid>,
    /// What the caller has read of it last, where it matters.
    pub etag: Option<String>,
    /// Only plan.
    pub validate_only: bool,
    /// What becomes of it while somebody else works on the container.
    pub conflict: Conflict,
    /// Whether it depends on a container that goes down by itself just now.
    pub look: bool,
}

/// The container that has an id must be the one that was asked for, where that was one.
fn is_same(ct: CtId, asked: Option<Uuid>, have: Uuid) -> Result<(), Fault> {
    match asked {
        Some(asked) if asked != have => {
            let message = format!("container {ct} is gone; another has its id by now");
            Err(Fault::new(Reason::ContainerUnknown, message).fact("ct", ct))
        }
        Some(_) | None => Ok(()),
    }
}

impl Ask {
    /// It must be the container that was named, and what was read last must still be so.
    ///
    /// # Errors
    /// `CONTAINER_UNKNOWN`, `ETAG_MISMATCH`.
    fn check(&self, record: &Record) -> Result<(), Fault> {
        is_same(record.id, self.uid, record.uid)?;
        let have = record.etag();
        match &self.etag {
            Some(got) if *got != have => {
                let message =
                    format!("container {} has changed meanwhile; read it again", record.id);
                Err(Fault::new(Reason::EtagMismatch, message)
                    .fact("ct", record.id)
                    .fact("have", have)
                    .fact("got", got))
            }
            Some(_) | None => Ok(()),
        }
    }
}

impl Coordinator {
    /// Begins an action on a container that is there.
    ///
    /// # Errors
    /// `BUSY`, `TOO_MANY`, `ETAG_MISMATCH`, or what `admit` says.
    pub async fn begin(
        &self,
        ask: Ask,
        admit: impl Fn(&Record, &ProcessSeen) -> Result<Action, Fault> + Clone + Send + 'static,
    ) -> Result<OpRecord, Fault> {
        self.cache().await_list().await;
        let Conflict::Queue(longest) = ask.conflict else {
            return self.try_to_begin(ask, admit).await;
        };
        let mut over = self.clock().sleep(longest.min(LONGEST_WAIT));
        let place = self.queues().join(ask.ct)?;
        let turn = tokio::select! {
            turn = place.first() => turn,
            () = &mut over => None,
        };
        loop {
            let ct = ask.ct;
            match self.try_to_begin(ask.clone(), admit.clone()).await {
                // Who works on it will end, and is waited for.
                Err(fault) if is_at_work(&fault) && turn.is_some() => {
                    tokio::select! {
                        () = self.await_idle(ct) => {}
                        () = &mut over => return Err(fault),
                    }
                }
                begun => return begun,
            }
        }
    }

    /// Waits until no operation works on a container.
    async fn await_idle(&self, ct: CtId) {
        let mut ticks = self.state().operation_ticks();
        while self.state().read().at_work(ct).is_some() {
            if ticks.changed().await.is_err() {
                return;
            }
        }
    }

    /// Begins it now, or not.
    async fn try_to_begin(
        &self,
        ask: Ask,
        admit: impl FnOnce(&Record, &ProcessSeen) -> Result<Action, Fault> + Send + 'static,
    ) -> Result<OpRecord, Fault> {
        let looked = if ask.look { self.look_whether_it_ends(ask.ct).await } else { None };
        self.await_own_work(ask.ct).await;
        let own = self.clone();
        // That it goes down is what was seen last only where it was looked at just now.
        let stopping = looked.is_some_and(|process| process.stopping);
        let admit = move |record: &Record| {
            let process = ProcessSeen { stopping, ..own.cache().of(record.id).process };
            admit(record, &process)
        };
        if !ask.validate_only {
            return self.begin_now(ask, admit).await;
        }
        let record = self.state().read().container(ask.ct).map(Arc::clone)?;
        ask.check(&record)?;
        idle(&self.state().read(), record.id)?;
        let action = admit(&record)?;
        self.dry_run(ask.caller, (*record).clone(), action).await
    }

    /// Waits for what the coordinator does to a container by itself, after it ended or the node booted:
    /// whoever asks for something meanwhile could not know, and is not sent away for it.
    async fn await_own_work(&self, ct: CtId) {
        let own_work = || {
            let index = self.state().read();
            let own = match index.at_work(ct) {
                Some(op) => index.operation(op).ok()?.is_own(),
                // What follows from its end is about to begin.
                None => self.is_ending(ct),
            };
            own.then_some(())
        };
        let mut ticks = self.state().operation_ticks();
        let mut over = self.clock().sleep(OWN_WORK);
        while own_work().is_some() {
            tokio::select! {
                changed = ticks.changed() => if changed.is_err() { return },
                // Nothing may follow from it.
                () = self.clock().sleep(NOTHING_FOLLOWED) => {}
                () = &mut over => return,
            }
        }
    }

    /// Looks anew at a container that should run, for who asks for what needs it to be down: it may have ended
    /// just now, or be going down. None: it should not run, or nobody can tell.
    async fn look_whether_it_ends(&self, ct: CtId) -> Option<ProcessSeen> {
        let run = self.state().read().container(ct).ok()?.run;
        if run != RunState::Running {
            return None;
        }
        // A service that is away says nothing new.
        let process = self.services().process(ct).await.ok()?;
        if self.cache().process(ct, process) {
            self.state().touch(ct);
        }
        if process.phase == Phase::Absent {
            self.look_at_end(ct);
        }
        Some(process)
    }

    /// The same, not as a dry run. The container is looked at while the operation is stored, where it
    /// is one that nobody works on.
    async fn begin_now(
        &self,
        ask: Ask,
        admit: impl FnOnce(&Record) -> Result<Action, Fault> + Send + 'static,
    ) -> Result<OpRecord, Fault> {
        let idle_now = {
            let index = self.state().read();
            index.container(ask.ct).ok().filter(|r| index.at_work(r.id).is_none()).map(Arc::clone)
        };
        let look =
            idle_now.as_ref().map(|record| FirstLook::begin(self.services().clone(), record.id));
        let own = self.clone();
        let (op, new, same) = self
            .transact(move |index, change| {
                if let Some(op) = index.repeated(&ask.caller)? {
                    return Ok((OpRecord::clone(op), false, false));
                }
                let record = index.container(ask.ct)?;
                ask.check(record)?;
                idle(index, record.id)?;
                let action = admit(record)?;
                // Whoever worked on it since would have changed its record.
                let same = idle_now.is_some_and(|before| Arc::ptr_eq(&before, record));
                let record = (**record).clone();
                let op = begin_operation(record, action, ask.caller, own.clock(), change);
                Ok((op, true, same))
            })
            .await?;
        self.carry_out(begun(&op, new), look.filter(|_| same));
        Ok(op)
    }

    /// Begins to take a container away.
    ///
    /// # Errors
    /// `RUNNING`, `MOUNTED`, `DELETE_PROTECTED`, or as [`Self::begin`].
    pub async fn destroy(&self, ask: Ask) -> Result<OpRecord, Fault> {
        let admit = |record: &Record, process: &ProcessSeen| {
            kinds::destroy::admit(record, process.phase, process.stopping)
        };
        self.begin(Ask { look: true, ..ask }, admit).await
    }

    /// Begins an action that is about no container.
    ///
    /// # Errors
    /// `BUSY` where the same is being built already.
    pub async fn build_template(&self, caller: Caller, action: Action) -> Result<OpRecord, Fault> {
        let own = self.clone();
        let (op, new) = self
            .transact(move |index, change| {
                if let Some(op) = index.repeated(&caller)? {
                    return Ok((OpRecord::clone(op), false));
                }
                if let Some(other) = index
                    .operations()
                    .find(|op| op.state == OpState::Running && same_template(&op.action, &action))
                {
                    return Err(busy("the template", other));
                }
                let node = own.node().clone();
                let op = OpRecord::new(node, None, action, caller, own.clock());
                change.operations.push(op.clone());
                Ok((op, true))
            })
            .await?;
        self.carry_out(begun(&op, new), None);
        Ok(op)
    }

    /// Asks an operation to stop. One that has ended is left as it is.
    ///
    /// # Errors
    /// `OPERATION_UNKNOWN`.
    pub async fn cancel(&self, id: OpId) -> Result<OpRecord, Fault> {
        self.transact(move |index, change| {
            let mut op = (**index.operation(&id)?).clone();
            if op.state == OpState::Running && !op.cancel {
                op.cancel = true;
                change.operations.push(op.clone());
            }
            Ok(op)
        })
        .await
    }

    /// Hands a new operation to a driver of its own, which waits for its turn among those that somebody
    /// asked for.
    pub(crate) fn carry_out(&self, id: Option<OpId>, look: Option<FirstLook>) {
        let Some(id) = id else { return };
        let own = self.clone();
        self.in_span(&id.clone(), async move {
            let turns = &own.turns().operations;
            // What was seen before it had to wait may be long ago.
            let (_turn, look) = match Arc::clone(turns).try_acquire_owned() {
                Ok(turn) => (Some(turn), look),
                Err(_) => (Turns::take(turns).await, None),
            };
            own.drive(id, look).await;
        });
    }

    /// The same for one whose `turn` it is.
    pub(crate) fn carry_out_now(&self, id: OpId, turn: Option<OwnedSemaphorePermit>) {
        let own = self.clone();
        self.in_span(&id.clone(), async move {
            own.drive(id, None).await;
            drop(turn);
        });
    }

    /// Does the work of an operation in a task and a span of its own.
    fn in_span(&self, id: &OpId, work: impl Future<Output = ()> + Send + 'static) {
        let (kind, ct) = {
            let index = self.state().read();
            let Ok(op) = index.operation(id) else { return };
            (op.action.kind().name(), op.ct)
        };
        let span = tracing::info_span!(
            "operation",
            otel.name = format!("operation {kind}"),
            ves.operation.id = %id,
            ves.operation.kind = kind,
            container.id = ct.map(CtId::get),
            otel.status_code = tracing::field::Empty,
        );
        // It outlives the request on purpose; its end is stored.
        tokio::spawn(work.instrument(span));
    }

    /// What an action would do, from what the services show now: each of its steps, and below it, indented,
    /// those of the service that is asked. A service plans from what is there, so that it cannot tell what
    /// it would do after another step of its own, nor when it waits for one of another service; such steps
    /// stand alone.
    async fn dry_run(
        &self,
        caller: Caller,
        mut record: Record,
        action: Action,
    ) -> Result<OpRecord, Fault> {
        let mut seen = self.services().observe(record.id).await?;
        let (node, ct) = (record.node.clone(), Some(record.id));
        let mut op = OpRecord::new(node, ct, action, caller, self.clock());
        op.project.clone_from(&record.meta.project);
        op.validate_only = true;
        let mut asked = BTreeSet::new();
        while let Some(stage) = op.action.stage_after(op.stage) {
            op.action.enter(stage, &mut record);
            op.stage = Some(stage);
            let desired = op.action.desired(&record);
            for step in plan(&desired, &seen).map_err(|e| Fault::from(&e))? {
                op.steps.push(step.to_string());
                let first = asked.is_empty();
                if asked.insert(step.service()) {
                    match self.services().dry_run(record.fence(), &step).await {
                        Ok(steps) => op.steps.extend(steps.iter().map(|s| format!("  {s}"))),
                        Err(fault) if !first && fault.code() == Code::FailedPrecondition => {}
                        Err(fault) => return Err(fault),
                    }
                }
                seen = seen.after(&step, record.generation);
            }
            match kinds::on_converged(record.clone()) {
                Some(after) => record = after,
                None => break,
            }
        }
        op.state = OpState::Succeeded;
        op.ended_unix_ms = Some(op.started_unix_ms);
        Ok(op)
    }
}

/// Refuses while an operation works on the container.
///
/// # Errors
/// `BUSY`.
pub fn idle(index: &Index, ct: CtId) -> Result<(), Fault> {
    match index.at_work(ct).and_then(|id| index.operation(id).ok()) {
        Some(op) => Err(busy(&format!("container {ct}"), op).fact("ct", ct)),
        None => Ok(()),
    }
}

/// Whether a refusal says that an operation works on what is asked for.
fn is_at_work(fault: &Fault) -> bool {
    fault.reason == Reason::Busy && fault.facts.contains_key("operation")
}

/// A new operation that is yet to be carried out.
fn begun(op: &OpRecord, new: bool) -> Option<OpId> {
    (new && op.state == OpState::Running).then(|| op.id.clone())
}

fn busy(what: &str, op: &OpRecord) -> Fault {
    let since = rfc3339(op.started_unix_ms);
    let holder = format!("{} by {}", op.action.kind().name(), op.principal);
    let message = format!("{what} is busy with {holder} since {since}; wait for it and try again");
    Fault::new(Reason::Busy, message)
        .fact("holder", holder)
        .fact("since", since)
        .fact("operation", &op.id)
}

fn same_template(one: &Action, other: &Action) -> bool {
    match (one, other) {
        (Action::TemplateBuild(a), Action::TemplateBuild(b)) => a.name == b.name,
        _ => false,
    }
}

/// Stores a new operation and the record as its first stage wants it, together.
pub(crate) fn begin_operation(
    mut record: Record,
    action: Action,
    caller: Caller,
    clock: &dyn Clock,
    change: &mut Change,
) -> OpRecord {
    let (node, ct) = (record.node.clone(), Some(record.id));
    let mut op = OpRecord::new(node, ct, action, caller, clock);
    op.project.clone_from(&record.meta.project);
    if let Some(stage) = op.action.stage_after(None) {
        if !op.is_own() && stage.says_how_far_up() {
            // Somebody has said what it should be.
            record.retry = None;
        }
        op.action.enter(stage, &mut record);
        op.stage = Some(stage);
    }
    if op.action.kind().is_done_at_once() {
        record.release();
        op.end(clock.now_ms(), None);
    }
    change.containers.push(record);
    change.operations.push(op.clone());
    op
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_waited_finds_the_container_it_named_or_none() {
        let ct = CtId::try_from(600).expect("an id");
        let (own, others) = (Uuid::from_u128(1), Uuid::from_u128(2));
        assert_eq!(is_same(ct, Some(own), own), Ok(()));
        assert_eq!(is_same(ct, None, others), Ok(()), "what no record knows has none");
        let fault = is_same(ct, Some(own), others).expect_err("it is another's");
        assert_eq!(fault.reason, Reason::ContainerUnknown);
    }
}
