//! Whatever the node's users and programs do with its mount namespace and with containers' files,
//! containers are stopped, started and destroyed.

use std::process::Command;
use std::time::Duration;

use ves_kit::inventory::Kind;
use ves_kit::{Proc, Rootfs, TestNode, need, node, wait_until};
use ves_types::CtId;

/// How long what must happen may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A process that sleeps once it has done what comes before.
fn sleeper(program: &str, args: &[&str]) -> Proc {
    let mut command = Command::new(program);
    command.args(args).args(["sleep", "1000"]);
    let sleeper = Proc::spawn(command);
    wait_until(PATIENCE, "it sleeps", || {
        std::fs::read_to_string(format!("/proc/{}/comm", sleeper.id()))
            .is_ok_and(|name| name == "sleep\n")
    });
    sleeper
}

fn mounts(process: u32) -> String {
    std::fs::read_to_string(format!("/proc/{process}/mountinfo")).expect("it lives")
}

fn create(node: &TestNode) -> CtId {
    let ct = node.ct();
    let address = node::ipv4(ct);
    node.ok(&format!(
        "create {ct} --ostemplate busybox --ipadd {address} --diskspace 128M --ram 64M --numproc 60"
    ));
    ct
}

/// What a container leaves on the host, but for fences, which outlive it.
fn owned(node: &TestNode) -> impl Fn(Kind, &str) -> bool + Copy {
    move |kind, line: &str| !matches!(kind, Kind::Descriptors | Kind::File) && node.owns(kind, line)
}

#[test]
fn a_user_who_copies_the_nodes_mounts_hinders_nobody() {
    need!(node::node(), need::program("unshare", "util-linux"));
    let node = TestNode::start().with_template("busybox", &Rootfs::busybox());
    let before = node.inventory();
    let cts = [create(&node), create(&node)];
    cts.iter().for_each(|ct| drop(node.ok(&format!("start {ct}"))));
    let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups", "unshare", "-Urm"];
    let copies = [sleeper("setpriv", &nobody), sleeper("unshare", &["-m"])];
    let devices = || node.inventory().of(Kind::Loop).filter(|l| l.contains("/volumes/")).count();
    assert_eq!(devices(), 2);
    for copy in &copies {
        let seen = mounts(copy.id());
        assert!(!seen.contains("/volumes/ns mnt:["), "{seen}");
        assert!(!seen.lines().any(|l| l.contains(" - ext4 /dev/loop")), "{seen}");
    }
    for ct in cts {
        for _ in 0..2 {
            node.ok(&format!("stop {ct}"));
            node.ok(&format!("start {ct}"));
            assert_eq!(node.ok(&format!("exec {ct} hostname")).trim(), format!("ct{ct}"));
        }
        node.ok(&format!("restart {ct}"));
        node.ok(&format!("stop {ct}"));
        // The file that the copied pin of its network lay on is gone, and so is the copy.
        for copy in &copies {
            assert!(!mounts(copy.id()).contains(&format!("/ct/{ct}/")), "{ct}: its network stays");
        }
        node.ok(&format!("destroy {ct}"));
    }
    assert_eq!(devices(), 0);
    let owned = owned(&node);
    before.only(owned).wait_clean_of(node.layout(), PATIENCE, owned);
    assert!(copies.iter().all(|copy| !mounts(copy.id()).is_empty()), "they live on");
}

#[test]
fn a_program_of_the_node_that_holds_a_volume_is_named_and_waited_for() {
    need!(node::node(), need::program("nsenter", "util-linux"));
    let node = TestNode::start().with_template("busybox", &Rootfs::busybox());
    let before = node.inventory();
    let ct = create(&node);
    node.ok(&format!("start {ct}"));
    let init = || {
        let shown = node.json(&format!("list -a --fields ctid,init_pid {ct}"));
        shown[0]["init_pid"].as_u64().unwrap_or_else(|| panic!("{shown}"))
    };
    // What root has open there shows itself to who may trace it only.
    let unseen = sleeper("env", &[&format!("--chdir=/proc/{}/root/etc", init())]);
    let notes = node.json(&format!("stop {ct}"))["warnings"].to_string();
    assert!(notes.contains("fuser -vm /dev/loop"), "{notes}");
    drop(unseen);
    node.ok(&format!("start {ct}"));
    let holder = sleeper("nsenter", &["--mount", "--target", &init().to_string()]);
    let name = format!("sleep (pid {}, user root)", holder.id());

    let notes = node.json(&format!("stop {ct}"))["warnings"].to_string();
    assert!(notes.contains(&name), "{notes}");
    assert!(node.ok(&format!("status {ct}")).contains("down"));
    node.ok(&format!("start {ct}"));
    assert_eq!(node.ok(&format!("exec {ct} hostname")).trim(), format!("ct{ct}"));
    node.ok(&format!("stop {ct}"));

    for _ in 0..2 {
        let refused = node.run(&format!("destroy {ct}"));
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && said.contains(&name), "{said}");
    }
    let shown = node.json(&format!("list -a --fields ctid,status,problem {ct}"));
    assert_eq!(shown[0]["status"], "deleting", "{shown}");
    assert!(shown[0]["problem"].as_str().is_some_and(|p| p.contains(&name)), "{shown}");
    drop(holder);
    wait_until(PATIENCE, "the destroy ends by itself", || {
        !node.run(&format!("status {ct}")).status.success()
            || node.ok(&format!("status {ct}")).contains("deleted")
    });
    let owned = owned(&node);
    before.only(owned).wait_clean_of(node.layout(), PATIENCE, owned);
}

#[test]
fn a_namespace_of_volumes_that_somebody_unmounted_comes_back() {
    need!(node::node());
    let node = TestNode::start().with_template("busybox", &Rootfs::busybox());
    let before = node.inventory();
    let ct = create(&node);
    node.ok(&format!("start {ct}"));
    let pin = node.layout().volumes_dir().join("ns");
    ves_kit::run("umount", &[pin.to_str().expect("text")]);
    assert_eq!(node.ok(&format!("exec {ct} hostname")).trim(), format!("ct{ct}"), "it runs on");
    node.ok(&format!("restart {ct}"));
    ves_kit::run("umount", &[pin.to_str().expect("text")]);
    node.ok(&format!("stop {ct}"));
    node.ok(&format!("start {ct}"));
    assert_eq!(node.ok(&format!("exec {ct} hostname")).trim(), format!("ct{ct}"));
    node.ok(&format!("stop {ct}"));
    node.ok(&format!("destroy {ct}"));
    let owned = |kind, line: &str| owned(&node)(kind, line) && !line.contains("/run/volumes");
    before.only(owned).wait_clean_of(node.layout(), PATIENCE, owned);
}
