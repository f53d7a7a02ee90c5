//! What a story does with a machine, be it a native node or a virtual one: commands on it, their
//! output, waiting for something to come true. Never here: how a machine is made or ends.

use std::time::{Duration, Instant};

use anyhow::ensure;

/// How long a command may take that says nothing else; emulated processors are slow.
const COMMAND: Duration = Duration::from_secs(600);

/// The environment of every command on a machine.
pub(super) const ENVIRONMENT: [&str; 3] = [
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME=/root",
    "LC_ALL=C.UTF-8",
];

/// What a command on a machine printed and how it ended.
#[derive(Debug, Clone)]
pub struct Output {
    /// Its exit status; 128 and the signal's number where one killed it.
    pub status: i32,
    /// Standard output.
    pub stdout: String,
    /// Error output.
    pub stderr: String,
}

/// A machine on which a story is told.
pub trait Machine: std::fmt::Debug + Sync {
    /// Its name, which is its host name too.
    fn name(&self) -> &str;

    /// The end of what it printed on its console.
    fn console_tail(&self) -> String;

    /// Runs a shell command on it to its end, with bytes on standard input.
    ///
    /// # Errors
    /// When the machine does not answer or the command does not end within `deadline`. A command that
    /// fails is no error; see [`Output::status`].
    fn exec_with(&self, command: &str, stdin: &[u8], deadline: Duration) -> anyhow::Result<Output>;

    /// [`Self::exec_with`] with nothing on standard input.
    fn exec(&self, command: &str, deadline: Duration) -> anyhow::Result<Output> {
        self.exec_with(command, &[], deadline)
    }

    /// Runs a shell command that must succeed; answers its standard output without the last line
    /// end.
    ///
    /// # Errors
    /// As [`Self::exec`], and when it fails, with what it printed.
    fn sh(&self, command: &str) -> anyhow::Result<String> {
        let out = self.exec(command, COMMAND)?;
        ensure!(
            out.status == 0,
            "on {}: {command}: ended with status {}\n{}{}",
            self.name(),
            out.status,
            out.stdout,
            out.stderr
        );
        Ok(out.stdout.trim_end_matches('\n').to_owned())
    }

    /// Runs a shell command in a container of the machine.
    ///
    /// # Errors
    /// As [`Self::exec`].
    fn exec_in(&self, ct: u32, command: &str) -> anyhow::Result<Output> {
        let quoted = command.replace('\'', "'\\''");
        self.exec(&format!("virtctl exec {ct} -- sh -c '{quoted}'"), COMMAND)
    }

    /// Waits until a shell command succeeds, for so long.
    fn until(&self, command: &str, patience: Duration) -> anyhow::Result<String> {
        let end = Instant::now() + patience;
        loop {
            match self.sh(command) {
                Ok(out) => return Ok(out),
                Err(e) if Instant::now() > end => return Err(e.context("it did not come true")),
                Err(_) => std::thread::sleep(Duration::from_millis(100)),
            }
        }
    }

    /// Waits until it has booted, with whatever units failed.
    fn wait_boot(&self, patience: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + patience;
        loop {
            // Before its service manager listens, the question itself fails.
            let state = self.exec("systemctl is-system-running --wait", patience)?.stdout;
            if ["running", "degraded"].contains(&state.trim()) {
                return Ok(());
            }
            ensure!(
                Instant::now() < end,
                "{} has not booted ({}); its console said:\n{}",
                self.name(),
                state.trim(),
                self.console_tail()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Fills the file system of this directory of the machine to the last block; answers the shell
    /// command that makes room again.
    ///
    /// # Errors
    /// As [`Self::sh`].
    fn fill(&self, dir: &str) -> anyhow::Result<String> {
        self.sh(&format!(
            "fallocate -l $(($(stat -f -c '%f*%S' {dir}) - 1048576)) {dir}/fill
             ! dd if=/dev/zero of={dir}/rest bs=64k 2>/dev/null; sync"
        ))?;
        Ok(format!("rm {dir}/fill {dir}/rest"))
    }
}

/// The end of a text, for messages.
pub(super) fn tail(text: &str) -> String {
    let skip = text.chars().count().saturating_sub(4000);
    text.chars().skip(skip).collect()
}
