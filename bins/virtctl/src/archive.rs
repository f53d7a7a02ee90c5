//! A source of a template as a stream of tar bytes: an archive as it is, or a directory made into
//! one on the fly, by a thread of its own that waits for the other side to keep up.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use tokio::sync::{mpsc, oneshot};
use ves_proto::storage::{ImportTemplateRequest, import_template_request};

use crate::failure::Failure;

/// Bytes of an archive in one message; the API's greatest is 256 KiB.
const PIECE: usize = 256 * 1024;

/// Where an archive comes from.
pub(crate) enum Source {
    /// A file or stdin.
    Archive(Box<dyn Read + Send>),
    /// A tree of files.
    Directory(PathBuf),
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
            return Ok(Self::Directory(path.to_owned()));
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
            let mut pieces = Pieces { requests, buffer: Vec::with_capacity(PIECE) };
            let result = self.write(&mut pieces).and_then(|()| pieces.flush());
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

    fn write(self, to: &mut Pieces) -> std::io::Result<()> {
        match self {
            Self::Archive(mut from) => std::io::copy(&mut from, to).map(drop),
            Self::Directory(root) => {
                let mut archive = tar::Builder::new(to);
                archive.follow_symlinks(false);
                archive.sparse(false);
                append(&mut archive, &root, Path::new(""), &mut BTreeMap::new())?;
                archive.finish()
            }
        }
    }
}

/// Appends what is in `root/dir`, in the order of names; hard links as such, sockets not at all.
fn append<W: Write>(
    archive: &mut tar::Builder<W>,
    root: &Path,
    dir: &Path,
    links: &mut BTreeMap<(u64, u64), PathBuf>,
) -> std::io::Result<()> {
    let mut names: Vec<_> = std::fs::read_dir(root.join(dir))?
        .map(|entry| entry.map(|e| e.file_name()))
        .collect::<Result<_, _>>()?;
    names.sort();
    for name in names {
        let inside = dir.join(&name);
        let path = root.join(&inside);
        let metadata = path.symlink_metadata()?;
        if metadata.file_type().is_socket() {
            continue;
        }
        if metadata.is_dir() {
            archive.append_dir(&inside, &path)?;
            append(archive, root, &inside, links)?;
            continue;
        }
        if metadata.nlink() > 1 {
            match links.entry((metadata.dev(), metadata.ino())) {
                Entry::Occupied(first) => {
                    let mut header = tar::Header::new_gnu();
                    header.set_metadata(&metadata);
                    header.set_entry_type(tar::EntryType::Link);
                    header.set_size(0);
                    archive.append_link(&mut header, &inside, first.get())?;
                    continue;
                }
                Entry::Vacant(place) => {
                    place.insert(inside.clone());
                }
            }
        }
        archive.append_path_with_name(&path, &inside)?;
    }
    Ok(())
}

/// Makes messages of what is written.
struct Pieces {
    requests: mpsc::Sender<ImportTemplateRequest>,
    buffer: Vec<u8>,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let room = PIECE - self.buffer.len();
        let taken = bytes.get(..room.min(bytes.len())).unwrap_or_default();
        self.buffer.extend_from_slice(taken);
        if self.buffer.len() == PIECE {
            self.flush()?;
        }
        Ok(taken.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let data = std::mem::replace(&mut self.buffer, Vec::with_capacity(PIECE));
        let part = Some(import_template_request::Part::Data(data.into()));
        self.requests
            .blocking_send(ImportTemplateRequest { part })
            .map_err(|_| std::io::ErrorKind::BrokenPipe.into())
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
        archive.follow_symlinks(false);
        append(&mut archive, root, Path::new(""), &mut BTreeMap::new()).expect("it is readable");
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
}
