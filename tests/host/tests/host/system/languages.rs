//! The clients in Python, TypeScript and Go each live a container's life on a real node, and so does the panel of the
//! examples. Never here: what they do, which stands beside each of them.

use std::process::{Child, Command, Stdio};

use ves_kit::{Rootfs, TestNode, clients, need, node, python};
use ves_types::layout::Daemon;

/// What starts a client's test.
fn programs() -> [(&'static str, Command); 3] {
    let mut in_python = Command::new(python::dir().join("bin/python"));
    in_python.arg("-B").arg(clients::python().join("tests/test_life.py"));
    let mut in_typescript = Command::new("node");
    in_typescript.arg(clients::node_test());
    let mut in_go = Command::new(clients::go_test());
    in_go.args(["-test.v", "-test.run", "^TestLife$"]);
    [("Python", in_python), ("TypeScript", in_typescript), ("Go", in_go)]
}

/// Lets each live a life by itself, all at once: `settings` say how the node is reached.
#[track_caller]
fn live(node: &TestNode, settings: &[(&str, &str)]) {
    let begin = |(name, mut program): (&'static str, Command)| {
        let ct = node.ct();
        program.envs(settings.iter().copied()).env("VES_TEST_TEMPLATE", "plain");
        program.env("VES_TEST_CT", ct.to_string());
        program.env("VES_TEST_ADDRESS", node::ipv4(ct).to_string());
        (name, start(program))
    };
    let begun = programs().map(begin);
    let ended = begun.map(|(name, child)| (name, child.wait_with_output().expect("it ends")));
    for (name, out) in ended {
        let said = [out.stdout, out.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(out.status.success(), "the client in {name}: {}\n{said}", out.status);
    }
}

fn start(mut program: Command) -> Child {
    let piped = program.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    piped.spawn().expect("it starts")
}

#[test]
fn clients_in_other_languages_live_a_containers_life() {
    need!(node::node(), clients::all());
    let node = TestNode::start().with_template("plain", &Rootfs::busybox());
    let socket = format!("unix:{}", node.layout().socket(Daemon::Coordinator).display());
    live(&node, &[("VES_TEST_TARGET", &socket)]);

    let ct = node.ct();
    let mut panel = Command::new(python::dir().join("bin/python"));
    panel.arg("-B").arg(clients::panel()).args([&socket, "plain"]);
    panel.args([ct.to_string(), node::ipv4(ct).to_string()]);
    let out = start(panel).wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "{said}{}", String::from_utf8_lossy(&out.stderr));
    let refused = format!("second: ADDRESS_TAKEN, {} is of {ct}", node::ipv4(ct));
    for line in ["page: there", &refused, "bill: 0.", "delete: "] {
        assert!(said.contains(line), "{line:?} is not in:\n{said}");
    }
}
