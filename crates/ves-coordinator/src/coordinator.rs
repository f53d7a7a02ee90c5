//! The coordinator: what all its parts share. It is passed on by clones.
//!
//! Owns nothing but the parts: what is stored, what was seen, the services, the clock. Never here: what
//! is done with them ([`crate::admission`], [`crate::driver`], `reconcile`).

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use ves_daemon::blocking;
use ves_proto::Fault;
use ves_types::{Bytes, CtId, NodeName, Phase};

use crate::clock::Clock;
use crate::config::Config;
use crate::container::cache::ObservedCache;
use crate::container::defaults::DefaultLimits;
use crate::container::observed::Observed;
use crate::container::record::Record;
use crate::event::condition::Conditions;
use crate::event::outbox::Outbox;
use crate::ledger::Ledger;
use crate::open_streams::OpenStreams;
use crate::operation::metrics::Metrics;
use crate::queue::Queues;
use crate::services::Services;
use crate::store::Store;
use crate::store::index::{Change, Index};
use crate::store::state::State;
use crate::token::Registry;

/// How many containers that ended are looked at at once.
const EXITS_AT_ONCE: usize = 16;

/// The coordinator. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Coordinator {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: Config,
    node: NodeName,
    life: String,
    clock: Arc<dyn Clock>,
    defaults: DefaultLimits,
    state: State,
    services: Services,
    cache: ObservedCache,
    ending: Mutex<BTreeSet<CtId>>,
    finishing: Mutex<BTreeSet<CtId>>,
    templates: Mutex<BTreeSet<String>>,
    turns: Turns,
    queues: Queues,
    metrics: Metrics,
    streams: OpenStreams,
    outbox: Outbox,
    conditions: Conditions,
    tokens: Registry,
    usage: Ledger,
}

/// Who looks at a coordinator as long as it is there.
#[derive(Debug, Clone)]
pub(crate) struct Observer(Weak<Inner>);

impl Observer {
    /// The coordinator, unless it has ended.
    pub(crate) fn coordinator(&self) -> Option<Coordinator> {
        self.0.upgrade().map(|inner| Coordinator { inner })
    }
}

/// How many of each kind of work are done at once; what is more waits, first come, first served.
#[derive(Debug)]
pub(crate) struct Turns {
    /// Operations that somebody asked for.
    pub(crate) operations: Arc<Semaphore>,
    /// Containers that start as the node boots.
    pub(crate) boot: Arc<Semaphore>,
    /// Repairs.
    pub(crate) repairs: Arc<Semaphore>,
    /// Looks at containers that have ended.
    pub(crate) exits: Arc<Semaphore>,
}

impl Turns {
    fn new(config: &Config) -> Self {
        let turns = |count| Arc::new(Semaphore::new(count));
        Self {
            operations: turns(config.operations_parallel),
            boot: turns(config.boot_parallel),
            repairs: turns(config.repair_parallel),
            exits: turns(EXITS_AT_ONCE),
        }
    }

    /// Waits for a turn, which ends when it is dropped.
    pub(crate) async fn take(turns: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
        // Never closed.
        Arc::clone(turns).acquire_owned().await.ok()
    }
}

impl Coordinator {
    /// A coordinator on what `store` holds. Blocks. Inside a runtime.
    ///
    /// # Errors
    /// When the store cannot be read (`HOST_FAILED`), or the node has no name (`BAD_VALUE`).
    pub fn open(
        config: Config,
        services: Services,
        store: Box<dyn Store>,
        clock: Box<dyn Clock>,
    ) -> Result<Self, Fault> {
        let node = match &config.node {
            Some(node) => node.clone(),
            None => fact_of_kernel("hostname").parse().map_err(|e| Fault::bad_value("node", &e))?,
        };
        let turns = Turns::new(&config);
        let defaults = config.defaults.on(ram_of_node());
        let clock: Arc<dyn Clock> = Arc::from(clock);
        let state = State::open(store, &node, Arc::clone(&clock))?;
        let tokens = Registry::open(&state)?;
        let usage = Ledger::open(&state, clock.now_ms())?;
        let inner = Inner {
            config,
            turns,
            queues: Queues::default(),
            metrics: Metrics::new(),
            streams: OpenStreams::new(),
            tokens,
            usage,
            node,
            life: clock.new_id().simple().to_string(),
            clock,
            defaults,
            state,
            services,
            cache: ObservedCache::default(),
            ending: Mutex::default(),
            finishing: Mutex::default(),
            templates: Mutex::default(),
            outbox: Outbox::default(),
            conditions: Conditions::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Who looks at it, and keeps it not alive.
    pub(crate) fn observer(&self) -> Observer {
        Observer(Arc::downgrade(&self.inner))
    }

    /// Its settings.
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// The node's name.
    pub fn node(&self) -> &NodeName {
        &self.inner.node
    }

    /// What stands for this life of the coordinator: what watchers were told in another one is no ground to go on
    /// from.
    pub fn life(&self) -> &str {
        &self.inner.life
    }

    /// The time, and new ids.
    pub fn clock(&self) -> &dyn Clock {
        &*self.inner.clock
    }

    /// The limits of containers that are made without.
    pub fn defaults(&self) -> &DefaultLimits {
        &self.inner.defaults
    }

    /// What is stored.
    pub fn state(&self) -> &State {
        &self.inner.state
    }

    /// The services.
    pub fn services(&self) -> &Services {
        &self.inner.services
    }

    /// What was last seen.
    pub fn cache(&self) -> &ObservedCache {
        &self.inner.cache
    }

    /// The tokens there are.
    pub(crate) fn tokens(&self) -> &Registry {
        &self.inner.tokens
    }

    /// What containers have used.
    pub(crate) fn usage(&self) -> &Ledger {
        &self.inner.usage
    }

    /// How many of each kind of work are done at once.
    pub(crate) fn turns(&self) -> &Turns {
        &self.inner.turns
    }

    /// Who waits for a turn at a container.
    pub(crate) fn queues(&self) -> &Queues {
        &self.inner.queues
    }

    /// What dashboards are told of operations.
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    /// What dashboards are told of sessions and watches.
    pub(crate) fn streams(&self) -> &OpenStreams {
        &self.inner.streams
    }

    /// Events that are to be stored.
    pub(crate) fn outbox(&self) -> &Outbox {
        &self.inner.outbox
    }

    /// The node's conditions as they were seen.
    pub(crate) fn conditions(&self) -> &Conditions {
        &self.inner.conditions
    }

    /// Containers whose end somebody works on.
    fn ending(&self) -> MutexGuard<'_, BTreeSet<CtId>> {
        self.inner.ending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Containers that are half gone and that somebody goes on taking away.
    pub(crate) fn finishing(&self) -> MutexGuard<'_, BTreeSet<CtId>> {
        self.inner.finishing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Templates that storage had when it was asked last, but for those that were deleted since.
    pub(crate) fn templates(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.inner.templates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is stored, on a thread that may block.
    ///
    /// # Errors
    /// As [`State::transact`].
    pub async fn transact<T: Send + 'static>(
        &self,
        decide: impl FnOnce(&Index, &mut Change) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        let own = self.clone();
        blocking(move || own.state().transact(decide)).await
    }

    /// A container by id or name.
    ///
    /// # Errors
    /// `CONTAINER_UNKNOWN`, `BAD_VALUE`, `RECORD_CORRUPT`.
    pub fn resolve(&self, ct: &str) -> Result<Arc<Record>, Fault> {
        self.state().read().resolve(ct).map(Arc::clone)
    }

    /// Whether a container was seen running last.
    pub fn is_running(&self, ct: CtId) -> bool {
        matches!(self.cache().of(ct).process.phase, Phase::Running | Phase::Frozen)
    }

    /// Takes in a look at all four services; watchers hear of damage.
    pub(crate) fn take_in(&self, ct: CtId, seen: &Observed) {
        if self.cache().look(ct, seen) {
            self.state().touch(ct);
        }
    }

    /// Takes a turn at working on the end of a container's processes; false: somebody has it.
    pub(crate) fn begin_ending(&self, ct: CtId) -> bool {
        self.ending().insert(ct)
    }

    /// Whether somebody works on it.
    pub(crate) fn is_ending(&self, ct: CtId) -> bool {
        self.ending().contains(&ct)
    }

    /// Gives the turn back.
    pub(crate) fn end_ending(&self, ct: CtId) {
        self.ending().remove(&ct);
    }
}

/// A word of /proc/sys/kernel, such as its release.
pub fn fact_of_kernel(name: &str) -> String {
    let path = format!("/proc/sys/kernel/{name}");
    std::fs::read_to_string(path).map(|s| s.trim().to_owned()).unwrap_or_default()
}

/// The node's memory, where the kernel tells.
fn ram_of_node() -> Option<Bytes> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = total.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(Bytes(kib.saturating_mul(1024)))
}
