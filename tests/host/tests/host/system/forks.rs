//! Children that are copies: many made at once, what they hold, and that they end with their parent.

use std::fs::{File, TryLockError};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::time::timeout;
use ves_kit::{Proc, Rootfs, TestId, TestLayout, need, wait_until};
use ves_proto::common::Fence;
use ves_proto::storage::storage_service_client::StorageServiceClient;
use ves_proto::storage::{self as pb, import_template_request::Part};
use ves_proto::{Fault, Reason};
use ves_types::layout::Daemon as Kind;

/// How long anything may take before it counts as never.
const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn id_maps_that_are_made_at_once_do_not_wait_for_each_other() {
    const THREADS: u32 = 8;
    const MAPS: u32 = 500;
    need!(need::root(), need::disposable());
    let (tell, hear) = mpsc::channel();
    for thread in 0..THREADS {
        let tell = tell.clone();
        std::thread::spawn(move || {
            for _ in 0..MAPS {
                let map = ves_host::id_map::namespace((1000 + thread) * 65_536, 65_535).map(drop);
                // A test that failed already hears nothing more.
                tell.send(map).ok();
            }
        });
    }
    let end = Instant::now() + PATIENCE;
    for made in 0..THREADS * MAPS {
        match hear.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(map) => map.expect("a map"),
            Err(_) => panic!("after {made} maps nobody goes on: each waits for another's pipe"),
        }
    }
}

/// The program that makes a child.
#[expect(clippy::disallowed_methods, reason = "its output is read while it runs")]
fn parent(mode: &str, lock: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_parent"));
    command.arg(mode).arg(lock).stdin(Stdio::null()).stdout(Stdio::piped());
    command
}

#[test]
fn threads_that_were_joined_hinder_no_child() {
    let dir = TestLayout::new();
    let status = parent("joined", &dir.dir().join("lock")).status().expect("it runs");
    assert!(status.success(), "a thread that has ended is counted for a moment: {status}");
}

#[test]
fn a_child_has_no_descriptor_signal_action_or_mask_of_its_parent() {
    need!(need::program("env", "coreutils"));
    let dir = TestLayout::new();
    let lock = dir.dir().join("lock");
    let this = parent("facts", &lock);
    let signals = ["--ignore-signal=HUP", "--block-signal=USR2"];
    let words = [signals[0], signals[1], this.get_program().to_str().expect("text"), "facts"];
    let text = ves_kit::run("env", &[&words[..], &[lock.to_str().expect("text")]].concat());
    let of =
        |who: &str| -> Vec<&str> { text.lines().filter_map(|l| l.strip_prefix(who)).collect() };
    let (before, after) = (of("parent "), of("child "));
    let bits = |facts: &[&str], kind: &str| {
        let value = facts.iter().find_map(|l| l.strip_prefix(kind)).expect("told").trim();
        u64::from_str_radix(value, 16).expect("a number")
    };
    let bit = |signal: Signal| 1 << (signal.as_raw() - 1);
    // There was something to give up.
    assert_eq!(bits(&before, "SigBlk"), bit(Signal::USR2), "{text}");
    assert_ne!(bits(&before, "SigIgn") & bit(Signal::HUP), 0, "{text}");
    assert_ne!(bits(&before, "SigCgt"), 0, "{text}");
    assert_eq!((bits(&after, "SigBlk"), bits(&after, "SigCgt")), (0, 0), "{text}");
    // As in every program of Rust.
    assert_eq!(bits(&after, "SigIgn"), bit(Signal::PIPE), "{text}");
    let count = |facts: &[&str], what: &str| facts.iter().filter(|l| l.contains(what)).count();
    assert_eq!(count(&before, &lock.display().to_string()), 1, "{text}");
    assert_eq!(count(&after, &lock.display().to_string()), 0, "{text}");
    // Input, output, error output and the one it was to keep, not the other end of that.
    assert!(count(&before, "fd ") >= 6 && count(&after, "fd ") == 4, "{text}");
}

/// Whether a process ends within the time.
fn ends(process: &rustix::fd::OwnedFd, within: Duration) -> bool {
    let time = Timespec { tv_sec: within.as_secs().cast_signed(), tv_nsec: 0 };
    poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&time)).expect("polled") > 0
}

#[test]
fn a_lock_dies_with_its_daemon_and_so_does_who_is_bound_to_it() {
    need!(need::root(), need::disposable());
    let dir = TestLayout::new();
    for (mode, bound) in [("bound", true), ("inside", true), ("free", false)] {
        let path = dir.dir().join(mode);
        let mut daemon = Proc::spawn(parent(mode, &path));
        let said = BufReader::new(daemon.child().stdout.take().expect("piped"));
        // Both say a line, in any order.
        let said: Vec<String> = said.lines().take(2).collect::<Result<_, _>>().expect("text");
        assert!(said.iter().any(|line| line == "ready"), "{said:?}");
        let number = said.iter().find_map(|line| line.parse().ok()).expect("its number");
        let child = pidfd_open(Pid::from_raw(number).expect("not 0"), PidfdFlags::empty());
        let child = child.expect("it lives");
        let lock = File::options().write(true).open(&path).expect("there");
        assert!(matches!(lock.try_lock(), Err(TryLockError::WouldBlock)), "{mode}: not held");
        daemon.kill();
        let free = lock.try_lock();
        let ended = ends(&child, if bound { PATIENCE } else { Duration::ZERO });
        // It may be gone already.
        pidfd_send_signal(&child, Signal::KILL).ok();
        assert!(free.is_ok(), "{mode}: the child keeps the lock of a daemon that is gone");
        assert_eq!(ended, bound, "{mode}: what its parent's end did to it");
    }
}

#[test]
fn no_child_outlives_a_parent_that_ends_while_it_is_born() {
    need!(need::root(), need::disposable());
    let dir = TestLayout::new();
    for mode in ["bound-early", "inside-early"] {
        let mut all = Vec::new();
        for _ in 0..100 {
            let mut early = Proc::spawn(parent(mode, &dir.dir().join("lock")));
            assert!(early.wait().success(), "{mode}");
            all.push(early.child().stdout.take().expect("piped"));
        }
        let (tell, hear) = mpsc::channel();
        std::thread::spawn(move || {
            for (n, mut output) in all.into_iter().enumerate() {
                // A child holds it as long as it lives.
                tell.send((n, output.read_to_end(&mut Vec::new()))).ok();
            }
        });
        for _ in 0..100 {
            let (n, read) = hear.recv_timeout(PATIENCE).expect("a child lives on");
            assert_eq!(read.expect("readable"), 0, "{mode}, child {n}");
        }
    }
}

/// A storage daemon as a process.
struct Daemon {
    dir: TestLayout,
    process: Option<Proc>,
}

impl Daemon {
    fn program() -> PathBuf {
        ves_kit::node::bin_dir().join("ves-storaged")
    }
    /// Waits until it listens, as it cannot where a lock, a device or an image is held.
    fn start(&mut self) {
        let config = self.dir.dir().join("storage.toml");
        std::fs::write(&config, "[service]\npool_bytes = 4294967296\n").expect("written");
        let more = ["--config", config.to_str().expect("text")];
        let (program, layout) = (Self::program(), self.dir.layout());
        self.process = Some(Proc::daemon(&program, Kind::Storage, layout, &more));
    }
    /// Processes that are it or copies of it.
    fn copies(&self) -> usize {
        let run = self.dir.layout().run_dir().to_str().expect("text").as_bytes().to_vec();
        let ours = |line: &[u8]| {
            line.split(|byte| *byte == 0).any(|word| word == run)
                && line
                    .split(|byte| *byte == 0)
                    .next()
                    .is_some_and(|p| p.ends_with(b"ves-storaged"))
        };
        let processes = std::fs::read_dir("/proc").expect("readable").flatten();
        let lines = processes.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
        lines.filter(|line| ours(line)).count()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.process = None;
        crate::storage::support::clean(&self.dir);
    }
}

type Client = StorageServiceClient<ves_daemon::client::Traced>;

fn client(socket: &Path) -> Client {
    StorageServiceClient::new(ves_daemon::client::channel(socket))
}

async fn import(mut client: Client, archive: Vec<u8>) {
    let header = pb::ImportTemplateHeader { name: "busybox".to_owned(), ..Default::default() };
    let data = archive.chunks(100_000).map(|c| Part::Data(c.to_vec().into()));
    let parts: Vec<_> = std::iter::once(Part::Header(header)).chain(data).collect();
    let requests = parts.into_iter().map(|p| pb::ImportTemplateRequest { part: Some(p) });
    let requests: Vec<_> = requests.collect();
    let stream = client.import_template(tokio_stream::iter(requests)).await.expect("begun");
    let mut stream = stream.into_inner();
    while stream.message().await.expect("a good archive").is_some() {}
}

/// Mounts and unmounts a volume until the time is over or the daemon, if `mortal`, is gone; answers how
/// often.
async fn storm(
    mut client: Client,
    id: (u32, u32),
    first: u64,
    end: Instant,
    mortal: bool,
) -> Result<u64, String> {
    let mut generation = first;
    while Instant::now() < end {
        generation += 1;
        let fence = Some(Fence { ct: id.0, generation, epoch: 1 });
        let spec = Some(pb::VolumeSpec {
            template: "busybox".to_owned(),
            size_bytes: 128 << 20,
            inodes: None,
            id_slot: id.1,
            mounted: generation % 2 == 1,
        });
        let call = client.ensure_volume(pb::EnsureVolumeRequest { fence, spec, dry_run: false });
        match timeout(PATIENCE, call).await {
            Ok(Ok(_)) => {}
            // The daemon is gone, before the call or in it.
            Ok(Err(status)) if mortal && Fault::from_status(&status).reason == Reason::PeerDown => {
                break;
            }
            Ok(Err(status)) => return Err(format!("container {}: {status}", id.0)),
            Err(_) => return Err(format!("container {}: no answer", id.0)),
        }
    }
    Ok(generation - first)
}

#[test]
fn many_clients_and_a_daemon_killed_among_them() {
    need!(need::setup(
        "ves-storaged",
        Daemon::program().is_file(),
        "`cargo build -p ves-storaged`"
    ));
    if !crate::storage::support::needs() {
        return;
    }
    let ids: Vec<TestId> = (0..4).map(|_| TestId::take()).collect();
    let mut daemon = Daemon { dir: TestLayout::new(), process: None };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let _inside = runtime.enter();
    daemon.start();
    let socket = daemon.dir.layout().socket(Kind::Storage);
    let archive = Rootfs::busybox().tar(&daemon.dir.dir().join("busybox.tar.gz"));
    runtime.block_on(import(client(&socket), std::fs::read(archive).expect("there")));
    let mut first = 0;
    for (kill, time) in [(false, 4000), (true, 300), (true, 500), (true, 700), (false, 300)] {
        let span = Duration::from_millis(time);
        // To be killed, it gets more than it can do.
        let end = Instant::now() + if kill { PATIENCE } else { span };
        let storms: Vec<_> = ids
            .iter()
            .map(|id| {
                let id = (id.ct().get(), id.slot().get());
                tokio::spawn(storm(client(&socket), id, first, end, kill))
            })
            .collect();
        if kill {
            std::thread::park_timeout(span);
            daemon.process = None;
            let lock = File::options().write(true).open(socket.with_extension("lock"));
            lock.expect("there").try_lock().expect("the lock died with its daemon");
            wait_until(PATIENCE, "no copy of the daemon lives on", || daemon.copies() == 0);
        }
        for storm in storms {
            let calls = runtime.block_on(storm).expect("no panic").expect("answered");
            assert!(calls > 0, "it was asked something");
            println!("{calls} calls, then {}", if kill { "killed" } else { "at rest" });
        }
        first += 1 << 20;
        if kill {
            daemon.start();
            assert_eq!(daemon.copies(), 1, "it is seen");
        }
    }
}
