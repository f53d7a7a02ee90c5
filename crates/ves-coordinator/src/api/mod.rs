//! The public API, `ves.api.v1`: parse, call, render. Its services are on one socket.
//!
//! Who may call what is [`crate::access`]'s. Every RPC that names a container comes to it by `Api::container`, and
//! all that is listed or watched goes through `Api::sees`. Never here: decisions; they are [`crate::operation::kinds`]'s.

mod access;
mod containers;
mod events;
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

use tokio_stream::{Stream, StreamExt as _};
use tonic::service::Routes;
use tonic::{Response, Status};
use ves_proto::api as pb;

use crate::coordinator::Coordinator;
use crate::open_streams::StreamKind;

/// Full names of the services, for health.
pub const SERVICES: &[&str] = &[
    "ves.api.v1.ContainerService",
    "ves.api.v1.SessionService",
    "ves.api.v1.SnapshotService",
    "ves.api.v1.TemplateService",
    "ves.api.v1.OperationService",
    "ves.api.v1.EventService",
    "ves.api.v1.NodeService",
    "ves.api.v1.UsageService",
    "ves.api.v1.AccessService",
];

/// The services of a coordinator.
pub fn routes(coordinator: &Coordinator) -> Routes {
    use pb::access_service_server::AccessServiceServer;
    use pb::container_service_server::ContainerServiceServer;
    use pb::event_service_server::EventServiceServer;
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
        .add_service(EventServiceServer::new(api.clone()))
        .add_service(NodeServiceServer::new(api.clone()))
        .add_service(UsageServiceServer::new(api.clone()))
        .add_service(AccessServiceServer::new(api))
}

/// The adapter between the wire and the coordinator.
#[derive(Debug, Clone)]
struct Api(Coordinator);

impl Api {
    /// An answer that counts as an open stream until its reader is gone.
    fn counted<T: 'static>(&self, answers: Answers<T>, kind: StreamKind) -> Response<Answers<T>> {
        let open = self.0.streams().open(kind);
        Response::new(Box::pin(answers.map(move |answer| {
            let _open = &open;
            answer
        })))
    }
}

/// A stream of answers.
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::POLICY;

    #[test]
    fn every_service_has_rows() {
        for service in SERVICES {
            let of_it = format!("/{service}/");
            assert!(POLICY.iter().any(|(rpc, _)| rpc.starts_with(&of_it)), "{service}");
        }
    }
}
