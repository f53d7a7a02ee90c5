//! The shell around the planner: lock → fence → observe → plan → apply each → observe.
//!
//! Synchronous; `api` calls it on the blocking pool, so that a client that hangs up cannot cut a plan
//! in half. Never here: decisions, or how anything is done.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use ves_daemon::{FenceStore, Locks};
use ves_proto::{Fault, Reason};
use ves_types::{CtId, Fence, Generation, SnapshotId, TemplateName};

use crate::error::Error;
use crate::host::{Host, Source, Template, Usage, VolumeFacts};
use crate::plan::snapshot;
use crate::plan::{self, Desired, Image, Observed, PoolFacts, Record, Reverted, Step};
use crate::template::{InUse, Progress, Uses};

/// A volume, for the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Its container.
    pub ct: CtId,
    /// The last accepted generation.
    pub generation: Generation,
    /// What it was made as.
    pub record: Record,
    /// Hard size.
    pub bytes: u64,
    /// What it uses.
    pub usage: Usage,
    /// Whether it is mounted.
    pub mounted: bool,
}

/// A snapshot, for the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Its id.
    pub id: SnapshotId,
    /// What it is.
    pub seen: snapshot::Snapshot,
    /// The snapshot the volume came from when it was taken, where that is still there.
    pub parent: Option<SnapshotId>,
    /// Whether the volume comes from it now.
    pub current: bool,
    /// Bytes nothing else shares, where that was asked for and is known.
    pub own: Option<u64>,
}

/// The service.
#[derive(Clone)]
pub struct Service {
    host: Arc<dyn Host>,
    fences: Arc<FenceStore>,
    locks: Locks,
    uses: Uses,
    /// What calls under way have been promised and have not taken yet.
    reserved: Arc<Mutex<BTreeMap<CtId, u64>>>,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service").field("backend", &self.host.backend()).finish_non_exhaustive()
    }
}

/// Takes back a promise when the call that got it ends.
struct Reserved<'a> {
    service: &'a Service,
    ct: CtId,
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.service.reserved.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.ct);
    }
}

fn observing(error: &Error) -> Fault {
    error.fault("observe")
}

impl Service {
    /// A service on this host; accepted fences are kept in `fences`.
    pub fn new(host: Arc<dyn Host>, fences: PathBuf) -> Result<Self, std::io::Error> {
        Ok(Self {
            host,
            fences: Arc::new(FenceStore::open(fences)?),
            locks: Locks::default(),
            uses: Uses::default(),
            reserved: Arc::default(),
        })
    }

    /// Makes a volume what it should be.
    ///
    /// # Errors
    /// `BUSY`, a stale fence, the planner's refusal, or what failed on the host.
    pub fn ensure(&self, fence: &Fence, desired: &Desired) -> Result<Volume, Fault> {
        let ct = fence.ct;
        let _held = self.locks.hold(ct, "EnsureVolume")?;
        self.fences.admit(fence)?;
        let (steps, reading, _reserved) = self.plan(ct, desired)?;
        self.fences.accept(fence)?;
        self.perform(ct, &steps)?;
        drop(reading);
        self.look(ct)?.ok_or_else(|| unknown(ct))
    }

    /// Looks, and counts as promised what calls under way have been promised.
    fn observe(
        &self,
        ct: CtId,
        template: Option<&TemplateName>,
        reserved: &BTreeMap<CtId, u64>,
    ) -> Result<Observed, Fault> {
        let mut observed = self.host.observe(ct, template).map_err(|e| observing(&e))?;
        let others: u64 = reserved.values().sum();
        observed.pool.promised = observed.pool.promised.saturating_add(others);
        Ok(observed)
    }

    /// Plans, and reserves what the plan will take of the pool: two calls cannot be promised the
    /// same room.
    fn plan(
        &self,
        ct: CtId,
        desired: &Desired,
    ) -> Result<(Vec<Step>, Option<InUse>, Reserved<'_>), Fault> {
        // Held while the pool is looked at, not while anything is done to it.
        let mut reserved = self.reserved.lock().unwrap_or_else(PoisonError::into_inner);
        let observed = self.observe(ct, Some(&desired.template), &reserved)?;
        let reading = match &observed.image {
            Image::Absent if observed.template.is_some() => {
                Some(self.uses.read(&desired.template)?)
            }
            _ => None,
        };
        let steps = plan::plan_ensure(desired, &observed).map_err(|r| r.fault(ct))?;
        let have = match &observed.image {
            Image::Ours { bytes, .. } => *bytes,
            Image::Absent | Image::Foreign(_) => 0,
        };
        reserved.insert(ct, desired.bytes.saturating_sub(have));
        drop(reserved);
        Ok((steps, reading, Reserved { service: self, ct }))
    }

    /// Makes a snapshot exist.
    ///
    /// # Errors
    /// `BUSY`, a stale fence, the planner's refusal, or what failed on the host.
    pub fn ensure_snapshot(
        &self,
        fence: &Fence,
        desired: &snapshot::Desired,
    ) -> Result<Snapshot, Fault> {
        let ct = fence.ct;
        let _held = self.locks.hold(ct, "EnsureSnapshot")?;
        self.fences.admit(fence)?;
        let (steps, _reserved) = {
            let mut reserved = self.reserved.lock().unwrap_or_else(PoisonError::into_inner);
            let observed = self.observe(ct, None, &reserved)?;
            let steps = snapshot::plan_ensure(desired, &observed).map_err(|r| r.fault(ct))?;
            let taken = steps.iter().any(|s| matches!(s, Step::Snapshot { .. }));
            reserved.insert(ct, if taken { observed.allocated } else { 0 });
            (steps, Reserved { service: self, ct })
        };
        self.fences.accept(fence)?;
        self.perform(ct, &steps)?;
        let all = self.snapshots(ct, false)?;
        all.into_iter()
            .find(|s| s.id == desired.id)
            .ok_or_else(|| plan::Refusal::SnapshotUnknown(desired.id).fault(ct))
    }

    /// Makes a snapshot not exist.
    ///
    /// # Errors
    /// `BUSY`, a stale fence, or what failed on the host.
    pub fn remove_snapshot(&self, fence: &Fence, id: SnapshotId) -> Result<(), Fault> {
        let ct = fence.ct;
        let _held = self.locks.hold(ct, "RemoveSnapshot")?;
        self.fences.admit(fence)?;
        let observed = self.host.observe(ct, None).map_err(|e| observing(&e))?;
        // Also where there is nothing to do: what was asked for before must not be made after this.
        if observed.image != Image::Absent {
            self.fences.accept(fence)?;
        }
        self.perform(ct, &snapshot::plan_remove(id, &observed))
    }

    /// Makes a volume hold what a snapshot holds, once for each decision.
    ///
    /// # Errors
    /// `BUSY`, a stale fence, the planner's refusal, or what failed on the host.
    pub fn revert(&self, fence: &Fence, id: SnapshotId) -> Result<Volume, Fault> {
        let ct = fence.ct;
        let _held = self.locks.hold(ct, "RevertVolume")?;
        self.fences.admit(fence)?;
        let observed = self.host.observe(ct, None).map_err(|e| observing(&e))?;
        let to = Reverted { snapshot: id, generation: fence.generation };
        let steps = snapshot::plan_revert(to, &observed).map_err(|r| r.fault(ct))?;
        self.fences.accept(fence)?;
        self.perform(ct, &steps)?;
        self.get(ct)
    }

    /// The snapshots of a container, oldest first; where `measure` says so, with the bytes that only
    /// each has.
    pub fn snapshots(&self, ct: CtId, measure: bool) -> Result<Vec<Snapshot>, Fault> {
        let all = self.host.snapshots(ct, measure).map_err(|e| observing(&e))?;
        if all.is_empty() {
            return Ok(Vec::new());
        }
        let reverted = match self.host.look(ct).map_err(|e| observing(&e))?.image {
            Image::Ours { record, .. } => record.reverted,
            Image::Absent | Image::Foreign(_) => None,
        };
        let current = snapshot::current(reverted, all.iter().map(|(id, s, _)| (id, s)));
        let there: Vec<SnapshotId> = all.iter().map(|(id, ..)| *id).collect();
        let mut all: Vec<Snapshot> = all
            .into_iter()
            .map(|(id, seen, own)| Snapshot {
                parent: seen.record.parent.filter(|p| there.contains(p)),
                current: current == Some(id),
                id,
                seen,
                own,
            })
            .collect();
        all.sort_by_key(|s| s.seen.record.generation);
        Ok(all)
    }

    /// Makes a volume and its snapshots not exist.
    ///
    /// # Errors
    /// `BUSY`, a stale fence, `FOREIGN_CONTENTS`, `MOUNTED`, or what failed on the host.
    pub fn remove(&self, fence: &Fence) -> Result<(), Fault> {
        let ct = fence.ct;
        let _held = self.locks.hold(ct, "RemoveVolume")?;
        self.fences.admit(fence)?;
        let observed = self.host.observe(ct, None).map_err(|e| observing(&e))?;
        let steps = plan::plan_remove(&observed).map_err(|r| r.fault(ct))?;
        if !steps.is_empty() {
            self.fences.accept(fence)?;
        }
        self.perform(ct, &steps)?;
        self.fences.forget(ct);
        Ok(())
    }

    fn perform(&self, ct: CtId, steps: &[Step]) -> Result<(), Fault> {
        for step in steps {
            let span = tracing::info_span!("step", %ct, step = %step);
            let _inside = span.enter();
            // With these the host begins to count what was only promised: in one go, so that
            // nobody counts it twice.
            let counted =
                matches!(step, Step::Publish | Step::Extend { .. } | Step::PublishSnapshot { .. });
            let reserved =
                counted.then(|| self.reserved.lock().unwrap_or_else(PoisonError::into_inner));
            let done = self.host.apply(ct, step);
            if let (Some(mut reserved), Ok(())) = (reserved, &done) {
                reserved.remove(&ct);
            }
            done.map_err(|e| {
                let fault = e.fault(&step.to_string());
                tracing::warn!(error = %fault, "failed");
                let message = format!("container {ct}: {step}: {}", fault.message);
                Fault { message, ..fault }.fact("ct", ct)
            })?;
            tracing::info!("done");
        }
        Ok(())
    }

    /// One volume.
    ///
    /// # Errors
    /// `VOLUME_UNKNOWN`, `FOREIGN_CONTENTS`, or what could not be found out.
    pub fn get(&self, ct: CtId) -> Result<Volume, Fault> {
        self.look(ct)?.ok_or_else(|| unknown(ct))
    }

    /// All volumes, by container.
    pub fn list(&self) -> Result<Vec<Volume>, Fault> {
        let mut all = Vec::new();
        for (ct, seen) in self.host.look_all().map_err(|e| observing(&e))? {
            match self.describe(ct, seen) {
                Ok(volume) => all.extend(volume),
                // One bad volume hides no other.
                Err(fault) => tracing::warn!(%ct, %fault, "leave out of the list"),
            }
        }
        Ok(all)
    }

    fn look(&self, ct: CtId) -> Result<Option<Volume>, Fault> {
        self.describe(ct, self.host.look(ct))
    }

    fn describe(
        &self,
        ct: CtId,
        seen: Result<VolumeFacts, Error>,
    ) -> Result<Option<Volume>, Fault> {
        let VolumeFacts { image, mounted, usage } = seen.map_err(|e| observing(&e))?;
        match image {
            Image::Absent => Ok(None),
            Image::Foreign(what) => Err(plan::Refusal::Foreign(what).fault(ct)),
            Image::Ours { record, bytes, .. } => Ok(Some(Volume {
                ct,
                generation: self.fences.generation(ct),
                record,
                bytes,
                usage,
                mounted,
            })),
        }
    }

    /// The pool's backend and room.
    pub fn pool(&self) -> Result<(&'static str, PoolFacts), Fault> {
        Ok((self.host.backend(), self.host.pool().map_err(|e| observing(&e))?))
    }

    /// All templates, by name.
    pub fn templates(&self) -> Result<Vec<Template>, Fault> {
        self.host.templates().map_err(|e| observing(&e))
    }

    /// Makes a template.
    ///
    /// # Errors
    /// `TEMPLATE_EXISTS`, `TEMPLATE_IN_USE`, what is wrong with the archive, or what failed.
    pub fn make_template(
        &self,
        name: &TemplateName,
        source: Source<'_>,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<Template, Fault> {
        let _alone = self.uses.alone(name, "being made")?;
        let span = tracing::info_span!("make template", %name);
        span.in_scope(|| {
            self.host.make_template(name, source, progress).map_err(|e| e.fault("make a template"))
        })
    }

    /// A template's contents; it cannot be removed while the stream lives.
    ///
    /// # Errors
    /// `TEMPLATE_UNKNOWN`, `TEMPLATE_IN_USE`.
    pub fn export(&self, name: &TemplateName) -> Result<(Box<dyn Read + Send>, InUse), Fault> {
        let reading = self.uses.read(name)?;
        let stream = self.host.export(name).map_err(|e| e.fault("export a template"))?;
        Ok((stream, reading))
    }

    /// Makes a template not exist. Volumes made from it stay.
    ///
    /// # Errors
    /// `TEMPLATE_UNKNOWN`, `TEMPLATE_IN_USE`, or what failed.
    pub fn remove_template(&self, name: &TemplateName) -> Result<(), Fault> {
        let _alone = self.uses.alone(name, "being removed")?;
        self.host.remove_template(name).map_err(|e| e.fault("remove a template"))
    }
}

fn unknown(ct: CtId) -> Fault {
    Fault::new(Reason::VolumeUnknown, format!("container {ct} has no volume")).fact("ct", ct)
}

#[cfg(test)]
mod tests;
