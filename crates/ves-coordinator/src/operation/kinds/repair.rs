//! repair: a container becomes what it should be, without any change to that. It is the coordinator's
//! own cause, so nobody is asked, and it is repeated where it fails. Pure.

use serde::{Deserialize, Serialize};

use super::{Action, Kind, Stage, Undo};
use crate::container::observed::Observed;
use crate::container::record::Record;

/// Makes a container what it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repair {}

/// repair.
pub const fn action() -> Action {
    Action::Repair(Repair {})
}

impl Kind for Repair {
    fn name(&self) -> &'static str {
        "repair"
    }

    fn stages(&self) -> &'static [Stage] {
        &[Stage::Repaired]
    }

    fn undo(&self, _: &mut Record, _: &Observed) -> Undo {
        Undo::RollForward
    }

    fn may_be_cancelled(&self) -> bool {
        false
    }
}
