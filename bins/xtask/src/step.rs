//! A row of named steps: each is announced and timed, the first failure stops the row unless told
//! otherwise, and a table at the end says what was done, skipped and not reached.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::part::part;

/// How a step ended well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Done; what is worth saying about it, or nothing.
    Done(String),
    /// Done but for a part, and why.
    Partly(String),
    /// Left out, and why.
    Skipped(String),
}

/// One step.
pub(crate) struct Step {
    /// The word by which it is chosen.
    pub(crate) name: &'static str,
    /// What it does, for people.
    pub(crate) what: &'static str,
    /// Does it.
    pub(crate) run: fn() -> Result<Outcome>,
}

/// Runs those of the steps that are `wanted`; `command` is what to type again. The first failure ends
/// it unless it is to `keep_going`.
pub(crate) fn run(
    command: &str,
    steps: &[Step],
    wanted: impl Fn(&str) -> bool,
    keep_going: bool,
) -> Result<()> {
    let steps: Vec<_> = steps.iter().filter(|step| wanted(step.name)).collect();
    let mut done = Vec::new();
    let mut failures = Vec::new();
    for (n, step) in steps.iter().enumerate() {
        println!("── {}/{} {}: {}", n + 1, steps.len(), step.name, step.what);
        let begin = Instant::now();
        let outcome = part(step.name, step.run).map_err(|e| format!("{e:#}"));
        if let Err(why) = &outcome {
            failures.push((step.name, why.clone()));
        }
        done.push((step.name, begin.elapsed(), outcome));
        if !failures.is_empty() && !keep_going {
            break;
        }
    }
    let left: Vec<_> = steps.iter().skip(done.len()).map(|s| s.name).collect();
    println!("\n{}", table(&done, &left));
    match failures.as_slice() {
        [] => Ok(()),
        [(name, why)] => {
            bail!("{name}: {why}\nrun only this step again with `{command} --only {name}`")
        }
        several => {
            let names: Vec<_> = several.iter().map(|(name, _)| *name).collect();
            let again = names.join(" --only ");
            bail!("{} failed\nrun them again with `{command} --only {again}`", names.join(", "))
        }
    }
}

type Row = (&'static str, Duration, Result<Outcome, String>);

fn table(done: &[Row], left: &[&str]) -> String {
    let mut text = String::new();
    let mut line = |name: &str, took: &str, word: &str, note: &str| {
        // Writing to a string cannot fail.
        writeln!(text, "{}", format!("{name:<10} {took:>8}  {word:<8} {note}").trim_end()).ok();
    };
    for (name, took, outcome) in done {
        let took = format!("{:.1} s", took.as_secs_f64());
        let (word, note) = match outcome {
            Ok(Outcome::Done(note)) => ("ok", note.as_str()),
            Ok(Outcome::Partly(why)) => ("partly", why.as_str()),
            Ok(Outcome::Skipped(why)) => ("skipped", why.as_str()),
            Err(why) => ("FAILED", why.lines().next().unwrap_or_default()),
        };
        line(name, &took, word, note);
    }
    for name in left {
        line(name, "", "not run", "");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Result<Outcome> {
        Ok(Outcome::Done("3 files".to_owned()))
    }
    fn bad() -> Result<Outcome> {
        bail!("it broke")
    }

    const STEPS: [Step; 3] = [
        Step { name: "one", what: "first", run: good },
        Step { name: "two", what: "second", run: bad },
        Step { name: "three", what: "third", run: good },
    ];

    #[test]
    fn the_first_failure_stops_and_says_how_to_go_on() {
        let error = run("cargo xtask check", &STEPS, |_| true, false).expect_err("two fails");
        let text = error.to_string();
        assert!(text.contains("two: it broke"), "{text}");
        assert!(text.contains("cargo xtask check --only two"), "{text}");
    }

    #[test]
    fn all_failures_are_told_when_it_goes_on() {
        let steps = [&STEPS[1], &STEPS[0], &STEPS[1]].map(|s| Step { ..*s });
        let error = run("x", &steps, |_| true, true).expect_err("two fails twice");
        assert!(error.to_string().contains("two, two failed"), "{error}");
    }

    #[test]
    fn only_what_is_wanted_runs() {
        run("x", &STEPS, |name| name != "two", false).expect("both are good");
    }

    #[test]
    fn the_table_names_all() {
        let second = Duration::from_secs(1);
        let rows = [
            ("one", second, Ok(Outcome::Done("3 files".to_owned()))),
            ("two", second, Ok(Outcome::Skipped("no network".to_owned()))),
        ];
        assert_eq!(
            table(&rows, &["three"]),
            "one           1.0 s  ok       3 files\n\
             two           1.0 s  skipped  no network\n\
             three                not run\n"
        );
    }
}
