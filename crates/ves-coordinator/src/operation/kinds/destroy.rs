//! destroy: a container and all that is its own go. There is no way back; it is repeated. Pure.

use serde::{Deserialize, Serialize};
use ves_proto::{Fault, Reason};
use ves_types::Phase;

use super::{Action, Kind, Stage, Undo, must_be_stopped, must_exist, refuse};
use crate::container::observed::Observed;
use crate::container::record::{Presence, Record};

/// Takes a container away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Destroy {}

/// destroy, of whatever is there.
pub const fn action() -> Action {
    Action::Destroy(Destroy {})
}

/// destroy; of one whose destroy failed, the rest of it. What goes down is not taken away on its own word.
///
/// # Errors
/// `RUNNING`, `MOUNTED`, `DELETE_PROTECTED`.
pub fn admit(record: &Record, phase: Phase, stopping: bool) -> Result<Action, Fault> {
    if record.presence != Presence::Deleting {
        must_exist(record)?;
        if record.meta.delete_protection {
            let message = "is protected against deletion; take its delete_protection away first";
            return Err(refuse(Reason::DeleteProtected, record, message));
        }
        if stopping && phase != Phase::Absent {
            let message = "is going down by itself; stop it, which waits for that, then destroy it";
            return Err(refuse(Reason::Running, record, message));
        }
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
