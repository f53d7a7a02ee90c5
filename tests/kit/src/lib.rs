//! What tests share: what a machine must have, guards that clean up, the host's inventory, waiting,
//! and a receiver for telemetry.
//!
//! Only packages under `tests/` and `xtask` depend on this. It looks at the host by other means than the code
//! under test does (`/proc`, `/sys`, `ip`, `nft`), so that the two can disagree.
//!
//! ```no_run
//! use std::time::Duration;
//! use ves_kit::{Inventory, TestId, TestLayout, need};
//!
//! need!(need::root(), need::disposable(), need::program("mkfs.ext4", "e2fsprogs"));
//! let (id, dir) = (TestId::take(), TestLayout::new());
//! let before = Inventory::take(dir.layout());
//! // ... make and destroy container `id.ct()` under `dir.layout()` ...
//! before.wait_clean(dir.layout(), Duration::from_secs(5));
//! ```
#![warn(missing_docs)]
#![allow(
    clippy::disallowed_methods,
    clippy::panic,
    clippy::print_stderr,
    reason = "test support runs host programs, polls with a deadline and speaks to whoever runs the test"
)]

pub mod clients;
pub mod guard;
pub mod http;
pub mod inventory;
pub mod lab;
pub mod loops;
pub mod need;
pub mod node;
pub mod numbers;
#[cfg(feature = "otlp")]
pub mod otlp;
#[cfg(feature = "otlp")]
pub mod prometheus;
pub mod python;
pub mod rootfs;
pub mod stack;
pub mod sweep;
pub mod wait;

pub use guard::{LoopFile, MountGuard, Proc, TestId, TestLayout, Undo, run};
pub use inventory::Inventory;
pub use need::{Lack, check};
pub use node::TestNode;
pub use numbers::Numbers;
#[cfg(feature = "otlp")]
pub use otlp::{Otlp, SpanKind};
pub use rootfs::Rootfs;
pub use wait::wait_until;
#[cfg(feature = "otlp")]
pub use wait::wait_until_async;
