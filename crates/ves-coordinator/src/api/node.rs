//! `NodeService`: what the node is, asked of all four services at once.

use std::collections::BTreeMap;
use std::time::Duration;

use tonic::{Request, Response, Status};
use ves_proto::coordinator as pb;
use ves_proto::coordinator::node_service_server::NodeService;
use ves_proto::resources::CgroupVersion;
use ves_proto::{network, resources, storage};
use ves_types::CtId;

use super::Api;
use crate::coordinator::fact_of_kernel;
use crate::services::ask;

/// How long a service may take to say that it is there.
const SOON: Duration = Duration::from_secs(5);

/// What the public API calls it; nothing where the service did not say.
const fn word(cgroup: CgroupVersion) -> &'static str {
    match cgroup {
        CgroupVersion::Unspecified => "",
        CgroupVersion::V1 => "v1",
        CgroupVersion::V2 => "v2",
        CgroupVersion::Hybrid => "hybrid",
    }
}

#[tonic::async_trait]
impl NodeService for Api {
    async fn get_node(
        &self,
        _request: Request<pb::GetNodeRequest>,
    ) -> Result<Response<pb::Node>, Status> {
        let services = self.0.services().clone();
        let (mut s, mut r) = (services.storage.clone(), services.resources.clone());
        let mut n = services.network.clone();
        // Any container does: that it is unknown is an answer too.
        let any = CtId::try_from(CtId::MAX).map_err(|e| ves_proto::Fault::bad_value("ct", &e))?;
        let (pool, capabilities, process, network) = tokio::join!(
            ask("storage", SOON, s.get_pool(storage::GetPoolRequest {})),
            ask("resources", SOON, r.get_capabilities(resources::GetCapabilitiesRequest {})),
            tokio::time::timeout(SOON, services.process(any)),
            ask("network", SOON, n.get_node(network::GetNodeRequest {})),
        );
        let mut unreachable = BTreeMap::new();
        let mut away = |service: &str, why: String| {
            unreachable.insert(service.to_owned(), why);
        };
        let pool = pool.map_err(|f| away("storage", f.message)).ok();
        let capabilities = capabilities.map_err(|f| away("resources", f.message)).ok();
        match process {
            Ok(Ok(_)) => {}
            Ok(Err(fault)) => away("lifecycle", fault.message),
            Err(_) => away("lifecycle", "it does not answer".to_owned()),
        }
        let network = network.map_err(|f| away("network", f.message)).unwrap_or_default();
        let unknown = self.0.cache().unknown();
        let unknown_container = |(ct, what): (CtId, Vec<&str>)| pb::UnknownContainer {
            id: ct.get(),
            what: what.into_iter().map(str::to_owned).collect(),
        };
        let capabilities = capabilities.unwrap_or_default();
        let cgroup = capabilities.cgroup();
        let resources::GetCapabilitiesResponse { cgroup: _, rows, ram, pids, limits } =
            capabilities;
        let network::GetNodeResponse { rooms, guard } = network;
        Ok(Response::new(pb::Node {
            name: self.0.node().to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            kernel: fact_of_kernel("osrelease"),
            cgroup: word(cgroup).to_owned(),
            pool,
            enforcement: rows,
            unreachable,
            unknown_containers: unknown.into_iter().map(unknown_container).collect(),
            ram,
            pids,
            rooms,
            guard,
            limits,
        }))
    }
}
