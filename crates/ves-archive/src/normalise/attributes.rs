//! Whose an entry is and what he and others may do with it: owners, modes, access control lists, capabilities.
//!
//! Never here: more than the archive granted.

use std::collections::BTreeMap;
use std::io::{self, Write};

use tar::Header;

use super::Normaliser;
use super::input::number;
use super::output::Entry;
use super::pax::{self, Extended};
use crate::acl::{self, Acl, Tag, Who};
use crate::contents::Again;
use crate::refused::{Problem, lossy};
use crate::tree::Kind;

/// The most bytes of users' and groups' names that access control lists may have.
const MAX_WHO: usize = 32 << 10;

/// The most bytes of all lists of users and groups that are kept.
const MAX_LISTS: u64 = 4 << 20;

/// Where users and groups are listed, at the end of a path.
const LISTS: [&[u8]; 2] = [b"etc/passwd", b"etc/group"];

impl<W: Write> Normaliser<'_, W> {
    /// Owner, mode, time and attributes, as they come out, of what is of a kind: ext4 keeps attributes of users
    /// with files and directories only, and no access control lists with symbolic links.
    pub(super) fn attributes<'p>(
        &mut self,
        header: &Header,
        ext: &Extended,
        path: &'p [u8],
        kind: &Kind,
    ) -> Result<Entry<'p>, Problem> {
        let old = header.as_old();
        let id = |said: Option<u64>, value: io::Result<u64>, why: &'static str| {
            said.map_or_else(|| value.map_err(|_| Problem::bad(why)), Ok)
        };
        let uid = id(ext.uid, number(&old.uid, header.uid()), "its owner is no number")?;
        let gid = id(ext.gid, number(&old.gid, header.gid()), "its group is no number")?;
        let owners = &self.judging.owners;
        let (Some((new_uid, lost)), Some((new_gid, group_lost))) = (owners.of(uid), owners.of(gid))
        else {
            let strange = [uid, gid].into_iter().filter(|id| owners.of(*id).is_none());
            return Err(Problem::owner(uid, gid, strange));
        };
        let mode = number(&old.mode, header.mode().map(u64::from))
            .map_err(|_| Problem::bad("its mode is no number"))?;
        let mut mode = u32::try_from(mode & 0o7777).unwrap_or_default();
        // Who runs it would become nobody, who then is more than one.
        if lost {
            mode &= !0o4000;
        }
        if group_lost {
            mode &= !0o2000;
        }
        for other in &ext.others {
            self.notes.left_out(&format!("attributes {}", lossy(other)), path);
        }
        let mut xattrs = Vec::new();
        if matches!(kind, Kind::File | Kind::Dir) {
            xattrs.extend(ext.user.iter().map(|(name, value)| (name.clone(), value.clone())));
        }
        let mut lists = Vec::new();
        if let Some(list) = ext.access.clone().filter(|_| !matches!(kind, Kind::Symlink(_))) {
            let (list, least) = self.numbered(list)?.within(mode);
            mode = least;
            if !list.is_mode() {
                lists.push(("access", list));
            }
        }
        if let Some(list) = ext.default.clone().filter(|_| *kind == Kind::Dir) {
            lists.push(("default", self.numbered(list)?));
        }
        let mut named = Vec::new();
        for (which, list) in lists {
            match list.names() {
                true => named.push((which, list.text())),
                false => {
                    let name = format!("system.posix_acl_{which}").into_bytes();
                    xattrs.push((name, list.binary()));
                }
            }
        }
        if let Some(value) = ext.capability.as_ref().filter(|_| *kind == Kind::File) {
            let root = |id| owners.of(id).ok_or_else(|| Problem::owner(id, id, [id]));
            let value = acl::capabilities(value, |id| root(id).map(|(id, _)| id))?;
            let value = value.ok_or_else(|| Problem::bad("its capabilities are malformed"))?;
            xattrs.push((b"security.capability".to_vec(), value));
        }
        if !pax::fit(&xattrs) {
            return Err(Problem::large(
                "its attributes take more than a block of ext4, 4096 bytes",
            ));
        }
        let mtime = ext.mtime.unwrap_or_else(|| header.mtime().unwrap_or(0));
        Ok(Entry { path, mode, uid: new_uid, gid: new_gid, mtime, xattrs, named })
    }

    /// A list with numbers for all that can be told by now; who is named is remembered.
    fn numbered(&mut self, list: Acl) -> Result<Acl, Problem> {
        let again = self.judging.again().is_some();
        list.mapped(|tag, who| match self.judging.who(tag, who) {
            Err(id) => Err(Problem::owner(id, id, [id])),
            Ok(Who::Named(name)) if again => {
                let why = format!(
                    "its access control list names {name:?}, whom etc/passwd and etc/group do not have; \
                     add him there, or take him out of the list with setfacl -x"
                );
                Err(Problem::bad(why))
            }
            Ok(Who::Named(name)) => {
                if self.named.insert((tag, name.clone())) {
                    self.named_bytes += name.len();
                }
                if self.named_bytes > MAX_WHO {
                    return Err(Problem::large("access control lists name too many users"));
                }
                Ok(Who::Named(name))
            }
            Ok(who) => Ok(who),
        })
    }

    /// Whether a file lists users or groups, and there is room to keep it.
    pub(super) fn named_lists(&self, path: &[u8]) -> bool {
        let kept: u64 = self.lists.values().map(|list| list.len() as u64).sum();
        kept < MAX_LISTS
            && LISTS.iter().any(|list| {
                path.strip_suffix(*list).is_some_and(|root| root.is_empty() || root.ends_with(b"/"))
            })
    }

    /// What a further pass has to know.
    pub(super) fn again(&self, root: Vec<u8>, notes: &[String]) -> Option<Again> {
        if self.judging.again().is_some() || (root.is_empty() && self.named.is_empty()) {
            return None;
        }
        let prefix = if root.is_empty() { Vec::new() } else { [&root[..], b"/"].concat() };
        let numbers = |list: &[u8], of: Tag| -> BTreeMap<String, u64> {
            let text = self.lists.get(&[&prefix[..], list].concat());
            let text = text.map(|text| String::from_utf8_lossy(text)).unwrap_or_default();
            let known = text.lines().filter_map(|line| {
                let mut fields = line.split(':');
                let (name, id) = (fields.next()?, fields.nth(1)?.parse().ok()?);
                let wanted = self.named.contains(&(of, name.to_owned()));
                let (id, _) = self.judging.owners.of(id).filter(|_| wanted)?;
                Some((name.to_owned(), id))
            });
            known.collect()
        };
        let [users, groups] = LISTS;
        let (users, groups) = (numbers(users, Tag::User), numbers(groups, Tag::Group));
        Some(Again { root, users, groups, notes: notes.to_vec() })
    }
}
