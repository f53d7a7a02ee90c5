//! Extended headers of an archive: what they say of the next entry, read and written.
//!
//! Nothing is judged here but their form and their length.

use super::MAX_EXTENSION;
use crate::refused::Refused;

/// What extended headers said about the next entry.
#[derive(Default)]
pub(super) struct Extended {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) size: Option<u64>,
    pub(super) mtime: Option<u64>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse: bool,
    /// Bytes of all headers of this entry.
    bytes: u64,
}

impl Extended {
    /// Takes over what a header of the entry `entry` says.
    pub(super) fn read(&mut self, data: &[u8], entry: &[u8]) -> Result<(), Refused> {
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
            match key {
                b"path" => self.path = Some(value.to_vec()),
                b"linkpath" => self.link = Some(value.to_vec()),
                b"uid" => self.uid = Some(number(value)?),
                b"gid" => self.gid = Some(number(value)?),
                b"size" => self.size = Some(number(value)?),
                b"mtime" => {
                    // Seconds with a fraction; before 1970 counts as 1970.
                    let whole = value.split(|b| *b == b'.').next().unwrap_or_default();
                    self.mtime = Some(number(whole).unwrap_or_default());
                }
                _ if key.starts_with(b"GNU.sparse.") => self.sparse = true,
                _ => {
                    let kept = key.strip_prefix(b"SCHILY.xattr.").filter(|name| {
                        *name == b"security.capability" || name.starts_with(b"user.")
                    });
                    if let Some(name) = kept {
                        if name.len() > 255 || name.contains(&0) {
                            return Err(bad());
                        }
                        self.xattrs.push((name.to_vec(), value.to_vec()));
                    }
                }
            }
        }
        Ok(())
    }
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
