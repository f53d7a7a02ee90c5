//! Places below the container's root, opened without following a symbolic link: the root's contents
//! belong to the tenant.
//!
//! Never here: what is mounted or written there.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use ves_host::{Attempt, HostError};

/// Opens what is at a path below the root, as a place; `None` where nothing is.
pub(super) fn existing(root: impl AsFd, path: &str) -> Result<Option<OwnedFd>, HostError> {
    match open(root, path) {
        Ok(fd) => Ok(Some(fd)),
        // Not only the last part may be missing.
        Err(rustix::io::Errno::NOENT) => Ok(None),
        Err(e) => Err(e).attempt(|| unusable(path, e)),
    }
}

fn open(root: impl AsFd, path: &str) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat2(root, path, flags, Mode::empty(), resolve)
}

fn unusable(path: &str, e: rustix::io::Errno) -> String {
    if e == rustix::io::Errno::LOOP {
        format!("use /{path} of the container, which is or lies behind a symbolic link")
    } else {
        format!("use /{path} of the container")
    }
}

/// Opens a place below the root; directories that are missing are made where `make` says so.
pub(super) fn place(root: impl AsFd, path: &str, make: bool) -> Result<OwnedFd, HostError> {
    if let Some(found) = existing(&root, path)? {
        let stat = rustix::fs::fstat(&found).attempt(|| format!("look at /{path}"))?;
        if FileType::from_raw_mode(stat.st_mode).is_symlink() {
            return Err(rustix::io::Errno::LOOP)
                .attempt(|| unusable(path, rustix::io::Errno::LOOP));
        }
        if make && !FileType::from_raw_mode(stat.st_mode).is_dir() {
            return Err(rustix::io::Errno::NOTDIR)
                .attempt(|| unusable(path, rustix::io::Errno::NOTDIR));
        }
        return Ok(found);
    }
    if !make {
        return Err(rustix::io::Errno::NOENT).attempt(|| unusable(path, rustix::io::Errno::NOENT));
    }
    let mut at = open(&root, ".").attempt(|| "open the container's root".to_owned())?;
    for part in path.split('/') {
        match rustix::fs::mkdirat(&at, part, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(e) => return Err(e).attempt(|| format!("make /{path} in the container")),
        }
        at = open(&at, part).attempt(|| format!("open /{path} in the container"))?;
    }
    Ok(at)
}

/// Opens a directory below the root for use by `openat2`.
pub(super) fn directory(root: impl AsFd, path: &str) -> Result<OwnedFd, HostError> {
    let found = place(root, path, false)?;
    rustix::fs::openat(
        found,
        c".",
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .attempt(|| format!("open /{path}"))
}
