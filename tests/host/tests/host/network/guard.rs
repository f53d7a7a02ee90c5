//! The guard when somebody else changes the node's firewall: packets, not rules, are what is looked at.

use std::process::Command;
use std::time::{Duration, Instant};

use ves_kit::{need, wait_until};
use ves_network::host::Host;
use ves_network::kernel::KernelHost;
use ves_network::service::Service;

use super::support::{
    Container, DEADLINE, NODE_V4, NODE_V6, Node, ct, on_a_new_node, received, send_from, udp,
    udp_round_trip, watching_service,
};

const A4: &str = "192.0.2.10";
const A6: &str = "2001:db8::10";
const B4: &str = "192.0.2.11";
const B6: &str = "2001:db8::11";

/// How soon what was taken away is back.
const SOON: Duration = Duration::from_secs(1);

macro_rules! on_a_node {
    ($test:expr) => {
        need!(need::root(), need::program("ip", "iproute2"), need::program("nft", "nftables"));
        on_a_new_node($test);
    };
}

/// Two containers with links, of which the first has the second's addresses too, as its root may.
fn two(node: &Node, service: &Service) -> [Container; 2] {
    let both = [node.container(ct(9200)), node.container(ct(9201))];
    node.ensure_by(service, both[0].ct, &[A4, A6]).expect("made");
    node.ensure_by(service, both[1].ct, &[B4, B6]).expect("made");
    both[0].run("ip", &["addr", "add", B4, "dev", "venet0"]);
    both[0].run("ip", &["addr", "add", B6, "dev", "venet0", "nodad"]);
    both
}

/// Both containers' packets come through in both directions, and no false one does.
fn guarded([one, two]: &[Container; 2]) {
    for (container, own) in [(one, A4), (one, A6), (two, B4), (two, B6)] {
        let (inside, _) = container.listen(own, 80);
        let outside = if own.contains(':') { NODE_V6 } else { NODE_V4 };
        udp_round_trip(&udp(outside), &inside);
    }
    for (outside, own, false_one) in [(NODE_V4, A4, B4), (NODE_V6, A6, B6)] {
        let socket = udp(outside);
        send_from(one, false_one, &socket);
        send_from(one, own, &socket);
        assert_eq!(received(&socket), own, "the false one does not arrive");
    }
}

fn flush() {
    ves_kit::run("nft", &["flush", "ruleset"]);
}

#[test]
fn a_flush_of_the_ruleset_does_not_reach_an_owned_guard() {
    on_a_node!(|node| {
        let service = watching_service(node.layout.layout());
        let both = two(node, &service);
        let before = ves_kit::run("nft", &["list", "ruleset"]);
        for command in [&["flush", "ruleset"][..], &["delete", "table", "inet", "ves"]] {
            Command::new("nft").args(command).output().expect("nft runs");
            assert_eq!(ves_kit::run("nft", &["list", "ruleset"]), before, "{command:?}");
        }
        guarded(&both);
    });
}

#[test]
fn a_guard_that_was_flushed_is_back_for_all_within_a_second() {
    on_a_node!(|node| {
        // A table that nobody can own, as on kernels before 6.9.
        ves_kit::run("nft", &["add", "table", "inet", "ves"]);
        let service = watching_service(node.layout.layout());
        let both = two(node, &service);
        guarded(&both);
        let host = KernelHost::new(node.layout.layout().clone());
        let all = host.links().expect("read");
        assert_eq!(all.values().map(std::collections::BTreeSet::len).sum::<usize>(), 4);
        let begun = Instant::now();
        flush();
        wait_until(SOON, "the guard is back", || host.sources().expect("read") == all);
        eprintln!("back {:?} after the flush began", begun.elapsed());
        guarded(&both);
    });
}

#[test]
fn a_guard_whose_sets_were_emptied_is_filled_for_all_within_a_second() {
    on_a_node!(|node| {
        ves_kit::run("nft", &["add", "table", "inet", "ves"]);
        let service = watching_service(node.layout.layout());
        let both = two(node, &service);
        let host = KernelHost::new(node.layout.layout().clone());
        let all = host.links().expect("read");
        ves_kit::run("nft", &["flush", "set", "inet", "ves", "sources4"]);
        wait_until(SOON, "they are filled", || host.sources().expect("read") == all);
        guarded(&both);
        // What somebody let in goes again.
        let element = format!("add element inet ves sources4 {{ \"ves9200\" . {B4} }}");
        ves_kit::run("nft", &[&element]);
        wait_until(SOON, "it is taken out", || host.sources().expect("read") == all);
        guarded(&both);
    });
}

#[test]
fn a_guard_that_was_flushed_without_a_daemon_is_back_when_the_next_begins() {
    on_a_node!(|node| {
        let service = watching_service(node.layout.layout());
        let both = two(node, &service);
        drop(service);
        wait_until(DEADLINE, "nobody owns it", || {
            flush();
            !ves_kit::run("nft", &["list", "tables"]).contains("ves")
        });
        let again = watching_service(node.layout.layout());
        guarded(&both);
        flush();
        guarded(&both);
        drop(again);
    });
}
