//! The step that leads to what is wanted of a container's snapshots. Pure.

use super::{Desired, Observed, Refusal, RunState, SnapshotWish, Step};
use crate::container::record::Want;

/// What is done about snapshots; about a revert, once the container is down.
pub(super) fn step(desired: &Desired, observed: &Observed) -> Result<Option<Step>, Refusal> {
    let Some(SnapshotWish { id, want, alone: _ }) = &desired.snapshot else { return Ok(None) };
    let (id, there) = (*id, observed.snapshots.contains_key(id));
    Ok(match want {
        Want::Taken { name } => (!there).then(|| Step::TakeSnapshot { id, name: name.clone() }),
        Want::Deleted => there.then_some(Step::DeleteSnapshot { id }),
        Want::Checked { since, mend_all } => {
            let checked = observed.volume.and_then(|v| v.checked);
            let wanted = desired.run == RunState::Stopped && checked.is_none_or(|at| at < *since);
            let before = mend_all.then_some(id);
            wanted.then_some(Step::CheckVolume { before })
        }
        Want::Reverted { since } => match observed.volume.and_then(|v| v.reverted) {
            Some((to, generation)) if to == id && generation >= *since => None,
            // Who is up is not put back; the wish is only stored for one that is stopped.
            _ if desired.run != RunState::Stopped => None,
            _ if !there => return Err(Refusal::SnapshotUnknown(desired.ct, id)),
            _ => Some(Step::RevertVolume { id }),
        },
    })
}
