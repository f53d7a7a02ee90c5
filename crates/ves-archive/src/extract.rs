//! The writing pass: a clean archive into the file system whose root is `root`.
//!
//! It takes what `normalise` writes and nothing else: a path is opened below the root by the kernel
//! without following any symbolic link, whatever is claimed about it, and no file that exists is
//! ever opened for writing: where a path comes again, what was there is removed. Holes stay holes.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;
use tar::{EntryType, Header};

use crate::decompress::decompress;
use crate::normalise::pax_pairs;
use crate::refused::{Refused, lossy};
use crate::sparse::{Map, Unclear};

/// The most bytes an extended header may have.
const MAX_EXTENSION: u64 = 1 << 20;

struct Extractor<'a> {
    root: &'a OwnedFd,
    /// The directory used last; archives go directory by directory.
    parent: Option<(Vec<u8>, OwnedFd)>,
    /// Directories' times, which creating files in them would change again.
    times: HashMap<Vec<u8>, u64>,
}

struct Attributes {
    mode: u32,
    owner: (u32, u32),
    mtime: u64,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Writes the clean archive's contents below `root`, which should be empty.
pub(crate) fn extract(input: impl Read, root: &OwnedFd) -> Result<(), Refused> {
    let mut input = decompress(input).map_err(|e| failed(e, b"", "decode"))?;
    let mut state = Extractor { root, parent: None, times: HashMap::new() };
    // A fresh ext4 has it; e2fsck makes it again when it wants it.
    rustix::fs::unlinkat(root, "lost+found", AtFlags::REMOVEDIR).ok();
    let mut pax: Option<Vec<u8>> = None;
    loop {
        let mut header = Header::new_old();
        input.read_exact(header.as_mut_bytes()).map_err(|e| failed(e, b"", "read"))?;
        if header.as_bytes().iter().all(|b| *b == 0) {
            break;
        }
        let size = header.entry_size().map_err(|e| failed(e, b"", "read a header"))?;
        if header.entry_type() == EntryType::XHeader {
            // No clean archive has one; what follows it would be taken for headers.
            if size > MAX_EXTENSION {
                return Err(failed(
                    io::Error::from(io::ErrorKind::InvalidData),
                    b"",
                    "read an extended header of",
                ));
            }
            let mut data = Vec::new();
            let padded = size.next_multiple_of(512);
            input
                .by_ref()
                .take(padded)
                .read_to_end(&mut data)
                .map_err(|e| failed(e, b"", "read"))?;
            data.truncate(usize::try_from(size).unwrap_or_default());
            pax = Some(data);
            continue;
        }
        state.entry(&header, pax.take().as_deref(), size, &mut input)?;
    }
    for (path, mtime) in std::mem::take(&mut state.times) {
        let dir = state.open_dir(&path).map_err(|e| failed(e, &path, "open"))?;
        rustix::fs::futimens(&dir, &timestamps(mtime))
            .map_err(|e| failed(e, &path, "set the time of"))?;
    }
    rustix::fs::syncfs(root).map_err(|e| failed(e, b"", "write out"))
}

fn failed(e: impl Into<io::Error>, path: &[u8], what: &str) -> Refused {
    let source = e.into();
    match Errno::from_io_error(&source) {
        Some(Errno::NOSPC | Errno::DQUOT) => Refused::NoRoom,
        _ => Refused::Io { what: format!("{what} {:?}", lossy(path)), source },
    }
}

fn unclear() -> Refused {
    Refused::Io {
        what: "read the clean archive".to_owned(),
        source: io::Error::from(io::ErrorKind::InvalidData),
    }
}

fn timestamps(mtime: u64) -> Timestamps {
    let time = Timespec { tv_sec: i64::try_from(mtime).unwrap_or_default(), tv_nsec: 0 };
    Timestamps { last_access: time, last_modification: time }
}

fn ids(owner: (u32, u32)) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(owner.0)), Some(Gid::from_raw(owner.1)))
}

fn as_path(bytes: &[u8]) -> &Path {
    Path::new(std::ffi::OsStr::from_bytes(bytes))
}

impl Extractor<'_> {
    fn open_dir(&self, path: &[u8]) -> rustix::io::Result<OwnedFd> {
        let path = if path.is_empty() { Path::new(".") } else { as_path(path) };
        rustix::fs::openat2(
            self.root,
            path,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV,
        )
    }

    /// The directory an entry is in, and its name there.
    fn parent_of<'p>(&mut self, path: &'p [u8]) -> Result<(OwnedFd, &'p Path), Refused> {
        let cut = path.iter().rposition(|b| *b == b'/');
        let (dir, name) = match cut {
            Some(at) => {
                (path.get(..at).unwrap_or_default(), path.get(at + 1..).unwrap_or_default())
            }
            None => (&[][..], path),
        };
        if self.parent.as_ref().is_none_or(|(known, _)| known != dir) {
            let fd = self.open_dir(dir).map_err(|e| failed(e, dir, "open"))?;
            self.parent = Some((dir.to_vec(), fd));
        }
        let fd = match &self.parent {
            Some((_, fd)) => fd.try_clone().map_err(|e| failed(e, dir, "open"))?,
            None => return Err(failed(io::Error::from(io::ErrorKind::NotFound), dir, "open")),
        };
        Ok((fd, as_path(name)))
    }

    fn entry(
        &mut self,
        header: &Header,
        pax: Option<&[u8]>,
        size: u64,
        input: &mut impl Read,
    ) -> Result<(), Refused> {
        let mut path = header.path_bytes().into_owned();
        let mut link = header.link_name_bytes().map(|l| l.into_owned()).unwrap_or_default();
        let mut xattrs = Vec::new();
        // Bytes of a sparse file.
        let mut whole = None;
        for (key, value) in pax_pairs(pax.unwrap_or_default()).ok_or_else(unclear)? {
            match key {
                b"path" | b"GNU.sparse.name" => path = value.to_vec(),
                b"GNU.sparse.realsize" => {
                    let bytes = std::str::from_utf8(value).ok().and_then(|v| v.parse().ok());
                    whole = Some(bytes.ok_or_else(unclear)?);
                }
                b"linkpath" => link = value.to_vec(),
                _ => {
                    if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                        xattrs.push((name.to_vec(), value.to_vec()));
                    }
                }
            }
        }
        if path == b"./" {
            path.clear();
        }
        let id = |value: io::Result<u64>| {
            value.ok().and_then(|v| u32::try_from(v).ok()).ok_or_else(unclear)
        };
        let attributes = Attributes {
            mode: header.mode().map_err(|_| unclear())?,
            owner: (id(header.uid())?, id(header.gid())?),
            mtime: header.mtime().map_err(|_| unclear())?,
            xattrs,
        };
        let mut data = input.by_ref().take(size);
        let map = match whole {
            None => Map::whole(size),
            Some(whole) => Map::read_before_data(whole, size, &mut data),
        };
        let map = map.map_err(|e| match e {
            Unclear::Read(e) => failed(e, &path, "read the holes of"),
            Unclear::Malformed | Unclear::Pieces | Unclear::Size(_) => unclear(),
        })?;
        if map.stored() != data.limit() {
            return Err(unclear());
        }
        self.create(header.entry_type(), &path, &link, &attributes, &map, input)?;
        let padding = size.next_multiple_of(512) - size;
        io::copy(&mut input.take(padding), &mut io::sink())
            .map_err(|e| failed(e, &path, "read"))?;
        Ok(())
    }

    /// Makes something by a name of its own; what had that name is removed, and must be empty if it is a
    /// directory.
    fn make<T>(
        &mut self,
        dir: &OwnedFd,
        (name, path): (&Path, &[u8]),
        make: impl Fn() -> rustix::io::Result<T>,
    ) -> rustix::io::Result<T> {
        match make() {
            Err(Errno::EXIST) => {}
            other => return other,
        }
        match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
            Err(Errno::ISDIR) => {
                rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR)?;
                self.times.remove(path);
                self.parent = None;
            }
            other => other?,
        }
        make()
    }

    fn create(
        &mut self,
        kind: EntryType,
        path: &[u8],
        link: &[u8],
        a: &Attributes,
        map: &Map,
        input: &mut impl Read,
    ) -> Result<(), Refused> {
        if kind == EntryType::Directory {
            let dir = match self.open_dir(path) {
                Ok(dir) => dir,
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                    let (parent, name) = self.parent_of(path)?;
                    let make = || rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o700));
                    self.make(&parent, (name, path), make)
                        .map_err(|e| failed(e, path, "make the directory"))?;
                    self.open_dir(path).map_err(|e| failed(e, path, "open"))?
                }
                Err(e) => return Err(failed(e, path, "open")),
            };
            attributes(&dir, path, a)?;
            self.times.insert(path.to_vec(), a.mtime);
            return Ok(());
        }
        let (parent, name) = self.parent_of(path)?;
        let give_away = || {
            let (uid, gid) = ids(a.owner);
            rustix::fs::chownat(&parent, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|e| failed(e, path, "give away"))
        };
        let set_time = || {
            let times = timestamps(a.mtime);
            rustix::fs::utimensat(&parent, name, &times, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|e| failed(e, path, "set the time of"))
        };
        match kind {
            EntryType::Regular => {
                let flags = OFlags::WRONLY
                    | OFlags::CREATE
                    | OFlags::EXCL
                    | OFlags::NOFOLLOW
                    | OFlags::CLOEXEC;
                let make = || rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o600));
                let fd = self
                    .make(&parent, (name, path), make)
                    .map_err(|e| failed(e, path, "make the file"))?;
                let file = File::from(fd);
                copy(input, &file, map, path)?;
                attributes(&file, path, a)?;
                rustix::fs::futimens(&file, &timestamps(a.mtime))
                    .map_err(|e| failed(e, path, "set the time of"))
            }
            EntryType::Symlink => {
                let make = || rustix::fs::symlinkat(as_path(link), &parent, name);
                self.make(&parent, (name, path), make)
                    .map_err(|e| failed(e, path, "make the symbolic link"))?;
                give_away()?;
                set_time()
            }
            EntryType::Link => {
                // The target's own parent is opened without following links too.
                let cut = link.iter().rposition(|b| *b == b'/');
                let (dir, target) = match cut {
                    Some(at) => {
                        (link.get(..at).unwrap_or_default(), link.get(at + 1..).unwrap_or_default())
                    }
                    None => (&[][..], link),
                };
                let dir = self.open_dir(dir).map_err(|e| failed(e, link, "open the parent of"))?;
                let target = as_path(target);
                let make = || rustix::fs::linkat(&dir, target, &parent, name, AtFlags::empty());
                self.make(&parent, (name, path), make)
                    .map_err(|e| failed(e, path, "make the hard link"))
            }
            EntryType::Fifo => {
                let mode = Mode::from_raw_mode(0o600);
                let make = || rustix::fs::mknodat(&parent, name, FileType::Fifo, mode, 0);
                self.make(&parent, (name, path), make)
                    .map_err(|e| failed(e, path, "make the fifo"))?;
                // Opened so, it waits for nobody who writes.
                let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let fifo = rustix::fs::openat(&parent, name, flags, Mode::empty())
                    .map_err(|e| failed(e, path, "open the fifo"))?;
                attributes(&fifo, path, a)?;
                set_time()
            }
            _ => Err(failed(io::Error::from(io::ErrorKind::InvalidData), path, "understand")),
        }
    }
}

/// Owner first: giving a file away clears its setuid bit and its capabilities.
fn attributes(fd: impl AsFd, path: &[u8], a: &Attributes) -> Result<(), Refused> {
    let (uid, gid) = ids(a.owner);
    rustix::fs::fchown(&fd, uid, gid).map_err(|e| failed(e, path, "give away"))?;
    rustix::fs::fchmod(&fd, Mode::from_raw_mode(a.mode))
        .map_err(|e| failed(e, path, "set the mode of"))?;
    for (name, value) in &a.xattrs {
        rustix::fs::fsetxattr(&fd, name.as_slice(), value, XattrFlags::empty())
            .map_err(|e| failed(e, path, "set an attribute of"))?;
    }
    Ok(())
}

/// Writes the pieces of a file that have data, and makes it as long as it is.
fn copy(input: &mut impl Read, file: &File, map: &Map, path: &[u8]) -> Result<(), Refused> {
    let mut buffer = vec![0u8; 1 << 17];
    for (offset, length) in &map.pieces {
        let mut done = 0;
        while done < *length {
            let most = usize::try_from(length - done).unwrap_or(usize::MAX).min(buffer.len());
            let piece = buffer.get_mut(..most).unwrap_or_default();
            input.read_exact(piece).map_err(|e| failed(e, path, "read"))?;
            file.write_all_at(piece, offset + done).map_err(|e| failed(e, path, "write"))?;
            done += piece.len() as u64;
        }
    }
    if map.pieces.last().is_none_or(|(offset, length)| offset + length < map.size) {
        file.set_len(map.size).map_err(|e| failed(e, path, "make as long as it is"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_extended_header_that_is_too_long_is_not_cut() {
        let header = |kind, name: &[u8], size| {
            let mut header = Header::new_ustar();
            for (to, from) in header.as_old_mut().name.iter_mut().zip(name) {
                *to = *from;
            }
            header.set_entry_type(kind);
            header.set_mode(0o755);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            header.set_size(size);
            header.set_cksum();
            header.as_bytes().to_vec()
        };
        // Its value holds an entry at the place where reading would go on if it were cut.
        let mut archive = header(EntryType::XHeader, b"pax", MAX_EXTENSION + 512);
        archive.resize(archive.len() + (1 << 20), 0);
        archive.extend(header(EntryType::Directory, b"evil", 0));
        archive.extend([0; 1024]);
        let dir = tempfile::tempdir().expect("a directory");
        let root = OwnedFd::from(File::open(dir.path()).expect("opened"));
        let refused = extract(io::Cursor::new(archive), &root).expect_err("too long");
        assert!(matches!(refused, Refused::Io { .. }), "{refused} is another failure");
        assert!(!dir.path().join("evil").exists());
    }
}
