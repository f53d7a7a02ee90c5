//! Pools, templates, volumes and snapshots.

mod archives;
mod build;
mod counted;
mod daemon;
mod differential;
mod pins;
mod room;
mod snapshots;
pub(crate) mod support;
mod volumes;
