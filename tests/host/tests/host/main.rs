//! Each real mechanism on this machine's kernel, one program for all, in rooms by what they use of the
//! machine. Never here: what could be decided on a plan, or by fake hosts in `tests/sim`.
#![allow(
    clippy::disallowed_methods,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "tests run programs, wait with deadlines, and say what they saw"
)]

use std::os::fd::{AsFd, IntoRawFd};
use std::path::PathBuf;

use ves_host::mount::volumes::Volumes;
use ves_types::CtId;
use ves_types::layout::{self, Layout};

mod lifecycle;
mod network;
mod resources;
mod storage;
mod system;

/// Where a container's volume is to be seen, by this process and those it starts.
fn volume(layout: &Layout, ct: CtId) -> PathBuf {
    let inside = Volumes::new(layout.volumes_dir()).need().expect("the volumes' namespace");
    // Of the namespace itself nothing is kept, or what is mounted in it would stay with this process.
    let root = inside.as_fd().try_clone_to_owned().expect("another descriptor");
    let path = format!("/proc/{}/fd/{}/", std::process::id(), root.into_raw_fd());
    PathBuf::from(path + &layout::volume(ct))
}
