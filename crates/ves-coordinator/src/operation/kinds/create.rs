//! create: a container that was not there. Failure takes it away again. Pure.

use serde::{Deserialize, Serialize};

use super::{Action, Kind, Stage, Undo};
use crate::container::observed::Observed;
use crate::container::record::Record;

/// Makes a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Create {}

/// create.
pub const fn action() -> Action {
    Action::Create(Create {})
}

impl Kind for Create {
    fn name(&self) -> &'static str {
        "create"
    }

    fn stages(&self) -> &'static [Stage] {
        &[Stage::Created]
    }

    fn undo(&self, record: &mut Record, _: &Observed) -> Undo {
        record.delete();
        Undo::RollBack
    }
}
