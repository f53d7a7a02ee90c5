//! All daemons in one process: the real coordinator over real unix sockets, with services whose
//! kernel is in memory and can be told to fail.
//!
//! [`Sim`] starts them, kills them and starts them again. Every daemon has a runtime of its own, so
//! that killing one ends all it does at once, as SIGKILL would. Never here: the host.

#![warn(missing_docs)]

pub mod kept;
pub mod kernel;
pub mod models;
pub mod sim;

pub use kernel::{Kernel, Mishap, Victim};
pub use sim::{Sim, each_step};
