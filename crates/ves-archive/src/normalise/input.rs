//! Headers and data of an archive, as they stand there.
//!
//! Never here: what becomes of them.

use std::io::{self, Read};

use tar::{EntryType, Header};

use super::WHITEOUTS;
use super::pax::Extended;
use crate::decompress::foreign;
use crate::refused::Refused;
use crate::sparse::Unclear;

const BLOCK: u64 = 512;

/// The next header, or `None` at the end, which must be marked.
pub(super) fn next_header(input: &mut impl Read, first: bool) -> Result<Option<Header>, Refused> {
    let mut header = Header::new_old();
    let mut got = 0;
    while let Some(rest) = header.as_mut_bytes().get_mut(got..).filter(|rest| !rest.is_empty()) {
        match input.read(rest) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(broken(&e, b"")),
        }
    }
    let bytes = header.as_bytes();
    if got == bytes.len() && bytes.iter().all(|b| *b == 0) {
        return Ok(None);
    }
    let sum: u32 = bytes
        .iter()
        .enumerate()
        .map(|(at, b)| if (148..156).contains(&at) { 32 } else { u32::from(*b) })
        .sum();
    if got == bytes.len() && header.cksum().is_ok_and(|stored| stored == sum) {
        return Ok(Some(header));
    }
    Err(match foreign(bytes).filter(|_| first) {
        Some(what) => Refused::bad(b"", format!("it is {what}")),
        None if got < bytes.len() => broken(&io::ErrorKind::UnexpectedEof.into(), b""),
        None => {
            Refused::bad(b"", "it is no tar archive, or is damaged: a header's checksum is wrong")
        }
    })
}

pub(super) fn broken(e: &io::Error, entry: &[u8]) -> Refused {
    if e.kind() == io::ErrorKind::UnexpectedEof {
        Refused::bad(entry, "the archive ends in the middle")
    } else {
        Refused::bad(entry, format!("it does not decode: {e}"))
    }
}

/// The data of an entry.
pub(super) struct Body<'a, R> {
    pub(super) input: &'a mut R,
    pub(super) name: &'a [u8],
    /// Bytes that were not read yet, without padding.
    pub(super) left: u64,
    pub(super) padding: u64,
}

impl<R: Read> Read for Body<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.input.by_ref().take(self.left).read(buffer)?;
        self.left -= got as u64;
        Ok(got)
    }
}

impl<R: Read> Body<'_, R> {
    /// All that is left of it, which has a bound.
    pub(super) fn whole(&mut self) -> Result<Vec<u8>, Refused> {
        let mut data = vec![0; usize::try_from(self.left).unwrap_or_default()];
        self.read_exact(&mut data).map_err(|e| broken(&e, self.name))?;
        Ok(data)
    }
}

/// A number of a header, which is none where nothing is written.
pub(super) fn number(field: &[u8], value: io::Result<u64>) -> io::Result<u64> {
    if field.iter().all(|b| matches!(b, 0 | b' ')) { Ok(0) } else { value }
}

/// What a device node is called that is left out.
pub(super) fn device(header: &Header) -> &'static str {
    let number = |n: io::Result<Option<u32>>| n.ok().flatten();
    let device = (number(header.device_major()), number(header.device_minor()));
    match header.entry_type() {
        EntryType::Char if device == (Some(0), Some(0)) => WHITEOUTS,
        _ => "device nodes",
    }
}

/// What a link leads to, as it is written.
pub(super) fn link_of(header: &Header, ext: &mut Extended) -> Vec<u8> {
    let plain = || header.link_name_bytes().map(std::borrow::Cow::into_owned);
    ext.link.take().or_else(plain).unwrap_or_default()
}

pub(super) fn unclear(e: Unclear, name: &[u8]) -> Refused {
    match e {
        Unclear::Read(e) => broken(&e, name),
        Unclear::Malformed => Refused::bad(name, e),
        Unclear::Pieces | Unclear::Size(_) => Refused::too_large(name, e),
    }
}

/// Reads over exactly so many bytes.
pub(super) fn skip(want: u64, input: &mut impl Read, entry: &[u8]) -> Result<(), Refused> {
    let got = io::copy(&mut input.take(want), &mut io::sink()).map_err(|e| broken(&e, entry))?;
    if got == want { Ok(()) } else { Err(Refused::bad(entry, "the archive ends in the middle")) }
}

pub(super) const fn padding(size: u64) -> u64 {
    (BLOCK - size % BLOCK) % BLOCK
}

pub(super) fn c_string(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|b| *b == 0) {
        bytes.truncate(end);
    }
    bytes
}
