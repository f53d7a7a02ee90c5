//! What was last seen of each container, so that a list of ten thousand asks nobody.
//!
//! Fed by lifecycle's stream and by each look a driver takes; lost with the daemon and seen anew.
//! Never the ground of a decision that has effects: those look again.

use std::collections::{BTreeSet, HashMap};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use ves_proto::coordinator as pb;
use ves_types::{Bytes, CtId};

use crate::model::{OpId, Presence, Record, RunState};
use crate::plan::{Observed, Phase, ProcessSeen};
use crate::spec;

/// How long after its start a daemon keeps those waiting who ask before lifecycle has told it who
/// runs. Without lifecycle, nobody runs that can be seen.
const FIRST_LIST: Duration = Duration::from_secs(5);

/// The problem of a container that nobody can do anything with.
const UNRESPONSIVE: &str =
    "its monitor does not answer; stop the container, which ends the monitor too";

/// What was last seen of one container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cached {
    /// Its processes.
    pub process: ProcessSeen,
    /// Whether its volume is mounted.
    pub mounted: bool,
    /// Bytes its files take.
    pub used: Option<Bytes>,
    /// Its processes, counted.
    pub numproc: Option<u64>,
}

/// What was last seen of all.
#[derive(Debug)]
pub struct ObservedCache {
    seen: RwLock<HashMap<CtId, Cached>>,
    /// Whether lifecycle has listed all.
    listed: watch::Sender<bool>,
    since: Instant,
}

impl Default for ObservedCache {
    fn default() -> Self {
        Self { seen: RwLock::default(), listed: watch::Sender::default(), since: Instant::now() }
    }
}

impl ObservedCache {
    /// Lifecycle has listed all.
    pub fn has_list(&self) {
        self.listed.send_replace(true);
    }

    /// Waits until lifecycle has listed all, for a while after the start: before that a container
    /// that runs looks as if it did not.
    pub async fn await_list(&self) {
        let mut listed = self.listed.subscribe();
        let wait = listed.wait_for(|listed| *listed);
        tokio::time::timeout_at(self.since + FIRST_LIST, wait).await.ok(); // then without
    }

    /// One container.
    pub fn of(&self, ct: CtId) -> Cached {
        let seen = self.seen.read().unwrap_or_else(PoisonError::into_inner);
        seen.get(&ct).copied().unwrap_or_default()
    }

    /// Takes in what lifecycle tells. True where that is news.
    pub fn process(&self, ct: CtId, process: ProcessSeen) -> bool {
        let mut seen = self.seen.write().unwrap_or_else(PoisonError::into_inner);
        let old = seen.entry(ct).or_default();
        let news = old.process != process;
        old.process = process;
        news
    }

    /// Takes in a look at all four services. A look that is older than what lifecycle told since
    /// does not count for processes.
    pub fn look(&self, ct: CtId, observed: &Observed) {
        let mut seen = self.seen.write().unwrap_or_else(PoisonError::into_inner);
        let old = seen.entry(ct).or_default();
        if observed.process.incarnation >= old.process.incarnation {
            old.process = observed.process;
        }
        old.mounted = observed.volume.is_some_and(|v| v.mounted);
        old.used = observed.volume.and_then(|v| v.used);
    }

    /// Takes in a list of mounted volumes.
    pub fn volumes(&self, mounted: &HashMap<CtId, Option<Bytes>>) {
        let mut seen = self.seen.write().unwrap_or_else(PoisonError::into_inner);
        for ct in mounted.keys() {
            seen.entry(*ct).or_default();
        }
        for (ct, seen) in seen.iter_mut() {
            let used = mounted.get(ct);
            seen.mounted = used.is_some();
            seen.used = used.copied().flatten();
        }
    }

    /// Takes in one container's count of processes.
    pub fn count(&self, ct: CtId, numproc: Option<u64>) {
        let mut seen = self.seen.write().unwrap_or_else(PoisonError::into_inner);
        seen.entry(ct).or_default().numproc = numproc;
    }

    /// Takes in counts of processes.
    pub fn counts(&self, counts: &HashMap<CtId, u64>) {
        let mut seen = self.seen.write().unwrap_or_else(PoisonError::into_inner);
        for (ct, seen) in seen.iter_mut() {
            seen.numproc = counts.get(ct).copied();
        }
    }

    /// Containers seen with processes that are not in `listed`; they are without any from now on.
    pub fn vanished(&self, listed: &BTreeSet<CtId>) -> Vec<CtId> {
        let mut seen = self.seen.write().unwrap_or_else(PoisonError::into_inner);
        let mut gone = Vec::new();
        for (ct, seen) in seen.iter_mut() {
            if !listed.contains(ct) && seen.process.phase != Phase::Absent {
                seen.process = ProcessSeen::default();
                gone.push(*ct);
            }
        }
        gone
    }

    /// Forgets a container that is gone.
    pub fn forget(&self, ct: CtId) {
        self.seen.write().unwrap_or_else(PoisonError::into_inner).remove(&ct);
    }
}

/// What a container is, from what it should be and what was seen.
pub fn state(record: &Record, seen: &Cached) -> pb::ContainerState {
    match (record.presence, seen.process.phase) {
        (Presence::Creating, _) => pb::ContainerState::Creating,
        (Presence::Deleting, _) => pb::ContainerState::Deleting,
        (Presence::Present, Phase::Frozen) => pb::ContainerState::Paused,
        (Presence::Present, Phase::Running) => pb::ContainerState::Running,
        (Presence::Present, Phase::Absent | Phase::Created) => match () {
            () if record.problem.is_some() => pb::ContainerState::Broken,
            () if seen.mounted || record.run == RunState::Mounted => pb::ContainerState::Mounted,
            () => pb::ContainerState::Stopped,
        },
    }
}

/// A container as the public API shows it.
pub fn render(
    record: &Record,
    seen: &Cached,
    operation: Option<&OpId>,
    node: &str,
) -> pb::Container {
    let running = seen.process.phase == Phase::Running || seen.process.phase == Phase::Frozen;
    pb::Container {
        id: record.id.get(),
        spec: Some(spec::render(&record.spec)),
        state: state(record, seen).into(),
        generation: record.generation.0,
        node: node.to_owned(),
        created_unix: record.created_unix,
        started_unix_ms: seen.process.started_unix_ms.filter(|_| running),
        numproc: seen.numproc.filter(|_| running),
        problem: match &record.problem {
            Some(problem) => problem.message.clone(),
            None if seen.process.unresponsive => UNRESPONSIVE.to_owned(),
            None => String::new(),
        },
        operation: operation.map(|op| op.0.clone()).unwrap_or_default(),
        init_pid: seen.process.init_pid.filter(|_| running),
        disk_used_bytes: seen.used.map(|b| b.0).filter(|_| seen.mounted),
        running_spec: record.running.as_ref().map(spec::render),
    }
}
