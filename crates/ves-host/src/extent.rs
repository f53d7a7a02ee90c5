//! What a file shares with others, by `FIEMAP`.

#![allow(unsafe_code, reason = "extents are asked for by ioctl")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use crate::error::{Attempt, HostError};

/// `FS_IOC_FIEMAP`: `_IOWR('f', 11, struct fiemap)`.
const FIEMAP: libc::Ioctl = 0xC020_660B;
const FLAG_SYNC: u32 = 1;
const EXTENT_LAST: u32 = 0x1;
const EXTENT_SHARED: u32 = 0x2000;
/// Extents asked for at once.
const MANY: usize = 256;

/// `struct fiemap_extent` of `linux/fiemap.h`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Extent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved64: [u64; 2],
    flags: u32,
    reserved: [u32; 3],
}

/// `struct fiemap` with room for its extents.
#[repr(C)]
struct Request {
    start: u64,
    length: u64,
    flags: u32,
    mapped: u32,
    count: u32,
    reserved: u32,
    extents: [Extent; MANY],
}

/// Bytes of a file that no other file shares; `None` where the file system does not tell.
///
/// # Errors
/// [`HostError::Sys`].
pub fn own_bytes(file: &File) -> Result<Option<u64>, HostError> {
    const EMPTY: Extent = Extent {
        logical: 0,
        physical: 0,
        length: 0,
        reserved64: [0; 2],
        flags: 0,
        reserved: [0; 3],
    };
    let (mut own, mut start) = (0u64, 0u64);
    loop {
        let mut request = Request {
            start,
            length: u64::MAX - start,
            flags: FLAG_SYNC,
            mapped: 0,
            count: u32::try_from(MANY).unwrap_or_default(),
            reserved: 0,
            extents: [EMPTY; MANY],
        };
        // SAFETY: `request` has the layout of the kernel's structure with room for `count` extents,
        // and lives through the call; all bit patterns are valid for it.
        let result = unsafe { libc::ioctl(file.as_raw_fd(), FIEMAP, &raw mut request) };
        if result < 0 {
            let error = io::Error::last_os_error();
            return match error.raw_os_error() {
                Some(libc::EOPNOTSUPP | libc::ENOTTY) => Ok(None),
                _ => Err(error).attempt(|| "ask for a file's extents".to_owned()),
            };
        }
        let mapped = usize::try_from(request.mapped).unwrap_or_default();
        let extents = request.extents.get(..mapped).unwrap_or_default();
        let alone = extents.iter().filter(|e| e.flags & EXTENT_SHARED == 0);
        own = alone.fold(own, |sum, e| sum.saturating_add(e.length));
        match extents.last() {
            Some(last) if last.flags & EXTENT_LAST == 0 => {
                start = last.logical.saturating_add(last.length);
            }
            Some(_) | None => return Ok(Some(own)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn what_nobody_shares_is_a_files_own() {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(&[1; 65_536]).expect("written");
        // A file system without extents does not tell.
        assert!(own_bytes(&file).expect("asked").is_none_or(|own| own >= 65_536));
    }
}
