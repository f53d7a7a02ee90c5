//! The lifecycle service: processes of containers on one node.
//!
//! ```text
//! api ─► shell ───► plan (pure)             daemon          one monitor per container
//!  │        │                               ┌──────┐ unix   ┌──────────────────┐ parent of
//!  │        ▼                               │      │ socket │ ves-init monitor │──────────► init
//!  │      Host { observe, apply }           │      │───────►│ console, state,  │
//!  │      ├─ kernel (the node)              │      │        │ exit.json        │
//!  │      └─ fake (memory, with faults)     │      │        └──────────────────┘
//!  └─► session (exec, console) ────────────►│      │───────► ves-init exec ──setns──► command
//!                                           └──────┘
//! ```
//!
//! The daemon may be killed at any time: monitors are nobody's children and hold all that lives.
//! A new daemon finds them by their sockets. Files may be lost, and a hostile init may outlive its monitor:
//! **whether a container lives is said by its control group**, and what lives without a monitor, a stray,
//! is only ended. How a container ended is in `exit.json`, until the next
//! wish that it be absent has been fulfilled.
//!
//! Invariants: init is begun only where no process of the container lives, below a monitor, and dies with
//! it unless it has seen to that itself; nobody outside opens a path inside a container's root; a process that enters a container is invisible and unreachable to it
//! until it executes; a container that runs is hurt only by a wish for its absence.
//!
//! **Booted** means: systemd said so (`READY=1`); any other init executes, which is all that can be
//! known of it from outside.
//!
//! **Sessions**: a command has a parent inside and ends with its session. When the caller disappears, or the
//! daemon is killed, whoever is still in the command's session (setsid(2)) gets SIGHUP and five seconds
//! later SIGKILL; who left the session or ignores SIGHUP (nohup(1)) asked to stay. Where the caller wanted it so, the
//! command is left instead. A time limit ends it alike. A stop kills what is in sessions before init is asked, so
//! that this waits for nothing it has not started; a console attachment just ends.
//!
//! Capabilities: see [`CAPABILITIES`]. Modules, in reading order: [`plan`], [`host`], [`observe`], [`kernel`],
//! [`service`], [`session`], [`api`]; which steps make a container is in [`init_plan`], which `ves-init` uses.

#![warn(missing_docs)]

pub mod api;
pub mod config;
mod converge;
pub mod error;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
pub mod host;
pub mod kernel;
mod last_words;
pub mod observe;
pub mod plan;
pub mod service;
pub mod session;

use std::sync::Arc;

pub use ves_init_proto::init_plan;

use ves_daemon::{App, BuildError, Cap, FenceStore, Shell};
use ves_types::layout::{Daemon as Kind, Layout};

/// Which of the daemons this is.
pub const KIND: Kind = Kind::Lifecycle;

/// What the daemon keeps, for itself and the monitors and helpers it starts (where the service manager
/// runs a starter for these, it needs and is given `SYS_ADMIN`, `SYS_CHROOT`, `DAC_OVERRIDE` and `KILL`
/// only): namespaces, mounts and what devices a group may open (`SYS_ADMIN`, `SYS_CHROOT`), the
/// container's identities (`SETUID`, `SETGID`, `SETPCAP`), nodes and owners in /dev (`MKNOD`, `CHOWN`,
/// `FOWNER`), the containers' groups and maps, which belong to others (`DAC_OVERRIDE`), entering and
/// ending processes of other users (`SYS_PTRACE`, `KILL`), and
/// limits and memory scores (`SYS_RESOURCE`).
pub const CAPABILITIES: &[Cap] = &[
    Cap::CAP_SYS_ADMIN,
    Cap::CAP_SYS_CHROOT,
    Cap::CAP_SETUID,
    Cap::CAP_SETGID,
    Cap::CAP_SETPCAP,
    Cap::CAP_MKNOD,
    Cap::CAP_CHOWN,
    Cap::CAP_FOWNER,
    Cap::CAP_DAC_OVERRIDE,
    Cap::CAP_SYS_PTRACE,
    Cap::CAP_KILL,
    Cap::CAP_SYS_RESOURCE,
];

/// Builds the service on this machine and follows the containers that run.
///
/// # Errors
/// Where the fences cannot be read or `ves-init` is not there.
pub fn build(config: config::Config, layout: Layout) -> Result<App, BuildError> {
    // Pins of network namespaces are the node's.
    ves_host::mount::node::require(layout.run_dir())?;
    let ves_init = match &config.ves_init {
        Some(path) => path.clone(),
        None => std::env::current_exe()?.with_file_name("ves-init"),
    };
    if !ves_init.is_file() {
        return Err(format!(
            "{} is not there; install it beside the daemon, or set service.ves_init",
            ves_init.display()
        )
        .into());
    }
    let fences = FenceStore::open(layout.run_dir().join("fence").join(KIND.name()))?;
    let host = kernel::KernelHost::new(layout, ves_init)?;
    let host = Arc::new(host.allowing(config.allow_devices.clone()));
    host.look_after_views(&config.views)?;
    let shell = Shell::new(KIND, fences, config.max_changes);
    let service = service::Service::new(host, shell, config);
    service.resume()?;
    Ok(App {
        routes: api::routes(service),
        policy: api::POLICY,
        services: api::SERVICES,
        operators: Vec::new(),
        needs: Vec::new(),
        network: None,
    })
}
