//! A container whose root made all it could of its namespaces and groups is changed, stopped and
//! destroyed as any other.

use std::fs;

use ves_kit::{Rootfs, TestNode, need, node};

use crate::network::many_names;

/// Everything at once, through the five daemons.
#[test]
fn such_a_container_is_changed_stopped_and_destroyed() {
    need!(node::node(), need::program("nsenter", "util-linux"));
    let rootfs = Rootfs::busybox();
    let nest = "cd /sys/fs/cgroup\ni=0\nwhile [ $i -lt 60 ] && mkdir n 2>/dev/null && cd n\n\
                do i=$((i+1)); done\necho $i\n";
    fs::write(rootfs.dir().join("etc/nest"), nest).expect("writable");
    let node = TestNode::start().with_template("busybox", &rootfs);
    let (ct, spare) = (node.ct(), node.ct());
    let (stays, goes) = (node::ipv4(ct), node::ipv4(spare));
    let specs = "--ostemplate busybox --diskspace 128M --ram 64M --numproc 50";
    node.ok(&format!("create {ct} {specs} --ipadd {stays} --ipadd {goes}"));
    node.ok(&format!("start {ct}"));
    assert_eq!(node.ok(&format!("exec {ct} sh /etc/nest")).trim(), "31");
    let batch = node.dir().join("batch");
    let names = ["lo", "venet0"].into_iter().flat_map(many_names).map(|c| c.join(" ") + "\n");
    let routes = (0..30_000_u32)
        .map(|n| format!("route add {} dev venet0\n", std::net::Ipv4Addr::from(0x0a00_0000 | n)));
    fs::write(&batch, names.chain(routes).collect::<String>()).expect("written");
    let netns = format!("--net={}", node.layout().ct_netns(ct).display());
    ves_kit::run("nsenter", &[&netns, "ip", "-batch", batch.to_str().expect("text")]);

    node.ok(&format!("set {ct} --ram 96M --ipdel {goes}"));
    let fields = node.json(&format!("list {ct} --fields status,ip"));
    assert_eq!(fields[0]["status"], "running", "{fields}");
    let routes = ves_kit::run("ip", &["route", "show", "proto", "all"]);
    let routed = |ip: std::net::Ipv4Addr| routes.contains(&format!("{ip} dev"));
    assert!(routed(stays) && !routed(goes), "{routes}");
    node.ok(&format!("resources {ct}"));
    node.ok(&format!("restart {ct}"));
    node.ok(&format!("stop {ct} --fast"));
    node.ok(&format!("destroy {ct}"));
}
