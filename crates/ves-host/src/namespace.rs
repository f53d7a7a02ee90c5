//! Namespaces: enter, pin, and the identity a process has in them.
//!
//! Only a process with a single thread may enter namespaces here; a thread made for it may enter
//! some. Never here: making a process in new ones, what is mounted or run.

#![allow(unsafe_code, reason = "process control that only a single thread may do")]

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::process::{DumpableBehavior, Gid, Pid, Signal, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets, ThreadNameSpaceType};
use serde::{Deserialize, Serialize};

use crate::error::{Attempt, HostError};

/// A kind of namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Namespace {
    /// User and group ids, capabilities.
    User,
    /// Process ids.
    Pid,
    /// Mounts.
    Mount,
    /// Network.
    Net,
    /// System V IPC and POSIX message queues.
    Ipc,
    /// Host name.
    Uts,
    /// Control groups.
    Cgroup,
}

impl Namespace {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::User, Self::Pid, Self::Mount, Self::Net, Self::Ipc, Self::Uts, Self::Cgroup];

    pub(crate) const fn flag(self) -> u32 {
        // The constants of libc are signed; the bits are what counts.
        (match self {
            Self::User => libc::CLONE_NEWUSER,
            Self::Pid => libc::CLONE_NEWPID,
            Self::Mount => libc::CLONE_NEWNS,
            Self::Net => libc::CLONE_NEWNET,
            Self::Ipc => libc::CLONE_NEWIPC,
            Self::Uts => libc::CLONE_NEWUTS,
            Self::Cgroup => libc::CLONE_NEWCGROUP,
        })
        .cast_unsigned()
    }
}

/// Becomes user and group 0 of this user namespace, without further groups.
///
/// # Errors
/// [`HostError::Sys`].
pub fn become_root() -> Result<(), HostError> {
    let what = || "become root of the container".to_owned();
    rustix::thread::set_thread_groups(&[]).attempt(what)?;
    rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT).attempt(what)?;
    rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT).attempt(what)
}

/// Moves this process to a new control group namespace whose root is the group it is in.
///
/// # Errors
/// [`HostError::Sys`].
pub fn unshare_cgroup() -> Result<(), HostError> {
    // SAFETY: a control group namespace concerns neither memory nor descriptors.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWCGROUP) }
        .attempt(|| "make a control group namespace".to_owned())
}

/// Enters all namespaces of a process, its root and working directory too. Children, not this
/// process, are in its process id namespace.
///
/// # Errors
/// [`HostError::Sys`].
pub fn enter(pidfd: impl AsFd) -> Result<(), HostError> {
    let mut all = ThreadNameSpaceType::USER
        | ThreadNameSpaceType::PROCESS_ID
        | ThreadNameSpaceType::MOUNT
        | ThreadNameSpaceType::NETWORK
        | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
        | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
        | ThreadNameSpaceType::CONTROL_GROUP;
    // One that was restored has its own time. A kernel without them refuses the kind.
    if Path::new("/proc/self/ns/time").exists() {
        all |= ThreadNameSpaceType::TIME;
    }
    rustix::thread::move_into_thread_name_spaces(pidfd.as_fd(), all)
        .attempt(|| "enter the namespaces of the container".to_owned())
}

/// Pins a process's network namespace at a file, which is made.
///
/// # Errors
/// [`HostError::Sys`].
pub fn pin_net(pid: Pid, at: &Path) -> Result<(), HostError> {
    let what = || format!("pin the network namespace at {}", at.display());
    OpenOptions::new().create(true).truncate(false).write(true).open(at).attempt(what)?;
    rustix::mount::mount_bind(format!("/proc/{}/ns/net", pid.as_raw_pid()), at).attempt(what)
}

/// Removes a pin and its file; one that is not there is no failure.
///
/// # Errors
/// [`HostError::Sys`].
pub fn unpin(at: &Path) -> Result<(), HostError> {
    loop {
        match crate::mount::node::unmount(at, true) {
            Ok(()) => {}
            Err(e) if e.is(rustix::io::Errno::INVAL) || e.is(rustix::io::Errno::NOENT) => break,
            Err(e) => return Err(e),
        }
    }
    crate::file::remove_if_exists(at)
}

/// Hides this process's memory, descriptors and executable from everybody but the node's root.
///
/// # Errors
/// [`HostError::Sys`].
pub fn hide() -> Result<(), HostError> {
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .attempt(|| "hide the process".to_owned())
}

/// Takes away the words that this process was started with, which everybody who sees it can read, hidden or
/// not.
///
/// # Errors
/// [`HostError::Sys`], [`HostError::Parse`].
pub fn hide_words() -> Result<(), HostError> {
    let what = || "hide the words of the process".to_owned();
    let stat = std::fs::read_to_string("/proc/self/stat").attempt(what)?;
    // Fields 48 and 49, of which the third follows the name.
    let fields = stat.rsplit_once(')').map(|(_, rest)| rest.split_ascii_whitespace());
    let mut places = fields.into_iter().flatten().skip(45).map(|n| n.parse::<u64>().ok());
    let (Some(Some(from)), Some(Some(to))) = (places.next(), places.next()) else {
        return Err(HostError::parse(what(), &stat));
    };
    let blank = vec![0; usize::try_from(to.saturating_sub(from)).unwrap_or_default()];
    // By the kernel, as no reference leads there that might be written through.
    let memory = OpenOptions::new().write(true).open("/proc/self/mem").attempt(what)?;
    memory.write_all_at(&blank, from).attempt(what)
}

/// Makes `fd` the descriptor number `at`, replacing what was there; it survives exec.
///
/// # Errors
/// [`HostError::Sys`].
pub fn place(fd: impl AsFd, at: i32) -> Result<(), HostError> {
    // SAFETY: the source is borrowed for the call; the target is one of the standard three, which
    // this single-threaded process replaces on purpose and which nobody owns as an object.
    let result = unsafe {
        if fd.as_fd().as_raw_fd() == at {
            libc::fcntl(at, libc::F_SETFD, 0)
        } else {
            libc::dup2(fd.as_fd().as_raw_fd(), at)
        }
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
        .attempt(|| format!("place descriptor {at}"))
}

/// Takes ownership of an inherited descriptor, which is closed on exec from now on.
///
/// # Errors
/// [`HostError::Sys`] when it is not open.
pub fn inherit(number: i32) -> Result<OwnedFd, HostError> {
    // SAFETY: duplicating any number is harmless: one that is not open is refused.
    let fd = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) };
    if fd < 0 {
        return Err(io::Error::last_os_error())
            .attempt(|| format!("take the inherited descriptor {number}"));
    }
    // SAFETY: the kernel has just made it, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Gives up every capability not in `keep`, for all that this process will ever execute, and for itself but
/// for those in `until_exec`.
///
/// # Errors
/// [`HostError::Sys`].
pub fn keep_capabilities(keep: CapabilitySet, until_exec: CapabilitySet) -> Result<(), HostError> {
    let what = || "drop capabilities".to_owned();
    rustix::thread::clear_ambient_capability_set().attempt(what)?;
    for bit in 0..64 {
        let one = CapabilitySet::from_bits_retain(1 << bit);
        if keep.contains(one) {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(one) {
            Ok(()) => {}
            // Beyond the last one this kernel has.
            Err(rustix::io::Errno::INVAL) => break,
            Err(e) => return Err(e).attempt(what),
        }
    }
    let now = rustix::thread::capabilities(None).attempt(what)?;
    let kept = now.permitted & (keep | until_exec);
    let sets =
        CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets).attempt(what)
}

/// Replaces this process by a program. Returns only when that fails.
pub fn exec(
    path: &std::ffi::CStr,
    argv: &[std::ffi::CString],
    env: &[std::ffi::CString],
) -> io::Error {
    let pointers = |list: &[std::ffi::CString]| -> Vec<*const libc::c_char> {
        list.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (argv, env) = (pointers(argv), pointers(env));
    // SAFETY: path, both vectors, which end with null, and the strings they point to live until
    // the call returns, if it does.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

/// A signal by its number, real-time ones too.
pub fn signal(number: i32) -> Option<Signal> {
    if !(1..=64).contains(&number) {
        return None;
    }
    // SAFETY: the number is one of a signal; those that the C library reserves for itself do no
    // harm when sent to another process.
    Some(unsafe { Signal::from_raw_unchecked(number) })
}
