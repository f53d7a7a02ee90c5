//! What an archive may hold, how it is judged, and what one holds.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::acl::{Tag, Who};

/// What an archive may expand to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes of all files, each rounded up to a block; holes are none.
    pub bytes: u64,
    /// Files, directories and links.
    pub inodes: u64,
    /// Bytes of one path.
    pub path_bytes: usize,
    /// Directories in one path.
    pub depth: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: 16 << 30, inodes: 1_000_000, path_bytes: 1024, depth: 64 }
    }
}

/// What becomes of owners and groups.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owners {
    /// Ids that become others, as owners, groups, and in access control lists.
    pub map: BTreeMap<u32, u32>,
    /// Whether those that no container has become 65534, "nobody".
    pub squash: bool,
}

impl Owners {
    /// The greatest id of a container.
    pub const LAST: u32 = 65_534;

    /// What an id becomes, and whether it lost itself; `None` where no container has it.
    pub(crate) fn of(&self, id: u64) -> Option<(u64, bool)> {
        let last = u64::from(Self::LAST);
        let mapped = u32::try_from(id).ok().and_then(|id| self.map.get(&id));
        match mapped.map_or(id, |to| u64::from(*to)) {
            id if id <= last => Some((id, false)),
            _ => self.squash.then_some((last, true)),
        }
    }
}

/// How an archive is judged.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judging {
    /// What it may expand to.
    pub limits: Limits,
    /// What becomes of owners.
    pub owners: Owners,
    /// What an earlier pass over the same archive has found out.
    again: Option<Again>,
}

/// What is known of an archive only at its end, and needed from its beginning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Again {
    /// The directory that is the root of a system.
    pub(crate) root: Vec<u8>,
    /// Numbers of users that access control lists name.
    pub(crate) users: BTreeMap<String, u64>,
    /// Numbers of such groups.
    pub(crate) groups: BTreeMap<String, u64>,
    /// What was noted so far.
    pub(crate) notes: Vec<String>,
}

impl Again {
    /// The number of somebody in a list.
    pub(crate) fn number(&self, tag: Tag, name: &str) -> Option<u64> {
        let known = if tag == Tag::User { &self.users } else { &self.groups };
        known.get(name).copied()
    }
}

impl Judging {
    /// Within these limits, owners as they are.
    pub fn new(limits: Limits, owners: Owners) -> Self {
        Self { limits, owners, again: None }
    }

    /// How what came out is judged once more, where that is needed to understand it; never twice.
    pub fn once_more(&self, found: &Contents) -> Option<Self> {
        let again = found.again.clone().filter(|_| self.again.is_none())?;
        Some(Self { limits: self.limits, owners: Owners::default(), again: Some(again) })
    }

    /// What an earlier pass has found out.
    pub(crate) const fn again(&self) -> Option<&Again> {
        self.again.as_ref()
    }

    /// The directory that is the root of a system, as far as it is known.
    pub(crate) fn root(&self) -> &[u8] {
        self.again.as_ref().map_or(&[], |again| &again.root)
    }

    /// Whom an access control list means: by number where that is known. An id that no container has is an
    /// error.
    pub(crate) fn who(&self, tag: Tag, who: &Who) -> Result<Who, u64> {
        match who {
            Who::Nobody => Ok(Who::Nobody),
            Who::Id(id) => self.owners.of(*id).map(|(id, _)| Who::Id(id)).ok_or(*id),
            Who::Named(name) => {
                let number = self.again.as_ref().and_then(|again| again.number(tag, name));
                Ok(number.map_or_else(|| who.clone(), Who::Id))
            }
        }
    }
}

/// The init system found in an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Init {
    /// systemd.
    Systemd,
    /// System V init.
    Sysvinit,
    /// Another `/sbin/init`.
    Other,
    /// There is none.
    Absent,
}

/// What a clean archive holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contents {
    /// Bytes of all files, each rounded up to a block; holes are none.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
    /// The init system.
    pub init: Init,
    /// `PRETTY_NAME` of its os-release.
    pub os: Option<String>,
    /// What somebody should know of it, a line each: what was left out, what it lacks.
    pub notes: Vec<String>,
    /// Set where it must be judged once more.
    pub(crate) again: Option<Again>,
}

impl Contents {
    /// Contents that nobody has to judge.
    pub const fn new(bytes: u64, inodes: u64, init: Init, os: Option<String>) -> Self {
        Self { bytes, inodes, init, os, notes: Vec::new(), again: None }
    }
}
