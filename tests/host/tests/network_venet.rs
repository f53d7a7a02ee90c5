//! venet on the real kernel: packets, not rules, are what is looked at.

mod network_support;

use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use network_support::{NODE_V4, NODE_V6, ct, on_a_new_node, udp, udp_round_trip};
use ves_kit::need;

const A4: &str = "192.0.2.10";
const A6: &str = "2001:db8::10";

#[test]
fn both_families_answer_at_once() {
    need!(need::root(), need::program("ip", "iproute2"), need::program("nft", "nftables"));
    on_a_new_node(|node| {
        let container = node.container(ct(9200));
        let begun = Instant::now();
        let made = node.ensure(container.ct, &[A4, A6]).expect("made");
        eprintln!("first ensure with the node's table: {:?}", begun.elapsed());
        let words: Vec<_> = made.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(words, [A4, A6]);
        for (inside, outside) in [(A4, NODE_V4), (A6, NODE_V6)] {
            let (udp_inside, tcp_inside) = container.listen(inside, 80);
            let begun = Instant::now();
            udp_round_trip(&udp(outside), &udp_inside);
            let mut stream = TcpStream::connect((inside, 80)).expect("connect");
            let (mut peer, from) = tcp_inside.accept().expect("accept");
            assert_eq!(from.ip().to_string(), outside);
            stream.write_all(b"x").expect("write");
            peer.read_exact(&mut [0]).expect("read");
            // Outwards, by the default route, from the container's own address.
            let (server, client) = (
                udp(outside),
                container.inside(|| {
                    UdpSocket::bind((if inside == A4 { "0.0.0.0" } else { "::" }, 0)).expect("bind")
                }),
            );
            client.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
            udp_round_trip(&client, &server);
            assert!(begun.elapsed() < Duration::from_millis(500), "nothing waits for detection");
        }
    });
}
