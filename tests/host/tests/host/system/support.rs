//! A container that runs on a node of its own, and what is done inside it.

use ves_kit::{Rootfs, TestNode};
use ves_types::CtId;

/// A container that runs, on a node of its own.
pub(super) fn running() -> (TestNode, CtId) {
    let node = TestNode::start().with_template("plain", &Rootfs::busybox());
    let ct = node.ct();
    node.ok(&format!("create {ct} --ostemplate plain --diskspace 128M --numproc 60"));
    node.ok(&format!("start {ct}"));
    (node, ct)
}

/// Runs a line of shell inside; what it printed, or what it said where it ended badly.
pub(super) fn try_shell(node: &TestNode, ct: CtId, line: &str) -> Result<String, String> {
    let out = node.virtctl().args(["exec", &ct.to_string(), line]).output().expect("it starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if out.status.success() { Ok(text(&out.stdout)) } else { Err(text(&out.stderr)) }
}

/// Runs a line of shell inside that ends well, and answers with what it prints.
#[track_caller]
pub(super) fn shell(node: &TestNode, ct: CtId, line: &str) -> String {
    try_shell(node, ct, line).unwrap_or_else(|said| panic!("{line}: {said}"))
}
