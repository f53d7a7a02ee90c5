//! What a container sees in place of the node's in files of /proc and /sys: views, and who provides them.
//!
//! ```text
//! provider                       node                            container
//! a file system ── ves-init ───▶ DIR/meminfo, … ── each start ─▶ /proc/meminfo, …
//! (lxcfs)          views         mounts of ours    takes copies
//! ```
//!
//! The provider is a program, which may die, be replaced or hang; who opens one of its files waits for it.
//! So only `ves-init views` does that. All others take copies of mounts, which the kernel crosses without
//! asking the provider. Pure. Never here: a mount; when views are taken away or laid anew.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use ves_host::mount::MountEntry;

use crate::report::Failure;

/// A file that is laid over one of the kernel's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct View {
    /// What it is called among the node's.
    pub name: &'static str,
    /// Where it lies, relative to the container's root; a provider has it at the same place of its own.
    pub at: &'static str,
}

/// All of them. Which there are is the provider's: one that it lacks is not laid.
pub const VIEWS: [View; 8] = [
    View { name: "cpuinfo", at: "proc/cpuinfo" },
    View { name: "diskstats", at: "proc/diskstats" },
    View { name: "loadavg", at: "proc/loadavg" },
    View { name: "meminfo", at: "proc/meminfo" },
    View { name: "stat", at: "proc/stat" },
    View { name: "swaps", at: "proc/swaps" },
    View { name: "uptime", at: PROBE.at },
    View { name: "online", at: "sys/devices/system/cpu/online" },
];

/// The one by which it is tried whether the provider answers.
pub const PROBE: View = View { name: "uptime", at: "proc/uptime" };

/// A program that provides views.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Provider {
    /// [lxcfs](https://github.com/lxc/lxcfs).
    Lxcfs,
    /// None: containers see the node's.
    None,
}

/// The type of a provider's file system, by which its mounts are known wherever they are.
pub const FILE_SYSTEM: &str = "fuse.lxcfs";

/// A mounted provider: the number of its file system, which no other has while anybody has a mount of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// The first part.
    pub major: u32,
    /// The second.
    pub minor: u32,
}

/// What `ves-init views` is asked, as often as one likes; it ends with the channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Look {
    /// Make the node's views those of the provider that is mounted there, if it answers, and else none.
    At(PathBuf),
    /// Take them away, and let nobody wait any longer for a provider that does not answer.
    Abandon,
}

/// What there is then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Provided {
    /// A provider that answers, and its views are the node's.
    Lives {
        /// Which.
        device: Device,
        /// What of [`VIEWS`] it has, by name.
        names: Vec<String>,
    },
    /// A provider that answers nobody any more.
    Dead,
    /// None is mounted.
    Absent,
    /// What should have been done was not.
    Failed(Failure),
}

/// What lies at the place of a view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lies {
    /// The kernel's own file.
    Nothing,
    /// A view.
    View(Device),
    /// What somebody inside mounted, who so decided.
    Theirs,
}

/// What is mounted at the place of a view, the topmost first.
fn mounted<'a>(table: &'a [MountEntry], view: &View) -> impl Iterator<Item = Lies> + 'a {
    let point = Path::new("/").join(view.at);
    table.iter().rev().filter(move |entry| entry.point == point).map(|entry| {
        let (major, minor) = entry.device;
        if entry.fs == FILE_SYSTEM { Lies::View(Device { major, minor }) } else { Lies::Theirs }
    })
}

fn lies(table: &[MountEntry], view: &View) -> Lies {
    mounted(table, view).next().unwrap_or(Lies::Nothing)
}

/// Whether a container with these mounts has the views that it should: of the provider with this number
/// those with these names, or none at all.
pub fn fit(table: &[MountEntry], should: Option<(Device, &[String])>) -> bool {
    VIEWS.iter().all(|view| {
        let wanted = should.filter(|(_, names)| names.iter().any(|name| name == view.name));
        match (lies(table, view), wanted) {
            (Lies::View(has), Some((device, _))) => has == device,
            (Lies::View(_), None) | (Lies::Nothing, Some(_)) => false,
            (Lies::Nothing, None) | (Lies::Theirs, _) => true,
        }
    })
}

/// Whether a container with these mounts has any view.
pub fn has_any(table: &[MountEntry]) -> bool {
    VIEWS.iter().any(|view| matches!(lies(table, view), Lies::View(_)))
}

/// What is to be done at the place of a view.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Change {
    /// How many mounts are taken away.
    pub detach: usize,
    /// Whether the one that there is now is laid there.
    pub attach: bool,
}

/// What makes a container with these mounts have this view of the provider with that number, or none.
pub fn change(table: &[MountEntry], view: &View, should: Option<Device>) -> Change {
    match (lies(table, view), should) {
        (Lies::Theirs, _) => Change::default(),
        (Lies::View(has), Some(device)) if has == device => Change::default(),
        (_, should) => {
            let old = mounted(table, view).take_while(|lies| matches!(lies, Lies::View(_)));
            Change { detach: old.count(), attach: should.is_some() }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use ves_host::mount::parse_mountinfo;

    const HAS: Device = Device { major: 0, minor: 71 };
    const NEW: Device = Device { major: 0, minor: 72 };

    /// A container's mounts: those of the kernel, and these below one another at the place of a view.
    fn table(stack: &[(&str, Device)]) -> Vec<MountEntry> {
        let mut text = "27 1 0:60 / / rw - ext4 /dev/loop0 rw\n\
                        28 27 0:61 / /proc rw - proc proc rw\n\
                        29 27 0:62 / /sys ro - sysfs sysfs rw\n"
            .to_owned();
        for (n, (fs, Device { major, minor })) in stack.iter().enumerate() {
            let line = format!(" {major}:{minor} /proc/meminfo /proc/meminfo ro - {fs} x rw\n");
            text.push_str(&format!("{} 28{line}", 30 + n));
        }
        parse_mountinfo(&text).expect("a table")
    }

    fn meminfo() -> View {
        VIEWS.into_iter().find(|view| view.name == "meminfo").expect("one of them")
    }

    #[test]
    fn what_lies_there_is_told_apart() {
        let names = ["meminfo".to_owned()];
        let (none, old) = (table(&[]), table(&[(FILE_SYSTEM, HAS)]));
        let theirs = table(&[(FILE_SYSTEM, HAS), ("tmpfs", HAS)]);
        assert!(fit(&none, None) && !fit(&none, Some((HAS, &names))));
        assert!(fit(&old, Some((HAS, &names))) && !fit(&old, Some((NEW, &names))));
        assert!(!fit(&old, None) && !fit(&old, Some((HAS, &[]))));
        assert!(fit(&theirs, None) && fit(&theirs, Some((NEW, &names))));
        assert!(has_any(&old) && !has_any(&none) && !has_any(&theirs));
        let change = |table, should| change(table, &meminfo(), should);
        assert_eq!(change(&none, Some(NEW)), Change { detach: 0, attach: true });
        assert_eq!(change(&old, Some(NEW)), Change { detach: 1, attach: true });
        assert_eq!(change(&old, None), Change { detach: 1, attach: false });
        assert_eq!(change(&theirs, Some(NEW)), Change::default(), "the tenant has decided");
    }

    #[test]
    fn each_is_known_by_its_name_and_by_its_place() {
        let names: std::collections::BTreeSet<_> = VIEWS.iter().map(|v| v.name).collect();
        let places: std::collections::BTreeSet<_> = VIEWS.iter().map(|v| v.at).collect();
        assert_eq!((names.len(), places.len()), (VIEWS.len(), VIEWS.len()));
        assert!(VIEWS.contains(&PROBE));
    }

    proptest! {
        /// What is changed fits then, and needs no change again; what the tenant mounted is never taken away.
        #[test]
        fn a_change_leads_to_what_should_be(
            stack in proptest::collection::vec((any::<bool>(), any::<bool>()), 0..5),
            there: bool,
        ) {
            let mount = |&(ours, new): &(bool, bool)| {
                (if ours { FILE_SYSTEM } else { "tmpfs" }, if new { NEW } else { HAS })
            };
            let mut stack: Vec<_> = stack.iter().map(mount).collect();
            let theirs = stack.iter().filter(|(fs, _)| *fs != FILE_SYSTEM).count();
            let names = ["meminfo".to_owned()];
            let should = there.then_some(NEW);
            let todo = change(&table(&stack), &meminfo(), should);
            stack.truncate(stack.len() - todo.detach);
            if todo.attach {
                stack.push((FILE_SYSTEM, NEW));
            }
            let left = stack.iter().filter(|(fs, _)| *fs != FILE_SYSTEM).count();
            prop_assert_eq!(left, theirs);
            let after = table(&stack);
            prop_assert!(fit(&after, should.map(|device| (device, &names[..]))));
            prop_assert_eq!(change(&after, &meminfo(), should), Change::default());
        }
    }
}
