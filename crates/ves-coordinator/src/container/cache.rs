//! What was last seen of each container, so that a list of ten thousand asks nobody.
//!
//! Fed by lifecycle's stream and by each look a driver takes; lost with the daemon and seen anew.
//! Never the ground of a decision that has effects: those look again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use ves_types::{Bytes, CtId, Phase, Victim};

use super::observed::{Observed, ProcessSeen};

/// How long after its start a daemon keeps those waiting who ask before lifecycle has told it who
/// runs. Without lifecycle, nobody runs that can be seen.
const FIRST_LIST: Duration = Duration::from_secs(5);

/// What was last seen of one container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cached {
    /// Its processes.
    pub process: ProcessSeen,
    /// Whether its volume is mounted.
    pub mounted: bool,
    /// Bytes its files take.
    pub used: Option<Bytes>,
    /// How many errors the kernel has met in its file system, if any.
    pub damage: Option<u32>,
    /// Its processes, counted.
    pub numproc: Option<u64>,
    /// How many of its processes were killed because memory ran out, in its last run.
    pub oom_kills: Option<u64>,
    /// The last of these, the newest last, as far as they are known.
    pub oom_victims: Vec<Victim>,
}

/// What was last seen of all.
#[derive(Debug)]
pub struct ObservedCache {
    seen: RwLock<HashMap<CtId, Cached>>,
    /// What services showed of containers that have no record.
    unknown: RwLock<BTreeMap<CtId, Vec<&'static str>>>,
    /// Whether lifecycle has listed all.
    listed: watch::Sender<bool>,
    since: Instant,
}

impl Default for ObservedCache {
    fn default() -> Self {
        let (seen, unknown) = (RwLock::default(), RwLock::default());
        Self { seen, unknown, listed: watch::Sender::default(), since: Instant::now() }
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
        seen.get(&ct).cloned().unwrap_or_default()
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
    /// does not count for processes. True where it shows other damage than before.
    pub fn look(&self, ct: CtId, observed: &Observed) -> bool {
        let mut seen = self.seen.write().unwrap_or_else(PoisonError::into_inner);
        let old = seen.entry(ct).or_default();
        let (new, known) = (observed.process, old.process);
        if new.incarnation >= known.incarnation {
            // What a run has said once it does not take back.
            let same = (new.incarnation, new.init_pid) == (known.incarnation, known.init_pid);
            old.process = ProcessSeen { booted: new.booted || (same && known.booted), ..new };
        }
        old.mounted = observed.volume.is_some_and(|v| v.mounted);
        old.used = observed.volume.and_then(|v| v.used);
        let damage = observed.volume.and_then(|v| v.damage);
        std::mem::replace(&mut old.damage, damage) != damage
    }

    /// Takes in what storage tells of damage. True where that is news.
    pub fn damage(&self, ct: CtId, damage: Option<u32>) -> bool {
        let mut seen = self.seen.write().unwrap_or_else(PoisonError::into_inner);
        let old = seen.entry(ct).or_default();
        std::mem::replace(&mut old.damage, damage) != damage
    }

    /// Takes in how many of its processes were killed because memory ran out, and the last of them. True where
    /// those are more than were known: a run begins with none, and what is known of the last one stays until
    /// then.
    pub fn oom_kills(&self, ct: CtId, kills: Option<u64>, victims: Vec<Victim>) -> bool {
        let Some(kills) = kills else { return false };
        let mut seen = self.seen.write().unwrap_or_else(PoisonError::into_inner);
        let seen = seen.entry(ct).or_default();
        seen.oom_victims = victims;
        let kills = (kills > 0).then_some(kills);
        std::mem::replace(&mut seen.oom_kills, kills) < kills
    }

    /// Takes in which of `cts` have mounted volumes.
    pub fn volumes(&self, cts: &BTreeSet<CtId>, mounted: &HashMap<CtId, Option<Bytes>>) {
        let mut seen = self.seen.write().unwrap_or_else(PoisonError::into_inner);
        for ct in cts {
            let used = mounted.get(ct);
            let seen = seen.entry(*ct).or_default();
            seen.mounted = used.is_some();
            seen.used = used.copied().flatten();
        }
    }

    /// Takes in one container's count of processes.
    pub fn count(&self, ct: CtId, numproc: Option<u64>) {
        let mut seen = self.seen.write().unwrap_or_else(PoisonError::into_inner);
        seen.entry(ct).or_default().numproc = numproc;
    }

    /// Takes in counts of processes of `cts`.
    pub fn counts(&self, cts: &BTreeSet<CtId>, counts: &HashMap<CtId, u64>) {
        let mut seen = self.seen.write().unwrap_or_else(PoisonError::into_inner);
        for ct in cts {
            seen.entry(*ct).or_default().numproc = counts.get(ct).copied();
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

    /// Takes in what services show of containers that have no record.
    pub fn set_unknown(&self, unknown: BTreeMap<CtId, Vec<&'static str>>) {
        *self.unknown.write().unwrap_or_else(PoisonError::into_inner) = unknown;
    }

    /// What services showed of containers that have no record.
    pub fn unknown(&self) -> BTreeMap<CtId, Vec<&'static str>> {
        self.unknown.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Forgets a container that is gone.
    pub fn forget(&self, ct: CtId) {
        self.seen.write().unwrap_or_else(PoisonError::into_inner).remove(&ct);
        self.unknown.write().unwrap_or_else(PoisonError::into_inner).remove(&ct);
    }
}
