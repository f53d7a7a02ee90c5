//! The public API, `ves.api.v1`: parse, call, render. Its services are on one socket.
//!
//! Owns the policy table. Every RPC that names a container comes to it by [`Api::container`], and all that is listed
//! or watched goes through [`Api::sees`]. Never here: decisions; they are [`crate::operation::kinds`]'s.

mod containers;
mod health;
mod mask;
mod node;
mod operations;
mod page;
mod reach;
mod refresh;
mod render;
mod sessions;
mod snapshots;
mod templates;
mod update;
mod usage;
mod watch;

pub use health::needs;

use std::pin::Pin;

use tokio_stream::Stream;
use tonic::Status;
use tonic::service::Routes;
use ves_daemon::{Policy, Role};
use ves_proto::api as pb;

use crate::coordinator::Coordinator;

/// Full names of the services, for health.
pub const SERVICES: &[&str] = &[
    "ves.api.v1.ContainerService",
    "ves.api.v1.SessionService",
    "ves.api.v1.SnapshotService",
    "ves.api.v1.TemplateService",
    "ves.api.v1.OperationService",
    "ves.api.v1.NodeService",
    "ves.api.v1.UsageService",
];

/// Administrators, accounts that the configuration names, and the coordinator's own.
const STAFF: &[Role] = &[Role::Root, Role::Operator, Role::Coordinator, Role::Own];

/// Who may call what. What is not here is refused to everybody.
pub const POLICY: Policy = &[
    ("/ves.api.v1.ContainerService/GetContainer", STAFF),
    ("/ves.api.v1.ContainerService/ListContainers", STAFF),
    ("/ves.api.v1.ContainerService/BatchGetContainers", STAFF),
    ("/ves.api.v1.ContainerService/WatchContainers", STAFF),
    ("/ves.api.v1.ContainerService/CreateContainer", STAFF),
    ("/ves.api.v1.ContainerService/UpdateContainer", STAFF),
    ("/ves.api.v1.ContainerService/ChangeAddresses", STAFF),
    ("/ves.api.v1.ContainerService/DeleteContainer", STAFF),
    ("/ves.api.v1.ContainerService/StartContainer", STAFF),
    ("/ves.api.v1.ContainerService/StopContainer", STAFF),
    ("/ves.api.v1.ContainerService/RestartContainer", STAFF),
    ("/ves.api.v1.ContainerService/MountContainer", STAFF),
    ("/ves.api.v1.ContainerService/UnmountContainer", STAFF),
    ("/ves.api.v1.ContainerService/CheckVolume", STAFF),
    ("/ves.api.v1.SessionService/Exec", STAFF),
    ("/ves.api.v1.SessionService/Console", STAFF),
    ("/ves.api.v1.SnapshotService/CreateSnapshot", STAFF),
    ("/ves.api.v1.SnapshotService/ListSnapshots", STAFF),
    ("/ves.api.v1.SnapshotService/SwitchSnapshot", STAFF),
    ("/ves.api.v1.SnapshotService/DeleteSnapshot", STAFF),
    ("/ves.api.v1.TemplateService/GetTemplate", STAFF),
    ("/ves.api.v1.TemplateService/ListTemplates", STAFF),
    ("/ves.api.v1.TemplateService/BuildTemplate", STAFF),
    ("/ves.api.v1.TemplateService/ImportTemplate", STAFF),
    ("/ves.api.v1.TemplateService/ExportTemplate", STAFF),
    ("/ves.api.v1.TemplateService/DeleteTemplate", STAFF),
    ("/ves.api.v1.OperationService/GetOperation", STAFF),
    ("/ves.api.v1.OperationService/ListOperations", STAFF),
    ("/ves.api.v1.OperationService/WaitOperation", STAFF),
    ("/ves.api.v1.OperationService/CancelOperation", STAFF),
    ("/ves.api.v1.OperationService/WatchOperations", STAFF),
    ("/ves.api.v1.NodeService/GetNode", STAFF),
    ("/ves.api.v1.NodeService/ListNodes", STAFF),
    ("/ves.api.v1.UsageService/GetUsage", STAFF),
    ("/ves.api.v1.UsageService/ListUsage", STAFF),
];

/// The services of a coordinator.
pub fn routes(coordinator: &Coordinator) -> Routes {
    use pb::container_service_server::ContainerServiceServer;
    use pb::node_service_server::NodeServiceServer;
    use pb::operation_service_server::OperationServiceServer;
    use pb::session_service_server::SessionServiceServer;
    use pb::snapshot_service_server::SnapshotServiceServer;
    use pb::template_service_server::TemplateServiceServer;
    use pb::usage_service_server::UsageServiceServer;
    let api = Api(coordinator.clone());
    Routes::default()
        .add_service(ContainerServiceServer::new(api.clone()))
        .add_service(SessionServiceServer::new(api.clone()))
        .add_service(SnapshotServiceServer::new(api.clone()))
        .add_service(TemplateServiceServer::new(api.clone()))
        .add_service(OperationServiceServer::new(api.clone()))
        .add_service(NodeServiceServer::new(api.clone()))
        .add_service(UsageServiceServer::new(api))
}

/// The adapter between the wire and the coordinator.
#[derive(Debug, Clone)]
struct Api(Coordinator);

/// A stream of answers.
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rpc_has_one_row() {
        assert_eq!(ves_daemon::check_policy(SERVICES, POLICY), Ok(()));
    }
}
