//! A failure that is kept in a record: what it was, so that it can be told again. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use ves_proto::Reason;
use ves_proto::fault::{Fault, reason_from_name};

/// A failure that is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The reason's name on the wire.
    pub reason: String,
    /// For people.
    pub message: String,
    /// For programs.
    pub facts: BTreeMap<String, String>,
}

impl From<&Fault> for Problem {
    fn from(fault: &Fault) -> Self {
        Self {
            reason: fault.reason_name().to_owned(),
            message: fault.message.clone(),
            facts: fault.facts.clone(),
        }
    }
}

impl Problem {
    /// The fault this was.
    pub fn fault(&self) -> Fault {
        let mut fault =
            Fault::new(reason_from_name(&self.reason).unwrap_or(Reason::Bug), self.message.clone());
        fault.facts.clone_from(&self.facts);
        fault
    }
}
