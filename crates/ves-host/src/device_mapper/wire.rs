//! How requests and answers of device-mapper look (`linux/dm-ioctl.h`, version 4): a head of fixed size,
//! then targets, names or a message. Pure.

use std::io;

use super::{Info, Target};
use crate::error::HostError;

/// Bytes of the head, `struct dm_ioctl`.
const HEAD: usize = 312;
/// Bytes of `struct dm_target_spec`, before the target's text.
const SPEC: usize = 40;
/// Bytes for a device's name, the zero at its end included.
pub(super) const NAME_ROOM: usize = 128;
/// Bytes for a device's uuid, the zero at its end included.
const UUID_ROOM: usize = 129;
/// Bytes for the name of a target's kind, the zero at its end included.
const KIND_ROOM: usize = 16;

/// Where the head's fields are.
mod at {
    pub(super) const VERSION: usize = 0;
    pub(super) const DATA_SIZE: usize = 12;
    pub(super) const DATA_START: usize = 16;
    pub(super) const TARGET_COUNT: usize = 20;
    pub(super) const OPEN_COUNT: usize = 24;
    pub(super) const FLAGS: usize = 28;
    pub(super) const EVENT: usize = 32;
    pub(super) const DEVICE: usize = 40;
    pub(super) const NAME: usize = 48;
    pub(super) const UUID: usize = 176;
}

/// What udev's rules are told to leave alone, in the upper half of a cookie: the rules of device-mapper,
/// those of LVM and the like, those that look at what is on a disk, and all others. With the lower half
/// empty, there is no semaphore that udev would have to release.
const UDEV_HANDS_OFF: u32 = (0x1 | 0x2 | 0x4 | 0x8) << 16;

/// What can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Version = 0,
    ListDevices = 2,
    Create = 3,
    Remove = 4,
    /// Or resume, without [`Flags::SUSPEND`].
    Suspend = 6,
    DeviceStatus = 7,
    LoadTable = 9,
    TableStatus = 12,
    Message = 14,
}

/// Flags of a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Flags(u32);

impl Flags {
    /// Suspend, rather than resume; or is suspended.
    pub(super) const SUSPEND: Self = Self(1 << 1);
    /// The table, rather than how it is.
    pub(super) const TABLE: Self = Self(1 << 4);
    /// It has a table in use.
    const LIVE: Self = Self(1 << 5);
    /// The answer did not fit.
    const CUT: Self = Self(1 << 8);
    /// It goes with its last user.
    const LEAVING: Self = Self(1 << 17);
}

/// What follows the head.
#[derive(Debug, Clone, Copy)]
enum Body<'a> {
    Nothing,
    Table(&'a [Target]),
    Message(&'a str),
}

/// One request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request<'a> {
    verb: Verb,
    name: &'a str,
    uuid: &'a str,
    flags: u32,
    event: u32,
    body: Body<'a>,
}

impl<'a> Request<'a> {
    /// Of no device.
    pub(super) fn new(verb: Verb) -> Self {
        Self::of(verb, "")
    }
    /// Of this device.
    pub(super) fn of(verb: Verb, name: &'a str) -> Self {
        Self { verb, name, uuid: "", flags: 0, event: 0, body: Body::Nothing }
    }
    /// Gives the device a uuid.
    pub(super) fn uuid(self, uuid: &'a str) -> Self {
        Self { uuid, ..self }
    }
    /// With this flag too.
    pub(super) fn flag(self, flag: Flags) -> Self {
        Self { flags: self.flags | flag.0, ..self }
    }
    /// Has udev leave the device alone.
    pub(super) fn quiet(self) -> Self {
        Self { event: UDEV_HANDS_OFF, ..self }
    }
    /// With this table.
    pub(super) fn table(self, table: &'a [Target]) -> Self {
        Self { body: Body::Table(table), ..self }
    }
    /// With this message.
    pub(super) fn message(self, text: &'a str) -> Self {
        Self { body: Body::Message(text), ..self }
    }

    /// Whether it is a message, which does something each time it is sent.
    pub(super) fn is_message(&self) -> bool {
        self.verb == Verb::Message
    }

    /// Its number: `_IOWR(0xfd, verb, struct dm_ioctl)`.
    pub(super) fn number(&self) -> libc::Ioctl {
        0xC138_FD00 | self.verb as libc::Ioctl
    }

    /// As the kernel wants it, with so much room for the answer, in bytes.
    pub(super) fn encode(&self, room: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; HEAD];
        put(&mut bytes, at::VERSION, &4u32.to_ne_bytes());
        put(&mut bytes, at::DATA_START, &number(HEAD)?.to_ne_bytes());
        put(&mut bytes, at::FLAGS, &self.flags.to_ne_bytes());
        put(&mut bytes, at::EVENT, &self.event.to_ne_bytes());
        put(&mut bytes, at::NAME, fitting(self.name, NAME_ROOM)?);
        put(&mut bytes, at::UUID, fitting(self.uuid, UUID_ROOM)?);
        match self.body {
            Body::Nothing => {}
            Body::Table(table) => {
                put(&mut bytes, at::TARGET_COUNT, &number(table.len())?.to_ne_bytes());
                for target in table {
                    encode_target(target, &mut bytes)?;
                }
            }
            Body::Message(text) => {
                // To the target at sector 0.
                bytes.extend([0; 8]);
                bytes.extend(fitting(text, usize::MAX)?);
                bytes.push(0);
            }
        }
        bytes.resize(bytes.len().max(HEAD + room), 0);
        let size = number(bytes.len())?;
        put(&mut bytes, at::DATA_SIZE, &size.to_ne_bytes());
        Ok(bytes)
    }
}

/// A target of a table: its text ends with a zero, the next begins at a multiple of eight.
fn encode_target(target: &Target, bytes: &mut Vec<u8>) -> io::Result<()> {
    let next = (SPEC + target.text.len() + 1).next_multiple_of(8);
    let begin = bytes.len();
    bytes.extend(target.start.to_ne_bytes());
    bytes.extend(target.sectors.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend(number(next)?.to_ne_bytes());
    bytes.extend(fitting(&target.kind, KIND_ROOM)?);
    bytes.resize(begin + SPEC, 0);
    bytes.extend(fitting(&target.text, usize::MAX)?);
    bytes.resize(begin + next, 0);
    Ok(())
}

/// A text that has to end with a zero in so much room.
fn fitting(text: &str, room: usize) -> io::Result<&[u8]> {
    let fits = text.len() < room && !text.contains('\0');
    fits.then_some(text.as_bytes()).ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))
}

fn number(n: usize) -> io::Result<u32> {
    u32::try_from(n).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))
}

fn put(bytes: &mut [u8], at: usize, what: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + what.len()) {
        place.copy_from_slice(what);
    }
}

fn get32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|chunk| u32::from_ne_bytes(*chunk))
}

fn get64(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|chunk| u64::from_ne_bytes(*chunk))
}

/// The text up to its zero, in at most so much room.
fn text(bytes: &[u8], at: usize, room: usize) -> Option<String> {
    let bytes = bytes.get(at..)?;
    let end = bytes.iter().take(room).position(|b| *b == 0)?;
    Some(String::from_utf8_lossy(bytes.get(..end)?).into_owned())
}

/// A field of the head; an answer is as long as what was asked, so it has one.
fn head(answer: &[u8], at: usize) -> u32 {
    get32(answer, at).unwrap_or_default()
}

fn has(answer: &[u8], flag: Flags) -> bool {
    head(answer, at::FLAGS) & flag.0 != 0
}

/// Whether an answer did not fit.
pub(super) fn is_cut(answer: &[u8]) -> bool {
    has(answer, Flags::CUT)
}

/// The kernel's version in an answer.
pub(super) fn version(answer: &[u8]) -> [u32; 3] {
    [0, 4, 8].map(|more| head(answer, at::VERSION + more))
}

/// What an answer says of its device.
pub(super) fn info(answer: &[u8]) -> Info {
    Info {
        device: get64(answer, at::DEVICE).unwrap_or_default(),
        open: head(answer, at::OPEN_COUNT),
        suspended: has(answer, Flags::SUSPEND),
        live: has(answer, Flags::LIVE),
        leaving: has(answer, Flags::LEAVING),
    }
}

/// The part of an answer after its head.
fn body(answer: &[u8]) -> Option<&[u8]> {
    let start = usize::try_from(head(answer, at::DATA_START)).ok()?;
    let size = usize::try_from(head(answer, at::DATA_SIZE)).ok()?;
    answer.get(start..size.min(answer.len()))
}

/// The names and numbers of devices in an answer.
pub(super) fn names(answer: &[u8]) -> Result<Vec<(String, u64)>, HostError> {
    let unclear = || HostError::parse("device-mapper's list of devices", "an entry outside of it");
    let body = body(answer).ok_or_else(unclear)?;
    let (mut found, mut at) = (Vec::new(), 0);
    loop {
        let device = get64(body, at).ok_or_else(unclear)?;
        // An empty list has one entry, of nothing.
        if device == 0 {
            return Ok(found);
        }
        let next = get32(body, at + 8).ok_or_else(unclear)?;
        found.push((text(body, at + 12, NAME_ROOM).ok_or_else(unclear)?, device));
        // Counted from this entry; the last has none.
        match usize::try_from(next) {
            Ok(0) => return Ok(found),
            Ok(next) => at += next,
            Err(_) => return Err(unclear()),
        }
    }
}

/// The targets in an answer.
pub(super) fn targets(answer: &[u8]) -> Result<Vec<Target>, HostError> {
    let unclear = || HostError::parse("a device's table or status", "a target outside of it");
    let body = body(answer).ok_or_else(unclear)?;
    let mut found = Vec::new();
    let mut at = 0;
    for _ in 0..head(answer, at::TARGET_COUNT) {
        let target = Target {
            start: get64(body, at).ok_or_else(unclear)?,
            sectors: get64(body, at + 8).ok_or_else(unclear)?,
            kind: text(body, at + 24, KIND_ROOM).ok_or_else(unclear)?,
            text: text(body, at + SPEC, usize::MAX).ok_or_else(unclear)?,
        };
        found.push(target);
        // Counted from the first of them, unlike in a request.
        let next = get32(body, at + 20).ok_or_else(unclear)?;
        at = usize::try_from(next).map_err(|_| unclear())?;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thin(start: u64, text: &str) -> Target {
        Target { start, sectors: 8, kind: "thin".to_owned(), text: text.to_owned() }
    }

    /// A head with these fields, and what follows it.
    fn answer(flags: u32, targets: u32, body: &[u8]) -> Vec<u8> {
        let mut bytes = Request::new(Verb::Version).encode(0).expect("a head");
        put(&mut bytes, at::FLAGS, &flags.to_ne_bytes());
        put(&mut bytes, at::TARGET_COUNT, &targets.to_ne_bytes());
        put(&mut bytes, at::OPEN_COUNT, &2u32.to_ne_bytes());
        put(&mut bytes, at::DEVICE, &0xfc05u64.to_ne_bytes());
        bytes.extend(body);
        let size = u32::try_from(bytes.len()).expect("small");
        put(&mut bytes, at::DATA_SIZE, &size.to_ne_bytes());
        bytes
    }

    #[test]
    fn requests_have_the_numbers_of_the_header() {
        // As `strace` shows those of `dmsetup`.
        assert_eq!(Request::new(Verb::Version).number(), 0xC138_FD00);
        assert_eq!(Request::new(Verb::Create).number(), 0xC138_FD03);
        assert_eq!(Request::new(Verb::LoadTable).number(), 0xC138_FD09);
        assert_eq!(Request::new(Verb::Message).number(), 0xC138_FD0E);
    }

    #[test]
    fn a_request_says_how_long_it_is_and_what_udev_shall_do() {
        let bytes =
            Request::of(Verb::Create, "ves-101").uuid("VES-1").quiet().encode(100).expect("fits");
        assert_eq!(bytes.len(), HEAD + 100);
        assert_eq!(get32(&bytes, at::DATA_SIZE), Some(412));
        assert_eq!(get32(&bytes, at::DATA_START), Some(312));
        assert_eq!(text(&bytes, at::NAME, NAME_ROOM).as_deref(), Some("ves-101"));
        assert_eq!(text(&bytes, at::UUID, UUID_ROOM).as_deref(), Some("VES-1"));
        // No semaphore, and all four kinds of rules.
        assert_eq!(get32(&bytes, at::EVENT), Some(0x000f_0000));
    }

    #[test]
    fn what_does_not_fit_is_not_cut_but_refused() {
        let long = "u".repeat(129);
        assert!(Request::of(Verb::Create, "a").uuid(&long[..128]).encode(0).is_ok());
        assert!(Request::of(Verb::Create, "a").uuid(&long).encode(0).is_err());
        assert!(Request::of(Verb::Message, "a").message("a\0b").encode(0).is_err());
        let kind = Target { kind: "k".repeat(16), ..thin(0, "") };
        assert!(Request::of(Verb::LoadTable, "a").table(&[kind]).encode(0).is_err());
    }

    #[test]
    fn targets_are_read_as_they_were_written() {
        let table = [thin(0, "252:3 7"), thin(8, "252:3 12345678")];
        let mut bytes = Request::of(Verb::LoadTable, "a").table(&table).encode(0).expect("fits");
        assert_eq!(get32(&bytes, at::TARGET_COUNT), Some(2));
        // Each in a request counts from itself, in an answer from the first.
        assert_eq!(get32(&bytes, HEAD + 20), Some(48));
        assert_eq!(get32(&bytes, HEAD + 48 + 20), Some(56));
        put(&mut bytes, HEAD + 48 + 20, &104u32.to_ne_bytes());
        assert_eq!(targets(&bytes).expect("understood"), table);
    }

    #[test]
    fn a_list_is_read_to_its_end_and_not_further() {
        let entry = |device: u64, next: u32, name: &str| {
            let mut bytes =
                [&device.to_ne_bytes()[..], &next.to_ne_bytes(), name.as_bytes()].concat();
            bytes.resize(32, 0);
            bytes
        };
        let two = [entry(0xfc00, 32, "ves-pool"), entry(0xfc01, 0, "x")].concat();
        let expected = [("ves-pool".to_owned(), 0xfc00), ("x".to_owned(), 0xfc01)];
        assert_eq!(names(&answer(0, 0, &two)).expect("understood"), expected);
        assert_eq!(names(&answer(0, 0, &[0; 16])).expect("understood"), []);
        for broken in [entry(0xfc00, 4096, "a"), Vec::new(), vec![1; 32]] {
            assert!(names(&answer(0, 0, &broken)).is_err(), "{broken:?}");
        }
        assert!(targets(&answer(0, 1, &[0; 39])).is_err());
    }

    #[test]
    fn an_answer_says_how_its_device_is() {
        let all = info(&answer(1 << 1 | 1 << 5 | 1 << 17, 0, &[]));
        assert_eq!(
            all,
            Info { device: 0xfc05, open: 2, suspended: true, live: true, leaving: true }
        );
        let none = info(&answer(1 << 3, 0, &[]));
        assert!(!none.suspended && !none.live && !none.leaving);
        assert!(is_cut(&answer(1 << 8, 0, &[])) && !is_cut(&answer(1 << 5, 0, &[])));
        assert_eq!(version(&answer(0, 0, &[])), [4, 0, 0]);
    }
}
