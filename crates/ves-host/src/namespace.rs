//! Namespaces: create, enter, pin, and the identity a process has in them.
//!
//! Only a process with a single thread may create or enter namespaces here, so that the child is a
//! whole process and not a fork of one thread among others. Never here: what is mounted or run.

#![allow(unsafe_code, reason = "clone3 and process control that only a single thread may do")]

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

use rustix::process::{DumpableBehavior, Gid, Pid, Signal, Uid, WaitIdOptions, WaitIdStatus};
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

    const fn flag(self) -> u32 {
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

/// A child process.
#[derive(Debug)]
pub struct Child {
    /// Its process id, valid until it is reaped.
    pub pid: Pid,
    /// It, whatever becomes of the number.
    pub pidfd: OwnedFd,
}

/// Which side of a [`fork`] this is.
#[derive(Debug)]
pub enum Forked {
    /// The caller.
    Parent(Child),
    /// The new process.
    Child,
}

/// How a child is made.
#[derive(Debug, Default, Clone, Copy)]
pub struct How<'a> {
    /// New namespaces it gets.
    pub new: &'a [Namespace],
    /// A version 2 control group it is born in.
    pub group: Option<BorrowedFd<'a>>,
    /// Whether it becomes a child of the caller's parent.
    pub sibling: bool,
}

/// Whether this process has but one thread.
pub fn single_threaded() -> bool {
    // SAFETY: this asks for nothing that a process with one thread shares with anybody, so it
    // changes nothing; with more threads the kernel refuses.
    unsafe { libc::unshare(libc::CLONE_THREAD) == 0 }
}

/// Does `work` on a thread made for it, which may enter namespaces as it likes: it ends with the work,
/// and all others stay where they are. A panic of the work is the caller's.
///
/// # Errors
/// [`HostError::Sys`]; what `work` fails with.
pub(crate) fn on_own_thread<T: Send>(
    name: &str,
    work: impl FnOnce() -> Result<T, HostError> + Send,
) -> Result<T, HostError> {
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name(name.to_owned())
            .stack_size(128 * 1024)
            .spawn_scoped(scope, work)
            .attempt(|| "start a thread".to_owned())?
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Makes a child that is a copy of this process, by clone3. It holds copies of all descriptors.
///
/// # Errors
/// [`HostError::Sys`] also when this process has several threads.
pub fn fork(how: How<'_>) -> Result<Forked, HostError> {
    let what = || {
        let place = if how.new.is_empty() { "" } else { " in new namespaces" };
        let group = if how.group.is_some() { " in a control group" } else { "" };
        format!("make a child process{place}{group}")
    };
    if !single_threaded() {
        return Err(io::Error::other("the process has several threads")).attempt(what);
    }
    let mut pidfd: i32 = -1;
    let mut flags = how.new.iter().fold(0, |bits, n| bits | u64::from(n.flag()));
    flags |= u64::from(libc::CLONE_PIDFD.cast_unsigned());
    if how.group.is_some() {
        flags |= CLONE_INTO_CGROUP;
    }
    // A child of the parent ends with the signal that the caller itself would end with.
    let exit_signal = if how.sibling {
        flags |= u64::from(libc::CLONE_PARENT.cast_unsigned());
        0
    } else {
        u64::from(libc::SIGCHLD.cast_unsigned())
    };
    let args = libc::clone_args {
        flags,
        pidfd: (&raw mut pidfd).expose_provenance() as u64,
        child_tid: 0,
        parent_tid: 0,
        exit_signal,
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: how.group.map_or(0, |g| u64::try_from(g.as_raw_fd()).unwrap_or(u64::MAX)),
    };
    // SAFETY: without CLONE_VM the child has memory of its own and runs on a copy of this stack; the
    // process has one thread, so no lock is held by a thread that the child lacks. `args` and the
    // place for the pidfd live for the call.
    let pid =
        unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>()) };
    if pid < 0 {
        return Err(io::Error::last_os_error()).attempt(what);
    }
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        return Ok(Forked::Child);
    };
    // SAFETY: the kernel stored a new descriptor there, and nobody else knows it.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Forked::Parent(Child { pid, pidfd }))
}

/// The flag is above 32 bits, where libc's type does not reach.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Ends this process at once, without running what the parent registered for its own end.
pub fn leave(status: i32) -> ! {
    // SAFETY: `_exit` has no preconditions.
    unsafe { libc::_exit(status) }
}

/// [`fork`] with the effective user id `user`, who so becomes the owner and creator of the child's
/// user namespace; all else of this process, capabilities too, is as before and after.
///
/// # Errors
/// [`HostError::Sys`].
pub fn fork_as(user: u32, how: How<'_>) -> Result<Forked, HostError> {
    let what = || format!("take the identity of user {user}");
    let before = rustix::thread::capabilities(None).attempt(what)?;
    set_uids(Uid::ROOT, Uid::from_raw(user)).attempt(what)?;
    // Leaving effective user 0 clears the effective set, not the permitted one.
    rustix::thread::set_capabilities(None, before).attempt(what)?;
    let result = fork(how);
    if matches!(result, Ok(Forked::Child)) {
        // Without a map there is no user 0 to return to; it takes its identity later.
        return result;
    }
    set_uids(Uid::ROOT, Uid::ROOT).attempt(what)?;
    rustix::thread::set_capabilities(None, before).attempt(what)?;
    result
}

fn set_uids(real: Uid, effective: Uid) -> rustix::io::Result<()> {
    rustix::thread::set_thread_res_uid(real, effective, real)
}

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
    let all = ThreadNameSpaceType::USER
        | ThreadNameSpaceType::PROCESS_ID
        | ThreadNameSpaceType::MOUNT
        | ThreadNameSpaceType::NETWORK
        | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
        | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
        | ThreadNameSpaceType::CONTROL_GROUP;
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

/// Makes this process die with its parent. Call it after the last change of identity, which
/// forgets it.
///
/// # Errors
/// [`HostError::Sys`].
pub fn die_with_parent() -> Result<(), HostError> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .attempt(|| "ask to die with the monitor".to_owned())
}

/// Hides this process's memory, descriptors and executable from everybody but the node's root.
///
/// # Errors
/// [`HostError::Sys`].
pub fn hide() -> Result<(), HostError> {
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .attempt(|| "hide the process".to_owned())
}

/// Closes every descriptor from `first` on, except those in `keep`.
///
/// # Errors
/// [`HostError::Sys`].
pub fn close_all(first: u32, keep: &[BorrowedFd<'_>]) -> Result<(), HostError> {
    let what = || "close inherited descriptors".to_owned();
    let mut kept: Vec<u32> =
        keep.iter().filter_map(|fd| u32::try_from(fd.as_raw_fd()).ok()).collect();
    kept.sort_unstable();
    let mut from = first;
    for fd in kept.into_iter().chain([u32::MAX]) {
        if fd > from || fd == u32::MAX {
            let to = if fd == u32::MAX { fd } else { fd - 1 };
            // SAFETY: every descriptor in the range belongs to nobody who goes on using it: the
            // caller names those it keeps, and the process was started for this purpose alone.
            let result = unsafe { libc::syscall(libc::SYS_close_range, from, to, 0) };
            if result != 0 {
                return Err(io::Error::last_os_error()).attempt(what);
            }
        }
        from = from.max(fd.saturating_add(1));
    }
    Ok(())
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

/// Gives up every capability not in `keep`, for this process and all it will ever execute.
///
/// # Errors
/// [`HostError::Sys`].
pub fn keep_capabilities(keep: CapabilitySet) -> Result<(), HostError> {
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
    let kept = now.permitted & keep;
    let sets =
        CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets).attempt(what)
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// It exited with this status.
    Code(u32),
    /// It was killed by this signal.
    Signal(u32),
}

/// How a child ended, if it has; it is reaped then.
///
/// # Errors
/// [`HostError::Sys`].
pub fn reap(child: &Child) -> Result<Option<Ended>, HostError> {
    let wait = |options| {
        rustix::process::waitid(rustix::process::WaitId::PidFd(child.pidfd.as_fd()), options)
    };
    // A sibling made with exit signal 0 is waited for by __WALL only, which waitid knows too.
    let all = WaitIdOptions::from_bits_retain(libc::__WALL.cast_unsigned());
    let status = wait(WaitIdOptions::EXITED | WaitIdOptions::NOHANG | all)
        .attempt(|| format!("wait for process {}", child.pid.as_raw_pid()))?;
    Ok(status.map(|s| ended(&s)))
}

fn ended(status: &WaitIdStatus) -> Ended {
    let number = |n: Option<i32>| n.and_then(|n| u32::try_from(n).ok());
    match (number(status.exit_status()), number(status.terminating_signal())) {
        (Some(code), _) => Ended::Code(code),
        (None, signal) => Ended::Signal(signal.unwrap_or_default()),
    }
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

/// Gives back to all signals their default actions and unblocks them.
pub fn reset_signals() {
    // SAFETY: default actions run no code of ours; the kernel's structure of an action is at most
    // four words, and zero in all of them is the default; the set is initialised by sigemptyset.
    unsafe {
        // By the system call, as the C library keeps two signals to itself, which would stay
        // ignored where whoever started the daemon ignored them.
        let default: [u64; 4] = [0; 4];
        for signal in 1..65 {
            let none = std::ptr::null_mut::<u64>();
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), none, 8usize);
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
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
