//! Leads containers through their lives, and counts or times what each verb does meanwhile.
//!
//! The leading is done by the example `figures` of ves-hosttests. Counts are of lives that strace
//! looks at, times of lives that nobody does.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ves_types::layout::Daemon;

use super::calls::Reader;
use super::cost::Cost;
use super::strace::Strace;
use crate::up;

/// What is said when all lives are over, as if it was a verb: what is done later is of none.
pub(super) const END: &str = "end";

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
pub(super) struct Span {
    verb: String,
    began: u64,
    ended: u64,
}

impl Lives<'_> {
    /// What each verb costs, in the order of a life: the medians of so many.
    pub(crate) fn costs(&self, rounds: usize) -> Result<Vec<(String, Cost)>> {
        let stack = up::node_stack();
        let pid = |service: Daemon| {
            let pid = stack.pid(service)?;
            pid.with_context(|| format!("{} does not run", service.program()))
        };
        let pids = Daemon::ALL.into_iter().map(pid).collect::<Result<_>>()?;
        let strace = Strace::attach(up::target_dir().join("up/counts.strace"), pids)?;
        let spans = self.lead(rounds)?;
        costs(&spans, &strace.end()?)
    }

    /// How long each verb takes: the medians of so many lives.
    pub(crate) fn times(&self, rounds: usize) -> Result<BTreeMap<String, Duration>> {
        Ok(times(&self.lead(rounds)?))
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

/// What each verb cost by a trace, which goes: the medians.
pub(super) fn costs(spans: &[Span], trace: &Path) -> Result<Vec<(String, Cost)>> {
    let mut costs = vec![Cost::default(); spans.len()];
    let mut reader = Reader::default();
    let mut add = |call: super::calls::Call| {
        // What is done before the next verb is of the last one.
        let next = spans.partition_point(|span| span.began <= call.at);
        if let Some(cost) = next.checked_sub(1).and_then(|verb| costs.get_mut(verb)) {
            cost.add(&call);
        }
    };
    let mut lines = BufReader::new(File::open(trace)?);
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line)? > 0 {
        let text = String::from_utf8_lossy(&line);
        reader.line(text.trim_end()).into_iter().for_each(&mut add);
        line.clear();
    }
    reader.rest().for_each(&mut add);
    std::fs::remove_file(trace)?;
    let all = by_verb(spans.iter().map(|span| span.verb.as_str()).zip(costs));
    Ok(all.into_iter().map(|(verb, costs)| (verb, Cost::median(&costs))).collect())
}

/// How long each verb took: the medians.
pub(super) fn times(spans: &[Span]) -> BTreeMap<String, Duration> {
    let took = |span: &Span| Duration::from_micros(span.ended.saturating_sub(span.began));
    let all = by_verb(spans.iter().map(|span| (span.verb.as_str(), took(span))));
    let median = |mut times: Vec<Duration>| {
        times.sort_unstable();
        times.get(times.len() / 2).copied().unwrap_or_default()
    };
    all.into_iter().map(|(verb, times)| (verb, median(times))).collect()
}

/// Reads when each verb began and ended.
pub(super) fn spans(text: &str) -> Result<Vec<Span>> {
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
}
