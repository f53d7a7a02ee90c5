//! The clean archive, as it is written.
//!
//! Never here: what may be in it.

use std::io::{Read, Write};

use tar::{EntryType, Header};

use super::input::{Body, broken, padding};
use super::{Normaliser, own, pax};
use crate::refused::Refused;
use crate::sparse::Map;

/// The longest file of settings that gets a line; a longer one is none.
const MAX_SETTINGS: u64 = 64 << 10;

/// An entry as it comes out.
pub(super) struct Entry<'a> {
    pub(super) path: &'a [u8],
    pub(super) mode: u32,
    pub(super) uid: u64,
    pub(super) gid: u64,
    pub(super) mtime: u64,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Access control lists that still name somebody, as text: "access" or "default".
    pub(super) named: Vec<(&'static str, String)>,
}

impl<'a> Entry<'a> {
    /// Root's, without a time.
    pub(super) const fn plain(path: &'a [u8], mode: u32) -> Self {
        Self { path, mode, uid: 0, gid: 0, mtime: 0, xattrs: Vec::new(), named: Vec::new() }
    }
}

impl<W: Write> Normaliser<'_, W> {
    /// Writes a file out, of which `map` says where its data are.
    pub(super) fn file(
        &mut self,
        out: &Entry<'_>,
        map: &Map,
        body: &mut Body<'_, impl Read>,
    ) -> Result<(), Refused> {
        let holes = (map.stored() != map.size).then_some(map);
        let short = map.size <= MAX_SETTINGS && holes.is_none();
        if let Some(server) = own::settings(out.path).filter(|_| short) {
            let mut text = body.whole()?;
            if !text.windows(server.line.len()).any(|part| part == server.line) {
                if text.last().is_some_and(|byte| *byte != b'\n') {
                    text.push(b'\n');
                }
                text.extend(server.line);
                // The line is shorter than a block.
                self.count(0, 4096, body.name)?;
            }
            return self.whole(out, &text);
        }
        let before = holes.map(Map::before_data).unwrap_or_default();
        let size = map.stored() + before.len() as u64;
        self.put(out, EntryType::Regular, size, b"", holes)?;
        self.write(&before)?;
        let os = matches!(out.path, b"usr/lib/os-release" | b"etc/os-release");
        let list = self.named_lists(out.path);
        let wanted = (os || list) && map.size < 1 << 20 && holes.is_none();
        let mut keep = Vec::new();
        let mut buffer = [0u8; 1 << 16];
        while body.left > 0 {
            let most = usize::try_from(body.left).unwrap_or(usize::MAX).min(buffer.len());
            let piece = buffer.get_mut(..most).unwrap_or_default();
            body.read_exact(piece).map_err(|e| broken(&e, body.name))?;
            if wanted {
                keep.extend_from_slice(piece);
            }
            self.write(piece)?;
        }
        match (wanted, os) {
            (true, true) => self.os_release = Some(keep),
            (true, false) => drop(self.lists.insert(out.path.to_vec(), keep)),
            (false, _) => {}
        }
        self.pad(size)
    }

    /// Writes a file as a whole.
    pub(super) fn whole(&mut self, out: &Entry<'_>, text: &[u8]) -> Result<(), Refused> {
        let size = text.len() as u64;
        self.put(out, EntryType::Regular, size, b"", None)?;
        self.write(text)?;
        self.pad(size)
    }

    /// Writes, as long as there is no problem: nobody takes what has one.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        if !self.problems.is_empty() {
            return Ok(());
        }
        self.output
            .write_all(bytes)
            .map_err(|source| Refused::Io { what: "write the clean archive".to_owned(), source })
    }

    pub(super) fn pad(&mut self, size: u64) -> Result<(), Refused> {
        let zeros = [0u8; 512];
        let want = usize::try_from(padding(size)).unwrap_or_default();
        self.write(zeros.get(..want).unwrap_or_default())
    }

    /// Writes a header, with an extended one where the plain one cannot say it all. `size` is what is stored,
    /// with the map of holes.
    pub(super) fn put(
        &mut self,
        e: &Entry<'_>,
        kind: EntryType,
        size: u64,
        link: &[u8],
        holes: Option<&Map>,
    ) -> Result<(), Refused> {
        let mut pax = Vec::new();
        // The root of the tree has a name too.
        let path: &[u8] = if e.path.is_empty() { b"./" } else { e.path };
        if let Some(map) = holes {
            pax::record(&mut pax, b"GNU.sparse.major", b"1");
            pax::record(&mut pax, b"GNU.sparse.minor", b"0");
            pax::record(&mut pax, b"GNU.sparse.name", path);
            pax::record(&mut pax, b"GNU.sparse.realsize", map.size.to_string().as_bytes());
        } else if path.len() > 99 {
            pax::record(&mut pax, b"path", path);
        }
        if link.len() > 99 {
            pax::record(&mut pax, b"linkpath", link);
        }
        for (name, value) in &e.xattrs {
            pax::record(&mut pax, &[b"SCHILY.xattr.", name.as_slice()].concat(), value);
        }
        for (which, list) in &e.named {
            pax::record(&mut pax, format!("SCHILY.acl.{which}").as_bytes(), list.as_bytes());
        }
        if !pax.is_empty() {
            let header = plain_header(e, b"pax", EntryType::XHeader, pax.len() as u64, b"");
            self.write(header.as_bytes())?;
            self.write(&pax)?;
            self.pad(pax.len() as u64)?;
        }
        let header = plain_header(e, path, kind, size, link);
        self.write(header.as_bytes())
    }
}

fn plain_header(e: &Entry<'_>, path: &[u8], kind: EntryType, size: u64, link: &[u8]) -> Header {
    let mut header = Header::new_ustar();
    {
        let old = header.as_old_mut();
        for (to, from) in old.name.iter_mut().zip(path.iter().take(99)) {
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
