//! `cargo xtask test`: all tests. As root, those of the real kernel too: they make mounts, links,
//! loop devices and control groups with names of their own and take them away again. Then the stories
//! of the lab, on Debian 13 in virtual machines, which need no more of this machine than time; what
//! their machines begin from is made while the others run.
//!
//! Its last line is always `N passed, N failed, N skipped`.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::tool::{self, cargo};

/// What the command line may say.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Leave out the tests of the real kernel, which make containers on this machine
    #[arg(long)]
    no_host: bool,
    /// Leave out the stories of the lab, which make virtual machines
    #[arg(long)]
    no_lab: bool,
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

/// Runs all tests and prints what was skipped and why, and how many passed.
///
/// # Errors
/// When any failed.
pub(crate) fn run(args: &Args) -> Result<()> {
    let skips = tool::root().join("target/skipped-tests.tsv");
    let result = all(args, &skips);
    let text = std::fs::read_to_string(&skips).unwrap_or_default();
    let (report, recorded) = skipped(&text);
    print!("{report}");
    let mut counts = result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        Counts { failed: 1, ..Counts::default() }
    });
    // A test that skips itself looks passed from outside.
    counts.passed = counts.passed.saturating_sub(recorded);
    counts.skipped += recorded;
    println!("{} passed, {} failed, {} skipped", counts.passed, counts.failed, counts.skipped);
    counts.into_result().map(drop)
}

fn all(args: &Args, skips: &Path) -> Result<Counts> {
    match std::fs::remove_file(skips) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(e).context("cannot begin a new record of skipped tests");
        }
        _ => {}
    }
    let host = !args.no_host && tool::is_root();
    let lab = !args.no_lab && tool::is_root();
    // The stories' machines take all there is of this one: they come last, by themselves.
    let mut words = vec!["-E"];
    if host {
        tool::apt(PACKAGES)?;
        crate::up::make_account()?;
        // Tests start the daemons as processes; nextest builds only what it runs itself.
        tool::run(cargo(&["build", "--quiet", "--workspace", "--all-features", "--bins"]))?;
        words.push("not package(ves-lab)");
    } else {
        let why = if args.no_host { "--no-host was said" } else { "this is not root" };
        ensure!(args.no_host || !tool::ci(), "CI must run the tests of the real kernel: {why}");
        println!("the tests of the real kernel are skipped: {why}");
        words.push("not package(ves-hosttests) and not package(ves-lab)");
    }
    let chosen: Vec<_> = args.nextest.iter().map(String::as_str).collect();
    if !chosen.is_empty() {
        // Those that are meant may all be among the others.
        words.push("--no-tests=pass");
    }
    words.extend(&chosen);
    let skips = skips.to_string_lossy();
    let disposable = if host { "1" } else { "0" };
    let strict = if (host || lab) && tool::ci() { "1" } else { "0" };
    let env = [("VES_SKIPS", &*skips), ("VES_DISPOSABLE", disposable), ("VES_STRICT", strict)];
    let why = match crate::lab::room(crate::lab::LARGEST) {
        _ if args.no_lab => Some("--no-lab was said".to_owned()),
        _ if !lab => Some("this is not root".to_owned()),
        room => room.err().map(|lack| lack.to_string()),
    };
    let tests = if let Some(why) = why {
        ensure!(args.no_lab || !tool::ci(), "CI must run the stories of the lab: {why}");
        println!("the stories of the lab are skipped: {why}");
        nextest(&words, &env)?
    } else {
        let (tests, golden) = std::thread::scope(|scope| {
            let golden = scope.spawn(crate::lab::prepare);
            let tests = nextest(&words, &env);
            (tests, golden.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        });
        let tests = tests?;
        let told = golden.and_then(|_| stories(&chosen, &env)).unwrap_or_else(|error| {
            eprintln!("error: the stories of the lab cannot be told: {error:#}");
            Counts { failed: 1, ..Counts::default() }
        });
        tests.plus(told)
    };
    // Examples in documents have no names that nextest could choose from.
    if args.nextest.is_empty() { Ok(tests.plus(doctest()?)) } else { Ok(tests) }
}

/// The stories of the lab, which begin from its golden node.
///
/// # Errors
/// When they do not build.
fn stories(chosen: &[&str], env: &[(&str, &str)]) -> Result<Counts> {
    let at_once = crate::lab::at_once().to_string();
    let mut words = vec!["-E", "package(ves-lab)", "--test-threads", &at_once];
    words.extend((!chosen.is_empty()).then_some("--no-tests=pass"));
    words.extend(chosen);
    nextest(&words, env)
}

/// The tests of the workspace, by nextest.
///
/// # Errors
/// When they do not build.
pub(crate) fn nextest(words: &[&str], env: &[(&str, &str)]) -> Result<Counts> {
    tool::tool("cargo-nextest")?;
    let mut run = cargo(&["nextest", "run", "--workspace", "--all-features", "--no-fail-fast"]);
    run.args(words).envs(env.iter().copied());
    if env.iter().all(|(name, _)| *name != "VES_DISPOSABLE") {
        run.env("VES_DISPOSABLE", "0");
    }
    if env.iter().all(|(name, _)| *name != "VES_SKIPS") {
        // Without a record a test that lacks something fails.
        run.env("VES_SKIPS", tool::root().join("target/skipped-tests.tsv"));
    }
    let (good, lines) = tool::tee(run)?;
    let counts = lines.iter().rev().find_map(|line| nextest_summary(line));
    let mut counts = counts.context("the tests do not build, or none ran")?;
    if !good && counts.failed == 0 {
        counts.failed = 1;
    }
    Ok(counts)
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

/// What the tests recorded in the kit's file, for people, and how many.
fn skipped(text: &str) -> (String, u32) {
    let mut lines: Vec<_> = text.lines().collect();
    lines.sort_unstable();
    let mut report = String::new();
    for line in &lines {
        let mut parts = line.split('\t');
        let mut part = || parts.next().unwrap_or("?");
        let (test, kind, what, why) = (part(), part(), part(), part());
        let whose = if kind == "kernel" { "this kernel lacks" } else { "not set up:" };
        report += &format!("skipped: {test}: {whose} {what}: {why}\n");
    }
    (report, u32::try_from(lines.len()).unwrap_or(u32::MAX))
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
    fn skips_are_told_with_their_reason() {
        let (report, count) =
            skipped("b\tsetup\tcrun\tinstall it\na\tkernel\tnetkit\tno such kind\n");
        assert_eq!(count, 2);
        assert_eq!(
            report,
            "skipped: a: this kernel lacks netkit: no such kind\n\
             skipped: b: not set up: crun: install it\n"
        );
    }

    #[test]
    fn a_failure_is_an_error() {
        assert!(Counts { passed: 3, failed: 1, skipped: 0 }.into_result().is_err());
        assert!(Counts { passed: 3, failed: 0, skipped: 1 }.into_result().is_ok());
    }
}
