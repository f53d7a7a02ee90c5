//! `cargo xtask test`: all tests but the longest. As root, those of the real kernel too: they make mounts,
//! links, loop devices and control groups with names of their own and take them away again. Then
//! stories of the lab, on Debian 13 in virtual machines, which need no more of this machine than time;
//! what their machines begin from is made while the others run. `--all` runs the longest too.
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
use crate::up;

/// The stories of the lab that are told without `--all`, in nextest's words: what native nodes cannot
/// show. Here, and nowhere else, is decided which.
const STORIES: &str = "test(/^(main_job|limits|power|upgrade)::/)";

/// How many of the slowest tests are listed.
const SLOWEST: usize = 20;

/// After so long a test hangs: what the machine does is shown while it can be seen. It is killed
/// later, see `.config/nextest.toml`; stories show themselves what their machines do.
const HANGS: Duration = Duration::from_secs(300);

/// What the command line may say.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Args {
    /// Leave out the tests of the real kernel, which make containers on this machine
    #[arg(long)]
    no_host: bool,
    /// Leave out the stories of the lab, which make virtual machines
    #[arg(long)]
    no_lab: bool,
    /// Run the longest too: all stories of the lab, hundreds of containers one after another
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
///
/// # Errors
/// When any failed.
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
    part("tests' build", build)?;
    // The stories' machines take all there is of this one: they come last, by themselves.
    let mut words = vec!["-E"];
    if host {
        words.push("not package(ves-lab)");
    } else {
        let why = if args.no_host { "--no-host was said" } else { "this is not root" };
        ensure!(args.no_host || !tool::ci(), "CI must run the tests of the real kernel: {why}");
        println!("the tests of the real kernel are skipped: {why}");
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
    let why = match crate::lab::room(crate::lab::LARGEST) {
        _ if args.no_lab => Some("--no-lab was said".to_owned()),
        _ if !lab => Some("this is not root".to_owned()),
        room => room.err().map(|lack| lack.to_string()),
    };
    let ran = if let Some(why) = why {
        ensure!(args.no_lab || !tool::ci(), "CI must run the stories of the lab: {why}");
        println!("the stories of the lab are skipped: {why}");
        part("tests", || run_nextest(&words, &env, told))?
    } else {
        let (ran, golden) = std::thread::scope(|scope| {
            let golden = scope.spawn(|| part("lab's preparation", crate::lab::prepare));
            let ran = part("tests", || run_nextest(&words, &env, told));
            (ran, golden.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        });
        let ran = ran?;
        let all = args.all || !chosen.is_empty();
        let mut tell = || part("lab's stories", || stories(all, &chosen, &env, told));
        ran.plus(golden.and_then(|_| tell()).unwrap_or_else(|error| {
            println!("error: the stories of the lab cannot be told: {error:#}");
            Counts { failed: 1, ..Counts::default() }
        }))
    };
    // Examples in documents have no names that nextest could choose from.
    if chosen.is_empty() { Ok(ran.plus(part("examples", doctest)?)) } else { Ok(ran) }
}

/// Builds all tests and programs at once: asked for one by one, dependencies would have other features
/// each time and be compiled anew.
///
/// # Errors
/// When they do not build.
pub(crate) fn build() -> Result<()> {
    tool::run(cargo(&["build", "--quiet", "--workspace", "--all-features", "--all-targets"]))
}

/// The stories of the lab, which begin from its golden node.
fn stories(all: bool, chosen: &[&str], env: &[(&str, &str)], told: &mut Told) -> Result<Counts> {
    let at_once = crate::lab::at_once().to_string();
    let short = format!("package(ves-lab) and {STORIES}");
    let filter = if all { "package(ves-lab)" } else { &short };
    let mut words = vec!["-E", filter, "--test-threads", &at_once];
    words.extend((!chosen.is_empty()).then_some("--no-tests=pass"));
    words.extend(chosen);
    let mut counts = run_nextest(&words, env, told)?;
    if !all {
        // Nextest counts those that were not asked for.
        println!("the other stories of the lab are left out: `cargo xtask test --all` tells them");
        counts.skipped = 0;
    }
    Ok(counts)
}

/// What needs neither root nor the lab, in nextest's words.
const WITHOUT_ROOT: &str = "not package(ves-hosttests) and not package(ves-lab)";

/// The tests that need no root.
///
/// # Errors
/// When they do not build.
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
///
/// # Errors
/// When cargo cannot be started.
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
        !name.contains("ves-lab") && seconds >= HANGS.as_secs_f64()
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
