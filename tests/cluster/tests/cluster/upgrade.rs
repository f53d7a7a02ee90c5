//! Packages are upgraded while a container serves: no packet is lost and nothing in it restarts.

use ves_cluster::{PATIENCE, Pings, serve_web};
use ves_kit::lab::story;

/// Installs the same packages with a higher version, which lie beside the first ones.
const UPGRADE: &str = "dpkg -i /srv/payload/*.next";

/// Who runs: the daemons' process numbers.
const DAEMONS: &str = "systemctl show -P MainPID ves-coordinatord ves-storaged ves-networkd \
     ves-resourced ves-lifecycled ves-starter";

/// Asks the web server again and again.
const GETS: &str = "systemd-run -q -u gets sh -c \
     'while :; do curl -sSf -m 60 http://192.0.2.101; sleep 0.2; done > /run/gets 2>&1'";

#[test]
fn an_upgrade_under_traffic_is_not_noticed() {
    story::on(2, &[], |lab| {
        let (node, client) = (lab.node(1), lab.node(2));
        node.sh("virtctl create 101 --ostemplate trixie --hostname w --ipadd 192.0.2.101 \
             --ipadd 2001:db8::101 && virtctl start 101 --wait")?;
        serve_web(node, 101)?;
        client.sh("ip route add 192.0.2.101 via 10.86.0.1
             ip route add 2001:db8::101 via fd86::1")?;
        client.until("curl -sSf -m 60 http://192.0.2.101", PATIENCE)?;
        let init = "virtctl exec 101 cut -d' ' -f22 /proc/1/stat";
        let (began, old) = (node.sh(init)?, node.sh(DAEMONS)?);

        client.sh(GETS)?;
        let pings = ["192.0.2.101", "2001:db8::101"].map(|to| Pings::start(client, to));
        let done = node.exec(UPGRADE, PATIENCE * 2)?;
        assert_eq!(done.status, 0, "{}{}", done.stdout, done.stderr);
        pings.into_iter().try_for_each(|pings| pings?.stop())?;
        client.sh("systemctl stop gets")?;
        assert_eq!(client.sh("sort -u /run/gets")?, "hello from w", "requests were lost");

        assert!(node.sh("dpkg-query -W ves-storaged")?.ends_with("+next"));
        let new = node.sh(DAEMONS)?;
        let same = |pid: &str| !pid.is_empty() && old.lines().any(|o| o == pid);
        assert!(!new.lines().any(same), "not all restarted: {old} {new}");
        assert_eq!(node.sh(init)?, began, "the container was restarted");
        node.sh("virtctl stop 101 && virtctl start 101 --wait").map(drop)
    });
}
