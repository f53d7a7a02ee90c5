//! The whole system with fake hosts, one program for all of its tests.

mod api;
mod changes;
mod crash;
mod damage;
mod dashboards;
mod defaults;
mod devices;
mod events;
mod fields;
mod histories;
mod kills;
mod life;
mod lives;
mod metrics;
mod operations;
mod reconcile;
mod refusals;
mod restart;
mod services;
mod sessions;
mod snapshots;
mod store;
mod templates;
mod tokens;
mod upgrade;
mod usage;
