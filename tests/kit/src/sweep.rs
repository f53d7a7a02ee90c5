//! Removal of what a node left behind, without any daemon: processes, links, mounts, loop devices,
//! control groups.
//!
//! What is removed is told by a filter over the lines of the [`Inventory`]; nothing it does not pick
//! is touched. `cargo xtask down` uses it, and so do tests whose node is gone. On a node that went
//! down in order there is next to nothing to do.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use ves_types::layout::Layout;

use crate::Inventory;
use crate::inventory::Kind;
use crate::stack;

/// How long processes may take to die and their groups to become empty.
const PATIENCE: Duration = Duration::from_secs(60);

/// Removes what `mine` picks and hands back what that was, in words.
pub fn sweep(layout: &Layout, mine: &dyn Fn(Kind, &str) -> bool) -> anyhow::Result<Vec<String>> {
    let there = Inventory::take(layout).only(mine);
    let lines = |kind| there.of(kind).map(str::to_owned).collect::<Vec<_>>();
    let mut swept = Vec::new();
    let mut note = |count: usize, what: &str| {
        if count > 0 {
            swept.push(format!("{count} {what}"));
        }
    };
    let groups: Vec<PathBuf> = lines(Kind::Cgroup).into_iter().map(PathBuf::from).collect();
    let monitors = monitors(layout);
    note(processes(&groups, &lines(Kind::Process), &monitors)?, "processes");
    for link in lines(Kind::Link) {
        let name = link.split_whitespace().next().unwrap_or_default().to_owned();
        // It may go by itself in this moment, with its network namespace.
        run("ip", &["link", "delete", "dev", &name]).ok();
    }
    note(lines(Kind::Link).len(), "links");
    note(mounts(layout, mine)?, "mounts");
    for device in lines(Kind::Loop) {
        let name = device.split_whitespace().next().unwrap_or_default();
        // A device whose last mount went has detached itself.
        run("losetup", &["--detach", &format!("/dev/{name}")]).ok();
    }
    note(lines(Kind::Loop).len(), "loop devices");
    note(cgroups(groups)?, "control groups");
    Ok(swept)
}

/// Kills what is in the control groups and the processes the inventory saw.
fn processes(groups: &[PathBuf], lines: &[String], monitors: &[PathBuf]) -> anyhow::Result<usize> {
    let end = Instant::now() + PATIENCE;
    let mut killed = 0;
    loop {
        let mut pids: Vec<i32> = lines
            .iter()
            .filter_map(|line| line.split_whitespace().next()?.parse().ok())
            .filter(|pid| is_still(*pid, lines))
            .collect();
        for group in groups {
            let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
            pids.extend(text.lines().filter_map(|pid| pid.parse::<i32>().ok()));
        }
        let holders = monitors.iter().filter_map(|socket| stack::listener(socket));
        pids.extend(holders.filter_map(|pid| i32::try_from(pid).ok()));
        pids.sort_unstable();
        pids.dedup();
        if pids.is_empty() {
            return Ok(killed);
        }
        ensure!(Instant::now() < end, "the processes {pids:?} cannot be killed");
        for pid in pids.into_iter().filter_map(Pid::from_raw) {
            if let Ok(fd) = pidfd_open(pid, PidfdFlags::empty())
                && pidfd_send_signal(&fd, Signal::KILL).is_ok()
            {
                killed += 1;
            }
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The sockets of the monitors of this node's containers.
fn monitors(layout: &Layout) -> Vec<PathBuf> {
    let entries = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten();
    entries(&layout.cts_dir())
        .flat_map(|ct| entries(&ct.path()).collect::<Vec<_>>())
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_socket()))
        .map(|entry| entry.path())
        .collect()
}

/// Whether a line of [`Kind::Process`] is about a program in `dir`.
pub fn runs_from(line: &str, dir: &Path) -> bool {
    let pid = line.split_whitespace().next().unwrap_or_default();
    let exe = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    exe.parent() == Some(&dir)
}

/// Whether the process is still the one that the inventory saw.
fn is_still(pid: i32, lines: &[String]) -> bool {
    let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let args = read("cmdline").replace('\0', " ");
    let now = format!("{pid} {} {}", read("comm").trim(), args.trim());
    !args.is_empty() && lines.contains(&now)
}

/// Unmounts, last mounted first.
fn mounts(layout: &Layout, mine: &dyn Fn(Kind, &str) -> bool) -> anyhow::Result<usize> {
    let points = || {
        let left =
            Inventory::take(layout).only(|kind, line| kind == Kind::Mount && mine(kind, line));
        let mut points: Vec<String> = left
            .of(Kind::Mount)
            .filter_map(|line| Some(line.split_whitespace().next()?.to_owned()))
            .collect();
        // Deeper ones first.
        points.sort_by_key(|point| std::cmp::Reverse(point.len()));
        points
    };
    let count = points().len();
    // Mounts can lie on each other; each round takes the uppermost.
    for _ in 0..16 {
        for point in points() {
            if run("umount", &[&point]).is_err() {
                run("umount", &["--lazy", &point])?;
            }
        }
        if points().is_empty() {
            break;
        }
    }
    ensure!(points().is_empty(), "these stay mounted: {}", points().join(", "));
    Ok(count)
}

fn cgroups(mut groups: Vec<PathBuf>) -> anyhow::Result<usize> {
    let end = Instant::now() + PATIENCE;
    let count = groups.len();
    groups.sort_by_key(|path| std::cmp::Reverse(path.as_os_str().len()));
    for group in groups {
        loop {
            match fs::remove_dir(&group) {
                Ok(()) => break,
                Err(e) if e.kind() == ErrorKind::NotFound => break,
                // The last process is on its way out.
                Err(e) if e.kind() == ErrorKind::ResourceBusy && Instant::now() < end => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(e) => {
                    return Err(e)
                        .with_context(|| format!("remove the control group {}", group.display()));
                }
            }
        }
    }
    Ok(count)
}

/// Removes a tree that holds no mount any more, or a file; nothing there is no failure.
pub fn remove(path: &Path) -> anyhow::Result<()> {
    let what = || format!("remove {}", path.display());
    let result = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(e) => Err(e),
    };
    match result {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        other => other.with_context(what),
    }
}

/// Runs a program of the host.
pub fn run(program: &str, args: &[&str]) -> anyhow::Result<()> {
    let words = || format!("`{program} {}`", args.join(" "));
    let out = Command::new(program).args(args).output().with_context(words)?;
    let said = String::from_utf8_lossy(&out.stderr);
    ensure!(out.status.success(), "{} failed ({}): {}", words(), out.status, said.trim());
    Ok(())
}
