//! Measures start latency, create-from-template time and hop cost on a node that is up, and prints
//! ratios as Markdown, with the machine they were measured on.
//!
//! Brings the daemons up first where they are not, and leaves them as they are. The measuring itself
//! is the example `figures` of ves-hosttests, since this package does without gRPC.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::ensure;

use crate::up::{self, Steps};

/// What the table compares with.
const PEERS: [(&str, &str); 4] =
    [("crun", "crun"), ("runc", "runc"), ("e2fsprogs", "mke2fs"), ("zstd", "zstd")];

/// What the command line may say.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How many starts are measured; other rows take a number in proportion
    #[arg(long, default_value_t = 40)]
    rounds: usize,
}

/// Does it.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    up::require_root()?;
    let mut steps = Steps::new("bench");
    let template = up::ensure_node(&mut steps, &PEERS)?;
    let (floor, figures) = steps.step("bench build", "mend what cargo reports", |line| {
        let mut command = up::cargo();
        command.args(["build", "--release", "--color", "never", "--package", "ves-host"]);
        command.args(["--package", "ves-hosttests", "--example", "floor", "--example", "figures"]);
        up::watch(&mut command, line)?;
        let examples = up::target_dir().join("release/examples");
        Ok(((examples.join("floor"), examples.join("figures")), "ready".to_owned()))
    })?;
    println!("\nMeasured on {}; medians and 90th percentiles.\n", up::description());
    measure(&figures, &floor, &template, args.rounds)
}

fn measure(figures: &Path, floor: &Path, template: &str, rounds: usize) -> anyhow::Result<()> {
    // crun refuses machines where version 1 and version 2 of control groups are side by side, so the
    // measuring, and nothing else, sees the one of them that has the controllers.
    let without_v2 = "umount /sys/fs/cgroup/unified 2>/dev/null; exec \"$0\" \"$@\"";
    let status = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "--", "sh", "-c", without_v2])
        .arg(figures)
        .arg(floor)
        .args([template, &rounds.to_string()])
        .stdin(Stdio::null())
        .status()?;
    ensure!(status.success(), "measuring stopped ({status}); what it said is above");
    Ok(())
}
