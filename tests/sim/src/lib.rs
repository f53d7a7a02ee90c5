//! All daemons in one process: the real coordinator and the real services, over gRPC without sockets, on a
//! node in memory that can be told to fail.
//!
//! [`Sim`] starts them, kills them and starts them again. Every daemon has a runtime of its own, so
//! that killing one ends all it does at once, as SIGKILL would. Never here: the host.

#![warn(missing_docs)]

mod clock;
pub mod command;
mod exchange;
pub mod history;
pub mod kept;
pub mod settled;
pub mod sim;
pub mod words;

pub use sim::{Sim, each_step, each_step_on_the_node};
pub use ves_fake::{HOLDER, Mishap, Victim, id};
