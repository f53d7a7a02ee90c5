//! What the service needs of a node.

use std::os::unix::net::UnixStream;

use ves_types::CtId;

use crate::error::Error;
use crate::init_plan::Command;
use crate::plan::{Observed, Step};

/// Is told that a container has changed, or with none, that any may have.
pub type Changed = Box<dyn Fn(Option<CtId>) + Send + Sync>;

/// A node, real or not. Every method may block; sessions are streams of [`ves_init_proto::frame`]s.
pub trait Host: Send + Sync + std::fmt::Debug + 'static {
    /// What there is of a container.
    fn observe(&self, ct: CtId) -> Result<Observed, Error>;
    /// The same of many, in their order, in hardly more time than the slowest one takes.
    fn observe_all(&self, cts: &[CtId]) -> Vec<Result<Observed, Error>>;
    /// Performs a step.
    fn apply(&self, ct: CtId, step: &Step) -> Result<(), Error>;
    /// The containers there may be something of.
    fn list(&self) -> Result<Vec<CtId>, Error>;
    /// From now on `changed` is told of each followed container that changes by itself.
    fn on_change(&self, changed: Changed) -> Result<(), Error>;
    /// Follows a container that has a monitor, until it has none; one that has lost it as far as the node can.
    fn follow(&self, ct: CtId) -> Result<(), Error>;
    /// Attaches to the console.
    fn console(&self, ct: CtId, scrollback_only: bool) -> Result<UnixStream, Error>;
    /// Starts a command inside. The first frame tells whether it runs.
    fn exec(&self, ct: CtId, command: &Command) -> Result<UnixStream, Error>;
}
