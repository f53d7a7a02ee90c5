//! A template from packages, built by the daemon with its capabilities only, and its init as PID 1.
//!
//! sysvinit's; `cargo xtask up` builds and boots the one with systemd.

use std::time::Duration;

use ves_kit::{TestNode, need, node, wait_until};

const SUITE: &str = "trixie";

#[test]
fn sysvinit_is_built_boots_and_stops() {
    need!(
        node::node(),
        need::program("mmdebstrap", "mmdebstrap"),
        need::filesystem("xfs"),
        need::program("mkfs.xfs", "xfsprogs"),
        need::mirror(SUITE).map(drop),
    );
    let node = TestNode::start();
    let ct = node.ct();
    let build = node.run(&format!("template build debian --suite {SUITE} --init sysvinit"));
    let progress = String::from_utf8_lossy(&build.stderr).into_owned();
    assert!(build.status.success(), "{progress}");
    assert!(progress.lines().count() > 4, "progress is told: {progress}");
    let listed = node.ok("template list -o json");
    assert!(listed.contains("Debian") && listed.contains("sysvinit"), "{listed}");

    node.ok(&format!("create {ct} --ostemplate debian --diskspace 2G"));
    node.ok(&format!("start {ct} --wait"));
    let runlevel = || {
        let out = node.run(&format!("exec {ct} runlevel"));
        String::from_utf8_lossy(&out.stdout).trim() == "N 2"
    };
    wait_until(Duration::from_secs(120), "its runlevel", runlevel);
    assert_eq!(node.ok(&format!("exec {ct} cat /proc/1/comm")).trim(), "init");
    let id = node.run(&format!("exec {ct} cat /etc/machine-id"));
    assert_eq!(id.stdout, b"", "two containers of a template would have one identity");
    node.ok(&format!("stop {ct}"));
    node.ok(&format!("destroy {ct}"));
    node.ok("template delete debian");
}
