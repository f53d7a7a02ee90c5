//! What the service asks of a node, and nothing else.

use std::collections::BTreeMap;
use std::fmt::Debug;

use ves_host::HostError;
use ves_types::{CtId, Victim};

use crate::counters::Metered;
use crate::enforcement::SelfTest;
use crate::model::{Observed, Shared};
use crate::observe::FileLocks;
use crate::plan::{SharedStep, Step};
use crate::rows::Usage;

/// A node's control groups, real or not. Synchronous.
pub trait Host: Debug + Send + Sync {
    /// What the parent group is.
    fn observe_shared(&self) -> Result<Shared, HostError>;
    /// Changes the parent group.
    fn apply_shared(&self, step: &SharedStep) -> Result<(), HostError>;
    /// Removes the parent group where no container is in it; one that is in use stays.
    fn release_shared(&self) -> Result<(), HostError>;
    /// What a container's groups are.
    fn observe(&self, ct: CtId) -> Result<Observed, HostError>;
    /// Changes a container's groups.
    fn apply(&self, ct: CtId, step: &Step) -> Result<(), HostError>;
    /// The containers of which there is anything, by id.
    fn containers(&self) -> Result<Vec<CtId>, HostError>;
    /// The file locks of all processes of the node; `None` where the kernel does not tell.
    fn locks(&self) -> Result<Option<FileLocks>, HostError>;
    /// What a container uses; `locks` is what [`Self::locks`] said.
    fn usage(&self, ct: CtId, locks: Option<&FileLocks>) -> Result<Usage, HostError>;
    /// What a container's counters say. Read often: it costs some small files, whatever there is of processes.
    fn metered(&self, ct: CtId) -> Result<Metered, HostError>;
    /// How many processes of each container were killed because memory ran out, where the kernel tells. Read
    /// often: it costs a small file a container.
    fn oom_kills(&self) -> Result<BTreeMap<CtId, u64>, HostError>;
    /// Whom the kernel's log named since this was last asked, the oldest first; nobody where it cannot be read.
    fn victims(&self) -> Result<Vec<(CtId, Victim)>, HostError>;
    /// Whether a disk of the node is shared out by weight.
    fn shares_disks(&self) -> Result<bool, HostError>;
    /// Tries on groups of its own what the node really enforces, and leaves nothing.
    fn self_test(&self) -> Result<SelfTest, HostError>;
}
