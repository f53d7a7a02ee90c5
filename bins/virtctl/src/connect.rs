//! The way to the coordinator: its socket, retries while it restarts, and faults of the connection.
//!
//! Reads, and changes that carry a request id, may be asked again; sessions may not, and wait only
//! for a coordinator that can be reached at all.
//!
//! Never here: what is asked.

use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tonic::{Response, Status};
use ves_daemon::client::{self, Traced};
use ves_daemon::tls::Remote;
use ves_proto::api::access_service_client::AccessServiceClient;
use ves_proto::api::container_service_client::ContainerServiceClient;
use ves_proto::api::event_service_client::EventServiceClient;
use ves_proto::api::node_service_client::NodeServiceClient;
use ves_proto::api::operation_service_client::OperationServiceClient;
use ves_proto::api::session_service_client::SessionServiceClient;
use ves_proto::api::snapshot_service_client::SnapshotServiceClient;
use ves_proto::api::template_service_client::TemplateServiceClient;
use ves_proto::api::usage_service_client::UsageServiceClient;
use ves_proto::{Fault, Reason};

use crate::endpoint::Endpoint;

/// How long one answer may take; long work answers with an operation at once.
const ANSWER: Duration = Duration::from_secs(60);
/// From one attempt to the next.
const PAUSE: Duration = Duration::from_millis(100);

/// The coordinator.
#[derive(Debug, Clone)]
pub(crate) struct Coordinator {
    endpoint: Endpoint,
    channel: Traced,
    retry_window: Duration,
}

impl Coordinator {
    /// The coordinator at `endpoint`; nothing is connected yet. Needs a tokio runtime.
    pub(crate) fn at(endpoint: Endpoint, retry_window: Duration) -> Self {
        let channel = match &endpoint {
            Endpoint::Socket(socket) => client::channel(socket),
            Endpoint::Network(remote) => client::remote((**remote).clone()),
        };
        Self { endpoint, channel, retry_window }
    }

    /// Tokens.
    pub(crate) fn access(&self) -> AccessServiceClient<Traced> {
        AccessServiceClient::new(self.channel.clone())
    }

    /// Containers.
    pub(crate) fn containers(&self) -> ContainerServiceClient<Traced> {
        ContainerServiceClient::new(self.channel.clone())
    }
    /// Snapshots.
    pub(crate) fn snapshots(&self) -> SnapshotServiceClient<Traced> {
        SnapshotServiceClient::new(self.channel.clone())
    }
    /// Templates.
    pub(crate) fn templates(&self) -> TemplateServiceClient<Traced> {
        TemplateServiceClient::new(self.channel.clone())
    }
    /// Sessions.
    pub(crate) fn sessions(&self) -> SessionServiceClient<Traced> {
        SessionServiceClient::new(self.channel.clone())
    }
    /// Usage.
    pub(crate) fn usage(&self) -> UsageServiceClient<Traced> {
        UsageServiceClient::new(self.channel.clone())
    }
    /// Events.
    pub(crate) fn events(&self) -> EventServiceClient<Traced> {
        EventServiceClient::new(self.channel.clone())
    }
    /// Operations.
    pub(crate) fn operations(&self) -> OperationServiceClient<Traced> {
        OperationServiceClient::new(self.channel.clone())
    }
    /// The node.
    pub(crate) fn node(&self) -> NodeServiceClient<Traced> {
        NodeServiceClient::new(self.channel.clone())
    }

    /// Calls, and calls again while the coordinator is restarting. `call` must be safe to repeat.
    pub(crate) async fn call<T, F>(&self, mut call: impl FnMut() -> F) -> Result<T, Fault>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let deadline = Instant::now() + self.retry_window;
        loop {
            let fault = match timeout(ANSWER, call()).await {
                Ok(Ok(response)) => return Ok(response.into_inner()),
                Ok(Err(status)) => self.fault(status),
                Err(_) => {
                    let message = format!(
                        "the coordinator did not answer within {} s; whether it did what was \
                         asked is not known: see virtctl operation list",
                        ANSWER.as_secs()
                    );
                    return Err(Fault::new(Reason::Timeout, message).fact("what", "the answer"));
                }
            };
            let again = matches!(fault.reason, Reason::PeerDown | Reason::Starting);
            if !again {
                return Err(fault);
            }
            if Instant::now() >= deadline {
                // Says more about why, where it cannot even be reached.
                return self.connect(deadline).await.and(Err(fault));
            }
            sleep(PAUSE).await;
            self.connect(deadline).await?;
        }
    }

    /// Calls once, as soon as the coordinator can be reached.
    pub(crate) async fn call_once<T>(
        &self,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Fault> {
        self.connect(Instant::now() + self.retry_window).await?;
        call.await.map(Response::into_inner).map_err(|s| self.fault(s))
    }

    /// The fault behind a status; one of the connection names the endpoint.
    pub(crate) fn fault(&self, status: Status) -> Fault {
        let alert = alert(&status);
        let fault = Fault::from(status);
        if fault.reason == Reason::PeerDown && !fault.facts.contains_key("service") {
            return match alert {
                Some(alert) => self.refused(&alert),
                None => self.connection_lost(&fault.message),
            };
        }
        fault
    }

    /// The fault of a connection that ended.
    pub(crate) fn connection_lost(&self, why: &str) -> Fault {
        let message =
            format!("the coordinator at {} ended the connection ({why}); try again", self.endpoint);
        Fault::new(Reason::PeerDown, message).fact("service", "coordinator")
    }

    /// The fault of a handshake that the other side, or we, broke off for good.
    fn refused(&self, why: &str) -> Fault {
        let message = format!(
            "{} is no coordinator that we trust, or it does not trust us ({why}); look at --ca, --cert and \
             --key, and at what the node revoked",
            self.endpoint
        );
        Fault::new(Reason::Unauthenticated, message).fact("why", "certificate")
    }

    async fn connect(&self, deadline: Instant) -> Result<(), Fault> {
        match &self.endpoint {
            Endpoint::Socket(socket) => connect_here(socket, deadline).await,
            Endpoint::Network(remote) => self.connect_network(remote, deadline).await,
        }
    }

    async fn connect_network(&self, remote: &Remote, deadline: Instant) -> Result<(), Fault> {
        loop {
            let error = match remote.connect().await {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            // What TLS says stays so.
            if error.kind() == ErrorKind::InvalidData {
                return Err(self.refused(&error.to_string()));
            }
            if Instant::now() >= deadline {
                let message = format!(
                    "no coordinator can be reached at {}: {error}; see that it listens there \
                     ([service.listen] of its coordinator.toml) and that nothing is in between",
                    self.endpoint
                );
                return Err(Fault::new(Reason::PeerDown, message).fact("service", "coordinator"));
            }
            sleep(PAUSE).await;
        }
    }
}

/// What TLS says of why a connection ended, where it was that.
fn alert(status: &Status) -> Option<String> {
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        let said = error.to_string();
        if said.contains("fatal alert") || said.contains("invalid peer certificate") {
            return Some(said);
        }
        source = error.source();
    }
    None
}

async fn connect_here(path: &Path, deadline: Instant) -> Result<(), Fault> {
    let socket = path.display();
    loop {
        let error = match tokio::net::UnixStream::connect(path).await {
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        let fault = match error.kind() {
            ErrorKind::PermissionDenied => {
                let message = format!(
                    "this user may not speak to the coordinator at {socket}; be root or in \
                         the group ves"
                );
                return Err(Fault::new(Reason::NotAllowed, message));
            }
            ErrorKind::NotFound | ErrorKind::ConnectionRefused | ErrorKind::WouldBlock => {
                let message = format!(
                    "no coordinator listens at {socket}; start it (systemctl start \
                         ves-coordinatord) or name its socket with --socket"
                );
                Fault::new(Reason::PeerDown, message).fact("service", "coordinator")
            }
            _ => {
                let message = format!("cannot connect to the coordinator at {socket}: {error}");
                return Err(Fault::new(Reason::PeerDown, message).fact("service", "coordinator"));
            }
        };
        // Where not even its directory is, nothing is restarting.
        let restarting = path.parent().is_some_and(Path::is_dir);
        if !restarting || Instant::now() >= deadline {
            return Err(fault);
        }
        sleep(PAUSE).await;
    }
}
