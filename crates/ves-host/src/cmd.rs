//! Runs programs of the host: absolute path, argument vector, clean environment, a deadline, the end of
//! both outputs captured, no inherited descriptors beyond the standard three, never a shell.

#![allow(unsafe_code, reason = "what a child does before it becomes the program")]

use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::geteuid;
use rustix::thread::{CapabilitySet, configure_capability_in_ambient_set};

use crate::error::{Attempt, HostError};
use crate::sandbox::Sandbox;

/// The most that is kept of an output: its end.
const KEPT: usize = 1 << 20;

const SEARCH: [&str; 4] = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// A program to run.
#[derive(Debug)]
pub struct Cmd {
    program: OsString,
    args: Vec<OsString>,
    envs: Vec<(OsString, OsString)>,
    stdin: Option<Stdio>,
    deadline: Duration,
    accepted: &'static [i32],
    sandbox: Option<Sandbox>,
    capabilities: CapabilitySet,
}

/// What a program printed and how it ended well.
#[derive(Debug, Clone)]
pub struct Output {
    /// The status it ended with, 0 unless others were accepted.
    pub status: i32,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Error output.
    pub stderr: Vec<u8>,
}

impl Output {
    /// Standard output as text, invalid bytes replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

/// Finds a program of the distribution by name in the fixed search path.
///
/// # Errors
/// [`HostError::Lacks`] when it is nowhere.
pub fn find(name: &str, package: &str) -> Result<OsString, HostError> {
    SEARCH
        .iter()
        .map(|dir| std::path::Path::new(dir).join(name))
        .find(|path| path.is_file())
        .map(Into::into)
        .ok_or_else(|| HostError::Lacks {
            feature: name.to_owned(),
            why: format!("it is not installed; `apt-get install {package}` brings it"),
        })
}

impl Cmd {
    /// A program by absolute path, with a deadline of 60 seconds.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            envs: Vec::new(),
            stdin: None,
            deadline: Duration::from_secs(60),
            accepted: &[0],
            sandbox: None,
            capabilities: CapabilitySet::empty(),
        }
    }
    /// One more argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }
    /// More arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(|a| a.as_ref().to_owned()));
        self
    }
    /// One more variable of its environment, which otherwise has `PATH` and `LC_ALL=C` only.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.envs.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }
    /// Where it reads from; nothing, unless this says otherwise.
    #[must_use]
    pub fn stdin(mut self, stdin: impl Into<Stdio>) -> Self {
        self.stdin = Some(stdin.into());
        self
    }
    /// How long it may take.
    #[must_use]
    pub const fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// With which statuses it ends well; 0, unless this says otherwise.
    #[must_use]
    pub const fn accept(mut self, statuses: &'static [i32]) -> Self {
        self.accepted = statuses;
        self
    }
    /// What it gives up before it begins.
    #[must_use]
    pub fn sandboxed(mut self, sandbox: Sandbox) -> Self {
        self.sandbox = Some(sandbox);
        self
    }
    /// Which of this process's capabilities it has too: none, unless this says otherwise. What root runs
    /// has all that its bounding set leaves.
    #[must_use]
    pub const fn capabilities(mut self, keep: CapabilitySet) -> Self {
        self.capabilities = keep;
        self
    }

    #[expect(clippy::disallowed_methods, reason = "the one place where processes are made")]
    fn command(&mut self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(&self.args)
            .env_clear()
            .env("PATH", SEARCH.join(":"))
            .env("LC_ALL", "C")
            .envs(self.envs.iter().map(|(k, v)| (k, v)))
            .current_dir("/")
            .stdin(self.stdin.take().unwrap_or_else(Stdio::null))
            // A group of its own, so that a deadline reaches its children too.
            .process_group(0);
        if let Some(sandbox) = self.sandbox.take() {
            // SAFETY: it makes system calls only.
            unsafe { command.pre_exec(move || sandbox.enter()) };
        }
        let keep = self.capabilities;
        if !keep.is_empty() && !geteuid().is_root() {
            let hand_on = move || {
                keep.iter().try_for_each(|one| Ok(configure_capability_in_ambient_set(one, true)?))
            };
            // SAFETY: the child only makes system calls here, and allocates nothing.
            unsafe { command.pre_exec(hand_on) };
        }
        command
    }

    fn name(&self) -> String {
        self.program.to_string_lossy().into_owned()
    }

    /// Starts the program and hands it over, with the given outputs; the deadline is the caller's.
    ///
    /// # Errors
    /// [`HostError::Sys`] when it cannot be started.
    pub fn spawn(mut self, stdout: Stdio, stderr: Stdio) -> Result<Child, HostError> {
        let name = self.name();
        self.command().stdout(stdout).stderr(stderr).spawn().attempt(|| format!("start {name}"))
    }

    /// Runs the program to its end.
    ///
    /// # Errors
    /// [`HostError::Sys`] when it cannot be started, [`HostError::Deadline`] when it is too slow,
    /// [`HostError::Command`] when it fails.
    pub fn run(mut self) -> Result<Output, HostError> {
        let (name, deadline, accepted) = (self.name(), self.deadline, self.accepted);
        tracing::debug!(program = %name, args = ?self.args, "run");
        let mut child = self
            .command()
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .attempt(|| format!("start {name}"))?;
        let reader = |pipe: Option<Box<dyn Read + Send>>| {
            std::thread::spawn(move || pipe.map(|pipe| read_end(pipe, KEPT)).unwrap_or_default())
        };
        let stdout = reader(child.stdout.take().map(|p| Box::new(p) as Box<dyn Read + Send>));
        let stderr = reader(child.stderr.take().map(|p| Box::new(p) as Box<dyn Read + Send>));
        let status = wait_until(&mut child, Instant::now() + deadline, &name)?;
        let (stdout, stderr) =
            (stdout.join().unwrap_or_default(), stderr.join().unwrap_or_default());
        match status {
            Some(status) if status.code().is_some_and(|code| accepted.contains(&code)) => {
                Ok(Output { status: status.code().unwrap_or_default(), stdout, stderr })
            }
            Some(status) => Err(HostError::Command {
                program: name,
                status: describe(status),
                stderr: tail(&stderr),
            }),
            None => Err(HostError::Deadline { program: name, seconds: deadline.as_secs() }),
        }
    }
}

/// Reads to the end and keeps the last `most` bytes, or some more.
fn read_end(mut pipe: impl Read, most: usize) -> Vec<u8> {
    let (mut bytes, mut piece) = (Vec::new(), vec![0; 64 << 10]);
    loop {
        match pipe.read(&mut piece) {
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            // A broken pipe ends the output; the exit status tells the rest.
            Ok(0) | Err(_) => return bytes,
            Ok(n) => bytes.extend_from_slice(piece.get(..n).unwrap_or_default()),
        }
        if bytes.len() > most * 2 {
            bytes.drain(..bytes.len() - most);
        }
    }
}

/// Waits for the child with a pidfd; kills its whole group at the deadline and answers `None`.
fn wait_until(
    child: &mut Child,
    end: Instant,
    name: &str,
) -> Result<Option<ExitStatus>, HostError> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
    let pid = Pid::from_child(child);
    let fd = pidfd_open(pid, PidfdFlags::empty()).attempt(|| format!("watch {name}"))?;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let timeout = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        match poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)) {
            Err(rustix::io::Errno::INTR) => {}
            Ok(0) => {
                // It may have gone in this moment; then there is nothing to kill.
                kill_process_group(pid, Signal::KILL).ok();
                child.wait().attempt(|| format!("reap {name}"))?;
                return Ok(None);
            }
            Ok(_) => return child.wait().map(Some).attempt(|| format!("reap {name}")),
            Err(e) => return Err(e).attempt(|| format!("wait for {name}")),
        }
    }
}

/// How a process ended, in words.
pub fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with status {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

/// The last 8 lines of an output, at most 1000 characters.
pub fn tail(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<_> = text.trim().lines().collect();
    let last = lines[lines.len().saturating_sub(8)..].join("\n");
    let skip = last.chars().count().saturating_sub(1000);
    last.chars().skip(skip).collect()
}

#[cfg(test)]
mod tests {
    use rustix::thread::CapabilitySets;

    use super::*;

    #[test]
    fn environment_is_clean_and_output_whole() {
        let out = Cmd::new("/usr/bin/env").env("A", "b c").run().expect("env runs");
        let mut lines: Vec<_> = out.text().lines().map(str::to_owned).collect();
        lines.sort();
        assert_eq!(lines, ["A=b c", "LC_ALL=C", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"]);
    }

    /// What a program has of the capabilities of a thread that is not root and has two.
    fn effective_with(keep: CapabilitySet) -> String {
        let two = CapabilitySet::NET_ADMIN | CapabilitySet::KILL;
        let sets = CapabilitySets { effective: two, permitted: two, inheritable: two };
        let thread = std::thread::spawn(move || {
            rustix::thread::set_keep_capabilities(true).expect("kept");
            let nobody = rustix::process::Uid::from_raw(65_534);
            rustix::thread::set_thread_res_uid(nobody, nobody, nobody).expect("changed");
            rustix::thread::set_capabilities(None, sets).expect("few");
            let grep = Cmd::new("/usr/bin/grep").args(["CapEff", "/proc/self/status"]);
            grep.capabilities(keep).run().expect("it runs").text()
        });
        let said = thread.join().expect("no panic");
        said.trim_start_matches("CapEff:").trim().to_owned()
    }

    #[test]
    fn a_program_has_the_capabilities_that_it_is_given_and_no_other() {
        if !geteuid().is_root() {
            return;
        }
        assert_eq!(effective_with(CapabilitySet::empty()), "0000000000000000");
        assert_eq!(effective_with(CapabilitySet::NET_ADMIN), "0000000000001000");
    }

    #[test]
    fn failures_carry_status_and_stderr() {
        let err = Cmd::new("/bin/ls").arg("/nonexistent").run().expect_err("no such file");
        assert!(
            matches!(&err, HostError::Command { stderr, .. } if stderr.contains("/nonexistent")),
            "{err}"
        );
        let err = Cmd::new("/nonexistent/program").run().expect_err("no such program");
        assert!(err.is(rustix::io::Errno::NOENT));
    }

    #[test]
    fn of_endless_output_the_end_is_kept() {
        let mut bytes = vec![b'a'; 3 << 20];
        bytes.extend(b"the end");
        let kept = read_end(bytes.as_slice(), 1 << 10);
        assert!(kept.len() <= 2 << 10 && kept.ends_with(b"the end"), "{}", kept.len());
        assert_eq!(read_end(&b"short"[..], 1 << 10), b"short");
    }

    #[test]
    fn accepted_statuses_are_answered() {
        let cmd = || Cmd::new("/bin/sh").args(["-c", "exit 4"]);
        assert!(cmd().run().is_err());
        assert_eq!(cmd().accept(&[0, 4]).run().map(|out| out.status).expect("accepted"), 4);
        assert!(cmd().accept(&[0, 1]).run().is_err());
    }

    #[test]
    fn the_deadline_reaches_grandchildren() {
        let err = Cmd::new("/bin/sh")
            .args(["-c", "/bin/sleep 600 & wait"])
            .deadline(Duration::from_millis(50))
            .run()
            .expect_err("too slow");
        assert!(matches!(err, HostError::Deadline { .. }), "{err}");
    }
}
