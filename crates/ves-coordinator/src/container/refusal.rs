//! Why nothing is done to a container, and the faults that callers are told. Pure.

use ves_proto::{Fault, Reason};
use ves_types::{CtId, SnapshotId};

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The volume of a container that was created is not there.
    #[error(
        "container {0} has lost its volume; restore it from a backup, or destroy the container"
    )]
    VolumeLost(CtId),
    /// Nothing can be done with its processes but to end them.
    #[error(
        "nobody watches over the processes of container {0}, or who does gives no answer; stop it"
    )]
    Unwatched(CtId),
    /// The snapshot to go back to is not there.
    #[error("container {0} has no snapshot {1}")]
    SnapshotUnknown(CtId, SnapshotId),
    /// Something of another life of the id is there.
    #[error("{}", foreign_message(*.0, .1))]
    Foreign(CtId, Vec<&'static str>),
}

impl From<&Refusal> for Fault {
    fn from(refusal: &Refusal) -> Self {
        let fault = |reason, ct| Self::new(reason, refusal.to_string()).fact("ct", ct);
        match refusal {
            Refusal::VolumeLost(ct) => fault(Reason::VolumeUnknown, ct),
            Refusal::Unwatched(ct) => fault(Reason::Running, ct).fact("lost", "monitor"),
            Refusal::SnapshotUnknown(ct, id) => {
                fault(Reason::SnapshotUnknown, ct).fact("snapshot", id)
            }
            Refusal::Foreign(ct, what) => {
                fault(Reason::ForeignContents, ct).fact("what", what.join(", "))
            }
        }
    }
}

/// What to say of leftovers: they may be somebody's files.
fn foreign_message(ct: CtId, what: &[&str]) -> String {
    format!(
        "there is something of an earlier container {ct} ({}), which is left alone; save what is \
         of use in it and destroy it, or choose another id",
        what.join(", ")
    )
}

/// The container must run for this.
pub fn not_running(ct: CtId) -> Fault {
    let message = format!("container {ct} is not running; start it first");
    Fault::new(Reason::NotRunning, message).fact("ct", ct)
}
