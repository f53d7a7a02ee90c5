//! The provider of what containers see in place of the node's, as the unit `ves-lxcfs` starts it.
//!
//! It is told to end by unmounting. Never here: the node's views, which the lifecycle daemon looks after.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
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
    lxcfs.arg(dir.with_extension("pid")).arg(&dir);
    lxcfs.stdin(Stdio::null()).stdout(out.try_clone().context("duplicate the log")?).stderr(out);
    let mut child = lxcfs.current_dir("/").process_group(0).spawn().context("start lxcfs")?;
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

/// Takes away all that is mounted of it, by which it ends.
pub(crate) fn end(layout: &Layout) -> anyhow::Result<()> {
    for entry in fs::read_dir(layout.views_dir()).into_iter().flatten().flatten() {
        unmount(&entry.path())?;
    }
    unmount(&layout.views_provider())
}
