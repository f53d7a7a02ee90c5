//! The host's mechanisms: the only crate with `unsafe` code and the only one that spawns processes.
//!
//! Owns command running, atomic file writes, fd-based mounts, namespaces, netlink, loop devices,
//! control group files. Synchronous; knows no containers, makes no decisions.

#![warn(missing_docs)]

pub mod cgroup;
pub mod channel;
pub mod child;
pub mod cmd;
pub mod confine;
pub mod device_mapper;
pub mod error;
pub mod ext4;
pub mod extent;
pub mod file;
mod handed;
pub mod holder;
pub mod id_map;
pub mod kmsg;
pub mod loopdev;
pub mod mount;
pub mod namespace;
pub mod netlink;
pub mod nft;
pub mod peer;
pub mod pty;
pub mod sandbox;
pub mod seccomp;
mod thread;

pub use cmd::Cmd;
pub use error::{Attempt, HostError};
