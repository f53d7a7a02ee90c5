//! The control groups of a native node: one in each hierarchy of this machine, made before the node
//! begins and removed with all below it when it is gone.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustix::process::Pid;
use sha2::{Digest, Sha256};

use super::base::short;

/// What the names of all nodes' groups begin with.
pub const NODE: &str = "ves-node-";

/// How often a group that is in use is tried to be removed.
const AGAIN: Duration = Duration::from_millis(10);

/// Controllers that a node is given where they are bound to cgroup version 2.
const CONTROLLERS: [&str; 5] = ["cpu", "cpuset", "io", "memory", "pids"];

/// A mounted hierarchy of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Hierarchy {
    mount: PathBuf,
    /// The controllers of a hierarchy of version 1, joined by commas.
    v1: Option<String>,
}

/// The groups of one node.
#[derive(Debug, Clone)]
pub struct Groups {
    name: String,
    hierarchies: Vec<Hierarchy>,
}

impl Groups {
    /// The groups of the node in `dir`, of which no other node has the name.
    pub fn named(dir: &Path) -> anyhow::Result<Self> {
        let digest = Sha256::new().chain_update(dir.as_os_str().as_encoded_bytes());
        let mounts = fs::read_to_string("/proc/self/mounts").context("read the mounts")?;
        let hierarchies = parse(&mounts);
        ensure!(
            hierarchies.iter().any(|h| h.v1.is_none()),
            "a native node needs cgroup version 2 mounted, with or without controllers"
        );
        Ok(Self { name: format!("{NODE}{}", short(digest)), hierarchies })
    }

    fn directories(&self) -> impl Iterator<Item = PathBuf> {
        self.hierarchies.iter().map(|h| h.mount.join(&self.name))
    }

    /// Makes them, usable at once.
    pub(super) fn make(&self) -> anyhow::Result<()> {
        for hierarchy in &self.hierarchies {
            let group = hierarchy.mount.join(&self.name);
            let what = || format!("make {}", group.display());
            if hierarchy.v1.is_none() {
                for controller in CONTROLLERS {
                    // What is not there, or is bound to version 1, a node does without.
                    fs::write(
                        hierarchy.mount.join("cgroup.subtree_control"),
                        format!("+{controller}"),
                    )
                    .ok();
                }
            }
            match fs::create_dir(&group) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(e).with_context(what);
                }
                _ => {}
            }
            if hierarchy.v1.as_deref().is_some_and(|list| list.split(',').any(|c| c == "cpuset")) {
                for file in ["cpuset.cpus", "cpuset.mems"] {
                    let all = fs::read(hierarchy.mount.join(file)).with_context(what)?;
                    fs::write(group.join(file), all).with_context(what)?;
                }
                fs::write(group.join("cgroup.clone_children"), "1").with_context(what)?;
            }
        }
        Ok(())
    }

    /// What the first process of a node is told of them.
    pub(super) fn words(&self) -> Vec<String> {
        let join = self.directories().map(|dir| format!("join={}", dir.display()));
        let v1 = self.hierarchies.iter().filter_map(|h| h.v1.as_ref());
        // The directory's name has no comma: `cpu,cpuacct` is mounted as `cpu-cpuacct`.
        join.chain(v1.map(|list| format!("mount={},{list}", list.replace(',', "-")))).collect()
    }

    /// Where another process joins the node: with controllers of version 2 only a group without
    /// groups below it may have processes.
    pub(super) fn leaves(&self) -> Vec<PathBuf> {
        let leaf = |group: PathBuf| {
            let init = group.join("init.scope");
            if init.is_dir() { init } else { group }
        };
        self.hierarchies
            .iter()
            .map(|h| h.mount.join(&self.name))
            .zip(&self.hierarchies)
            .map(|(group, h)| if h.v1.is_none() { leaf(group) } else { group })
            .collect()
    }

    /// Whether a process is in one of them.
    pub(super) fn holds(&self, pid: Pid) -> bool {
        let path = format!("/proc/{}/cgroup", pid.as_raw_nonzero());
        fs::read_to_string(path).is_ok_and(|groups| groups.contains(&self.name))
    }

    /// Removes them and all below.
    ///
    /// # Errors
    /// When something still runs in one after `patience`.
    pub(super) fn remove(&self, patience: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + patience;
        for dir in self.directories() {
            while let Err(e) = remove(&dir) {
                ensure!(Instant::now() < end, "{} is not removed: {e}", dir.display());
                std::thread::sleep(AGAIN);
            }
        }
        Ok(())
    }

    /// Those that are there, in words.
    pub(super) fn remains(&self) -> Vec<String> {
        let there = self.directories().filter(|dir| dir.is_dir());
        there.map(|dir| format!("control group {}", dir.display())).collect()
    }
}

fn remove(group: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(group) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove(&entry.path())?;
        }
    }
    match fs::remove_dir(group) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// The hierarchies in `/proc/self/mounts`, each once; one that only names processes is none.
fn parse(mounts: &str) -> Vec<Hierarchy> {
    const NOT_CONTROLLERS: [&str; 8] =
        ["rw", "relatime", "nosuid", "nodev", "noexec", "noatime", "xattr", "clone_children"];
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in mounts.lines() {
        let words: Vec<_> = line.split(' ').collect();
        let [_, mount, kind, options, ..] = words.as_slice() else { continue };
        let v1 = match *kind {
            "cgroup2" => None,
            "cgroup" if options.contains("name=") => continue,
            "cgroup" => {
                let list = options.split(',').filter(|o| !NOT_CONTROLLERS.contains(o));
                Some(list.collect::<Vec<_>>().join(","))
            }
            _ => continue,
        };
        if !found.iter().any(|known| known.v1 == v1) {
            found.push(Hierarchy { mount: PathBuf::from(mount), v1 });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_are_read_from_the_mounts() {
        let mounts = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
                      cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,nosuid,relatime,cpu,cpuacct 0 0\n\
                      cgroup /sys/fs/cgroup/systemd cgroup rw,relatime,xattr,name=systemd 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0\n\
                      cgroup2 /elsewhere cgroup2 rw,relatime 0 0\n";
        let hierarchy = |mount: &str, v1: Option<&str>| Hierarchy {
            mount: mount.into(),
            v1: v1.map(str::to_owned),
        };
        assert_eq!(
            parse(mounts),
            [
                hierarchy("/sys/fs/cgroup/cpu,cpuacct", Some("cpu,cpuacct")),
                hierarchy("/sys/fs/cgroup/unified", None),
            ]
        );
    }
}
