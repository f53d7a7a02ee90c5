//! Templates: what may be asked for, who is working on one. Pure, except for the lock table.
//!
//! ```text
//! absent ──make──► making ──► present ──remove──► removing ──► absent
//!                    └─fails─► absent      └─ read (clone, export), any number at once
//! ```

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Arc, Mutex, PoisonError};

use ves_archive::Owners;
use ves_proto::{Fault, Reason};
use ves_types::TemplateName;

/// How far a template is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub what: String,
    /// How much is done.
    pub done: u64,
    /// Of how much; 0 where it cannot be known.
    pub total: u64,
}

/// The init system to build for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BuildInit {
    /// systemd.
    Systemd,
    /// System V init.
    Sysvinit,
}

/// A template to be built from packages; every word in it is safe as a program's argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Build {
    /// The suite.
    pub suite: String,
    /// The init system.
    pub init: BuildInit,
    /// Packages beyond what a system container needs.
    pub packages: Vec<String>,
}

/// The most packages one build may name.
const MAX_PACKAGES: usize = 500;

/// The most templates that are made at once.
const MAX_AT_ONCE: usize = 4;

impl Build {
    /// Checks the words of a request.
    ///
    /// # Errors
    /// `BAD_VALUE` with the field.
    pub fn parse(suite: String, init: BuildInit, packages: Vec<String>) -> Result<Self, Fault> {
        let bad =
            |field: &str, why: String| Err(Fault::new(Reason::BadValue, why).fact("field", field));
        let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        if suite.is_empty()
            || suite.len() > 40
            || !suite.bytes().all(|b| word(b) || b == b'-')
            || suite.starts_with('-')
        {
            return bad(
                "suite",
                format!("{suite:?} is no suite: it has small letters, digits and '-'"),
            );
        }
        if packages.len() > MAX_PACKAGES {
            return bad("packages", format!("more than {MAX_PACKAGES} packages are named"));
        }
        let package = |p: &String| {
            (2..=100).contains(&p.len())
                && p.bytes().all(|b| word(b) || b"+-.".contains(&b))
                && p.as_bytes().first().copied().is_some_and(word)
        };
        match packages.iter().find(|p| !package(p)) {
            Some(p) => bad("packages", format!("{p:?} is no name of a package")),
            None => Ok(Self { suite, init, packages }),
        }
    }
}

/// Whether a text is the URL of a mirror and nothing that a program could take for something else.
pub fn is_mirror(text: &str) -> bool {
    ["http://", "https://", "file:/"].iter().any(|p| text.starts_with(p))
        && text.len() < 300
        && text.bytes().all(|b| b.is_ascii_graphic() && !b"'\"\\`$;[]|<>(){}".contains(&b))
}

/// Reads a hash as it is compared: 64 small hexadecimal digits, or none.
///
/// # Errors
/// `BAD_VALUE` on "sha256".
pub fn parse_sha256(text: &str) -> Result<Option<String>, Fault> {
    if text.is_empty() {
        return Ok(None);
    }
    if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        let why = "a SHA-256 has 64 hexadecimal digits";
        return Err(Fault::new(Reason::BadValue, why).fact("field", "sha256"));
    }
    Ok(Some(text.to_ascii_lowercase()))
}

/// The most owners one import may map.
const MAX_OWNERS: usize = 1000;

/// Reads what is to become of an archive's owners.
///
/// # Errors
/// `BAD_VALUE` on "map_owners": too many, one twice, or one to an id that no container has.
pub fn parse_owners(
    map: impl IntoIterator<Item = (u32, u32)>,
    squash: bool,
) -> Result<Owners, Fault> {
    let bad = |why: String| Err(Fault::new(Reason::BadValue, why).fact("field", "map_owners"));
    let mut owners = Owners { map: BTreeMap::new(), squash };
    for (from, to) in map {
        if to > Owners::LAST {
            return bad(format!(
                "owner {from} cannot become {to}: the last id of a container is {}",
                Owners::LAST
            ));
        }
        if owners.map.len() == MAX_OWNERS {
            return bad(format!("more than {MAX_OWNERS} owners are mapped"));
        }
        match owners.map.entry(from) {
            Entry::Occupied(_) => return bad(format!("owner {from} is mapped twice")),
            Entry::Vacant(place) => place.insert(to),
        };
    }
    Ok(owners)
}

#[derive(Debug)]
enum Use {
    /// So many read it.
    Read(u32),
    /// Somebody makes or removes it.
    Alone(&'static str),
}

/// Who works on which template.
#[derive(Debug, Clone, Default)]
pub struct Uses(Arc<Mutex<BTreeMap<TemplateName, Use>>>);

/// A use of a template; dropping it ends the use.
#[derive(Debug)]
pub struct InUse {
    uses: Uses,
    name: TemplateName,
}

impl Uses {
    /// Begins to read a template.
    ///
    /// # Errors
    /// `TEMPLATE_IN_USE` while it is made or removed.
    pub fn read(&self, name: &TemplateName) -> Result<InUse, Fault> {
        let mut uses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match uses.entry(name.clone()).or_insert(Use::Read(0)) {
            Use::Read(n) => *n += 1,
            Use::Alone(what) => return Err(in_use(name, what)),
        }
        Ok(InUse { uses: self.clone(), name: name.clone() })
    }

    /// Begins to make or remove a template.
    ///
    /// # Errors
    /// `TEMPLATE_IN_USE` while anybody does anything with it, `TOO_MANY` while many are made.
    pub fn alone(&self, name: &TemplateName, what: &'static str) -> Result<InUse, Fault> {
        let mut uses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match uses.get(name) {
            Some(Use::Read(_)) => return Err(in_use(name, "being copied")),
            Some(Use::Alone(what)) => return Err(in_use(name, what)),
            None => {}
        }
        if uses.values().filter(|u| matches!(u, Use::Alone(_))).count() >= MAX_AT_ONCE {
            let message = format!("{MAX_AT_ONCE} templates are being made; wait for one of them");
            return Err(Fault::new(Reason::TooMany, message).fact("limit", MAX_AT_ONCE));
        }
        uses.insert(name.clone(), Use::Alone(what));
        Ok(InUse { uses: self.clone(), name: name.clone() })
    }
}

fn in_use(name: &TemplateName, what: &str) -> Fault {
    let message = format!("template {name} is {what}; wait until that is done");
    Fault::new(Reason::TemplateInUse, message).fact("template", name)
}

impl Drop for InUse {
    fn drop(&mut self) {
        let mut uses = self.uses.0.lock().unwrap_or_else(PoisonError::into_inner);
        match uses.get_mut(&self.name) {
            Some(Use::Read(n)) if *n > 1 => *n -= 1,
            _ => {
                uses.remove(&self.name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_cannot_be_options_or_shell() {
        let parse = |suite: &str, packages: &[&str]| {
            let packages = packages.iter().map(|p| (*p).to_owned()).collect();
            Build::parse(suite.to_owned(), BuildInit::Systemd, packages)
                .map_err(|f| f.facts["field"].clone())
        };
        assert!(parse("trixie", &["busybox", "g++", "python3.13"]).is_ok());
        for bad in ["", "-x", "a b", "a/b", "Trixie", "$(id)", "a\n"] {
            assert_eq!(parse(bad, &[]), Err("suite".to_owned()), "{bad:?}");
        }
        for bad in ["", "-x", "a b", "a=1", "a,b", "A", "a;b", "a/b", "x"] {
            assert_eq!(parse("trixie", &[bad]), Err("packages".to_owned()), "{bad:?}");
        }
        assert!(is_mirror("https://mirror.example/debian"));
        for bad in ["", "debian", "--x", "http://a b", "http://a'", "ftp://x"] {
            assert!(!is_mirror(bad), "{bad:?}");
        }
    }

    #[test]
    fn hashes() {
        assert_eq!(parse_sha256(""), Ok(None));
        assert_eq!(parse_sha256(&"AB".repeat(32)), Ok(Some("ab".repeat(32))));
        assert!(parse_sha256("ab").is_err() && parse_sha256(&"x".repeat(64)).is_err());
    }

    #[test]
    fn owners() {
        let map = |map: &[(u32, u32)]| {
            parse_owners(map.iter().copied(), true).map_err(|f| f.facts["field"].clone())
        };
        let owners = map(&[(903_700_503, 65_534), (7, 0)]).expect("good");
        assert!(owners.squash && owners.map[&903_700_503] == 65_534 && owners.map[&7] == 0);
        let many: Vec<_> = (0..1001).map(|n| (n, n)).collect();
        for bad in [&[(1, 65_535)][..], &[(1, 2), (1, 2)], &many] {
            assert_eq!(map(bad), Err("map_owners".to_owned()));
        }
    }

    #[test]
    fn many_read_and_one_changes() {
        let (uses, name) = (Uses::default(), "debian".parse().expect("a name"));
        let (a, b) = (uses.read(&name).expect("free"), uses.read(&name).expect("shared"));
        assert!(uses.alone(&name, "being removed").is_err());
        drop(a);
        assert!(uses.alone(&name, "being removed").is_err());
        drop(b);
        let c = uses.alone(&name, "being removed").expect("free");
        assert_eq!(uses.read(&name).map_err(|f| f.reason).err(), Some(Reason::TemplateInUse));
        drop(c);
        uses.read(&name).expect("free");
    }

    #[test]
    fn only_some_are_made_at_once() {
        let uses = Uses::default();
        let make = |n: usize| uses.alone(&format!("t{n}").parse().expect("a name"), "being made");
        let made: Vec<_> = (0..MAX_AT_ONCE).map(|n| make(n).expect("free")).collect();
        assert_eq!(make(99).map_err(|f| f.reason).err(), Some(Reason::TooMany));
        drop(made);
        make(99).expect("free again");
    }
}
