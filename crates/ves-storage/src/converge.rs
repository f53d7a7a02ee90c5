//! The kinds of changes, as [`ves_daemon::converge`] takes them: what is looked at, which planner
//! plans, what is promised meanwhile, what is answered.
//!
//! Never here: decisions, how anything is done, locks, fences, spans.

use ves_daemon::converge::{Planned, variant};
use ves_daemon::{Call, Done};
use ves_proto::Fault;
use ves_types::{CtId, Fence, SnapshotId, TemplateName};

use crate::ledger::Holder;
use crate::plan::{
    self, Desired, Image, Observed, PoolFacts, Refusal, Reverted, Step, check, snapshot,
};
use crate::promises::Reservation;
use crate::service::{Service, Snapshot, Volume, observing, unknown};
use crate::template::InUse;

/// One container's share of the host for the time of one call; with it goes what it was promised.
#[derive(Debug)]
pub(crate) struct Pool {
    service: Service,
    ct: CtId,
    promised: Option<Reservation>,
    /// What the volume or snapshot that nobody sees yet will hold.
    making: u64,
}

impl Pool {
    pub(crate) const fn new(service: Service, ct: CtId) -> Self {
        Self { service, ct, promised: None, making: 0 }
    }

    fn observe(&self, template: Option<&TemplateName>) -> Result<Observed, Fault> {
        let seen = self.service.host.observe(self.ct, template).map_err(|e| observing(&e))?;
        self.service.promises.see(self.ct, &seen);
        Ok(seen)
    }

    /// The same with the pool, which costs little and is looked at last: it changes by others.
    fn with_pool(&self, volume: Observed) -> Result<Seen, Fault> {
        let pool = self.service.promises.facts().map_err(|e| observing(&e))?;
        Ok(Seen { volume, pool })
    }

    fn refuse(&self, refusal: &Refusal) -> Fault {
        refusal.fault(self.ct)
    }

    fn apply(&mut self, step: &Step) -> Result<(), Fault> {
        let ct = self.ct;
        let done = match step {
            Step::MakeBaseImage(id) => self.service.make_base_image(id),
            step => self.service.host.apply(ct, step),
        };
        match done {
            Ok(()) => {
                self.count(step);
                Ok(())
            }
            Err(e) => {
                self.sweep();
                self.service.promises.doubt(ct);
                let fault = e.fault(&step.to_string());
                let message = format!("container {ct}: {step}: {}", fault.message);
                Err(Fault { message, ..fault }.fact("ct", ct))
            }
        }
    }

    /// Throws away what a step that failed has left: nobody may ever ask for this container again. The
    /// first failure is the one to tell; what cannot be thrown away now is at the next plan or start.
    fn sweep(&self) {
        let Ok(observed) = self.service.host.observe(self.ct, None) else { return };
        for step in plan::plan_sweep(&observed) {
            let (ct, shell) = (Some(self.ct), &self.service.shell);
            let swept =
                shell.step(ct, &variant(&step), &step, || self.service.host.apply(self.ct, &step));
            if let Err(error) = swept {
                tracing::warn!(ct = %self.ct, %error, %step, "left for later");
            }
        }
    }

    /// Counts what a step has made of the room that is held.
    fn count(&mut self, step: &Step) {
        let volume = Holder::Volume(self.ct);
        let snapshot = |id: &SnapshotId| Holder::Snapshot(self.ct, *id);
        let (holder, bytes) = match step {
            Step::Create { bytes, .. } | Step::Recreate { bytes } | Step::Revert { bytes, .. } => {
                self.making = *bytes;
                return;
            }
            Step::Publish => (volume, self.making),
            Step::Enlarge { bytes } => (volume, *bytes),
            Step::Remove => (volume, 0),
            Step::PublishSnapshot { id } => (snapshot(id), self.making),
            Step::RemoveSnapshot { id } => (snapshot(id), 0),
            Step::MakeBaseImage(_)
            | Step::Back { .. }
            | Step::Discard
            | Step::GrowNew { .. }
            | Step::Activate
            | Step::Refresh
            | Step::Check { .. }
            | Step::NoteChecked { .. }
            | Step::Mount { .. }
            | Step::Grow { .. }
            | Step::TakeSnapshot { .. }
            | Step::Unmount
            | Step::LetGo
            | Step::Deactivate
            | Step::RemoveMountPoint => return,
        };
        match &self.promised {
            Some(promised) => promised.take(holder, bytes),
            None => self.service.promises.set(holder, bytes),
        }
    }
}

/// A volume as it is, and the pool it takes room of.
#[derive(Debug)]
pub(crate) struct Seen {
    volume: Observed,
    pool: PoolFacts,
}

/// What takes room of the pool, and is promised it before.
trait Reserves: Planned<Observed = Seen, Step = Step> {
    fn pool(&mut self) -> &mut Pool;

    /// Looks at the volume alone.
    fn look(&mut self) -> Result<Observed, Fault>;

    /// The bytes a plan will take.
    fn takes(&self, observed: &Observed, steps: &[Step]) -> u64;

    /// Looks, then plans and promises what the plan will take, while nobody else does: others wait for
    /// no look at this volume, and nothing is done meanwhile.
    fn reserve(&mut self) -> Result<(Seen, Vec<Step>), Fault> {
        let promises = self.pool().service.promises.clone();
        let volume = self.look()?;
        let _alone = promises.alone();
        let seen = self.pool().with_pool(volume)?;
        let steps = self.plan(&seen)?;
        let takes = self.takes(&seen.volume, &steps);
        self.pool().promised = Some(promises.reserve(takes));
        Ok((seen, steps))
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
    type Observed = Seen;
    type Step = Step;
    type Answer = Volume;

    fn observe(&mut self) -> Result<Seen, Fault> {
        let volume = self.look()?;
        self.pool.with_pool(volume)
    }

    fn plan(&mut self, Seen { volume, pool }: &Seen) -> Result<Vec<Step>, Fault> {
        if volume.image == Image::Absent && volume.template.is_some() {
            self.reading = Some(self.pool.service.uses.read(&self.desired.template)?);
        }
        plan::plan_ensure(&self.desired, volume, pool).map_err(|r| self.pool.refuse(&r))
    }

    fn decide(&mut self) -> Result<(Seen, Vec<Step>), Fault> {
        self.reserve()
    }

    fn apply(&mut self, _: &mut Seen, step: &Step) -> Result<(), Fault> {
        self.pool.apply(step)
    }

    fn ended(&mut self) {
        self.reading = None;
    }

    fn answer(&mut self, _: Seen, _: bool) -> Result<Volume, Fault> {
        let Pool { service, ct, .. } = &self.pool;
        service.look(*ct)?.ok_or_else(|| unknown(*ct))
    }
}

impl Reserves for EnsureVolume {
    fn pool(&mut self) -> &mut Pool {
        &mut self.pool
    }

    fn look(&mut self) -> Result<Observed, Fault> {
        self.pool.observe(Some(&self.desired.template))
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
    type Observed = Seen;
    type Step = Step;
    type Answer = Snapshot;

    fn observe(&mut self) -> Result<Seen, Fault> {
        let volume = self.look()?;
        self.pool.with_pool(volume)
    }

    fn plan(&mut self, Seen { volume, pool }: &Seen) -> Result<Vec<Step>, Fault> {
        snapshot::plan_ensure(&self.desired, volume, pool).map_err(|r| self.pool.refuse(&r))
    }

    fn decide(&mut self) -> Result<(Seen, Vec<Step>), Fault> {
        self.reserve()
    }

    fn apply(&mut self, seen: &mut Seen, step: &Step) -> Result<(), Fault> {
        self.pool.making = seen.volume.allocated;
        self.pool.apply(step)
    }

    fn answer(&mut self, _: Seen, changed: bool) -> Result<Snapshot, Fault> {
        let Pool { service, ct, making, promised } = &self.pool;
        let id = self.desired.id;
        let found = service.snapshots(*ct, false)?.into_iter().find(|s| s.id == id);
        let found = found.ok_or_else(|| self.pool.refuse(&Refusal::SnapshotUnknown(id)))?;
        let allocated = found.seen.allocated;
        // The volume may have grown between the look at it and the snapshot.
        if let (true, Some(promised)) = (changed, promised)
            && let Err(error) = service.promise(promised, allocated.saturating_sub(*making))
        {
            let observed = self.pool.observe(None)?;
            for step in snapshot::plan_remove(id, &observed) {
                self.pool.apply(&step)?;
            }
            return Err(error.fault("take a snapshot"));
        }
        service.promises.set(Holder::Snapshot(*ct, id), allocated);
        Ok(found)
    }
}

impl Reserves for EnsureSnapshot {
    fn pool(&mut self) -> &mut Pool {
        &mut self.pool
    }

    fn look(&mut self) -> Result<Observed, Fault> {
        self.pool.observe(None)
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

/// A volume that was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// It, as it is.
    pub volume: Volume,
    /// Whether the snapshot of what it held before is there.
    pub kept: bool,
}

/// Checks a volume, once for each decision.
#[derive(Debug)]
pub(crate) struct CheckVolume {
    pub(crate) pool: Pool,
    pub(crate) desired: check::Desired,
}

impl Planned for CheckVolume {
    const RPC: &'static str = "CheckVolume";
    type Observed = Seen;
    type Step = Step;
    type Answer = Checked;

    fn observe(&mut self) -> Result<Seen, Fault> {
        let volume = self.look()?;
        self.pool.with_pool(volume)
    }

    fn plan(&mut self, Seen { volume, pool }: &Seen) -> Result<Vec<Step>, Fault> {
        check::plan_check(&self.desired, volume, pool).map_err(|r| self.pool.refuse(&r))
    }

    fn decide(&mut self) -> Result<(Seen, Vec<Step>), Fault> {
        self.reserve()
    }

    fn apply(&mut self, seen: &mut Seen, step: &Step) -> Result<(), Fault> {
        self.pool.making = seen.volume.allocated;
        self.pool.apply(step)
    }

    fn answer(&mut self, _: Seen, _: bool) -> Result<Checked, Fault> {
        let Pool { service, ct, .. } = &self.pool;
        let before = self.desired.mend_all.as_ref().map(|before| before.id);
        let snapshots = match before {
            Some(_) => service.snapshots(*ct, false)?,
            None => Vec::new(),
        };
        let kept = snapshots.iter().find(|s| Some(s.id) == before);
        if let Some(kept) = kept {
            // The volume may have come to take more between the look at it and the snapshot.
            service.promises.set(Holder::Snapshot(*ct, kept.id), kept.seen.allocated);
        }
        Ok(Checked { volume: service.get(*ct)?, kept: kept.is_some() })
    }
}

impl Reserves for CheckVolume {
    fn pool(&mut self) -> &mut Pool {
        &mut self.pool
    }

    fn look(&mut self) -> Result<Observed, Fault> {
        self.pool.observe(None)
    }

    fn takes(&self, observed: &Observed, steps: &[Step]) -> u64 {
        let taken = steps.iter().any(|s| matches!(s, Step::TakeSnapshot { .. }));
        if taken { observed.allocated } else { 0 }
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

    pub(crate) fn checking(&self, ct: CtId, desired: check::Desired) -> CheckVolume {
        CheckVolume { pool: self.pool_for(ct), desired }
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

    /// Checks a volume, once for each decision.
    ///
    /// # Errors
    /// `BUSY`, a stale fence, the planner's refusal, `VOLUME_DAMAGED`, or what failed on the host.
    pub async fn check(&self, call: Call, desired: check::Desired) -> Result<Done<Checked>, Fault> {
        self.shell.converge(call, self.checking(call.fence.ct, desired)).await
    }
}
