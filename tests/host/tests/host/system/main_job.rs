//! The main job as a stranger does it: `up`, `up` again, all daemons killed, `up` again, `down`.
//!
//! Uses the programs that are built already (`VES_BIN_DIR`) and the node's own directories: a node
//! that only `up` made is taken down for it and brought back by the programs that it ran from.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use ves_kit::stack::{Stack, listener};
use ves_kit::{http, need, node};
use ves_types::layout::{Daemon, Layout};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);
const ADDRESSES: [&str; 2] = ["192.0.2.101", "2001:db8:56::101"];

fn xtask() -> PathBuf {
    // target/<profile>/deps/test-0123
    let exe = std::env::current_exe().expect("it has a path");
    exe.ancestors().nth(2).expect("it lies in target").join("xtask")
}

/// Runs `cargo xtask` and hands back what it printed.
#[track_caller]
fn run(word: &str) -> String {
    let begun = Instant::now();
    let out = Command::new(xtask())
        .arg(word)
        .env("VES_BIN_DIR", node::bin_dir())
        .stdin(Stdio::null())
        .output()
        .expect("it starts");
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    let wrong = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "xtask {word}: {}\n{said}{wrong}", out.status);
    println!("xtask {word}: {:.1?}", begun.elapsed());
    said
}

#[track_caller]
fn virtctl(words: &str) -> String {
    let mut command = Command::new(node::bin_dir().join("virtctl"));
    let out = command.args(words.split_whitespace()).output().expect("it starts");
    assert!(out.status.success(), "{words}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

fn init_pid() -> Option<u64> {
    let list: Value = serde_json::from_str(&virtctl("list -o json")).expect("JSON");
    let row = list.as_array()?.iter().find(|row| row["ctid"].as_u64() == Some(101))?.clone();
    row["init_pid"].as_u64()
}

/// The node that was up when the test began; it comes back when the test ends.
struct Up {
    /// The programs it ran from; none: no node was up.
    bin_dir: Option<PathBuf>,
}

impl Up {
    #[track_caller]
    fn set_aside(layout: &Layout) -> Self {
        let Some(pid) = listener(&layout.socket(Daemon::Coordinator)) else {
            return Self { bin_dir: None };
        };
        let exe = std::fs::read_link(format!("/proc/{pid}/exe")).expect("it runs");
        let bin_dir = exe.parent().expect("it lies in a directory").to_owned();
        let list = virtctl("list -a -1");
        let all: Vec<&str> = list.split_whitespace().collect();
        assert!(
            all.iter().all(|ct| *ct == "101"),
            "the node has containers that `up` did not make: {all:?}; take it down by hand"
        );
        run("down");
        Self { bin_dir: Some(bin_dir) }
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        if let Some(bin_dir) = &self.bin_dir {
            let mut up = Command::new(xtask());
            up.arg("up").env("VES_BIN_DIR", bin_dir).stdin(Stdio::null()).stdout(Stdio::null());
            let up = up.status();
            println!("the node that was up before came back: {up:?}");
        }
    }
}

/// Takes all away again, also when the test fails.
struct Down;

impl Drop for Down {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut down = Command::new(xtask());
            // The test has failed already; this only cleans up.
            down.arg("down").env("VES_BIN_DIR", node::bin_dir()).status().ok();
        }
    }
}

#[test]
fn from_nothing_to_an_answering_container_and_back() {
    let layout = Layout::default();
    need!(node::node(), need::setup("xtask", xtask().is_file(), "`cargo build -p xtask` makes it"),);
    // Dropped last: what the test leaves is down before the other comes back.
    let _up = Up::set_aside(&layout);
    let _down = Down;
    let said = run("up");
    for expected in ["answer v4", "answer v6", "virtctl list", "numproc", "enter", "xtask down"] {
        assert!(said.contains(expected), "{expected:?} is not in:\n{said}");
    }
    for address in ADDRESSES {
        let page = http::get_within(address.parse().expect("valid"), PATIENCE);
        assert!(page.expect("an answer").starts_with("Hello from a Ves container: web1, init"));
    }
    assert_eq!(virtctl("exec 101 cat /proc/1/comm").trim(), "systemd");
    assert!(virtctl("list").contains("web1"));
    let resources = virtctl("resources 101 -o json");
    let rows: Value = serde_json::from_str(&resources).expect("JSON");
    assert_eq!(rows.as_array().map(Vec::len), Some(21), "{resources}");
    let numproc = rows.as_array().and_then(|rows| {
        rows.iter().find(|row| row["resource"].as_str() == Some("numproc")).cloned()
    });
    assert_eq!(numproc.map(|row| row["limit"].as_u64()), Some(Some(400)), "{resources}");
    let init = init_pid().expect("it runs");

    let again = run("up");
    for expected in ["5 ran already", "cached", "is there, running", "serves already"] {
        assert!(again.contains(expected), "{expected:?} is not in:\n{again}");
    }
    assert_eq!(init_pid(), Some(init));

    // A crash of everything, under traffic.
    let (stop, answered, lost) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let address = ADDRESSES[0].parse().expect("valid");
            while !stop.load(Ordering::Relaxed) {
                let counter = match http::get(address, PATIENCE) {
                    Ok(_) => &answered,
                    Err(_) => &lost,
                };
                counter.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        let stack = Stack::new(layout.clone(), node::bin_dir(), log_dir());
        for service in Daemon::ALL {
            assert!(stack.kill(service).expect("killed"), "{} ran", service.program());
        }
        let back = std::panic::catch_unwind(|| run("up"));
        stop.store(true, Ordering::Relaxed);
        let back = back.expect("up brings them back");
        assert!(back.contains("5 started"), "{back}");
    });
    assert_eq!(lost.into_inner(), 0, "of {} requests", answered.into_inner());
    assert_eq!(init_pid(), Some(init), "the container has not noticed");

    let said = run("down");
    assert!(said.contains("of Ves there are 0 mounts"), "{said}");
    assert!(!layout.run_dir().exists());
}

/// Where `up` keeps logs and pid files: `target/up`.
fn log_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target/up"),
        |dir| PathBuf::from(dir).join("up"),
    )
}
