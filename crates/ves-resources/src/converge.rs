//! The kinds of changes, as [`ves_daemon::converge`] takes them: what is looked at, which planners
//! plan, what is answered.
//!
//! The parent group is shared with everybody who may remove it when it is empty, between two steps too:
//! so what was done is looked at and planned again until nothing is left to do.
//!
//! Never here: decisions, how anything is done, locks of containers, fences, spans.

use std::fmt;

use ves_daemon::converge::{Planned, variant};
use ves_daemon::{Call, Done};
use ves_proto::Fault;
use ves_types::{CtId, Limits};

use crate::counters::Used;
use crate::error::Error;
use crate::model::{Device, Observed, Setting, Shared};
use crate::parent::Relies;
use crate::plan::{self, SharedStep, plan, plan_shared};
use crate::service::{Group, Service};

/// A change to the parent group or to a container's own.
#[derive(Debug)]
pub(crate) enum Step {
    Shared(SharedStep),
    Own(plan::Step),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shared(step) => fmt::Display::fmt(step, f),
            Self::Own(step) => fmt::Display::fmt(step, f),
        }
    }
}

impl Step {
    fn kind(&self) -> String {
        match self {
            Self::Shared(step) => format!("Shared{}", variant(step)),
            Self::Own(step) => variant(step),
        }
    }
}

fn apply(service: &Service, ct: CtId, step: &Step) -> Result<(), Fault> {
    match step {
        Step::Shared(step) => service.inner.parent.apply(step)?,
        Step::Own(own) => service.inner.host.apply(ct, own).map_err(|source| Error::Step {
            ct,
            step: step.to_string(),
            field: field(own),
            source,
        })?,
    }
    Ok(())
}

/// Makes a container's groups exist and hold these limits.
pub(crate) struct EnsureLimits {
    pub(crate) service: Service,
    pub(crate) ct: CtId,
    pub(crate) limits: Limits,
    /// The device of its volume, where it was told.
    pub(crate) device: Option<Device>,
    /// From the first look on.
    pub(crate) relies: Option<Relies>,
    /// Whether the parent group could not be changed, which trying again does not help.
    pub(crate) stuck: bool,
}

impl Planned for EnsureLimits {
    const RPC: &'static str = "EnsureLimits";
    const ATTEMPTS: u32 = 3;
    type Observed = (Shared, Observed);
    type Step = Step;
    type Answer = Group;

    fn observe(&mut self) -> Result<Self::Observed, Fault> {
        let parent = &self.service.inner.parent;
        self.relies.get_or_insert_with(|| parent.rely());
        let mut own = self.service.observe(self.ct)?;
        own.device = self.device.or(own.device);
        Ok((parent.observe()?, own))
    }

    fn plan(&mut self, (shared, own): &Self::Observed) -> Result<Vec<Step>, Fault> {
        let mut steps: Vec<_> = plan_shared(shared).into_iter().map(Step::Shared).collect();
        let planned = if steps.is_empty() {
            plan(self.ct, Some(&self.limits), own)
        } else {
            // Without the whole parent group it cannot be seen which settings the node has.
            let mut own = own.clone();
            own.node.settings.clone_from(&self.service.inner.settings);
            plan(self.ct, Some(&self.limits), &own)
        };
        steps.extend(planned.map_err(Error::Refused)?.into_iter().map(Step::Own));
        Ok(steps)
    }

    fn apply(&mut self, _: &mut Self::Observed, step: &Step) -> Result<(), Fault> {
        let applied = apply(&self.service, self.ct, step);
        self.stuck |= applied.is_err() && matches!(step, Step::Shared(_));
        applied
    }

    fn again(&self) -> bool {
        let parent = &self.service.inner.parent;
        !self.stuck && parent.observe().is_ok_and(|shared| !plan_shared(&shared).is_empty())
    }

    fn answer(&mut self, (_, own): Self::Observed, _: bool) -> Result<Group, Fault> {
        // Without the file locks: to read those of the whole node is for who asks what is used.
        self.service.group_of(self.ct, &own, None)
    }

    fn kind(step: &Step) -> String {
        step.kind()
    }
}

/// Makes a container's groups not exist.
pub(crate) struct RemoveLimits {
    pub(crate) service: Service,
    pub(crate) ct: CtId,
    /// What they had counted before the first of them went.
    pub(crate) last: Option<Used>,
}

impl Planned for RemoveLimits {
    const RPC: &'static str = "RemoveLimits";
    type Observed = Observed;
    type Step = Step;
    type Answer = Option<Used>;

    fn observe(&mut self) -> Result<Observed, Fault> {
        Ok(self.service.observe(self.ct)?)
    }

    fn plan(&mut self, observed: &Observed) -> Result<Vec<Step>, Fault> {
        let steps = plan(self.ct, None, observed).map_err(Error::Refused)?;
        Ok(steps.into_iter().map(Step::Own).collect())
    }

    fn removes(&self, _: &Observed) -> bool {
        true
    }

    fn apply(&mut self, _: &mut Observed, step: &Step) -> Result<(), Fault> {
        // Once: what a part of them still tells afterwards is less.
        if self.last.is_none() {
            self.last = self.service.used_now(self.ct);
        }
        apply(&self.service, self.ct, step)
    }

    fn answer(&mut self, _: Observed, _: bool) -> Result<Option<Used>, Fault> {
        self.service.forget_peaks(self.ct);
        self.service.inner.parent.release();
        Ok(self.last.take())
    }

    fn kind(step: &Step) -> String {
        step.kind()
    }
}

/// What a step is for, by the request's field.
const fn field(step: &plan::Step) -> Option<&'static str> {
    let plan::Step::Set { setting, .. } = step else { return None };
    Some(match setting {
        Setting::PidsMax => "numproc",
        Setting::MemoryMax | Setting::MemoryHigh => "physpages",
        Setting::MemswMax | Setting::SwapMax => "swappages",
        Setting::TcpMax => "tcpsndbuf",
        Setting::CpuWeight => "cpu_units",
        Setting::CpuPeriod | Setting::CpuQuota | Setting::CpuMax => "cpu_millicpus",
        Setting::Cpus | Setting::Mems => "cpus",
        Setting::IoReadBps | Setting::IoWriteBps => "io_bps",
        Setting::IoReadIops | Setting::IoWriteIops => "io_iops",
        Setting::BfqWeight | Setting::CostWeight => "io_priority",
        Setting::MaxDepth | Setting::MaxDescendants => return None,
    })
}

impl Service {
    pub(crate) fn ensuring(
        &self,
        ct: CtId,
        limits: Limits,
        device: Option<Device>,
    ) -> EnsureLimits {
        EnsureLimits { service: self.clone(), ct, limits, device, relies: None, stuck: false }
    }

    pub(crate) fn removing(&self, ct: CtId) -> RemoveLimits {
        RemoveLimits { service: self.clone(), ct, last: None }
    }

    /// Makes the container's groups exist and hold these limits; of disk traffic, those with this device.
    ///
    /// # Errors
    /// `STALE_…`, `BUSY`, `KERNEL_LACKS`, `NEEDS_RESTART`, `HOST_FAILED`.
    pub async fn ensure(
        &self,
        call: Call,
        limits: Limits,
        device: Option<Device>,
    ) -> Result<Done<Group>, Fault> {
        self.inner.shell.converge(call, self.ensuring(call.fence.ct, limits, device)).await
    }

    /// Makes the container's groups not exist; answers with what they had counted.
    ///
    /// # Errors
    /// `STALE_…`, `BUSY`, `RUNNING`, `HOST_FAILED`.
    pub async fn remove(&self, call: Call) -> Result<Done<Option<Used>>, Fault> {
        self.inner.shell.converge(call, self.removing(call.fence.ct)).await
    }
}
