//! What a container sees in place of the node's by lxcfs, while that dies, comes back and hangs.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use ves_init_proto::views::VIEWS;
use ves_kit::need;
use ves_lifecycle::config::Views;
use ves_lifecycle::host::Host as _;
use ves_lifecycle::kernel::KernelHost;
use ves_lifecycle::plan::Goal;

use super::start::OBEDIENT;
use super::support::{World, needs};

/// An lxcfs of the test's own.
pub(super) struct Lxcfs {
    child: Child,
    dir: PathBuf,
}

impl Lxcfs {
    fn start(dir: &Path) -> Self {
        std::fs::create_dir_all(dir).expect("made");
        let mut command = Command::new("lxcfs");
        command.args(["-f", "--enable-loadavg", "--enable-cfs", "--enable-pidfd", "-p"]);
        command.arg(dir.with_extension("pid")).arg(dir);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("started");
        let this = Self { child, dir: dir.to_owned() };
        until("it is mounted", || dir.join("proc/uptime").exists());
        this
    }

    /// One for a container's node, whose views that has then; they are looked after as long as the answer lives.
    pub(super) fn provide(world: &World) -> (Self, Arc<KernelHost>) {
        let lxcfs = Self::start(&world.layout().views_provider());
        let host = Arc::new(world.another_host());
        host.look_after_views(&Views::default()).expect("begun");
        let last = world.layout().views_dir().join(VIEWS[VIEWS.len() - 1].name);
        until("the node has views", || ves_host::mount::is_mount_point(&last).unwrap_or(false));
        (lxcfs, host)
    }

    fn signal(&self, signal: Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal)
            .expect("sent");
    }

    /// As somebody who kills it and restarts the service does.
    fn end(&mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("it ended");
    }
}

impl Drop for Lxcfs {
    fn drop(&mut self) {
        self.end();
        ves_host::mount::unmount(&self.dir, true).ok();
    }
}

#[track_caller]
fn until(what: &str, mut seen: impl FnMut() -> bool) -> Duration {
    let begun = Instant::now();
    while !seen() {
        assert!(begun.elapsed() < Duration::from_secs(30), "not in time: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
    begun.elapsed()
}

#[test]
fn a_container_sees_its_own_while_lxcfs_dies_comes_back_and_hangs() {
    if !needs() || !ves_kit::check(&[need::program("lxcfs", "lxcfs"), need::path("/dev/fuse")]) {
        return;
    }
    let world = World::new(9469, |_| {});
    world.limit_memory(256 << 20);
    world.limit_cpus(1);
    let dir = world.layout().views_provider();
    let (mut lxcfs, host) = Lxcfs::provide(&world);

    let start = || {
        let init = world.start(world.script(OBEDIENT));
        // As the service's host does, which is the same one there.
        host.apply(world.ct, &ves_lifecycle::plan::Step::Thaw).expect("told");
        init
    };
    let init = start();
    let total = || {
        world.sh("grep MemTotal /proc/meminfo").split_ascii_whitespace().nth(1).map(str::to_owned)
    };
    let own = || total().as_deref() == Some("262144");
    assert!(own(), "{:?}", total());
    assert_eq!(world.sh("cat /sys/devices/system/cpu/online"), "0\n");
    assert_eq!(world.sh("grep -c ^processor /proc/cpuinfo"), "1\n");
    let first = |path: &str| world.sh(&format!("cut -d. -f1 {path}")).trim().parse::<u64>();
    assert!(first("/proc/uptime").expect("a number") < 60);
    assert_eq!(first("/proc/loadavg"), Ok(0));
    assert_eq!(world.sh("wc -l < /proc/swaps"), "1\n", "it has no swap");
    world.sh("head -n 1 /proc/stat /proc/diskstats > /dev/null");
    // What is limited otherwise is seen at once.
    world.limit_memory(192 << 20);
    assert_eq!(total().as_deref(), Some("196608"));
    world.limit_memory(256 << 20);

    // It dies; somebody has one of its files open.
    let mut holds =
        world.begin(&["sh", "-c", "exec 3</proc/stat; echo held; read x; cat <&3 || echo lost"]);
    holds.until("held");
    lxcfs.end();
    let took = until("what the kernel says", || {
        let seen = world.exec(&["cat", "/proc/meminfo", "/sys/devices/system/cpu/online"]);
        seen.error.is_empty() && !seen.text().contains(" 262144 ")
    });
    eprintln!("without its own after {took:?}");
    holds.send(&ves_init_proto::frame::Frame::new(ves_init_proto::frame::Tag::Input, *b"\n"));
    holds.until("lost");
    drop(lxcfs);
    let mut lxcfs = Lxcfs::start(&dir);
    let took = until("its own again", own);
    eprintln!("its own again after {took:?}");
    assert_eq!(world.sh("cat /sys/devices/system/cpu/online"), "0\n");
    assert_eq!(world.observe().monitor.expect("it runs").init_pid, init);
    let stacked = world.sh("grep -c ' /proc/meminfo ' /proc/self/mountinfo");
    assert_eq!(stacked, "1\n", "old ones are gone");

    // It hangs: nobody waits for it for long, and no start at all.
    lxcfs.signal(Signal::STOP);
    let mut waits = world.begin(&["cat", "/proc/meminfo"]);
    let begun = Instant::now();
    while waits.turn() {}
    eprintln!("who waited was woken after {:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(15));
    let took = until("what the kernel says", || {
        let seen = world.exec(&["cat", "/proc/meminfo"]);
        seen.error.is_empty() && !seen.text().contains(" 262144 ")
    });
    eprintln!("without its own after {took:?}");
    let begun = Instant::now();
    world.ensure(Goal::Absent { grace_ms: 0 }, None).expect("stopped");
    start();
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    assert!(!own());
    lxcfs.end();
}
