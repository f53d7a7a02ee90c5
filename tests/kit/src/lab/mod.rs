//! Machines to tell stories on: Debian 13 nodes with our packages, joined by a segment of their own.
//!
//! ```text
//!   base ──► golden node ──────────────────► native nodes: system containers of this kernel,
//!   Debian   packages, template;                joined by a bridge in a namespace of its own
//!            made natively     └─► image ──► booted ──► virtual machines: QEMU, joined by a hub
//!                                  a disk    saved as it runs
//! ```
//!
//! Both are a [`Machine`] to a story, which says what it needs and gets the cheapest that has it. Machines
//! are reached by other ways than their network, so a test can take that away. QEMU emulates the
//! processor: nothing here needs `/dev/kvm`. Stories and what they expect are no matter of this module.

pub mod base;
pub mod booted;
pub mod bridge;
pub mod cluster;
pub mod golden;
pub mod groups;
pub mod hub;
pub mod image;
pub mod machine;
pub mod native;
pub mod routing;
pub mod segment;
pub mod story;
pub mod vm;

pub use booted::Booted;
pub use cluster::Cluster;
pub use golden::Golden;
pub use machine::{Machine, Output};
pub use native::Node;
pub use routing::Role;
pub use segment::Fault;
pub use story::Need;
pub use vm::{DiskFault, Vm};
