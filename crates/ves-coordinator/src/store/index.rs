//! The index of what is stored: how it is read, and what a change makes of it. Pure.
//!
//! Never here: when a change is stored ([`super::state`]), or what it should be.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use prost::Message as _;
use ves_proto::{Fault, Reason};
use ves_types::{CtAddress, CtId, CtName, Generation, IdSlot};

use super::changes::Changes;
use super::log::Log;
use super::{Compare, Key, Kind, Transaction, record};
use crate::container::record::Record;
use crate::event::record::NewEvent;
use crate::operation::record::{Caller, OpId, OpRecord, OpState};
use crate::usage::accrued::Accrued;

/// The fact that says which generations were used by containers that are gone.
pub(super) const FLOOR: &str = "generation_floor";

/// The fact that says which id slot was given out last.
pub(super) const LAST_SLOT: &str = "last_slot";

/// What belongs to one container at a time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Claim {
    Name(CtName),
    Address(CtAddress),
    Slot(IdSlot),
}

impl Claim {
    fn key(&self) -> Key {
        match self {
            Self::Name(name) => Key::name(name),
            Self::Address(address) => Key::address(*address),
            Self::Slot(slot) => Key::slot(*slot),
        }
    }

    /// The claim of a stored row, where it is one.
    fn of(key: &Key) -> Option<Self> {
        match key.kind {
            Kind::Name => key.text.parse().map(Self::Name).ok(),
            Kind::Address => key.text.parse().map(Self::Address).ok(),
            Kind::Slot => {
                let slot = key.text.parse::<u32>().ok()?;
                IdSlot::try_from(slot).map(Self::Slot).ok()
            }
            Kind::Container
            | Kind::Operation
            | Kind::Request
            | Kind::Fact
            | Kind::Token
            | Kind::Usage
            | Kind::Event => None,
        }
    }

    fn taken_by(&self, holder: CtId) -> Fault {
        match self {
            Self::Name(name) => {
                let message = format!("the name {name} belongs to container {holder}");
                Fault::new(Reason::NameTaken, message).fact("name", name).fact("holder", holder)
            }
            Self::Address(address) => {
                let message = format!(
                    "the address {address} belongs to container {holder}; take it away from that \
                     one first"
                );
                Fault::new(Reason::AddressTaken, message)
                    .fact("address", address)
                    .fact("holder", holder)
            }
            Self::Slot(slot) => {
                let message = format!("the id slot {} belongs to container {holder}", slot.get());
                Fault::new(Reason::Bug, message).fact("holder", holder)
            }
        }
    }
}

/// What is stored, as it is now.
#[derive(Debug, Clone, Default)]
pub struct Index {
    containers: BTreeMap<CtId, Arc<Record>>,
    corrupt: BTreeMap<CtId, Fault>,
    /// Also of containers whose records cannot be read.
    claims: HashMap<Claim, CtId>,
    pub(super) last_slot: u32,
    pub(super) floor: Generation,
    pub(super) operations: BTreeMap<OpId, Arc<OpRecord>>,
    corrupt_operations: BTreeMap<OpId, Fault>,
    requests: HashMap<String, OpId>,
    at_work: HashMap<CtId, OpId>,
    facts: HashMap<String, String>,
    /// Changes of containers.
    pub(super) changes: Changes<CtId>,
    /// Changes of operations.
    pub(super) operation_changes: Changes<OpId>,
    /// Which events are kept.
    pub(super) log: Log,
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
        if text.bytes().all(|b| b.is_ascii_digit()) {
            return self.container(text.parse().map_err(|e| Fault::bad_value("name", &e))?);
        }
        let name: CtName = text.parse().map_err(|e| Fault::bad_value("name", &e))?;
        let ct = self.claims.get(&Claim::Name(name.clone())).ok_or_else(|| unknown(&name))?;
        self.container(*ct)
    }

    /// The ids of all containers, also of those whose records cannot be read.
    pub fn known(&self) -> BTreeSet<CtId> {
        self.containers.keys().chain(self.corrupt.keys()).copied().collect()
    }

    /// All containers, by id.
    pub fn containers(&self) -> impl Iterator<Item = &Arc<Record>> {
        self.containers.values()
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

    pub(super) fn greatest_slot(&self) -> Option<u32> {
        let slots = self.claims.keys().filter_map(|claim| match claim {
            Claim::Slot(slot) => Some(slot.get()),
            Claim::Name(_) | Claim::Address(_) => None,
        });
        slots.max()
    }

    /// How many slots are somebody's.
    pub fn slots_in_use(&self) -> usize {
        self.claims.keys().filter(|claim| matches!(claim, Claim::Slot(_))).count()
    }

    /// A slot that is nobody's; one that was given back comes last.
    ///
    /// # Errors
    /// `IDS_EXHAUSTED`.
    pub fn free_slot(&self) -> Result<IdSlot, Fault> {
        let from = self.last_slot.saturating_add(1).max(IdSlot::FIRST);
        (from..=IdSlot::LAST)
            .chain(IdSlot::FIRST..from.min(IdSlot::LAST))
            .filter_map(|n| IdSlot::try_from(n).ok())
            .find(|slot| !self.claims.contains_key(&Claim::Slot(*slot)))
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

    /// Refuses a record that claims what is another container's.
    ///
    /// # Errors
    /// `NAME_TAKEN`, `ADDRESS_TAKEN`.
    pub fn claimable(&self, record: &Record) -> Result<(), Fault> {
        for claim in claims_of(record) {
            match self.claims.get(&claim) {
                Some(holder) if *holder != record.id => return Err(claim.taken_by(*holder)),
                _ => {}
            }
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

    /// The operation that the caller's request became earlier.
    ///
    /// # Errors
    /// `REQUEST_ID_REUSED` where it was another request that had this id.
    pub fn repeated(&self, caller: &Caller) -> Result<Option<&Arc<OpRecord>>, Fault> {
        let Some(request) = &caller.request else { return Ok(None) };
        let Some(op) = self.requests.get(&request.id).and_then(|op| self.operations.get(op)) else {
            return Ok(None);
        };
        if op.request.as_ref().is_some_and(|before| before.is_repeated_by(request)) {
            return Ok(Some(op));
        }
        let kind = op.action.kind().name();
        let message = format!(
            "this request id was used for another request, which became the operation {} ({kind}); \
             choose a new id for each request",
            op.id
        );
        Err(Fault::new(Reason::RequestIdReused, message)
            .fact("field", "request_id")
            .fact("operation", &op.id))
    }

    /// The operation that works on a container.
    pub fn at_work(&self, ct: CtId) -> Option<&OpId> {
        self.at_work.get(&ct)
    }

    /// A single fact.
    pub fn fact(&self, name: &str) -> Option<&str> {
        self.facts.get(name).map(String::as_str)
    }

    /// The last changes of containers.
    pub const fn changes(&self) -> &Changes<CtId> {
        &self.changes
    }

    /// The last changes of operations.
    pub const fn operation_changes(&self) -> &Changes<OpId> {
        &self.operation_changes
    }

    /// Which events are kept.
    pub const fn log(&self) -> Log {
        self.log
    }

    /// What a change makes of it, but for the events.
    pub(super) fn apply(&mut self, change: &Decided) {
        let Decided { containers, gone, operations, expired, facts, log } = change;
        self.log = log.unwrap_or(self.log);
        for (name, value) in facts {
            self.facts.insert((*name).to_owned(), value.clone());
        }
        for record in containers {
            self.put_container(Arc::clone(record));
        }
        for ct in gone {
            self.remove_container(*ct);
        }
        for op in operations {
            self.put_operation(Arc::clone(op));
        }
        for id in expired {
            if let Some(request) = self.operations.remove(id).and_then(|op| op.request.clone()) {
                self.requests.remove(&request.id);
            }
        }
    }

    fn put_operation(&mut self, op: Arc<OpRecord>) {
        if let Some(ct) = op.ct {
            if op.state == OpState::Running {
                self.at_work.insert(ct, op.id.clone());
            } else if self.at_work.get(&ct) == Some(&op.id) {
                self.at_work.remove(&ct);
            }
        }
        if let Some(request) = &op.request {
            self.requests.insert(request.id.clone(), op.id.clone());
        }
        self.operations.insert(op.id.clone(), op);
    }

    fn put_container(&mut self, new: Arc<Record>) {
        let ct = new.id;
        match self.containers.get(&ct).map(Arc::clone) {
            Some(old) => self.give_up(&old),
            None => self.last_slot = new.slot.get(),
        }
        self.claims.extend(claims_of(&new).into_iter().map(|claim| (claim, ct)));
        self.containers.insert(ct, new);
    }

    fn give_up(&mut self, old: &Record) {
        for claim in claims_of(old) {
            self.claims.remove(&claim);
        }
    }

    fn remove_container(&mut self, ct: CtId) {
        let Some(old) = self.containers.remove(&ct) else { return };
        self.give_up(&old);
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
    /// Events, oldest first, besides those that the ends of operations make by themselves.
    pub events: Vec<NewEvent>,
    /// Events before this one are forgotten; 0: none.
    pub first_event: u64,
    /// Rows that the index does not keep.
    pub rows: Transaction,
    /// What containers have used; of one that goes, its last words.
    pub usage: Vec<(CtId, Accrued)>,
}

/// A change that was decided on.
#[derive(Debug, Default)]
pub(super) struct Decided {
    pub(super) containers: Vec<Arc<Record>>,
    pub(super) gone: Vec<CtId>,
    pub(super) operations: Vec<Arc<OpRecord>>,
    pub(super) expired: Vec<OpId>,
    pub(super) facts: Vec<(&'static str, String)>,
    /// Where that changes.
    pub(super) log: Option<Log>,
}

impl Decided {
    pub(super) fn new(change: Change, log: Log) -> Self {
        let Change {
            containers,
            gone,
            operations,
            expired,
            facts,
            events,
            first_event,
            rows: _,
            usage: _,
        } = change;
        let log = (!events.is_empty() || first_event > 0).then_some(log);
        let containers = containers.into_iter().map(Arc::new).collect();
        let operations = operations.into_iter().map(Arc::new).collect();
        Self { containers, gone, operations, expired, facts, log }
    }
}

pub(super) fn load_row(index: &mut Index, key: &Key, bytes: &[u8]) {
    match key.kind {
        Kind::Container => match (key.text.parse::<CtId>(), record::read::<Record>(key, bytes)) {
            (Ok(_), Ok(record)) => index.put_container(Arc::new(record)),
            (Ok(ct), Err(fault)) => {
                tracing::error!(%ct, error = %fault, "a container's record is corrupt");
                index.corrupt.insert(ct, fault);
            }
            (Err(e), _) => tracing::error!(error = %e, "a container's record has no id, ignoring"),
        },
        Kind::Operation => match record::read::<OpRecord>(key, bytes) {
            Ok(op) => index.put_operation(Arc::new(op)),
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
        Kind::Name | Kind::Address | Kind::Slot => {
            let holder = String::from_utf8_lossy(bytes).parse::<CtId>();
            match (Claim::of(key), holder) {
                (Some(claim), Ok(ct)) => {
                    index.claims.insert(claim, ct);
                }
                _ => {
                    let (table, text) = (key.kind.table(), &key.text);
                    tracing::error!(table, text, "a stored claim is corrupt, ignoring");
                }
            }
        }
        Kind::Fact => match record::read(key, bytes) {
            Ok(fact) => {
                index.facts.insert(key.text.clone(), fact);
            }
            Err(fault) => tracing::error!(error = %fault, "a stored fact is corrupt, ignoring"),
        },
        // The registry's, which reads them itself.
        Kind::Token => {}
        // The ledger's, likewise.
        Kind::Usage => {}
        // Read where somebody wants them.
        Kind::Event => {}
    }
}

fn claims_of(record: &Record) -> BTreeSet<Claim> {
    let mut claims: BTreeSet<Claim> =
        record.owned_addresses().into_iter().map(Claim::Address).collect();
    claims.extend(record.spec.name.iter().chain(&record.reserved.names).cloned().map(Claim::Name));
    claims.insert(Claim::Slot(record.slot));
    claims
}

/// What of a change is stored. Rows that others could have changed are compared with what is known.
///
/// # Errors
/// `NAME_TAKEN`, `ADDRESS_TAKEN`.
pub(super) fn transaction_of(
    index: &Index,
    change: &mut Change,
) -> Result<(Transaction, Log), Fault> {
    let mut transaction = std::mem::take(&mut change.rows);
    for new in &change.containers {
        index.claimable(new)?;
        let old = index.containers.get(&new.id).map(|r| claims_of(r)).unwrap_or_default();
        let claims = claims_of(new);
        transaction.deletes.extend(old.difference(&claims).map(Claim::key));
        let holder = new.id.to_string().into_bytes();
        for claim in claims.difference(&old) {
            // One of its own is left by a record that could not be read.
            let value = index.claims.get(claim).map(|_| holder.clone());
            transaction.compares.push(Compare { key: claim.key(), value });
            transaction.puts.push((claim.key(), holder.clone()));
        }
        let key = Key::container(new.id);
        let bytes = record::write(&key, new)?;
        transaction.puts.push((key, bytes));
    }
    let made = change.containers.iter().filter(|new| !index.containers.contains_key(&new.id));
    if let Some(slot) = made.map(|new| new.slot.get()).next_back() {
        change.facts.push((LAST_SLOT, slot.to_string()));
    }
    let mut floor = index.floor;
    for ct in &change.gone {
        if let Some(old) = index.containers.get(ct) {
            transaction.deletes.extend(claims_of(old).iter().map(Claim::key));
            floor = floor.max(old.generation);
        }
        transaction.deletes.push(Key::container(*ct));
        transaction.deletes.push(Key::usage(*ct));
    }
    if floor > index.floor {
        change.facts.push((FLOOR, floor.to_string()));
    }
    for (ct, accrued) in change.usage.iter().filter(|(ct, _)| !change.gone.contains(ct)) {
        let key = Key::usage(*ct);
        let bytes = record::write(&key, accrued)?;
        transaction.puts.push((key, bytes));
    }
    for op in &change.operations {
        let key = Key::operation(&op.id);
        let bytes = record::write(&key, op)?;
        transaction.puts.push((key, bytes));
        if let Some(request) = &op.request
            && !index.requests.contains_key(&request.id)
        {
            let key = Key::request(&request.id);
            let bytes = record::write(&key, &op.id)?;
            transaction.puts.push((key, bytes));
        }
    }
    for id in &change.expired {
        transaction.deletes.push(Key::operation(id));
        if let Some(request) = index.operations.get(id).and_then(|op| op.request.as_ref()) {
            transaction.deletes.push(Key::request(&request.id));
        }
    }
    for (name, value) in &change.facts {
        let key = Key::fact(name);
        let bytes = record::write(&key, value)?;
        transaction.puts.push((key, bytes));
    }
    let mut log = index.log;
    for event in &change.events {
        transaction.puts.push((Key::event(log.next()), event.event().encode_to_vec()));
    }
    let forgotten = log.forget_before(change.first_event);
    transaction.deletes.extend(forgotten.map(Key::event));
    Ok((transaction, log))
}
