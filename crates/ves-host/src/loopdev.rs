//! Loop devices: attach, detach, grow, find by backing file.
//!
//! A device is known by its number and recognised by the device and inode number of the file behind
//! it, never by a path, which may have been renamed or belong to another file by now.

#![allow(unsafe_code, reason = "the loop driver is spoken to by ioctl")]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::PathBuf;

use crate::error::{Attempt, HostError};

const LOOP_CLR_FD: libc::Ioctl = 0x4C01;
const LOOP_SET_STATUS64: libc::Ioctl = 0x4C04;
const LOOP_GET_STATUS64: libc::Ioctl = 0x4C05;
const LOOP_SET_CAPACITY: libc::Ioctl = 0x4C07;
const LOOP_CONFIGURE: libc::Ioctl = 0x4C0A;
const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4C82;

const LO_FLAGS_AUTOCLEAR: u32 = 4;
const LO_FLAGS_DIRECT_IO: u32 = 16;

/// `struct loop_info64` of `linux/loop.h`.
#[repr(C)]
#[derive(Clone, Copy)]
struct LoopInfo {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

impl LoopInfo {
    const EMPTY: Self = Self {
        device: 0,
        inode: 0,
        rdevice: 0,
        offset: 0,
        size_limit: 0,
        number: 0,
        encrypt_type: 0,
        encrypt_key_size: 0,
        flags: 0,
        file_name: [0; 64],
        crypt_name: [0; 64],
        encrypt_key: [0; 32],
        init: [0; 2],
    };
}

/// `struct loop_config` of `linux/loop.h`.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

/// What identifies the file behind a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileId {
    /// The device number of its file system.
    pub device: u64,
    /// Its inode number.
    pub inode: u64,
}

impl FileId {
    /// The identity of an open file.
    ///
    /// # Errors
    /// [`HostError::Sys`].
    pub fn of(file: &File) -> Result<Self, HostError> {
        let meta = file.metadata().attempt(|| "look at the backing file".to_owned())?;
        Ok(Self { device: meta.dev(), inode: meta.ino() })
    }
}

/// The block size of the devices made here; as ext4's and xfs's, so that direct I/O always aligns.
pub const BLOCK: u32 = 4096;

/// The path of a device.
pub fn path(number: u32) -> PathBuf {
    format!("/dev/loop{number}").into()
}

fn open(number: u32, write: bool) -> Result<File, HostError> {
    let path = path(number);
    let what = || format!("open {}", path.display());
    let file = OpenOptions::new()
        .read(true)
        .write(write)
        .custom_flags(libc::O_CLOEXEC | libc::O_NONBLOCK)
        .open(&path)
        .attempt(what)?;
    if file.metadata().attempt(what)?.file_type().is_block_device() {
        Ok(file)
    } else {
        Err(io::Error::from_raw_os_error(libc::ENOTBLK)).attempt(what)
    }
}

/// An ioctl without argument.
fn plain(device: &File, request: libc::Ioctl) -> io::Result<i32> {
    // SAFETY: these requests take no pointer; the descriptor is borrowed for the call.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), request, 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn status(device: &File) -> io::Result<LoopInfo> {
    let mut info = LoopInfo::EMPTY;
    // SAFETY: the kernel fills `info`, which has the layout of its structure and lives through the
    // call; all bit patterns are valid for it.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_GET_STATUS64, &raw mut info) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(info) }
}

/// Puts a file behind a free loop device and answers its number. The device stays until
/// [`detach`], whoever dies.
///
/// With `direct`, the file's own page cache is not used, since a file system on the device has one.
///
/// # Errors
/// [`HostError::Lacks`] without a loop driver, else [`HostError::Sys`].
pub fn attach(file: &File, direct: bool) -> Result<u32, HostError> {
    let control =
        OpenOptions::new().read(true).write(true).open("/dev/loop-control").map_err(|e| {
            HostError::Lacks {
                feature: "loop devices".to_owned(),
                why: format!("/dev/loop-control does not open ({e}); load the module loop"),
            }
        })?;
    let fd = u32::try_from(file.as_fd().as_raw_fd()).unwrap_or(u32::MAX);
    let flags = if direct { LO_FLAGS_DIRECT_IO } else { 0 };
    let mut config = LoopConfig {
        fd,
        block_size: BLOCK,
        info: LoopInfo { flags, ..LoopInfo::EMPTY },
        reserved: [0; 8],
    };
    // Another program may take the free device first; each round then offers another one.
    for _ in 0..64 {
        let number =
            plain(&control, LOOP_CTL_GET_FREE).attempt(|| "find a free loop device".to_owned())?;
        let number = u32::try_from(number).unwrap_or_default();
        let device = open(number, true)?;
        // SAFETY: `config` has the layout of the kernel's structure and lives through the call;
        // the descriptor in it is open.
        let result = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, &raw mut config) };
        match if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) } {
            Ok(()) => return Ok(number),
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) => {}
            Err(e) => return Err(e).attempt(|| format!("attach a file to loop{number}")),
        }
    }
    Err(io::Error::from_raw_os_error(libc::EBUSY)).attempt(|| "find a free loop device".to_owned())
}

/// A device that has a file.
#[derive(Debug)]
pub struct Attached {
    /// Which.
    pub number: u32,
    /// The file behind it.
    pub file: FileId,
    /// The device's number as `st_rdev` gives it.
    pub device: u64,
    /// Its size in bytes.
    pub bytes: u64,
    /// Whether it goes with its last user, having been detached while it was used.
    pub leaving: bool,
    /// The device, opened for reading.
    pub open: File,
}

/// A device as it is, or `None` where it has no file.
///
/// # Errors
/// [`HostError::Sys`].
pub fn look(number: u32) -> Result<Option<Attached>, HostError> {
    let what = || format!("ask loop{number} for its file");
    let open = match open(number, false) {
        Err(e) if e.is(rustix::io::Errno::NOENT) || e.is(rustix::io::Errno::NXIO) => {
            return Ok(None);
        }
        other => other?,
    };
    let info = match status(&open) {
        Err(e) if e.raw_os_error() == Some(libc::ENXIO) => return Ok(None),
        other => other.attempt(what)?,
    };
    let device = open.metadata().attempt(what)?.rdev();
    let bytes = rustix::fs::seek(&open, rustix::fs::SeekFrom::End(0)).attempt(what)?;
    let file = FileId { device: info.device, inode: info.inode };
    let leaving = info.flags & LO_FLAGS_AUTOCLEAR != 0;
    Ok(Some(Attached { number, file, device, bytes, leaving, open }))
}

/// The file behind a device, or `None` where it has none.
///
/// # Errors
/// [`HostError::Sys`].
pub fn backing(number: u32) -> Result<Option<FileId>, HostError> {
    Ok(look(number)?.map(|device| device.file))
}

/// Every device that shows something, with its size in KiB, by number: the kernel's table of
/// partitions has those of some size, which spares asking each that exists.
///
/// # Errors
/// [`HostError::Sys`].
pub fn attached() -> Result<Vec<(u32, u64)>, HostError> {
    let path = "/proc/partitions";
    let text = std::fs::read_to_string(path).attempt(|| format!("read {path}"))?;
    Ok(parse_partitions(&text))
}

/// The loop devices in the kernel's table of partitions, with their sizes in KiB.
fn parse_partitions(text: &str) -> Vec<(u32, u64)> {
    let parse = |line: &str| {
        let mut words = line.split_whitespace().skip(2);
        let (size, name) = (words.next()?, words.next()?);
        // Not a partition of one, such as "loop0p1".
        Some((name.strip_prefix("loop")?.parse().ok()?, size.parse().ok()?))
    };
    let mut found: Vec<_> = text.lines().filter_map(parse).collect();
    found.sort_unstable();
    found
}

/// Every device that has a file, with that file.
///
/// # Errors
/// [`HostError::Sys`].
pub fn all() -> Result<Vec<(u32, FileId)>, HostError> {
    let mut found = Vec::new();
    for (number, _) in attached()? {
        // It may have gone meanwhile.
        found.extend(backing(number)?.map(|file| (number, file)));
    }
    Ok(found)
}

/// Lets the device see that its file has grown.
///
/// # Errors
/// [`HostError::Sys`].
pub fn refresh_size(number: u32) -> Result<(), HostError> {
    let what = || format!("refresh the size of loop{number}");
    plain(&open(number, true)?, LOOP_SET_CAPACITY).map(drop).attempt(what)
}

/// The device's number as `st_rdev` gives it.
///
/// # Errors
/// [`HostError::Sys`].
pub fn device_number(number: u32) -> Result<u64, HostError> {
    let path = path(number);
    Ok(std::fs::metadata(&path).attempt(|| format!("look at {}", path.display()))?.rdev())
}

/// Whether a file system, in whatever mount namespace, or another exclusive user has the device.
///
/// # Errors
/// [`HostError::Sys`].
pub fn held(number: u32) -> Result<bool, HostError> {
    let path = path(number);
    match OpenOptions::new().read(true).custom_flags(libc::O_EXCL | libc::O_CLOEXEC).open(&path) {
        Ok(_) => Ok(false),
        Err(e) if e.raw_os_error() == Some(libc::EBUSY) => Ok(true),
        Err(e) => Err(e).attempt(|| format!("open {} for itself", path.display())),
    }
}

/// Lets a device stay that was detached while it was used. It must be held open, or might go meanwhile.
///
/// # Errors
/// [`HostError::Sys`].
pub fn keep(device: &Attached) -> Result<(), HostError> {
    let what = || format!("keep loop{}", device.number);
    let open = open(device.number, true)?;
    let mut info = status(&open).attempt(what)?;
    info.flags &= !LO_FLAGS_AUTOCLEAR;
    // SAFETY: the kernel reads `info`, which has the layout of its structure and lives through the call.
    let result = unsafe { libc::ioctl(open.as_raw_fd(), LOOP_SET_STATUS64, &raw const info) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }.attempt(what)
}

/// Takes the file away from a device. One that is in use goes when its last user does, until then it is
/// leaving; [`held`] tells before.
///
/// # Errors
/// [`HostError::Sys`].
pub fn detach(number: u32) -> Result<(), HostError> {
    match plain(&open(number, true)?, LOOP_CLR_FD) {
        Err(e) if e.raw_os_error() == Some(libc::ENXIO) => Ok(()),
        other => other.map(drop).attempt(|| format!("detach loop{number}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attached_devices_stand_in_the_table_of_partitions() {
        let text = "major minor  #blocks  name\n\n   7       12     102400 loop12\n   7        0   \
                    51674112 loop0\n 259        1       1024 loop0p1\n 254        0  268435456 vda\n";
        assert_eq!(parse_partitions(text), [(0, 51_674_112), (12, 102_400)]);
        assert_eq!(parse_partitions(""), []);
    }
}
