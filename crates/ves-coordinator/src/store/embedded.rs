//! The embedded store: one redb file, whose commits are atomic and synced.
//!
//! The default for a node of its own. The file is locked by the daemon that has it open. Transactions that
//! arrive while one is written wait in a queue, and are then written together, with one sync. Never here:
//! what rows mean.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};

use super::lease::Leases;
use super::watch::{Changed, Log, Watch};
use super::{Key, Kind, LeaseId, Page, Range, Revision, Store, StoreError, Stored, Transaction};
use crate::clock::Clock;

/// A row by its path: the transaction that wrote it, its lease (0: none), and what it is.
const ROWS: TableDefinition<'static, &'static str, (u64, u64, &'static [u8])> =
    TableDefinition::new("rows");
/// How long each lease lasts, in milliseconds.
const LEASES: TableDefinition<'static, u64, u64> = TableDefinition::new("leases");
/// Numbers of the store's own.
const COUNTS: TableDefinition<'static, &'static str, u64> = TableDefinition::new("counts");
/// The count of transactions.
const REVISION: &str = "revision";
/// The lease granted last.
const LAST_LEASE: &str = "last_lease";

/// The table that earlier releases had for each kind.
const fn old_table(kind: Kind) -> TableDefinition<'static, &'static str, &'static [u8]> {
    TableDefinition::new(kind.table())
}

/// A store in a file.
#[derive(Debug)]
pub struct EmbeddedStore {
    /// Where it is, but for one in memory.
    path: Option<PathBuf>,
    clock: Arc<dyn Clock>,
    queue: Mutex<Queue>,
    /// Whoever has it writes.
    writer: Mutex<Writer>,
    leases: Mutex<Leases>,
    /// None between a failure of the disk and the opening that succeeds after it.
    database: RwLock<Option<Arc<Database>>>,
    log: Arc<Log>,
}

/// Transactions that wait to be written, and the outcomes that nobody has asked for yet.
#[derive(Debug, Default)]
struct Queue {
    last: u64,
    waiting: Vec<(u64, Transaction)>,
    done: BTreeMap<u64, Outcome>,
}

#[derive(Debug, Default)]
struct Writer {
    /// How often it made the disk keep something.
    syncs: u64,
}

type Outcome = Result<Revision, StoreError>;

fn failed<E: Into<redb::Error>>(what: &'static str) -> impl Fn(E) -> StoreError {
    move |e| StoreError::Failed { what, source: Arc::new(e.into()) }
}

impl EmbeddedStore {
    /// Opens the file, or makes it; its leases end by `clock`.
    pub fn open(path: &Path, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        let database = Database::create(path).map_err(failed("open"))?;
        Self::on(database, Some(path.to_owned()), clock)
    }

    /// A store of the same code without a file.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn in_memory(clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        let backend = redb::backends::InMemoryBackend::new();
        let database = Database::builder().create_with_backend(backend).map_err(failed("open"))?;
        Self::on(database, None, clock)
    }

    fn on(
        database: Database,
        path: Option<PathBuf>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StoreError> {
        prepare(&database)?;
        let read = database.begin_read().map_err(failed("read"))?;
        let counts = read.open_table(COUNTS).map_err(failed("read"))?;
        let revision = counts.get(REVISION).map_err(failed("read"))?.map_or(0, |n| n.value());
        let mut leases = Leases::default();
        let granted = read.open_table(LEASES).map_err(failed("read"))?;
        for lease in granted.iter().map_err(failed("read"))? {
            let (id, ttl_ms) = lease.map_err(failed("read"))?;
            let ttl = Duration::from_millis(ttl_ms.value());
            leases.begin(LeaseId(id.value()), ttl, clock.now_ms());
        }
        Ok(Self {
            path,
            clock,
            queue: Mutex::default(),
            writer: Mutex::default(),
            leases: Mutex::new(leases),
            database: RwLock::new(Some(Arc::new(database))),
            log: Log::from(Revision(revision)),
        })
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leases(&self) -> MutexGuard<'_, Leases> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn database(&self) -> Result<Arc<Database>, StoreError> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let lost = || failed("read")(redb::Error::PreviousIo);
        database.as_ref().map(Arc::clone).ok_or_else(lost)
    }

    /// Does something in one transaction of the database, once more where the disk had failed before.
    fn write<T>(
        &self,
        writer: &mut Writer,
        work: impl Fn(&WriteTransaction) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let once = |database: &Database| {
            // Dropping it without commit takes everything back.
            let write = database.begin_write().map_err(failed("write to"))?;
            let done = work(&write)?;
            write.commit().map_err(failed("commit to"))?;
            Ok(done)
        };
        writer.syncs = writer.syncs.saturating_add(1);
        if let Ok(database) = self.database() {
            match once(&database) {
                Err(error) if failed_before(&error) && self.path.is_some() => {}
                done => return done,
            }
        }
        // The disk was full, or away. It may be well by now; if not, the next one tries again. The old
        // one holds the file's lock.
        let mut held = self.database.write().unwrap_or_else(PoisonError::into_inner);
        *held = None;
        let path = self.path.clone().unwrap_or_default();
        let database = Database::open(path).map_err(failed("open"))?;
        prepare(&database)?;
        once(held.insert(Arc::new(database)))
    }

    /// Writes transactions together. What one compares is seen as those before it left it.
    fn write_all(&self, writer: &mut Writer, all: &[(u64, Transaction)]) -> Vec<Outcome> {
        let ended: BTreeSet<_> = {
            let leases = self.leases();
            let used = all.iter().filter_map(|(_, transaction)| transaction.lease);
            used.filter(|lease| !leases.is_there(*lease)).collect()
        };
        let written = self.write(writer, |write| {
            let mut applied = Vec::with_capacity(all.len());
            for (_, transaction) in all {
                applied.push(match transaction.lease.filter(|lease| ended.contains(lease)) {
                    Some(lease) => Err(StoreError::LeaseEnded(lease)),
                    None => match apply(write, transaction) {
                        Err(error @ StoreError::Failed { .. }) => return Err(error),
                        done => done,
                    },
                });
            }
            Ok(applied)
        });
        let tell = |outcome: Result<(Revision, Vec<Changed>), StoreError>| {
            let (revision, changes) = outcome?;
            self.log.push(revision, changes);
            Ok(revision)
        };
        match written {
            Ok(applied) => applied.into_iter().map(tell).collect(),
            Err(error) => all.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    /// Ends leases whose time is over.
    fn end_leases(&self, writer: &mut Writer) -> Result<(), StoreError> {
        let over = self.leases().over(self.clock.now_ms());
        for lease in over {
            let applied = self.write(writer, |write| {
                let of_it = rows_of(write, lease)?;
                let transaction = Transaction { deletes: of_it, ..Transaction::default() };
                let mut leases = write.open_table(LEASES).map_err(failed("write to"))?;
                leases.remove(lease.0).map_err(failed("write to"))?;
                apply(write, &transaction)
            })?;
            self.leases().end(lease);
            self.log.push(applied.0, applied.1);
        }
        Ok(())
    }
}

fn prepare(database: &Database) -> Result<(), StoreError> {
    let write = database.begin_write().map_err(failed("prepare"))?;
    {
        let mut rows = write.open_table(ROWS).map_err(failed("prepare"))?;
        write.open_table(LEASES).map_err(failed("prepare"))?;
        write.open_table(COUNTS).map_err(failed("prepare"))?;
        let names: BTreeSet<_> =
            write.list_tables().map_err(failed("prepare"))?.map(|t| name_of(&t)).collect();
        // Earlier releases had a table for each kind, and no scopes: all becomes the cluster's, and
        // `migrate` hands each node what is its own.
        for kind in Kind::ALL.into_iter().filter(|kind| names.contains(kind.table())) {
            {
                let old = write.open_table(old_table(kind)).map_err(failed("prepare"))?;
                for row in old.iter().map_err(failed("prepare"))? {
                    let (text, value) = row.map_err(failed("prepare"))?;
                    let path = format!("{}/{}", kind.table(), text.value());
                    let row = (0, 0, value.value());
                    rows.insert(path.as_str(), row).map_err(failed("prepare"))?;
                }
            }
            write.delete_table(old_table(kind)).map_err(failed("prepare"))?;
        }
    }
    write.commit().map_err(failed("prepare"))
}

fn name_of(table: &impl redb::TableHandle) -> String {
    table.name().to_owned()
}

/// Whether the disk failed an earlier write. redb then does nothing until it is opened again, which
/// finds the last commit that is whole.
fn failed_before(error: &StoreError) -> bool {
    let StoreError::Failed { source, .. } = error else { return false };
    matches!(source.downcast_ref(), Some(redb::Error::PreviousIo))
}

fn stored(path: &str, row: (u64, u64, &[u8])) -> Option<Stored> {
    let Some(key) = Key::parse(path) else {
        tracing::error!(path, "a row has a key of no known kind, ignoring");
        return None;
    };
    Some(Stored { key, value: row.2.to_vec(), revision: Revision(row.0) })
}

/// Which rows last as long as a lease.
fn rows_of(write: &WriteTransaction, lease: LeaseId) -> Result<Vec<Key>, StoreError> {
    let rows = write.open_table(ROWS).map_err(failed("read"))?;
    let mut keys = Vec::new();
    for row in rows.iter().map_err(failed("read"))? {
        let (path, row) = row.map_err(failed("read"))?;
        if row.value().1 == lease.0 {
            keys.extend(Key::parse(path.value()));
        }
    }
    Ok(keys)
}

/// Applies one transaction, among others that are committed with it; nothing of it where it does not hold.
fn apply(
    write: &WriteTransaction,
    transaction: &Transaction,
) -> Result<(Revision, Vec<Changed>), StoreError> {
    let Transaction { compares, deletes, puts, lease } = transaction;
    let mut rows = write.open_table(ROWS).map_err(failed("write to"))?;
    for (key, is) in compares {
        let found = rows.get(key.path().as_str()).map_err(failed("read"))?;
        let found = found.as_ref().map(|row| row.value());
        if !is.holds(found.map(|(revision, _, value)| (Revision(revision), value))) {
            let found = found.map(|(_, _, value)| value.to_vec());
            return Err(StoreError::Differs { key: key.clone(), found });
        }
    }
    let mut counts = write.open_table(COUNTS).map_err(failed("write to"))?;
    let last = counts.get(REVISION).map_err(failed("read"))?.map_or(0, |n| n.value());
    let revision = Revision(last).next();
    counts.insert(REVISION, revision.0).map_err(failed("write to"))?;
    let mut changes = Vec::with_capacity(deletes.len().saturating_add(puts.len()));
    for key in deletes {
        if rows.remove(key.path().as_str()).map_err(failed("write to"))?.is_some() {
            changes.push(Changed { key: key.clone(), value: None, revision });
        }
    }
    let lease = lease.map_or(0, |lease| lease.0);
    for (key, value) in puts {
        let row = (revision.0, lease, value.as_slice());
        rows.insert(key.path().as_str(), row).map_err(failed("write to"))?;
        changes.push(Changed { key: key.clone(), value: Some(value.clone()), revision });
    }
    Ok((revision, changes))
}

impl Store for EmbeddedStore {
    fn get(&self, key: &Key) -> Result<Option<Stored>, StoreError> {
        self.expire()?;
        let path = key.path();
        let read = self.database()?.begin_read().map_err(failed("read"))?;
        let rows = read.open_table(ROWS).map_err(failed("read"))?;
        let row = rows.get(path.as_str()).map_err(failed("read"))?;
        Ok(row.and_then(|row| stored(&path, row.value())))
    }

    fn range(&self, range: &Range) -> Result<Page, StoreError> {
        self.expire()?;
        let read = self.database()?.begin_read().map_err(failed("read"))?;
        let counts = read.open_table(COUNTS).map_err(failed("read"))?;
        let revision = counts.get(REVISION).map_err(failed("read"))?.map_or(0, |n| n.value());
        let table = read.open_table(ROWS).map_err(failed("read"))?;
        let (begin, end) = range.bounds();
        let bounds = (begin.as_ref().map(String::as_str), end.as_ref().map(String::as_str));
        let mut rows = Vec::new();
        for row in range.pick(table.range::<&str>(bounds).map_err(failed("read"))?) {
            let (path, row) = row.map_err(failed("read"))?;
            rows.extend(stored(path.value(), row.value()));
        }
        Ok(Page { rows, revision: Revision(revision) })
    }

    fn transact(&self, transaction: &Transaction) -> Result<Revision, StoreError> {
        let ticket = {
            let mut queue = self.queue();
            queue.last = queue.last.saturating_add(1);
            let ticket = queue.last;
            queue.waiting.push((ticket, transaction.clone()));
            ticket
        };
        let mut writer = self.writer();
        let waiting = {
            let mut queue = self.queue();
            // Whoever wrote before has written it along.
            if let Some(outcome) = queue.done.remove(&ticket) {
                return outcome;
            }
            std::mem::take(&mut queue.waiting)
        };
        let ended = self.end_leases(&mut writer);
        let outcomes = match ended {
            Ok(()) => self.write_all(&mut writer, &waiting),
            Err(error) => waiting.iter().map(|_| Err(error.clone())).collect(),
        };
        let mut queue = self.queue();
        let tickets = waiting.iter().map(|(ticket, _)| *ticket);
        queue.done.extend(tickets.zip(outcomes));
        let lost = || failed("write to")(redb::Error::PreviousIo);
        queue.done.remove(&ticket).unwrap_or_else(|| Err(lost()))
    }

    fn watch(&self, range: &Range, after: Revision) -> Watch {
        Watch::new(&self.log, range, after)
    }

    fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        let mut writer = self.writer();
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        let lease = self.write(&mut writer, |write| {
            let mut counts = write.open_table(COUNTS).map_err(failed("write to"))?;
            let last = counts.get(LAST_LEASE).map_err(failed("read"))?.map_or(0, |n| n.value());
            let lease = last.saturating_add(1);
            counts.insert(LAST_LEASE, lease).map_err(failed("write to"))?;
            let mut leases = write.open_table(LEASES).map_err(failed("write to"))?;
            leases.insert(lease, ttl_ms).map_err(failed("write to"))?;
            Ok(LeaseId(lease))
        })?;
        self.leases().begin(lease, ttl, self.clock.now_ms());
        Ok(lease)
    }

    fn renew(&self, lease: LeaseId) -> Result<(), StoreError> {
        let mut writer = self.writer();
        self.end_leases(&mut writer)?;
        let renewed = self.leases().renew(lease, self.clock.now_ms());
        match renewed {
            true => Ok(()),
            false => Err(StoreError::LeaseEnded(lease)),
        }
    }

    fn expire(&self) -> Result<(), StoreError> {
        // Who reads does not wait for who writes.
        let over = self.leases().over(self.clock.now_ms());
        if over.is_empty() { Ok(()) } else { self.end_leases(&mut self.writer()) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::laws::{Manual, fact};
    use super::super::{Is, Watched};
    use super::*;

    fn put(text: &str, value: u8) -> Transaction {
        Transaction { puts: vec![(fact(text), vec![value])], ..Transaction::default() }
    }

    fn values(store: &EmbeddedStore) -> Vec<(Key, Vec<u8>)> {
        let page = store.range(&Range::all()).expect("read");
        page.rows.into_iter().map(|row| (row.key, row.value)).collect()
    }

    #[test]
    fn what_was_committed_is_there_after_reopening() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("state.redb");
        let clock = Arc::new(Manual::default());
        let open = || EmbeddedStore::open(&path, Arc::clone(&clock) as Arc<dyn Clock>);
        let store = open().expect("made");
        store.transact(&put("a", 7)).expect("written");
        let lease = store.grant(Duration::from_secs(1)).expect("granted");
        let leased = Transaction { lease: Some(lease), ..put("b", 8) };
        let revision = store.transact(&leased).expect("written");
        assert!(open().is_err(), "one daemon at a time");
        drop(store);
        clock.advance(60_000);
        let store = open().expect("opened");
        assert_eq!(values(&store), vec![(fact("a"), vec![7]), (fact("b"), vec![8])]);
        assert_eq!(store.watch(&Range::all(), Revision(1)).now(), Some(Watched::Lost));
        assert_eq!(store.watch(&Range::all(), revision).now(), None, "nothing since");
        clock.advance(999);
        store.renew(lease).expect("it has its whole time again");
        clock.advance(1000);
        assert_eq!(values(&store), vec![(fact("a"), vec![7])]);
        assert_eq!(
            store.grant(Duration::ZERO).expect("granted"),
            LeaseId(2),
            "never the same again"
        );
        drop(store);
        assert_eq!(values(&open().expect("opened")), vec![(fact("a"), vec![7])]);
    }

    #[test]
    fn a_file_that_is_no_store_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("state.redb");
        std::fs::write(&path, b"something else entirely, and long enough to be read").expect("ok");
        assert!(EmbeddedStore::open(&path, Arc::new(Manual::default())).is_err());
        let kept = std::fs::read(&path).expect("there");
        assert_eq!(kept, b"something else entirely, and long enough to be read");
    }

    #[test]
    fn what_arrives_while_one_is_written_is_written_at_once() {
        const COUNT: u8 = 16;
        let store = EmbeddedStore::in_memory(Arc::new(Manual::default())).expect("made");
        store.transact(&put("taken", 0)).expect("written");
        let before = store.writer().syncs;
        let outcomes: Vec<Outcome> = std::thread::scope(|scope| {
            // As long as the one before is written.
            let writing = store.writer();
            let threads: Vec<_> = (0..COUNT)
                .map(|n| {
                    let mut one = put(&n.to_string(), n);
                    if n % 4 == 0 {
                        one.compares.push((fact("taken"), Is::Absent));
                    }
                    let store = &store;
                    scope.spawn(move || store.transact(&one))
                })
                .collect();
            while store.queue().waiting.len() < usize::from(COUNT) {
                std::thread::yield_now();
            }
            drop(writing);
            threads.into_iter().map(|thread| thread.join().expect("ended")).collect()
        });
        assert_eq!(store.writer().syncs, before + 1, "one sync for all");
        for (n, outcome) in outcomes.iter().enumerate() {
            let key = fact(&n.to_string());
            let row = store.get(&key).expect("read");
            match outcome {
                Err(StoreError::Differs { .. }) => assert!(n % 4 == 0 && row.is_none()),
                Ok(revision) => {
                    let row = row.expect("there");
                    assert!(n % 4 != 0 && row.revision == *revision);
                }
                Err(other) => unreachable!("{other}"),
            }
        }
        assert!(store.queue().done.is_empty(), "each was told");
    }
}
