//! Progress of long work: a bar on a terminal, plain lines elsewhere.
//!
//! Never here: waiting for the work.

use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use ves_proto::api::Progress;

use crate::output::{Format, Output};

/// Where progress is shown.
pub(crate) struct ProgressDisplay {
    output: Output,
    terminal: bool,
    bar: Option<ProgressBar>,
    last: String,
}

impl ProgressDisplay {
    /// A bar on a terminal, else lines; nothing where that is not wanted.
    pub(crate) fn new(output: Output) -> Self {
        let terminal = std::io::stderr().is_terminal() && output.format == Format::Table;
        Self { output, terminal: terminal && !output.quiet, bar: None, last: String::new() }
    }

    /// Shows how far something is.
    pub(crate) fn progress(&mut self, progress: &Progress) {
        let Progress { message: what, done, total } = progress;
        // Only now: what is done at once needs no bar.
        if self.terminal && self.bar.is_none() {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
            bar.set_style(style("{spinner} {msg} {elapsed:.dim}"));
            bar.set_draw_target(ProgressDrawTarget::stderr());
            bar.enable_steady_tick(Duration::from_millis(100));
            self.bar = Some(bar);
        }
        match &self.bar {
            Some(bar) => {
                if *total > 0 {
                    bar.set_style(style("{spinner} {msg} [{bar:30}] {percent:>3}% {elapsed:.dim}"));
                    bar.set_length(*total);
                    bar.set_position((*done).min(*total));
                } else {
                    bar.set_style(style("{spinner} {msg} {elapsed:.dim}"));
                }
                bar.set_message(what.clone());
            }
            None if self.last != *what && self.output.format == Format::Table => {
                self.output.say(what);
                self.last.clone_from(what);
            }
            None => {}
        }
    }

    /// Says something beside the bar.
    pub(crate) fn note(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => self.output.say(text),
        }
    }

    /// Takes the bar away.
    pub(crate) fn end(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_spinner())
        .progress_chars("=> ")
}
