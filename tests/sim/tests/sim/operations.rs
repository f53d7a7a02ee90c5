//! Operations: stored, idempotent by request id, exclusive, cancellable, listed and watched.

use std::time::Duration;

use futures::StreamExt;
use ves_proto::coordinator as pb;
use ves_proto::{Fault, Reason, storage};
use ves_sim::sim::Command;
use ves_sim::{Mishap, Sim, Victim};
use ves_types::ExitCause;
use ves_types::layout::Daemon;

/// Begins a start that waits: a service it asks is away, and patience is long.
fn hanging_start(sim: &Sim) -> pb::Operation {
    sim.run(&Command::create(101, |_| {})).expect("created");
    sim.kill(Daemon::Lifecycle);
    let request = pb::StartContainerRequest { ct: "101".into(), ..Default::default() };
    let op = sim.block(sim.containers().start_container(request)).expect("begun").into_inner();
    assert_eq!(op.state(), pb::OperationState::Running);
    op
}

/// A container whose end is being looked after, which takes as long as it is held.
fn ending(sim: &Sim) {
    sim.run(&Command::create(101, |_| {})).expect("created");
    sim.run(&Command::start("101")).expect("started");
    sim.script().hold(101, true);
    sim.kernel().end_inside(101, ExitCause::Halted, 0);
    sim.until("its end is looked after", || {
        let request = pb::ListOperationsRequest::default();
        let all = sim.block(sim.operations().list_operations(request)).expect("listed");
        let mut all = all.into_inner().operations.into_iter();
        all.any(|op| op.kind == "stop" && op.state() == pb::OperationState::Running)
    });
}

/// Starts a container whose end is being looked after, and does something while that waits.
fn start_meanwhile(sim: &Sim, act: impl Fn()) -> Result<pb::Operation, Fault> {
    let start = Command::start("101");
    let acts = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        act();
    };
    sim.block(async { tokio::join!(sim.carry(&start), acts) }).0
}

#[test]
fn a_request_waits_for_what_the_node_does_by_itself() {
    let sim = Sim::new();
    ending(&sim);
    let started = start_meanwhile(&sim, || sim.script().hold(101, false));
    assert_eq!(started.expect("waited for its turn").state(), pb::OperationState::Succeeded);
    assert_eq!(sim.state("101"), pb::ContainerState::Running);
}

#[test]
fn a_request_does_not_wait_for_ever() {
    let sim = Sim::new();
    ending(&sim);
    let fault = start_meanwhile(&sim, || sim.advance(Duration::from_secs(11))).expect_err("busy");
    assert_eq!((fault.reason, fault.facts["holder"].as_str()), (Reason::Busy, "stop by container"));
    sim.script().hold(101, false);
}

#[test]
fn one_at_a_time_and_the_second_hears_of_the_first() {
    let sim = Sim::new();
    sim.run(&Command::create(101, |_| {})).expect("created");
    sim.script().hold(101, true);
    let request = pb::StartContainerRequest { ct: "101".into(), ..Default::default() };
    let op = sim.block(sim.containers().start_container(request)).expect("begun").into_inner();
    for second in [
        Command::start("101"),
        Command::stop("101"),
        Command::restart("101"),
        Command::delete("101"),
        Command::set("101", &["onboot"], pb::ContainerSpec::default()),
    ] {
        let fault = sim.run(&second).expect_err("busy");
        assert_eq!(fault.reason, Reason::Busy, "{fault}");
        assert_eq!(fault.facts["holder"], "start by root");
        assert_eq!(fault.facts["operation"], op.id);
        assert!(fault.facts["since"].ends_with('Z') && fault.facts["ct"] == "101");
    }
    let ct = sim.block(sim.containers().list_containers(pb::ListContainersRequest::default()));
    assert_eq!(ct.expect("listed").into_inner().containers[0].operation, op.id);
    sim.run(&Command::create(102, |_| {})).expect("others go on");
    sim.script().hold(101, false);
    assert_eq!(sim.end_of(&op.id).state(), pb::OperationState::Succeeded);
}

#[test]
fn cancelled_and_taken_back() {
    let sim = Sim::configured(|c| c.patience_ms = 60_000);
    let op = hanging_start(&sim);
    sim.until("it waits for the service", || {
        let request = pb::GetOperationRequest { id: op.id.clone() };
        let now = sim.block(sim.operations().get_operation(request)).expect("there").into_inner();
        now.progress.is_some_and(|p| p.what.starts_with("waiting: "))
    });
    let cancel = || pb::CancelOperationRequest { id: op.id.clone() };
    sim.block(sim.operations().cancel_operation(cancel())).expect("asked");
    sim.start_daemon(Daemon::Lifecycle);
    let end = sim.end_of(&op.id);
    assert_eq!(end.state(), pb::OperationState::Cancelled, "{end:?}");
    assert_eq!(end.fault.expect("says so").reason, "CANCELLED");
    assert_eq!(sim.state("101"), pb::ContainerState::Stopped);
    assert!(sim.kernel().ct(101).group.is_none());
    let again = sim.block(sim.operations().cancel_operation(cancel())).expect("harmless");
    assert_eq!(again.get_ref().state(), pb::OperationState::Cancelled);
    sim.run(&Command::start("101")).expect("free again");
}

#[test]
fn a_repeated_request_is_the_same_operation() {
    let sim = Sim::new();
    let create = Command::create(0, |_| {});
    let first = sim.run(&create).expect("created");
    let second = sim.run(&create).expect("the same");
    assert_eq!((first.id.as_str(), first.ct), (second.id.as_str(), 101));
    sim.restart(Daemon::Coordinator);
    let third = sim.run(&create).expect("the same, also after a restart");
    assert_eq!(first.id, third.id);
    sim.run(&Command::delete("101")).expect("destroyed");
    assert_eq!(sim.run(&create).expect("done then, and not again").id, first.id);
    assert!(sim.kernel().is_clean());
}

#[test]
fn dry_runs_change_nothing() {
    let sim = Sim::new();
    let create = |dry_run| {
        Command::Create(Box::new(pb::CreateContainerRequest {
            id: 101,
            spec: Some(pb::ContainerSpec { name: "web".into(), ..Sim::spec("trixie") }),
            dry_run,
            ..Default::default()
        }))
    };
    let dry = |command: &Command| {
        let op = sim.ask(|| command.clone().send(sim.channel())).expect("planned");
        assert_eq!(op.state(), pb::OperationState::Succeeded);
        // Without what each service would do for a step.
        op.steps.into_iter().filter(|step| !step.starts_with("  ")).collect::<Vec<_>>()
    };
    assert_eq!(dry(&create(true)), ["storage: volume of 2 GiB from trixie, not mounted"]);
    assert!(sim.get("101").is_err() && sim.script().log().is_empty());
    sim.run(&create(false)).expect("created");
    let taken = sim.ask(|| create(true).send(sim.channel())).expect_err("there");
    assert_eq!(taken.reason, Reason::ContainerExists);
    let start = pb::StartContainerRequest { ct: "101".into(), dry_run: true, ..Default::default() };
    assert_eq!(dry(&Command::Start(start)).len(), 5);
    sim.run(&Command::start("101")).expect("started");
    let before = sim.script().log().len();
    let restart =
        pb::RestartContainerRequest { ct: "web".into(), dry_run: true, ..Default::default() };
    assert_eq!(dry(&Command::Restart(restart)).len(), 7);
    let stop = pb::StopContainerRequest { ct: "web".into(), dry_run: true, ..Default::default() };
    let steps = dry(&Command::Stop(stop));
    assert_eq!(steps[0], "lifecycle: no processes, init has 120 s to stop");
    let set = Command::update("101", |r| {
        r.add_addresses = vec!["192.0.2.1".into()];
        r.dry_run = true;
    });
    assert_eq!(dry(&set), ["network: link with 192.0.2.1"]);
    assert_eq!(sim.script().log().len(), before);
    sim.run(&Command::stop("101")).expect("stopped");
    let delete =
        pb::DeleteContainerRequest { ct: "web".into(), dry_run: true, ..Default::default() };
    assert_eq!(dry(&Command::Delete(delete)), ["storage: no volume"]);
    assert_eq!(sim.state("web"), pb::ContainerState::Stopped);
    let list = sim.block(sim.operations().list_operations(pb::ListOperationsRequest::default()));
    assert_eq!(list.expect("listed").into_inner().operations.len(), 3, "dry runs are not kept");
}

#[test]
fn listed_newest_first_and_watched_to_their_end() {
    let sim = Sim::new();
    for id in 101..106 {
        sim.run(&Command::create(id, |_| {})).expect("created");
    }
    let page = |page_token: &str| {
        let page_token = page_token.to_owned();
        let request = pb::ListOperationsRequest { page_size: 2, page_token };
        sim.block(sim.operations().list_operations(request)).map(tonic::Response::into_inner)
    };
    let mut seen = Vec::new();
    let mut token = String::new();
    loop {
        let answer = page(&token).expect("a page");
        seen.extend(answer.operations.iter().map(|op| op.ct));
        token = answer.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, [105, 104, 103, 102, 101]);
    assert_eq!(Fault::from(page("nonsense").expect_err("bad")).facts["field"], "page_token");

    sim.script().at_call(1, Mishap::KillBefore(Victim::Daemon));
    // It does not get ahead of who watches.
    sim.script().hold(101, true);
    let request = pb::StartContainerRequest { ct: "101".into(), ..Default::default() };
    let op = sim.block(sim.containers().start_container(request)).expect("begun").into_inner();
    let request = pb::WatchOperationRequest { id: op.id };
    let stream = sim.block(sim.operations().watch_operation(request)).expect("watched");
    let mut told = stream.into_inner().map(|op| op.expect("told"));
    let progress = |op: &pb::Operation| op.progress.as_ref().is_some_and(|p| p.total == 5);
    while !progress(&sim.block(told.next()).expect("of five steps")) {}
    sim.script().hold(101, false);
    let states = sim.block(told.collect::<Vec<_>>());
    let last = states.last().expect("at least its end");
    assert_eq!(last.state(), pb::OperationState::Succeeded);
    for id in ["", "nonsense", "00000000-0000-7000-8000-000000000000"] {
        let id = id.to_owned();
        let get =
            sim.block(sim.operations().get_operation(pb::GetOperationRequest { id: id.clone() }));
        assert_eq!(Fault::from(get.expect_err("none")).reason, Reason::OperationUnknown);
        let watch = sim
            .block(sim.operations().watch_operation(pb::WatchOperationRequest { id: id.clone() }));
        assert_eq!(Fault::from(watch.expect_err("none")).reason, Reason::OperationUnknown);
        let cancel =
            sim.block(sim.operations().cancel_operation(pb::CancelOperationRequest { id }));
        assert_eq!(Fault::from(cancel.expect_err("none")).reason, Reason::OperationUnknown);
    }
}

#[test]
fn operations_are_forgotten_in_time() {
    let sim = Sim::new();
    let op = sim.run(&Command::create(101, |_| {})).expect("created");
    sim.advance(Duration::from_hours(25));
    // The sweep is the first thing a daemon does.
    sim.restart(Daemon::Coordinator);
    sim.until("it is forgotten", || {
        let request = pb::GetOperationRequest { id: op.id.clone() };
        let answer = sim.block(sim.operations().get_operation(request));
        answer.is_err_and(|s| Fault::from(s).reason == Reason::OperationUnknown)
    });
    assert_eq!(sim.state("101"), pb::ContainerState::Stopped);
}

fn build(name: &str, suite: &str) -> pb::BuildTemplateRequest {
    pb::BuildTemplateRequest {
        build: Some(storage::BuildTemplateRequest {
            name: name.to_owned(),
            suite: suite.to_owned(),
            ..Default::default()
        }),
        request_id: String::new(),
    }
}

#[test]
fn templates_are_built_by_operations() {
    let sim = Sim::new();
    let begin = |name: &str, suite: &str| {
        let answer = sim.block(sim.templates().build_template(build(name, suite)));
        answer.map(tonic::Response::into_inner).map_err(Fault::from)
    };
    let op = sim.end_of(&begin("bookworm", "bookworm").expect("begun").id);
    assert_eq!((op.state(), op.kind.as_str()), (pb::OperationState::Succeeded, "template build"));
    assert_eq!(op.steps, ["storage: unpacking", "storage: configuring"]);
    sim.run(&Command::create(101, |s| s.template = "bookworm".into())).expect("created from it");

    let op = sim.end_of(&begin("x", "nonsuch").expect("begun").id);
    assert_eq!(op.fault.expect("failed").reason, "HOST_FAILED");

    let slow = begin("slow", "slow").expect("begun");
    let busy = begin("slow", "slow").expect_err("one at a time");
    assert_eq!((busy.reason, busy.facts["operation"].as_str()), (Reason::Busy, slow.id.as_str()));
    sim.block(
        sim.operations().cancel_operation(pb::CancelOperationRequest { id: slow.id.clone() }),
    )
    .expect("asked");
    assert_eq!(sim.end_of(&slow.id).state(), pb::OperationState::Cancelled);
    sim.kernel().volumes.give_up_builds();

    for victim in [Daemon::Storage, Daemon::Coordinator] {
        let builds = || sim.kernel().volumes.slow_builds();
        let before = builds();
        let slow = begin("slow", "slow").expect("begun, the one before is over");
        // One that is asked of the next storage is built there.
        sim.until("storage builds", || builds() > before);
        sim.restart(victim);
        let op = sim.end_of(&slow.id);
        assert_eq!(op.state(), pb::OperationState::Failed, "{victim:?}");
        assert_eq!(op.fault.expect("says so").reason, "PEER_DOWN");
    }
    for (name, suite, field) in [
        ("", "trixie", "name"),
        ("../x", "trixie", "name"),
        ("x", "", "suite"),
        ("x", "a;b", "suite"),
    ] {
        assert_eq!(begin(name, suite).expect_err("refused").facts["field"], field);
    }
    let none = sim.block(sim.templates().build_template(pb::BuildTemplateRequest::default()));
    assert_eq!(Fault::from(none.expect_err("refused")).reason, Reason::MissingField);
}
