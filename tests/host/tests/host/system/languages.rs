//! The clients in Python, TypeScript and Go each live a container's life on a real node, and so does the panel of the
//! examples. Never here: what they do, which stands beside each of them.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::SystemTime;

use ves_kit::{Rootfs, TestNode, clients, need, node, python, run, stack};
use ves_pki::{Pki, write_out};
use ves_types::layout::{COORDINATOR_USER, Daemon};
use ves_types::{Grant, GrantRole};

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

/// An authority in a directory, with the certificate of a server that is `localhost`, and an operator's: the paths of
/// what the operator has.
fn authority(dir: &Path) -> [String; 3] {
    let group = stack::account(COORDINATOR_USER).expect("accounts are known");
    let (name, now) = ("panel".parse().expect("valid"), SystemTime::now());
    let hosts = ["localhost".parse().expect("valid")];
    let pki =
        Pki::init(dir, &"test".parse().expect("valid"), &hosts, group.map(|(_, gid)| gid), now);
    let operator = Grant::new(GrantRole::Operator, BTreeSet::new()).expect("valid");
    let issued = pki.and_then(|pki| pki.issue(&name, &operator, 1, now)).expect("an authority");
    let files = write_out(&issued, &dir.join("panel")).expect("files of a client");
    files.map(|file| file.display().to_string())
}

#[test]
fn clients_in_other_languages_live_a_containers_life() {
    need!(node::node(), clients::all());
    let pki = tempfile::Builder::new().prefix("ves-pki-").tempdir().expect("a directory");
    // The coordinator's account must get through to what it may read.
    run("chmod", &["0755", pki.path().to_str().expect("test paths are text")]);
    let pki = pki.path().join("pki");
    let [cert, key, ca] = authority(&pki);
    // It is free again when the coordinator wants it.
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|free| free.local_addr());
    let address = free.expect("a free port");
    let listen = format!("[service.listen]\ntcp = ['{address}']\npki = '{}'\n", pki.display());
    let node = TestNode::start_with(|which, _| match which {
        Daemon::Coordinator => listen.clone(),
        _ => String::new(),
    });
    let node = node.with_template("plain", &Rootfs::busybox());
    let socket = format!("unix:{}", node.layout().socket(Daemon::Coordinator).display());
    live(&node, &[("VES_TEST_TARGET", &socket)]);
    let far = format!("https://localhost:{}", address.port());
    let certified = [("VES_TEST_CA", &*ca), ("VES_TEST_CERT", &cert), ("VES_TEST_KEY", &key)];
    live(&node, &[&[("VES_TEST_TARGET", &*far)], &certified[..]].concat());

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
