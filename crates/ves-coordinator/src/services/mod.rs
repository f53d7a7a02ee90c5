//! The four services: clients, how a container is looked at, how a step becomes an RPC.
//!
//! Never here: which step comes when, or trying again.

pub mod apply;
pub mod clients;
pub mod observe;
mod wire;

pub use clients::{Services, ask, fault_of};
pub(crate) use wire::seen_process;
