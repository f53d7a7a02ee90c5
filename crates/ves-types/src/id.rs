//! Identities: container ids and names, generations, epochs, id-range slots.
//!
//! Each type is built by one parsing constructor and is valid from then on. Nothing here allocates
//! or hands out identities; that is the coordinator's work.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a word is not what it should be. `what` names the kind of thing, `input` is what was given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("bad {what} {input:?}: {why}")]
pub struct ParseError {
    /// The kind of value that was expected, such as `container id`.
    pub what: &'static str,
    /// The text that was given, cut to 80 characters.
    pub input: String,
    /// What is wrong and what would be right.
    pub why: &'static str,
}

impl ParseError {
    /// An error about `input`, which should have been a `what` but `why`.
    pub fn new(what: &'static str, input: impl fmt::Display, why: &'static str) -> Self {
        Self { what, input: input.to_string().chars().take(80).collect(), why }
    }
}

/// A container id: 1 to 2147483644, as OpenVZ numbered its containers (0 was the node itself).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct CtId(u32);

impl CtId {
    /// The greatest id; three below `i32::MAX`, OpenVZ's own bound.
    pub const MAX: u32 = 2_147_483_644;

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for CtId {
    type Error = ParseError;
    fn try_from(n: u32) -> Result<Self, ParseError> {
        match n {
            1..=Self::MAX => Ok(Self(n)),
            _ => Err(ParseError::new("container id", n, "it must be from 1 to 2147483644")),
        }
    }
}

impl From<CtId> for u32 {
    fn from(id: CtId) -> u32 {
        id.0
    }
}

impl FromStr for CtId {
    type Err = ParseError;
    fn from_str(s: &str) -> Result<Self, ParseError> {
        let bad = || ParseError::new("container id", s, "it must be a number from 1 to 2147483644");
        if s.is_empty() || !s.bytes().all(|b| b.is_ascii_digit()) {
            return Err(bad());
        }
        Self::try_from(s.parse::<u32>().map_err(|_| bad())?).map_err(|_| bad())
    }
}

impl fmt::Display for CtId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

macro_rules! word {
    ($(#[$doc:meta])* $name:ident, $what:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl FromStr for $name {
            type Err = $crate::id::ParseError;
            fn from_str(s: &str) -> Result<Self, Self::Err> {
                let check: fn(&str) -> Result<(), &'static str> = $check;
                check(s).map_err(|why| $crate::id::ParseError::new($what, s, why))?;
                Ok(Self(s.to_owned()))
            }
        }
        impl TryFrom<String> for $name {
            type Error = $crate::id::ParseError;
            fn try_from(s: String) -> Result<Self, Self::Error> {
                s.parse()
            }
        }
        impl From<$name> for String {
            fn from(v: $name) -> String {
                v.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}
pub(crate) use word;

word!(
    /// A container's name: 1 to 63 of `A-Z a-z 0-9 - _ .`, beginning with a letter, so that it can
    /// never be taken for an id, an option or a path.
    CtName, "container name", |s| {
        if s.is_empty() || s.len() > 63 {
            return Err("it must have 1 to 63 characters");
        }
        if !s.starts_with(|c: char| c.is_ascii_alphabetic()) {
            return Err("it must begin with a letter");
        }
        if !s.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
            return Err("it may hold letters, digits, '-', '_' and '.' only");
        }
        Ok(())
    }
);

word!(
    /// A template's name: 1 to 63 of `a-z 0-9 - _ .`, beginning with a letter or digit.
    TemplateName, "template name", |s| {
        if s.is_empty() || s.len() > 63 {
            return Err("it must have 1 to 63 characters");
        }
        if !s.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit()) {
            return Err("it must begin with a small letter or a digit");
        }
        if !s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b)) {
            return Err("it may hold small letters, digits, '-', '_' and '.' only");
        }
        Ok(())
    }
);

word!(
    /// A host name as `sethostname(2)` and RFC 1123 both accept it: at most 64 bytes, labels of
    /// letters, digits and inner hyphens, joined by dots.
    Hostname, "host name", |s| {
        if s.is_empty() || s.len() > 64 {
            return Err("it must have 1 to 64 characters");
        }
        for label in s.split('.') {
            if label.is_empty() || label.len() > 63 {
                return Err("each part between dots must have 1 to 63 characters");
            }
            if label.starts_with('-') || label.ends_with('-') {
                return Err("no part may begin or end with '-'");
            }
            if !label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
                return Err("it may hold letters, digits, '-' and '.' only");
            }
        }
        Ok(())
    }
);

impl Hostname {
    /// That of a container which nobody gave one, and which gave itself none: `ct` and its id.
    pub fn of_container(ct: CtId) -> Self {
        Self(format!("ct{ct}"))
    }
}

word!(
    /// A node's name, by which records and requests say where a container is: 1 to 64 of
    /// `A-Z a-z 0-9 - _ .`, beginning with a letter or digit. Every host name is one, also those that
    /// RFC 1123 does not know.
    NodeName, "node name", |s| {
        if s.is_empty() || s.len() > 64 {
            return Err("it must have 1 to 64 characters");
        }
        if !s.starts_with(|c: char| c.is_ascii_alphanumeric()) {
            return Err("it must begin with a letter or a digit");
        }
        if !s.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
            return Err("it may hold letters, digits, '-', '_' and '.' only");
        }
        Ok(())
    }
);

word!(
    /// A snapshot's name, for people: 1 to 128 bytes of anything that can be printed. Names are not
    /// unique.
    SnapshotName, "snapshot name", |s| {
        if s.is_empty() || s.len() > 128 {
            return Err("it must have 1 to 128 bytes");
        }
        if s.chars().any(char::is_control) {
            return Err("it may not hold control characters");
        }
        Ok(())
    }
);

/// A snapshot's id: a UUID, written in one way only.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SnapshotId(u128);

impl From<u128> for SnapshotId {
    fn from(uuid: u128) -> Self {
        Self(uuid)
    }
}

impl FromStr for SnapshotId {
    type Err = ParseError;
    fn from_str(s: &str) -> Result<Self, ParseError> {
        let why = "it must be a UUID: 8-4-4-4-12 digits of 0-9 a-f";
        let bad = || ParseError::new("snapshot id", s, why);
        let id = u128::from_str_radix(&s.replace('-', ""), 16).map(Self).map_err(|_| bad())?;
        // Also hyphens elsewhere, capitals and a sign have gone through until here.
        if id.to_string() == s { Ok(id) } else { Err(bad()) }
    }
}

impl TryFrom<String> for SnapshotId {
    type Error = ParseError;
    fn try_from(s: String) -> Result<Self, ParseError> {
        s.parse()
    }
}

impl From<SnapshotId> for String {
    fn from(id: SnapshotId) -> Self {
        id.to_string()
    }
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex = format!("{:032x}", self.0);
        for (part, from, to) in
            [("", 0, 8), ("-", 8, 12), ("-", 12, 16), ("-", 16, 20), ("-", 20, 32)]
        {
            write!(f, "{part}{}", hex.get(from..to).unwrap_or_default())?;
        }
        Ok(())
    }
}

impl fmt::Debug for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The version of a container's desired state, chosen by the coordinator and growing by each
/// change. A service refuses one older than the last it accepted.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Generation(pub u64);

impl Generation {
    /// No container comes to have a greater one: the millisecond in which the clock of a kernel ends,
    /// which counts nanoseconds in 63 bits, in the year 2262. A generation begins with unix time in
    /// milliseconds and grows by one with each change, so that one beyond is no decision but a mistake,
    /// after which none could ever be newer. A clock that is wrong by a century is no such mistake.
    pub const MAX: Self = Self(9_223_372_036_854);

    /// The generation after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The fencing epoch of a container: it grows each time ownership moves between nodes, and a
/// service that has seen a newer one refuses an older.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl Epoch {
    /// No container comes to have a greater one: it grows by one each time a container moves.
    pub const MAX: Self = Self(u32::MAX as u64);
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The place of a container's user and group ids on the node: slot *n* owns host ids
/// `n × 65536` to `n × 65536 + 65535`. Slot 0 is the node's own and never given out.
///
/// Ids 0 to 65534 of the range are mapped into the container. The last id is not mapped: it is the
/// *creator*, the host user that creates the container's user namespace and nothing else, because
/// the kernel counts a namespace's ucounts (pending signals, message queues, inotify, …) by its
/// creator and two containers with one creator would share them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct IdSlot(u32);

impl IdSlot {
    /// How many ids are mapped into a container.
    pub const MAPPED: u32 = 65_535;
    /// The first slot that is given out; ranges below may be distribution subordinate ids.
    pub const FIRST: u32 = 16;
    /// The last slot. The one above it belongs to the unpacker of archives, and that above to
    /// `u32::MAX`, which means "no id".
    pub const LAST: u32 = 65_533;
    /// How many there are.
    pub const COUNT: u32 = Self::LAST - Self::FIRST + 1;

    /// The slot's number.
    pub const fn get(self) -> u32 {
        self.0
    }
    /// The host id that is 0 inside.
    pub const fn base(self) -> u32 {
        self.0 * 65_536
    }
    /// The host user that creates the user namespace; not mapped inside.
    pub const fn creator(self) -> u32 {
        self.base() + Self::MAPPED
    }
}

impl TryFrom<u32> for IdSlot {
    type Error = ParseError;
    fn try_from(n: u32) -> Result<Self, ParseError> {
        match n {
            Self::FIRST..=Self::LAST => Ok(Self(n)),
            _ => Err(ParseError::new("id slot", n, "it must be from 16 to 65533")),
        }
    }
}

impl From<IdSlot> for u32 {
    fn from(slot: IdSlot) -> u32 {
        slot.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ids() {
        for good in ["1", "101", "2147483644"] {
            assert_eq!(good.parse::<CtId>().expect(good).to_string(), good);
        }
        for bad in ["", "0", "-1", "+1", "1 ", " 1", "2147483645", "99999999999999999999", "x", "١"]
        {
            assert!(bad.parse::<CtId>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn names() {
        for good in ["a", "web-1", "Shop.example"] {
            good.parse::<CtName>().expect(good);
        }
        for bad in ["", "1web", "-a", "a/b", "a b", "a\n", "..", "ü", &"a".repeat(64)] {
            assert!(bad.parse::<CtName>().is_err(), "{bad:?}");
        }
        for bad in ["", ".", "..", "../x", "Debian", "a/b", "-x", "a\0"] {
            assert!(bad.parse::<TemplateName>().is_err(), "{bad:?}");
        }
        for bad in ["", ".", "a.", "-a", "a-", "a_b", "a\nb", &"a".repeat(65)] {
            assert!(bad.parse::<Hostname>().is_err(), "{bad:?}");
        }
        for good in ["node1", "node_1", "n1.example.org", "1"] {
            good.parse::<NodeName>().expect(good);
        }
        for bad in ["", "(none)", "-a", ".", "a/b", "a\n", &"a".repeat(65)] {
            assert!(bad.parse::<NodeName>().is_err(), "{bad:?}");
        }
        "web1.example.org".parse::<Hostname>().expect("a plain host name");
        let own = Hostname::of_container(CtId::try_from(CtId::MAX).expect("valid"));
        assert_eq!(own.as_str().parse(), Ok(own));
    }

    #[test]
    fn snapshots() {
        let id = "019ab4a0-0000-7000-8000-00000000000f";
        assert_eq!(id.parse::<SnapshotId>().expect(id).to_string(), id);
        for bad in [
            "",
            "-",
            "019ab4a0000070008000-00000000000f",
            "019AB4A0-0000-7000-8000-00000000000f",
            "{019ab4a0-0000-7000-8000-00000000000f}",
            "019ab4a0-0000-7000-8000-00000000000f0",
            "019ab4a0-0000-7000-8000-0000000000/f",
            "+19ab4a0-0000-7000-8000-00000000000f",
            "../../../../etc/passwd",
        ] {
            assert!(bad.parse::<SnapshotId>().is_err(), "{bad:?}");
        }
        "before the upgrade, \u{fc}".parse::<SnapshotName>().expect("people write so");
        for bad in ["", "a\nb", "\u{1b}[31m", &"a".repeat(129)] {
            assert!(bad.parse::<SnapshotName>().is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn slots_never_overlap(a in IdSlot::FIRST..=IdSlot::LAST, b in IdSlot::FIRST..=IdSlot::LAST) {
            let (a, b) = (IdSlot::try_from(a).expect("in range"), IdSlot::try_from(b).expect("in range"));
            if a != b {
                let (low, high) = if a < b { (a, b) } else { (b, a) };
                prop_assert!(low.creator() < high.base());
            }
        }
        #[test]
        fn nothing_that_parses_is_a_path(s in ".{0,70}") {
            if let Ok(name) = s.parse::<CtName>() {
                prop_assert!(!name.as_str().contains('/') && name.as_str() != "..");
            }
            if let Ok(name) = s.parse::<TemplateName>() {
                prop_assert!(!name.as_str().contains('/') && !name.as_str().starts_with('.'));
            }
        }
    }
}
