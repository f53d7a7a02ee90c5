//! The kinds of changes, as [`ves_daemon::converge`] takes them: what is looked at, which planner
//! plans, what is promised meanwhile, what is answered.
//!
//! Never here: decisions, how anything is done, locks, fences, spans.

use ves_daemon::converge::Planned;
use ves_daemon::{Call, Done};
use ves_proto::Fault;
use ves_types::{CtId, Fence, SnapshotId, TemplateName};

use crate::plan::{self, Desired, Image, Observed, Refusal, Reverted, Step, snapshot};
use crate::service::{Service, Snapshot, Volume, observing, unknown};
use crate::template::InUse;

/// One container's share of the host for the time of one call; with it goes what it was promised.
#[derive(Debug)]
pub(crate) struct Pool {
    service: Service,
    ct: CtId,
    promised: bool,
}

impl Drop for Pool {
    fn drop(&mut self) {
        if self.promised {
            self.service.promises.table().remove(&self.ct);
        }
    }
}

impl Pool {
    pub(crate) const fn new(service: Service, ct: CtId) -> Self {
        Self { service, ct, promised: false }
    }

    fn observe(&self, template: Option<&TemplateName>) -> Result<Observed, Fault> {
        self.service.host.observe(self.ct, template).map_err(|e| observing(&e))
    }

    fn refuse(&self, refusal: &Refusal) -> Fault {
        refusal.fault(self.ct)
    }

    fn apply(&self, step: &Step) -> Result<(), Fault> {
        let ct = self.ct;
        // With these the host begins to count what was only promised: in one go, so that nobody
        // counts it twice.
        let counted =
            matches!(step, Step::Publish | Step::Enlarge { .. } | Step::PublishSnapshot { .. });
        let promised = counted.then(|| self.service.promises.table());
        let done = self.service.host.apply(ct, step);
        if let (Some(mut promised), Ok(())) = (promised, &done) {
            promised.remove(&ct);
        }
        done.map_err(|e| {
            let fault = e.fault(&step.to_string());
            let message = format!("container {ct}: {step}: {}", fault.message);
            Fault { message, ..fault }.fact("ct", ct)
        })
    }
}

/// What takes room of the pool, and is promised it before.
trait Reserves: Planned<Observed = Observed, Step = Step> {
    fn pool(&mut self) -> &mut Pool;

    /// The bytes a plan will take.
    fn takes(&self, observed: &Observed, steps: &[Step]) -> u64;

    /// Looks and plans so that two calls cannot be promised the same room: what others have been
    /// promised is counted, and what the plan will take is promised, while nobody else does either. Held
    /// while the pool is looked at, not while anything is done to it.
    fn reserve(&mut self) -> Result<(Observed, Vec<Step>), Fault> {
        let promises = self.pool().service.promises.clone();
        let mut table = promises.table();
        let mut observed = self.observe()?;
        let others: u64 = table.values().sum();
        observed.pool.promised = observed.pool.promised.saturating_add(others);
        let steps = self.plan(&observed)?;
        let takes = self.takes(&observed, &steps);
        let pool = self.pool();
        table.insert(pool.ct, takes);
        pool.promised = true;
        Ok((observed, steps))
    }
}

/// Makes a volume what it should be.
#[derive(Debug)]
pub(crate) struct EnsureVolume {
    pub(crate) pool: Pool,
    pub(crate) desired: Desired,
    /// Keeps the template while it is copied.
    pub(crate) reading: Option<InUse>,
}

impl Planned for EnsureVolume {
    const RPC: &'static str = "EnsureVolume";
    type Observed = Observed;
    type Step = Step;
    type Answer = Volume;

    fn observe(&mut self) -> Result<Observed, Fault> {
        self.pool.observe(Some(&self.desired.template))
    }

    fn plan(&mut self, observed: &Observed) -> Result<Vec<Step>, Fault> {
        if observed.image == Image::Absent && observed.template.is_some() {
            self.reading = Some(self.pool.service.uses.read(&self.desired.template)?);
        }
        plan::plan_ensure(&self.desired, observed).map_err(|r| self.pool.refuse(&r))
    }

    fn decide(&mut self) -> Result<(Observed, Vec<Step>), Fault> {
        self.reserve()
    }

    fn apply(&mut self, _: &mut Observed, step: &Step) -> Result<(), Fault> {
        self.pool.apply(step)
    }

    fn ended(&mut self) {
        self.reading = None;
    }

    fn answer(&mut self, _: Observed, _: bool) -> Result<Volume, Fault> {
        let Pool { service, ct, .. } = &self.pool;
        service.look(*ct)?.ok_or_else(|| unknown(*ct))
    }
}

impl Reserves for EnsureVolume {
    fn pool(&mut self) -> &mut Pool {
        &mut self.pool
    }

    fn takes(&self, observed: &Observed, _: &[Step]) -> u64 {
        let have = match &observed.image {
            Image::Ours { bytes, .. } => *bytes,
            Image::Absent | Image::Foreign(_) => 0,
        };
        self.desired.bytes.saturating_sub(have)
    }
}

/// Makes a volume and its snapshots not exist.
#[derive(Debug)]
pub(crate) struct RemoveVolume {
    pub(crate) pool: Pool,
}

impl Planned for RemoveVolume {
    const RPC: &'static str = "RemoveVolume";
    type Observed = Observed;
    type Step = Step;
    type Answer = ();

    fn observe(&mut self) -> Result<Observed, Fault> {
        self.pool.observe(None)
    }

    fn plan(&mut self, observed: &Observed) -> Result<Vec<Step>, Fault> {
        plan::plan_remove(observed).map_err(|r| self.pool.refuse(&r))
    }

    fn removes(&self, _: &Observed) -> bool {
        true
    }

    fn apply(&mut self, _: &mut Observed, step: &Step) -> Result<(), Fault> {
        self.pool.apply(step)
    }

    fn answer(&mut self, _: Observed, _: bool) -> Result<(), Fault> {
        Ok(())
    }
}

/// Makes a snapshot exist.
#[derive(Debug)]
pub(crate) struct EnsureSnapshot {
    pub(crate) pool: Pool,
    pub(crate) desired: snapshot::Desired,
}

impl Planned for EnsureSnapshot {
    const RPC: &'static str = "EnsureSnapshot";
    type Observed = Observed;
    type Step = Step;
    type Answer = Snapshot;

    fn observe(&mut self) -> Result<Observed, Fault> {
        self.pool.observe(None)
    }

    fn plan(&mut self, observed: &Observed) -> Result<Vec<Step>, Fault> {
        snapshot::plan_ensure(&self.desired, observed).map_err(|r| self.pool.refuse(&r))
    }

    fn decide(&mut self) -> Result<(Observed, Vec<Step>), Fault> {
        self.reserve()
    }

    fn apply(&mut self, _: &mut Observed, step: &Step) -> Result<(), Fault> {
        self.pool.apply(step)
    }

    fn answer(&mut self, _: Observed, _: bool) -> Result<Snapshot, Fault> {
        let all = self.pool.service.snapshots(self.pool.ct, false)?;
        let id = self.desired.id;
        let found = all.into_iter().find(|s| s.id == id);
        found.ok_or_else(|| self.pool.refuse(&Refusal::SnapshotUnknown(id)))
    }
}

impl Reserves for EnsureSnapshot {
    fn pool(&mut self) -> &mut Pool {
        &mut self.pool
    }

    fn takes(&self, observed: &Observed, steps: &[Step]) -> u64 {
        let taken = steps.iter().any(|s| matches!(s, Step::TakeSnapshot { .. }));
        if taken { observed.allocated } else { 0 }
    }
}

/// Makes a snapshot not exist.
#[derive(Debug)]
pub(crate) struct RemoveSnapshot {
    pub(crate) pool: Pool,
    pub(crate) id: SnapshotId,
}

impl Planned for RemoveSnapshot {
    const RPC: &'static str = "RemoveSnapshot";
    type Observed = Observed;
    type Step = Step;
    type Answer = ();

    fn observe(&mut self) -> Result<Observed, Fault> {
        self.pool.observe(None)
    }

    fn plan(&mut self, observed: &Observed) -> Result<Vec<Step>, Fault> {
        Ok(snapshot::plan_remove(self.id, observed))
    }

    fn removes(&self, observed: &Observed) -> bool {
        observed.image == Image::Absent
    }

    fn apply(&mut self, _: &mut Observed, step: &Step) -> Result<(), Fault> {
        self.pool.apply(step)
    }

    fn answer(&mut self, _: Observed, _: bool) -> Result<(), Fault> {
        Ok(())
    }
}

/// Makes a volume hold what a snapshot holds, once for each decision.
#[derive(Debug)]
pub(crate) struct RevertVolume {
    pub(crate) pool: Pool,
    pub(crate) to: Reverted,
}

impl Planned for RevertVolume {
    const RPC: &'static str = "RevertVolume";
    type Observed = Observed;
    type Step = Step;
    type Answer = Volume;

    fn observe(&mut self) -> Result<Observed, Fault> {
        self.pool.observe(None)
    }

    fn plan(&mut self, observed: &Observed) -> Result<Vec<Step>, Fault> {
        snapshot::plan_revert(self.to, observed).map_err(|r| self.pool.refuse(&r))
    }

    fn apply(&mut self, _: &mut Observed, step: &Step) -> Result<(), Fault> {
        self.pool.apply(step)
    }

    fn answer(&mut self, _: Observed, _: bool) -> Result<Volume, Fault> {
        self.pool.service.get(self.pool.ct)
    }
}

impl Service {
    fn pool_for(&self, ct: CtId) -> Pool {
        Pool::new(self.clone(), ct)
    }

    pub(crate) fn ensuring(&self, ct: CtId, desired: Desired) -> EnsureVolume {
        EnsureVolume { pool: self.pool_for(ct), desired, reading: None }
    }

    pub(crate) fn removing(&self, ct: CtId) -> RemoveVolume {
        RemoveVolume { pool: self.pool_for(ct) }
    }

    pub(crate) fn ensuring_snapshot(&self, ct: CtId, desired: snapshot::Desired) -> EnsureSnapshot {
        EnsureSnapshot { pool: self.pool_for(ct), desired }
    }

    pub(crate) fn removing_snapshot(&self, ct: CtId, id: SnapshotId) -> RemoveSnapshot {
        RemoveSnapshot { pool: self.pool_for(ct), id }
    }

    pub(crate) fn reverting(&self, fence: &Fence, id: SnapshotId) -> RevertVolume {
        let to = Reverted { snapshot: id, generation: fence.generation };
        RevertVolume { pool: self.pool_for(fence.ct), to }
    }

    /// Makes a volume what it should be.
    ///
    /// # Errors
    /// `BUSY`, a stale fence, the planner's refusal, or what failed on the host.
    pub async fn ensure(&self, call: Call, desired: Desired) -> Result<Done<Volume>, Fault> {
        self.shell.converge(call, self.ensuring(call.fence.ct, desired)).await
    }

    /// Makes a volume and its snapshots not exist.
    ///
    /// # Errors
    /// `BUSY`, a stale fence, `FOREIGN_CONTENTS`, `MOUNTED`, or what failed on the host.
    pub async fn remove(&self, call: Call) -> Result<Done<()>, Fault> {
        self.shell.converge(call, self.removing(call.fence.ct)).await
    }

    /// Makes a snapshot exist.
    ///
    /// # Errors
    /// `BUSY`, a stale fence, the planner's refusal, or what failed on the host.
    pub async fn ensure_snapshot(
        &self,
        call: Call,
        desired: snapshot::Desired,
    ) -> Result<Done<Snapshot>, Fault> {
        self.shell.converge(call, self.ensuring_snapshot(call.fence.ct, desired)).await
    }

    /// Makes a snapshot not exist.
    ///
    /// # Errors
    /// `BUSY`, a stale fence, or what failed on the host.
    pub async fn remove_snapshot(&self, call: Call, id: SnapshotId) -> Result<Done<()>, Fault> {
        self.shell.converge(call, self.removing_snapshot(call.fence.ct, id)).await
    }

    /// Makes a volume hold what a snapshot holds, once for each decision.
    ///
    /// # Errors
    /// `BUSY`, a stale fence, the planner's refusal, or what failed on the host.
    pub async fn revert(&self, call: Call, id: SnapshotId) -> Result<Done<Volume>, Fault> {
        self.shell.converge(call, self.reverting(&call.fence, id)).await
    }
}
