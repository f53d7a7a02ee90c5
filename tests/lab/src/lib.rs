//! What several stories do: a web server in a container, a stream of packets, a power cut, and what
//! containers leave on a node.
//!
//! Stories know of Ves only what `virtctl` tells; what is here looks at a node by other means.

use std::time::Duration;

use anyhow::{Context, ensure};
use ves_kit::lab::{Cluster, Vm};

/// How long emulated machines may take for what takes a moment elsewhere.
pub const PATIENCE: Duration = Duration::from_secs(600);

/// All that containers leave on a node, one line each.
pub const FOOTPRINT: &str = "losetup -n -O BACK-FILE; ls -d /sys/fs/cgroup/ves/ct-* 2>/dev/null; \
     ip -o link | sed -n 's/^[0-9]*: \\(ves[^:@]*\\).*/\\1/p'; ip route show proto 86; \
     ip -6 route show proto 86; ls /run/ves/ct; grep -c /run/ves/ct/ /proc/self/mountinfo; \
     pgrep -f 've[s]-init monitor'; nft list table inet ves 2>/dev/null | grep -c ves10; \
     cd /var/lib/ves/storage && ls fence pool/volumes pool/snapshots; true";

/// Has a node do something by virtctl, an operation of this kind on this container, cuts the power
/// when it says that it is at `step`, and switches it on again.
///
/// # Errors
/// What went wrong; also when the operation ended before the power did.
pub fn cut_at(lab: &Cluster, step: &str, kind: &str, ct: u32, more: &str) -> anyhow::Result<()> {
    let node = lab.node(1);
    node.cut_when(&format!("virtctl {kind} {ct} {more}"), step)?;
    lab.power_on(1)?;
    // The coordinator keeps operations: this one began before the boot and ends after it.
    let ended = format!(
        "virtctl operation list -o csv -H --fields kind,ctid,started,ended |
             sed -n 's/^{kind},{ct},//p' | head -1 | grep ',.'"
    );
    let operation = node.until(&ended, PATIENCE)?;
    let boot = node.sh("date -u -d @$(sed -n 's/^btime //p' /proc/stat) +%FT%T")?;
    let (started, ended) = operation.split_once(',').context("a line of two times")?;
    ensure!(
        started < boot.as_str() && boot.as_str() < ended,
        "{kind} was not cut: {operation}, boot {boot}"
    );
    Ok(())
}

/// Packets that go to an address and back, ten a second, from when it is made.
#[derive(Debug)]
pub struct Pings<'a> {
    from: &'a Vm,
    to: &'a str,
    unit: String,
}

impl<'a> Pings<'a> {
    /// Sends the first.
    ///
    /// # Errors
    /// The machine's.
    pub fn start(from: &'a Vm, to: &'a str) -> anyhow::Result<Self> {
        let unit = format!("pings-{}", to.replace([':', '.'], "-"));
        from.sh(&format!(
            "systemd-run -q -u {unit} -p StandardOutput=file:/run/{unit} ping -n -i 0.1 {to}"
        ))?;
        Ok(Self { from, to, unit })
    }

    /// Sends no more, and fails where one was lost between the first and the last that came back.
    ///
    /// # Errors
    /// Which was lost, or that nearly none were sent.
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
///
/// # Errors
/// What virtctl printed.
pub fn serve_web(node: &Vm, ct: u32) -> anyhow::Result<()> {
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
