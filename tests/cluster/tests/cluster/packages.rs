//! What packages bring, and what they take away.

use ves_cluster::{LOOPS, PATIENCE};
use ves_kit::lab::story;

/// Takes all our packages away, and prints what they left beside volumes and what describes them, then
/// whether the node forwards packets. The volume group `ves` is the lab's.
const PURGE: &str = "set -e
    dpkg --purge $(dpkg-query -f '${Package}\\n' -W 've[s]-*' virtctl) >&2
    pgrep -l '^ve[s]-|^virtctl' || true
    find / -xdev \\( -name 'ves-*' -o -name ves -o -name 'virtctl*' -o -name '*ves.conf' \\) \\
        -not -path '/srv/*' -not -path /etc/lvm/backup/ves -not -path /var/lib/ves
    find /sys/fs/cgroup $(ls -d /run/cg1 2>/dev/null) -name '*ves*' -o -name 'ct-*'
    ls -d /run/ves || true
    systemctl list-units --all --no-legend 've[s]-*'
    ip -o link | grep -o ' ves[0-9]*[:@]' || true
    for family in -4 -6; do ip $family route show table all proto 86; done
    nft list tables
    sysctl -n net.ipv4.ip_forward net.ipv6.conf.all.forwarding";

#[test]
fn packages_leave_customers_volumes_and_nothing_else() {
    story::on(1, &[], |lab| {
        let node = lab.node(1);
        let purge = || node.exec(PURGE, PATIENCE * 2);
        node.sh("virtctl create 101 --ostemplate trixie --ipadd 192.0.2.101 --ipadd 2001:db8::65")?;
        node.sh("virtctl start 101 --wait && virtctl exec 101 touch /kept")?;
        let monitor = node.sh("pgrep -f 've[s]-init monitor'")?;
        let init = node.sh(&format!("pgrep -P {monitor}"))?;
        node.sh(r"systemctl start 'system-ves\x2dbuilder.slice'")?;
        // A node of Debian's forwards nothing before ours make it.
        let left = purge()?;
        assert_eq!(left.stdout, "0\n0\n", "left while a container ran; {}", left.stderr);
        node.sh(&format!("! kill -0 {monitor} && ! kill -0 {init}"))?;
        node.sh("sysctl -qw net.ipv4.ip_forward=1 && dpkg -i /srv/payload/*.deb")?;
        node.until("virtctl start 101 --wait && virtctl exec 101 ls /kept", PATIENCE)?;
        let said = node.sh("virtctl stop 101 >&2 && virtctl fsck 101")?;
        assert!(
            said.contains("container 101 checked in"),
            "what it is checked by has its sandbox in the unit: {said}"
        );
        node.sh("virtctl destroy 101 && virtctl template delete trixie")?;
        let left = purge()?;
        // What somebody else had switched on stays on.
        assert_eq!(left.stdout, "1\n0\n", "left with no container; {}", left.stderr);
        assert_eq!(
            node.exec(&format!("ls -d /var/lib/ves /etc/ves; {LOOPS}"), PATIENCE)?.stdout,
            ""
        );
        Ok(())
    });
}
