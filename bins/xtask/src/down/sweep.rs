//! What belongs to Ves on a host, told by name, and its removal without any daemon.
//!
//! Everything is derived from the layout and the constants of `ves-types`; nothing of another name is
//! touched, nor what a test that runs beside us made.

use std::fs;
use std::path::Path;

use ves_kit::Inventory;
use ves_kit::inventory::Kind;
use ves_kit::sweep::{remove, run, runs_from, sweep};
use ves_types::address::{ROUTE_PROTOCOL, ROUTE_PROTOCOL_NAME};
use ves_types::layout::{CGROUP_ROOT, COORDINATOR_USER, Daemon, Layout};

use crate::up::bin_dir;

/// Where pinned BPF objects of ours are.
const BPF: &str = "/sys/fs/bpf/ves";

/// Ids that tests on a real kernel use; a test that runs beside us keeps what it made.
const TESTS: std::ops::RangeInclusive<u32> = 9_000..=9_999;

/// All of the host that belongs to this node's Ves and that `down` removes.
pub(crate) fn inventory(layout: &Layout, purge: bool) -> Inventory {
    let mine = Mine::of(layout, purge);
    Inventory::take(layout).only(|kind, line| mine.has(layout, kind, line))
}

/// What is this node's and no test's.
struct Mine {
    purge: bool,
    /// A test that runs beside us has a part of what containers share.
    shared_groups: bool,
    shared_rules: bool,
}

impl Mine {
    fn of(layout: &Layout, purge: bool) -> Self {
        let all = Inventory::take(layout);
        let shared = |kind| all.of(kind).any(|line| is_a_tests(kind, line));
        Self { purge, shared_groups: shared(Kind::Cgroup), shared_rules: shared(Kind::Nft) }
    }

    fn has(&self, layout: &Layout, kind: Kind, line: &str) -> bool {
        let shared = match kind {
            Kind::Nft => self.shared_rules,
            Kind::Cgroup => self.shared_groups && line.ends_with(&format!("/{CGROUP_ROOT}")),
            _ => false,
        };
        ours(layout, self.purge, kind, line) && !is_a_tests(kind, line) && !shared
    }
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
        Kind::Process => {
            let from = |dir: &Path| runs_from(line, dir);
            // A monitor does not say whose it is.
            let monitor = ["ves-init", "ves-monitor"].contains(&word(1))
                && (from(&bin_dir()) || from(&state.join("bin")));
            word(1) != "virtctl" && (monitor || names(line, run))
        }
        Kind::File => purge || Path::new(line).starts_with(run) || !kept(layout, Path::new(line)),
        Kind::Descriptors => false,
    }
}

/// What stays on disk without `--purge`: the pool with its templates.
fn kept(layout: &Layout, path: &Path) -> bool {
    path == layout.state_dir() || path.starts_with(layout.service_dir(Daemon::Storage))
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
pub(crate) fn all(layout: &Layout, purge: bool) -> anyhow::Result<Vec<String>> {
    let mine = Mine::of(layout, purge);
    let mut swept = sweep(layout, &|kind, line| mine.has(layout, kind, line))?;
    let networkd = bin_dir().join(Daemon::Network.program());
    if !mine.shared_rules && layout.run_dir().is_dir() && networkd.is_file() {
        // It knows which settings of the kernel it changed, and what they were.
        let run_dir = layout.run_dir().display().to_string();
        run(&networkd.display().to_string(), &["--teardown", "--run-dir", &run_dir])?;
    }
    if inventory(layout, purge).of(Kind::Nft).next().is_some() {
        run("nft", &["delete", "table", "inet", "ves"])?;
        swept.push("the nftables table".to_owned());
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
            (Kind::Loop, "loop0 elsewhere:/var/lib/ves/storage/pool.img"),
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
