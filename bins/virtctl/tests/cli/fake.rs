//! A coordinator that answers what a test tells it to, over real gRPC on a unix socket.
//!
//! It keeps containers in a map, records each request, and plays sessions. It decides nothing a real
//! one would decide.

mod containers;
mod node;
mod operations;
mod session;
mod snapshots;
mod templates;
mod usage;

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio_stream::Stream;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Response, Status};
use ves_proto::api::container_service_server::ContainerServiceServer;
use ves_proto::api::container_status::State as ContainerState;
use ves_proto::api::node_service_server::NodeServiceServer;
use ves_proto::api::operation::{Kind, State as OperationState};
use ves_proto::api::operation_service_server::OperationServiceServer;
use ves_proto::api::session_service_server::SessionServiceServer;
use ves_proto::api::snapshot_service_server::SnapshotServiceServer;
use ves_proto::api::template_service_server::TemplateServiceServer;
use ves_proto::api::usage_service_server::UsageServiceServer;
use ves_proto::api::*;
use ves_proto::public::{render_resource, timestamp};
use ves_proto::{Fault, Reason};
use ves_types::UbcResource;

/// How operations go.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Pace {
    /// Done when they are answered with.
    #[default]
    AtOnce,
    /// In three pieces of progress.
    Slow,
    /// As `Slow`, but the first watch is cut off after one piece.
    Cut,
    /// As `Slow`, but the coordinator dies in the first watch after one piece.
    Dies,
    /// Never done.
    Never,
    /// End with this reason.
    Fails(Reason),
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) containers: BTreeMap<u32, Container>,
    pub(crate) operations: BTreeMap<String, Operation>,
    pub(crate) templates: Vec<Template>,
    pub(crate) pace: Pace,
    /// What the next calls fail with.
    pub(crate) faults: VecDeque<Fault>,
    /// How often somebody else changes a container before one is changed that was read.
    pub(crate) rivals: usize,
    /// How many of the next calls it dies in, before it answers them.
    pub(crate) deaths: usize,
    /// Connections, each of which can be torn.
    relays: Vec<tokio::task::AbortHandle>,
    /// Each request, as `Debug` shows it.
    pub(crate) calls: Vec<String>,
    /// What arrived by stdin of each session, and of imports.
    pub(crate) input: Vec<u8>,
    pub(crate) imported: Vec<u8>,
    /// What was said of an import, and what is noted of it.
    pub(crate) header: ImportTemplateHeader,
    pub(crate) notes: Vec<String>,
    /// The trace contexts of calls that start a container.
    pub(crate) parents: Vec<String>,
    pub(crate) page: usize,
    pub(crate) watches: usize,
}

impl State {
    /// Tears all connections, as the end of the process does.
    fn die(&mut self) {
        self.relays.drain(..).for_each(|relay| relay.abort());
    }
}

#[derive(Clone, Default)]
struct Api(Arc<Mutex<State>>);

impl Api {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no test panics while it holds the state")
    }
    fn called(&self, request: &impl std::fmt::Debug) -> Result<(), Status> {
        let mut state = self.state();
        state.calls.push(format!("{request:?}"));
        if state.deaths > 0 {
            state.deaths -= 1;
            state.die();
        }
        state.faults.pop_front().map_or(Ok(()), |fault| Err(fault.into()))
    }
    /// The container of this name, by id or alias.
    fn find(&self, name: &str) -> Result<Container, Status> {
        let state = self.state();
        let ct = name.strip_prefix("containers/").expect("a name of a container");
        let is = |c: &&Container| c.ct_id.to_string() == ct || c.alias == ct;
        state.containers.values().find(is).cloned().ok_or_else(|| {
            Fault::new(Reason::ContainerUnknown, format!("there is no container {ct}"))
                .fact("ct", ct)
                .into()
        })
    }
    fn operation(&self, kind: Kind, targets: &str, validate_only: bool) -> Response<Operation> {
        let mut state = self.state();
        let name = format!("operations/op-{}", state.operations.len() + 1);
        let pace = if validate_only { Pace::AtOnce } else { state.pace };
        let word = kind.as_str_name().trim_start_matches("KIND_").to_lowercase();
        let mut operation = Operation {
            name: name.clone(),
            kind: kind.into(),
            targets: vec![targets.to_owned()],
            state: OperationState::Succeeded.into(),
            steps: vec![
                Step {
                    service: "storage".into(),
                    message: format!("{word} step one"),
                    remark: false,
                },
                Step { service: String::new(), message: format!("{word} step two"), remark: true },
            ],
            create_time: Some(timestamp(1_000_000)),
            end_time: Some(timestamp(1_001_250)),
            actor: Some(Actor {
                r#type: actor::Type::Unix.into(),
                id: "root".into(),
                on_behalf_of: String::new(),
            }),
            validate_only,
            ..Operation::default()
        };
        match pace {
            Pace::AtOnce => {}
            Pace::Slow | Pace::Cut | Pace::Dies | Pace::Never => {
                operation.state = OperationState::Running.into();
                operation.end_time = None;
                operation.progress = Some(Progress { message: "begin".into(), done: 0, total: 0 });
            }
            Pace::Fails(reason) => {
                operation.state = OperationState::Failed.into();
                let fault = Fault::new(reason, format!("{word} {targets}: it cannot be"));
                operation.error = Some(fault.fact("ct", targets).to_message());
            }
        }
        state.operations.insert(name, operation.clone());
        Response::new(operation)
    }
}

type BoxStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

pub(crate) fn container(ct_id: u32, state: ContainerState, alias: &str) -> Container {
    let running = state == ContainerState::Running;
    let addresses = vec![format!("192.0.2.{}", ct_id % 200), format!("2001:db8::{ct_id:x}")];
    let bounds = Bounds { barrier: Some(0), limit: Some(65_536) };
    Container {
        name: format!("containers/{ct_id}"),
        ct_id,
        alias: alias.into(),
        etag: format!("{ct_id}-3"),
        labels: [("customer".to_owned(), ct_id.to_string())].into(),
        spec: Some(ContainerSpec {
            hostname: format!("host{ct_id}.example"),
            template: "templates/debian-13".into(),
            interfaces: vec![Interface { id: "venet0".into(), addresses, ..Interface::default() }],
            volumes: vec![Volume { id: "root".into(), size_bytes: 10 << 30, inodes: None }],
            limits: Some(Limits {
                cpu_millicpus: Some(1500),
                cpu_mask: "0-1".into(),
                io_bytes_per_second: Some(1 << 20),
                ubc: Some(UbcLimits { physpages: Some(bounds), ..UbcLimits::default() }),
                ..Limits::default()
            }),
            devices: vec![Device { id: "net/tun".into(), read: true, write: true }],
            dropped_capabilities: vec!["NET_RAW".into()],
            ..ContainerSpec::default()
        }),
        status: Some(ContainerStatus {
            state: state.into(),
            start_time: running.then(|| timestamp(1_700_000_100_000)),
            numproc: running.then_some(7),
            init_pid: running.then_some(4242),
            ..ContainerStatus::default()
        }),
        generation: 3,
        node: "nodes/n1".into(),
        create_time: Some(timestamp(1_700_000_000_123)),
        ..Container::default()
    }
}

/// How far each parameter is kept, and why not further.
fn enforcement(resource: UbcResource) -> (Enforcement, &'static str) {
    match resource {
        UbcResource::Numproc => (Enforcement::Hard, ""),
        UbcResource::Physpages => (Enforcement::Bounded, ""),
        UbcResource::Numfile => (Enforcement::Accounted, ""),
        _ => (Enforcement::Unavailable, "not counted yet"),
    }
}

fn rows() -> Vec<UbcRow> {
    (0u64..)
        .zip(UbcResource::ALL)
        .map(|(n, resource)| {
            let enforcement = enforcement(resource).0;
            let counted = enforcement != Enforcement::Unavailable;
            UbcRow {
                resource: render_resource(resource).into(),
                held: counted.then_some(10 + n),
                max_held: counted.then_some(20 + n),
                bounds: Some(Bounds { barrier: Some(30 + n), limit: None }),
                fail_count: n,
                enforcement: enforcement.into(),
            }
        })
        .collect()
}

/// Hands on each connection to the server behind, so that it can be torn.
async fn relay(near: tokio::net::UnixListener, behind: PathBuf, api: Api) {
    while let Ok((mut from, _)) = near.accept().await {
        let behind = behind.clone();
        let relay = tokio::spawn(async move {
            let Ok(mut to) = tokio::net::UnixStream::connect(behind).await else { return };
            // However it ends, both ends are closed.
            tokio::io::copy_bidirectional(&mut from, &mut to).await.ok();
        });
        api.state().relays.push(relay.abort_handle());
    }
}

/// A running fake and its directory.
pub(crate) struct Fake {
    api: Api,
    dir: tempfile::TempDir,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Fake {
    /// Not listening yet.
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let fake = Self { api: Api::default(), dir, runtime: Some(runtime) };
        fake.state().containers = [
            container(101, ContainerState::Running, "web"),
            container(102, ContainerState::Stopped, ""),
            container(103, ContainerState::Mounted, "db"),
        ]
        .map(|c| (c.ct_id, c))
        .into();
        fake
    }
    /// Listening.
    pub(crate) fn started() -> Self {
        let fake = Self::new();
        fake.listen();
        fake
    }
    pub(crate) fn listen(&self) {
        let runtime = self.runtime.as_ref().expect("it is taken on drop only");
        let api = self.api.clone();
        let bind = |socket| {
            let listener = runtime.block_on(async { tokio::net::UnixListener::bind(socket) });
            listener.expect("a socket")
        };
        let (near, behind) = (bind(self.socket()), self.dir.path().join("behind"));
        let incoming = UnixListenerStream::new(bind(behind.clone()));
        runtime.spawn(relay(near, behind, api.clone()));
        runtime.spawn(
            tonic::transport::Server::builder()
                .add_service(ContainerServiceServer::new(api.clone()))
                .add_service(OperationServiceServer::new(api.clone()))
                .add_service(SessionServiceServer::new(api.clone()))
                .add_service(SnapshotServiceServer::new(api.clone()))
                .add_service(TemplateServiceServer::new(api.clone()))
                .add_service(UsageServiceServer::new(api.clone()))
                .add_service(NodeServiceServer::new(api))
                .serve_with_incoming(incoming),
        );
    }
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }
    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("s")
    }
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.api.state()
    }
    pub(crate) fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.state().calls)
    }
    /// Waits until the state is as wanted.
    pub(crate) fn until(&self, what: &str, wanted: impl Fn(&State) -> bool) {
        let runtime = self.runtime.as_ref().expect("it is taken on drop only");
        let waited = runtime.block_on(async {
            let wanted = async {
                while !wanted(&self.state()) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(20), wanted).await
        });
        let calls = &self.state().calls;
        assert!(waited.is_ok(), "waited in vain for {what}: {calls:?}");
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
