//! One id, several lives: what an earlier container left is neither adopted nor taken away unasked.

use ves_proto::{Fault, Reason};
use ves_sim::sim::Command;
use ves_sim::words as pb;
use ves_sim::{Mishap, Sim, Victim};
use ves_types::layout::Daemon;

/// The coordinator's store is lost while everything else stays.
fn lose_store(sim: &Sim) {
    sim.kill(Daemon::Coordinator);
    sim.store().lose();
    sim.start_daemon(Daemon::Coordinator);
    sim.until("it is back", || sim.get("101").is_err_and(|f| f.reason == Reason::ContainerUnknown));
}

fn create_auto(sim: &Sim) -> u32 {
    sim.run(&Command::create(0, |_| {})).expect("created").ct
}

fn is_foreign(fault: &Fault) {
    assert_eq!(fault.reason, Reason::ForeignContents, "{fault}");
    assert!(fault.message.contains("destroy it"), "{fault}");
    assert_eq!(fault.facts["ct"], "101");
}

#[test]
fn a_lost_store_gives_nobody_anothers_files() {
    let sim = Sim::new();
    sim.run(&Command::create(101, |_| {})).expect("created");
    let before = sim.kernel().ct(101);
    lose_store(&sim);
    let changes = sim.script().log().len();
    is_foreign(&sim.run(&Command::create(101, |_| {})).expect_err("there"));
    assert_eq!(sim.kernel().ct(101), before);
    assert_eq!(sim.script().log().len(), changes, "nothing was asked of any service");
    assert_eq!(sim.get("101").expect_err("none").reason, Reason::ContainerUnknown);
    assert_eq!(create_auto(&sim), 102, "the next id that is free");
    assert_eq!(sim.kernel().ct(101), before);
    sim.run(&Command::delete("101")).expect("cleared");
    assert!(sim.kernel().ct(101).volume.is_none());
    sim.run(&Command::create(101, |_| {})).expect("free now");
}

#[test]
fn the_driver_looks_too_and_rolls_back_around_what_is_foreign() {
    let sim = Sim::new();
    sim.run(&Command::create(101, |_| {})).expect("created");
    sim.run(&Command::start("101")).expect("started");
    let before = sim.kernel().ct(101);
    lose_store(&sim);
    // With a service away nobody can be sure before the operation is stored.
    sim.kill(Daemon::Network);
    let create = Command::create(101, |_| {});
    let op = sim.ask(|| create.clone().send(sim.channel())).expect("begun");
    sim.start_daemon(Daemon::Network);
    let end = sim.end_of(&op.id);
    assert_eq!(end.state(), pb::OperationState::Failed);
    is_foreign(&end.fault.expect("failed"));
    assert_eq!(sim.kernel().ct(101), before, "it still runs");
    assert_eq!(sim.get("101").expect_err("taken back").reason, Reason::ContainerUnknown);
}

#[test]
fn destroy_clears_what_nobody_knows() {
    let sim = Sim::new();
    let create = |id, n: u8| Command::create(id, |s| s.addresses = vec![format!("192.0.2.{n}")]);
    sim.run(&create(101, 1)).expect("created");
    sim.run(&Command::start("101")).expect("started");
    lose_store(&sim);
    is_foreign(&sim.run(&create(101, 1)).expect_err("it runs"));
    let dry = pb::DeleteContainerRequest { ct: "101".into(), dry_run: true, ..Default::default() };
    let dry = sim.ask(|| Command::Delete(dry.clone()).send(sim.channel())).expect("planned");
    let steps = dry.steps.iter().filter(|s| !s.starts_with("  "));
    assert_eq!(steps.count(), 5, "{:?}", dry.steps);
    assert!(sim.kernel().ct(101).alive());
    let destroy = Command::delete("101");
    let op = sim.run(&destroy).expect("cleared");
    assert!(sim.kernel().is_clean(), "{:?}", sim.kernel().ct(101));
    assert_eq!(sim.run(&destroy).expect("the same request").id, op.id);
    let nothing = sim.run(&Command::delete("101")).expect_err("nothing at all");
    assert_eq!(nothing.reason, Reason::ContainerUnknown);
    sim.run(&create(101, 1)).expect("free now");
    sim.run(&Command::start("101")).expect("started");
}

#[test]
fn a_later_life_has_later_generations() {
    let sim = Sim::new();
    sim.run(&Command::create(101, |_| {})).expect("created");
    let first = sim.get("101").expect("there").generation;
    assert!(first > 1_700_000_000_000, "milliseconds since 1970: {first}");
    lose_store(&sim);
    sim.run(&Command::delete("101")).expect("cleared");
    sim.run(&Command::create(101, |_| {})).expect("created");
    assert!(sim.get("101").expect("there").generation > first);
}

/// A volume that was made by the create that is under way is its own.
#[test]
fn a_create_that_was_cut_finishes() {
    for victim in [Victim::Coordinator, Victim::Daemon, Victim::All] {
        for mishap in [Mishap::KillBefore(victim), Mishap::KillAfter(victim)] {
            let sim = Sim::new();
            sim.script().at_call(0, mishap);
            sim.run(&Command::create(101, |_| {})).expect("created");
            assert!(sim.script().end());
            sim.run(&Command::delete("101")).expect("destroyed");
            assert!(sim.kernel().is_clean());
        }
    }
}

#[test]
fn real_services_that_forgot_their_fences_show_foreign_volumes() {
    let sim = Sim::new();
    sim.run(&Command::create(101, |_| {})).expect("created");
    sim.restart(Daemon::Storage);
    lose_store(&sim);
    is_foreign(&sim.run(&Command::create(101, |_| {})).expect_err("there"));
    sim.lose_fences(Daemon::Storage);
    is_foreign(&sim.run(&Command::create(101, |_| {})).expect_err("there, without a fence"));
    sim.run(&Command::delete("101")).expect("cleared");
    assert!(sim.kernel().is_clean());
}

/// A container that was created stays its own, also where storage has lost its fence.
#[test]
fn a_lost_fence_is_written_again() {
    let sim = Sim::new();
    sim.run(&Command::create(101, |_| {})).expect("created");
    sim.lose_fences(Daemon::Storage);
    sim.run(&Command::start("101")).expect("started");
    sim.run(&Command::stop("101")).expect("stopped");
    sim.run(&Command::delete("101")).expect("destroyed");
    assert!(sim.kernel().is_clean());
}
