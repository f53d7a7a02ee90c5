//! destroy: a container and all that is its own go. There is no way back; it is repeated. Pure.

use serde::{Deserialize, Serialize};
use ves_proto::Fault;

use ves_types::Phase;

use super::{Action, Kind, Stage, Undo, must_be_stopped, must_exist};
use crate::container::observed::Observed;
use crate::container::record::{Presence, Record};

/// Takes a container away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Destroy {}

/// destroy, of whatever is there.
pub const fn action() -> Action {
    Action::Destroy(Destroy {})
}

/// destroy; of one whose destroy failed, the rest of it.
///
/// # Errors
/// `RUNNING`, `MOUNTED`.
pub fn admit(record: &Record, phase: Phase) -> Result<Action, Fault> {
    if record.presence != Presence::Deleting {
        must_exist(record)?;
        must_be_stopped(record, phase)?;
    }
    Ok(action())
}

impl Kind for Destroy {
    fn name(&self) -> &'static str {
        "destroy"
    }

    fn gives_back(&self) -> bool {
        true
    }

    fn stages(&self) -> &'static [Stage] {
        &[Stage::Gone]
    }

    fn undo(&self, _: &mut Record, _: &Observed) -> Undo {
        Undo::RollForward
    }

    fn grace_ms(&self, record: &Record) -> u32 {
        record.effective().grace_ms()
    }

    fn may_be_cancelled(&self) -> bool {
        false
    }
}
