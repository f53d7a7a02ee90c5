//! What a program gives up before it reads what a container's root may have written.
//!
//! It opens one device and the system's own programs and libraries, has no capability, cannot get any,
//! makes no process, signals and traces nobody and speaks to nobody, and its memory is bounded. Where the
//! kernel has no Landlock (before Linux 5.13, or not switched on), files are bounded by what root without
//! capabilities may open, and by the caller's own sandbox. Never here: which program, and for how long.
//!
//! Not by the crate `landlock`: between the copy of a process with several threads and its program only
//! system calls may be made, and these are three.

#![allow(unsafe_code, reason = "system calls of Landlock, which rustix lacks")]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::process::{Resource, Rlimit, Signal, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::error::{Attempt, HostError};
use crate::seccomp::{Filter, Refusals, Refuse, When};

const EXECUTE: u64 = 1;
const WRITE_FILE: u64 = 1 << 1;
const READ_FILE: u64 = 1 << 2;
const READ_DIR: u64 = 1 << 3;
/// All rights to files of the first version, which each kernel with Landlock knows.
const ALL: u64 = (1 << 13) - 1;
const RULE_PATH_BENEATH: libc::c_int = 1;

/// Where programs and their libraries are.
const PROGRAMS: [&str; 6] = ["/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc/ld.so.cache"];

/// System calls that reach others.
const OTHERS: [libc::c_long; 16] = [
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_kill,
    libc::SYS_tkill,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_send_signal,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_socket,
    libc::SYS_socketpair,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_bpf,
    libc::SYS_io_uring_setup,
];

/// And those that only older machines have.
#[cfg(target_arch = "x86_64")]
const OLD_OTHERS: &[libc::c_long] = &[libc::SYS_fork, libc::SYS_vfork];
#[cfg(not(target_arch = "x86_64"))]
const OLD_OTHERS: &[libc::c_long] = &[];

/// What a program gives up.
#[derive(Debug)]
pub struct Sandbox {
    files: Option<OwnedFd>,
    calls: Filter,
    memory: u64,
}

#[repr(C)]
struct RulesetAttr {
    handled_access_fs: u64,
}

#[repr(C, packed)]
struct PathBeneathAttr {
    allowed_access: u64,
    parent_fd: i32,
}

impl Sandbox {
    /// With this device for all that is written, and so many bytes of address space.
    ///
    /// # Errors
    /// [`HostError::Sys`].
    pub fn new(device: &Path, memory: u64) -> Result<Self, HostError> {
        let files = ruleset()?;
        if let Some(files) = &files {
            let programs = PROGRAMS.iter().map(Path::new).filter(|path| path.exists());
            for path in programs {
                let files_only = if path.is_dir() { READ_DIR } else { 0 };
                allow(files, path, EXECUTE | READ_FILE | files_only)?;
            }
            allow(files, Path::new("/dev/null"), READ_FILE | WRITE_FILE)?;
            allow(files, device, READ_FILE | WRITE_FILE)?;
        }
        let refuse = |call: &libc::c_long| Refuse {
            call: u32::try_from(*call).unwrap_or(u32::MAX),
            when: When::Always,
            errno: 1,
        };
        let native = OTHERS.iter().chain(OLD_OTHERS).map(refuse).collect();
        Ok(Self { files, calls: Filter::compile(&Refusals { native, compat: None }), memory })
    }

    /// Gives it all up, for good. Makes system calls only where nothing fails, so a copy of a process
    /// with several threads may do it.
    pub(crate) fn enter(&self) -> io::Result<()> {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        rustix::thread::set_no_new_privs(true)?;
        for (resource, limit) in
            [(Resource::As, self.memory), (Resource::Core, 0), (Resource::Nofile, 64)]
        {
            setrlimit(resource, Rlimit { current: Some(limit), maximum: Some(limit) })?;
        }
        if let Some(files) = &self.files {
            // SAFETY: no memory is handed over.
            let done =
                unsafe { libc::syscall(libc::SYS_landlock_restrict_self, files.as_raw_fd(), 0) };
            if done != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        let none = CapabilitySet::empty();
        let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
        rustix::thread::set_capabilities(None, sets)?;
        self.calls.install().map_err(io::Error::other)
    }
}

/// An empty list of rules; `None` where the kernel has no Landlock.
fn ruleset() -> Result<Option<OwnedFd>, HostError> {
    let attr = RulesetAttr { handled_access_fs: ALL };
    // SAFETY: the structure lives for the call, which reads as much of it as is said.
    let fd = unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, &raw const attr, size_of_val(&attr), 0)
    };
    if fd < 0 {
        let error = io::Error::last_os_error();
        return match error.raw_os_error() {
            Some(libc::ENOSYS | libc::EOPNOTSUPP) => Ok(None),
            _ => Err(error).attempt(|| "make a list of files that may be opened".to_owned()),
        };
    }
    let fd = i32::try_from(fd).unwrap_or(-1);
    // SAFETY: the kernel has just made it, and nobody else knows it.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// Adds what is at a path, and below it, to the list.
fn allow(list: &OwnedFd, path: &Path, access: u64) -> Result<(), HostError> {
    let what = || format!("let {} be opened", path.display());
    let at = File::options().read(true).custom_flags(libc::O_PATH).open(path).attempt(what)?;
    let attr = PathBeneathAttr { allowed_access: access, parent_fd: at.as_raw_fd() };
    // SAFETY: the structure and both descriptors live for the call, which only reads.
    let done = unsafe {
        libc::syscall(
            libc::SYS_landlock_add_rule,
            list.as_raw_fd(),
            RULE_PATH_BENEATH,
            &raw const attr,
            0,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }.attempt(what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Cmd;

    /// What a shell says to a script, without and with the sandbox.
    fn both(device: &Path, script: &str) -> [String; 2] {
        let shell = || Cmd::new("/bin/sh").args(["-c", script]);
        let sandbox = Sandbox::new(device, 1 << 30).expect("made");
        [shell(), shell().sandboxed(sandbox)]
            .map(|cmd| cmd.run().map_or_else(|e| e.to_string(), |out| out.text()))
    }

    #[test]
    fn what_is_given_up_is_gone() {
        let dir = tempfile::tempdir().expect("a directory");
        let (device, other) = (dir.path().join("device"), dir.path().join("other"));
        std::fs::write(&device, b"its own\n").expect("written");
        std::fs::write(&other, b"another's\n").expect("written");
        let at = |path: &Path, words: &str| words.replace('@', &path.display().to_string());
        let landlock = ruleset().is_ok_and(|r| r.is_some());
        for (path, script, works, needs_landlock) in [
            (&device, "read x < @; echo $x", true, false),
            (&device, "echo new > @; echo $?", true, false),
            (&other, "read x < @ || exit 3; echo $x", false, true),
            (&other, "echo new >> @ || exit 3; echo $?", false, true),
            (&other, "/bin/true; echo $?", false, false),
            (&other, "kill -0 $PPID && echo it", false, false),
        ] {
            let [without, with] = both(&device, &at(path, script));
            assert!(!without.is_empty(), "{script}");
            if works {
                assert_eq!(without, with, "{script}");
            } else if landlock || !needs_landlock {
                assert_ne!(without, with, "{script}");
            }
        }
        println!("Landlock: {landlock}");
        let status = "while read k v; do echo $k $v; done < /proc/self/status";
        let [_, with] = both(Path::new("/proc"), status);
        for line in ["CapEff: 0000000000000000", "CapPrm: 0000000000000000", "NoNewPrivs: 1"] {
            assert!(with.contains(line), "{with}");
        }
    }
}
