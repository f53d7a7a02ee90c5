//! Damaged file systems through `virtctl` and five real daemons: the kernel's errors are told unasked, a
//! restart mends what loses nothing, and the rest is mended on demand, after a snapshot.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::Value;
use ves_kit::{TestNode, need, node, wait_until};
use ves_types::CtId;
use ves_types::layout::Daemon;

use super::support::{running, try_shell};

/// Until the kernel's errors are told of: three times as long as between two looks.
const TOLD_WITHIN: Duration = Duration::from_secs(30);

fn image(node: &TestNode, ct: CtId) -> PathBuf {
    node.layout().service_dir(Daemon::Storage).join(format!("pool/volumes/{ct}.img"))
}

/// The device of a mounted volume, by name.
fn device(node: &TestNode, ct: CtId) -> String {
    let volume = format!("/volumes/{ct}.img");
    let image = node.layout().service_dir(Daemon::Storage);
    let image = image.to_str().expect("a name").to_owned();
    for entry in std::fs::read_dir("/sys/block").expect("there") {
        let name = entry.expect("readable").file_name().into_string().expect("a name");
        let shown = std::fs::read_to_string(format!("/sys/block/{name}/loop/backing_file"));
        // Seen from the daemon's mounts the path may be shorter.
        let shown = shown.unwrap_or_default();
        let at = shown.trim_end();
        if at.ends_with(&volume) && (at.starts_with(&image) || !at.contains("/pool/")) {
            return name;
        }
    }
    panic!("no device shows the volume of {ct}");
}

fn problem(node: &TestNode, ct: CtId) -> String {
    let list = node.json("list -a");
    let all = list.as_array().expect("a list");
    let own = all.iter().find(|c| c["ctid"] == ct.get()).expect("it is there");
    own["problem"].as_str().unwrap_or_default().to_owned()
}

/// What a command that was refused said, after its exit status was looked at.
#[track_caller]
fn refused(node: &TestNode, line: &str, status: i32) -> String {
    let out = node.run(line);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(status), "{line}: {said}");
    said
}

/// The problems that events tell from now on, without anybody asking for the container.
fn told(node: &TestNode) -> mpsc::Receiver<String> {
    let mut events = node
        .virtctl()
        .args(["watch", "--follow", "-o", "json"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let lines = BufReader::new(events.stdout.take().expect("piped")).lines();
    let (to, from) = mpsc::channel();
    std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            let event: Value = serde_json::from_str(&line).unwrap_or_default();
            let problem = event["problem"].as_str().unwrap_or_default().to_owned();
            if to.send(problem).is_err() {
                break;
            }
        }
        events.kill().ok();
        events.wait().ok();
    });
    from.recv_timeout(TOLD_WITHIN).expect("the container as it is");
    from
}

#[test]
fn errors_are_told_and_a_restart_mends_them() {
    need!(node::node());
    let (node, ct) = running();
    // As volumes of before are, whose superblock says to go on.
    node.ok(&format!("stop {ct} --fast"));
    let image = image(&node, ct);
    let tuned = Command::new("/usr/sbin/tune2fs").args(["-e", "continue"]).arg(&image).status();
    assert!(tuned.expect("tune2fs starts").success());
    node.ok(&format!("start {ct}"));
    let device = device(&node, ct);
    try_shell(&node, ct, "echo one > /mark; sync").expect("written");
    let events = told(&node);
    std::fs::write(format!("/sys/fs/ext4/{device}/trigger_fs_error"), "1").expect("triggered");
    let event = std::iter::from_fn(|| events.recv_timeout(TOLD_WITHIN).ok());
    let event = event.into_iter().find(|problem| !problem.is_empty());
    assert!(event.expect("it is told").contains("met an error"));
    drop(events);
    let said = try_shell(&node, ct, "echo two > /mark").expect_err("nothing is written any more");
    assert!(said.contains("Read-only"), "{said}");
    assert!(problem(&node, ct).contains("restart"), "{}", problem(&node, ct));
    let log = std::fs::read_to_string(node.stack().log(Daemon::Storage)).expect("there");
    assert!(log.contains("has met errors in the file system"), "{log}");

    let out = node.run(&format!("snapshot {ct} --name bad"));
    let note = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success() && note.contains("note: the file system is damaged"), "{note}");
    let list = node.json(&format!("snapshot-list {ct}"));
    assert_eq!(list[0]["damaged"], true, "{list}");

    println!("{}", node.ok(&format!("restart {ct} --fast")));
    assert_eq!(problem(&node, ct), "");
    assert_eq!(
        try_shell(&node, ct, "cat /mark; echo two > /mark && cat /mark").as_deref(),
        Ok("one\ntwo\n")
    );

    node.ok(&format!("stop {ct} --fast"));
    let id = list[0]["id"].as_str().expect("an id");
    node.ok(&format!("snapshot-switch {ct} --id {id}"));
    assert!(problem(&node, ct).contains("when it is next mounted"), "{}", problem(&node, ct));
    node.ok(&format!("start {ct}"));
    assert_eq!(try_shell(&node, ct, "cat /mark; echo two > /mark").as_deref(), Ok("one\n"));
    assert_eq!(problem(&node, ct), "");
    node.ok(&format!("stop {ct} --fast"));
    node.ok(&format!("destroy {ct}"));
}

/// Clears an inode.
fn clear(image: &Path, inode: u32) {
    let out = Command::new("/usr/sbin/debugfs")
        .args(["-w", "-R", &format!("clri <{inode}>")])
        .arg(image)
        .output()
        .expect("debugfs starts");
    assert!(out.status.success(), "{out:?}");
}

/// Overwrites the blocks of a directory, behind the back of whoever uses the image.
fn wreck(image: &Path, directory: &str) {
    let out = Command::new("/usr/sbin/debugfs")
        .args(["-R", &format!("blocks {directory}")])
        .arg(image)
        .output()
        .expect("debugfs starts");
    let blocks = String::from_utf8_lossy(&out.stdout).into_owned();
    let file = std::fs::File::options().write(true).open(image).expect("there");
    let mut some = 0;
    for block in blocks.split_whitespace().map(|b| b.parse::<u64>().expect("a block")) {
        file.write_all_at(&[0x5A; 4096], block * 4096).expect("written");
        some += 1;
    }
    assert!(some > 0, "{blocks}");
}

#[test]
fn what_may_lose_files_is_refused_and_mended_on_demand() {
    need!(node::node());
    let (node, ct) = running();
    try_shell(
        &node,
        ct,
        "mkdir /d && for i in 1 2 3; do echo $i > /d/$i; done; echo one > /mark; sync",
    )
    .expect("written");
    node.ok(&format!("stop {ct} --fast"));
    wreck(&image(&node, ct), "/d");
    // The kernel has not met it yet.
    node.ok(&format!("start {ct}"));
    assert_eq!(try_shell(&node, ct, "ls /d").unwrap_or_default(), "", "the kernel leaves it out");
    wait_until(TOLD_WITHIN, "it is told", || problem(&node, ct).contains("file system"));
    let running = refused(&node, &format!("fsck {ct}"), 32);
    assert!(running.contains("stop it first"), "{running}");
    let hint = format!("virtctl fsck {ct}");
    let restart = refused(&node, &format!("restart {ct} --fast"), 210);
    assert!(restart.contains(&hint) && restart.contains("may lose files"), "{restart}");
    assert!(refused(&node, &format!("start {ct}"), 210).contains(&hint));
    assert_eq!(node.json(&format!("snapshot-list {ct}")), Value::Array(vec![]));

    let plan = node.ok(&format!("fsck {ct} --dry-run"));
    assert!(plan.contains("check the file system"), "{plan}");
    let out = node.run(&format!("fsck {ct}"));
    let (said, note) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    println!("{said}{note}");
    assert!(out.status.success() && said.contains(&format!("container {ct} checked in")), "{note}");
    let list = node.json(&format!("snapshot-list {ct}"));
    let id = list[0]["id"].as_str().expect("a snapshot was taken");
    assert!(note.contains(id) && list[0]["name"] == "before-fsck", "{note} {list}");
    node.ok(&format!("start {ct}"));
    assert_eq!(
        try_shell(&node, ct, "cat /mark; ls -R /lost+found | grep -c '#'").map(|s| s.len() > 4),
        Ok(true)
    );
    assert_eq!(problem(&node, ct), "");
    node.ok(&format!("stop {ct} --fast"));

    // Without its journal it is not even mounted, and nobody has noted any error.
    clear(&image(&node, ct), 8);
    assert_eq!(problem(&node, ct), "");
    assert!(refused(&node, &format!("start {ct}"), 210).contains(&hint));
    println!("{}", node.ok(&format!("fsck {ct}")));
    node.ok(&format!("start {ct}"));
    assert_eq!(try_shell(&node, ct, "cat /mark").as_deref(), Ok("one\n"));
    node.ok(&format!("stop {ct} --fast"));
    // Beyond 128 MiB a copy of the superblock is kept.
    node.ok(&format!("set {ct} --diskspace 256M --save"));

    let file = std::fs::File::options().write(true).open(image(&node, ct)).expect("there");
    file.write_all_at(&[0; 1024], 1024).expect("written");
    assert!(refused(&node, &format!("start {ct}"), 210).contains(&hint));
    println!("{}", node.ok(&format!("fsck {ct}")));
    node.ok(&format!("start {ct}"));
    assert_eq!(try_shell(&node, ct, "cat /mark").as_deref(), Ok("one\n"));
    node.ok(&format!("stop {ct} --fast"));
    node.ok(&format!("destroy {ct}"));
}
