//! What a thin volume costs by messages to its pool and by LVM's commands, with more and more volumes in
//! the pool: the lab's part of `bench storage`, for this machine's kernel may have no device-mapper.
//!
//! Owns a virtual machine for as long as it takes; the measuring is done on it by `lvm.sh` and by the example
//! `thin` of ves-host. An emulated machine is slow and its disk is not: only ratios within one run mean
//! anything. Nothing of Ves runs meanwhile, so whatever saved machine the lab has will do. No time is held
//! against anything.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ves_kit::lab::{Booted, Cluster, Machine, Role, story};

use crate::{lab, up};

/// What the command line may say.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Thin volumes in the lab, by messages to the pool and by LVM's commands
    #[arg(long, conflicts_with_all = ["rounds", "volumes", "debug"])]
    pub(super) lvm: bool,
    /// How many volumes there are at most; beyond 1000 the lab takes many minutes
    #[arg(long, requires = "lvm", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(10..=10_000))]
    most: u32,
}

/// How long all of it may take on the emulated machine.
const PATIENCE: Duration = Duration::from_secs(3600);

/// Does it.
pub(crate) fn run(args: &Args) -> Result<()> {
    up::require_root()?;
    lab::room(1)?;
    let say = lab::say();
    let cache = story::cache();
    story::sweep(&cache)?;
    let booted = Booted::current(&cache).or_else(|_| lab::prepare(&say))?;
    say("building what measures");
    let thin = build()?;
    say("starting a machine");
    // Named as a story's, so that it is swept as one if this is killed.
    let dir = cache.join(format!("story-{}", std::process::id()));
    let mut machines = Cluster::emulated(&booted, &dir, &[Role::NODE])?;
    let node = machines.node(1);
    put(node, &thin, "/usr/local/bin/thin")?;
    say("measuring");
    let script = format!("bash -s {} 2>/tmp/lvm.err || (tail /tmp/lvm.err; exit 1)", args.most);
    let out = node.exec_with(&script, include_bytes!("lvm.sh"), PATIENCE)?;
    ensure!(out.status == 0, "measuring stopped ({}): {}", out.status, out.stdout);
    let kernel = node.sh("uname -r; lvm version | sed -n 's/.*LVM version: *//p'")?;
    let left = machines.down()?;
    ensure!(left.is_empty(), "left behind on this machine: {}", left.join(", "));
    say("done");
    let figures = Figures::parse(&out.stdout)?;
    println!("\nOn an emulated machine, Linux {}.\n", kernel.replace('\n', ", LVM "));
    println!("{}", figures.shown()?);
    Ok(())
}

/// Builds what sends the messages, and reads it without what only a debugger would.
fn build() -> Result<Vec<u8>> {
    let mut command = up::cargo();
    command.args(["build", "--quiet", "--release", "--package", "ves-host", "--example", "thin"]);
    ensure!(command.status().context("start cargo")?.success(), "cargo could not build it");
    let program = up::target_dir().join("release/examples/thin");
    std::fs::read(&program).with_context(|| format!("read {}", program.display()))
}

/// Puts a program on a machine.
fn put(node: &dyn Machine, program: &[u8], to: impl AsRef<Path>) -> Result<()> {
    let to = to.as_ref().display();
    let done = node.exec_with(&format!("cat > {to} && chmod 755 {to}"), program, PATIENCE)?;
    ensure!(done.status == 0, "cannot write {to}: {}", done.stderr);
    Ok(())
}

/// What was measured: microseconds or bytes by number of volumes, and by way and operation.
struct Figures(BTreeMap<u32, BTreeMap<String, u64>>);

impl Figures {
    fn parse(text: &str) -> Result<Self> {
        let mut all: BTreeMap<u32, BTreeMap<String, u64>> = BTreeMap::new();
        for line in text.lines() {
            let read = || {
                let (volumes, rest) = line.split_once(' ')?;
                let (what, figure) = rest.rsplit_once(' ')?;
                Some((volumes.parse().ok()?, what.to_owned(), figure.parse().ok()?))
            };
            let (volumes, what, figure) = read().with_context(|| format!("read {line:?}"))?;
            all.entry(volumes).or_default().insert(what, figure);
        }
        Ok(Self(all))
    }

    fn shown(&self) -> Result<String> {
        let mut text = String::from(
            "| volumes | create: messages | `lvcreate -s` | of a stock, `lvrename` | of a stock, shown \
             | snapshot: messages | `lvcreate -s` | delete: messages | `lvremove` |\n\
             |---:|---:|---:|---:|---:|---:|---:|---:|---:|\n",
        );
        let mut sizes = String::new();
        for (volumes, figures) in &self.0 {
            let get = |what: &str| {
                let figure = figures.get(what).copied();
                figure.with_context(|| format!("with {volumes} volumes nothing says {what:?}"))
            };
            // A create is the bare pair: the message that makes a clone, and the device that shows it.
            let show = get("messages show")?;
            let pair = get("messages clone")? + show;
            let snapshot = get("messages snapshot")?;
            let delete = get("messages hide")? + get("messages delete")?;
            let row = [
                millis(pair),
                against(get("lvm create")?, pair),
                against(get("lvm stock")?, pair),
                against(show, pair),
                millis(snapshot),
                against(get("lvm snapshot")?, snapshot),
                millis(delete),
                against(get("lvm delete")?, delete),
            ];
            text += &format!("| {volumes} | {} |\n", row.join(" | "));
            sizes += &format!(
                "{volumes} volumes: {} KiB of the pool's metadata by messages; LVM's record {} KiB\n",
                get("messages metadata")? / 1024,
                get("lvm record")? / 1024,
            );
        }
        text += "\nMedians in ms, and how many times the messages' in the same row.\n";
        Ok(text + &sizes)
    }
}

/// Microseconds, as milliseconds.
fn millis(micros: u64) -> String {
    let tenths = (micros + 50) / 100;
    format!("{}.{}", tenths / 10, tenths % 10)
}

/// The same, and how many times `of` it is.
fn against(micros: u64, of: u64) -> String {
    let tenths = (micros * 10 + of / 2) / of.max(1);
    format!("{} (× {}.{})", millis(micros), tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROW: &str = "10 messages clone 6000\n10 messages show 14000\n10 messages look 3000
10 messages snapshot 10000\n10 messages hide 50000\n10 messages delete 10000
10 lvm create 480000\n10 lvm snapshot 400000\n10 lvm stock 3000000\n10 lvm delete 600000
10 messages metadata 884736\n10 lvm record 8010\n";

    #[test]
    fn rows_hold_all_ways_against_the_messages() {
        let shown = Figures::parse(ROW).expect("read").shown().expect("whole");
        let row = "| 10 | 20.0 | 480.0 (× 24.0) | 3000.0 (× 150.0) | 14.0 (× 0.7) | 10.0 \
                   | 400.0 (× 40.0) | 60.0 | 600.0 (× 10.0) |\n";
        assert!(shown.contains(row), "{shown}");
        assert!(shown.contains("864 KiB of the pool's metadata by messages; LVM's record 7 KiB"));
    }

    #[test]
    fn what_is_missing_or_unclear_is_said() {
        let less =
            ROW.replace("10 lvm stock 3000000\n", "").replace("10 messages hide 50000\n", "");
        let error = Figures::parse(&less).expect("read").shown();
        assert!(error.is_err_and(|e| e.to_string().contains("messages hide")));
        assert!(Figures::parse("10 lvm create soon").is_err());
    }
}
