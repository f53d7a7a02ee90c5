//! The real binary against the real coordinator and services, on a node in memory: that what one says is what
//! the other takes, and what becomes of it.
//!
//! Never here: how each answer is drawn, which the other modules see.

use rustix::process::Signal;
use ves_sim::{HOLDER, Mishap, Sim, Victim, id};
use ves_types::layout::Daemon;

use crate::program::{out, virtctl_at};
use crate::terminal::Session;

/// Exit status, stdout, stderr.
fn run(sim: &Sim, line: &str) -> (i32, String, String) {
    out(virtctl_at(&sim.socket()).args(line.split_whitespace()))
}

/// What it says when all goes well.
fn said(sim: &Sim, line: &str) -> String {
    let (status, stdout, stderr) = run(sim, line);
    assert_eq!(status, 0, "{line}: {stderr}");
    stdout
}

#[test]
fn a_life_from_create_to_destroy() {
    let sim = Sim::listening();
    let create = "create 101 --ostemplate trixie --name web --hostname w.example --ipadd 192.0.2.1 \
                  --diskspace 1G --numproc 100:100 --onboot yes";
    assert!(said(&sim, create).starts_with("container 101 created in "));
    assert_eq!(said(&sim, "status web"), "CTID 101 exist unmounted down\n");
    said(&sim, "start web --wait");
    let there = sim.kernel().ct(101);
    assert!(there.alive() && there.routed.contains("192.0.2.1"));
    assert_eq!(
        said(&sim, "list -H --fields ctid,name,status,ip"),
        "101  web  running  192.0.2.1\n"
    );
    assert_eq!(run(&sim, "exec web -- false").0, 1);
    said(&sim, "set web --ipadd 2001:db8::1 --cpus 2 --save");
    let there = sim.kernel().ct(101);
    assert_eq!((there.routed.len(), there.group.expect("limits").cpus), (2, Some(2)));
    sim.kernel().write(101, 1);
    said(&sim, "snapshot web --name before");
    sim.kernel().write(101, 2);
    let list = said(&sim, "snapshot-list web -H --fields id,name");
    let id = list.split_whitespace().next().expect("one");
    assert!(list.contains("before"), "{list}");
    let running = run(&sim, &format!("snapshot-switch web --id {id}"));
    assert_ne!(running.0, 0, "it runs");
    said(&sim, "stop web --fast");
    said(&sim, &format!("snapshot-switch web --id {id}"));
    assert_eq!(sim.kernel().read(101), Some(1));
    said(&sim, "restart web");
    assert_ne!(run(&sim, "destroy web").0, 0, "it runs");
    said(&sim, "stop web --fast");
    said(&sim, "destroy web");
    assert!(sim.kernel().is_clean());
    assert_eq!(said(&sim, "status 101"), "CTID 101 deleted unmounted down\n");
}

#[test]
fn who_holds_a_volume_is_named_when_it_is_stopped_and_when_it_cannot_be_destroyed() {
    let sim = Sim::listening();
    said(&sim, "create 101 --ostemplate trixie");
    said(&sim, "start 101");
    sim.kernel().volumes.pin(id(101), true);
    let (status, stdout, stderr) = run(&sim, "stop 101 --fast");
    assert!(status == 0 && stdout.starts_with("container 101 stopped in "), "{stdout}{stderr}");
    let note = format!("the volume is unmounted, and its device still held by {HOLDER}");
    assert_eq!(
        stderr.lines().filter(|line| *line == format!("note: {note}")).count(),
        1,
        "{stderr}"
    );
    let (status, _, stderr) = run(&sim, "destroy 101");
    assert!(status == 41 && stderr.contains(HOLDER), "{status} {stderr}");
    let shown = run(&sim, "status 101");
    assert!(shown.2.contains(HOLDER), "{shown:?}");
    sim.kernel().volumes.pin(id(101), false);
    said(&sim, "destroy 101");
    assert!(sim.kernel().is_clean());
}

#[test]
fn what_the_coordinator_refuses_ends_with_its_status() {
    let sim = Sim::listening();
    said(&sim, "create 101 --ostemplate trixie --ipadd 192.0.2.1");
    for (line, status, says) in [
        ("create 102 --ostemplate woody", 91, "woody"),
        ("create 102 --ostemplate trixie --ipadd 192.0.2.1", 78, "192.0.2.1"),
        ("create 101 --ostemplate trixie", 44, "101"),
        ("start 7", 14, "7"),
        ("stop 101", 31, "101"),
    ] {
        let (got, stdout, stderr) = run(&sim, line);
        assert_eq!((got, stdout.as_str()), (status, ""), "{line}: {stderr}");
        assert!(stderr.contains(says), "{line}: {stderr}");
    }
    assert_eq!(said(&sim, "list -a -1"), "101\n");
}

#[test]
fn containers_are_found_by_labels_and_protected_from_destruction() {
    let sim = Sim::listening();
    said(&sim, "create 101 --ostemplate trixie --label customer=17 --project shop");
    said(&sim, "create 102 --ostemplate trixie --label customer=18 --annotation note=x");
    said(&sim, "start 102");
    assert_eq!(said(&sim, "list -1"), "102\n");
    assert_eq!(said(&sim, "list -S -1"), "101\n");
    assert_eq!(said(&sim, "list --filter labels.customer=17 -1"), "101\n");
    said(&sim, "set 101 --label purpose=web --label customer- --delete-protection yes --save");
    assert_eq!(
        said(&sim, "list -a -H --fields ctid,project --labels customer,purpose"),
        "101  shop  -   web\n102  -     18  -\n"
    );
    let (status, _, stderr) = run(&sim, "list --filter nosuch=1");
    assert!(status == 2 && stderr.contains("nosuch"), "{status} {stderr}");
    let (status, _, stderr) = run(&sim, "destroy 101");
    assert!(status == 211 && stderr.contains("--delete-protection no"), "{status} {stderr}");
    // What only a kept change means something for.
    let (status, _, stderr) = run(&sim, "set 101 --delete-protection no");
    assert!(status == 31 && stderr.contains("; add --save"), "{status} {stderr}");
    said(&sim, "set 101 --delete-protection no --save");
    said(&sim, "destroy 101");
}

#[test]
fn what_was_there_is_told_with_where_to_go_on() {
    let sim = Sim::listening();
    assert_eq!(said(&sim, "watch -H"), "");
    for ct in ["101", "102"] {
        said(&sim, &format!("create {ct} --ostemplate trixie"));
    }
    let events = said(&sim, "watch -o json");
    let events: Vec<serde_json::Value> =
        events.lines().map(|line| serde_json::from_str(line).expect("an object")).collect();
    assert_eq!(
        events.iter().map(|e| e["ctid"].as_u64()).collect::<Vec<_>>(),
        [Some(101), Some(102)]
    );
    assert!(
        events.iter().all(|e| e["event"] == "present" && e["status"] == "stopped"),
        "{events:?}"
    );
    let revisions = [&events[0]["revision"], &events[1]["revision"]];
    assert_ne!(revisions[0], revisions[1], "the last tells from where on nothing is missed");
}

#[test]
fn events_are_read_as_a_log() {
    let sim = Sim::listening();
    assert_eq!(said(&sim, "events -H"), "");
    said(&sim, "create 101 --ostemplate trixie --name web --project shop");
    said(&sim, "create 102 --ostemplate trixie");
    said(&sim, "start web");
    said(&sim, "stop web --fast");
    said(&sim, "set web --description x --save");
    let types = |line: &str| said(&sim, &format!("events -H --fields type,ctid {line}"));
    let all = "created  101\ncreated  102\nstarted  101\nstopped  101\nchanged  101\n";
    assert_eq!(types(""), all, "the newest is the last");
    assert_eq!(types("--limit 2"), "stopped  101\nchanged  101\n");
    assert_eq!(types("102"), "created  102\n");
    assert_eq!(types("web --type started,STOPPED"), "started  101\nstopped  101\n");
    assert_eq!(types("--since 1h"), all);
    assert_eq!(types("--since 2999-01-01"), "");
    assert_eq!(types("999"), "", "what never was has no events");
    let table = said(&sim, "events web --type stopped");
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with("TIME ") && lines[0].contains("TARGET"), "{table}");
    assert!(lines[1].contains("containers/101") && lines[1].ends_with("cause=KILLED"), "{table}");
    let json = said(&sim, "events --type created -o json");
    let json: serde_json::Value = serde_json::from_str(&json).expect("a list");
    assert_eq!((&json[0]["project"], &json[1]["ctid"]), (&"shop".into(), &102.into()), "{json}");
    assert_eq!(
        said(&sim, "events --limit 1 -o csv --fields type,facts"),
        "type,facts\nchanged,fields=description\n"
    );
    assert!(said(&sim, "events --limit 1 -o yaml").starts_with("- name: "));
    assert_eq!(said(&sim, "events --limit 1 -H -o type"), "changed\n");
    // An alias is of the container that has it; one that is gone is known by its id.
    said(&sim, "destroy web");
    assert_eq!(types("101 --limit 1"), "deleted  101\n");
    for (line, status) in [
        ("events web", 14),
        ("events --type nonsense", 2),
        ("events --since yesterday", 2),
        ("events --fields nonsense", 2),
        ("events --follow --fields nonsense", 2),
        ("events --limit x", 2),
        ("events -o nonsense", 2),
    ] {
        let (is, _, stderr) = run(&sim, line);
        assert_eq!(is, status, "{line}: {stderr}");
    }
}

#[test]
fn events_are_followed_over_the_death_of_the_coordinator() {
    let sim = Sim::listening();
    said(&sim, "create 101 --ostemplate trixie");
    let mut session = Session::at(&sim.socket(), "events --follow -o json --fields type,ctid");
    session.expect(r#"{"type":"created","ctid":101}"#);
    said(&sim, "start 101");
    session.expect(r#"{"type":"started","ctid":101}"#);
    sim.kill(Daemon::Coordinator);
    sim.start_daemon(Daemon::Coordinator);
    said(&sim, "stop 101 --fast");
    said(&sim, "create 102 --ostemplate trixie");
    // Neither is anything told twice.
    session
        .expect("\r\n{\"type\":\"stopped\",\"ctid\":101}\r\n{\"type\":\"created\",\"ctid\":102}");
    session.signal(Signal::INT);
    assert_eq!(session.end(), Some(0));
}

#[test]
fn what_a_node_and_its_containers_have_is_shown_in_the_usual_words() {
    let sim = Sim::listening();
    said(
        &sim,
        "create 101 --ostemplate trixie --name web --diskspace 1G --numproc 100:200 --restart always",
    );
    said(&sim, "start web --dry-run");
    said(&sim, "start web");
    said(&sim, "set web --diskspace 2G --description d --stop-timeout 7 --save");
    let fields = "ctid,name,status,restart,stop_timeout,diskspace,description,ostemplate,numproc.b,numproc.l";
    assert_eq!(
        said(&sim, &format!("list -H --fields {fields}")),
        "101  web  running  always  7  2 GiB  d  trixie  100  200\n"
    );
    let rows = said(&sim, "resources web");
    assert_eq!(rows.lines().count(), 22, "{rows}");
    assert!(said(&sim, "node list -H").contains("ready"));
    assert!(said(&sim, "node capacity").contains("numproc "));
    assert_eq!(said(&sim, "top --once -H").lines().count(), 1);
    said(&sim, "stop web --fast");
    said(&sim, "mount web");
    said(&sim, "umount web");
    said(&sim, "fsck web");
    let kinds = said(&sim, "operation list -H --fields kind,ctid,state");
    let kinds: Vec<&str> =
        kinds.lines().map(|l| l.split_whitespace().next().unwrap_or("")).collect();
    assert_eq!(kinds, ["fsck", "umount", "mount", "stop", "set", "start", "create"]);
    let id = said(&sim, "operation list -H --fields id");
    let id = id.lines().last().expect("the oldest");
    let steps = said(&sim, &format!("operation show {id} -o json"));
    let shown: serde_json::Value = serde_json::from_str(&steps).expect("an object");
    assert_eq!((&shown["id"], &shown["kind"]), (&id.into(), &"create".into()));
    assert_eq!(shown["steps"][0], "storage: volume of 1 GiB from trixie, not mounted");
}

#[test]
fn a_coordinator_that_dies_is_asked_again_and_the_call_stays_one() {
    for n in 0..5 {
        let sim = Sim::listening();
        said(&sim, "create 101 --ostemplate trixie");
        sim.script().at_call(n, Mishap::KillAfter(Victim::Coordinator));
        said(&sim, "start 101");
        assert!(sim.script().end(), "it died");
        let there = sim.kernel().ct(101);
        assert_eq!((there.alive(), there.process.starts), (true, 1));
        let starts = said(&sim, "operation list -H --fields kind");
        assert_eq!(starts.matches("start").count(), 1, "{starts}");
    }
}
