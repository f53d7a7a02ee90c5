//! What a certificate or a token grants to who holds it: a role, and the projects it is bounded to. How
//! certificates say so.
//!
//! Pure. Never here: what a role may call.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::id::{ParseError, word};

/// How a certificate's subject alternative names, each a URI, begin that say its role.
const ROLE: &str = "urn:ves:role:";
/// The same of a project.
const PROJECT: &str = "urn:ves:project:";
/// What all of ours begin with.
const OURS: &str = "urn:ves:";

/// The most projects of one grant.
pub const MOST_PROJECTS: usize = 64;

word!(
    /// A project, that is a tenant: 1 to 63 small letters, digits and inner hyphens.
    ProjectId, "project", |s| {
        if s.is_empty() || s.len() > 63 {
            return Err("it must have 1 to 63 characters");
        }
        if s.starts_with('-') || s.ends_with('-') {
            return Err("it may not begin or end with '-'");
        }
        if !s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
            return Err("it may hold small letters, digits and '-' only");
        }
        Ok(())
    }
);

word!(
    /// Who a certificate or a token was given to: 1 to 64 of `A-Z a-z 0-9 . _ @ -`, beginning with a letter
    /// or a digit, so that it can stand in a log line and in a file's name.
    HolderName, "name", |s| {
        if s.is_empty() || s.len() > 64 {
            return Err("it must have 1 to 64 characters");
        }
        if !s.starts_with(|c: char| c.is_ascii_alphanumeric()) {
            return Err("it must begin with a letter or a digit");
        }
        if !s.bytes().all(|b| b.is_ascii_alphanumeric() || b"._@-".contains(&b)) {
            return Err("it may hold letters, digits, '.', '_', '@' and '-' only");
        }
        Ok(())
    }
);

/// What a certificate or a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GrantRole {
    /// Everything.
    Admin,
    /// All containers and the node, but not who may do what.
    Operator,
    /// The containers of its projects.
    Tenant,
    /// Looks and changes nothing; with projects, only at theirs.
    ReadOnly,
    /// Another node.
    Node,
}

impl GrantRole {
    /// All of them, the mightiest first.
    pub const ALL: [Self; 5] =
        [Self::Admin, Self::Operator, Self::Tenant, Self::ReadOnly, Self::Node];

    /// Its word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Operator => "operator",
            Self::Tenant => "tenant",
            Self::ReadOnly => "read-only",
            Self::Node => "node",
        }
    }
}

impl fmt::Display for GrantRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for GrantRole {
    type Err = ParseError;
    fn from_str(s: &str) -> Result<Self, ParseError> {
        let why = "it must be admin, operator, tenant, read-only or node";
        let found = Self::ALL.into_iter().find(|role| role.as_str() == s);
        found.ok_or_else(|| ParseError::new("role", s, why))
    }
}

/// A role and its projects, which go together: a tenant has some, one who only looks may have some, nobody
/// else has any.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Parts", into = "Parts")]
pub struct Grant {
    role: GrantRole,
    projects: BTreeSet<ProjectId>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Parts {
    role: GrantRole,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    projects: BTreeSet<ProjectId>,
}

impl TryFrom<Parts> for Grant {
    type Error = ParseError;
    fn try_from(Parts { role, projects }: Parts) -> Result<Self, ParseError> {
        Self::new(role, projects)
    }
}

impl From<Grant> for Parts {
    fn from(Grant { role, projects }: Grant) -> Self {
        Self { role, projects }
    }
}

impl Grant {
    /// A role with these projects.
    pub fn new(role: GrantRole, projects: BTreeSet<ProjectId>) -> Result<Self, ParseError> {
        let bad = |why| Err(ParseError::new("role", role, why));
        match role {
            GrantRole::Tenant if projects.is_empty() => bad("a tenant needs a project at least"),
            GrantRole::Admin | GrantRole::Operator | GrantRole::Node if !projects.is_empty() => {
                bad("only a tenant, or one who only looks, is bounded to projects")
            }
            _ if projects.len() > MOST_PROJECTS => bad("it can have 64 projects at most"),
            _ => Ok(Self { role, projects }),
        }
    }

    /// What it is for.
    pub const fn role(&self) -> GrantRole {
        self.role
    }

    /// What it is bounded to; none: to nothing.
    pub const fn projects(&self) -> &BTreeSet<ProjectId> {
        &self.projects
    }

    /// As URIs of a certificate.
    pub fn uris(&self) -> Vec<String> {
        let role = format!("{ROLE}{}", self.role);
        let projects = self.projects.iter().map(|project| format!("{PROJECT}{project}"));
        std::iter::once(role).chain(projects).collect()
    }

    /// Of the URIs of a certificate; those that are not ours say nothing.
    pub fn of_uris<'a>(uris: impl IntoIterator<Item = &'a str>) -> Result<Self, ParseError> {
        let (mut role, mut projects) = (None, BTreeSet::new());
        for uri in uris.into_iter().filter(|uri| uri.starts_with(OURS)) {
            if let Some(word) = uri.strip_prefix(ROLE) {
                if role.replace(word.parse::<GrantRole>()?).is_some() {
                    return Err(ParseError::new("certificate", uri, "it says more than one role"));
                }
            } else if let Some(project) = uri.strip_prefix(PROJECT) {
                projects.insert(project.parse()?);
            } else {
                let why = "it says what this version does not understand";
                return Err(ParseError::new("certificate", uri, why));
            }
        }
        let why = "it says no role, as urn:ves:role:ROLE among its alternative names";
        let role = role.ok_or_else(|| ParseError::new("certificate", "", why))?;
        Self::new(role, projects)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn projects(of: &[&str]) -> BTreeSet<ProjectId> {
        of.iter().map(|p| p.parse().expect("a project")).collect()
    }

    #[test]
    fn role_and_projects_go_together() {
        for role in GrantRole::ALL {
            assert_eq!(role.to_string().parse(), Ok(role));
            assert_eq!(Grant::new(role, projects(&[])).is_ok(), role != GrantRole::Tenant);
            let bounded = matches!(role, GrantRole::Tenant | GrantRole::ReadOnly);
            assert_eq!(Grant::new(role, projects(&["acme"])).is_ok(), bounded, "{role}");
        }
        let many = (0..=MOST_PROJECTS).map(|n| format!("p{n}").parse().expect("a project"));
        assert!(Grant::new(GrantRole::Tenant, many.collect()).is_err());
        assert!("Admin".parse::<GrantRole>().is_err());
    }

    #[test]
    fn what_is_not_understood_grants_nothing() {
        let of = |uris: &[&str]| Grant::of_uris(uris.iter().copied());
        let tenant = of(&["https://acme.example", "urn:ves:role:tenant", "urn:ves:project:acme"]);
        assert_eq!(tenant, Grant::new(GrantRole::Tenant, projects(&["acme"])));
        for bad in [
            &[][..],
            &["urn:ves:project:acme"],
            &["urn:ves:role:root"],
            &["urn:ves:role:"],
            &["urn:ves:role:tenant"],
            &["urn:ves:role:admin", "urn:ves:role:tenant", "urn:ves:project:acme"],
            &["urn:ves:role:admin", "urn:ves:project:acme"],
            &["urn:ves:role:tenant", "urn:ves:project:a/../b"],
            &["urn:ves:role:tenant", "urn:ves:project:acme", "urn:ves:until:2030"],
            &["URN:VES:role:admin"],
            &["https://acme.example/urn:ves:role:admin"],
        ] {
            assert!(of(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn names() {
        for bad in ["", "-a", "a-", "A", "a.b", "a/b", "a\n", &"a".repeat(64)] {
            assert!(bad.parse::<ProjectId>().is_err(), "{bad:?}");
        }
        for bad in ["", "-a", ".a", "a/b", "a:b", "a b", "a\n", "ä", &"a".repeat(65)] {
            assert!(bad.parse::<HolderName>().is_err(), "{bad:?}");
        }
        "ops@panel-1.example".parse::<HolderName>().expect("a name");
    }

    proptest! {
        #[test]
        fn a_certificate_says_what_was_granted(
            role in proptest::sample::select(&GrantRole::ALL),
            of in proptest::collection::btree_set("[a-z0-9]{1,9}", 0..4),
        ) {
            let of = of.iter().map(|p| p.parse().expect("a project")).collect();
            if let Ok(grant) = Grant::new(role, of) {
                let uris = grant.uris();
                prop_assert_eq!(Grant::of_uris(uris.iter().map(String::as_str)), Ok(grant.clone()));
                let json = serde_json::to_string(&grant).expect("written");
                prop_assert_eq!(serde_json::from_str::<Grant>(&json).expect("read"), grant);
            }
        }

        #[test]
        fn any_uris_are_read_without_a_panic(uris in proptest::collection::vec("\\PC{0,40}", 0..4)) {
            let _read = Grant::of_uris(uris.iter().map(String::as_str));
        }
    }
}
