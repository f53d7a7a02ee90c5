//! Rows of earlier releases, as this one writes them. Pure.
//!
//! A store is brought up to date as a whole when it is opened, in one transaction: what one row of an
//! earlier release says may belong into another one now. A row that cannot be understood stays as it
//! is, so that whoever reads it reports it. Each version has a store of its release as a fixture in
//! `tests/sim`.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use uuid::Uuid;
use ves_types::NodeName;

use super::record::{VERSION, version};
use super::{Key, Kind, Row, Transaction};

/// The same rows as this release writes them, for the node whose store they are, and what of that is
/// not in the store yet. Containers of a release that gave them no uid get one of `new_uid`.
pub fn migrate(
    rows: Vec<Row>,
    node: &NodeName,
    mut new_uid: impl FnMut() -> Uuid,
) -> (Vec<Row>, Transaction) {
    let mut old: BTreeMap<Key, (u32, Value)> = BTreeMap::new();
    for (key, bytes) in rows.iter().filter(|(key, _)| has_envelope(key.kind)) {
        if let Some(found) = older_record(bytes) {
            old.insert(key.clone(), found);
        }
    }
    if old.is_empty() {
        return (rows, Transaction::default());
    }
    let mut before = BTreeMap::new();
    for (key, (version, record)) in &mut old {
        let Value::Object(fields) = record else { continue };
        match (key.kind, *version) {
            (Kind::Container, 1) => container_2(fields),
            (Kind::Operation, 1) => before.extend(operation_2(fields)),
            _ => {}
        }
        match (key.kind, *version) {
            (Kind::Container, 1 | 2) => container_3(fields, node, new_uid()),
            (Kind::Operation, 1 | 2) => operation_3(fields, node),
            (Kind::Operation, 3) => operation_4(fields),
            // Version 4 has more of a container, which an earlier release would drop; what is not there is empty.
            _ => {}
        }
    }
    for (ct, (spec, running)) in before {
        let key = Key { kind: Kind::Container, text: ct };
        let container = old.get_mut(&key).and_then(|(_, record)| record.get_mut("reserved"));
        if let Some(reserved) = container {
            reserved["spec"] = spec;
            reserved["running"] = running;
        }
    }
    let mut news = Transaction::default();
    let new = |(key, bytes): Row| {
        let Some((_, record)) = old.remove(&key) else { return (key, bytes) };
        let bytes = json!({ "version": VERSION, "record": record }).to_string().into_bytes();
        news.puts.push((key.clone(), bytes.clone()));
        (key, bytes)
    };
    let rows = rows.into_iter().map(new).collect();
    (rows, news)
}

/// Whether rows of this kind are records; the others are claims, which are numbers, and events, which are
/// messages of the public API.
const fn has_envelope(kind: Kind) -> bool {
    match kind {
        Kind::Container
        | Kind::Operation
        | Kind::Request
        | Kind::Fact
        | Kind::Token
        | Kind::Usage => true,
        Kind::Name | Kind::Address | Kind::Slot | Kind::Event => false,
    }
}

/// The record of a row of an earlier version, and that version. Most rows are new, and not understood as a
/// whole for that.
fn older_record(bytes: &[u8]) -> Option<(u32, Value)> {
    let version = version(bytes).filter(|version| (1..VERSION).contains(version))?;
    let mut row: Value = serde_json::from_slice(bytes).ok()?;
    Some((version, row["record"].take()))
}

fn rename(fields: &mut Map<String, Value>, from: &str, to: &str) {
    if let Some(value) = fields.remove(from) {
        fields.insert(to.to_owned(), value);
    }
}

/// Version 2 has plain names, and one field for the first generation of a container that is being
/// created.
fn container_2(fields: &mut Map<String, Value>) {
    rename(fields, "residue", "maybe_dirty");
    rename(fields, "held", "reserved");
    let birth = fields.remove("birth").unwrap_or(Value::Null);
    let unborn = fields.remove("unborn").and_then(|unborn| unborn.as_bool()).unwrap_or_default();
    fields.insert("creating_since".to_owned(), if unborn { birth } else { Value::Null });
    fields.entry("snapshot").or_insert(Value::Null);
    let reserved = fields
        .entry("reserved")
        .or_insert_with(|| json!({ "addresses": [], "names": [], "running": null }));
    reserved["spec"] = Value::Null;
}

/// Version 2 has stages by name, and what a container was before a change in the container's record:
/// answers with that (whose, what was saved, and what it ran with where that differed).
fn operation_2(fields: &mut Map<String, Value>) -> Option<(String, (Value, Value))> {
    let ct = fields.get("ct").map(Value::to_string);
    let working = fields.get("state").and_then(Value::as_str) == Some("running");
    let entered = fields.get("stage").and_then(Value::as_u64).unwrap_or(0);
    let mut before = None;
    let action = fields.get_mut("action")?;
    if let Some(set) = action.as_object_mut().filter(|a| a.get("do") == Some(&json!("set"))) {
        rename(set, "otherwise", "set_mode");
        set.entry("set_mode").or_insert(json!("refuse"));
        if set.get("running") == set.get("spec") {
            set.insert("running".to_owned(), Value::Null);
        }
        let (spec, running) = (set.remove("old_spec")?, set.remove("old_running")?);
        let running = if running == spec { Value::Null } else { running };
        before = ct.filter(|_| working).map(|ct| (ct, (spec, running)));
    }
    let stages = stages_1(action);
    let last = usize::try_from(entered).unwrap_or(usize::MAX).min(stages.len());
    let stage = last.checked_sub(1).and_then(|n| stages.get(n));
    fields.insert("stage".to_owned(), json!(stage));
    before
}

/// Version 3 says of each container which it is among all there ever were, and where.
fn container_3(fields: &mut Map<String, Value>, node: &NodeName, uid: Uuid) {
    fields.insert("uid".to_owned(), json!(uid));
    fields.insert("node".to_owned(), json!(node));
}

/// Version 3 has a digest with a request's id.
fn operation_3(fields: &mut Map<String, Value>, node: &NodeName) {
    fields.insert("node".to_owned(), json!(node));
    let id = fields.remove("request_id").filter(|id| id != "");
    let request = id.map(|id| json!({ "id": id, "digest": null }));
    fields.insert("request".to_owned(), json!(request));
}

/// The digest of version 3 was of a call that cannot be made any more.
fn operation_4(fields: &mut Map<String, Value>) {
    if let Some(request) = fields.get_mut("request").and_then(Value::as_object_mut) {
        request.insert("digest".to_owned(), Value::Null);
    }
}

/// The stages that version 1 counted, by the names of version 2.
fn stages_1(action: &Value) -> &'static [&'static str] {
    let is = |field: &str| action.get(field) == Some(&json!(true));
    match action.get("do").and_then(Value::as_str).unwrap_or_default() {
        "create" => &["created"],
        "start" => &["running"],
        "mount" => &["mounted"],
        "stop" if is("keep_mounted") => &["mounted"],
        "stop" | "umount" => &["stopped"],
        "restart" => &["mounted", "running"],
        "set" if is("restart") => &["stopped", "changed", "running"],
        "set" => &["changed"],
        "destroy" => &["gone"],
        "repair" => &["repaired"],
        "snapshot" => &["snapshot_taken"],
        "snapshot_switch" => &["snapshot_switched"],
        "snapshot_delete" => &["snapshot_deleted"],
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(kind: Kind, text: &str, version: u32, record: impl Into<Value>) -> Row {
        let bytes = json!({ "version": version, "record": record.into() }).to_string().into_bytes();
        (Key { kind, text: text.to_owned() }, bytes)
    }

    fn migrated(rows: Vec<Row>) -> (Vec<Row>, Transaction) {
        migrate(rows, &"n1".parse().expect("a name"), || Uuid::from_u128(7))
    }

    fn record_of((_, bytes): &Row) -> Value {
        let mut row: Value = serde_json::from_slice(bytes).expect("JSON");
        assert_eq!(row["version"], json!(VERSION));
        row["record"].take()
    }

    #[test]
    fn what_is_new_or_not_understood_stays() {
        let garbage = (Key { kind: Kind::Container, text: "1".to_owned() }, b"\0".to_vec());
        let rows = vec![
            garbage,
            row(Kind::Container, "101", VERSION, json!({"id": 101})),
            row(Kind::Operation, "x", VERSION + 1, json!({})),
            (Key { kind: Kind::Name, text: "web".to_owned() }, b"101".to_vec()),
        ];
        assert_eq!(migrated(rows.clone()), (rows, Transaction::default()));
    }

    #[test]
    fn a_fact_only_has_another_version() {
        for version in 1..VERSION {
            let (rows, news) = migrated(vec![row(Kind::Fact, "boot", version, json!("x"))]);
            assert_eq!(rows, vec![row(Kind::Fact, "boot", VERSION, json!("x"))]);
            assert_eq!(news.puts, rows);
            assert_eq!(migrated(rows.clone()), (rows, Transaction::default()), "once");
        }
    }

    #[test]
    fn containers_and_operations_say_where_and_which_they_are() {
        let (rows, _) = migrated(vec![
            row(Kind::Container, "101", 2, json!({ "id": 101 })),
            row(Kind::Operation, "x", 2, json!({ "ct": 101, "request_id": "root/order-1" })),
            row(Kind::Operation, "y", 2, json!({ "ct": 101, "request_id": "" })),
        ]);
        let uid = Uuid::from_u128(7);
        assert_eq!(record_of(&rows[0]), json!({ "id": 101, "node": "n1", "uid": uid }));
        let request = json!({ "id": "root/order-1", "digest": null });
        assert_eq!(record_of(&rows[1]), json!({ "ct": 101, "node": "n1", "request": request }));
        assert_eq!(record_of(&rows[2]), json!({ "ct": 101, "node": "n1", "request": null }));
    }

    #[test]
    fn a_request_of_the_earlier_api_is_known_by_its_id() {
        let request = json!({ "id": "root/order-1", "digest": "ab" });
        let (rows, _) = migrated(vec![
            row(Kind::Operation, "x", 3, json!({ "ct": 101, "request": request })),
            row(Kind::Operation, "y", 3, json!({ "ct": 101, "request": null })),
        ]);
        let request = json!({ "id": "root/order-1", "digest": null });
        assert_eq!(record_of(&rows[0]), json!({ "ct": 101, "request": request }));
        assert_eq!(record_of(&rows[1]), json!({ "ct": 101, "request": null }));
    }

    #[test]
    fn what_was_before_a_change_moves_to_the_container_while_it_is_under_way() {
        let action = json!({
            "do": "set", "spec": "new", "running": "new", "old_spec": "old", "old_running": "ran",
            "restart": true, "otherwise": "later",
        });
        for (state, spec, running) in
            [("running", json!("old"), json!("ran")), ("failed", Value::Null, Value::Null)]
        {
            let op = json!({ "ct": 101, "state": state, "stage": 0, "action": action });
            let held = json!({ "addresses": [], "names": ["web"], "running": null });
            let old = vec![
                row(Kind::Container, "101", 1, json!({ "held": held, "birth": 4, "unborn": true })),
                row(Kind::Operation, "x", 1, op),
            ];
            let (rows, _) = migrated(old);
            let container = record_of(&rows[0]);
            let reserved =
                json!({ "addresses": [], "names": ["web"], "spec": spec, "running": running });
            assert_eq!(container["reserved"], reserved);
            assert_eq!(container["creating_since"], json!(4));
            let op = record_of(&rows[1]);
            assert_eq!(op["action"]["set_mode"], json!("later"));
            assert_eq!(op["action"]["running"], Value::Null, "as what is saved");
            assert!(op["action"].get("old_spec").is_none());
        }
    }

    #[test]
    fn stages_have_names() {
        for (action, entered, stage) in [
            (json!({ "do": "restart", "grace_ms": 5, "wait": false }), 1, json!("mounted")),
            (json!({ "do": "restart", "grace_ms": 5, "wait": false }), 2, json!("running")),
            (json!({ "do": "stop", "grace_ms": 5, "keep_mounted": true }), 1, json!("mounted")),
            (json!({ "do": "create" }), 1, json!("created")),
            (json!({ "do": "create" }), 0, Value::Null),
        ] {
            let op = json!({ "ct": 101, "state": "running", "stage": entered, "action": action });
            let (rows, _) = migrated(vec![row(Kind::Operation, "x", 1, op)]);
            let op = record_of(&rows[0]);
            assert_eq!(op["stage"], stage, "{action} {entered}");
        }
    }
}
