//! Authority, certificates, tokens and contexts, and the real coordinator asked over TLS on loopback.
//!
//! Never here: what TLS refuses, which the chassis' own tests see.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use assert_cmd::Command;
use tempfile::TempDir;
use ves_daemon::Listen;
use ves_sim::Sim;
use ves_types::layout::Daemon;

use crate::program::{out, virtctl_at};

/// A user's directory with an authority in it.
struct Home {
    dir: TempDir,
}

impl Home {
    fn new() -> Self {
        let own = Self { dir: tempfile::tempdir().expect("a directory") };
        let printed = own.said("node init-ca --name n1 --pki PKI");
        assert!(printed.starts_with("[service.listen]\ntcp = ["), "{printed}");
        own
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// virtctl of this user, without a socket; `PKI` and `HOME` in the line are its directories.
    fn command(&self, line: &str) -> Command {
        let home = self.dir.path().display().to_string();
        let mut command = virtctl_at(Path::new(""));
        command.env("HOME", &home).env_remove("XDG_CONFIG_HOME").env_remove("VES_CONTEXT");
        let words = line.split_whitespace();
        command
            .args(words.map(|w| w.replace("PKI", &format!("{home}/pki")).replace("HOME", &home)));
        command
    }

    fn run(&self, line: &str) -> (i32, String, String) {
        out(&mut self.command(line))
    }

    /// What it prints when all goes well.
    fn said(&self, line: &str) -> String {
        let (status, stdout, stderr) = self.run(line);
        assert_eq!(status, 0, "{line}: {stderr}");
        stdout
    }
}

/// A node that serves the network by this authority, and its endpoint.
fn node(home: &Home) -> (Sim, String) {
    let free = TcpListener::bind("127.0.0.1:0").expect("bound").local_addr().expect("known");
    let pki = home.path("pki");
    let sim = Sim::listening_with(|config| {
        config.listen = Some(Listen { tcp: vec![free], pki, tokens: true });
    });
    (sim, format!("https://localhost:{}", free.port()))
}

#[test]
fn certificates_are_issued_listed_and_revoked() {
    let home = Home::new();
    home.said(
        "node cert issue panel --role tenant --project acme --days 9 --out HOME/out --pki PKI",
    );
    for file in ["panel.crt", "panel.key", "ca.crt"] {
        assert!(home.path("out").join(file).is_file(), "{file}");
    }
    let list = home.said("node cert list --pki PKI -o json");
    let list: serde_json::Value = serde_json::from_str(&list).expect(&list);
    assert_eq!((&list[0]["name"], &list[0]["role"]), (&"panel".into(), &"tenant".into()));
    assert_eq!(list[0]["projects"][0], "acme");
    assert_eq!(list[0]["revoked"], serde_json::Value::Null);
    let again = "node cert issue panel --role admin --out HOME/out --pki PKI";
    assert_ne!(home.run(again).0, 0, "nothing is replaced");
    let revoked = home.said("node cert list --pki PKI -H --fields name,role,revoked -s role");
    assert!(!revoked.contains("admin") || !revoked.lines().next().expect("a line").ends_with('-'));
    home.said("node cert revoke panel --pki PKI");
    let list = home.said("node cert list --pki PKI -o json");
    let list: serde_json::Value = serde_json::from_str(&list).expect(&list);
    assert_ne!(list[0]["revoked"], serde_json::Value::Null);
    for (line, status) in [
        ("node init-ca --name n1 --pki PKI", 2),
        ("node cert revoke nobody --pki PKI", 2),
        ("node cert issue x --role tenant --pki PKI --out HOME/x", 2),
        ("node cert issue x --role admin --project acme --pki PKI --out HOME/x", 2),
        ("node cert issue x --role root --pki PKI --out HOME/x", 2),
        ("node cert issue ../x --role admin --pki PKI --out HOME/x", 2),
        ("node cert issue x --role admin --days 0 --pki PKI --out HOME/x", 2),
        ("node cert list --pki HOME/none", 2),
    ] {
        assert_eq!(home.run(line).0, status, "{line}");
    }
    assert!(!home.path("x").exists());
    home.said("node init-ca --renew-server --san node1.example --pki PKI");
}

#[test]
fn from_an_authority_to_a_container_over_the_network() {
    let home = Home::new();
    let (sim, endpoint) = node(&home);
    let issue = format!(
        "node cert issue ops --role operator --out HOME/out --context n1 --endpoint {endpoint} --pki PKI"
    );
    home.said(&issue);
    home.said("context use n1");
    let contexts = home.said("context list -H");
    let current = contexts.lines().find(|line| line.starts_with("n1")).expect("a line");
    assert!(current.contains(&endpoint) && current.contains("ops.crt"), "{current}");
    home.said("create 101 --ostemplate trixie --project acme");
    home.said("start 101");
    assert!(sim.kernel().ct(101).alive());
    assert_eq!(home.said("list -H --fields ctid,status"), "101  running\n");
    assert_eq!(home.run("exec 101 -- false").0, 1);
    let asked = home.said("operation list -H --fields kind,principal");
    assert!(asked.contains("ops"), "{asked}");
    home.said("context use local");
    assert_eq!(home.run("list").0, 200, "nobody listens there");
    assert_eq!(out(home.command("list").env("VES_CONTEXT", "n1")).0, 0);
    assert_eq!(out(home.command("list").env("VES_CONTEXT", "n2")).0, 2);

    // Another's certificate sees its own containers, and that there are others is not told.
    home.said("node cert issue beta --role tenant --project beta --out HOME/out --pki PKI");
    let ca = "--ca HOME/out/ca.crt";
    let beta =
        format!("--endpoint {endpoint} {ca} --cert HOME/out/beta.crt --key HOME/out/beta.key");
    assert_eq!(home.said(&format!("list -a -1 {beta}")), "");
    assert_eq!(home.run(&format!("stop 101 {beta}")).0, 14);
    assert_eq!(home.run(&format!("exec 101 {beta} -- true")).0, 14);
    assert_eq!(home.run(&format!("create 102 --ostemplate trixie --project acme {beta}")).0, 12);
    assert_eq!(home.run(&format!("create 102 --ostemplate trixie {beta}")).0, 12);
    home.said(&format!("create 102 --ostemplate trixie --project beta {beta}"));
    assert_eq!(home.said(&format!("list -a -1 {beta}")), "102\n");
    assert_eq!(home.run(&format!("node pool {beta}")).0, 12);
    assert_eq!(home.run(&format!("node token list {beta}")).0, 12);

    // What is revoked is so in a moment.
    home.said("node cert revoke beta --pki PKI");
    sim.until("it counts no more", || home.run(&format!("list {beta}")).0 == 12);
}

#[test]
fn the_ends_of_certificates_and_what_is_revoked_are_events() {
    let home = Home::new();
    home.said("node cert issue before --role admin --out HOME/out --pki PKI");
    home.said("node cert revoke before --pki PKI");
    let (sim, endpoint) = node(&home);
    home.said("node cert issue ops --role admin --out HOME/out --pki PKI");
    let ops = format!(
        "--endpoint {endpoint} --ca HOME/out/ca.crt --cert HOME/out/ops.crt --key HOME/out/ops.key"
    );
    let told = |kind: &str| home.run(&format!("events --type {kind} -H --fields facts {ops}")).1;
    let listens = || home.run(&format!("list {ops}")).0 == 0;
    sim.until("it listens", listens);
    home.said("node cert issue beta --role admin --out HOME/out --pki PKI");
    home.said("node cert revoke beta --pki PKI");
    sim.until("it is told", || !told("access").is_empty());
    let list = home.said("node cert list --pki PKI -H --fields name,serial");
    let serial = list.lines().find_map(|line| line.strip_prefix("beta")).expect("it is listed");
    assert_eq!(told("access"), format!("id={},kind=CERTIFICATE_REVOKED\n", serial.trim()));

    assert_eq!(told("certificate_expiry"), "");
    let day = Duration::from_secs(86_400);
    // The server's goes on for 730, the authority's for longer.
    sim.advance(710 * day);
    sim.until("its end comes near", || !told("certificate_expiry").is_empty());
    let first = told("certificate_expiry");
    assert!(first.starts_with("certificate=server,days=19,expire_time="), "{first}");
    sim.restart(Daemon::Coordinator);
    sim.until("it listens", listens);
    sim.advance(40 * day);
    sim.until("it has ended", || told("certificate_expiry").lines().count() > 1);
    let both = told("certificate_expiry");
    assert!(both.lines().count() == 2 && both.contains("days=-21,"), "once each: {both}");
}

#[test]
fn a_token_is_told_once_and_counts_until_it_is_revoked() {
    let home = Home::new();
    let (sim, endpoint) = node(&home);
    let root = |line: &str| {
        let (status, stdout, stderr) = out(virtctl_at(&sim.socket()).args(line.split_whitespace()));
        assert_eq!(status, 0, "{line}: {stderr}");
        stdout
    };
    root("create 101 --ostemplate trixie --project acme");
    root("create 102 --ostemplate trixie");
    let secret = root("node token create billing --role read-only --project acme --expire 1d");
    fs::write(home.path("token"), &secret).expect("written");
    let billing = format!("--endpoint {endpoint} --ca HOME/pki/ca.crt --token-file HOME/token");
    sim.until("it listens", || home.run(&format!("list {billing}")).0 != 200);
    assert_eq!(home.said(&format!("list -a -1 {billing}")), "101\n");
    assert_eq!(home.run(&format!("start 101 {billing}")).0, 12);
    let list = root("node token list");
    assert!(list.contains("billing") && list.contains("acme"), "{list}");
    assert!(!list.contains(secret.trim()));
    let taken =
        out(virtctl_at(&sim.socket())
            .args(["node", "token", "create", "billing", "--role", "admin"]));
    assert_eq!(taken.0, 131);
    root("node token revoke billing");
    assert_eq!(home.run(&format!("list {billing}")).0, 12);
    fs::write(home.path("token"), "ves_0000").expect("written");
    assert_eq!(home.run(&format!("list {billing}")).0, 12);
    assert_eq!(root("node token list -H"), "");
}
