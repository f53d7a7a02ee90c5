//! The embedded store: one redb file, whose commits are atomic and synced.
//!
//! The default for a node of its own. The file is locked by the daemon that has it open.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use super::{Batch, Key, Kind, Row, Store, StoreError};

/// A store in a file.
#[derive(Debug)]
pub struct EmbeddedStore {
    /// Where it is, but for one in memory.
    path: Option<PathBuf>,
    /// None between a failure of the disk and the opening that succeeds after it.
    database: Mutex<Option<Database>>,
}

const fn table(kind: Kind) -> TableDefinition<'static, &'static str, &'static [u8]> {
    TableDefinition::new(kind.table())
}

fn failed<E: Into<redb::Error>>(what: &'static str) -> impl Fn(E) -> StoreError {
    move |e| StoreError::Failed { what, source: Box::new(e.into()) }
}

impl EmbeddedStore {
    /// Opens the file, or makes it.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let database = prepare(Database::create(path).map_err(failed("open"))?)?;
        Ok(Self { path: Some(path.to_owned()), database: Mutex::new(Some(database)) })
    }

    /// A store of the same code without a file.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn in_memory() -> Result<Self, StoreError> {
        let backend = redb::backends::InMemoryBackend::new();
        let database = Database::builder().create_with_backend(backend).map_err(failed("open"))?;
        Ok(Self { path: None, database: Mutex::new(Some(prepare(database)?)) })
    }

    fn lock(&self) -> MutexGuard<'_, Option<Database>> {
        self.database.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn prepare(database: Database) -> Result<Database, StoreError> {
    let write = database.begin_write().map_err(failed("prepare"))?;
    for kind in Kind::ALL {
        write.open_table(table(kind)).map_err(failed("prepare"))?;
    }
    write.commit().map_err(failed("prepare"))?;
    Ok(database)
}

/// Whether the disk failed an earlier write. redb then does nothing until it is opened again, which
/// finds the last commit that is whole.
fn failed_before(error: &StoreError) -> bool {
    let StoreError::Failed { source, .. } = error else { return false };
    matches!(source.downcast_ref(), Some(redb::Error::PreviousIo))
}

impl Store for EmbeddedStore {
    fn load(&self) -> Result<Vec<Row>, StoreError> {
        let database = self.lock();
        let mut rows = Vec::new();
        let lost = || failed("read")(redb::Error::PreviousIo);
        let database = database.as_ref().ok_or_else(lost)?;
        let read = database.begin_read().map_err(failed("read"))?;
        for kind in Kind::ALL {
            let table = read.open_table(table(kind)).map_err(failed("read"))?;
            for row in table.iter().map_err(failed("read"))? {
                let (key, value) = row.map_err(failed("read"))?;
                rows.push((Key { kind, text: key.value().to_owned() }, value.value().to_vec()));
            }
        }
        Ok(rows)
    }

    fn commit(&self, batch: &Batch) -> Result<(), StoreError> {
        let mut held = self.lock();
        if let Some(database) = &*held {
            match commit(database, batch) {
                Err(error) if failed_before(&error) && self.path.is_some() => {}
                done => return done,
            }
        }
        // The disk was full, or away. It may be well by now; if not, the next one tries again. The old
        // one holds the file's lock.
        *held = None;
        let path = self.path.clone().unwrap_or_default();
        let database = held.insert(prepare(Database::open(path).map_err(failed("open"))?)?);
        commit(database, batch)
    }
}

fn commit(database: &Database, batch: &Batch) -> Result<(), StoreError> {
    let Batch { deletes, claims, puts } = batch;
    // Dropping it without commit takes everything back.
    let write = database.begin_write().map_err(failed("write to"))?;
    for key in deletes {
        let mut table = write.open_table(table(key.kind)).map_err(failed("write to"))?;
        table.remove(key.text.as_str()).map_err(failed("write to"))?;
    }
    for (key, ct) in claims {
        let mut table = write.open_table(table(key.kind)).map_err(failed("write to"))?;
        let mine = ct.to_string();
        let holder = table
            .get(key.text.as_str())
            .map_err(failed("read"))?
            .map(|h| String::from_utf8_lossy(h.value()).into_owned());
        if let Some(holder) = holder.filter(|h| *h != mine) {
            return Err(StoreError::Taken { key: key.clone(), holder });
        }
        table.insert(key.text.as_str(), mine.as_bytes()).map_err(failed("write to"))?;
    }
    for (key, value) in puts {
        let mut table = write.open_table(table(key.kind)).map_err(failed("write to"))?;
        table.insert(key.text.as_str(), value.as_slice()).map_err(failed("write to"))?;
    }
    write.commit().map_err(failed("commit to"))
}

#[cfg(test)]
mod tests {
    use super::super::memory::MemoryStore;
    use super::*;
    use ves_types::CtId;

    fn ct(n: u32) -> CtId {
        CtId::try_from(n).expect("valid")
    }

    fn both() -> Vec<Box<dyn Store>> {
        let embedded = EmbeddedStore::in_memory().expect("made");
        vec![Box::new(MemoryStore::default()), Box::new(embedded)]
    }

    #[test]
    fn a_claim_has_one_holder_and_a_refused_batch_leaves_nothing() {
        for store in both() {
            let key = Key::address("192.0.2.1".parse().expect("valid"));
            let claim = |n: u32| Batch {
                claims: vec![(key.clone(), ct(n))],
                puts: vec![(Key::container(ct(n)), vec![1])],
                ..Batch::default()
            };
            store.commit(&claim(101)).expect("free");
            store.commit(&claim(101)).expect("its own");
            let error = store.commit(&claim(102)).expect_err("taken");
            assert!(
                matches!(&error, StoreError::Taken { holder, .. } if holder == "101"),
                "{error}"
            );
            let rows = store.load().expect("read");
            assert_eq!(rows.len(), 2, "nothing of the refused batch: {rows:?}");
            let hand_over = Batch { deletes: vec![key.clone()], ..claim(102) };
            store.commit(&hand_over).expect("given up and claimed at once");
        }
    }

    #[test]
    fn what_was_committed_is_there_after_reopening() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("state.redb");
        let put = Batch { puts: vec![(Key::fact("a"), vec![7])], ..Batch::default() };
        let store = EmbeddedStore::open(&path).expect("made");
        store.commit(&put).expect("written");
        assert!(EmbeddedStore::open(&path).is_err(), "one daemon at a time");
        drop(store);
        let rows = EmbeddedStore::open(&path).expect("opened").load().expect("read");
        assert_eq!(rows, vec![(Key::fact("a"), vec![7])]);
    }

    #[test]
    fn a_file_that_is_no_store_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("state.redb");
        std::fs::write(&path, b"something else entirely, and long enough to be read").expect("ok");
        assert!(EmbeddedStore::open(&path).is_err());
        let kept = std::fs::read(&path).expect("there");
        assert_eq!(kept, b"something else entirely, and long enough to be read");
    }
}
