//! The node's part, restarts, and the real host beside the fake.

use std::sync::Arc;

use ves_kit::need;
use ves_network::fake::FakeHost;
use ves_network::host::{Host, Sources};
use ves_network::kernel::KernelHost;
use ves_network::plan::node::{self, NodeDesired, NodeStep};
use ves_network::plan::{self, Desired, Observed};
use ves_network::service::Service;
use ves_types::CtId;

use super::support::{
    NODE_V4, Node, address, ct, fence, on_a_new_node, service, udp, udp_round_trip,
};

const A4: &str = "192.0.2.10";
const A6: &str = "2001:db8::10";
const B4: &str = "192.0.2.11";
const B6: &str = "2001:db8::11";

macro_rules! on_a_node {
    ($test:expr) => {
        need!(need::root(), need::program("ip", "iproute2"), need::program("nft", "nftables"));
        on_a_new_node($test);
    };
}

fn kernel(node: &Node) -> KernelHost {
    KernelHost::new(node.layout.layout().clone())
}

fn node_steps(host: &KernelHost) -> Vec<NodeStep> {
    node::plan(NodeDesired { forwarding: true }, &host.observe_node().expect("read"))
}

fn sysctl(name: &str) -> String {
    let path = format!("/proc/sys/net/{name}");
    std::fs::read_to_string(path).expect("there is such a setting").trim().to_owned()
}

#[test]
fn a_restarted_daemon_reads_the_kernel_and_has_nothing_to_do() {
    on_a_node!(|node| {
        let container = node.container(ct(9200));
        node.ensure(container.ct, &[A4, A6]).expect("made");
        assert_eq!(node_steps(&kernel(node)), []);
        assert_eq!(node.steps(container.ct, &[A4, A6]), [""; 0]);
        // A new instance has no memory but the fence and the kernel.
        let again = service(node.layout.layout());
        let listed = node.block_on(again.list()).expect("listed");
        assert_eq!(listed.len(), 1);
        assert_eq!(listed[0].addresses, [address(A4), address(A6)]);
        assert_eq!(listed[0].generation.0, 1);
        let stale = again.ensure(fence(container.ct, 0), Desired { addresses: Vec::new() });
        assert!(node.block_on(stale).is_err(), "the fence is remembered");
    });
}

#[test]
fn two_set_ups_at_once_are_one() {
    on_a_node!(|node| {
        let host = Arc::new(kernel(node));
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let host = Arc::clone(&host);
                std::thread::spawn(move || host.apply_node(&NodeStep::LayTable(Sources::new())))
            })
            .collect();
        for thread in threads {
            thread.join().expect("no panic").expect("laid");
        }
        let left = node_steps(&host);
        assert!(!left.iter().any(|s| matches!(s, NodeStep::LayTable(_))), "{left:?}");
        let observed = host.observe_node().expect("read");
        assert_eq!(observed.rules, node::expected_rules(), "each rule once");
    });
}

#[test]
fn a_table_that_was_tampered_with_is_laid_anew_with_its_sets() {
    on_a_node!(|node| {
        // One that nobody can own, as on kernels before 6.9.
        ves_kit::run("nft", &["add", "table", "inet", "ves"]);
        let container = node.container(ct(9200));
        node.ensure(container.ct, &[A4]).expect("made");
        for tampering in [
            &["flush", "chain", "inet", "ves", "guard"][..],
            &["insert", "rule", "inet", "ves", "guard", "accept"],
            &["add", "rule", "inet", "ves", "guard", "accept"],
        ] {
            ves_kit::run("nft", tampering);
            let planned = node_steps(&kernel(node));
            assert!(matches!(planned[..], [NodeStep::LayTable(_)]), "{tampering:?}: {planned:?}");
            node.ensure(container.ct, &[A4]).expect("repaired");
            assert_eq!(node_steps(&kernel(node)), []);
            assert_eq!(node.steps(container.ct, &[A4]), [""; 0], "the sets are as they were");
        }
        ves_kit::run("nft", &["flush", "ruleset"]);
        node.ensure(container.ct, &[A4]).expect("repaired");
        let (udp_inside, _) = container.listen(A4, 80);
        udp_round_trip(&udp(NODE_V4), &udp_inside);
    });
}

#[test]
fn teardown_gives_back_what_was_there() {
    on_a_node!(|node| {
        let names = ["ipv4/ip_forward", "ipv6/conf/all/forwarding", "ipv6/conf/up0/accept_ra"];
        // A default route that a router advertised, on a link that heeds advertisements.
        std::fs::write("/proc/sys/net/ipv6/conf/up0/accept_ra", "1").expect("written");
        ves_kit::run("ip", &["-6", "route", "add", "default", "dev", "up0", "proto", "ra"]);
        let before = names.map(sysctl);
        assert_eq!(before, ["0", "0", "1"]);
        let container = node.container(ct(9200));
        let first = service(node.layout.layout());
        node.ensure_by(&first, container.ct, &[A4, A6]).expect("made");
        assert_eq!(names.map(sysctl), ["1", "1", "2"]);
        let routes = ves_kit::run("ip", &["-6", "route", "show", "default"]);
        assert!(routes.contains("up0"), "the advertised route survives: {routes}");
        // A second daemon finds all as it should be and must not take that for how it was.
        drop(first);
        service(node.layout.layout()).prepare_node().expect("nothing to do");
        node.remove(container.ct).expect("removed");
        ves_network::teardown(node.layout.layout()).expect("torn down");
        assert_eq!(names.map(sysctl), before);
        assert!(!ves_kit::run("nft", &["list", "tables"]).contains("ves"));
        ves_network::teardown(node.layout.layout()).expect("twice is harmless");
        let dir = node.layout.layout().run_dir().join("network");
        assert!(!dir.exists(), "nothing is remembered");
    });
}

#[test]
fn a_namespace_that_is_not_there_is_said_so() {
    on_a_node!(|node| {
        use ves_proto::Reason;
        let fault = node.ensure(ct(9200), &[A4]).expect_err("no namespace");
        assert_eq!(fault.reason, Reason::NotRunning);
        // Only the file is left on which it was pinned; or something that is none.
        let pin = node.layout.layout().ct_netns(ct(9200));
        std::fs::create_dir_all(pin.parent().expect("a directory")).expect("made");
        std::fs::write(&pin, b"").expect("written");
        assert_eq!(node.ensure(ct(9200), &[A4]).expect_err("empty").reason, Reason::NotRunning);
        std::fs::remove_file(&pin).expect("removed");
        std::os::unix::fs::symlink("/proc/self/ns/net", &pin).expect("linked");
        assert!(node.ensure(ct(9200), &[A4]).is_err(), "a link is not followed");
        // Something else has the name of our link.
        std::fs::remove_file(&pin).expect("removed");
        let container = node.container(ct(9200));
        let bridge = ["link", "add", "ves9200", "type", "bridge"];
        ves_kit::run("ip", &bridge);
        let fault = node.ensure(container.ct, &[A4]).expect_err("a bridge");
        assert_eq!((fault.reason, &*fault.facts["what"]), (Reason::ForeignContents, "ves9200"));
        assert_eq!(node.remove(container.ct).map_err(|f| f.reason), Err(Reason::ForeignContents));
        ves_kit::run("ip", &["link", "delete", "ves9200"]);
    });
}

/// The law that keeps the fake honest: after the same calls it has the same to say as the kernel.
#[test]
fn the_fake_and_the_kernel_agree() {
    fn drive(host: &dyn Host, id: CtId, wanted: Option<&[&str]>) -> Vec<Observed> {
        for step in
            node::plan(NodeDesired { forwarding: true }, &host.observe_node().expect("read"))
        {
            host.apply_node(&step).expect("applied");
        }
        let addresses: Vec<_> = wanted.unwrap_or_default().iter().map(|a| address(a)).collect();
        let sources = host.sources().expect("read");
        let mut session = host.session(id).expect("a session");
        let mut seen = vec![session.observe(&addresses, &sources).expect("read")];
        let desired = wanted.map(|_| Desired { addresses: addresses.clone() });
        let Ok(steps) = plan::plan(desired.as_ref(), &seen[0]) else { return seen };
        for step in steps {
            // Twice, as after a crash; and what is seen after each step is compared too.
            session.apply(&step).expect("applied");
            session.apply(&step).expect("applied twice");
            let sources: Sources = host.sources().expect("read");
            seen.push(session.observe(&addresses, &sources).expect("read"));
        }
        seen
    }
    on_a_node!(|node| {
        let (real, fake) = (kernel(node), FakeHost::default());
        fake.state().own = [address(NODE_V4), address(super::support::NODE_V6)].into();
        fake.state().node.forward_v6 = Some(false);
        let containers = [node.container(ct(9200)), node.container(ct(9201))];
        for container in &containers {
            fake.pin(container.ct);
        }
        let calls: [(usize, Option<&[&str]>); 14] = [
            (0, Some(&[A4])),
            (0, Some(&[A4, A6])),
            (1, Some(&[B4, A4])),
            (1, Some(&[B6, B4])),
            (1, Some(&[NODE_V4])),
            (0, Some(&[A6])),
            (0, Some(&[A4])),
            (0, Some(&[])),
            (0, Some(&["192.0.2.12", A6])),
            (1, None),
            (1, None),
            (1, Some(&[B4])),
            (0, None),
            (1, None),
        ];
        for (n, (which, wanted)) in calls.into_iter().enumerate() {
            let id = containers[which].ct;
            let (kernel, memory) = (drive(&real, id, wanted), drive(&fake, id, wanted));
            assert_eq!(kernel, memory, "call {n}: {wanted:?}");
            let nodes = (real.observe_node().expect("read"), fake.observe_node().expect("read"));
            assert_eq!(nodes.0, nodes.1, "call {n}");
            assert_eq!(real.containers().expect("read"), fake.containers().expect("read"));
            assert_eq!(real.links().expect("read"), fake.links().expect("read"), "call {n}");
        }
    });
}

/// The one test on the machine's own stack: its links, its routes, its firewall.
#[test]
fn the_machine_itself_carries_a_container() {
    need!(
        need::root(),
        need::disposable(),
        need::program("ip", "iproute2"),
        need::program("nft", "nftables")
    );
    struct Tidy<'a>(&'a Node, Option<Service>, bool);
    impl Drop for Tidy<'_> {
        fn drop(&mut self) {
            // It owns the table.
            self.1 = None;
            self.0.remove(ct(9200)).ok();
            // Somebody's containers may be running.
            if !self.2 {
                ves_network::teardown(self.0.layout.layout()).ok();
            }
        }
    }
    let node = Node::here();
    let before = (ves_kit::run("ip", &["-br", "link"]), ves_kit::run("ip", &["route"]));
    let laid = ves_kit::run("nft", &["list", "tables"]).contains("inet ves");
    {
        let mut container = node.container(ct(9200));
        let tidy = Tidy(&node, Some(service(node.layout.layout())), laid);
        let service = tidy.1.as_ref().expect("it is there");
        let addresses = ["192.0.2.200", "2001:db8::9200"];
        node.ensure_by(service, container.ct, &addresses).expect("made");
        let (udp_inside, _) = container.listen("192.0.2.200", 80);
        udp_round_trip(&udp("0.0.0.0"), &udp_inside);
        let (udp_inside, _) = container.listen("2001:db8::9200", 80);
        udp_round_trip(&udp("::"), &udp_inside);
        drop(udp_inside);
        assert_eq!(node.steps(container.ct, &addresses), [""; 0]);
        container.die();
    }
    let after = (ves_kit::run("ip", &["-br", "link"]), ves_kit::run("ip", &["route"]));
    assert_eq!(before, after);
}
