//! A confined child: what it gives up before it reads a byte of what nobody trusts.
//!
//! ```text
//! process with one thread ─► own mount, network, IPC, UTS, pid namespaces
//!   ─► root = the volume (or an empty read-only tmpfs), the old tree gone
//!   ─► user namespace of a range nobody uses, in which a daemon's own user is its root; few
//!      capabilities, limits, no new privileges
//!   ─► its work
//! ```
//!
//! Never here: what the work is, and who uses which ids.

#![allow(unsafe_code, reason = "namespaces of a process with one thread")]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets, UnshareFlags};

use crate::child::{self, Ended, How, Life};
use crate::error::{Attempt, HostError};
use crate::id_map;
use crate::mount::{self, Change, FsContext, Propagation, attr};
use crate::namespace;

/// What a confined child keeps.
#[derive(Debug, Clone, Copy)]
pub struct Confinement<'a> {
    /// Whether this process has a network, IPC objects and a host name of its own, empty already, so
    /// that it makes no new ones.
    pub alone: bool,
    /// The device of the ext4 file system that is all it sees; none: it sees no files.
    pub volume: Option<&'a Path>,
    /// The ids it has on the host: the first, and how many.
    pub ids: (u32, u32),
    /// The most bytes of address space.
    pub memory: u64,
    /// Its capabilities in its own user namespace.
    pub capabilities: CapabilitySet,
}

/// Has a child do `work` in confinement, given the root it sees or why it could not be confined;
/// answers the status it ended with. This process, which must have one thread, changes too: it can
/// get no new privileges and is in new namespaces afterwards.
///
/// # Errors
/// [`HostError::Sys`] where the child could not be made.
pub fn run(
    confinement: &Confinement<'_>,
    work: impl FnOnce(Result<OwnedFd, HostError>) -> u8,
) -> Result<u8, HostError> {
    let (base, count) = confinement.ids;
    // Who is not root has no need of another user, and his sandbox may refuse it.
    let ids = match is_root() {
        true => id_map::namespace(base, count)?,
        false => id_map::with_own_as_root(base, count)?,
    };
    rustix::thread::set_no_new_privs(true).attempt(|| "give up new privileges".to_owned())?;
    let mut namespaces = UnshareFlags::NEWNS | UnshareFlags::NEWPID;
    if !confinement.alone {
        namespaces |= UnshareFlags::NEWNET | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS;
    }
    // SAFETY: no thread shares anything with this one, there is only one.
    unsafe { rustix::thread::unshare_unsafe(namespaces) }
        .attempt(|| "make namespaces".to_owned())?;
    // Only children are in a new pid namespace, where this process has no number.
    let (line, _held) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .attempt(|| "make a pipe".to_owned())?;
    let life = Life::BoundBy(line.as_fd());
    let how = How { keep: &[ids.as_fd()], life, ..How::default() };
    let child = child::fork(how, || work(enter(confinement, &ids, line.as_fd())).into())?;
    match child::wait(&child)? {
        Ended::Code(status) => Ok(u8::try_from(status).unwrap_or(1)),
        Ended::Signal(_) => Ok(1),
    }
}

/// Goes into confinement; answers the new root.
fn enter(
    confinement: &Confinement<'_>,
    ids: &OwnedFd,
    line: BorrowedFd<'_>,
) -> Result<OwnedFd, HostError> {
    let change_user = is_root();
    let host = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .attempt(|| "open the root".to_owned())?;
    let change =
        Change { propagation: Some(Propagation::Private), recursive: true, ..Change::default() };
    mount::change(&host, change, "/")?;
    let target = match confinement.volume {
        Some(device) => {
            let tree = FsContext::new("ext4")?
                .set("source", device)?
                .flag("noinit_itable")?
                .mount(attr::NOSUID | attr::NODEV | attr::NOEXEC)?;
            let id_mapped = Change { idmap: Some(ids.as_fd()), ..Change::default() };
            mount::change(&tree, id_mapped, "the volume")?;
            tree
        }
        None => FsContext::new("tmpfs")?
            .set("source", "none")?
            .set("size", "4k")?
            .set("nr_inodes", "2")?
            .flag("ro")?
            .mount(attr::NOSUID | attr::NODEV | attr::NOEXEC | attr::RDONLY)?,
    };
    // Every system has /proc; nothing below it is needed any more.
    mount::attach(&target, Path::new("/proc"))?;
    mount::pivot_root(&target)?;
    limit(confinement.memory)?;
    rustix::thread::move_into_link_name_space(
        ids.as_fd(),
        Some(rustix::thread::LinkNameSpaceType::User),
    )
    .attempt(|| "enter the user namespace".to_owned())?;
    if change_user {
        namespace::become_root()?;
    }
    keep_capabilities(confinement.capabilities)?;
    // A change of user has undone it.
    child::die_with_parent(line)?;
    mount::open_beneath(&target, Path::new("."), OFlags::RDONLY | OFlags::DIRECTORY, true)
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn limit(memory: u64) -> Result<(), HostError> {
    let one = |limit| Rlimit { current: Some(limit), maximum: Some(limit) };
    for (resource, limit) in
        [(Resource::As, memory), (Resource::Core, 0), (Resource::Nproc, 1), (Resource::Nofile, 64)]
    {
        setrlimit(resource, one(limit)).attempt(|| "set limits".to_owned())?;
    }
    Ok(())
}

/// Of the capabilities in its user namespace, it keeps these.
fn keep_capabilities(kept: CapabilitySet) -> Result<(), HostError> {
    let sets =
        CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets).attempt(|| "drop capabilities".to_owned())
}
