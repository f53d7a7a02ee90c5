//! What several stories do: the main job, a web server in a container, a stream of packets, and what
//! containers leave on a node.
//!
//! Stories know of Ves only what `virtctl` tells; what is here looks at a node by other means.

use std::time::Duration;

use anyhow::ensure;
use ves_kit::lab::{Cluster, Machine};

/// How long machines may take for what takes a moment on most: emulated ones are slow.
pub const PATIENCE: Duration = Duration::from_secs(600);

macro_rules! loops {
    () => {
        "losetup -n -O BACK-MAJ:MIN,BACK-FILE | grep -E \"^ *($(stat -c %Hd:%Ld \
         / /var/lib/ves/storage/pool 2>/dev/null | xargs | tr ' ' '|')) \""
    };
}

/// The loop devices of a node, one line each: those that show files of its root or of its pool. A native
/// node sees those of the machine too.
pub const LOOPS: &str = loops!();

/// All that containers leave on a node, one line each.
pub const FOOTPRINT: &str = concat!(
    loops!(),
    "; ls -d /sys/fs/cgroup/ves/ct-* /run/cg1/*/ves/ct-* 2>/dev/null; \
     ip -o link | sed -n 's/^[0-9]*: \\(ves[^:@]*\\).*/\\1/p'; ip route show proto 86; \
     ip -6 route show proto 86; ls /run/ves/ct; grep -c /run/ves/ct/ /proc/self/mountinfo; \
     pgrep -f 've[s]-init monitor'; nft list table inet ves 2>/dev/null | grep -c ves10; \
     cd /var/lib/ves/storage && ls pool/volumes pool/snapshots; \
     grep -L '\"removed\":true' fence/* 2>/dev/null; true"
);

/// Packets that go to an address and back, ten a second, from when it is made.
#[derive(Debug)]
pub struct Pings<'a> {
    from: &'a dyn Machine,
    to: &'a str,
    unit: String,
}

impl<'a> Pings<'a> {
    /// Sends the first.
    pub fn start(from: &'a dyn Machine, to: &'a str) -> anyhow::Result<Self> {
        let unit = format!("pings-{}", to.replace([':', '.'], "-"));
        from.sh(&format!(
            "systemd-run -q -u {unit} -p StandardOutput=file:/run/{unit} ping -n -i 0.1 {to}"
        ))?;
        Ok(Self { from, to, unit })
    }

    /// Sends no more, and fails where one was lost between the first and the last that came back.
    pub fn stop(self) -> anyhow::Result<()> {
        let Self { from, to, unit } = self;
        from.sh(&format!("systemctl stop {unit}"))?;
        let heard = from.sh(&format!("sed -n 's/.*icmp_seq=\\([0-9]*\\).*/\\1/p' /run/{unit}"))?;
        let heard: Vec<usize> = heard.lines().map(str::parse).collect::<Result<_, _>>()?;
        ensure!(heard.len() > 50, "only {} packets came back from {to}", heard.len());
        let gap = (1..).zip(&heard).find(|(sent, heard)| sent != *heard);
        ensure!(gap.is_none(), "packet {gap:?} to {to} was lost, of {}", heard.len());
        Ok(())
    }
}

/// A shell command that succeeds when these containers, and no others, run.
pub fn running(cts: &[u32]) -> String {
    let ids: Vec<String> = cts.iter().map(u32::to_string).collect();
    format!("test \"$(virtctl list -H -o csv --fields ctid | sort | xargs)\" = '{}'", ids.join(" "))
}

/// Makes busybox serve `hello from HOSTNAME` on port 80 of a container, as a service of its init.
pub fn serve_web(node: &dyn Machine, ct: u32) -> anyhow::Result<()> {
    let script = "set -e
mkdir -p /srv/www
echo \"hello from $(cat /etc/hostname)\" > /srv/www/index.html
cat > /etc/systemd/system/web.socket <<'END'
[Socket]
ListenStream=80
Accept=yes
MaxConnections=64
[Install]
WantedBy=sockets.target
END
cat > /etc/systemd/system/web@.service <<'END'
[Service]
ExecStart=-/bin/busybox httpd -i -h /srv/www
StandardInput=socket
END
systemctl enable --quiet --now web.socket
";
    let path = format!("/tmp/web{ct}");
    let command = format!("cat > {path} && virtctl runscript {ct} {path}");
    let out = node.exec_with(&command, script.as_bytes(), PATIENCE)?;
    anyhow::ensure!(out.status == 0, "no web server in {ct}: {}{}", out.stdout, out.stderr);
    Ok(())
}

/// The main job between two nodes: from a template to a container that answers the other node by both
/// addresses, and back to a node on which nothing is left of it.
///
/// # Panics
/// When something is not as it should be.
pub fn main_job(lab: &Cluster) -> anyhow::Result<()> {
    let (node, other) = (lab.node(1), lab.node(2));
    let before = node.sh(FOOTPRINT)?;
    node.sh("virtctl create 101 --ostemplate trixie --hostname web1 --ipadd 192.0.2.101 \
         --ipadd 2001:db8:56::101 --diskspace 1G --ram 256M --cpulimit 200 --numproc 200")?;
    node.sh("virtctl start 101 --wait")?;
    for place in ["", "virtctl exec 101 "] {
        assert_eq!(node.sh(&format!("{place}cat /proc/1/comm"))?, "systemd");
        assert!(node.sh(&format!("{place}systemctl --version"))?.starts_with("systemd 257"));
    }
    assert_eq!(node.sh("virtctl exec 101 systemctl is-system-running")?, "running");
    serve_web(node, 101)?;
    other.sh("ip route add 192.0.2.101 via 10.86.0.1")?;
    other.sh("ip route add 2001:db8:56::101 via fd86::1")?;
    for url in ["http://192.0.2.101", "http://[2001:db8:56::101]"] {
        let curl = format!("curl -sS --retry 9 --retry-connrefused -m 60 {url}");
        assert_eq!(other.until(&curl, PATIENCE)?, "hello from web1");
    }
    node.sh("virtctl stop 101 && virtctl destroy 101")?;
    node.until(&format!("test \"$({FOOTPRINT})\" = '{before}'"), PATIENCE)?;
    Ok(())
}
