//! Netlink's messages: written, framed, read. Pure; no bytes make a reader fail.

use netlink_packet_core::NetlinkMessage;
use netlink_packet_route::RouteNetlinkMessage;
use rustix::io::Errno;

pub(super) const HEADER: usize = 16;
pub(super) const ERROR: u16 = 2;
pub(super) const DONE: u16 = 3;

/// Asks for an acknowledgement.
pub const ACK: u16 = 0x4;
/// Asks for everything.
pub const DUMP: u16 = 0x300;
/// Makes the object where it is absent.
pub const CREATE: u16 = 0x400;
const REQUEST: u16 = 0x1;
pub(super) const INTERRUPTED: u16 = 0x10;
const ACK_HAS_TLVS: u16 = 0x200;

/// A message being written: header, fixed part, attributes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub(super) bytes: Vec<u8>,
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
    pub(super) fn of(request: RouteNetlinkMessage, flags: u16) -> Self {
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

    pub(super) fn finish(&mut self, sequence: u32) {
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
pub(super) struct Frame<'a> {
    pub(super) kind: u16,
    pub(super) flags: u16,
    pub(super) sequence: u32,
    /// Of whose socket it is, or was caused.
    pub(super) port: u32,
    pub(super) payload: &'a [u8],
}

/// The messages of a datagram; ends at the first that is malformed.
pub(super) fn frames(bytes: &[u8]) -> impl Iterator<Item = Frame<'_>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (head, _) = rest.split_first_chunk::<HEADER>()?;
        let [a, b, c, d, k0, k1, f0, f1, s0, s1, s2, s3, p0, p1, p2, p3] = *head;
        let len = usize::try_from(u32::from_ne_bytes([a, b, c, d])).ok()?;
        let payload = rest.get(HEADER..len)?;
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(Frame {
            kind: u16::from_ne_bytes([k0, k1]),
            flags: u16::from_ne_bytes([f0, f1]),
            sequence: u32::from_ne_bytes([s0, s1, s2, s3]),
            port: u32::from_ne_bytes([p0, p1, p2, p3]),
            payload,
        })
    })
}

/// What the kernel answered instead of success: its error number and, where it gave one, its words.
pub(super) fn refusal(frame: &Frame<'_>) -> Option<(Errno, Option<String>)> {
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
}
