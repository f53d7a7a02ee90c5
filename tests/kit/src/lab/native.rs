//! A native node: a system container of this machine's own kernel that carries a whole Debian with
//! our packages in their units, and our containers inside.
//!
//! ```text
//!   control groups ves-node-… ──► setpriv ─► unshare ─┬─► sh init.sh ─► /sbin/init     all in DIR:
//!   (v1 and v2, below each root)  dies with us        │   own mounts, processes,       up: what it wrote
//!                                                     │   net, names, ipc, groups      console.log, pid
//!   commands: join the groups, nsenter ───────────────┘
//! ```
//!
//! It costs a tenth of a virtual machine and has this kernel's faults and lacks, see [`super::story`].
//! All it is lives in one directory, so that another process finds it again. Never here: a change of
//! this machine beside its control groups, a pseudo-terminal and what loop devices its daemons take.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open, pidfd_send_signal};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use super::groups::Groups;
use super::machine::{ENVIRONMENT, Machine, Output, tail};
use crate::loops::{self, LoopDevice};

/// What the first process of a node does until it is the node's init.
pub(super) const INIT: &str = include_str!("native/init.sh");

/// Where our daemons keep what lasts.
pub(super) const STATE: &str = "var/lib/ves";

/// How long a node may take to have a process of its own.
const BEGIN: Duration = Duration::from_secs(20);

/// How long a node that was killed may take to be gone.
const END: Duration = Duration::from_secs(20);

/// What a node is made from: directories of a file system, the uppermost first, a directory of
/// device nodes, and what `/var/lib/ves` begins with.
#[derive(Debug, Clone)]
pub struct Origin {
    /// Read-only directories that are laid over each other.
    pub layers: Vec<PathBuf>,
    /// Device nodes.
    pub devices: PathBuf,
    /// What is copied to `/var/lib/ves` first, as files of a node must be its own that loop devices
    /// show.
    pub state: Option<PathBuf>,
}

/// A native node.
#[derive(Debug, Clone)]
pub struct Node {
    dir: PathBuf,
    name: String,
    groups: Groups,
}

impl Node {
    /// A node that is to live in `dir`, or lives there.
    pub fn at(dir: impl Into<PathBuf>, name: impl Into<String>) -> anyhow::Result<Self> {
        let (dir, name) = (dir.into(), name.into());
        let groups = Groups::named(&dir)?;
        Ok(Self { dir, name, groups })
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Starts it, for the first time from `origin` and later from what it left. It ends when the
    /// thread that started it does.
    pub fn start(&self, origin: &Origin) -> anyhow::Result<()> {
        ensure!(self.pid().is_none(), "{} runs already", self.name);
        self.lay_out(origin)?;
        self.groups.make()?;
        let console = Console::open(&self.dir.join("console.log"))?;
        let init = self.dir.join("init.sh");
        fs::write(&init, INIT).context("write what a node begins with")?;
        let layers: Vec<_> = origin.layers.iter().map(|dir| dir.to_string_lossy()).collect();
        let namespaces = ["--mount", "--pid", "--net", "--uts", "--ipc", "--fork"];
        let log = File::create(self.dir.join("begin.log"))?;
        let mut child = Command::new("setpriv")
            // Whoever ends this process, by whatever signal, ends the node too.
            .args(["--pdeathsig", "KILL", "unshare", "--kill-child=KILL"])
            .args(["--propagation", "private"])
            .args(namespaces)
            .args(["--", "/bin/sh"])
            .arg(&init)
            .arg("groups")
            .arg(&self.dir)
            .args([&self.name, &*layers.join(":")])
            .arg(&origin.devices)
            .arg(&console.terminal)
            .args(self.groups.words())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .context("start unshare")?;
        let end = Instant::now() + BEGIN;
        while self.pid().is_none() {
            let said = || fs::read_to_string(self.dir.join("begin.log")).unwrap_or_default();
            if let Some(status) = child.try_wait()? {
                bail!("{} ended at once ({status}): {}", self.name, said().trim());
            }
            if Instant::now() > end {
                child.kill()?;
                child.wait()?;
                bail!("{} does not begin: {}", self.name, said().trim());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        // Who started it need not wait for it; a thread reaps it when it ends.
        std::thread::spawn(move || {
            child.wait().ok();
            drop(console);
        });
        Ok(())
    }

    fn lay_out(&self, origin: &Origin) -> anyhow::Result<()> {
        fs::remove_file(self.dir.join("pid")).ok();
        let state = self.dir.join("up").join(STATE);
        if let Some(of) = origin.state.as_ref().filter(|_| !state.is_dir()) {
            fs::create_dir_all(state.parent().context("it is below the root")?)
                .with_context(|| format!("make {}", self.dir.display()))?;
            let mut copy = Command::new("cp");
            copy.args(["-a", "--sparse=always", "--reflink=auto"]).arg(of).arg(&state);
            super::base::run(&mut copy)?;
            // One kernel mounts no two file systems of XFS with one identity.
            let pool = state.join("storage/pool.img");
            if pool.exists() {
                let mut admin = Command::new("xfs_admin");
                super::base::run(admin.args(["-U", "generate"]).arg(pool))?;
            }
        }
        for sub in ["up", "root"] {
            fs::create_dir_all(self.dir.join(sub))?;
        }
        // An overlay without syncs says in its work directory that it was not ended in order, and is
        // not laid again; what it wrote is all there while this kernel runs.
        let work = self.dir.join("work");
        super::base::remove(&work)?;
        fs::create_dir(&work).context("make the work directory of a node")
    }

    /// Its first process, as this process knows it.
    pub fn pid(&self) -> Option<Pid> {
        let text = fs::read_to_string(self.dir.join("pid")).ok()?;
        let pid = Pid::from_raw(text.trim().parse().ok()?)?;
        // The number may be another's by now; and one that has ended may not have been waited for yet.
        (self.groups.holds(pid) && !has_ended(pid)).then_some(pid)
    }

    /// The same as a descriptor, which stays its own whatever becomes of the number.
    fn process(&self) -> Option<OwnedFd> {
        let pid = self.pid()?;
        let process = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        // The number may have become another's before there was a descriptor, not after.
        (self.pid() == Some(pid)).then_some(process)
    }

    /// Kills whatever runs in it and takes back what it had of this machine: control groups and loop
    /// devices. Its files stay.
    pub fn kill(&self) -> anyhow::Result<()> {
        let mut devices = Vec::new();
        if let Some(process) = self.process() {
            devices = loops(&self.dir, true)?;
            pidfd_send_signal(&process, Signal::KILL).ok(); // it may have ended in this moment
            ensure!(ended(&process, END)?, "{} does not end", self.name);
        }
        self.take_back(&devices)
    }

    /// Waits until it has ended by itself, for so long, and takes back what it had of this machine.
    pub(super) fn wait_end(&self, patience: Duration) -> anyhow::Result<()> {
        if let Some(process) = self.process() {
            let ended = ended(&process, patience)?;
            ensure!(ended, "{} does not go down:\n{}", self.name, self.console_tail());
        }
        self.take_back(&[])
    }

    /// What the end of its kernel would have taken away, had it one of its own: its groups, and its loop
    /// devices with those that it is known to have had.
    fn take_back(&self, known: &[LoopDevice]) -> anyhow::Result<()> {
        self.groups.remove(END)?;
        let end = Instant::now() + END;
        loop {
            let mut left = loops(&self.dir, false)?;
            let there = loops::all()?;
            left.extend(known.iter().filter(|device| there.contains(device)).cloned());
            if left.is_empty() {
                return Ok(());
            }
            for device in &left {
                // One whose file system is about to go goes with it.
                super::base::run(Command::new("losetup").args(["--detach", &device.path])).ok();
            }
            ensure!(Instant::now() < end, "loop devices of {} stay: {left:?}", self.name);
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// What is left of it on this machine beside its files, in words.
    pub fn remains(&self) -> anyhow::Result<Vec<String>> {
        let mut left = self.groups.remains();
        left.extend(self.pid().map(|pid| format!("process {}", pid.as_raw_nonzero())));
        let devices = loops(&self.dir, false)?;
        left.extend(devices.iter().map(|device| format!("loop device {}", device.path)));
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let dir = self.dir.to_string_lossy();
        left.extend(mounts.lines().filter(|l| l.contains(&*dir)).map(|l| format!("mount {l}")));
        Ok(left)
    }

    /// A command that runs `command` by the node's shell. Its status is that of the shell.
    pub fn command(&self, command: &str) -> anyhow::Result<Command> {
        const ENTER: &str = "pid=$1 command=$2; shift 2
            for group; do echo 0 > \"$group/cgroup.procs\" || exit 125; done
            exec nsenter --all --target \"$pid\" -- /bin/bash -c \"$command\"";
        let pid = self.pid().with_context(|| format!("{} does not run", self.name))?;
        let mut enter = Command::new("/bin/sh");
        enter
            .args(["-c", ENTER, "sh", &pid.as_raw_nonzero().to_string(), command])
            .args(self.groups.leaves())
            .env_clear()
            .envs(ENVIRONMENT.iter().filter_map(|variable| variable.split_once('=')));
        Ok(enter)
    }
}

impl Machine for Node {
    fn name(&self) -> &str {
        &self.name
    }

    fn console_tail(&self) -> String {
        let bytes = fs::read(self.dir.join("console.log")).unwrap_or_default();
        tail(&String::from_utf8_lossy(&bytes))
    }

    fn exec_with(&self, command: &str, stdin: &[u8], deadline: Duration) -> anyhow::Result<Output> {
        let what = || format!("on {}: {command}", self.name);
        // Files and not pipes: what a command leaves running may keep its output open.
        let (mut input, mut out, mut err) =
            (tempfile::tempfile()?, tempfile::tempfile()?, tempfile::tempfile()?);
        input.write_all(stdin)?;
        input.rewind()?;
        let mut child = self
            .command(command)
            .with_context(what)?
            .stdin(input)
            .stdout(out.try_clone()?)
            .stderr(err.try_clone()?)
            .process_group(0)
            .spawn()
            .with_context(what)?;
        let pid = Pid::from_child(&child);
        if !ended(pidfd_open(pid, PidfdFlags::empty())?, deadline)? {
            kill_process_group(pid, Signal::KILL).ok();
            child.wait()?;
            bail!("{}: did not end within {deadline:?}", what());
        }
        let status = child.wait()?;
        let text = |file: &mut File| -> anyhow::Result<String> {
            let mut bytes = Vec::new();
            file.rewind()?;
            file.read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
        Ok(Output {
            status: code.with_context(|| format!("{}: ended in no way", what()))?,
            stdout: text(&mut out)?,
            stderr: text(&mut err)?,
        })
    }
}

/// Whether a process has ended but for its number.
fn has_ended(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    // pid (name) state …, where the name may hold anything.
    stat.is_ok_and(|stat| {
        stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with(['Z', 'X']))
    })
}

/// Waits until a process has ended, for so long; tells whether it has.
fn ended(process: impl AsFd, patience: Duration) -> anyhow::Result<bool> {
    let patience = Timespec {
        tv_sec: i64::try_from(patience.as_secs())?,
        tv_nsec: patience.subsec_nanos().into(),
    };
    Ok(poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&patience))? == 1)
}

/// The pseudo-terminal that is a node's console, and the thread that writes down what it says.
#[derive(Debug)]
struct Console {
    terminal: PathBuf,
    /// While it is open the thread is not told of an end that is none.
    _held: File,
}

impl Console {
    fn open(log: &Path) -> anyhow::Result<Self> {
        let what = "make a pseudo-terminal";
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC);
        let ours = ours.context(what)?;
        grantpt(&ours).and_then(|()| unlockpt(&ours)).context(what)?;
        let terminal = PathBuf::from(ptsname(&ours, Vec::new()).context(what)?.into_string()?);
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let held = rustix::fs::open(&terminal, flags, Mode::empty()).context(what)?;
        let mut log = fs::OpenOptions::new().create(true).append(true).open(log)?;
        let mut from = File::from(ours);
        std::thread::spawn(move || std::io::copy(&mut from, &mut log));
        Ok(Self { terminal, _held: held.into() })
    }
}

/// The loop devices that show files of the node in `dir`, or of a file system on such a device; the
/// latter come first. Those of files that were removed are known only while the node `runs`: later the
/// number of its file system may be another's.
fn loops(dir: &Path, runs: bool) -> anyhow::Result<Vec<LoopDevice>> {
    let Ok(device) = fs::read_to_string(dir.join("device")) else { return Ok(Vec::new()) };
    let mut files = BTreeSet::new();
    inodes(&dir.join("up").join(STATE), &mut files)?;
    let shows = |on: &LoopDevice| files.contains(&on.inode) || runs && on.is_removed();
    Ok(stacked(&loops::all()?, |loop_device| loop_device.on == device.trim() && shows(loop_device)))
}

/// The numbers of all files below a directory.
fn inodes(dir: &Path, files: &mut BTreeSet<u64>) -> anyhow::Result<()> {
    use std::io::ErrorKind::{NotADirectory, NotFound};
    let entries = match fs::read_dir(dir) {
        // Where the node removed a directory of its origin, a device stands for that.
        Err(e) if [NotFound, NotADirectory].contains(&e.kind()) => return Ok(()),
        entries => entries.with_context(|| format!("read {}", dir.display()))?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            inodes(&entry.path(), files)?;
        } else {
            files.insert(entry.metadata()?.ino());
        }
    }
    Ok(())
}

/// Those of the devices that are `ours`, and those that stand on them, which come first.
fn stacked(all: &[LoopDevice], ours: impl Fn(&LoopDevice) -> bool) -> Vec<LoopDevice> {
    let mut found: Vec<LoopDevice> = Vec::new();
    loop {
        let stands = |device: &&LoopDevice| found.iter().any(|below| below.number == device.on);
        let next = |device: &&LoopDevice| ours(device) || stands(device);
        let new: Vec<_> = all.iter().filter(next).filter(|d| !found.contains(d)).cloned().collect();
        if new.is_empty() {
            found.reverse();
            return found;
        }
        found.extend(new);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_on_devices_of_a_node_are_its_own() {
        let device = |number: u32, on: &str, inode: u64| LoopDevice {
            path: format!("/dev/loop{number}"),
            number: format!("7:{number}"),
            on: on.to_owned(),
            inode,
            file: "/pool".to_owned(),
        };
        let all = [
            device(0, "0:57", 11),
            device(2, "7:1", 99),
            device(1, "0:57", 12),
            device(3, "0:58", 12),
        ];
        let found = stacked(&all, |device| device.on == "0:57" && device.inode == 12);
        assert_eq!(found, [all[1].clone(), all[2].clone()]);
        assert_eq!(stacked(&all, |_| false), []);
    }
}
