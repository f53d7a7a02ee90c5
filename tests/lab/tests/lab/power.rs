//! The power goes in the middle of things, and nobody has to repair anything.

use ves_cluster::{FOOTPRINT, PATIENCE, running};
use ves_kit::lab::{Need, story};
use ves_lab::cut_at;

/// So much that has to be written out first that there is time to cut the power meanwhile.
const FRESH: &str = "dd if=/dev/urandom of=/fresh bs=1M count=64";

#[test]
fn power_cuts_are_repaired_without_a_human() {
    story::on(1, &[Need::Power], |lab| {
        let node = lab.node(1);
        let before = node.sh(FOOTPRINT)?;
        cut_at(lab, "volume of", "create", 101, "--ostemplate trixie")?;
        node.until("virtctl status 101 | grep -q ' exist '", PATIENCE)?;
        node.until("virtctl create 102 --ostemplate trixie --diskspace 512M", PATIENCE)?;

        cut_at(lab, "init waiting", "start", 101, "")?;
        node.until(&running(&[101]), PATIENCE)?;
        node.until("virtctl exec 101 systemctl is-system-running --wait", PATIENCE)?;

        node.sh("virtctl exec 101 touch /kept && virtctl snapshot 101 --name whole && \
             virtctl set 101 --onboot yes --save")?;
        node.exec_in(101, FRESH)?;
        cut_at(lab, "storage: snapshot", "snapshot", 101, "--name torn")?;
        node.until(&running(&[101]), PATIENCE)?;
        node.sh("virtctl exec 101 rm /kept; virtctl stop 101")?;
        node.until("test $(virtctl snapshot-list 101 -H | wc -l) = 2", PATIENCE)?;
        let id = node.sh("virtctl snapshot-list 101 -H | sed -n 's/ .*whole.*//p'")?;
        node.sh(&format!("virtctl snapshot-switch 101 --id {id} && virtctl start 101"))?;
        assert_eq!(node.exec_in(101, "ls /kept")?.status, 0, "the snapshot has not kept it");

        node.sh("virtctl stop 101; virtctl destroy 102")?;
        cut_at(lab, "no volume", "destroy", 101, "")?;
        node.until("test -z \"$(virtctl list -a -H)\"", PATIENCE)?;
        node.until(&format!("test \"$({FOOTPRINT})\" = '{before}'"), PATIENCE)?;
        Ok(())
    });
}
