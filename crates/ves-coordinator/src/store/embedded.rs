//! The embedded store: one redb file, whose commits are atomic and synced.
//!
//! The default for a node of its own. The file is locked by the daemon that has it open. It doubles where
//! it has to grow, and the blocks that it will grow into are reserved on the disk beforehand: a disk
//! that others have filled is met when the next size cannot be reserved, while there is still as much
//! room in the file as there is data, and not in the middle of an operation.

use std::fs::File;
use std::ops::Bound::{self, Excluded, Unbounded};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Instant;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use opentelemetry::global;
use opentelemetry::metrics::Histogram;
use redb::{Database, ReadableDatabase, ReadableTable as _, TableDefinition};

use super::{Compare, Key, Kind, Row, Store, StoreError, Transaction};

/// A store in a file.
#[derive(Debug)]
pub struct EmbeddedStore {
    /// Where it is, but for one in memory.
    path: Option<PathBuf>,
    /// None between a failure of the disk and the opening that succeeds after it. Who reads does not wait for
    /// a commit; only who opens it again has it alone.
    database: RwLock<Option<Database>>,
    /// The file's size when as much again was reserved beyond its end. A file that was cut shorter since
    /// has lost that.
    reserved_at: AtomicU64,
    /// How long commits take, with their syncs.
    commits: Histogram<f64>,
}

/// How much of the file is kept in memory besides: what is read again and again is in the index.
const CACHE_BYTES: usize = 16 << 20;

fn builder() -> redb::Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

/// What dashboards are told of commits, in this process.
fn commits() -> Histogram<f64> {
    let bounds = vec![0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5];
    let meter = global::meter("ves");
    let histogram = meter.f64_histogram("ves.store.commit.duration");
    let histogram = histogram.with_unit("s").with_boundaries(bounds);
    histogram.with_description("time that a commit of the store takes, with its syncs").build()
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
        if std::fs::metadata(path).map_or(true, |file| file.len() == 0) {
            make(path)?;
        }
        let database = prepare(builder().create(path).map_err(failed("open"))?)?;
        let database = RwLock::new(Some(database));
        let (path, reserved_at) = (Some(path.to_owned()), AtomicU64::new(0));
        let store = Self { path, database, reserved_at, commits: commits() };
        store.reserve();
        Ok(store)
    }

    /// A store of the same code without a file.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn in_memory() -> Result<Self, StoreError> {
        let backend = redb::backends::InMemoryBackend::new();
        let database = builder().create_with_backend(backend).map_err(failed("open"))?;
        let database = RwLock::new(Some(prepare(database)?));
        Ok(Self { path: None, database, reserved_at: AtomicU64::new(0), commits: commits() })
    }

    fn shared(&self) -> RwLockReadGuard<'_, Option<Database>> {
        self.database.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn alone(&self) -> RwLockWriteGuard<'_, Option<Database>> {
        self.database.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The rows that `which` picks of a table.
    fn rows(
        &self,
        kind: Kind,
        range: (Bound<&str>, Bound<&str>),
        which: impl FnOnce(redb::Range<'_, &'static str, &'static [u8]>) -> Result<Vec<Row>, StoreError>,
    ) -> Result<Vec<Row>, StoreError> {
        let database = self.shared();
        let lost = || failed("read")(redb::Error::PreviousIo);
        let database = database.as_ref().ok_or_else(lost)?;
        let read = database.begin_read().map_err(failed("read"))?;
        let table = read.open_table(table(kind)).map_err(failed("read"))?;
        which(table.range::<&str>(range).map_err(failed("read"))?)
    }

    /// Commits, and once more where the disk failed before.
    fn write(&self, group: &[Transaction]) -> Result<(), StoreError> {
        if let Some(database) = &*self.shared() {
            match commit(database, group) {
                Err(error) if failed_before(&error) && self.path.is_some() => {}
                done => {
                    self.reserve();
                    return done;
                }
            }
        }
        // The disk was full, or away. It may be well by now; if not, the next one tries again. The old
        // one holds the file's lock.
        let mut held = self.alone();
        *held = None;
        let path = self.path.clone().unwrap_or_default();
        let database = held.insert(prepare(builder().open(path).map_err(failed("open"))?)?);
        // Opening it may have cut off what was reserved beyond its end.
        self.reserved_at.store(0, Ordering::Relaxed);
        self.reserve();
        commit(database, group)
    }

    /// Reserves what the file will grow into next; false: the disk is too full for it.
    fn reserve(&self) -> bool {
        let Some(path) = &self.path else { return true };
        match reserve(path, self.reserved_at.load(Ordering::Relaxed)) {
            Ok(size) => {
                self.reserved_at.store(size, Ordering::Relaxed);
                true
            }
            Err(errno) => {
                tracing::debug!(%errno, "no room can be reserved for the store");
                false
            }
        }
    }
}

/// Makes an empty store, whole or not at all: a file that was cut off in the making is none, and nothing opens it.
fn make(path: &Path) -> Result<(), StoreError> {
    let io = |e: std::io::Error| failed("make")(redb::StorageError::from(e));
    let new = path.with_extension("redb.new");
    match std::fs::remove_file(&new) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(io(e)),
        Ok(()) | Err(_) => {}
    }
    drop(prepare(builder().create(&new).map_err(failed("make"))?)?);
    std::fs::rename(&new, path).map_err(io)?;
    let dir = path.parent().unwrap_or_else(|| Path::new("/"));
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(io)
}

/// Reserves the blocks of twice the size of the file, unless it still has that one; answers with its size.
fn reserve(path: &Path, reserved_at: u64) -> Result<u64, Errno> {
    let io = |e: std::io::Error| e.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
    let size = std::fs::metadata(path).map_err(io)?.len();
    if size == reserved_at {
        return Ok(size);
    }
    let file = File::options().write(true).open(path).map_err(io)?;
    let length = i64::try_from(size.saturating_mul(2)).map_err(|_| Errno::EFBIG)?;
    match fallocate(&file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, length) {
        // A file system that reserves nothing tells nothing of being full either.
        Ok(()) | Err(Errno::EOPNOTSUPP) => Ok(size),
        Err(errno) => Err(errno),
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

fn row(
    kind: Kind,
    found: Result<(redb::AccessGuard<'_, &str>, redb::AccessGuard<'_, &[u8]>), redb::StorageError>,
) -> Result<Row, StoreError> {
    let (key, value) = found.map_err(failed("read"))?;
    Ok((Key { kind, text: key.value().to_owned() }, value.value().to_vec()))
}

/// Whether the disk failed an earlier write. redb then does nothing until it is opened again, which
/// finds the last commit that is whole.
fn failed_before(error: &StoreError) -> bool {
    let StoreError::Failed { source, .. } = error else { return false };
    matches!(source.downcast_ref(), Some(redb::Error::PreviousIo))
}

impl Store for EmbeddedStore {
    fn range(&self, kind: Kind, after: Option<&str>, most: usize) -> Result<Vec<Row>, StoreError> {
        let later = (after.map_or(Unbounded, Excluded), Unbounded);
        self.rows(kind, later, |rows| rows.take(most).map(|found| row(kind, found)).collect())
    }

    fn range_back(
        &self,
        kind: Kind,
        before: Option<&str>,
        most: usize,
    ) -> Result<Vec<Row>, StoreError> {
        let earlier = (Unbounded, before.map_or(Unbounded, Excluded));
        self.rows(kind, earlier, |rows| {
            rows.rev().take(most).map(|found| row(kind, found)).collect()
        })
    }

    fn transact(&self, group: &[Transaction]) -> Result<(), StoreError> {
        let begun = Instant::now();
        let done = self.write(group);
        self.commits.record(begun.elapsed().as_secs_f64(), &[]);
        done
    }

    fn has_room(&self) -> bool {
        self.reserve()
    }
}

fn commit(database: &Database, group: &[Transaction]) -> Result<(), StoreError> {
    // Dropping it without commit takes everything back.
    let write = database.begin_write().map_err(failed("write to"))?;
    for Transaction { compares, deletes, puts } in group {
        for Compare { key, value } in compares {
            let table = write.open_table(table(key.kind)).map_err(failed("write to"))?;
            let found = table.get(key.text.as_str()).map_err(failed("read"))?;
            if found.as_ref().map(redb::AccessGuard::value) != value.as_deref() {
                return Err(StoreError::Conflict(key.clone()));
            }
        }
        for key in deletes {
            let mut table = write.open_table(table(key.kind)).map_err(failed("write to"))?;
            table.remove(key.text.as_str()).map_err(failed("write to"))?;
        }
        for (key, value) in puts {
            let mut table = write.open_table(table(key.kind)).map_err(failed("write to"))?;
            table.insert(key.text.as_str(), value.as_slice()).map_err(failed("write to"))?;
        }
    }
    write.commit().map_err(failed("commit to"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::super::all_rows;
    use super::*;

    fn put(value: Vec<u8>) -> Transaction {
        Transaction { puts: vec![(Key::fact("a"), value)], ..Transaction::default() }
    }

    #[test]
    fn what_was_committed_is_there_after_reopening() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("state.redb");
        let store = EmbeddedStore::open(&path).expect("made");
        store.transact(&[put(vec![7])]).expect("written");
        assert!(EmbeddedStore::open(&path).is_err(), "one daemon at a time");
        drop(store);
        let rows = all_rows(&EmbeddedStore::open(&path).expect("opened")).expect("read");
        assert_eq!(rows, vec![(Key::fact("a"), vec![7])]);
    }

    #[test]
    fn what_was_cut_off_in_the_making_hinders_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let (path, new) = (dir.path().join("state.redb"), dir.path().join("state.redb.new"));
        // As a daemon leaves it that is killed while it makes its first store: long, and without a head.
        std::fs::write(&new, [0; 8192]).expect("written");
        std::fs::write(&path, []).expect("written");
        let store = EmbeddedStore::open(&path).expect("made");
        store.transact(&[put(vec![7])]).expect("written");
        assert!(!new.exists(), "nothing is left of it");
        drop(store);
        assert_eq!(all_rows(&EmbeddedStore::open(&path).expect("opened")).expect("read").len(), 1);
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

    #[test]
    fn its_next_size_is_reserved_on_the_disk() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("state.redb");
        let store = EmbeddedStore::open(&path).expect("made");
        for size in [1 << 10, 1 << 22] {
            store.transact(&[put(vec![1; size])]).expect("written");
            let file = std::fs::metadata(&path).expect("there");
            assert!(file.len() > size as u64, "{size}");
            assert!(file.blocks() * 512 >= 2 * file.len(), "{size}: {file:?}");
            assert!(store.has_room());
        }
    }
}
