//! The store in memory: for tests, where it outlives the coordinator that it is handed to.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::{Batch, Key, Row, Store, StoreError};

/// A store that lives as long as its last clone.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore {
    rows: Arc<Mutex<BTreeMap<Key, Vec<u8>>>>,
}

impl MemoryStore {
    /// Writes a row as a broken disk would.
    pub fn spoil(&self, key: Key, bytes: &[u8]) {
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        rows.insert(key, bytes.to_vec());
    }

    /// Loses every row, as a node that was set up anew.
    pub fn lose(&self) {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Store for MemoryStore {
    fn load(&self) -> Result<Vec<Row>, StoreError> {
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(rows.iter().map(|(k, v)| (k.clone(), v.clone())).collect())
    }

    fn commit(&self, batch: &Batch) -> Result<(), StoreError> {
        let Batch { deletes, claims, puts } = batch;
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        for (key, ct) in claims {
            let holder = rows.get(key).filter(|_| !deletes.contains(key));
            if let Some(holder) = holder.filter(|h| **h != ct.to_string().into_bytes()) {
                let holder = String::from_utf8_lossy(holder).into_owned();
                return Err(StoreError::Taken { key: key.clone(), holder });
            }
        }
        for key in deletes {
            rows.remove(key);
        }
        for (key, ct) in claims {
            rows.insert(key.clone(), ct.to_string().into_bytes());
        }
        for (key, value) in puts {
            rows.insert(key.clone(), value.clone());
        }
        Ok(())
    }
}
