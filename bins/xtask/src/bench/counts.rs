//! The table of what each verb may cost: what was counted is held against it. Pure.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::cost::{Cost, Kind};

/// What stands at the top of the file.
const HEAD: &str = "\
# What each verb of a container's life costs the node. `cargo xtask bench --counts` counts again and fails
# when anything has grown by more than its tolerance; with `--update` it writes this file.
# rpcs: from the coordinator to the services. syncs: fsync, fdatasync, syncfs and the like. processes: those
# made; threads are none. programs: those executed. calls: system calls. All by the five daemons, by what
# they start, and by the container's init. bytes: written to the coordinator's store.
";

/// What each verb costs, in the order of a life.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Table {
    rows: Vec<(String, [u64; Kind::ALL.len()])>,
}

/// A count that is no longer what the table says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) verb: String,
    pub(crate) kind: Kind,
    pub(crate) from: u64,
    pub(crate) to: u64,
}

impl Change {
    /// Whether it is one for the worse.
    pub(crate) const fn grew(&self) -> bool {
        self.to > self.from
    }
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { verb, kind, from, to } = self;
        let (sign, by) = if self.grew() { ("+", to - from) } else { ("-", from - to) };
        write!(f, "{verb}: {from} {} → {to} ({sign}{by}", kind.name())?;
        if kind.tolerance() > 0 {
            write!(f, ", {} % are tolerated", kind.tolerance())?;
        }
        write!(f, ")")
    }
}

/// Whether two counts are the same as far as counts of this kind can be.
fn same(kind: Kind, a: u64, b: u64) -> bool {
    a.abs_diff(b) * 100 <= a * kind.tolerance()
}

impl Table {
    /// Of what was counted.
    pub(crate) fn of(costs: &[(String, Cost)]) -> Self {
        let row = |cost: &Cost| Kind::ALL.map(|kind| cost.of(kind));
        Self { rows: costs.iter().map(|(verb, cost)| (verb.clone(), row(cost))).collect() }
    }

    /// Of the file.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let mut lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let head = ["verb"].into_iter().chain(Kind::ALL.map(Kind::word));
        let has = lines.next().unwrap_or_default().split_whitespace();
        ensure!(has.eq(head.clone()), "its columns are not {}", head.collect::<Vec<_>>().join(" "));
        let row = |line: &str| {
            let mut words = line.split_whitespace();
            let verb = words.next().unwrap_or_default().to_owned();
            let counts = words.map(str::parse).collect::<Result<Vec<u64>, _>>().ok();
            let counts = counts.and_then(|counts| counts.try_into().ok());
            Ok((verb, counts.with_context(|| format!("not a verb and its counts: {line}"))?))
        };
        Ok(Self { rows: lines.map(row).collect::<Result<_>>()? })
    }

    /// As it stands in the file.
    pub(crate) fn file(&self) -> String {
        let mut text = HEAD.to_owned();
        let mut line = |verb: &str, words: [String; Kind::ALL.len()]| {
            write!(text, "{verb:<16}").ok(); // writing to a string cannot fail
            for word in words {
                write!(text, "{word:>10}").ok();
            }
            text.push('\n');
        };
        line("verb", Kind::ALL.map(|kind| kind.word().to_owned()));
        for (verb, counts) in &self.rows {
            line(verb, counts.map(|n| n.to_string()));
        }
        text
    }

    fn row(&self, verb: &str) -> Option<&[u64; Kind::ALL.len()]> {
        self.rows.iter().find(|(v, _)| v == verb).map(|(_, counts)| counts)
    }

    /// What differs in `counted`, which must be of the same verbs.
    pub(crate) fn changes(&self, counted: &Self) -> Result<Vec<Change>> {
        for (verb, _) in &self.rows {
            ensure!(counted.row(verb).is_some(), "{verb} is in the table and was not counted");
        }
        let mut changes = Vec::new();
        for (verb, now) in &counted.rows {
            let row = self.row(verb).with_context(|| format!("{verb} is not in the table"))?;
            for ((kind, from), to) in Kind::ALL.into_iter().zip(row).zip(now) {
                if !same(kind, *from, *to) {
                    changes.push(Change { verb: verb.clone(), kind, from: *from, to: *to });
                }
            }
        }
        Ok(changes)
    }

    /// The table that `counted` makes of this one: what is the same within its tolerance stays, so that
    /// it neither drifts nor makes noise.
    pub(crate) fn updated(&self, counted: &Self) -> Self {
        let mut new = counted.clone();
        for (verb, counts) in &mut new.rows {
            let Some(row) = self.row(verb) else { continue };
            for ((kind, from), to) in Kind::ALL.into_iter().zip(row).zip(counts) {
                if same(kind, *from, *to) {
                    *to = *from;
                }
            }
        }
        new
    }

    /// As Markdown, with the time that each verb takes.
    pub(crate) fn shown(&self, time: impl Fn(&str) -> Duration) -> String {
        let head = Kind::ALL.map(Kind::name).join(" | ");
        let mut text = format!("| verb | median | {head} |\n|---|{}\n", "--:|".repeat(7));
        for (verb, counts) in &self.rows {
            let counts = counts.map(|n| n.to_string()).join(" | ");
            let time = time(verb).as_secs_f64() * 1e3;
            writeln!(text, "| {verb} | {time:.1} ms | {counts} |").ok();
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(rows: &[(&str, [u64; 6])]) -> Table {
        Table { rows: rows.iter().map(|(verb, counts)| ((*verb).to_owned(), *counts)).collect() }
    }

    const START: [u64; 6] = [15, 10, 4, 2, 5000, 60_000];

    #[test]
    fn what_is_written_is_read() {
        let all = table(&[("create", START), ("snapshot-delete", [0, 1, 2, 3, 4, 5])]);
        let text = all.file();
        assert_eq!(Table::parse(&text).expect("as written"), all);
        assert!(text.lines().all(|line| line.len() < 110), "{text}");
    }

    #[test]
    fn nonsense_is_refused_and_named() {
        let good = table(&[("start", START)]).file();
        for bad in [
            good.replace("syncs processes", "sinks processes"),
            good.replace("5000", "many"),
            format!("{good}stop 1 2 3\n"),
            format!("{good}stop 1 2 3 4 5 6 7\n"),
            String::new(),
        ] {
            assert!(Table::parse(&bad).is_err(), "{bad}");
        }
        let error = Table::parse(&format!("{good}stop 1\n")).expect_err("too short");
        assert!(error.to_string().contains("stop 1"), "{error}");
    }

    #[test]
    fn the_table_of_this_release_can_be_read() {
        Table::parse(include_str!("counts.txt")).expect("it is well-formed");
    }

    #[test]
    fn exact_counts_may_not_grow_by_one() {
        let before = table(&[("start", START)]);
        for (at, kind) in Kind::ALL.into_iter().enumerate().take(4) {
            let mut counts = START;
            counts[at] += 1;
            let changes = before.changes(&table(&[("start", counts)])).expect("the same verbs");
            let [change] = changes.as_slice() else { panic!("one change: {changes:?}") };
            assert!(change.kind == kind && change.grew(), "{change:?}");
        }
        assert_eq!(before.changes(&before).expect("the same verbs"), []);
    }

    #[test]
    fn others_may_grow_within_their_tolerance() {
        let before = table(&[("start", START)]);
        let with = |calls| table(&[("start", [15, 10, 4, 2, calls, 60_000])]);
        for (calls, grew) in [(5250, None), (4750, None), (5251, Some(true)), (4749, Some(false))] {
            let changes = before.changes(&with(calls)).expect("the same verbs");
            assert_eq!(changes.first().map(Change::grew), grew, "{calls}: {changes:?}");
        }
        let none = table(&[("start", [0; 6])]);
        let one = table(&[("start", [0, 0, 0, 0, 1, 0])]);
        assert_eq!(none.changes(&one).expect("the same verbs").len(), 1, "any is more than none");
    }

    #[test]
    fn a_change_says_what_and_by_how_much() {
        let before = table(&[("stop", START)]);
        let after = table(&[("stop", [15, 12, 4, 2, 4000, 60_000])]);
        let changes = before.changes(&after).expect("the same verbs");
        let said: Vec<_> = changes.iter().map(ToString::to_string).collect();
        assert_eq!(
            said,
            [
                "stop: 10 syncs → 12 (+2)",
                "stop: 5000 system calls → 4000 (-1000, 5 % are tolerated)"
            ]
        );
    }

    #[test]
    fn verbs_must_be_the_same() {
        let one = table(&[("start", START)]);
        let two = table(&[("start", START), ("stop", START)]);
        assert!(one.changes(&two).expect_err("new").to_string().contains("stop is not in"));
        assert!(two.changes(&one).expect_err("gone").to_string().contains("stop is in"));
    }

    #[test]
    fn an_update_leaves_what_is_the_same() {
        let before = table(&[("start", START), ("old", START)]);
        let counted = table(&[("start", [14, 10, 4, 2, 5100, 20_000]), ("new", START)]);
        let after = table(&[("start", [14, 10, 4, 2, 5000, 20_000]), ("new", START)]);
        assert_eq!(before.updated(&counted), after);
    }

    #[test]
    fn it_is_shown_with_times() {
        let shown = table(&[("start", START)]).shown(|_| Duration::from_micros(63_740));
        assert!(shown.contains("| start | 63.7 ms | 15 | 10 | 4 | 2 | 5000 | 60000 |"), "{shown}");
        let columns: Vec<_> = shown.lines().map(|line| line.matches('|').count()).collect();
        assert_eq!(columns, [9, 9, 9]);
    }
}
