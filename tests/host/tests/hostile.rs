//! What the root of a container can make of its own namespaces and groups, so that the node reads
//! around it: nothing of it keeps the container from being looked at, changed and removed, or costs
//! the node more than a bounded share.

#![allow(clippy::disallowed_methods, reason = "tests start processes")]

mod network_support;
mod resources_support;

use std::ffi::OsStr;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};

use network_support::{Node, address, ct, on_a_new_node};
use resources_support::{Rig, row};
use rustix::fs::{Mode, OFlags};
use ves_host::cgroup;
use ves_kit::{MountGuard, Proc, Rootfs, TestId, TestLayout, TestNode, Undo, need, node};
use ves_proto::convert::Limits;
use ves_types::UbcResource;
use ves_types::layout::{self, CGROUP_PAYLOAD};

const A4: &str = "192.0.2.10";
const B4: &str = "192.0.2.11";

macro_rules! on_a_node {
    ($test:expr) => {
        need!(need::root(), need::program("ip", "iproute2"), need::program("nft", "nftables"));
        on_a_new_node($test);
    };
}

/// Commands that give a link as many names as the kernel takes, as long as they may be; ip(8) loses
/// those that do not fit into its message.
fn many_names(link: &str) -> Vec<Vec<String>> {
    let name = |n| format!("{link}-{n:0>width$}", width = 126 - link.len());
    let names: Vec<_> = (0..496).map(name).collect();
    let command = |names: &[String]| {
        let begin = ["link", "property", "add", "dev", link].map(str::to_owned);
        let names = names.iter().flat_map(|n| ["altname".to_owned(), n.clone()]);
        begin.into_iter().chain(names).collect()
    };
    names.chunks(4).map(command).collect()
}

#[test]
fn alternative_names_inside_blind_nobody() {
    on_a_node!(|node| {
        for (n, link) in ["lo", "venet0"].into_iter().enumerate() {
            let container = node.container(ct(9210 + u32::try_from(n).expect("small")));
            node.ensure(container.ct, &[A4]).expect("made");
            for command in many_names(link) {
                let words: Vec<_> = command.iter().map(String::as_str).collect();
                container.run("ip", &words);
            }
            let shown = container.run("ip", &["link", "show", "dev", link]);
            assert!(shown.len() > 65_536, "the kernel took them: {}", shown.len());
            let seen = node.get(container.ct).expect("can be looked at");
            assert_eq!(seen.addresses, [address(A4)]);
            let all = node.block_on(node.service.list()).expect("can be listed");
            assert_eq!(all.len(), 1);
            let changed = node.ensure(container.ct, &[B4]).expect("can be changed");
            assert_eq!(changed.addresses, [address(B4)]);
            assert_eq!(node.steps(container.ct, &[B4]), [""; 0]);
            node.remove(container.ct).expect("can be removed");
        }
    });
}

/// The most memory this process ever had, in bytes.
fn most_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("readable");
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).expect("it is there");
    line.trim().trim_end_matches("kB").trim().parse::<u64>().expect("a number") * 1024
}

fn routes_to(node: &Node, ip: &str) -> bool {
    assert!(node.layout.dir().exists());
    ves_kit::run("ip", &["route", "show", ip]).contains(ip)
}

#[test]
fn a_world_of_routes_inside_is_not_taken_in() {
    on_a_node!(|node| {
        let container = node.container(ct(9212));
        node.ensure(container.ct, &[A4]).expect("made");
        let routes: Vec<_> = (0..100_000_u32)
            .map(|n| {
                format!("route add {} dev venet0\n", std::net::Ipv4Addr::from(0x0a00_0000 | n))
            })
            .collect();
        let batch = node.layout.dir().join("routes");
        fs::write(&batch, routes.concat()).expect("written");
        drop(routes);
        container.run("ip", &["-batch", batch.to_str().expect("text")]);
        let before = most_memory();
        let seen = node.get(container.ct).expect("can be looked at");
        assert_eq!(seen.addresses, [address(A4)], "by what is set outside");
        let all = node.block_on(node.service.list()).expect("can be listed");
        assert_eq!(all, [seen]);
        // An address is taken from it all the same.
        let changed = node.ensure(container.ct, &[B4]).expect("can be changed");
        assert_eq!(changed.addresses, [address(B4)]);
        assert!(!routes_to(node, A4) && routes_to(node, B4));
        let more = most_memory() - before;
        assert!(more < 6 << 20, "{more} bytes for what is inside");
        // And what could not be done inside is done when it can be.
        container.run("ip", &["link", "set", "venet0", "down"]);
        node.ensure(container.ct, &[B4]).expect("mended");
        assert_eq!(node.steps(container.ct, &[B4]), [""; 0]);
        let inside = container.run("ip", &["-4", "addr", "show", "venet0"]);
        assert!(inside.contains(B4) && !inside.contains(A4), "{inside}");
        node.remove(container.ct).expect("can be removed");
    });
}

/// Makes groups one in another, with the longest names; the innermost, and how many there are.
fn nest(dir: &Path, levels: usize) -> (OwnedFd, usize) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let name = "n".repeat(250);
    let mut here = rustix::fs::open(dir, flags, Mode::empty()).expect("it is there");
    for level in 0..levels {
        if rustix::fs::mkdirat(&here, &name, Mode::from(0o755)).is_err() {
            return (here, level);
        }
        here = rustix::fs::openat(&here, &name, flags, Mode::empty()).expect("it was just made");
    }
    (here, levels)
}

fn write_at(dir: impl AsFd, file: &str, text: &str) {
    let file = rustix::fs::openat(dir, file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
    rustix::io::write(file.expect("it is there"), text.as_bytes()).expect("written");
}

/// Deeper than a path is long, and than a process has descriptors.
#[test]
fn the_deepest_groups_are_read_and_removed() {
    need!(need::root());
    let (id, dir) = (TestId::take(), TestLayout::new());
    let v2 = MountGuard::mount(&["-t", "cgroup2", "none"], dir.layout().run_dir());
    let domain = v2.point().join(format!("ves-deep-{}", id.ct()));
    fs::create_dir(&domain).expect("a group");
    let path = domain.to_str().expect("text").to_owned();
    let _undo = Undo::by("find", &[&path, "-depth", "-type", "d", "-delete"]);
    let (deepest, made) = nest(&domain, 1_500);
    assert_eq!(made, 1_500);
    let mut sleeper = Proc::spawn({
        let mut command = Command::new("sleep");
        command.arg("600");
        command
    });
    write_at(&deepest, "cgroup.procs", &sleeper.id().to_string());
    drop(deepest);
    fs::create_dir(domain.join("beside")).expect("a group");
    assert_eq!(cgroup::processes(&domain).expect("readable"), [sleeper.id()]);
    let busy = cgroup::remove(&domain).expect_err("somebody is inside");
    assert!(busy.is(rustix::io::Errno::BUSY), "{busy}");
    sleeper.kill();
    cgroup::remove(&domain).expect("nobody is inside");
    assert!(!domain.exists());
}

#[test]
fn a_container_nests_its_groups_so_deep_and_no_deeper() {
    need!(need::root(), need::disposable());
    let rig = Rig::new();
    rig.service.ensure(&rig.fence(), &Limits::default()).expect("made");
    let v2 = rig.host.hierarchies().v2.as_ref().map(|v2| v2.mount.clone());
    let there = v2.is_some();
    need!(need::kernel("control groups version 2", there, "nothing is delegated without"));
    let group = v2.expect("it is there").join(layout::cgroup(rig.ct()));
    let (_, made) = nest(&group.join(CGROUP_PAYLOAD), 60);
    assert_eq!(made, 31, "the delegated group is the first of 32");
    rig.service.group(rig.ct()).expect("can be looked at");
    rig.service.groups().expect("can be listed");
    rig.service.remove(&rig.fence()).expect("can be removed");
    assert!(!group.exists());
}

#[test]
fn every_lock_is_counted_however_many_there_are() {
    need!(need::root(), need::disposable());
    let rig = Rig::new();
    rig.service.ensure(&rig.fence(), &Limits::default()).expect("made");
    // More than fits into a mebibyte, in files of their own so that the kernel finds them fast.
    let program = r#"
        use Fcntl;
        for my $f (1..25) {
            open($h[$f], ">", "$ARGV[0]/$f") or die;
            for my $n (1..1000) {
                my $lock = pack("s s x4 q q l x4", F_WRLCK, 0, $n * 2, 1, 0);
                fcntl($h[$f], F_SETLK, $lock) or die "lock: $!";
            }
        }
        $| = 1; print "."; sleep 600;
    "#;
    need!(need::program("perl", "perl"));
    let mut command = Command::new("perl");
    command.args(["-e", program]).arg(rig.layout.dir()).stdout(Stdio::piped());
    let mut locker = Proc::spawn(command);
    let stdout = locker.child().stdout.as_mut().expect("it is piped");
    std::io::Read::read_exact(stdout, &mut [0]).expect("all are taken");
    rig.take_in(locker.id());
    assert_eq!(row(&rig.group(), UbcResource::Numflock).held, 25_000);
    locker.kill();
}

#[test]
fn a_process_whose_name_is_no_text_is_counted() {
    let counted = fs::metadata("/proc/self/fd").is_ok_and(|m| m.len() > 0);
    need!(
        need::root(),
        need::disposable(),
        need::kernel("the size of /proc/PID/fd", counted, "descriptors are counted since 6.2")
    );
    let rig = Rig::new();
    rig.service.ensure(&rig.fence(), &Limits::default()).expect("made");
    let program = rig.layout.dir().join(OsStr::from_bytes(b"a\xff"));
    fs::copy("/bin/sleep", &program).expect("copied");
    let mut command = Command::new(&program);
    command.arg("600");
    let mut sleeper = Proc::spawn(command);
    rig.take_in(sleeper.id());
    assert!(row(&rig.group(), UbcResource::Numfile).held > 0);
    sleeper.kill();
}

/// Everything at once, through the five daemons.
#[test]
fn such_a_container_is_changed_stopped_and_destroyed() {
    need!(node::node(), need::program("nsenter", "util-linux"));
    let rootfs = Rootfs::busybox();
    let nest = "cd /sys/fs/cgroup\ni=0\nwhile [ $i -lt 60 ] && mkdir n 2>/dev/null && cd n\n\
                do i=$((i+1)); done\necho $i\n";
    fs::write(rootfs.dir().join("etc/nest"), nest).expect("writable");
    let node = TestNode::start().with_template("busybox", &rootfs);
    let (ct, spare) = (node.ct(), node.ct());
    let (stays, goes) = (node::ipv4(ct), node::ipv4(spare));
    let specs = "--ostemplate busybox --diskspace 128M --ram 64M --numproc 50";
    node.ok(&format!("create {ct} {specs} --ipadd {stays} --ipadd {goes}"));
    node.ok(&format!("start {ct}"));
    assert_eq!(node.ok(&format!("exec {ct} sh /etc/nest")).trim(), "31");
    let batch = node.dir().join("batch");
    let names = ["lo", "venet0"].into_iter().flat_map(many_names).map(|c| c.join(" ") + "\n");
    let routes = (0..30_000_u32)
        .map(|n| format!("route add {} dev venet0\n", std::net::Ipv4Addr::from(0x0a00_0000 | n)));
    fs::write(&batch, names.chain(routes).collect::<String>()).expect("written");
    let netns = format!("--net={}", node.layout().ct_netns(ct).display());
    ves_kit::run("nsenter", &[&netns, "ip", "-batch", batch.to_str().expect("text")]);

    node.ok(&format!("set {ct} --ram 96M --ipdel {goes}"));
    let fields = node.json(&format!("list {ct} --fields status,ip"));
    assert_eq!(fields[0]["status"], "running", "{fields}");
    let routes = ves_kit::run("ip", &["route", "show", "proto", "all"]);
    let routed = |ip: std::net::Ipv4Addr| routes.contains(&format!("{ip} dev"));
    assert!(routed(stays) && !routed(goes), "{routes}");
    node.ok(&format!("resources {ct}"));
    node.ok(&format!("restart {ct}"));
    node.ok(&format!("stop {ct} --fast"));
    node.ok(&format!("destroy {ct}"));
}
