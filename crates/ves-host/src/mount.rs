//! Mounts by file descriptor: `openat2`, `open_tree`, `move_mount`, `mount_setattr`, `fsopen`.
//!
//! A mount is made detached, given its id map, flags and propagation, and moved to its place last,
//! so that nobody ever sees it half made. Never here: decisions about what is mounted where.

#![allow(unsafe_code, reason = "mount_setattr")]

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, FsPickFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags,
    UnmountFlags,
};

use crate::error::{Attempt, HostError};

pub mod node;
pub mod volumes;

/// Attributes of a mount, as `mount_setattr(2)` names them.
pub mod attr {
    /// Read-only.
    pub const RDONLY: u64 = 0x1;
    /// Setuid bits and file capabilities have no effect.
    pub const NOSUID: u64 = 0x2;
    /// Device nodes cannot be opened.
    pub const NODEV: u64 = 0x4;
    /// Nothing can be executed.
    pub const NOEXEC: u64 = 0x8;
    /// Access times are not written.
    pub const NOATIME: u64 = 0x10;
    /// Symbolic links are not followed.
    pub const NOSYMFOLLOW: u64 = 0x0020_0000;
}

/// Where mounts and unmounts below a mount are propagated to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// Nowhere, and nothing comes in.
    Private,
    /// Nowhere, but those of its master come in.
    Slave,
    /// To its peers and from them.
    Shared,
}

/// What to change on a mount. The default changes nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Change<'a> {
    /// Attributes of [`attr`] to set.
    pub set: u64,
    /// Attributes of [`attr`] to clear.
    pub clear: u64,
    /// New propagation.
    pub propagation: Option<Propagation>,
    /// A user namespace whose id map the mount gets: ids on disk are those inside.
    pub idmap: Option<BorrowedFd<'a>>,
    /// Whether mounts below it change too.
    pub recursive: bool,
}

/// Changes a mount, detached or not, all at once or not at all.
///
/// # Errors
/// [`HostError::Sys`]; `what` names the mount there.
pub fn change(mount: impl AsFd, change: Change<'_>, what: &str) -> Result<(), HostError> {
    let Change { set, clear, propagation, idmap, recursive } = change;
    let attr = libc::mount_attr {
        attr_set: set | idmap.map_or(0, |_| libc::MOUNT_ATTR_IDMAP),
        attr_clr: clear,
        propagation: match propagation {
            None => 0,
            Some(Propagation::Private) => libc::MS_PRIVATE,
            Some(Propagation::Slave) => libc::MS_SLAVE,
            Some(Propagation::Shared) => libc::MS_SHARED,
        },
        userns_fd: idmap.map_or(0, |fd| u64::try_from(fd.as_raw_fd()).unwrap_or(u64::MAX)),
    };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the descriptor is borrowed for the call, the path is a static C string and `attr` is
    // a live structure of the size that is passed; the kernel writes nothing.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
        .attempt(|| format!("change the attributes of the mount for {what}"))
}

/// A detached copy of the mount at `path`; with `recursive`, of all mounts below it too.
///
/// # Errors
/// [`HostError::Sys`].
pub fn clone_tree(path: &Path, recursive: bool) -> Result<OwnedFd, HostError> {
    clone_tree_at(CWD, path, recursive)
}

/// [`clone_tree`] of a path relative to a directory; an empty path is that directory itself.
///
/// # Errors
/// [`HostError::Sys`].
pub fn clone_tree_at(dir: impl AsFd, path: &Path, recursive: bool) -> Result<OwnedFd, HostError> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    if path.as_os_str().is_empty() {
        flags |= OpenTreeFlags::AT_EMPTY_PATH;
    }
    rustix::mount::open_tree(dir, path, flags)
        .attempt(|| format!("clone the mount {}", path.display()))
}

/// Attaches a detached mount at an absolute path, whose last part may not be a symbolic link.
///
/// # Errors
/// [`HostError::Sys`].
pub fn attach(mount: impl AsFd, path: &Path) -> Result<(), HostError> {
    attach_at(mount, CWD, path)
}

/// [`attach`] at a path relative to a directory; an empty path is that directory itself.
///
/// # Errors
/// [`HostError::Sys`].
pub fn attach_at(mount: impl AsFd, dir: impl AsFd, path: &Path) -> Result<(), HostError> {
    let mut flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    if path.as_os_str().is_empty() {
        flags |= MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    }
    rustix::mount::move_mount(mount, c"", dir, path, flags)
        .attempt(|| format!("mount on {}", path.display()))
}

/// Unmounts what is at `path`, without following a symbolic link there.
///
/// With `lazily`, it vanishes at once and ends when its last user does.
///
/// # Errors
/// [`HostError::Sys`]: `EINVAL` where nothing is mounted, `EBUSY` where it is in use.
pub fn unmount(path: &Path, lazily: bool) -> Result<(), HostError> {
    let flags =
        if lazily { UnmountFlags::NOFOLLOW | UnmountFlags::DETACH } else { UnmountFlags::NOFOLLOW };
    rustix::mount::unmount(path, flags).attempt(|| format!("unmount {}", path.display()))
}

/// A file system being configured, from `fsopen(2)`.
#[derive(Debug)]
pub struct FsContext {
    fd: OwnedFd,
    fs: String,
}

impl FsContext {
    /// Begins a file system of this type.
    ///
    /// # Errors
    /// [`HostError::Lacks`] when the kernel does not know it, else [`HostError::Sys`].
    pub fn new(fs: &str) -> Result<Self, HostError> {
        match rustix::mount::fsopen(fs, FsOpenFlags::FSOPEN_CLOEXEC) {
            Err(rustix::io::Errno::NODEV) => Err(HostError::Lacks {
                feature: format!("the file system {fs}"),
                why: "the kernel does not know it; load its module or boot another kernel"
                    .to_owned(),
            }),
            other => Ok(Self {
                fd: other.attempt(|| format!("open the file system {fs}"))?,
                fs: fs.to_owned(),
            }),
        }
    }

    /// Begins a change of the file system that is mounted at this place, of which `fs` is the type.
    ///
    /// # Errors
    /// [`HostError::Sys`].
    pub fn mounted(place: impl AsFd, fs: &str) -> Result<Self, HostError> {
        let flags = FsPickFlags::FSPICK_CLOEXEC | FsPickFlags::FSPICK_EMPTY_PATH;
        let fd = rustix::mount::fspick(place, c"", flags)
            .attempt(|| format!("take hold of a mounted {fs}"))?;
        Ok(Self { fd, fs: fs.to_owned() })
    }

    /// What the kernel said about the last failure, for the message.
    fn complain<T>(&self, result: rustix::io::Result<T>, what: &str) -> Result<T, HostError> {
        result.map_err(|e| {
            let said = self.log();
            let said = if said.is_empty() { said } else { format!(" ({said})") };
            HostError::Sys { what: format!("{what} of {}{said}", self.fs), source: e.into() }
        })
    }

    fn log(&self) -> String {
        let mut lines = Vec::new();
        let mut buffer = [0u8; 1024];
        // A context without a message answers ENODATA; a message never exceeds a page.
        while let Ok(n) = rustix::io::read(&self.fd, &mut buffer) {
            if n == 0 || lines.len() == 8 {
                break;
            }
            let text = String::from_utf8_lossy(buffer.get(..n).unwrap_or_default()).into_owned();
            lines.push(text.trim().trim_start_matches(['e', 'w', 'i']).trim().to_owned());
        }
        lines.join("; ")
    }

    /// Sets an option with a value, such as `source`.
    ///
    /// # Errors
    /// [`HostError::Sys`] with what the kernel said.
    pub fn set(self, key: &str, value: impl AsRef<std::ffi::OsStr>) -> Result<Self, HostError> {
        let value = value.as_ref();
        let result = rustix::mount::fsconfig_set_string(&self.fd, key, value);
        self.complain(result, &format!("set the option {key}={}", value.display()))?;
        Ok(self)
    }

    /// Sets an option without value, such as `ro` or `discard`.
    ///
    /// # Errors
    /// [`HostError::Sys`] with what the kernel said.
    pub fn flag(self, key: &str) -> Result<Self, HostError> {
        let result = rustix::mount::fsconfig_set_flag(&self.fd, key);
        self.complain(result, &format!("set the option {key}"))?;
        Ok(self)
    }

    /// Changes the options of one that is mounted to those that were set.
    ///
    /// # Errors
    /// [`HostError::Sys`] with what the kernel said.
    pub fn reconfigure(self) -> Result<(), HostError> {
        let result = rustix::mount::fsconfig_reconfigure(&self.fd);
        self.complain(result, "change the options")
    }

    /// Makes the file system and a detached mount of it with attributes of [`attr`].
    ///
    /// # Errors
    /// [`HostError::Sys`] with what the kernel said.
    pub fn mount(self, attributes: u64) -> Result<OwnedFd, HostError> {
        let result = rustix::mount::fsconfig_create(&self.fd);
        self.complain(result, "make the file system")?;
        let bits = u32::try_from(attributes).unwrap_or(u32::MAX);
        let flags = MountAttrFlags::from_bits_retain(bits);
        let result = rustix::mount::fsmount(&self.fd, FsMountFlags::FSMOUNT_CLOEXEC, flags);
        self.complain(result, "make a mount")
    }
}

/// Opens `path` as a place only (`O_PATH`), resolved below `dir`: `..` beyond it, absolute links,
/// magic links and, with `one_mount`, crossing into another mount are refused by the kernel.
///
/// # Errors
/// [`HostError::Sys`].
pub fn open_beneath(
    dir: impl AsFd,
    path: &Path,
    flags: OFlags,
    one_mount: bool,
) -> Result<OwnedFd, HostError> {
    let mut resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    if one_mount {
        resolve |= ResolveFlags::NO_XDEV;
    }
    rustix::fs::openat2(dir, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
        .attempt(|| format!("open {}", path.display()))
}

/// One line of `/proc/self/mountinfo`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountEntry {
    /// The mount's number.
    pub id: u64,
    /// The number of the mount it is on.
    pub parent: u64,
    /// The device's major and minor number.
    pub device: (u32, u32),
    /// Which directory of the file system it shows.
    pub root: PathBuf,
    /// Where it is.
    pub point: PathBuf,
    /// The file system's type.
    pub fs: String,
    /// The file system's source.
    pub source: PathBuf,
    /// Whether it has an id map.
    pub idmapped: bool,
}

/// Reads the text of a `mountinfo` file.
///
/// # Errors
/// [`HostError::Parse`] with the line that is not understood.
pub fn parse_mountinfo(text: &str) -> Result<Vec<MountEntry>, HostError> {
    text.lines()
        .map(|line| {
            parse_mount_line(line).ok_or_else(|| HostError::parse("read the mount table", line))
        })
        .collect()
}

fn parse_mount_line(line: &str) -> Option<MountEntry> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ');
    let id = left.next()?.parse().ok()?;
    let parent = left.next()?.parse().ok()?;
    let (major, minor) = left.next()?.split_once(':')?;
    let root = unescape(left.next()?);
    let point = unescape(left.next()?);
    let options = left.next()?;
    let mut right = right.split(' ');
    Some(MountEntry {
        id,
        parent,
        device: (major.parse().ok()?, minor.parse().ok()?),
        root,
        point,
        fs: right.next()?.to_owned(),
        source: unescape(right.next()?),
        idmapped: options.split(',').any(|o| o == "idmapped"),
    })
}

/// Undoes the kernel's octal escapes of blanks, tabs, newlines and backslashes in a mount table.
pub(crate) fn unescape(text: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = (first == b'\\')
            .then(|| tail.get(..3))
            .flatten()
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match octal {
            Some(byte) => {
                out.push(byte);
                rest = tail.get(3..).unwrap_or_default();
            }
            None => {
                out.push(first);
                rest = tail;
            }
        }
    }
    std::ffi::OsString::from_vec(out).into()
}

/// The mounts of this process's mount namespace, in the order they were made.
///
/// # Errors
/// [`HostError::Sys`] or [`HostError::Parse`].
pub fn mounts() -> Result<Vec<MountEntry>, HostError> {
    let mut text = Vec::new();
    File::open("/proc/self/mountinfo")
        .and_then(|mut f| f.read_to_end(&mut text))
        .attempt(|| "read the mount table".to_owned())?;
    parse_mountinfo(&String::from_utf8_lossy(&text))
}

/// The topmost mount at exactly this path, if any.
///
/// # Errors
/// [`HostError::Sys`] or [`HostError::Parse`].
pub fn mounted_at(path: &Path) -> Result<Option<MountEntry>, HostError> {
    Ok(mounts()?.into_iter().rev().find(|m| m.point == path))
}

/// The longest table of another process's mounts that is read.
const TABLE: u64 = 8 << 20;

/// The mounts of a process, as seen from its root. A table that is too long to be read is not understood.
///
/// # Errors
/// [`HostError::Sys`] or [`HostError::Parse`].
pub fn mounts_of(pid: u32) -> Result<Vec<MountEntry>, HostError> {
    let path = format!("/proc/{pid}/mountinfo");
    let (what, mut text) = (|| format!("read {path}"), Vec::new());
    File::open(&path).and_then(|f| f.take(TABLE).read_to_end(&mut text)).attempt(what)?;
    parse_mountinfo(&String::from_utf8_lossy(&text))
}

/// The device number of what is mounted at exactly this path, if anything is. Whoever provides the file system
/// is not asked, and may be dead.
///
/// # Errors
/// [`HostError::Sys`].
pub fn device_at(path: &Path) -> Result<Option<(u32, u32)>, HostError> {
    use rustix::fs::{StatxAttributes, StatxFlags, statx};
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
    let seen = match statx(CWD, path, flags, StatxFlags::empty()) {
        Ok(seen) => seen,
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(None),
        Err(e) => return Err(e).attempt(|| format!("look at {}", path.display())),
    };
    let root = seen.stx_attributes.contains(StatxAttributes::MOUNT_ROOT);
    Ok(root.then_some((seen.stx_dev_major, seen.stx_dev_minor)))
}

/// Whether a path is a mount point, without reading the whole table; a path that does not exist
/// is none.
///
/// # Errors
/// [`HostError::Sys`].
pub fn is_mount_point(path: &Path) -> Result<bool, HostError> {
    use rustix::fs::{StatxAttributes, StatxFlags, statx};
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    match statx(CWD, path, flags, StatxFlags::BASIC_STATS) {
        Ok(stat) => Ok(stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(false),
        Err(e) => Err(e).attempt(|| format!("look at {}", path.display())),
    }
}

/// Mounts in the classic way: for pseudo file systems in a namespace of one's own.
///
/// # Errors
/// [`HostError::Sys`].
pub fn mount_new(
    fs: &str,
    options: &[(&str, &str)],
    at: &Path,
    bits: u64,
) -> Result<(), HostError> {
    let mut context = FsContext::new(fs)?.set("source", fs)?;
    for (key, value) in options {
        context = if value.is_empty() { context.flag(key)? } else { context.set(key, value)? };
    }
    attach(context.mount(bits)?, at)
}

/// Makes `new_root`, a mount point, the root of this mount namespace and drops the old one.
///
/// # Errors
/// [`HostError::Sys`].
pub fn pivot_root(new_root: &OwnedFd) -> Result<(), HostError> {
    let what = || "change the root".to_owned();
    rustix::process::fchdir(new_root).attempt(what)?;
    // Stacking the old root on the new one needs no directory inside.
    rustix::process::pivot_root(c".", c".").attempt(what)?;
    rustix::mount::unmount(c".", UnmountFlags::DETACH).attempt(what)?;
    rustix::process::chdir(c"/").attempt(what)
}

/// `path` as the kernel takes it.
///
/// # Errors
/// [`HostError::Sys`] when it holds a NUL.
pub fn c_path(path: &Path) -> Result<CString, HostError> {
    use std::os::unix::ffi::OsStrExt;
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
        .attempt(|| format!("use the path {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_table() {
        let text = "27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard\n\
                    41 31 0:38 /a\\040b /sys/fs/c\\134x rw,idmapped,relatime shared:1 master:2 - cgroup2 none rw\n";
        let table = parse_mountinfo(text).expect("a good table");
        assert_eq!(table.len(), 2);
        assert_eq!(table[0].device, (254, 0));
        assert_eq!(table[1].root, Path::new("/a b"));
        assert_eq!(table[1].point, Path::new("/sys/fs/c\\x"));
        assert!(table[1].idmapped && !table[0].idmapped);
        assert_eq!(table[1].fs, "cgroup2");
        assert!(parse_mountinfo("nonsense\n").is_err());
        assert!(parse_mountinfo("1 2 3:x / / rw - a b c\n").is_err());
    }

    #[test]
    fn this_machine_has_a_root() {
        assert!(mounted_at(Path::new("/")).expect("a table").is_some());
        assert!(is_mount_point(Path::new("/")).expect("a root"));
        assert!(!is_mount_point(Path::new("/nowhere/at/all")).expect("no such path"));
        let proc = mounted_at(Path::new("/proc")).expect("a table").map(|entry| entry.device);
        assert_eq!(device_at(Path::new("/proc")).expect("looked at"), proc);
        assert_eq!(device_at(Path::new("/proc/self")).expect("looked at"), None);
        let mounts = mounts_of(std::process::id()).expect("a table");
        assert!(mounts.iter().any(|entry| entry.point == Path::new("/")));
    }
}
