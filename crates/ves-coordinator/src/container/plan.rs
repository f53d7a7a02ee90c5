//! What to ask the four services for, so that a container becomes what it should be.
//!
//! Pure: [`plan`] looks at what is wanted and what the services show and answers with their RPCs in
//! order; [`Observed::after`] says what a step is expected to do. One code path makes, changes,
//! repairs, boots and takes away. Never here: calls, waiting, storing, or what to do when a step fails.
//!
//! ```text
//! up    volume → limits → volume mounted → process created → link → process running
//! down  process gone → link gone → volume unmounted → limits gone → volume gone
//!       → volume as in a snapshot, or checked
//! damaged, and nobody uses it: unmounted, and checked when it is mounted again
//! else  snapshot there or gone, and nothing else, be it up or down
//! ```
//!
//! A volume that is missing is made only while the container is being created. Later it is a loss,
//! which no plan may paper over with an empty volume. What is there already while the container is
//! being created, from before its first generation, is left from another life of the id: it is neither
//! adopted nor taken away.

mod snapshot;

use std::collections::BTreeSet;

use ves_types::{CtAddress, CtId, DiskSize, Generation, Limits, Phase, UbcResource};

use super::observed::{Observed, VolumeSeen};
use super::record::{Presence, Record, RunState, Since, SnapshotWish};
use super::refusal::Refusal;
use super::step::{ProcessWish, Step, VolumeWish};

/// What is wanted of one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    /// Whose.
    pub ct: CtId,
    /// Whether it should exist.
    pub presence: Presence,
    /// How far it should be up.
    pub run: RunState,
    /// When each share changed.
    pub since: Since,
    /// What carries an older generation is not this container's. 0 once it was created: a service
    /// that has lost its fence is then told again.
    pub first: Generation,
    /// Its volume.
    pub volume: VolumeWish,
    /// Its limits.
    pub limits: Limits,
    /// Its processes.
    pub process: ProcessWish,
    /// Its addresses.
    pub addresses: BTreeSet<CtAddress>,
    /// See [`Record::maybe_dirty`].
    pub maybe_dirty: bool,
    /// Whether it is of no use without its volume: one that was lost keeps nothing from being stopped.
    pub needs_volume: bool,
    /// Whether something of its volume may be there though storage shows none, as the mount of an image
    /// that was deleted.
    pub maybe_volume: bool,
    /// Of its snapshots.
    pub snapshot: Option<SnapshotWish>,
    /// How long init may take to stop; 0: not at all.
    pub grace_ms: u32,
    /// Whether processes that are not there are started. Where they ended by themselves, that end is
    /// looked at first by whoever does not start.
    pub starts: bool,
}

impl Desired {
    /// What a record wants, where nothing is stopped or started for it.
    pub fn of(record: &Record) -> Self {
        let spec = record.effective();
        let limit = |r| spec.limits.limit(r).max();
        Self {
            ct: record.id,
            presence: record.presence,
            run: record.run,
            since: record.since,
            first: record.creating_since.unwrap_or_default(),
            volume: VolumeWish {
                template: spec.template.clone(),
                size: spec.disk,
                inodes: spec.inodes,
                slot: record.slot,
            },
            limits: spec.limits.clone(),
            process: ProcessWish {
                slot: record.slot,
                hostname: record.hostname().cloned(),
                init: spec.init.clone(),
                nameservers: spec.nameservers.clone(),
                search_domains: spec.search_domains.clone(),
                max_ptys: limit(UbcResource::Numpty),
                shm: spec.limits.limit_bytes(UbcResource::Shmpages),
                ram: spec.ram(),
                devices: spec.devices.clone(),
                capabilities_off: spec.capabilities_off.clone(),
                features: spec.features.effective(),
            },
            addresses: spec.addresses.iter().copied().collect(),
            maybe_dirty: record.maybe_dirty && record.creating_since.is_none(),
            needs_volume: true,
            maybe_volume: record.creating_since.is_none(),
            snapshot: record.snapshot.clone(),
            grace_ms: 0,
            starts: false,
        }
    }
}

/// The steps that lead from `observed` to `desired`; none where it is so already.
///
/// # Errors
/// [`Refusal`] where no step of ours could lead there without harm.
pub fn plan(desired: &Desired, observed: &Observed) -> Result<Vec<Step>, Refusal> {
    match (desired.presence, desired.run) {
        (Presence::Deleting, _) => Ok(take_away(desired, &observed.own(desired.first))),
        (Presence::Creating | Presence::Present, run) => {
            let foreign = observed.before(desired.first);
            if !foreign.is_empty() {
                return Err(Refusal::Foreign(desired.ct, foreign));
            }
            let needs_volume = desired.needs_volume || run != RunState::Stopped;
            if needs_volume && volume_is_lost(desired, observed) {
                return Err(Refusal::VolumeLost(desired.ct));
            }
            let snapshot = snapshot::step(desired, observed)?;
            if desired.snapshot.as_ref().is_some_and(|wish| wish.alone) {
                return Ok(snapshot.into_iter().collect());
            }
            let mut steps = match run {
                RunState::Running => bring_up(desired, observed)?,
                RunState::Stopped | RunState::Mounted => bring_down(desired, observed),
            };
            steps.extend(snapshot);
            Ok(steps)
        }
    }
}

/// The volume as wanted, but not larger than it is.
fn as_large_as(seen: &VolumeSeen, desired: &Desired) -> VolumeWish {
    VolumeWish { size: DiskSize::saturating(seen.size.0), ..desired.volume.clone() }
}

fn take_away(desired: &Desired, observed: &Observed) -> Vec<Step> {
    let mut steps = no_processes(desired, observed);
    if let Some(seen) = observed.volume.filter(|v| v.mounted) {
        let volume = as_large_as(&seen, desired);
        steps.push(Step::EnsureVolume { volume, mounted: false });
    }
    steps.extend(no_limits(desired, observed));
    if observed.volume.is_some() || !observed.snapshots.is_empty() || desired.maybe_volume {
        steps.push(Step::RemoveVolume);
    }
    steps
}

fn bring_down(desired: &Desired, observed: &Observed) -> Vec<Step> {
    let mounted = desired.run == RunState::Mounted;
    let mut steps = no_processes(desired, observed);
    if mounted && is_damaged(observed) {
        steps.extend(mounted_anew(desired, observed));
    } else if !volume_is_lost(desired, observed) && !volume_is_right(desired, observed, mounted) {
        // Not every host can let a mounted volume grow: first it is unmounted, then it grows.
        if let Some(seen) = observed.volume.filter(|v| v.mounted && !mounted)
            && seen.size < desired.volume.size.bytes()
        {
            let volume = as_large_as(&seen, desired);
            steps.push(Step::EnsureVolume { volume, mounted: false });
        }
        steps.push(ensure_volume(desired, observed, mounted));
    }
    steps.extend(no_limits(desired, observed));
    steps
}

fn bring_up(desired: &Desired, observed: &Observed) -> Result<Vec<Step>, Refusal> {
    let mut steps = Vec::new();
    let mut process = observed.process;
    if observed.volume.is_none() {
        // Processes without a volume are left from another life.
        if process.phase != Phase::Absent {
            steps = no_processes(desired, observed);
            process.phase = Phase::Absent;
        }
        steps.push(ensure_volume(desired, observed, false));
    }
    let mut mount = Vec::new();
    if process.phase == Phase::Absent && desired.starts && is_damaged(observed) {
        mount = mounted_anew(desired, observed);
    } else if !volume_is_right(desired, observed, true) {
        mount.push(ensure_volume(desired, observed, true));
    }
    // Bounds of disk traffic are about the device, which is there when the volume is mounted.
    let bound_io = desired.limits.bound_io();
    let remounts = mount.iter().any(|s| matches!(s, Step::EnsureVolume { mounted: false, .. }));
    let device = observed.device();
    let moved = device.is_some() && observed.group.is_some_and(|g| g.device != device);
    let another = bound_io && (remounts || moved);
    let ensures = another || observed.group.is_none_or(|g| g.generation < desired.since.limits);
    let limits = ensures.then(|| Step::EnsureLimits(desired.limits.clone()));
    if bound_io {
        steps.extend(mount.into_iter().chain(limits));
    } else {
        steps.extend(limits.into_iter().chain(mount));
    }
    let process_is_new = process.generation >= desired.since.process;
    if !desired.starts && matches!(process.phase, Phase::Absent | Phase::Created) {
        return Ok(steps);
    }
    if process.phase == Phase::Absent || (process.phase == Phase::Created && !process_is_new) {
        steps.push(Step::CreateProcess(desired.process.clone()));
    }
    let link_is_right = observed
        .link
        .as_ref()
        .is_some_and(|l| l.addresses == desired.addresses && l.generation >= desired.since.link);
    // Its network namespace may not be found any more, though it is there.
    let unwatched = process.unresponsive && process.phase != Phase::Absent;
    if unwatched && !(link_is_right && process_is_new) {
        return Err(Refusal::Unwatched(desired.ct));
    }
    // A new network namespace has no link yet, whatever is left of the one before.
    if process.phase == Phase::Absent || !link_is_right {
        steps.push(Step::EnsureLink { addresses: desired.addresses.clone() });
    }
    if process.phase != Phase::Running || !process_is_new {
        let wish = desired.process.clone();
        steps.push(match desired.starts {
            true => Step::RunProcess(wish),
            false => Step::KeepProcess(wish),
        });
    }
    Ok(steps)
}

fn no_processes(desired: &Desired, observed: &Observed) -> Vec<Step> {
    let mut steps = Vec::new();
    let alive = observed.process.phase != Phase::Absent;
    // What ended by itself has left its pins; they are lifecycle's to take away.
    if alive || desired.maybe_dirty {
        steps.push(Step::StopProcess { grace_ms: desired.grace_ms });
    }
    if alive || observed.link.is_some() || desired.maybe_dirty {
        steps.push(Step::RemoveLink);
    }
    steps
}

fn no_limits(desired: &Desired, observed: &Observed) -> Option<Step> {
    (observed.group.is_some() || desired.maybe_dirty).then_some(Step::RemoveLimits)
}

/// Whether a volume that was made is not there.
fn volume_is_lost(desired: &Desired, observed: &Observed) -> bool {
    observed.volume.is_none() && desired.presence == Presence::Present
}

fn volume_is_right(desired: &Desired, observed: &Observed, mounted: bool) -> bool {
    observed.volume.is_some_and(|v| {
        v.mounted == mounted
            && v.size >= desired.volume.size.bytes()
            && v.generation >= desired.since.volume
    })
}

/// Whether errors were met in a file system that is mounted.
fn is_damaged(observed: &Observed) -> bool {
    observed.volume.is_some_and(|v| v.mounted && v.damage.is_some())
}

/// A volume that nobody uses, unmounted and mounted: in between it is checked.
fn mounted_anew(desired: &Desired, observed: &Observed) -> Vec<Step> {
    let down = observed
        .volume
        .map(|seen| Step::EnsureVolume { volume: as_large_as(&seen, desired), mounted: false });
    down.into_iter().chain([ensure_volume(desired, observed, true)]).collect()
}

/// A volume never shrinks, also not to what is wanted when a change was taken back.
fn ensure_volume(desired: &Desired, observed: &Observed, mounted: bool) -> Step {
    let mut volume = desired.volume.clone();
    if let Some(seen) = observed.volume {
        volume.size = volume.size.max(DiskSize::saturating(seen.size.0));
    }
    Step::EnsureVolume { volume, mounted }
}

#[cfg(test)]
mod laws;
