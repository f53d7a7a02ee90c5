//! One story: machines from the golden node, what happens on them, and what they said if it failed.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use super::cluster::{Cluster, Role};
use super::golden::Golden;
use crate::need;

/// How long a story may take until its machines are asked what they do: less than nextest gives it.
const LONG: Duration = Duration::from_secs(1740);

/// Where `cargo xtask lab` keeps images, the golden node and what runs.
pub fn cache() -> PathBuf {
    // This package is two levels below the root of the workspace.
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2);
    root.unwrap_or_else(|| Path::new("/")).join("target/lab")
}

/// Runs a story on so many nodes, with no router.
///
/// # Panics
/// When the story fails, after printing the ends of the machines' consoles and journals.
pub fn on(nodes: usize, story: impl FnOnce(&Cluster) -> anyhow::Result<()>) {
    among(&vec![Role::Node; nodes], story);
}

/// Runs a story among machines with these roles.
///
/// # Panics
/// When the story fails, after printing the ends of the machines' consoles and journals.
pub fn among(roles: &[Role], story: impl FnOnce(&Cluster) -> anyhow::Result<()>) {
    let golden = Golden::current(&cache());
    let made = need::setup(
        "the lab's golden node",
        golden.is_ok(),
        "`cargo xtask test` and `cargo xtask lab run` make it",
    );
    let qemu = need::program("qemu-system-x86_64", "qemu-system-x86");
    if !need::check(&[made, qemu]) {
        return;
    }
    let dir = cache().join(format!("story-{}", std::process::id()));
    let told = golden.and_then(|golden| {
        let lab = Cluster::up(&golden, &dir, roles)?;
        let told = std::thread::scope(|scope| {
            let (done, end) = mpsc::channel::<()>();
            // A story that hangs is ended from outside, and then nobody is left to tell.
            let lab = &lab;
            scope.spawn(move || {
                if end.recv_timeout(LONG) == Err(RecvTimeoutError::Timeout) {
                    eprintln!("after {} s:\n{}", LONG.as_secs(), lab.report());
                }
            });
            let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| story(lab)));
            drop(done);
            told
        });
        if !matches!(told, Ok(Ok(()))) {
            eprintln!("{}", lab.report());
        }
        told.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    if let Err(error) = told {
        panic!("{error:#}");
    }
}
