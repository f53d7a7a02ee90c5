//! Operations: stored, idempotent by request id, exclusive, cancellable, listed and watched.

use std::time::Duration;

use futures::StreamExt;
use ves_proto::{Fault, Reason, api};
use ves_sim::sim::Command;
use ves_sim::words as pb;
use ves_sim::{Mishap, Sim, Victim};
use ves_types::ExitCause;
use ves_types::layout::Daemon;

/// Begins a start that waits: a service it asks is away, and patience is long.
fn hanging_start(sim: &Sim) -> pb::Operation {
    sim.run(&Command::create(101, |_| {})).expect("created");
    sim.kill(Daemon::Lifecycle);
    let start = Command::start("101");
    let op = sim.ask(|| start.clone().send(sim.channel())).expect("begun");
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
        let mut all = sim.all_operations().into_iter();
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
    let start = Command::start("101");
    let op = sim.ask(|| start.clone().send(sim.channel())).expect("begun");
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
    assert_eq!(sim.first_told()[0].operation, op.id);
    sim.run(&Command::create(102, |_| {})).expect("others go on");
    sim.script().hold(101, false);
    assert_eq!(sim.end_of(&op.id).state(), pb::OperationState::Succeeded);
}

#[test]
fn cancelled_and_taken_back() {
    let sim = Sim::configured(|c| c.patience_ms = 60_000);
    let op = hanging_start(&sim);
    sim.until("it waits for the service", || {
        let now = sim.operation(&op.id).expect("there");
        now.progress.is_some_and(|p| p.message.starts_with("waiting: "))
    });
    assert_eq!(sim.cancel(&op.id).expect("asked").state(), pb::OperationState::Cancelling);
    sim.start_daemon(Daemon::Lifecycle);
    let end = sim.end_of(&op.id);
    assert_eq!(end.state(), pb::OperationState::Cancelled, "{end:?}");
    assert_eq!(end.fault.expect("says so").reason, Reason::Cancelled);
    assert_eq!(sim.state("101"), pb::ContainerState::Stopped);
    assert!(sim.kernel().ct(101).group.is_none());
    let again = sim.cancel(&op.id).expect("harmless");
    assert_eq!(again.state(), pb::OperationState::Cancelled);
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
    assert_eq!(sim.all_operations().len(), 3, "dry runs are not kept");
}

#[test]
fn listed_newest_first_and_watched_to_their_end() {
    let sim = Sim::new();
    for id in 101..106 {
        sim.run(&Command::create(id, |_| {})).expect("created");
    }
    let page = |page_token: &str, filter: &str| {
        let (page_token, filter) = (page_token.to_owned(), filter.to_owned());
        let request = api::ListOperationsRequest { page_size: 2, page_token, filter };
        sim.block(sim.operations().list_operations(request))
            .map(tonic::Response::into_inner)
            .map_err(Fault::from)
    };
    let all = |filter: &str| {
        let mut seen = Vec::new();
        let mut token = String::new();
        loop {
            let answer = page(&token, filter).expect("a page");
            seen.extend(answer.operations.into_iter().map(|op| pb::Operation::from(op).ct));
            token = answer.next_page_token;
            if token.is_empty() {
                return seen;
            }
        }
    };
    assert_eq!(all(""), [105, 104, 103, 102, 101]);
    assert_eq!(all("kind=CREATE AND NOT target=\"containers/104\""), [105, 103, 102, 101]);
    assert_eq!(all("state=FAILED"), Vec::<u32>::new());
    assert_eq!(page("nonsense", "").expect_err("bad").facts["field"], "page_token");
    let token = page("", "").expect("a page").next_page_token;
    assert_eq!(page(&token, "kind=CREATE").expect_err("another").facts["field"], "page_token");

    sim.script().at_call(1, Mishap::KillBefore(Victim::Daemon));
    // It does not get ahead of who watches.
    sim.script().hold(101, true);
    let start = Command::start("101").with_request_id("order-7");
    let op = sim.ask(|| start.clone().send(sim.channel())).expect("begun");
    let name = format!("operations/{}", op.id);
    let request = api::WatchOperationsRequest { name: name.clone(), ..Default::default() };
    let stream = sim.block(sim.operations().watch_operations(request)).expect("watched");
    let told = stream.into_inner().map(|told| told.expect("told").event.expect("something"));
    let told = told.filter_map(|event| async {
        match event {
            api::watch_operations_response::Event::Changed(op) => Some(op),
            _ => None,
        }
    });
    let mut told = std::pin::pin!(told);
    let progress = |op: &api::Operation| op.progress.as_ref().is_some_and(|p| p.total == 5);
    while !progress(&sim.block(told.next()).expect("of five steps")) {}
    sim.script().hold(101, false);
    let states = sim.block(told.collect::<Vec<_>>());
    let last = states.last().expect("at least its end");
    assert_eq!(last.state(), pb::OperationState::Succeeded);
    assert_eq!((last.request_id.as_str(), last.node.as_str()), ("order-7", "nodes/sim"));
    assert_eq!(last.targets, ["containers/101"]);
    let actor = last.actor.clone().expect("somebody");
    assert_eq!((actor.r#type(), actor.id.as_str()), (api::actor::Type::Unix, "root"));
    let day = last.expire_time.expect("told").seconds - last.end_time.expect("told").seconds;
    assert_eq!(day, 86_400);
    for id in ["", "nonsense", "00000000-0000-7000-8000-000000000000"] {
        let reason = if id.is_empty() { Reason::MissingField } else { Reason::OperationUnknown };
        let name = if id.is_empty() { String::new() } else { format!("operations/{id}") };
        let request = api::GetOperationRequest { name: name.clone() };
        let get = sim.block(sim.operations().get_operation(request)).expect_err("none");
        let request = api::WaitOperationRequest { name: name.clone(), timeout: None };
        let wait = sim.block(sim.operations().wait_operation(request)).expect_err("none");
        let request = api::CancelOperationRequest { name: name.clone() };
        let cancel = sim.block(sim.operations().cancel_operation(request)).expect_err("none");
        for status in [get, wait, cancel] {
            assert_eq!(Fault::from(status).reason, reason, "{id:?}");
        }
        let request = api::WatchOperationsRequest { name, ..Default::default() };
        let watch = sim.block(sim.operations().watch_operations(request)).map(|_| ());
        match watch.map_err(Fault::from) {
            Ok(()) => assert_eq!(id, "", "of all"),
            Err(fault) => assert_eq!(fault.reason, reason),
        }
    }
}

#[test]
fn an_end_can_be_waited_for() {
    let sim = Sim::new();
    sim.run(&Command::create(101, |_| {})).expect("created");
    sim.script().hold(101, true);
    let start = Command::start("101");
    let op = sim.ask(|| start.clone().send(sim.channel())).expect("begun");
    let wait = |timeout: prost_types::Duration| {
        let (name, timeout) = (format!("operations/{}", op.id), Some(timeout));
        let request = api::WaitOperationRequest { name, timeout };
        let answer = sim.block(sim.operations().wait_operation(request));
        answer.map(|op| op.into_inner().state()).map_err(Fault::from)
    };
    let short = prost_types::Duration { seconds: 0, nanos: 1_000_000 };
    let long = prost_types::Duration { seconds: 600, nanos: 0 };
    assert_eq!(wait(short), Ok(pb::OperationState::Running));
    let too_long = prost_types::Duration { seconds: 601, nanos: 0 };
    assert_eq!(wait(too_long).expect_err("too long").facts["field"], "timeout");
    let later = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        sim.script().hold(101, false);
    };
    let name = format!("operations/{}", op.id);
    let request = api::WaitOperationRequest { name, timeout: Some(long) };
    let mut client = sim.operations();
    let (end, ()) = sim.block(async { tokio::join!(client.wait_operation(request), later) });
    assert_eq!(end.expect("told").into_inner().state(), pb::OperationState::Succeeded);
}

#[test]
fn all_operations_are_watched_and_told_as_gone_when_they_are_forgotten() {
    use api::watch_operations_response::Event;
    let sim = Sim::new();
    sim.run(&Command::create(101, |_| {})).expect("created");
    let begin = |resume_token: &str, filter: &str| {
        let (resume_token, filter) = (resume_token.to_owned(), filter.to_owned());
        let request = api::WatchOperationsRequest { resume_token, filter, ..Default::default() };
        sim.block(sim.operations().watch_operations(request)).expect("watched").into_inner()
    };
    let next = |stream: &mut tonic::Streaming<api::WatchOperationsResponse>| {
        let told = sim.block(stream.message()).expect("told").expect("it goes on");
        let said = match told.event.expect("something") {
            Event::Changed(op) => format!("{:?} {:?}", op.kind(), op.state()),
            Event::Gone(gone) => format!("{} gone", gone.name),
            Event::Reset(_) => "reset".to_owned(),
            Event::Synced(_) => "synced".to_owned(),
            Event::Heartbeat(_) => "heartbeat".to_owned(),
        };
        (said, told.resume_token)
    };
    let mut all = begin("", "");
    let mut said = || next(&mut all).0;
    assert_eq!([said(), said(), said()], ["reset", "Create Succeeded", "synced"]);
    let mut failed = begin("", "state=FAILED");
    assert_eq!(next(&mut failed).0, "reset");
    let (synced, token) = next(&mut failed);
    assert_eq!(synced, "synced");
    sim.kernel().lose_volume(101);
    let start = Command::start("101");
    let op = sim.ask(|| start.clone().send(sim.channel())).expect("begun");
    sim.end_of(&op.id);
    assert_eq!(next(&mut failed).0, "Start Failed");
    let mut resumed = begin(&token, "kind=START");
    assert_eq!(next(&mut resumed).0, "Start Failed", "from the token on");
    sim.advance(Duration::from_hours(25));
    // The sweep looks again, on the clock that was put forward, which is time for a heartbeat too.
    let told = std::iter::repeat_with(|| next(&mut failed).0).find(|said| said != "heartbeat");
    assert_eq!(told, Some(format!("operations/{} gone", op.id)));
}

#[test]
fn operations_that_ended_are_bounded_by_number() {
    let sim = Sim::configured(|c| c.keep_operations = 3);
    for id in 101..107 {
        sim.run(&Command::create(id, |_| {})).expect("created");
    }
    sim.advance(Duration::from_secs(61));
    sim.until("the oldest are forgotten", || sim.all_operations().len() == 3);
    let left: Vec<_> = sim.all_operations().iter().map(|op| op.ct).collect();
    assert_eq!(left, [106, 105, 104]);
}

#[test]
fn operations_are_forgotten_in_time() {
    let sim = Sim::new();
    let op = sim.run(&Command::create(101, |_| {})).expect("created");
    sim.advance(Duration::from_hours(25));
    // The sweep is the first thing a daemon does.
    sim.restart(Daemon::Coordinator);
    sim.until("it is forgotten", || {
        sim.operation(&op.id).is_err_and(|fault| fault.reason == Reason::OperationUnknown)
    });
    assert_eq!(sim.state("101"), pb::ContainerState::Stopped);
}

fn build(name: &str, suite: &str) -> api::BuildTemplateRequest {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    api::BuildTemplateRequest {
        name: if name.is_empty() { String::new() } else { format!("templates/{name}") },
        suite: suite.to_owned(),
        request_id: format!("build-{}", NEXT.fetch_add(1, Ordering::Relaxed)),
        ..Default::default()
    }
}

#[test]
fn templates_are_built_by_operations() {
    let sim = Sim::new();
    let begin = |name: &str, suite: &str| {
        let answer = sim.block(sim.templates().build_template(build(name, suite)));
        answer.map(|op| pb::Operation::from(op.into_inner())).map_err(Fault::from)
    };
    let op = sim.end_of(&begin("bookworm", "bookworm").expect("begun").id);
    assert_eq!((op.state(), op.kind.as_str()), (pb::OperationState::Succeeded, "template build"));
    assert_eq!(op.steps, ["storage: unpacking", "storage: configuring"]);
    sim.run(&Command::create(101, |s| s.template = "bookworm".into())).expect("created from it");

    let op = sim.end_of(&begin("x", "nonsuch").expect("begun").id);
    assert_eq!(op.fault.expect("failed").reason, Reason::HostFailed);

    let slow = begin("slow", "slow").expect("begun");
    let busy = begin("slow", "slow").expect_err("one at a time");
    assert_eq!((busy.reason, busy.facts["operation"].as_str()), (Reason::Busy, slow.id.as_str()));
    sim.cancel(&slow.id).expect("asked");
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
        assert_eq!(op.fault.expect("says so").reason, Reason::PeerDown);
    }
    for (name, suite, field) in [
        ("", "trixie", "name"),
        ("../x", "trixie", "name"),
        ("x", "", "suite"),
        ("x", "a;b", "suite"),
    ] {
        assert_eq!(begin(name, suite).expect_err("refused").facts["field"], field);
    }
    let none = sim.block(sim.templates().build_template(api::BuildTemplateRequest::default()));
    assert_eq!(Fault::from(none.expect_err("refused")).reason, Reason::MissingField);
}
