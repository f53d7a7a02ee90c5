//! `NodeService`: what the node is, asked of all four services at once.

use std::time::Duration;

use tonic::{Request, Response, Status};
use ves_proto::api as pb;
use ves_proto::api::node_service_server::NodeService;
use ves_proto::convert::parse_row;
use ves_proto::public::{
    container_name, node_name, parse_name, render_enforcement, render_resource,
};
use ves_proto::{Fault, Reason, common, network, resources, storage};
use ves_types::CtId;

use super::Api;
use super::page::Page;
use crate::coordinator::fact_of_kernel;
use crate::services::ask;
use crate::wrong::Wrong;

/// How long a service may take to say that it is there.
const SOON: Duration = Duration::from_secs(5);

/// The greatest page of nodes.
const PAGE: usize = 1000;

const fn cgroup_mode(cgroup: resources::CgroupVersion) -> pb::node::CgroupMode {
    use resources::CgroupVersion as V;
    match cgroup {
        V::Unspecified => pb::node::CgroupMode::Unspecified,
        V::V1 => pb::node::CgroupMode::V1,
        V::V2 => pb::node::CgroupMode::V2,
        V::Hybrid => pb::node::CgroupMode::Hybrid,
    }
}

const fn source_guard(guard: network::Guard) -> pb::SourceGuard {
    match guard {
        network::Guard::Unspecified => pb::SourceGuard::Unspecified,
        network::Guard::Absent => pb::SourceGuard::Absent,
        network::Guard::Watched => pb::SourceGuard::Watched,
        network::Guard::Owned => pb::SourceGuard::Owned,
    }
}

fn room(room: &network::Room) -> pb::Room {
    use network::RoomKind as K;
    let kind = match room.kind() {
        K::Unspecified => pb::room::Kind::Unspecified,
        K::NeighboursV4 => pb::room::Kind::NeighboursV4,
        K::NeighboursV6 => pb::room::Kind::NeighboursV6,
        K::Terminals => pb::room::Kind::Terminals,
        K::OwnTerminals => pb::room::Kind::OwnTerminals,
        K::AsyncEvents => pb::room::Kind::AsyncEvents,
    };
    let network::Room { kind: _, limit, least, used } = *room;
    pb::Room { kind: kind.into(), limit, least, used }
}

fn bound(bound: resources::NodeBound) -> pb::NodeBound {
    let resources::NodeBound { total, limit } = bound;
    pb::NodeBound { total, limit }
}

fn limit(promise: common::LimitPromise) -> pb::LimitCapability {
    use common::Enforcement as E;
    let enforcement = match promise.enforcement() {
        E::Unspecified => pb::Enforcement::Unspecified,
        E::Hard => pb::Enforcement::Hard,
        E::Bounded => pb::Enforcement::Bounded,
        E::Accounted => pb::Enforcement::Accounted,
        E::Unavailable => pb::Enforcement::Unavailable,
    };
    let common::LimitPromise { field, enforcement: _, why } = promise;
    let field = match field.as_str() {
        "io_bps" => "io_bytes_per_second".to_owned(),
        "io_iops" => "io_operations_per_second".to_owned(),
        _ => field,
    };
    pb::LimitCapability { field, enforcement: enforcement.into(), why }
}

fn capability(row: common::UbcRow) -> Result<pb::Capability, Fault> {
    let row = parse_row(row)?;
    let (enforcement, why) = render_enforcement(row.enforcement);
    let resource = render_resource(row.resource).into();
    Ok(pb::Capability { resource, enforcement: enforcement.into(), why })
}

fn pool(node: &str, pool: storage::Pool) -> pb::Pool {
    let backend = match pool.backend() {
        storage::Backend::Unspecified => pb::pool::Backend::Unspecified,
        storage::Backend::ImageReflink => pb::pool::Backend::ImageReflink,
        storage::Backend::ImageCopy => pb::pool::Backend::ImageCopy,
    };
    let storage::Pool {
        backend: _,
        size_bytes,
        free_bytes,
        promised_bytes,
        allocated_bytes,
        backed_bytes,
        promisable_bytes,
        alarms,
    } = pool;
    pb::Pool {
        name: format!("{node}/pools/default"),
        backend: backend.into(),
        size_bytes,
        free_bytes,
        promised_bytes,
        allocated_bytes,
        backed_bytes,
        promisable_bytes,
        alarms,
    }
}

/// A condition: true, or why not.
fn condition(kind: pb::condition::Type, is: Result<(), String>) -> pb::Condition {
    use pb::condition::Status as S;
    let (status, message) = match is {
        Ok(()) => (S::True, String::new()),
        Err(why) => (S::False, why),
    };
    pb::Condition { r#type: kind.into(), status: status.into(), message }
}

/// Whether the pool has little room, where storage says anything of it.
fn pool_low(pool: Option<&storage::Pool>) -> pb::Condition {
    use pb::condition::Status as S;
    let (status, message) = match pool {
        None => (S::Unknown, "storage does not answer".to_owned()),
        Some(pool) if pool.alarms.is_empty() => (S::False, String::new()),
        Some(pool) => (S::True, pool.alarms.join("; ")),
    };
    pb::Condition { r#type: pb::condition::Type::PoolLow.into(), status: status.into(), message }
}

impl Api {
    /// The node as it is now.
    async fn node(&self) -> Result<pb::Node, Fault> {
        use pb::condition::Type as T;
        let services = self.0.services().clone();
        let (mut s, mut r) = (services.storage.clone(), services.resources.clone());
        let mut n = services.network.clone();
        // Any container does: that it is unknown is an answer too.
        let any = CtId::try_from(CtId::MAX).map_err(|e| Fault::bad_value("ct", &e))?;
        let (pool_seen, capabilities, process, network) = tokio::join!(
            ask("storage", SOON, s.get_pool(storage::GetPoolRequest {})),
            ask("resources", SOON, r.get_capabilities(resources::GetCapabilitiesRequest {})),
            tokio::time::timeout(SOON, services.process(any)),
            ask("network", SOON, n.get_node(network::GetNodeRequest {})),
        );
        fn is_up<T>(asked: &Result<T, Fault>) -> Result<(), String> {
            asked.as_ref().map(drop).map_err(|fault| fault.message.clone())
        }
        let lifecycle = match process {
            Ok(asked) => is_up(&asked),
            Err(_) => Err("it does not answer".to_owned()),
        };
        let conditions = vec![
            condition(T::StorageReady, is_up(&pool_seen)),
            condition(T::NetworkReady, is_up(&network)),
            condition(T::ResourcesReady, is_up(&capabilities)),
            condition(T::LifecycleReady, lifecycle),
            pool_low(pool_seen.as_ref().ok()),
        ];
        let capabilities = capabilities.unwrap_or_default();
        let cgroup = capabilities.cgroup();
        let resources::GetCapabilitiesResponse { cgroup: _, rows, ram, pids, limits } =
            capabilities;
        let network = network.unwrap_or_default();
        let unknown = self.0.cache().unknown().into_iter();
        let unknown = unknown.map(|(ct, what)| pb::UnknownContainer {
            name: container_name(ct),
            what: what.into_iter().map(str::to_owned).collect(),
        });
        let name = node_name(self.0.node());
        let (containers, containers_running) = {
            let index = self.0.state().read();
            let up = index.containers().filter(|r| self.0.is_running(r.id)).count();
            (index.containers().count(), up)
        };
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Ok(pb::Node {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            kernel: fact_of_kernel("osrelease"),
            cgroup_mode: cgroup_mode(cgroup).into(),
            conditions,
            capabilities: rows.into_iter().map(capability).collect::<Result<_, _>>()?,
            limits: limits.into_iter().map(limit).collect(),
            containers: count(containers),
            containers_running: count(containers_running),
            pool: pool_seen.ok().map(|seen| pool(&name, seen)),
            memory: ram.map(bound),
            processes: pids.map(bound),
            rooms: network.rooms.iter().map(room).collect(),
            source_guard: source_guard(network.guard()).into(),
            unknown_containers: unknown.collect(),
            name,
        })
    }
}

#[tonic::async_trait]
impl NodeService for Api {
    async fn get_node(
        &self,
        request: Request<pb::GetNodeRequest>,
    ) -> Result<Response<pb::Node>, Status> {
        let name = parse_name("name", "nodes", &request.get_ref().name)?;
        if name != "-" && name != self.0.node().as_str() {
            let message = format!("there is no node {name}; nodes/- is the one that answers");
            return Err(Fault::new(Reason::NodeUnknown, message).fact("node", name).into());
        }
        Ok(Response::new(self.node().await?))
    }

    async fn list_nodes(
        &self,
        request: Request<pb::ListNodesRequest>,
    ) -> Result<Response<pb::ListNodesResponse>, Status> {
        let pb::ListNodesRequest { page_size, page_token } = request.into_inner();
        let mut wrong = Wrong::default();
        let page = Page::read(page_size, &page_token, (PAGE, PAGE), &["nodes"], &mut wrong);
        wrong.end()?;
        let over = page.and_then(|page| page.after).is_some();
        let nodes = if over { vec![] } else { vec![self.node().await?] };
        Ok(Response::new(pb::ListNodesResponse { nodes, next_page_token: String::new() }))
    }
}
