//! The service of the node.
//!
//! Never here: a node that changes.

use tonic::{Request, Response, Status};
use ves_proto::common::{Enforcement, LimitPromise};
use ves_proto::coordinator::node_service_server::NodeService;
use ves_proto::coordinator::*;
use ves_proto::network::{Guard, Room, RoomKind};
use ves_proto::resources::NodeBound;
use ves_proto::storage::Pool;

use super::{Api, rows};

#[tonic::async_trait]
impl NodeService for Api {
    async fn get_node(&self, request: Request<GetNodeRequest>) -> Result<Response<Node>, Status> {
        self.called(request.get_ref())?;
        Ok(Response::new(Node {
            name: "n1".into(),
            version: "0.1.0".into(),
            kernel: "6.18.0".into(),
            cgroup: "v1".into(),
            pool: Some(Pool {
                backend: ves_proto::storage::Backend::ImageReflink.into(),
                size_bytes: 100 << 30,
                free_bytes: 60 << 30,
                promised_bytes: 20 << 30,
                allocated_bytes: 9 << 30,
                backed_bytes: 24 << 30,
                promisable_bytes: 70 << 30,
                alarms: vec!["only 1 MiB are free under the pool; make room there".into()],
            }),
            enforcement: rows(),
            ram: Some(NodeBound { total: 64 << 30, limit: Some(63 << 30) }),
            pids: Some(NodeBound { total: 32_768, limit: Some(28_672) }),
            rooms: vec![Room {
                kind: RoomKind::NeighboursV4.into(),
                limit: 1024,
                least: 65_536,
                used: Some(7),
            }],
            guard: Guard::Owned.into(),
            limits: vec![LimitPromise {
                field: "io_bps".into(),
                enforcement: Enforcement::Bounded.into(),
                why: "not what is written late".into(),
            }],
            unknown_containers: vec![UnknownContainer {
                id: 820,
                what: vec!["volume".into(), "link".into()],
            }],
            ..Node::default()
        }))
    }
}
