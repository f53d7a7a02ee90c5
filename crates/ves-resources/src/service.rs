//! The shell around the planners: lock, admit, observe, plan, apply, observe. Synchronous; the async
//! world ends in [`crate::api`].
//!
//! What was applied is in the kernel at once, so a failure or a kill at any step needs no repair:
//! the same call again plans what is left.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use ves_daemon::{FenceStore, Locks};
use ves_proto::Fault;
use ves_types::{CtId, Enforcement, Fence, Generation, Limits, UbcResource, UbcRow};

use crate::enforcement::{self, SelfTest};
use crate::error::Error;
use crate::host::Host;
use crate::model::{Observed, Setting};
use crate::observe::FileLocks;
use crate::plan::{Step, plan, plan_shared};
use crate::{rows, target};

/// How often a plan is made again, when its steps did not lead where they should: the parent group
/// can be removed by another program between two steps.
const RETRIES: u32 = 3;

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
    /// The limits as the kernel has them.
    pub limits: Limits,
}

#[derive(Debug)]
struct Inner {
    host: Arc<dyn Host>,
    fences: FenceStore,
    locks: Locks,
    self_test: SelfTest,
    version: &'static str,
    /// Held shared while a container relies on the parent group, alone while it is removed.
    shared: RwLock<()>,
    /// Held while the parent group is made.
    making: Mutex<()>,
    /// The most that was seen of what the kernel does not remember the most of.
    peaks: Mutex<BTreeMap<CtId, BTreeMap<UbcResource, u64>>>,
}

/// The service. Clones share everything.
#[derive(Debug, Clone)]
pub struct Service {
    inner: Arc<Inner>,
}

impl Service {
    /// Makes the parent group, tests what the node can do, and compares what is there with what was
    /// reached before; differences are logged, and repaired by the next `EnsureLimits`.
    pub fn new(host: Arc<dyn Host>, fences: FenceStore) -> Result<Self, Error> {
        let making = Mutex::new(());
        make_shared(&*host, &making).map_err(Error::Node)?;
        let self_test = host.self_test().map_err(Error::Node)?;
        let any = CtId::try_from(CtId::MAX).map_err(|e| {
            Error::Node(ves_host::HostError::parse("the greatest id", &e.to_string()))
        })?;
        let version = host.observe(any).map_err(Error::Node)?.node.version.name();
        let (locks, shared, peaks) = (Locks::default(), RwLock::default(), Mutex::default());
        let inner = Inner { host, fences, locks, self_test, version, shared, making, peaks };
        let service = Self { inner: Arc::new(inner) };
        service.compare();
        service.release();
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

    fn observe(&self, ct: CtId) -> Result<Observed, Error> {
        self.inner.host.observe(ct).map_err(|source| Error::Observe { ct, source })
    }

    fn apply(&self, ct: CtId, step: &Step) -> Result<(), Error> {
        let _span = tracing::info_span!("step", %ct, %step).entered();
        self.inner.host.apply(ct, step).map_err(|source| Error::Step {
            ct,
            step: step.to_string(),
            field: field(step),
            source,
        })
    }

    /// Makes the container's groups exist and hold these limits.
    ///
    /// # Errors
    /// `STALE_…`, `BUSY`, `KERNEL_LACKS`, `NEEDS_RESTART`, `HOST_FAILED`.
    pub fn ensure(&self, fence: &Fence, limits: &Limits) -> Result<Group, Fault> {
        let ct = fence.ct;
        let _held = self.inner.locks.hold(ct, "EnsureLimits")?;
        self.inner.fences.admit(fence)?;
        let _stays = self.inner.shared.read().unwrap_or_else(PoisonError::into_inner);
        let mut tries = 0;
        loop {
            make_shared(&*self.inner.host, &self.inner.making).map_err(Error::Node)?;
            let observed = self.observe(ct)?;
            let steps = plan(ct, Some(limits), &observed).map_err(Error::Refused)?;
            if steps.is_empty() {
                self.inner.fences.accept(fence)?;
                return self.group_of(ct, &observed, self.locks()?.as_ref());
            }
            if tries == RETRIES {
                let steps: Vec<_> = steps.iter().map(ToString::to_string).collect();
                return Err(Error::NotKept { ct, steps: steps.join(", ") }.into());
            }
            tries += 1;
            self.inner.fences.accept(fence)?;
            let applied = steps.iter().try_for_each(|step| self.apply(ct, step));
            // The parent group is shared with everybody who may remove it when it is empty.
            if let Err(e) = applied
                && (tries == RETRIES || !self.shared_is_gone())
            {
                return Err(e.into());
            }
        }
    }

    fn shared_is_gone(&self) -> bool {
        self.inner.host.observe_shared().is_ok_and(|shared| !plan_shared(&shared).is_empty())
    }

    /// Makes the container's groups not exist.
    ///
    /// # Errors
    /// `STALE_…`, `BUSY`, `RUNNING`, `HOST_FAILED`.
    pub fn remove(&self, fence: &Fence) -> Result<(), Fault> {
        let ct = fence.ct;
        let _held = self.inner.locks.hold(ct, "RemoveLimits")?;
        self.inner.fences.admit(fence)?;
        let observed = self.observe(ct)?;
        let steps = plan(ct, None, &observed).map_err(Error::Refused)?;
        self.inner.fences.accept(fence)?;
        steps.iter().try_for_each(|step| self.apply(ct, step))?;
        self.inner.peaks.lock().unwrap_or_else(PoisonError::into_inner).remove(&ct);
        self.inner.fences.forget(ct);
        self.release();
        Ok(())
    }

    /// Removes the parent group if the last container went. One that stays disturbs nobody.
    fn release(&self) {
        let _alone = self.inner.shared.write().unwrap_or_else(PoisonError::into_inner);
        if let Err(e) = self.inner.host.release_shared() {
            tracing::warn!(error = %ves_proto::fault::chain(&e), "leave the parent group");
        }
    }

    /// One container's accounting.
    ///
    /// # Errors
    /// `CONTAINER_UNKNOWN`, `HOST_FAILED`.
    pub fn group(&self, ct: CtId) -> Result<Group, Fault> {
        let observed = self.look(ct)?;
        self.group_of(ct, &observed, self.locks()?.as_ref())
    }

    /// The file locks of the node, which one container may have tens of thousands of: read once for
    /// all that is answered by it.
    fn locks(&self) -> Result<Option<FileLocks>, Error> {
        self.inner.host.locks().map_err(Error::Node)
    }

    fn look(&self, ct: CtId) -> Result<Observed, Error> {
        let observed = self.observe(ct)?;
        if observed.exists() { Ok(observed) } else { Err(Error::Unknown(ct)) }
    }

    fn group_of(
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
        let limits = target::limits_from(ct, wanted, &observed.settings, &observed.node);
        let rows = rows::rows(&usage, wanted.unwrap_or(&limits), &self.inner.self_test);
        let generation = self.inner.fences.generation(ct);
        Ok(Group { ct, generation, rows, cpu_usec: usage.cpu_usec, limits })
    }

    /// All containers' accounting, by id. One that goes meanwhile is left out, and one that cannot be
    /// looked at.
    ///
    /// # Errors
    /// `HOST_FAILED`.
    pub fn groups(&self) -> Result<Vec<Group>, Fault> {
        let containers = self.inner.host.containers().map_err(Error::Node)?;
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

    /// Which control groups the node has, and what each row promises on it.
    pub fn capabilities(&self) -> (&'static str, Vec<(UbcResource, Enforcement)>) {
        let promise = |r| (r, enforcement::enforcement(r, &self.inner.self_test));
        (self.inner.version, UbcResource::ALL.map(promise).into())
    }

    /// What the self-test found out.
    pub fn self_test(&self) -> &SelfTest {
        &self.inner.self_test
    }
}

/// Makes the parent group what it should be.
fn make_shared(host: &dyn Host, making: &Mutex<()>) -> Result<(), ves_host::HostError> {
    let _alone = making.lock().unwrap_or_else(PoisonError::into_inner);
    for step in plan_shared(&host.observe_shared()?) {
        let _span = tracing::info_span!("step", %step).entered();
        host.apply_shared(&step)?;
    }
    Ok(())
}

/// What a step is for, by the request's field.
const fn field(step: &Step) -> Option<&'static str> {
    let Step::Set { setting, .. } = step else { return None };
    Some(match setting {
        Setting::PidsMax => "numproc",
        Setting::MemoryMax | Setting::MemoryHigh => "physpages",
        Setting::MemswMax | Setting::SwapMax => "swappages",
        Setting::TcpMax => "tcpsndbuf",
        Setting::CpuWeight => "cpu_units",
        Setting::CpuPeriod | Setting::CpuQuota | Setting::CpuMax => "cpu_millicpus",
        Setting::Cpus | Setting::Mems => "cpus",
        Setting::MaxDepth | Setting::MaxDescendants => return None,
    })
}

#[cfg(test)]
mod tests;
