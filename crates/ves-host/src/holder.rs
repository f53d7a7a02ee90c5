//! Who holds a file system: processes that have it mounted, work in it, or have a file of it open.
//!
//! Looked for in `/proc`, within a time. Of others' processes only mounts are seen without `CAP_SYS_PTRACE`, so
//! that none may be found of one that is held. Never here: what is done about it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, StatxFlags, major, makedev, minor, statx};

use crate::mount::node;
use crate::{Attempt, HostError};

/// How long looking may take; what was found until then is told.
const PATIENCE: Duration = Duration::from_secs(1);

/// A process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its command's name, as it calls itself.
    pub command: String,
    /// Its number.
    pub pid: u32,
    /// Its user, by name where the node has one.
    pub user: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {}, user {})", self.command, self.pid, self.user)
    }
}

/// Who holds file systems on these devices, each by its number; lowest process first.
///
/// # Errors
/// [`HostError::Sys`].
pub fn of_devices(devices: &BTreeSet<u64>) -> Result<BTreeMap<u64, Vec<Holder>>, HostError> {
    // A service manager may hide others' processes from a daemon in its own namespace.
    node::within(|| search(devices, Path::new("/proc"), Instant::now() + PATIENCE))
}

fn search(
    devices: &BTreeSet<u64>,
    proc: &Path,
    until: Instant,
) -> Result<BTreeMap<u64, Vec<Holder>>, HostError> {
    let mut found: BTreeMap<u64, Vec<Holder>> = BTreeMap::new();
    if devices.is_empty() {
        return Ok(found);
    }
    let entries = std::fs::read_dir(proc).attempt(|| format!("list {}", proc.display()))?;
    let pids = entries.filter_map(|e| e.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let pids: BTreeSet<u32> = pids.filter(|pid| *pid != std::process::id()).collect();
    for pid in pids {
        if Instant::now() >= until {
            break;
        }
        let dir = proc.join(pid.to_string());
        let held = held_by(&dir, devices);
        if !held.is_empty() {
            let holder = describe(&dir, pid);
            held.iter().for_each(|d| found.entry(*d).or_default().push(holder.clone()));
        }
    }
    Ok(found)
}

/// Which of the devices a process holds. What it does not let us see, or takes along as it ends, it does not.
fn held_by(dir: &Path, devices: &BTreeSet<u64>) -> BTreeSet<u64> {
    let table = std::fs::read_to_string(dir.join("mountinfo")).unwrap_or_default();
    let mounted = |device: &u64| {
        let number = format!("{}:{}", major(*device), minor(*device));
        table.lines().any(|line| line.split(' ').nth(2) == Some(&number))
    };
    let mut held: BTreeSet<u64> = devices.iter().copied().filter(|d| mounted(d)).collect();
    let mut links: Vec<_> = ["root", "cwd", "exe"].iter().map(|name| dir.join(name)).collect();
    if let Ok(open) = std::fs::read_dir(dir.join("fd")) {
        links.extend(open.filter_map(|entry| Some(entry.ok()?.path())));
    }
    held.extend(links.iter().filter_map(|link| device_of(link)).filter(|d| devices.contains(d)));
    held
}

/// The device of what a link leads to. No server and no program is asked, which may never answer.
fn device_of(link: &Path) -> Option<u64> {
    let flags = AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
    let stat = statx(CWD, link, flags, StatxFlags::TYPE).ok()?;
    Some(makedev(stat.stx_dev_major, stat.stx_dev_minor))
}

fn describe(dir: &Path, pid: u32) -> Holder {
    let read = |name: &str| {
        let bytes = std::fs::read(dir.join(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    // It may call itself what it likes.
    let command = read("comm").trim_end().escape_debug().collect::<String>();
    let status = read("status");
    let user = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    let user = user.and_then(|ids| ids.split_whitespace().next()).unwrap_or("?").to_owned();
    Holder { command, pid, user: name_of(&user).unwrap_or(user) }
}

/// The name of a user, from its number.
fn name_of(user: &str) -> Option<String> {
    let accounts = std::fs::read_to_string("/etc/passwd").ok()?;
    accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == user).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    fn process(dir: &Path, pid: u32, comm: &str, mountinfo: &str) {
        let dir = dir.join(pid.to_string());
        std::fs::create_dir_all(dir.join("fd")).expect("made");
        for (name, text) in
            [("comm", comm), ("mountinfo", mountinfo), ("status", "Name:\tx\nUid:\t0\t0\t0\t0\n")]
        {
            std::fs::write(dir.join(name), text).expect("written");
        }
    }

    fn search_in(dir: &Path, devices: &BTreeSet<u64>, time: Duration) -> Vec<(u64, String)> {
        let found = search(devices, dir, Instant::now() + time).expect("searched");
        let words = |(d, holders): (u64, Vec<Holder>)| {
            holders.into_iter().map(move |h| (d, h.to_string())).collect::<Vec<_>>()
        };
        found.into_iter().flat_map(words).collect()
    }

    #[test]
    fn who_has_it_mounted_or_open_is_named() {
        let proc = tempfile::tempdir().expect("a directory");
        let device = makedev(7, 3);
        process(proc.path(), 12, "sle\u{1b}ep\n", "5 1 7:3 / /x rw - ext4 /dev/loop3 rw\n");
        process(proc.path(), 13, "other\n", "5 1 7:33 / /7:3 rw - ext4 /dev/loop33 rw\n");
        process(proc.path(), 14, "reader\n", "");
        let own = std::fs::metadata(proc.path()).expect("there").dev();
        let file = proc.path().join("14/fd/3");
        std::os::unix::fs::symlink(proc.path(), file).expect("made");
        let time = Duration::from_secs(60);
        let of = |devices: &[u64]| search_in(proc.path(), &devices.iter().copied().collect(), time);
        assert_eq!(of(&[device]), [(device, "sle\\u{1b}ep (pid 12, user root)".to_owned())]);
        assert!(of(&[device, own]).contains(&(own, "reader (pid 14, user root)".to_owned())));
        assert_eq!(of(&[makedev(7, 4)]), []);
        assert_eq!(search_in(proc.path(), &BTreeSet::from([device]), Duration::ZERO), []);
    }
}
