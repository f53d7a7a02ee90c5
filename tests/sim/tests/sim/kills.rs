//! Processes killed because memory ran out: told without being asked, kept until the next run, and named where
//! an init ended by it.

use std::time::Duration;

use ves_fake::Ended;
use ves_proto::coordinator as pb;
use ves_resources::rows::Usage;
use ves_sim::Sim;
use ves_sim::sim::Command;
use ves_types::{CtId, ExitCause};

fn ct() -> CtId {
    101_u32.try_into().expect("valid")
}

fn kill(sim: &Sim, kills: u64) {
    let usage = Usage { oom_kills: Some(kills), ..Usage::default() };
    sim.kernel().groups.set_usage(ct(), usage);
}

#[test]
fn they_are_told_and_kept_until_the_next_run() {
    let sim = Sim::new();
    sim.run(&Command::create(101, |_| {})).expect("created");
    sim.run(&Command::start("101")).expect("started");
    let event = || {
        let request = pb::WatchContainersRequest { resume_revision: 0 };
        let first = sim.block(async {
            let mut stream = sim.containers().watch_containers(request).await?.into_inner();
            stream.message().await
        });
        first.ok().flatten().and_then(|event| event.container).and_then(|c| c.oom_kills)
    };
    assert_eq!(event(), None);
    kill(&sim, 2);
    sim.until("it is told", || {
        sim.advance(Duration::from_secs(1));
        event() == Some(2)
    });
    assert_eq!(sim.get("101").expect("there").oom_kills, Some(2));
    sim.run(&Command::stop("101")).expect("stopped");
    assert_eq!(sim.get("101").expect("there").oom_kills, Some(2), "of its last run");
    kill(&sim, 0);
    sim.run(&Command::start("101")).expect("started");
    assert_eq!(sim.get("101").expect("there").oom_kills, None);
}

#[test]
fn an_init_that_ended_by_it_is_explained() {
    for (kills, ended, told) in
        [(3, Ended::Signal(9), true), (3, Ended::Code(1), false), (0, Ended::Signal(9), false)]
    {
        let sim = Sim::new();
        sim.run(&Command::create(101, |_| {})).expect("created");
        sim.run(&Command::start("101")).expect("started");
        kill(&sim, kills);
        sim.kernel().processes.end(ct(), ExitCause::Exited, ended);
        sim.until("it is stopped", || sim.state("101") == pb::ContainerState::Stopped);
        let request = pb::ListOperationsRequest::default();
        let listed = sim.block(sim.operations().list_operations(request));
        let operations = listed.expect("listed").into_inner().operations;
        let op = operations.iter().find(|op| op.kind == "stop").expect("the node's own");
        let warned = op.warnings.iter().any(|w| w.contains("memory ran out: 3 "));
        assert_eq!(warned, told, "{kills} {ended:?}: {:?}", op.warnings);
    }
}
