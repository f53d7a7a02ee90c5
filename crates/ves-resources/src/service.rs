//! What of the service is no change of a container: what is only looked at, and the start. Changes are in
//! `converge.rs`. Synchronous; the async world ends in [`crate::api`].
//!
//! What was applied is in the kernel at once, so a failure or a kill at any step needs no repair:
//! the same call again plans what is left.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use ves_daemon::Shell;
use ves_host::cgroup::Version;
use ves_proto::Fault;
use ves_types::{Bytes, CtId, Enforcement, Generation, Limit, Limits, UbcResource, UbcRow, Victim};

use crate::counters::{Metered, Used};
use crate::enforcement::{self, SelfTest};
use crate::error::Error;
use crate::host::Host;
use crate::model::{Cap, Device, Home, Observed, Setting};
use crate::observe::FileLocks;
use crate::parent::Parent;
use crate::plan::{plan, plan_shared};
use crate::rows::Usage;
use crate::victims::Victims;
use crate::{rows, target};

/// A container's groups, as the API shows them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// The container.
    pub ct: CtId,
    /// The last accepted generation.
    pub generation: Generation,
    /// All 21 rows.
    pub rows: Vec<UbcRow>,
    /// Processor time used, in microseconds.
    pub cpu_usec: u64,
    /// Processes killed because memory ran out, where the kernel tells.
    pub oom_kills: Option<u64>,
    /// The last of these, the newest last, as far as they are known.
    pub oom_victims: Vec<Victim>,
    /// The limits as the kernel has them.
    pub limits: Limits,
    /// The device they are about, as far as they bound disk traffic.
    pub device: Option<Device>,
    /// What the counters say, where somebody asked for that and they could be read.
    pub used: Option<Used>,
}

/// What all clones of a service share.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) host: Arc<dyn Host>,
    pub(crate) shell: Shell,
    pub(crate) parent: Arc<Parent>,
    self_test: SelfTest,
    version: Version,
    /// The settings the node has, as they are seen while the parent group is there.
    pub(crate) settings: BTreeMap<Setting, Home>,
    /// The most that was seen of what the kernel does not remember the most of.
    peaks: Mutex<BTreeMap<CtId, BTreeMap<UbcResource, u64>>>,
    /// Who was killed because memory ran out.
    victims: Mutex<Victims>,
}

/// The service. Clones share everything.
#[derive(Debug, Clone)]
pub struct Service {
    pub(crate) inner: Arc<Inner>,
}

impl Service {
    /// Makes the parent group, tests what the node can do, and compares what is there with what was
    /// reached before; differences are logged, and repaired by the next `EnsureLimits`.
    pub fn new(host: Arc<dyn Host>, shell: Shell) -> Result<Self, Error> {
        let parent = Parent::new(Arc::clone(&host));
        for step in plan_shared(&parent.observe()?) {
            let kind = format!("Shared{}", ves_daemon::converge::variant(&step));
            shell.step(None, &kind, &step, || parent.apply(&step))?;
        }
        let self_test = host.self_test().map_err(Error::Node)?;
        let any = CtId::try_from(CtId::MAX).map_err(|e| {
            Error::Node(ves_host::HostError::parse("the greatest id", &e.to_string()))
        })?;
        let node = host.observe(any).map_err(Error::Node)?.node;
        let (version, settings) = (node.version, node.settings);
        let (peaks, victims) = (Mutex::default(), Mutex::default());
        let inner = Inner { host, shell, parent, self_test, version, settings, peaks, victims };
        let service = Self { inner: Arc::new(inner) };
        service.compare();
        service.inner.parent.release();
        Ok(service)
    }

    /// Logs every container whose groups are not what was reached for it.
    fn compare(&self) {
        let host = &*self.inner.host;
        let containers = host.containers().unwrap_or_default();
        tracing::info!(count = containers.len(), "containers with control groups");
        for ct in containers {
            let Ok(observed) = host.observe(ct) else { continue };
            let Some(record) = &observed.record else {
                tracing::warn!(%ct, "control groups without a record of what they should be");
                continue;
            };
            match plan(ct, Some(record), &observed) {
                Ok(steps) if steps.is_empty() => {}
                Ok(steps) => {
                    let steps: Vec<_> = steps.iter().map(ToString::to_string).collect();
                    tracing::warn!(%ct, ?steps, "limits differ from what was reached");
                }
                Err(refusal) => tracing::warn!(%ct, %refusal, "limits cannot be kept"),
            }
        }
    }

    pub(crate) fn observe(&self, ct: CtId) -> Result<Observed, Error> {
        self.inner.host.observe(ct).map_err(|source| Error::Observe { ct, source })
    }

    /// Forgets the most that was seen of a container.
    pub(crate) fn forget_peaks(&self, ct: CtId) {
        self.inner.peaks.lock().unwrap_or_else(PoisonError::into_inner).remove(&ct);
    }

    #[cfg(any(test, feature = "fake"))]
    pub(crate) fn shell(&self) -> &Shell {
        &self.inner.shell
    }

    /// One container's accounting.
    ///
    /// # Errors
    /// `CONTAINER_UNKNOWN`, `HOST_FAILED`.
    pub fn group(&self, ct: CtId) -> Result<Group, Fault> {
        let observed = self.look(ct)?;
        self.group_of(ct, &observed, self.locks()?.as_ref())
    }

    /// What a container's counters say now; `None` where it has none, or they cannot be read.
    pub(crate) fn used_now(&self, ct: CtId) -> Option<Used> {
        match self.inner.host.metered(ct) {
            Ok(metered) => (!metered.is_nothing()).then(|| self.used_by(ct, metered)),
            Err(e) => {
                let error = ves_proto::fault::chain(&e);
                tracing::warn!(%ct, error, "what it uses cannot be read");
                None
            }
        }
    }

    /// The file locks of the node, which one container may have tens of thousands of: read for
    /// accounting only, and once for all that is answered by it.
    fn locks(&self) -> Result<Option<FileLocks>, Error> {
        self.inner.host.locks().map_err(Error::Node)
    }

    fn look(&self, ct: CtId) -> Result<Observed, Error> {
        let observed = self.observe(ct)?;
        if observed.exists() { Ok(observed) } else { Err(Error::Unknown(ct)) }
    }

    pub(crate) fn group_of(
        &self,
        ct: CtId,
        observed: &Observed,
        locks: Option<&FileLocks>,
    ) -> Result<Group, Fault> {
        let host = &*self.inner.host;
        let mut usage = host.usage(ct, locks).map_err(|source| Error::Observe { ct, source })?;
        {
            let mut peaks = self.inner.peaks.lock().unwrap_or_else(PoisonError::into_inner);
            usage.remember(peaks.entry(ct).or_default());
        }
        let wanted = observed.record.as_ref();
        let limits =
            target::limits_from(ct, wanted, &observed.settings, &observed.node, observed.device);
        let rows = rows::rows(&usage, wanted.unwrap_or(&limits), &self.inner.self_test);
        let generation = self.inner.shell.generation(ct);
        let Usage { cpu_usec, oom_kills, counts: _ } = usage;
        let oom_victims = match oom_kills {
            Some(kills) if kills > 0 => self.with_victims(|victims| victims.count(ct, kills)),
            _ => Vec::new(),
        };
        let device = observed.device;
        let used = None;
        Ok(Group { ct, generation, rows, cpu_usec, oom_kills, oom_victims, limits, device, used })
    }

    /// The accounting of `cts`, or of all where none are named, by id. One that is not there is left out,
    /// and one that cannot be looked at.
    ///
    /// # Errors
    /// `HOST_FAILED`.
    pub fn groups(&self, cts: &[CtId]) -> Result<Vec<Group>, Fault> {
        let containers = match cts {
            [] => self.inner.host.containers().map_err(Error::Node)?,
            cts => cts.to_vec(),
        };
        let (mut groups, locks) = (Vec::new(), self.locks()?);
        for ct in containers {
            let observed = self.look(ct).map_err(Fault::from);
            match observed.and_then(|o| self.group_of(ct, &o, locks.as_ref())) {
                Ok(group) => groups.push(group),
                Err(fault) if fault.reason == ves_proto::Reason::ContainerUnknown => {}
                Err(fault) => {
                    tracing::warn!(%ct, error = %fault, "left out of the list of groups");
                }
            }
        }
        Ok(groups)
    }

    /// What each container uses, by id, as controllers count it. One that is not there is left out, and one
    /// that cannot be looked at.
    ///
    /// # Errors
    /// `HOST_FAILED`.
    pub fn used(&self) -> Result<Vec<Used>, Fault> {
        let containers = self.inner.host.containers().map_err(Error::Node)?;
        Ok(containers.into_iter().filter_map(|ct| self.used_now(ct)).collect())
    }

    fn used_by(&self, ct: CtId, metered: Metered) -> Used {
        let Metered { wanted, usage, counters, life } = metered;
        let swap = usage.counts.get(&UbcResource::Swappages);
        let swap = swap.map(|count| count.held.saturating_mul(Bytes::PAGE));
        let rows = rows::rows(&usage, &wanted.unwrap_or_default(), &self.inner.self_test);
        let kept =
            |row: &UbcRow| matches!(row.enforcement, Enforcement::Hard | Enforcement::Bounded);
        let rows = rows.into_iter().filter(kept).collect();
        Used { ct, rows, oom_kills: usage.oom_kills, swap, life, counters }
    }

    /// How many processes of each container were killed because memory ran out, and the last of them.
    ///
    /// # Errors
    /// `HOST_FAILED`.
    pub fn oom_kills(&self) -> Result<BTreeMap<CtId, (u64, Vec<Victim>)>, Fault> {
        let counts = self.inner.host.oom_kills().map_err(Error::Node)?;
        Ok(self.with_victims(|victims| {
            let all = counts.iter().map(|(ct, n)| (*ct, (*n, victims.count(*ct, *n)))).collect();
            victims.retain(&counts);
            all
        }))
    }

    /// Matches what was counted with what the log has named by now.
    fn with_victims<T>(&self, work: impl FnOnce(&mut Victims) -> T) -> T {
        let mut victims = self.inner.victims.lock().unwrap_or_else(PoisonError::into_inner);
        match self.inner.host.victims() {
            Ok(named) => victims.hear(named),
            // What is counted stands without names.
            Err(e) => {
                tracing::warn!(error = ves_proto::fault::chain(&e), "cannot read who was killed")
            }
        }
        work(&mut victims)
    }

    /// Which control groups the node has, and what each row promises on it.
    pub fn capabilities(&self) -> (Version, Vec<(UbcResource, Enforcement)>) {
        let promise = |r| (r, enforcement::enforcement(r, &self.inner.self_test));
        (self.inner.version, UbcResource::ALL.map(promise).into())
    }

    /// How far limits that are no parameters are kept: field, enforcement, and what cannot be.
    ///
    /// # Errors
    /// `HOST_FAILED`.
    pub fn promises(&self) -> Result<Vec<(&'static str, Enforcement, String)>, Fault> {
        let shares = self.inner.host.shares_disks().map_err(Error::Node)?;
        Ok(enforcement::promises(&self.inner.settings, shares))
    }

    /// What bounds all containers together: how much the node has, and the most that they get, by
    /// setting. The bound is as it will be where there is no container yet.
    ///
    /// # Errors
    /// `HOST_FAILED`.
    pub fn bounds(&self) -> Result<BTreeMap<Setting, (u64, Option<u64>)>, Fault> {
        let shared = self.inner.parent.observe()?;
        let bound = |(setting, cap): (&Setting, &Cap)| {
            let most = match cap.limit {
                Limit::Unlimited if shared.made.is_empty() => Some(cap.bound(*setting)),
                limit => limit.max(),
            };
            (*setting, (cap.total, most))
        };
        Ok(shared.caps.iter().map(bound).collect())
    }

    /// What the self-test found out.
    pub fn self_test(&self) -> &SelfTest {
        &self.inner.self_test
    }
}

#[cfg(test)]
mod tests;
