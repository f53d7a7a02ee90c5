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
        let init = "virtctl exec 101 -- cut -d' ' -f22 /proc/1/stat";
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

/// Stops the daemons and gives root what is theirs, as it was while the services ran as root.
const GIVE_TO_ROOT: &str = "set -e
    systemctl stop ves-coordinatord ves-lifecycled ves-storaged ves-networkd ves-resourced
    chown -R root:root /run/ves/network /run/ves/resources /run/ves/fence
    chown root:root /run/ves/ct /run/ves/starter.sock /run/ves/builder.sock
    chmod 0711 /run/ves/ct
    find /run/ves/ct -mindepth 1 -maxdepth 1 -exec chown root:root {} + -exec chmod 0700 {} +
    find /var/lib/ves/storage -xdev ! -path '*/pool' -exec chown root:root {} +
    rm -rf /run/ves/storage /run/ves/lifecycle";

/// Has root's pool mounted without a map of ids, as it was then, too.
const POOL_OF_ROOT: &str = "set -e
    cd /var/lib/ves/storage && umount pool && mount -o loop pool.img pool
    find . -exec chown root:root {} +";

/// What the scripts of packages do when they are upgraded.
const TAKE_OVER: &str = "/var/lib/dpkg/info/ves-common.postinst configure
    systemctl restart ves-starter.socket ves-starter.service ves-builder.socket
    systemctl start ves-storaged ves-networkd ves-resourced ves-lifecycled ves-coordinatord";

#[test]
fn daemons_take_over_what_was_roots() {
    story::on(1, &[], |lab| {
        let node = lab.node(1);
        node.sh("virtctl create 101 --ostemplate trixie --ipadd 192.0.2.101
             virtctl start 101 --wait && virtctl exec 101 touch /kept")?;
        let init = "virtctl exec 101 -- cut -d' ' -f22 /proc/1/stat";
        let began = node.sh(init)?;
        node.sh(GIVE_TO_ROOT)?;
        node.sh(TAKE_OVER)?;
        node.until(init, PATIENCE)?;
        assert_eq!(node.sh(init)?, began, "the container was restarted");
        let works = "virtctl set 101 --ipadd 192.0.2.111 --save && virtctl snapshot 101
             virtctl stop 101 && virtctl start 101 --wait && virtctl exec 101 ls /kept";
        node.sh(works)?;

        node.sh("virtctl stop 101")?;
        node.sh(GIVE_TO_ROOT)?;
        node.sh(POOL_OF_ROOT)?;
        node.sh(TAKE_OVER)?;
        node.until("virtctl start 101 --wait && virtctl exec 101 ls /kept", PATIENCE)?;
        node.sh("virtctl set 101 --ipdel 192.0.2.111 --save && virtctl snapshot 101
             virtctl stop 101 && virtctl destroy 101")
            .map(drop)
    });
}
