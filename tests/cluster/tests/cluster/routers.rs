//! Routers that know each other, and a segment that misbehaves when told to.

use std::time::Duration;

use ves_cluster::PATIENCE;
use ves_kit::lab::{Fault, Role, story};

/// FRR's view: BIRD is a full neighbour, for IPv4 and for IPv6.
const NEIGHBOURS: &str = "vtysh -c 'show ip ospf neighbor' | grep -q Full/ && \
     vtysh -c 'show ipv6 ospf6 neighbor' | grep -q Full/";

/// FRR has heard nothing of BIRD for a while.
const ALONE: &str = "vtysh -c 'show ip ospf neighbor' > /run/seen && ! grep Full/ /run/seen";

#[test]
fn routers_meet_and_the_segment_fails_on_request() {
    story::among(&[Role::NODE, Role::FRR, Role::BIRD], &[], |lab| {
        let (node, frr) = (lab.node(1), lab.node(2));
        frr.until(NEIGHBOURS, PATIENCE)?;
        lab.fault(&Fault { partitions: vec![[3].into()], ..Fault::default() })?;
        frr.until(ALONE, PATIENCE)?;
        node.sh("ping -c 3 -W 20 10.86.0.2")?;
        lab.fault(&Fault { cut: [1].into(), ..Fault::default() })?;
        assert_ne!(node.exec("ping -c 3 -W 1 10.86.0.2", PATIENCE)?.status, 0, "not cut off");
        lab.fault(&Fault { delay: Duration::from_millis(300), ..Fault::default() })?;
        let delayed =
            node.sh("ping -c 3 -W 20 10.86.0.2 | sed -n 's,^rtt.* = \\([0-9]*\\).*,\\1,p'")?;
        assert!(delayed.parse::<u32>()? >= 600, "{delayed} ms there and back");
        lab.fault(&Fault { drop_every: 3, ..Fault::default() })?;
        let lossy = node.exec("ping -c 9 -i 0.2 -W 20 10.86.0.2", PATIENCE)?.stdout;
        assert!(lossy.contains("% packet loss") && !lossy.contains(" 0% packet loss"), "{lossy}");
        lab.fault(&Fault::default())?;
        frr.until(NEIGHBOURS, PATIENCE).map(drop)
    });
}

#[test]
fn nodes_that_route_are_neighbours_and_know_when_one_is_gone() {
    story::among(&Role::routers(3), &[], |lab| {
        // All were full neighbours when they came up: node 1 by FRR, node 2 by BIRD.
        let (frr, bird) = (lab.node(1), lab.node(2));
        let seen_by_bird = "birdc show ospf neighbors ospf1 | grep 10.86.0.1";
        bird.sh(seen_by_bird)?;
        lab.fault(&Fault { unplugged: [1].into(), ..Fault::default() })?;
        frr.until("ip -o link show eth0 | grep -q NO-CARRIER", PATIENCE)?;
        bird.until(&format!("! {seen_by_bird}"), PATIENCE)?;
        lab.fault(&Fault { apart: [(1, 2)].into(), ..Fault::default() })?;
        lab.node(3).sh("ping -c 1 -W 20 10.86.0.1 && ping -c 1 -W 20 10.86.0.2")?;
        assert_ne!(bird.exec("ping -c 2 -W 1 10.86.0.1", PATIENCE)?.status, 0, "not apart");
        lab.fault(&Fault::default())?;
        frr.until(NEIGHBOURS, PATIENCE).map(drop)
    });
}
