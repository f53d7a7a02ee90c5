//! The node: five daemons, who can be killed, and a client.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use ves_coordinator::services::Services;
use ves_coordinator::store::embedded::EmbeddedStore;
use ves_coordinator::store::memory::MemoryStore;
use ves_coordinator::store::{Kind, Row, Store, StoreError, Transaction};
use ves_coordinator::{Config, Coordinator};
use ves_daemon::client::{Traced, over};
use ves_daemon::{App, BuildError, serve_on};
use ves_fake::{FakeNode, Hand, Life, Mishap, Script};
use ves_proto::api;
use ves_proto::api::container_service_client::ContainerServiceClient;
use ves_proto::api::node_service_client::NodeServiceClient;
use ves_proto::api::operation_service_client::OperationServiceClient;
use ves_proto::api::session_service_client::SessionServiceClient;
use ves_proto::api::snapshot_service_client::SnapshotServiceClient;
use ves_proto::api::template_service_client::TemplateServiceClient;
use ves_proto::api::usage_service_client::UsageServiceClient;
use ves_proto::{Fault, Reason};
use ves_types::layout::{Daemon, Layout};

use crate::clock::SimClock;
pub use crate::command::Command;
use crate::command::spec;
use crate::exchange::Exchange;
use crate::words::{self, self as pb};

/// How long anything may take before a test fails.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Where the coordinator keeps its state.
#[derive(Debug, Clone)]
enum Shelf {
    Memory(MemoryStore),
    File,
}

impl Default for Shelf {
    fn default() -> Self {
        Self::Memory(MemoryStore::default())
    }
}

/// A store in the hand of one coordinator: what it still does on some thread when it was killed, is not
/// done.
#[derive(Debug)]
struct InHand {
    store: MemoryStore,
    life: Life,
}

impl InHand {
    fn act<T>(&self, act: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
        let source = || "by a coordinator that was killed".into();
        self.life.act(act, || StoreError::Failed { what: "use", source: source() })
    }
}

impl Store for InHand {
    fn range(&self, kind: Kind, after: Option<&str>, most: usize) -> Result<Vec<Row>, StoreError> {
        self.act(|| self.store.range(kind, after, most))
    }
    fn range_back(
        &self,
        kind: Kind,
        before: Option<&str>,
        most: usize,
    ) -> Result<Vec<Row>, StoreError> {
        self.act(|| self.store.range_back(kind, before, most))
    }
    fn transact(&self, group: &[Transaction]) -> Result<(), StoreError> {
        self.act(|| self.store.transact(group))
    }
    fn has_room(&self) -> bool {
        self.store.has_room()
    }
}

/// What a node begins with.
#[derive(Debug, Clone, Default)]
pub struct Past {
    /// The coordinator's state, as the bytes of its file.
    pub store: Vec<u8>,
    /// The boot it is in.
    pub boot: String,
    /// The coordinator answers what is asked, and takes up nothing that is unfinished.
    pub asleep: bool,
}

/// What a node is to be.
#[derive(Debug, Default)]
struct Begin {
    shelf: Shelf,
    past: Option<Past>,
    listens: bool,
}

#[derive(Debug)]
struct Shared {
    dir: tempfile::TempDir,
    layout: Layout,
    kernel: FakeNode,
    exchange: Arc<Exchange>,
    shelf: Shelf,
    config: Config,
    clock: SimClock,
    asleep: bool,
    /// Whether the coordinator listens on its socket.
    listens: bool,
    boot: Mutex<String>,
    /// Held while a daemon starts or is killed, of which two may have the same in mind.
    starting: Mutex<()>,
}

/// A node.
#[derive(Debug)]
pub struct Sim {
    shared: Arc<Shared>,
    runtime: Option<Runtime>,
    undertaker: Option<std::thread::JoinHandle<()>>,
}

/// Lives a life that leaves nothing, each time on a node of its own: first without a mishap, then
/// with each of these at each call that changes something.
///
/// # Panics
/// When something is left, or a mishap did not come to pass.
pub fn each_step(mishaps: &[Mishap], live: impl Fn(&Sim, Option<(usize, Mishap)>)) {
    each(mishaps, live, Script::at_call, |script| script.log().len());
}

/// The same at each step that a service does to the node.
///
/// # Panics
/// As above.
pub fn each_step_on_the_node(mishaps: &[Mishap], live: impl Fn(&Sim, Option<(usize, Mishap)>)) {
    each(mishaps, live, Script::at_step, Script::steps);
}

fn each(
    mishaps: &[Mishap],
    live: impl Fn(&Sim, Option<(usize, Mishap)>),
    at: impl Fn(&Script, usize, Mishap),
    count: impl Fn(&Script) -> usize,
) {
    let through = |mishap| {
        let sim = Sim::new();
        let before = count(sim.script());
        if let Some((n, mishap)) = mishap {
            at(sim.script(), n, mishap);
        }
        live(&sim, mishap);
        let after = count(sim.script());
        assert!(sim.kernel().is_clean(), "{mishap:?}: {:?}", sim.kernel());
        assert!(sim.script().end(), "{mishap:?} came to pass");
        after - before
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
pub(crate) fn is_cut(fault: &Fault) -> bool {
    matches!(fault.reason, Reason::PeerDown | Reason::Bug | Reason::Cancelled)
}

fn runtime() -> Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(1).enable_all().build().expect("a runtime")
}

impl Shared {
    fn coordinator(&self, hand: Hand) -> Result<App, BuildError> {
        let services = Services::over(|service| over(self.exchange.link(service)));
        let (config, store) = (self.config.clone(), self.store(hand.life));
        let coordinator = Coordinator::open(config, services, store, Box::new(self.clock.clone()))?;
        if self.asleep {
            // Nobody follows lifecycle, and nobody shall wait for its list.
            coordinator.cache().has_list();
        } else {
            let boot = self.boot.lock().unwrap_or_else(PoisonError::into_inner).clone();
            coordinator.begin_work(&boot)?;
        }
        ves_coordinator::metrics::observe(&coordinator);
        if self.listens {
            self.listen(ves_coordinator::app(&coordinator))?;
        }
        Ok(ves_coordinator::app(&coordinator))
    }

    /// Serves programs, too, who come by the coordinator's socket.
    fn listen(&self, app: App) -> Result<(), BuildError> {
        let socket = self.layout.socket(Daemon::Coordinator);
        std::fs::create_dir_all(self.layout.api_dir())?;
        if socket.exists() {
            std::fs::remove_file(&socket)?;
        }
        let listener = tokio::net::UnixListener::bind(&socket)?;
        tokio::spawn(async move {
            serve_on(listener, app, std::future::pending()).await.expect("served");
        });
        Ok(())
    }

    fn store(&self, life: Life) -> Box<dyn Store> {
        match &self.shelf {
            Shelf::Memory(store) => Box::new(InHand { store: store.clone(), life }),
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

    /// Starts a daemon; as systemd does, again where that fails.
    fn start(&self, daemon: Daemon) {
        let _alone = self.starting.lock().unwrap_or_else(PoisonError::into_inner);
        let until = Instant::now() + PATIENCE;
        while let Err(error) = self.try_to_start(daemon) {
            assert!(Instant::now() < until, "{} does not start: {error}", daemon.name());
        }
    }

    fn try_to_start(&self, daemon: Daemon) -> Result<(), BuildError> {
        let runtime = runtime();
        let script = &self.kernel.script;
        let hand = script.begin(daemon);
        let life = hand.life.clone();
        let begin = || {
            let _inside = runtime.enter();
            match daemon {
                Daemon::Coordinator => self.coordinator(hand)?.in_process(),
                _ => self.kernel.app(daemon, &self.layout, hand)?.in_process(),
            }
        };
        match begin() {
            Ok(link) => {
                self.exchange.begin(daemon, runtime, script.before(daemon, life, link));
                Ok(())
            }
            Err(error) => {
                runtime.shutdown_background();
                Err(error)
            }
        }
    }

    fn kill(&self, daemon: Daemon) {
        let _alone = self.starting.lock().unwrap_or_else(PoisonError::into_inner);
        self.kernel.script.kill(daemon);
        self.exchange.kill(daemon);
    }
}

impl Sim {
    /// A node with everything up.
    pub fn new() -> Self {
        Self::configured(|_| {})
    }

    /// The same, with what `change` sets.
    pub fn configured(change: impl FnOnce(&mut Config)) -> Self {
        Self::with(Begin::default(), |_| {}, change)
    }

    /// The same, where programs reach the coordinator too, by its socket.
    pub fn listening() -> Self {
        Self::listening_with(|_| {})
    }

    /// The same, with what `change` sets.
    pub fn listening_with(change: impl FnOnce(&mut Config)) -> Self {
        Self::with(Begin { listens: true, ..Begin::default() }, |_| {}, change)
    }

    /// The coordinator's socket.
    pub fn socket(&self) -> PathBuf {
        self.shared.layout.socket(Daemon::Coordinator)
    }

    /// The same, with the coordinator's state in a file.
    pub fn on_disk() -> Self {
        Self::with(Begin { shelf: Shelf::File, ..Begin::default() }, |_| {}, |_| {})
    }

    /// A node with a past, whose operations are never forgotten. Its services are up when `settle` is told
    /// to put on it what was there; its coordinator is not.
    pub fn resumed(past: Past, settle: impl FnOnce(&Self)) -> Self {
        let begin = Begin { shelf: Shelf::File, past: Some(past), ..Begin::default() };
        Self::with(begin, settle, |c| c.keep_operations_s = u64::MAX)
    }

    fn with(begin: Begin, settle: impl FnOnce(&Self), change: impl FnOnce(&mut Config)) -> Self {
        let Begin { shelf, past, listens } = begin;
        // Fences are many small files, which need not be on a disk.
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        let dir = dir.expect("a directory");
        let mut config = Config {
            node: "sim".parse().ok(),
            patience_ms: 30_000,
            booted_within_ms: 400,
            ..Config::default()
        };
        change(&mut config);
        let (mut boot, mut asleep) = ("boot-1".to_owned(), false);
        if let Some(past) = past {
            std::fs::write(dir.path().join("state.redb"), past.store).expect("written");
            (boot, asleep) = (past.boot, past.asleep);
        }
        let shared = Arc::new(Shared {
            layout: Layout::new(dir.path().join("run"), dir.path().join("state")),
            dir,
            kernel: FakeNode::default(),
            exchange: Arc::default(),
            shelf,
            config,
            clock: SimClock::default(),
            asleep,
            listens,
            boot: Mutex::new(boot),
            starting: Mutex::default(),
        });
        let (deaths, mut victims) = mpsc::unbounded_channel::<Vec<Daemon>>();
        shared.kernel.script.undertaker(Some(deaths));
        let own = Arc::clone(&shared);
        let undertaker = std::thread::spawn(move || {
            while let Some(victims) = victims.blocking_recv() {
                victims.iter().for_each(|v| own.kill(*v));
                victims.iter().for_each(|v| own.start(*v));
            }
        });
        let sim = Self { shared, runtime: Some(runtime()), undertaker: Some(undertaker) };
        for service in Daemon::SERVICES {
            sim.start_daemon(service);
        }
        settle(&sim);
        sim.script().clear_log();
        sim.start_daemon(Daemon::Coordinator);
        sim
    }

    /// The node under its services.
    pub fn kernel(&self) -> &FakeNode {
        &self.shared.kernel
    }

    /// What goes wrong.
    pub fn script(&self) -> &Script {
        &self.shared.kernel.script
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
        drop(self.shared.store(Life::default()));
        std::fs::read(self.shared.state_file()).expect("it is in a file")
    }

    /// Where a service keeps its fences.
    pub fn fences(&self, service: Daemon) -> PathBuf {
        ves_fake::fences(service, &self.shared.layout)
    }

    /// A service is started again and has lost its fences.
    pub fn lose_fences(&self, service: Daemon) {
        self.kill(service);
        std::fs::remove_dir_all(self.fences(service)).expect("they were kept");
        self.start_daemon(service);
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
        self.kill(Daemon::Coordinator);
        id.clone_into(&mut self.shared.boot.lock().unwrap_or_else(PoisonError::into_inner));
        self.boot_services();
        self.start_daemon(Daemon::Coordinator);
    }

    /// The same without the coordinator, which is not up.
    pub(crate) fn boot_services(&self) {
        Daemon::SERVICES.iter().for_each(|s| self.kill(*s));
        self.kernel().reboot();
        std::fs::remove_dir_all(self.shared.layout.run_dir()).expect("it does not outlive a boot");
        Daemon::SERVICES.iter().for_each(|s| self.start_daemon(*s));
    }

    /// Waits for a client's work.
    pub fn block<T>(&self, work: impl Future<Output = T>) -> T {
        self.within(work).expect("done within the test's patience")
    }

    /// The same; fails where it is not done within the test's patience.
    pub fn within<T>(&self, work: impl Future<Output = T>) -> Result<T, String> {
        let runtime = self.runtime.as_ref().expect("until it is dropped");
        let done = runtime.block_on(async { tokio::time::timeout(PATIENCE, work).await });
        done.map_err(|_| format!("not done within {} s", PATIENCE.as_secs()))
    }

    /// Puts the coordinator's clock forward.
    pub fn advance(&self, time: Duration) {
        self.shared.clock.advance(time);
    }

    /// Lets a moment go by between two looks.
    pub fn pause(&self, ms: u64) {
        self.block(async { tokio::time::sleep(Duration::from_millis(ms)).await });
    }

    /// A channel to the coordinator.
    pub fn channel(&self) -> Traced {
        self.channel_to(Daemon::Coordinator)
    }

    /// A channel to a daemon.
    pub fn channel_to(&self, daemon: Daemon) -> Traced {
        over(self.shared.exchange.link(daemon))
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
    /// A client of sessions.
    pub fn sessions(&self) -> SessionServiceClient<Traced> {
        SessionServiceClient::new(self.channel())
    }
    /// A client of usage.
    pub fn usage(&self) -> UsageServiceClient<Traced> {
        UsageServiceClient::new(self.channel())
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

    /// An operation as it is.
    pub fn operation(&self, id: &str) -> Result<pb::Operation, Fault> {
        let request = api::GetOperationRequest { name: format!("operations/{id}") };
        let answer = self.block(self.operations().get_operation(request));
        answer.map(|op| op.into_inner().into()).map_err(Fault::from)
    }

    /// All operations there are, newest first.
    pub fn all_operations(&self) -> Vec<pb::Operation> {
        let request = api::ListOperationsRequest { page_size: 1000, ..Default::default() };
        let answer = self.block(self.operations().list_operations(request)).expect("listed");
        answer.into_inner().operations.into_iter().map(pb::Operation::from).collect()
    }

    /// Asks an operation to stop.
    pub fn cancel(&self, id: &str) -> Result<pb::Operation, Fault> {
        let request = api::CancelOperationRequest { name: format!("operations/{id}") };
        let answer = self.block(self.operations().cancel_operation(request));
        answer.map(|op| op.into_inner().into()).map_err(Fault::from)
    }

    /// The snapshots of a container, oldest first.
    pub fn snapshots_of(&self, ct: &str) -> Result<Vec<api::Snapshot>, Fault> {
        let parent = words::container_name(ct);
        let request = api::ListSnapshotsRequest { parent, ..Default::default() };
        let answer = self.block(self.snapshots().list_snapshots(request));
        answer.map(|list| list.into_inner().snapshots).map_err(Fault::from)
    }

    /// What a watch of containers begins with.
    pub fn first_told(&self) -> Vec<pb::Container> {
        use api::watch_containers_response::Event;
        let request = api::WatchContainersRequest::default();
        self.block(async {
            let mut stream = self.containers().watch_containers(request).await.ok()?.into_inner();
            let mut all = Vec::new();
            loop {
                match stream.message().await.ok()??.event? {
                    Event::Changed(container) => all.push(pb::Container::from(container)),
                    Event::Synced(_) => return Some(all),
                    Event::Reset(_) | Event::Gone(_) | Event::Heartbeat(_) => {}
                }
            }
        })
        .unwrap_or_default()
    }

    /// Waits for an operation's end, over deaths of the coordinator.
    pub fn end_of(&self, id: &str) -> pb::Operation {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.operation(id) {
                Ok(op) if op.ended_unix_ms != 0 => return op,
                Ok(op) => assert!(Instant::now() < until, "never ended: {op:?}"),
                Err(fault) => {
                    assert!(is_cut(&fault), "{fault}");
                    assert!(Instant::now() < until, "never came back: {fault}");
                }
            }
            self.pause(2);
        }
    }

    /// Makes a call until somebody answers it; the same call, by its request id.
    pub fn ask<F>(&self, mut call: impl FnMut() -> F) -> Result<pb::Operation, Fault>
    where
        F: Future<Output = Result<tonic::Response<api::Operation>, tonic::Status>>,
    {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.block(call()).map_err(Fault::from) {
                Ok(op) => return Ok(op.into_inner().into()),
                Err(f) if is_cut(&f) => {
                    assert!(Instant::now() < until, "nobody answers: {f}");
                }
                Err(fault) => return Err(fault),
            }
            self.pause(2);
        }
    }

    /// Carries a command out to its end, over deaths of the coordinator.
    pub async fn carry(&self, command: &Command) -> Result<pb::Operation, Fault> {
        /// Between two tries.
        const PAUSE: Duration = Duration::from_millis(2);
        let begun = loop {
            match command.clone().send(self.channel()).await.map_err(Fault::from) {
                Ok(op) => break pb::Operation::from(op.into_inner()),
                Err(fault) if is_cut(&fault) => tokio::time::sleep(PAUSE).await,
                Err(fault) => return Err(fault),
            }
        };
        let mut op = begun;
        while op.ended_unix_ms == 0 {
            let name = format!("operations/{}", op.id);
            let request = api::WatchOperationsRequest { name, ..Default::default() };
            if let Ok(stream) = self.operations().watch_operations(request).await {
                let mut told = stream.into_inner();
                while let Ok(Some(now)) = told.message().await {
                    if let Some(api::watch_operations_response::Event::Changed(now)) = now.event {
                        op = now.into();
                    }
                }
            }
            if op.ended_unix_ms == 0 {
                tokio::time::sleep(PAUSE).await;
            }
        }
        match op.fault.clone() {
            Some(fault) => Err(fault),
            None => Ok(op),
        }
    }

    /// Carries out a command to its end.
    pub fn run(&self, command: &Command) -> Result<pb::Operation, Fault> {
        self.block(self.carry(command))
    }

    /// A container as it is.
    pub fn get(&self, ct: &str) -> Result<pb::Container, Fault> {
        let request = api::GetContainerRequest { name: words::container_name(ct) };
        let answer = self.block(self.containers().get_container(request));
        answer.map(|ct| ct.into_inner().into()).map_err(Fault::from)
    }

    /// A container's state.
    pub fn state(&self, ct: &str) -> pb::ContainerState {
        self.get(ct).map_or(pb::ContainerState::Unspecified, |c| c.state())
    }

    /// What a create asks for, of a template and nothing else.
    pub fn spec(template: &str) -> pb::ContainerSpec {
        spec(template)
    }
}

impl Default for Sim {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        self.script().undertaker(None);
        self.kernel().volumes.give_up_builds();
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
