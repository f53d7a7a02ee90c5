//! One story: what machines it needs, what happens on them, and what they said if it failed.
//!
//! A story says what it [`Need`]s of its machines and gets the cheapest kind that has all of it: native
//! nodes, else virtual machines. `VES_MACHINES=virtual` tells any story on virtual machines.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use super::booted::Booted;
use super::cluster::{self, Cluster};
use super::golden::Golden;
use super::routing::Role;
use crate::need;

/// How long a story may take until its machines are asked what they do: less than nextest gives it.
const LONG: Duration = Duration::from_secs(1740);

/// What a story may need of its machines beside Debian 13 with our packages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Device-mapper, and so LVM.
    Dm,
    /// The controllers of cgroup version 2.
    Cgroup2,
    /// Links of kind netkit.
    Netkit,
    /// Soft-dirty tracking of memory.
    CriuTracking,
    /// Power that can be cut, and states that can be saved.
    Power,
    /// A disk that fails or is slow on request.
    DiskFaults,
    /// Debian's own kernel, and a machine that is the node's alone.
    Kernel,
}

impl Need {
    /// Whether a native node has it: the controllers are those of this machine; all else is a kernel's, or
    /// a machine's that is the node's alone.
    fn native(self) -> bool {
        self == Self::Cgroup2
            && fs::read_to_string("/sys/fs/cgroup/cgroup.controllers")
                .is_ok_and(|list| list.contains("memory") && list.contains("pids"))
    }
}

/// Where images, the golden node and what runs are kept.
pub fn cache() -> PathBuf {
    // This package is two levels below the root of the workspace.
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2);
    root.unwrap_or_else(|| Path::new("/")).join("target/lab")
}

/// Whether a story with these needs is told on virtual machines.
pub fn emulated(needs: &[Need]) -> bool {
    let forced = std::env::var_os("VES_MACHINES").is_some_and(|kind| kind == "virtual");
    forced || !needs.iter().all(|need| need.native())
}

/// Runs a story on so many nodes, with no router.
///
/// # Panics
/// When the story fails, after printing the ends of the machines' consoles and journals.
pub fn on(nodes: usize, needs: &[Need], story: impl FnOnce(&Cluster) -> anyhow::Result<()>) {
    among(&vec![Role::NODE; nodes], needs, story);
}

/// Runs a story among machines with these roles.
///
/// # Panics
/// When the story fails, after printing the ends of the machines' consoles and journals.
pub fn among(roles: &[Role], needs: &[Need], story: impl FnOnce(&Cluster) -> anyhow::Result<()>) {
    let why = "`cargo xtask test`, `cargo xtask cluster run` and `cargo xtask lab run` make it";
    let dir = cache().join(format!("story-{}", std::process::id()));
    let up: Box<dyn FnOnce() -> anyhow::Result<Cluster>> = if emulated(needs) {
        let booted = Booted::current(&cache());
        let made = need::setup("the lab's saved machine", booted.is_ok(), why);
        if !need::check(&[made, need::program("qemu-system-x86_64", "qemu-system-x86")]) {
            return;
        }
        Box::new(|| Cluster::emulated(&booted?, &dir, roles))
    } else {
        let golden = Golden::current(&cache());
        let made = need::setup("the golden node", golden.is_ok(), why);
        if !need::check(&[need::root(), need::disposable(), made]) {
            return;
        }
        Box::new(|| Cluster::native(&golden?, &dir, roles))
    };
    let told = up().and_then(|mut lab| {
        let told = std::thread::scope(|scope| {
            let (done, end) = mpsc::channel::<()>();
            // A story that hangs is ended from outside, and then nobody is left to tell.
            let lab = &lab;
            scope.spawn(move || {
                if end.recv_timeout(LONG) == Err(RecvTimeoutError::Timeout) {
                    eprintln!("after {} s:\n{}", LONG.as_secs(), lab.report());
                }
            });
            let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| story(lab)));
            drop(done);
            told
        });
        if !matches!(told, Ok(Ok(()))) {
            eprintln!("{}", lab.report());
        }
        told.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        let left = lab.down()?;
        anyhow::ensure!(left.is_empty(), "left behind on this machine: {}", left.join(", "));
        Ok(())
    });
    if let Err(error) = told {
        panic!("{error:#}");
    }
}

/// Removes what stories left in `cache` that were killed.
pub fn sweep(cache: &Path) -> anyhow::Result<()> {
    for entry in fs::read_dir(cache).into_iter().flatten() {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name.strip_prefix("story-");
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let left = cluster::sweep(&entry.path())?;
            anyhow::ensure!(left.is_empty(), "left behind: {}", left.join(", "));
        }
    }
    Ok(())
}
