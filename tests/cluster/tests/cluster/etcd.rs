//! Three members of etcd, one of which is cut off: what a cluster of coordinators will stand on.

use anyhow::Context;
use ves_cluster::PATIENCE;
use ves_kit::lab::{Fault, Role, story};

/// `etcdctl` for the member with this number.
fn etcdctl(member: usize, words: &str) -> String {
    format!("etcdctl --endpoints http://10.86.0.{member}:2379 --command-timeout=2s {words}")
}

#[test]
fn the_rest_of_etcd_goes_on_without_its_leader() {
    story::among(&[Role { etcd: true, ..Role::NODE }; 3], &[], |lab| {
        let leads = |member: usize| {
            let status = lab.node(member).sh(&etcdctl(member, "endpoint status -w fields"))?;
            let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
            let who = |name: &str| field(name).context("etcd says who leads");
            anyhow::Ok(who("\"MemberID\" :")? == who("\"Leader\" :")?)
        };
        let mut leader = None;
        for member in 1..=3 {
            if leads(member)? {
                leader = Some(member);
            }
        }
        let leader = leader.expect("one leads");
        let other = leader % 3 + 1;
        lab.node(leader).sh(&etcdctl(leader, "put place here"))?;
        lab.fault(&Fault { cut: [leader].into(), ..Fault::default() })?;
        lab.node(other).until(&etcdctl(other, "put place there"), PATIENCE)?;
        let lonely = lab.node(leader).exec(&etcdctl(leader, "put place nowhere"), PATIENCE)?;
        assert_ne!(lonely.status, 0, "who is alone has written: {lonely:?}");
        lab.fault(&Fault::default())?;
        let read =
            format!("test \"$({})\" = there", etcdctl(leader, "get place --print-value-only"));
        lab.node(leader).until(&read, PATIENCE).map(drop)
    });
}
