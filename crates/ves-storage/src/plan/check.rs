//! What to do so that a volume's file system is whole again. Pure.
//!
//! ```text
//! check    discard? ► deactivate? ► [all: back? ► take snapshot ► publish snapshot] ► activate ► check
//!          ► deactivate ► note
//! ```
//!
//! What is damaged is checked before it is mounted anyway ([`super::plan_ensure`]); this is for what that
//! cannot mend, and for damage that the kernel has not met yet. Mending all may lose files, so a snapshot is
//! taken before, where there is room for one: without room, mending is better than no container.

use ves_host::ext4::Mend;
use ves_types::Generation;

use super::snapshot::{self, volume};
use super::{Mount, Observed, PoolFacts, Refusal, Step};

/// What should be checked, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    /// The decision.
    pub generation: Generation,
    /// Mend all, after this snapshot; none: what loses nothing.
    pub mend_all: Option<snapshot::Desired>,
}

/// The steps that check a volume, once for each decision.
///
/// # Errors
/// [`Refusal`].
pub fn plan_check(
    desired: &Desired,
    observed: &Observed,
    pool: &PoolFacts,
) -> Result<Vec<Step>, Refusal> {
    let Desired { generation, mend_all } = desired;
    let (record, _) = volume(observed)?;
    match &observed.mount {
        Mount::Ours { .. } => return Err(Refusal::Mounted),
        Mount::Foreign(what) => return Err(Refusal::Foreign(what.clone())),
        Mount::None => {}
    }
    let mut steps = snapshot::begin(observed);
    if observed.device.is_some() {
        steps.push(Step::Deactivate);
    }
    if record.checked.is_some_and(|last| last >= *generation) {
        return Ok(steps);
    }
    if let Some(before) = mend_all {
        let idle = Observed { device: None, unfinished: false, ..observed.clone() };
        steps.extend(snapshot::plan_ensure(before, &idle, pool).unwrap_or_default());
    }
    let mend = if mend_all.is_some() { Mend::All } else { Mend::Safe };
    steps.push(Step::Activate);
    steps.push(Step::Check { mend });
    steps.push(Step::Deactivate);
    steps.push(Step::NoteChecked { generation: *generation });
    Ok(steps)
}

#[cfg(test)]
mod laws;
