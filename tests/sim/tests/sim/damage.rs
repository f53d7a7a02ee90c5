//! Damaged file systems: told, checked before they are used, mended whatever is killed.

use ves_proto::Reason;
use ves_sim::sim::Command;
use ves_sim::words as pb;
use ves_sim::{Mishap, Sim, Victim, each_step};

/// One that runs and has written 1 to its files.
fn running(sim: &Sim) {
    sim.run(&Command::create(101, |_| {})).expect("created");
    sim.run(&Command::start("101")).expect("started");
    sim.kernel().write(101, 1);
}

fn damage(sim: &Sim, hopeless: bool) {
    sim.kernel().volumes.damage(101_u32.try_into().expect("valid"), hopeless);
}

fn problem(sim: &Sim) -> String {
    sim.get("101").expect("there").problem
}

fn snapshots(sim: &Sim) -> Vec<ves_proto::api::Snapshot> {
    sim.snapshots_of("101").expect("listed")
}

#[test]
fn it_is_told_and_a_restart_mends_it() {
    let sim = Sim::new();
    running(&sim);
    assert_eq!(problem(&sim), "");
    damage(&sim, false);
    damage(&sim, false);
    assert!(problem(&sim).contains("has met 2 errors"), "{}", problem(&sim));
    assert!(problem(&sim).contains("restart"), "{}", problem(&sim));
    assert_eq!(sim.state("101"), pb::ContainerState::Running);
    let op = sim.run(&Command::restart("101")).expect("restarted");
    let lines = ["not mounted", ", mounted"]
        .map(|end| op.steps.iter().position(|s| s.starts_with("storage") && s.ends_with(end)));
    assert!(lines[0].is_some() && lines[0] < lines[1], "{:?}", op.steps);
    assert_eq!(problem(&sim), "");
    assert_eq!(sim.kernel().read(101), Some(1));

    damage(&sim, false);
    sim.run(&Command::stop("101")).expect("stopped");
    assert!(problem(&sim).contains("when it is next mounted"), "{}", problem(&sim));
    sim.run(&Command::start("101")).expect("checked and started");
    assert_eq!(problem(&sim), "");
}

#[test]
fn events_tell_of_it_without_being_asked() {
    let sim = Sim::new();
    running(&sim);
    let told = || sim.first_told().iter().any(|c| !c.problem.is_empty());
    assert!(!told());
    damage(&sim, false);
    sim.until("it is told", || {
        sim.advance(std::time::Duration::from_secs(300));
        told()
    });
}

#[test]
fn what_a_check_cannot_mend_is_refused_until_it_is_asked_for() {
    let sim = Sim::new();
    running(&sim);
    damage(&sim, true);
    let fault = sim.run(&Command::fsck("101")).expect_err("it runs");
    assert_eq!(fault.reason, Reason::Running, "{fault}");
    sim.run(&Command::stop("101")).expect("stopped");
    let fault = sim.run(&Command::start("101")).expect_err("files may be lost");
    assert_eq!((fault.reason, fault.facts["ct"].as_str()), (Reason::VolumeDamaged, "101"));
    assert_eq!(sim.state("101"), pb::ContainerState::Stopped);
    assert!(snapshots(&sim).is_empty());

    let op = sim.run(&Command::fsck("101")).expect("mended");
    assert_eq!((op.kind.as_str(), op.warnings.len()), ("fsck", 1), "{op:?}");
    let kept = snapshots(&sim);
    assert_eq!((kept.len(), kept[0].title.as_str(), kept[0].damaged), (1, "before-fsck", true));
    assert!(op.warnings[0].contains(&pb::last(&kept[0].name)), "{op:?}");
    assert_eq!(problem(&sim), "");
    sim.run(&Command::start("101")).expect("started");
    sim.run(&Command::stop("101")).expect("stopped");

    // One that is whole is checked, and nothing is kept for that.
    let op = sim.run(&Command::fsck("101")).expect("checked");
    assert_eq!((op.steps, op.warnings), (vec!["storage: volume checked".to_owned()], vec![]));
    assert_eq!(snapshots(&sim).len(), 1);
}

#[test]
fn without_room_for_a_snapshot_it_is_mended_all_the_same() {
    let sim = Sim::new();
    running(&sim);
    sim.run(&Command::stop("101")).expect("stopped");
    damage(&sim, true);
    sim.kernel().volumes.set_pool_bytes(2 << 30);
    let op = sim.run(&Command::fsck("101")).expect("mended");
    assert!(op.warnings[0].contains("no room"), "{op:?}");
    assert!(snapshots(&sim).is_empty());
    sim.run(&Command::start("101")).expect("started");
}

#[test]
fn a_snapshot_of_it_says_so_and_is_checked_when_it_is_gone_back_to() {
    let sim = Sim::new();
    running(&sim);
    let whole = sim.run(&Command::snapshot("101", "whole")).expect("taken");
    assert_eq!(whole.warnings, Vec::<String>::new());
    damage(&sim, false);
    let bad = sim.run(&Command::snapshot("101", "bad")).expect("taken");
    assert!(bad.warnings.len() == 1 && bad.warnings[0].contains("damaged"), "{bad:?}");
    let flags: Vec<_> = snapshots(&sim).into_iter().map(|s| s.damaged).collect();
    assert_eq!(flags, [false, true]);
    sim.run(&Command::restart("101")).expect("mended");
    sim.run(&Command::stop("101")).expect("stopped");
    sim.run(&Command::snapshot_switch("101", &bad.snapshot)).expect("switched");
    assert!(!problem(&sim).is_empty());
    sim.run(&Command::start("101")).expect("checked and started");
    assert_eq!(problem(&sim), "");
}

/// A life with damage.
fn live_through(sim: &Sim, mishap: Option<(usize, Mishap)>) {
    let run = |command: Command| {
        let result = sim.run(&command);
        assert!(result.is_ok(), "{mishap:?}, {command:?}: {result:?}");
    };
    run(Command::create(101, |_| {}));
    run(Command::start("101"));
    sim.kernel().write(101, 1);
    damage(sim, false);
    run(Command::restart("101"));
    run(Command::stop("101"));
    damage(sim, true);
    run(Command::fsck("101"));
    assert_eq!(snapshots(sim).len(), 1, "{mishap:?}");
    assert_eq!((problem(sim).as_str(), sim.kernel().read(101)), ("", Some(1)), "{mishap:?}");
    run(Command::start("101"));
    run(Command::stop("101"));
    run(Command::delete("101"));
}

#[test]
fn a_service_killed_at_each_step() {
    each_step(&Mishap::kills(Victim::Daemon), live_through);
}

#[test]
fn the_coordinator_killed_at_each_step() {
    each_step(&Mishap::kills(Victim::Coordinator), live_through);
}
