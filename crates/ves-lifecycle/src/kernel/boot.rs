//! What is seen of an init that says nothing of its boot and its end: its title and its first children, by the
//! node's own /proc. Never here: what follows from that; a file of the container.

use std::io::Read;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ves_init_proto::report::InitKind;

use crate::observe::{self, Child};
use crate::plan::Monitor;

/// The most of a file and the most children that are looked at; a container can have any number.
const MOST: u64 = 4096;
const CHILDREN: usize = 64;

/// The beginning of a file; nothing where it cannot be read, of a process that is gone say.
fn read(path: impl AsRef<Path>) -> String {
    let mut bytes = Vec::new();
    if let Ok(file) = std::fs::File::open(path) {
        file.take(MOST).read_to_end(&mut bytes).ok();
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Whether an init that executes has booted, as far as can be seen. systemd says so itself.
pub(super) fn seen(monitor: &Monitor) -> bool {
    let Monitor { init_pid, started_unix_ms, kind, .. } = *monitor;
    if matches!(kind, InitKind::Systemd | InitKind::Other) {
        return true;
    }
    let started = Duration::from_millis(u64::try_from(started_unix_ms).unwrap_or_default());
    // A clock that was set back shows an init that has just begun.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let runs = now.saturating_sub(started);
    if runs >= observe::BOOTS {
        // Whatever it shows: a look at a container that has run for long reads nothing of this.
        return true;
    }
    let (title, children) = (title(init_pid), children(init_pid));
    let names: Vec<_> = children.into_iter().map(name).collect();
    observe::has_booted(&title, &names, runs)
}

/// Whether an init goes down, as far as can be seen. systemd says so itself, and is another program at the last.
pub(super) fn goes_down(monitor: &Monitor) -> bool {
    let Monitor { init_pid, kind, .. } = *monitor;
    if kind == InitKind::Systemd || !monitor.running {
        return false;
    }
    let child = |pid| Child { name: name(pid), title: title(pid) };
    let children: Vec<_> = children(init_pid).into_iter().map(child).collect();
    observe::goes_down(&title(init_pid), &children)
}

fn title(pid: u32) -> String {
    read(format!("/proc/{pid}/cmdline"))
}

fn name(pid: u32) -> String {
    read(format!("/proc/{pid}/comm")).trim_end().to_owned()
}

/// The first children of an init.
fn children(init_pid: u32) -> Vec<u32> {
    let children = read(format!("/proc/{init_pid}/task/{init_pid}/children"));
    // The last number may be cut, and is then nobody's or another's.
    children.split_ascii_whitespace().take(CHILDREN).filter_map(|n| n.parse().ok()).collect()
}
