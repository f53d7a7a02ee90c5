//! Snapshots through `virtctl` and five real daemons: what was comes back, and storage killed in the
//! middle leaves nothing but what was asked for.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;
use ves_kit::stack::READY;
use ves_kit::{TestNode, need, node};
use ves_types::CtId;
use ves_types::layout::Daemon;

use super::support::{running, shell};

#[track_caller]
fn snapshots(node: &TestNode, ct: CtId) -> Vec<Value> {
    node.json(&format!("snapshot-list {ct}")).as_array().expect("a list").clone()
}

#[track_caller]
fn take(node: &TestNode, ct: CtId, name: &str) -> String {
    let op = node.json(&format!("snapshot {ct} --name {name}"));
    op["snapshot"].as_str().expect("it is named").to_owned()
}

/// What there is of snapshots in the pool: files and directories.
fn files(node: &TestNode) -> Vec<PathBuf> {
    let pool = node.layout().service_dir(Daemon::Storage).join("pool/snapshots");
    let list = |dir: PathBuf| {
        let entries = std::fs::read_dir(dir).expect("readable");
        entries.map(|e| e.expect("readable").path()).collect::<Vec<_>>()
    };
    let dirs = list(pool);
    let inside = dirs.iter().filter(|d| d.is_dir()).flat_map(|d| list(d.clone()));
    inside.chain(dirs.iter().cloned()).collect()
}

#[test]
fn what_was_comes_back_and_destroy_leaves_nothing() {
    need!(node::node());
    let (node, ct) = running();
    let write = |text: &str| shell(&node, ct, &format!("echo {text} > /etc/mark"));
    let read = || shell(&node, ct, "cat /etc/mark");
    write("one");
    let begun = Instant::now();
    let said = node.ok(&format!("snapshot {ct} --name before-upgrade"));
    println!("{said}a snapshot of a running container, with virtctl: {:?}", begun.elapsed());
    assert!(said.starts_with(&format!("container {ct}: snapshot ")) && said.contains(" taken in "));
    let first = snapshots(&node, ct)[0]["id"].as_str().expect("an id").to_owned();
    assert!(said.contains(&first), "{said} {first}");
    write("two");
    let second = take(&node, ct, "before-upgrade");
    write("three");
    shell(&node, ct, "head -c 8388608 /dev/urandom > /big; sync");

    let list = snapshots(&node, ct);
    assert_eq!((&list[1]["parent"], &list[1]["current"]), (&first.clone().into(), &true.into()));
    assert_eq!(list[0]["current"], false, "{list:?}");
    assert!(list.iter().all(|s| s["size"].is_u64() && s["reserved"].is_u64()), "{list:?}");
    println!("{}", node.ok(&format!("snapshot-list {ct}")));

    let refused = node.run(&format!("snapshot-switch {ct} --id {first}"));
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(32) && why.contains("stop it first"), "{why}");
    assert_eq!(read(), "three\n");
    node.ok(&format!("stop {ct} --fast"));
    let plan = node.ok(&format!("snapshot-switch {ct} --id {first} --dry-run"));
    let lines: Vec<_> = plan.lines().collect();
    assert_eq!(lines[0], format!("storage: volume as in snapshot {first}"));
    assert!(lines.len() > 1 && lines[1..].iter().all(|l| l.starts_with("  ")), "{plan}");
    println!("{}", node.ok(&format!("snapshot-switch {ct} --id {first}")));
    node.ok(&format!("start {ct}"));
    assert_eq!(read(), "one\n");
    assert_eq!(shell(&node, ct, "[ -e /big ] || echo gone"), "gone\n");
    assert_eq!(snapshots(&node, ct)[0]["current"], true);

    // Killed and started anew, storage knows all of it.
    node.stack().kill(Daemon::Storage).expect("killed");
    node.stack().start(Daemon::Storage).expect("started");
    node.stack().wait_ready(Daemon::Storage, READY).expect("listening again");
    assert_eq!(snapshots(&node, ct).len(), 2);
    println!("{}", node.ok(&format!("snapshot-delete {ct} --id {first}")));
    let gone = node.run(&format!("snapshot-delete {ct} --id {first}"));
    assert_eq!(gone.status.code(), Some(209));
    node.ok(&format!("stop {ct} --fast"));
    node.ok(&format!("snapshot-switch {ct} --id {second}"));
    node.ok(&format!("start {ct}"));
    assert_eq!(read(), "two\n");
    node.ok(&format!("stop {ct} --fast"));
    node.ok(&format!("destroy {ct}"));
    assert_eq!(files(&node), Vec::<PathBuf>::new());
}

#[test]
fn storage_killed_in_the_middle_leaves_only_what_was_asked_for() {
    need!(node::node());
    let (node, ct) = running();
    let mut ids = Vec::new();
    for round in 0..12_u64 {
        shell(&node, ct, &format!("head -c 4194304 /dev/urandom > /etc/mark{round}"));
        let mut taking = node.virtctl();
        taking.args(["snapshot", &ct.to_string(), "-o", "json", "--name", &format!("n{round}")]);
        taking.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        let taking = taking.spawn().expect("virtctl starts");
        // A little later each time.
        std::thread::sleep(Duration::from_millis(4 * round));
        node.stack().kill(Daemon::Storage).expect("killed");
        node.stack().start(Daemon::Storage).expect("started again");
        node.stack().wait_ready(Daemon::Storage, READY).expect("listening again");
        let out = taking.wait_with_output().expect("it ends");
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(out.status.success(), "{said}{}", String::from_utf8_lossy(&out.stderr));
        let op: Value = serde_json::from_str(&said).expect("JSON");
        ids.push(op["snapshot"].as_str().expect("named").to_owned());
        assert_eq!(node.ok(&format!("exec {ct} echo alive")), "alive\n");
    }
    let listed: Vec<String> =
        snapshots(&node, ct).iter().filter_map(|s| s["id"].as_str().map(str::to_owned)).collect();
    assert_eq!(listed, ids, "each once, in order");
    // One directory, and a file for each.
    let left = files(&node);
    assert_eq!(left.len(), ids.len() + 1, "{left:?}");
    node.ok(&format!("stop {ct} --fast"));
    node.ok(&format!("snapshot-switch {ct} --id {}", ids[3]));
    node.ok(&format!("start {ct}"));
    let marks = shell(&node, ct, "ls /etc | grep -c mark");
    assert_eq!(marks, "4\n");
    node.ok(&format!("stop {ct} --fast"));
    node.ok(&format!("destroy {ct}"));
    assert_eq!(files(&node), Vec::<PathBuf>::new());
}
