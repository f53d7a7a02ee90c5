//! Admitting requests: each is stored as an operation and handed to a driver.
//!
//! An operation is stored, and its container's record changed, in the one transaction that checks
//! that nobody else works on the container. From then on it is carried out, by this process or the
//! next. Never here: whether a container's state allows it ([`crate::operation::kinds`]), steps
//! ([`crate::driver`]) or the wire ([`crate::api`]).

mod snapshot;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tonic::Code;
use tracing::Instrument;
use ves_proto::convert::check_features;
use ves_proto::{Fault, Reason, coordinator as pb};
use ves_types::{CtId, Epoch, Phase};

use crate::clock::{Clock, rfc3339};
use crate::container::observed::Observed;
use crate::container::plan::plan;
use crate::container::record::{Presence, Record, Reserved, RunState, Since};
use crate::container::refusal::Refusal;
use crate::container::spec;
use crate::coordinator::{Coordinator, Turns};
use crate::driver::FirstLook;
use crate::operation::kinds::{self, Action};
use crate::operation::record::{Caller, OpId, OpRecord, OpState};
use crate::store::index::{Change, Index};

/// How long a look for leftovers may take before a create goes on without.
const FIRST_LOOK: Duration = Duration::from_secs(5);

/// How long a request waits for an operation that the coordinator began, before it is refused as busy.
const OWN_WORK: Duration = Duration::from_secs(10);

/// How often it is looked meanwhile whether a look at an end was followed by none.
const NOTHING_FOLLOWED: Duration = Duration::from_millis(100);

impl Coordinator {
    /// Begins an action on a container that is there.
    ///
    /// # Errors
    /// `BUSY`, or what `admit` says.
    pub async fn begin(
        &self,
        caller: Caller,
        ct: String,
        dry_run: bool,
        admit: impl FnOnce(&Record, Phase) -> Result<Action, Fault> + Send + 'static,
    ) -> Result<pb::Operation, Fault> {
        self.cache().await_list().await;
        self.await_own_work(&ct).await;
        if !dry_run {
            return self.begin_now(caller, ct, admit).await;
        }
        let record = self.resolve(&ct)?;
        idle(&self.state().read(), record.id)?;
        let action = admit(&record, self.cache().of(record.id).process.phase)?;
        self.dry_run(caller, (*record).clone(), action).await
    }

    /// Waits for what the coordinator does to a container by itself, after it ended or the node booted:
    /// whoever asks for something meanwhile could not know, and is not sent away for it.
    async fn await_own_work(&self, ct: &str) {
        let own_work = || {
            let index = self.state().read();
            let record = index.resolve(ct).ok()?;
            let own = match index.at_work(record.id) {
                Some(op) => index.operation(op).ok()?.is_own(),
                // What follows from its end is about to begin.
                None => self.is_ending(record.id),
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
    /// just now, or be going down.
    pub(crate) async fn look_whether_it_ends(&self, ct: &str) {
        let Ok(record) = self.resolve(ct) else { return };
        if record.run != RunState::Running {
            return;
        }
        // A service that is away says nothing new.
        let Ok(process) = self.services().process(record.id).await else { return };
        if self.cache().process(record.id, process) {
            self.state().touch(record.id);
        }
        if process.phase == Phase::Absent {
            self.look_at_end(record.id);
        }
    }

    /// The same, not as a dry run. The container is looked at while the operation is stored, where it
    /// is one that nobody works on.
    async fn begin_now(
        &self,
        caller: Caller,
        ct: String,
        admit: impl FnOnce(&Record, Phase) -> Result<Action, Fault> + Send + 'static,
    ) -> Result<pb::Operation, Fault> {
        let idle_now = {
            let index = self.state().read();
            index.resolve(&ct).ok().filter(|r| index.at_work(r.id).is_none()).map(Arc::clone)
        };
        let look =
            idle_now.as_ref().map(|record| FirstLook::begin(self.services().clone(), record.id));
        let own = self.clone();
        let (op, new, same) = self
            .transact(move |index, change| {
                if let Some(op) = index.repeated(&caller)? {
                    return Ok((op.render(), None, false));
                }
                let record = index.resolve(&ct)?;
                idle(index, record.id)?;
                let action = admit(record, own.cache().of(record.id).process.phase)?;
                // Whoever worked on it since would have changed its record.
                let same = idle_now.is_some_and(|before| Arc::ptr_eq(&before, record));
                let record = (**record).clone();
                let op = begin_operation(record, action, caller, own.clock(), change);
                Ok((op.render(), Some(op.id), same))
            })
            .await?;
        self.carry_out(new, look.filter(|_| same));
        Ok(op)
    }

    /// Begins the making of a container.
    ///
    /// # Errors
    /// `CONTAINER_EXISTS`, `NAME_TAKEN`, `ADDRESS_TAKEN`, `IDS_EXHAUSTED`, `BAD_VALUE`, and
    /// `FOREIGN_CONTENTS` where something of an earlier container with this id is there.
    pub async fn create(
        &self,
        caller: Caller,
        request: pb::CreateContainerRequest,
    ) -> Result<pb::Operation, Fault> {
        let pb::CreateContainerRequest { id, spec, request_id: _, dry_run } = request;
        let mut full = BTreeSet::new();
        let (op, new, seen) = loop {
            if !dry_run && let Some(op) = self.state().read().repeated(&caller)? {
                return Ok(op.render());
            }
            let mut record = {
                let index = self.state().read();
                let record = self.new_record(&index, id, &full, spec.clone())?;
                if dry_run {
                    index.claimable(&record)?;
                }
                record
            };
            let seen = match self.nothing_left(record.id).await {
                Ok(seen) => seen,
                Err(fault) if id == 0 && fault.reason == Reason::ForeignContents => {
                    full.insert(record.id);
                    continue;
                }
                Err(fault) => return Err(fault),
            };
            record.begin_after(seen.as_ref().map(Observed::newest).unwrap_or_default());
            if dry_run {
                return self.dry_run(caller, record, kinds::create::action()).await;
            }
            let (caller, own) = (caller.clone(), self.clone());
            let begun = self
                .transact(move |index, change| {
                    if let Some(op) = index.repeated(&caller)? {
                        return Ok(Some((op.render(), None)));
                    }
                    if id == 0 && index.vacant(record.id).is_err() {
                        return Ok(None);
                    }
                    let action = kinds::create::action();
                    let op = begin_new(index, record, action, caller, own.clock(), change)?;
                    Ok(Some((op.render(), Some(op.id))))
                })
                .await?;
            if let Some((op, new)) = begun {
                break (op, new, seen);
            }
        };
        self.carry_out(new, seen.map(|seen| FirstLook::Seen(Box::new(seen))));
        Ok(op)
    }

    /// Refuses an id of which a service shows something; otherwise what they show, which is nothing.
    /// A service that is away is no answer: the operation looks again, and waits for it.
    async fn nothing_left(&self, ct: CtId) -> Result<Option<Observed>, Fault> {
        match tokio::time::timeout(FIRST_LOOK, self.services().observe(ct)).await {
            Ok(Ok(seen)) => match seen.everything() {
                what if what.is_empty() => Ok(Some(seen)),
                what => Err(Fault::from(&Refusal::Foreign(ct, what))),
            },
            Ok(Err(fault)) if fault.reason == Reason::ForeignContents => Err(fault),
            Ok(Err(_)) | Err(_) => Ok(None),
        }
    }

    /// Begins to take a container away; of an id nobody knows, what the services show of it.
    ///
    /// # Errors
    /// `CONTAINER_UNKNOWN` where there is nothing at all, `RUNNING`, `MOUNTED`, `BUSY`.
    pub async fn destroy(
        &self,
        caller: Caller,
        ct: String,
        dry_run: bool,
    ) -> Result<pb::Operation, Fault> {
        self.look_whether_it_ends(&ct).await;
        let own = self.clone();
        let admit = move |record: &Record, phase| {
            kinds::destroy::admit(record, phase, own.cache().of(record.id).process.stopping)
        };
        let begun = self.begin(caller.clone(), ct.clone(), dry_run, admit).await;
        let unknown = match begun {
            Err(fault) if fault.reason == Reason::ContainerUnknown => fault,
            begun => return begun,
        };
        let id = ct.parse::<CtId>().ok();
        let Some(id) = id.filter(|id| self.state().read().vacant(*id).is_ok()) else {
            return Err(unknown);
        };
        let volume = self.services().volume(id).await?;
        let seen = self.services().observe(id).await?;
        if seen.everything().is_empty() {
            return Err(unknown);
        }
        let template = volume.map_or_else(|| "unknown".to_owned(), |v| v.template);
        let given = pb::ContainerSpec { template, ..pb::ContainerSpec::default() };
        let mut record = {
            let index = self.state().read();
            self.new_record(&index, id.get(), &BTreeSet::new(), Some(given))?
        };
        record.begin_after(seen.newest());
        // Whatever it is, it is what shall go.
        record.creating_since = None;
        record.maybe_dirty = true;
        if dry_run {
            return self.dry_run(caller, record, kinds::destroy::action()).await;
        }
        let own = self.clone();
        let (op, new) = self
            .transact(move |index, change| {
                if let Some(op) = index.repeated(&caller)? {
                    return Ok((op.render(), None));
                }
                let action = kinds::destroy::action();
                let op = begin_new(index, record, action, caller, own.clock(), change)?;
                Ok((op.render(), Some(op.id)))
            })
            .await?;
        self.carry_out(new, None);
        Ok(op)
    }

    /// Begins an action that is about no container.
    ///
    /// # Errors
    /// `BUSY` where the same is being built already.
    pub async fn build_template(
        &self,
        caller: Caller,
        action: Action,
    ) -> Result<pb::Operation, Fault> {
        let own = self.clone();
        let (op, new) = self
            .transact(move |index, change| {
                if let Some(op) = index.repeated(&caller)? {
                    return Ok((op.render(), None));
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
                Ok((op.render(), Some(op.id)))
            })
            .await?;
        self.carry_out(new, None);
        Ok(op)
    }

    /// Asks an operation to stop. One that has ended is left as it is.
    ///
    /// # Errors
    /// `OPERATION_UNKNOWN`.
    pub async fn cancel(&self, id: OpId) -> Result<pb::Operation, Fault> {
        self.transact(move |index, change| {
            let mut op = (**index.operation(&id)?).clone();
            if op.state == OpState::Running && !op.cancel {
                op.cancel = true;
                change.operations.push(op.clone());
            }
            Ok(op.render())
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
    ) -> Result<pb::Operation, Fault> {
        let mut seen = self.services().observe(record.id).await?;
        let (node, ct) = (record.node.clone(), Some(record.id));
        let mut op = OpRecord::new(node, ct, action, caller, self.clock());
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
        Ok(op.render())
    }

    /// A container that is to be made, stored nowhere yet.
    fn new_record(
        &self,
        index: &Index,
        id: u32,
        except: &BTreeSet<CtId>,
        given: Option<pb::ContainerSpec>,
    ) -> Result<Record, Fault> {
        let id = match id {
            0 => index.free_id(except)?,
            n => CtId::try_from(n).map_err(|e| Fault::bad_value("id", &e))?,
        };
        if let Some(features) = given.as_ref().and_then(|given| given.features.as_ref()) {
            check_features(features)?;
        }
        let mut spec = spec::parse(id, given)?;
        self.defaults().fill(&mut spec.limits);
        index.vacant(id)?;
        let now_ms = self.clock().now_ms();
        let generation = index.first_generation(now_ms);
        Ok(Record {
            id,
            uid: self.clock().new_id(),
            node: self.node().clone(),
            slot: index.free_slot()?,
            spec,
            running: None,
            presence: Presence::Creating,
            run: RunState::Stopped,
            generation,
            creating_since: Some(generation),
            epoch: Epoch(1),
            since: Since::all(generation),
            created_unix: now_ms.div_euclid(1000),
            seen_incarnation: 0,
            maybe_dirty: false,
            problem: None,
            reserved: Reserved::default(),
            snapshot: None,
            retry: None,
        })
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
    if let Some(stage) = op.action.stage_after(None) {
        if !op.is_own() && stage.says_how_far_up() {
            // Somebody has said what it should be.
            record.retry = None;
        }
        op.action.enter(stage, &mut record);
        op.stage = Some(stage);
    }
    change.containers.push(record);
    change.operations.push(op.clone());
    op
}

/// The same of a container that is nobody's yet.
fn begin_new(
    index: &Index,
    mut record: Record,
    action: Action,
    caller: Caller,
    clock: &dyn Clock,
    change: &mut Change,
) -> Result<OpRecord, Fault> {
    index.vacant(record.id)?;
    record.slot = index.free_slot()?;
    record.begin_after(index.first_generation(0));
    Ok(begin_operation(record, action, caller, clock, change))
}
