//! The storage service: pools, templates, volumes and their snapshots of one node.
//!
//! ```text
//! api ─► shell ───► plan (pure)
//!           │
//!           ▼
//!         Host { observe, apply }
//!         ├─ kernel: KernelHost<B>   mounts, id maps, growing ext4; templates' archives and records
//!         │    └─ Backend            pool, volumes, snapshots, base images: the seam
//!         │         └─ image         files and loop devices
//!         └─ fake (memory, with faults)
//! ```
//!
//! A volume is an ext4 of its own, made by sharing the blocks of its template's base image; what it is,
//! is recorded with it, so that one publication commits all of it. ext4 fixes the number of inodes per
//! group when it is made, so a template has one base image for each number that was asked for
//! ([`plan::BaseImageId`]).
//!
//! A snapshot is an image beside, with a record too; it is a whole file system, needs no other image,
//! and is never behind a device. [`plan::snapshot`] says how room is counted for it,
//! `kernel/image/snapshot.rs` why the container goes on while it is taken.
//!
//! **The seam is [`kernel::backend::Backend`]**: everything that reads or changes a pool, volume,
//! snapshot or base image goes through it, and only what is below it knows files or loop devices. Thin
//! volumes of LVM would be another folder beside `kernel/image`: base image, volume and snapshot are
//! thin volumes, and records are kept with them; cloning and taking are thin snapshots under a
//! temporary name, publication is renaming after removal of what bears the name, activation and
//! deactivation are the device's, a refresh does nothing, and room is what the thin pool reports.
//! Plans, [`host::Host`] and [`kernel::KernelHost`] stay as they are.
//!
//! Invariants: a volume never shrinks; an image is deleted or replaced only when no device shows it;
//! nothing that is not ours is touched; what is promised was reserved before; no archive is read
//! outside of confinement, and no path inside a volume is opened by this process.
//!
//! Capabilities: see [`CAPABILITIES`]. Modules, in reading order:

#![warn(missing_docs)]

pub mod api;
pub mod config;
mod converge;
pub mod error;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
mod helper;
pub mod host;
pub mod kernel;
pub mod ledger;
pub mod node;
pub mod observe;
pub mod plan;
mod promises;
pub mod service;
pub mod template;

use std::sync::Arc;

use ves_daemon::{App, BuildError, Cap, FenceStore, Shell};
use ves_types::layout::{Daemon as Kind, Layout};

pub use config::Config;
pub use helper::dispatch;

/// What the service needs. The first group is its own work; the second is for the programs it runs,
/// which install packages as root of a directory tree and write files of every owner. Where the
/// service manager runs a builder for these, it is given the first and `SYS_CHROOT` only.
pub const CAPABILITIES: &[Cap] = &[
    // mounts, loop devices, growing file systems, namespaces
    Cap::CAP_SYS_ADMIN,
    // the unpacker's id maps and change of user
    Cap::CAP_SETUID,
    Cap::CAP_SETGID,
    // reserved blocks of the pool's file system
    Cap::CAP_SYS_RESOURCE,
    // mmdebstrap: chroot, owners, device nodes, file capabilities
    Cap::CAP_SYS_CHROOT,
    Cap::CAP_CHOWN,
    Cap::CAP_DAC_OVERRIDE,
    Cap::CAP_FOWNER,
    Cap::CAP_FSETID,
    Cap::CAP_MKNOD,
    Cap::CAP_SETFCAP,
    Cap::CAP_KILL,
];

/// Which of the daemons this is.
pub const KIND: Kind = Kind::Storage;

/// Builds the service on the real host: the pool is attached and watched, and leftovers of a crash are
/// swept. Inside a runtime.
#[expect(clippy::needless_pass_by_value, reason = "the chassis hands them over")]
pub fn build(config: Config, layout: Layout) -> Result<App, BuildError> {
    // The pool and volumes are mounted where the other services see them.
    ves_host::mount::node::require(layout.run_dir())?;
    let fences = FenceStore::open_synced(layout.service_dir(KIND).join("fence"))?;
    let shell = Shell::new(KIND, fences, config.max_changes);
    // The link also works after an upgrade has replaced the executable.
    let host = node::open(&shell, &config, layout, "/proc/self/exe".into())?;
    let service = service::Service::new(Arc::new(host), shell);
    service.watch();
    Ok(api::app(service))
}
