//! The provider of what containers see in place of the node's, as the unit `ves-lxcfs` starts it.
//!
//! Never here: the node's views, which the lifecycle daemon looks after.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use ves_types::layout::Layout;

use crate::tool;

/// How long it may take to be mounted.
const READY: Duration = Duration::from_secs(10);

/// Whether something is mounted there, which may be dead.
fn mounted(dir: &Path) -> anyhow::Result<bool> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("read the mount table")?;
    let dir = dir.to_string_lossy();
    Ok(table.lines().any(|line| line.split(' ').nth(4) == Some(&dir)))
}

fn unmount(at: &Path) -> anyhow::Result<()> {
    while mounted(at)? {
        let mut umount = Command::new("umount");
        umount.arg("--lazy").arg(at);
        tool::quietly(umount)?;
    }
    Ok(())
}

/// Makes sure that it runs; tells whether it did not.
pub(crate) fn provide(layout: &Layout, log: &Path) -> anyhow::Result<bool> {
    let dir = layout.views_provider();
    if fs::read(dir.join("proc/uptime")).is_ok() {
        return Ok(false);
    }
    unmount(&dir)?;
    fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    let out = File::create(log).with_context(|| format!("make {}", log.display()))?;
    let mut lxcfs = Command::new("/usr/bin/setsid");
    lxcfs.args(["lxcfs", "-f", "--enable-loadavg", "--enable-cfs", "--enable-pidfd", "-p"]);
    lxcfs.arg(pid_file(layout)).arg(&dir);
    lxcfs.stdin(Stdio::null()).stdout(out.try_clone().context("duplicate the log")?).stderr(out);
    let mut child = lxcfs.current_dir("/").spawn().context("start lxcfs")?;
    let end = Instant::now() + READY;
    while !mounted(&dir)? {
        let ended = child.try_wait().context("look after lxcfs")?;
        ensure!(
            ended.is_none() && Instant::now() < end,
            "lxcfs does not start; see {}",
            log.display()
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(true)
}

fn pid_file(layout: &Layout) -> PathBuf {
    layout.views_provider().with_extension("pid")
}

/// Ends it, and takes away all that is mounted of it. Others' copies of the node's mounts would keep it.
pub(crate) fn end(layout: &Layout) -> anyhow::Result<()> {
    let number = fs::read_to_string(pid_file(layout)).unwrap_or_default();
    if let Some(pid) = number.trim().parse().ok().and_then(Pid::from_raw)
        && let Ok(held) = pidfd_open(pid, PidfdFlags::empty())
    {
        let words = fs::read(format!("/proc/{}/cmdline", pid.as_raw_pid())).unwrap_or_default();
        let dir = layout.views_provider();
        if words.split(|b| *b == 0).any(|word| word == dir.as_os_str().as_encoded_bytes()) {
            // Asked to end it would first sleep for some seconds. It may have ended in this moment.
            pidfd_send_signal(&held, Signal::KILL).ok();
        }
    }
    for entry in fs::read_dir(layout.views_dir()).into_iter().flatten().flatten() {
        unmount(&entry.path())?;
    }
    unmount(&layout.views_provider())
}
