//! The self-test: what this node's kernel really enforces, tried on groups of its own.
//!
//! Each self_test makes a scratch group, limits it, and lets a small process run into the limit. Groups
//! and processes are gone afterwards, also those of a predecessor that was killed meanwhile. What
//! does not work is a enforcement, not an error.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use ves_host::cgroup::{self, Controller};
use ves_host::{Attempt, Cmd, HostError};
use ves_types::layout::CGROUP_ROOT;
use ves_types::{Limit, UbcResource};

use super::{KernelHost, limits};
use crate::enforcement::{Proven, SelfTest, countable};
use crate::model::{Home, Setting, Value, render_list};
use crate::observe;

/// The prefix of scratch groups' names; the process id of their maker and a number follow.
const PREFIX: &str = "self-test-";
/// Joins the group whose `cgroup.procs` is standard input, then does what follows.
const JOIN: &str = "echo $$ >&0 || exit 99; ";
/// How much memory the scratch group may have, and how much is taken.
const MEMORY: u64 = 4 << 20;
const TAKEN: &str = "bs=16M";

/// Tries everything.
pub(super) fn run(host: &KernelHost) -> Result<SelfTest, HostError> {
    let start = Instant::now();
    remove_leftovers(host)?;
    let scratch = Scratch::make(host)?;
    let quota = enforcement(scratch.quota());
    let (memory, swap) = match scratch.memory() {
        Ok(both) => both,
        Err(e) => (failed(&e), failed(&e)),
    };
    let counted = scratch.counted()?;
    let self_test = SelfTest {
        pids: enforcement(scratch.pids()),
        cpuset: enforcement(scratch.cpuset()),
        tcp: enforcement(scratch.tcp()),
        quota,
        memory,
        swap,
        counted,
    };
    scratch.remove()?;
    tracing::info!(took_ms = %start.elapsed().as_millis(), ?self_test, "self-test");
    Ok(self_test)
}

fn failed(error: &HostError) -> Proven {
    Proven::No(format!("the self-test failed: {}", ves_proto::fault::chain(error)))
}

fn enforcement(result: Result<Proven, HostError>) -> Proven {
    result.unwrap_or_else(|e| failed(&e))
}

/// Removes scratch groups whose maker is gone, where nothing runs in them any more.
fn remove_leftovers(host: &KernelHost) -> Result<(), HostError> {
    for dir in host.hierarchies.dirs(CGROUP_ROOT) {
        for child in cgroup::children(&dir)? {
            let name = child.file_name().and_then(|n| n.to_str());
            let maker = name.and_then(|n| n.strip_prefix(PREFIX)?.split('-').next()?.parse().ok());
            if maker.is_some_and(|pid: u32| !host.proc.join(pid.to_string()).exists()) {
                // What its maker had started may still be ending; the next start tries again.
                match cgroup::remove(&child) {
                    Ok(()) => tracing::info!(group = %child.display(), "removed an old self-test"),
                    Err(e) => tracing::warn!(
                        group = %child.display(), error = ves_proto::fault::chain(&e),
                        "remove the group of an old self-test, ignoring"
                    ),
                }
            }
        }
    }
    Ok(())
}

/// A group in every hierarchy; removed when dropped.
struct Scratch<'a> {
    host: &'a KernelHost,
    group: String,
    removed: bool,
}

impl<'a> Scratch<'a> {
    fn make(host: &'a KernelHost) -> Result<Self, HostError> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let group = format!("{CGROUP_ROOT}/{PREFIX}{}-{count}", std::process::id());
        let scratch = Self { host, group, removed: false };
        for dir in scratch.dirs() {
            cgroup::make(&dir)?;
        }
        Ok(scratch)
    }

    fn dirs(&self) -> Vec<PathBuf> {
        self.host.hierarchies.dirs(&self.group)
    }

    fn remove(mut self) -> Result<(), HostError> {
        self.removed = true;
        self.dirs().iter().try_for_each(|dir| cgroup::remove(dir))
    }

    /// The group's directory where this controller is.
    fn dir(&self, controller: Controller) -> Result<PathBuf, HostError> {
        Ok(self.host.mount_of(controller)?.join(&self.group))
    }

    /// Sets something and reads it back; says why not, where the kernel has no such thing or does
    /// not keep it.
    fn set(&self, setting: Setting, value: &Value) -> Result<Proven, HostError> {
        let Some((home, file)) = self.host.setting(&self.group, setting) else {
            let controller = setting.controller().map_or("unified", Controller::v1_name);
            return Ok(Proven::No(format!("the {controller} controller is not mounted")));
        };
        if !file.exists() {
            let name = setting.file(home).unwrap_or_default();
            return Ok(Proven::No(format!("this kernel has no {name}")));
        }
        limits::write(file.parent().unwrap_or(&file), home, setting, value)?;
        let text = cgroup::read(&file)?;
        if observe::parse_value(setting, home, &text).as_ref() == Some(value) {
            Ok(Proven::Yes)
        } else {
            Ok(Proven::No(format!("{} was set to {value} and says {text:?}", file.display())))
        }
    }

    /// A shell that joins the group of this controller and does `then`.
    fn shell(&self, controller: Controller, then: &str) -> Result<Cmd, HostError> {
        let procs = self.dir(controller)?.join("cgroup.procs");
        // The kernel judges by who opened the file, so that the shell needs no capability.
        let procs = std::fs::OpenOptions::new()
            .write(true)
            .open(&procs)
            .attempt(|| format!("open {}", procs.display()))?;
        let script = format!("{JOIN}{then}");
        let cmd = Cmd::new("/bin/sh").arg("-c").arg(script).stdin(procs);
        Ok(cmd.deadline(self.host.patience))
    }

    /// A group of one process cannot fork; one of eight can.
    fn pids(&self) -> Result<Proven, HostError> {
        let fork = || self.shell(Controller::Pids, "/bin/true; exit 0");
        for limit in [8, 1] {
            let set = self.set(Setting::PidsMax, &Value::Level(Limit::Max(limit)))?;
            if !set.is_yes() {
                return Ok(set);
            }
            match (limit, fork()?.run()) {
                (8, Ok(_)) | (1, Err(HostError::Command { .. })) => {}
                (8, Err(e)) => return Err(e),
                (_, Ok(_)) => {
                    return Ok(Proven::No("a fork beyond the limit was not refused".to_owned()));
                }
                (_, Err(e)) => return Err(e),
            }
        }
        let files = self.host.files(Controller::Pids, &self.group, observe::PIDS_FILES)?;
        // Where refusals are counted, the count must have noticed.
        match observe::pids_count(&files) {
            Some(count) if files.0.contains_key("pids.events") && count.failcnt == 0 => {
                Ok(Proven::No("a refused fork was not counted".to_owned()))
            }
            _ => Ok(Proven::Yes),
        }
    }

    /// A process that takes four times what its group may have, with no swap allowed, is killed.
    fn memory(&self) -> Result<(Proven, Proven), HostError> {
        let level = |n| Value::Level(Limit::Max(n));
        let max = self.set(Setting::MemoryMax, &level(MEMORY))?;
        if !max.is_yes() {
            return Ok((max.clone(), max));
        }
        let swap = match self.host.home(Controller::Memory) {
            Some((Home::V1, _)) => self.set(Setting::MemswMax, &level(MEMORY))?,
            _ => self.set(Setting::SwapMax, &level(0))?,
        };
        let take = "exec /bin/dd if=/dev/zero of=/dev/null count=1 status=none ";
        let run = self.shell(Controller::Memory, &format!("{take}{TAKEN}"))?.run();
        let home = self.host.home(Controller::Memory).map_or(Home::V2, |(home, _)| home);
        let names = observe::memory_files(home);
        let files = self.host.files(Controller::Memory, &self.group, names)?;
        let counts = observe::memory_counts(home, &files);
        let count = counts.get(&UbcResource::Physpages).copied().unwrap_or_default();
        let within = count.maxheld.saturating_mul(ves_types::Bytes::PAGE) <= MEMORY;
        match run {
            Err(HostError::Command { .. }) if count.failcnt > 0 && within => {
                Ok((Proven::Yes, swap))
            }
            // Without a bound on swap, the process may have gone there.
            Ok(_) if !swap.is_yes() && count.failcnt > 0 && within => Ok((Proven::Yes, swap)),
            Ok(_) if count.failcnt > 0 && within => {
                let why = "a process went on in swap its group may not have";
                Ok((Proven::Yes, Proven::No(why.to_owned())))
            }
            Ok(_) | Err(HostError::Command { .. }) => {
                let why = format!("a process took 16 MiB of 4 MiB ({count:?} pages)");
                Ok((Proven::No(why.clone()), Proven::No(why)))
            }
            Err(e) => Err(e),
        }
    }

    /// The bound on TCP buffers is accepted and kept; how it bites is only seen under load, which is
    /// why its row says "bounded".
    fn tcp(&self) -> Result<Proven, HostError> {
        self.set(Setting::TcpMax, &Value::Level(Limit::Max(1 << 20)))
    }

    /// A busy process is held back within a few periods.
    fn quota(&self) -> Result<Proven, HostError> {
        let (period, part) = (10_000, 2_000);
        let set = match self.host.home(Controller::Cpu) {
            Some((Home::V1, _)) => {
                let quota = self.set(Setting::CpuQuota, &Value::Level(Limit::Max(part)))?;
                let period = self.set(Setting::CpuPeriod, &Value::Number(period))?;
                if quota.is_yes() { period } else { quota }
            }
            _ => self.set(Setting::CpuMax, &Value::Quota(Limit::Max(part), period))?,
        };
        if !set.is_yes() {
            return Ok(set);
        }
        // Bounded work, so that it ends even if we are killed: 20 to 50 ms on a whole processor.
        let busy = "i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done";
        let mut child = self.shell(Controller::Cpu, busy)?.spawn(Stdio::null(), Stdio::null())?;
        let stat = self.dir(Controller::Cpu)?.join("cpu.stat");
        let end = Instant::now() + self.host.patience;
        let throttled = loop {
            let count = throttled(&stat)?;
            if count > 0 || ended_within(&child, Duration::from_millis(2))? || Instant::now() > end
            {
                break count.max(throttled(&stat)?);
            }
        };
        // Both fail only where it has ended by itself.
        child.kill().ok();
        child.wait().ok();
        if throttled > 0 {
            Ok(Proven::Yes)
        } else {
            Ok(Proven::No("a busy process was not held back by its quota".to_owned()))
        }
    }

    /// A process in a group of one processor sees one processor.
    fn cpuset(&self) -> Result<Proven, HostError> {
        let (cpus, mems) = self.host.processors()?;
        let Some(last) = cpus.last().copied() else {
            return Ok(Proven::No("this machine does not say which processors it has".to_owned()));
        };
        let one = Value::Set([last].into());
        for (setting, value) in [(Setting::Mems, Value::Set(mems)), (Setting::Cpus, one)] {
            let set = self.set(setting, &value)?;
            if !set.is_yes() {
                return Ok(set);
            }
        }
        let line = format!("Cpus_allowed_list:\t{}", render_list(&[last].into()));
        let see = format!("exec /bin/grep -qx '{line}' /proc/self/status");
        match self.shell(Controller::Cpuset, &see)?.run() {
            Ok(_) => Ok(Proven::Yes),
            Err(HostError::Command { .. }) => {
                Ok(Proven::No("a process saw other processors than its group's".to_owned()))
            }
            Err(e) => Err(e),
        }
    }

    /// What the kernel counts for a group.
    fn counted(&self) -> Result<BTreeMap<UbcResource, Proven>, HostError> {
        let usage = self.host.usage_of(&self.group, self.host.all_locks()?.as_ref())?;
        let enforcement = |r| {
            if usage.counts.contains_key(&r) {
                return Proven::Yes;
            }
            let memory = self.host.home(Controller::Memory);
            Proven::No(match (r, memory) {
                (UbcResource::Numfile, _) => {
                    "the kernel counts a process's descriptors since 6.2 only".to_owned()
                }
                (UbcResource::Dcachesize, Some((Home::V1, _))) => {
                    "cgroup version 1 does not tell kernel memory by kind".to_owned()
                }
                (UbcResource::Numproc, _) => "the pids controller is not mounted".to_owned(),
                (_, None) => "the memory controller is not mounted".to_owned(),
                _ => "this kernel does not count it".to_owned(),
            })
        };
        Ok(UbcResource::ALL
            .into_iter()
            .filter(|r| countable(*r))
            .map(|r| (r, enforcement(r)))
            .collect())
    }
}

/// Waits for a child's end for so long, and says whether it came.
fn ended_within(child: &Child, time: Duration) -> Result<bool, HostError> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::process::{Pid, PidfdFlags, pidfd_open};
    let what = || "watch a process of the self-test".to_owned();
    let fd = pidfd_open(Pid::from_child(child), PidfdFlags::empty()).attempt(what)?;
    let time = Timespec {
        tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: time.subsec_nanos().into(),
    };
    match poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&time)) {
        Err(rustix::io::Errno::INTR) => Ok(false),
        other => other.map(|ready| ready > 0).attempt(what),
    }
}

fn throttled(stat: &Path) -> Result<u64, HostError> {
    let text = cgroup::read(stat)?;
    Ok(observe::parse_flat(&text).get("nr_throttled").copied().unwrap_or(0))
}

impl Drop for Scratch<'_> {
    fn drop(&mut self) {
        if self.removed {
            return;
        }
        for dir in self.dirs() {
            if let Err(e) = cgroup::remove(&dir) {
                tracing::warn!(error = %ves_proto::fault::chain(&e), "leave a self-test's group");
            }
        }
    }
}
