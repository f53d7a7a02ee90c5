//! Leads containers through their lives, and counts or times what each verb does meanwhile.
//!
//! The leading is done by the example `figures` of ves-hosttests. Counts are of lives that strace
//! looks at, times of lives that nobody does.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use ves_types::layout::Daemon;

use super::calls::Reader;
use super::cost::Cost;
use crate::up;

/// How long strace may take to attach.
const ATTACHED: Duration = Duration::from_secs(20);

/// What is said when all lives are over, as if it was a verb: what is done later is of none.
const END: &str = "end";

/// Who leads the lives, and where.
#[derive(Debug)]
pub(crate) struct Lives<'a> {
    /// The example `figures`.
    pub(crate) figures: &'a Path,
    /// The template containers are made of.
    pub(crate) template: &'a str,
}

/// When something was done: from its beginning to its end, in microseconds since the epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Span {
    verb: String,
    began: u64,
    ended: u64,
}

impl Lives<'_> {
    /// What each verb costs, in the order of a life: the medians of so many.
    pub(crate) fn costs(&self, rounds: usize) -> Result<Vec<(String, Cost)>> {
        let strace = Strace::attach(up::target_dir().join("up/counts.strace"))?;
        let spans = self.lead(rounds)?;
        let trace = strace.end()?;
        let mut costs = vec![Cost::default(); spans.len()];
        let mut reader = Reader::default();
        let mut add = |call: super::calls::Call| {
            // What is done before the next verb is of the last one.
            let next = spans.partition_point(|span| span.began <= call.at);
            if let Some(cost) = next.checked_sub(1).and_then(|verb| costs.get_mut(verb)) {
                cost.add(&call);
            }
        };
        let mut lines = BufReader::new(File::open(&trace)?);
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line)? > 0 {
            let text = String::from_utf8_lossy(&line);
            reader.line(text.trim_end()).into_iter().for_each(&mut add);
            line.clear();
        }
        reader.rest().for_each(&mut add);
        std::fs::remove_file(&trace)?;
        let all = by_verb(spans.iter().map(|span| span.verb.as_str()).zip(costs));
        Ok(all.into_iter().map(|(verb, costs)| (verb, Cost::median(&costs))).collect())
    }

    /// How long each verb takes: the medians of so many lives.
    pub(crate) fn times(&self, rounds: usize) -> Result<BTreeMap<String, Duration>> {
        let spans = self.lead(rounds)?;
        let took = |span: &Span| Duration::from_micros(span.ended.saturating_sub(span.began));
        let all = by_verb(spans.iter().map(|span| (span.verb.as_str(), took(span))));
        Ok(all
            .into_iter()
            .map(|(verb, mut times)| {
                times.sort_unstable();
                (verb, times.get(times.len() / 2).copied().unwrap_or_default())
            })
            .collect())
    }

    fn lead(&self, rounds: usize) -> Result<Vec<Span>> {
        let mut command = Command::new(self.figures);
        command.args(["lives", self.template, &rounds.to_string()]).stdin(Stdio::null());
        let out = command.output().with_context(|| format!("start {}", self.figures.display()))?;
        let said = String::from_utf8_lossy(&out.stderr);
        ensure!(out.status.success(), "leading a life failed ({}): {}", out.status, said.trim());
        spans(&String::from_utf8_lossy(&out.stdout))
    }
}

/// Reads when each verb began and ended.
fn spans(text: &str) -> Result<Vec<Span>> {
    let span = |line: &str| {
        let mut words = line.split_whitespace();
        let verb = words.next()?.to_owned();
        let mut time = || words.next()?.parse().ok();
        Some(Span { verb, began: time()?, ended: time()? })
    };
    text.lines()
        .map(|line| span(line).with_context(|| format!("no verb and times: {line}")))
        .collect()
}

/// What there is of each verb, without the first, which warms caches, and without the end; in the order
/// verbs come in.
fn by_verb<'a, T>(all: impl Iterator<Item = (&'a str, T)>) -> Vec<(String, Vec<T>)> {
    let mut verbs: Vec<(String, Option<Vec<T>>)> = Vec::new();
    for (verb, value) in all.filter(|(verb, _)| *verb != END) {
        match verbs.iter_mut().find(|(v, _)| v == verb) {
            None => verbs.push((verb.to_owned(), None)),
            Some((_, values)) => values.get_or_insert_default().push(value),
        }
    }
    verbs.into_iter().map(|(verb, values)| (verb, values.unwrap_or_default())).collect()
}

/// strace, attached to the five daemons; it lets go of them when this goes.
#[derive(Debug)]
struct Strace {
    child: Child,
    trace: PathBuf,
    // Ends when strace does; what it said that is worth it.
    listener: Option<std::thread::JoinHandle<String>>,
}

impl Strace {
    /// Attaches it; what it sees goes to the file `trace`.
    fn attach(trace: PathBuf) -> Result<Self> {
        let stack = up::node_stack();
        let mut command = Command::new("strace");
        // All of what goes through a socket, as requests are counted there; times as `Span` has them.
        command.args(["--follow-forks", "-y", "-ttt", "-s", "65536", "-o"]).arg(&trace);
        let mut pids = Vec::new();
        for service in Daemon::ALL {
            let pid = stack.pid(service)?;
            let pid = pid.with_context(|| format!("{} does not run", service.program()))?;
            command.args(["-p", &pid.to_string()]);
            pids.push(pid);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().context("start strace")?;
        let stderr = child.stderr.take().context("its error output")?;
        let (send, attached) = std::sync::mpsc::channel();
        let listener = std::thread::spawn(move || listen(stderr, &send));
        let mut strace = Self { child, trace, listener: Some(listener) };
        let end = Instant::now() + ATTACHED;
        while !pids.is_empty() {
            match attached.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(pid) => pids.retain(|p| *p != pid),
                Err(_) => bail!("strace cannot attach to {pids:?}: {}", strace.stop()),
            }
        }
        Ok(strace)
    }

    /// Lets go of the daemons; hands back where the trace is.
    fn end(mut self) -> Result<PathBuf> {
        ensure!(self.child.try_wait()?.is_none(), "strace ended too early: {}", self.stop());
        self.stop();
        Ok(self.trace.clone())
    }

    /// Ends it, and hands back what it complained of.
    fn stop(&mut self) -> String {
        let Some(listener) = self.listener.take() else { return String::new() };
        // Only a process that was not waited for is signalled; it may have ended all the same.
        if let (Ok(None), Some(pid)) = (self.child.try_wait(), i32::try_from(self.child.id()).ok())
            && let Some(pid) = Pid::from_raw(pid)
        {
            kill_process(pid, Signal::TERM).ok();
        }
        self.child.wait().ok();
        listener.join().unwrap_or_default()
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Tells whom strace has attached to, and hands back at the end what else it said.
fn listen(said: impl Read, attached: &std::sync::mpsc::Sender<u32>) -> String {
    let mut rest = String::new();
    for line in BufReader::new(said).lines().map_while(Result::ok) {
        match attached_to(&line) {
            // Nobody wants to know of those that come later.
            Some(pid) => drop(attached.send(pid)),
            None if line.ends_with(" detached") => {}
            None => rest.push_str(&format!("{line}\n")),
        }
    }
    rest
}

/// Whom a line of strace says that it has attached to.
fn attached_to(line: &str) -> Option<u32> {
    let (pid, what) = line.strip_prefix("strace: Process ")?.split_once(' ')?;
    what.starts_with("attached").then(|| pid.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_verbs_are_read() {
        let all = spans("create 100 250\nstart 300 301\n").expect("two verbs");
        assert_eq!(all.len(), 2);
        assert_eq!(all[0], Span { verb: "create".to_owned(), began: 100, ended: 250 });
        for bad in ["create 100", "create a b", "\n"] {
            assert!(spans(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_first_of_each_verb_does_not_count() {
        let all =
            [("create", 1), ("start", 2), ("create", 3), ("start", 4), ("create", 5), (END, 6)];
        let all = by_verb(all.into_iter());
        assert_eq!(all, [("create".to_owned(), vec![3, 5]), ("start".to_owned(), vec![4])]);
    }

    #[test]
    fn strace_says_whom_it_has() {
        assert_eq!(attached_to("strace: Process 4545 attached with 3 threads"), Some(4545));
        assert_eq!(attached_to("strace: Process 9123 attached"), Some(9123));
        assert_eq!(attached_to("strace: Process 9123 detached"), None);
        let (send, attached) = std::sync::mpsc::channel();
        let said = "strace: Process 7 attached\nstrace: attach: Operation not permitted\n\
                    strace: Process 7 detached\n";
        assert_eq!(listen(said.as_bytes(), &send), "strace: attach: Operation not permitted\n");
        assert_eq!(attached.try_iter().collect::<Vec<_>>(), [7]);
    }
}
