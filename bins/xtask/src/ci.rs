//! `cargo xtask ci`: what CI runs, which is what a person would: `check`, the main job twice, what each
//! verb costs on that node, its end, all tests. It prints what each part took, longest first, and as its last line always
//! `N passed, N failed, N skipped`.
//!
//! `.ci/run` has compiled all before, and says by `VES_BIN_DIR` that the main job, the tests and the lab
//! take the same programs. A run that takes too long says which part was late, ends it, cleans up and
//! fails, before the machine is taken away without a word. Never here: a test of its own.

use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

use crate::part::{self, part};
use crate::test::Counts;
use crate::{check, test, tool};

/// How long all may take. The machines of CI are taken away after 90 minutes.
const DEADLINE: Duration = Duration::from_secs(80 * 60);

/// How long what is left to do after the deadline may take.
const GRACE: Duration = Duration::from_secs(4 * 60);

/// What the command line may say.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How long the machine's preparation took before this, in seconds
    #[arg(long, default_value_t = 0)]
    prepared_in: u64,
}

/// Does it.
pub(crate) fn run(args: &Args) -> ExitCode {
    let prepared = Duration::from_secs(args.prepared_in);
    part::before("packages and build", prepared);
    std::thread::spawn(move || watch(DEADLINE.saturating_sub(prepared)));
    let counts = all().unwrap_or_else(|error| {
        println!("error: {error:#}");
        Counts { failed: 1, ..Counts::default() }
    });
    end(counts)
}

fn all() -> Result<Counts> {
    // Tests and examples are for the last part, which runs all there are.
    check::run(&check::Args::without(&["nextest", "doctest"]))?;
    // Twice: the second time everything is there. Then what each verb costs on that node.
    let up = part("up", || xtask(&["up"]))
        .and_then(|()| part("up again", || xtask(&["up"])))
        .and_then(|()| part("counts", || xtask(&["bench", "--counts", "--exact"])));
    // What it leaves is taken away, whatever happened; `down` proves that nothing is left.
    part("down", || xtask(&["down"])).and(up)?;
    Ok(test::all(&test::Args::default()))
}

/// A command of ours as a person types it.
fn xtask(words: &[&str]) -> Result<()> {
    let mut command = Command::new(std::env::current_exe().context("find this program")?);
    command.args(words).current_dir(tool::root());
    tool::run(command)
}

fn end(counts: Counts) -> ExitCode {
    println!(
        "\nWhat each part took, longest first; the lab is prepared while tests run:\n{}",
        part::table()
    );
    println!("{counts}");
    if counts.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Ends the part that runs at the deadline: it then fails as if what it runs had failed.
fn watch(deadline: Duration) {
    std::thread::sleep(deadline);
    let minutes = DEADLINE.as_secs() / 60;
    println!("error: after {minutes} minutes this should be over; late: {}", part::running());
    println!("{}", tool::processes());
    let began = std::time::Instant::now();
    while began.elapsed() < GRACE {
        // Each time, as the next part may have begun.
        for started in descendants() {
            kill_process(started, Signal::TERM).ok(); // it may have ended by itself
        }
        std::thread::sleep(Duration::from_secs(20));
    }
    println!("error: it does not end; late: {}", part::running());
    end(Counts { failed: 1, ..Counts::default() });
    #[expect(clippy::exit, reason = "what would return cannot")]
    std::process::exit(1);
}

/// The processes this one has started, and those that they have, but for what cleans up.
fn descendants() -> Vec<Pid> {
    let Ok(dir) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = dir.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let all: Vec<(i32, i32)> = pids.filter_map(|pid| Some((pid, parent(pid)?))).collect();
    let mut found = Vec::new();
    let mut next = i32::try_from(std::process::id()).map_or_else(|_| Vec::new(), |own| vec![own]);
    while let Some(of) = next.pop() {
        let started = all.iter().filter(|(_, parent)| *parent == of).map(|(pid, _)| *pid);
        let started: Vec<_> = started.filter(|pid| !cleans_up(*pid)).collect();
        found.extend(started.iter().filter_map(|pid| Pid::from_raw(*pid)));
        next.extend(started);
    }
    found
}

fn parent(pid: i32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // pid (name) state parent …, where the name may hold anything.
    stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse().ok()
}

fn cleans_up(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|w| w.ends_with("\0down\0"))
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::process::Stdio;

    use super::*;

    #[test]
    fn what_was_started_is_seen_and_what_cleans_up_is_spared() {
        // A shell that waits for one it has started; each says when it is there.
        let start = |last: &str| {
            let mut shell = Command::new("sh");
            shell.args(["-c", "sh -c 'echo; read x'; true", "sh", last]);
            let mut shell =
                shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
            let out = shell.stdout.as_mut().expect("it is piped");
            out.read_exact(&mut [0]).expect("the inner one is there");
            shell
        };
        let mut shells = [start("up"), start("down")];
        let all: Vec<_> = descendants().into_iter().map(|pid| pid.as_raw_nonzero().get()).collect();
        let [seen, spared] = [&shells[0], &shells[1]].map(|shell| shell.id().cast_signed());
        let below = |pid: i32| all.iter().filter(|of| parent(**of) == Some(pid)).count();
        assert!(all.contains(&seen) && !all.contains(&spared), "{all:?}");
        assert_eq!((below(seen), below(spared)), (1, 0), "{all:?}");
        for shell in &mut shells {
            drop(shell.stdin.take());
            shell.wait().expect("it ends");
        }
    }
}
