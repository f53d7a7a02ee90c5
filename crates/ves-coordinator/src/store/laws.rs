//! What both stores do alike. Pure but for the stores themselves, which are in memory.

use super::embedded::EmbeddedStore;
use super::memory::MemoryStore;
use super::{Compare, Key, Kind, Row, Store, StoreError, Transaction, all_rows};

fn both() -> Vec<Box<dyn Store>> {
    let embedded = EmbeddedStore::in_memory().expect("made");
    vec![Box::new(MemoryStore::default()), Box::new(embedded)]
}

fn row(text: &str, value: u8) -> Row {
    (Key::fact(text), vec![value])
}

fn put(text: &str, value: u8) -> Transaction {
    Transaction { puts: vec![row(text, value)], ..Transaction::default() }
}

fn only_if(text: &str, value: Option<u8>, then: Transaction) -> Transaction {
    let value = value.map(|value| vec![value]);
    Transaction { compares: vec![Compare { key: Key::fact(text), value }], ..then }
}

#[test]
fn what_is_compared_must_hold_and_a_refused_group_leaves_nothing() {
    for store in both() {
        store.transact(&[only_if("a", None, put("a", 1))]).expect("there is none");
        for (expected, because) in [(None, "there is one"), (Some(2), "it is another")] {
            let group = [put("b", 1), only_if("a", expected, put("a", 3))];
            let error = store.transact(&group).expect_err(because);
            assert!(matches!(error, StoreError::Conflict(key) if key == Key::fact("a")));
            assert_eq!(all_rows(&*store).expect("read"), [row("a", 1)], "{because}");
        }
        store.transact(&[only_if("a", Some(1), put("a", 3))]).expect("as expected");
        assert_eq!(all_rows(&*store).expect("read"), [row("a", 3)]);
    }
}

#[test]
fn a_transaction_finds_what_those_before_it_did() {
    for store in both() {
        let delete = Transaction { deletes: vec![Key::fact("a")], ..Transaction::default() };
        let group = [put("a", 1), only_if("a", Some(1), delete), only_if("a", None, put("a", 2))];
        store.transact(&group).expect("in order");
        assert_eq!(all_rows(&*store).expect("read"), [row("a", 2)]);
        let again = Transaction { deletes: vec![Key::fact("a")], ..put("a", 4) };
        store.transact(&[again]).expect("deleted, then written");
        assert_eq!(all_rows(&*store).expect("read"), [row("a", 4)]);
    }
}

#[test]
fn a_range_back_has_the_same_the_other_way() {
    for store in both() {
        let mut puts: Vec<Row> = (1..=3000).map(|n| (Key::event(n), vec![])).collect();
        puts.push((Key::fact("z"), vec![]));
        store.transact(&[Transaction { puts, ..Transaction::default() }]).expect("written");
        let numbers = |before: Option<u64>, most| {
            let before = before.map(|n| Key::event(n).text);
            let rows = store.range_back(Kind::Event, before.as_deref(), most).expect("read");
            assert!(rows.iter().all(|(key, _)| key.kind == Kind::Event));
            rows.iter().map(|(key, _)| key.text.parse().expect("a number")).collect::<Vec<u64>>()
        };
        assert_eq!(numbers(None, 2), [3000, 2999]);
        assert_eq!(numbers(Some(1000), 2), [999, 998]);
        assert_eq!(numbers(Some(3), 9), [2, 1]);
        assert!(numbers(Some(1), 9).is_empty());
        assert_eq!(all_rows(&*store).expect("read").len(), 1, "events are not kept in memory");
    }
}

#[test]
fn a_range_has_one_kind_in_order_from_where_the_last_one_ended() {
    for store in both() {
        let mut puts: Vec<Row> = (0..3000_u32).map(|n| row(&format!("{n:04}"), 0)).collect();
        puts.push((Key { kind: Kind::Slot, text: "0000".to_owned() }, vec![]));
        puts.push((Key { kind: Kind::Operation, text: "9999".to_owned() }, vec![]));
        store.transact(&[Transaction { puts, ..Transaction::default() }]).expect("written");
        let page = store.range(Kind::Fact, Some("0007"), 2).expect("read");
        assert_eq!(page, [row("0008", 0), row("0009", 0)]);
        assert_eq!(store.range(Kind::Fact, Some("2999"), 9).expect("read"), []);
        assert_eq!(store.range(Kind::Name, None, 9).expect("read"), []);
        let facts = all_rows(&*store).expect("read");
        let facts: Vec<_> = facts.iter().filter(|(key, _)| key.kind == Kind::Fact).collect();
        assert_eq!(facts.len(), 3000);
        assert!(facts.is_sorted());
    }
}
