//! What is wanted of a container's snapshots, and the step that leads there. Pure.

use serde::{Deserialize, Serialize};
use ves_types::{Generation, SnapshotId, SnapshotName};

use super::{Desired, Observed, Refusal, Step};
use crate::model::RunState;

/// What is wanted of a container's snapshots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "want")]
pub enum SnapshotWish {
    /// This one is there.
    Taken {
        /// Its id.
        id: SnapshotId,
        /// Its name.
        name: Option<SnapshotName>,
    },
    /// This one is not there.
    Deleted {
        /// Its id.
        id: SnapshotId,
    },
    /// The disk was put back to this one.
    Reverted {
        /// Its id.
        id: SnapshotId,
        /// The generation that wants it: what was done with an older one does not count.
        since: Generation,
    },
}

impl SnapshotWish {
    /// Whether nothing else of the container is touched for it, be it up, down or ending just now.
    pub const fn stands_alone(&self) -> bool {
        match self {
            Self::Taken { .. } | Self::Deleted { .. } => true,
            Self::Reverted { .. } => false,
        }
    }
}

/// What is done about snapshots; about a revert, once the container is down.
pub(super) fn step(desired: &Desired, observed: &Observed) -> Result<Option<Step>, Refusal> {
    let there = |id: &SnapshotId| observed.snapshots.contains_key(id);
    Ok(match &desired.snapshot {
        Some(SnapshotWish::Taken { id, name }) if !there(id) => {
            Some(Step::TakeSnapshot { id: *id, name: name.clone() })
        }
        Some(SnapshotWish::Deleted { id }) if there(id) => Some(Step::DeleteSnapshot { id: *id }),
        // Who is not stopped is not put back; the wish is only stored for one that is.
        Some(SnapshotWish::Reverted { id, since }) if desired.run == RunState::Stopped => {
            let reverted = observed.volume.and_then(|v| v.reverted);
            match reverted {
                Some((to, generation)) if to == *id && generation >= *since => None,
                _ if !there(id) => return Err(Refusal::SnapshotUnknown(desired.ct, *id)),
                _ => Some(Step::RevertVolume { id: *id }),
            }
        }
        Some(_) | None => None,
    })
}
