//! A coordinator that answers what a test tells it to, over real gRPC on a unix socket.
//!
//! It keeps containers in a map, records each request, and runs commands "inside" by playing small
//! parts (`cat`, `exit N`, `die N`, `size`, …). It decides nothing a real one would decide.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};
use ves_proto::common::{Enforcement, ExitStatus, Limits, Progress, UbcRow, UbcValue, exit_status};
use ves_proto::coordinator::container_service_server::{ContainerService, ContainerServiceServer};
use ves_proto::coordinator::node_service_server::{NodeService, NodeServiceServer};
use ves_proto::coordinator::operation_service_server::{OperationService, OperationServiceServer};
use ves_proto::coordinator::snapshot_service_server::{SnapshotService, SnapshotServiceServer};
use ves_proto::coordinator::template_service_server::{TemplateService, TemplateServiceServer};
use ves_proto::coordinator::*;
use ves_proto::lifecycle::{self, console_request, exec_request, exec_response};
use ves_proto::storage::{
    self, ExportTemplateResponse, Pool, Template, TemplateProgress, import_template_request,
    template_progress,
};
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

type Stream_<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

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

#[tonic::async_trait]
impl ContainerService for Api {
    async fn create_container(
        &self,
        request: Request<CreateContainerRequest>,
    ) -> Result<Response<Operation>, Status> {
        let request = request.into_inner();
        self.called(&request)?;
        let id = if request.id == 0 { 101 } else { request.id };
        Ok(self.operation("create", id, request.dry_run))
    }
    async fn get_container(
        &self,
        request: Request<GetContainerRequest>,
    ) -> Result<Response<Container>, Status> {
        self.called(request.get_ref())?;
        self.find(&request.get_ref().ct).map(Response::new)
    }
    async fn list_containers(
        &self,
        request: Request<ListContainersRequest>,
    ) -> Result<Response<ListContainersResponse>, Status> {
        self.called(request.get_ref())?;
        let state = self.state();
        let after: u32 = request.get_ref().page_token.parse().unwrap_or(0);
        let running = ContainerState::Running;
        let mut containers: Vec<_> = state
            .containers
            .values()
            .filter(|c| c.id > after && (!request.get_ref().running_only || c.state() == running))
            .cloned()
            .collect();
        let mut next_page_token = String::new();
        if state.page > 0 && containers.len() > state.page {
            containers.truncate(state.page);
            next_page_token = containers.last().map(|c| c.id.to_string()).unwrap_or_default();
        }
        Ok(Response::new(ListContainersResponse { containers, next_page_token }))
    }
    async fn update_container(
        &self,
        request: Request<UpdateContainerRequest>,
    ) -> Result<Response<Operation>, Status> {
        let request = request.into_inner();
        self.called(&request)?;
        Ok(self.operation("set", self.find(&request.ct)?.id, request.dry_run))
    }
    async fn delete_container(
        &self,
        request: Request<DeleteContainerRequest>,
    ) -> Result<Response<Operation>, Status> {
        let request = request.into_inner();
        self.called(&request)?;
        Ok(self.operation("destroy", self.find(&request.ct)?.id, request.dry_run))
    }
    async fn start_container(
        &self,
        request: Request<StartContainerRequest>,
    ) -> Result<Response<Operation>, Status> {
        let parent = request.metadata().get("traceparent").and_then(|p| p.to_str().ok());
        self.state().parents.extend(parent.map(str::to_owned));
        let request = request.into_inner();
        self.called(&request)?;
        let kind = if request.mount_only { "mount" } else { "start" };
        Ok(self.operation(kind, self.find(&request.ct)?.id, request.dry_run))
    }
    async fn stop_container(
        &self,
        request: Request<StopContainerRequest>,
    ) -> Result<Response<Operation>, Status> {
        let request = request.into_inner();
        self.called(&request)?;
        let kind = if request.unmount_only { "umount" } else { "stop" };
        Ok(self.operation(kind, self.find(&request.ct)?.id, request.dry_run))
    }
    async fn restart_container(
        &self,
        request: Request<RestartContainerRequest>,
    ) -> Result<Response<Operation>, Status> {
        let request = request.into_inner();
        self.called(&request)?;
        Ok(self.operation("restart", self.find(&request.ct)?.id, request.dry_run))
    }
    async fn get_resources(
        &self,
        request: Request<GetResourcesRequest>,
    ) -> Result<Response<GetResourcesResponse>, Status> {
        self.called(request.get_ref())?;
        let ct = &request.get_ref().ct;
        let ids: Vec<u32> = if ct.is_empty() {
            let state = self.state();
            let running = |c: &&Container| c.state() == ContainerState::Running;
            state.containers.values().filter(running).map(|c| c.id).collect()
        } else {
            vec![self.find(ct)?.id]
        };
        let containers = ids
            .into_iter()
            .map(|id| ContainerResources { id, rows: rows(), cpu_usec: 5_000 })
            .collect();
        Ok(Response::new(GetResourcesResponse { containers }))
    }

    type WatchContainersStream = Stream_<ContainerEvent>;
    async fn watch_containers(
        &self,
        request: Request<WatchContainersRequest>,
    ) -> Result<Response<Self::WatchContainersStream>, Status> {
        self.called(request.get_ref())?;
        let mut events: Vec<_> = self
            .state()
            .containers
            .values()
            .map(|c| ContainerEvent {
                revision: 5,
                container: Some(c.clone()),
                deleted: false,
                initial: true,
            })
            .collect();
        let gone = Container { id: 900, ..Container::default() };
        events.push(ContainerEvent {
            revision: 6,
            container: Some(gone),
            deleted: true,
            initial: false,
        });
        let events = tokio_stream::iter(events.into_iter().map(Ok));
        Ok(Response::new(Box::pin(events.chain(tokio_stream::pending()))))
    }

    type ExecStream = Stream_<lifecycle::ExecResponse>;
    async fn exec(
        &self,
        request: Request<Streaming<ExecRequest>>,
    ) -> Result<Response<Self::ExecStream>, Status> {
        let mut requests = request.into_inner();
        let first = requests.message().await?.expect("a first message");
        self.called(&first)?;
        self.find(&first.ct)?;
        let Some(exec_request::Part::Start(start)) = first.request.and_then(|r| r.part) else {
            return Err(Fault::missing("start").into());
        };
        let (answers, stream) = mpsc::channel(16);
        let api = self.clone();
        tokio::spawn(async move { play(api, start, requests, answers).await });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    type ConsoleStream = Stream_<lifecycle::ConsoleResponse>;
    async fn console(
        &self,
        request: Request<Streaming<ConsoleRequest>>,
    ) -> Result<Response<Self::ConsoleStream>, Status> {
        let mut requests = request.into_inner();
        let first = requests.message().await?.expect("a first message");
        self.called(&first)?;
        self.find(&first.ct)?;
        let part = first.request.and_then(|r| r.part);
        let Some(console_request::Part::Start(start)) = part else {
            return Err(Fault::missing("start").into());
        };
        let (answers, stream) = mpsc::channel(16);
        let api = self.clone();
        tokio::spawn(async move {
            let say = |text: &[u8]| lifecycle::ConsoleResponse { output: text.to_vec().into() };
            answers.send(Ok(say(b"login: "))).await.ok();
            if start.scrollback_only {
                return;
            }
            loop {
                let Ok(Some(next)) = requests.message().await else { return };
                if let Some(console_request::Part::Stdin(b)) = next.request.and_then(|r| r.part) {
                    api.state().input.extend_from_slice(&b);
                    answers.send(Ok(say(&b))).await.ok();
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

type Answers = mpsc::Sender<Result<lifecycle::ExecResponse, Status>>;

/// Plays the command.
async fn play(
    api: Api,
    start: lifecycle::ExecStart,
    mut requests: Streaming<ExecRequest>,
    answers: Answers,
) {
    use exec_response::Part;
    let send = async |part: Part| {
        answers.send(Ok(lifecycle::ExecResponse { part: Some(part) })).await.ok();
    };
    let code = |code| Part::Exit(ExitStatus { how: Some(exit_status::How::Code(code)) });
    let argv: Vec<&str> = start.argv.iter().map(String::as_str).collect();
    if argv.first() == Some(&"missing") {
        let fault = Fault::new(Reason::CommandUnknown, "container 101 has no command missing");
        answers.send(Err(fault.into())).await.ok();
        return;
    }
    send(Part::Started(true)).await;
    let size = |s: &ves_proto::common::WindowSize| format!("{}x{}", s.rows, s.cols);
    if let Some(tty) = &start.tty {
        send(Part::Stdout(format!("tty {}\r\n", size(tty)).into_bytes().into())).await;
    }
    match argv.as_slice() {
        ["exit", status] => return send(code(status.parse().expect("a status"))).await,
        ["die", signal] => {
            let how = Some(exit_status::How::Signal(signal.parse().expect("a signal")));
            return send(Part::Exit(ExitStatus { how })).await;
        }
        ["both"] => {
            send(Part::Stdout(b"out\n".to_vec().into())).await;
            send(Part::Stderr(b"err\n".to_vec().into())).await;
            return send(code(0)).await;
        }
        ["cut"] => return,
        _ => {}
    }
    while let Ok(Some(next)) = requests.message().await {
        match next.request.and_then(|r| r.part) {
            Some(exec_request::Part::Stdin(bytes)) => {
                api.state().input.extend_from_slice(&bytes);
                send(Part::Stdout(bytes.clone())).await;
                if start.tty.is_some() && bytes.contains(&b'q') {
                    return send(code(9)).await;
                }
            }
            Some(exec_request::Part::StdinClosed(_)) if argv.first() != Some(&"sleep") => {
                return send(code(0)).await;
            }
            Some(exec_request::Part::Resize(s)) => {
                send(Part::Stdout(format!("resized {}\r\n", size(&s)).into_bytes().into())).await;
            }
            Some(exec_request::Part::Signal(n)) => return send(code(50 + n)).await,
            _ => {}
        }
    }
}

#[tonic::async_trait]
impl OperationService for Api {
    async fn get_operation(
        &self,
        request: Request<GetOperationRequest>,
    ) -> Result<Response<Operation>, Status> {
        self.called(request.get_ref())?;
        let id = &request.get_ref().id;
        self.state().operations.get(id).cloned().map(Response::new).ok_or_else(|| {
            Fault::new(Reason::OperationUnknown, format!("there is no operation {id}"))
                .fact("operation", id)
                .into()
        })
    }
    async fn list_operations(
        &self,
        request: Request<ListOperationsRequest>,
    ) -> Result<Response<ListOperationsResponse>, Status> {
        self.called(request.get_ref())?;
        let operations = self.state().operations.values().rev().cloned().collect();
        Ok(Response::new(ListOperationsResponse { operations, next_page_token: String::new() }))
    }
    async fn cancel_operation(
        &self,
        request: Request<CancelOperationRequest>,
    ) -> Result<Response<Operation>, Status> {
        let id = request.into_inner().id;
        let mut state = self.state();
        let operation = state.operations.get_mut(&id).expect("a test cancels what there is");
        operation.state = OperationState::Cancelled.into();
        Ok(Response::new(operation.clone()))
    }

    type WatchOperationStream = Stream_<Operation>;
    async fn watch_operation(
        &self,
        request: Request<WatchOperationRequest>,
    ) -> Result<Response<Self::WatchOperationStream>, Status> {
        self.called(request.get_ref())?;
        let id = request.into_inner().id;
        let (pace, watches, mut operation) = {
            let mut state = self.state();
            state.watches += 1;
            (state.pace, state.watches, state.operations[&id].clone())
        };
        let step = |what: &str, done| {
            let progress = Some(Progress { what: what.into(), done, total: 3 });
            Operation { progress, ..operation.clone() }
        };
        let mut items = vec![Ok(step("unpack", 1)), Ok(step("unpack", 2)), Ok(step("mount", 3))];
        if pace == Pace::Never {
            let forever = tokio_stream::iter(items).chain(tokio_stream::pending());
            return Ok(Response::new(Box::pin(forever)));
        }
        if pace == Pace::Cut && watches == 1 {
            items.truncate(1);
            items.push(Err(Fault::new(Reason::Starting, "stopping").into()));
            return Ok(Response::new(Box::pin(tokio_stream::iter(items))));
        }
        if pace == Pace::Dies && watches == 1 {
            items.truncate(1);
            let api = self.clone();
            let dies = tokio_stream::once(()).filter_map(move |()| {
                api.state().die();
                None
            });
            let stream = tokio_stream::iter(items).chain(dies).chain(tokio_stream::pending());
            return Ok(Response::new(Box::pin(stream)));
        }
        operation.state = OperationState::Succeeded.into();
        operation.ended_unix_ms = 1_002_500;
        items.push(Ok(operation));
        Ok(Response::new(Box::pin(tokio_stream::iter(items))))
    }
}

#[tonic::async_trait]
impl TemplateService for Api {
    async fn build_template(
        &self,
        request: Request<BuildTemplateRequest>,
    ) -> Result<Response<Operation>, Status> {
        self.called(request.get_ref())?;
        Ok(self.operation("template build", 0, false))
    }

    type ImportTemplateStream = Stream_<TemplateProgress>;
    async fn import_template(
        &self,
        request: Request<Streaming<storage::ImportTemplateRequest>>,
    ) -> Result<Response<Self::ImportTemplateStream>, Status> {
        let mut requests = request.into_inner();
        let mut name = String::new();
        let mut data = Vec::new();
        while let Some(request) = requests.message().await? {
            match request.part {
                Some(import_template_request::Part::Header(header)) => {
                    self.called(&header)?;
                    name = header.name;
                }
                Some(import_template_request::Part::Data(bytes)) => data.extend_from_slice(&bytes),
                None => {}
            }
        }
        self.state().imported = data;
        let progress = Progress { what: "read the archive".into(), done: 1, total: 2 };
        let template = Template { name, content_bytes: 300 << 20, ..Template::default() };
        let items =
            [template_progress::Is::Progress(progress), template_progress::Is::Template(template)];
        let items = items.map(|is| Ok(TemplateProgress { is: Some(is) }));
        Ok(Response::new(Box::pin(tokio_stream::iter(items))))
    }

    type ExportTemplateStream = Stream_<ExportTemplateResponse>;
    async fn export_template(
        &self,
        request: Request<storage::ExportTemplateRequest>,
    ) -> Result<Response<Self::ExportTemplateStream>, Status> {
        self.called(request.get_ref())?;
        let items = ["abc", "def"].map(|data| Ok(ExportTemplateResponse { data: data.into() }));
        Ok(Response::new(Box::pin(tokio_stream::iter(items))))
    }
    async fn delete_template(
        &self,
        request: Request<DeleteTemplateRequest>,
    ) -> Result<Response<DeleteTemplateResponse>, Status> {
        self.called(request.get_ref())?;
        Ok(Response::new(DeleteTemplateResponse {}))
    }
    async fn list_templates(
        &self,
        request: Request<ListTemplatesRequest>,
    ) -> Result<Response<ListTemplatesResponse>, Status> {
        self.called(request.get_ref())?;
        let templates = self.state().templates.clone();
        Ok(Response::new(ListTemplatesResponse { templates }))
    }
}

#[tonic::async_trait]
impl SnapshotService for Api {
    async fn create_snapshot(
        &self,
        request: Request<CreateSnapshotRequest>,
    ) -> Result<Response<Operation>, Status> {
        let request = request.into_inner();
        self.called(&request)?;
        let mut operation = self.operation("snapshot", self.find(&request.ct)?.id, request.dry_run);
        operation.get_mut().snapshot = "019ab4a0-0000-7000-8000-000000000001".into();
        Ok(operation)
    }
    async fn list_snapshots(
        &self,
        request: Request<ListSnapshotsRequest>,
    ) -> Result<Response<ListSnapshotsResponse>, Status> {
        self.called(request.get_ref())?;
        self.find(&request.get_ref().ct)?;
        let first = storage::Snapshot {
            id: "019ab4a0-0000-7000-8000-000000000001".into(),
            name: "before".into(),
            created_unix_ms: 1_700_000_000_000,
            generation: 4,
            size_bytes: 10 << 30,
            allocated_bytes: 8192,
            own_bytes: Some(4096),
            ..storage::Snapshot::default()
        };
        let second = storage::Snapshot {
            id: "019ab4a0-0000-7000-8000-000000000002".into(),
            name: String::new(),
            parent: first.id.clone(),
            current: true,
            own_bytes: None,
            ..first.clone()
        };
        Ok(Response::new(ListSnapshotsResponse { snapshots: vec![first, second] }))
    }
    async fn switch_snapshot(
        &self,
        request: Request<SwitchSnapshotRequest>,
    ) -> Result<Response<Operation>, Status> {
        let request = request.into_inner();
        self.called(&request)?;
        let id = self.find(&request.ct)?.id;
        let mut operation = self.operation("snapshot-switch", id, request.dry_run);
        operation.get_mut().snapshot = request.snapshot;
        Ok(operation)
    }
    async fn delete_snapshot(
        &self,
        request: Request<DeleteSnapshotRequest>,
    ) -> Result<Response<Operation>, Status> {
        let request = request.into_inner();
        self.called(&request)?;
        let id = self.find(&request.ct)?.id;
        let mut operation = self.operation("snapshot-delete", id, request.dry_run);
        operation.get_mut().snapshot = request.snapshot;
        Ok(operation)
    }
}

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
                backend: "image-reflink".into(),
                size_bytes: 100 << 30,
                free_bytes: 60 << 30,
                promised_bytes: 20 << 30,
            }),
            enforcement: rows(),
            ..Node::default()
        }))
    }
}

/// A running fake and its directory.
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
