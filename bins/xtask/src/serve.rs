//! A process that stays and carries machines for people: `up` starts it and waits, `down` ends it, and
//! the machines end with it, however it ends. What machines they are is no matter of this module.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use ves_kit::lab::cluster;

/// How long machines may take to come up.
const UP: Duration = Duration::from_secs(300);

/// How long the process may take to end once it is killed.
const DOWN: Timespec = Timespec { tv_sec: 20, tv_nsec: 0 };

/// The process that carries the machines in a directory.
#[derive(Debug)]
pub(crate) struct Server {
    /// The word after `cargo xtask` by which machines of this kind are handled.
    pub(crate) command: &'static str,
    /// Where they live.
    pub(crate) dir: PathBuf,
}

impl Server {
    /// Whether it runs.
    pub(crate) fn alive(&self) -> bool {
        self.process().is_some()
    }

    /// Starts it by `cargo xtask COMMAND serve WORDS`, and waits until it says that all are up.
    pub(crate) fn start(&self, words: &[&str]) -> Result<()> {
        ensure!(
            !self.alive(),
            "machines are up already; `cargo xtask {} down` ends them",
            self.command
        );
        cluster::sweep(&self.dir)?; // what one left that was killed
        fs::create_dir_all(&self.dir)?;
        // Beside the directory, which goes when the machines do.
        let log = self.dir.with_extension("log");
        let out = File::create(&log)?;
        // Also where a build has replaced the file by now.
        let mut serve = Command::new("/proc/self/exe");
        serve.args([self.command, "serve"]).args(words);
        let (input, output) = (Stdio::null(), out.try_clone()?);
        let mut child = serve.stdin(input).stdout(output).stderr(out).process_group(0).spawn()?;
        fs::write(self.dir.join("serve.pid"), child.id().to_string())?;
        let end = Instant::now() + UP;
        while !self.dir.join("ready").exists() {
            if child.try_wait()?.is_some() || Instant::now() > end {
                let text = fs::read_to_string(&log)?;
                self.end()?;
                bail!("the machines did not come up:\n{text}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Says that all are up, and stays.
    pub(crate) fn stay(&self) -> Result<()> {
        fs::write(self.dir.join("ready"), "")?;
        loop {
            std::thread::park();
        }
    }

    /// It, if it runs: a descriptor and not a number, which may be another's by the time it is used.
    fn process(&self) -> Option<OwnedFd> {
        let text = fs::read_to_string(self.dir.join("serve.pid")).ok()?;
        let pid: i32 = text.trim().parse().ok()?;
        let fd = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
        let words = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let ours = format!("\0{}\0serve\0", self.command);
        String::from_utf8_lossy(&words).contains(&ours).then_some(fd)
    }

    /// Ends it and its machines, removes their directory, and answers what is left of them all the same.
    pub(crate) fn end(&self) -> Result<Vec<String>> {
        if let Some(fd) = self.process() {
            pidfd_send_signal(&fd, Signal::KILL).ok(); // it may have ended in this moment
            let ended = poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&DOWN))?;
            ensure!(ended == 1, "the process that carries the machines does not end");
        }
        let left = cluster::sweep(&self.dir)?;
        // What it said is of use only while it comes up.
        match fs::remove_file(self.dir.with_extension("log")) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(e).with_context(|| format!("remove what {} said", self.command))
            }
            _ => Ok(left),
        }
    }
}

/// The one of these machines that is meant: by its number, from 1 on, or by its name.
pub(crate) fn meant(dir: &Path, machine: &str) -> Result<(PathBuf, String)> {
    let mut machines = cluster::find(dir)?;
    let place = machine.parse::<usize>().ok().and_then(|n| n.checked_sub(1));
    let place = place.or_else(|| machines.iter().position(|(_, name)| name == machine));
    let names: Vec<_> = machines.iter().map(|(_, name)| name.as_str()).collect();
    let lacking = || format!("no machine {machine}; there are {}", names.join(", "));
    let place = place.filter(|place| *place < names.len()).with_context(lacking)?;
    Ok(machines.swap_remove(place))
}
