//! A source of a template as a stream of tar bytes: an archive as it is, or a directory made into
//! one on the fly, by a thread of its own that waits for the other side to keep up. Holes of files stay holes.
//!
//! Never here: a file that a name has come to mean while the tree was read.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ffi::OsString;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, SeekFrom};
use rustix::io::Errno;
use tokio::sync::{mpsc, oneshot};
use ves_proto::api::{ImportTemplateRequest, import_template_request};

use crate::failure::Failure;

/// Bytes of an archive in one message; the API's greatest is 256 KiB.
const CHUNK: usize = 256 * 1024;

/// Where an archive comes from.
pub(crate) enum Source {
    /// A file or stdin.
    Archive(Box<dyn Read + Send>),
    /// A tree of files.
    Directory(File),
}

impl Source {
    /// Opens a file, a directory, or stdin for "-".
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        if path.as_os_str() == "-" {
            return Ok(Self::Archive(Box::new(std::io::stdin())));
        }
        let wrong =
            |e: std::io::Error| Failure::local(&format!("cannot import {}", path.display()), &e);
        let file = File::open(path).map_err(wrong)?;
        if file.metadata().map_err(wrong)?.is_dir() {
            return Ok(Self::Directory(file));
        }
        Ok(Self::Archive(Box::new(file)))
    }

    /// Sends all of it, then ends the stream. Where it cannot be read, that is told by the
    /// future this answers with, and the stream stays open until nobody receives: half an archive must not
    /// look like a whole one.
    pub(crate) fn send(
        self,
        requests: mpsc::Sender<ImportTemplateRequest>,
    ) -> impl Future<Output = std::io::Error> {
        let (broken, breaks) = oneshot::channel();
        let open = requests.clone();
        std::thread::spawn(move || {
            let mut chunks = ChunkWriter { requests, buffer: Vec::with_capacity(CHUNK) };
            let result = self.write(&mut chunks).and_then(|()| chunks.flush());
            match result {
                // Dropping our ends of the stream ends it.
                Ok(()) => drop(open),
                Err(error) => {
                    drop(broken.send(error)); // nobody waits where the call ended before
                    while open.blocking_send(ImportTemplateRequest { part: None }).is_ok() {}
                }
            }
        });
        async {
            match breaks.await {
                Ok(error) => error,
                Err(_) => std::future::pending().await,
            }
        }
    }

    fn write(self, to: &mut ChunkWriter) -> std::io::Result<()> {
        match self {
            Self::Archive(mut from) => std::io::copy(&mut from, to).map(drop),
            Self::Directory(root) => {
                let mut archive = tar::Builder::new(to);
                append(&mut archive, &root, Path::new(""), &mut Links::new())?;
                archive.finish()
            }
        }
    }
}

/// What was appended so far of files with several names: the first name.
type Links = BTreeMap<(u64, u64), PathBuf>;

/// Appends what is in `dir`, in the order of names; hard links as such, sockets not at all. Each
/// file is opened once, below the descriptor of its directory and following no link: what is put into
/// its place meanwhile is not looked at.
fn append<W: Write>(
    archive: &mut tar::Builder<W>,
    dir: &File,
    inside: &Path,
    links: &mut Links,
) -> std::io::Result<()> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(OsString::from_vec(name));
        }
    }
    names.sort();
    for name in names {
        let path = inside.join(&name);
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let place = match rustix::fs::openat(dir, &name, flags, Mode::empty()) {
            Ok(place) => File::from(place),
            Err(Errno::NOENT) => continue, // it went since the directory was read
            Err(e) => return Err(e.into()),
        };
        append_one(archive, &place, &path, links)?;
    }
    Ok(())
}

/// Appends the file behind a descriptor that names it without having opened it.
fn append_one<W: Write>(
    archive: &mut tar::Builder<W>,
    place: &File,
    path: &Path,
    links: &mut Links,
) -> std::io::Result<()> {
    let metadata = place.metadata()?;
    let kind = metadata.file_type();
    let mut header = tar::Header::new_gnu();
    header.set_metadata(&metadata);
    header.set_size(0);
    if kind.is_socket() {
        return Ok(());
    }
    if kind.is_dir() {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = File::from(rustix::fs::openat(place, ".", flags, Mode::empty())?);
        append_attributes(archive, &dir)?;
        archive.append_data(&mut header, path, std::io::empty())?;
        return append(archive, &dir, path, links);
    }
    if metadata.nlink() > 1 {
        match links.entry((metadata.dev(), metadata.ino())) {
            Entry::Occupied(first) => {
                header.set_entry_type(tar::EntryType::Link);
                return archive.append_link(&mut header, path, first.get());
            }
            Entry::Vacant(place) => {
                place.insert(path.to_owned());
            }
        }
    }
    if kind.is_symlink() {
        let target = rustix::fs::readlinkat(place, "", Vec::new())?;
        let target = OsString::from_vec(target.into_bytes());
        return archive.append_link(&mut header, path, Path::new(&target));
    }
    if kind.is_file() {
        // The same file, whatever its name means by now.
        let file = File::open(format!("/proc/self/fd/{}", place.as_raw_fd()))?;
        append_attributes(archive, &file)?;
        let mut pieces = pieces(&file, metadata.len())?;
        let stored: u64 = pieces.iter().map(|(_, length)| length).sum();
        let mut map = Vec::new();
        if stored < metadata.len() {
            map = map_of(&pieces);
            append_holes(archive, path, metadata.len())?;
        }
        header.set_size(stored.saturating_add(u64::try_from(map.len()).unwrap_or(u64::MAX)));
        pieces.reverse();
        let data = map.as_slice().chain(PieceReader { file, pieces });
        return archive.append_data(&mut header, path, data);
    }
    if kind.is_char_device() || kind.is_block_device() {
        header.set_device_major(rustix::fs::major(metadata.rdev()))?;
        header.set_device_minor(rustix::fs::minor(metadata.rdev()))?;
    }
    archive.append_data(&mut header, path, std::io::empty())
}

/// The greatest value of an attribute, and list of names.
const ATTRIBUTES: usize = 64 * 1024;

/// Appends all attributes as a record for the entry that comes next; who reads it says what is kept.
fn append_attributes<W: Write>(archive: &mut tar::Builder<W>, file: &File) -> std::io::Result<()> {
    let mut names = vec![0; ATTRIBUTES];
    let length = match rustix::fs::flistxattr(file, names.as_mut_slice()) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => 0,
        Err(e) => return Err(e.into()),
    };
    let mut records = Vec::new();
    for name in names.get(..length).unwrap_or_default().split(|b| *b == 0) {
        let Some(name) = std::str::from_utf8(name).ok().filter(|name| !name.is_empty()) else {
            continue;
        };
        let mut value = vec![0; ATTRIBUTES];
        match rustix::fs::fgetxattr(file, name, value.as_mut_slice()) {
            Ok(length) => value.truncate(length),
            Err(Errno::NODATA) => continue, // it went since the names were read
            Err(e) => return Err(e.into()),
        }
        records.push((format!("SCHILY.xattr.{name}"), value));
    }
    archive.append_pax_extensions(records.iter().map(|(k, v)| (k.as_str(), v.as_slice())))
}

/// The most pieces of one file with holes; what comes after them counts as data.
const MAX_PIECES: usize = 100_000;

/// Where a file of `size` bytes has data: offset and length of each piece, in bytes. Of a file system that
/// tells of no holes it is all.
fn pieces(file: &File, size: u64) -> std::io::Result<Vec<(u64, u64)>> {
    let mut pieces = Vec::new();
    let mut at = 0;
    while at < size && pieces.len() < MAX_PIECES {
        let begin = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(begin) => begin,
            Err(Errno::NXIO) => return Ok(pieces), // nothing but a hole is left
            Err(Errno::INVAL | Errno::OPNOTSUPP) => at,
            Err(e) => return Err(e.into()),
        };
        let last = pieces.len() + 1 == MAX_PIECES;
        let end = match rustix::fs::seek(file, SeekFrom::Hole(begin)) {
            Ok(end) if !last => end.min(size),
            Ok(_) | Err(Errno::INVAL | Errno::OPNOTSUPP) => size,
            Err(Errno::NXIO) => return Ok(pieces), // it became shorter
            Err(e) => return Err(e.into()),
        };
        if begin < end {
            pieces.push((begin, end - begin));
        }
        at = end;
    }
    Ok(pieces)
}

/// The map that comes before the data of a file with holes: form 1.0 of GNU tar.
fn map_of(pieces: &[(u64, u64)]) -> Vec<u8> {
    let numbers = pieces.iter().map(|(offset, length)| format!("{offset}\n{length}\n"));
    let mut text = format!("{}\n{}", pieces.len(), numbers.collect::<String>()).into_bytes();
    text.resize(text.len().next_multiple_of(512), 0);
    text
}

/// Appends that the file that comes next has holes, and `size` bytes with them.
fn append_holes<W: Write>(
    archive: &mut tar::Builder<W>,
    path: &Path,
    size: u64,
) -> std::io::Result<()> {
    let size = size.to_string();
    archive.append_pax_extensions([
        ("GNU.sparse.major", b"1".as_slice()),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.name", path.as_os_str().as_bytes()),
        ("GNU.sparse.realsize", size.as_bytes()),
    ])
}

/// As many bytes of a file's pieces as were announced, though it may grow or shrink meanwhile.
struct PieceReader {
    file: File,
    /// Offset and length of what is not read yet, the first piece last.
    pieces: Vec<(u64, u64)>,
}

impl Read for PieceReader {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let Some((offset, length)) = self.pieces.last_mut() else { return Ok(0) };
        let most = usize::try_from(*length).unwrap_or(usize::MAX).min(buffer.len());
        let got = self.file.read_at(buffer.get_mut(..most).unwrap_or_default(), *offset)?;
        if got == 0 && !buffer.is_empty() {
            let why = "a file became shorter while it was read";
            return Err(std::io::Error::new(ErrorKind::UnexpectedEof, why));
        }
        let read = u64::try_from(got).unwrap_or(*length);
        (*offset, *length) = (*offset + read, *length - read);
        if *length == 0 {
            self.pieces.pop();
        }
        Ok(got)
    }
}

/// Makes messages of what is written.
struct ChunkWriter {
    requests: mpsc::Sender<ImportTemplateRequest>,
    buffer: Vec<u8>,
}

impl Write for ChunkWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let room = CHUNK - self.buffer.len();
        let taken = bytes.get(..room.min(bytes.len())).unwrap_or_default();
        self.buffer.extend_from_slice(taken);
        if self.buffer.len() == CHUNK {
            self.flush()?;
        }
        Ok(taken.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let data = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK));
        let part = Some(import_template_request::Part::Data(data.into()));
        self.requests
            .blocking_send(ImportTemplateRequest { part })
            .map_err(|_| ErrorKind::BrokenPipe.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_becomes_an_archive() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path();
        std::fs::create_dir(root.join("etc")).expect("etc");
        std::fs::write(root.join("etc/a"), "text").expect("a file");
        std::fs::hard_link(root.join("etc/a"), root.join("etc/b")).expect("a hard link");
        std::os::unix::fs::symlink("/nowhere", root.join("link")).expect("a link");
        let socket = std::os::unix::net::UnixListener::bind(root.join("socket")).expect("a socket");
        let mut archive = tar::Builder::new(Vec::new());
        let dir = File::open(root).expect("opened");
        append(&mut archive, &dir, Path::new(""), &mut Links::new()).expect("it is readable");
        drop(socket);
        let bytes = archive.into_inner().expect("a whole archive");
        let mut reader = tar::Archive::new(bytes.as_slice());
        let entries: Vec<(String, tar::EntryType, Option<String>)> = reader
            .entries()
            .expect("an archive")
            .map(|entry| {
                let entry = entry.expect("an entry");
                let path = entry.path().expect("a path").display().to_string();
                let link = entry.link_name().expect("a link").map(|l| l.display().to_string());
                (path, entry.header().entry_type(), link)
            })
            .collect();
        assert_eq!(
            entries,
            [
                ("etc".to_owned(), tar::EntryType::Directory, None),
                ("etc/a".to_owned(), tar::EntryType::Regular, None),
                ("etc/b".to_owned(), tar::EntryType::Link, Some("etc/a".to_owned())),
                ("link".to_owned(), tar::EntryType::Symlink, Some("/nowhere".to_owned())),
            ]
        );
    }

    /// Path, kind, attributes and contents of all in an archive of a directory.
    type Entries = Vec<(String, tar::EntryType, Vec<(String, Vec<u8>)>, Vec<u8>)>;

    fn archived(root: &Path) -> Entries {
        let mut archive = tar::Builder::new(Vec::new());
        let dir = File::open(root).expect("opened");
        append(&mut archive, &dir, Path::new(""), &mut Links::new()).expect("it is readable");
        let bytes = archive.into_inner().expect("a whole archive");
        let mut reader = tar::Archive::new(bytes.as_slice());
        let mut all = Vec::new();
        for entry in reader.entries().expect("an archive") {
            let mut entry = entry.expect("an entry");
            let path = entry.path().expect("a path").display().to_string();
            let mut attributes = Vec::new();
            for record in entry.pax_extensions().expect("readable").into_iter().flatten() {
                let record = record.expect("a record");
                let key = record.key().expect("text").to_owned();
                attributes.push((key, record.value_bytes().to_vec()));
            }
            let mut data = Vec::new();
            entry.read_to_end(&mut data).expect("whole");
            all.push((path, entry.header().entry_type(), attributes, data));
        }
        all
    }

    #[test]
    fn attributes_stay_with_their_file() {
        // Beside the test's program: the file system of temporary files may keep none.
        let program = std::env::current_exe().expect("named");
        let dir = tempfile::tempdir_in(program.parent().expect("in a directory")).expect("made");
        let long = "n".repeat(150);
        for name in ["a", "b", &long] {
            std::fs::write(dir.path().join(name), name).expect("a file");
        }
        for name in ["a", &long] {
            let set = rustix::fs::setxattr(
                dir.path().join(name),
                "user.note",
                b"x=\0y",
                rustix::fs::XattrFlags::empty(),
            );
            let there = set != Err(Errno::OPNOTSUPP);
            let what = "a file system with attributes of users";
            ves_kit::need!(ves_kit::need::kernel(what, there, "that of the test's program is not"));
            set.expect("set");
        }
        let note = vec![("SCHILY.xattr.user.note".to_owned(), b"x=\0y".to_vec())];
        let regular = tar::EntryType::Regular;
        let entry = |name: &str, notes| (name.to_owned(), regular, notes, name.into());
        let want = [entry("a", note.clone()), entry("b", vec![]), entry(&long, note)];
        assert_eq!(archived(dir.path()), want);
    }

    #[test]
    fn holes_are_not_sent() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("lastlog");
        let file =
            File::options().read(true).write(true).create_new(true).open(&path).expect("made");
        let size = (64 << 20) + 5;
        file.write_all_at(b"begin", 1 << 20).expect("written");
        file.write_all_at(b"end", size - 3).expect("written");
        let there = pieces(&file, size).expect("seen");
        let stored: u64 = there.iter().map(|(_, length)| length).sum();
        let tells = stored < 1 << 20;
        let what = "a file system that tells of holes";
        ves_kit::need!(ves_kit::need::kernel(what, tells, "that of temporary files does not"));
        let mut archive = tar::Builder::new(Vec::new());
        let root = File::open(dir.path()).expect("opened");
        append(&mut archive, &root, Path::new(""), &mut Links::new()).expect("it is readable");
        let bytes = archive.into_inner().expect("a whole archive");
        assert!(bytes.len() < 1 << 20, "{} bytes", bytes.len());
        let mut reader = tar::Archive::new(bytes.as_slice());
        let mut entry = reader.entries().expect("an archive").next().expect("one").expect("good");
        let said: Vec<(String, Vec<u8>)> = entry
            .pax_extensions()
            .expect("readable")
            .into_iter()
            .flatten()
            .map(|r| r.map(|r| (r.key().expect("text").to_owned(), r.value_bytes().to_vec())))
            .collect::<Result<_, _>>()
            .expect("records");
        let said = |key: &str| said.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_slice());
        assert_eq!(said("GNU.sparse.realsize"), Some(size.to_string().as_bytes()));
        assert_eq!(said("GNU.sparse.name"), Some(&b"lastlog"[..]));
        let mut data = Vec::new();
        entry.read_to_end(&mut data).expect("whole");
        let map = map_of(&there);
        assert_eq!(data.get(..map.len()), Some(map.as_slice()));
        assert_eq!(data.len() as u64, map.len() as u64 + stored);
        assert!(data.ends_with(b"end"));
        let text = String::from_utf8_lossy(&map);
        let mut numbers = text.lines().filter_map(|n| n.parse::<u64>().ok());
        assert_eq!(numbers.next(), u64::try_from(there.len()).ok());
        assert_eq!(numbers.next(), there.first().map(|(offset, _)| *offset));
        // One that becomes shorter is not made up.
        file.set_len(1 << 20).expect("cut");
        let mut reader = PieceReader { file, pieces: vec![(size - 3, 3)] };
        let cut = reader.read(&mut [0; 8]).expect_err("it is gone");
        assert_eq!(cut.kind(), ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_directory_that_becomes_a_link_meanwhile_leads_nowhere() {
        use std::sync::atomic::{AtomicBool, Ordering};
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        for name in ["root", "root/d", "outside"] {
            std::fs::create_dir(at(name)).expect("made");
        }
        std::fs::write(at("root/d/own"), "own").expect("a file");
        std::fs::write(at("outside/secret"), "secret").expect("a file");
        std::os::unix::fs::symlink(at("outside"), at("other")).expect("a link");
        let (from, to) = (at("root/d"), at("other"));
        let stop = AtomicBool::new(false);
        let seen = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let flags = rustix::fs::RenameFlags::EXCHANGE;
                    let cwd = rustix::fs::CWD;
                    rustix::fs::renameat_with(cwd, &from, cwd, &to, flags).expect("swapped");
                }
            });
            let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
            let mut seen = std::collections::BTreeSet::new();
            for n in 0.. {
                if (n >= 500 && seen.len() > 1) || std::time::Instant::now() > end {
                    break;
                }
                let entries = archived(&at("root"));
                seen.insert(entries.iter().map(|e| e.0.clone()).collect::<Vec<_>>());
            }
            stop.store(true, Ordering::Relaxed);
            seen
        });
        let link = vec!["d".to_owned()];
        let whole = vec!["d".to_owned(), "d/own".to_owned()];
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [link, whole]);
    }
}
