//! The service of the node.
//!
//! Never here: a node that changes.

use tonic::{Request, Response, Status};
use ves_proto::api::node::CgroupMode;
use ves_proto::api::node_service_server::NodeService;
use ves_proto::api::pool::Backend;
use ves_proto::api::room::Kind;
use ves_proto::api::*;
use ves_proto::public::render_resource;
use ves_types::UbcResource;

use super::{Api, enforcement};

fn node() -> Node {
    let capability = |resource| {
        let (kept, why) = enforcement(resource);
        let resource = render_resource(resource).into();
        Capability { resource, enforcement: kept.into(), why: why.into() }
    };
    let condition = |r#type: condition::Type| Condition {
        r#type: r#type.into(),
        status: condition::Status::True.into(),
        message: String::new(),
    };
    Node {
        name: "nodes/n1".into(),
        version: "0.1.0".into(),
        kernel: "6.18.0".into(),
        cgroup_mode: CgroupMode::V1.into(),
        conditions: [condition::Type::StorageReady, condition::Type::PoolLow].map(condition).into(),
        pool: Some(Pool {
            name: "nodes/n1/pools/default".into(),
            backend: Backend::ImageReflink.into(),
            size_bytes: 100 << 30,
            free_bytes: 60 << 30,
            promised_bytes: 20 << 30,
            allocated_bytes: 9 << 30,
            backed_bytes: 24 << 30,
            promisable_bytes: 70 << 30,
            alarms: vec!["only 1 MiB are free under the pool; make room there".into()],
        }),
        capabilities: UbcResource::ALL.map(capability).into(),
        memory: Some(NodeBound { total: 64 << 30, limit: Some(63 << 30) }),
        processes: Some(NodeBound { total: 32_768, limit: Some(28_672) }),
        rooms: vec![Room {
            kind: Kind::NeighboursV4.into(),
            limit: 1024,
            least: 65_536,
            used: Some(7),
        }],
        source_guard: SourceGuard::Owned.into(),
        limits: vec![LimitCapability {
            field: "io_bytes_per_second".into(),
            enforcement: Enforcement::Bounded.into(),
            why: "not what is written late".into(),
        }],
        unknown_containers: vec![UnknownContainer {
            name: "containers/820".into(),
            what: vec!["volume".into(), "link".into()],
        }],
        ..Node::default()
    }
}

#[tonic::async_trait]
impl NodeService for Api {
    async fn get_node(&self, request: Request<GetNodeRequest>) -> Result<Response<Node>, Status> {
        self.called(request.get_ref())?;
        assert_eq!(request.get_ref().name, "nodes/-");
        Ok(Response::new(node()))
    }
    async fn list_nodes(
        &self,
        request: Request<ListNodesRequest>,
    ) -> Result<Response<ListNodesResponse>, Status> {
        self.called(request.get_ref())?;
        let next_page_token = String::new();
        Ok(Response::new(ListNodesResponse { nodes: vec![node()], next_page_token }))
    }
}
