//! Bad input, and worse, through `virtctl` and five real daemons: each has its exit status and its
//! typed fault, and afterwards the node is as it was before.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use ves_kit::inventory::Kind;
use ves_kit::{Inventory, Proc, Rootfs, TestNode, need, node, run, wait_until};
use ves_types::CtId;
use ves_types::layout::Daemon;

/// How long what must happen may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// An init that is busybox's, or as bad as the container's host name says.
const INIT: &str = r#"#!/bin/sh
case $(hostname) in
exits) exit 7 ;;
stubborn)
    trap '' HUP INT QUIT TERM PWR USR1 USR2
    while :; do sleep 1000; done ;;
*) exec /bin/init ;;
esac
"#;

fn rootfs() -> Rootfs {
    let rootfs = Rootfs::busybox();
    let init = rootfs.dir().join("sbin/init");
    std::fs::remove_file(&init).expect("it is a link");
    std::fs::write(&init, INIT).expect("writable");
    run("chmod", &["0755", init.to_str().expect("test paths are text")]);
    rootfs
}

/// Runs `virtctl -o json` with these words, which must fail so; hands back the fault.
#[track_caller]
fn refused(node: &TestNode, words: &str, status: i32, reason: &str) -> Value {
    let out = node.run(&format!("-o json {words}"));
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(status), "{words}: {said}");
    let json = said.find('{').and_then(|from| said.get(from..)).unwrap_or_default();
    let fault: Value = serde_json::from_str(json).unwrap_or_default();
    assert_eq!(fault["reason"], reason, "{words}: {said}");
    assert_eq!(fault["exit_status"], status, "{words}: {said}");
    let message = fault["message"].as_str().unwrap_or_default();
    assert!(!message.is_empty() && !message.ends_with('.'), "{words}: {said}");
    fault
}

/// What a node has, and what it says that it has.
struct Before<'a> {
    node: &'a TestNode,
    inventory: Inventory,
    records: String,
}

impl<'a> Before<'a> {
    fn of(node: &'a TestNode) -> Self {
        Self { node, inventory: node.inventory().only(stays), records: Self::records(node) }
    }

    fn records(node: &TestNode) -> String {
        let fields = "ctid,name,hostname,ip,status,init_pid,diskspace";
        let containers = node.ok(&format!("list -a -o csv --fields {fields}"));
        containers + &node.ok("template list -o csv --fields name")
    }

    /// Nothing is left and nothing is lost.
    #[track_caller]
    fn unchanged(&self) {
        let keep = |kind, line: &str| self.node.owns(kind, line) && stays(kind, line);
        self.inventory.wait_clean_of(self.node.layout(), PATIENCE, keep);
        assert_eq!(Self::records(self.node), self.records);
    }
}

/// Everything but what is gone by itself in a moment, and what a container that ran once keeps
/// until it is destroyed: its directory and the record of what it used; and fences, which stay.
fn stays(kind: Kind, line: &str) -> bool {
    match kind {
        Kind::Process => !line.contains("virtctl"),
        Kind::File => !["/run/ct", "/fence/", "/run/resources"].iter().any(|d| line.contains(d)),
        _ => true,
    }
}

fn status(node: &TestNode, ct: CtId) -> String {
    node.ok(&format!("status {ct}")).trim().to_owned()
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    need!(node::node());
    let node = TestNode::start().with_template("busybox", &rootfs());
    let (up, down, new) = (node.ct(), node.ct(), node.ct());
    let (address, name) = (node::ipv4(up), format!("n{up}"));
    node.ok(&format!(
        "create {up} --ostemplate busybox --name {name} --ipadd {address} --diskspace 128M \
         --numproc 60"
    ));
    node.ok(&format!("create {down} --ostemplate busybox --diskspace 128M --disabled yes"));
    node.ok(&format!("start {up}"));
    let before = Before::of(&node);
    let create = format!("create {new} --ostemplate busybox --diskspace 128M");

    // Who is not there.
    for verb in ["start", "stop", "restart", "destroy", "mount", "umount", "enter", "resources"] {
        refused(&node, &format!("{verb} {new}"), 14, "CONTAINER_UNKNOWN");
        refused(&node, &format!("{verb} nobody"), 14, "CONTAINER_UNKNOWN");
    }
    refused(&node, &format!("exec {new} true"), 14, "CONTAINER_UNKNOWN");
    refused(&node, &format!("set {new} --ram 64M --save"), 14, "CONTAINER_UNKNOWN");
    refused(&node, &format!("console {new} --scrollback"), 14, "CONTAINER_UNKNOWN");
    refused(&node, "status nobody", 14, "CONTAINER_UNKNOWN");
    refused(&node, &format!("create {new} --ostemplate none"), 91, "TEMPLATE_UNKNOWN");
    refused(&node, "template delete none", 91, "TEMPLATE_UNKNOWN");
    refused(&node, "operation show 0", 208, "OPERATION_UNKNOWN");

    // What others have.
    let again = format!("create {up} --ostemplate busybox --diskspace 128M");
    let fault = refused(&node, &again, 44, "CONTAINER_EXISTS");
    assert_eq!(fault["facts"]["ct"], up.to_string());
    let fault = refused(&node, &format!("{create} --name {name}"), 131, "NAME_TAKEN");
    assert_eq!(fault["facts"]["name"], name);
    refused(&node, &format!("set {down} --name {name} --save"), 131, "NAME_TAKEN");
    let fault = refused(&node, &format!("{create} --ipadd {address}"), 78, "ADDRESS_TAKEN");
    assert_eq!(fault["facts"]["address"], address.to_string());
    refused(&node, &format!("set {down} --ipadd {address} --save"), 78, "ADDRESS_TAKEN");

    // What is malformed.
    for words in [
        "start 0".to_owned(),
        "start 99999999999".to_owned(),
        "start ../etc".to_owned(),
        "start".to_owned(),
        "nonsense".to_owned(),
        format!("create {new} --ostemplate ../busybox"),
        format!("{create} --name -x"),
        format!("{create} --name a/b"),
        format!("{create} --hostname a_b!"),
        format!("{create} --ipadd 192.0.2.300"),
        format!("{create} --ipadd 127.0.0.1"),
        format!("{create} --ipadd ::1"),
        format!("{create} --diskspace much"),
        format!("{create} --ram -1"),
        format!("{create} --ram 1Q"),
        format!("{create} --numproc 1:x"),
        format!("{create} --cpulimit none"),
        format!("set {up}"),
        format!("set {up} --numproc x --save"),
        format!("snapshot-switch {down} --id ../../volumes/{up}"),
        format!("snapshot-delete {up} --id x"),
    ] {
        refused(&node, &words, 2, "BAD_VALUE");
    }

    // What the state does not allow.
    for words in [format!("start {up}"), format!("destroy {up}"), format!("mount {up}")] {
        refused(&node, &words, 32, "RUNNING");
    }
    for words in [format!("stop {down}"), format!("exec {down} true"), format!("enter {down}")] {
        let fault = refused(&node, &words, 31, "NOT_RUNNING");
        assert_eq!(fault["facts"]["ct"], down.to_string(), "{words}");
    }
    refused(&node, &format!("start {down}"), 105, "DISABLED");
    refused(&node, &format!("umount {down}"), 40, "NOT_MOUNTED");
    refused(&node, &format!("exec {up} -- no-such-command"), 127, "COMMAND_UNKNOWN");
    refused(&node, &format!("set {up} --diskspace 64M --save"), 154, "WOULD_SHRINK");

    for verb in ["snapshot-switch", "snapshot-delete"] {
        let words = format!("{verb} {down} --id 019ab4a0-0000-7000-8000-00000000000f");
        refused(&node, &words, 209, "SNAPSHOT_UNKNOWN");
    }

    // What is not built.
    for words in [
        format!("snapshot {up} --with-memory"),
        format!("migrate {up} elsewhere --online"),
        format!("checkpoint {up}"),
        format!("suspend {up}"),
        format!("resume {up}"),
        format!("pause {up}"),
        format!("unpause {up}"),
        format!("backup {up} file"),
        format!("restore file {new}"),
        format!("convert --from / {new}"),
        format!("verify {up}"),
        format!("{create} --rate eth0:1:100"),
        format!("set {up} --netif_add eth0 --save"),
        "node add elsewhere".to_owned(),
    ] {
        refused(&node, &words, 5, "NOT_BUILT");
    }
    before.unchanged();
    assert_eq!(node.ok(&format!("exec {name} echo alive")).trim(), "alive");
}

/// A tar archive with one file of this name, as no honest tool writes it.
/// Of a system: there is an `etc`, and one entry more.
fn archive(file: &Path, name: &str, kind: tar::EntryType, link: &str) -> PathBuf {
    let header = |name: &str, kind, link: &str| {
        let mut header = tar::Header::new_gnu();
        let old = header.as_old_mut();
        old.name.iter_mut().zip(name.as_bytes()).for_each(|(to, from)| *to = *from);
        old.linkname.iter_mut().zip(link.as_bytes()).for_each(|(to, from)| *to = *from);
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(0);
        header.set_cksum();
        header
    };
    let (etc, entry) = (header("etc", tar::EntryType::Directory, ""), header(name, kind, link));
    let bytes = [etc.as_bytes().as_slice(), entry.as_bytes(), &[0; 1024]].concat();
    std::fs::write(file, bytes).expect("written");
    file.to_owned()
}

#[test]
fn hostile_archives_and_a_full_pool_leave_nothing() {
    need!(node::node());
    let node = TestNode::start().with_template("busybox", &rootfs());
    let (ct, first) = (node.ct(), node.ct());
    node.ok(&format!("create {first} --ostemplate busybox --diskspace 3G"));
    let before = Before::of(&node);

    let canary = node.dir().join("canary");
    let file = node.dir().join("bad.tar");
    for (name, kind, link) in [
        ("../../../canary", tar::EntryType::Regular, ""),
        ("a/../../b", tar::EntryType::Regular, ""),
        ("a", tar::EntryType::Link, "/etc/passwd"),
        ("a", tar::EntryType::Link, "../../etc/passwd"),
    ] {
        let path = archive(&file, name, kind, link);
        let words = format!("template import {} --name bad", path.display());
        let fault = refused(&node, &words, 21, "BAD_ARCHIVE");
        assert!(fault["facts"]["why"].is_string(), "{name}: {fault}");
    }
    std::fs::write(&file, "this is no archive").expect("written");
    let words = format!("template import {} --name bad", file.display());
    refused(&node, &words, 21, "BAD_ARCHIVE");
    refused(&node, "template import /no/such/file --name bad", 2, "BAD_VALUE");
    // An absolute name is one inside.
    let outside = canary.to_str().expect("test paths are text");
    let path = archive(&file, outside, tar::EntryType::Regular, "");
    node.ok(&format!("template import {} --name absolute", path.display()));
    node.ok("template delete absolute");
    assert!(!canary.exists());
    before.unchanged();

    // The pool has 4 GiB and 3 are promised.
    let create = format!("create {ct} --ostemplate busybox");
    let fault = refused(&node, &format!("{create} --diskspace 3G"), 46, "POOL_FULL");
    assert!(fault["facts"]["need_bytes"].is_string(), "{fault}");
    assert!(fault["facts"]["free_bytes"].is_string(), "{fault}");
    refused(&node, &format!("set {first} --diskspace 9G --save"), 46, "POOL_FULL");
    let fault = refused(&node, &format!("{create} --diskspace 16M"), 46, "VOLUME_TOO_SMALL");
    assert!(fault["facts"]["need_bytes"].is_string(), "{fault}");
    refused(&node, &format!("{create} --diskspace 128M --diskinodes 16"), 2, "BAD_VALUE");
    before.unchanged();
    // The id is free, and so is the room.
    node.ok(&format!("{create} --diskspace 128M"));
    node.ok(&format!("destroy {ct}"));
    before.unchanged();
}

#[test]
fn containers_that_misbehave_harm_only_themselves() {
    need!(node::node());
    // However slowly an init ends at once: it counts as having failed to start.
    let node = TestNode::start_where(Daemon::Lifecycle, "settle_ms = 5000\n");
    let node = node.with_template("busybox", &rootfs());
    let (exits, stubborn, bomb) = (node.ct(), node.ct(), node.ct());
    for (ct, hostname) in [(exits, "exits"), (stubborn, "stubborn"), (bomb, "bomb")] {
        node.ok(&format!(
            "create {ct} --ostemplate busybox --hostname {hostname} --diskspace 128M --ram 128M \
             --ipadd {} --numproc 60",
            node::ipv4(ct)
        ));
    }
    let before = Before::of(&node);

    // A first process that ends at once.
    let fault = refused(&node, &format!("start {exits} --wait"), 7, "INIT_EXITED");
    assert_eq!(fault["facts"]["ct"], exits.to_string());
    assert!(fault["facts"]["status"].as_str().is_some_and(|s| s.contains('7')), "{fault}");
    assert_eq!(status(&node, exits), format!("CTID {exits} exist unmounted down"));
    before.unchanged();

    // One that will not stop: whoever comes while it is being stopped hears of it.
    node.ok(&format!("start {stubborn}"));
    let mut stop = node.virtctl();
    stop.args(["stop", &stubborn.to_string(), "--timeout", "20"]);
    stop.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut stop = Proc::spawn(stop);
    wait_until(PATIENCE, "the stop is at work", || {
        node.ok("operation list -o csv -H --fields kind,state")
            .lines()
            .any(|line| line.contains("stop") && line.contains("running"))
    });
    let fault = refused(&node, &format!("restart {stubborn}"), 9, "BUSY");
    for fact in ["ct", "holder", "since"] {
        assert!(fault["facts"][fact].as_str().is_some_and(|f| !f.is_empty()), "{fact}: {fault}");
    }
    let mut said = String::new();
    let mut out = stop.child().stdout.take().expect("piped");
    std::io::Read::read_to_string(&mut out, &mut said).expect("readable");
    let mut wrong = String::new();
    let mut err = stop.child().stderr.take().expect("piped");
    std::io::Read::read_to_string(&mut err, &mut wrong).expect("readable");
    assert!(stop.wait().success(), "{said}{wrong}");
    let told = node.ok("operation list -o json");
    assert!(told.contains("did not stop in time and was killed"), "{told}");
    assert_eq!(status(&node, stubborn), format!("CTID {stubborn} exist unmounted down"));
    before.unchanged();

    // A fork bomb.
    node.ok(&format!("start {bomb}"));
    let mut fork = node.virtctl();
    fork.args(["exec", "-n", &bomb.to_string(), "b() { b | b & }; b; sleep 1000"]);
    fork.stdout(Stdio::null()).stderr(Stdio::null());
    let fork = Proc::spawn(fork);
    wait_until(PATIENCE, "the bomb meets its limit", || {
        let rows = node.json(&format!("resources {bomb}"));
        let row = rows.as_array().and_then(|r| r.iter().find(|r| r["resource"] == "numproc"));
        row.is_some_and(|row| row["failcnt"].as_u64() > Some(0))
    });
    node.ok("list -a");
    node.ok(&format!("stop {bomb} --fast"));
    drop(fork);
    before.unchanged();

    for ct in [exits, stubborn, bomb] {
        node.ok(&format!("destroy {ct}"));
    }
}
