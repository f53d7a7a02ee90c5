//! Id maps of user namespaces: the one a child gets, and one for mounts, in which nothing runs.
//!
//! Never here: who has which ids.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};

use rustix::process::{Pid, getegid, geteuid};

use crate::child;
use crate::error::{Attempt, HostError};
use crate::mount::{self, Change};
use crate::namespace::Namespace;

/// Maps ids 0 to `count - 1` of the child's user namespace to the ids from `base` of this one.
///
/// # Errors
/// [`HostError::Sys`].
pub fn map_ids(child: Pid, base: u32, count: u32) -> Result<(), HostError> {
    map(child, "uid_map", &[(0, base, count)])?;
    map(child, "gid_map", &[(0, base, count)])
}

/// Maps ids of the child's user namespace to ids of this one: the first of both, and how many.
fn map(child: Pid, kind: &str, ranges: &[(u32, u32, u32)]) -> Result<(), HostError> {
    let path = format!("/proc/{}/{kind}", child.as_raw_pid());
    let lines: String =
        ranges.iter().map(|(from, to, count)| format!("{from} {to} {count}\n")).collect();
    OpenOptions::new()
        .write(true)
        .open(&path)
        .and_then(|mut f| f.write_all(lines.as_bytes()))
        .attempt(|| format!("map ids by {path}"))
}

/// A user namespace in which ids 0 to `count - 1` are the host's `base` and following, for users
/// and groups. Nothing runs in it; it lives as long as the descriptor or a mount that uses it.
///
/// # Errors
/// [`HostError::Sys`].
pub fn namespace(base: u32, count: u32) -> Result<OwnedFd, HostError> {
    made_with(|pid| map_ids(pid, base, count))
}

/// The same in which this user and group are this process's own, and nobody else is anybody.
fn as_own(user: u32, group: u32) -> Result<OwnedFd, HostError> {
    made_with(|pid| {
        map(pid, "uid_map", &[(user, geteuid().as_raw(), 1)])?;
        map(pid, "gid_map", &[(group, getegid().as_raw(), 1)])
    })
}

/// Has a detached mount show the files of its root directory's owner as this process's own, and what this
/// process makes as that owner's: whoever made the file system, the one that keeps it now has it. Root needs
/// no such thing.
///
/// # Errors
/// [`HostError::Sys`]; `what` names the mount there.
pub fn show_as_own(tree: impl AsFd, what: &str) -> Result<(), HostError> {
    let owner = rustix::fs::fstat(&tree).attempt(|| format!("look at the mount for {what}"))?;
    let (user, group) = (owner.st_uid, owner.st_gid);
    let own = (geteuid().as_raw(), getegid().as_raw());
    if own.0 == 0 || own == (user, group) {
        return Ok(());
    }
    let ids = as_own(user, group)?;
    mount::change(tree, Change { idmap: Some(ids.as_fd()), ..Change::default() }, what)
}

/// [`namespace`] in which this user and group are 0, so that nobody need change his to be that.
///
/// # Errors
/// [`HostError::Sys`].
pub fn with_own_as_root(base: u32, count: u32) -> Result<OwnedFd, HostError> {
    let ranges = |own| [(0, own, 1), (1, base + 1, count - 1)];
    made_with(|pid| {
        map(pid, "uid_map", &ranges(geteuid().as_raw()))?;
        map(pid, "gid_map", &ranges(getegid().as_raw()))
    })
}

fn made_with(map: impl FnOnce(Pid) -> Result<(), HostError>) -> Result<OwnedFd, HostError> {
    child::beside(&[Namespace::User], |pid| {
        map(pid)?;
        let path = format!("/proc/{}/ns/user", pid.as_raw_pid());
        let opened = File::open(&path).map(OwnedFd::from);
        opened.attempt(|| format!("open the user namespace {path}"))
    })
}
