//! One story: machines from the golden node, what happens on them, and what they said if it failed.

use std::path::{Path, PathBuf};

use super::cluster::{Cluster, Role};
use super::golden::Golden;
use crate::need;

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
        let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| story(&lab)));
        if !matches!(told, Ok(Ok(()))) {
            lab.nodes().iter().for_each(report);
        }
        told.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    if let Err(error) = told {
        panic!("{error:#}");
    }
}

/// Prints what may tell why a story failed on this machine.
fn report(vm: &super::Vm) {
    let serial = vm.serial();
    let skip = serial.chars().count().saturating_sub(4000);
    let tail: String = serial.chars().skip(skip).collect();
    eprintln!("--- console of {} ---\n{tail}", vm.name());
    let journal = "journalctl --no-pager -o short-monotonic -n 60; virtctl list -a";
    match vm.exec(journal, std::time::Duration::from_secs(60)) {
        Ok(out) => eprintln!("--- journal of {} ---\n{}{}", vm.name(), out.stdout, out.stderr),
        Err(error) => eprintln!("--- {} does not answer: {error:#} ---", vm.name()),
    }
}
