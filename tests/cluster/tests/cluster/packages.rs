//! What packages bring, what somebody does first with them who reads the documents, and what they take away.

use anyhow::Context;
use ves_cluster::{LOOPS, PATIENCE};
use ves_kit::lab::{Machine, story};

const NETWORK_ACCESS: &str = include_str!("../../../../docs/network-access.md");

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

/// The commands of a document under a heading, a list each block, as they are typed where these words mean others.
fn commands(heading: &str, words: &[(&str, &str)]) -> Vec<Vec<String>> {
    let of = NETWORK_ACCESS.split("\n## ").find_map(|part| part.strip_prefix(heading));
    let blocks = of.unwrap_or_default().split("```").filter_map(|part| part.strip_prefix("sh\n"));
    let typed = |line: &str| words.iter().fold(line.to_owned(), |line, (a, b)| line.replace(a, b));
    blocks.map(|block| block.lines().map(typed).collect()).collect()
}

/// From packages and a template to a container that another machine looks at with a certificate and with a token, as
/// `docs/network-access.md` tells.
fn go_to_the_network(node: &dyn Machine, far: &dyn Machine) -> anyhow::Result<()> {
    for machine in [node, far] {
        machine.sh("echo 10.86.0.1 node1.example >>/etc/hosts")?;
    }
    let here = |command: &str| node.sh(&format!("export HOME=/root; cd; {command}"));
    let hand_over = |what: &str| {
        let packed = here(&format!("tar -c {what} | base64"))?;
        let out = far.exec_with("base64 -d | tar -x -C /root", packed.as_bytes(), PATIENCE)?;
        anyhow::ensure!(out.status == 0, "unpack {what}: {}", out.stderr);
        Ok(())
    };
    let there = |command: &str| far.sh(&format!("export HOME=/root; cd /root/panel; {command}"));

    let five = commands("Five commands", &[("debian-trixie", "trixie")]);
    let [first, clients] = five.as_slice() else { anyhow::bail!("other blocks: {five:?}") };
    assert_eq!(first.len(), 5);
    for command in first {
        here(command).with_context(|| format!("type `{command}`"))?;
    }
    hand_over("panel")?;
    // grpcurl is not in Debian.
    for client in clients.iter().filter(|line| !line.starts_with("grpcurl")) {
        let said = there(client)?;
        assert!(
            said.contains("101") && said.to_lowercase().contains("running"),
            "{client}: {said}"
        );
    }

    here("sed -i 's/^tokens = false/tokens = true/' /etc/ves/coordinator.toml")?;
    here("systemctl restart ves-coordinatord")?;
    let tokens = commands("Tokens", &[]).concat();
    let [create, by_virtctl, by_curl, list, revoke] = tokens.as_slice() else {
        anyhow::bail!("other commands: {tokens:?}")
    };
    here(&format!("cd panel; {create}"))?;
    hand_over("panel/token")?;
    far.until(&format!("cd /root/panel; {by_virtctl}"), PATIENCE)?;
    let nothing = there(by_curl)?;
    assert!(!nothing.contains("101"), "it is of no project: {nothing}");
    assert!(here(list)?.contains("billing"));
    here(revoke)?;
    assert!(there(by_curl)?.contains("UNAUTHENTICATED"));
    Ok(())
}

#[test]
fn packages_leave_customers_volumes_and_nothing_else() {
    story::on(2, &[], |lab| {
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
        node.sh("virtctl destroy 101")?;
        go_to_the_network(node, lab.node(2))?;
        node.sh("virtctl stop 101 && virtctl destroy 101 && virtctl template delete trixie")?;
        node.sh("rm -r /root/panel /root/.config")?;
        let left = purge()?;
        // What somebody else had switched on stays on, and whom clients trust stays theirs.
        assert_eq!(left.stdout, "/etc/ves\n1\n0\n", "left with no container; {}", left.stderr);
        assert!(left.stderr.contains("/etc/ves/pki stays"), "{}", left.stderr);
        node.sh("rm -r /etc/ves")?;
        assert_eq!(
            node.exec(&format!("ls -d /var/lib/ves /etc/ves; {LOOPS}"), PATIENCE)?.stdout,
            ""
        );
        Ok(())
    });
}
