//! Desired state, operations, and the public API.
//!
//! Owns what containers *should be*, and leads the four services there. It has no privilege: it
//! runs as its own user with no capability, and everything it does is an RPC that says what should
//! be, with a generation. The kernel, seen through the services, is the database of what *is*.
//!
//! ```text
//!  API ── admit ── one transaction: operation stored, record changed, nobody else at work
//!                        │
//!                     driver ── look ─ plan ─ step, step, … ─ look ── stored end
//!                        │        └───── four services, over unix sockets ─────┘
//!  lifecycle's stream ── watch: reboot → start again, halt or exit → stopped
//!  start of the daemon ── boot: unfinished operations go on, onboot containers start
//! ```
//!
//! Invariants: a mutating step is made only by the driver of a stored operation, one per container
//! at a time; every step carries the record's generation; a name, an address and an id slot belong
//! to one container, by the store's transaction; an id slot is given out again only when its
//! container is gone completely; a lost volume is never replaced by an empty one.
//!
//! In reading order: [`container`], [`operation`], [`store`], [`services`], [`coordinator`], [`admission`],
//! [`driver`], `reconcile`, [`usage`], [`ledger`], [`metrics`], [`api`].

#![warn(missing_docs)]

pub mod access;
pub mod admission;
pub mod api;
mod authenticate;
pub mod clock;
pub mod config;
pub mod container;
pub mod coordinator;
pub mod driver;
pub mod event;
pub mod events;
pub mod filter;
pub mod last_words;
pub mod ledger;
pub mod metrics;
mod open_streams;
pub mod operation;
pub mod problem;
pub mod queue;
mod reconcile;
pub mod services;
pub mod store;
pub mod token;
pub mod usage;
pub mod wrong;

use std::sync::Arc;

use ves_daemon::{App, BuildError, Cap, Certificates, Network, Tokens};
use ves_types::layout::{Daemon, Layout};

use clock::SystemClock;
pub use config::Config;
pub use coordinator::Coordinator;
use services::Services;
use store::embedded::EmbeddedStore;

/// What it keeps of root's power: nothing.
pub const CAPABILITIES: &[Cap] = &[];

/// Builds the daemon: opens the store, goes on with what is unfinished, and begins to serve.
#[expect(clippy::needless_pass_by_value, reason = "the chassis hands the layout over")]
pub fn build(config: Config, layout: Layout) -> Result<App, BuildError> {
    let dir = layout.service_dir(Daemon::Coordinator);
    std::fs::create_dir_all(&dir).map_err(|e| format!("make {}: {e}", dir.display()))?;
    let path = dir.join("state.redb");
    let store = EmbeddedStore::open(&path)
        .map_err(|e| format!("{} {}", ves_proto::fault::chain(&e), path.display()))?;
    let boot = coordinator::fact_of_kernel("random/boot_id");
    let services = Services::new(&layout);
    let coordinator = Coordinator::open(config, services, Box::new(store), Box::new(SystemClock))?;
    coordinator.begin_work(&boot)?;
    metrics::observe(&coordinator);
    Ok(App { needs: api::needs(&layout), ..app(&coordinator) })
}

/// What a coordinator serves, wherever the services are.
pub fn app(coordinator: &Coordinator) -> App {
    let (routes, operators) = (api::routes(coordinator), coordinator.config().operators.clone());
    let network = coordinator.config().listen.clone().map(|listen| {
        let tokens: Arc<dyn Tokens> = Arc::new(coordinator.clone());
        let certificates: Arc<dyn Certificates> = Arc::new(coordinator.clone());
        Network { listen, tokens: Some(tokens), certificates: Some(certificates) }
    });
    let (policy, services, needs) = (access::POLICY, api::SERVICES, Vec::new());
    App { routes, policy, services, operators, needs, network }
}
