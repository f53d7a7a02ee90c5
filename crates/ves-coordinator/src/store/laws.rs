//! What every store does, tested on each of them by the same words.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use uuid::Uuid;
use ves_types::{CtId, NodeName};

use super::embedded::EmbeddedStore;
use super::memory::MemoryStore;
use super::{
    Changed, Is, Key, Kind, Range, Revision, Scope, Store, StoreError, Transaction, Watched,
};
use crate::clock::Clock;

/// A clock that is set by hand.
#[derive(Debug, Default)]
pub(super) struct Manual(AtomicI64);

impl Manual {
    pub(super) fn advance(&self, ms: i64) {
        self.0.fetch_add(ms, Ordering::SeqCst);
    }
}

impl Clock for Manual {
    fn now_ms(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }
    fn new_id(&self) -> Uuid {
        Uuid::nil()
    }
}

fn node() -> NodeName {
    "alpha".parse().expect("valid")
}

pub(super) fn fact(text: &str) -> Key {
    Key::fact(&node(), text)
}

fn ct(n: u32) -> CtId {
    CtId::try_from(n).expect("valid")
}

fn put(key: &Key, value: u8) -> Transaction {
    Transaction { puts: vec![(key.clone(), vec![value])], ..Transaction::default() }
}

fn on_both(law: impl Fn(&dyn Store, &Manual)) {
    let clock = Arc::new(Manual::default());
    law(&MemoryStore::with(Arc::clone(&clock) as Arc<dyn Clock>), &clock);
    let clock = Arc::new(Manual::default());
    let embedded = EmbeddedStore::in_memory(Arc::clone(&clock) as Arc<dyn Clock>);
    law(&embedded.expect("made"), &clock);
}

fn texts(store: &dyn Store, range: &Range) -> Vec<String> {
    store.range(range).expect("read").rows.into_iter().map(|row| row.key.text).collect()
}

#[test]
fn keys_are_read_as_they_were_written() {
    for key in [
        Key::container(ct(101)),
        Key::request("root/a/b"),
        Key::address("2001:db8::1".parse().expect("valid")),
        fact("boot"),
    ] {
        assert_eq!(Key::parse(&key.path()), Some(key));
    }
    for bad in ["", "containers", "nonsuch/1", "nodes/alpha", "nodes//slots/1", "nodes/a b/slots/1"]
    {
        assert_eq!(Key::parse(bad), None, "{bad}");
    }
}

#[test]
fn a_comparison_that_does_not_hold_leaves_nothing() {
    on_both(|store, _| {
        let key = Key::container(ct(101));
        let first = store.transact(&put(&key, 1)).expect("written");
        let second = store.transact(&put(&key, 2)).expect("written");
        assert!(second > first);
        let absent = Key::container(ct(102));
        let holds = [
            (&absent, Is::Absent),
            (&key, Is::Present),
            (&key, Is::At(second)),
            (&absent, Is::AbsentOr(vec![9])),
            (&key, Is::AbsentOr(vec![2])),
        ];
        for (key, is) in &holds {
            let compares = vec![((*key).clone(), is.clone())];
            store.transact(&Transaction { compares, ..put(&fact("x"), 0) }).expect("holds");
        }
        let differs = [
            (&key, Is::Absent),
            (&absent, Is::Present),
            (&key, Is::At(first)),
            (&absent, Is::At(second)),
            (&key, Is::AbsentOr(vec![1])),
        ];
        let before = store.range(&Range::all()).expect("read");
        for (key, is) in &differs {
            // Also where another one holds.
            let compares = vec![(absent.clone(), Is::Absent), ((*key).clone(), is.clone())];
            let deletes = vec![Key::container(ct(101))];
            let refused = Transaction { compares, deletes, ..put(&fact("y"), 0) };
            let error = store.transact(&refused).expect_err("does not hold");
            let StoreError::Differs { key: which, found } = error else { unreachable!("{error}") };
            assert_eq!((&which, found.is_some()), (*key, *key != &absent));
            assert_eq!(store.range(&Range::all()).expect("read"), before, "{is:?}");
        }
    });
}

#[test]
fn a_claim_has_one_holder_until_it_is_given_up() {
    on_both(|store, _| {
        let key = Key::address("192.0.2.1".parse().expect("valid"));
        let claim = |n: u32| {
            let mut transaction = put(&Key::container(ct(n)), 1);
            transaction.claim(key.clone(), ct(n));
            transaction
        };
        store.transact(&claim(101)).expect("free");
        store.transact(&claim(101)).expect("its own");
        let error = store.transact(&claim(102)).expect_err("taken");
        let holder = Some(b"101".to_vec());
        assert!(matches!(&error, StoreError::Differs { found, .. } if *found == holder), "{error}");
        assert_eq!(store.range(&Range::all()).expect("read").rows.len(), 2, "nothing of it");
        let deletes = vec![key.clone()];
        store.transact(&Transaction { deletes, ..Transaction::default() }).expect("given up");
        store.transact(&claim(102)).expect("free again");
    });
}

#[test]
fn deletions_come_before_rows() {
    on_both(|store, _| {
        let key = fact("a");
        store.transact(&put(&key, 1)).expect("written");
        let anew = Transaction { deletes: vec![key.clone()], ..put(&key, 2) };
        let revision = store.transact(&anew).expect("written");
        let row = store.get(&key).expect("read").expect("there");
        assert_eq!((row.value, row.revision), (vec![2], revision));
        assert_eq!(store.get(&fact("b")).expect("read"), None);
    });
}

#[test]
fn ranges_are_in_order_and_of_one_kind_and_scope() {
    on_both(|store, _| {
        let other = "beta".parse().expect("valid");
        for text in ["a", "b", "c", "d"] {
            store.transact(&put(&fact(text), 1)).expect("written");
            store.transact(&put(&Key::fact(&other, text), 1)).expect("written");
            store.transact(&put(&Key::request(text), 1)).expect("written");
        }
        let own = Range::of(&Scope::Node(node()), Kind::Fact);
        assert_eq!(texts(store, &own), ["a", "b", "c", "d"]);
        assert_eq!(texts(store, &own.clone().beyond("b")), ["c", "d"]);
        assert_eq!(texts(store, &own.clone().limit(2)), ["a", "b"]);
        assert_eq!(texts(store, &own.clone().backwards().limit(3)), ["d", "c", "b"]);
        assert_eq!(texts(store, &own.clone().backwards().beyond("c").limit(9)), ["b", "a"]);
        assert_eq!(texts(store, &own.backwards().beyond("a")), Vec::<String>::new());
        assert_eq!(store.range(&Range::all()).expect("read").rows.len(), 12);
    });
}

/// What a watcher holds that began with `page`.
fn followed(mut rows: BTreeMap<Key, Vec<u8>>, changes: &[Changed]) -> BTreeMap<Key, Vec<u8>> {
    for Changed { key, value, revision: _ } in changes {
        match value {
            Some(value) => rows.insert(key.clone(), value.clone()),
            None => rows.remove(key),
        };
    }
    rows
}

#[test]
fn a_watch_tells_each_change_in_the_order_of_commits() {
    on_both(|store, _| {
        let held = || -> BTreeMap<Key, Vec<u8>> {
            let page = store.range(&Range::all()).expect("read");
            page.rows.into_iter().map(|row| (row.key, row.value)).collect()
        };
        store.transact(&put(&fact("before"), 1)).expect("written");
        let page = store.range(&Range::all()).expect("read");
        let begun = held();
        let own = Range::of(&Scope::Cluster, Kind::Container);
        let mut all = store.watch(&Range::all(), page.revision);
        let mut some = store.watch(&own, page.revision);
        assert_eq!(all.now(), None, "nothing happened");
        let mut revisions = Vec::new();
        for n in 1..=3 {
            let two = Transaction {
                puts: vec![(Key::container(ct(n)), vec![1]), (fact("n"), vec![2])],
                ..Transaction::default()
            };
            revisions.push(store.transact(&two).expect("written"));
        }
        let absent = vec![(fact("n"), Is::Absent)];
        let refused = Transaction { compares: absent, ..put(&fact("z"), 0) };
        store.transact(&refused).expect_err("does not hold");
        let deletes = vec![Key::container(ct(1)), Key::container(ct(99))];
        let gone = Transaction { deletes, ..Transaction::default() };
        revisions.push(store.transact(&gone).expect("written"));
        let Some(Watched::Changes { changes, revision }) = all.now() else { unreachable!() };
        assert_eq!(Some(&revision), revisions.last());
        assert!(changes.is_sorted_by_key(|c| c.revision));
        assert_eq!(changes.len(), 7, "what was refused or was not there is no change");
        assert_eq!(followed(begun, &changes), held(), "who follows holds what is there");
        let Some(Watched::Changes { changes, .. }) = some.now() else { unreachable!() };
        assert_eq!(changes.len(), 4);
        assert!(changes.iter().all(|c| c.key.kind == Kind::Container));
        assert_eq!((all.now(), some.now()), (None, None), "once");
        // Resumed in the middle, nothing is told twice and nothing is lost.
        let mut resumed = store.watch(&Range::all(), revisions[1]);
        let Some(Watched::Changes { changes, .. }) = resumed.now() else { unreachable!() };
        let told: Vec<_> = changes.iter().map(|c| c.revision).collect();
        assert_eq!(told, [revisions[2], revisions[2], revisions[3]]);
    });
}

#[test]
fn a_watch_that_is_too_far_behind_or_ahead_is_told() {
    on_both(|store, _| {
        let mut late = store.watch(&Range::all(), Revision::default());
        let many: Vec<_> = (0..3000_u32).map(|n| (fact(&n.to_string()), vec![])).collect();
        let many = Transaction { puts: many, ..Transaction::default() };
        store.transact(&many).expect("written");
        let middle = store.transact(&many).expect("written");
        assert_eq!(late.now(), Some(Watched::Lost));
        assert_eq!(late.now(), None, "it goes on from here");
        store.transact(&put(&fact("a"), 1)).expect("written");
        assert!(matches!(late.now(), Some(Watched::Changes { changes, .. }) if changes.len() == 1));
        let mut near = store.watch(&Range::all(), middle);
        assert!(matches!(near.now(), Some(Watched::Changes { changes, .. }) if changes.len() == 1));
        let mut ahead = store.watch(&Range::all(), Revision(1_000_000));
        assert_eq!(ahead.now(), Some(Watched::Lost), "of another store");
    });
}

#[test]
fn a_watch_is_woken() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    on_both(|store, _| {
        let mut watch = store.watch(&Range::all(), Revision::default());
        runtime.block_on(async {
            let (told, written) =
                tokio::join!(watch.next(), async { store.transact(&put(&fact("a"), 1)) });
            let revision = written.expect("written");
            assert!(matches!(told, Watched::Changes { revision: at, .. } if at == revision));
        });
    });
}

#[test]
fn rows_go_when_their_lease_is_not_renewed() {
    on_both(|store, clock| {
        let lease = store.grant(Duration::from_secs(10)).expect("granted");
        let other = store.grant(Duration::from_secs(60)).expect("granted");
        assert_ne!(lease, other);
        for (text, lease) in [("own", Some(lease)), ("other", Some(other)), ("ever", None)] {
            store.transact(&Transaction { lease, ..put(&fact(text), 1) }).expect("written");
        }
        // Written anew without it, a row is no longer the lease's.
        let kept = Transaction { lease: Some(lease), ..put(&fact("kept"), 1) };
        store.transact(&kept).expect("written");
        store.transact(&put(&fact("kept"), 2)).expect("written");
        let mut watch =
            store.watch(&Range::all(), store.range(&Range::all()).expect("read").revision);
        clock.advance(9_999);
        store.renew(lease).expect("in time");
        clock.advance(9_999);
        assert!(store.get(&fact("own")).expect("read").is_some(), "renewed");
        assert_eq!(watch.now(), None);
        clock.advance(1);
        store.expire().expect("expired");
        let Some(Watched::Changes { changes, .. }) = watch.now() else { unreachable!() };
        assert!(changes.len() == 1 && changes[0].key == fact("own") && changes[0].value.is_none());
        assert!(store.get(&fact("own")).expect("read").is_none());
        let left = Range::of(&Scope::Node(node()), Kind::Fact);
        assert_eq!(texts(store, &left), ["ever", "kept", "other"]);
        assert!(matches!(store.renew(lease), Err(StoreError::LeaseEnded(l)) if l == lease));
        let late = Transaction { lease: Some(lease), ..put(&fact("late"), 1) };
        assert!(matches!(store.transact(&late), Err(StoreError::LeaseEnded(_))));
        clock.advance(60_000);
        // A comparison sees no row whose time is over, though nobody has looked since.
        let compares = vec![(fact("other"), Is::Absent)];
        store.transact(&Transaction { compares, ..put(&fact("mine"), 1) }).expect("it is gone");
        assert_eq!(texts(store, &left), ["ever", "kept", "mine"]);
    });
}
