//! What storage on image files costs beside few volumes and beside many, and in proportion to what others do:
//! as Markdown.
//!
//! The pool is made by the example `storage` of ves-hosttests, natively, on loop devices and without daemons;
//! what is compared is done there, in turns. Times are never held against anything. Counts are: beside the
//! most volumes nothing may cost more than beside the fewest.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::cost::{Cost, Kind};
use super::counts::Table;
use super::lives::{self, END, Span};
use super::strace::Strace;
use crate::tool;
use crate::up::{self, Line, Steps};

/// What is installed, and a program of it.
const PACKAGES: [(&str, &str); 5] = [
    super::COUNTER,
    ("xfsprogs", "mkfs.xfs"),
    ("e2fsprogs", "mke2fs"),
    ("busybox-static", "busybox"),
    ("util-linux", "unshare"),
];

/// What the comparison with btrfs wants; it is left out where that is not to be had.
const BTRFS: &str = "btrfs-progs";

/// How often things are done that are counted; in the middle of these is what they have in common.
const COUNTED: usize = 3;

/// What Ves does: a verb, its words, and the verb of the bare calls on the same files.
const OURS: [(&str, &str, &str); 4] = [
    ("create", "create from a template", "clone"),
    ("snapshot", "snapshot", "clone"),
    ("snapshot-delete", "delete the snapshot", "unlink"),
    ("delete", "delete", "unlink"),
];

/// What others do.
const OTHERS: [(&str, &str); 5] = [
    ("clone", "`cp --reflink` of the base image, as bare calls, and `fsync`"),
    ("unlink", "`rm` of that, as bare calls, and `fsync` of the directory"),
    ("subvolume", "`btrfs subvolume snapshot` of the same files, and `syncfs`"),
    ("subvolume-delete", "`btrfs subvolume delete --commit-after` of that"),
    ("tar", "`tar -xz` of the template's archive, and `syncfs`"),
];

/// What the command line may say.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How often everything is done beside each number of volumes
    #[arg(long, default_value_t = 21)]
    rounds: usize,
    /// The numbers of volumes, in ascending order
    #[arg(long, value_delimiter = ',', default_value = "10,100,1000,10000")]
    volumes: Vec<u32>,
    /// Measure programs as they are built for tests, rather than to wait for a release build
    #[arg(long)]
    debug: bool,
}

/// What was measured beside so many volumes.
#[derive(Debug)]
struct Measured {
    volumes: u32,
    times: BTreeMap<String, Duration>,
    costs: Vec<(String, Cost)>,
}

/// Does it.
pub(crate) fn run(args: &Args) -> Result<()> {
    up::require_root()?;
    ensure!(args.volumes.is_sorted(), "the numbers of volumes must ascend");
    let mut steps = Steps::new("bench storage");
    steps.step("packages", "install what is named yourself", |_| {
        for (package, program) in PACKAGES {
            if tool::find(program).is_none() {
                tool::apt(&[package])?;
            }
        }
        let btrfs = tool::find("mkfs.btrfs").is_some() || tool::apt(&[BTRFS]).is_ok();
        let without = if btrfs { "" } else { ", but btrfs-progs: it is left out" };
        Ok(((), format!("all installed{without}")))
    })?;
    let program =
        steps.step("bench build", "mend what cargo reports", |line| build(args.debug, line))?;
    let remedy = "read what it said; nothing of it is left";
    let all = steps.step("measure", remedy, |line| {
        let all = measure(&program, args, line)?;
        Ok((all, format!("{} rounds each, and {COUNTED} with strace", args.rounds)))
    })?;
    let built = if args.debug { "as they are built for tests" } else { "in release" };
    println!("\nMeasured on {}, with programs {built}; medians.", up::description());
    println!("Volumes of 128 MiB from a template of 2 MiB; the pool is an XFS on a loop device.\n");
    println!("{}", shown(&all));
    let grown = grown(&all)?;
    ensure!(grown.is_empty(), "beside many volumes it costs more: {}", grown.join("; "));
    println!("Nothing is counted more often beside the most volumes than beside the fewest.");
    Ok(())
}

fn measure(program: &Path, args: &Args, line: &Line) -> Result<Vec<Measured>> {
    let mut pool = Pool::start(program, &args.volumes)?;
    let mut all = Vec::new();
    for volumes in &args.volumes {
        line.says(&format!("beside {volumes} volumes"));
        all.push(pool.measure(*volumes, args.rounds)?);
    }
    pool.end()?;
    Ok(all)
}

fn build(debug: bool, line: &Line) -> Result<(PathBuf, String)> {
    let mut command = up::cargo();
    command.args(["build", "--color", "never", "--package", "ves-hosttests"]);
    command.args(["--example", "storage"]);
    let profile = if debug {
        "debug"
    } else {
        command.arg("--release");
        "release"
    };
    up::watch(&mut command, line)?;
    Ok((up::target_dir().join(profile).join("examples/storage"), "ready".to_owned()))
}

/// The example, which does what it is told by a line.
struct Pool {
    child: Child,
    ask: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Pool {
    fn start(program: &Path, volumes: &[u32]) -> Result<Self> {
        // What it mounts is gone when it is, however it ends. `unshare` becomes it.
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "--"]).arg(program);
        command.args(volumes.iter().map(ToString::to_string));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let answers = BufReader::new(child.stdout.take().context("its output")?);
        let ask = child.stdin.take();
        Ok(Self { child, ask, answers })
    }

    fn hear(&mut self) -> Result<String> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        match line.trim_end() {
            "" => bail!("it ended; it may have said why"),
            said => match said.strip_prefix("error ") {
                Some(error) => bail!("{error}"),
                None => Ok(said.to_owned()),
            },
        }
    }

    fn tell(&mut self, line: &str) -> Result<()> {
        let ask = self.ask.as_mut().context("it was told to end")?;
        writeln!(ask, "{line}")?;
        Ok(ask.flush()?)
    }

    /// Does everything so often, and hears when.
    fn rounds(&mut self, rounds: usize) -> Result<Vec<Span>> {
        self.tell(&rounds.to_string())?;
        let mut text = String::new();
        loop {
            let line = self.hear()?;
            writeln!(text, "{line}")?;
            if line.split_whitespace().next() == Some(END) {
                return lives::spans(&text);
            }
        }
    }

    fn measure(&mut self, volumes: u32, rounds: usize) -> Result<Measured> {
        let said = self.hear()?;
        ensure!(said == "ready", "it said {said:?}");
        let times = lives::times(&self.rounds(rounds)?);
        let trace = up::target_dir().join("storage.strace");
        let strace = Strace::attach(trace, vec![self.child.id()])?;
        let spans = self.rounds(COUNTED)?;
        let costs = lives::costs(&spans, &strace.end()?)?;
        self.tell("")?;
        Ok(Measured { volumes, times, costs })
    }

    /// Waits until nothing of it is left.
    fn end(mut self) -> Result<()> {
        self.ask = None;
        let status = self.child.wait()?;
        ensure!(status.success(), "it ended with {status}");
        Ok(())
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // It hears that nobody tells it any more, and cleans up.
        self.ask = None;
        self.child.wait().ok();
    }
}

/// What of ours is counted more often beside the most volumes than beside the fewest.
fn grown(all: &[Measured]) -> Result<Vec<String>> {
    let ours = |measured: &Measured| {
        let is_ours = |verb: &str| OURS.iter().any(|(ours, ..)| *ours == verb);
        let costs = measured.costs.iter().filter(|(verb, _)| is_ours(verb)).cloned();
        Table::of(&costs.collect::<Vec<_>>())
    };
    let (Some(few), Some(many)) = (all.first(), all.last()) else { return Ok(Vec::new()) };
    let changes = ours(few).changes(&ours(many))?;
    Ok(changes.iter().filter(|change| change.grew()).map(ToString::to_string).collect())
}

/// Both tables: times with ratios, and counts.
fn shown(all: &[Measured]) -> String {
    let head = |what: &str| {
        let columns = all.iter().fold(String::new(), |text, m| text + &format!(" {} |", m.volumes));
        format!("| {what} |{columns}\n|---|{}\n", "--:|".repeat(all.len()))
    };
    let mut text = head("beside so many volumes");
    let mut row = |what: &str, cell: &dyn Fn(&Measured) -> String| {
        let cells = all.iter().fold(String::new(), |text, m| text + &format!(" {} |", cell(m)));
        writeln!(text, "| {what} |{cells}").ok();
    };
    for (verb, what, bare) in OURS {
        row(what, &|m| format!("{} ({})", time(m, verb), ratio(m, verb, bare)));
    }
    for (verb, what) in OTHERS {
        row(what, &|m| time(m, verb));
    }
    row("create : `btrfs subvolume snapshot`", &|m| ratio(m, "create", "subvolume"));
    row("create : `tar -xz`", &|m| ratio(m, "create", "tar"));
    writeln!(text, "\nIn brackets: in proportion to the bare calls.\n").ok();
    text.push_str(&head("syncs, and system calls in all"));
    let mut row = |what: &str, cell: &dyn Fn(&Measured) -> String| {
        let cells = all.iter().fold(String::new(), |text, m| text + &format!(" {} |", cell(m)));
        writeln!(text, "| {what} |{cells}").ok();
    };
    for (verb, what, _) in OURS {
        row(what, &|m| {
            let cost = m.costs.iter().find(|(counted, _)| counted == verb).map(|(_, cost)| cost);
            let of = |kind| cost.map(|cost| cost.of(kind)).unwrap_or_default();
            format!("{}, {}", of(Kind::Syncs), of(Kind::Calls))
        });
    }
    text
}

fn time(measured: &Measured, verb: &str) -> String {
    match measured.times.get(verb) {
        Some(time) => format!("{:.2} ms", time.as_secs_f64() * 1e3),
        None => "–".to_owned(),
    }
}

fn ratio(measured: &Measured, verb: &str, to: &str) -> String {
    match (measured.times.get(verb), measured.times.get(to)) {
        (Some(time), Some(to)) => {
            let ratio = time.as_secs_f64() / to.as_secs_f64().max(1e-6);
            let digits = if ratio < 1.0 { 2 } else { 1 };
            format!("{ratio:.digits$}×")
        }
        _ => "–".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::calls::Call;

    fn measured(volumes: u32, create: u64, calls: &[&str]) -> Measured {
        let mut cost = Cost::default();
        calls.iter().for_each(|call| cost.add(&Call::whole(0, call)));
        let times = [("create", create), ("clone", 1000), ("tar", 40_000)];
        let times = times.map(|(verb, us)| (verb.to_owned(), Duration::from_micros(us)));
        let costs = vec![("create".to_owned(), cost), ("tar".to_owned(), Cost::default())];
        Measured { volumes, times: times.into(), costs }
    }

    #[test]
    fn what_grows_with_the_number_of_volumes_is_told() {
        let few = || measured(10, 5000, &["fsync(4</a>) = 0"]);
        let same = measured(1000, 90_000, &["fsync(4</a>) = 0"]);
        assert_eq!(grown(&[few(), same]).expect("the same verbs"), [""; 0], "times do not count");
        let more = measured(1000, 5000, &["fsync(4</a>) = 0", "fsync(4</a>) = 0"]);
        let told = grown(&[few(), more]).expect("the same verbs");
        assert!(told.len() == 2 && told[0].contains("1 syncs → 2"), "{told:?}");
    }

    #[test]
    fn it_is_shown_in_proportion_to_others() {
        let all = [measured(10, 5000, &["fsync(4</a>) = 0"]), measured(10_000, 8000, &[])];
        let text = shown(&all);
        let row = "| create from a template | 5.00 ms (5.0×) | 8.00 ms (8.0×) |";
        assert!(text.contains(row), "{text}");
        assert!(text.contains("| create : `tar -xz` | 0.12× | 0.20× |"), "{text}");
        assert!(text.contains("subvolume snapshot` | – | – |"), "what is not there: {text}");
        assert!(text.contains("| create from a template | 1, 1 | 0, 0 |"), "{text}");
        let rows = text.lines().filter(|line| line.starts_with('|'));
        assert!(rows.map(|line| line.matches('|').count()).all(|n| n == 4), "{text}");
    }
}
