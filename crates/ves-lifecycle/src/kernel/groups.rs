//! A container's control groups: where they are, whether they exist, who is in them, freezing and
//! killing. The groups are made and limited by the resources service, and a monitor says which devices
//! they may open; nothing here changes them but freezing.
//!
//! Whether a container lives is known by them alone: files can be lost, and a group cannot be left.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal};
use ves_host::cgroup::{self, Hierarchies};
use ves_host::{HostError, channel};
use ves_types::CtId;
use ves_types::layout::{CGROUP_DELEGATED, CGROUP_ROOT};

use super::group;
use crate::error::{About, Error};
use crate::observe::{self, Inside};

/// How long freezing may take.
const FREEZE: Duration = Duration::from_secs(10);
/// How long a monitor whose init was killed may take to see that and end.
const FOLLOW: Duration = Duration::from_secs(5);
/// The name by which a monitor goes.
const MONITOR: &str = "ves-monitor";

/// Whether all of them exist.
pub(super) fn exist(hierarchies: &Hierarchies, ct: CtId) -> bool {
    hierarchies.procs_files(&group(ct), CGROUP_DELEGATED).iter().all(|file| file.exists())
}

/// Whether the container's processes are frozen.
pub(super) fn frozen(hierarchies: &Hierarchies, ct: CtId) -> Result<bool, HostError> {
    let Some(freezer) = hierarchies.freezer(&group(ct)) else { return Ok(false) };
    let text = cgroup::read_if_exists(&freezer.state)?.unwrap_or_default();
    Ok(observe::frozen(&text, freezer.frozen))
}

/// Freezes or thaws, and waits until it is so.
pub(super) fn freeze(hierarchies: &Hierarchies, ct: CtId, freeze: bool) -> Result<(), Error> {
    let Some(freezer) = hierarchies.freezer(&group(ct)) else {
        return Err(Error::Node(HostError::Lacks {
            feature: "freezing".to_owned(),
            why: "neither cgroup2 nor the freezer controller is mounted".to_owned(),
        }));
    };
    let end = Instant::now() + FREEZE;
    loop {
        // Version 1 may need the word again while processes come and go.
        let word = if freeze { freezer.freeze } else { freezer.thaw };
        cgroup::write(&freezer.file, word).about(ct, "freeze or thaw it")?;
        if frozen(hierarchies, ct).about(ct, "see whether it is frozen")? == freeze {
            return Ok(());
        }
        if Instant::now() > end {
            return Err(Error::Unresponsive { ct, what: "freeze or thaw" });
        }
        super::pause();
    }
}

/// The file that tells when the last process has left the group, which only version 2 does.
pub(super) fn events(hierarchies: &Hierarchies, ct: CtId) -> Option<PathBuf> {
    let v2 = hierarchies.v2.as_ref()?;
    Some(v2.mount.join(group(ct)).join("cgroup.events"))
}

/// The containers that have groups.
pub(super) fn list(hierarchies: &Hierarchies) -> Result<BTreeSet<CtId>, HostError> {
    let mut found = BTreeSet::new();
    for dir in hierarchies.dirs(CGROUP_ROOT) {
        let names = cgroup::children(&dir)?;
        let ids = names.iter().filter_map(|p| p.file_name()?.to_str()?.strip_prefix("ct-"));
        found.extend(ids.filter_map(|id| id.parse::<CtId>().ok()));
    }
    Ok(found)
}

fn inside(pid: u32) -> Option<Inside> {
    observe::inside(&std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?)
}

/// Whether processes of the container live, of which it is known that they have no monitor. Those whose
/// monitor has just died are dying with it, and are waited for until `end`; others until `settled`, so
/// that none is taken for a stray while it is being killed.
pub(super) fn stray(
    hierarchies: &Hierarchies,
    ct: CtId,
    settled: Instant,
    end: Instant,
) -> Result<bool, HostError> {
    loop {
        let inhabitants: Vec<_> =
            hierarchies.processes(&group(ct))?.into_iter().filter_map(inside).collect();
        if inhabitants.is_empty() {
            return Ok(false);
        }
        // Where init is listed no more, it is taking the others along.
        let init = inhabitants.iter().find(|process| process.number == 1);
        let until = if init.is_none_or(|init| init.dying) { end } else { settled };
        if Instant::now() >= until {
            return Ok(true);
        }
        super::pause();
    }
}

/// Kills whoever is in the container's groups, and waits until nobody is; its monitor, which this ends,
/// is waited for too.
pub(super) fn kill(hierarchies: &Hierarchies, ct: CtId, most: Duration) -> Result<(), Error> {
    let end = Instant::now() + most;
    let mut monitor = None;
    loop {
        let pids = hierarchies.processes(&group(ct)).about(ct, "see whether it has processes")?;
        if pids.is_empty() {
            break;
        }
        if Instant::now() > end {
            return Err(Error::Undying { ct });
        }
        let held: Vec<_> = pids.into_iter().filter_map(|pid| Some((pid, hold(pid)?))).collect();
        // Seen again now that they are held, so no number has become another's.
        let still = hierarchies.processes(&group(ct)).about(ct, "see whether it has processes")?;
        let still = BTreeSet::from_iter(still);
        for (pid, held) in held.iter().filter(|(pid, _)| still.contains(pid)) {
            monitor = monitor.or_else(|| monitor_of(*pid));
            // It may have ended by itself.
            rustix::process::pidfd_send_signal(held, Signal::KILL).ok();
        }
        super::pause();
    }
    let Some(monitor) = monitor else { return Ok(()) };
    let what = "wait for its monitor's end";
    if channel::wait(&monitor, FOLLOW).about(ct, what)? {
        return Ok(());
    }
    tracing::warn!(%ct, "the monitor does not see that init has ended; killing it");
    rustix::process::pidfd_send_signal(&monitor, Signal::KILL).ok();
    match channel::wait(&monitor, most).about(ct, what)? {
        true => Ok(()),
        false => Err(Error::Undying { ct }),
    }
}

/// A descriptor of a process, which may be gone.
fn hold(pid: u32) -> Option<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw)?;
    rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok()
}

/// The monitor of this process, where the process is an init.
fn monitor_of(pid: u32) -> Option<OwnedFd> {
    let parent = inside(pid).filter(|process| process.number == 1)?.parent;
    let monitor = hold(parent)?;
    let name = std::fs::read_to_string(format!("/proc/{parent}/comm")).ok()?;
    // Still its parent, so it is the one that is held.
    let same = inside(pid).is_some_and(|process| process.parent == parent);
    (name.trim_end() == MONITOR && same).then_some(monitor)
}
