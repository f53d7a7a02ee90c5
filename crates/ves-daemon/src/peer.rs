//! The table of who may call what, and which accounts of this machine have which role.
//!
//! Every RPC has a row in its service's [`Policy`]; what has none is not there for anybody.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;
use ves_proto::{Fault, Reason};
use ves_types::layout::COORDINATOR_USER;

use crate::principal::{Principal, Role};

/// One row an RPC: its full path, such as `/ves.storage.v1.StorageService/GetPool`, and who may.
pub type Policy = &'static [(&'static str, &'static [Role])];

/// Who may have a service change something, or hand out what is a container's.
pub const CHANGE: &[Role] = &[Role::Coordinator, Role::Own];

/// Who may read what a service shows.
pub const READ: &[Role] = &[Role::Coordinator, Role::Own, Role::Root];

/// How the names of RPCs begin that only read.
const READING: [&str; 5] = ["Get", "List", "Watch", "BatchGet", "Wait"];

/// Which accounts have which role.
#[derive(Debug, Clone)]
pub(crate) struct Peers {
    own: u32,
    coordinator: Option<u32>,
    operators: BTreeSet<u32>,
}

impl Peers {
    /// Looks the accounts up. Operators that do not exist are reported by name.
    pub(crate) fn lookup(operators: &[String]) -> Result<Self, String> {
        let uid = |name: &str| {
            nix::unistd::User::from_name(name)
                .map(|user| user.map(|u| u.uid.as_raw()))
                .map_err(|e| format!("look up the user {name}: {e}"))
        };
        let operators = operators
            .iter()
            .map(|name| uid(name)?.ok_or_else(|| format!("there is no user {name}")))
            .collect::<Result<_, String>>()?;
        let own = nix::unistd::geteuid().as_raw();
        Ok(Self { own, coordinator: uid(COORDINATOR_USER)?, operators })
    }

    pub(crate) fn role(&self, uid: u32) -> Role {
        if self.coordinator == Some(uid) {
            Role::Coordinator
        } else if uid == self.own {
            Role::Own
        } else if uid == 0 {
            Role::Root
        } else if self.operators.contains(&uid) {
            Role::Operator
        } else {
            Role::Other
        }
    }
}

/// The group of the coordinator's account, where there is one: what it is to read is readable by this.
pub fn coordinator_group() -> Option<u32> {
    let user = nix::unistd::User::from_name(COORDINATOR_USER).ok().flatten();
    user.map(|user| user.gid.as_raw())
}

/// What there is to be called, and by whom: a daemon's policy, and health and reflection, which tell nothing of
/// any container and are open to every account that is served.
#[derive(Debug, Clone)]
pub(crate) struct Rpcs(BTreeMap<String, Option<&'static [Role]>>);

impl Rpcs {
    pub(crate) fn new(policy: Policy) -> Result<Self, String> {
        let open = [
            rpcs(tonic_health::pb::FILE_DESCRIPTOR_SET, |_| true)?,
            rpcs(tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET, |_| true)?,
            rpcs(tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET, |_| true)?,
        ];
        let open = open.into_iter().flatten().map(|path| (path, None));
        let own = policy.iter().map(|(path, roles)| ((*path).to_owned(), Some(*roles)));
        Ok(Self(open.chain(own).collect()))
    }

    /// The RPC at exactly this path.
    pub(crate) fn find(&self, path: &str) -> Option<Rpc<'_>> {
        self.0.get_key_value(path).map(|(path, roles)| Rpc { path, roles: *roles })
    }
}

/// An RPC that there is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rpc<'a> {
    pub(crate) path: &'a str,
    roles: Option<&'static [Role]>,
}

impl Rpc<'_> {
    /// Whether it is one of health's or reflection's, which say themselves what their statuses mean.
    pub(crate) const fn is_standard(self) -> bool {
        self.roles.is_none()
    }

    /// Whether it does more than read, by its name.
    pub(crate) fn changes(self) -> bool {
        self.roles.is_some() && !reads(self.path)
    }

    pub(crate) fn allows(self, role: Role) -> bool {
        self.roles.is_none_or(|roles| roles.contains(&role))
    }
}

/// Whether some account that is neither root's nor ours has business at a socket with this policy. Where none
/// has, strangers are not served at all.
pub(crate) fn is_public(policy: Policy) -> bool {
    policy.iter().any(|(_, roles)| roles.contains(&Role::Operator) || roles.contains(&Role::Other))
}

/// The paths of all RPCs of the services in these descriptors whose name is wanted.
fn rpcs(descriptors: &[u8], wanted: impl Fn(&str) -> bool) -> Result<BTreeSet<String>, String> {
    let set = prost_types::FileDescriptorSet::decode(descriptors)
        .map_err(|e| format!("read the descriptors: {e}"))?;
    let services = set.file.iter().flat_map(|file| {
        file.service.iter().map(|s| (format!("{}.{}", file.package(), s.name()), s))
    });
    let wanted = services.filter(|(name, _)| wanted(name));
    Ok(wanted
        .flat_map(|(name, s)| s.method.iter().map(move |m| format!("/{name}/{}", m.name())))
        .collect())
}

/// What a caller is told who may not call `path`. Root, which may do everything, is told how.
pub(crate) fn refusal(principal: &Principal, path: &str) -> Fault {
    let mut message = format!("{principal} may not call {path}");
    if principal.role == Role::Root {
        message += "; only the coordinator changes anything here: ask it, with `virtctl`";
    }
    Fault::new(Reason::NotAllowed, message).fact("principal", principal).fact("rpc", path)
}

/// Whether the RPC at this path only reads, by its name.
pub(crate) fn reads(rpc: &str) -> bool {
    let name = rpc.rsplit('/').next().unwrap_or_default();
    READING.iter().any(|word| name.starts_with(word))
}

/// [`check_policy`] of a service that only the coordinator may have change anything: whose RPCs that read
/// are named so.
pub fn check_service_policy(services: &[&str], policy: Policy) -> Result<(), String> {
    check_policy(services, policy)?;
    match policy.iter().find(|(rpc, roles)| *roles != if reads(rpc) { READ } else { CHANGE }) {
        Some((rpc, roles)) => Err(format!("{roles:?} may call {rpc}")),
        None => Ok(()),
    }
}

/// Checks that every RPC of these services has exactly one row and that no row names another.
pub fn check_policy(services: &[&str], policy: Policy) -> Result<(), String> {
    let rpcs = rpcs(ves_proto::DESCRIPTORS, |name| services.contains(&name))?;
    let mut seen = BTreeSet::new();
    for (rpc, _) in policy {
        if !rpcs.contains(*rpc) {
            return Err(format!("the policy names {rpc}, which is no RPC of {services:?}"));
        }
        if !seen.insert(*rpc) {
            return Err(format!("the policy names {rpc} twice"));
        }
    }
    match rpcs.iter().find(|rpc| !seen.contains(rpc.as_str())) {
        Some(rpc) => Err(format!("the policy has no row for {rpc}")),
        None if rpcs.is_empty() => Err(format!("{services:?} have no RPC")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NETWORK: &str = "ves.network.v1.NetworkService";
    const FULL: Policy = &[
        ("/ves.network.v1.NetworkService/EnsureInterface", &[Role::Coordinator]),
        ("/ves.network.v1.NetworkService/RemoveInterface", &[Role::Coordinator]),
        ("/ves.network.v1.NetworkService/GetInterface", &[Role::Coordinator, Role::Root]),
        ("/ves.network.v1.NetworkService/ListInterfaces", &[Role::Coordinator]),
        ("/ves.network.v1.NetworkService/ListTraffic", &[Role::Coordinator]),
        ("/ves.network.v1.NetworkService/GetNode", &[Role::Coordinator]),
    ];

    #[test]
    fn policies_are_complete_and_exact() {
        assert_eq!(check_policy(&[NETWORK], FULL), Ok(()));
        assert!(check_policy(&[NETWORK], FULL.get(1..).expect("rows")).is_err(), "one is missing");
        assert!(
            check_policy(&["ves.storage.v1.StorageService"], FULL).is_err(),
            "of another service"
        );
        assert!(check_policy(&["ves.none.v1.None"], &[]).is_err(), "no such service");
    }

    #[test]
    fn only_exact_paths_are_known_and_only_rows_allow() {
        let rpcs = Rpcs::new(FULL).expect("descriptors");
        let allows = |path: &str, role| rpcs.find(path).map(|rpc| rpc.allows(role));
        let get = "/ves.network.v1.NetworkService/GetInterface";
        assert_eq!(allows(get, Role::Root), Some(true));
        assert_eq!(allows(get, Role::Other), Some(false));
        for open in [
            "/grpc.health.v1.Health/Check",
            "/grpc.health.v1.Health/Watch",
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        ] {
            assert_eq!(allows(open, Role::Other), Some(true), "{open}");
        }
        for unknown in [
            "/ves.network.v1.NetworkService/New",
            "/ves.network.v1.NetworkService/GetInterface/",
            "/grpc.health.v1.Health/x1",
            "/grpc.health.v1.Health/",
            "/grpc.reflection.v1.ServerReflection/Other",
            "",
            "/",
        ] {
            assert_eq!(allows(unknown, Role::Root), None, "{unknown}");
        }
    }

    #[test]
    fn only_where_operators_have_business_are_strangers_served() {
        assert!(!is_public(FULL) && !is_public(&[]));
        assert!(is_public(&[("/a/B", &[Role::Root]), ("/a/C", &[Role::Root, Role::Operator])]));
    }

    #[test]
    fn roles() {
        let peers = Peers { own: 500, coordinator: Some(600), operators: [700].into() };
        let roles = [0, 500, 600, 700, 800].map(|uid| peers.role(uid));
        assert_eq!(roles, [Role::Root, Role::Own, Role::Coordinator, Role::Operator, Role::Other]);
        let by_hand = Peers { own: 0, ..peers.clone() };
        assert_eq!(by_hand.role(0), Role::Own, "started by the administrator");
        let coordinator = Peers { own: 600, ..peers };
        assert_eq!(coordinator.role(600), Role::Coordinator);
    }

    #[test]
    fn root_only_reads_at_a_service_and_is_told_whom_to_ask() {
        let row = |name, roles: &'static [Role]| (name, roles);
        let ensure = "/ves.network.v1.NetworkService/EnsureInterface";
        let full = |ensured: &'static [Role], read: &'static [Role]| -> Policy {
            Box::leak(Box::new([
                row(ensure, ensured),
                row("/ves.network.v1.NetworkService/RemoveInterface", CHANGE),
                row("/ves.network.v1.NetworkService/GetInterface", read),
                row("/ves.network.v1.NetworkService/ListInterfaces", READ),
                row("/ves.network.v1.NetworkService/ListTraffic", READ),
                row("/ves.network.v1.NetworkService/GetNode", READ),
            ]))
        };
        assert_eq!(check_service_policy(&[NETWORK], full(CHANGE, READ)), Ok(()));
        assert!(check_service_policy(&[NETWORK], full(READ, READ)).is_err(), "root changes");
        assert!(check_service_policy(&[NETWORK], full(CHANGE, CHANGE)).is_err(), "root is blind");
        for (role, may) in [(Role::Root, false), (Role::Coordinator, true), (Role::Own, true)] {
            let rpcs = Rpcs::new(full(CHANGE, READ)).expect("descriptors");
            assert_eq!(rpcs.find(ensure).map(|rpc| rpc.allows(role)), Some(may), "{role:?}");
        }
        let said = |role| refusal(&Principal::unix(0, None, role), ensure).to_string();
        assert!(said(Role::Root).contains("`virtctl`"), "{}", said(Role::Root));
        assert!(!said(Role::Other).contains("virtctl"), "{}", said(Role::Other));
    }
}
