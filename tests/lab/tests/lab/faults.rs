//! The lab itself: routers that know each other, a segment and a disk that misbehave when told to.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ves_kit::lab::{DiskFault, Fault, Role, story};
use ves_lab::PATIENCE;

/// FRR's view: BIRD is a full neighbour, for IPv4 and for IPv6.
const NEIGHBOURS: &str = "vtysh -c 'show ip ospf neighbor' | grep -q Full/ && \
     vtysh -c 'show ipv6 ospf6 neighbor' | grep -q Full/";

/// FRR has heard nothing of BIRD for a while.
const ALONE: &str = "vtysh -c 'show ip ospf neighbor' > /run/seen && ! grep Full/ /run/seen";

#[test]
fn routers_meet_and_the_segment_fails_on_request() {
    story::among(&[Role::Node, Role::Frr, Role::Bird], |lab| {
        let (node, frr, segment) = (lab.node(1), lab.node(2), lab.segment());
        frr.until(NEIGHBOURS, PATIENCE)?;
        segment.set(Fault { partitions: vec![[2].into()], ..Fault::default() });
        frr.until(ALONE, PATIENCE)?;
        node.sh("ping -c 3 -W 20 10.86.0.2")?;
        segment.set(Fault { cut: [0].into(), ..Fault::default() });
        assert_ne!(node.exec("ping -c 3 -W 1 10.86.0.2", PATIENCE)?.status, 0, "not cut off");
        segment.set(Fault { delay: Duration::from_millis(300), ..Fault::default() });
        let delayed =
            node.sh("ping -c 3 -W 20 10.86.0.2 | sed -n 's,^rtt.* = \\([0-9]*\\).*,\\1,p'")?;
        assert!(delayed.parse::<u32>()? >= 600, "{delayed} ms there and back");
        segment.set(Fault { drop_every: 3, ..Fault::default() });
        let lossy = node.exec("ping -c 9 -i 0.2 -W 20 10.86.0.2", PATIENCE)?.stdout;
        assert!(lossy.contains("% packet loss") && !lossy.contains(" 0% packet loss"), "{lossy}");
        segment.set(Fault::default());
        frr.until(NEIGHBOURS, PATIENCE).map(drop)
    });
}

#[test]
fn disks_fill_fail_and_are_slow_on_request() {
    story::on(1, |lab| {
        let node = lab.node(1);
        let read = "dd if=/dev/vdb of=/dev/null bs=1M count=4 iflag=direct";
        node.sh(read)?;
        node.spare_disk(Some(DiskFault::Fails))?;
        let failed = node.exec(read, PATIENCE)?;
        assert!(failed.stderr.contains("Input/output error"), "{failed:?}");
        node.spare_disk(Some(DiskFault::Slow(1 << 20)))?;
        let slow = node.sh(&format!("a=$(date +%s%3N); {read}; echo $(($(date +%s%3N) - a))"))?;
        assert!(slow.parse::<u32>()? > 1500, "4 MiB at 1 MiB a second took {slow} ms");
        node.spare_disk(None)?;
        node.sh(read)?;

        let make_room = node.fill("/")?;
        let refused =
            node.exec("virtctl create 101 --ostemplate trixie --diskspace 1G", PATIENCE)?;
        assert_ne!(refused.status, 0, "a volume was promised on a full disk");
        assert!(refused.stderr.starts_with("virtctl: "), "{refused:?}");
        node.sh(&make_room)?;
        node.sh("virtctl create 101 --ostemplate trixie --diskspace 1G").map(drop)
    });
}

#[test]
fn a_machine_goes_back_to_a_saved_state() {
    story::on(1, |lab| {
        let node = lab.node(1);
        node.sh("virtctl create 101 --ostemplate trixie && virtctl start 101")?;
        let started = node.sh("virtctl list -H -o csv --fields started")?;
        node.save("then")?;
        node.sh("virtctl stop 101 --fast && virtctl destroy 101")?;
        node.restore("then")?;
        assert_eq!(node.sh("virtctl list -H -o csv --fields started")?, started);
        assert_eq!(node.exec_in(101, "echo it goes on")?.stdout, "it goes on\n");
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        assert!(now.abs_diff(node.sh("date +%s")?.parse()?) < 60, "its clock stands back");
        Ok(())
    });
}
