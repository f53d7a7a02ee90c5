//! Who is at the other end of a socket that was connected to.
//!
//! A number of a process may be another's a moment later, so the process is held by a descriptor while it is
//! looked at. Never here: what it may do.
#![allow(unsafe_code, reason = "an option of sockets that rustix does not know")]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags};

use crate::channel;
use crate::error::{Attempt, HostError};

/// Who is at the other end.
#[derive(Debug)]
pub struct Peer {
    /// Its user when it connected.
    pub user: u32,
    pid: Pid,
    /// Where the kernel hands it out with the socket, of just this process.
    pidfd: OwnedFd,
}

impl Peer {
    /// The capabilities it can use, by bit.
    ///
    /// # Errors
    /// [`HostError::Sys`] where it has ended, [`HostError::Parse`].
    pub fn capabilities(&self) -> Result<u64, HostError> {
        let path = format!("/proc/{}/status", self.pid.as_raw_pid());
        let what = || format!("read {path}");
        let status = std::fs::read_to_string(&path).attempt(what)?;
        if channel::wait(&self.pidfd, Duration::ZERO)? {
            // The number may be another's by now.
            return Err(rustix::io::Errno::SRCH).attempt(what);
        }
        let held = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        held.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok())
            .ok_or_else(|| HostError::parse(what(), &status))
    }
}

/// Whether a connection is from the one its socket is for: the user that owns it, and with all of these
/// capabilities, by bit. Otherwise this tells in words who it is from.
pub fn require_owner(connection: impl AsFd, needed: u64) -> Result<(), String> {
    let told = || -> Result<_, HostError> {
        let socket = channel::address(&connection)?;
        let owner =
            rustix::fs::lstat(&socket).attempt(|| format!("look at {}", socket.display()))?;
        let peer = of(&connection)?;
        let held = if needed == 0 { 0 } else { peer.capabilities()? };
        Ok((peer.user, held, owner.st_uid))
    };
    match told() {
        Ok((user, held, owner)) if user == owner && held & needed == needed => Ok(()),
        Ok((user, _, owner)) if user != owner => Err(format!("user {user}, not {owner}")),
        Ok((_, held, _)) => Err(format!("one with capabilities {held:x}, not {needed:x}")),
        Err(e) => Err(e.to_string()),
    }
}

/// The user who connected to this end of a socket.
///
/// # Errors
/// [`HostError::Sys`].
pub fn user(socket: impl AsFd) -> Result<u32, HostError> {
    let told = rustix::net::sockopt::socket_peercred(&socket);
    Ok(told.attempt(|| "see who is at the other end of a socket".to_owned())?.uid.as_raw())
}

/// Who connected to this end of a socket.
///
/// # Errors
/// [`HostError::Sys`] where it is gone.
pub fn of(socket: impl AsFd) -> Result<Peer, HostError> {
    let what = || "see who is at the other end of a socket".to_owned();
    let told = rustix::net::sockopt::socket_peercred(&socket).attempt(what)?;
    let pidfd = match pidfd(socket.as_fd()) {
        // Before Linux 6.5.
        Err(e) if e.raw_os_error() == Some(libc::ENOPROTOOPT) => {
            rustix::process::pidfd_open(told.pid, PidfdFlags::empty()).attempt(what)?
        }
        other => other.attempt(what)?,
    };
    Ok(Peer { user: told.uid.as_raw(), pid: told.pid, pidfd })
}

fn pidfd(socket: BorrowedFd<'_>) -> std::io::Result<OwnedFd> {
    let mut fd: libc::c_int = -1;
    let mut len = libc::socklen_t::try_from(size_of_val(&fd)).unwrap_or_default();
    // SAFETY: the kernel writes at most `len` bytes to `fd`, which lives through the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERPIDFD,
            std::ptr::from_mut(&mut fd).cast(),
            &mut len,
        )
    };
    match result {
        // SAFETY: the kernel has just made this descriptor, for nobody else.
        0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(std::io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_for_its_owner_with_the_capabilities_that_are_needed() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("socket");
        let listener = std::os::unix::net::UnixListener::bind(&path).expect("bound");
        let far = std::os::unix::net::UnixStream::connect(&path).expect("connected");
        let (near, _) = listener.accept().expect("taken");
        let (own, held) = (user(&near).expect("told"), of(&near).expect("told").capabilities());
        assert_eq!(own, rustix::process::geteuid().as_raw());
        let held = held.expect("it lives");
        assert_eq!(require_owner(&near, 0), Ok(()));
        assert_eq!(require_owner(&near, held), Ok(()));
        assert!(require_owner(&near, !held).is_err(), "of the owner, but not able");
        if own == 0 {
            std::os::unix::fs::chown(&path, Some(4711), None).expect("given away");
            assert_eq!(require_owner(&near, 0), Err("user 0, not 4711".to_owned()));
        }
        std::fs::remove_file(&path).expect("removed");
        assert!(require_owner(&near, 0).is_err(), "whose it was nobody knows");
        drop(far);
    }

    #[test]
    fn it_is_told_who_this_is() {
        let (near, _far) = channel::pair().expect("a channel");
        let peer = of(&near).expect("told");
        assert_eq!(peer.pid, rustix::process::getpid());
        assert_eq!(peer.user, rustix::process::getuid().as_raw());
        let status = std::fs::read_to_string("/proc/self/status").expect("readable");
        let held = peer.capabilities().expect("it lives");
        assert!(status.contains(&format!("CapEff:\t{held:016x}")), "{status}");
    }
}
