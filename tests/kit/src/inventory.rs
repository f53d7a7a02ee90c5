//! What there is on the host, as lines of text by kind, so that "exactly as it was" can be checked.
//!
//! Taken from `/proc`, `/sys`, `ip` and `nft`, never through the code under test. Volatile values
//! (counters, neighbour states, ages) are left out, so two inventories of an unchanged host are equal.
//! Whatever the host lacks (no `nft`, no bpf file system) has no lines.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ves_types::layout::{CGROUP_ROOT, Layout};

use crate::lab::groups::NODE;
use crate::loops::{self, LoopDevice};
use crate::stack;

/// A kind of thing that may be left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A mount of this process's namespace, pinned namespaces among them.
    Mount,
    /// A loop device with a backing file.
    Loop,
    /// A control group of ours, in any hierarchy.
    Cgroup,
    /// A network link.
    Link,
    /// A route, in any table, of either family.
    Route,
    /// A permanent neighbour entry.
    Neighbour,
    /// A line of the nftables rule set, without counters.
    Nft,
    /// A file in the bpf file system.
    Bpf,
    /// A process that runs one of our programs.
    Process,
    /// A file in the run or the state directory.
    File,
    /// How many descriptors a watched process has open.
    Descriptors,
}

/// A list of all that could be left behind.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Inventory {
    items: BTreeMap<Kind, BTreeSet<String>>,
    watched: Vec<u32>,
}

/// What came and what went between two inventories.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Diff {
    /// There now and not before.
    pub appeared: Vec<(Kind, String)>,
    /// There before and not now.
    pub vanished: Vec<(Kind, String)>,
}

impl Inventory {
    /// Takes the inventory of the host and of the two directories of `layout`.
    pub fn take(layout: &Layout) -> Self {
        Self::take_watching(layout, &[])
    }

    /// The same, with the number of open descriptors of some processes.
    pub fn take_watching(layout: &Layout, pids: &[u32]) -> Self {
        let mountinfo = read("/proc/self/mountinfo");
        let mut items = BTreeMap::new();
        let mut put = |kind: Kind, lines: Vec<String>| {
            items.insert(kind, lines.into_iter().collect::<BTreeSet<_>>());
        };
        put(Kind::Mount, mounts(&mountinfo));
        put(Kind::Loop, loops());
        put(Kind::Cgroup, cgroups(&mountinfo));
        put(Kind::Link, links(&output("ip", &["-o", "-d", "link", "show"])));
        put(
            Kind::Route,
            ["-4", "-6"]
                .iter()
                .flat_map(|family| {
                    routes(family, &output("ip", &["-o", family, "route", "show", "table", "all"]))
                })
                .collect(),
        );
        put(Kind::Neighbour, trimmed(&output("ip", &["neigh", "show", "nud", "permanent"])));
        put(Kind::Nft, nft(&output("nft", &["--stateless", "list", "ruleset"])));
        put(Kind::Bpf, files(Path::new("/sys/fs/bpf")));
        put(Kind::Process, processes());
        put(
            Kind::File,
            [layout.run_dir(), layout.state_dir()].iter().flat_map(|d| files(d)).collect(),
        );
        put(Kind::Descriptors, pids.iter().map(|pid| descriptors(*pid)).collect());
        Self { items, watched: pids.to_vec() }
    }

    /// Keeps only what `keep` says; for tests that share the machine with others.
    #[must_use]
    pub fn only(mut self, keep: impl Fn(Kind, &str) -> bool) -> Self {
        for (kind, lines) in &mut self.items {
            lines.retain(|line| keep(*kind, line));
        }
        self
    }

    /// The lines of one kind.
    pub fn of(&self, kind: Kind) -> impl Iterator<Item = &str> {
        self.items.get(&kind).into_iter().flatten().map(String::as_str)
    }

    /// What came and went from this one to a later one.
    pub fn diff(&self, later: &Self) -> Diff {
        let missing_in = |a: &Self, b: &Self| {
            let lines = a.items.iter().flat_map(|(kind, l)| l.iter().map(|l| (*kind, l.clone())));
            lines
                .filter(|(kind, line)| !b.items.get(kind).is_some_and(|l| l.contains(line)))
                .collect()
        };
        Diff { appeared: missing_in(later, self), vanished: missing_in(self, later) }
    }

    /// Waits until the host is as this inventory says: what the kernel takes down by and by (a network
    /// namespace and its links) needs some time.
    ///
    /// # Panics
    /// With the difference, when it is not so within `deadline`.
    #[track_caller]
    pub fn wait_clean(&self, layout: &Layout, deadline: Duration) {
        self.wait_clean_of(layout, deadline, |_, _| true);
    }

    /// The same for an inventory that was made with [`Self::only`]: `keep` is that filter.
    ///
    /// # Panics
    /// With the difference, when it is not so within `deadline`.
    #[track_caller]
    pub fn wait_clean_of(
        &self,
        layout: &Layout,
        deadline: Duration,
        keep: impl Fn(Kind, &str) -> bool,
    ) {
        let end = Instant::now() + deadline;
        loop {
            let diff = self.diff(&Self::take_watching(layout, &self.watched).only(&keep));
            if diff.is_empty() {
                return;
            }
            assert!(Instant::now() < end, "the host is not as it was after {deadline:?}:\n{diff}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Diff {
    /// Whether nothing came and nothing went.
    pub fn is_empty(&self) -> bool {
        self.appeared.is_empty() && self.vanished.is_empty()
    }
}

impl fmt::Display for Diff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (sign, lines) in [('+', &self.appeared), ('-', &self.vanished)] {
            for (kind, line) in lines {
                writeln!(f, "{sign} {:<11} {line}", format!("{kind:?}").to_lowercase())?;
            }
        }
        Ok(())
    }
}

fn read(path: impl AsRef<Path>) -> String {
    std::fs::read(path).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default()
}

fn output(program: &str, args: &[&str]) -> String {
    Command::new(program)
        .args(args)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .map(|out| String::from_utf8_lossy(&out.stdout).into_owned())
        .unwrap_or_default()
}

fn trimmed(text: &str) -> Vec<String> {
    text.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect()
}

/// The mount points of a mountinfo text, unescaped, in the order they were mounted.
pub(crate) fn mount_points(mountinfo: &str) -> Vec<String> {
    mountinfo
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|point| point.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\"))
        .collect()
}

/// `point type source root`, without the ids that change from mount to mount.
fn mounts(mountinfo: &str) -> Vec<String> {
    mountinfo
        .lines()
        .filter_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            let left: Vec<_> = left.split(' ').collect();
            let right: Vec<_> = right.split(' ').collect();
            Some(format!("{} {} {} {}", left.get(4)?, right.first()?, right.get(1)?, left.get(3)?))
        })
        .collect()
}

fn loops() -> Vec<String> {
    let line = |device: &LoopDevice| {
        // Of a native node, which has a root of its own.
        let place = if device.is_elsewhere() { "elsewhere:" } else { "" };
        format!("{} {place}{}", device.path.trim_start_matches("/dev/"), device.file)
    };
    loops::all().unwrap_or_default().iter().map(line).collect()
}

fn cgroups(mountinfo: &str) -> Vec<String> {
    mountinfo
        .lines()
        .filter(|line| line.contains(" - cgroup"))
        .flat_map(mount_points)
        .flat_map(|point| {
            let dir = Path::new(&point);
            let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
            entries
                .flatten()
                .map(|entry| entry.path())
                .filter(|path| {
                    let name = path.file_name().unwrap_or_default().to_string_lossy();
                    let ours = name == CGROUP_ROOT || name.starts_with("ves-");
                    // A native node's groups are its kit's, with what runs on the node below.
                    path.is_dir() && ours && !name.starts_with(NODE)
                })
                .flat_map(|path| walk(&path, &|p| p.is_dir()))
                .collect()
        })
        .collect()
}

/// `name kind`, from `ip -o -d link`; indices are reused and states flap, so they are left out.
fn links(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| {
            let name = line.split(": ").nth(1)?.split('@').next()?;
            let kinds = ["veth", "bridge", "netkit", "macvlan", "ipvlan", "vxlan", "tun", "dummy"];
            let kind = line.split_whitespace().find(|w| kinds.contains(w)).unwrap_or("link");
            Some(format!("{name} {kind}"))
        })
        .collect()
}

/// Routes without what ages.
fn routes(family: &str, text: &str) -> Vec<String> {
    text.lines()
        .filter(|line| !line.contains(" expires "))
        .map(|line| {
            let words = line.split_whitespace().filter(|w| *w != "linkdown" && *w != "\\");
            format!("{family} {}", words.collect::<Vec<_>>().join(" "))
        })
        .collect()
}

/// Each line of the rule set behind its table and chain, so that a lone line says where it was.
fn nft(text: &str) -> Vec<String> {
    let mut path: Vec<String> = Vec::new();
    let mut lines = Vec::new();
    for line in trimmed(text) {
        if line == "}" {
            path.pop();
            continue;
        }
        lines.push(path.iter().chain([&line]).fold(String::new(), |mut all, part| {
            let part = part.trim_end_matches('{').trim();
            let gap = if all.is_empty() { "" } else { " | " };
            // Writing to a string cannot fail.
            write!(all, "{gap}{part}").ok();
            all
        }));
        // A set's elements open and close on lines of their own or on one.
        if line.ends_with('{') {
            path.push(line);
        } else if line.ends_with('}') && !line.contains('{') {
            path.pop();
        } else if line.contains("{ ") && !line.ends_with('}') {
            path.push(line.split('{').next().unwrap_or_default().trim().to_owned());
        }
    }
    lines
}

fn processes() -> Vec<String> {
    let Ok(dir) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = dir.flatten().filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| {
        let exe = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        let exe = exe.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let exe = exe.trim_end_matches(" (deleted)");
        let comm = read(format!("/proc/{pid}/comm"));
        // A `comm` has 15 characters at most.
        let ours = |name: &str| {
            stack::programs().any(|p| name == p || (name.len() == 15 && p.starts_with(name)))
        };
        let args = read(format!("/proc/{pid}/cmdline")).replace('\0', " ");
        (ours(exe) || ours(comm.trim())).then(|| format!("{pid} {} {}", comm.trim(), args.trim()))
    })
    .collect()
}

fn descriptors(pid: u32) -> String {
    let count = std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
    format!("process {pid} has {count} open")
}

fn files(dir: &Path) -> Vec<String> {
    let mut all = walk(dir, &|_| true);
    all.retain(|path| Path::new(path) != dir);
    all
}

/// `dir` and all below it that `keep` says, without following links or crossing into mounts.
fn walk(dir: &Path, keep: &dyn Fn(&Path) -> bool) -> Vec<String> {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &Path| std::fs::symlink_metadata(path).map(|m| (m.dev(), m.is_dir()));
    let Ok((dev, _)) = device(dir) else { return Vec::new() };
    let mut all = Vec::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(path) = todo.pop() {
        if !keep(&path) {
            continue;
        }
        all.push(path.to_string_lossy().into_owned());
        if device(&path).is_ok_and(|(d, is_dir)| is_dir && d == dev)
            && let Ok(entries) = std::fs::read_dir(&path)
        {
            todo.extend(entries.flatten().map(|entry| entry.path()));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::TestLayout;

    #[test]
    fn a_new_file_is_seen_and_its_going_too() {
        let dir = TestLayout::new();
        let ours = |kind, _: &str| kind == Kind::File;
        let before = Inventory::take(dir.layout()).only(ours);
        let file = dir.layout().run_dir().join("left-behind");
        std::fs::write(&file, "").expect("writable");
        let diff = before.diff(&Inventory::take(dir.layout()).only(ours));
        assert!(diff.vanished.is_empty(), "{diff}");
        assert!(diff.to_string().starts_with("+ file"), "{diff}");
        assert!(diff.to_string().contains("left-behind"), "{diff}");
        std::fs::remove_file(file).expect("it is there");
        before.wait_clean_of(dir.layout(), Duration::from_secs(1), ours);
    }

    #[test]
    #[should_panic(expected = "the host is not as it was")]
    fn waiting_for_what_does_not_come_fails() {
        let dir = TestLayout::new();
        let ours = |kind, _: &str| kind == Kind::File;
        let before = Inventory::take(dir.layout()).only(ours);
        std::fs::write(dir.layout().run_dir().join("x"), "").expect("writable");
        before.wait_clean_of(dir.layout(), Duration::from_millis(50), ours);
    }

    #[test]
    fn watched_descriptors_are_counted() {
        let dir = TestLayout::new();
        let watch = || descriptors(std::process::id());
        let before = watch();
        let files: Vec<_> = (0..50)
            .map(|n| std::fs::File::create(dir.dir().join(n.to_string())).expect("a file"))
            .collect();
        assert_ne!(before, watch());
        drop(files);
    }

    #[test]
    fn mounts_are_told_by_point_and_source() {
        let text = "29 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
                    40 29 7:0 /sub /run/a\\040b rw master:1 - tmpfs none rw\n";
        assert_eq!(mounts(text), ["/ ext4 /dev/vda /", "/run/a\\040b tmpfs none /sub"]);
        assert_eq!(mount_points(text), ["/", "/run/a b"]);
    }

    #[test]
    fn a_rule_is_told_with_its_table_and_chain() {
        let text = "table inet ves {\n\tset guard {\n\t\ttype ifname . ipv4_addr\n\t\telements = { \"ves1\" . 10.0.0.1,\n\t\t\t     \"ves2\" . 10.0.0.2 }\n\t}\n\n\tchain from {\n\t\tdrop\n\t}\n}\n";
        let lines = nft(text);
        assert!(lines.contains(&"table inet ves | chain from | drop".to_owned()), "{lines:?}");
        assert!(lines.iter().any(|l| l.starts_with("table inet ves | set guard | elements")));
        assert_eq!(lines.last().map(String::as_str), Some("table inet ves | chain from | drop"));
    }

    #[test]
    fn links_and_routes_have_no_volatile_words() {
        let text = "7: ves101@if2: <UP> mtu 1500 state UP \\    link/ether 0:0 \\    veth addr\n";
        assert_eq!(links(text), ["ves101 veth"]);
        let text = "10.0.0.1 dev ves101 proto 118 scope link linkdown \nx expires 5sec\n";
        assert_eq!(routes("-4", text), ["-4 10.0.0.1 dev ves101 proto 118 scope link"]);
    }
}
