//! Control groups: the hierarchies there are, and the reading and writing of a group's files.
//!
//! Owns the file operations on groups; `detect` owns where they are, `tree` the way through
//! those below one. Knows no containers and no limits; never mounts a hierarchy, never creates a
//! file: a control file that is not there is a missing feature, not something to make.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use crate::error::{Attempt, HostError};

mod detect;
mod tree;

pub use detect::{Controller, Freezer, Hierarchies, V1, V2, Version, parse_v2_controllers};

/// The most that is read from a control file.
const LARGEST: u64 = 1 << 20;
/// How long a group may stay busy after its last process is gone.
const LINGER: Duration = Duration::from_secs(2);

/// Reads a control file.
///
/// # Errors
/// [`HostError::Sys`], [`HostError::Parse`] when it is no text.
pub fn read(path: &Path) -> Result<String, HostError> {
    let what = || format!("read {}", path.display());
    read_text(File::open(path).attempt(what)?, what)
}

fn read_text(file: File, what: impl Fn() -> String) -> Result<String, HostError> {
    let mut bytes = Vec::new();
    file.take(LARGEST).read_to_end(&mut bytes).attempt(&what)?;
    String::from_utf8(bytes)
        .map_err(|e| HostError::parse(what(), &String::from_utf8_lossy(e.as_bytes())))
}

/// Reads a control file, or answers `None` where it, or its group, is not there (any more).
///
/// # Errors
/// [`HostError::Sys`], [`HostError::Parse`] when it is no text.
pub fn read_if_exists(path: &Path) -> Result<Option<String>, HostError> {
    match read(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if gone(&e) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Whether a failure means that the group or its file is not there; a file that was opened before
/// its group went says "no such device".
fn gone(error: &HostError) -> bool {
    error.is(Errno::NOENT) || error.is(Errno::NODEV)
}

/// Writes a control file that is there, with one system call.
///
/// # Errors
/// [`HostError::Sys`].
pub fn write(path: &Path, value: &str) -> Result<(), HostError> {
    let what = || format!("write {value:?} to {}", path.display());
    let mut file = OpenOptions::new().write(true).truncate(true).open(path).attempt(what)?;
    match file.write(value.as_bytes()).attempt(what)? {
        n if n == value.len() => Ok(()),
        _ => Err(std::io::Error::from(ErrorKind::WriteZero)).attempt(what),
    }
}

/// Makes a group and its parents; one that is there already is left as it is. Whatever the umask,
/// everybody may pass through: the kernel asks that of who mounts a group below as a root.
///
/// # Errors
/// [`HostError::Sys`].
pub fn make(dir: &Path) -> Result<(), HostError> {
    use std::os::unix::fs::PermissionsExt;
    let what = || format!("make group {}", dir.display());
    let missing: Vec<&Path> = dir.ancestors().take_while(|group| !group.exists()).collect();
    std::fs::create_dir_all(dir).attempt(what)?;
    for group in missing {
        std::fs::set_permissions(group, std::fs::Permissions::from_mode(0o755)).attempt(what)?;
    }
    Ok(())
}

/// Removes a group and those below it, deepest first; one that is not there is no failure. The
/// kernel calls a group busy for a moment after its last process is gone; that moment is waited for.
///
/// # Errors
/// [`HostError::Sys`]: `EBUSY` when there are processes in one of them.
pub fn remove(dir: &Path) -> Result<(), HostError> {
    let inside = |group: Result<OwnedFd, Errno>| match group {
        Ok(group) => processes_at(&group, dir),
        Err(_) => Ok(Vec::new()), // It has gone.
    };
    tree::walk(
        dir,
        |_| Ok(()),
        |parent, name| {
            remove_one(
                || Ok(rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)?),
                || inside(tree::open(parent, name)),
                || format!("remove group {} below {}", name.to_string_lossy(), dir.display()),
            )
        },
    )?;
    remove_one(
        || std::fs::remove_dir(dir),
        || inside(tree::open(CWD, dir)),
        || format!("remove group {}", dir.display()),
    )
}

fn remove_one(
    remove: impl Fn() -> std::io::Result<()>,
    processes: impl Fn() -> Result<Vec<u32>, HostError>,
    what: impl Fn() -> String,
) -> Result<(), HostError> {
    let end = Instant::now() + LINGER;
    loop {
        match remove() {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
            Err(e)
                if e.kind() == ErrorKind::ResourceBusy
                    && Instant::now() < end
                    && processes()?.is_empty() =>
            {
                pause();
            }
            other => return other.attempt(what),
        }
    }
}

/// A moment between two looks at something version 1 gives no event for.
#[expect(clippy::disallowed_methods, reason = "the caller has a condition and a deadline")]
fn pause() {
    std::thread::sleep(Duration::from_millis(1));
}

/// Removes a group that has neither processes nor groups below it; any other stays.
///
/// # Errors
/// [`HostError::Sys`].
pub fn remove_if_empty(dir: &Path) -> Result<(), HostError> {
    match std::fs::remove_dir(dir) {
        Err(e)
            if matches!(
                e.kind(),
                ErrorKind::NotFound | ErrorKind::ResourceBusy | ErrorKind::DirectoryNotEmpty
            ) =>
        {
            Ok(())
        }
        other => other.attempt(|| format!("remove group {}", dir.display())),
    }
}

/// The groups directly below `dir`, sorted; none where there is no such group.
///
/// # Errors
/// [`HostError::Sys`].
pub fn children(dir: &Path) -> Result<Vec<PathBuf>, HostError> {
    let what = || format!("list groups in {}", dir.display());
    let entries = match std::fs::read_dir(dir) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.attempt(what)?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = match entry {
            Err(e) if e.raw_os_error() == Some(libc::ENODEV) => break,
            other => other.attempt(what)?,
        };
        // A type that cannot be told belongs to an entry that has just gone.
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

/// The processes in a group and in those below it, however deep; none where there is no such group.
///
/// # Errors
/// [`HostError::Sys`], [`HostError::Parse`].
pub fn processes(dir: &Path) -> Result<Vec<u32>, HostError> {
    let mut pids = Vec::new();
    let enter = |group: &OwnedFd| {
        pids.extend(processes_at(group, dir)?);
        Ok(())
    };
    tree::walk(dir, enter, |_, _| Ok(()))?;
    Ok(pids)
}

/// The processes in one group, which is `below` or below it.
fn processes_at(group: &OwnedFd, below: &Path) -> Result<Vec<u32>, HostError> {
    let what = || format!("read the processes of a group in {}", below.display());
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let text = match rustix::fs::openat(group, "cgroup.procs", flags, Mode::empty())
        .attempt(what)
        .and_then(|file| read_text(File::from(file), what))
    {
        // A threaded group, which the root of a container may make too: its processes are listed
        // in the group above that is the root of the threads.
        Err(e) if gone(&e) || e.is(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        other => other?,
    };
    text.lines().map(|line| line.parse().map_err(|_| HostError::parse(what(), line))).collect()
}

/// Gives a version 2 group to a user and group id of the same number: its directory and the files
/// by which an owner makes groups and moves processes below it, not those that limit it.
///
/// # Errors
/// [`HostError::Sys`].
pub fn delegate(group: impl AsFd, id: u32) -> Result<(), HostError> {
    let (uid, gid) = (Some(Uid::from_raw(id)), Some(Gid::from_raw(id)));
    for name in ["cgroup.procs", "cgroup.subtree_control", "cgroup.threads"] {
        rustix::fs::chownat(&group, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
            .attempt(|| format!("give {name} to {id}"))?;
    }
    rustix::fs::fchown(&group, uid, gid).attempt(|| format!("give the group to {id}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_never_made() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("pids.max");
        assert!(write(&file, "1").is_err_and(|e| e.is(Errno::NOENT)));
        assert_eq!(read_if_exists(&file).expect("absent"), None);
        make(&dir.path().join("a/b/c")).expect("made");
        assert_eq!(children(dir.path()).expect("listed").len(), 1);
        remove(&dir.path().join("a")).expect("removed");
        remove(&dir.path().join("a")).expect("nothing to remove");
    }
}
