//! The real binary against the real coordinator and services, on a node in memory: that what one says is what
//! the other takes, and what becomes of it.
//!
//! Never here: how each answer is drawn, which the other modules see.

use ves_sim::{HOLDER, Mishap, Sim, Victim, id};

use crate::program::{out, virtctl_at};

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
