//! The lab: Debian 13 nodes in virtual machines, joined by a segment of their own.
//!
//! ```text
//!   image ──► base disk (read only)          hub: a thread that passes frames on,
//!               └─ qcow2 overlay a node           drops, delays, partitions
//!                    └─ snapshot "up"           ▲        ▲        ▲
//!   vm: qemu ─ QMP ─ guest agent             node 1   node 2   router …
//! ```
//!
//! Nodes are reached through the guest agent's port, never through their network, so a test can
//! take that away. QEMU emulates the processor: nothing here needs `/dev/kvm`. Stories and what they
//! expect are no matter of this module.

pub mod cluster;
pub mod golden;
pub mod hub;
pub mod image;
pub mod story;
pub mod vm;

pub use cluster::{Cluster, Role};
pub use golden::Golden;
pub use hub::{Fault, Hub};
pub use image::Image;
pub use vm::{DiskFault, Output, Vm};
