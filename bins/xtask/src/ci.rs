//! `cargo xtask ci`: what CI runs, which is what a person would: `check`, the main job twice and its
//! end, all tests. It prints what each part took, longest first, and as its last line always
//! `N passed, N failed, N skipped`.
//!
//! `.ci/run` has compiled all before, and says by `VES_BIN_DIR` that the main job, the tests and the lab
//! take the same programs. A run that takes too long says which part was late, ends it, cleans up and fails, before the machine is taken away
//! without a word. Never here: a test of its own.

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
    // Twice: the second time everything is there.
    let up = part("up", || xtask("up")).and_then(|()| part("up again", || xtask("up")));
    // What it leaves is taken away, whatever happened; `down` proves that nothing is left.
    part("down", || xtask("down")).and(up)?;
    Ok(test::all(&test::Args::default()))
}

/// A command of ours as a person types it.
fn xtask(word: &str) -> Result<()> {
    let mut command = Command::new(std::env::current_exe().context("find this program")?);
    command.arg(word).current_dir(tool::root());
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
        for child in children() {
            kill_process(child, Signal::TERM).ok(); // it may have ended by itself
        }
        std::thread::sleep(Duration::from_secs(20));
    }
    println!("error: it does not end; late: {}", part::running());
    end(Counts { failed: 1, ..Counts::default() });
    #[expect(clippy::exit, reason = "what would return cannot")]
    std::process::exit(1);
}

/// The processes this one has started and not waited for, but for those that clean up.
fn children() -> Vec<Pid> {
    let own = std::process::id().to_string();
    let Ok(dir) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = dir.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let words = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        // pid (name) state parent …, where the name may hold anything.
        let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1));
        parent == Some(&*own) && !words.ends_with("\0down\0")
    })
    .filter_map(Pid::from_raw)
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_seen_and_one_that_cleans_up_is_spared() {
        let start = |words: [&str; 3]| {
            Command::new("sh")
                .args(["-c", "read x"])
                .args(words)
                .stdin(std::process::Stdio::piped())
                .spawn()
        };
        let mut seen = start(["sh", "x", "up"]).expect("it starts");
        let mut spared = start(["sh", "x", "down"]).expect("it starts");
        // The words are those of the new program only once it runs.
        while std::fs::read(format!("/proc/{}/comm", spared.id())).expect("it runs") != b"sh\n" {
            std::thread::yield_now();
        }
        let pid = |id: u32| Pid::from_raw(id.cast_signed()).expect("not 0");
        let all = children();
        assert!(all.contains(&pid(seen.id())) && !all.contains(&pid(spared.id())), "{all:?}");
        for child in [&mut seen, &mut spared] {
            drop(child.stdin.take());
            child.wait().expect("it ends");
        }
    }
}
