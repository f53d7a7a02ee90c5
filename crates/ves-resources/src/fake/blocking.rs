//! The service as a test without a runtime calls it: on its own thread, and not for a dry run.

use std::ops::Deref;

use ves_proto::Fault;
use ves_types::{Fence, Limits};

use crate::counters::Used;
use crate::model::Device;
use crate::service::{Group, Service};

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
    pub fn ensure(&self, fence: &Fence, limits: &Limits) -> Result<Group, Fault> {
        self.ensure_on(fence, limits, None)
    }
    /// The same, of a container whose volume is on this device.
    pub fn ensure_on(
        &self,
        fence: &Fence,
        limits: &Limits,
        device: Option<Device>,
    ) -> Result<Group, Fault> {
        let planned = self.ensuring(fence.ct, limits.clone(), device);
        self.shell().make(*fence, planned)
    }
    /// See [`Service::remove`].
    pub fn remove(&self, fence: &Fence) -> Result<Option<Used>, Fault> {
        self.shell().make(*fence, self.removing(fence.ct))
    }
}
