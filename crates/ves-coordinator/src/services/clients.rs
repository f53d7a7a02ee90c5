//! Clients of the four services, and telling one that refuses from one that is not there.

use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::StatusExt;
use ves_daemon::client::{Traced, channel};
use ves_proto::fault::DOMAIN;
use ves_proto::lifecycle::lifecycle_service_client::LifecycleServiceClient;
use ves_proto::network::network_service_client::NetworkServiceClient;
use ves_proto::resources::resources_service_client::ResourcesServiceClient;
use ves_proto::storage::storage_service_client::StorageServiceClient;
use ves_proto::{Fault, Reason};
use ves_types::layout::{Daemon, Layout};

/// The largest answer: a list of ten thousand containers' groups takes about 10 MiB.
const ANSWER: usize = 64 << 20;

/// Clients of the four services. They connect when first used and again after a restart.
#[derive(Debug, Clone)]
pub struct Services {
    /// Storage.
    pub storage: StorageServiceClient<Traced>,
    /// Network.
    pub network: NetworkServiceClient<Traced>,
    /// Resources.
    pub resources: ResourcesServiceClient<Traced>,
    /// Lifecycle.
    pub lifecycle: LifecycleServiceClient<Traced>,
}

impl Services {
    /// The services of this layout. Inside a tokio runtime.
    pub fn new(layout: &Layout) -> Self {
        Self::over(|service| channel(&layout.socket(service)))
    }

    /// The services to which `channel` leads.
    pub fn over(channel: impl Fn(Daemon) -> Traced) -> Self {
        Self {
            storage: StorageServiceClient::new(channel(Daemon::Storage))
                .max_decoding_message_size(ANSWER),
            network: NetworkServiceClient::new(channel(Daemon::Network))
                .max_decoding_message_size(ANSWER),
            resources: ResourcesServiceClient::new(channel(Daemon::Resources))
                .max_decoding_message_size(ANSWER),
            lifecycle: LifecycleServiceClient::new(channel(Daemon::Lifecycle))
                .max_decoding_message_size(ANSWER),
        }
    }
}

/// Waits for a unary call's answer, within a time.
///
/// # Errors
/// What the service says, `PEER_DOWN` or `TIMEOUT`, with the fact `service`.
pub async fn ask<T>(
    service: &'static str,
    within: Duration,
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, Fault> {
    match tokio::time::timeout(within, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(fault_of(service, &status)),
        Err(_) => {
            let message = format!("{service} has not answered for {} s", within.as_secs());
            Err(Fault::new(Reason::Timeout, message).fact("what", service).fact("service", service))
        }
    }
}

/// The fault a service's status stands for. What does not carry our own details comes from the
/// transport: the service is gone, or went while it worked.
pub fn fault_of(service: &'static str, status: &Status) -> Fault {
    let ours = status.get_error_details().error_info().is_some_and(|i| i.domain == DOMAIN);
    let transport = matches!(
        status.code(),
        Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal | Code::Aborted
    );
    if !ours && transport {
        let message = format!(
            "{service} cannot be reached: {}; look at the log of its daemon",
            status.message()
        );
        return Fault::new(Reason::PeerDown, message).fact("service", service);
    }
    Fault::from_status(status)
}

pub(super) fn found<T>(answer: Result<T, Fault>) -> Result<Option<T>, Fault> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(fault) if fault.code() == Code::NotFound => Ok(None),
        Err(fault) => Err(fault),
    }
}
