//! Netlink, in this or another network namespace: [`route`] speaks rtnetlink by the library of that
//! name, over `connection`.
//!
//! Owns besides a codec and a blocking socket of its own, for what the library cannot do: reading what
//! others fill, bounded and without decoding what was not asked for, and nf_tables ([`crate::nft`]).
//! Never here: a setns of the caller's thread; a thread made for it enters the other namespace.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use netlink_packet_core::NetlinkMessage;
use netlink_packet_route::RouteNetlinkMessage;
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};

use crate::error::{Attempt, HostError};
use crate::thread;

mod connection;
pub mod route;

const HEADER: usize = 16;
const ERROR: u16 = 2;
const DONE: u16 = 3;

/// Asks for an acknowledgement.
pub const ACK: u16 = 0x4;
/// Asks for everything.
pub const DUMP: u16 = 0x300;
/// Makes the object where it is absent.
pub const CREATE: u16 = 0x400;
/// `f_type` of a file system whose files are namespaces.
pub const NSFS_MAGIC: rustix::fs::FsWord = 0x6e73_6673;
const REQUEST: u16 = 0x1;
const INTERRUPTED: u16 = 0x10;
const ACK_HAS_TLVS: u16 = 0x200;

/// How long the kernel may take for one answer; it holds one lock for all links of the machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often a dump is begun again when the tables change under it.
const DUMP_ATTEMPTS: usize = 16;
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

/// A message being written: header, fixed part, attributes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// A message of this kind with its fixed part.
    pub fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(flags | REQUEST).to_ne_bytes());
        bytes.extend_from_slice(fixed);
        let mut message = Self { bytes };
        message.pad();
        message
    }

    /// One of rtnetlink's messages.
    fn of(request: RouteNetlinkMessage, flags: u16) -> Self {
        let mut message = NetlinkMessage::from(request);
        message.header.flags = flags | REQUEST;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        Self { bytes }
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// One more attribute.
    pub fn attr(&mut self, kind: u16, payload: &[u8]) -> &mut Self {
        // An attribute too long for its length field is refused by the kernel as malformed.
        let len = u16::try_from(payload.len() + 4).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&len.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(payload);
        self.pad();
        self
    }

    /// One more attribute that is a text with its final zero.
    pub fn attr_text(&mut self, kind: u16, text: &str) -> &mut Self {
        let mut bytes = text.as_bytes().to_vec();
        bytes.push(0);
        self.attr(kind, &bytes)
    }

    /// One more attribute that holds what `inner` writes: attributes, or a fixed part before them.
    pub fn nest(&mut self, kind: u16, inner: impl FnOnce(&mut Self)) -> &mut Self {
        let begin = self.bytes.len();
        self.attr(kind | 0x8000, &[]);
        inner(self);
        let len = u16::try_from(self.bytes.len() - begin).unwrap_or(u16::MAX);
        self.bytes[begin..begin + 2].copy_from_slice(&len.to_ne_bytes());
        self
    }

    /// Bytes that are no attribute.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self.pad();
        self
    }

    /// What is behind the header: fixed part and attributes.
    pub fn payload(&self) -> &[u8] {
        &self.bytes[HEADER..]
    }

    fn finish(&mut self, sequence: u32) {
        let len = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        self.bytes[0..4].copy_from_slice(&len.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
    }
}

/// A message that was received, without its header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The message's kind.
    pub kind: u16,
    /// Fixed part and attributes.
    pub payload: Vec<u8>,
}

/// An attribute that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attribute<'a> {
    /// Its kind, without the flag bits.
    pub kind: u16,
    /// Its value.
    pub payload: &'a [u8],
}

impl<'a> Attribute<'a> {
    /// A number in the machine's byte order; 0 where the value is shorter.
    pub fn number(&self) -> u32 {
        self.payload.first_chunk().map_or(0, |b| u32::from_ne_bytes(*b))
    }
    /// A number in network byte order; 0 where the value is shorter.
    pub fn be64(&self) -> u64 {
        self.payload.first_chunk().map_or(0, |b| u64::from_be_bytes(*b))
    }
    /// A text up to its first zero.
    pub fn text(&self) -> String {
        let end = self.payload.iter().position(|b| *b == 0).unwrap_or(self.payload.len());
        String::from_utf8_lossy(&self.payload[..end]).into_owned()
    }
    /// The attributes inside.
    pub fn nested(&self) -> impl Iterator<Item = Attribute<'a>> + use<'a> {
        attributes(self.payload)
    }
}

/// The attributes in `bytes`; ends at the first that is malformed.
pub fn attributes(bytes: &[u8]) -> impl Iterator<Item = Attribute<'_>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (head, _) = rest.split_first_chunk::<4>()?;
        let len = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let kind = u16::from_ne_bytes([head[2], head[3]]) & 0x3fff;
        let payload = rest.get(4..len)?;
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(Attribute { kind, payload })
    })
}

/// One framed message of a datagram.
struct Frame<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    payload: &'a [u8],
}

/// The messages of a datagram; ends at the first that is malformed.
fn frames(bytes: &[u8]) -> impl Iterator<Item = Frame<'_>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (head, _) = rest.split_first_chunk::<HEADER>()?;
        let [a, b, c, d, k0, k1, f0, f1, s0, s1, s2, s3, ..] = *head;
        let len = usize::try_from(u32::from_ne_bytes([a, b, c, d])).ok()?;
        let payload = rest.get(HEADER..len)?;
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(Frame {
            kind: u16::from_ne_bytes([k0, k1]),
            flags: u16::from_ne_bytes([f0, f1]),
            sequence: u32::from_ne_bytes([s0, s1, s2, s3]),
            payload,
        })
    })
}

/// What the kernel answered instead of success: its error number and, where it gave one, its words.
fn refusal(frame: &Frame<'_>) -> Option<(Errno, Option<String>)> {
    if !matches!(frame.kind, ERROR | DONE) {
        return None;
    }
    let code = frame.payload.first_chunk().map(|b| i32::from_ne_bytes(*b)).unwrap_or_default();
    let code = code.saturating_neg();
    // A dump ends with the number of its last message's bytes, or nothing.
    if !(1..4096).contains(&code) {
        return None;
    }
    let mut words = None;
    if frame.kind == ERROR && frame.flags & ACK_HAS_TLVS != 0 {
        // With NETLINK_CAP_ACK only the header of the request is repeated before the attributes.
        let inner = frame.payload.get(4 + HEADER..).unwrap_or_default();
        words = attributes(inner).find(|a| a.kind == 1).map(|a| a.text());
    }
    Some((Errno::from_raw_os_error(code), words))
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
        let number = match protocol {
            Protocol::Route => None, // Number 0.
            Protocol::Netfilter => Some(rustix::net::netlink::NETFILTER),
        };
        let fd = open_socket(number).attempt(what)?;
        rustix::net::bind(&fd, &SocketAddrNetlink::new(0, 0)).attempt(what)?;
        sockopt::set_socket_timeout(&fd, sockopt::Timeout::Recv, Some(PATIENCE)).attempt(what)?;
        for option in [libc::NETLINK_CAP_ACK, libc::NETLINK_EXT_ACK, libc::NETLINK_GET_STRICT_CHK] {
            set_option(fd.as_fd(), option, 1).attempt(what)?;
        }
        Ok(Self { fd, sequence: 0, buffer: vec![0; ROOM], most: usize::MAX })
    }

    /// Takes no more than so many bytes of a dump, of tables that others fill. A dump of more fails
    /// with `EOVERFLOW`, and the socket is of no use afterwards: the kernel is not done with it.
    pub const fn bound_dumps(&mut self, bytes: usize) {
        self.most = bytes;
    }

    /// Opens a socket that is only waited with.
    fn for_news() -> Result<Self, HostError> {
        let fd = open_socket(None).attempt(|| "open a socket for news".to_owned())?;
        Ok(Self { fd, sequence: 0, buffer: Vec::new(), most: 0 })
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
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let left = end.saturating_duration_since(Instant::now());
        let timeout = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        match poll(&mut [PollFd::new(&self.fd, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => Ok(false),
            Ok(_) => match rustix::net::recv(&self.fd, &mut [0_u8; 1][..], RecvFlags::empty()) {
                // Something was missed, which is news too.
                Ok(_) | Err(Errno::NOBUFS | Errno::INTR) => Ok(true),
                Err(e) => Err(e).attempt(|| what.to_owned()),
            },
            Err(Errno::INTR) => Ok(true),
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

    /// Receives one datagram whole, in a buffer that grows to what the kernel has to say.
    fn receive(&mut self, what: &str) -> Result<usize, HostError> {
        let peek = RecvFlags::PEEK | RecvFlags::TRUNC;
        loop {
            let len = match rustix::net::recv(&self.fd, &mut [0_u8; 0][..], peek) {
                Err(Errno::INTR) => continue,
                other => other.attempt(|| what.to_owned())?.1,
            };
            if len > MOST_ROOM {
                return Err(Errno::MSGSIZE).attempt(|| what.to_owned());
            }
            if len > self.buffer.len() {
                self.buffer.resize(len, 0);
            }
            match rustix::net::recv(&self.fd, &mut self.buffer[..], RecvFlags::TRUNC) {
                Err(Errno::INTR) => {}
                Ok((_, whole)) if whole > self.buffer.len() => {
                    return Err(Errno::MSGSIZE).attempt(|| what.to_owned());
                }
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

    #[test]
    fn attributes_are_read_as_they_were_written() {
        let mut message = Message::new(1, ACK, &[7; 4]);
        message.attr(1, &[1, 2, 3]).attr_text(2, "ves101").nest(3, |m| {
            m.attr(4, &5_u32.to_ne_bytes());
        });
        message.finish(9);
        let frame = frames(&message.bytes).next().expect("a whole message");
        assert_eq!((frame.kind, frame.flags, frame.sequence), (1, ACK | REQUEST, 9));
        let found: Vec<_> = attributes(&frame.payload[4..]).collect();
        assert_eq!(found[0].payload, [1, 2, 3]);
        assert_eq!(found[1].text(), "ves101");
        assert_eq!(found[2].nested().next().map(|a| (a.kind, a.number())), Some((4, 5)));
        assert_eq!(found.len(), 3);
    }

    #[test]
    fn no_bytes_make_the_readers_fail() {
        let mut message = Message::new(16, 0, &[0; 16]);
        message.attr(1, &[0; 30]).nest(2, |m| {
            m.attr_text(3, "x");
        });
        message.finish(1);
        for len in 0..message.bytes.len() {
            for place in 0..len {
                let mut bytes = message.bytes[..len].to_vec();
                bytes[place] = bytes[place].wrapping_add(127);
                for frame in frames(&bytes) {
                    for attribute in attributes(frame.payload) {
                        attribute.nested().for_each(|a| {
                            a.text();
                        });
                    }
                }
            }
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
