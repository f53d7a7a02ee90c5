//! A container whose image somebody deleted under it: it can still be stopped and destroyed.

use std::path::PathBuf;
use std::time::Duration;

use ves_kit::inventory::Kind;
use ves_kit::{Rootfs, TestNode, need, node};

/// How long what must happen may take.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn a_running_container_whose_image_is_gone_is_stopped_and_destroyed() {
    need!(node::node());
    let node = TestNode::start().with_template("web", &Rootfs::web());
    let ct = node.ct();
    let before = node.inventory();
    node.ok(&format!("create {ct} --ostemplate web --diskspace 128M --ram 128M --numproc 60"));
    node.ok(&format!("start {ct}"));
    let image: PathBuf = node.dir().join(format!("state/storage/pool/volumes/{ct}.img"));
    std::fs::remove_file(&image).unwrap_or_else(|e| panic!("{}: {e}", image.display()));

    let refused = node.run(&format!("restart {ct}"));
    assert_eq!(refused.status.code(), Some(43), "it needs its volume: {refused:?}");
    node.ok(&format!("stop {ct}"));
    let status = String::from_utf8(node.run(&format!("status {ct}")).stdout).expect("text");
    assert!(status.contains("down"), "{status}");
    let of_volume =
        |kind, line: &str| matches!(kind, Kind::Mount | Kind::Loop) && node.owns(kind, line);
    before.clone().only(of_volume).wait_clean_of(node.layout(), PATIENCE, of_volume);
    node.ok(&format!("destroy {ct}"));
    // Files below the run directory are fences, which outlive a container.
    let owned =
        |kind, line: &str| !matches!(kind, Kind::Descriptors | Kind::File) && node.owns(kind, line);
    before.only(owned).wait_clean_of(node.layout(), PATIENCE, owned);
}
