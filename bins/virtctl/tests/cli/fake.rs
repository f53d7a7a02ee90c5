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

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio_stream::Stream;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Response, Status};
use ves_proto::common::{Enforcement, Limits, Progress, UbcRow, UbcValue};
use ves_proto::coordinator::container_service_server::ContainerServiceServer;
use ves_proto::coordinator::node_service_server::NodeServiceServer;
use ves_proto::coordinator::operation_service_server::OperationServiceServer;
use ves_proto::coordinator::snapshot_service_server::SnapshotServiceServer;
use ves_proto::coordinator::template_service_server::TemplateServiceServer;
use ves_proto::coordinator::{Container, ContainerSpec, ContainerState, Operation, OperationState};
use ves_proto::storage::Template;
use ves_proto::{Fault, Reason};
use ves_types::{Limit, UbcResource};

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
    pub(crate) header: ves_proto::storage::ImportTemplateHeader,
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
    fn find(&self, ct: &str) -> Result<Container, Status> {
        let state = self.state();
        let is = |c: &&Container| {
            c.id.to_string() == ct || c.spec.as_ref().is_some_and(|s| s.name == ct)
        };
        state.containers.values().find(is).cloned().ok_or_else(|| {
            Fault::new(Reason::ContainerUnknown, format!("there is no container {ct}"))
                .fact("ct", ct)
                .into()
        })
    }
    fn operation(&self, kind: &str, ct: u32, dry_run: bool) -> Response<Operation> {
        let mut state = self.state();
        let id = format!("op-{}", state.operations.len() + 1);
        let pace = if dry_run { Pace::AtOnce } else { state.pace };
        let mut operation = Operation {
            id: id.clone(),
            kind: kind.into(),
            ct,
            state: OperationState::Succeeded.into(),
            steps: vec![format!("{kind} step one"), format!("{kind} step two")],
            started_unix_ms: 1_000_000,
            ended_unix_ms: 1_001_250,
            principal: "root".into(),
            ..Operation::default()
        };
        match pace {
            Pace::AtOnce => {}
            Pace::Slow | Pace::Cut | Pace::Dies | Pace::Never => {
                operation.state = OperationState::Running.into();
                operation.ended_unix_ms = 0;
                operation.progress = Some(Progress { what: "begin".into(), done: 0, total: 0 });
            }
            Pace::Fails(reason) => {
                operation.state = OperationState::Failed.into();
                let fault = Fault::new(reason, format!("{kind} {ct}: it cannot be")).fact("ct", ct);
                operation.fault = Some(fault.to_message());
            }
        }
        state.operations.insert(id, operation.clone());
        Response::new(operation)
    }
}

type BoxStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

pub(crate) fn container(id: u32, state: ContainerState, name: &str) -> Container {
    let running = state == ContainerState::Running;
    Container {
        id,
        spec: Some(ContainerSpec {
            name: name.into(),
            hostname: format!("host{id}.example"),
            template: "debian-13".into(),
            addresses: vec![format!("192.0.2.{}", id % 200), format!("2001:db8::{id:x}")],
            disk_bytes: 10 << 30,
            limits: Some(Limits {
                cpu_millicpus: Some(1500),
                cpu_mask: Some("0-1".into()),
                io_bps: Some(1 << 20),
                ubc: [("physpages".to_owned(), UbcValue { barrier: 0, limit: 65_536 })].into(),
                ..Limits::default()
            }),
            ..ContainerSpec::default()
        }),
        state: state.into(),
        generation: 3,
        node: "n1".into(),
        created_unix: 1_700_000_000,
        started_unix_ms: running.then_some(1_700_000_100_000),
        numproc: running.then_some(7),
        init_pid: running.then_some(4242),
        ..Container::default()
    }
}

fn rows() -> Vec<UbcRow> {
    UbcResource::ALL
        .iter()
        .enumerate()
        .map(|(n, r)| {
            let n = n as u64;
            let enforcement = match r {
                UbcResource::Numproc => Enforcement::Hard,
                UbcResource::Physpages => Enforcement::Bounded,
                UbcResource::Numfile => Enforcement::Accounted,
                _ => Enforcement::Unavailable,
            };
            let why = if enforcement == Enforcement::Unavailable { "not counted yet" } else { "" };
            UbcRow {
                resource: r.name().into(),
                held: 10 + n,
                maxheld: 20 + n,
                value: Some(UbcValue { barrier: 30 + n, limit: Limit::UNLIMITED_TEXT }),
                failcnt: n,
                enforcement: enforcement.into(),
                why: why.into(),
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
        .map(|c| (c.id, c))
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
                .add_service(SnapshotServiceServer::new(api.clone()))
                .add_service(TemplateServiceServer::new(api.clone()))
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
