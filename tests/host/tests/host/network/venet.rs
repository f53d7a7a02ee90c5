//! venet on the real kernel: packets, not rules, are what is looked at.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use ves_kit::{need, wait_until};
use ves_proto::Reason;

use super::support::{
    Container, DEADLINE, NODE_V4, NODE_V6, Node, ct, on_a_new_node, received, send_from, udp,
    udp_round_trip,
};

const A4: &str = "192.0.2.10";
const A6: &str = "2001:db8::10";
const B4: &str = "192.0.2.11";
const B6: &str = "2001:db8::11";
/// Nobody's.
const FALSE4: &str = "198.51.100.66";
const FALSE6: &str = "2001:db8:bad::66";

macro_rules! on_a_node {
    ($test:expr) => {
        need!(need::root(), need::program("ip", "iproute2"), need::program("nft", "nftables"));
        on_a_new_node($test);
    };
}

#[test]
fn both_families_answer_at_once() {
    on_a_node!(|node| {
        let container = node.container(ct(9200));
        let made = node.ensure(container.ct, &[A4, A6]).expect("made");
        let words: Vec<_> = made.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(words, [A4, A6]);
        for (inside, outside, any) in [(A4, NODE_V4, "0.0.0.0"), (A6, NODE_V6, "::")] {
            let (udp_inside, tcp_inside) = container.listen(inside, 80);
            udp_round_trip(&udp(outside), &udp_inside);
            let mut stream = TcpStream::connect((inside, 80)).expect("connect");
            let (mut peer, from) = tcp_inside.accept().expect("accept");
            assert_eq!(from.ip().to_string(), outside);
            stream.write_all(b"x").expect("write");
            peer.read_exact(&mut [0]).expect("read");
            // Outwards by the default route, from the container's own address.
            let client = container.inside(|| UdpSocket::bind((any, 0)).expect("bind"));
            client.set_read_timeout(Some(DEADLINE)).expect("a timeout");
            let server = udp(outside);
            client.send_to(b"x", server.local_addr().expect("bound")).expect("send");
            let (_, from) = server.recv_from(&mut [0; 8]).expect("it arrives");
            assert_eq!(from.ip().to_string(), inside);
        }
        let now = node.get(container.ct).expect("there");
        assert!(
            now.through.traffic.rx_packets > 5
                && now.through.traffic.tx_bytes > 100
                && now.spoofed == 0,
            "{now:?}"
        );
    });
}

#[test]
fn containers_reach_each_other_through_the_node() {
    on_a_node!(|node| {
        let (one, two) = (node.container(ct(9200)), node.container(ct(9201)));
        node.ensure(one.ct, &[A4, A6]).expect("made");
        node.ensure(two.ct, &[B4, B6]).expect("made");
        for (from, to) in [(A4, B4), (A6, B6)] {
            let (server, _) = two.listen(to, 53);
            udp_round_trip(&one.inside(|| udp(from)), &server);
        }
    });
}

/// Sends an IPv4 packet to the node whose whole header is ours, as a hostile root would.
fn send_raw(container: &Container, source: &str, protocol: u8, payload: &[u8]) {
    use rustix::net::{
        AddressFamily, SendFlags, SocketAddrV4, SocketType, ipproto, sendto, socket,
    };
    let octets = |text: &str| text.parse::<Ipv4Addr>().expect("an address").octets();
    let length = u8::try_from(20 + payload.len()).expect("a short packet");
    let mut packet = vec![0x45, 0, 0, length, 0, 0, 0, 0, 64, protocol, 0, 0];
    packet.extend([octets(source), octets(NODE_V4)].concat());
    packet.extend(payload);
    container.inside(|| {
        let raw = socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::RAW));
        let to = SocketAddrV4::new(NODE_V4.parse().expect("an address"), 0);
        sendto(raw.expect("root may"), &packet, SendFlags::empty(), &to).expect("send");
    });
}

/// A UDP packet of that kind.
fn send_raw_udp(container: &Container, source: &str, target: &UdpSocket) {
    let port = target.local_addr().expect("it is bound").port();
    let mut datagram = [4000_u16, port, 16, 0].map(u16::to_be_bytes).concat();
    datagram.extend(b"rawrawra");
    send_raw(container, source, 17, &datagram);
}

#[test]
fn a_false_source_is_dropped_and_counted() {
    on_a_node!(|node| {
        let (container, other) = (node.container(ct(9200)), node.container(ct(9201)));
        node.ensure(container.ct, &[A4, A6]).expect("made");
        node.ensure(other.ct, &[B4, B6]).expect("made");
        // Root inside sets what it likes: a foreign address, a neighbour's.
        for (ip, len) in [(FALSE4, "32"), (FALSE6, "128"), (B4, "32"), (B6, "128")] {
            container.run("ip", &["addr", "add", &format!("{ip}/{len}"), "dev", "venet0"]);
        }
        let (v4, v6) = (udp(NODE_V4), udp(NODE_V6));
        for (socket, falses, own) in [(&v4, [FALSE4, B4], A4), (&v6, [FALSE6, B6], A6)] {
            for source in falses {
                send_from(&container, source, socket);
            }
            send_from(&container, own, socket);
            assert_eq!(received(socket), own, "only what has its own source arrives");
        }
        send_raw_udp(&container, FALSE4, &v4);
        send_raw_udp(&container, A4, &v4);
        assert_eq!(received(&v4), "rawrawra");
        v4.set_nonblocking(true).expect("non-blocking");
        assert!(v4.recv_from(&mut [0; 8]).is_err(), "the false one did not arrive");
        assert_eq!(node.get(container.ct).expect("there").spoofed, 5);
        // The other one was not harmed.
        send_from(&other, B4, &udp(NODE_V4));
        assert_eq!(node.get(other.ct).expect("there").spoofed, 5);
    });
}

#[test]
fn a_container_does_not_play_router() {
    on_a_node!(|node| {
        let container = node.container(ct(9200));
        node.ensure(container.ct, &[A4, A6]).expect("made");
        let refused = || {
            let text = ves_kit::run("nft", &["list", "counter", "inet", "ves", "refused"]);
            let words: Vec<&str> = text.split_whitespace().collect();
            let at = words.iter().position(|w| *w == "packets").expect("a counter");
            words[at + 1].parse::<u64>().expect("a number")
        };
        // OSPF and VRRP.
        for number in [89, 112] {
            let before = refused();
            send_raw(&container, A4, number, &[]);
            assert_eq!(refused(), before + 1, "protocol {number}");
        }
        // BFD, and a DHCP server's answer.
        for (from, to) in [(4000, 3784), (67, 68)] {
            let before = refused();
            container.inside(|| {
                let socket = UdpSocket::bind((A4, from)).expect("bind");
                socket.send_to(b"x", (NODE_V4, to)).expect("send");
            });
            assert_eq!(refused(), before + 1, "port {to}");
        }
        // Multicast, where routers and address servers speak.
        let before = refused();
        container.inside(|| {
            let socket = UdpSocket::bind((A4, 0)).expect("bind");
            socket.send_to(b"x", ("224.0.0.5", 9)).expect("send");
        });
        assert_eq!(refused(), before + 1, "multicast");
        assert_eq!(node.get(container.ct).expect("there").spoofed, 0);
    });
}

/// How many TCP segments the calling thread's namespace had to send again because they were lost;
/// of those that were only late, the other end says that it got them twice.
fn sent_again() -> u64 {
    let counter = |file: &str, table: &str, name: &str| -> u64 {
        let text = std::fs::read_to_string(format!("/proc/thread-self/net/{file}"));
        let text = text.expect("readable");
        let mut rows = text.lines().filter_map(|line| line.strip_prefix(table));
        let (names, values) = (rows.next().expect("names"), rows.next().expect("values"));
        let mut both = names.split_whitespace().zip(values.split_whitespace());
        both.find(|(n, _)| *n == name).expect("a counter").1.parse().expect("a number")
    };
    let again = counter("snmp", "Tcp:", "RetransSegs");
    again.saturating_sub(counter("netstat", "TcpExt:", "TCPDSACKRecv"))
}

#[test]
fn a_stream_does_not_notice_other_addresses_come_and_go() {
    on_a_node!(|node| {
        let container = node.container(ct(9200));
        node.ensure(container.ct, &[A4, A6]).expect("made");
        let streams = [A4, A6].map(|at| {
            let (_, tcp) = container.listen(at, 80);
            let stream = TcpStream::connect((at, 80)).expect("connect");
            (stream, tcp.accept().expect("accept").0)
        });
        let (stop, rounds) = (AtomicBool::new(false), [AtomicU64::new(0), AtomicU64::new(0)]);
        std::thread::scope(|scope| {
            for ((mut near, mut far), round) in streams.into_iter().zip(&rounds) {
                let stop = &stop;
                scope.spawn(move || {
                    near.set_read_timeout(Some(DEADLINE)).expect("a timeout");
                    far.set_read_timeout(Some(DEADLINE)).expect("a timeout");
                    let mut n = 0_u64;
                    while !stop.load(Ordering::Relaxed) {
                        let mut back = [0; 8];
                        near.write_all(&n.to_be_bytes()).expect("send");
                        far.read_exact(&mut back).expect("it goes on");
                        far.write_all(&back).expect("answer");
                        near.read_exact(&mut back).expect("it goes on");
                        assert_eq!(u64::from_be_bytes(back), n);
                        n += 1;
                        round.store(n, Ordering::Relaxed);
                    }
                });
            }
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                let count = || rounds.each_ref().map(|round| round.load(Ordering::Relaxed));
                for _ in 0..20 {
                    let before = count();
                    node.ensure(container.ct, &[A4, B4, A6, B6]).expect("added");
                    let (udp_inside, _) = container.listen(B4, 81);
                    udp_round_trip(&udp(NODE_V4), &udp_inside);
                    node.ensure(container.ct, &[A4, A6]).expect("removed");
                    wait_until(DEADLINE, "both go on", || {
                        count().iter().zip(before).all(|(now, before)| *now > before + 5)
                    });
                }
            }));
            stop.store(true, Ordering::Relaxed);
            done.expect("the changes");
        });
        wait_until(DEADLINE, "nothing was lost", || {
            sent_again() + container.inside(sent_again) == 0
        });
        assert!(ves_kit::run("ip", &["route"]).lines().all(|l| !l.contains(B4)));
        assert!(!container.run("ip", &["addr"]).contains(B6));
    });
}

#[test]
fn the_last_address_can_be_exchanged() {
    on_a_node!(|node| {
        let container = node.container(ct(9200));
        for addresses in [&[A4][..], &[B4], &[B4, B6], &[B6], &[A4], &[], &[A6, A4]] {
            let made = node.ensure(container.ct, addresses).expect("changed");
            assert_eq!(made.addresses.len(), addresses.len());
            assert_eq!(node.steps(container.ct, addresses), [""; 0], "nothing is left to do");
            for at in addresses {
                let (udp_inside, _) = container.listen(at, 80);
                let outside = if at.contains(':') { NODE_V6 } else { NODE_V4 };
                udp_round_trip(&udp(outside), &udp_inside);
            }
        }
    });
}

#[test]
fn a_taken_address_is_refused_and_names_its_holder() {
    on_a_node!(|node| {
        let (one, two) = (node.container(ct(9200)), node.container(ct(9201)));
        node.ensure(one.ct, &[A4, A6]).expect("made");
        ves_kit::run("ip", &["route", "add", "198.51.100.9", "dev", "up0", "proto", "static"]);
        for (address, holder) in [
            (A4, "container 9200"),
            (A6, "container 9200"),
            (NODE_V4, "the node itself"),
            (NODE_V6, "the node itself"),
            ("198.51.100.9", "a route of the node through up0"),
        ] {
            let fault = node.ensure(two.ct, &[B4, address]).expect_err("taken");
            assert_eq!(fault.reason, Reason::AddressTaken, "{fault}");
            assert_eq!((&*fault.facts["address"], &*fault.facts["holder"]), (address, holder));
        }
        assert!(node.get(two.ct).is_err(), "a refused plan makes nothing");
    });
}

#[test]
fn of_two_who_want_an_address_at_once_one_gets_it() {
    on_a_node!(|node| {
        let containers: Vec<_> = (9200..9204).map(|n| node.container(ct(n))).collect();
        for round in 0..5 {
            let start = std::sync::Barrier::new(containers.len());
            let results = std::thread::scope(|scope| {
                let threads: Vec<_> = containers
                    .iter()
                    .map(|container| {
                        let (start, service) = (&start, node.service.clone());
                        scope.spawn(move || {
                            let runtime = tokio::runtime::Builder::new_current_thread().build();
                            let addresses = [A4, A6].map(super::support::address).to_vec();
                            let fence = super::support::fence(container.ct, 1);
                            start.wait();
                            let desired = ves_network::plan::Desired { addresses };
                            runtime.expect("a runtime").block_on(service.ensure(fence, desired))
                        })
                    })
                    .collect();
                threads.into_iter().map(|t| t.join().expect("no panic")).collect::<Vec<_>>()
            });
            let winners = results.iter().filter(|r| r.is_ok()).count();
            assert_eq!(winners, 1, "round {round}: {results:?}");
            for fault in results.iter().filter_map(|r| r.as_ref().err()) {
                assert_eq!(fault.reason, Reason::AddressTaken, "round {round}: {fault}");
            }
            // Who did not get it may not speak with it either.
            let guard = ves_kit::run("nft", &["list", "set", "inet", "ves", "sources4"]);
            assert_eq!(guard.matches(A4).count(), 1, "round {round}: {guard}");
            for container in &containers {
                node.remove(container.ct).expect("removed");
            }
        }
    });
}

#[test]
fn what_root_inside_breaks_is_its_own_and_is_repaired() {
    on_a_node!(|node| {
        let (broken, other) = (node.container(ct(9200)), node.container(ct(9201)));
        node.ensure(broken.ct, &[A4, A6]).expect("made");
        node.ensure(other.ct, &[B4, B6]).expect("made");
        let works = |node: &Node, container: &Container, at: &str| {
            assert!(node.get(container.ct).is_ok());
            let (udp_inside, _) = container.listen(at, 80);
            let outside = if at.contains(':') { NODE_V6 } else { NODE_V4 };
            udp_round_trip(&udp(outside), &udp_inside);
        };
        let attacks: [&[&str]; 10] = [
            &["addr", "flush", "dev", "venet0"],
            &["route", "flush", "table", "main"],
            &["-6", "route", "flush", "table", "main"],
            &["neigh", "flush", "dev", "venet0", "nud", "permanent"],
            &["link", "set", "venet0", "down"],
            &["link", "set", "venet0", "address", "06:00:00:00:00:01"],
            &["link", "set", "venet0", "arp", "on"],
            &["link", "set", "venet0", "name", "eth0"],
            &["link", "set", "lo", "down"],
            &["link", "delete", "venet0"],
        ];
        for attack in attacks {
            broken.run("ip", attack);
            works(node, &other, B4);
            works(node, &other, B6);
            node.ensure(broken.ct, &[A4, A6]).expect("repaired");
            assert_eq!(node.steps(broken.ct, &[A4, A6]), [""; 0], "after {attack:?}");
            works(node, &broken, A4);
            works(node, &broken, A6);
        }
        // A link of its own under our name.
        broken.run("ip", &["link", "delete", "venet0"]);
        broken.run("ip", &["link", "add", "venet0", "type", "veth", "peer", "name", "x"]);
        node.ensure(broken.ct, &[A4, A6]).expect("repaired");
        works(node, &broken, A4);
        // Its own choice to do without IPv6 does not stand in the way of the rest.
        broken.run("sysctl", &["-qw", "net.ipv6.conf.venet0.disable_ipv6=1"]);
        let made = node.ensure(broken.ct, &[A4, A6, "192.0.2.77"]).expect("changed");
        assert_eq!(made.addresses.len(), 3, "{made:?}");
        assert!(!broken.run("ip", &["addr"]).contains(A6), "it stays off");
        works(node, &broken, "192.0.2.77");
        assert_eq!(node.steps(broken.ct, &[A4, A6, "192.0.2.77"]), [""; 0]);
    });
}

#[test]
fn a_link_goes_with_its_namespace_or_before_it() {
    on_a_node!(|node| {
        for dies_first in [true, false] {
            let mut container = node.container(ct(9200));
            node.ensure(container.ct, &[A4, A6]).expect("made");
            if dies_first {
                container.die();
            }
            let begun = Instant::now();
            node.remove(container.ct).expect("removed");
            eprintln!("remove, namespace dead {dies_first}: {:?}", begun.elapsed());
            let gone = |what: &str, text: String| {
                assert!(!text.contains(A4) && !text.contains("ves9200"), "{what}: {text}")
            };
            gone("links", ves_kit::run("ip", &["link"]));
            gone("routes", ves_kit::run("ip", &["route", "show", "table", "all"]));
            gone("guard", ves_kit::run("nft", &["list", "ruleset"]));
            let fault = node.get(container.ct).expect_err("gone");
            assert_eq!(fault.reason, Reason::ContainerUnknown);
            node.remove(container.ct).expect("removing twice is harmless");
        }
        // A link whose namespace still dies does not keep the next start waiting for long.
        for n in 0..5 {
            let mut container = node.container(ct(9200));
            node.ensure(container.ct, &[A4, A6]).expect("made, though the last one still dies");
            let (udp_inside, _) = container.listen(A4, 80 + n);
            udp_round_trip(&udp(NODE_V4), &udp_inside);
            drop(udp_inside);
            container.die();
        }
        node.remove(ct(9200)).expect("removed");
        wait_until(DEADLINE, "no link is left", || !ves_kit::run("ip", &["link"]).contains("ves"));
    });
}

/// The kernel takes a link down on its own time, and whoever looks at that moment sees it or not.
#[test]
fn a_link_that_vanishes_while_it_is_read_is_gone() {
    on_a_node!(|node| {
        for _ in 0..40 {
            let mut container = node.container(ct(9200));
            node.ensure(container.ct, &[A4, A6]).expect("made");
            let dead = OnceLock::<Instant>::new();
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    let fault = loop {
                        match node.get(ct(9200)) {
                            Ok(_) => {
                                let late = dead.get().is_some_and(|at| at.elapsed() > DEADLINE);
                                assert!(!late, "it does not vanish");
                            }
                            Err(fault) => break fault,
                        }
                    };
                    assert_eq!(fault.reason, Reason::ContainerUnknown, "{fault:?}");
                });
                container.die();
                dead.set(Instant::now()).expect("it dies once");
            });
            node.remove(ct(9200)).expect("removed");
        }
    });
}

#[test]
fn the_link_of_one_that_lives_stays_though_the_pin_of_its_namespace_is_lost() {
    on_a_node!(|node| {
        let mut container = node.container(ct(9476));
        node.ensure(container.ct, &[A4]).expect("made");
        let (udp_inside, tcp_inside) = container.listen(A4, 80);
        let groups = container.join_groups();
        assert!(!groups.is_empty(), "no hierarchy takes a process in");

        container.lose_pin();
        for refused in [
            node.remove(container.ct).expect_err("it lives"),
            node.ensure(container.ct, &[B4]).map(drop).expect_err("it is not found"),
        ] {
            assert_eq!(refused.reason, Reason::Running, "{refused}");
            assert!(refused.message.contains("stop the container"), "{refused}");
        }
        udp_round_trip(&udp(NODE_V4), &udp_inside);

        drop((udp_inside, tcp_inside));
        container.die();
        node.remove(container.ct).expect("nobody lives");
        let gone = node.get(container.ct).map(drop).expect_err("gone");
        assert_eq!(gone.reason, Reason::ContainerUnknown);
    });
}
