//! Access control lists and capabilities of files: the forms they are written in, and the one the kernel
//! takes.
//!
//! ```text
//! `user::rwx,group:adm:r-x,…` (star, GNU tar, libarchive) ─┐
//! `system.posix_acl_access`, binary                        ├─► Acl ─► never more than the mode ─► binary
//! ```
//!
//! Never here: a list that is half understood, which could grant what the whole one denies.

use std::collections::BTreeMap;

/// The kernel's form of a list: its version, then entries of a tag, permissions and an id.
const VERSION: u32 = 2;
/// The id of entries that have none.
const NO_ID: u32 = u32::MAX;
/// The most entries of a list; ext4's one block holds no more.
const MAX_ENTRIES: usize = 500;

/// Whom an entry is of, by the kernel's tags.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Tag {
    Owner = 1,
    User = 2,
    OwningGroup = 4,
    Group = 8,
    Mask = 16,
    Other = 32,
}

/// A user or group of a list.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Who {
    /// The tag says it all.
    Nobody,
    /// By number.
    Id(u64),
    /// By a name of the system in the archive.
    Named(String),
}

/// A list: permissions (read 4, write 2, execute 1) by whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Acl(BTreeMap<(Tag, Who), u16>);

impl Acl {
    /// Reads the text form, of entries `tag:who:permissions[:number]`.
    pub(crate) fn parse_text(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let mut list = BTreeMap::new();
        for line in text.split(['\n', ',']) {
            let entry = line.split('#').next().unwrap_or_default().trim();
            if entry.is_empty() {
                continue;
            }
            let mut parts: Vec<&str> = entry.split(':').map(str::trim).collect();
            if parts.first() == Some(&"default") {
                parts.remove(0);
            }
            // `mask:rwx` and `other:rwx`, as Solaris has them.
            if let [tag @ ("mask" | "m" | "other" | "o"), permissions] = *parts {
                parts = vec![tag, "", permissions];
            }
            let (tag, who, permissions, number) = match *parts {
                [tag, who, permissions] => (tag, who, permissions, None),
                [tag, who, permissions, number] => (tag, who, permissions, Some(number)),
                _ => return None,
            };
            let named = || match number.unwrap_or(who).parse::<u64>() {
                Ok(id) => Who::Id(id),
                Err(_) => Who::Named(who.to_owned()),
            };
            let key = match (tag, who) {
                ("user" | "u", "") => (Tag::Owner, Who::Nobody),
                ("user" | "u", _) => (Tag::User, named()),
                ("group" | "g", "") => (Tag::OwningGroup, Who::Nobody),
                ("group" | "g", _) => (Tag::Group, named()),
                ("mask" | "m", "") => (Tag::Mask, Who::Nobody),
                ("other" | "o", "") => (Tag::Other, Who::Nobody),
                _ => return None,
            };
            if list.insert(key, parse_permissions(permissions)?).is_some() {
                return None;
            }
        }
        Self(list).checked()
    }

    /// Reads the kernel's form.
    pub(crate) fn parse_binary(bytes: &[u8]) -> Option<Self> {
        let entries = bytes.strip_prefix(&VERSION.to_le_bytes())?;
        let (entries, rest) = entries.as_chunks::<8>();
        let mut list = BTreeMap::new();
        for [t0, t1, p0, p1, id @ ..] in entries {
            let who = || Who::Id(u64::from(u32::from_le_bytes(*id)));
            let key = match u16::from_le_bytes([*t0, *t1]) {
                1 => (Tag::Owner, Who::Nobody),
                2 => (Tag::User, who()),
                4 => (Tag::OwningGroup, Who::Nobody),
                8 => (Tag::Group, who()),
                16 => (Tag::Mask, Who::Nobody),
                32 => (Tag::Other, Who::Nobody),
                _ => return None,
            };
            let permissions = u16::from_le_bytes([*p0, *p1]);
            if permissions > 7 || list.insert(key, permissions).is_some() {
                return None;
            }
        }
        rest.is_empty().then_some(Self(list))?.checked()
    }

    /// A list as the kernel takes one, and neither too long.
    fn checked(self) -> Option<Self> {
        let has = |tag| self.0.contains_key(&(tag, Who::Nobody));
        let named = self.0.keys().any(|(tag, _)| matches!(tag, Tag::User | Tag::Group));
        let whole = has(Tag::Owner) && has(Tag::OwningGroup) && has(Tag::Other);
        let good = whole && (has(Tag::Mask) || !named) && self.0.len() <= MAX_ENTRIES;
        good.then_some(self)
    }

    /// The same with other users and groups, as `map` answers them by tag. Who comes to be twice has what both
    /// grant.
    ///
    /// # Errors
    /// The first that `map` did not answer.
    pub(crate) fn mapped<E>(
        self,
        mut map: impl FnMut(Tag, &Who) -> Result<Who, E>,
    ) -> Result<Self, E> {
        let mut list = BTreeMap::new();
        for ((tag, who), permissions) in self.0 {
            let who = if who == Who::Nobody { who } else { map(tag, &who)? };
            list.entry((tag, who)).and_modify(|p| *p &= permissions).or_insert(permissions);
        }
        Ok(Self(list))
    }

    /// Whether it still has names.
    pub(crate) fn names(&self) -> bool {
        self.0.keys().any(|(_, who)| matches!(who, Who::Named(_)))
    }

    /// The text form.
    pub(crate) fn text(&self) -> String {
        let entry = |((tag, who), permissions): (&(Tag, Who), &u16)| {
            let tag = match tag {
                Tag::Owner | Tag::User => "user",
                Tag::OwningGroup | Tag::Group => "group",
                Tag::Mask => "mask",
                Tag::Other => "other",
            };
            match who {
                Who::Nobody => format!("{tag}::{permissions}"),
                Who::Id(id) => format!("{tag}:{id}:{permissions}"),
                Who::Named(name) => format!("{tag}:{name}:{permissions}"),
            }
        };
        self.0.iter().map(entry).collect::<Vec<_>>().join(",")
    }

    /// The same, granting owner, group and others no more than `mode` does; and the mode, granting no more
    /// than the list does: the kernel keeps the two the same.
    pub(crate) fn within(mut self, mode: u32) -> (Self, u32) {
        let bits = |shift: u32| u16::try_from(mode >> shift & 7).unwrap_or_default();
        let mask = (Tag::Mask, Who::Nobody);
        let group = if self.0.contains_key(&mask) { mask } else { (Tag::OwningGroup, Who::Nobody) };
        let mut least = mode & !0o777;
        for (key, shift) in
            [((Tag::Owner, Who::Nobody), 6), (group, 3), ((Tag::Other, Who::Nobody), 0)]
        {
            let permissions = self.0.entry(key).or_default();
            *permissions &= bits(shift);
            least |= u32::from(*permissions) << shift;
        }
        (self, least)
    }

    /// Whether it says no more than a mode does.
    pub(crate) fn is_mode(&self) -> bool {
        self.0.len() == 3
    }

    /// The kernel's form; who is not by number by now is in none.
    pub(crate) fn binary(&self) -> Vec<u8> {
        let mut out = VERSION.to_le_bytes().to_vec();
        for ((tag, who), permissions) in &self.0 {
            let id = match who {
                Who::Id(id) => u32::try_from(*id).unwrap_or(NO_ID),
                Who::Nobody | Who::Named(_) => NO_ID,
            };
            out.extend((*tag as u16).to_le_bytes());
            out.extend(permissions.to_le_bytes());
            out.extend(id.to_le_bytes());
        }
        out
    }
}

fn parse_permissions(text: &str) -> Option<u16> {
    if let Ok(number) = text.parse::<u16>() {
        return (number <= 7).then_some(number);
    }
    let mut all = 0;
    for c in text.chars() {
        all |= match c {
            'r' => 4,
            'w' => 2,
            'x' => 1,
            '-' => 0,
            _ => return None,
        };
    }
    Some(all)
}

/// Capabilities of a file in the form without a user namespace, which the kernel takes from a container's
/// root and means his; those of another root, by number, of a container inside, stay that root's. `map`
/// answers whom a number has become.
///
/// # Errors
/// `None` where they are malformed; what `map` did not answer.
pub(crate) fn capabilities<E>(
    value: &[u8],
    map: impl FnOnce(u64) -> Result<u64, E>,
) -> Result<Option<Vec<u8>>, E> {
    let Some((magic, rest)) = value.split_first_chunk::<4>() else { return Ok(None) };
    let magic = u32::from_le_bytes(*magic);
    let (revision, flags) = (magic & 0xff00_0000, magic & 0xff);
    let second = 0x0200_0000 | flags;
    let with = |head: u32, rest: &[u8]| Some([&head.to_le_bytes()[..], rest].concat());
    Ok(match (revision, rest.len()) {
        // Of one word each, when there were 32 capabilities.
        (0x0100_0000, 8) => with(second, &[rest, &[0; 8]].concat()),
        (0x0200_0000, 16) => with(second, rest),
        (0x0300_0000, 20) => match rest.split_last_chunk::<4>() {
            Some((words, root)) => match map(u64::from(u32::from_le_bytes(*root)))? {
                0 => with(second, words),
                root => {
                    let root = u32::try_from(root).unwrap_or(NO_ID).to_le_bytes();
                    with(magic, &[words, &root].concat())
                }
            },
            None => None,
        },
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn text(text: &str) -> Option<Acl> {
        Acl::parse_text(text.as_bytes())
    }

    #[test]
    fn every_form_is_the_same_list() {
        let want =
            text("user::rw-,user:7:r--,group::r--,group:4:r-x,mask::r-x,other::---").expect("good");
        for other in [
            "user::rw-\nuser:lisa:r--:7\ngroup::r--\ngroup:adm:r-x:4\nmask::r-x\nother::---\n",
            "u::rw,u:7:r,g::r,g:4:rx,m::rx,o::-",
            "default:user::6,default:user:7:4,default:group::4,group:4:5,mask:5,other:0",
            "user::rw-, user:7:r-- #effective:r--, group::r--, group:4:r-x, mask:r-x, other:---",
        ] {
            assert_eq!(text(other).as_ref(), Some(&want), "{other:?}");
        }
        assert_eq!(text(&want.text()).as_ref(), Some(&want));
        assert_eq!(Acl::parse_binary(&want.binary()), Some(want));
        let named = text("user::rw-,user:lisa:r--,group::r--,mask::r--,other::---").expect("good");
        assert!(named.names() && text(&named.text()) == Some(named));
    }

    #[test]
    fn what_is_no_list_is_none() {
        for bad in [
            "",
            "user::rwx",
            "user::rwx,group::r-x",
            "user::rwx,group::r-x,other::r-x,user:7:rwx",
            "user::rwx,user::r--,group::r-x,other::---",
            "user::rwx,group::r-x,other::z",
            "user::rwx,group::r-x,other:7:r--",
            "user::9,group::r-x,other::---",
            "owner@:r:allow",
        ] {
            assert_eq!(text(bad), None, "{bad:?}");
        }
        let good = text("user::rw-,group::r--,other::---").expect("good").binary();
        for cut in 0..good.len() {
            assert_eq!(Acl::parse_binary(&good[..cut]), None, "cut at {cut}");
        }
        let mut bytes = good.clone();
        for at in 0..bytes.len() {
            for value in [0, 1, 8, 0xff] {
                let before = std::mem::replace(&mut bytes[at], value);
                if let Some(acl) = Acl::parse_binary(&bytes) {
                    assert!(acl.checked().is_some());
                }
                bytes[at] = before;
            }
        }
    }

    /// What a list grants a user who is of some groups and not the owner, as the kernel reckons it.
    fn granted(acl: &Acl, user: u64, groups: &[u64]) -> u16 {
        let of = |tag, who| acl.0.get(&(tag, who)).copied();
        let mask = of(Tag::Mask, Who::Nobody).unwrap_or(7);
        if let Some(permissions) = of(Tag::User, Who::Id(user)) {
            return permissions & mask;
        }
        let mut all: Vec<u16> = groups.iter().filter_map(|g| of(Tag::Group, Who::Id(*g))).collect();
        if groups.contains(&0) {
            all.extend(of(Tag::OwningGroup, Who::Nobody));
        }
        match all.iter().copied().reduce(|a, b| a | b) {
            Some(permissions) => permissions & mask,
            None => of(Tag::Other, Who::Nobody).unwrap_or(7),
        }
    }

    #[test]
    fn nobody_gets_more_than_list_and_mode_grant() {
        let before =
            text("user::rwx,user:7:---,user:8:rwx,group::r--,group:4:rw-,mask::rwx,other::r--")
                .expect("good");
        for mode in 0..0o10000 {
            let (acl, least) = before.clone().within(mode);
            assert_eq!(least & !mode, 0, "the mode has no new bit");
            for (user, groups) in
                [(7, vec![]), (7, vec![4]), (8, vec![]), (9, vec![0]), (9, vec![4]), (9, vec![])]
            {
                let (now, then) = (granted(&acl, user, &groups), granted(&before, user, &groups));
                assert_eq!(now & !then, 0, "{mode:o} {user} {groups:?}");
            }
        }
    }

    #[test]
    fn two_who_become_one_have_what_both_had() {
        let acl =
            text("user::rwx,user:7:rw-,user:8:r-x,group::r--,mask::rwx,other::---").expect("good");
        let one = acl.mapped(|_, _| Ok::<_, Infallible>(Who::Id(65_534))).expect("mapped");
        assert_eq!(granted(&one, 65_534, &[]), 4);
    }

    #[test]
    fn capabilities_mean_the_containers_root() {
        let same = |id| Ok::<_, Infallible>(id);
        let of = |magic: u32, rest: &[u8]| [&magic.to_le_bytes()[..], rest].concat();
        let words: Vec<u8> = (1..17).collect();
        let second = of(0x0200_0001, &words);
        let kept = |value: &[u8]| capabilities(value, same).unwrap_or_else(|never| match never {});
        assert_eq!(kept(&second), Some(second.clone()));
        let third = |root: u32| of(0x0300_0001, &[&words[..], &root.to_le_bytes()].concat());
        assert_eq!(kept(&third(0)), Some(second.clone()));
        assert_eq!(kept(&third(1000)), Some(third(1000)));
        let moved = capabilities(&third(100_000), |id| Ok::<_, Infallible>(id - 100_000));
        assert_eq!(moved, Ok(Some(second)));
        let first = of(0x0100_0000, &words[..8]);
        assert_eq!(kept(&first), Some(of(0x0200_0000, &[&words[..8], &[0; 8]].concat())));
        for bad in [&b""[..], b"x", &first[..11], &third(0)[..23], &of(0x0400_0000, &words)] {
            assert_eq!(kept(bad), None);
        }
    }
}
