//! The file system of a container's /dev, made outside, where device nodes work.
//!
//! Only devices without a way to the node's own: null, zero, full, random, urandom, tty.

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, FileType, Mode};
use rustix::process::{Gid, Uid};

use ves_host::mount::{FsContext, attr};
use ves_host::{Attempt, HostError};

/// The file system of /dev. It belongs to the node's user namespace, where device nodes work, and
/// its files to the container's root; nobody inside can make further nodes.
///
/// # Errors
/// [`HostError::Sys`].
pub(super) fn make(owner: u32) -> Result<OwnedFd, HostError> {
    let owner_text = owner.to_string();
    let dev = FsContext::new("tmpfs")?
        .set("source", "dev")?
        .set("mode", "0755")?
        .set("uid", &owner_text)?
        .set("gid", &owner_text)?
        .set("size", "1m")?
        .set("nr_inodes", "4096")?
        .mount(attr::NOSUID | attr::NOEXEC)?;
    let own = |name: &str, group: u32| {
        let (user, group) = (Uid::from_raw(owner), Gid::from_raw(owner + group));
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::chownat(&dev, name, Some(user), Some(group), flags)
            .attempt(|| format!("give /dev/{name} to user {owner}"))
    };
    rustix::process::umask(Mode::empty());
    let node = |name: &str, kind, mode, device, group| {
        rustix::fs::mknodat(&dev, name, kind, Mode::from_raw_mode(mode), device)
            .attempt(|| format!("make /dev/{name}"))?;
        own(name, group)
    };
    for (name, minor) in [("null", 3), ("zero", 5), ("full", 7), ("random", 8), ("urandom", 9)] {
        let device = rustix::fs::makedev(1, minor);
        node(name, FileType::CharacterDevice, 0o666, device, 0)?;
    }
    node("tty", FileType::CharacterDevice, 0o666, rustix::fs::makedev(5, 0), TTY_GROUP)?;
    node("console", FileType::RegularFile, 0o600, 0, 0)?;
    for dir in ["pts", "shm", "mqueue"] {
        rustix::fs::mkdirat(&dev, dir, Mode::from_raw_mode(0o755))
            .attempt(|| format!("make /dev/{dir}"))?;
        own(dir, 0)?;
    }
    for (name, to) in [
        ("ptmx", "pts/ptmx"),
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("core", "/proc/kcore"),
    ] {
        rustix::fs::symlinkat(to, &dev, name).attempt(|| format!("make /dev/{name}"))?;
        own(name, 0)?;
    }
    rustix::process::umask(Mode::from_raw_mode(0o022));
    Ok(dev)
}

/// The group of terminals in every distribution that has one.
const TTY_GROUP: u32 = 5;
