//! What is wanted of a container's snapshots, and the step that leads there. Pure.

use serde::{Deserialize, Serialize};
use ves_types::{Generation, SnapshotId, SnapshotName};

use super::{Desired, Observed, Refusal, Step};
use crate::model::RunState;

/// What is wanted of one of a container's snapshots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotWish {
    /// Its id.
    pub id: SnapshotId,
    /// What.
    pub want: Want,
    /// Nothing else of the container is touched for it, be it up, down or ending just now.
    pub alone: bool,
}

/// What is wanted of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Want {
    /// It is there.
    Taken {
        /// Its name.
        name: Option<SnapshotName>,
    },
    /// It is not there.
    Deleted,
    /// The disk was put back to it.
    Reverted {
        /// The generation that wants it: what was done with an older one does not count.
        since: Generation,
    },
}

impl SnapshotWish {
    /// It is there.
    pub const fn taken(id: SnapshotId, name: Option<SnapshotName>) -> Self {
        Self { id, want: Want::Taken { name }, alone: true }
    }
    /// It is not there.
    pub const fn deleted(id: SnapshotId) -> Self {
        Self { id, want: Want::Deleted, alone: true }
    }
    /// The disk was put back to it.
    pub const fn reverted(id: SnapshotId, since: Generation) -> Self {
        Self { id, want: Want::Reverted { since }, alone: false }
    }
}

/// What is done about snapshots; about a revert, once the container is down.
pub(super) fn step(desired: &Desired, observed: &Observed) -> Result<Option<Step>, Refusal> {
    let Some(SnapshotWish { id, want, alone: _ }) = &desired.snapshot else { return Ok(None) };
    let (id, there) = (*id, observed.snapshots.contains_key(id));
    Ok(match want {
        Want::Taken { name } => (!there).then(|| Step::TakeSnapshot { id, name: name.clone() }),
        Want::Deleted => there.then_some(Step::DeleteSnapshot { id }),
        Want::Reverted { since } => match observed.volume.and_then(|v| v.reverted) {
            Some((to, generation)) if to == id && generation >= *since => None,
            // Who is up is not put back; the wish is only stored for one that is stopped.
            _ if desired.run != RunState::Stopped => None,
            _ if !there => return Err(Refusal::SnapshotUnknown(desired.ct, id)),
            _ => Some(Step::RevertVolume { id }),
        },
    })
}
