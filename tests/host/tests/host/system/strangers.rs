//! Accounts without any right at the public socket: whatever they do, root and operators are served, the log is
//! readable, and the processor is not theirs.

use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ves_kit::{Proc, TestNode, need, node, stack, wait_until};
use ves_types::layout::{COORDINATOR_USER, Daemon};

const NOBODY: u32 = 65_534;
/// How long root's command may take beside strangers; alone it takes some tens of milliseconds.
const USUAL: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(30);
const TICKS_A_SECOND: u64 = 100;

/// Somebody at the public socket; goes with this.
fn stranger(node: &TestNode, mode: &str, count: usize) -> Proc {
    // "nobody" reaches neither the directory of the test's programs nor anything but the socket.
    let program = node.dir().join("stranger");
    if !program.exists() {
        std::fs::copy(env!("CARGO_BIN_EXE_stranger"), &program).expect("copied");
    }
    let mut command = Command::new(program);
    command.arg(mode).arg(node.layout().socket(Daemon::Coordinator)).arg(count.to_string());
    command.uid(NOBODY).stdout(Stdio::piped());
    let mut process = Proc::spawn(command);
    let mut line = String::new();
    let told = process.child().stdout.take().expect("piped");
    BufReader::new(told).read_line(&mut line).expect("it tells");
    assert!(line.starts_with("held "), "{line:?}");
    process
}

/// Root's command, which comes through in usual time.
#[track_caller]
fn root_is_served(node: &TestNode, when: &str) {
    let begun = Instant::now();
    node.ok("list -a");
    assert!(begun.elapsed() < USUAL, "{when}: {:?}", begun.elapsed());
}

/// What a process has used of the processor.
fn used(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let fields = stat.rsplit(')').next().expect("behind the name").split_whitespace();
    fields.skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("a number")).sum()
}

fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs").count()
}

fn lines(node: &TestNode) -> usize {
    let log = std::fs::read_to_string(node.stack().log(Daemon::Coordinator)).expect("a log");
    log.lines().count()
}

#[test]
fn strangers_take_nothing_that_root_needs() {
    need!(node::node());
    let node = TestNode::start();
    let pid = node.stack().pid(Daemon::Coordinator).expect("looked up").expect("it runs");
    root_is_served(&node, "alone");
    let (lines_before, descriptors_before) = (lines(&node), descriptors(pid));

    let begun = Instant::now();
    let _strangers =
        [("idle", 1500), ("half", 200), ("flood", 20)].map(|(mode, n)| stranger(&node, mode, n));
    let used_before = used(pid);
    let measured = Instant::now();
    for round in 0..20 {
        root_is_served(&node, &format!("round {round} beside strangers"));
    }
    let root_alone = used(pid);
    // Half-written requests run into their deadline meanwhile, and others come in their place.
    wait_until(PATIENCE, "twelve seconds have passed", || {
        begun.elapsed() > Duration::from_secs(12)
    });
    root_is_served(&node, "after the deadline of those that said nothing");

    let seconds = begun.elapsed().as_secs() + 1;
    let ticks = used(pid) - used_before;
    let whole = measured.elapsed().as_secs() * TICKS_A_SECOND;
    let grown = lines(&node) - lines_before;
    println!("{ticks} of {whole} ticks ({} with root's), {grown} lines", root_alone - used_before);
    assert!(ticks < whole / 3, "{ticks} ticks of {whole} were used");
    assert!(grown as u64 <= seconds + 5, "{grown} lines in {seconds} s");
    let held = descriptors(pid) - descriptors_before;
    assert!((1..=20).contains(&held), "strangers hold {held} descriptors");
    let log = std::fs::read_to_string(node.stack().log(Daemon::Coordinator)).expect("a log");
    assert!(log.contains("refused a connection") && log.contains("left_out"), "{log}");
    assert!(!log.contains("Health/x"), "what a stranger makes up is in the log");
}

#[test]
fn without_descriptors_nothing_spins_and_all_is_well_when_there_are_some_again() {
    need!(node::node());
    let node = TestNode::start();
    assert!(node.stack().stop(Daemon::Coordinator).expect("stopped"), "it ran");
    let (layout, log) = (node.layout(), node.dir().join("log"));
    let mut command = Command::new("prlimit");
    command.args(["--nofile=32:64", "setpriv", "--reuid", COORDINATOR_USER, "--regid"]);
    command.args([COORDINATOR_USER, "--init-groups", "--"]);
    command.arg(node.stack().bin_dir().join(Daemon::Coordinator.program()));
    command.arg("--run-dir").arg(layout.run_dir()).arg("--state-dir").arg(layout.state_dir());
    command.stderr(std::fs::File::create(&log).expect("a log")).stdout(Stdio::null());
    let mut coordinator = Proc::spawn(command);
    let (pid, socket) = (coordinator.id(), layout.socket(Daemon::Coordinator));
    wait_until(PATIENCE, "it listens", || {
        let said = || std::fs::read_to_string(&log).expect("a log");
        assert!(coordinator.alive(), "it ended: {}", said());
        stack::listener(&socket) == Some(pid)
    });
    root_is_served(&node, "before");
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("it runs");
    let files = limits.lines().find(|line| line.starts_with("Max open files")).expect("a row");
    let limits: Vec<_> = files.split_whitespace().skip(3).take(2).collect();
    assert_eq!(limits, ["64", "64"], "it raised its limit as far as it may");

    // Only root can take all there is.
    let held: Vec<_> = (0..80).map(|_| UnixStream::connect(&socket).expect("queued")).collect();
    let said = || std::fs::read_to_string(&log).expect("a log");
    wait_until(PATIENCE, "nothing is left", || said().contains("cannot accept"));
    let said = || said().lines().count();
    let (said_before, used_before, begun) = (said(), used(pid), Instant::now());
    wait_until(PATIENCE, "three seconds have passed", || begun.elapsed() > Duration::from_secs(3));
    let (ticks, grown) = (used(pid) - used_before, said() - said_before);
    assert!(ticks < 3 * TICKS_A_SECOND / 5, "{ticks} ticks in three seconds");
    assert!((1..=5).contains(&grown), "{grown} lines in three seconds");

    drop(held);
    wait_until(PATIENCE, "those that left are gone", || descriptors(pid) < 40);
    root_is_served(&node, "with descriptors again");
}
