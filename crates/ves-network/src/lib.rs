//! Interfaces, addresses, routes and the firewall base of one node.
//!
//! Owns every container's venet link: a veth pair whose other end is made directly in the
//! container's network namespace, the addresses there, the routes to them here, and the guard that
//! drops what comes with a false source. Never here: names, addresses of its own choosing, state of
//! its own besides the fence and former settings (the kernel is the database).
//!
//! ```text
//!   node                                              container 101 (its own namespace)
//!   ──────────────────────────────────────────        ────────────────────────────────────────
//!   192.0.2.1 dev ves101 proto ves  ┐                 lo up
//!   2001:db8::1 dev ves101 proto ves├─ ves101 ═══════ venet0  192.0.2.1/32, 2001:db8::1/128
//!   neighbours: both → 06:56:…:65   ┘  02:56:…:65     default via 169.254.0.1, fe80::1 onlink
//!                 │                                   neighbours: both → 02:56:…:65
//!                 ▼ prerouting, raw
//!   table inet ves: (ves101 . 192.0.2.1), (ves101 . 2001:db8::1) may be sources; the rest drops
//! ```
//!
//! Invariants: a source is allowed only while its address is routed to that container and no other · what the container's root does
//! inside can break the container's own networking only, until the next Ensure · an address that
//! stays is not touched · no ARP, no neighbour discovery, no duplicate address detection.
//!
//! In reading order: [`plan`], [`plan::node`], [`host`], [`observe`], [`kernel`], [`service`], [`api`].

#![warn(missing_docs)]

use std::process::ExitCode;
use std::sync::Arc;

use ves_daemon::{App, BuildError, Cap, FenceStore, Shell, complain};
use ves_types::layout::{Daemon as Kind, Layout};

pub mod api;
pub mod config;
mod converge;
pub mod error;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
pub mod host;
pub mod kernel;
pub mod observe;
pub mod plan;
pub mod service;

pub use kernel::settings::teardown;

/// What the daemon keeps: changing links, addresses, routes and nf_tables here and in the
/// containers' namespaces (`NET_ADMIN`), and entering those (`SYS_ADMIN`). The pins are in directories
/// that its group gets through.
pub const CAPABILITIES: &[Cap] = &[Cap::CAP_NET_ADMIN, Cap::CAP_SYS_ADMIN];

/// Which of the daemons this is.
pub const KIND: Kind = Kind::Network;

/// Builds the service on this machine and makes the node ready. A node that cannot be made ready is
/// a warning here and a fault of each call.
pub fn build(config: config::Config, layout: Layout) -> Result<App, BuildError> {
    let fences = FenceStore::open(layout.run_dir().join("fence").join(KIND.name()))?;
    let host = Arc::new(kernel::KernelHost::new(layout));
    let shell = Shell::new(KIND, fences, config.max_changes);
    let service = service::Service::new(Arc::<kernel::KernelHost>::clone(&host), shell, &config);
    // Listening begins before looking, so that nothing falls between.
    if let Err(error) = kernel::watch::watch(&host, &service) {
        tracing::error!(error = ves_proto::fault::chain(&error), "nobody looks after the guard");
    }
    if let Err(fault) = service.prepare_node() {
        tracing::warn!(reason = fault.reason_name(), "make the node ready: {fault}");
    }
    Ok(App {
        routes: api::routes(service),
        policy: api::POLICY,
        services: api::SERVICES,
        operators: Vec::new(),
        needs: Vec::new(),
        network: None,
    })
}

/// `ves-networkd --teardown [--run-dir DIR]`: takes the node's part back. `None` where that is not
/// what the command line asks for.
pub fn teardown_asked(mut arguments: impl Iterator<Item = String>) -> Option<ExitCode> {
    if arguments.next().as_deref() != Some("--teardown") {
        return None;
    }
    let layout = match (arguments.next().as_deref(), arguments.next()) {
        (None, _) => Layout::default(),
        (Some("--run-dir"), Some(dir)) => Layout::new(dir, "/var/lib/ves"),
        _ => return Some(complain(KIND, "usage: ves-networkd --teardown [--run-dir DIR]", 2)),
    };
    Some(match teardown(&layout) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => complain(KIND, &ves_proto::fault::chain(&e), 1),
    })
}
