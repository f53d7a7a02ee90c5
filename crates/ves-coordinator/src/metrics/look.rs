//! One look at what all services tell: a call each, at once, whatever the number of containers.
//!
//! Never here: what becomes of it ([`super::series`]).

use std::time::Duration;

use ves_proto::{network, resources, storage};

use crate::services::{Services, ask};

/// How long a service may take; one that is late counts as away this time.
pub(super) const WITHIN: Duration = Duration::from_secs(10);

/// What services told; `None` of one that is away.
#[derive(Debug, Default)]
pub(super) struct Look {
    pub(super) usages: Option<Vec<resources::Usage>>,
    pub(super) traffic: Option<network::ListTrafficResponse>,
    pub(super) volumes: Option<Vec<storage::Volume>>,
    pub(super) pool: Option<storage::Pool>,
}

/// Asks them all.
pub(super) async fn look(services: Services) -> Look {
    let Services { mut storage, mut network, mut resources, lifecycle: _ } = services;
    // Two clients of one service, so that both calls are under way at once.
    let mut pool = storage.clone();
    let (usages, traffic, volumes, pool) = tokio::join!(
        ask("resources", WITHIN, resources.list_usage(resources::ListUsageRequest {})),
        ask("network", WITHIN, network.list_traffic(network::ListTrafficRequest {})),
        ask("storage", WITHIN, storage.list_volumes(storage::ListVolumesRequest { cts: vec![] })),
        ask("storage", WITHIN, pool.get_pool(storage::GetPoolRequest {})),
    );
    Look {
        usages: usages.ok().map(|answer| answer.usages),
        traffic: traffic.ok(),
        volumes: volumes.ok().map(|answer| answer.volumes),
        pool: pool.ok(),
    }
}
