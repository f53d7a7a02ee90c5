//! Control groups and accounting of one node.
//!
//! Owns the groups `ves/ct-ID` in every hierarchy of this machine, the delegated group `delegated`
//! below the version 2 one, what these groups are limited to, and what they are seen to use. Knows no
//! processes: lifecycle puts them in. What version the machine has is found out, never assumed.
//!
//! ```text
//!  EnsureLimits ─ api ─ shell: lock → admit → observe → plan → apply each → observe
//!                                            │         │        │
//!                            target: limits ⇄ settings │      kernel: files of the hierarchies
//!                                                      plan_shared (ves), plan (ves/ct-ID)
//!  GetGroup ───── api ─ service: observe + usage → rows ← enforcement ← self-test at start
//!  ListUsage ──── api ─ service: counters of all, for metrics: no look at processes or settings
//!
//!  version 1, one hierarchy a controller:   ves ─ ct-101        limits; root's
//!  version 2:                               ves ─ ct-101        limits; root's
//!                                                  └─ delegated   given to the container by its monitor, seen as its root
//! ```
//!
//! Invariants: all containers together have no more than the node without its reserve · a limit that stays is never absent or greater meanwhile · a group with processes is
//! never removed · a row promises only what this node's self-test saw · restarting changes nothing ·
//! nothing here writes outside the hierarchies and `/run/ves/{resources,fence/resources}` · nothing here
//! says which devices may be opened: a container's monitor does, as version 1 asks for `SYS_ADMIN`.
//!
//! Capabilities: see [`CAPABILITIES`].

#![warn(missing_docs)]

pub mod api;
pub mod config;
mod converge;
pub mod counters;
pub mod enforcement;
pub mod error;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
pub mod host;
pub mod kernel;
pub mod model;
pub mod observe;
mod parent;
pub mod plan;
pub mod rows;
pub mod service;
pub mod target;
pub mod victims;

use std::sync::Arc;

use ves_daemon::{App, BuildError, Cap, FenceStore, Shell};
use ves_host::HostError;
use ves_host::kmsg::KernelLog;
use ves_types::layout::{Daemon as Name, Layout};

use crate::config::Config;
use crate::kernel::KernelHost;
use crate::service::Service;

/// What the daemon may do: `DAC_OVERRIDE`, to make groups in a hierarchy's
/// root, which has no write permission even for root, and to look into, count and remove groups whose
/// owner locked everybody out.
pub const CAPABILITIES: &[Cap] = &[Cap::CAP_DAC_OVERRIDE];

/// The kernel's log, which names who was killed. Opening it may need `CAP_SYSLOG`, so it is done before
/// capabilities are given up, and `DAC_OVERRIDE` alone stays.
pub fn kernel_log() -> Result<KernelLog, HostError> {
    KernelLog::open()
}

/// The daemon's service on this machine.
///
/// # Errors
/// When the machine has no control groups that can be used, or `/run/ves` cannot be written.
#[expect(clippy::needless_pass_by_value, reason = "the chassis hands both over")]
pub fn build(
    config: Config,
    layout: Layout,
    log: Result<KernelLog, HostError>,
) -> Result<App, BuildError> {
    if let Err(e) = &log {
        let error = ves_proto::fault::chain(e);
        tracing::warn!(
            error,
            "processes killed because memory ran out are counted without their names"
        );
    }
    let records = layout.run_dir().join(Name::Resources.name());
    let host = KernelHost::detect(records, config.patience())?;
    let host = host.keeping(config.reserve()).hearing(log.ok());
    let fences = FenceStore::open(layout.run_dir().join("fence").join(Name::Resources.name()))?;
    let shell = Shell::new(Name::Resources, fences, config.max_changes);
    let service = Service::new(Arc::new(host), shell)?;
    Ok(app(service))
}

/// What the chassis serves.
pub fn app(service: Service) -> App {
    App {
        routes: api::routes(service),
        policy: api::POLICY,
        services: &[api::NAME],
        operators: Vec::new(),
        needs: Vec::new(),
        network: None,
    }
}
