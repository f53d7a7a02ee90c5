//! What the service needs of a host: to be looked at, and to be changed by one step.
//!
//! Implemented by [`crate::kernel::KernelHost`] and by the fake. Synchronous.

use std::collections::{BTreeMap, BTreeSet};

use ves_host::HostError;
use ves_host::netlink::route::{Link, Traffic};
use ves_types::{CtAddress, CtId};

use crate::error::StepError;
pub use crate::plan::Sources;
use crate::plan::node::{NodeObserved, NodeStep, Rooms};
use crate::plan::{Observed, Step};

/// What went through the node's end of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Through {
    /// The link's number; of two links since the node's boot, the later has the greater one.
    pub link: u32,
    /// What it counts since it exists.
    pub traffic: Traffic,
}

impl From<&Link> for Through {
    fn from(link: &Link) -> Self {
        Self { link: link.index, traffic: link.traffic }
    }
}

/// A node.
pub trait Host: Send + Sync + 'static {
    /// What the node as a whole is, without [`NodeObserved::links`] and [`NodeObserved::sources`].
    fn observe_node(&self) -> Result<NodeObserved, HostError>;

    /// Changes the node by one step.
    fn apply_node(&self, step: &NodeStep) -> Result<(), HostError>;

    /// How much room the kernel has for what all containers fill together.
    fn rooms(&self) -> Result<Rooms, HostError>;

    /// Every link there is, with the addresses that are routed to it by us.
    fn links(&self) -> Result<Sources, HostError>;

    /// What the guard allows.
    fn sources(&self) -> Result<Sources, HostError>;

    /// How many packets the guard dropped for their source; 0 where there is no guard.
    fn spoofed(&self) -> Result<u64, HostError>;

    /// Containers that have a link.
    fn containers(&self) -> Result<BTreeSet<CtId>, HostError>;

    /// What went through the node's end of each link of ours. Read often: it costs one look at the node.
    fn traffic(&self) -> Result<BTreeMap<CtId, Through>, HostError>;

    /// Opens what is needed to look at and change one container's link. Holding it keeps the
    /// container's network namespace alive.
    fn session(&self, ct: CtId) -> Result<Box<dyn Session>, HostError>;
}

/// One container's link, for the time of one call.
pub trait Session {
    /// What is there. Holders are looked for among the wanted addresses; `sources` is what
    /// [`Host::sources`] said.
    fn observe(&mut self, wanted: &[CtAddress], sources: &Sources) -> Result<Observed, HostError>;

    /// Performs one step; one that is done already is no failure.
    fn apply(&mut self, step: &Step) -> Result<(), StepError>;

    /// What went through the node's end of the link; `None` where there is no link.
    fn traffic(&mut self) -> Result<Option<Through>, HostError>;
}
