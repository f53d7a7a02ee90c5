//! Containers that try to stop their monitor, and monitors that have stopped, on the real kernel.

use std::io::{ErrorKind, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use ves_host::channel;
use ves_init_proto::report::{self, Ended};
use ves_kit::{Rootfs, TestNode, need, node, wait_until};
use ves_lifecycle::fake::{FakeHost, Model};
use ves_lifecycle::host::Host as _;
use ves_lifecycle::plan::{Desired, Goal, Spec, plan};
use ves_proto::lifecycle::lifecycle_service_client::LifecycleServiceClient;
use ves_proto::lifecycle::{ListContainersRequest, ListContainersResponse, Phase};
use ves_types::layout::Daemon;
use ves_types::{CtId, ExitCause};

use super::support::{World, alive, needs, parent, plain};

/// An init that never ends by itself and obeys when asked.
const OBEDIENT: &str = "trap 'exit 3' USR2; echo up; while :; do sleep 0.05; done";

/// A connection whose last closing lasts an hour, and its peer, which does not read.
fn clinging() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let mut near = TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
    let (far, _) = listener.accept().expect("accepted");
    near.set_nonblocking(true).expect("set");
    let full = std::iter::repeat(()).find_map(|()| near.write_all(&[0; 64 * 1024]).err());
    assert_eq!(full.map(|e| e.kind()), Some(ErrorKind::WouldBlock));
    let hour = Some(Duration::from_secs(3600));
    rustix::net::sockopt::set_socket_linger(&near, hour).expect("set");
    (near, far)
}

/// Stops the monitor of this init; none of its threads runs any more.
fn stop_monitor(world: &World, init: u32) {
    world.signal_monitor(Signal::STOP);
    let tasks = format!("/proc/{}/task", parent(init));
    let stands = |entry: std::io::Result<std::fs::DirEntry>| {
        let stat = std::fs::read_to_string(entry.expect("an entry").path().join("stat"));
        stat.expect("it lives").rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
    };
    let all = || std::fs::read_dir(&tasks).expect("it lives").all(stands);
    wait_until(Duration::from_secs(10), "the monitor stops", all);
}

/// Sends the monitor of this init what it cannot close, as root inside can; hands back the peers.
fn cling_to_monitor(world: &World, init: u32) -> Vec<TcpStream> {
    let notify = UnixDatagram::unbound().expect("a socket");
    notify.connect(format!("/proc/{init}/root/run/host/notify")).expect("it is there");
    // So that it is not this process which closes last.
    stop_monitor(world, init);
    let send = |(near, far): (TcpStream, TcpStream)| {
        channel::send(&notify, b"STATUS=x", &[near.as_fd()]).expect("sent");
        far
    };
    let peers = (0..3).map(|_| send(clinging())).collect();
    world.signal_monitor(Signal::CONT);
    peers
}

#[test]
fn a_descriptor_that_cannot_be_closed_holds_up_no_monitor() {
    if !needs() {
        return;
    }
    let world = World::new(9470, |_| {});
    for stopped in [false, true] {
        let init = world.start(world.script(OBEDIENT));
        let monitor = parent(init);
        let _peers = cling_to_monitor(&world, init);
        let begun = Instant::now();
        for _ in 0..3 {
            let seen = world.observe();
            assert!(seen.monitor.is_some_and(|m| m.running), "it answers");
            assert_eq!(world.sh("echo hello").trim(), "hello");
            assert!(world.scrollback().contains("up"));
            std::thread::sleep(Duration::from_millis(50));
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        if stopped {
            let after = world.stop(5000);
            assert!(
                after.monitor.is_none() && !after.unresponsive && !after.leftovers,
                "{after:?}"
            );
        } else {
            // Whoever sends it may die with init before it has ended by itself.
            world.exec(&["/bin/sh", "-c", "kill -USR2 1"]);
            let last = world.ended().last.expect("its end is noticed");
            assert_eq!((last.cause, last.ended), (ExitCause::Exited, Ended::Code(3)));
        }
        wait_until(Duration::from_secs(10), "the monitor ends", || !alive(monitor));
        assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    }
}

#[test]
fn the_fake_node_agrees_on_a_monitor_that_does_not_answer() {
    if !needs() {
        return;
    }
    let world = World::new(9471, |_| {});
    let fake = FakeHost::new();
    let ended =
        Desired { goal: Goal::Absent { grace_ms: 1000 }, spec: None, early_exit_grace_ms: 0 };
    for goal in [Goal::Created, Goal::Running] {
        let desired = Desired { goal, spec: Some(world.script(OBEDIENT)), early_exit_grace_ms: 0 };
        for step in plan(&desired, &world.observe()).expect("planned") {
            world.host.apply(world.ct, &step).expect("done");
            fake.apply(world.ct, &step).expect("done");
        }
        let init = world.observe().monitor.expect("it is there").init_pid;
        stop_monitor(&world, init);
        fake.change(world.ct, Model::unresponsive);
        let seen = world.observe();
        assert_eq!(seen.run.map(|run| run.init_pid), Some(init));
        let model = || plain(fake.observe(world.ct).expect("observed"));
        assert_eq!(plain(seen.clone()), model(), "{goal:?}");
        let steps = plan(&ended, &seen).expect("planned");
        assert_eq!(plan(&ended, &model()), Ok(steps.clone()));
        for step in steps {
            world.host.apply(world.ct, &step).expect("done");
            fake.apply(world.ct, &step).expect("done");
            assert_eq!(plain(world.observe()), model(), "after {step} of {goal:?}");
        }
        wait_until(Duration::from_secs(10), "init died", || !alive(init));
    }
}

/// Lifecycle's list and how long it took.
fn list(node: &TestNode) -> (ListContainersResponse, Duration) {
    let socket = node.layout().socket(Daemon::Lifecycle);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let begun = Instant::now();
    let list = runtime.block_on(async {
        let mut client = LifecycleServiceClient::new(ves_daemon::client::channel(&socket));
        client.list_containers(ListContainersRequest {}).await.expect("listed").into_inner()
    });
    (list, begun.elapsed())
}

#[test]
fn containers_whose_monitors_do_not_answer_are_listed_together_stopped_and_destroyed() {
    need!(node::node());
    let node = TestNode::start().with_template("web", &Rootfs::web());
    let cts = [node.ct(), node.ct(), node.ct()];
    for ct in cts {
        node.ok(&format!("create {ct} --ostemplate web --diskspace 128M --ram 64M --numproc 60"));
        node.ok(&format!("start {ct}"));
    }
    let monitor = |ct: CtId| {
        let socket = report::socket(&node.layout().ct_dir(ct));
        let stream = std::os::unix::net::UnixStream::connect(socket).expect("it listens");
        rustix::net::sockopt::socket_peercred(&stream).expect("told").pid
    };
    let monitors = cts.map(monitor);
    for pid in monitors {
        rustix::process::kill_process(pid, Signal::STOP).expect("stopped");
    }
    let (list, took) = list(&node);
    // Others that run on this machine are none of its own.
    let own: Vec<_> =
        list.containers.iter().filter(|c| cts.iter().any(|ct| ct.get() == c.ct)).collect();
    let shown: Vec<_> = own.iter().map(|c| (c.ct, c.phase(), c.unresponsive)).collect();
    assert_eq!(shown, cts.map(|ct| (ct.get(), Phase::Running, true)));
    assert!(own.iter().all(|c| c.init_pid.is_some() && c.started_unix_ms > 0));
    // One is waited for 5 seconds.
    assert!(took < Duration::from_secs(9), "{took:?}");
    // A coordinator that knows nothing yet sees them and says what is wrong.
    assert!(node.stack().kill(Daemon::Coordinator).expect("killed"));
    node.stack().start(Daemon::Coordinator).expect("started");
    let ready = Duration::from_secs(20);
    node.stack().wait_ready(Daemon::Coordinator, ready).expect("listening again");
    wait_until(Duration::from_secs(30), "the coordinator sees them", || {
        let rows = node.json("list --fields status,problem");
        let text = |row: &serde_json::Value, name: &str| row[name].as_str().map(str::to_owned);
        rows.as_array().is_some_and(|rows| {
            rows.len() == cts.len()
                && rows.iter().all(|row| {
                    text(row, "status").as_deref() == Some("running")
                        && text(row, "problem").is_some_and(|p| p.contains("does not answer"))
                })
        })
    });
    let [first, second, third] = cts;
    assert!(node.ok(&format!("status {first}")).contains("running"));
    assert!(!node.run(&format!("exec {first} true")).status.success());
    for (ct, verb) in [(first, "stop"), (second, "stop"), (third, "restart")] {
        let begun = Instant::now();
        node.ok(&format!("{verb} {ct} --fast"));
        assert!(begun.elapsed() < Duration::from_secs(40), "{verb}: {:?}", begun.elapsed());
    }
    assert_eq!(
        node.ok(&format!("status {first}")).trim(),
        format!("CTID {first} exist unmounted down")
    );
    node.ok(&format!("exec {third} true"));
    node.ok(&format!("stop {third} --fast"));
    for ct in cts {
        node.ok(&format!("destroy {ct}"));
    }
    for pid in monitors {
        let lives = || alive(pid.as_raw_pid().cast_unsigned());
        wait_until(Duration::from_secs(10), "no monitor is left", || !lives());
    }
}

/// A number of the kernel's about all pseudo-terminals.
fn ptys(name: &str) -> u32 {
    let text = std::fs::read_to_string(format!("/proc/sys/kernel/pty/{name}")).expect("there");
    text.trim().parse().expect("a number")
}

#[test]
fn one_that_takes_all_terminals_takes_none_of_the_node_and_of_consoles() {
    if !needs() {
        return;
    }
    let greedy = World::new(9477, |_| {});
    greedy.start(Spec { max_ptys: Some(5), ..greedy.script(OBEDIENT) });
    // An instance of its own, which knows no limit; most are held five by a process.
    let all = ptys("max") - ptys("reserve") - 1;
    let script = format!(
        "mkdir -p /tmp/p && mount -t devpts -o ptmxmode=0666 none /tmp/p || exit 9
        take() {{ (exec 3<>/tmp/p/ptmx && exec sleep 600) 2>/dev/null & }}
        for i in $(seq {}); do
            (exec 3<>/tmp/p/ptmx 4<>/tmp/p/ptmx 5<>/tmp/p/ptmx 6<>/tmp/p/ptmx 7<>/tmp/p/ptmx && \
                exec sleep 600) 2>/dev/null &
        done
        while [ $(cat /proc/sys/kernel/pty/nr) -lt {all} ]; do take; sleep 0.02; done
        echo full
        # What others give back meanwhile it takes too.
        while :; do [ $(cat /proc/sys/kernel/pty/nr) -lt {all} ] && take; sleep 0.1; done",
        all / 5,
    );
    let mut hog = greedy.begin(&["/bin/sh", "-c", &script]);
    hog.until("full");
    wait_until(Duration::from_secs(60), "it has all that is not reserved", || ptys("nr") >= all);
    let other = World::new(9478, |_| {});
    other.start(Spec { max_ptys: Some(0), ..other.script(OBEDIENT) });
    wait_until(Duration::from_secs(60), "its console works", || other.scrollback() == "up\r\n");
    let node = rustix::pty::openpt(rustix::pty::OpenptFlags::RDWR);
    assert!(node.is_ok(), "nor does the node lack one: {node:?}");
    // Nor can a container that has a console take more by the instance of that.
    let console = other.sh("tty < /dev/console; grep -c devpts /proc/self/mountinfo; ls /dev/pts");
    assert_eq!(
        console, "/dev/console\n1\n",
        "no instance but the console itself, and no limit of 0"
    );
    drop(hog);
    greedy.stop(0);
}

#[test]
fn what_lies_in_etc_hinders_no_start_and_is_kept() {
    if !needs() {
        return;
    }
    let long = "10.0.0.1 a-name-that-is-blocked\n".repeat(40_000);
    let world = World::new(9476, |root| {
        std::fs::create_dir_all(root.join("etc/hostname.ves-new/full")).expect("made");
        std::fs::write(root.join("etc/hosts"), &long).expect("written");
    });
    for round in 0..2 {
        world.start(world.script(OBEDIENT));
        let hosts = world.sh("wc -c < /etc/hosts; tail -n 1 /etc/hosts; hostname");
        let lines: Vec<_> = hosts.lines().collect();
        let own = "127.0.1.1\tweb.example.org web";
        assert_eq!(lines[0].trim(), (long.len() + own.len() + 1).to_string(), "round {round}");
        assert_eq!(lines[1..], [own, "web.example.org"]);
        world.stop(5000);
    }
}
