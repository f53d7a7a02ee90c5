//! The node: five daemons, who can be killed, and a client.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use ves_coordinator::store::Store;
use ves_coordinator::store::embedded::EmbeddedStore;
use ves_coordinator::store::memory::MemoryStore;
use ves_coordinator::{Config, Coordinator, api};
use ves_daemon::client::{Traced, channel};
use ves_daemon::{App, serve_on};
use ves_fake::FakeNode;
use ves_proto::coordinator as pb;
use ves_proto::coordinator::container_service_client::ContainerServiceClient;
use ves_proto::coordinator::node_service_client::NodeServiceClient;
use ves_proto::coordinator::operation_service_client::OperationServiceClient;
use ves_proto::coordinator::snapshot_service_client::SnapshotServiceClient;
use ves_proto::coordinator::template_service_client::TemplateServiceClient;
use ves_proto::{Fault, Reason};
use ves_types::layout::{Daemon, Layout};

use crate::kernel::world::World;
use crate::kernel::{Kernel, Mishap};
use crate::models;

/// How long anything may take before a test fails.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Where the coordinator keeps its state.
#[derive(Debug, Clone)]
enum Shelf {
    Memory(MemoryStore),
    File,
}

/// What a node begins with.
#[derive(Debug, Clone, Default)]
pub struct Past {
    /// The coordinator's state, as the bytes of its file.
    pub store: Vec<u8>,
    /// What the kernel holds.
    pub world: World,
    /// The boot it is in.
    pub boot: String,
    /// The coordinator answers what is asked, and takes up nothing that is unfinished.
    pub asleep: bool,
}

#[derive(Debug)]
struct Shared {
    dir: tempfile::TempDir,
    layout: Layout,
    kernel: Arc<Kernel>,
    hosts: Option<FakeNode>,
    shelf: Shelf,
    config: Config,
    asleep: bool,
    boot: Mutex<String>,
    daemons: Mutex<HashMap<Daemon, Runtime>>,
}

/// A node.
#[derive(Debug)]
pub struct Sim {
    shared: Arc<Shared>,
    runtime: Option<Runtime>,
    undertaker: Option<std::thread::JoinHandle<()>>,
}

/// Lives a life that leaves nothing, each time on a node of its own: first without a mishap, then
/// with each of these at each of its changes.
///
/// # Panics
/// When something is left, or a mishap did not come to pass.
pub fn each_step(mishaps: &[Mishap], live: impl Fn(&Sim, Option<(usize, Mishap)>)) {
    let through = |mishap| {
        let sim = Sim::new();
        if let Some((n, mishap)) = mishap {
            sim.kernel().script(n, mishap);
        }
        live(&sim, mishap);
        assert!(sim.kernel().is_clean(), "{mishap:?}: {:?}", sim.kernel().state().cts);
        assert!(mishap.is_none() || sim.kernel().unscript(), "{mishap:?} came to pass");
        sim.kernel().state().log.len()
    };
    let changes = through(None);
    assert!(changes > 12, "{changes}");
    for mishap in mishaps {
        for n in 0..changes {
            through(Some((n, *mishap)));
        }
    }
}

/// Whether nobody answered, or the connection was cut in the middle.
fn cut(fault: &Fault) -> bool {
    matches!(fault.reason, Reason::PeerDown | Reason::Bug | Reason::Cancelled)
}

fn runtime() -> Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(1).enable_all().build().expect("a runtime")
}

impl Shared {
    fn app(&self, service: Daemon) -> App {
        match &self.hosts {
            _ if service == Daemon::Coordinator => {}
            Some(hosts) => return hosts.app(service, self.layout.run_dir()),
            None => return models::app(service, &self.kernel),
        }
        let boot = self.boot.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let store = self.store();
        if self.asleep {
            let coordinator = Coordinator::open(self.config.clone(), &self.layout, store);
            let routes = api::routes(&coordinator.expect("the coordinator opens its store"));
            let (policy, services) = (api::POLICY, api::SERVICES);
            return App { routes, policy, services, operators: vec![] };
        }
        let built = ves_coordinator::build_on(self.config.clone(), &self.layout, store, &boot);
        built.expect("the coordinator begins").0
    }

    fn store(&self) -> Box<dyn Store> {
        match &self.shelf {
            Shelf::Memory(store) => Box::new(store.clone()),
            Shelf::File => {
                let path = self.state_file();
                let until = Instant::now() + PATIENCE;
                // The process before may be writing its last.
                loop {
                    match EmbeddedStore::open(&path) {
                        Ok(store) => return Box::new(store),
                        Err(e) => assert!(Instant::now() < until, "open the store: {e}"),
                    }
                    std::thread::yield_now();
                }
            }
        }
    }

    fn state_file(&self) -> PathBuf {
        self.dir.path().join("state.redb")
    }

    fn start(&self, service: Daemon) {
        let runtime = runtime();
        let socket = self.layout.socket(service);
        std::fs::create_dir_all(socket.parent().expect("it has one")).expect("made");
        if socket.exists() {
            std::fs::remove_file(&socket).expect("removed");
        }
        {
            let _inside = runtime.enter();
            let listener = tokio::net::UnixListener::bind(&socket).expect("bound");
            let app = self.app(service);
            runtime.spawn(async move {
                serve_on(listener, app, std::future::pending()).await.expect("served");
            });
        }
        let mut daemons = self.daemons.lock().unwrap_or_else(PoisonError::into_inner);
        daemons.insert(service, runtime);
    }

    fn kill(&self, service: Daemon) {
        let mut daemons = self.daemons.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(runtime) = daemons.remove(&service) {
            runtime.shutdown_background();
        }
    }
}

impl Sim {
    /// A node with everything up.
    pub fn new() -> Self {
        Self::with(Shelf::Memory(MemoryStore::default()), None, None, |_| {})
    }

    /// The same, with the coordinator's state in a file.
    pub fn on_disk() -> Self {
        Self::with(Shelf::File, None, None, |_| {})
    }

    /// A node with a past, whose operations are never forgotten.
    pub fn resumed(past: Past) -> Self {
        Self::with(Shelf::File, None, Some(past), |c| c.keep_operations_s = u64::MAX)
    }

    /// The same, with the real services on one fake node.
    pub fn with_services() -> Self {
        Self::with(Shelf::Memory(MemoryStore::default()), Some(FakeNode::default()), None, |_| {})
    }

    /// The node under the real services.
    pub fn hosts(&self) -> &FakeNode {
        self.shared.hosts.as_ref().expect("asked for by tests that have them")
    }

    /// The same, with what `change` sets.
    pub fn configured(change: impl FnOnce(&mut Config)) -> Self {
        Self::with(Shelf::Memory(MemoryStore::default()), None, None, change)
    }

    fn with(
        shelf: Shelf,
        hosts: Option<FakeNode>,
        past: Option<Past>,
        change: impl FnOnce(&mut Config),
    ) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let mut config = Config {
            node: "sim".parse().ok(),
            patience_ms: 30_000,
            early_exit_grace_ms: 20,
            booted_within_ms: 400,
            ..Config::default()
        };
        change(&mut config);
        let (mut kernel, mut boot, mut asleep) = (Kernel::default(), "boot-1".to_owned(), false);
        if let Some(past) = past {
            std::fs::write(dir.path().join("state.redb"), past.store).expect("written");
            (kernel, boot, asleep) = (Kernel::of(past.world), past.boot, past.asleep);
        }
        let shared = Arc::new(Shared {
            layout: Layout::new(dir.path().join("run"), dir.path().join("state")),
            dir,
            kernel: Arc::new(kernel),
            hosts,
            shelf,
            config,
            asleep,
            boot: Mutex::new(boot),
            daemons: Mutex::default(),
        });
        for service in Daemon::ALL {
            shared.start(service);
        }
        let (deaths, mut victims) = mpsc::unbounded_channel::<Vec<Daemon>>();
        *shared.kernel.deaths.lock().unwrap_or_else(PoisonError::into_inner) = Some(deaths);
        let own = Arc::clone(&shared);
        let undertaker = std::thread::spawn(move || {
            while let Some(victims) = victims.blocking_recv() {
                victims.iter().for_each(|v| own.kill(*v));
                victims.iter().for_each(|v| own.start(*v));
            }
        });
        Self { shared, runtime: Some(runtime()), undertaker: Some(undertaker) }
    }

    /// The kernel under it.
    pub fn kernel(&self) -> &Arc<Kernel> {
        &self.shared.kernel
    }

    /// The coordinator's state, where it is in memory.
    pub fn store(&self) -> &MemoryStore {
        match &self.shared.shelf {
            Shelf::Memory(store) => store,
            Shelf::File => unreachable!("asked for by tests that put it in memory"),
        }
    }

    /// Kills the coordinator and takes its state out of its file.
    pub fn stored(&self) -> Vec<u8> {
        self.kill(Daemon::Coordinator);
        // Opened once more, so that nobody writes any longer and nothing is half written.
        drop(self.shared.store());
        std::fs::read(self.shared.state_file()).expect("it is in a file")
    }

    /// A real service's fences are lost while it is down.
    pub fn lose_fences(&self, service: Daemon) {
        let dir = self.shared.layout.run_dir().join("fence").join(service.name());
        std::fs::remove_dir_all(dir).expect("they were kept");
    }

    /// Kills a daemon.
    pub fn kill(&self, service: Daemon) {
        self.shared.kill(service);
    }

    /// Starts a daemon.
    pub fn start_daemon(&self, service: Daemon) {
        self.shared.start(service);
    }

    /// Kills and starts a daemon.
    pub fn restart(&self, service: Daemon) {
        self.kill(service);
        self.start_daemon(service);
    }

    /// The machine boots: nothing volatile is left, and every daemon is new.
    pub fn boot(&self, id: &str) {
        Daemon::ALL.iter().for_each(|s| self.kill(*s));
        self.kernel().boot();
        if let Some(node) = &self.shared.hosts {
            node.reboot();
            // What is under `/run` does not outlive a boot.
            let fences = self.shared.layout.run_dir().join("fence");
            std::fs::remove_dir_all(fences).expect("they were kept");
        }
        id.clone_into(&mut self.shared.boot.lock().unwrap_or_else(PoisonError::into_inner));
        Daemon::ALL.iter().for_each(|s| self.start_daemon(*s));
    }

    /// Waits for a client's work.
    pub fn block<T>(&self, work: impl Future<Output = T>) -> T {
        let runtime = self.runtime.as_ref().expect("until it is dropped");
        runtime.block_on(async {
            tokio::time::timeout(PATIENCE, work).await.expect("done within the test's patience")
        })
    }

    /// Lets a moment go by between two looks.
    pub fn pause(&self, ms: u64) {
        self.block(async { tokio::time::sleep(Duration::from_millis(ms)).await });
    }

    /// A channel to the coordinator.
    pub fn channel(&self) -> Traced {
        let _inside = self.runtime.as_ref().expect("until it is dropped").enter();
        channel(&self.shared.layout.socket(Daemon::Coordinator))
    }

    /// A client of containers.
    pub fn containers(&self) -> ContainerServiceClient<Traced> {
        ContainerServiceClient::new(self.channel())
    }
    /// A client of operations.
    pub fn operations(&self) -> OperationServiceClient<Traced> {
        OperationServiceClient::new(self.channel())
    }
    /// A client of snapshots.
    pub fn snapshots(&self) -> SnapshotServiceClient<Traced> {
        SnapshotServiceClient::new(self.channel())
    }
    /// A client of templates.
    pub fn templates(&self) -> TemplateServiceClient<Traced> {
        TemplateServiceClient::new(self.channel())
    }
    /// A client of the node.
    pub fn node(&self) -> NodeServiceClient<Traced> {
        NodeServiceClient::new(self.channel())
    }

    /// Waits until something holds.
    pub fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let until = Instant::now() + PATIENCE;
        while !holds() {
            assert!(Instant::now() < until, "never came about: {what}");
            self.pause(2);
        }
    }

    /// Waits for an operation's end, over deaths of the coordinator.
    pub fn end_of(&self, id: &str) -> pb::Operation {
        let until = Instant::now() + PATIENCE;
        loop {
            let request = pb::GetOperationRequest { id: id.to_owned() };
            let answer = self.block(self.operations().get_operation(request));
            match answer.map_err(Fault::from) {
                Ok(op) if op.get_ref().state() != pb::OperationState::Running => {
                    return op.into_inner();
                }
                Ok(op) => assert!(Instant::now() < until, "never ended: {op:?}"),
                Err(fault) => {
                    assert!(cut(&fault), "{fault}");
                    assert!(Instant::now() < until, "never came back: {fault}");
                }
            }
            self.pause(2);
        }
    }

    /// Makes a call until somebody answers it; the same call, by its request id.
    pub fn ask<F>(&self, mut call: impl FnMut() -> F) -> Result<pb::Operation, Fault>
    where
        F: Future<Output = Result<tonic::Response<pb::Operation>, tonic::Status>>,
    {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.block(call()).map_err(Fault::from) {
                Ok(op) => return Ok(op.into_inner()),
                Err(f) if cut(&f) => {
                    assert!(Instant::now() < until, "nobody answers: {f}");
                }
                Err(fault) => return Err(fault),
            }
            self.pause(2);
        }
    }

    /// Carries out a command to its end.
    pub fn run(&self, command: &Command) -> Result<pb::Operation, Fault> {
        let op = self.ask(|| command.clone().send(self.channel()))?;
        let op = self.end_of(&op.id);
        match op.fault.clone() {
            Some(fault) => Err(Fault::from_message(fault)),
            None => Ok(op),
        }
    }

    /// A container as it is.
    pub fn get(&self, ct: &str) -> Result<pb::Container, Fault> {
        let request = pb::GetContainerRequest { ct: ct.to_owned() };
        let answer = self.block(self.containers().get_container(request));
        answer.map(tonic::Response::into_inner).map_err(Fault::from)
    }

    /// A container's state.
    pub fn state(&self, ct: &str) -> pb::ContainerState {
        self.get(ct).map_or(pb::ContainerState::Unspecified, |c| c.state())
    }

    /// What storage would be told of a template, for a create.
    pub fn spec(template: &str) -> pb::ContainerSpec {
        pb::ContainerSpec { template: template.to_owned(), ..pb::ContainerSpec::default() }
    }
}

impl Default for Sim {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        self.shared.kernel.deaths.lock().unwrap_or_else(PoisonError::into_inner).take();
        Daemon::ALL.iter().for_each(|s| self.kill(*s));
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
        if let Some(undertaker) = self.undertaker.take() {
            // It has nothing more to wait for; its panic is the test's.
            undertaker.join().ok();
            Daemon::ALL.iter().for_each(|s| self.kill(*s));
        }
    }
}

/// A call that changes a container.
#[derive(Debug, Clone)]
pub enum Command {
    /// Create.
    Create(Box<pb::CreateContainerRequest>),
    /// Start or mount.
    Start(pb::StartContainerRequest),
    /// Stop or unmount.
    Stop(pb::StopContainerRequest),
    /// Restart.
    Restart(pb::RestartContainerRequest),
    /// Change.
    Update(Box<pb::UpdateContainerRequest>),
    /// Destroy.
    Delete(pb::DeleteContainerRequest),
    /// Take a snapshot.
    Snapshot(pb::CreateSnapshotRequest),
    /// Go back to one.
    SnapshotSwitch(pb::SwitchSnapshotRequest),
    /// Delete one.
    SnapshotDelete(pb::DeleteSnapshotRequest),
}

impl Command {
    /// Makes the call.
    pub async fn send(
        self,
        channel: Traced,
    ) -> Result<tonic::Response<pb::Operation>, tonic::Status> {
        let mut client = ContainerServiceClient::new(channel.clone());
        let mut snapshots = SnapshotServiceClient::new(channel);
        match self {
            Self::Create(r) => client.create_container(*r).await,
            Self::Start(r) => client.start_container(r).await,
            Self::Stop(r) => client.stop_container(r).await,
            Self::Restart(r) => client.restart_container(r).await,
            Self::Update(r) => client.update_container(*r).await,
            Self::Delete(r) => client.delete_container(r).await,
            Self::Snapshot(r) => snapshots.create_snapshot(r).await,
            Self::SnapshotSwitch(r) => snapshots.switch_snapshot(r).await,
            Self::SnapshotDelete(r) => snapshots.delete_snapshot(r).await,
        }
    }

    /// The same with this id of the request.
    #[must_use]
    pub fn with_request_id(mut self, id: &str) -> Self {
        let place = match &mut self {
            Self::Create(r) => &mut r.request_id,
            Self::Start(r) => &mut r.request_id,
            Self::Stop(r) => &mut r.request_id,
            Self::Restart(r) => &mut r.request_id,
            Self::Update(r) => &mut r.request_id,
            Self::Delete(r) => &mut r.request_id,
            Self::Snapshot(r) => &mut r.request_id,
            Self::SnapshotSwitch(r) => &mut r.request_id,
            Self::SnapshotDelete(r) => &mut r.request_id,
        };
        id.clone_into(place);
        self
    }

    /// A new id for each request, so that repeating one command is repeating one call.
    fn fresh() -> String {
        use std::sync::atomic::{AtomicU64, Ordering};
        static NEXT: AtomicU64 = AtomicU64::new(0);
        format!("request-{}", NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// Create `id` from trixie, with what `change` sets.
    pub fn create(id: u32, change: impl FnOnce(&mut pb::ContainerSpec)) -> Self {
        let mut spec = Sim::spec("trixie");
        change(&mut spec);
        let request_id = Self::fresh();
        let spec = Some(spec);
        let request = pb::CreateContainerRequest { id, spec, request_id, dry_run: false };
        Self::Create(Box::new(request))
    }
    /// Start.
    pub fn start(ct: &str) -> Self {
        let (ct, request_id) = (ct.to_owned(), Self::fresh());
        Self::Start(pb::StartContainerRequest { ct, request_id, ..Default::default() })
    }
    /// Stop.
    pub fn stop(ct: &str) -> Self {
        let (ct, request_id) = (ct.to_owned(), Self::fresh());
        Self::Stop(pb::StopContainerRequest { ct, request_id, fast: true, ..Default::default() })
    }
    /// Restart.
    pub fn restart(ct: &str) -> Self {
        let (ct, request_id) = (ct.to_owned(), Self::fresh());
        Self::Restart(pb::RestartContainerRequest { ct, request_id, ..Default::default() })
    }
    /// Change these fields, saved.
    pub fn set(ct: &str, mask: &[&str], spec: pb::ContainerSpec) -> Self {
        Self::update(ct, |r| {
            r.update_mask = mask.iter().map(|m| (*m).to_owned()).collect();
            r.spec = Some(spec);
            r.save = true;
        })
    }
    /// Change what `change` says.
    pub fn update(ct: &str, change: impl FnOnce(&mut pb::UpdateContainerRequest)) -> Self {
        let (ct, request_id) = (ct.to_owned(), Self::fresh());
        let mut request = pb::UpdateContainerRequest { ct, request_id, ..Default::default() };
        change(&mut request);
        Self::Update(Box::new(request))
    }
    /// Take a snapshot.
    pub fn snapshot(ct: &str, name: &str) -> Self {
        let (ct, name, request_id) = (ct.to_owned(), name.to_owned(), Self::fresh());
        Self::Snapshot(pb::CreateSnapshotRequest { ct, name, request_id, dry_run: false })
    }
    /// Go back to a snapshot.
    pub fn snapshot_switch(ct: &str, id: &str) -> Self {
        let (ct, snapshot, request_id) = (ct.to_owned(), id.to_owned(), Self::fresh());
        Self::SnapshotSwitch(pb::SwitchSnapshotRequest { ct, snapshot, request_id, dry_run: false })
    }
    /// Delete a snapshot.
    pub fn snapshot_delete(ct: &str, id: &str) -> Self {
        let (ct, snapshot, request_id) = (ct.to_owned(), id.to_owned(), Self::fresh());
        Self::SnapshotDelete(pb::DeleteSnapshotRequest { ct, snapshot, request_id, dry_run: false })
    }
    /// Destroy.
    pub fn delete(ct: &str) -> Self {
        let (ct, request_id) = (ct.to_owned(), Self::fresh());
        Self::Delete(pb::DeleteContainerRequest { ct, request_id, dry_run: false })
    }
}
