//! What changes of a container that runs, done by a process whose root is the container's.
//!
//! Owns the sizes of its memory file systems; its names are in [`super::etc`]. Never here: what should change.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{Dir, Mode, OFlags};
use rustix::io::Errno;
use ves_host::mount::{self, FsContext};
use ves_host::{Attempt, HostError};
use ves_init_proto::InitStep;
use ves_init_proto::memory::Size;
use ves_init_proto::report::Failure;

use super::views::{Views, show_here};
use super::{etc, failure};

/// The magic number of tmpfs.
const TMPFS: u64 = 0x0102_1994;

/// Where systemd mounts what a user has in memory who is logged in, by his number.
const USERS: &str = "/run/user";
/// The most entries there that are looked at: whoever is root inside makes any number.
const MOST_USERS: usize = 4096;

/// Performs steps, with the views that were taken for it; after one that fails no more is done.
pub(crate) fn adapt(steps: &[InitStep], views: &Views) -> Result<(), Failure> {
    let perform = |step: &InitStep| match step {
        InitStep::ShowViews => show_here(views),
        _ => perform(step),
    };
    steps.iter().try_for_each(|step| perform(step).map_err(|e| failure(&step.to_string(), &e)))
}

/// Performs one.
pub(super) fn perform(step: &InitStep) -> Result<(), HostError> {
    match step {
        InitStep::Resize { unless, .. } if unless.iter().any(etc::stands) => Ok(()),
        InitStep::Resize { at, size, .. } => resize(Path::new(at), *size),
        InitStep::ResizeUsers(size) => resize_below(Path::new(USERS), *size),
        _ => etc::name(step),
    }
}

/// Gives a size to what is mounted below, at numbers.
fn resize_below(at: &Path, size: Size) -> Result<(), HostError> {
    let what = || format!("look into {}", at.display());
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = match rustix::fs::open(at, flags, Mode::empty()) {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
        other => other.attempt(what)?,
    };
    for entry in Dir::new(directory).attempt(what)?.take(MOST_USERS) {
        let entry = entry.attempt(what)?;
        let name = entry.file_name().to_bytes();
        if name.iter().all(u8::is_ascii_digit) {
            resize(&at.join(OsStr::from_bytes(name)), size)?;
        }
    }
    Ok(())
}

/// Gives the memory file system that is mounted there a size, or the one it has use for, if that is more.
/// Where none is, there is nothing to do.
fn resize(at: &Path, size: Size) -> Result<(), HostError> {
    let what = || format!("look at {}", at.display());
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let place = match rustix::fs::open(at, flags, Mode::empty()) {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
        other => other.attempt(what)?,
    };
    let magic = rustix::fs::fstatfs(&place).attempt(what)?.f_type;
    if u64::try_from(magic).ok() != Some(TMPFS) || !mount::is_mount_point(at)? {
        return Ok(());
    }
    let has = rustix::fs::fstatvfs(&place).attempt(what)?;
    let bytes = size.bytes.max((has.f_blocks - has.f_bfree) * has.f_frsize);
    let inodes = size.inodes.max(has.f_files - has.f_ffree);
    FsContext::mounted(&place, "tmpfs")?
        .set("size", bytes.to_string())?
        .set("nr_inodes", inodes.to_string())?
        .reconfigure()
}
