//! A container's surroundings for lifecycle tests: volume, groups, directories; all gone with it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ves_host::cgroup::{self, Controller, Hierarchies};
use ves_host::id_map;
use ves_host::mount::volumes::{Inside, Volumes};
use ves_host::mount::{self, Change, FsContext, attr};
use ves_init_proto::frame::{Decoder, Frame, Tag};
use ves_init_proto::report::{Ended, Failure, SessionEnd};
use ves_kit::{LoopFile, MountGuard, Rootfs, TestLayout, node};
use ves_lifecycle::host::Host;
use ves_lifecycle::init_plan::Command;
use ves_lifecycle::kernel::KernelHost;
use ves_lifecycle::plan::{Desired, Goal, Observed, Spec, Step, plan};
use ves_types::layout::{self, CGROUP_DELEGATED, Layout};
use ves_types::{CtId, IdSlot, InitArgv};

/// Whether this machine can run these tests.
pub(crate) fn needs() -> bool {
    use ves_kit::need;
    ves_kit::check(&[
        need::root(),
        need::disposable(),
        need::program("busybox", "busybox-static"),
        need::path("/proc/self/ns/user"),
        need::built("ves-init"),
        need::built("ves-lifecycled"),
    ])
}

/// Whether a process lives, even if only to be reaped.
pub(crate) fn alive(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// What is seen of a container but for what differs from one life to the next: numbers of processes and of
/// runs, and times.
pub(crate) fn plain(mut seen: Observed) -> Observed {
    if let Some(run) = &mut seen.run {
        (run.init_pid, run.incarnation) = (0, 0);
        run.started_unix_ms = run.started_unix_ms.min(1);
    }
    if let Some(last) = &mut seen.last {
        (last.incarnation, last.started_unix_ms) = (0, last.started_unix_ms.min(1));
    }
    seen
}

/// Puts a program of this machine into a root, with the libraries it wants.
pub(crate) fn install(root: &Path, program: &str) {
    std::fs::copy(format!("/usr/bin/{program}"), root.join("bin").join(program)).expect("copied");
    let libraries = ves_kit::run("ldd", &[&format!("/usr/bin/{program}")]);
    for path in libraries.split_whitespace().filter_map(|word| word.strip_prefix('/')) {
        let to = root.join(path);
        std::fs::create_dir_all(to.parent().expect("it has one")).expect("made");
        std::fs::copy(format!("/{path}"), to).expect("copied");
    }
}

/// The parent of a process that lives.
pub(crate) fn parent(pid: u32) -> u32 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:")).expect("a parent");
    line.trim().parse().expect("a number")
}

/// A container without processes: a mounted volume and control groups.
pub(crate) struct World {
    pub(crate) host: KernelHost,
    pub(crate) ct: CtId,
    pub(crate) slot: IdSlot,
    pub(crate) hierarchies: Hierarchies,
    kit: TestLayout,
    image: Option<LoopFile>,
}

impl World {
    /// With a busybox root that `edit` may change before it is mounted.
    pub(crate) fn new(number: u32, edit: impl FnOnce(&Path)) -> Self {
        let world = Self::bare(number);
        world.mount_volume(edit);
        world
    }

    /// With an ext4 image on a loop device as its volume, as in earnest, filled from a tar archive
    /// that `edit` may change.
    pub(crate) fn from_tar(number: u32, tar: &Path, edit: impl FnOnce(&Path)) -> Self {
        let mut world = Self::bare(number);
        let text = |p: &Path| p.to_str().expect("test paths are text").to_owned();
        let device = LoopFile::create(&world.kit.dir().join("image"), 2 << 30);
        ves_kit::run("mke2fs", &["-q", "-t", "ext4", "-m", "0", &text(device.device())]);
        let staging = world.kit.dir().join("staging");
        std::fs::create_dir_all(&staging).expect("made");
        let mounted = MountGuard::mount(&["-t", "ext4", &text(device.device())], &staging);
        let out = text(&staging);
        ves_kit::run("tar", &["--numeric-owner", "--xattrs", "-C", &out, "-xf", &text(tar)]);
        edit(&staging);
        world.show_volume(&staging);
        drop(mounted);
        world.image = Some(device);
        world
    }

    fn bare(number: u32) -> Self {
        let ct = CtId::try_from(number).expect("a test id");
        let slot = IdSlot::try_from(30_000 + number).expect("a test slot");
        let kit = TestLayout::new();
        let layout = kit.layout().clone();
        let world = Self {
            host: KernelHost::new(layout, node::bin_dir().join("ves-init")).expect("a host"),
            ct,
            slot,
            hierarchies: Hierarchies::detect().expect("control groups"),
            kit,
            image: None,
        };
        world.clear_groups();
        world.make_groups();
        world
    }

    pub(crate) fn layout(&self) -> &Layout {
        self.kit.layout()
    }

    pub(crate) fn groups(&self) -> Vec<PathBuf> {
        self.hierarchies.dirs(&layout::cgroup(self.ct))
    }

    fn make_groups(&self) {
        for dir in self.groups() {
            cgroup::make(&dir).expect("a group");
            let parent = dir.parent().expect("it has one").to_owned();
            let top = parent.parent().expect("the hierarchy").to_owned();
            // A version 1 cpuset takes no process before it has processors and memory.
            for (child, from) in [(&parent, &top), (&dir, &parent)] {
                for name in ["cpuset.cpus", "cpuset.mems"] {
                    let (to, from) = (child.join(name), from.join(name));
                    if to.exists() && cgroup::read(&to).expect("readable").trim().is_empty() {
                        let value = cgroup::read(&from).expect("readable");
                        cgroup::write(&to, value.trim()).expect("writable");
                    }
                }
            }
        }
        if let Some(delegated) = self.delegated() {
            cgroup::make(&delegated).expect("a delegated group");
        }
    }

    /// The group that is the container's own, on a machine with version 2.
    pub(crate) fn delegated(&self) -> Option<PathBuf> {
        let v2 = self.hierarchies.v2.as_ref()?;
        Some(v2.mount.join(layout::cgroup(self.ct)).join(CGROUP_DELEGATED))
    }

    fn clear_groups(&self) {
        for dir in self.groups() {
            let end = Instant::now() + Duration::from_secs(60);
            while cgroup::remove(&dir).is_err() && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }

    fn mount_volume(&self, edit: impl FnOnce(&Path)) {
        let rootfs = Rootfs::busybox();
        std::fs::write(rootfs.dir().join("etc/inittab"), "::sysinit:/bin/sh /etc/rc\n")
            .expect("written");
        edit(rootfs.dir());
        let volume = FsContext::new("tmpfs")
            .and_then(|f| f.set("mode", "0755"))
            .and_then(|f| f.mount(attr::NODEV))
            .expect("a volume");
        let staging = self.kit.dir().join("staging");
        std::fs::create_dir_all(&staging).expect("made");
        mount::attach(&volume, &staging).expect("mounted");
        let text = |p: &Path| p.to_str().expect("test paths are text").to_owned();
        ves_kit::run("cp", &["-a", &format!("{}/.", text(rootfs.dir())), &text(&staging)]);
        self.show_volume(&staging);
        mount::unmount(&staging, true).expect("unmounted");
    }

    /// Mounts a copy of what is at `staging` with the container's ids as its volume.
    fn show_volume(&self, staging: &Path) {
        let volumes = Volumes::new(self.layout().volumes_dir());
        volumes.make().expect("made");
        let copy = mount::clone_tree(staging, false).expect("cloned");
        let map = id_map::namespace(self.slot.base(), IdSlot::MAPPED).expect("a map");
        use std::os::fd::AsFd;
        let change = Change {
            idmap: Some(map.as_fd()),
            propagation: Some(mount::Propagation::Private),
            ..Change::default()
        };
        mount::change(&copy, change, "the volume").expect("mapped");
        self.volumes().attach(&copy, &layout::volume(self.ct)).expect("mounted");
    }

    /// The namespace its volume is mounted in.
    pub(crate) fn volumes(&self) -> Inside {
        Volumes::new(self.layout().volumes_dir()).need().expect("made before")
    }

    pub(crate) fn spec(&self) -> Spec {
        Spec {
            slot: self.slot,
            hostname: Some("web.example.org".parse().expect("a name")),
            init: InitArgv::default(),
            nameservers: vec![],
            search: vec![],
            max_ptys: None,
            shm_bytes: None,
            ram_bytes: None,
            devices: vec![],
            capabilities_off: BTreeSet::new(),
            features: ves_types::Features::default(),
        }
    }

    /// A container whose init is a shell running `script`.
    pub(crate) fn script(&self, script: &str) -> Spec {
        let init = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
        let init = init.try_into().expect("an init");
        Spec { init, ..self.spec() }
    }

    pub(crate) fn observe(&self) -> Observed {
        self.host.observe(self.ct).expect("observed")
    }

    /// Plans and performs, as the service does.
    pub(crate) fn ensure(
        &self,
        goal: Goal,
        spec: Option<Spec>,
    ) -> Result<Observed, ves_lifecycle::error::Error> {
        let desired = Desired { goal, spec, early_exit_grace_ms: 0 };
        for step in plan(&desired, &self.observe()).expect("admitted") {
            self.host.apply(self.ct, &step)?;
        }
        Ok(self.observe())
    }

    pub(crate) fn start(&self, spec: Spec) -> u32 {
        let observed = self.ensure(Goal::Running, Some(spec)).expect("started");
        observed.monitor.expect("it runs").init_pid
    }

    /// Lets init go without expecting it to live.
    pub(crate) fn start_only(&self, spec: Spec) {
        self.ensure(Goal::Running, Some(spec)).expect("started");
    }

    /// The same node as another daemon sees it.
    pub(crate) fn another_host(&self) -> KernelHost {
        KernelHost::new(self.layout().clone(), node::bin_dir().join("ves-init")).expect("a host")
    }

    pub(crate) fn scrollback(&self) -> String {
        Session::over(self.host.console(self.ct, true).expect("attached")).drain()
    }

    /// Kills the monitor, which is whoever listens on its socket.
    pub(crate) fn kill_monitor(&self) {
        self.signal_monitor(rustix::process::Signal::KILL);
    }

    pub(crate) fn signal_monitor(&self, signal: rustix::process::Signal) {
        let socket = ves_init_proto::report::socket(&self.layout().ct_dir(self.ct));
        let stream = UnixStream::connect(socket).expect("it listens");
        let peer = rustix::net::sockopt::socket_peercred(&stream).expect("told");
        rustix::process::kill_process(peer.pid, signal).expect("killed");
    }

    /// Signals those outside who watch over commands inside; answers who they are.
    pub(crate) fn signal_supervisors(
        &self,
        signal: rustix::process::Signal,
    ) -> Vec<rustix::process::Pid> {
        let mut signalled = Vec::new();
        let read = |pid, name| std::fs::read_to_string(format!("/proc/{pid}/{name}"));
        for pid in self.hierarchies.processes(&layout::cgroup(self.ct)).expect("listed") {
            if read(pid, "comm").is_ok_and(|comm| comm == "ves-session\n") {
                let status = read(pid, "status").expect("it has a parent");
                let parent = ves_init_proto::process::field(&status, "PPid");
                let parent =
                    parent.and_then(|p| p.parse().ok()).and_then(rustix::process::Pid::from_raw);
                let parent = parent.expect("a number");
                rustix::process::kill_process(parent, signal).expect("sent");
                signalled.push(parent);
            }
        }
        signalled
    }

    /// Its group in the hierarchy of a controller.
    fn group_of(&self, controller: Controller) -> PathBuf {
        let v1 = self.hierarchies.v1_with(controller).map(|h| &h.mount);
        let mount = v1.or_else(|| self.hierarchies.v2_with(controller).map(|h| &h.mount));
        mount.expect("the controller is mounted").join(layout::cgroup(self.ct))
    }

    /// Lets it have so many bytes of memory.
    pub(crate) fn limit_memory(&self, most: u64) {
        let dir = self.group_of(Controller::Memory);
        let names = ["memory.limit_in_bytes", "memory.max"].map(|name| dir.join(name));
        let file = names.iter().find(|file| file.exists()).expect("memory can be limited");
        cgroup::write(file, &most.to_string()).expect("limited");
    }

    /// How many were killed since it may have no more memory.
    pub(crate) fn killed_for_memory(&self) -> u64 {
        let dir = self.group_of(Controller::Memory);
        let mut texts = ["memory.oom_control", "memory.events"]
            .into_iter()
            .filter_map(|name| std::fs::read_to_string(dir.join(name)).ok());
        let text = texts.next().expect("kills are counted");
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count.and_then(|count| count.parse().ok()).expect("a number")
    }

    /// Lets it have so many processors' time.
    pub(crate) fn limit_cpus(&self, most: u32) {
        let dir = self.group_of(Controller::Cpu);
        let (v1, v2) = (dir.join("cpu.cfs_quota_us"), dir.join("cpu.max"));
        let quota = (most * 100_000).to_string();
        let (file, value) = if v1.exists() { (v1, quota) } else { (v2, format!("{quota} 100000")) };
        cgroup::write(&file, &value).expect("limited");
    }

    pub(crate) fn limit_pids(&self, most: u32) {
        cgroup::write(&self.group_of(Controller::Pids).join("pids.max"), &most.to_string())
            .expect("limited");
    }

    pub(crate) fn count_pids(&self) -> u32 {
        let text =
            cgroup::read(&self.group_of(Controller::Pids).join("pids.current")).expect("counted");
        text.trim().parse().expect("a number")
    }

    /// How often a fork was refused; the kernel tells it of the group that is limited, or of the one
    /// that forks.
    pub(crate) fn refused_forks(&self) -> u64 {
        let dir = self.group_of(Controller::Pids);
        let count = |dir: &Path| {
            let text = std::fs::read_to_string(dir.join("pids.events")).unwrap_or_default();
            text.lines().find_map(|line| line.strip_prefix("max ")?.trim().parse().ok())
        };
        [dir.join(CGROUP_DELEGATED), dir].iter().filter_map(|dir| count(dir)).max().unwrap_or(0)
    }

    pub(crate) fn begin(&self, argv: &[&str]) -> Session {
        let argv = argv.iter().map(|&a| a.to_owned()).collect();
        Session::begin(self, &Command { argv, ..Command::default() })
    }

    pub(crate) fn stop(&self, grace_ms: u32) -> Observed {
        self.ensure(Goal::Absent { grace_ms }, None).expect("stopped")
    }

    /// Waits until the container ended by itself.
    pub(crate) fn ended(&self) -> Observed {
        self.host.apply(self.ct, &Step::AwaitEnd { ms: 60_000 }).expect("waited");
        self.observe()
    }

    pub(crate) fn exec(&self, argv: &[&str]) -> Outcome {
        self.begin(argv).finish()
    }

    /// Runs a shell script inside; it must succeed.
    #[track_caller]
    pub(crate) fn sh(&self, script: &str) -> String {
        let outcome = self.exec(&["/bin/sh", "-c", script]);
        assert_eq!(outcome.ended, Ok(Ended::Code(0)), "{script}: {outcome:?}");
        String::from_utf8_lossy(&outcome.output).into_owned()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for step in [Step::Thaw, Step::Kill, Step::Cleanup, Step::Forget] {
            // Best effort: what is left fails the test's own checks or the next run's.
            if let Err(e) = self.host.apply(self.ct, &step) {
                eprintln!("clearing up: {step}: {e}");
            }
        }
        self.volumes().unmount(&layout::volume(self.ct)).ok();
        self.clear_groups();
    }
}

/// How a session went.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) output: Vec<u8>,
    pub(crate) error: Vec<u8>,
    pub(crate) ended: Result<Ended, Failure>,
    pub(crate) timed_out: bool,
}

impl Outcome {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.output).into_owned()
    }
}

/// A session under way.
pub(crate) struct Session {
    pub(crate) stream: UnixStream,
    decoder: Decoder,
    pub(crate) seen: BTreeMap<u8, Vec<u8>>,
    ended: Option<Result<Ended, Failure>>,
    timed_out: bool,
}

impl Session {
    pub(crate) fn begin(world: &World, command: &Command) -> Self {
        Self::over(world.host.exec(world.ct, command).expect("a session"))
    }
    pub(crate) fn over(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(Duration::from_secs(120))).expect("set");
        let (decoder, seen) = (Decoder::default(), BTreeMap::new());
        Self { stream, decoder, seen, ended: None, timed_out: false }
    }
    pub(crate) fn send(&mut self, frame: &Frame) {
        self.stream.write_all(&frame.encode()).expect("sent");
    }
    /// Reads once; tells whether there can be more.
    pub(crate) fn turn(&mut self) -> bool {
        let mut piece = [0; 65536];
        let n = match self.stream.read(&mut piece) {
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => return true,
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => 0,
            Err(e) => panic!("not heard in time: {e}: {:?}", self.output()),
            Ok(n) => n,
        };
        self.decoder.push(&piece[..n]);
        while let Some(frame) = self.decoder.next_frame().expect("a frame") {
            match frame.tag {
                Tag::Ended => {
                    let end: SessionEnd = frame.parse().expect("an end");
                    (self.ended, self.timed_out) = (Some(Ok(end.ended)), end.timed_out);
                }
                Tag::Failed => self.ended = Some(Err(frame.parse().expect("a failure"))),
                tag => self.seen.entry(tag as u8).or_default().extend(frame.payload),
            }
        }
        n > 0
    }
    pub(crate) fn output(&self) -> String {
        let bytes = self.seen.get(&(Tag::Output as u8)).cloned().unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
    /// Reads until the output has this.
    #[track_caller]
    pub(crate) fn until(&mut self, text: &str) {
        while !self.output().contains(text) {
            assert!(self.turn(), "it ended before {text:?}: {:?}", self.output());
        }
    }
    /// All output to the end of a session that has no other end.
    pub(crate) fn drain(mut self) -> String {
        while self.turn() {}
        self.output()
    }
    pub(crate) fn finish(mut self) -> Outcome {
        while self.turn() {}
        let mut take = |tag: Tag| self.seen.remove(&(tag as u8)).unwrap_or_default();
        let (output, error) = (take(Tag::Output), take(Tag::ErrorOutput));
        let ended = self.ended.expect("it was told how it ended");
        Outcome { output, error, ended, timed_out: self.timed_out }
    }
}
