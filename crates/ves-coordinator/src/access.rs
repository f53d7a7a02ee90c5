//! Who may what: one table of all RPCs of the public API, and one function of an RPC, what it is about, and who
//! calls. Pure.
//!
//! ```text
//!                     look            act, sessions       operate             administer
//!  admin              all             all                 all                 all
//!  operator           all             all                 all
//!  tenant             its projects'   its projects'
//!  read-only          all
//!  …, with projects   its projects'
//! ```
//!
//! Looking at the node, which is nobody's, is for those who see all. What is somebody else's is unknown to who
//! does not see it, and never forbidden: that it is there is told to nobody. The gate applies the table to each
//! call; what a call is about, only its handler knows. Never here: how a caller was recognised.

use ves_daemon::{Policy, Principal, Role};
use ves_proto::{Fault, Reason};

/// Administrators: root, the coordinator's own account, and who was granted everything.
const ADMINISTER: &[Role] = &[Role::Root, Role::Own, Role::Coordinator, Role::Admin];
/// They, and operators.
const OPERATE: &[Role] = &[Role::Root, Role::Own, Role::Coordinator, Role::Admin, Role::Operator];
/// They, and tenants at what is theirs.
const ACT: &[Role] =
    &[Role::Root, Role::Own, Role::Coordinator, Role::Admin, Role::Operator, Role::Tenant];
/// Those who see all.
const SURVEY: &[Role] =
    &[Role::Root, Role::Own, Role::Coordinator, Role::Admin, Role::Operator, Role::ReadOnly];
/// Everybody who is known, at what they see.
const LOOK: &[Role] = &[
    Role::Root,
    Role::Own,
    Role::Coordinator,
    Role::Admin,
    Role::Operator,
    Role::Tenant,
    Role::ReadOnly,
    Role::TenantReadOnly,
];

/// Every RPC of the public API and who may call it, at least about something.
pub const POLICY: Policy = &[
    ("/ves.api.v1.AccessService/CreateToken", ADMINISTER),
    ("/ves.api.v1.AccessService/ListTokens", ADMINISTER),
    ("/ves.api.v1.AccessService/RevokeToken", ADMINISTER),
    ("/ves.api.v1.ContainerService/GetContainer", LOOK),
    ("/ves.api.v1.ContainerService/ListContainers", LOOK),
    ("/ves.api.v1.ContainerService/BatchGetContainers", LOOK),
    ("/ves.api.v1.ContainerService/WatchContainers", LOOK),
    ("/ves.api.v1.ContainerService/CreateContainer", ACT),
    ("/ves.api.v1.ContainerService/UpdateContainer", ACT),
    ("/ves.api.v1.ContainerService/ChangeAddresses", ACT),
    ("/ves.api.v1.ContainerService/DeleteContainer", ACT),
    ("/ves.api.v1.ContainerService/StartContainer", ACT),
    ("/ves.api.v1.ContainerService/StopContainer", ACT),
    ("/ves.api.v1.ContainerService/RestartContainer", ACT),
    ("/ves.api.v1.ContainerService/MountContainer", ACT),
    ("/ves.api.v1.ContainerService/UnmountContainer", ACT),
    ("/ves.api.v1.ContainerService/CheckVolume", ACT),
    ("/ves.api.v1.EventService/ListEvents", LOOK),
    ("/ves.api.v1.EventService/WatchEvents", LOOK),
    ("/ves.api.v1.NodeService/GetNode", SURVEY),
    ("/ves.api.v1.NodeService/ListNodes", SURVEY),
    ("/ves.api.v1.OperationService/GetOperation", LOOK),
    ("/ves.api.v1.OperationService/ListOperations", LOOK),
    ("/ves.api.v1.OperationService/WaitOperation", LOOK),
    ("/ves.api.v1.OperationService/CancelOperation", ACT),
    ("/ves.api.v1.OperationService/WatchOperations", LOOK),
    ("/ves.api.v1.SessionService/Exec", ACT),
    ("/ves.api.v1.SessionService/Console", ACT),
    ("/ves.api.v1.SnapshotService/CreateSnapshot", ACT),
    ("/ves.api.v1.SnapshotService/ListSnapshots", LOOK),
    ("/ves.api.v1.SnapshotService/SwitchSnapshot", ACT),
    ("/ves.api.v1.SnapshotService/DeleteSnapshot", ACT),
    ("/ves.api.v1.TemplateService/GetTemplate", LOOK),
    ("/ves.api.v1.TemplateService/ListTemplates", LOOK),
    ("/ves.api.v1.TemplateService/BuildTemplate", OPERATE),
    ("/ves.api.v1.TemplateService/ImportTemplate", OPERATE),
    ("/ves.api.v1.TemplateService/ExportTemplate", OPERATE),
    ("/ves.api.v1.TemplateService/DeleteTemplate", OPERATE),
    ("/ves.api.v1.UsageService/GetUsage", LOOK),
    ("/ves.api.v1.UsageService/ListUsage", LOOK),
];

/// What a call is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource<'a> {
    /// Nothing that is anybody's; or many things, of which the answer has what [`sees`] lets through.
    Any,
    /// A container, or what belongs to it.
    Container {
        /// As the caller names it.
        name: &'a str,
        /// Its project, without `projects/`.
        project: Option<&'a str>,
    },
    /// An operation.
    Operation {
        /// Its id.
        id: &'a str,
        /// The project of what it works on; none: of the node.
        project: Option<&'a str>,
    },
    /// A container that is to be made in a project, or in none.
    New {
        /// The project, without `projects/`.
        project: Option<&'a str>,
    },
}

/// Whether a caller sees what belongs to a project, or to none: what lists, watches and batches are filtered by.
pub fn sees(principal: &Principal, project: Option<&str>) -> bool {
    LOOK.contains(&principal.role) && principal.scope.has(project)
}

/// Whether `principal` may call `rpc` (its full path, with the slash it begins with) about `resource`.
///
/// # Errors
/// `NOT_ALLOWED`; `CONTAINER_UNKNOWN` or `OPERATION_UNKNOWN` of what the caller does not see.
pub fn allows(rpc: &str, resource: Resource<'_>, principal: &Principal) -> Result<(), Fault> {
    let row = POLICY.iter().find(|(path, _)| *path == rpc);
    if !row.is_some_and(|(_, roles)| roles.contains(&principal.role)) {
        let message = format!("{principal} may not call {rpc}");
        return Err(not_allowed(message, principal).fact("rpc", rpc));
    }
    match resource {
        Resource::Container { name, project } if !sees(principal, project) => {
            let message = format!("there is no container {name}");
            Err(Fault::new(Reason::ContainerUnknown, message).fact("ct", name))
        }
        Resource::Operation { id, project } if !sees(principal, project) => {
            let message = format!("there is no operation {id}");
            Err(Fault::new(Reason::OperationUnknown, message).fact("operation", id))
        }
        Resource::New { project } if !sees(principal, project) => {
            let message = match project {
                Some(project) => format!("{principal} may not make containers in {project:?}"),
                None => format!("{principal} makes containers in its projects: name one of them"),
            };
            Err(not_allowed(message, principal).fact("rpc", rpc))
        }
        Resource::Any
        | Resource::Container { .. }
        | Resource::Operation { .. }
        | Resource::New { .. } => Ok(()),
    }
}

fn not_allowed(message: String, principal: &Principal) -> Fault {
    Fault::new(Reason::NotAllowed, message).fact("principal", principal)
}

#[cfg(test)]
mod laws;
