//! Containers that ended by themselves are started again as their policy says, and no others.

use std::time::Duration;

use ves_fake::Ended;
use ves_sim::sim::Command;
use ves_sim::words as pb;
use ves_sim::words::ContainerState::{Running, Stopped};
use ves_sim::words::RestartPolicy;
use ves_sim::{Sim, id};
use ves_types::ExitCause;
use ves_types::layout::Daemon;

/// A running container with a policy.
fn running(policy: RestartPolicy) -> Sim {
    let sim = Sim::new();
    sim.run(&Command::create(101, |s| s.restart = policy.into())).expect("created");
    sim.run(&Command::start("101")).expect("started");
    sim
}

fn end(sim: &Sim, cause: ExitCause) {
    let ended = if cause == ExitCause::Exited { Ended::Code(1) } else { Ended::Signal(2) };
    sim.kernel().processes.end(id(101), cause, ended);
}

fn container(sim: &Sim) -> pb::Container {
    sim.get("101").expect("it is there")
}

/// Waits until it is down; when it is started again, if it is.
fn down(sim: &Sim) -> Option<i64> {
    sim.until("it is down", || {
        let now = container(sim);
        now.state() == Stopped && now.operation.is_empty()
    });
    container(sim).next_start_unix_ms
}

fn starts(sim: &Sim) -> u64 {
    sim.kernel().ct(101).process.starts
}

#[test]
fn which_ends_are_followed_by_a_start() {
    use ExitCause::{Exited, Halted};
    for (policy, cause, again) in [
        (RestartPolicy::Never, Exited, false),
        (RestartPolicy::OnFailure, Halted, false),
        (RestartPolicy::OnFailure, Exited, true),
        (RestartPolicy::Always, Halted, true),
    ] {
        let sim = running(policy);
        end(&sim, cause);
        assert_eq!(down(&sim).is_some(), again, "{policy:?} {cause:?}");
        sim.advance(Duration::from_secs(2));
        if again {
            sim.until("it runs again", || container(&sim).state() == Running);
            assert_eq!((starts(&sim), container(&sim).restarts), (2, 1));
        }
        sim.advance(Duration::from_secs(600));
        sim.run(&Command::create(102, |_| {})).expect("somebody else's work is done");
        assert_eq!(starts(&sim), 1 + u64::from(again), "{policy:?} {cause:?}");
    }
}

#[test]
fn pauses_grow_and_outlive_the_coordinator() {
    let sim = running(RestartPolicy::OnFailure);
    for (n, pause) in [1, 2, 4, 8].into_iter().enumerate() {
        end(&sim, ExitCause::Exited);
        let at = down(&sim).expect("again");
        sim.restart(Daemon::Coordinator);
        assert_eq!(down(&sim), Some(at));
        sim.advance(Duration::from_millis(pause * 1000 - 700));
        sim.run(&Command::create(110 + u32::try_from(n).expect("few"), |_| {})).expect("made");
        sim.advance(Duration::from_millis(700));
        sim.until("it runs again", || container(&sim).state() == Running);
        let now = container(&sim);
        assert_eq!(
            (now.restarts, now.next_start_unix_ms),
            (u32::try_from(n).expect("few") + 1, None)
        );
    }
    // A good run ends the row.
    sim.until("its start is over", || container(&sim).operation.is_empty());
    sim.advance(Duration::from_secs(601));
    end(&sim, ExitCause::Exited);
    down(&sim);
    assert_eq!(container(&sim).restarts, 1);
}

#[test]
fn a_start_that_fails_is_tried_again_later() {
    let sim = running(RestartPolicy::OnFailure);
    sim.kernel().processes.change(id(101), |model| model.mortal = true);
    end(&sim, ExitCause::Exited);
    down(&sim).expect("again");
    sim.advance(Duration::from_secs(1));
    sim.until("it was tried", || container(&sim).restarts == 2);
    assert_eq!(container(&sim).state(), Stopped);
    sim.kernel().processes.change(id(101), |model| model.mortal = false);
    sim.until("it runs", || {
        sim.advance(Duration::from_secs(2));
        container(&sim).state() == Running
    });
}

#[test]
fn who_says_what_it_should_be_is_obeyed() {
    // A stop while it waits, the policy or its use taken away, and an end that was asked for.
    let set = |field: &str, spec: pb::ContainerSpec| Command::set("101", &[field], spec);
    let none = pb::ContainerSpec::default;
    let disabled = pb::ContainerSpec { disabled: true, ..none() };
    for command in [Command::stop("101"), set("restart", none()), set("disabled", disabled)] {
        let sim = running(RestartPolicy::Always);
        end(&sim, ExitCause::Exited);
        down(&sim).expect("again");
        let Ok(_) = sim.run(&command) else { continue };
        if container(&sim).state() == Running {
            // It was faster than we.
            continue;
        }
        assert_eq!(container(&sim).next_start_unix_ms, None, "{command:?}");
        sim.advance(Duration::from_secs(600));
        sim.run(&Command::create(102, |_| {})).expect("made");
        assert_eq!(starts(&sim), 1, "{command:?}");
    }
    let sim = running(RestartPolicy::Always);
    sim.run(&Command::stop("101")).expect("stopped");
    sim.advance(Duration::from_secs(600));
    sim.run(&Command::create(102, |_| {})).expect("made");
    assert_eq!((down(&sim), starts(&sim)), (None, 1));
}

#[test]
fn a_boot_starts_what_ran_or_waited_and_nothing_that_was_stopped() {
    let sim = Sim::new();
    for (ct, policy) in
        [(101, RestartPolicy::OnFailure), (102, RestartPolicy::Never), (103, RestartPolicy::Always)]
    {
        sim.run(&Command::create(ct, |s| s.restart = policy.into())).expect("created");
        sim.run(&Command::start(&ct.to_string())).expect("started");
    }
    sim.run(&Command::stop("103")).expect("stopped");
    sim.boot("another");
    sim.until("what ran is started", || container(&sim).state() == Running);
    for ct in ["102", "103"] {
        assert_eq!(sim.get(ct).expect("there").state(), Stopped, "{ct}");
    }
    end(&sim, ExitCause::Exited);
    down(&sim).expect("again");
    sim.boot("a third");
    sim.until("what waited is started", || {
        sim.advance(Duration::from_secs(1));
        container(&sim).state() == Running
    });
}
