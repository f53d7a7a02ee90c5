//! The store in memory: for tests, where it outlives the coordinator that it is handed to.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Key, Kind, Row, Store, StoreError, Transaction};

/// A store that lives as long as its last clone.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore {
    rows: Arc<Mutex<BTreeMap<Key, Vec<u8>>>>,
    full: Arc<AtomicBool>,
}

impl MemoryStore {
    /// Writes a row as a broken disk would.
    pub fn spoil(&self, key: Key, bytes: &[u8]) {
        self.rows().insert(key, bytes.to_vec());
    }

    /// Loses every row, as a node that was set up anew.
    pub fn lose(&self) {
        self.rows().clear();
    }

    /// Has no more room than what is kept for ends, as on a full disk, or has again.
    pub fn fill(&self, full: bool) {
        self.full.store(full, Ordering::Relaxed);
    }

    fn rows(&self) -> MutexGuard<'_, BTreeMap<Key, Vec<u8>>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for MemoryStore {
    fn range(&self, kind: Kind, after: Option<&str>, most: usize) -> Result<Vec<Row>, StoreError> {
        let key = |text: &str| Key { kind, text: text.to_owned() };
        let rows = self.rows();
        let later = match after {
            None => rows.range(key("")..),
            Some(after) => rows.range((Excluded(key(after)), Unbounded)),
        };
        let of_kind = later.take_while(|(key, _)| key.kind == kind).take(most);
        Ok(of_kind.map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    fn range_back(
        &self,
        kind: Kind,
        before: Option<&str>,
        most: usize,
    ) -> Result<Vec<Row>, StoreError> {
        let rows = self.rows();
        let of_kind = rows.iter().filter(|(key, _)| key.kind == kind);
        let earlier = of_kind.filter(|(key, _)| before.is_none_or(|before| *key.text < *before));
        let mut earlier: Vec<Row> =
            earlier.map(|(key, value)| (key.clone(), value.clone())).collect();
        earlier.reverse();
        earlier.truncate(most);
        Ok(earlier)
    }

    fn transact(&self, group: &[Transaction]) -> Result<(), StoreError> {
        let mut rows = self.rows();
        let mut new = rows.clone();
        for Transaction { compares, deletes, puts } in group {
            if let Some(other) = compares.iter().find(|c| new.get(&c.key) != c.value.as_ref()) {
                return Err(StoreError::Conflict(other.key.clone()));
            }
            for key in deletes {
                new.remove(key);
            }
            new.extend(puts.iter().cloned());
        }
        *rows = new;
        Ok(())
    }

    fn has_room(&self) -> bool {
        !self.full.load(Ordering::Relaxed)
    }
}
