//! The coordinator itself: admits requests, stores them as operations, and hands them to drivers.
//!
//! An operation is stored, and its container's record changed, in the one transaction that checks
//! that nobody else works on the container. From then on it is carried out, by this process or the
//! next. Never here: steps ([`crate::driver`]) or the wire ([`crate::api`]).

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tracing::Instrument;
use ves_daemon::blocking;
use ves_proto::{Fault, Reason, coordinator as pb};
use ves_types::layout::Layout;
use ves_types::{CtId, Epoch, Generation};

use crate::config::Config;
use crate::model::{
    Action, OpId, OpRecord, OpState, Presence, Progress, Record, Reserved, RunState, Since,
};
use crate::observed_cache::ObservedCache;
use crate::plan::{Desired, Phase, plan};
use crate::services::Services;
use crate::state::{Change, Index, State};
use crate::store::Store;
use crate::{spec, stage};

/// How long a look for leftovers may take before a create goes on without.
const FIRST_LOOK: Duration = Duration::from_secs(5);

/// The coordinator. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Coordinator {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: Config,
    node: String,
    state: State,
    services: Services,
    observed_cache: ObservedCache,
    ending: Mutex<BTreeSet<CtId>>,
}

/// Who asks, and by which id of the request.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The user's name or id.
    pub principal: String,
    /// What makes a repeated call the same; empty: nothing.
    pub request_id: String,
}

impl Caller {
    /// One of the coordinator's own causes.
    pub fn own(cause: &str) -> Self {
        Self { principal: cause.to_owned(), request_id: String::new() }
    }

    /// The id is the caller's own: two callers may use the same.
    pub(crate) fn key(&self) -> Result<String, Fault> {
        let id = &self.request_id;
        if id.len() > 128 || id.chars().any(char::is_control) {
            let message = "a request id has at most 128 bytes and no control characters";
            return Err(Fault::new(Reason::BadValue, message).fact("field", "request_id"));
        }
        Ok(if id.is_empty() { String::new() } else { format!("{}/{id}", self.principal) })
    }
}

/// Milliseconds since 1970.
pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// A new operation's id.
pub fn new_id() -> OpId {
    OpId(uuid::Uuid::now_v7().to_string())
}

impl Coordinator {
    /// A coordinator on what `store` holds, for the services of `layout`. Blocks. Inside a runtime.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn open(config: Config, layout: &Layout, store: Box<dyn Store>) -> Result<Self, Fault> {
        let node = config.node.clone().unwrap_or_else(|| fact_of_kernel("hostname"));
        let state = State::open(store)?;
        let services = Services::new(layout);
        let ending = Mutex::default();
        let inner = Inner {
            config,
            node,
            state,
            services,
            observed_cache: ObservedCache::default(),
            ending,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Its settings.
    pub fn config(&self) -> &Config {
        &self.inner.config
    }
    /// The node's name.
    pub fn node(&self) -> &str {
        &self.inner.node
    }
    /// What is stored.
    pub fn state(&self) -> &State {
        &self.inner.state
    }
    /// The services.
    pub fn services(&self) -> &Services {
        &self.inner.services
    }
    /// What was last seen.
    pub fn observed_cache(&self) -> &ObservedCache {
        &self.inner.observed_cache
    }
    pub(crate) fn ending(&self) -> &Mutex<BTreeSet<CtId>> {
        &self.inner.ending
    }

    /// Changes what is stored, on a thread that may block.
    ///
    /// # Errors
    /// As [`State::transact`].
    pub async fn transact<T: Send + 'static>(
        &self,
        decide: impl FnOnce(&Index, &mut Change) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        let own = self.clone();
        blocking(move || own.state().transact(decide)).await
    }

    /// A container by id or name.
    ///
    /// # Errors
    /// `CONTAINER_UNKNOWN`, `BAD_VALUE`, `RECORD_CORRUPT`.
    pub fn resolve(&self, ct: &str) -> Result<Arc<Record>, Fault> {
        self.state().read().resolve(ct).map(Arc::clone)
    }

    /// A container as the API shows it.
    pub fn render(&self, record: &Record) -> pb::Container {
        let seen = self.observed_cache().of(record.id);
        let index = self.state().read();
        crate::observed_cache::render(record, &seen, index.at_work(record.id), self.node())
    }

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
        self.observed_cache().await_list().await;
        if dry_run {
            let record = self.resolve(&ct)?;
            idle(&self.state().read(), record.id)?;
            let action = admit(&record, self.observed_cache().of(record.id).process.phase)?;
            return self.dry_run(&caller, (*record).clone(), action).await;
        }
        let own = self.clone();
        let (op, new) = self
            .transact(move |index, change| {
                let key = caller.key()?;
                if let Some(op) = index.request(&key) {
                    return Ok((op.render(), None));
                }
                let record = index.resolve(&ct)?;
                idle(index, record.id)?;
                let action = admit(record, own.observed_cache().of(record.id).process.phase)?;
                let op = enter_first((**record).clone(), action, &caller.principal, key, change);
                Ok((op.render(), Some(op.id)))
            })
            .await?;
        self.carry_out(new);
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
        let key = caller.key()?;
        let mut full = BTreeSet::new();
        let (op, new) = loop {
            if let Some(op) = self.state().read().request(&key).filter(|_| !dry_run) {
                return Ok(op.render());
            }
            let mut record = {
                let index = self.state().read();
                let record = new_record(&index, id, &full, spec.clone(), now_ms())?;
                if dry_run {
                    free(&index, &record)?;
                }
                record
            };
            match self.nothing_left(record.id).await {
                Ok(newest) => record.be_born_after(newest),
                Err(fault) if id == 0 && fault.reason == Reason::ForeignContents => {
                    full.insert(record.id);
                    continue;
                }
                Err(fault) => return Err(fault),
            }
            if dry_run {
                return self.dry_run(&caller, record, Action::Create).await;
            }
            let (principal, key) = (caller.principal.clone(), key.clone());
            let begun = self
                .transact(move |index, change| {
                    if let Some(op) = index.request(&key) {
                        return Ok(Some((op.render(), None)));
                    }
                    if id == 0 && index.vacant(record.id).is_err() {
                        return Ok(None);
                    }
                    index.vacant(record.id)?;
                    record.slot = index.free_slot()?;
                    record.be_born_after(index.first_generation(0));
                    let op = enter_first(record, Action::Create, &principal, key, change);
                    Ok(Some((op.render(), Some(op.id))))
                })
                .await?;
            if let Some(begun) = begun {
                break begun;
            }
        };
        self.carry_out(new);
        Ok(op)
    }

    /// Refuses an id of which a service shows something; otherwise the newest generation they know.
    /// A service that is away is no answer: the operation looks again, and waits for it.
    async fn nothing_left(&self, ct: CtId) -> Result<Generation, Fault> {
        match tokio::time::timeout(FIRST_LOOK, self.services().observe(ct)).await {
            Ok(Ok(seen)) => match seen.everything() {
                what if what.is_empty() => Ok(seen.newest()),
                what => Err(crate::driver::foreign(ct, &what)),
            },
            Ok(Err(fault)) if fault.reason == Reason::ForeignContents => Err(fault),
            Ok(Err(_)) | Err(_) => Ok(Generation(0)),
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
        let begun = self.begin(caller.clone(), ct.clone(), dry_run, crate::admit::destroy).await;
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
            new_record(&index, id.get(), &BTreeSet::new(), Some(given), now_ms())?
        };
        record.be_born_after(seen.newest());
        // Whatever it is, it is what shall go.
        record.unborn = false;
        record.maybe_dirty = true;
        if dry_run {
            return self.dry_run(&caller, record, Action::Destroy).await;
        }
        let (op, new) = self
            .transact(move |index, change| {
                let key = caller.key()?;
                if let Some(op) = index.request(&key) {
                    return Ok((op.render(), None));
                }
                index.vacant(id)?;
                record.slot = index.free_slot()?;
                record.be_born_after(index.first_generation(0));
                let op = enter_first(record, Action::Destroy, &caller.principal, key, change);
                Ok((op.render(), Some(op.id)))
            })
            .await?;
        self.carry_out(new);
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
        let (op, new) = self
            .transact(move |index, change| {
                let key = caller.key()?;
                if let Some(op) = index.request(&key) {
                    return Ok((op.render(), None));
                }
                if let Some(other) = index
                    .operations()
                    .find(|op| op.state == OpState::Running && same_template(&op.action, &action))
                {
                    return Err(busy("the template", other));
                }
                let op = new_operation(None, action, &caller.principal, key);
                change.operations.push(op.clone());
                Ok((op.render(), Some(op.id)))
            })
            .await?;
        self.carry_out(new);
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

    /// Hands a new operation to a driver of its own.
    pub(crate) fn carry_out(&self, id: Option<OpId>) {
        let Some(id) = id else { return };
        let (kind, ct) = {
            let index = self.state().read();
            let Ok(op) = index.operation(&id) else { return };
            (op.action.kind(), op.ct)
        };
        let span = tracing::info_span!(
            "operation",
            otel.name = format!("operation {kind}"),
            operation = %id,
            kind,
            ct = ct.map(CtId::get),
        );
        let own = self.clone();
        // It outlives the request on purpose; its end is stored.
        tokio::spawn(async move { own.drive(id).await }.instrument(span));
    }

    /// What an action would do, from what the services show now.
    async fn dry_run(
        &self,
        caller: &Caller,
        mut record: Record,
        action: Action,
    ) -> Result<pb::Operation, Fault> {
        let mut seen = self.services().observe(record.id).await?;
        let mut op = new_operation(Some(record.id), action, &caller.principal, String::new());
        for n in 0..stage::count(&op.action) {
            stage::enter(&op.action, n, &mut record);
            let desired = Desired::of(&record, op.action.grace_ms());
            let steps = plan(&desired, &seen).map_err(|e| crate::driver::refused(&e))?;
            for step in steps {
                op.steps.push(step.to_string());
                seen = seen.after(&step, record.generation);
            }
            match stage::on_converged(record.clone()) {
                Some(after) => record = after,
                None => break,
            }
        }
        op.state = OpState::Succeeded;
        op.ended_unix_ms = Some(op.started_unix_ms);
        Ok(op.render())
    }

    /// Takes a turn at working on the end of a container's processes; false: somebody has it.
    pub(crate) fn begin_ending(&self, ct: CtId) -> bool {
        self.ending().lock().unwrap_or_else(PoisonError::into_inner).insert(ct)
    }

    /// Gives the turn back.
    pub(crate) fn end_ending(&self, ct: CtId) {
        self.ending().lock().unwrap_or_else(PoisonError::into_inner).remove(&ct);
    }
}

/// A word of /proc/sys/kernel, such as its release.
pub fn fact_of_kernel(name: &str) -> String {
    let path = format!("/proc/sys/kernel/{name}");
    std::fs::read_to_string(path).map(|s| s.trim().to_owned()).unwrap_or_default()
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
    let holder = format!("{} by {}", op.action.kind(), op.principal);
    let message = format!("{what} is busy with {holder} since {since}; wait for it and try again");
    Fault::new(Reason::Busy, message)
        .fact("holder", holder)
        .fact("since", since)
        .fact("operation", &op.id)
}

/// A time as people and programs read it.
fn rfc3339(unix_ms: i64) -> String {
    match jiff::Timestamp::from_second(unix_ms.div_euclid(1000)) {
        Ok(time) => time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        Err(_) => unix_ms.to_string(),
    }
}

fn same_template(one: &Action, other: &Action) -> bool {
    match (one, other) {
        (Action::TemplateBuild { name: a, .. }, Action::TemplateBuild { name: b, .. }) => a == b,
        _ => false,
    }
}

/// A new operation, not stored yet.
pub(crate) fn new_operation(
    ct: Option<CtId>,
    action: Action,
    principal: &str,
    request_id: String,
) -> OpRecord {
    OpRecord {
        id: new_id(),
        action,
        ct,
        state: OpState::Running,
        stage: 0,
        undoing: None,
        cancel: false,
        steps: vec![],
        fault: None,
        started_unix_ms: now_ms(),
        ended_unix_ms: None,
        principal: principal.to_owned(),
        request_id,
        progress: Progress::default(),
    }
}

/// Stores a new operation and the record as its first stage wants it, together.
pub(crate) fn enter_first(
    mut record: Record,
    action: Action,
    principal: &str,
    request_id: String,
    change: &mut Change,
) -> OpRecord {
    let mut op = new_operation(Some(record.id), action, principal, request_id);
    stage::enter(&op.action, 0, &mut record);
    op.stage = 1;
    change.containers.push(record);
    change.operations.push(op.clone());
    op
}

fn new_record(
    index: &Index,
    id: u32,
    except: &BTreeSet<CtId>,
    given: Option<pb::ContainerSpec>,
    now_ms: i64,
) -> Result<Record, Fault> {
    let id = match id {
        0 => index.free_id(except)?,
        n => CtId::try_from(n).map_err(|e| Fault::bad_value("id", &e))?,
    };
    let spec = spec::parse(id, given)?;
    index.vacant(id)?;
    let generation = index.first_generation(now_ms);
    Ok(Record {
        id,
        slot: index.free_slot()?,
        spec,
        running: None,
        presence: Presence::Creating,
        run: RunState::Stopped,
        generation,
        birth: generation,
        unborn: true,
        epoch: Epoch(1),
        since: Since::all(generation),
        created_unix: now_ms.div_euclid(1000),
        seen_incarnation: 0,
        maybe_dirty: false,
        problem: None,
        reserved: Reserved::default(),
        snapshot: None,
    })
}

/// Refuses what another container has; for a dry run, which does not get as far as the store.
fn free(index: &Index, record: &Record) -> Result<(), Fault> {
    let addresses: BTreeSet<_> = record.spec.addresses.iter().collect();
    for other in index.containers().filter(|r| r.id != record.id) {
        if record.spec.name.is_some() && record.spec.name == other.spec.name {
            let message = format!("the name belongs to container {}", other.id);
            return Err(Fault::new(Reason::NameTaken, message).fact("holder", other.id));
        }
        if let Some(a) = other.owned_addresses().iter().find(|a| addresses.contains(a)) {
            let message = format!("the address {a} belongs to container {}", other.id);
            return Err(Fault::new(Reason::AddressTaken, message)
                .fact("address", a)
                .fact("holder", other.id));
        }
    }
    Ok(())
}
