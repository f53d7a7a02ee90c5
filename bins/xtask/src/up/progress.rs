//! Shows a person what is being done: one line a step, a spinner on a terminal, plain lines
//! elsewhere, and at the end the time each step took.
//!
//! Does nothing itself; the steps are closures of the caller.

use std::cell::Cell;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often a long step says something where there is no terminal.
const PLAIN_PAUSE: Duration = Duration::from_secs(5);

/// The steps of one command.
#[derive(Debug)]
pub(crate) struct Steps {
    command: &'static str,
    begun: Instant,
    done: Vec<Done>,
}

#[derive(Debug)]
struct Done {
    what: &'static str,
    note: String,
    took: Duration,
}

/// The line of the step that is being done.
#[derive(Debug)]
pub(crate) struct Line {
    what: &'static str,
    bar: ProgressBar,
    begun: Instant,
    spoke: Cell<Instant>,
}

impl Steps {
    /// No step yet of `command`, such as `up`.
    pub(crate) fn new(command: &'static str) -> Self {
        Self { command, begun: Instant::now(), done: Vec::new() }
    }

    /// Does one step and says how it went; `work` hands back its value and a note on it.
    ///
    /// # Errors
    /// What `work` failed with, the step's name before it and `remedy` after it.
    pub(crate) fn step<T>(
        &mut self,
        what: &'static str,
        remedy: &str,
        work: impl FnOnce(&Line) -> anyhow::Result<(T, String)>,
    ) -> anyhow::Result<T> {
        let begun = Instant::now();
        let line = Line { what, bar: spinner(what), begun, spoke: Cell::new(begun) };
        let result = work(&line);
        line.bar.finish_and_clear();
        let took = begun.elapsed();
        match result {
            Ok((value, note)) => {
                println!("  ✓ {what:<12} {:>9}  {note}", seconds(took));
                self.done.push(Done { what, note, took });
                Ok(value)
            }
            Err(e) => {
                println!("  ✗ {what:<12} {:>9}  failed", seconds(took));
                Err(anyhow::anyhow!(
                    "`cargo xtask {}` stopped at step {} ({what}): {e:#}\n\nwhat to do: {remedy}",
                    self.command,
                    self.done.len() + 1,
                ))
            }
        }
    }

    /// The time since the first step.
    pub(crate) fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// The table of steps and times.
    pub(crate) fn table(&self) -> String {
        let mut text = format!("{:<14}{:>10}  RESULT\n", "STEP", "TIME");
        for Done { what, note, took } in &self.done {
            text.push_str(&format!("{what:<14}{:>10}  {note}\n", seconds(*took)));
        }
        text.push_str(&format!("{:<14}{:>10}", "all", seconds(self.elapsed())));
        text
    }
}

impl Line {
    /// Says what the step is at. Without a terminal this is printed now and then only.
    pub(crate) fn says(&self, text: &str) {
        let text = text.trim();
        if text.is_empty() {
            return;
        }
        let text: String = text.chars().filter(|c| !c.is_control()).take(90).collect();
        if self.bar.is_hidden() {
            if self.spoke.get().elapsed() >= PLAIN_PAUSE {
                self.spoke.set(Instant::now());
                println!("  … {:<12} {:>9}  {text}", self.what, seconds(self.begun.elapsed()));
            }
        } else {
            self.bar.set_message(text);
        }
    }
}

fn spinner(what: &'static str) -> ProgressBar {
    if !std::io::stdout().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stdout());
    if let Ok(style) = ProgressStyle::with_template("  {spinner} {prefix:<12} {elapsed:>9}  {msg}")
    {
        bar.set_style(style);
    }
    bar.set_prefix(what);
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

/// A duration as people read it.
pub(crate) fn seconds(took: Duration) -> String {
    match took.as_millis() {
        0..1000 => format!("{} ms", took.as_millis()),
        1000..100_000 => format!("{:.2} s", took.as_secs_f64()),
        _ => format!("{} min {:02} s", took.as_secs() / 60, took.as_secs() % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_step_reason_and_remedy() {
        let mut steps = Steps::new("up");
        steps.step("first", "nothing", |_| Ok(((), "done".to_owned()))).expect("it cannot fail");
        let failed: anyhow::Result<()> =
            steps.step("second", "buy a disk", |_| Err(anyhow::anyhow!("the disk is full")));
        assert_eq!(
            failed.expect_err("it fails").to_string(),
            "`cargo xtask up` stopped at step 2 (second): the disk is full\n\nwhat to do: buy a disk"
        );
        assert!(steps.table().contains("first"));
    }

    #[test]
    fn durations() {
        assert_eq!(seconds(Duration::from_millis(7)), "7 ms");
        assert_eq!(seconds(Duration::from_millis(1234)), "1.23 s");
        assert_eq!(seconds(Duration::from_secs(125)), "2 min 05 s");
    }
}
