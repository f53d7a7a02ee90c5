//! Extended headers of an archive: what they say of an entry, read and written.
//!
//! ```text
//! global (type g) ─► of every entry ─┐
//! GNU long names, pax (type x)  ─────┴─► of the next entry
//! ```
//!
//! Nothing is judged here but form and length; what an entry cannot be without and what is not understood
//! is a problem of that entry.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::MAX_EXTENSION;
use crate::acl::Acl;
use crate::refused::{Problem, Refused};
use crate::sparse;

/// libarchive writes no padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The most bytes that ext4 keeps of one file's attributes: a block, but for its head and its end.
const ROOM: usize = 4096 - 32 - 4;

/// What extended headers said about the next entry.
#[derive(Debug, Default, Clone)]
pub(super) struct Extended {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) size: Option<u64>,
    pub(super) mtime: Option<u64>,
    pub(super) sparse: sparse::Said,
    /// The names in a directory when an incremental backup was made of it.
    pub(super) dumpdir: Option<Vec<u8>>,
    pub(super) access: Option<Acl>,
    pub(super) default: Option<Acl>,
    /// `security.capability`.
    pub(super) capability: Option<Vec<u8>>,
    /// Attributes of users, with their whole names.
    pub(super) user: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Names of attributes that mean nothing in a container.
    pub(super) others: Vec<Vec<u8>>,
    /// What was not understood.
    problem: Option<&'static str>,
    /// Bytes of all headers of this entry.
    bytes: u64,
}

impl Extended {
    /// Takes over what a header says of the entry `entry`, or what a global one says of all that follow.
    pub(super) fn read(&mut self, data: &[u8], entry: &[u8], global: bool) -> Result<(), Refused> {
        self.bytes = self.bytes.saturating_add(data.len() as u64);
        if self.bytes > MAX_EXTENSION {
            let limit = format!("its extended headers have more than {MAX_EXTENSION} bytes");
            return Err(Refused::too_large(entry, limit));
        }
        let bad = || Refused::bad(entry, "its extended header is malformed");
        let number = |v: &[u8]| {
            std::str::from_utf8(v).ok().and_then(|t| t.parse::<u64>().ok()).ok_or_else(bad)
        };
        for (key, value) in pairs(data).ok_or_else(bad)? {
            let own = [&b"path"[..], b"linkpath", b"size"].contains(&key)
                || key.starts_with(b"GNU.sparse.");
            if global && own {
                let why = "a global header says what only one entry can have";
                return Err(Refused::bad(entry, why));
            }
            // Nothing instead of a value takes away what was said before.
            let said = Some(value).filter(|v| !v.is_empty());
            match key {
                b"path" => self.path = said.map(<[u8]>::to_vec),
                b"linkpath" => self.link = said.map(<[u8]>::to_vec),
                b"uid" => self.uid = said.map(number).transpose()?,
                b"gid" => self.gid = said.map(number).transpose()?,
                b"size" => self.size = said.map(number).transpose()?,
                b"mtime" => {
                    // Seconds with a fraction; before 1970 counts as 1970.
                    let whole = |v: &[u8]| {
                        number(v.split(|b| *b == b'.').next().unwrap_or_default())
                            .unwrap_or_default()
                    };
                    self.mtime = said.map(whole);
                }
                b"GNU.volume.offset" | b"GNU.volume.filename" => {
                    return Err(Refused::bad(entry, super::LATER_VOLUME));
                }
                b"GNU.dumpdir" => self.dumpdir = Some(value.to_vec()),
                b"GNU.sparse.name" => self.path = Some(value.to_vec()),
                b"SCHILY.acl.access" => self.access = self.list(Acl::parse_text(value)),
                b"SCHILY.acl.default" => self.default = self.list(Acl::parse_text(value)),
                b"SCHILY.acl.ace" => {
                    self.fail("it has an NFSv4 access control list, which ext4 cannot keep")
                }
                b"RHT.security.selinux" => self.others.push(b"security.selinux".to_vec()),
                _ => {
                    if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
                        self.sparse.record(key, value).map_err(|e| Refused::bad(entry, e))?;
                    } else if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                        self.attribute(name.to_vec(), value.to_vec());
                    } else if let Some(name) = key.strip_prefix(b"LIBARCHIVE.xattr.") {
                        let name = percent_encoding::percent_decode(name).collect();
                        match BASE64.decode(value) {
                            Ok(value) => self.attribute(name, value),
                            Err(_) => return Err(bad()),
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Takes an attribute, by the name the kernel has for it.
    fn attribute(&mut self, name: Vec<u8>, value: Vec<u8>) {
        let overlay = |name: &[u8]| {
            let name = name.strip_prefix(b"trusted.").or_else(|| name.strip_prefix(b"user."));
            matches!(name, Some(b"overlay.redirect" | b"overlay.metacopy"))
        };
        match name.as_slice() {
            b"security.capability" => self.capability = Some(value),
            b"system.posix_acl_access" => self.access = self.list(Acl::parse_binary(&value)),
            b"system.posix_acl_default" => self.default = self.list(Acl::parse_binary(&value)),
            name if overlay(name) => {
                self.fail("it is of an overlay's upper layer, and its contents are in a lower one");
            }
            other if other.len() > 255 || other.contains(&0) => {
                self.fail("an attribute's name has a NUL or more than 255 bytes");
            }
            other if other.starts_with(b"user.") && other.len() > 5 => {
                drop(self.user.insert(name, value))
            }
            _ => self.others.push(name),
        }
    }

    fn list(&mut self, list: Option<Acl>) -> Option<Acl> {
        if list.is_none() {
            self.fail("its access control list is not understood");
        }
        list
    }

    fn fail(&mut self, why: &'static str) {
        self.problem.get_or_insert(why);
    }

    /// What was not understood, or would not fit.
    pub(super) fn problem(&self) -> Option<Problem> {
        self.problem.map(Problem::bad)
    }
}

/// Whether attributes fit into what ext4 keeps of one file.
pub(super) fn fit(attributes: &[(Vec<u8>, Vec<u8>)]) -> bool {
    let takes = |(name, value): &(Vec<u8>, Vec<u8>)| {
        16 + name.len().next_multiple_of(4) + value.len().next_multiple_of(4)
    };
    attributes.iter().map(takes).sum::<usize>() <= ROOM
}

/// Appends "LENGTH KEY=VALUE\n", where the length counts itself.
pub(super) fn record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    out.extend_from_slice(format!("{length} ").as_bytes());
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// The records of an extended header, as pairs.
pub(crate) fn pairs(data: &[u8]) -> Option<Vec<(&[u8], &[u8])>> {
    let mut pairs = Vec::new();
    let mut rest = data;
    while !rest.is_empty() && rest.first() != Some(&0) {
        let blank = rest.iter().position(|b| *b == b' ')?;
        let length: usize = std::str::from_utf8(rest.get(..blank)?).ok()?.parse().ok()?;
        let record = rest.get(blank + 1..length)?.strip_suffix(b"\n")?;
        let equals = record.iter().position(|b| *b == b'=')?;
        pairs.push((record.get(..equals)?, record.get(equals + 1..)?));
        rest = rest.get(length..)?;
    }
    Some(pairs)
}
