//! strace, attached to processes while somebody works. What it wrote is read elsewhere.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

/// How long strace may take to attach.
const ATTACHED: Duration = Duration::from_secs(20);

/// strace, attached to some processes; it lets go of them when this goes.
#[derive(Debug)]
pub(super) struct Strace {
    child: Child,
    trace: PathBuf,
    // Ends when strace does; what it said that is worth it.
    listener: Option<std::thread::JoinHandle<String>>,
}

impl Strace {
    /// Attaches it to processes; what it sees of them and of what they start goes to the file `trace`.
    pub(super) fn attach(trace: PathBuf, mut pids: Vec<u32>) -> Result<Self> {
        let mut command = Command::new("strace");
        // All of what goes through a socket, as requests are counted there; times as `Span` has them.
        command.args(["--follow-forks", "-y", "-ttt", "-s", "65536", "-o"]).arg(&trace);
        for pid in &pids {
            command.args(["-p", &pid.to_string()]);
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

    /// Lets go of them; hands back where the trace is.
    pub(super) fn end(mut self) -> Result<PathBuf> {
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
