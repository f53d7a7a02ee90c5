//! Processes killed because memory ran out: told without being asked, kept until the next run, and named where
//! an init ended by it.

use std::time::Duration;

use ves_fake::Ended;
use ves_proto::Reason;
use ves_resources::rows::Usage;
use ves_sim::Sim;
use ves_sim::sim::Command;
use ves_sim::words as pb;
use ves_types::{CtId, ExitCause, Victim};

fn ct() -> CtId {
    101_u32.try_into().expect("valid")
}

fn kill(sim: &Sim, kills: u64) {
    if kills > 0 {
        sim.kernel().groups.name_victim(ct(), Victim::new("redis-server", 812));
    }
    let usage = Usage { oom_kills: Some(kills), ..Usage::default() };
    sim.kernel().groups.set_usage(ct(), usage);
}

fn told(container: pb::Container) -> (Option<u64>, Vec<String>) {
    let victims = container.oom_victims.into_iter();
    (container.oom_kills, victims.map(|victim| victim.name).collect())
}

#[test]
fn they_are_told_and_kept_until_the_next_run() {
    let sim = Sim::new();
    sim.run(&Command::create(101, |_| {})).expect("created");
    sim.run(&Command::start("101")).expect("started");
    let event = || told(sim.first_told().pop().expect("there"));
    let redis = || vec!["redis-server".to_owned()];
    assert_eq!(event(), (None, vec![]));
    kill(&sim, 2);
    sim.until("it is told", || {
        sim.advance(Duration::from_secs(1));
        event() == (Some(2), redis())
    });
    assert_eq!(told(sim.get("101").expect("there")), (Some(2), redis()));
    sim.run(&Command::stop("101")).expect("stopped");
    assert_eq!(told(sim.get("101").expect("there")), (Some(2), redis()), "of its last run");
    kill(&sim, 0);
    sim.run(&Command::start("101")).expect("started");
    assert_eq!(told(sim.get("101").expect("there")), (None, vec![]));
}

#[test]
fn an_init_that_ended_by_it_is_explained() {
    for (kills, ended, tells) in
        [(3, Ended::Signal(9), true), (3, Ended::Code(1), false), (0, Ended::Signal(9), false)]
    {
        let sim = Sim::new();
        sim.run(&Command::create(101, |_| {})).expect("created");
        sim.run(&Command::start("101")).expect("started");
        kill(&sim, kills);
        sim.kernel().processes.end(ct(), ExitCause::Exited, ended);
        sim.until("it is stopped", || sim.state("101") == pb::ContainerState::Stopped);
        let operations = sim.all_operations();
        let op = operations.iter().find(|op| op.kind == "stop").expect("the node's own");
        let told = |w: &String| {
            w.contains("memory ran out: 3 ") && w.contains("last redis-server (pid 812)")
        };
        let warned = op.warnings.iter().any(told);
        assert_eq!(warned, tells, "{kills} {ended:?}: {:?}", op.warnings);
    }
}

#[test]
fn a_start_that_ended_by_it_says_so() {
    for (kills, ended, tells) in
        [(1, Ended::Signal(9), true), (1, Ended::Code(1), false), (0, Ended::Signal(9), false)]
    {
        let sim = Sim::configured(|c| c.early_exit_grace_ms = 10_000);
        sim.run(&Command::create(101, |_| {})).expect("created");
        let start = Command::start("101");
        let op = sim.ask(|| start.clone().send(sim.channel())).expect("begun");
        sim.until("it runs", || sim.state("101") == pb::ContainerState::Running);
        kill(&sim, kills);
        sim.kernel().processes.end(ct(), ExitCause::Exited, ended);
        let fault = sim.end_of(&op.id).fault.expect("it did not start");
        assert_eq!(fault.reason, Reason::InitExited);
        let told = fault.message.contains("memory ran out: 1 ");
        assert_eq!(told, tells, "{kills} {ended:?}: {fault}");
    }
}
