//! Privilege is really split: each daemon has just the capabilities its crate declares, can never
//! get more, and the coordinator is nobody special; a socket answers only those it should.

use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::time::Duration;

use ves_daemon::Cap;
use ves_kit::stack::account;
use ves_kit::{TestNode, need, node};
use ves_types::layout::{COORDINATOR_USER, Daemon};

/// How long daemons may take to reach each other.
const PATIENCE: Duration = Duration::from_secs(30);

/// The fields of a process's status, by name.
fn status(pid: u32) -> BTreeMap<String, String> {
    std::fs::read_to_string(format!("/proc/{pid}/status"))
        .expect("the process runs")
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect()
}

fn mask(caps: &[Cap]) -> u64 {
    caps.iter().map(Cap::bitmask).fold(0, |all, one| all | one)
}

#[test]
fn each_daemon_has_what_it_declares_and_nothing_else() {
    need!(node::node());
    let node = TestNode::start();
    let declared = [
        (Daemon::Storage, ves_storage::CAPABILITIES),
        (Daemon::Network, ves_network::CAPABILITIES),
        (Daemon::Resources, ves_resources::CAPABILITIES),
        (Daemon::Lifecycle, ves_lifecycle::CAPABILITIES),
        (Daemon::Coordinator, ves_coordinator::CAPABILITIES),
    ];
    // A machine may withhold a capability from root itself.
    let root = u64::from_str_radix(&status(std::process::id())["CapPrm"], 16).expect("a mask");
    let (ves, _) = account(COORDINATOR_USER).expect("looked up").expect("there is one");
    for (service, caps) in declared {
        let pid = node.stack().pid(service).expect("looked up").expect("it runs");
        let status = status(pid);
        let set = |name: &str| u64::from_str_radix(&status[name], 16).expect("a mask in hex");
        let want = mask(caps) & root;
        for name in ["CapPrm", "CapEff"] {
            assert_eq!(set(name), want, "{name} of {}", service.name());
        }
        assert_eq!(
            set("CapInh") | set("CapAmb"),
            0,
            "nothing is inherited from {}",
            service.name()
        );
        let uids: Vec<u32> = status["Uid"].split('\t').map(|u| u.parse().expect("a uid")).collect();
        if service == Daemon::Coordinator {
            assert!(uids.iter().all(|uid| *uid == ves), "the coordinator runs as `ves`: {uids:?}");
        } else {
            assert_eq!(set("CapBnd"), want, "no program {} runs gets more", service.name());
        }
    }

    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        for (service, names) in [
            (Daemon::Storage, ves_storage::api::SERVICES),
            (Daemon::Network, ves_network::api::SERVICES),
            (Daemon::Resources, &[ves_resources::api::NAME]),
            (Daemon::Lifecycle, ves_lifecycle::api::SERVICES),
            (Daemon::Coordinator, ves_coordinator::api::SERVICES),
        ] {
            let channel = ves_daemon::client::channel(&node.layout().socket(service));
            let mut health = tonic_health::pb::health_client::HealthClient::new(channel);
            for name in names.iter().copied().chain([""]) {
                let request = tonic_health::pb::HealthCheckRequest { service: name.to_owned() };
                let mut told = health.watch(request).await.expect(name).into_inner();
                let serving = tonic_health::pb::health_check_response::ServingStatus::Serving;
                // The coordinator's serve when it has reached the others.
                let serves = async {
                    while told.message().await.expect(name).expect(name).status() != serving {}
                };
                tokio::time::timeout(PATIENCE, serves).await.expect(name);
            }
        }
    });

    for service in Daemon::ALL {
        let socket = node.layout().socket(service);
        let there = std::fs::symlink_metadata(&socket).expect("it is bound");
        assert!(there.file_type().is_socket());
        let mode = there.mode() & 0o777;
        if service == Daemon::Coordinator {
            assert_eq!(mode, 0o666, "anybody may connect; the gate decides");
        } else {
            assert_eq!((mode, there.uid()), (0o660, 0), "{} is root's and ves's", service.name());
        }
    }
}

#[test]
fn a_stranger_is_refused_by_name() {
    need!(node::node());
    let node = TestNode::start();
    // "nobody" can reach neither the directory of the test's programs nor anything but the socket.
    let program = node.dir().join("virtctl");
    std::fs::copy(node::bin_dir().join("virtctl"), &program).expect("copied");
    let mut command = std::process::Command::new(program);
    std::os::unix::process::CommandExt::uid(&mut command, 65_534);
    let socket = node.layout().socket(Daemon::Coordinator);
    let out = command.env("VES_SOCKET", socket).args(["list", "-a"]).output().expect("it starts");
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(12), "vzctl's status for permission: {said}");
    assert!(said.contains("may not call"), "{said}");
}
