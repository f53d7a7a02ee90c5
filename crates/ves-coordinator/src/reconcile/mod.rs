//! What the coordinator does by itself: at its start, at a boot of the node, when a container ends, and
//! when one is not as it should be.

mod boot;
mod errors;
mod follow;
mod kills;
mod repair;
mod restart;
mod snapshots;
mod usage;
mod watch;
