//! Id maps of user namespaces: the one a child gets, and one for mounts, in which nothing runs.
//!
//! Never here: who has which ids.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::OwnedFd;

use rustix::process::Pid;

use crate::child;
use crate::error::{Attempt, HostError};
use crate::namespace::Namespace;

/// Maps ids 0 to `count - 1` of the child's user namespace to the ids from `base` of this one.
///
/// # Errors
/// [`HostError::Sys`].
pub fn map_ids(child: Pid, base: u32, count: u32) -> Result<(), HostError> {
    for kind in ["uid_map", "gid_map"] {
        let path = format!("/proc/{}/{kind}", child.as_raw_pid());
        OpenOptions::new()
            .write(true)
            .open(&path)
            .and_then(|mut f| f.write_all(format!("0 {base} {count}\n").as_bytes()))
            .attempt(|| format!("map the ids from {base} by {path}"))?;
    }
    Ok(())
}

/// A user namespace in which ids 0 to `count - 1` are the host's `base` and following, for users
/// and groups. Nothing runs in it; it lives as long as the descriptor or a mount that uses it.
///
/// # Errors
/// [`HostError::Sys`].
pub fn namespace(base: u32, count: u32) -> Result<OwnedFd, HostError> {
    child::beside(&[Namespace::User], |pid| {
        map_ids(pid, base, count)?;
        let path = format!("/proc/{}/ns/user", pid.as_raw_pid());
        File::open(&path)
            .map(OwnedFd::from)
            .attempt(|| format!("open the user namespace {path} for the ids from {base}"))
    })
}
