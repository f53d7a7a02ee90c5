//! What the lifecycle daemon and `ves-init` say to each other, and how the latter makes containers: as
//! which steps.
//!
//! ```text
//!            ── Launch, StartRequest ─▶ monitor    plans and performs InitSteps, answers Requests
//! lifecycled ── Launch, views::Look ───▶ views      what there is, each time it is asked
//!            ── Launch, ExecRequest ──▶ exec       frames of a session, both ways
//! ```
//!
//! Owns these words and their framing, and the names of the files a monitor leaves. The two programs
//! may be of different releases: a container's monitor lives as long as the container. Steps have no form
//! that travels: who is asked plans them, from the identity and the specification it is told. Never here:
//! their performance, which is the program's; system calls.

#![warn(missing_docs)]

mod bounds;
pub mod devices;
mod disorder;
pub mod frame;
pub mod init_plan;
mod launch;
mod limit;
pub mod memory;
pub mod process;
pub mod report;
mod step;
mod systemd;
pub mod user;
pub mod views;

pub use self::launch::{
    Command, ExecRequest, Launch, Memory, Names, OnDisconnect, Spec, StartRequest, Work,
};
pub use self::limit::{Limited, ProcessLimit};
pub use self::step::{EtcFile, InitStep, RunFile, Side, Unless};
