//! Runs the release `virtctl`, as an operator would, and reads what it prints.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, ensure};
use serde_json::Value;

use super::machine;
use super::progress::Line;

/// The command line tool, speaking to the node's own coordinator.
#[derive(Debug)]
pub(crate) struct Virtctl {
    program: PathBuf,
}

impl Virtctl {
    /// The one that was built beside the daemons.
    pub(crate) fn new() -> Self {
        Self { program: machine::bin_dir().join("virtctl") }
    }

    /// Whether it has been built.
    pub(crate) fn exists(&self) -> bool {
        self.program.is_file()
    }

    /// How a person would call it.
    pub(crate) fn shown(&self) -> String {
        let here = std::env::current_dir().unwrap_or_default();
        self.program.strip_prefix(here).unwrap_or(&self.program).display().to_string()
    }

    /// Runs it, showing what it says, and hands back its standard and error output.
    pub(crate) fn watch(&self, args: &[&str], line: &Line) -> anyhow::Result<String> {
        machine::watch(Command::new(&self.program).args(args), line)
    }

    /// Runs it and hands back its standard output.
    pub(crate) fn text(&self, args: &[&str]) -> anyhow::Result<String> {
        let words = || format!("`virtctl {}`", args.join(" "));
        let out = Command::new(&self.program)
            .args(args)
            .output()
            .with_context(|| format!("start {}", self.program.display()))?;
        let said = String::from_utf8_lossy(&out.stderr);
        ensure!(out.status.success(), "{} failed ({}): {}", words(), out.status, said.trim());
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    }

    /// Runs it with `-o json` and hands back what it printed.
    pub(crate) fn json(&self, args: &[&str]) -> anyhow::Result<Value> {
        let mut all = args.to_vec();
        all.extend(["-o", "json"]);
        let text = self.text(&all)?;
        serde_json::from_str(&text)
            .with_context(|| format!("`virtctl {}` printed no JSON: {text}", all.join(" ")))
    }
}
