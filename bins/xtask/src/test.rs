//! `cargo xtask test`: all tests. As root, those of the real kernel too: they make mounts, links, loop
//! devices and control groups with names of their own and take them away again. Then stories: on native
//! nodes, and on virtual machines those that need more than this kernel has; what their machines begin
//! from is made while the others run. `--all` tells the native ones on virtual machines too.
//!
//! Its last line is always `N passed, N failed, N skipped`. What was skipped is listed with the reason;
//! what took longest is listed too; where a test hangs, the machine's processes are shown before it is
//! killed.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::part::{longest_first, part};
use crate::tool::{self, cargo};
use crate::{clients, up};

/// How many of the slowest tests are listed.
const SLOWEST: usize = 20;

/// After so long a test hangs: what the machine does is shown while it can be seen. It is killed
/// later, see `.config/nextest.toml`; stories show themselves what their machines do.
const HANGS: Duration = Duration::from_secs(300);

/// What the command line may say.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Args {
    /// Leave out the tests of the real kernel and the stories on native nodes, which make containers on
    /// this machine
    #[arg(long)]
    no_host: bool,
    /// Leave out the stories on virtual machines
    #[arg(long)]
    no_lab: bool,
    /// Run the longest too: stories of native nodes on virtual machines as well, hundreds of containers
    /// one after another
    #[arg(long, conflicts_with = "no_lab")]
    all: bool,
    /// Further words for `cargo nextest run`, such as a part of a test's name
    #[arg(last = true)]
    nextest: Vec<String>,
}

/// Debian packages the tests of the real kernel use.
const PACKAGES: &[&str] = &[
    "btrfs-progs",
    "busybox-static",
    "ca-certificates",
    "crun",
    "curl",
    "debian-archive-keyring",
    "e2fsprogs",
    "gpgv",
    "iproute2",
    "iputils-ping",
    "lxcfs",
    "mmdebstrap",
    "mount",
    "nftables",
    "procps",
    "runc",
    "util-linux",
    "xfsprogs",
    "xz-utils",
    "zstd",
];

/// How a number of tests ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Counts {
    pub(crate) passed: u32,
    pub(crate) failed: u32,
    pub(crate) skipped: u32,
}

impl Counts {
    fn plus(self, other: Self) -> Self {
        Self {
            passed: self.passed + other.passed,
            failed: self.failed + other.failed,
            skipped: self.skipped + other.skipped,
        }
    }
    /// An error if any failed.
    pub(crate) fn into_result(self) -> Result<Self> {
        ensure!(self.failed == 0, "{} failed", self.failed);
        Ok(self)
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// Runs the tests and prints how many passed.
pub(crate) fn run(args: &Args) -> Result<()> {
    let counts = all(args);
    println!("{counts}");
    counts.into_result().map(drop)
}

/// Runs the tests and prints what was skipped and why, and what took longest.
pub(crate) fn all(args: &Args) -> Counts {
    let mut told = Told::default();
    let counts = tests(args, &mut told).unwrap_or_else(|error| {
        println!("error: {error:#}");
        Counts { failed: 1, ..Counts::default() }
    });
    told.skips.sort_unstable();
    told.skips.iter().for_each(|skip| println!("{skip}"));
    if told.times.len() > SLOWEST {
        println!("\nThe slowest tests:\n{}", longest_first(told.times, SLOWEST));
    }
    counts
}

/// What runs of nextest told beside their counts.
#[derive(Debug, Default)]
struct Told {
    skips: Vec<String>,
    times: Vec<(Duration, String)>,
}

fn tests(args: &Args, told: &mut Told) -> Result<Counts> {
    let host = !args.no_host && tool::is_root();
    let lab = !args.no_lab && tool::is_root();
    if host {
        tool::apt(PACKAGES)?;
        up::make_account()?;
    }
    std::thread::scope(|scope| {
        let clients = host.then(|| scope.spawn(|| part("clients' build", clients::build)));
        part("tests' build", build)?;
        match clients.map(std::thread::ScopedJoinHandle::join) {
            // Only tests of clients need them, and fail then.
            Some(Ok(Err(why))) => println!("the clients cannot be built: {why:#}"),
            Some(Err(panic)) => std::panic::resume_unwind(panic),
            Some(Ok(Ok(()))) | None => {}
        }
        Ok::<_, anyhow::Error>(())
    })?;
    // Stories' machines share loop devices and control groups with this one: they come last.
    let mut words = vec!["-E"];
    if host {
        words.push(NO_STORY);
    } else {
        let why = if args.no_host { "--no-host was said" } else { "this is not root" };
        ensure!(args.no_host || !tool::ci(), "CI must run the tests of the real kernel: {why}");
        println!("the tests of the real kernel and stories on native nodes are skipped: {why}");
        words.push(WITHOUT_ROOT);
    }
    let chosen: Vec<_> = args.nextest.iter().map(String::as_str).collect();
    if !chosen.is_empty() {
        // Those that are meant may all be among the others.
        words.push("--no-tests=pass");
    }
    words.extend(&chosen);
    let disposable = if host { "1" } else { "0" };
    let strict = if (host || lab) && tool::ci() { "1" } else { "0" };
    let mut env = vec![("VES_DISPOSABLE", disposable), ("VES_STRICT", strict)];
    env.extend(args.all.then_some(("VES_CYCLES", "200")));
    let lacking = match crate::lab::room(crate::lab::LARGEST) {
        _ if args.no_lab => Some("--no-lab was said".to_owned()),
        _ if !lab => Some("this is not root".to_owned()),
        room => room.err().map(|lack| lack.to_string()),
    };
    if let Some(why) = &lacking {
        ensure!(args.no_lab || !tool::ci(), "CI must run the stories on virtual machines: {why}");
        println!("the stories on virtual machines are skipped: {why}");
    }
    let kinds = Kinds { native: host, emulated: lacking.is_none(), both: args.all };
    let (ran, prepared) = std::thread::scope(|scope| {
        let prepared = scope.spawn(|| kinds.prepare());
        let ran = part("tests", || run_nextest(&words, &env, told));
        (ran, prepared.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    let ran = ran?;
    let told = prepared.and_then(|()| kinds.tell(&chosen, &env, told)).unwrap_or_else(|error| {
        println!("error: stories cannot be told: {error:#}");
        Counts { failed: 1, ..Counts::default() }
    });
    // Examples in documents have no names that nextest could choose from.
    let ran = ran.plus(told);
    if chosen.is_empty() { Ok(ran.plus(part("examples", doctest)?)) } else { Ok(ran) }
}

/// Which stories are told, and on what machines.
#[derive(Debug, Clone, Copy)]
struct Kinds {
    /// Those of `tests/cluster`, on native nodes.
    native: bool,
    /// Those of `tests/lab`, on virtual machines.
    emulated: bool,
    /// Those of `tests/cluster` on virtual machines too.
    both: bool,
}

impl Kinds {
    /// Makes what the machines begin from.
    fn prepare(self) -> Result<()> {
        let say = crate::lab::say();
        if self.native {
            part("native nodes' preparation", || crate::cluster::prepare(&say))?;
        }
        if self.emulated {
            part("virtual machines' preparation", || crate::lab::prepare(&say))?;
        }
        Ok(())
    }

    /// Tells the stories: each waits for its machines most of the time, so that more are told at once
    /// than there are processors.
    fn tell(self, chosen: &[&str], env: &[(&str, &str)], told: &mut Told) -> Result<Counts> {
        let emulated = if self.both { "package(ves-lab)" } else { SHORT };
        let filter = match (self.native, self.emulated) {
            (true, true) => format!("package(ves-cluster) or ({emulated})"),
            (true, false) => "package(ves-cluster)".to_owned(),
            (false, true) => emulated.to_owned(),
            (false, false) => return Ok(Counts::default()),
        };
        let at_once = crate::lab::at_once().to_string();
        let mut tell = |name: &str, filter: &str, machines: &str| {
            let mut words = vec!["-E", filter, "--test-threads", &at_once];
            words.extend((!chosen.is_empty()).then_some("--no-tests=pass"));
            words.extend(chosen);
            let env = [env, &[("VES_MACHINES", machines)]].concat();
            part(name, || run_nextest(&words, &env, told))
        };
        // Where nodes may not be made here, also those stories that could be told on some.
        let machines = if self.native { "" } else { "virtual" };
        let mut counts = tell("stories", &filter, machines)?;
        if self.both {
            counts = counts.plus(tell(
                "native stories on virtual machines",
                "package(ves-cluster)",
                "virtual",
            )?);
        } else {
            println!(
                "`cargo xtask test --all` tells the stories of native nodes on virtual ones too"
            );
        }
        // What a story left that was killed.
        ves_kit::lab::story::sweep(&ves_kit::lab::story::cache())?;
        Ok(counts)
    }
}

/// Builds all tests and programs at once: asked for one by one, dependencies would have other features
/// each time and be compiled anew.
pub(crate) fn build() -> Result<()> {
    tool::run(cargo(&["build", "--quiet", "--workspace", "--all-features", "--all-targets"]))
}

/// The stories on virtual machines that are told without `--all`, in nextest's words.
const SHORT: &str = "package(ves-lab) and not test(/^nested::/)";

/// All but stories, in nextest's words.
const NO_STORY: &str = "not package(ves-cluster) and not package(ves-lab)";

/// What needs neither root nor machines, in nextest's words.
const WITHOUT_ROOT: &str =
    "not package(ves-hosttests) and not package(ves-cluster) and not package(ves-lab)";

/// The tests that need no root.
pub(crate) fn without_root() -> Result<Counts> {
    let mut told = Told::default();
    let counts = run_nextest(&["-E", WITHOUT_ROOT], &[("VES_DISPOSABLE", "0")], &mut told)?;
    told.skips.iter().for_each(|skip| println!("{skip}"));
    Ok(counts)
}

/// Runs tests of the workspace by nextest.
fn run_nextest(words: &[&str], env: &[(&str, &str)], told: &mut Told) -> Result<Counts> {
    tool::tool("cargo-nextest")?;
    let skips = Record::begin()?;
    let mut run = cargo(&["nextest", "run", "--workspace", "--all-features", "--no-fail-fast"]);
    run.args(words).envs(env.iter().copied()).env("VES_SKIPS", &skips.0);
    run.env("VES_BIN_DIR", up::test_bin_dir());
    let (good, lines) = tool::tee_watching(run, |line| {
        if hangs(line) {
            println!("{}", tool::processes());
        }
    })?;
    for (took, name) in lines.iter().filter_map(|line| time(line)) {
        // A failure is told twice.
        if told.times.iter().all(|(_, known)| *known != name) {
            told.times.push((took, name));
        }
    }
    let skipped = skips.read();
    let counts = lines.iter().rev().find_map(|line| nextest_summary(line));
    let mut counts = counts.context("the tests do not build, or none ran")?;
    if !good && counts.failed == 0 {
        counts.failed = 1;
    }
    // A test that skips itself looks passed from outside.
    let recorded = u32::try_from(skipped.len()).unwrap_or(u32::MAX);
    counts.passed = counts.passed.saturating_sub(recorded);
    counts.skipped += recorded;
    told.skips.extend(skipped);
    Ok(counts)
}

/// The file in which tests record that they skipped themselves.
struct Record(PathBuf);

impl Record {
    fn begin() -> Result<Self> {
        let path = tool::root().join("target/skipped-tests.tsv");
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(e).context("cannot begin a new record of skipped tests")
            }
            _ => Ok(Self(path)),
        }
    }
    fn read(&self) -> Vec<String> {
        skipped(&std::fs::read_to_string(&self.0).unwrap_or_default())
    }
}

/// The examples in documents.
pub(crate) fn doctest() -> Result<Counts> {
    let doctest = cargo(&["test", "--doc", "--workspace", "--all-features", "--no-fail-fast"]);
    let (good, lines) = tool::tee(doctest)?;
    let mut counts =
        lines.iter().filter_map(|line| libtest_summary(line)).fold(Counts::default(), Counts::plus);
    if !good && counts.failed == 0 {
        counts.failed = 1;
    }
    Ok(counts)
}

/// Reads `Summary [ 1.2s] 15 tests run: 13 passed (1 slow), 1 failed, 1 timed out, 2 skipped`.
fn nextest_summary(line: &str) -> Option<Counts> {
    let rest = line.trim_start().strip_prefix("Summary [")?.split_once("run: ")?.1;
    let mut counts = Counts::default();
    for part in rest.split(',') {
        let (number, word) = part.trim().split_once(' ')?;
        let number: u32 = number.parse().ok()?;
        match word.split(" (").next().unwrap_or_default() {
            "passed" => counts.passed += number,
            "skipped" => counts.skipped += number,
            // failed, exec failed, timed out, leaked and failed
            _ => counts.failed += number,
        }
    }
    Some(counts)
}

/// Reads `test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; …`.
fn libtest_summary(line: &str) -> Option<Counts> {
    let rest = line.strip_prefix("test result: ")?.split_once(". ")?.1;
    let mut counts = Counts::default();
    for part in rest.split(';') {
        let mut words = part.split_whitespace();
        let Some(Ok(number)) = words.next().map(str::parse::<u32>) else { continue };
        match words.next() {
            Some("passed") => counts.passed += number,
            Some("failed") => counts.failed += number,
            Some("ignored") => counts.skipped += number,
            _ => {}
        }
    }
    Some(counts)
}

/// Reads `PASS [  68.340s] (274/554) ves-hosttests::host system::cycles::two_hundred_lives`.
fn time(line: &str) -> Option<(Duration, String)> {
    let (status, rest) = line.trim_start().split_once('[')?;
    // `Summary [` is not of one test.
    if status.chars().any(|c| c.is_ascii_lowercase()) {
        return None;
    }
    let (seconds, name) = rest.split_once("s] ")?;
    let took = Duration::try_from_secs_f64(seconds.trim().parse().ok()?).ok()?;
    let name = name.trim_start();
    let name = name.strip_prefix('(').and_then(|n| n.split_once(") ")).map_or(name, |(_, n)| n);
    Some((took, name.to_owned()))
}

/// Whether a line says that a test runs so long that it hangs: `SLOW [>300.000s] …`, told again each
/// time it has run a minute longer.
fn hangs(line: &str) -> bool {
    let slow = line.trim_start().strip_prefix("SLOW [>").and_then(|rest| rest.split_once("s]"));
    slow.is_some_and(|(seconds, name)| {
        let seconds = seconds.trim().parse().unwrap_or(0.0);
        let story = ["ves-cluster", "ves-lab"].iter().any(|package| name.contains(package));
        !story && seconds >= HANGS.as_secs_f64()
    })
}

/// What the tests recorded in the kit's file, a line each for people.
fn skipped(text: &str) -> Vec<String> {
    text.lines()
        .map(|line| {
            let mut parts = line.split('\t');
            let mut part = || parts.next().unwrap_or("?");
            let (test, kind, what, why) = (part(), part(), part(), part());
            let whose = if kind == "kernel" { "this kernel lacks" } else { "not set up:" };
            format!("skipped: {test}: {whose} {what}: {why}")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_are_read() {
        let line = "     Summary [   0.672s] 15 tests run: 12 passed (1 slow), 2 failed, 1 timed out, 4 skipped";
        assert_eq!(nextest_summary(line), Some(Counts { passed: 12, failed: 3, skipped: 4 }));
        let line = "     Summary [   0.672s] 1 test run: 1 passed, 0 skipped";
        assert_eq!(nextest_summary(line), Some(Counts { passed: 1, failed: 0, skipped: 0 }));
        assert_eq!(nextest_summary("    Starting 15 tests across 1 binary"), None);
        let line = "test result: FAILED. 2 passed; 1 failed; 3 ignored; 0 measured; 7 filtered out; finished in 0.00s";
        assert_eq!(libtest_summary(line), Some(Counts { passed: 2, failed: 1, skipped: 3 }));
    }

    #[test]
    fn times_are_read() {
        let seconds = |n, name: &str| Some((Duration::from_secs(n), name.to_owned()));
        assert_eq!(
            time("  PASS [  68.000s] (274/554) ves-x::host a::b"),
            seconds(68, "ves-x::host a::b")
        );
        assert_eq!(
            time("  TIMEOUT [ 600.000s] ves-x::host a::b"),
            seconds(600, "ves-x::host a::b")
        );
        assert_eq!(time("  SLOW [> 60.000s] (───────) ves-x::host a::b"), None);
        assert_eq!(time("  Summary [ 440.388s] 554 tests run: 554 passed, 0 skipped"), None);
        assert_eq!(time("[2026] ves-storaged: listens"), None);
    }

    #[test]
    fn a_test_that_hangs_is_seen() {
        assert!(hangs("        SLOW [>300.000s] (───────) ves-x::host a::b"));
        assert!(!hangs("        SLOW [> 60.000s] (───────) ves-x::host a::b"));
        assert!(!hangs("        SLOW [>360.000s] (───────) ves-lab::lab a::b"));
        assert!(!hangs("        PASS [ 360.000s] (274/554) ves-x::host a::b"));
    }

    #[test]
    fn skips_are_told_with_their_reason() {
        assert_eq!(
            skipped("b\tsetup\tcrun\tinstall it\na\tkernel\tnetkit\tno such kind\n"),
            [
                "skipped: b: not set up: crun: install it",
                "skipped: a: this kernel lacks netkit: no such kind",
            ]
        );
    }

    #[test]
    fn a_failure_is_an_error() {
        assert!(Counts { passed: 3, failed: 1, skipped: 0 }.into_result().is_err());
        assert!(Counts { passed: 3, failed: 0, skipped: 1 }.into_result().is_ok());
    }
}
