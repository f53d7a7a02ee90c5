//! What holds of any caller, any RPC and anything it may be about.

use proptest::prelude::*;
use ves_daemon::Identity;
use ves_types::{Grant, GrantRole, ProjectId};

use super::*;

/// All services of the public API.
const SERVICES: &[&str] = &[
    "ves.api.v1.AccessService",
    "ves.api.v1.ContainerService",
    "ves.api.v1.EventService",
    "ves.api.v1.NodeService",
    "ves.api.v1.OperationService",
    "ves.api.v1.SessionService",
    "ves.api.v1.SnapshotService",
    "ves.api.v1.TemplateService",
    "ves.api.v1.UsageService",
];
/// How the names of RPCs begin that only read.
const READING: [&str; 5] = ["Get", "List", "Watch", "BatchGet", "Wait"];

fn reads(rpc: &str) -> bool {
    let name = rpc.rsplit('/').next().unwrap_or_default();
    READING.iter().any(|word| name.starts_with(word))
}

fn granted(role: GrantRole, projects: &[&str]) -> Principal {
    let projects = projects.iter().map(|p| p.parse::<ProjectId>().expect("a project")).collect();
    let grant = Grant::new(role, projects).expect("they go together");
    let name = "panel".parse().expect("a name");
    Principal::granted(Identity::Certificate { name, serial: "01".into() }, &grant)
}

fn unix(role: Role) -> Principal {
    Principal::unix(1000, None, role)
}

/// What a call may be about, of three projects and none.
fn resource() -> impl Strategy<Value = Resource<'static>> {
    let project = proptest::option::of(proptest::sample::select(&["acme", "beta", "gamma"][..]));
    let kind = 0..4_u8;
    (kind, project).prop_map(|(kind, project)| match kind {
        0 => Resource::Any,
        1 => Resource::Container { name: "600", project },
        2 => Resource::Operation { id: "x", project },
        _ => Resource::New { project },
    })
}

fn project_of(resource: Resource<'_>) -> Option<Option<&str>> {
    match resource {
        Resource::Any => None,
        Resource::Container { project, .. }
        | Resource::Operation { project, .. }
        | Resource::New { project } => Some(project),
    }
}

fn rpc() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(POLICY).prop_map(|(path, _)| path)
}

fn projects() -> impl Strategy<Value = Vec<&'static str>> {
    proptest::sample::subsequence(vec!["acme", "beta"], 1..=2)
}

#[test]
fn every_rpc_of_the_public_api_has_one_row() {
    assert_eq!(ves_daemon::check_policy(SERVICES, POLICY), Ok(()));
}

#[test]
fn who_is_nobody_and_who_is_a_node_may_nothing() {
    for (rpc, _) in POLICY {
        for nobody in [Principal::nobody(), unix(Role::Other), granted(GrantRole::Node, &[])] {
            let fault = allows(rpc, Resource::Any, &nobody).expect_err(rpc);
            assert_eq!(fault.reason, Reason::NotAllowed);
            assert!(!sees(&nobody, None) && !sees(&nobody, Some("acme")));
        }
    }
    let admin = unix(Role::Root);
    assert!(allows("/ves.api.v1.NodeService/New", Resource::Any, &admin).is_err());
    assert!(allows("", Resource::Any, &admin).is_err());
}

#[test]
fn accounts_of_the_machine_may_what_they_always_might() {
    let access = |rpc: &str| rpc.starts_with("/ves.api.v1.AccessService/");
    for (rpc, _) in POLICY {
        for role in [Role::Root, Role::Own, Role::Coordinator, Role::Operator] {
            let allowed = allows(rpc, Resource::New { project: None }, &unix(role)).is_ok();
            assert_eq!(allowed, !(access(rpc) && role == Role::Operator), "{role:?} {rpc}");
        }
    }
}

proptest! {
    /// Neither to act on it nor to look at it; and that it is there is not told.
    #[test]
    fn a_tenant_never_reaches_what_is_anothers(
        rpc in rpc(), about in resource(), own in projects(), looks in any::<bool>(),
    ) {
        let role = if looks { GrantRole::ReadOnly } else { GrantRole::Tenant };
        let tenant = granted(role, &own);
        let theirs = |project: Option<&str>| project.is_some_and(|p| own.contains(&p));
        if let Some(project) = project_of(about) {
            prop_assert_eq!(sees(&tenant, project), theirs(project));
            if !theirs(project) {
                let fault = allows(rpc, about, &tenant).expect_err("it is another's");
                let known = allows(rpc, Resource::Any, &tenant).is_ok();
                let unknown = fault.reason != Reason::NotAllowed;
                let new = matches!(about, Resource::New { .. });
                prop_assert_eq!(unknown, known && !new, "{}", fault);
            }
        }
    }

    #[test]
    fn who_only_looks_changes_nothing(rpc in rpc(), about in resource(), own in projects()) {
        for looker in [granted(GrantRole::ReadOnly, &[]), granted(GrantRole::ReadOnly, &own)] {
            if allows(rpc, about, &looker).is_ok() {
                prop_assert!(reads(rpc), "{rpc}");
            }
        }
    }

    /// Each may all that the next one may.
    #[test]
    fn roles_are_ordered(rpc in rpc(), about in resource(), own in projects()) {
        let admin = granted(GrantRole::Admin, &[]);
        let operator = granted(GrantRole::Operator, &[]);
        let tenant = granted(GrantRole::Tenant, &own);
        let looker = granted(GrantRole::ReadOnly, &[]);
        let tenants_looker = granted(GrantRole::ReadOnly, &own);
        for (more, less) in [
            (&unix(Role::Root), &admin),
            (&admin, &unix(Role::Root)),
            (&admin, &operator),
            (&operator, &tenant),
            (&operator, &looker),
            (&tenant, &tenants_looker),
            (&looker, &tenants_looker),
        ] {
            if allows(rpc, about, less).is_ok() {
                prop_assert!(allows(rpc, about, more).is_ok(), "{more} < {less}: {rpc} {about:?}");
            }
        }
    }

    /// What the gate lets nobody through for has no other answer from here.
    #[test]
    fn the_table_and_the_function_agree(rpc in rpc(), own in projects()) {
        for principal in [
            granted(GrantRole::Admin, &[]),
            granted(GrantRole::Operator, &[]),
            granted(GrantRole::Tenant, &own),
            granted(GrantRole::ReadOnly, &[]),
            granted(GrantRole::ReadOnly, &own),
        ] {
            let row = POLICY.iter().find(|(path, _)| *path == rpc).expect("a row");
            let allowed = allows(rpc, Resource::Any, &principal).is_ok();
            prop_assert_eq!(allowed, row.1.contains(&principal.role));
        }
    }
}
