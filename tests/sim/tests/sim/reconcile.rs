//! What the coordinator does by itself: half-way states are resumed, a few at once, and operators do not
//! wait for that.

use std::time::Duration;

use ves_proto::Reason;
use ves_sim::sim::Command;
use ves_sim::words as pb;
use ves_sim::{HOLDER, Mishap, Sim, id};
use ves_types::layout::Daemon;

/// After so long everything is looked at again.
const A_WHILE: Duration = Duration::from_secs(300);

fn operations(sim: &Sim) -> Vec<pb::Operation> {
    sim.all_operations()
}

#[test]
fn a_destroy_that_failed_is_resumed_without_a_restart() {
    let sim = Sim::new();
    sim.run(&Command::create(101, |_| {})).expect("created");
    let mishap = Mishap::FailBefore(Reason::HostFailed);
    sim.script().at_call_of(101, "RemoveVolume", 0, mishap);
    let fault = sim.run(&Command::delete("101")).expect_err("its volume stays");
    assert_eq!(fault.reason, Reason::HostFailed);
    let gone = || sim.get("101").is_err_and(|f| f.reason == Reason::ContainerUnknown);
    sim.until("it is gone", || {
        sim.advance(A_WHILE);
        gone()
    });
    assert!(sim.kernel().is_clean(), "{:?}", sim.kernel().ct(101));
}

#[test]
fn a_volume_that_is_held_is_stopped_started_and_told_of() {
    let sim = Sim::new();
    sim.run(&Command::create(101, |_| {})).expect("created");
    sim.run(&Command::start("101")).expect("started");
    sim.kernel().volumes.pin(id(101), true);
    for _ in 0..2 {
        let op = sim.run(&Command::stop("101")).expect("stopped");
        assert!(op.warnings.iter().any(|told| told.contains(HOLDER)), "{:?}", op.warnings);
        assert_eq!(sim.state("101"), pb::ContainerState::Stopped);
        sim.run(&Command::start("101")).expect("started");
        assert_eq!(sim.state("101"), pb::ContainerState::Running);
    }
    sim.kernel().volumes.pin(id(101), false);
    let op = sim.run(&Command::stop("101")).expect("stopped");
    assert!(!op.warnings.iter().any(|told| told.contains(HOLDER)), "{:?}", op.warnings);
    sim.run(&Command::delete("101")).expect("gone");
    assert!(sim.kernel().is_clean(), "{:?}", sim.kernel().ct(101));
}

#[test]
fn a_destroy_that_somebody_keeps_goes_on_by_and_by_and_ends_by_itself() {
    let sim = Sim::new();
    sim.run(&Command::create(101, |_| {})).expect("created");
    sim.run(&Command::start("101")).expect("started");
    sim.kernel().volumes.pin(id(101), true);
    sim.run(&Command::stop("101")).expect("stopped");
    for _ in 0..2 {
        let fault = sim.run(&Command::delete("101")).expect_err("it is tried at once");
        assert_eq!(fault.reason, Reason::Mounted);
        assert_eq!(fault.facts.get("holder").map(String::as_str), Some(HOLDER));
        let shown = sim.get("101").expect("its image is there, and counts");
        assert_eq!(shown.state(), pb::ContainerState::Deleting);
        assert!(shown.problem.contains(HOLDER), "{}", shown.problem);
    }
    let before = operations(&sim).len();
    let tried = || operations(&sim).len() - before;
    let seconds_until = |times: usize| {
        let second = || {
            sim.advance(Duration::from_secs(1));
            sim.pause(20);
        };
        (1..3000_u64).take_while(|_| tried() < times).inspect(|_| second()).count()
    };
    let soon = seconds_until(3);
    assert!(soon < 100, "long before everything is looked at: {soon} s");
    let late = seconds_until(5);
    assert!((10..200).contains(&late), "less and less often: {late} s");
    sim.restart(Daemon::Coordinator);
    sim.kernel().volumes.pin(id(101), false);
    sim.until("nobody keeps it", || {
        sim.advance(Duration::from_secs(1));
        sim.get("101").is_err_and(|f| f.reason == Reason::ContainerUnknown)
    });
    assert!(sim.kernel().is_clean(), "{:?}", sim.kernel().ct(101));
}

#[test]
fn a_refusal_that_is_known_is_not_tried_for_ever() {
    let sim = Sim::new();
    sim.run(&Command::create(101, |_| {})).expect("created");
    sim.kernel().lose_volume(101);
    sim.until("it is seen that its volume is lost", || {
        sim.advance(A_WHILE);
        sim.state("101") == pb::ContainerState::Broken
    });
    let (before, looks) = (operations(&sim).len(), sim.script().looks());
    sim.until("it was looked at thrice, and acted upon twice", || {
        sim.advance(A_WHILE);
        sim.script().looks() >= looks + 3
    });
    assert_eq!(operations(&sim).len(), before, "nothing new is known");
}

#[test]
fn repairs_are_few_at_once_and_operators_do_not_wait_for_them() {
    let sim = Sim::configured(|config| config.repair_parallel = 2);
    for ct in 101..109 {
        sim.run(&Command::create(ct, |_| {})).expect("created");
        sim.run(&Command::start(&ct.to_string())).expect("started");
    }
    sim.kill(Daemon::Coordinator);
    sim.lose_fences(Daemon::Network);
    for ct in 101..109 {
        sim.script().at_call_of(ct, "EnsureInterface", 0, Mishap::HangBefore);
    }
    sim.start_daemon(Daemon::Coordinator);
    let repairs = || operations(&sim).iter().filter(|op| op.kind == "repair").count();
    sim.until("as many as may be are at work", || repairs() == 2);
    sim.run(&Command::create(900, |_| {})).expect("nobody waits for repairs");
    sim.run(&Command::start("900")).expect("nor to start");
    assert_eq!(repairs(), 2, "the others wait for their turn, and are free for whoever asks");
    let waiting = (101..109).find(|ct| !sim.script().hangs(*ct)).expect("six of them");
    sim.run(&Command::stop(&waiting.to_string())).expect("not busy");
}

#[test]
fn operations_that_ended_are_kept_by_number_too() {
    let sim = Sim::configured(|config| config.keep_operations = 3);
    for ct in 101..108 {
        sim.run(&Command::create(ct, |_| {})).expect("created");
    }
    sim.restart(Daemon::Coordinator);
    sim.until("the newest are left", || operations(&sim).len() == 3);
    let newest: Vec<_> = operations(&sim).iter().map(|op| op.ct).collect();
    assert_eq!(newest, [107, 106, 105]);
}
