//! Netlink, in this or another network namespace: [`route`] speaks rtnetlink by the library of that
//! name, over `connection`.
//!
//! Owns besides a codec and a blocking socket of its own, for what the library cannot do: reading what
//! others fill, bounded and without decoding what was not asked for, and nf_tables ([`crate::nft`]).
//! Never here: a setns of the caller's thread; a thread made for it enters the other namespace.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};

use crate::error::{Attempt, HostError};
use crate::thread;

mod connection;
mod message;
pub mod route;

pub use message::{ACK, Attribute, CREATE, DUMP, Message, Reply, attributes};
use message::{DONE, ERROR, HEADER, INTERRUPTED, frames, refusal};

/// `f_type` of a file system whose files are namespaces.
pub const NSFS_MAGIC: rustix::fs::FsWord = 0x6e73_6673;

/// How long the kernel may take for one answer; it holds one lock for all links of the machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often a dump is begun again when the tables change under it.
const DUMP_ATTEMPTS: usize = 16;
/// The kernel's number among a protocol's sockets.
const KERNEL: u32 = 0;
/// What one receive has room for at first; a dump comes in pieces of at most 32 KiB.
const ROOM: usize = 64 * 1024;
/// The most room that is made for one answer. That about one link is greater than [`ROOM`] where
/// somebody gave it hundreds of names; no attribute is longer than 64 KiB.
const MOST_ROOM: usize = 1024 * 1024;

/// A subsystem of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Links, addresses, routes, neighbours.
    Route,
    /// nf_tables.
    Netfilter,
}

impl Protocol {
    const fn number(self) -> Option<rustix::net::Protocol> {
        match self {
            Self::Route => None, // Number 0.
            Self::Netfilter => Some(rustix::net::netlink::NETFILTER),
        }
    }
}

/// What the kernel tells a multicast group.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Event<'a> {
    pub(crate) kind: u16,
    /// The socket that asked for the change.
    pub(crate) port: u32,
    /// Fixed part and attributes.
    pub(crate) payload: &'a [u8],
}

/// Does `work` in another network namespace, on a thread made for that, such as opening sockets
/// there.
///
/// # Errors
/// [`HostError::Sys`]; `EINVAL` where the file is no network namespace; what `work` fails with.
pub fn in_netns<T: Send>(
    netns: BorrowedFd<'_>,
    work: impl FnOnce() -> Result<T, HostError> + Send,
) -> Result<T, HostError> {
    thread::on_own_thread("netns", || {
        use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
        move_into_link_name_space(netns, Some(LinkNameSpaceType::Network))
            .attempt(|| "enter a network namespace".to_owned())?;
        work()
    })
}

/// A blocking netlink socket. It belongs to the network namespace it was opened in and keeps that
/// alive, so it is held no longer than one task.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    port: u32,
    sequence: u32,
    buffer: Vec<u8>,
    /// The most bytes that are taken of one dump.
    most: usize,
}

impl Socket {
    /// Opens a socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// [`HostError::Sys`].
    pub fn open(protocol: Protocol) -> Result<Self, HostError> {
        let what = || format!("open a netlink socket for {protocol:?}");
        let fd = open_socket(protocol.number()).attempt(what)?;
        rustix::net::bind(&fd, &SocketAddrNetlink::new(0, 0)).attempt(what)?;
        sockopt::set_socket_timeout(&fd, sockopt::Timeout::Recv, Some(PATIENCE)).attempt(what)?;
        for option in [libc::NETLINK_CAP_ACK, libc::NETLINK_EXT_ACK, libc::NETLINK_GET_STRICT_CHK] {
            set_option(fd.as_fd(), option, 1).attempt(what)?;
        }
        let address = rustix::net::getsockname(&fd).attempt(what)?;
        let port = SocketAddrNetlink::try_from(address).map_or(KERNEL, |a| a.pid());
        Ok(Self { fd, port, sequence: 0, buffer: vec![0; ROOM], most: usize::MAX })
    }

    /// The number by which the kernel names it to others.
    pub const fn port(&self) -> u32 {
        self.port
    }

    /// Takes no more than so many bytes of a dump, of tables that others fill. A dump of more fails
    /// with `EOVERFLOW`, and the socket is of no use afterwards: the kernel is not done with it.
    pub const fn bound_dumps(&mut self, bytes: usize) {
        self.most = bytes;
    }

    /// Opens a socket that is only waited with.
    fn for_news() -> Result<Self, HostError> {
        let fd = open_socket(None).attempt(|| "open a socket for news".to_owned())?;
        Ok(Self { fd, port: KERNEL, sequence: 0, buffer: Vec::new(), most: 0 })
    }

    /// Opens a socket that is told of what happens in a multicast group.
    pub(crate) fn listening(protocol: Protocol, group: libc::c_int) -> Result<Self, HostError> {
        let what = format!("listen to a group of {protocol:?}");
        let fd = open_socket(protocol.number()).attempt(|| what.clone())?;
        let socket = Self { fd, port: KERNEL, sequence: 0, buffer: vec![0; ROOM], most: 0 };
        socket.listen(group, &what)?;
        Ok(socket)
    }

    /// Waits until `end` for an event that `counts`, or for one that was missed. Answers whether there
    /// was one; those of the same datagram go with it.
    pub(crate) fn await_event(
        &mut self,
        end: Instant,
        what: &str,
        counts: impl Fn(Event<'_>) -> bool,
    ) -> Result<bool, HostError> {
        while self.is_readable(end).attempt(|| what.to_owned())? {
            match receive(&self.fd, &mut self.buffer, RecvFlags::DONTWAIT) {
                Ok((len, sender)) if sender.port == KERNEL => {
                    let mut events = frames(&self.buffer[..len]).map(|frame| Event {
                        kind: frame.kind,
                        port: frame.port,
                        payload: frame.payload,
                    });
                    if events.any(&counts) {
                        return Ok(true);
                    }
                }
                Err(Errno::NOBUFS) => return Ok(true),
                Ok(_) | Err(Errno::INTR | Errno::AGAIN) => {}
                Err(e) => return Err(e).attempt(|| what.to_owned()),
            }
        }
        Ok(false)
    }

    /// Waits until `end` for something to read.
    fn is_readable(&self, end: Instant) -> Result<bool, Errno> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let timeout = Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            };
            match poll(&mut [PollFd::new(&self.fd, PollFlags::IN)], Some(&timeout)) {
                Err(Errno::INTR) => {}
                other => return other.map(|ready| ready > 0),
            }
        }
    }

    /// Is told from now on of what happens in a multicast group.
    fn listen(&self, group: libc::c_int, what: &str) -> Result<(), HostError> {
        match rustix::net::bind(&self.fd, &SocketAddrNetlink::new(0, 0)) {
            // It has listened before.
            Ok(()) | Err(Errno::INVAL) => {}
            Err(e) => return Err(e).attempt(|| what.to_owned()),
        }
        set_option(self.fd.as_fd(), libc::NETLINK_ADD_MEMBERSHIP, group).attempt(|| what.to_owned())
    }

    /// Waits until something is to be read or `end` has come; what was to be read is thrown away.
    /// Answers whether something was.
    fn await_news(&mut self, end: Instant, what: &str) -> Result<bool, HostError> {
        if !self.is_readable(end).attempt(|| what.to_owned())? {
            return Ok(false);
        }
        match rustix::net::recv(&self.fd, &mut [0_u8; 1][..], RecvFlags::empty()) {
            // Something was missed, which is news too.
            Ok(_) | Err(Errno::NOBUFS | Errno::INTR) => Ok(true),
            Err(e) => Err(e).attempt(|| what.to_owned()),
        }
    }

    fn next(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1).max(1);
        self.sequence
    }

    fn send(&self, bytes: &[u8], what: &str) -> Result<(), HostError> {
        rustix::net::send(&self.fd, bytes, SendFlags::empty()).attempt(|| what.to_owned())?;
        Ok(())
    }

    /// Receives one datagram of the kernel's.
    fn receive(&mut self, what: &str) -> Result<usize, HostError> {
        loop {
            match receive(&self.fd, &mut self.buffer, RecvFlags::empty()) {
                // What another process sends is no answer.
                Ok((_, sender)) if sender.port != KERNEL => {}
                Err(Errno::INTR) => {}
                other => return other.map(|(read, _)| read).attempt(|| what.to_owned()),
            }
        }
    }

    /// Sends one request and waits until the kernel did or refused it. What it answered besides is
    /// returned. `what` says what is attempted.
    ///
    /// # Errors
    /// [`HostError::Sys`] with the kernel's number, its words after `what`.
    pub fn ask(&mut self, message: Message, what: &str) -> Result<Vec<Reply>, HostError> {
        self.transact(vec![message], what)
    }

    /// Sends requests in one datagram, as nf_tables wants a transaction; returns when the last of
    /// them that asked for an acknowledgement has it. The error is that of the first that was refused.
    pub fn transact(
        &mut self,
        mut messages: Vec<Message>,
        what: &str,
    ) -> Result<Vec<Reply>, HostError> {
        let mut bytes = Vec::new();
        let mut open = std::collections::BTreeSet::new();
        for message in &mut messages {
            let sequence = self.next();
            message.finish(sequence);
            let flags = u16::from_ne_bytes([message.bytes[6], message.bytes[7]]);
            if flags & ACK != 0 {
                open.insert(sequence);
            }
            bytes.extend_from_slice(&message.bytes);
        }
        let first = self.sequence.wrapping_sub(u32::try_from(messages.len()).unwrap_or(u32::MAX));
        self.send(&bytes, what)?;
        let mut replies = Vec::new();
        while !open.is_empty() {
            let len = self.receive(what)?;
            for frame in frames(&self.buffer[..len]) {
                if frame.sequence <= first {
                    continue; // The rest of an earlier, failed exchange.
                }
                if frame.kind == ERROR {
                    if let Some((errno, words)) = refusal(&frame) {
                        return Err(errno).attempt(|| said(what, words));
                    }
                    open.remove(&frame.sequence);
                } else {
                    replies.push(Reply { kind: frame.kind, payload: frame.payload.to_vec() });
                }
            }
        }
        Ok(replies)
    }

    /// Sends a dump request and returns everything; begins again while the tables change under it.
    ///
    /// # Errors
    /// [`HostError::Sys`]; see [`Self::bound_dumps`].
    pub fn dump(&mut self, mut message: Message, what: &str) -> Result<Vec<Reply>, HostError> {
        for _ in 0..DUMP_ATTEMPTS {
            let sequence = self.next();
            message.finish(sequence);
            self.send(&message.bytes, what)?;
            if let Some(replies) = self.collect(sequence, what)? {
                return Ok(replies);
            }
        }
        Err(Errno::INTR).attempt(|| format!("{what}: it changes faster than it can be read"))
    }

    /// One dump; `None` where it was interrupted by a change.
    fn collect(&mut self, sequence: u32, what: &str) -> Result<Option<Vec<Reply>>, HostError> {
        let (mut replies, mut whole, mut taken) = (Vec::new(), true, 0_usize);
        loop {
            let len = self.receive(what)?;
            taken = taken.saturating_add(len);
            if taken > self.most {
                return Err(Errno::OVERFLOW).attempt(|| format!("{what}: there are too many"));
            }
            for frame in frames(&self.buffer[..len]).filter(|f| f.sequence == sequence) {
                whole &= frame.flags & INTERRUPTED == 0;
                match (frame.kind, refusal(&frame)) {
                    (ERROR | DONE, Some((Errno::INTR, _))) => return Ok(None),
                    (ERROR | DONE, Some((errno, words))) => {
                        return Err(errno).attempt(|| said(what, words));
                    }
                    (DONE, None) => return Ok(whole.then_some(replies)),
                    (ERROR, None) => {}
                    (kind, _) => replies.push(Reply { kind, payload: frame.payload.to_vec() }),
                }
            }
        }
    }
}

/// Who sent a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sender {
    /// The number of its socket; [`KERNEL`], or another process's, which who has `NET_ADMIN` in the
    /// socket's namespace may send from: so a container's root where the socket was opened in its.
    port: u32,
    groups: u32,
}

/// Receives one datagram whole, in a buffer that grows to what there is to say, up to [`MOST_ROOM`].
///
/// # Errors
/// `EMSGSIZE` where it is greater; it stays in the socket then.
fn receive(
    fd: impl AsFd,
    buffer: &mut Vec<u8>,
    flags: RecvFlags,
) -> Result<(usize, Sender), Errno> {
    let peek = flags | RecvFlags::PEEK | RecvFlags::TRUNC;
    let (_, len) = rustix::net::recv(&fd, &mut [0_u8; 0][..], peek)?;
    if len > MOST_ROOM {
        return Err(Errno::MSGSIZE);
    }
    if len > buffer.len() {
        buffer.resize(len, 0);
    }
    let (read, _, from) = rustix::net::recvfrom(&fd, &mut buffer[..], flags)?;
    let from = from.and_then(|a| SocketAddrNetlink::try_from(a).ok());
    // One of which is not known who sent it is not the kernel's.
    let sender = from.map_or(Sender { port: u32::MAX, groups: 0 }, |a| Sender {
        port: a.pid(),
        groups: a.groups(),
    });
    Ok((read, sender))
}

fn open_socket(number: Option<rustix::net::Protocol>) -> Result<OwnedFd, Errno> {
    rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, number)
}

fn said(what: &str, words: Option<String>) -> String {
    match words {
        Some(words) => format!("{what} ({words})"),
        None => what.to_owned(),
    }
}

#[allow(unsafe_code, reason = "these options of netlink sockets have no safe wrapper")]
fn set_option(
    fd: BorrowedFd<'_>,
    option: libc::c_int,
    value: libc::c_int,
) -> Result<(), std::io::Error> {
    let len = libc::socklen_t::try_from(size_of_val(&value)).unwrap_or(4);
    // SAFETY: the descriptor is open, and the kernel reads `len` bytes of `value`, which outlives
    // the call.
    let status = unsafe {
        libc::setsockopt(fd.as_raw_fd(), libc::SOL_NETLINK, option, (&raw const value).cast(), len)
    };
    if status == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// Messages recorded from a real kernel, by what was asked.
#[cfg(test)]
pub(crate) fn recorded(asked: &str) -> Vec<Reply> {
    let lines = include_str!("netlink/fixtures/linux-6.18.txt").lines();
    let fields = lines.map(|l| l.split('\t').collect::<Vec<_>>());
    let ours = fields.filter(|f| f[0] == asked && f.len() == 3);
    let byte = |h: &[u8]| {
        let text = std::str::from_utf8(h).expect("it is text");
        u8::from_str_radix(text, 16).expect("it is hexadecimal")
    };
    ours.map(|f| Reply {
        kind: f[1].parse().expect("a number"),
        payload: f[2].as_bytes().chunks(2).map(byte).collect(),
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A socket of a protocol by which every process may send to every other.
    fn user_socket() -> (OwnedFd, u32) {
        let fd = open_socket(
            rustix::net::Protocol::from_raw(2_u32.try_into().expect("NETLINK_USERSOCK")).into(),
        );
        let fd = fd.expect("a socket");
        rustix::net::bind(&fd, &SocketAddrNetlink::new(0, 0)).expect("bound");
        let address = rustix::net::getsockname(&fd).expect("an address");
        (fd, SocketAddrNetlink::try_from(address).expect("netlink").pid())
    }

    #[test]
    fn what_another_process_sends_is_no_answer() {
        let (fd, port) = user_socket();
        sockopt::set_socket_timeout(&fd, sockopt::Timeout::Recv, Some(Duration::from_millis(50)))
            .expect("set");
        let mut socket = Socket { fd, port, sequence: 0, buffer: vec![0; ROOM], most: usize::MAX };
        let (other, _) = user_socket();
        let forge = |len| {
            let mut answer = Message::new(16, 0, &vec![0; len]);
            answer.finish(1);
            let to = SocketAddrNetlink::new(port, 0);
            rustix::net::sendto(&other, &answer.bytes, SendFlags::empty(), &to).expect("sent");
        };
        forge(16);
        forge(2 * ROOM);
        let (len, sender) =
            receive(&socket.fd, &mut socket.buffer, RecvFlags::empty()).expect("it arrives");
        assert!(len < ROOM && sender.port != KERNEL, "{sender:?}");
        forge(16);
        let error = socket.receive("read").expect_err("nothing of the kernel's");
        assert!(error.is(Errno::AGAIN), "{error}");
    }

    #[test]
    fn a_great_datagram_is_received_whole_and_a_boundless_one_is_refused() {
        let ((fd, port), (other, _)) = (user_socket(), user_socket());
        let mut buffer = vec![0; ROOM];
        let to = SocketAddrNetlink::new(port, 0);
        let send = |len: usize| {
            // It must fit into the sender's own bound, which is smaller than ours.
            sockopt::set_socket_send_buffer_size(&other, 4 * MOST_ROOM).ok();
            rustix::net::sendto(&other, &vec![7; len], SendFlags::empty(), &to)
        };
        assert_eq!(send(2 * ROOM), Ok(2 * ROOM));
        let received = receive(&fd, &mut buffer, RecvFlags::empty()).map(|(read, _)| read);
        assert_eq!((received, buffer.len()), (Ok(2 * ROOM), 2 * ROOM));
        if send(MOST_ROOM + 1).is_ok() {
            let received = receive(&fd, &mut buffer, RecvFlags::DONTWAIT);
            assert_eq!(received, Err(Errno::MSGSIZE));
        }
    }

    #[test]
    fn the_kernel_says_why_it_refuses() {
        let mut socket = Socket::open(Protocol::Route).expect("a socket");
        // RTM_GETLINK for a link that does not exist.
        let mut message = Message::new(18, ACK, &[0; 16]);
        message.attr_text(3, "no-such-link");
        let error = socket.ask(message, "read link no-such-link").expect_err("no such link");
        assert!(error.is(Errno::NODEV), "{error}");
    }
}
