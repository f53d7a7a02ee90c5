//! The lifecycle service: processes of containers on one node.
//!
//! ```text
//! api ─► service ─► plan (pure)             daemon          one monitor per container
//!  │        │                               ┌──────┐ unix   ┌──────────────────┐ parent of
//!  │        ▼                               │      │ socket │ ves-init monitor │──────────► init
//!  │      Host { observe, apply }           │      │───────►│ console, state,  │
//!  │      ├─ exec (the node)                │      │        │ exit.json        │
//!  │      └─ fake (memory, with faults)     │      │        └──────────────────┘
//!  └─► session (exec, console) ────────────►│      │───────► ves-init exec ──setns──► command
//!                                           └──────┘
//! ```
//!
//! The daemon may be killed at any time: monitors are nobody's children and hold all that lives.
//! A new daemon finds them by their sockets. How a container ended is in `exit.json`, until the next
//! wish that it be absent has been fulfilled.
//!
//! Invariants: init runs only below a live monitor and dies with it; nobody outside opens a path
//! inside a container's root; a process that enters a container is invisible and unreachable to it
//! until it executes; a container that runs is hurt only by a wish for its absence.
//!
//! **Booted** means: systemd said so (`READY=1`); any other init executes, which is all that can be
//! known of it from outside.
//!
//! **Sessions**: when a caller disappears, a command with a terminal gets SIGHUP as its terminal is
//! gone, and one without goes on with closed pipes, as under sshd. The same happens when the daemon
//! is killed; a console attachment just ends.
//!
//! Capabilities: see [`CAPABILITIES`]. Modules, in reading order:

#![warn(missing_docs)]

pub mod config;
pub mod error;
pub mod exec;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
pub mod host;
pub mod init_plan;
pub mod plan;
