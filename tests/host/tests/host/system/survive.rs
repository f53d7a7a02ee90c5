//! Every daemon may be killed at any time: requests are answered, sessions of other services go on,
//! init, limits and routes stay, and work that was interrupted is finished.

use std::io::{BufRead, BufReader, Write};
use std::net::IpAddr;
use std::process::{ChildStdin, ChildStdout, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ves_kit::stack::{READY, Started};
use ves_kit::{Proc, Rootfs, TestNode, http, need, node, wait_until};
use ves_types::CtId;
use ves_types::layout::{self, Daemon};

/// How long what must happen may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often each daemon is killed.
const ROUNDS: usize = 3;
/// The status of `virtctl` where other work on the container is under way.
const BUSY: i32 = 9;
/// So many answers must come while a daemon is dead.
const ANSWERS: u64 = 20;

#[test]
fn daemons_die_under_traffic_and_nobody_notices() {
    need!(node::node());
    let node = TestNode::start().with_template("web", &Rootfs::web());
    let ct = node.ct();
    let addresses: [IpAddr; 2] = [node::ipv4(ct).into(), node::ipv6(ct).into()];
    node.ok(&format!(
        "create {ct} --ostemplate web --ipadd {} --ipadd {} --diskspace 128M --ram 128M \
         --cpulimit 100 --numproc 60",
        addresses[0], addresses[1]
    ));
    node.ok(&format!("start {ct}"));
    for address in addresses {
        http::get_within(address, PATIENCE).expect("the web server answers");
    }

    let traffic = Traffic::default();
    std::thread::scope(|scope| {
        let _ends = StopAtEnd(&traffic);
        for address in addresses {
            let traffic = &traffic;
            scope.spawn(move || traffic.ask(address));
        }
        let before = Facts::of(&node, ct);
        for round in 0..ROUNDS {
            for service in Daemon::ALL {
                let mut session = Session::open(&node, ct);
                session.echo("before");
                assert!(node.stack().kill(service).expect("killed"), "it ran");
                traffic.answers(ANSWERS, &format!("while {} is dead", service.program()));
                if matches!(service, Daemon::Storage | Daemon::Network | Daemon::Resources) {
                    session.echo("while another service is dead");
                }
                assert_eq!(Facts::of_host(ct), before.host, "with {} dead", service.program());
                node.stack().start(service).expect("started again");
                node.stack().wait_ready(service, READY).expect("listening again");
                before.hold(&node, ct, &format!("round {round}, after {}", service.program()));
                traffic.answers(ANSWERS, &format!("after {} came back", service.program()));
            }
        }
    });
    let lost = traffic.lost.into_inner().unwrap_or_else(PoisonError::into_inner);
    let answered = traffic.answered.into_inner();
    assert!(lost.is_empty(), "{} of {answered} requests were lost: {lost:?}", lost.len());
    println!("{} kills, {answered} requests answered, none lost", ROUNDS * Daemon::ALL.len());
}

#[test]
fn programs_are_replaced_under_traffic_and_nobody_notices() {
    need!(node::node());
    let node = TestNode::start_from_copies().with_template("web", &Rootfs::web());
    let ct = node.ct();
    let address: IpAddr = node::ipv4(ct).into();
    node.ok(&format!(
        "create {ct} --ostemplate web --ipadd {address} --diskspace 128M --ram 128M --numproc 60"
    ));
    node.ok(&format!("start {ct}"));
    http::get_within(address, PATIENCE).expect("the web server answers");

    let traffic = Traffic::default();
    std::thread::scope(|scope| {
        let _ends = StopAtEnd(&traffic);
        scope.spawn(|| traffic.ask(address));
        let before = Facts::of(&node, ct);
        let programs = node.stack().bin_dir();
        for name in Daemon::ALL.into_iter().map(Daemon::program).chain(["ves-init"]) {
            // As a package manager does it: a new file in the old one's place.
            let new = programs.join("new");
            std::fs::copy(programs.join(name), &new).expect("copied");
            std::fs::rename(&new, programs.join(name)).expect("replaced");
        }
        for service in Daemon::ALL {
            let started = node.stack().start(service).expect("started again");
            assert_eq!(started, Started::Upgraded, "{}", service.program());
            node.stack().wait_ready(service, READY).expect("listening again");
            before.hold(&node, ct, &format!("after the upgrade of {}", service.program()));
            traffic.answers(ANSWERS, &format!("after the upgrade of {}", service.program()));
        }
        Session::open(&node, ct).echo("after the upgrade");
    });
    let lost = traffic.lost.into_inner().unwrap_or_else(PoisonError::into_inner);
    assert!(lost.is_empty(), "{} requests were lost: {lost:?}", lost.len());
    // What is new can end what the old began.
    node.ok(&format!("restart {ct}"));
    http::get_within(address, PATIENCE).expect("the web server answers");
}

#[test]
fn work_that_a_crash_interrupts_is_finished() {
    need!(node::node());
    let node = TestNode::start().with_template("web", &Rootfs::web());
    for service in Daemon::ALL {
        // A little later each time, so that the crash falls into different steps.
        for pause in [0, 15, 40, 90] {
            let ct = node.ct();
            node.ok(&format!(
                "create {ct} --ostemplate web --ipadd {} --diskspace 128M --numproc 60",
                node::ipv4(ct)
            ));
            let mut start = node.virtctl();
            start.args(["start", &ct.to_string()]).stdout(Stdio::piped()).stderr(Stdio::piped());
            let start = start.spawn().expect("virtctl starts");
            std::thread::sleep(Duration::from_millis(pause));
            node.stack().kill(service).expect("killed");
            node.stack().start(service).expect("started again");
            node.stack().wait_ready(service, READY).expect("listening again");
            let out = start.wait_with_output().expect("it ends");
            if !out.status.success() {
                // The call was cut: the work goes on, or it is to be asked for again.
                println!(
                    "{} after {pause} ms: {}",
                    service.program(),
                    String::from_utf8_lossy(&out.stderr).trim()
                );
            }
            let again = !out.status.success();
            let what = format!("{ct} runs though {} died after {pause} ms", service.program());
            wait_until(PATIENCE, &what, || {
                if again {
                    // Says that it is busy where the work goes on.
                    node.run(&format!("start {ct}"));
                }
                node.run(&format!("status {ct}"))
                    .stdout
                    .windows(7)
                    .any(|seven| seven.eq_ignore_ascii_case(b"running"))
            });
            http::get_within(node::ipv4(ct).into(), PATIENCE).expect("it answers");
            // What the crash left to be finished comes before anything else.
            wait_until(PATIENCE, "it stops", || {
                let stopped = node.run(&format!("stop {ct} --fast"));
                let busy = stopped.status.code() == Some(BUSY);
                let said = String::from_utf8_lossy(&stopped.stderr);
                assert!(stopped.status.success() || busy, "stop {ct}: {said}");
                !busy
            });
            node.ok(&format!("destroy {ct}"));
        }
    }
}

/// Requests that never end, counted.
#[derive(Debug, Default)]
struct Traffic {
    stop: AtomicBool,
    answered: AtomicU64,
    lost: Mutex<Vec<String>>,
}

impl Traffic {
    fn ask(&self, address: IpAddr) {
        while !self.stop.load(Ordering::Relaxed) {
            match http::get(address, PATIENCE) {
                Ok(_) => {
                    self.answered.fetch_add(1, Ordering::Relaxed);
                }
                Err(e) => {
                    self.lost.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{e:#}"))
                }
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits for so many further answers.
    #[track_caller]
    fn answers(&self, count: u64, when: &str) {
        let goal = self.answered.load(Ordering::Relaxed) + count;
        wait_until(PATIENCE, &format!("{count} answers {when}"), || {
            self.answered.load(Ordering::Relaxed) >= goal
        });
    }
}

struct StopAtEnd<'a>(&'a Traffic);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

/// What must not change.
#[derive(Debug, PartialEq, Eq)]
struct Facts {
    init: Option<u64>,
    state: String,
    limits: String,
    host: HostFacts,
}

/// What can be seen without any daemon.
#[derive(Debug, PartialEq, Eq)]
struct HostFacts {
    routes: String,
    limits: Vec<(String, String)>,
}

impl Facts {
    #[track_caller]
    fn of(node: &TestNode, ct: CtId) -> Self {
        let list = node.json("list -a");
        let row = list
            .as_array()
            .and_then(|rows| rows.iter().find(|row| row["ctid"].as_u64() == Some(ct.get().into())));
        let row = row.expect("it is listed");
        let resources = node.ok(&format!("resources {ct} -o csv --fields resource,barrier,limit"));
        Self {
            init: row["init_pid"].as_u64(),
            state: row["status"].as_str().unwrap_or_default().to_owned(),
            limits: resources,
            host: Self::of_host(ct),
        }
    }

    /// Nothing of it has changed.
    #[track_caller]
    fn hold(&self, node: &TestNode, ct: CtId, when: &str) {
        assert_eq!(Self::of(node, ct), *self, "{when}");
    }

    fn of_host(ct: CtId) -> HostFacts {
        let link = layout::host_link(ct);
        let routes = [["-4", "route"], ["-6", "route"]]
            .map(|[family, object]| ves_kit::run("ip", &[family, object, "show", "dev", &link]));
        let group = layout::cgroup(ct);
        let limits = ["pids/{}/pids.max", "memory/{}/memory.limit_in_bytes", "{}/pids.max"]
            .into_iter()
            .map(|file| format!("/sys/fs/cgroup/{}", file.replace("{}", &group)))
            .filter_map(|file| Some((file.clone(), std::fs::read_to_string(file).ok()?)))
            .collect();
        HostFacts { routes: routes.concat(), limits }
    }
}

/// An exec session that stays open.
struct Session {
    _process: Proc,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Session {
    #[track_caller]
    fn open(node: &TestNode, ct: CtId) -> Self {
        let mut command = node.virtctl();
        command.args(["exec", &ct.to_string(), "cat"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Proc::spawn(command);
        let input = process.child().stdin.take().expect("piped");
        let output = BufReader::new(process.child().stdout.take().expect("piped"));
        Self { _process: process, input, output }
    }

    #[track_caller]
    fn echo(&mut self, text: &str) {
        writeln!(self.input, "{text}").expect("the session takes input");
        self.input.flush().expect("the session takes input");
        let mut line = String::new();
        self.output.read_line(&mut line).expect("the session answers");
        assert_eq!(line.trim_end(), text);
    }
}
