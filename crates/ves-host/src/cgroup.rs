//! Control group hierarchies: which there are, where a group's files are, and their reading and
//! writing.
//!
//! Owns detection (version 1 controllers mounted one by one or together, version 2, or both) and
//! the file operations on groups. Knows no containers and no limits; never mounts a hierarchy, never
//! creates a file: a control file that is not there is a missing feature, not something to make.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use crate::error::{Attempt, HostError};

mod tree;

/// The most that is read from a control file.
const LARGEST: u64 = 1 << 20;
/// How long a group may stay busy after its last process is gone.
const LINGER: Duration = Duration::from_secs(2);

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

impl Version {
    /// "v1", "v2" or "hybrid".
    pub const fn name(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
            Self::Hybrid => "hybrid",
        }
    }
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
        mounts.sort_by_key(|m| (m.read_only, m.partial));
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

/// Mountinfo writes blanks, tabs, newlines and backslashes as three octal digits.
fn unescape(text: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let octal = tail
            .get(..3)
            .filter(|_| *first == b'\\')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match octal {
            Some(byte) => {
                bytes.push(byte);
                rest = tail.get(3..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

/// The controllers named in a version 2 `cgroup.controllers` or `cgroup.subtree_control`.
pub fn parse_v2_controllers(text: &str) -> BTreeSet<Controller> {
    let words: Vec<_> = text.split_ascii_whitespace().collect();
    Controller::ALL
        .into_iter()
        .filter(|c| c.v2_name().is_some_and(|name| words.contains(&name)))
        .collect()
}

/// Reads a control file.
///
/// # Errors
/// [`HostError::Sys`], [`HostError::Parse`] when it is no text.
pub fn read(path: &Path) -> Result<String, HostError> {
    let what = || format!("read {}", path.display());
    read_text(File::open(path).attempt(what)?, what)
}

fn read_text(file: File, what: impl Fn() -> String) -> Result<String, HostError> {
    let mut bytes = Vec::new();
    file.take(LARGEST).read_to_end(&mut bytes).attempt(&what)?;
    String::from_utf8(bytes)
        .map_err(|e| HostError::parse(what(), &String::from_utf8_lossy(e.as_bytes())))
}

/// Reads a control file, or answers `None` where it, or its group, is not there (any more).
///
/// # Errors
/// [`HostError::Sys`], [`HostError::Parse`] when it is no text.
pub fn read_if_exists(path: &Path) -> Result<Option<String>, HostError> {
    match read(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if gone(&e) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Whether a failure means that the group or its file is not there; a file that was opened before
/// its group went says "no such device".
fn gone(error: &HostError) -> bool {
    error.is(Errno::NOENT) || error.is(Errno::NODEV)
}

/// Writes a control file that is there, with one system call.
///
/// # Errors
/// [`HostError::Sys`].
pub fn write(path: &Path, value: &str) -> Result<(), HostError> {
    let what = || format!("write {value:?} to {}", path.display());
    let mut file = OpenOptions::new().write(true).truncate(true).open(path).attempt(what)?;
    match file.write(value.as_bytes()).attempt(what)? {
        n if n == value.len() => Ok(()),
        _ => Err(std::io::Error::from(ErrorKind::WriteZero)).attempt(what),
    }
}

/// Makes a group and its parents; one that is there already is left as it is. Whatever the umask,
/// everybody may pass through: the kernel asks that of who mounts a group below as a root.
///
/// # Errors
/// [`HostError::Sys`].
pub fn make(dir: &Path) -> Result<(), HostError> {
    use std::os::unix::fs::PermissionsExt;
    let what = || format!("make group {}", dir.display());
    let missing: Vec<&Path> = dir.ancestors().take_while(|group| !group.exists()).collect();
    std::fs::create_dir_all(dir).attempt(what)?;
    for group in missing {
        std::fs::set_permissions(group, std::fs::Permissions::from_mode(0o755)).attempt(what)?;
    }
    Ok(())
}

/// Removes a group and those below it, deepest first; one that is not there is no failure. The
/// kernel calls a group busy for a moment after its last process is gone; that moment is waited for.
///
/// # Errors
/// [`HostError::Sys`]: `EBUSY` when there are processes in one of them.
pub fn remove(dir: &Path) -> Result<(), HostError> {
    let inside = |group: Result<OwnedFd, Errno>| match group {
        Ok(group) => processes_at(&group, dir),
        Err(_) => Ok(Vec::new()), // It has gone.
    };
    tree::walk(
        dir,
        |_| Ok(()),
        |parent, name| {
            remove_one(
                || Ok(rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)?),
                || inside(tree::open(parent, name)),
                || format!("remove group {} below {}", name.to_string_lossy(), dir.display()),
            )
        },
    )?;
    remove_one(
        || std::fs::remove_dir(dir),
        || inside(tree::open(CWD, dir)),
        || format!("remove group {}", dir.display()),
    )
}

fn remove_one(
    remove: impl Fn() -> std::io::Result<()>,
    processes: impl Fn() -> Result<Vec<u32>, HostError>,
    what: impl Fn() -> String,
) -> Result<(), HostError> {
    let end = Instant::now() + LINGER;
    loop {
        match remove() {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
            Err(e)
                if e.kind() == ErrorKind::ResourceBusy
                    && Instant::now() < end
                    && processes()?.is_empty() =>
            {
                pause();
            }
            other => return other.attempt(what),
        }
    }
}

/// A moment between two looks at something version 1 gives no event for.
#[expect(clippy::disallowed_methods, reason = "the caller has a condition and a deadline")]
fn pause() {
    std::thread::sleep(Duration::from_millis(1));
}

/// Removes a group that has neither processes nor groups below it; any other stays.
///
/// # Errors
/// [`HostError::Sys`].
pub fn remove_if_empty(dir: &Path) -> Result<(), HostError> {
    match std::fs::remove_dir(dir) {
        Err(e)
            if matches!(
                e.kind(),
                ErrorKind::NotFound | ErrorKind::ResourceBusy | ErrorKind::DirectoryNotEmpty
            ) =>
        {
            Ok(())
        }
        other => other.attempt(|| format!("remove group {}", dir.display())),
    }
}

/// The groups directly below `dir`, sorted; none where there is no such group.
///
/// # Errors
/// [`HostError::Sys`].
pub fn children(dir: &Path) -> Result<Vec<PathBuf>, HostError> {
    let what = || format!("list groups in {}", dir.display());
    let entries = match std::fs::read_dir(dir) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.attempt(what)?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = match entry {
            Err(e) if e.raw_os_error() == Some(libc::ENODEV) => break,
            other => other.attempt(what)?,
        };
        // A type that cannot be told belongs to an entry that has just gone.
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

/// The processes in a group and in those below it, however deep; none where there is no such group.
///
/// # Errors
/// [`HostError::Sys`], [`HostError::Parse`].
pub fn processes(dir: &Path) -> Result<Vec<u32>, HostError> {
    let mut pids = Vec::new();
    let enter = |group: &OwnedFd| {
        pids.extend(processes_at(group, dir)?);
        Ok(())
    };
    tree::walk(dir, enter, |_, _| Ok(()))?;
    Ok(pids)
}

/// The processes in one group, which is `below` or below it.
fn processes_at(group: &OwnedFd, below: &Path) -> Result<Vec<u32>, HostError> {
    let what = || format!("read the processes of a group in {}", below.display());
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let text = match rustix::fs::openat(group, "cgroup.procs", flags, Mode::empty())
        .attempt(what)
        .and_then(|file| read_text(File::from(file), what))
    {
        // A threaded group, which the root of a container may make too: its processes are listed
        // in the group above that is the root of the threads.
        Err(e) if gone(&e) || e.is(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        other => other?,
    };
    text.lines().map(|line| line.parse().map_err(|_| HostError::parse(what(), line))).collect()
}

/// Gives a version 2 group to a user and group id of the same number: its directory and the files
/// by which an owner makes groups and moves processes below it, not those that limit it.
///
/// # Errors
/// [`HostError::Sys`].
pub fn delegate(group: impl AsFd, id: u32) -> Result<(), HostError> {
    let (uid, gid) = (Some(Uid::from_raw(id)), Some(Gid::from_raw(id)));
    for name in ["cgroup.procs", "cgroup.subtree_control", "cgroup.threads"] {
        rustix::fs::chownat(&group, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
            .attempt(|| format!("give {name} to {id}"))?;
    }
    rustix::fs::fchown(&group, uid, gid).attempt(|| format!("give the group to {id}"))
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
    fn files_are_never_made() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("pids.max");
        assert!(write(&file, "1").is_err_and(|e| e.is(Errno::NOENT)));
        assert_eq!(read_if_exists(&file).expect("absent"), None);
        make(&dir.path().join("a/b/c")).expect("made");
        assert_eq!(children(dir.path()).expect("listed").len(), 1);
        remove(&dir.path().join("a")).expect("removed");
        remove(&dir.path().join("a")).expect("nothing to remove");
    }

    #[test]
    fn this_machine_has_some() {
        let h = Hierarchies::detect().expect("a machine of ours has control groups");
        for file in h.procs_files("", "") {
            assert!(file.exists(), "{}", file.display());
        }
    }
}
