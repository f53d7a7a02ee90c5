//! A node that is rebooted in order: containers are asked to stop, one that does not is killed, and
//! those of `onboot` come back.

use ves_cluster::{PATIENCE, running};
use ves_kit::lab::story;

/// A service that leaves a mark when its container is stopped properly.
const MARK: &str =
    "printf '[Service]\\nType=oneshot\\nRemainAfterExit=yes\\nExecStart=/bin/true\\n\
     ExecStop=/bin/touch /stopped-properly\\n' > /etc/systemd/system/mark.service
systemctl start mark";

/// Makes the next init one that ignores every signal it is asked to stop by.
const HANG: &str = "printf '#!/bin/sh\\nwhile :; do sleep 1000; done\\n' > /usr/sbin/hang
chmod 755 /usr/sbin/hang
ln -sf hang /usr/sbin/init";

#[test]
fn a_reboot_brings_back_what_should_run_in_order() {
    story::on(1, &[], |lab| {
        let node = lab.node(1);
        node.sh("printf '[service]\\nboot_parallel = 1\\n' > /etc/ves/coordinator.toml")?;
        for (ct, more) in [
            (101, "--onboot yes --bootorder 1"),
            (102, "--onboot yes --bootorder 9"),
            (103, "--onboot yes"),
            (104, "--onboot no"),
        ] {
            let create = format!("virtctl create {ct} --ostemplate trixie --diskspace 512M {more}");
            node.sh(&format!("{create} && virtctl start {ct}"))?;
        }
        node.until("virtctl exec 102 systemctl is-system-running --wait", PATIENCE)?;
        node.exec_in(102, MARK)?;
        node.exec_in(103, HANG)?;
        node.sh("virtctl stop 103 --fast && virtctl start 103")?;
        assert_eq!(node.exec_in(103, "cat /proc/1/comm")?.stdout, "init\n");
        lab.reboot(1, PATIENCE * 2)?;
        node.until(&running(&[101, 102, 103]), PATIENCE)?;
        let order = node.sh("virtctl list -H -o csv --fields ctid -s started")?;
        assert_eq!(order.split_whitespace().collect::<Vec<_>>(), ["102", "101", "103"]);
        assert_eq!(node.exec_in(102, "ls /stopped-properly")?.status, 0, "it was only killed");
        assert_eq!(node.exec_in(103, "cat /proc/1/comm")?.stdout, "init\n");
        Ok(())
    });
}
