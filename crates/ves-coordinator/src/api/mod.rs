//! The public API: parse, call, render. Five services on one socket.
//!
//! Owns the policy table. Never here: decisions; they are [`crate::operation::kinds`]'s.

mod containers;
mod node;
mod operations;
mod refresh;
mod render;
mod sessions;
mod snapshots;
mod templates;

use std::pin::Pin;

use prost::Message;
use sha2::{Digest, Sha256};
use tokio_stream::Stream;
use tonic::service::Routes;
use tonic::{Request, Status};
use ves_daemon::{Policy, Role};
use ves_proto::coordinator as pb;
use ves_proto::{Fault, Reason};

use crate::coordinator::Coordinator;
use crate::operation::record::{Caller, RequestKey};

/// Full names of the services, for health.
pub const SERVICES: &[&str] = &[
    "ves.coordinator.v1.ContainerService",
    "ves.coordinator.v1.SnapshotService",
    "ves.coordinator.v1.TemplateService",
    "ves.coordinator.v1.OperationService",
    "ves.coordinator.v1.NodeService",
];

/// Administrators, accounts that the configuration names, and the coordinator's own.
const STAFF: &[Role] = &[Role::Root, Role::Operator, Role::Coordinator, Role::Own];

/// Who may call what. What is not here is refused to everybody.
pub const POLICY: Policy = &[
    ("/ves.coordinator.v1.ContainerService/CreateContainer", STAFF),
    ("/ves.coordinator.v1.ContainerService/GetContainer", STAFF),
    ("/ves.coordinator.v1.ContainerService/ListContainers", STAFF),
    ("/ves.coordinator.v1.ContainerService/UpdateContainer", STAFF),
    ("/ves.coordinator.v1.ContainerService/DeleteContainer", STAFF),
    ("/ves.coordinator.v1.ContainerService/StartContainer", STAFF),
    ("/ves.coordinator.v1.ContainerService/StopContainer", STAFF),
    ("/ves.coordinator.v1.ContainerService/RestartContainer", STAFF),
    ("/ves.coordinator.v1.ContainerService/CheckVolume", STAFF),
    ("/ves.coordinator.v1.ContainerService/GetResources", STAFF),
    ("/ves.coordinator.v1.ContainerService/WatchContainers", STAFF),
    ("/ves.coordinator.v1.ContainerService/Exec", STAFF),
    ("/ves.coordinator.v1.ContainerService/Console", STAFF),
    ("/ves.coordinator.v1.SnapshotService/CreateSnapshot", STAFF),
    ("/ves.coordinator.v1.SnapshotService/ListSnapshots", STAFF),
    ("/ves.coordinator.v1.SnapshotService/SwitchSnapshot", STAFF),
    ("/ves.coordinator.v1.SnapshotService/DeleteSnapshot", STAFF),
    ("/ves.coordinator.v1.TemplateService/BuildTemplate", STAFF),
    ("/ves.coordinator.v1.TemplateService/ImportTemplate", STAFF),
    ("/ves.coordinator.v1.TemplateService/ExportTemplate", STAFF),
    ("/ves.coordinator.v1.TemplateService/DeleteTemplate", STAFF),
    ("/ves.coordinator.v1.TemplateService/ListTemplates", STAFF),
    ("/ves.coordinator.v1.OperationService/GetOperation", STAFF),
    ("/ves.coordinator.v1.OperationService/ListOperations", STAFF),
    ("/ves.coordinator.v1.OperationService/CancelOperation", STAFF),
    ("/ves.coordinator.v1.OperationService/WatchOperation", STAFF),
    ("/ves.coordinator.v1.NodeService/GetNode", STAFF),
];

/// The five services of a coordinator.
pub fn routes(coordinator: &Coordinator) -> Routes {
    use pb::container_service_server::ContainerServiceServer;
    use pb::node_service_server::NodeServiceServer;
    use pb::operation_service_server::OperationServiceServer;
    use pb::snapshot_service_server::SnapshotServiceServer;
    use pb::template_service_server::TemplateServiceServer;
    let api = Api(coordinator.clone());
    Routes::default()
        .add_service(ContainerServiceServer::new(api.clone()))
        .add_service(SnapshotServiceServer::new(api.clone()))
        .add_service(TemplateServiceServer::new(api.clone()))
        .add_service(OperationServiceServer::new(api.clone()))
        .add_service(NodeServiceServer::new(api))
}

/// The adapter between the wire and the coordinator.
#[derive(Debug, Clone)]
struct Api(Coordinator);

/// A stream of answers.
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Who called `rpc`, and by which request: its id is the caller's own, and stands for all else that was
/// asked.
fn caller<T: Message + Clone>(
    rpc: &str,
    request: &Request<T>,
    id: impl Fn(&mut T) -> &mut String,
) -> Result<Caller, Fault> {
    let principal = ves_daemon::principal(request).to_string();
    let mut asked = request.get_ref().clone();
    let id = std::mem::take(id(&mut asked));
    if id.is_empty() {
        return Ok(Caller { principal, request: None });
    }
    if id.len() > 128 || id.chars().any(char::is_control) {
        let message = "a request id has at most 128 bytes and no control characters";
        return Err(Fault::new(Reason::BadValue, message).fact("field", "request_id"));
    }
    let asked =
        Sha256::new().chain_update(rpc).chain_update([0]).chain_update(asked.encode_to_vec());
    let digest = asked.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    let request = RequestKey { id: format!("{principal}/{id}"), digest: Some(digest) };
    Ok(Caller { principal, request: Some(request) })
}

/// A page's size: 0 is `most`, and so is more.
fn page_size(asked: u32, usual: usize, most: usize) -> usize {
    match usize::try_from(asked) {
        Ok(0) => usual,
        Ok(n) => n.min(most),
        Err(_) => most,
    }
}

fn bad_token() -> Fault {
    let message = "the page token is none of ours; begin from the first page";
    Fault::new(Reason::BadValue, message).fact("field", "page_token")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rpc_has_one_row() {
        assert_eq!(ves_daemon::check_policy(SERVICES, POLICY), Ok(()));
    }

    #[test]
    fn pages_have_bounds() {
        assert_eq!(page_size(0, 100, 1000), 100);
        assert_eq!(page_size(7, 100, 1000), 7);
        assert_eq!(page_size(u32::MAX, 100, 1000), 1000);
    }
}
