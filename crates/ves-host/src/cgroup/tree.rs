//! Walking a group and those below it, which the root of a container may nest as deep as it likes.
//!
//! Owns the way: by descriptors, since the path to such a group can be longer than the kernel takes,
//! and with two of them open at a time, since there may be more levels than descriptors. Never here:
//! recursion.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Attempt, HostError};

/// Opens a group.
pub(super) fn open(at: impl AsFd, name: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::openat(at, name, flags, Mode::empty())
}

/// A group on the way down: its name, and which of those in it are still to be seen.
struct Level {
    name: CString,
    left: Vec<CString>,
}

/// Calls `enter` for the group at `dir` and for each below it, before those below that; and `leave`
/// for each but the first after those below it, with the group it is in and its name. Nothing
/// happens where there is no such group, nor to one that goes meanwhile.
///
/// # Errors
/// [`HostError::Sys`]; what `enter` and `leave` fail with.
pub(super) fn walk(
    dir: &Path,
    mut enter: impl FnMut(&OwnedFd) -> Result<(), HostError>,
    mut leave: impl FnMut(&OwnedFd, &CStr) -> Result<(), HostError>,
) -> Result<(), HostError> {
    let what = || format!("list groups in {}", dir.display());
    let mut here = match open(CWD, dir) {
        Err(Errno::NOENT | Errno::NODEV) => return Ok(()),
        other => other.attempt(what)?,
    };
    enter(&here)?;
    let mut way = vec![Level { name: CString::default(), left: children(&here).attempt(what)? }];
    while let Some(level) = way.last_mut() {
        if let Some(name) = level.left.pop() {
            let child = match open(&here, &name) {
                Err(Errno::NOENT | Errno::NODEV) => continue,
                other => other.attempt(what)?,
            };
            enter(&child)?;
            way.push(Level { name, left: children(&child).attempt(what)? });
            here = child;
            continue;
        }
        let done = way.pop();
        if let Some(done) = done.filter(|_| !way.is_empty()) {
            // Groups are never moved to another, so this is the one it was entered from.
            here = open(&here, c"..").attempt(what)?;
            leave(&here, &done.name)?;
        }
    }
    Ok(())
}

/// The names of the groups in a group; none where it has gone.
fn children(group: &OwnedFd) -> Result<Vec<CString>, Errno> {
    let mut names = Vec::new();
    let entries = match Dir::read_from(group) {
        Err(Errno::NODEV | Errno::NOENT) => return Ok(names),
        other => other?,
    };
    for entry in entries {
        let entry = match entry {
            Err(Errno::NODEV | Errno::NOENT) => break,
            other => other?,
        };
        let name = entry.file_name();
        if entry.file_type() == FileType::Directory && name != c"." && name != c".." {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}
