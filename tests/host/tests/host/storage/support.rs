//! A storage service on the real kernel, in directories of its own, without a daemon around it.
//!
//! Its pool is small and its loop devices are found by their backing files, so that nothing stays
//! behind, whatever happens in between.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ves_archive::Owners;
use ves_daemon::{FenceStore, Shell};
use ves_kit::{Rootfs, TestId, TestLayout, run};
use ves_proto::Fault;
use ves_storage::config::{Config, PoolKind};
use ves_storage::error::Error;
use ves_storage::fake::blocking::Blocking;
use ves_storage::host::{Host as _, Source, Template};
use ves_storage::kernel::KernelHost;
use ves_storage::kernel::image::pool::Place;
use ves_storage::node;
use ves_storage::plan::{Desired, PoolFacts, Step};
use ves_storage::service::Service;
use ves_types::{CtId, Epoch, Fence, Generation, TemplateName};

/// The service under test.
pub(crate) struct Storage {
    pub(crate) service: Blocking,
    pub(crate) host: Arc<KernelHost>,
    pub(crate) id: TestId,
    pub(crate) config: Config,
    // Dropped after what is done in `drop` below.
    pub(crate) dir: TestLayout,
}

pub(crate) fn needs() -> bool {
    use ves_kit::need;
    need::check(&[
        need::root(),
        need::disposable(),
        need::program("mke2fs", "e2fsprogs"),
        need::program("mkfs.xfs", "xfsprogs"),
        need::program("busybox", "busybox-static"),
        need::filesystem("xfs"),
        need::path("/dev/loop-control"),
    ])
}

pub(crate) fn unpacker() -> PathBuf {
    env!("CARGO_BIN_EXE_unpack-helper").into()
}

impl Storage {
    pub(crate) fn new() -> Self {
        Self::with(Config { pool_bytes: Some(8 << 30), ..Config::default() })
    }
    pub(crate) fn copying() -> Self {
        Self::with(Config {
            pool: PoolKind::ImageCopy,
            pool_bytes: Some(8 << 30),
            ..Config::default()
        })
    }
    pub(crate) fn with(config: Config) -> Self {
        Self::at(TestLayout::new(), config)
    }
    pub(crate) fn at(dir: TestLayout, config: Config) -> Self {
        let id = TestId::take();
        let (host, service) = open(&config, &dir);
        Self { service, host, id, config, dir }
    }
    /// The same after the daemon was killed and started again.
    pub(crate) fn restart(&mut self) {
        (self.host, self.service) = open(&self.config, &self.dir);
    }
    pub(crate) fn pool(&self) -> PoolFacts {
        self.service.pool().expect("known").1
    }
    /// Does one step, as the service does.
    pub(crate) fn apply(&self, ct: CtId, step: &Step) -> Result<(), Error> {
        match step {
            Step::MakeBaseImage(id) => self.service.make_base_image(id),
            step => self.host.apply(ct, step),
        }
    }
    pub(crate) fn ct(&self) -> CtId {
        self.id.ct()
    }
    pub(crate) fn root(&self) -> PathBuf {
        crate::volume(self.dir.layout(), self.ct())
    }
    pub(crate) fn desired(&self, mib: u64) -> Desired {
        Desired {
            template: name("busybox"),
            bytes: mib << 20,
            inodes: None,
            slot: self.id.slot(),
            mounted: true,
        }
    }
    pub(crate) fn fence(&self) -> Fence {
        Fence { ct: self.ct(), generation: Generation(1), epoch: Epoch(1) }
    }
    pub(crate) fn import(&self, template: &str, archive: &Path) -> Result<Template, Fault> {
        let mut file = File::open(archive).expect("the archive is there");
        let source = Source::Archive { feed: &mut file, sha256: None, owners: Owners::default() };
        self.service.make_template(&name(template), source, &|_| ())
    }
    pub(crate) fn busybox(&self) -> Template {
        let archive = Rootfs::busybox().tar(&self.dir.dir().join("busybox.tar.gz"));
        self.import("busybox", &archive).expect("a good archive")
    }
    /// Runs a script of busybox's shell in the volume with the container's root's ids.
    pub(crate) fn inside(&self, script: &str) -> String {
        self.inside_of(self.ct(), script)
    }
    /// The same in another volume that is mounted for the same ids.
    pub(crate) fn inside_of(&self, ct: CtId, script: &str) -> String {
        let id = self.id.slot().base();
        let root = crate::volume(self.dir.layout(), ct);
        let root = root.to_str().expect("test paths are text");
        let user = format!("--userspec={id}:{id}");
        let path = "PATH=/bin:/sbin; export PATH; cd /; du() { busybox du \"$@\"; };";
        run(
            "chroot",
            &[&user, "--groups=", root, "/bin/busybox", "sh", "-c", &format!("{path} {script}")],
        )
    }
    pub(crate) fn loops(&self) -> Vec<String> {
        loops_of(&self.dir)
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        clean(&self.dir);
    }
}

/// The loop devices of files below a test's directory, with those files.
pub(crate) fn loops_of(dir: &TestLayout) -> Vec<String> {
    let dir = dir.dir().to_str().expect("test paths are text").to_owned();
    let all = run("losetup", &["-l", "-n", "-O", "NAME,BACK-FILE"]);
    all.lines().filter(|l| l.contains(&dir)).map(str::to_owned).collect()
}

/// Takes away what a test may have left: mounts, devices, the pool.
pub(crate) fn clean(dir: &TestLayout) {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for point in table.lines().filter_map(|l| l.split(' ').nth(4)) {
        if Path::new(point).starts_with(dir.layout().run_dir()) {
            ves_host::mount::unmount(Path::new(point), true).ok();
        }
    }
    let volumes = dir.layout().state_dir().join("storage/pool/volumes");
    for line in loops_of(dir) {
        let inside = volumes.to_str().is_some_and(|v| line.contains(v));
        let number = line.split_whitespace().next().and_then(|n| n.strip_prefix("/dev/loop"));
        if let (true, Some(Ok(number))) = (inside, number.map(str::parse)) {
            ves_host::loopdev::detach(number).ok();
        }
    }
    // Devices and mounts end asynchronously.
    let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while Place::new(dir.layout()).detach().is_err() && std::time::Instant::now() < end {
        std::thread::park_timeout(std::time::Duration::from_millis(20));
    }
}

fn open(config: &Config, dir: &TestLayout) -> (Arc<KernelHost>, Blocking) {
    let fences = FenceStore::open_synced(dir.dir().join("fence")).expect("a directory for fences");
    let shell = Shell::new(ves_storage::KIND, fences, 16);
    let host = node::open(&shell, config, dir.layout().clone(), unpacker()).expect("a pool");
    let host = Arc::new(host);
    (host.clone(), Blocking(Service::new(host, shell)))
}

pub(crate) fn name(text: &str) -> TemplateName {
    text.parse().expect("a template name")
}
