//! Control group hierarchies: which there are, and where a group's files are in them.
//!
//! Owns detection: version 1 controllers mounted one by one or together, version 2, or both. Never
//! here: a mount of a hierarchy, the contents of a group's files.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::{read, read_if_exists};
use crate::error::HostError;
use crate::mount::unescape;

/// The controllers we know. The order is that in which a process joins version 1 hierarchies:
/// `blkio` before `memory`, since writeback takes the memory group's idea of its block group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Controller {
    /// Block I/O; called `io` in version 2.
    Blkio,
    /// Memory, and swap where it is counted.
    Memory,
    /// Processes and threads.
    Pids,
    /// Which processors and memory nodes.
    Cpuset,
    /// Processor time used; version 2 counts it without a controller.
    Cpuacct,
    /// Processor weight and quota.
    Cpu,
    /// Device nodes; version 1 only.
    Devices,
    /// Stopping all at once; version 2 does it without a controller.
    Freezer,
}

impl Controller {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Blkio,
        Self::Memory,
        Self::Pids,
        Self::Cpuset,
        Self::Cpuacct,
        Self::Cpu,
        Self::Devices,
        Self::Freezer,
    ];
    /// Its name in version 1.
    pub const fn v1_name(self) -> &'static str {
        match self {
            Self::Blkio => "blkio",
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Cpuset => "cpuset",
            Self::Cpuacct => "cpuacct",
            Self::Cpu => "cpu",
            Self::Devices => "devices",
            Self::Freezer => "freezer",
        }
    }
    /// Its name in version 2, where it is a controller there.
    pub const fn v2_name(self) -> Option<&'static str> {
        match self {
            Self::Blkio => Some("io"),
            Self::Memory => Some("memory"),
            Self::Pids => Some("pids"),
            Self::Cpuset => Some("cpuset"),
            Self::Cpu => Some("cpu"),
            Self::Cpuacct | Self::Devices | Self::Freezer => None,
        }
    }
}

/// Which versions a machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// Controllers in version 1 hierarchies, no version 2.
    V1,
    /// One version 2 hierarchy with all controllers.
    V2,
    /// Controllers in version 1 hierarchies and a version 2 hierarchy beside them.
    Hybrid,
}

/// One mounted version 1 hierarchy that has at least one controller we know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct V1 {
    /// Where it is mounted.
    pub mount: PathBuf,
    /// What it controls; several where controllers are mounted together.
    pub controllers: BTreeSet<Controller>,
}

/// The mounted version 2 hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct V2 {
    /// Where it is mounted.
    pub mount: PathBuf,
    /// What it controls; empty where version 1 holds the controllers.
    pub controllers: BTreeSet<Controller>,
}

/// A file and what is written to it to stop all processes of a group, and to let them go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Freezer {
    /// Where to write.
    pub file: PathBuf,
    /// Stops them.
    pub freeze: &'static str,
    /// Lets them go on.
    pub thaw: &'static str,
    /// Where the state is read.
    pub state: PathBuf,
    /// The line of `state` that says all are stopped.
    pub frozen: &'static str,
}

/// All hierarchies of this machine that matter to us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchies {
    /// Version 1, in the order a process joins them.
    pub v1: Vec<V1>,
    /// Version 2.
    pub v2: Option<V2>,
}

impl Hierarchies {
    /// Finds out what this machine has from its mounts and the kernel's list of controllers.
    ///
    /// # Errors
    /// [`HostError::Sys`] when the kernel cannot be asked, [`HostError::Lacks`] when no hierarchy is
    /// mounted.
    pub fn detect() -> Result<Self, HostError> {
        let mountinfo = read(Path::new("/proc/self/mountinfo"))?;
        let controllers = read_if_exists(Path::new("/proc/cgroups"))?;
        let mut found = Self::parse(&mountinfo, controllers.as_deref());
        if let Some(v2) = &mut found.v2 {
            v2.controllers = parse_v2_controllers(&read(&v2.mount.join("cgroup.controllers"))?);
        }
        if found.v1.is_empty() && found.v2.is_none() {
            return Err(HostError::Lacks {
                feature: "control groups".to_owned(),
                why: "no hierarchy is mounted; `mount -t cgroup2 cgroup2 /sys/fs/cgroup` brings it"
                    .to_owned(),
            });
        }
        Ok(found)
    }

    /// What the texts of `/proc/self/mountinfo` and `/proc/cgroups` say. The controllers of a version
    /// 2 hierarchy are not in them and remain empty. Without the second text (newer kernels
    /// may have none) every mounted controller counts as enabled.
    pub fn parse(mountinfo: &str, controllers: Option<&str>) -> Self {
        let enabled = |c: Controller| {
            controllers.is_none_or(|text| {
                text.lines().any(|line| {
                    let mut words = line.split_ascii_whitespace();
                    words.next() == Some(c.v1_name()) && words.nth(2) == Some("1")
                })
            })
        };
        let mut v1: Vec<V1> = Vec::new();
        let mut v2 = None;
        // A hierarchy may be mounted several times; the writable mount that shows all of it is the
        // one to use, the first such.
        let mut mounts: Vec<_> = mountinfo.lines().filter_map(parse_mount).collect();
        mounts.sort_by_key(|m| (m.partial, m.read_only));
        for mount in mounts {
            if mount.v2 {
                v2.get_or_insert(V2 { mount: mount.point, controllers: BTreeSet::new() });
                continue;
            }
            let controllers: BTreeSet<_> = Controller::ALL
                .into_iter()
                .filter(|c| mount.options.iter().any(|o| o == c.v1_name()) && enabled(*c))
                .collect();
            if !controllers.is_empty() && v1.iter().all(|h| h.controllers.is_disjoint(&controllers))
            {
                v1.push(V1 { mount: mount.point, controllers });
            }
        }
        v1.sort_by(|a, b| a.controllers.cmp(&b.controllers));
        Self { v1, v2 }
    }

    /// A machine with nothing but a version 2 hierarchy at `mount`.
    pub fn unified(mount: impl Into<PathBuf>, controllers: BTreeSet<Controller>) -> Self {
        Self { v1: Vec::new(), v2: Some(V2 { mount: mount.into(), controllers }) }
    }

    /// Which versions there are.
    pub const fn version(&self) -> Version {
        match (self.v1.is_empty(), self.v2.is_some()) {
            (false, false) => Version::V1,
            (false, true) => Version::Hybrid,
            (true, _) => Version::V2,
        }
    }

    /// The version 1 hierarchy with this controller.
    pub fn v1_with(&self, controller: Controller) -> Option<&V1> {
        self.v1.iter().find(|h| h.controllers.contains(&controller))
    }

    /// The version 2 hierarchy, if this controller is there.
    pub fn v2_with(&self, controller: Controller) -> Option<&V2> {
        self.v2.as_ref().filter(|h| h.controllers.contains(&controller))
    }

    /// The directories of a group, version 1 first, without the version 2 child that the container is given.
    pub fn dirs(&self, group: &str) -> Vec<PathBuf> {
        let mounts = self.v1.iter().map(|h| &h.mount).chain(self.v2.iter().map(|h| &h.mount));
        mounts.map(|mount| mount.join(group)).collect()
    }

    /// The processes in a group; the first hierarchy that has any shows them all.
    ///
    /// # Errors
    /// [`HostError::Sys`], [`HostError::Parse`].
    pub fn processes(&self, group: &str) -> Result<Vec<u32>, HostError> {
        for dir in self.dirs(group) {
            let pids = super::processes(&dir)?;
            if !pids.is_empty() {
                return Ok(pids);
            }
        }
        Ok(Vec::new())
    }

    /// The files a process id is written to in order to join a group: `group` itself in each
    /// version 1 hierarchy, its child `child` in version 2. Every one must be written; one that is
    /// not there means that the group was not made whole.
    pub fn procs_files(&self, group: &str, child: &str) -> Vec<PathBuf> {
        let v1 = self.v1.iter().map(|h| h.mount.join(group).join("cgroup.procs"));
        let v2 = self.v2.iter().map(|h| h.mount.join(group).join(child).join("cgroup.procs"));
        v1.chain(v2).collect()
    }

    /// How a group's processes are stopped all at once: by version 2, which needs no controller for
    /// it, else by the version 1 freezer.
    pub fn freezer(&self, group: &str) -> Option<Freezer> {
        if let Some(v2) = &self.v2 {
            let dir = v2.mount.join(group);
            return Some(Freezer {
                file: dir.join("cgroup.freeze"),
                freeze: "1",
                thaw: "0",
                state: dir.join("cgroup.events"),
                frozen: "frozen 1",
            });
        }
        let file = self.v1_with(Controller::Freezer)?.mount.join(group).join("freezer.state");
        Some(Freezer {
            state: file.clone(),
            file,
            freeze: "FROZEN",
            thaw: "THAWED",
            frozen: "FROZEN",
        })
    }

    /// The file that kills every process of a group and its children when `1` is written to it; not
    /// on machines without version 2.
    pub fn kill_file(&self, group: &str) -> Option<PathBuf> {
        self.v2.as_ref().map(|v2| v2.mount.join(group).join("cgroup.kill"))
    }
}

struct Mount {
    point: PathBuf,
    /// Shows only a part of its hierarchy.
    partial: bool,
    read_only: bool,
    v2: bool,
    options: Vec<String>,
}

/// One line of mountinfo, if it is a control group mount.
fn parse_mount(line: &str) -> Option<Mount> {
    let (mount, fs) = line.split_once(" - ")?;
    let mut mount = mount.split(' ').skip(3);
    let (root, point, flags) = (mount.next()?, mount.next()?, mount.next()?);
    let mut fs = fs.split(' ');
    let (kind, options) = (fs.next()?, fs.nth(1)?);
    let options: Vec<String> = options.split(',').map(str::to_owned).collect();
    let v2 = match kind {
        "cgroup" => false,
        "cgroup2" => true,
        _ => return None,
    };
    let read_only = flags.split(',').any(|f| f == "ro") || options.iter().any(|o| o == "ro");
    Some(Mount { point: unescape(point), partial: root != "/", read_only, v2, options })
}

/// The controllers named in a version 2 `cgroup.controllers` or `cgroup.subtree_control`.
pub fn parse_v2_controllers(text: &str) -> BTreeSet<Controller> {
    let words: Vec<_> = text.split_ascii_whitespace().collect();
    Controller::ALL
        .into_iter()
        .filter(|c| c.v2_name().is_some_and(|name| words.contains(&name)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
33 31 0:30 / /sys/fs/cgroup/cpuacct rw,relatime - cgroup cgroup rw,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
38 31 0:35 / /sys/fs/cgroup/blkio rw,relatime - cgroup cgroup rw,blkio
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";
    const CONTROLLERS: &str = "#subsys_name\thierarchy\tnum_cgroups\tenabled
cpu\t1\t1\t1\ncpuacct\t2\t1\t1\nblkio\t7\t1\t1\nmemory\t4\t18\t1\n";

    #[test]
    fn hybrid_with_controllers_one_by_one() {
        let h = Hierarchies::parse(HYBRID, Some(CONTROLLERS));
        assert_eq!(h.version(), Version::Hybrid);
        let files = h.procs_files("ves/ct-1", "payload");
        let expected = [
            "/sys/fs/cgroup/blkio/ves/ct-1/cgroup.procs",
            "/sys/fs/cgroup/memory/ves/ct-1/cgroup.procs",
            "/sys/fs/cgroup/cpuacct/ves/ct-1/cgroup.procs",
            "/sys/fs/cgroup/cpu/ves/ct-1/cgroup.procs",
            "/sys/fs/cgroup/unified/ves/ct-1/payload/cgroup.procs",
        ];
        assert_eq!(files, expected.map(PathBuf::from));
        assert_eq!(h.freezer("ves/ct-1").map(|f| f.freeze), Some("1"));
    }

    #[test]
    fn v1_with_controllers_together_and_one_disabled() {
        let text = "\
50 31 0:40 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid - cgroup cgroup rw,cpu,cpuacct
51 31 0:41 / /sys/fs/cgroup/memory rw,nosuid - cgroup cgroup rw,memory
52 31 0:42 / /sys/fs/cgroup/freezer rw,nosuid - cgroup cgroup rw,freezer
";
        let enabled = "cpu\t1\t1\t1\ncpuacct\t1\t1\t1\nmemory\t0\t1\t0\nfreezer\t2\t1\t1\n";
        let h = Hierarchies::parse(text, Some(enabled));
        assert_eq!(h.version(), Version::V1);
        assert_eq!(h.v1_with(Controller::Memory), None);
        assert_eq!(h.v1_with(Controller::Cpu), h.v1_with(Controller::Cpuacct));
        assert_eq!(h.procs_files("a", "p").len(), 2);
        assert_eq!(h.freezer("a").map(|f| f.freeze), Some("FROZEN"));
        assert_eq!(h.kill_file("a"), None);
    }

    #[test]
    fn v2_only_wherever_it_is() {
        let text = "30 23 0:26 / /sys/fs/cg\\040roup rw - cgroup2 cgroup2 rw,nsdelegate\n";
        let h = Hierarchies::parse(text, None);
        assert_eq!(h.version(), Version::V2);
        assert_eq!(
            h.procs_files("ves/ct-1", "payload"),
            [PathBuf::from("/sys/fs/cg roup/ves/ct-1/payload/cgroup.procs")]
        );
    }

    #[test]
    fn a_file_that_a_service_manager_mounts_for_a_unit_is_no_hierarchy() {
        let unit = "/system.slice/x.service/memory.pressure";
        let text = format!(
            "26 25 0:25 / /sys/fs/cgroup ro - cgroup2 cgroup2 rw,nsdelegate\n\
             91 26 0:25 {unit} /sys/fs/cgroup{unit} rw - cgroup2 cgroup2 rw,nsdelegate\n"
        );
        let found = Hierarchies::parse(&text, None).v2.expect("there is one");
        assert_eq!(found.mount, Path::new("/sys/fs/cgroup"));
    }

    #[test]
    fn a_whole_writable_mount_is_preferred() {
        let text = "\
60 31 0:41 /part /a rw - cgroup cgroup rw,memory
61 31 0:41 / /b ro - cgroup cgroup rw,memory
62 31 0:41 / /c rw - cgroup cgroup rw,memory
";
        let h = Hierarchies::parse(text, None);
        assert_eq!(h.dirs("x"), [PathBuf::from("/c/x")]);
        assert_eq!(Hierarchies::parse("garbage\n - \n", None).v1, []);
    }

    #[test]
    fn names_of_version_2() {
        let set = parse_v2_controllers("cpuset cpu io memory hugetlb pids rdma misc\n");
        use Controller::{Blkio, Cpu, Cpuset, Memory, Pids};
        assert_eq!(set, [Blkio, Memory, Pids, Cpuset, Cpu].into());
    }

    #[test]
    fn this_machine_has_some() {
        let h = Hierarchies::detect().expect("a machine of ours has control groups");
        for file in h.procs_files("", "") {
            assert!(file.exists(), "{}", file.display());
        }
    }
}
