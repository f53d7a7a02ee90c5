//! What only a virtual machine can do: a disk that misbehaves when told to, a state that is gone back to.

use std::time::{SystemTime, UNIX_EPOCH};

use ves_cluster::PATIENCE;
use ves_kit::lab::{DiskFault, Machine, Need, story};

#[test]
fn disks_fill_fail_and_are_slow_on_request() {
    story::on(1, &[Need::DiskFaults], |lab| {
        let node = lab.vm(1);
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
        assert_eq!(refused.status, 46, "a volume was promised on a full disk: {refused:?}");
        assert!(refused.stderr.contains("\nvirtctl: container 101: "), "{refused:?}");
        // It has ended, also in the coordinator's state, and left nothing.
        let open =
            node.sh("virtctl operation list -H -o csv --fields state | grep -c running || true")?;
        assert_eq!(open, "0");
        node.sh(&make_room)?;
        node.sh("virtctl create 101 --ostemplate trixie --diskspace 1G").map(drop)
    });
}

#[test]
fn a_machine_goes_back_to_a_saved_state() {
    story::on(1, &[Need::Power], |lab| {
        let node = lab.vm(1);
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
