//! What belongs to Ves on a host, told by name, and its removal without any daemon.
//!
//! Everything is derived from the layout and the constants of `ves-types`; nothing of another name is
//! touched. On a node that went down in order there is next to nothing to do.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use ves_kit::Inventory;
use ves_kit::inventory::Kind;
use ves_types::address::{ROUTE_PROTOCOL, ROUTE_PROTOCOL_NAME};
use ves_types::layout::{CGROUP_ROOT, COORDINATOR_USER, Layout, Service};

use crate::up::Line;

/// Where pinned BPF objects of ours are.
const BPF: &str = "/sys/fs/bpf/ves";

/// Ids that tests on a real kernel use; a test that runs beside us keeps what it made.
const TESTS: std::ops::RangeInclusive<u32> = 9_000..=9_999;

/// All of the host that belongs to this node's Ves and that `down` removes.
pub(crate) fn inventory(layout: &Layout, purge: bool) -> Inventory {
    let all = Inventory::take(layout);
    let mine = |kind| all.of(kind).filter(|line| !is_a_tests(kind, line)).count();
    // What containers share is left to a test that runs beside us, as long as it has a part of it.
    let shared = [Kind::Cgroup, Kind::Nft].map(|kind| (kind, mine(kind) < all.of(kind).count()));
    all.only(|kind, line| {
        let parts_of_a_test = shared.contains(&(kind, true));
        let whole = kind == Kind::Nft || line.ends_with(&format!("/{CGROUP_ROOT}"));
        ours(layout, purge, kind, line) && !is_a_tests(kind, line) && !(parts_of_a_test && whole)
    })
}

/// Whether a line is about a container of a test.
fn is_a_tests(kind: Kind, line: &str) -> bool {
    if !matches!(kind, Kind::Cgroup | Kind::Link | Kind::Route | Kind::Neighbour | Kind::Nft) {
        return false;
    }
    line.split(|c: char| !c.is_ascii_alphanumeric() && c != '-').any(|word| {
        word.strip_prefix("ct-")
            .or_else(|| word.strip_prefix("ves"))
            .and_then(|id| id.parse().ok())
            .is_some_and(|id: u32| TESTS.contains(&id))
    })
}

/// Whether a line of the inventory is about something of Ves.
fn ours(layout: &Layout, purge: bool, kind: Kind, line: &str) -> bool {
    let (run, state) = (layout.run_dir(), layout.state_dir());
    let below = |path: &str| Path::new(path).starts_with(run) || Path::new(path).starts_with(state);
    let word = |n: usize| line.split_whitespace().nth(n).unwrap_or_default();
    let after = |key: &str| {
        line.split_whitespace().skip_while(|word| *word != key).nth(1).unwrap_or_default()
    };
    match kind {
        Kind::Mount => below(word(0)),
        Kind::Loop => below(word(1)),
        Kind::Cgroup => Path::new(line).components().any(|part| part.as_os_str() == CGROUP_ROOT),
        Kind::Link => is_host_link(word(0)),
        Kind::Route => {
            let protocol = after("proto");
            protocol == ROUTE_PROTOCOL_NAME
                || protocol == ROUTE_PROTOCOL.to_string()
                || is_host_link(after("dev"))
        }
        Kind::Neighbour => is_host_link(after("dev")),
        Kind::Nft => line.starts_with("table inet ves"),
        Kind::Bpf => Path::new(line).starts_with(BPF),
        Kind::Process => word(1) != "virtctl" && names(line, run),
        Kind::File => purge || Path::new(line).starts_with(run) || !kept(layout, Path::new(line)),
        Kind::Descriptors => false,
    }
}

/// What stays on disk without `--purge`: the pool with its templates.
fn kept(layout: &Layout, path: &Path) -> bool {
    path == layout.state_dir() || path.starts_with(layout.service_dir(Service::Storage))
}

/// Whether the command line in `line` speaks of this run directory.
fn names(line: &str, run: &Path) -> bool {
    line.split_whitespace().any(|word| {
        let word = word.rsplit('=').next().unwrap_or_default();
        Path::new(word).starts_with(run)
    })
}

/// Whether a link is a container's, by its name.
fn is_host_link(name: &str) -> bool {
    name.strip_prefix("ves").is_some_and(|id| id.parse::<ves_types::CtId>().is_ok())
}

/// Removes what is there and hands back what that was.
///
/// # Errors
/// The first thing that resists.
pub(crate) fn all(layout: &Layout, purge: bool, line: &Line) -> anyhow::Result<Vec<String>> {
    let there = inventory(layout, purge);
    let lines = |kind| there.of(kind).map(str::to_owned).collect::<Vec<_>>();
    let mut swept = Vec::new();
    let mut note = |count: usize, what: &str| {
        if count > 0 {
            swept.push(format!("{count} {what}"));
        }
    };

    line.says("processes");
    let groups: Vec<PathBuf> = lines(Kind::Cgroup).into_iter().map(PathBuf::from).collect();
    note(processes(&groups, &lines(Kind::Process))?, "processes");

    line.says("links");
    for link in lines(Kind::Link) {
        let name = link.split_whitespace().next().unwrap_or_default().to_owned();
        // It may go by itself in this moment, with its network namespace; the proof has the last word.
        run("ip", &["link", "delete", "dev", &name]).ok();
    }
    note(lines(Kind::Link).len(), "links");

    line.says("mounts");
    note(mounts(layout)?, "mounts");

    line.says("loop devices");
    for device in lines(Kind::Loop) {
        let name = device.split_whitespace().next().unwrap_or_default();
        // A device whose last mount went has detached itself.
        run("losetup", &["--detach", &format!("/dev/{name}")]).ok();
    }
    note(lines(Kind::Loop).len(), "loop devices");

    line.says("control groups");
    note(cgroups(groups)?, "control groups");

    if !lines(Kind::Nft).is_empty() {
        run("nft", &["delete", "table", "inet", "ves"])?;
        note(1, "nftables table");
    }
    remove(Path::new(BPF))?;
    remove(layout.run_dir())?;
    if purge {
        remove(layout.state_dir())?;
        if ves_kit::stack::account(COORDINATOR_USER)?.is_some() {
            run("userdel", &[COORDINATOR_USER])?;
        }
    } else if let Ok(entries) = fs::read_dir(layout.state_dir()) {
        for entry in entries.flatten().filter(|entry| !kept(layout, &entry.path())) {
            remove(&entry.path())?;
        }
    }
    Ok(swept)
}

/// Kills what is in our control groups and what our programs run for this node.
fn processes(groups: &[PathBuf], lines: &[String]) -> anyhow::Result<usize> {
    let end = Instant::now() + Duration::from_secs(10);
    let mut killed = 0;
    loop {
        let mut pids: Vec<i32> = lines
            .iter()
            .filter_map(|line| line.split_whitespace().next()?.parse().ok())
            .filter(|pid| is_ours(*pid, lines))
            .collect();
        for group in groups {
            let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
            pids.extend(text.lines().filter_map(|pid| pid.parse::<i32>().ok()));
        }
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

/// Whether the process is still the one that the inventory saw.
fn is_ours(pid: i32, lines: &[String]) -> bool {
    let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let args = read("cmdline").replace('\0', " ");
    let now = format!("{pid} {} {}", read("comm").trim(), args.trim());
    !args.is_empty() && lines.contains(&now)
}

/// Unmounts everything below our two directories, last mounted first.
fn mounts(layout: &Layout) -> anyhow::Result<usize> {
    let points = || {
        let left = Inventory::take(layout)
            .only(|kind, line| kind == Kind::Mount && ours(layout, true, kind, line));
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
    let end = Instant::now() + Duration::from_secs(5);
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

/// Removes a tree that holds no mount any more.
fn remove(path: &Path) -> anyhow::Result<()> {
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

fn run(program: &str, args: &[&str]) -> anyhow::Result<()> {
    let words = || format!("`{program} {}`", args.join(" "));
    let out = Command::new(program).args(args).output().with_context(words)?;
    let said = String::from_utf8_lossy(&out.stderr);
    ensure!(out.status.success(), "{} failed ({}): {}", words(), out.status, said.trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_bears_our_names_is_ours() {
        let layout = Layout::default();
        let ours = |kind, line| ours(&layout, false, kind, line);
        for (kind, line) in [
            (Kind::Mount, "/run/ves/ct/101/root ext4 /dev/loop0 /"),
            (Kind::Loop, "loop0 /var/lib/ves/storage/volumes/101.img"),
            (Kind::Cgroup, "/sys/fs/cgroup/pids/ves/ct-101"),
            (Kind::Link, "ves101 veth"),
            (Kind::Route, "-4 192.0.2.101 dev ves101 proto 86 scope link"),
            (Kind::Nft, "table inet ves | set guard"),
            (Kind::Process, "77 ves-networkd /x/ves-networkd --run-dir /run/ves"),
            (Kind::Process, "77 ves-networkd /x/ves-networkd --run-dir=/run/ves"),
            (Kind::File, "/run/ves/x"),
            (Kind::File, "/var/lib/ves/coordinator/state.redb"),
        ] {
            assert!(ours(kind, line), "{line}");
        }
        for (kind, line) in [
            (Kind::Mount, "/run/vessel ext4 /dev/sda /"),
            (Kind::Loop, "loop0 /srv/x.img"),
            (Kind::Cgroup, "/sys/fs/cgroup/pids/ves-test"),
            (Kind::Link, "vesuvius veth"),
            (Kind::Link, "eth0 link"),
            (Kind::Route, "-4 default via 10.0.0.1 dev eth0 proto static"),
            (Kind::Nft, "table inet filter | chain ves"),
            (Kind::Process, "77 ves-networkd /x/ves-networkd --run-dir /tmp/a/run"),
            (Kind::File, "/var/lib/ves/storage/templates/debian.img"),
        ] {
            assert!(!ours(kind, line), "{line}");
        }
    }

    #[test]
    fn what_a_test_made_is_told_apart() {
        for (kind, line) in [
            (Kind::Cgroup, "/sys/fs/cgroup/pids/ves/ct-9501/payload"),
            (Kind::Link, "ves9501 veth"),
            (Kind::Route, "-4 192.0.2.1 dev ves9501 proto 86"),
            (Kind::Nft, "table inet ves | set guard | elements = { \"ves9501\" . 192.0.2.1 }"),
        ] {
            assert!(is_a_tests(kind, line), "{line}");
        }
        assert!(!is_a_tests(Kind::Link, "ves101 veth"));
        assert!(!is_a_tests(Kind::Cgroup, "/sys/fs/cgroup/pids/ves/ct-101"));
    }
}
