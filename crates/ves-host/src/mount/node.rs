//! Attaching and detaching in the node's own mount namespace, by a daemon that has one of its own.
//!
//! ```text
//! node's namespace   /run ─ shared ──────────────────────┐ mounts come in, none go out
//!      ▲ attach, unmount: a thread that enters           ▼
//! daemon's namespace  everything read-only but its own   /run: sees what the node sees
//! ```
//!
//! A service manager that gives a daemon a mount namespace of its own also hands it a descriptor of
//! the node's, by the name [`NAME`]. A thread made for one attachment enters there; all other threads
//! stay where they are. The starter of containers, which has no wall there, enters as a whole. Without
//! the descriptor the daemon's namespace is the node's, and [`require`] says where it is not. Never
//! here: any other work in the node's namespace.

#![allow(unsafe_code, reason = "a thread's own root")]

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::OnceLock;

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use super::{Change, Propagation};
use crate::error::{Attempt, HostError};
use crate::{handed, thread};

/// What the service manager calls the descriptor.
pub const NAME: &str = "node-mnt";

static NODE: OnceLock<Option<OwnedFd>> = OnceLock::new();

/// Takes the descriptor of the node's mount namespace, where one was handed over; tells whether.
/// Call it before the first child process, which otherwise inherits it.
pub fn adopt() -> bool {
    NODE.get_or_init(inherited).is_some()
}

fn inherited() -> Option<OwnedFd> {
    handed::by_name(NAME)
}

/// [`adopt`] for a daemon whose mounts at `path` must be the node's.
///
/// # Errors
/// [`HostError::Lacks`] where a service manager gave it a mount namespace of its own and no descriptor
/// of the node's; [`HostError::Sys`].
pub fn require(path: &Path) -> Result<(), HostError> {
    // By hand all may well be started in a namespace that is a slave of another.
    let managed = std::env::var_os("NOTIFY_SOCKET").is_some();
    if adopt() || !managed || !apart(path)? { Ok(()) } else { Err(lacking()) }
}

/// Enters the node's mount namespace with this whole process, which has one thread, by the descriptor
/// where one was handed over. `path` is where mounts must be the node's.
///
/// # Errors
/// As [`require`].
pub fn enter(path: &Path) -> Result<(), HostError> {
    match inherited() {
        Some(node) => move_into_link_name_space(node.as_fd(), Some(LinkNameSpaceType::Mount))
            .attempt(|| "enter the node's mount namespace".to_owned()),
        None if apart(path)? => Err(lacking()),
        None => Ok(()),
    }
}

fn lacking() -> HostError {
    HostError::Lacks {
        feature: "the node's mount namespace".to_owned(),
        why: format!(
            "the unit has one of its own, out of which no mount goes; hand over the node's \
             (`OpenFile=/proc/1/ns/mnt:{NAME}:read-only`, which systemd knows since version 253), \
             or take away what gives the unit one"
        ),
    }
}

/// Whether mounts made at `path` stay in this namespace while those of another come in: so a service
/// manager makes one for a unit.
fn apart(path: &Path) -> Result<bool, HostError> {
    let stat = statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID)
        .attempt(|| format!("look at {}", path.display()))?;
    let table = std::fs::read_to_string("/proc/self/mountinfo")
        .attempt(|| "read the mount table".to_owned())?;
    Ok(is_slave(&table, stat.stx_mnt_id))
}

fn is_slave(table: &str, mount: u64) -> bool {
    let optional = |line: &str| {
        let (fields, _) = line.split_once(" - ")?;
        let mut fields = fields.split(' ');
        (fields.next()?.parse() == Ok(mount)).then(|| fields.any(|f| f.starts_with("master:")))
    };
    table.lines().find_map(optional).unwrap_or(false)
}

/// Does `work` in the node's mount namespace, on a thread made for it where that is another one.
pub(crate) fn within<T: Send>(
    work: impl FnOnce() -> Result<T, HostError> + Send,
) -> Result<T, HostError> {
    let Some(node) = NODE.get_or_init(inherited) else { return work() };
    thread::on_own_thread("node-mounts", || {
        let what = || "enter the node's mount namespace".to_owned();
        // SAFETY: only this thread's root, working directory and umask become its own; it ends here.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS) }.attempt(what)?;
        move_into_link_name_space(node.as_fd(), Some(LinkNameSpaceType::Mount)).attempt(what)?;
        work()
    })
}

/// Attaches a detached mount at an absolute path of the node, as [`super::attach`], and keeps mounts
/// below it to itself.
///
/// # Errors
/// [`HostError::Sys`].
pub fn attach(mount: impl AsFd + Sync, path: &Path) -> Result<(), HostError> {
    within(|| {
        super::attach(&mount, path)?;
        // On a shared parent it became shared.
        let change = Change { propagation: Some(Propagation::Private), ..Change::default() };
        super::change(&mount, change, &path.display().to_string())
    })
}

/// A detached copy of what is mounted at an absolute path of the node, which is nobody's peer.
///
/// # Errors
/// [`HostError::Sys`].
pub fn clone_mount(path: &Path) -> Result<OwnedFd, HostError> {
    within(|| {
        let copy = super::clone_tree(path, false)?;
        let change = Change { propagation: Some(Propagation::Private), ..Change::default() };
        super::change(&copy, change, &path.display().to_string())?;
        Ok(copy)
    })
}

/// [`super::unmount`] of an absolute path of the node.
pub fn unmount(path: &Path, lazily: bool) -> Result<(), HostError> {
    within(|| super::unmount(path, lazily))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_apart_shows_in_its_mounts() {
        let table = "27 1 254:0 / / rw - ext4 /dev/vda rw\n\
                     41 27 0:38 / /run rw shared:7 master:2 - tmpfs master:9 rw\n\
                     42 27 0:39 /master:1 /x rw shared:8 - tmpfs master:9 rw\n";
        assert!(is_slave(table, 41));
        for own in [27, 42, 99] {
            assert!(!is_slave(table, own), "{own}");
        }
    }

    #[test]
    fn without_one_the_own_namespace_is_the_nodes() {
        assert!(!adopt());
        let error = unmount(Path::new("/nowhere/at/all"), false).expect_err("nothing there");
        assert!(error.is(rustix::io::Errno::NOENT) || error.is(rustix::io::Errno::PERM), "{error}");
    }
}
