//! The store in memory: for tests, where it outlives the coordinator that it is handed to.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::lease::Leases;
use super::watch::{Changed, Log, Watch};
use super::{Is, Key, LeaseId, Page, Range, Revision, Store, StoreError, Stored, Transaction};
use crate::clock::{Clock, SystemClock};

/// A store that lives as long as its last clone.
#[derive(Debug, Clone)]
pub struct MemoryStore {
    clock: Arc<dyn Clock>,
    held: Arc<Mutex<Held>>,
    log: Arc<Log>,
}

#[derive(Debug, Default)]
struct Held {
    rows: BTreeMap<String, (Stored, Option<LeaseId>)>,
    revision: Revision,
    leases: Leases,
    last_lease: u64,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::with(Arc::new(SystemClock))
    }
}

impl MemoryStore {
    /// One in which leases end by this clock.
    pub fn with(clock: Arc<dyn Clock>) -> Self {
        Self { clock, held: Arc::default(), log: Log::from(Revision::default()) }
    }

    /// Writes a row as a broken disk would.
    pub fn spoil(&self, key: Key, bytes: &[u8]) {
        let mut held = self.lock();
        let revision = held.revision;
        let path = key.path();
        held.rows.insert(path, (Stored { key, value: bytes.to_vec(), revision }, None));
    }

    /// Loses every row, as a node that was set up anew.
    pub fn lose(&self) {
        let mut held = self.lock();
        held.rows.clear();
        self.log.forget(held.revision);
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is held, without what belongs to leases that are over.
    fn current(&self) -> MutexGuard<'_, Held> {
        let mut held = self.lock();
        for lease in held.leases.over(self.clock.now_ms()) {
            held.leases.end(lease);
            let of_it = held.rows.values().filter(|(_, of)| *of == Some(lease));
            let deletes = of_it.map(|(row, _)| row.key.clone()).collect();
            self.apply(&mut held, &Transaction { deletes, ..Transaction::default() });
        }
        held
    }

    fn apply(&self, held: &mut Held, transaction: &Transaction) -> Revision {
        let Transaction { compares: _, deletes, puts, lease } = transaction;
        let revision = held.revision.next();
        held.revision = revision;
        let mut changes = Vec::new();
        for key in deletes {
            if held.rows.remove(&key.path()).is_some() {
                changes.push(Changed { key: key.clone(), value: None, revision });
            }
        }
        for (key, value) in puts {
            let stored = Stored { key: key.clone(), value: value.clone(), revision };
            held.rows.insert(key.path(), (stored, *lease));
            changes.push(Changed { key: key.clone(), value: Some(value.clone()), revision });
        }
        self.log.push(revision, changes);
        revision
    }
}

impl Store for MemoryStore {
    fn get(&self, key: &Key) -> Result<Option<Stored>, StoreError> {
        Ok(self.current().rows.get(&key.path()).map(|(row, _)| row.clone()))
    }

    fn range(&self, range: &Range) -> Result<Page, StoreError> {
        let held = self.current();
        let rows = range.pick(held.rows.range(range.bounds()).map(|(_, (row, _))| row));
        Ok(Page { rows: rows.into_iter().cloned().collect(), revision: held.revision })
    }

    fn transact(&self, transaction: &Transaction) -> Result<Revision, StoreError> {
        let mut held = self.current();
        if let Some(lease) = transaction.lease.filter(|lease| !held.leases.is_there(*lease)) {
            return Err(StoreError::LeaseEnded(lease));
        }
        let holds = |(key, is): &(Key, Is)| {
            let found = held.rows.get(&key.path()).map(|(row, _)| row);
            if is.holds(found.map(|row| (row.revision, row.value.as_slice()))) {
                return Ok(());
            }
            let found = found.map(|row| row.value.clone());
            Err(StoreError::Differs { key: key.clone(), found })
        };
        transaction.compares.iter().try_for_each(holds)?;
        Ok(self.apply(&mut held, transaction))
    }

    fn watch(&self, range: &Range, after: Revision) -> Watch {
        Watch::new(&self.log, range, after)
    }

    fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        let mut held = self.current();
        held.last_lease = held.last_lease.saturating_add(1);
        let lease = LeaseId(held.last_lease);
        held.leases.begin(lease, ttl, self.clock.now_ms());
        Ok(lease)
    }

    fn renew(&self, lease: LeaseId) -> Result<(), StoreError> {
        match self.current().leases.renew(lease, self.clock.now_ms()) {
            true => Ok(()),
            false => Err(StoreError::LeaseEnded(lease)),
        }
    }

    fn expire(&self) -> Result<(), StoreError> {
        drop(self.current());
        Ok(())
    }
}
