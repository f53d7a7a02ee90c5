//! Packages are upgraded while a container serves: no packet is lost and nothing in it restarts.

use ves_kit::lab::story;
use ves_lab::{PATIENCE, serve_web};

/// Installs the same packages with a higher version, which lie beside the first ones.
const UPGRADE: &str = "dpkg -i /srv/payload/*.next";

/// Who runs: the daemons' process numbers.
const DAEMONS: &str = "systemctl show -P MainPID ves-coordinatord ves-storaged ves-networkd \
     ves-resourced ves-lifecycled";

#[test]
fn an_upgrade_under_traffic_is_not_noticed() {
    story::on(2, |lab| {
        let (node, client) = (lab.node(1), lab.node(2));
        node.sh("virtctl create 101 --ostemplate trixie --hostname w --ipadd 192.0.2.101")?;
        node.sh("virtctl start 101 --wait")?;
        serve_web(node, 101)?;
        client.sh("ip route add 192.0.2.101 via 10.86.0.1")?;
        client.until("curl -sSf -m 60 http://192.0.2.101", PATIENCE)?;
        let init = "virtctl exec 101 cut -d' ' -f22 /proc/1/stat";
        let (began, old) = (node.sh(init)?, node.sh(DAEMONS)?);

        client.sh("systemd-run -q -u pings sh -c 'exec ping -q -i 0.2 192.0.2.101 > /run/pings'
             systemd-run -q -u gets sh -c 'while :; do curl -sSf -m 60 http://192.0.2.101; done \
             > /run/gets 2>&1'")?;
        let done = node.exec(UPGRADE, PATIENCE * 2)?;
        assert_eq!(done.status, 0, "{}{}", done.stdout, done.stderr);
        client.sh("systemctl kill -s INT pings; systemctl stop gets; sleep 1")?;

        assert!(node.sh("dpkg-query -W ves-storaged")?.ends_with("+next"));
        let new = node.sh(DAEMONS)?;
        let same = |pid: &str| !pid.is_empty() && old.lines().any(|o| o == pid);
        assert!(!new.lines().any(same), "not all restarted: {old} {new}");
        let pings = client.sh(
            "sed -n 's/^\\([0-9]*\\) packets.* \\([0-9]*\\) received.*/\\1 \\2/p' /run/pings",
        )?;
        let (sent, heard) = pings.split_once(' ').unwrap_or_default();
        let lost = sent.parse::<u32>()? - heard.parse::<u32>()?;
        assert!(lost <= 1, "{lost} of {sent}, with one that may have been on its way at the end");
        assert_eq!(client.sh("sort -u /run/gets")?, "hello from w", "requests were lost");
        assert_eq!(node.sh(init)?, began, "the container was restarted");
        node.sh("virtctl stop 101 && virtctl start 101 --wait").map(drop)
    });
}
