//! The service as a test without a runtime calls it: on its own thread, and not for a dry run.

use std::ops::Deref;

use ves_proto::Fault;
use ves_types::{Fence, SnapshotId};

use crate::converge::Checked;
use crate::plan::{Desired, check, snapshot};
use crate::service::{Service, Snapshot, Volume};

/// A service whose changes are made on the calling thread.
#[derive(Debug, Clone)]
pub struct Blocking(pub Service);

impl Deref for Blocking {
    type Target = Service;
    fn deref(&self) -> &Service {
        &self.0
    }
}

impl Blocking {
    /// See [`Service::ensure`].
    pub fn ensure(&self, fence: &Fence, desired: &Desired) -> Result<Volume, Fault> {
        let planned = self.ensuring(fence.ct, desired.clone());
        self.shell.make(*fence, planned)
    }
    /// See [`Service::remove`].
    pub fn remove(&self, fence: &Fence) -> Result<(), Fault> {
        self.shell.make(*fence, self.removing(fence.ct))
    }
    /// See [`Service::ensure_snapshot`].
    pub fn ensure_snapshot(
        &self,
        fence: &Fence,
        desired: &snapshot::Desired,
    ) -> Result<Snapshot, Fault> {
        let planned = self.ensuring_snapshot(fence.ct, desired.clone());
        self.shell.make(*fence, planned)
    }
    /// See [`Service::remove_snapshot`].
    pub fn remove_snapshot(&self, fence: &Fence, id: SnapshotId) -> Result<(), Fault> {
        self.shell.make(*fence, self.removing_snapshot(fence.ct, id))
    }
    /// See [`Service::revert`].
    pub fn revert(&self, fence: &Fence, id: SnapshotId) -> Result<Volume, Fault> {
        self.shell.make(*fence, self.reverting(fence, id))
    }
    /// See [`Service::check`].
    pub fn check(&self, fence: &Fence, desired: &check::Desired) -> Result<Checked, Fault> {
        self.shell.make(*fence, self.checking(fence.ct, desired.clone()))
    }
}
