//! The judging pass: an archive of anybody in, an equivalent harmless one out.
//!
//! Of what comes out is true: every path is relative and without `.` or `..`; each directory comes
//! before what is in it; nothing is below a symbolic link or a file; no path comes twice, except a
//! directory to change its attributes; a hard link's target is an earlier entry; there are files,
//! directories, symbolic and hard links and fifos only; owners are from 0 to 65534.
//! What would make two systems the same one, such as the machine id, the host name and the keys of the
//! SSH server, is left out ([`own`]).

use std::collections::HashMap;
use std::io::{self, Read, Write};

use tar::{EntryType, Header};

use self::pax::Extended;
pub(crate) use self::pax::pairs as pax_pairs;
use crate::contents::{Contents, Init, Limits};
use crate::decompress::decompress;
use crate::refused::{Refused, lossy};

mod own;
mod pax;

/// The greatest owner that is mapped into a container.
const MAX_ID: u64 = 65_534;
/// The most bytes the extended headers of one entry may have.
const MAX_EXTENSION: u64 = 64 << 10;
/// The longest file of settings that gets a line; a longer one is none.
const MAX_SETTINGS: u64 = 64 << 10;
const BLOCK: u64 = 512;
/// Emptied: systemd makes one at the first start.
const MACHINE_ID: &[u8] = b"etc/machine-id";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Dir,
    File,
    Symlink,
    Fifo,
    /// Known, and left out.
    Skipped,
}

struct Normaliser<'a, W: Write> {
    limits: Limits,
    tree: HashMap<Vec<u8>, Kind>,
    symlinks_of_init: Option<Vec<u8>>,
    os_release: Option<Vec<u8>>,
    bytes: u64,
    inodes: u64,
    /// Bytes that were read over.
    passed: u64,
    devices_skipped: u64,
    output: &'a mut W,
}

/// Reads an archive, compressed in any known way, and writes it clean and without compression.
///
/// # Errors
/// [`Refused`]: what is wrong with which entry, or what failed.
pub fn normalise(
    input: impl Read,
    output: &mut impl Write,
    limits: Limits,
) -> Result<Contents, Refused> {
    let mut input =
        decompress(input).map_err(|e| Refused::bad(b"", format!("it does not decode: {e}")))?;
    let mut state = Normaliser {
        limits,
        tree: HashMap::from([(Vec::new(), Kind::Dir)]),
        symlinks_of_init: None,
        os_release: None,
        bytes: 4096,
        inodes: 1,
        passed: 0,
        devices_skipped: 0,
        output,
    };
    let mut extended = Extended::default();
    let mut headers = 0u64;
    while let Some(header) = next_header(&mut input)? {
        headers += 1;
        // Also headers that stand for no inode must end some time.
        if headers > limits.inodes.saturating_mul(4).saturating_add(16) {
            return Err(Refused::too_large(b"", "too many headers"));
        }
        state.entry(&header, &mut extended, &mut input)?;
    }
    if headers == 0 {
        return Err(Refused::bad(b"", "it holds nothing"));
    }
    // What follows the end is padding; reading it lets the sender finish and be checked.
    let mut rest = input.take(limits.bytes);
    io::copy(&mut rest, &mut io::sink())
        .map_err(|e| Refused::bad(b"", format!("it does not decode: {e}")))?;
    state.finish()
}

/// The next header, or `None` at the end, which must be marked.
fn next_header(input: &mut impl Read) -> Result<Option<Header>, Refused> {
    let mut header = Header::new_old();
    read_exactly(input, header.as_mut_bytes(), b"")?;
    if header.as_bytes().iter().all(|b| *b == 0) {
        return Ok(None);
    }
    let bytes = header.as_bytes();
    let sum: u32 = bytes
        .iter()
        .enumerate()
        .map(|(at, b)| if (148..156).contains(&at) { 32 } else { u32::from(*b) })
        .sum();
    match header.cksum() {
        Ok(stored) if stored == sum => Ok(Some(header)),
        _ => Err(Refused::bad(
            b"",
            "it is no tar archive, or is damaged: a header's checksum is wrong",
        )),
    }
}

fn read_exactly(input: &mut impl Read, buffer: &mut [u8], entry: &[u8]) -> Result<(), Refused> {
    input.read_exact(buffer).map_err(|e| broken(&e, entry))
}

fn broken(e: &io::Error, entry: &[u8]) -> Refused {
    if e.kind() == io::ErrorKind::UnexpectedEof {
        Refused::bad(entry, "the archive ends in the middle")
    } else {
        Refused::bad(entry, format!("it does not decode: {e}"))
    }
}

impl<W: Write> Normaliser<'_, W> {
    fn entry(
        &mut self,
        header: &Header,
        extended: &mut Extended,
        input: &mut impl Read,
    ) -> Result<(), Refused> {
        let raw_name = header.path_bytes().into_owned();
        let size =
            header.entry_size().map_err(|_| Refused::bad(&raw_name, "its size is no number"))?;
        match header.entry_type() {
            EntryType::GNULongName => {
                extended.path = Some(c_string(self.extension(&raw_name, size, input)?));
                return Ok(());
            }
            EntryType::GNULongLink => {
                extended.link = Some(c_string(self.extension(&raw_name, size, input)?));
                return Ok(());
            }
            EntryType::XHeader => {
                let data = self.extension(&raw_name, size, input)?;
                return extended.read(&data, &raw_name);
            }
            EntryType::XGlobalHeader => {
                // Comments, such as git's commit id; nothing in it that an entry must have.
                self.extension(&raw_name, size, input)?;
                return Ok(());
            }
            _ => {}
        }
        let ext = std::mem::take(extended);
        let name = ext.path.unwrap_or(raw_name);
        if ext.sparse {
            return Err(Refused::bad(
                &name,
                "it is a sparse file; make the archive without --sparse",
            ));
        }
        if ext.size.is_some_and(|s| s != size) {
            return Err(Refused::bad(&name, "its two sizes differ, or it is larger than 8 GiB"));
        }
        let path = self.clean(&name, &name)?;
        let number = |value: io::Result<u64>, what: &str| {
            value.map_err(|_| Refused::bad(&name, format!("its {what} is no number")))
        };
        let uid = ext.uid.map_or_else(|| number(header.uid(), "owner"), Ok)?;
        let gid = ext.gid.map_or_else(|| number(header.gid(), "group"), Ok)?;
        if uid > MAX_ID || gid > MAX_ID {
            let why =
                format!("its owner {uid}:{gid} does not exist in a container, 65534 is the last");
            return Err(Refused::bad(&name, why));
        }
        let mode =
            header.mode().map_err(|_| Refused::bad(&name, "its mode is no number"))? & 0o7777;
        let mtime = ext.mtime.unwrap_or_else(|| header.mtime().unwrap_or(0));
        let link = ext
            .link
            .or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned))
            .unwrap_or_default();
        let out = Entry { path: &path, mode, uid, gid, mtime, xattrs: &ext.xattrs };
        let skip = own::is_own(&path);
        match header.entry_type() {
            // Old archives mark directories by a slash at the end.
            EntryType::Regular | EntryType::Continuous if !name.ends_with(b"/") => {
                if skip {
                    self.note(&path, Kind::Skipped, &name)?;
                    return self.pass(size, input, &name);
                }
                self.note(&path, Kind::File, &name)?;
                let kept = if path == MACHINE_ID { 0 } else { size };
                self.count(1, kept, &name)?;
                self.file(&out, size, input, &name)
            }
            EntryType::Directory | EntryType::Regular => {
                if self.note(&path, Kind::Dir, &name)? {
                    self.count(1, 1, &name)?;
                }
                self.put(&out, EntryType::Directory, 0, b"")?;
                self.pass(size, input, &name)
            }
            EntryType::Symlink => {
                if link.is_empty() || link.len() > 4095 || link.contains(&0) {
                    return Err(Refused::bad(
                        &name,
                        "its link target is empty or longer than 4095 bytes",
                    ));
                }
                if matches!(path.as_slice(), b"sbin/init" | b"usr/sbin/init") {
                    self.symlinks_of_init = Some(link.clone());
                }
                self.note(&path, Kind::Symlink, &name)?;
                self.count(1, if link.len() > 59 { 1 } else { 0 }, &name)?;
                self.put(&out, EntryType::Symlink, 0, &link)?;
                self.pass(size, input, &name)
            }
            EntryType::Link => {
                let target = self.clean(&link, &name)?;
                match self.tree.get(&target) {
                    Some(Kind::File | Kind::Symlink | Kind::Fifo) => {}
                    Some(Kind::Skipped) => {
                        self.note(&path, Kind::Skipped, &name)?;
                        return self.pass(size, input, &name);
                    }
                    Some(Kind::Dir) => {
                        return Err(Refused::bad(&name, "it is a hard link to a directory"));
                    }
                    None => {
                        let why = format!(
                            "it is a hard link to {:?}, which no earlier entry is",
                            lossy(&link)
                        );
                        return Err(Refused::bad(&name, why));
                    }
                }
                self.note(&path, Kind::File, &name)?;
                self.put(&out, EntryType::Link, 0, &target)?;
                self.pass(size, input, &name)
            }
            EntryType::Fifo => {
                self.note(&path, Kind::Fifo, &name)?;
                self.count(1, 0, &name)?;
                self.put(&out, EntryType::Fifo, 0, b"")?;
                self.pass(size, input, &name)
            }
            EntryType::Char | EntryType::Block => {
                if !path.starts_with(b"dev/") {
                    return Err(Refused::bad(&name, "it is a device node outside dev/"));
                }
                self.note(&path, Kind::Skipped, &name)?;
                self.devices_skipped += 1;
                self.pass(size, input, &name)
            }
            EntryType::GNUSparse => {
                Err(Refused::bad(&name, "it is a sparse file; make the archive without --sparse"))
            }
            other => {
                let why = format!("its type {:?} is unknown", char::from(other.as_byte()));
                Err(Refused::bad(&name, why))
            }
        }
    }

    /// The path without leading slashes and dots.
    fn clean(&self, path: &[u8], entry: &[u8]) -> Result<Vec<u8>, Refused> {
        let mut clean = Vec::with_capacity(path.len());
        let mut depth = 0;
        if path.contains(&0) {
            return Err(Refused::bad(entry, "its path holds a NUL"));
        }
        for part in path.split(|b| *b == b'/') {
            match part {
                b"" | b"." => {}
                b".." => return Err(Refused::bad(entry, "its path holds \"..\"")),
                _ if part.len() > 255 => {
                    return Err(Refused::too_large(entry, "a name has more than 255 bytes"));
                }
                _ => {
                    if !clean.is_empty() {
                        clean.push(b'/');
                    }
                    clean.extend_from_slice(part);
                    depth += 1;
                }
            }
        }
        if clean.len() > self.limits.path_bytes {
            let limit = format!("a path has more than {} bytes", self.limits.path_bytes);
            return Err(Refused::too_large(entry, limit));
        }
        if depth > self.limits.depth {
            let limit = format!("a path has more than {} parts", self.limits.depth);
            return Err(Refused::too_large(entry, limit));
        }
        Ok(clean)
    }

    /// Takes a path into the tree; says whether it is new. Directories that were never named come
    /// into being.
    fn note(&mut self, path: &[u8], kind: Kind, entry: &[u8]) -> Result<bool, Refused> {
        for (at, _) in path.iter().enumerate().filter(|(_, b)| **b == b'/') {
            let parent = path.get(..at).unwrap_or_default();
            match self.tree.get(parent) {
                Some(Kind::Dir) => {}
                Some(Kind::Symlink) => {
                    let why = format!("it lies below the symbolic link {:?}", lossy(parent));
                    return Err(Refused::bad(entry, why));
                }
                Some(Kind::File | Kind::Fifo | Kind::Skipped) => {
                    let why = format!("it lies below {:?}, which is no directory", lossy(parent));
                    return Err(Refused::bad(entry, why));
                }
                None => {
                    let parent = parent.to_vec();
                    self.count(1, 1, entry)?;
                    let plain =
                        Entry { path: &parent, mode: 0o755, uid: 0, gid: 0, mtime: 0, xattrs: &[] };
                    self.put(&plain, EntryType::Directory, 0, b"")?;
                    self.tree.insert(parent, Kind::Dir);
                }
            }
        }
        match (self.tree.get(path), kind) {
            (None, _) => {
                self.tree.insert(path.to_vec(), kind);
                Ok(true)
            }
            (Some(Kind::Dir), Kind::Dir) => Ok(false),
            _ => Err(Refused::bad(entry, "the archive has it twice")),
        }
    }

    fn count(&mut self, inodes: u64, bytes: u64, entry: &[u8]) -> Result<(), Refused> {
        self.inodes = self.inodes.saturating_add(inodes);
        self.bytes = self.bytes.saturating_add(bytes.div_ceil(4096).saturating_mul(4096));
        if self.inodes > self.limits.inodes {
            let limit = format!("it has more than {} files", self.limits.inodes);
            return Err(Refused::too_large(entry, limit));
        }
        if self.bytes > self.limits.bytes {
            let limit = format!("its files take more than {} bytes", self.limits.bytes);
            return Err(Refused::too_large(entry, limit));
        }
        Ok(())
    }

    fn extension(
        &self,
        entry: &[u8],
        size: u64,
        input: &mut impl Read,
    ) -> Result<Vec<u8>, Refused> {
        if size > MAX_EXTENSION {
            let limit = format!("an extended header has more than {MAX_EXTENSION} bytes");
            return Err(Refused::too_large(entry, limit));
        }
        let mut data = vec![0; usize::try_from(size).unwrap_or_default()];
        read_exactly(input, &mut data, entry)?;
        skip(padding(size), input, entry)?;
        Ok(data)
    }

    /// Reads over `size` bytes, with padding, that are not wanted.
    fn pass(&mut self, size: u64, input: &mut impl Read, entry: &[u8]) -> Result<(), Refused> {
        self.passed = self.passed.saturating_add(size);
        if self.passed > self.limits.bytes {
            return Err(Refused::too_large(
                entry,
                format!("what is left out has more than {} bytes", self.limits.bytes),
            ));
        }
        skip(size.saturating_add(padding(size)), input, entry)
    }

    fn file(
        &mut self,
        out: &Entry<'_>,
        size: u64,
        input: &mut impl Read,
        name: &[u8],
    ) -> Result<(), Refused> {
        if out.path == MACHINE_ID {
            self.put(out, EntryType::Regular, 0, b"")?;
            return self.pass(size, input, name);
        }
        if let Some(server) = own::settings(out.path).filter(|_| size <= MAX_SETTINGS) {
            let mut text = vec![0; usize::try_from(size).unwrap_or_default()];
            read_exactly(input, &mut text, name)?;
            skip(padding(size), input, name)?;
            if !text.windows(server.line.len()).any(|part| part == server.line) {
                if text.last().is_some_and(|byte| *byte != b'\n') {
                    text.push(b'\n');
                }
                text.extend(server.line);
                self.count(0, text.len() as u64, name)?;
            }
            return self.whole(out, &text);
        }
        self.put(out, EntryType::Regular, size, b"")?;
        let wanted = matches!(out.path, b"usr/lib/os-release" | b"etc/os-release") && size < 65_536;
        let mut keep = Vec::new();
        let mut left = size;
        let mut buffer = [0u8; 1 << 16];
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            let piece = buffer.get_mut(..most).unwrap_or_default();
            read_exactly(input, piece, name)?;
            if wanted {
                keep.extend_from_slice(piece);
            }
            self.write(piece)?;
            left -= piece.len() as u64;
        }
        if wanted {
            self.os_release = Some(keep);
        }
        skip(padding(size), input, name)?;
        self.pad(size)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        self.output
            .write_all(bytes)
            .map_err(|source| Refused::Io { what: "write the clean archive".to_owned(), source })
    }

    fn pad(&mut self, size: u64) -> Result<(), Refused> {
        let zeros = [0u8; 512];
        let want = usize::try_from(padding(size)).unwrap_or_default();
        self.write(zeros.get(..want).unwrap_or_default())
    }

    /// Writes a header, with an extended one where the plain one cannot say it all.
    fn put(
        &mut self,
        e: &Entry<'_>,
        kind: EntryType,
        size: u64,
        link: &[u8],
    ) -> Result<(), Refused> {
        let mut pax = Vec::new();
        // The root of the tree has a name too.
        let path: &[u8] = if e.path.is_empty() { b"./" } else { e.path };
        if path.len() > 99 {
            pax::record(&mut pax, b"path", path);
        }
        if link.len() > 99 {
            pax::record(&mut pax, b"linkpath", link);
        }
        for (name, value) in e.xattrs {
            pax::record(&mut pax, &[b"SCHILY.xattr.", name.as_slice()].concat(), value);
        }
        if !pax.is_empty() {
            let header =
                plain_header(&e.with_path(b"pax"), EntryType::XHeader, pax.len() as u64, b"");
            self.write(header.as_bytes())?;
            self.write(&pax)?;
            self.pad(pax.len() as u64)?;
        }
        let header = plain_header(&e.with_path(path), kind, size, link);
        self.write(header.as_bytes())
    }

    /// Writes a file as a whole.
    fn whole(&mut self, out: &Entry<'_>, text: &[u8]) -> Result<(), Refused> {
        let size = text.len() as u64;
        self.put(out, EntryType::Regular, size, b"")?;
        self.write(text)?;
        self.pad(size)
    }

    /// Adds a file of root's that the archive does not have.
    fn add(&mut self, path: &[u8], text: &[u8]) -> Result<(), Refused> {
        if self.tree.contains_key(path) {
            return Ok(());
        }
        self.note(path, Kind::File, path)?;
        self.count(1, text.len() as u64, path)?;
        let out = Entry { path, mode: 0o644, uid: 0, gid: 0, mtime: 0, xattrs: &[] };
        self.whole(&out, text)
    }

    fn finish(mut self) -> Result<Contents, Refused> {
        for server in &own::SERVERS {
            let has = |path: &[u8]| self.tree.contains_key(path);
            if server.units().iter().any(|unit| has(unit)) {
                self.add(server.drop_in, server.text)?;
            }
            if self.tree.contains_key(server.script) {
                self.add(server.settings, server.line)?;
            }
        }
        self.write(&[0; 1024])?;
        self.output
            .flush()
            .map_err(|source| Refused::Io { what: "write the clean archive".to_owned(), source })?;
        let has = |path: &[u8]| self.tree.contains_key(path);
        let init = match &self.symlinks_of_init {
            Some(target) if target.windows(7).any(|w| w == b"systemd") => Init::Systemd,
            Some(_) => Init::Other,
            None if !has(b"sbin/init") && !has(b"usr/sbin/init") => Init::Absent,
            None if has(b"etc/inittab") || has(b"usr/share/sysvinit/inittab") => Init::Sysvinit,
            None => Init::Other,
        };
        let os = self.os_release.as_deref().map(String::from_utf8_lossy).and_then(|text| {
            let line = text.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="))?;
            Some(
                line.trim_matches(['"', '\''])
                    .chars()
                    .filter(|c| !c.is_control())
                    .take(100)
                    .collect(),
            )
        });
        Ok(Contents {
            bytes: self.bytes,
            inodes: self.inodes,
            init,
            os,
            devices_skipped: self.devices_skipped,
        })
    }
}

struct Entry<'a> {
    path: &'a [u8],
    mode: u32,
    uid: u64,
    gid: u64,
    mtime: u64,
    xattrs: &'a [(Vec<u8>, Vec<u8>)],
}

impl<'a> Entry<'a> {
    const fn with_path(&self, path: &'a [u8]) -> Self {
        Self { path, mode: self.mode, uid: self.uid, gid: self.gid, mtime: self.mtime, xattrs: &[] }
    }
}

/// Reads over exactly so many bytes.
fn skip(want: u64, input: &mut impl Read, entry: &[u8]) -> Result<(), Refused> {
    let got = io::copy(&mut input.take(want), &mut io::sink()).map_err(|e| broken(&e, entry))?;
    if got == want { Ok(()) } else { Err(Refused::bad(entry, "the archive ends in the middle")) }
}

const fn padding(size: u64) -> u64 {
    (BLOCK - size % BLOCK) % BLOCK
}

fn c_string(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|b| *b == 0) {
        bytes.truncate(end);
    }
    bytes
}

fn plain_header(e: &Entry<'_>, kind: EntryType, size: u64, link: &[u8]) -> Header {
    let mut header = Header::new_ustar();
    {
        let old = header.as_old_mut();
        for (to, from) in old.name.iter_mut().zip(e.path.iter().take(99)) {
            *to = *from;
        }
        for (to, from) in old.linkname.iter_mut().zip(link.iter().take(99)) {
            *to = *from;
        }
    }
    header.set_entry_type(kind);
    header.set_mode(e.mode);
    header.set_uid(e.uid);
    header.set_gid(e.gid);
    header.set_mtime(e.mtime);
    header.set_size(size);
    header.set_cksum();
    header
}

#[cfg(test)]
mod tests;
