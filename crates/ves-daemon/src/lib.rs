//! The chassis every daemon shares.
//!
//! Owns what is the same for all five: reading configuration before anything is bound, telemetry,
//! the unix socket and who may call what on it, giving up capabilities, health and reflection,
//! signals and drain, and the shell around every planner: lock, fence, spans, dry runs. Never here: what
//! a service does.
//!
//! ```text
//! run: arguments → config file → descriptors → bind socket → drop capabilities → runtime → telemetry
//!      → build the service → serve until SIGTERM → drain
//! ```
//!
//! Capabilities belong to threads, so they are dropped while there is only one.

#![warn(missing_docs)]

mod accept;
pub mod client;
pub mod config;
pub mod converge;
pub mod fence;
pub mod gate;
mod health;
mod json;
mod locks;
pub mod peer;
mod principal;
pub mod privilege;
mod reflection;
mod refusals;
mod relay;
mod rpc;
pub mod serve;
mod socket;
mod statuses;
pub mod telemetry;
pub mod tls;
mod token;

pub use caps::Capability as Cap;
pub use config::{ServiceConfig, Telemetry};
pub use converge::{Call, Done, Planned, Shell};
pub use fence::FenceStore;
pub use health::Need;
pub use locks::Held;
pub use peer::{CHANGE, Policy, READ, check_policy, check_service_policy};
pub use principal::{Identity, Principal, Role, Scope, principal};
pub use serve::{App, Network, run, serve_on};
pub use tls::{Certificates, Listen};
pub use token::Tokens;

use std::process::ExitCode;

use ves_proto::{Fault, Reason};
use ves_types::layout::Daemon;

/// What a service failed to begin with.
pub type BuildError = Box<dyn std::error::Error + Send + Sync>;

/// Says on standard error why a daemon's program ends, where there is no logging yet or any more,
/// and answers with its exit status.
#[expect(clippy::print_stderr, reason = "before and after logging there is only standard error")]
pub fn complain(daemon: Daemon, what: &str, status: u8) -> ExitCode {
    eprintln!("{}: {what}", daemon.program());
    ExitCode::from(status)
}

/// Runs blocking work of a call on the blocking pool, inside the call's tracing span. A caller that
/// hangs up does not cut it short; a panic in it becomes a `BUG` fault.
///
/// # Errors
/// What `work` fails with.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Fault> + Send + 'static,
) -> Result<T, Fault> {
    let span = tracing::Span::current();
    match tokio::task::spawn_blocking(move || span.in_scope(work)).await {
        Ok(result) => result,
        Err(e) => Err(Fault::new(Reason::Bug, format!("the call ended unexpectedly: {e}"))),
    }
}
