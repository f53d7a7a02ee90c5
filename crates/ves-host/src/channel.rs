//! Packets with descriptors, over a Unix socket, between processes on this machine.
//!
//! A packet is whole or not there; descriptors that come with it are closed on exec. Never here:
//! what is in a packet.

use std::ffi::OsStr;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, recvmsg, sendmsg,
    socket_with, socketpair,
};

use crate::error::{Attempt, HostError};

/// The longest packet.
pub const LONGEST: usize = 16 * 1024;
/// The most descriptors in one.
const MOST_FDS: usize = 4;

/// Two connected ends.
///
/// # Errors
/// [`HostError::Sys`].
pub fn pair() -> Result<(OwnedFd, OwnedFd), HostError> {
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .attempt(|| "make a channel".to_owned())
}

/// A connection to who takes packets at `socket`; `None` where no socket is.
///
/// # Errors
/// [`HostError::Sys`].
pub fn connect(socket: &Path) -> Result<Option<OwnedFd>, HostError> {
    let what = || format!("connect to {}", socket.display());
    let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
    let fd = socket_with(family, kind, SocketFlags::CLOEXEC, None).attempt(what)?;
    match SocketAddrUnix::new(socket).and_then(|at| rustix::net::connect(&fd, &at)) {
        Ok(()) => Ok(Some(fd)),
        Err(rustix::io::Errno::NOENT) => Ok(None),
        Err(e) => Err(e).attempt(what),
    }
}

/// The path at which this socket listens, or where the one listens that it came from.
///
/// # Errors
/// [`HostError::Sys`].
pub fn address(socket: impl AsFd) -> Result<PathBuf, HostError> {
    let what = || "find out where a socket is".to_owned();
    let address = rustix::net::getsockname(socket).attempt(what)?;
    let address = SocketAddrUnix::try_from(address).attempt(what)?;
    let path = address.path_bytes().map(|bytes| PathBuf::from(OsStr::from_bytes(bytes)));
    path.ok_or(rustix::io::Errno::AFNOSUPPORT).attempt(what)
}

/// Sends a packet; on a stream, bytes with descriptors at their first.
///
/// # Errors
/// [`HostError::Sys`].
pub fn send(to: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), HostError> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(std::io::Error::other("too many descriptors"))
            .attempt(|| "send on a channel".to_owned());
    }
    loop {
        let sent = sendmsg(&to, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL);
        match sent {
            Err(rustix::io::Errno::INTR) => {}
            other => return other.map(drop).attempt(|| "send on a channel".to_owned()),
        }
    }
}

/// A packet that came.
#[derive(Debug, Default)]
pub struct Packet {
    /// Its bytes; none at the end.
    pub bytes: Vec<u8>,
    /// Its descriptors.
    pub fds: Vec<OwnedFd>,
}

/// Receives a packet, or one without bytes at the end.
///
/// # Errors
/// [`HostError::Sys`]: `EAGAIN` on a channel that does not block and has none.
pub fn receive(from: impl AsFd) -> Result<Packet, HostError> {
    let mut bytes = vec![0; LONGEST];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let got = loop {
        let mut slices = [IoSliceMut::new(&mut bytes)];
        match recvmsg(&from, &mut slices, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            other => break other.attempt(|| "receive on a channel".to_owned())?,
        }
    };
    let mut packet = Packet::default();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            packet.fds.extend(fds);
        }
    }
    bytes.truncate(got.bytes);
    packet.bytes = bytes;
    Ok(packet)
}

/// Waits until something can be received, the end too; tells whether so within the time.
///
/// # Errors
/// [`HostError::Sys`].
pub fn wait(on: impl AsFd, most: Duration) -> Result<bool, HostError> {
    let end = std::time::Instant::now() + most;
    loop {
        let left = end.saturating_duration_since(std::time::Instant::now());
        let timeout = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        match poll(&mut [PollFd::new(&on, PollFlags::IN)], Some(&timeout)) {
            Err(rustix::io::Errno::INTR) => {}
            other => return other.map(|n| n > 0).attempt(|| "wait on a channel".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn descriptors_travel() {
        let (a, b) = pair().expect("a channel");
        let (_r, w) = rustix::pipe::pipe().expect("a pipe");
        send(&a, b"x", &[w.as_fd(), a.as_fd()]).expect("sent");
        assert!(wait(&b, Duration::from_secs(1)).expect("waited"));
        let packet = receive(&b).expect("received");
        assert_eq!((packet.bytes.as_slice(), packet.fds.len()), (&b"x"[..], 2));
        assert_ne!(packet.fds[0].as_raw_fd(), w.as_raw_fd());
        assert!(!wait(&b, Duration::ZERO).expect("waited"));
        drop(a);
        drop(packet);
        assert_eq!(receive(&b).expect("the end").bytes, b"");
    }
}
