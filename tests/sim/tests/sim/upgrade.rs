//! Stores that earlier releases left: all that is in them is shown, owned and carried on as it was.
//!
//! What is in them, and how one is added at each release: see [`ves_sim::kept`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use ves_coordinator::clock::{Clock as _, SystemClock};
use ves_coordinator::container::record::Record;
use ves_coordinator::operation::record::{OpId, OpRecord};
use ves_coordinator::store::migrate::migrate;
use ves_coordinator::store::{Key, Kind, record};
use ves_coordinator::usage::accrued::Accrued;
use ves_proto::api;
use ves_proto::{Fault, Reason};
use ves_sim::Sim;
use ves_sim::kept::Kept;
use ves_sim::kept::answers::{self, Operation, Outcome};
use ves_sim::sim::{Command, PATIENCE};
use ves_sim::words as pb;

/// What a release since has under another name, or in another form (`None`; then another test sees that
/// it is kept). Nothing else may be missing or different when rows are brought up to date.
const RESHAPED: &[(&str, Option<&str>)] = &[
    ("containers.birth", None),
    ("containers.unborn", None),
    ("containers.held", Some("containers.reserved")),
    ("containers.residue", Some("containers.maybe_dirty")),
    ("operations.action.old_running", None),
    ("operations.action.old_spec", None),
    ("operations.action.otherwise", Some("operations.action.set_mode")),
    // Of a change that is the same for both.
    ("operations.action.running", None),
    ("operations.request_id", Some("operations.request.id")),
    ("operations.stage", None),
];

/// The path of what was at `path`, if it is kept in the same form.
fn path_now(path: &str) -> Option<String> {
    let own = RESHAPED.iter().find_map(|(old, new)| Some((path.strip_prefix(old)?, new)));
    match own {
        None => Some(path.to_owned()),
        Some((rest, new)) => new.map(|new| format!("{new}{rest}")),
    }
}

/// Everything in a value that is no list and no map, by its path; lists have no numbers where `flat`.
fn leaves(value: &Value, path: &str, flat: bool, into: &mut BTreeMap<String, Vec<Value>>) {
    match value {
        Value::Object(map) => {
            map.iter().for_each(|(k, v)| leaves(v, &format!("{path}.{k}"), flat, into));
        }
        Value::Array(list) if flat => list.iter().for_each(|v| leaves(v, path, flat, into)),
        Value::Array(list) => {
            let numbered = list.iter().enumerate();
            numbered.for_each(|(n, v)| leaves(v, &format!("{path}[{n}]"), flat, into));
        }
        leaf => into.entry(path.to_owned()).or_default().push(leaf.clone()),
    }
}

/// The differences of two things, to be read.
fn differences(what: &str, now: &impl Serialize, then: &impl Serialize) -> Vec<String> {
    let flat = |value: serde_json::Result<Value>| {
        let mut all = BTreeMap::new();
        leaves(&value.expect("it has a JSON form"), what, false, &mut all);
        all
    };
    let now = flat(serde_json::to_value(now));
    let then = flat(serde_json::to_value(then));
    let differs = |path: &&String| now.get(*path) != then.get(*path);
    let paths: BTreeSet<_> = now.keys().chain(then.keys()).collect();
    let line = |path: &String| format!("{path}: {:?}, was {:?}", now.get(path), then.get(path));
    paths.into_iter().filter(|p| differs(p)).map(line).collect()
}

fn same(what: &str, now: &impl Serialize, then: &impl Serialize) {
    let differences = differences(what, now, then);
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// Reads a row that was brought up to date and writes it anew: it is the same, and nothing of what an
/// earlier release wrote is lost.
fn survives<T: DeserializeOwned + Serialize + PartialEq + std::fmt::Debug>(
    key: &Key,
    old: &[u8],
    new: &[u8],
) {
    let name = format!("{}/{}", key.kind.table(), key.text);
    let value: T = record::read(key, new).expect(&name);
    let written = record::write(key, &value).expect(&name);
    assert_eq!(record::read::<T>(key, &written), Ok(value), "{name}");
    let flat = |bytes: &[u8]| {
        let value: Value = serde_json::from_slice(bytes).expect("JSON");
        let mut all = BTreeMap::new();
        leaves(&value["record"], key.kind.table(), true, &mut all);
        all
    };
    let written = flat(&written);
    for (path, old) in flat(old) {
        let Some(now) = path_now(&path) else { continue };
        // A default need not be written.
        let nothing =
            old.iter().all(|v| matches!(v.to_string().as_str(), "null" | "false" | "0" | "\"\""));
        let kept = written.get(&now).map_or(nothing, |new| *new == old);
        assert!(kept, "{name}: {path}: {:?}, was {old:?}", written.get(&now));
    }
}

#[test]
fn every_row_is_read_and_loses_nothing_when_it_is_written() {
    for kept in Kept::all() {
        let mut rows = BTreeMap::new();
        let node = "n1".parse().expect("a name");
        let (new, _) = migrate(kept.rows(), &node, || SystemClock.new_id());
        for ((key, old), (_, new)) in kept.rows().into_iter().zip(new) {
            match key.kind {
                Kind::Container => survives::<Record>(&key, &old, &new),
                Kind::Operation => survives::<OpRecord>(&key, &old, &new),
                Kind::Request => survives::<OpId>(&key, &old, &new),
                Kind::Fact => survives::<String>(&key, &old, &new),
                Kind::Usage => survives::<Accrued>(&key, &old, &new),
                Kind::Name | Kind::Address | Kind::Slot | Kind::Event | Kind::Token => {}
            }
            *rows.entry(key.kind).or_insert(0) += 1;
        }
        let known = &kept.known;
        for (kind, count) in [
            (Kind::Container, known.stored.containers.len()),
            (Kind::Operation, known.stored.operations.len()),
            (Kind::Request, known.requests.len()),
            (Kind::Name, known.names.len()),
            (Kind::Address, known.addresses.len()),
            (Kind::Slot, known.slots.len()),
        ] {
            assert!(count > 0 && rows[&kind] == count, "{}: {kind:?}", known.release);
        }
    }
}

#[test]
fn what_is_stored_is_shown_and_owned_as_it_was() {
    let all = Kept::all();
    assert!(!all.is_empty());
    for kept in all {
        let known = &kept.known;
        // Nothing is carried on, so that what changes under way hold is held.
        let sim = kept.resume(true);
        let stored = answers::stored(&sim);
        same("stored", &stored, &known.stored);
        for ct in stored.containers.iter().filter(|c| !c.spec.name.is_empty()) {
            assert_eq!(sim.get(&ct.spec.name).expect("by its name").id, ct.id);
        }
        let refused = |change: &dyn Fn(&mut pb::ContainerSpec)| {
            sim.run(&new(900, change)).expect_err("it is somebody's")
        };
        let taken = |fault: Fault| (fault.reason, fault.facts["holder"].clone());
        for (name, holder) in &known.names {
            let fault = refused(&|s| s.name.clone_from(name));
            assert_eq!(taken(fault), (Reason::NameTaken, holder.to_string()), "{name}");
        }
        for (address, holder) in &known.addresses {
            let fault = refused(&|s| s.addresses = vec![address.clone()]);
            assert_eq!(taken(fault), (Reason::AddressTaken, holder.to_string()), "{address}");
        }
        for ct in &stored.containers {
            let fault = sim.run(&new(ct.id, |_| {})).expect_err("it is there");
            assert_eq!(fault.reason, Reason::ContainerExists, "{fault}");
        }
        for ct in 901..904 {
            sim.run(&new(ct, |_| {})).expect("another one");
            let made = sim.get(&ct.to_string()).expect("made");
            assert!(made.generation > known.floor, "{} after {}", made.generation, known.floor);
            let mount = pb::StartContainerRequest {
                ct: ct.to_string(),
                mount_only: true,
                ..Default::default()
            };
            sim.run(&Command::Start(mount)).expect("mounted");
            let slot = sim.kernel().ct(ct).volume.expect("made").slot.expect("it is mounted");
            assert!(!known.slots.contains(&slot), "{slot}");
        }
    }
}

#[test]
fn what_was_unfinished_is_carried_on_to_the_same_end() {
    for kept in Kept::all() {
        let sim = kept.resume(false);
        comes_to("resumed", &sim, &kept, &kept.known.resumed);
        repeated(&sim, &kept);
    }
}

#[test]
fn after_a_boot_it_comes_to_the_same_end() {
    for kept in Kept::all() {
        let sim = kept.boot();
        comes_to("booted", &sim, &kept, &kept.known.booted);
    }
}

/// Where more is asked now than was then: where a service refuses its part, and another is asked at the same
/// time; and where a volume is to go that storage does not show, of which a mount may be left.
const ASKED_MORE: &[u32] = &[270, 282];

/// Taken away before init was let go: what that release was tested with called it an end.
const NEVER_RAN: &[u32] = &[113, 214, 254];

/// Its processes were made for a change and had not begun when it was taken back: they are made anew, which
/// what that release was tested with did not do.
const MADE_ANEW: u32 = 266;

/// Waits for what the release that wrote the store led to.
fn comes_to(what: &str, sim: &Sim, kept: &Kept, then: &Outcome) {
    let until = Instant::now() + PATIENCE;
    let comparable = |outcome: Outcome| {
        let mut outcome = outcome.without_order().without_inventions();
        outcome.asked.retain(|ct, _| !ASKED_MORE.contains(ct));
        for ct in NEVER_RAN {
            outcome.real.entry(*ct).or_default().end = 0;
        }
        // Those releases gave each container a name of its own; a default is nobody's choice now.
        for (ct, real) in &mut outcome.real {
            if real.hostname == format!("ct{ct}") {
                real.hostname.clear();
            }
        }
        outcome
    };
    let then = comparable(then.clone());
    loop {
        let mut now = comparable(answers::outcome(sim, &kept.known.stored));
        // A service may say more by now.
        for (id, end) in &mut now.finished {
            let known = then.finished.get(id).map(|end| &end.facts);
            end.facts.retain(|name, _| known.is_none_or(|known| known.contains_key(name)));
        }
        if let (Some(now), Some(then)) = (now.real.get_mut(&MADE_ANEW), then.real.get(&MADE_ANEW))
            && (now.hostname.as_str(), then.hostname.as_str()) == ("", "renamed")
        {
            now.hostname.clone_from(&then.hostname);
        }
        if now == then {
            return;
        }
        if Instant::now() > until {
            same(what, &now, &then);
        }
        sim.pause(20);
    }
}

/// Each request is asked for again: it is the operation that it was, and nothing is done.
fn repeated(sim: &Sim, kept: &Kept) {
    let known = &kept.known;
    let before = answers::operations(sim);
    for (request, id) in &known.requests {
        let (principal, request) = request.split_once('/').expect("whose it is");
        let is = |op: &&Operation| op.id == *id;
        let op = known.stored.operations.iter().find(is).expect("it is kept");
        assert_eq!(op.principal, principal);
        assert_eq!(again(sim, op, request).expect("known").id, *id, "{request}: {op:?}");
    }
    same("operations", &answers::operations(sim), &before);
}

fn again(sim: &Sim, op: &Operation, request: &str) -> Result<pb::Operation, Fault> {
    let ct = op.ct.to_string();
    let command = match op.kind.as_str() {
        "create" => Command::create(op.ct, |_| {}),
        "start" => Command::start(&ct),
        "mount" => {
            Command::Start(pb::StartContainerRequest { ct, mount_only: true, ..Default::default() })
        }
        "stop" => Command::stop(&ct),
        "umount" => {
            Command::Stop(pb::StopContainerRequest { ct, unmount_only: true, ..Default::default() })
        }
        "restart" => Command::restart(&ct),
        "set" => Command::set(&ct, &["description"], pb::ContainerSpec::default()),
        "destroy" => Command::delete(&ct),
        "snapshot" => Command::snapshot(&ct, ""),
        "snapshot-switch" => Command::snapshot_switch(&ct, &op.snapshot),
        "snapshot-delete" => Command::snapshot_delete(&ct, &op.snapshot),
        "template build" => {
            let (name, suite) = ("templates/again".to_owned(), "trixie".to_owned());
            let request_id = request.to_owned();
            let request =
                api::BuildTemplateRequest { name, suite, request_id, ..Default::default() };
            let answer = sim.block(sim.templates().build_template(request));
            return answer.map(|op| op.into_inner().into()).map_err(Fault::from);
        }
        other => unreachable!("nobody asks for {other}"),
    };
    let command = command.with_request_id(request);
    sim.ask(|| command.clone().send(sim.channel()))
}

/// A create that no release has asked for.
fn new(id: u32, change: impl FnOnce(&mut pb::ContainerSpec)) -> Command {
    Command::create(id, change).with_request_id("")
}
