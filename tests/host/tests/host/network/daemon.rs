//! The network daemon as a process: with its few capabilities only, over its socket, killed at will.

use std::io::{Read, Write};
use std::net::TcpStream;

use tonic::Code;
use ves_kit::{Proc, need, node};
use ves_proto::network::network_service_client::NetworkServiceClient;
use ves_proto::{Fault, Reason, common, network as pb};
use ves_types::layout::Daemon;

use super::support::{Node, ct, on_a_new_node};

const PROGRAM: &str = "ves-networkd";
const A4: &str = "192.0.2.10";
const A6: &str = "2001:db8::10";

fn start(on: &Node) -> Proc {
    Proc::daemon(&node::bin_dir().join(PROGRAM), Daemon::Network, on.layout.layout(), &[])
}

fn fence(generation: u64) -> Option<common::Fence> {
    Some(common::Fence { ct: 9200, generation, epoch: 1 })
}

fn ensure(generation: u64, addresses: &[&str]) -> pb::EnsureInterfaceRequest {
    let addresses = addresses.iter().map(ToString::to_string).collect();
    let spec = Some(pb::InterfaceSpec { addresses });
    pb::EnsureInterfaceRequest { fence: fence(generation), spec, dry_run: false }
}

#[test]
fn it_is_killed_under_a_stream_and_nobody_notices() {
    need!(
        need::root(),
        need::program("ip", "iproute2"),
        need::program("nft", "nftables"),
        need::built(PROGRAM)
    );
    on_a_new_node(|on| {
        let layout = on.layout.layout();
        let mut daemon = start(on);
        // What it may do is what it says it needs: CAP_NET_ADMIN and CAP_SYS_ADMIN.
        let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.id()));
        for set in ["CapPrm", "CapEff", "CapBnd"] {
            let line = format!("{set}:\t{:016x}", (1_u64 << 12) | (1 << 21));
            assert!(status.as_ref().expect("it lives").contains(&line), "{set}");
        }
        let container = on.container(ct(9200));
        on.async_block_on(async {
            let socket = layout.socket(Daemon::Network);
            let connect = || NetworkServiceClient::new(ves_daemon::client::channel(&socket));
            let mut client = connect();
            let made = client.ensure_interface(ensure(7, &[A4, A6])).await.expect("made");
            let made = made.into_inner();
            assert_eq!((made.generation, made.addresses), (7, vec![A4.to_owned(), A6.to_owned()]));
            assert_eq!(made.host_link, "ves9200");

            let (_, tcp) = container.listen(A4, 80);
            let mut near = TcpStream::connect((A4, 80)).expect("connect");
            let mut far = tcp.accept().expect("accept").0;
            for generation in 8..12 {
                daemon.kill();
                near.write_all(b"x").expect("the stream goes on");
                far.read_exact(&mut [0]).expect("the stream goes on");
                daemon = start(on);
                client = connect();
                let get = pb::GetInterfaceRequest { ct: 9200 };
                let there = client.get_interface(get).await.expect("it reads the kernel");
                assert_eq!(there.into_inner().addresses.len(), 2);
                let stale = client.ensure_interface(ensure(6, &[A4])).await.expect_err("old");
                assert_eq!(Fault::from(stale).reason, Reason::StaleGeneration);
                client.ensure_interface(ensure(generation, &[A4, A6])).await.expect("the same");
            }
            let bad = client.ensure_interface(ensure(20, &["10.0.0.0/8"])).await;
            assert_eq!(bad.expect_err("a network").code(), Code::InvalidArgument);
            let remove = pb::RemoveInterfaceRequest { fence: fence(12), dry_run: false };
            client.remove_interface(remove).await.expect("removed");
            let list = client.list_interfaces(pb::ListInterfacesRequest {}).await.expect("listed");
            assert!(list.into_inner().interfaces.is_empty());
        });
        daemon.kill();
        let program = node::bin_dir().join(PROGRAM);
        let run_dir = layout.run_dir().to_str().expect("test paths are text");
        let program = program.to_str().expect("test paths are text");
        ves_kit::run(program, &["--teardown", "--run-dir", run_dir]);
        assert_eq!(ves_kit::run("nft", &["list", "ruleset"]), "");
        assert!(ves_kit::run("sysctl", &["-n", "net.ipv4.ip_forward"]).starts_with('0'));
    });
}
