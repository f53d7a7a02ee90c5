//! Anything may be killed, and any service may fail, at any step: the end is the same.

use ves_proto::Reason;
use ves_sim::sim::Command;
use ves_sim::words as pb;
use ves_sim::{Mishap, Sim, Victim, each_step, each_step_on_the_node};

/// A life: each command and the state that follows.
fn life() -> Vec<(Command, pb::ContainerState)> {
    use pb::ContainerState as State;
    let address = |n: u8| vec![format!("192.0.2.{n}")];
    vec![
        (Command::create(101, |s| s.addresses = address(1)), State::Stopped),
        (Command::start("101"), State::Running),
        (
            Command::update("101", |r| {
                r.add_addresses = address(2);
                r.update_mask = vec!["disk_bytes".to_owned(), "limits.cpus".to_owned()];
                r.spec = Some(pb::ContainerSpec {
                    disk_bytes: 3 << 30,
                    limits: Some(ves_proto::common::Limits { cpus: Some(2), ..Default::default() }),
                    ..Default::default()
                });
                r.save = true;
            }),
            State::Running,
        ),
        (Command::restart("101"), State::Running),
        (Command::stop("101"), State::Stopped),
        (Command::delete("101"), State::Unspecified),
    ]
}

fn check_set(sim: &Sim) {
    let ct = sim.kernel().ct(101);
    assert_eq!(ct.link.expect("up").len(), 2);
    assert_eq!(ct.volume.expect("there").size, 3 << 30);
    assert_eq!(ct.group.expect("there").cpus, Some(2));
}

/// Lives that life; a mishap in it is no failure.
fn live_through(sim: &Sim, mishap: Option<(usize, Mishap)>) {
    for (i, (command, state)) in life().into_iter().enumerate() {
        let what = format!("{mishap:?}, command {i}");
        let result = sim.run(&command);
        assert!(result.is_ok(), "{what}: {result:?}");
        sim.until(&what, || sim.state("101") == state);
        if i == 2 {
            check_set(sim);
        }
    }
}

#[test]
fn a_service_killed_at_each_step() {
    each_step(&Mishap::kills(Victim::Daemon), live_through);
}

/// Where [`a_service_killed_at_each_step`] cuts a call off, this cuts off a plan.
#[test]
fn a_service_killed_between_any_two_steps() {
    each_step_on_the_node(&[Mishap::KillAfter(Victim::Daemon)], live_through);
}

#[test]
fn the_coordinator_killed_at_each_step() {
    each_step(&Mishap::kills(Victim::Coordinator), live_through);
}

#[test]
fn everything_killed_at_each_step() {
    each_step(&[Mishap::KillAfter(Victim::All)], live_through);
}

#[test]
fn a_service_away_or_busy_at_each_step() {
    each_step(
        &[Mishap::FailBefore(Reason::Busy), Mishap::FailAfter(Reason::Starting)],
        live_through,
    );
}

/// A step that fails for good: the command fails, what was before is there, and it can be repeated.
#[test]
fn each_step_failing_for_good() {
    let reason = Reason::HostFailed;
    each_step(&[Mishap::FailBefore(reason), Mishap::FailAfter(reason)], |sim, mishap| {
        let mut before = pb::ContainerState::Unspecified;
        let mut failures = 0;
        for (i, (command, state)) in life().into_iter().enumerate() {
            let what = format!("{mishap:?}, command {i}");
            if let Err(fault) = sim.run(&command) {
                failures += 1;
                assert_eq!(fault.reason, reason, "{what}: {fault}");
                recovered(sim, i, before, &what);
                let result = sim.run(&again(i));
                assert!(result.is_ok(), "{what}, again: {result:?}");
            }
            sim.until(&what, || sim.state("101") == state);
            before = state;
        }
        assert_eq!(failures, usize::from(mishap.is_some()), "{mishap:?}");
    });
}

/// The same command as a new call.
fn again(i: usize) -> Command {
    let (command, _) = life().swap_remove(i);
    match (i, command) {
        // A restart that failed half way has left it stopped.
        (3, _) => Command::restart("101"),
        (_, command) => command,
    }
}

fn recovered(sim: &Sim, i: usize, before: pb::ContainerState, what: &str) {
    use pb::ContainerState as State;
    let allowed: &[State] = match i {
        // Nothing is left of a create, nothing runs after a failed start.
        0 => &[State::Unspecified],
        1 | 3 => &[State::Stopped],
        2 => &[State::Running],
        // What a stop could not finish is left as far as it came, and said.
        4 => &[State::Running, State::Broken, State::Stopped],
        _ => &[State::Deleting],
    };
    let state = sim.state("101");
    assert!(allowed.contains(&state), "{what}: {state:?} after {before:?}");
    if i == 2 {
        let ct = sim.kernel().ct(101);
        assert_eq!(ct.link.expect("up").len(), 1, "{what}");
        assert_eq!(ct.group.expect("there").cpus, None, "{what}");
    }
    if i == 0 {
        assert!(sim.kernel().is_clean(), "{what}");
    }
}

#[test]
fn a_service_that_stays_away_fails_the_operation_in_time() {
    use ves_types::layout::Daemon;
    let sim = Sim::new();
    sim.run(&Command::create(101, |_| {})).expect("created");
    sim.kill(Daemon::Network);
    let start = Command::start("101");
    let op = sim.ask(|| start.clone().send(sim.channel())).expect("begun");
    let mut end = None;
    sim.until("patience is over", || {
        sim.advance(std::time::Duration::from_secs(1));
        let now = sim.operation(&op.id).expect("there");
        end = now.fault;
        now.state != i32::from(pb::OperationState::Running)
    });
    let fault = end.expect("nobody makes links");
    assert_eq!((fault.reason, fault.facts["service"].as_str()), (Reason::PeerDown, "network"));
    sim.start_daemon(Daemon::Network);
    // What could not be taken back then is taken back by the next command.
    sim.run(&Command::stop("101")).ok();
    sim.run(&Command::start("101")).expect("started");
}

#[test]
fn kill_in_a_loop_while_containers_come_and_go() {
    use ves_types::layout::Daemon;
    let sim = Sim::on_disk();
    std::thread::scope(|scope| {
        let sim = &sim;
        let work = scope.spawn(move || {
            for _ in 0..6 {
                sim.run(&Command::create(200, |_| {})).expect("created");
                sim.run(&Command::start("200")).expect("started");
                sim.run(&Command::stop("200")).expect("stopped");
                sim.run(&Command::delete("200")).expect("destroyed");
            }
        });
        for service in Daemon::ALL.into_iter().cycle() {
            if work.is_finished() {
                break;
            }
            sim.restart(service);
            let asked = sim.script().log().len();
            sim.until("more is asked for", || {
                work.is_finished() || sim.script().log().len() > asked + 2
            });
        }
    });
    sim.until("all is clean", || sim.kernel().is_clean());
}
