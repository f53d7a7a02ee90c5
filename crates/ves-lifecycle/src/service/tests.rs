//! The service over real gRPC on a socket, with a node in memory.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixListener;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use ves_daemon::{App, FenceStore, Shell};
use ves_init_proto::report::Ended;
use ves_proto::common::{ExitStatus, Fence, exit_status::How};
use ves_proto::lifecycle::exec_request::Part as Ask;
use ves_proto::lifecycle::exec_response::Part as Say;
use ves_proto::lifecycle::lifecycle_service_client::LifecycleServiceClient;
use ves_proto::lifecycle::{self as pb, EndReason, Phase};
use ves_proto::{Fault, Reason};
use ves_types::{CtId, ExitCause};

use crate::config::Config;
use crate::fake::FakeHost;
use crate::service::Service;

type Client = LifecycleServiceClient<ves_daemon::client::Traced>;

struct Node {
    client: Client,
    host: Arc<FakeHost>,
    _dir: tempfile::TempDir,
}

/// A served node.
fn node(config: Config) -> Node {
    let dir = tempfile::tempdir().expect("a directory");
    let socket = dir.path().join("s");
    let host = Arc::new(FakeHost::new());
    let fences = FenceStore::open(dir.path().join("fence")).expect("fences");
    let shell = Shell::new(crate::KIND, fences, 16);
    let service = Service::new(Arc::clone(&host) as Arc<dyn crate::host::Host>, shell, config);
    service.resume().expect("it tells of changes");
    let listener = UnixListener::bind(&socket).expect("bound");
    let app = App {
        routes: crate::api::routes(service),
        policy: crate::api::POLICY,
        services: crate::api::SERVICES,
        operators: Vec::new(),
        needs: Vec::new(),
        network: None,
    };
    tokio::spawn(ves_daemon::serve_on(listener, app, std::future::pending()));
    let client = LifecycleServiceClient::new(ves_daemon::client::channel(&socket));
    Node { client, host, _dir: dir }
}

const CT: u32 = 9450;

fn ct() -> CtId {
    CT.try_into().expect("valid")
}

fn want(generation: u64, phase: Phase) -> pb::EnsureContainerRequest {
    pb::EnsureContainerRequest {
        fence: Some(Fence { ct: CT, generation, epoch: 1 }),
        spec: Some(pb::ContainerSpec {
            id_slot: 20,
            hostname: "web".to_owned(),
            ..Default::default()
        }),
        phase: phase.into(),
        grace_ms: 100,
        dry_run: false,
        only_if_running: false,
    }
}

impl Node {
    async fn ensure(&mut self, generation: u64, phase: Phase) -> Result<pb::Container, Fault> {
        let answer = self.client.ensure_container(want(generation, phase)).await;
        let container = answer.map(tonic::Response::into_inner).map_err(Fault::from)?;
        // As others are told of it.
        Ok(pb::Container { steps: vec![], ..container })
    }
    async fn get(&mut self) -> pb::Container {
        let request = pb::GetContainerRequest { ct: CT };
        self.client.get_container(request).await.expect("there").into_inner()
    }
    async fn exec(
        &mut self,
        argv: &[&str],
    ) -> Result<(tokio::sync::mpsc::Sender<pb::ExecRequest>, Streaming<pb::ExecResponse>), Fault>
    {
        self.begin(start(argv)).await
    }
    async fn begin(
        &mut self,
        start: pb::ExecStart,
    ) -> Result<(tokio::sync::mpsc::Sender<pb::ExecRequest>, Streaming<pb::ExecResponse>), Fault>
    {
        let (sender, receiver) = tokio::sync::mpsc::channel(4);
        sender.send(ask(Ask::Start(start))).await.expect("queued");
        let answer = self.client.exec(ReceiverStream::new(receiver)).await.map_err(Fault::from)?;
        Ok((sender, answer.into_inner()))
    }
}

fn start(argv: &[&str]) -> pb::ExecStart {
    let argv = argv.iter().map(ToString::to_string).collect();
    pb::ExecStart { ct: CT, argv, ..Default::default() }
}

fn ask(part: Ask) -> pb::ExecRequest {
    pb::ExecRequest { part: Some(part) }
}

async fn next(stream: &mut Streaming<pb::ExecResponse>) -> Say {
    let message = tokio::time::timeout(Duration::from_secs(10), stream.message());
    message.await.expect("in time").expect("no fault").expect("more").part.expect("known")
}

#[tokio::test(flavor = "multi_thread")]
async fn up_and_down_with_growing_incarnations() {
    let mut node = node(Config { early_exit_grace_ms: 0, ..Config::default() });
    let first = node.get().await;
    assert_eq!((first.phase(), first.end()), (Phase::Absent, EndReason::Unspecified));
    let mut last = first.incarnation;
    for round in 0..3 {
        for phase in [Phase::Created, Phase::Running, Phase::Frozen, Phase::Running] {
            let container = node.ensure(round, phase).await.expect("done");
            assert_eq!((container.phase(), container.generation), (phase, round));
            assert!(container.incarnation >= last);
        }
        let running = node.get().await.incarnation;
        let ended = node.ensure(round, Phase::Absent).await.expect("done");
        assert_eq!((ended.phase(), ended.end()), (Phase::Absent, EndReason::Stopped));
        assert!(ended.incarnation > running, "an end is a new one");
        last = ended.incarnation;
        assert_eq!(node.get().await, ended, "what was told is remembered");
    }
    let list = node.client.list_containers(pb::ListContainersRequest {}).await.expect("listed");
    assert_eq!(list.into_inner().containers, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_change_nothing() {
    let mut node = node(Config::default());
    node.host.change(ct(), |m| m.state.mounted = false);
    let reason = |r: Result<pb::Container, Fault>| r.map_err(|f| f.reason);
    assert_eq!(reason(node.ensure(9, Phase::Running).await), Err(Reason::NotMounted));
    assert_eq!(reason(node.ensure(9, Phase::Frozen).await), Err(Reason::NotRunning));
    assert_eq!(reason(node.ensure(9, Phase::Unspecified).await), Err(Reason::MissingField));
    assert_eq!(node.host.done(), []);
    // What was refused was not accepted.
    node.host.change(ct(), |m| m.state.mounted = true);
    node.ensure(3, Phase::Running).await.expect("done");
    assert_eq!(reason(node.ensure(2, Phase::Absent).await), Err(Reason::StaleGeneration));
    let bare = pb::EnsureContainerRequest { spec: None, ..want(3, Phase::Created) };
    let fault = Fault::from(node.client.ensure_container(bare).await.expect_err("refused"));
    assert_eq!(fault.reason, Reason::MissingField);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_tells_the_steps_and_does_none() {
    let mut node = node(Config::default());
    let dry =
        |generation, phase| pb::EnsureContainerRequest { dry_run: true, ..want(generation, phase) };
    let planned = node.client.ensure_container(dry(7, Phase::Running)).await;
    let planned = planned.expect("planned").into_inner();
    let rest = pb::Container { ct: CT, steps: planned.steps.clone(), ..Default::default() };
    assert_eq!(planned, rest);
    assert_eq!(
        planned.steps,
        ["make namespaces in id slot 20", "let init go", "wait for the end, at most 20 ms"]
    );
    assert_eq!(node.host.done(), []);
    // What was only planned was not accepted.
    let done = node.client.ensure_container(want(3, Phase::Running)).await;
    assert_eq!(done.expect("done").into_inner().steps, planned.steps);
    let stale = node.client.ensure_container(dry(2, Phase::Absent)).await.expect_err("older");
    assert_eq!(Fault::from(stale).reason, Reason::StaleGeneration);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_commands_first_and_a_console_not() {
    let mut node = node(Config { early_exit_grace_ms: 0, ..Config::default() });
    node.ensure(1, Phase::Running).await.expect("done");
    let (_requests, mut command) = node.exec(&["cat"]).await.expect("started");
    assert!(matches!(next(&mut command).await, Say::Started(true)));
    let before = node.host.done().len();
    node.ensure(1, Phase::Absent).await.expect("done");
    let Say::Exit(ended) = next(&mut command).await else { panic!("its end is told") };
    assert_eq!(ended.how, Some(How::Signal(9)));
    let done: Vec<_> = node.host.done().split_off(before).into_iter().map(|(_, s)| s).collect();
    let first = ["end its sessions", "ask init to stop, and wait at most 100 ms"];
    assert_eq!(done.get(..2).expect("more"), first);
    node.ensure(2, Phase::Running).await.expect("done");
    node.exec(&["true"]).await.expect("commands are admitted again");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_end_is_not_waited_for_and_nobody_comes_meanwhile() {
    let sessions = Arc::new(crate::session::Sessions::new(2));
    let other: CtId = 9451.try_into().expect("valid");
    let (stuck, begun) = (sessions.command(ct()).expect("room"), std::time::Instant::now());
    let own = Arc::clone(&sessions);
    tokio::task::spawn_blocking(move || own.end(ct())).await.expect("no panic");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    let reason = |place: Result<_, Fault>| place.map(drop).map_err(|fault| fault.reason);
    assert_eq!(reason(sessions.command(ct())), Err(Reason::NotRunning));
    assert_eq!(reason(sessions.command(other)), Ok(()));
    assert_eq!(reason(sessions.console()), Ok(()));
    sessions.admit_again(ct());
    let _second = sessions.command(ct()).expect("admitted");
    assert_eq!(reason(sessions.command(other)), Err(Reason::TooMany));
    drop(stuck);
    assert_eq!(reason(sessions.command(other)), Ok(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_init_that_ends_at_once_is_a_fault_with_its_status() {
    let mut node = node(Config::default());
    node.host.change(ct(), |m| m.mortal = true);
    let fault = node.ensure(1, Phase::Running).await.expect_err("it ended");
    assert_eq!((fault.reason, fault.facts["status"].as_str()), (Reason::InitExited, "1"));
    assert_eq!(node.get().await.end(), EndReason::Exited);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_killed_will_not_stop_and_is_not_forgotten() {
    let mut node = node(Config { early_exit_grace_ms: 0, ..Config::default() });
    node.ensure(1, Phase::Running).await.expect("done");
    node.host.change(ct(), |m| (m.obedient, m.undying) = (false, true));
    let fault = node.ensure(1, Phase::Absent).await.expect_err("it lives");
    assert_eq!((fault.reason, fault.facts["step"].as_str()), (Reason::WillNotStop, "kill"));
    assert_eq!(fault.facts["ct"], CT.to_string());
    assert_eq!(node.get().await.phase(), Phase::Running);
    node.host.change(ct(), |m| m.undying = false);
    node.ensure(1, Phase::Absent).await.expect("it died after all");
    assert_eq!(node.get().await.phase(), Phase::Absent);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_at_any_step_is_made_good_by_asking_again() {
    for fail in 0..8 {
        let mut node = node(Config { early_exit_grace_ms: 0, ..Config::default() });
        node.host.fail_after(fail);
        let mut failures = 0;
        for phase in [Phase::Created, Phase::Running, Phase::Frozen, Phase::Absent] {
            while let Err(fault) = node.ensure(1, phase).await {
                assert_eq!(fault.reason, Reason::HostFailed, "{fault}");
                assert!(fault.facts.contains_key("step"));
                failures += 1;
            }
            assert_eq!(node.get().await.phase(), phase, "after a failure at {fail}");
        }
        assert_eq!(failures, 1, "{:?}", node.host.done());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn watchers_hear_the_present_and_each_change() {
    let mut node = node(Config { early_exit_grace_ms: 0, ..Config::default() });
    node.ensure(1, Phase::Running).await.expect("done");
    let watch = node.client.watch_containers(pb::WatchContainersRequest {}).await;
    let mut watch = watch.expect("watched").into_inner();
    let mut hear = async || {
        let message = tokio::time::timeout(Duration::from_secs(10), watch.message());
        message.await.expect("in time").expect("no fault").expect("more")
    };
    let present = hear().await;
    assert_eq!((present.ct, present.phase()), (CT, Phase::Running));
    node.host.end(ct(), ExitCause::Rebooted, Ended::Signal(1));
    let ended = hear().await;
    assert_eq!((ended.phase(), ended.end()), (Phase::Absent, EndReason::Rebooted));
    assert_eq!(ended.end_status, Some(ExitStatus { how: Some(How::Signal(1)) }));
    assert!(ended.incarnation > present.incarnation);
    node.ensure(1, Phase::Created).await.expect("done");
    assert_eq!(hear().await.phase(), Phase::Created);
    node.ensure(1, Phase::Running).await.expect("done");
    assert_eq!(hear().await.phase(), Phase::Running);
    node.ensure(1, Phase::Absent).await.expect("done");
    let mut last = hear().await;
    while last.phase() != Phase::Absent {
        last = hear().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_run_and_their_ends_are_exact() {
    let mut node = node(Config { early_exit_grace_ms: 0, ..Config::default() });
    let fault = node.exec(&["true"]).await.expect_err("it does not run");
    assert_eq!(fault.reason, Reason::NotRunning);
    node.ensure(1, Phase::Running).await.expect("done");
    let (_sender, mut stream) = node.exec(&["exit", "7"]).await.expect("started");
    assert_eq!(next(&mut stream).await, Say::Started(true));
    let mut said = next(&mut stream).await;
    while !matches!(said, Say::Exit(_)) {
        said = next(&mut stream).await;
    }
    assert_eq!(said, Say::Exit(ExitStatus { how: Some(How::Code(7)) }));
    assert!(stream.message().await.expect("no fault").is_none(), "the exit is the last");
    let fault = node.exec(&["nonsense"]).await.expect_err("there is none");
    assert_eq!((fault.reason, fault.facts["status"].as_str()), (Reason::CommandUnknown, "127"));

    let (sender, mut stream) = node.exec(&["cat"]).await.expect("started");
    assert_eq!(next(&mut stream).await, Say::Started(true));
    sender.send(ask(Ask::Stdin("hello".into()))).await.expect("sent");
    assert_eq!(next(&mut stream).await, Say::Stdout("hello".into()));
    sender.send(ask(Ask::Signal(15))).await.expect("sent");
    let killed = ExitStatus { how: Some(How::Signal(15)) };
    assert_eq!(next(&mut stream).await, Say::Exit(killed));

    let (sender, mut stream) = node.exec(&["cat"]).await.expect("started");
    drop(sender);
    assert_eq!(next(&mut stream).await, Say::Started(true));
    let ended = ExitStatus { how: Some(How::Code(0)) };
    assert_eq!(next(&mut stream).await, Say::Exit(ended), "the caller said all it had");

    node.ensure(1, Phase::Frozen).await.expect("done");
    let fault = node.exec(&["true"]).await.expect_err("it is frozen");
    assert_eq!(fault.reason, Reason::NotRunning);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_whose_caller_is_gone_keeps_its_place_until_it_ends() {
    let mut node = node(Config { early_exit_grace_ms: 0, max_sessions: 1, ..Config::default() });
    node.ensure(1, Phase::Running).await.expect("done");
    // By default it is ended, and its place is free again.
    for _ in 0..2 {
        let (sender, mut stream) = loop {
            match node.exec(&["sleep"]).await {
                Ok(session) => break session,
                Err(fault) => assert_eq!(fault.reason, Reason::TooMany, "{fault}"),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        assert_eq!(next(&mut stream).await, Say::Started(true));
        drop((sender, stream));
    }
    // One that is left is a session as before, until its container stops.
    let leave = pb::OnDisconnect::Leave.into();
    let left = || pb::ExecStart { on_disconnect: leave, ..start(&["sleep"]) };
    let (sender, mut stream) = loop {
        match node.begin(left()).await {
            Ok(session) => break session,
            Err(fault) => assert_eq!(fault.reason, Reason::TooMany, "{fault}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert_eq!(next(&mut stream).await, Say::Started(true));
    drop((sender, stream));
    for _ in 0..20 {
        let fault = node.exec(&["true"]).await.expect_err("it runs on");
        assert_eq!(fault.reason, Reason::TooMany);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let begun = std::time::Instant::now();
    node.ensure(1, Phase::Absent).await.expect("stopped");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    node.ensure(2, Phase::Running).await.expect("done");
    node.exec(&["true"]).await.expect("there is room");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_that_is_over_is_told_with_the_end() {
    let mut node = node(Config { early_exit_grace_ms: 0, ..Config::default() });
    node.ensure(1, Phase::Running).await.expect("done");
    let timeout = Some(prost_types::Duration { seconds: 1, nanos: 0 });
    let begun = node.begin(pb::ExecStart { timeout, ..start(&["sleep"]) }).await;
    let (_sender, mut stream) = begun.expect("started");
    assert_eq!(next(&mut stream).await, Say::Started(true));
    let last = stream.message().await.expect("no fault").expect("its end");
    let signal = ExitStatus { how: Some(How::Signal(1)) };
    assert_eq!((last.part, last.timed_out), (Some(Say::Exit(signal)), true));
    assert!(stream.message().await.expect("no fault").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_and_where_nobody_is_names_the_field() {
    let mut node = node(Config { early_exit_grace_ms: 0, ..Config::default() });
    node.ensure(1, Phase::Running).await.expect("done");
    let stranger = pb::ExecStart { user: "stranger".to_owned(), ..start(&["true"]) };
    let nowhere = pb::ExecStart { cwd: "/nowhere".to_owned(), ..start(&["true"]) };
    for (start, field) in [(stranger, "start.user"), (nowhere, "start.cwd")] {
        let fault = node.begin(start).await.expect_err("refused");
        assert_eq!((fault.reason, fault.facts["field"].as_str()), (Reason::BadValue, field));
        assert_eq!(fault.facts["ct"], CT.to_string());
    }
    let here = pb::ExecStart { user: "root".to_owned(), cwd: "/".to_owned(), ..start(&["true"]) };
    node.begin(here).await.expect("started");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_printed_last_can_be_read_until_it_is_made_anew() {
    let mut node = node(Config { early_exit_grace_ms: 0, ..Config::default() });
    let read = async |client: &mut Client, scrollback_only| {
        let start = pb::ConsoleStart { ct: CT, size: None, scrollback_only };
        let start = pb::ConsoleRequest { part: Some(pb::console_request::Part::Start(start)) };
        let answers = client.console(tokio_stream::once(start)).await.map_err(Fault::from)?;
        let (mut answers, mut text) = (answers.into_inner(), Vec::new());
        while let Some(message) = answers.message().await.map_err(Fault::from)? {
            text.extend(message.output);
        }
        Ok::<_, Fault>(text)
    };
    let none = read(&mut node.client, true).await.expect_err("it never ran");
    assert_eq!(none.reason, Reason::NotRunning);
    node.ensure(1, Phase::Running).await.expect("done");
    node.ensure(1, Phase::Absent).await.expect("done");
    for _ in 0..2 {
        assert_eq!(read(&mut node.client, true).await.expect("kept"), b"booted\r\n");
    }
    let nothing_runs = read(&mut node.client, false).await.expect_err("nothing to attach to");
    assert_eq!(nothing_runs.reason, Reason::NotRunning);
    node.host.change(ct(), |m| m.mortal = true);
    node.ensure(2, Phase::Running).await.expect_err("it ends at once");
    assert_eq!(read(&mut node.client, true).await.expect("why it ended"), b"booted\r\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn consoles_begin_with_what_scrolled_by_and_sessions_are_counted() {
    let mut node = node(Config { early_exit_grace_ms: 0, max_sessions: 1, ..Config::default() });
    node.ensure(1, Phase::Running).await.expect("done");
    let start = |scrollback_only| {
        let start = pb::ConsoleStart { ct: CT, size: None, scrollback_only };
        pb::ConsoleRequest { part: Some(pb::console_request::Part::Start(start)) }
    };
    let (sender, receiver) = tokio::sync::mpsc::channel(4);
    sender.send(start(false)).await.expect("queued");
    let attached = node.client.console(ReceiverStream::new(receiver)).await;
    let mut attached = attached.expect("attached").into_inner();
    let message = attached.message().await.expect("no fault").expect("output");
    assert_eq!(message.output, "booted\r\n");
    let stdin = pb::console_request::Part::Stdin("x".into());
    sender.send(pb::ConsoleRequest { part: Some(stdin) }).await.expect("sent");
    assert_eq!(attached.message().await.expect("no fault").expect("echo").output, "x");
    let fault = node.exec(&["true"]).await.expect_err("one is the most");
    assert_eq!(fault.reason, Reason::TooMany);
    drop((sender, attached));
    // Its place is free again as soon as the server has noticed.
    let mut end = tokio::time::Instant::now() + Duration::from_secs(10);
    let mut again = loop {
        match node.client.console(tokio_stream::once(start(true))).await {
            Ok(stream) => break stream.into_inner(),
            Err(status) => {
                assert_eq!(Fault::from(status).reason, Reason::TooMany);
                assert!(tokio::time::Instant::now() < end, "its place is never free");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    };
    end = tokio::time::Instant::now() + Duration::from_secs(10);
    let mut text = Vec::new();
    while let Some(message) = again.message().await.expect("no fault") {
        text.extend(message.output);
        assert!(tokio::time::Instant::now() < end);
    }
    assert_eq!(text, b"booted\r\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_whose_monitor_is_unresponsive_is_shown_and_can_be_ended() {
    let mut node = node(Config { early_exit_grace_ms: 0, ..Config::default() });
    let before = node.ensure(1, Phase::Running).await.expect("done");
    // One that has come to nothing yet.
    let other = CtId::try_from(CT + 1).expect("valid");
    node.host.change(other, |m| m.state.unresponsive = true);
    node.host.change(ct(), crate::fake::Model::unresponsive);
    let list = node.client.list_containers(pb::ListContainersRequest {}).await.expect("listed");
    let listed = list.into_inner().containers;
    let unresponsive = pb::Container { unresponsive: true, booted: false, ..before };
    assert_eq!(listed.first(), Some(&unresponsive));
    let blank = listed.get(1).expect("both");
    assert_eq!((blank.ct, blank.phase(), blank.unresponsive), (CT + 1, Phase::Created, true));
    assert_eq!(node.get().await, unresponsive);
    let watch = node.client.watch_containers(pb::WatchContainersRequest {}).await;
    let first = watch.expect("watched").into_inner().message().await.expect("no fault");
    assert_eq!(first.as_ref(), Some(&unresponsive));
    for phase in [Phase::Created, Phase::Running, Phase::Frozen] {
        let fault = node.ensure(1, phase).await.expect_err("it does not answer");
        assert_eq!(fault.reason, Reason::Timeout);
    }
    assert_eq!(node.exec(&["true"]).await.expect_err("nor here").reason, Reason::Timeout);
    let start = pb::ConsoleStart { ct: CT, size: None, scrollback_only: false };
    let start = pb::ConsoleRequest { part: Some(pb::console_request::Part::Start(start)) };
    let console = node.client.console(tokio_stream::once(start)).await;
    assert_eq!(Fault::from(console.expect_err("nor here")).reason, Reason::Timeout);
    let ended = node.ensure(1, Phase::Absent).await.expect("it can be ended");
    assert_eq!(
        (ended.phase(), ended.end(), ended.unresponsive),
        (Phase::Absent, EndReason::Killed, false)
    );
    assert!(ended.incarnation > unresponsive.incarnation, "an end is a new one");
    node.ensure(1, Phase::Running).await.expect("and begun again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_without_a_monitor_is_shown_as_it_lives_and_only_ended() {
    let mut node = node(Config { early_exit_grace_ms: 0, ..Config::default() });
    let before = node.ensure(1, Phase::Running).await.expect("done");
    node.host.change(ct(), crate::fake::Model::stray);
    let stray = pb::Container { unresponsive: true, booted: false, ..before };
    assert_eq!(node.get().await, stray);
    for phase in [Phase::Created, Phase::Running, Phase::Frozen] {
        let fault = node.ensure(1, phase).await.expect_err("nobody can lead there");
        assert_eq!((fault.reason, fault.facts["lost"].as_str()), (Reason::Running, "monitor"));
    }
    // All that is known of this one is that it lives.
    node.host.change(ct(), |m| m.state.run = None);
    let list = node.client.list_containers(pb::ListContainersRequest {}).await.expect("listed");
    let shown = list.into_inner().containers.first().cloned().expect("it is one of them");
    assert_eq!((shown.phase(), shown.unresponsive, shown.init_pid), (Phase::Running, true, None));
    let ended = node.ensure(1, Phase::Absent).await.expect("it can be ended");
    assert_eq!((ended.phase(), ended.unresponsive), (Phase::Absent, false));
    node.ensure(1, Phase::Running).await.expect("and begun again");
}
