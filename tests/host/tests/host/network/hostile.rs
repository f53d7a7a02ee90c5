//! What the root of a container can make of its own network, so that the node reads around it: nothing
//! of it keeps the container from being looked at, changed and removed, or costs the node more than a
//! bounded share.

use std::fs;

use ves_kit::need;

use super::support::{Node, address, ct, on_a_new_node};

const A4: &str = "192.0.2.10";
const B4: &str = "192.0.2.11";

macro_rules! on_a_node {
    ($test:expr) => {
        need!(need::root(), need::program("ip", "iproute2"), need::program("nft", "nftables"));
        on_a_new_node($test);
    };
}

/// Commands that give a link as many names as the kernel takes, as long as they may be; ip(8) loses
/// those that do not fit into its message.
pub(crate) fn many_names(link: &str) -> Vec<Vec<String>> {
    let name = |n| format!("{link}-{n:0>width$}", width = 126 - link.len());
    let names: Vec<_> = (0..496).map(name).collect();
    let command = |names: &[String]| {
        let begin = ["link", "property", "add", "dev", link].map(str::to_owned);
        let names = names.iter().flat_map(|n| ["altname".to_owned(), n.clone()]);
        begin.into_iter().chain(names).collect()
    };
    names.chunks(4).map(command).collect()
}

#[test]
fn alternative_names_inside_blind_nobody() {
    on_a_node!(|node| {
        for (n, link) in ["lo", "venet0"].into_iter().enumerate() {
            let container = node.container(ct(9210 + u32::try_from(n).expect("small")));
            node.ensure(container.ct, &[A4]).expect("made");
            for command in many_names(link) {
                let words: Vec<_> = command.iter().map(String::as_str).collect();
                container.run("ip", &words);
            }
            let shown = container.run("ip", &["link", "show", "dev", link]);
            assert!(shown.len() > 65_536, "the kernel took them: {}", shown.len());
            let seen = node.get(container.ct).expect("can be looked at");
            assert_eq!(seen.addresses, [address(A4)]);
            let all = node.block_on(node.service.list()).expect("can be listed");
            assert_eq!(all.len(), 1);
            let changed = node.ensure(container.ct, &[B4]).expect("can be changed");
            assert_eq!(changed.addresses, [address(B4)]);
            assert_eq!(node.steps(container.ct, &[B4]), [""; 0]);
            node.remove(container.ct).expect("can be removed");
        }
    });
}

#[test]
fn alternative_names_on_the_node_blind_nobody() {
    on_a_node!(|node| {
        let container = node.container(ct(9213));
        node.ensure(container.ct, &[A4]).expect("made");
        // Whoever manages the node's links may name them.
        for link in ["up0", "ves9213"] {
            for command in many_names(link) {
                let words: Vec<_> = command.iter().map(String::as_str).collect();
                ves_kit::run("ip", &words);
            }
        }
        assert!(ves_kit::run("ip", &["link", "show", "dev", "ves9213"]).len() > 65_536);
        assert_eq!(node.get(container.ct).expect("can be looked at").addresses, [address(A4)]);
        assert_eq!(node.block_on(node.service.list()).expect("can be listed").len(), 1);
        node.ensure(container.ct, &[B4]).expect("can be changed");
        assert_eq!(node.steps(container.ct, &[B4]), [""; 0]);
        node.remove(container.ct).expect("can be removed");
    });
}

/// The most memory this process ever had, in bytes.
fn most_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("readable");
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).expect("it is there");
    line.trim().trim_end_matches("kB").trim().parse::<u64>().expect("a number") * 1024
}

fn routes_to(node: &Node, ip: &str) -> bool {
    assert!(node.layout.dir().exists());
    ves_kit::run("ip", &["route", "show", ip]).contains(ip)
}

#[test]
fn a_world_of_routes_inside_is_not_taken_in() {
    on_a_node!(|node| {
        let container = node.container(ct(9212));
        node.ensure(container.ct, &[A4]).expect("made");
        let routes: Vec<_> = (0..100_000_u32)
            .map(|n| {
                format!("route add {} dev venet0\n", std::net::Ipv4Addr::from(0x0a00_0000 | n))
            })
            .collect();
        let batch = node.layout.dir().join("routes");
        fs::write(&batch, routes.concat()).expect("written");
        drop(routes);
        container.run("ip", &["-batch", batch.to_str().expect("text")]);
        let before = most_memory();
        let seen = node.get(container.ct).expect("can be looked at");
        assert_eq!(seen.addresses, [address(A4)], "by what is set outside");
        let all = node.block_on(node.service.list()).expect("can be listed");
        assert_eq!(all, [seen]);
        // An address is taken from it all the same.
        let changed = node.ensure(container.ct, &[B4]).expect("can be changed");
        assert_eq!(changed.addresses, [address(B4)]);
        assert!(!routes_to(node, A4) && routes_to(node, B4));
        let more = most_memory() - before;
        assert!(more < 6 << 20, "{more} bytes for what is inside");
        // And what could not be done inside is done when it can be.
        container.run("ip", &["link", "set", "venet0", "down"]);
        node.ensure(container.ct, &[B4]).expect("repaired");
        assert_eq!(node.steps(container.ct, &[B4]), [""; 0]);
        let inside = container.run("ip", &["-4", "addr", "show", "venet0"]);
        assert!(inside.contains(B4) && !inside.contains(A4), "{inside}");
        node.remove(container.ct).expect("can be removed");
    });
}
