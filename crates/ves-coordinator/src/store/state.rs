//! The state: what is stored, held in memory as an index, changed by one writer at a time.
//!
//! Reading never waits for the disk: a change is decided under the writer's lock, committed to the
//! [`Store`], and only then shown. Every change of a container is an event with a revision. Never
//! here: calls to services, or what a change should be.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

use tokio::sync::watch;
use ves_proto::fault::chain;
use ves_proto::{Fault, Reason};
use ves_types::{CtId, CtName, Generation, IdSlot};

use super::migrate::migrate;
use super::{Batch, Key, Kind, Store, StoreError, record};
use crate::container::record::Record;
use crate::operation::record::{OpId, OpRecord, OpState};

/// How many events a watcher may be behind before it is told everything anew.
const EVENTS: usize = 8192;

/// The fact that counts the coordinator's starts: the upper half of every revision.
const STARTS: &str = "starts";
/// The fact that says which generations were used by containers that are gone.
const FLOOR: &str = "generation_floor";

/// The fact that says which id slot was given out last.
const LAST_SLOT: &str = "last_slot";

/// What is stored, as it is now.
#[derive(Debug, Default)]
pub struct Index {
    containers: BTreeMap<CtId, Arc<Record>>,
    up: BTreeSet<CtId>,
    corrupt: BTreeMap<CtId, Fault>,
    names: HashMap<CtName, CtId>,
    slots: BTreeSet<u32>,
    last_slot: u32,
    floor: Generation,
    operations: BTreeMap<OpId, Arc<OpRecord>>,
    corrupt_operations: BTreeMap<OpId, Fault>,
    requests: HashMap<String, OpId>,
    at_work: HashMap<CtId, OpId>,
    facts: HashMap<String, String>,
    events: VecDeque<(u64, CtId)>,
    revision: u64,
}

impl Index {
    /// One container.
    ///
    /// # Errors
    /// `CONTAINER_UNKNOWN`, or `RECORD_CORRUPT`.
    pub fn container(&self, ct: CtId) -> Result<&Arc<Record>, Fault> {
        if let Some(fault) = self.corrupt.get(&ct) {
            return Err(fault.clone());
        }
        self.containers.get(&ct).ok_or_else(|| unknown(&ct))
    }

    /// One container by its id in digits or its name.
    ///
    /// # Errors
    /// As [`Self::container`], or `BAD_VALUE`.
    pub fn resolve(&self, text: &str) -> Result<&Arc<Record>, Fault> {
        if text.is_empty() {
            return Err(Fault::missing("ct"));
        }
        if text.bytes().all(|b| b.is_ascii_digit()) {
            return self.container(text.parse().map_err(|e| Fault::bad_value("ct", &e))?);
        }
        let name: CtName = text.parse().map_err(|e| Fault::bad_value("ct", &e))?;
        let ct = self.names.get(&name).ok_or_else(|| unknown(&name))?;
        self.container(*ct)
    }

    /// All containers, by id.
    pub fn containers(&self) -> impl Iterator<Item = &Arc<Record>> {
        self.containers.values()
    }

    /// At most `count` containers after `after`, by id; `up_only`: those that should run.
    pub fn page(&self, after: Option<CtId>, count: usize, up_only: bool) -> Vec<Arc<Record>> {
        use std::ops::Bound::{Excluded, Unbounded};
        let range = (after.map_or(Unbounded, Excluded), Unbounded);
        if up_only {
            let up = self.up.range(range).filter_map(|ct| self.containers.get(ct));
            up.take(count).cloned().collect()
        } else {
            self.containers.range(range).take(count).map(|(_, r)| Arc::clone(r)).collect()
        }
    }

    /// The lowest id from 101 on that no container has and is not in `except`.
    ///
    /// # Errors
    /// `IDS_EXHAUSTED`.
    pub fn free_id(&self, except: &BTreeSet<CtId>) -> Result<CtId, Fault> {
        let taken = |ct| {
            self.containers.contains_key(&ct)
                || self.corrupt.contains_key(&ct)
                || except.contains(&ct)
        };
        (101..=CtId::MAX)
            .filter_map(|n| CtId::try_from(n).ok())
            .find(|ct| !taken(*ct))
            .ok_or_else(|| exhausted("container ids"))
    }

    /// A slot that is nobody's; one that was given back comes last.
    ///
    /// # Errors
    /// `IDS_EXHAUSTED`.
    pub fn free_slot(&self) -> Result<IdSlot, Fault> {
        let from = self.last_slot.saturating_add(1).max(IdSlot::FIRST);
        (from..=IdSlot::LAST)
            .chain(IdSlot::FIRST..from.min(IdSlot::LAST))
            .filter(|n| !self.slots.contains(n))
            .find_map(|n| IdSlot::try_from(n).ok())
            .ok_or_else(|| exhausted("ranges of user ids"))
    }

    /// The generation a new container begins with at `now_ms`: after those of all that are gone, since
    /// services may remember them; the clock where the store does not.
    pub fn first_generation(&self, now_ms: i64) -> Generation {
        self.floor.next().max(Generation(u64::try_from(now_ms).unwrap_or(0)))
    }

    /// Refuses an id that is in use.
    ///
    /// # Errors
    /// `CONTAINER_EXISTS`, or `RECORD_CORRUPT`.
    pub fn vacant(&self, ct: CtId) -> Result<(), Fault> {
        if let Some(fault) = self.corrupt.get(&ct) {
            return Err(fault.clone());
        }
        if self.containers.contains_key(&ct) {
            let message = format!("container {ct} exists already; choose another id");
            return Err(Fault::new(Reason::ContainerExists, message).fact("ct", ct));
        }
        Ok(())
    }

    /// One operation.
    ///
    /// # Errors
    /// `OPERATION_UNKNOWN`, or `RECORD_CORRUPT`.
    pub fn operation(&self, id: &OpId) -> Result<&Arc<OpRecord>, Fault> {
        if let Some(fault) = self.corrupt_operations.get(id) {
            return Err(fault.clone());
        }
        self.operations.get(id).ok_or_else(|| {
            let message = format!(
                "there is no operation {id}; operations are kept until a day after their end"
            );
            Fault::new(Reason::OperationUnknown, message).fact("operation", id)
        })
    }

    /// All operations, oldest first.
    pub fn operations(&self) -> impl DoubleEndedIterator<Item = &Arc<OpRecord>> {
        self.operations.values()
    }

    /// At most `count` operations older than `before`, newest first.
    pub fn operations_page(&self, before: Option<&OpId>, count: usize) -> Vec<Arc<OpRecord>> {
        use std::ops::Bound::{Excluded, Unbounded};
        let range = (Unbounded, before.map_or(Unbounded, Excluded));
        let page = self.operations.range::<OpId, _>(range).rev().take(count);
        page.map(|(_, op)| Arc::clone(op)).collect()
    }

    /// The operation an earlier request with this id became.
    pub fn request(&self, id: &str) -> Option<&Arc<OpRecord>> {
        self.requests.get(id).and_then(|op| self.operations.get(op))
    }

    /// The operation that works on a container.
    pub fn at_work(&self, ct: CtId) -> Option<&OpId> {
        self.at_work.get(&ct)
    }

    /// A single fact.
    pub fn fact(&self, name: &str) -> Option<&str> {
        self.facts.get(name).map(String::as_str)
    }

    /// The newest event's revision.
    pub const fn revision(&self) -> u64 {
        self.revision
    }

    /// Containers that changed after `revision`, each once, and the revision that leads to; `None`
    /// where that is not known any more.
    pub fn changed_since(&self, revision: u64) -> Option<(Vec<CtId>, u64)> {
        // What is before the oldest event in memory is known only up to that event.
        let known_from = self.events.front().map_or(self.revision, |(r, _)| r.saturating_sub(1));
        if revision < known_from || revision > self.revision {
            return None;
        }
        let later = self.events.partition_point(|(r, _)| *r <= revision);
        let changed: BTreeSet<CtId> = self.events.range(later..).map(|(_, ct)| *ct).collect();
        Some((changed.into_iter().collect(), self.revision))
    }

    fn event(&mut self, ct: CtId) {
        self.revision = self.revision.saturating_add(1);
        self.events.push_back((self.revision, ct));
        if self.events.len() > EVENTS {
            self.events.pop_front();
        }
    }

    fn put_operation(&mut self, op: OpRecord) {
        if let Some(ct) = op.ct {
            if op.state == OpState::Running {
                self.at_work.insert(ct, op.id.clone());
            } else if self.at_work.get(&ct) == Some(&op.id) {
                self.at_work.remove(&ct);
            }
        }
        if !op.request_id.is_empty() {
            self.requests.insert(op.request_id.clone(), op.id.clone());
        }
        self.operations.insert(op.id.clone(), Arc::new(op));
    }

    fn put_container(&mut self, new: Record) {
        let ct = new.id;
        if let Some(old) = self.containers.get(&ct) {
            for name in old.spec.name.iter().chain(&old.reserved.names) {
                self.names.remove(name);
            }
        }
        if let Some(name) = &new.spec.name {
            self.names.insert(name.clone(), ct);
        }
        self.slots.insert(new.slot.get());
        if !self.containers.contains_key(&ct) {
            self.last_slot = new.slot.get();
        }
        if new.run == crate::container::record::RunState::Running {
            self.up.insert(ct);
        } else {
            self.up.remove(&ct);
        }
        self.containers.insert(ct, Arc::new(new));
    }

    fn remove_container(&mut self, ct: CtId) {
        let Some(old) = self.containers.remove(&ct) else { return };
        for name in old.spec.name.iter().chain(&old.reserved.names) {
            self.names.remove(name);
        }
        self.slots.remove(&old.slot.get());
        self.up.remove(&ct);
        self.floor = self.floor.max(old.generation);
    }
}

fn unknown(ct: &dyn std::fmt::Display) -> Fault {
    Fault::new(Reason::ContainerUnknown, format!("there is no container {ct}")).fact("ct", ct)
}

fn exhausted(what: &str) -> Fault {
    let message = format!("no {what} are left on this node; destroy containers, or use another");
    Fault::new(Reason::IdsExhausted, message).fact("what", what)
}

/// Changes that become true together.
#[derive(Debug, Default)]
pub struct Change {
    /// Containers as they become.
    pub containers: Vec<Record>,
    /// Containers that go.
    pub gone: Vec<CtId>,
    /// Operations as they become.
    pub operations: Vec<OpRecord>,
    /// Operations that are forgotten.
    pub expired: Vec<OpId>,
    /// Single facts.
    pub facts: Vec<(&'static str, String)>,
}

/// What is stored.
#[derive(Debug)]
pub struct State {
    store: Box<dyn Store>,
    writer: Mutex<()>,
    index: RwLock<Index>,
    revision: watch::Sender<u64>,
    operations: watch::Sender<u64>,
}

impl State {
    /// Reads everything. Blocks.
    pub fn open(store: Box<dyn Store>) -> Result<Self, Fault> {
        let mut index = Index::default();
        let (rows, news) = migrate(store.load().map_err(|e| fault_of(&e))?);
        if news != Batch::default() {
            tracing::info!(
                rows = news.puts.len(),
                "rows of an earlier release are brought up to date"
            );
            store.commit(&news).map_err(|e| fault_of(&e))?;
        }
        for (key, bytes) in rows {
            load_row(&mut index, &key, &bytes);
        }
        let starts = index.fact(STARTS).and_then(|s| s.parse::<u64>().ok()).unwrap_or(0);
        index.floor = Generation(index.fact(FLOOR).and_then(|s| s.parse().ok()).unwrap_or(0));
        // A store of the first release does not say which came last.
        let last_slot = index.fact(LAST_SLOT).and_then(|s| s.parse().ok());
        index.last_slot = last_slot.or_else(|| index.slots.last().copied()).unwrap_or(0);
        index.revision = starts.saturating_add(1) << 32;
        let revision = index.revision;
        let state = Self {
            store,
            writer: Mutex::new(()),
            index: RwLock::new(index),
            revision: watch::Sender::new(revision),
            operations: watch::Sender::new(0),
        };
        state.transact(|_, change| {
            change.facts.push((STARTS, starts.saturating_add(1).to_string()));
            Ok(())
        })?;
        Ok(state)
    }

    /// What is stored, to be looked at shortly.
    pub fn read(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Told at each event.
    pub fn revisions(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    /// Told at each change of an operation.
    pub fn operation_ticks(&self) -> watch::Receiver<u64> {
        self.operations.subscribe()
    }

    /// Decides on a change and makes it true, alone. Blocks.
    ///
    /// # Errors
    /// What `decide` says, `ADDRESS_TAKEN`, `NAME_TAKEN`, or the store's failure; nothing is
    /// changed then.
    pub fn transact<T>(
        &self,
        decide: impl FnOnce(&Index, &mut Change) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let _alone = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut change = Change::default();
        let (result, batch) = {
            let index = self.read();
            let result = decide(&index, &mut change)?;
            (result, batch_of(&index, &mut change)?)
        };
        if batch != Batch::default() {
            self.store.commit(&batch).map_err(|e| fault_of(&e))?;
        }
        self.show(change);
        Ok(result)
    }

    fn show(&self, change: Change) {
        let Change { containers, gone, operations, expired, facts } = change;
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        let mut touched: BTreeSet<CtId> = operations.iter().filter_map(|op| op.ct).collect();
        for (name, value) in facts {
            index.facts.insert(name.to_owned(), value);
        }
        for record in containers {
            touched.insert(record.id);
            index.put_container(record);
        }
        for ct in gone {
            touched.insert(ct);
            index.remove_container(ct);
        }
        let working = !operations.is_empty() || !expired.is_empty();
        for op in operations {
            index.put_operation(op);
        }
        for id in expired {
            if let Some(op) = index.operations.remove(&id) {
                index.requests.remove(&op.request_id);
            }
        }
        for ct in touched {
            index.event(ct);
        }
        let revision = index.revision;
        drop(index);
        self.revision.send_replace(revision);
        if working {
            self.operations.send_modify(|n| *n = n.wrapping_add(1));
        }
    }

    /// Tells watchers that what is seen of a container changed.
    pub fn touch(&self, ct: CtId) {
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        if index.containers.contains_key(&ct) {
            index.event(ct);
            let revision = index.revision;
            drop(index);
            self.revision.send_replace(revision);
        }
    }

    /// Shows how far a running operation is; kept in memory until its next stored change.
    pub fn progress(&self, id: &OpId, update: impl FnOnce(&mut OpRecord)) {
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(op) = index.operations.get_mut(id) {
            update(Arc::make_mut(op));
            drop(index);
            self.operations.send_modify(|n| *n = n.wrapping_add(1));
        }
    }
}

fn load_row(index: &mut Index, key: &Key, bytes: &[u8]) {
    match key.kind {
        Kind::Container => match (key.text.parse::<CtId>(), record::read::<Record>(key, bytes)) {
            (Ok(_), Ok(record)) => index.put_container(record),
            (Ok(ct), Err(fault)) => {
                tracing::error!(%ct, error = %fault, "a container's record is corrupt");
                index.corrupt.insert(ct, fault);
            }
            (Err(e), _) => tracing::error!(error = %e, "a container's record has no id, ignoring"),
        },
        Kind::Operation => match record::read::<OpRecord>(key, bytes) {
            Ok(op) => index.put_operation(op),
            Err(fault) => {
                tracing::error!(operation = %key.text, error = %fault, "an operation is corrupt");
                index.corrupt_operations.insert(OpId(key.text.clone()), fault);
            }
        },
        Kind::Request => {
            if let Ok(op) = record::read(key, bytes) {
                index.requests.insert(key.text.clone(), op);
            }
        }
        // The claim is what counts: it also stands where the container's record cannot be read.
        Kind::Name => {
            let holder = String::from_utf8_lossy(bytes).parse::<CtId>();
            if let (Ok(name), Ok(ct)) = (key.text.parse(), holder) {
                index.names.insert(name, ct);
            }
        }
        Kind::Slot => {
            if let Ok(slot) = key.text.parse() {
                index.slots.insert(slot);
            }
        }
        Kind::Address => {}
        Kind::Fact => match record::read(key, bytes) {
            Ok(fact) => {
                index.facts.insert(key.text.clone(), fact);
            }
            Err(fault) => tracing::error!(error = %fault, "a stored fact is corrupt, ignoring"),
        },
    }
}

fn claims_of(record: &Record) -> BTreeSet<Key> {
    let mut claims: BTreeSet<Key> =
        record.owned_addresses().into_iter().map(Key::address).collect();
    claims.extend(record.spec.name.iter().chain(&record.reserved.names).map(Key::name));
    claims.insert(Key::slot(record.slot));
    claims
}

fn batch_of(index: &Index, change: &mut Change) -> Result<Batch, Fault> {
    let mut batch = Batch::default();
    for new in &change.containers {
        let old = index.containers.get(&new.id).map(|r| claims_of(r)).unwrap_or_default();
        let claims = claims_of(new);
        batch.deletes.extend(old.difference(&claims).cloned());
        batch.claims.extend(claims.difference(&old).map(|k| (k.clone(), new.id)));
        let key = Key::container(new.id);
        let bytes = record::write(&key, new)?;
        batch.puts.push((key, bytes));
    }
    let made = change.containers.iter().filter(|new| !index.containers.contains_key(&new.id));
    if let Some(slot) = made.map(|new| new.slot.get()).next_back() {
        change.facts.push((LAST_SLOT, slot.to_string()));
    }
    let mut floor = index.floor;
    for ct in &change.gone {
        if let Some(old) = index.containers.get(ct) {
            batch.deletes.extend(claims_of(old));
            floor = floor.max(old.generation);
        }
        batch.deletes.push(Key::container(*ct));
    }
    if floor > index.floor {
        change.facts.push((FLOOR, floor.to_string()));
    }
    for op in &change.operations {
        let key = Key::operation(&op.id);
        let bytes = record::write(&key, op)?;
        batch.puts.push((key, bytes));
        if !op.request_id.is_empty() && !index.requests.contains_key(&op.request_id) {
            let key = Key::request(&op.request_id);
            let bytes = record::write(&key, &op.id)?;
            batch.puts.push((key, bytes));
        }
    }
    for id in &change.expired {
        batch.deletes.push(Key::operation(id));
        if let Some(op) = index.operations.get(id).filter(|op| !op.request_id.is_empty()) {
            batch.deletes.push(Key::request(&op.request_id));
        }
    }
    for (name, value) in &change.facts {
        let key = Key::fact(name);
        let bytes = record::write(&key, value)?;
        batch.puts.push((key, bytes));
    }
    Ok(batch)
}

fn fault_of(error: &StoreError) -> Fault {
    match error {
        StoreError::Taken { key, holder } if key.kind == Kind::Name => {
            let message = format!("the name {} belongs to container {holder}", key.text);
            Fault::new(Reason::NameTaken, message).fact("name", &key.text).fact("holder", holder)
        }
        StoreError::Taken { key, holder } if key.kind == Kind::Address => {
            let message = format!(
                "the address {} belongs to container {holder}; take it away from that one first",
                key.text
            );
            Fault::new(Reason::AddressTaken, message)
                .fact("address", &key.text)
                .fact("holder", holder)
        }
        StoreError::Taken { .. } => Fault::new(Reason::Bug, error.to_string()),
        StoreError::Failed { .. } => {
            let message = format!("{}; look at the node's disk, then try again", chain(error));
            Fault::new(Reason::HostFailed, message)
        }
    }
}
