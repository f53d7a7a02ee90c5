//! Who calls: an account of this machine, the holder of a certificate, or the holder of a token.
//!
//! Never here: how that was proven ([`crate::accept`], [`crate::token`]), or what they may.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use ves_proto::{Fault, Reason};
use ves_types::{Grant, GrantRole, HolderName, ProjectId};

/// The most bytes of a name on whose behalf somebody calls.
const BEHALF: usize = 128;

/// What a caller is to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// The administrator's account.
    Root,
    /// The coordinator's account.
    Coordinator,
    /// The very account the daemon runs as, unless that is the coordinator's: of a daemon that was started
    /// by hand the administrator is this.
    Own,
    /// An account the coordinator's configuration names, or whose certificate or token says so.
    Operator,
    /// Whose certificate or token grants everything.
    Admin,
    /// Whose certificate or token is for the containers of some projects.
    Tenant,
    /// Whose certificate or token is for looking, at everything.
    ReadOnly,
    /// Whose certificate or token is for looking at the containers of some projects.
    TenantReadOnly,
    /// Another node.
    Node,
    /// Anybody else.
    Other,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Root,
        Self::Coordinator,
        Self::Own,
        Self::Operator,
        Self::Admin,
        Self::Tenant,
        Self::ReadOnly,
        Self::TenantReadOnly,
        Self::Node,
        Self::Other,
    ];

    /// Its word in logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Coordinator => "coordinator",
            Self::Own => "own",
            Self::Operator => "operator",
            Self::Admin => "admin",
            Self::Tenant => "tenant",
            Self::ReadOnly => "read-only",
            Self::TenantReadOnly => "tenant-read-only",
            Self::Node => "node",
            Self::Other => "other",
        }
    }
}

impl From<&Grant> for Role {
    fn from(grant: &Grant) -> Self {
        match grant.role() {
            GrantRole::Admin => Self::Admin,
            GrantRole::Operator => Self::Operator,
            GrantRole::Tenant => Self::Tenant,
            GrantRole::ReadOnly if grant.projects().is_empty() => Self::ReadOnly,
            GrantRole::ReadOnly => Self::TenantReadOnly,
            GrantRole::Node => Self::Node,
        }
    }
}

/// By what a caller is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// The credentials that the kernel attached to its unix connection.
    Unix {
        /// Its user id.
        uid: u32,
        /// Its process id, where the kernel told.
        pid: Option<i32>,
    },
    /// Its certificate, of our certification authority.
    Certificate {
        /// Its subject.
        name: HolderName,
        /// Its serial number, in hexadecimal digits.
        serial: Arc<str>,
    },
    /// A token.
    Token {
        /// The token's id.
        id: Arc<str>,
        /// Whom it was given to.
        name: HolderName,
    },
    /// Nothing so far.
    Unknown,
}

/// Whose containers a caller sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Everybody's.
    All,
    /// Those of these projects only.
    Projects(Arc<BTreeSet<ProjectId>>),
}

impl Scope {
    /// Whether it has what is of `project`, or of none.
    pub fn has(&self, project: Option<&str>) -> bool {
        match self {
            Self::All => true,
            Self::Projects(own) => own.iter().any(|own| Some(own.as_str()) == project),
        }
    }
}

/// A caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// By what it is known.
    pub identity: Identity,
    /// What it is to us.
    pub role: Role,
    /// Whose containers it sees.
    pub scope: Scope,
    /// For whom it says it calls: its own word, for audit, by which nothing is decided.
    pub on_behalf_of: Option<Arc<str>>,
}

impl Principal {
    /// An account of this machine.
    pub const fn unix(uid: u32, pid: Option<i32>, role: Role) -> Self {
        let identity = Identity::Unix { uid, pid };
        Self { identity, role, scope: Scope::All, on_behalf_of: None }
    }

    /// Who came by no way we know; nobody's.
    pub const fn nobody() -> Self {
        Self {
            identity: Identity::Unknown,
            role: Role::Other,
            scope: Scope::All,
            on_behalf_of: None,
        }
    }

    /// Who holds what was granted.
    pub fn granted(identity: Identity, grant: &Grant) -> Self {
        let role = Role::from(grant);
        let scope = match role {
            Role::Tenant | Role::TenantReadOnly => {
                Scope::Projects(Arc::new(grant.projects().clone()))
            }
            _ => Scope::All,
        };
        Self { identity, role, scope, on_behalf_of: None }
    }

    /// The user's id, of an account of this machine.
    pub const fn uid(&self) -> Option<u32> {
        match &self.identity {
            Identity::Unix { uid, .. } => Some(*uid),
            Identity::Certificate { .. } | Identity::Token { .. } | Identity::Unknown => None,
        }
    }

    /// The same, calling for somebody.
    ///
    /// # Errors
    /// `BAD_VALUE` where that is no text of a sensible length.
    pub fn for_somebody(mut self, whom: Option<&[u8]>) -> Result<Self, Fault> {
        let Some(whom) = whom else { return Ok(self) };
        let text = std::str::from_utf8(whom).ok().filter(|text| {
            (1..=BEHALF).contains(&text.len()) && !text.chars().any(char::is_control)
        });
        let text = text.ok_or_else(|| {
            let message =
                "ves-on-behalf-of must have 1 to 128 bytes of UTF-8 without control characters";
            Fault::new(Reason::BadValue, message).fact("field", "ves-on-behalf-of")
        })?;
        self.on_behalf_of = Some(text.into());
        Ok(self)
    }
}

impl fmt::Display for Principal {
    /// A user's name, or `uid` and its number where it has none; `certificate:` or `token:` and the name of
    /// its holder, which no user can have.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.identity {
            Identity::Unix { uid, .. } => match nix::unistd::User::from_uid((*uid).into()) {
                Ok(Some(user)) => f.write_str(&user.name),
                Ok(None) | Err(_) => write!(f, "uid {uid}"),
            },
            Identity::Certificate { name, .. } => write!(f, "certificate:{name}"),
            Identity::Token { name, .. } => write!(f, "token:{name}"),
            Identity::Unknown => f.write_str("somebody unknown"),
        }
    }
}

/// The caller of a request, as the gate recorded it. A request that came by no gate (which the
/// chassis does not allow) is nobody's.
pub fn principal<T>(request: &tonic::Request<T>) -> Principal {
    request.extensions().get().cloned().unwrap_or_else(Principal::nobody)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(role: GrantRole, projects: &[&str]) -> Grant {
        let projects = projects.iter().map(|p| p.parse().expect("a project")).collect();
        Grant::new(role, projects).expect("they go together")
    }

    #[test]
    fn who_is_bounded_to_projects_sees_nothing_else() {
        let of = |role, projects: &[&str]| {
            Principal::granted(Identity::Unknown, &grant(role, projects)).scope
        };
        for scope in [of(GrantRole::Tenant, &["acme"]), of(GrantRole::ReadOnly, &["acme"])] {
            assert!(scope.has(Some("acme")));
            assert!(!scope.has(Some("other")) && !scope.has(None));
        }
        for scope in [of(GrantRole::Admin, &[]), of(GrantRole::ReadOnly, &[])] {
            assert!(scope.has(Some("acme")) && scope.has(None));
        }
    }

    #[test]
    fn names_of_holders_are_no_names_of_users() {
        let name: HolderName = "root".parse().expect("a name");
        let of =
            |identity| Principal::granted(identity, &grant(GrantRole::ReadOnly, &[])).to_string();
        let serial = "00".into();
        assert_eq!(of(Identity::Certificate { name: name.clone(), serial }), "certificate:root");
        assert_eq!(of(Identity::Token { id: "x".into(), name }), "token:root");
        assert_eq!(Principal::unix(0, None, Role::Root).to_string(), "root");
        assert_eq!(Principal::unix(4_000_000_000, None, Role::Other).to_string(), "uid 4000000000");
    }

    #[test]
    fn for_whom_somebody_calls_is_a_short_text() {
        let of = |whom: Option<&[u8]>| Principal::unix(0, None, Role::Root).for_somebody(whom);
        assert_eq!(of(None).expect("nobody").on_behalf_of, None);
        let known = of(Some("Jörg <j@acme.example>".as_bytes())).expect("somebody");
        assert_eq!(known.on_behalf_of.as_deref(), Some("Jörg <j@acme.example>"));
        for bad in [&b""[..], b"a\nb", b"\x1b[31m", b"\xff", &[b'a'; 129]] {
            let fault = of(Some(bad)).expect_err("refused");
            assert_eq!(
                (fault.reason, &*fault.facts["field"]),
                (Reason::BadValue, "ves-on-behalf-of")
            );
        }
    }
}
