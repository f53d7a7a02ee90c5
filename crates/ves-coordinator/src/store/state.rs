//! The state: what is stored, held in memory as an index, changed by one decision at a time.
//!
//! Reading never waits for the disk, and a decision not for the commit of the one before: it is made on
//! the index *ahead*, which has all changes that were decided; those that came together are committed to
//! the [`Store`] together, and only then shown. Where that fails, all of them fail, and what is ahead is
//! again what is shown. Every change of a container is an event with a revision. Never here: calls to
//! services, or what a change should be.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard};

use prost::Message as _;
use tokio::sync::watch;
use ves_proto::fault::chain;
use ves_proto::{Fault, Reason, api as pb};
use ves_types::{CtId, Generation, NodeName};

use super::changes::Departed;
use super::index::{Change, Decided, FLOOR, Index, LAST_SLOT, load_row, transaction_of};
use super::log::Log;
use super::migrate::migrate;
use super::{Key, Kind, Row, Store, StoreError, Transaction, all_rows, rows_of};
use crate::clock::Clock;
use crate::container::record::Record;
use crate::event::record::NewEvent;
use crate::last_words::last_words;
use crate::operation::ends::Turn;
use crate::operation::record::{OpId, OpRecord, OpState};

/// The fact that counts the coordinator's starts: the upper half of every revision.
const STARTS: &str = "starts";

/// One that is not committed yet.
#[derive(Debug)]
struct Pending {
    transaction: Transaction,
    change: Decided,
    /// How it ended, when it has.
    outcome: Arc<OnceLock<Result<(), Fault>>>,
}

/// What was decided, whether committed or not.
#[derive(Debug)]
struct Ahead {
    index: Index,
    pending: Vec<Pending>,
}

/// What is stored.
#[derive(Debug)]
pub struct State {
    store: Box<dyn Store>,
    ahead: Mutex<Ahead>,
    /// Held by who commits for all that wait.
    committing: Mutex<()>,
    /// What is committed. Changed by who commits.
    index: RwLock<Index>,
    revision: watch::Sender<u64>,
    operations: watch::Sender<u64>,
    log: watch::Sender<Log>,
    node: NodeName,
    clock: Arc<dyn Clock>,
}

impl State {
    /// Reads everything of the node's store. Blocks.
    pub fn open(
        store: Box<dyn Store>,
        node: &NodeName,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, Fault> {
        let mut index = Index::default();
        let rows = all_rows(&*store).map_err(|e| fault_of(&e))?;
        let (rows, news) = migrate(rows, node, || clock.new_id());
        if news != Transaction::default() {
            tracing::info!(
                rows = news.puts.len(),
                "rows of an earlier release are brought up to date"
            );
            store.transact(&[news]).map_err(|e| fault_of(&e))?;
        }
        for (key, bytes) in rows {
            load_row(&mut index, &key, &bytes);
        }
        let starts = index.fact(STARTS).and_then(|s| s.parse::<u64>().ok()).unwrap_or(0);
        index.floor = Generation(index.fact(FLOOR).and_then(|s| s.parse().ok()).unwrap_or(0));
        // A store of the first release does not say which came last.
        let last_slot = index.fact(LAST_SLOT).and_then(|s| s.parse().ok());
        index.last_slot = last_slot.or_else(|| index.greatest_slot()).unwrap_or(0);
        let revision = starts.saturating_add(1) << 32;
        index.changes.begin_after(revision);
        index.operation_changes.begin_after(revision);
        index.log = log_of(&*store).map_err(|e| fault_of(&e))?;
        let log = index.log;
        let state = Self {
            store,
            ahead: Mutex::new(Ahead { index: index.clone(), pending: vec![] }),
            committing: Mutex::new(()),
            index: RwLock::new(index),
            revision: watch::Sender::new(revision),
            operations: watch::Sender::new(revision),
            log: watch::Sender::new(log),
            node: node.clone(),
            clock,
        };
        state.transact(|index, change| {
            change.facts.push((STARTS, starts.saturating_add(1).to_string()));
            rename_node(index, node, change);
            Ok(())
        })?;
        Ok(state)
    }

    /// What is stored, to be looked at shortly.
    pub fn read(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// All rows of a kind that the index does not keep. Blocks.
    ///
    /// # Errors
    /// `HOST_FAILED`.
    pub fn rows(&self, kind: Kind) -> Result<Vec<Row>, Fault> {
        rows_of(&*self.store, kind).map_err(|e| fault_of(&e))
    }

    /// Stores rows that the index does not keep, at once. Blocks.
    ///
    /// # Errors
    /// `HOST_FAILED`; nothing is stored then.
    pub fn store_rows(&self, transaction: Transaction) -> Result<(), Fault> {
        self.store.transact(&[transaction]).map_err(|e| fault_of(&e))
    }

    /// Told at each event.
    pub fn revisions(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    /// Told at each change of an operation.
    pub fn operation_ticks(&self) -> watch::Receiver<u64> {
        self.operations.subscribe()
    }

    /// Told at each new event: which are kept then.
    pub fn new_events(&self) -> watch::Receiver<Log> {
        self.log.subscribe()
    }

    /// At most `most` events after one, oldest first, each with its number. Blocks.
    ///
    /// # Errors
    /// `HOST_FAILED`.
    pub fn events_after(&self, after: u64, most: usize) -> Result<Vec<(u64, pb::Event)>, Fault> {
        let after = Key::event(after).text;
        let rows = self.store.range(Kind::Event, Some(&after), most).map_err(|e| fault_of(&e))?;
        Ok(rows.iter().filter_map(event_of).collect())
    }

    /// At most `most` events before one, or the last ones, newest first, each with its number. Blocks.
    ///
    /// # Errors
    /// `HOST_FAILED`.
    pub fn events_before(
        &self,
        before: Option<u64>,
        most: usize,
    ) -> Result<Vec<(u64, pb::Event)>, Fault> {
        let before = before.map(|number| Key::event(number).text);
        let rows = self.store.range_back(Kind::Event, before.as_deref(), most);
        Ok(rows.map_err(|e| fault_of(&e))?.iter().filter_map(event_of).collect())
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
        let outcome = Arc::new(OnceLock::new());
        let result = {
            let mut ahead = self.ahead();
            let mut change = Change::default();
            let result = decide(&ahead.index, &mut change)?;
            self.refuse_without_room(&ahead.index, &change)?;
            let told = events_of(&ahead.index, &change);
            change.events.extend(told);
            for event in &mut change.events {
                event.take_place(self.clock.new_id(), &self.node, self.clock.now_ms());
            }
            let (transaction, log) = transaction_of(&ahead.index, &mut change)?;
            let change = Decided::new(change, log);
            ahead.index.apply(&change);
            ahead.pending.push(Pending { transaction, change, outcome: Arc::clone(&outcome) });
            result
        };
        // What was decided may rest on what is not committed yet, also where it changes nothing.
        let _alone = self.committing.lock().unwrap_or_else(PoisonError::into_inner);
        if outcome.get().is_none() {
            self.commit_pending();
        }
        match outcome.get() {
            Some(Err(fault)) => Err(fault.clone()),
            Some(Ok(())) | None => Ok(result),
        }
    }

    fn ahead(&self) -> MutexGuard<'_, Ahead> {
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses to begin what could not be ended: without room on the disk only what gives some back is
    /// begun.
    ///
    /// # Errors
    /// `STORE_FULL`.
    fn refuse_without_room(&self, index: &Index, change: &Change) -> Result<(), Fault> {
        let new = |op: &&OpRecord| !index.operations.contains_key(&op.id);
        let needs_room =
            change.operations.iter().filter(new).any(|op| !op.action.kind().gives_back());
        let changes_rows = change.rows != Transaction::default();
        let only_tells = change.operations.is_empty() && !changes_rows && !change.events.is_empty();
        if !(needs_room || only_tells) || self.store.has_room() {
            return Ok(());
        }
        let message = "the node's disk has no room left for the coordinator's state; make room on it, \
                       then try again: until then containers can only be stopped and destroyed";
        Err(Fault::new(Reason::StoreFull, message))
    }

    /// Commits all that was decided, in one go, and shows it. Called by one at a time.
    fn commit_pending(&self) {
        let mut group = std::mem::take(&mut self.ahead().pending);
        let transactions: Vec<_> = group
            .iter_mut()
            .map(|pending| std::mem::take(&mut pending.transaction))
            .filter(|transaction| *transaction != Transaction::default())
            .collect();
        let done = match transactions.as_slice() {
            [] => Ok(()),
            transactions => self.store.transact(transactions).map_err(|e| fault_of(&e)),
        };
        if done.is_err() {
            // What was decided meanwhile was decided on what is not true now.
            let mut ahead = self.ahead();
            group.append(&mut ahead.pending);
            ahead.index = self.read().clone();
        }
        for Pending { change, outcome, .. } in group {
            if done.is_ok() {
                self.show(&change);
            }
            // It is set here only.
            outcome.set(done.clone()).ok();
        }
    }

    fn show(&self, change: &Decided) {
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        let Decided { containers, gone, operations, expired, facts: _, log } = change;
        let ended = |ct: CtId| operations.iter().find(|op| op.ct == Some(ct))?.ended_unix_ms;
        let departed = |ct: &CtId| {
            let record = index.container(*ct).ok();
            let uid = record.map(|record| record.uid);
            let project = record.and_then(|record| record.meta.project.clone());
            (*ct, Departed { uid, project, unix_ms: ended(*ct) })
        };
        let mut departed: BTreeMap<CtId, Departed> = gone.iter().map(departed).collect();
        let forgotten = |id: &OpId| {
            let project = index.operation(id).ok().and_then(|op| op.project.clone());
            (id.clone(), Departed { project, ..Departed::default() })
        };
        let forgotten: Vec<_> = expired.iter().map(forgotten).collect();
        index.apply(change);
        let touched = containers.iter().map(|record| record.id).chain(gone.iter().copied());
        let touched = touched.chain(operations.iter().filter_map(|op| op.ct));
        for ct in touched.collect::<BTreeSet<CtId>>() {
            index.changes.push(ct, departed.remove(&ct));
        }
        for op in operations {
            index.operation_changes.push(op.id.clone(), None);
        }
        for (id, departed) in forgotten {
            index.operation_changes.push(id, Some(departed));
        }
        let revision = index.changes.revision();
        let operation_revision = index.operation_changes.revision();
        drop(index);
        self.revision.send_replace(revision);
        self.operations.send_replace(operation_revision);
        if let Some(log) = log {
            self.log.send_replace(*log);
        }
    }

    /// Tells watchers that what is seen of a container changed.
    pub fn touch(&self, ct: CtId) {
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        if index.container(ct).is_ok() {
            index.changes.push(ct, None);
            let revision = index.changes.revision();
            drop(index);
            self.revision.send_replace(revision);
        }
    }

    /// Shows how far a running operation is; kept in memory until its next stored change.
    pub fn progress(&self, id: &OpId, update: impl Fn(&mut OpRecord)) {
        if let Some(op) = self.ahead().index.operations.get_mut(id) {
            update(Arc::make_mut(op));
        }
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(op) = index.operations.get_mut(id) {
            update(Arc::make_mut(op));
            index.operation_changes.push(id.clone(), None);
            let revision = index.operation_changes.revision();
            drop(index);
            self.operations.send_replace(revision);
        }
    }
}

/// The store is the node's own, so that all in it is of the node, whatever it was called before.
fn rename_node(index: &Index, node: &NodeName, change: &mut Change) {
    for record in index.containers().filter(|record| record.node != *node) {
        change.containers.push(Record { node: node.clone(), ..Record::clone(record) });
    }
    let running = index.operations().filter(|op| op.state == OpState::Running);
    for op in running.filter(|op| op.node != *node) {
        change.operations.push(OpRecord { node: node.clone(), ..OpRecord::clone(op) });
    }
}

/// The events that the operations of a change make.
fn events_of(index: &Index, change: &Change) -> Vec<NewEvent> {
    let mut told = Vec::new();
    for op in &change.operations {
        let old = op.ct.and_then(|ct| index.container(ct).ok()).map(|record| &**record);
        let new = change.containers.iter().find(|record| Some(record.id) == op.ct).or(old);
        let gone = op.ct.is_some_and(|ct| change.gone.contains(&ct));
        let before = index.operations.get(&op.id).map(|op| &**op);
        let turn = Turn { before, op, old, new: new.filter(|_| !gone) };
        let events = turn.events(|| {
            let others = index.operations().rev().filter(|other| other.id != op.id);
            others.map(|other| &**other).find(|other| other.ct == op.ct)
        });
        let used = change.usage.iter().find(|(ct, _)| gone && Some(*ct) == op.ct);
        told.extend(events.into_iter().map(|event| match used {
            Some((_, used)) => last_words(used, event),
            None => event,
        }));
    }
    told
}

/// Which events a store has.
fn log_of(store: &dyn Store) -> Result<Log, StoreError> {
    let number = |rows: Vec<Row>| rows.first().and_then(|(key, _)| key.text.parse().ok());
    let first = number(store.range(Kind::Event, None, 1)?);
    let last = number(store.range_back(Kind::Event, None, 1)?);
    Ok(match (first, last) {
        (Some(first), Some(last)) => Log { first, last },
        _ => Log::default(),
    })
}

/// An event and its number. One that cannot be read is as if it were none.
fn event_of((key, bytes): &Row) -> Option<(u64, pb::Event)> {
    let event = pb::Event::decode(bytes.as_slice());
    match (key.text.parse(), event) {
        (Ok(number), Ok(event)) => Some((number, event)),
        _ => {
            tracing::error!(event = %key.text, "a stored event is corrupt, ignoring");
            None
        }
    }
}

fn fault_of(error: &StoreError) -> Fault {
    match error {
        StoreError::Conflict(_) => Fault::new(Reason::Bug, error.to_string()),
        StoreError::Failed { .. } => {
            let message = format!("{}; look at the node's disk, then try again", chain(error));
            Fault::new(Reason::HostFailed, message)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;
    use std::time::{Duration, Instant};

    use super::super::memory::MemoryStore;
    use super::*;
    use crate::clock::SystemClock;
    use crate::operation::kinds::Action;
    use crate::operation::kinds::template_build::TemplateBuild;
    use crate::operation::record::Caller;

    /// A store whose commits take until they are let through, well or not.
    #[derive(Debug, Clone, Default)]
    struct SlowStore {
        rows: MemoryStore,
        commits: Arc<AtomicUsize>,
        slow: Arc<Mutex<Option<std::sync::mpsc::Receiver<bool>>>>,
    }

    impl Store for SlowStore {
        fn range(&self, kind: Kind, after: Option<&str>, n: usize) -> Result<Vec<Row>, StoreError> {
            self.rows.range(kind, after, n)
        }
        fn range_back(
            &self,
            kind: Kind,
            before: Option<&str>,
            most: usize,
        ) -> Result<Vec<Row>, StoreError> {
            self.rows.range_back(kind, before, most)
        }
        fn transact(&self, group: &[Transaction]) -> Result<(), StoreError> {
            self.commits.fetch_add(1, Ordering::SeqCst);
            let slow = self.slow.lock().expect("never poisoned").take();
            if slow.is_some_and(|slow| !slow.recv().expect("it is let through")) {
                let source = "the disk is away".into();
                return Err(StoreError::Failed { what: "commit to", source });
            }
            self.rows.transact(group)
        }
        fn has_room(&self) -> bool {
            true
        }
    }

    const NAMES: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];

    /// Lets a commit be slow, eight more decisions be made meanwhile, each on what the ones before it did,
    /// and ends it, well or not; answers with what came of the nine.
    fn nine(state: &State, store: &SlowStore, well: bool) -> Vec<Result<(), Fault>> {
        let (end, slow) = std::sync::mpsc::channel();
        *store.slow.lock().expect("never poisoned") = Some(slow);
        let before = store.commits.load(Ordering::SeqCst);
        let decided = AtomicUsize::new(0);
        let write = |name: &'static str| {
            state.transact(|index, change| {
                let count = index.fact("count").and_then(|n| n.parse::<u32>().ok()).unwrap_or(0);
                change.facts.push(("count", (count + 1).to_string()));
                change.facts.push((name, "written".to_owned()));
                decided.fetch_add(1, Ordering::SeqCst);
                Ok(())
            })
        };
        let wait = |fact: &dyn Fn() -> bool| {
            let until = Instant::now() + Duration::from_secs(30);
            while !fact() {
                assert!(Instant::now() < until, "it never came about");
                thread::yield_now();
            }
        };
        thread::scope(|scope| {
            let mut all = vec![scope.spawn(|| write("first"))];
            wait(&|| store.commits.load(Ordering::SeqCst) == before + 1);
            all.extend(NAMES.map(|name| scope.spawn(move || write(name))));
            wait(&|| decided.load(Ordering::SeqCst) == 9);
            end.send(well).expect("it waits");
            all.into_iter().map(|one| one.join().expect("no panic")).collect()
        })
    }

    fn opened() -> (State, SlowStore) {
        let store = SlowStore::default();
        let node = "n1".parse().expect("a name");
        let state =
            State::open(Box::new(store.clone()), &node, Arc::new(SystemClock)).expect("opened");
        (state, store)
    }

    #[test]
    fn what_is_decided_during_a_commit_is_committed_together() {
        let (state, store) = opened();
        let before = store.commits.load(Ordering::SeqCst);
        assert!(nine(&state, &store, true).iter().all(Result::is_ok));
        assert_eq!(store.commits.load(Ordering::SeqCst) - before, 2);
        assert_eq!(state.read().fact("count"), Some("9"), "each saw those before it");
    }

    #[test]
    fn an_end_and_what_it_tells_are_committed_together_or_not_at_all() {
        let (state, store) = opened();
        let action = TemplateBuild {
            name: "debian".parse().expect("a name"),
            suite: "trixie".to_owned(),
            init: 0,
            packages: vec![],
        };
        let caller = Caller { principal: "root".to_owned(), on_behalf_of: None, request: None };
        let node = "n1".parse().expect("a name");
        let op = OpRecord::new(node, None, Action::TemplateBuild(action), caller, &SystemClock);
        let write = |op: OpRecord| {
            state.transact(move |_, change| {
                change.operations.push(op);
                Ok(())
            })
        };
        write(op.clone()).expect("begun");
        assert_eq!(state.read().log().count(), 0);
        let before = store.commits.load(Ordering::SeqCst);
        let (end, slow) = std::sync::mpsc::channel();
        *store.slow.lock().expect("never poisoned") = Some(slow);
        end.send(false).expect("it waits");
        let mut ended = op;
        ended.end(7, None);
        write(ended.clone()).expect_err("the disk is away");
        assert_eq!((state.read().log().count(), state.events_before(None, 9)), (0, Ok(vec![])));
        write(ended.clone()).expect("ended");
        assert_eq!(store.commits.load(Ordering::SeqCst) - before, 2, "no commit more");
        let told = state.events_before(None, 9).expect("read");
        let [(1, event)] = told.as_slice() else { panic!("{told:?}") };
        assert_eq!(event.r#type(), pb::event::Type::Template);
        assert_eq!((event.target.as_str(), event.node.as_str()), ("templates/debian", "nodes/n1"));
        assert_eq!(event.facts["kind"], "TEMPLATE_BUILD");
        assert_eq!(event.operation, format!("operations/{}", ended.id));
        write(ended).expect("once more");
        assert_eq!(state.read().log().count(), 1, "it had ended");
        assert_eq!(*state.new_events().borrow(), state.read().log());
    }

    #[test]
    fn what_was_decided_on_a_commit_that_fails_fails_with_it() {
        let (state, store) = opened();
        let done = nine(&state, &store, false);
        assert!(done.iter().all(|one| one.as_ref().is_err_and(|f| f.reason == Reason::HostFailed)));
        assert_eq!(state.read().fact("count"), None);
        let kept = all_rows(&store).expect("read");
        assert!(kept.iter().all(|(key, _)| key.text == STARTS), "{kept:?}");
        assert!(nine(&state, &store, true).iter().all(Result::is_ok), "it is well again");
        assert_eq!(state.read().fact("count"), Some("9"));
    }
}
