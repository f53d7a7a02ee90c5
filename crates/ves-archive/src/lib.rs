//! Judges and unpacks archives nobody trusts, confined to one mounted file system.
//!
//! ```text
//! archive of anybody ──► normalise (confined, sees no files) ──► contents.tar.zst, clean and counted
//! contents.tar.zst   ──► extract   (confined to one volume)  ──► a file system
//! ```
//!
//! The first pass does all judging, as a pure function of a stream; the second believes nothing of
//! it and is kept inside by the kernel. Both run in a process of their own, started from the
//! daemon's executable, in fresh user, mount, network, IPC, UTS and pid namespaces. Never here: where
//! images are and what they are called; the walls, which are the host's; a byte of a foreign archive
//! that is looked at by the daemon.

#![warn(missing_docs)]

mod acl;
mod contents;
mod decompress;
mod extract;
mod helper;
mod normalise;
mod notes;
mod refused;
mod report;
mod root;
mod run;
mod sparse;
mod tree;

pub use self::contents::{Contents, Init, Judging, Limits, Owners};
pub use self::helper::{HELPER, helper};
pub use self::normalise::normalise;
pub use self::refused::{Entries, Refused};
pub use self::run::{Digest, Feed, extract_into, normalise_to};
