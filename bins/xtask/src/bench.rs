//! Measures a node that is up. Counts what each verb of a container's life costs and holds it against
//! the checked-in table; then measures start latency, create time and hop cost, and prints ratios as
//! Markdown, with the machine they were measured on. What storage costs beside many volumes is a part of
//! its own, without a node.
//!
//! Brings the daemons up first where they are not, and leaves them as they are. The measuring itself
//! is the example `figures` of ves-hosttests, since this package does without gRPC; counted is with
//! strace. No time is ever held against anything: a busy machine would fail it.

mod calls;
mod cost;
mod counts;
mod lives;
mod lvm;
mod storage;
mod strace;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use self::cost::Cost;
use self::counts::{Change, Table};
use self::lives::Lives;
use crate::tool;
use crate::up::{self, Steps};

/// What counts.
const COUNTER: (&str, &str) = ("strace", "strace");

/// What the other tables compare with.
const PEERS: [(&str, &str); 4] =
    [("crun", "crun"), ("runc", "runc"), ("e2fsprogs", "mke2fs"), ("zstd", "zstd")];

/// The table of counts, from the root of the repository.
const COUNTS: &str = "bins/xtask/src/bench/counts.txt";

/// How many lives are counted. They are all alike: in the middle of three is what they have in common.
const COUNTED: usize = 3;

/// How many lives are timed where nothing else is.
const TIMED: usize = 3;

/// What the command line may say.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    part: Option<Part>,
    /// How many starts are measured; other rows take a number in proportion
    #[arg(long, default_value_t = 40)]
    rounds: usize,
    /// Only count what each verb costs; nobody else may use the node meanwhile
    #[arg(long)]
    counts: bool,
    /// Write what was counted to the table, rather than to fail where it has grown
    #[arg(long)]
    update: bool,
    /// Fail only where a count has grown that is the same on every machine, such as RPCs and syncs
    #[arg(long)]
    exact: bool,
}

/// What is measured without a node.
#[derive(Debug, clap::Subcommand)]
enum Part {
    /// Create, snapshot and delete volumes beside few and many, in proportion to what others do
    Storage(Storage),
}

/// Volumes as image files on this machine, or as thin volumes of LVM in the lab.
#[derive(Debug, clap::Args)]
struct Storage {
    #[command(flatten)]
    native: storage::Args,
    #[command(flatten)]
    lab: lvm::Args,
}

/// Does it.
pub(crate) fn run(args: &Args) -> Result<()> {
    if let Some(Part::Storage(args)) = &args.part {
        return if args.lab.lvm { lvm::run(&args.lab) } else { storage::run(&args.native) };
    }
    up::require_root()?;
    let mut steps = Steps::new("bench");
    let mut packages = vec![COUNTER];
    if !args.counts {
        packages.extend(PEERS);
    }
    let template = up::ensure_node(&mut steps, &packages)?;
    let examples = build(&mut steps, args.counts)?;
    let figures = examples.join("figures");
    let lives = Lives { figures: &figures, template: &template };
    let remedy = "read target/up/*.log; only one strace can be attached to a daemon";
    let costs = steps.step("count", remedy, |_| {
        Ok((lives.costs(COUNTED)?, format!("{COUNTED} lives, with strace")))
    })?;
    let timed = if args.counts { TIMED } else { args.rounds.div_ceil(4) };
    let times = steps
        .step("time", remedy, |_| Ok((lives.times(timed)?, format!("{timed} lives, without"))))?;
    let programs = up::bin_dir();
    let programs = programs.strip_prefix(tool::root()).unwrap_or(&programs).display();
    println!("\nMeasured on {}, with the programs in {programs};", up::description());
    println!("medians and 90th percentiles.\n\n## One life\n");
    let counted = Table::of(&costs);
    println!("{}", counted.shown(|verb| times.get(verb).copied().unwrap_or_default()));
    let verdict = judge(&counted, &costs, args);
    if !args.counts {
        measure(&figures, &examples.join("floor"), &template, args.rounds)?;
    }
    verdict
}

/// Builds what measures, and hands back where it is: as tests are built where that is enough.
fn build(steps: &mut Steps, counts: bool) -> Result<PathBuf> {
    steps.step("bench build", "mend what cargo reports", |line| {
        let mut command = up::cargo();
        command.args(["build", "--color", "never", "--example", "figures"]);
        let profile = if counts {
            // Whoever has built all for the tests has it already.
            command.args(["--workspace", "--all-features"]);
            "debug"
        } else {
            command.args(["--release", "--package", "ves-host", "--package", "ves-hosttests"]);
            command.args(["--example", "floor"]);
            "release"
        };
        up::watch(&mut command, line)?;
        Ok((up::target_dir().join(profile).join("examples"), "ready".to_owned()))
    })
}

/// Holds what was counted against the table, or writes it there.
fn judge(counted: &Table, costs: &[(String, Cost)], args: &Args) -> Result<()> {
    let file = tool::root().join(COUNTS);
    let text = std::fs::read_to_string(&file).with_context(|| format!("read {COUNTS}"))?;
    let table = Table::parse(&text).with_context(|| format!("read {COUNTS}"))?;
    if args.update {
        let new = table.updated(counted);
        std::fs::write(&file, new.file()).with_context(|| format!("write {COUNTS}"))?;
        println!("{COUNTS} is {}.", if new == table { "as it was" } else { "written" });
        return Ok(());
    }
    let write = "`cargo xtask bench --counts --update`";
    let changes = table.changes(counted).with_context(|| format!("{write} writes {COUNTS}"))?;
    let (grown, shrunk): (Vec<_>, Vec<_>) = changes.iter().partition(|change| change.grew());
    if !shrunk.is_empty() {
        println!("Less than the table says, well done; {write} lowers it:");
        shrunk.iter().for_each(|change| println!("  {change}"));
        println!();
    }
    if grown.is_empty() {
        println!("No verb costs more than {COUNTS} says.\n");
        return Ok(());
    }
    println!("More than the table says:");
    for change in &grown {
        println!("  {change}");
        // System calls are many; the most frequent say enough.
        let cost = costs.iter().find(|(verb, _)| *verb == change.verb).map(|(_, cost)| cost);
        for (what, n) in
            cost.map(|cost| cost.parts(change.kind)).unwrap_or_default().iter().take(12)
        {
            println!("    {n:>6} {what}");
        }
    }
    let fails = |change: &&&Change| !args.exact || change.kind.is_exact();
    let all: Vec<_> = grown.iter().filter(fails).map(ToString::to_string).collect();
    ensure!(all.is_empty(), "{} of the counts have grown: {}", all.len(), all.join("; "));
    Ok(())
}

fn measure(figures: &Path, floor: &Path, template: &str, rounds: usize) -> Result<()> {
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
