//! What to do so that a snapshot is, or is not, and so that a volume holds what one holds. Pure.
//!
//! ```text
//! snapshot  discard? ► back? ► take-snapshot ► publish-snapshot      of a mounted volume too
//! remove    discard? ► remove-snapshot
//! revert    deactivate? ► discard? ► revert ► publish        never of a mounted volume
//! ```
//!
//! A snapshot counts for what it takes when it is made, as if it shared nothing: it does not grow, and
//! when the volume is written to, the blocks that both had become the snapshot's. A volume counts for
//! its whole size before and after. So a pool that is not overcommitted can always keep its promises.
//!
//! A volume keeps its size when it is reverted; where its file system does not reach so far any more, it
//! grows when it is mounted, as any does.

use serde::{Deserialize, Serialize};
use ves_types::{Generation, SnapshotId, SnapshotName};

use super::{Image, Mount, Observed, PoolFacts, Refusal, Reverted, Step, back};

/// What was decided when a snapshot was taken; it stays with its image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Its name.
    pub name: Option<SnapshotName>,
    /// When it was asked for, in milliseconds since 1970.
    pub created_unix_ms: i64,
    /// The decision that was.
    pub generation: Generation,
    /// The snapshot the volume came from then.
    pub parent: Option<SnapshotId>,
    /// What the volume was.
    pub volume: super::Record,
}

/// A snapshot as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// What it is.
    pub record: Record,
    /// Its length.
    pub bytes: u64,
    /// Bytes it takes in the pool, shared ones too.
    pub allocated: u64,
    /// Whether the kernel had noted errors in its file system.
    pub damaged: bool,
}

/// What a snapshot should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    /// Its id.
    pub id: SnapshotId,
    /// Its name.
    pub name: Option<SnapshotName>,
    /// When it was asked for, in milliseconds since 1970.
    pub created_unix_ms: i64,
    /// The decision.
    pub generation: Generation,
}

/// The snapshot a volume comes from: the last one taken since it was reverted, else the one it was
/// reverted to.
pub fn current<'a>(
    reverted: Option<Reverted>,
    snapshots: impl IntoIterator<Item = (&'a SnapshotId, &'a Snapshot)>,
) -> Option<SnapshotId> {
    let from = reverted.map_or_else(Generation::default, |r| r.generation);
    let mut base = None;
    let mut last = None;
    for (id, snapshot) in snapshots {
        let at = snapshot.record.generation;
        if at > from && last.is_none_or(|(newest, _)| newest < at) {
            last = Some((at, *id));
        }
        if reverted.is_some_and(|r| r.snapshot == *id) {
            base = Some(*id);
        }
    }
    last.map(|(_, id)| id).or(base)
}

pub(super) fn volume(observed: &Observed) -> Result<(&super::Record, u64), Refusal> {
    match &observed.image {
        Image::Absent => Err(Refusal::NoVolume),
        Image::Foreign(what) => Err(Refusal::Foreign(what.clone())),
        Image::Ours { record, bytes, .. } => Ok((record, *bytes)),
    }
}

pub(super) fn begin(observed: &Observed) -> Vec<Step> {
    if observed.unfinished { vec![Step::Discard] } else { Vec::new() }
}

/// The steps that make a snapshot be; none where it is.
///
/// # Errors
/// [`Refusal`].
pub fn plan_ensure(
    desired: &Desired,
    observed: &Observed,
    pool: &PoolFacts,
) -> Result<Vec<Step>, Refusal> {
    let mut steps = begin(observed);
    if observed.snapshots.contains_key(&desired.id) {
        return Ok(steps);
    }
    let (volume, _) = volume(observed)?;
    let in_use = observed.device.is_some() || observed.mount != Mount::None;
    if in_use && !observed.shares_blocks {
        return Err(Refusal::CopyInUse);
    }
    if observed.snapshots.len() >= observed.max_snapshots {
        return Err(Refusal::TooManySnapshots(observed.max_snapshots));
    }
    steps.extend(back(pool, observed.allocated)?);
    let Desired { id, name, created_unix_ms, generation } = desired.clone();
    let parent = current(volume.reverted, &observed.snapshots);
    let record = Record { name, created_unix_ms, generation, parent, volume: volume.clone() };
    steps.push(Step::TakeSnapshot { id, record });
    steps.push(Step::PublishSnapshot { id });
    Ok(steps)
}

/// The steps that make a snapshot not be; none where there is none.
pub fn plan_remove(id: SnapshotId, observed: &Observed) -> Vec<Step> {
    let mut steps = begin(observed);
    if observed.snapshots.contains_key(&id) {
        steps.push(Step::RemoveSnapshot { id });
    }
    steps
}

/// The steps that make a volume hold what a snapshot holds; none where this was done.
///
/// # Errors
/// [`Refusal`].
pub fn plan_revert(to: Reverted, observed: &Observed) -> Result<Vec<Step>, Refusal> {
    let (volume, bytes) = volume(observed)?;
    if volume.reverted == Some(to) {
        return Ok(begin(observed));
    }
    let snapshot =
        observed.snapshots.get(&to.snapshot).ok_or(Refusal::SnapshotUnknown(to.snapshot))?;
    match &observed.mount {
        Mount::Ours { .. } => return Err(Refusal::Mounted),
        Mount::Foreign(what) => return Err(Refusal::Foreign(what.clone())),
        Mount::None => {}
    }
    let mut steps = Vec::new();
    if observed.device.is_some() {
        steps.push(Step::Deactivate);
    }
    steps.extend(begin(observed));
    steps.push(Step::Revert { to, bytes: bytes.max(snapshot.bytes) });
    steps.push(Step::Publish);
    Ok(steps)
}

#[cfg(test)]
mod laws;
