//! Children that are copies of this process: made, bound to their parent's life, reaped.
//!
//! ```text
//! parent ─ signals blocked ─ clone ─ signals as before ─▶ goes on
//!                              └─▶ child ─ closes ─ bound ─ default signals ─▶ its work ─▶ _exit
//! ```
//!
//! A copy has every descriptor of its original: another child's end of a pipe, whose reader then
//! waits for ever, and the lock of a daemon, which then outlives it. Closing on exec helps nobody who
//! does not execute. So every child first closes all that it was not given, in this file, where alone
//! processes are copied. Never here: code that runs in the copy of a process with several threads,
//! where any lock may be held by a thread that the copy lacks; such a copy sleeps.

#![allow(unsafe_code, reason = "clone, and what a child does before all else")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, Uid, WaitId, WaitIdOptions, WaitIdStatus};
use serde::{Deserialize, Serialize};

use crate::error::{Attempt, HostError};
use crate::namespace::Namespace;

/// A child process.
#[derive(Debug)]
pub struct Child {
    /// Its process id, valid until it is reaped.
    pub pid: Pid,
    /// It, whatever becomes of the number.
    pub pidfd: OwnedFd,
}

/// How long a child may live.
///
/// What binds it is the kernel's signal at the end of the thread that made it (`PR_SET_PDEATHSIG`): a
/// pipe or a descriptor of the parent would end only a child that looks at it, not one that waits for
/// something else. The signal has two weaknesses. It comes when the thread ends, not the process; so
/// whoever makes a child here is the only thread of its process, or waits for the child's end. And a
/// change of identity forgets it; who changes it asks again, by [`die_with_parent`].
#[derive(Debug, Default, Clone, Copy)]
pub enum Life<'a> {
    /// It is killed when its parent ends.
    #[default]
    Bound,
    /// The same in another process id namespace, where its parent has no number by which a child sees
    /// that it was too late to ask: of this pipe or channel, only the parent has the other end.
    BoundBy(BorrowedFd<'a>),
    /// It goes on, for this reason.
    Free(Why),
}

impl Child {
    /// The process of a descriptor that somebody sent, with its number here; `None` where it is gone.
    ///
    /// # Errors
    /// [`HostError::Sys`], [`HostError::Parse`].
    pub fn received(pidfd: OwnedFd) -> Result<Option<Self>, HostError> {
        let path = format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd());
        let what = || "find the number of a process".to_owned();
        let text = std::fs::read_to_string(&path).attempt(what)?;
        let number = text.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok());
        let number: i32 = number.ok_or_else(|| HostError::parse(what(), &text))?;
        // -1 is said of one that was reaped, 0 of one that has no number here.
        Ok(Pid::from_raw(number.max(0)).map(|pid| Self { pid, pidfd }))
    }
}

/// Why a child outlives its parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Its parent does nothing but start it, and whoever asked for that may be killed and come back.
    Background,
    /// It is a command, which goes on when nobody listens to it any more.
    Command,
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
    /// Descriptors it keeps; the standard three it has anyway.
    pub keep: &'a [BorrowedFd<'a>],
    /// How long it may live.
    pub life: Life<'a>,
}

/// Makes a child that does `work` and exits with the status that this answers. It has nothing of this
/// process but its memory, the standard three and the descriptors it keeps; signals are as a program
/// finds them when it begins.
///
/// # Errors
/// [`HostError::Sys`] also when this process has several threads.
pub fn fork(how: How<'_>, work: impl FnOnce() -> i32) -> Result<Child, HostError> {
    let what = || {
        let place = if how.new.is_empty() { "" } else { " in new namespaces" };
        let group = if how.group.is_some() { " in a control group" } else { "" };
        format!("make a child process{place}{group}")
    };
    if !alone() {
        return Err(io::Error::other("the process has several threads")).attempt(what);
    }
    let work = || {
        // As Rust's library has it, which tells of a broken pipe by an error.
        // SAFETY: to ignore a signal runs no code.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
        work()
    };
    copy(how, 3, work).attempt(what)
}

/// [`fork`] with the effective user id `user`, who so becomes the owner and creator of the child's
/// user namespace; all else of this process, capabilities too, is as before and after.
///
/// # Errors
/// [`HostError::Sys`].
pub fn fork_as(user: u32, how: How<'_>, work: impl FnOnce() -> i32) -> Result<Child, HostError> {
    let what = || format!("take the identity of user {user}");
    let set = |user| rustix::thread::set_thread_res_uid(Uid::ROOT, user, Uid::ROOT);
    let before = rustix::thread::capabilities(None).attempt(what)?;
    set(Uid::from_raw(user)).attempt(what)?;
    // Leaving effective user 0 clears the effective set, not the permitted one.
    rustix::thread::set_capabilities(None, before).attempt(what)?;
    // Without a map the child has no user 0 to return to; it takes its identity later.
    let child = fork(how, work);
    set(Uid::ROOT).attempt(what)?;
    rustix::thread::set_capabilities(None, before).attempt(what)?;
    child
}

/// Does `work` beside a child in new namespaces, which holds nothing, does nothing, and is gone
/// afterwards. A process with several threads may do that.
pub(crate) fn beside<T>(
    new: &[Namespace],
    work: impl FnOnce(Pid) -> Result<T, HostError>,
) -> Result<T, HostError> {
    struct Idle(Child);
    impl Drop for Idle {
        fn drop(&mut self) {
            // Both fail where it is gone: somebody may have killed it, or made the kernel reap all.
            rustix::process::pidfd_send_signal(&self.0.pidfd, Signal::KILL).ok();
            wait(&self.0).ok();
        }
    }
    let sleep = || loop {
        // SAFETY: `pause` has no preconditions; only a signal that ends the child ends it.
        unsafe { libc::pause() };
    };
    let idle = Idle(
        copy(How { new, ..How::default() }, 0, sleep)
            .attempt(|| "make a process in new namespaces".to_owned())?,
    );
    work(idle.0.pid)
}

/// Copies this process; in the copy this never returns. Until `work` begins the copy makes system
/// calls only, and allocates nothing. It keeps descriptors below `first`.
fn copy(how: How<'_>, first: u32, work: impl FnOnce() -> i32) -> io::Result<Child> {
    let line = match how.life {
        Life::BoundBy(line) => Some(line),
        Life::Bound | Life::Free(_) => None,
    };
    let others = gaps(first, how.keep.iter().copied().chain(line));
    let parent =
        if how.sibling { rustix::process::getppid() } else { Some(rustix::process::getpid()) };
    // Not even for a moment may a handler of the parent's run in the child: it would write to what
    // the two still share.
    let before = block_signals();
    let child = match clone(&how) {
        Ok(Some(child)) => Ok(child),
        Ok(None) => {
            if close(&others).is_err() || bind(how.life, parent).is_err() {
                leave(1);
            }
            reset_signals();
            // Nothing may unwind into what is the parent's.
            leave(catch_unwind(AssertUnwindSafe(work)).unwrap_or(101))
        }
        Err(e) => Err(e),
    };
    // SAFETY: the set is the one that the C library filled.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut()) };
    child
}

/// The system call; answers nothing in the child.
fn clone(how: &How<'_>) -> io::Result<Option<Child>> {
    let mut pidfd: i32 = -1;
    let mut flags = how.new.iter().fold(0, |bits, n| bits | n.flag());
    flags |= libc::CLONE_PIDFD.cast_unsigned();
    // A child of the parent ends with the signal that the caller itself would end with.
    let exit_signal = if how.sibling {
        flags |= libc::CLONE_PARENT.cast_unsigned();
        0
    } else {
        libc::SIGCHLD.cast_unsigned()
    };
    let place = &raw mut pidfd;
    let pid = if let Some(group) = how.group {
        let args = libc::clone_args {
            flags: u64::from(flags) | CLONE_INTO_CGROUP,
            pidfd: place.expose_provenance() as u64,
            child_tid: 0,
            parent_tid: 0,
            exit_signal: exit_signal.into(),
            stack: 0,
            stack_size: 0,
            tls: 0,
            set_tid: 0,
            set_tid_size: 0,
            cgroup: u64::try_from(group.as_raw_fd()).unwrap_or(u64::MAX),
        };
        let size = size_of::<libc::clone_args>();
        // SAFETY: without CLONE_VM the child has memory of its own and runs on a copy of this stack;
        // what it may do is the caller's care. `args` and the place for the pidfd live for the call.
        unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size) }
    } else {
        // The older call where it is enough: a service manager that restricts namespaces refuses the
        // other, whose flags it cannot see.
        let flags = libc::c_ulong::from(flags | exit_signal);
        // SAFETY: as above; the stack 0 is a copy of this one, and the pidfd's place is the third
        // argument.
        unsafe { libc::syscall(libc::SYS_clone, flags, 0usize, place, 0usize, 0usize) }
    };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Ok(None) };
    // SAFETY: the kernel stored a new descriptor there, and nobody else knows it.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Some(Child { pid, pidfd }))
}

/// How long a joined thread may take to end.
const JOINED: Duration = Duration::from_secs(1);
/// Between two looks at whether it has.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000 };

/// The flag is above 32 bits, where libc's type does not reach.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Whether this process has but one thread.
fn single_threaded() -> bool {
    // SAFETY: this asks for nothing that a process with one thread shares with anybody, so it
    // changes nothing; with more threads the kernel refuses.
    unsafe { libc::unshare(libc::CLONE_THREAD) == 0 }
}

/// The same, after a moment for a thread that was joined and has not quite ended: the kernel tells of its end
/// before it counts it no more.
fn alone() -> bool {
    let end = Instant::now() + JOINED;
    loop {
        if single_threaded() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        poll(&mut [], Some(&LOOK)).ok();
    }
}

/// Ends this process at once, without running what the parent registered for its own end.
fn leave(status: i32) -> ! {
    // SAFETY: `_exit` has no preconditions.
    unsafe { libc::_exit(status) }
}

/// Makes this process die with its parent, which alone has the other end of `line`. To be called
/// again after a change of identity, which forgets it.
///
/// # Errors
/// [`HostError::Sys`]: `ESRCH` when the parent has ended.
pub fn die_with_parent(line: BorrowedFd<'_>) -> Result<(), HostError> {
    bind(Life::BoundBy(line), None).attempt(|| "bind to the parent's life".to_owned())
}

/// Asks for the signal first and looks for the parent afterwards: one that ends in between is either
/// seen to be gone or sends it. A process closes its descriptors before it leaves its children.
fn bind(life: Life<'_>, parent: Option<Pid>) -> rustix::io::Result<()> {
    if matches!(life, Life::Free(_)) {
        return Ok(());
    }
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    let there = match life {
        Life::BoundBy(line) => {
            // A hang-up is told unasked; whatever is to be read does not matter.
            let mut line = [PollFd::from_borrowed_fd(line, PollFlags::empty())];
            poll(&mut line, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))? == 0
        }
        Life::Bound | Life::Free(_) => rustix::process::getppid() == parent,
    };
    if there { Ok(()) } else { Err(rustix::io::Errno::SRCH) }
}

/// Closes every descriptor but the standard three and those in `keep`.
///
/// # Errors
/// [`HostError::Sys`].
pub fn close_others(keep: &[BorrowedFd<'_>]) -> Result<(), HostError> {
    close(&gaps(3, keep.iter().copied())).attempt(|| "close inherited descriptors".to_owned())
}

/// The ranges of descriptors from `first` on that leave out those in `keep`.
fn gaps<'a>(first: u32, keep: impl Iterator<Item = BorrowedFd<'a>>) -> Vec<(u32, u32)> {
    let mut kept: Vec<u32> = keep.filter_map(|fd| u32::try_from(fd.as_raw_fd()).ok()).collect();
    kept.sort_unstable();
    let mut gaps = Vec::with_capacity(kept.len() + 1);
    let mut from = first;
    for fd in kept {
        if fd > from {
            gaps.push((from, fd - 1));
        }
        from = from.max(fd + 1);
    }
    gaps.push((from, u32::MAX));
    gaps
}

fn close(ranges: &[(u32, u32)]) -> io::Result<()> {
    for (from, to) in ranges {
        // SAFETY: every descriptor in the range belongs to nobody who goes on using it: the caller
        // names those it keeps, and the process is there for this purpose alone.
        if unsafe { libc::syscall(libc::SYS_close_range, *from, *to, 0) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Blocks all signals of this thread; answers which were blocked.
fn block_signals() -> libc::sigset_t {
    // SAFETY: both sets are places of ours, which the C library fills; they may be zero before.
    unsafe {
        let (mut all, mut before): (libc::sigset_t, libc::sigset_t) = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
        before
    }
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
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

/// Lets the kernel reap this process's children by itself, so that none waits for this process, which
/// learns of their ends by descriptors only, and of how they ended not at all.
pub fn forget_children() {
    // SAFETY: to ignore a signal runs no code.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
}

/// Holds all signals back from this process that can be. Its children have them as programs find them.
pub fn hold_signals() {
    block_signals();
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
    wait_with(child, WaitIdOptions::NOHANG).attempt(|| waiting(child))
}

/// Waits for a child's end.
pub(crate) fn wait(child: &Child) -> Result<Ended, HostError> {
    loop {
        match wait_with(child, WaitIdOptions::empty()) {
            Ok(Some(ended)) => return Ok(ended),
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e).attempt(|| waiting(child)),
        }
    }
}

fn waiting(child: &Child) -> String {
    format!("wait for process {}", child.pid.as_raw_pid())
}

fn wait_with(child: &Child, more: WaitIdOptions) -> rustix::io::Result<Option<Ended>> {
    // A sibling made with exit signal 0 is waited for by __WALL only, which waitid knows too.
    let all = WaitIdOptions::from_bits_retain(libc::__WALL.cast_unsigned());
    let id = WaitId::PidFd(child.pidfd.as_fd());
    let status = rustix::process::waitid(id, WaitIdOptions::EXITED | all | more)?;
    Ok(status.map(|s| ended(&s)))
}

fn ended(status: &WaitIdStatus) -> Ended {
    let number = |n: Option<i32>| n.and_then(|n| u32::try_from(n).ok());
    match (number(status.exit_status()), number(status.terminating_signal())) {
        (Some(code), _) => Ended::Code(code),
        (None, signal) => Ended::Signal(signal.unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    /// The signals in a line of `/proc/*/status`, a bit each.
    fn signals(of: &str, line: &str) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{of}/status")).expect("it lives");
        let value = text.lines().find_map(|l| l.strip_prefix(line)).expect("the kernel tells");
        u64::from_str_radix(value.trim_start_matches(':').trim(), 16).expect("a number")
    }

    #[test]
    fn the_idle_hold_nothing_and_are_gone_afterwards() {
        let held =
            |of: &str| std::fs::read_dir(format!("/proc/{of}/fd")).expect("it lives").count();
        assert!(
            held("self") > 3 && signals("self", "SigCgt") != 0,
            "there is something to give up"
        );
        let pid = beside(&[], |pid| {
            let of = pid.as_raw_pid().to_string();
            let end = Instant::now() + Duration::from_secs(20);
            let all = ["SigBlk", "SigIgn", "SigCgt"];
            while held(&of) > 0 || all.iter().any(|line| signals(&of, line) != 0) {
                assert!(Instant::now() < end, "it keeps something: {} descriptors", held(&of));
                std::thread::yield_now();
            }
            Ok(of)
        })
        .expect("a child");
        assert!(!std::path::Path::new("/proc").join(pid).exists());
    }

    #[test]
    fn work_that_fails_or_panics_leaves_no_child() {
        let error = beside(&[], |pid| Err::<(), _>(HostError::parse("try", &format!("{pid:?}"))));
        assert!(matches!(error, Err(HostError::Parse { .. })));
        let mut made = None;
        let panic = catch_unwind(AssertUnwindSafe(|| {
            beside(&[], |pid| -> Result<(), _> {
                made = Some(pid);
                std::panic::resume_unwind(Box::new("work"))
            })
        }));
        assert!(panic.is_err());
        let pid = made.expect("it was made").as_raw_pid();
        assert!(!std::path::Path::new("/proc").join(pid.to_string()).exists());
    }

    #[test]
    fn a_process_with_several_threads_is_not_copied_to_run_code() {
        std::thread::scope(|scope| {
            let (tell, hear) = std::sync::mpsc::channel::<()>();
            scope.spawn(move || hear.recv().ok());
            let error = fork(How::default(), || 0).expect_err("two threads at least");
            assert!(error.to_string().contains("make a child process"), "{error}");
            drop(tell);
        });
    }

    #[test]
    fn who_asks_too_late_is_told() {
        // Asked for by a thread that ends, so that the test process is not bound by it.
        let asked = std::thread::spawn(|| {
            let (line, held) = rustix::pipe::pipe().expect("a pipe");
            die_with_parent(line.as_fd()).expect("the other end is there");
            drop(held);
            die_with_parent(line.as_fd()).expect_err("the other end is not")
        });
        assert!(asked.join().expect("no panic").is(rustix::io::Errno::SRCH));
    }

    #[test]
    fn what_is_kept_is_left_out() {
        let (a, b) = rustix::pipe::pipe().expect("a pipe");
        let number = |fd: &OwnedFd| fd.as_raw_fd().cast_unsigned();
        let all = [a.as_fd(), b.as_fd(), a.as_fd()];
        let closed = gaps(3, all.into_iter());
        for fd in 3..1000 {
            let kept = fd == number(&a) || fd == number(&b);
            let count = closed.iter().filter(|(from, to)| (*from..=*to).contains(&fd)).count();
            assert_eq!(count, usize::from(!kept), "{fd} of {closed:?}");
        }
        assert_eq!(gaps(0, std::iter::empty()), [(0, u32::MAX)]);
    }
}
