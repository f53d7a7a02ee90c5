//! The floor under a container's start: what the kernel alone needs to make seven namespaces, map
//! ids, pivot to a root and execute `/bin/true` in it. `cargo xtask bench` compares with this.
//!
//! `floor ROOTFS`: for each line on standard input it does that once and prints how many
//! nanoseconds it took from `clone3` until the process was reaped. Independent of Ves's own code,
//! so that the two can disagree; no control groups, no link, no limits, nothing masked.
#![allow(unsafe_code, clippy::print_stdout, reason = "an example that measures bare system calls")]

use std::ffi::CString;
use std::io::{self, BufRead, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Instant;

use rustix::fd::AsFd;
use rustix::pipe::{PipeFlags, pipe_with};

const NAMESPACES: libc::c_int = libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP;

fn main() -> io::Result<()> {
    let rootfs = std::env::args().nth(1).ok_or(io::ErrorKind::InvalidInput)?;
    let rootfs = CString::new(rootfs)?;
    for line in io::stdin().lock().lines() {
        line?;
        let begun = Instant::now();
        start(&rootfs)?;
        println!("{}", begun.elapsed().as_nanos());
        io::stdout().flush()?;
    }
    Ok(())
}

/// One start, from nothing to reaped.
fn start(rootfs: &CString) -> io::Result<()> {
    let (wait, go) = pipe_with(PipeFlags::CLOEXEC)?;
    // SAFETY: all fields of clone_args may be zero.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = u64::try_from(NAMESPACES).map_err(io::Error::other)?;
    args.exit_signal = u64::try_from(libc::SIGCHLD).map_err(io::Error::other)?;
    // SAFETY: without CLONE_VM this is a fork; this process has one thread, so the child may go on
    // as it likes, and it never returns from `child`.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of_val(&args)) };
    if pid == 0 {
        drop(go);
        child(rootfs, &wait);
    }
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    drop(wait);
    for map in ["uid_map", "gid_map"] {
        std::fs::write(format!("/proc/{pid}/{map}"), "0 0 65536\n")?;
    }
    drop(go);
    let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    let mut status = 0;
    // SAFETY: the status is ours; the child is not yet reaped.
    if unsafe { libc::waitpid(pid, &raw mut status, 0) } != pid {
        return Err(io::Error::last_os_error());
    }
    if status != 0 {
        return Err(io::Error::other(format!("the child ended with wait status {status}")));
    }
    Ok(())
}

/// The first process of the new namespaces; ends in `/bin/true`.
fn child(rootfs: &CString, wait: &OwnedFd) -> ! {
    let step = |at: i32, result: i64| {
        if result < 0 {
            // SAFETY: ends this process; says which step failed by its status.
            unsafe { libc::_exit(at) }
        }
    };
    let mut byte = 0_u8;
    let none = std::ptr::null::<libc::c_void>();
    let (dot, root, bin) = (c".", c"/", c"/bin/true");
    // SAFETY: all strings end in a zero byte and live; the buffer has one byte.
    unsafe {
        step(1, libc::read(wait.as_fd().as_raw_fd(), (&raw mut byte).cast(), 1) as i64);
        let private = libc::MS_REC | libc::MS_PRIVATE;
        let (no, bind) = (std::ptr::null(), libc::MS_BIND | libc::MS_REC);
        step(2, libc::mount(no, root.as_ptr(), no, private, none).into());
        step(3, libc::mount(rootfs.as_ptr(), rootfs.as_ptr(), no, bind, none).into());
        step(4, libc::chdir(rootfs.as_ptr()).into());
        step(5, libc::syscall(libc::SYS_pivot_root, dot.as_ptr(), dot.as_ptr()));
        step(6, libc::umount2(dot.as_ptr(), libc::MNT_DETACH).into());
        step(7, libc::chdir(root.as_ptr()).into());
        let argv = [bin.as_ptr(), std::ptr::null()];
        let envp = [std::ptr::null()];
        libc::execve(bin.as_ptr(), argv.as_ptr(), envp.as_ptr());
        libc::_exit(8)
    }
}
