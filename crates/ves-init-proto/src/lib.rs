//! What the lifecycle daemon and `ves-init` say to each other: plans of steps, and reports.
//!
//! ```text
//!            ── Launch, MonitorPlan ──▶ monitor    performs InitSteps, answers Requests
//! lifecycled
//!            ── Launch, ExecPlan ─────▶ exec       frames of a session, both ways
//! ```
//!
//! Owns these words and their framing, and the names of the files a monitor leaves. The two programs
//! may be of different releases: a container's monitor lives as long as the container. Never here:
//! which steps there are and in which order, which the daemon plans; their performance, which is the
//! program's; system calls.

#![warn(missing_docs)]

pub mod frame;
mod launch;
mod limit;
pub mod report;
mod step;

pub use self::launch::{ExecPlan, Launch, MonitorPlan};
pub use self::limit::{Limited, ProcessLimit};
pub use self::step::{EtcFile, InitStep, Side};
