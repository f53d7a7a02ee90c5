//! A resources service on the real kernel for tests, which leaves nothing.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ves_daemon::{FenceStore, Shell};
use ves_host::cgroup;
use ves_host::kmsg::KernelLog;
use ves_kit::{Proc, TestId, TestLayout};
use ves_resources::fake::blocking::Blocking;
use ves_resources::host::Host;
use ves_resources::kernel::KernelHost;
use ves_resources::model::Observed;
use ves_resources::service::{Group, Service};
use ves_types::layout::{self, CGROUP_DELEGATED};
use ves_types::{CtId, Epoch, Fence, Generation, Limits, UbcResource, UbcRow};

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A service on the real kernel with a container id of its own; leaves nothing, also on panic.
pub(crate) struct Rig {
    pub(crate) id: TestId,
    pub(crate) layout: TestLayout,
    pub(crate) host: Arc<KernelHost>,
    pub(crate) service: Blocking,
}

impl Rig {
    pub(crate) fn new() -> Self {
        let (id, layout) = (TestId::take(), TestLayout::new());
        let (host, service) = start(&layout);
        Self { id, layout, host, service }
    }
    pub(crate) fn restart(&mut self) {
        (self.host, self.service) = start(&self.layout);
    }
    pub(crate) fn ct(&self) -> CtId {
        self.id.ct()
    }
    pub(crate) fn fence(&self) -> Fence {
        Fence { ct: self.ct(), generation: Generation(1), epoch: Epoch(1) }
    }
    pub(crate) fn ensure(&self, limits: &Limits) -> Group {
        self.service.ensure(&self.fence(), limits).expect("limits hold")
    }
    pub(crate) fn group(&self) -> Group {
        self.service.group(self.ct()).expect("it is there")
    }
    pub(crate) fn dirs(&self) -> Vec<PathBuf> {
        self.host.hierarchies().dirs(&layout::cgroup(self.ct()))
    }
    /// Starts a shell that joins all groups, then does this.
    pub(crate) fn shell(&self, then: &str) -> Proc {
        let files =
            self.host.hierarchies().procs_files(&layout::cgroup(self.ct()), CGROUP_DELEGATED);
        let script = format!("for f do echo $$ >\"$f\" || exit 99; done; {then}");
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &script, "sh"]).args(files);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Proc::spawn(command)
    }
    /// Moves a process into all groups.
    pub(crate) fn take_in(&self, pid: u32) {
        let group = layout::cgroup(self.ct());
        for file in self.host.hierarchies().procs_files(&group, CGROUP_DELEGATED) {
            cgroup::write(&file, &pid.to_string()).expect("moved");
        }
    }
    pub(crate) fn processes(&self) -> Vec<u32> {
        self.dirs().iter().flat_map(|d| cgroup::processes(d).expect("read")).collect()
    }
    pub(crate) fn observe(&self) -> Observed {
        self.host.observe(self.ct()).expect("observed")
    }
}

pub(crate) fn start(layout: &TestLayout) -> (Arc<KernelHost>, Blocking) {
    let run = layout.layout().run_dir();
    let host = KernelHost::detect(run.join("resources"), PATIENCE).expect("control groups");
    let host = host.hearing(KernelLog::open().ok());
    let host = Arc::new(host);
    let fences = FenceStore::open(run.join("fence")).expect("opened");
    let shell = Shell::new(layout::Daemon::Resources, fences, 16);
    let service = Service::new(Arc::clone(&host) as Arc<dyn Host>, shell).expect("started");
    (host, Blocking(service))
}

impl Drop for Rig {
    fn drop(&mut self) {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            let dirs = self.dirs();
            let pids: Vec<_> =
                dirs.iter().flat_map(|d| cgroup::processes(d).unwrap_or_default()).collect();
            for pid in &pids {
                kill(*pid);
            }
            if pids.is_empty() && dirs.iter().all(|d| cgroup::remove(d).is_ok()) {
                // Another test may still use it.
                self.host.release_shared().ok();
                return;
            }
        }
        // By a program that goes as deep as groups are, whatever ours can.
        for dir in self.dirs().iter().filter(|dir| dir.exists()) {
            Command::new("find").arg(dir).args(["-depth", "-type", "d", "-delete"]).output().ok();
        }
        self.host.release_shared().ok();
    }
}

fn kill(pid: u32) {
    if let Ok(pid) = i32::try_from(pid) {
        // It may have gone by itself.
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL).ok();
    }
}

pub(crate) fn row(group: &Group, resource: UbcResource) -> UbcRow {
    group.rows.iter().find(|r| r.resource == resource).expect("all rows are there").clone()
}
