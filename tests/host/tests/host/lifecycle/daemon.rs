//! The lifecycle daemon as a process with its own few capabilities: it makes and ends containers, and
//! being killed concerns none of them.

use std::time::Duration;

use tonic::Streaming;
use ves_kit::inventory::Kind;
use ves_kit::{Inventory, Proc, node, wait_until};
use ves_proto::common::{ExitStatus, Fence, WindowSize, exit_status::How};
use ves_proto::lifecycle::exec_request::Part as Ask;
use ves_proto::lifecycle::exec_response::Part as Say;
use ves_proto::lifecycle::lifecycle_service_client::LifecycleServiceClient;
use ves_proto::lifecycle::{self as pb, EndReason, Phase};
use ves_proto::{Fault, Reason};
use ves_types::layout::Daemon as Which;

use super::support::{World, alive, needs};

type Client = LifecycleServiceClient<ves_daemon::client::Traced>;

struct Daemon {
    process: Proc,
    client: Client,
}

fn daemon(world: &World) -> Daemon {
    daemon_with(world, "")
}

/// With these settings.
fn daemon_with(world: &World, settings: &str) -> Daemon {
    let (layout, program) = (world.layout(), node::bin_dir().join("ves-lifecycled"));
    let config = layout.state_dir().join("lifecycle.toml");
    std::fs::write(&config, format!("[service]\n{settings}")).expect("written");
    let config = config.to_str().expect("test paths are text");
    let process = Proc::daemon(&program, Which::Lifecycle, layout, &["--config", config]);
    let socket = layout.socket(Which::Lifecycle);
    Daemon { process, client: LifecycleServiceClient::new(ves_daemon::client::channel(&socket)) }
}

fn want(world: &World, phase: Phase, init: &[&str]) -> pb::EnsureContainerRequest {
    pb::EnsureContainerRequest {
        fence: Some(Fence { ct: world.ct.get(), generation: 1, epoch: 1 }),
        spec: Some(pb::ContainerSpec {
            id_slot: world.slot.get(),
            hostname: "web".to_owned(),
            init: init.iter().map(ToString::to_string).collect(),
            ..Default::default()
        }),
        phase: phase.into(),
        grace_ms: 60_000,
        dry_run: false,
        only_if_running: false,
    }
}

impl Daemon {
    async fn ensure(
        &mut self,
        request: pb::EnsureContainerRequest,
    ) -> Result<pb::Container, Fault> {
        let answer = self.client.ensure_container(request).await;
        answer.map(tonic::Response::into_inner).map_err(Fault::from)
    }
    async fn exec(
        &mut self,
        world: &World,
        argv: &[&str],
        tty: Option<WindowSize>,
    ) -> Result<(tokio::sync::mpsc::Sender<pb::ExecRequest>, Streaming<pb::ExecResponse>), Fault>
    {
        let (sender, receiver) = tokio::sync::mpsc::channel(4);
        let argv = argv.iter().map(ToString::to_string).collect();
        let start = pb::ExecStart { ct: world.ct.get(), argv, tty, ..Default::default() };
        sender.send(pb::ExecRequest { part: Some(Ask::Start(start)) }).await.expect("queued");
        let requests = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let answer = self.client.exec(requests).await.map_err(Fault::from)?;
        Ok((sender, answer.into_inner()))
    }
    /// A command's output and end.
    async fn run(&mut self, world: &World, argv: &[&str]) -> (String, ExitStatus) {
        let (_sender, mut stream) = self.exec(world, argv, None).await.expect("started");
        let mut text = Vec::new();
        loop {
            match stream.message().await.expect("no fault").expect("an exit").part {
                Some(Say::Stdout(bytes)) => text.extend(bytes),
                Some(Say::Exit(status)) => {
                    return (String::from_utf8_lossy(&text).into_owned(), status);
                }
                _ => {}
            }
        }
    }
}

const INIT: &[&str] =
    &["/bin/sh", "-c", "trap 'exit 0' USR2; echo booted; while :; do sleep 0.1; done"];

/// Waits until the init that runs now has set its trap.
fn booted(world: &World) {
    wait_until(Duration::from_secs(60), "it has booted", || world.scrollback().contains("booted"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_daemon_is_not_missed() {
    if !needs() {
        return;
    }
    let world = World::new(9460, |_| {});
    let mut first = daemon(&world);
    let status = std::fs::read_to_string(format!("/proc/{}/status", first.process.id()));
    let status = status.expect("readable");
    let eff = status.lines().find(|l| l.starts_with("CapEff")).expect("there");
    let few = ves_lifecycle::CAPABILITIES.iter().fold(0u64, |bits, cap| bits | 1 << cap.index());
    let bits = u64::from_str_radix(eff.split_whitespace().last().expect("a number"), 16);
    assert_eq!(bits.expect("hexadecimal") & !few, 0, "no more than declared: {eff}");

    let created = first.ensure(want(&world, Phase::Created, INIT)).await.expect("created");
    let running = first.ensure(want(&world, Phase::Running, INIT)).await.expect("running");
    assert_eq!(created.init_pid, running.init_pid);
    assert!(running.booted && running.started_unix_ms > 0);
    let init = running.init_pid.expect("there");
    assert_eq!(first.run(&world, &["sh", "-c", "hostname; exit 3"]).await.0, "web\n");

    for _ in 0..5 {
        // Nobody waits for what is under way.
        let session = first.exec(&world, &["sleep", "600"], None).await.expect("started");
        first.process.kill();
        drop(session);
        assert!(alive(init));
        first = daemon(&world);
        let request = pb::GetContainerRequest { ct: world.ct.get() };
        let found = first.client.get_container(request).await.expect("found").into_inner();
        assert_eq!((found.phase(), found.init_pid), (Phase::Running, Some(init)));
        assert_eq!(found.generation, 1);
        let (text, status) = first.run(&world, &["echo", "still here"]).await;
        assert_eq!((text.as_str(), status.how), ("still here\n", Some(How::Code(0))));
    }
    wait_until(Duration::from_secs(60), "what they ran ended with them", || {
        !world.sh("ps -o args").contains("sleep 600")
    });
    // The console has what was said before all that.
    booted(&world);
    // A reboot from inside is told by a stream that began afterwards, too.
    let watch = first.client.watch_containers(pb::WatchContainersRequest {}).await;
    let mut watch = watch.expect("watched").into_inner();
    // Others that run on this machine are told of, too.
    let mut tell = async || loop {
        let told = watch.message().await.expect("no fault").expect("told");
        if told.ct == world.ct.get() {
            break told;
        }
    };
    let present = tell().await;
    assert_eq!(present.phase(), Phase::Running);
    first.run(&world, &["reboot", "-f"]).await;
    let ended = loop {
        let told = tell().await;
        if told.phase() == Phase::Absent {
            break told;
        }
    };
    assert_eq!((ended.end(), ended.ct), (EndReason::Rebooted, world.ct.get()));
    assert!(ended.incarnation > present.incarnation);
    let again = first.ensure(want(&world, Phase::Running, INIT)).await.expect("again");
    assert_ne!(again.init_pid, Some(init));
    booted(&world);
    let gone = first.ensure(want(&world, Phase::Absent, &[])).await.expect("stopped");
    assert_eq!((gone.phase(), gone.end()), (Phase::Absent, EndReason::Stopped));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_sessions_first_however_many_and_stubborn() {
    if !needs() {
        return;
    }
    let world = World::new(9466, |_| {});
    let mut daemon = daemon(&world);
    // As others do it, it waits for whoever is left.
    let waits = "trap 'while ps -o args | grep -q \"[s]leep 777\"; do sleep 0.1; done; exit 0' USR2; \
                 while :; do sleep 0.1; done";
    daemon.ensure(want(&world, Phase::Running, &["/bin/sh", "-c", waits])).await.expect("running");
    let stubborn = "trap '' HUP TERM INT; echo up; while :; do sleep 777; done";
    let mut open = Vec::new();
    for n in 0..60 {
        let tty = (n % 3 == 0).then_some(WindowSize { rows: 20, cols: 80 });
        open.push(daemon.exec(&world, &["sh", "-c", stubborn], tty).await.expect("started"));
    }
    let begun = std::time::Instant::now();
    let ended = daemon.ensure(want(&world, Phase::Absent, &[])).await.expect("stopped");
    assert_eq!(ended.end(), EndReason::Stopped, "init ended by itself: {ended:?}");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    for (_requests, mut answers) in open {
        let mut last = None;
        while let Ok(Some(answer)) = answers.message().await {
            last = answer.part;
        }
        // Its end is told where that goes at once, and never another.
        if let Some(Say::Exit(end)) = last {
            assert_eq!(end.how, Some(How::Signal(9)));
        }
    }
    // Whoever comes afterwards is admitted again.
    daemon.ensure(want(&world, Phase::Running, INIT)).await.expect("running");
    assert_eq!(daemon.run(&world, &["echo", "again"]).await.0, "again\n");
    daemon.ensure(want(&world, Phase::Absent, &[])).await.expect("stopped");
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_say_what_is_wrong() {
    if !needs() {
        return;
    }
    let world = World::new(9461, |_| {});
    // However slowly it ends at once: it counts as having failed to start.
    let mut patient = daemon_with(&world, "early_exit_grace_ms = 60000\n");
    let fault = patient.ensure(want(&world, Phase::Running, &["/bin/false"])).await;
    let fault = fault.expect_err("it ends at once");
    drop(patient);
    let mut daemon = daemon(&world);
    assert_eq!((fault.reason, fault.facts["status"].as_str()), (Reason::InitExited, "1"));
    let fault = daemon.ensure(want(&world, Phase::Running, &["/no/init"])).await;
    let fault = fault.expect_err("it is not there");
    assert_eq!((fault.reason, fault.facts["errno"].as_str()), (Reason::StartFailed, "2"));
    assert_eq!(fault.facts["step"], "execute /no/init");
    let fault = daemon.exec(&world, &["true"], None).await.expect_err("it does not run");
    assert_eq!(fault.reason, Reason::NotRunning);
    daemon.ensure(want(&world, Phase::Running, INIT)).await.expect("running");
    let fault = daemon.exec(&world, &["nonsense"], None).await.expect_err("there is none");
    assert_eq!((fault.reason, fault.facts["status"].as_str()), (Reason::CommandUnknown, "127"));
    let fault = daemon.exec(&world, &["/etc/passwd"], None).await.expect_err("no program");
    assert_eq!((fault.reason, fault.facts["status"].as_str()), (Reason::CommandUnknown, "126"));
}

#[tokio::test(flavor = "multi_thread")]
async fn cycles_leave_the_inventory_as_it_was() {
    if !needs() {
        return;
    }
    let world = World::new(9462, |_| {});
    let mut daemon = daemon(&world);
    let cycle = async |daemon: &mut Daemon| {
        daemon.ensure(want(&world, Phase::Created, INIT)).await.expect("created");
        daemon.ensure(want(&world, Phase::Running, INIT)).await.expect("running");
        let (_, status) = daemon.run(&world, &["true"]).await;
        assert_eq!(status.how, Some(How::Code(0)));
        booted(&world);
        daemon.ensure(want(&world, Phase::Absent, &[])).await.expect("stopped");
    };
    cycle(&mut daemon).await;
    let pid = daemon.process.id();
    // Others use the machine at the same time; what is ours has our directory or our group's name.
    let ours = world.layout().run_dir().to_str().expect("text").to_owned();
    let group = format!("ct-{}", world.ct);
    let keep = move |kind: Kind, line: &str| {
        matches!(kind, Kind::File | Kind::Descriptors)
            || line.contains(&ours)
            || line.contains(&group)
    };
    let before = Inventory::take_watching(world.layout(), &[pid]).only(&keep);
    for _ in 0..20 {
        cycle(&mut daemon).await;
    }
    before.wait_clean_of(world.layout(), Duration::from_secs(60), keep);
}
