//! What several stories do: a web server in a container, and what containers leave on a node.
//!
//! Stories know of Ves only what `virtctl` tells; what is here looks at a node by other means.

use std::time::Duration;

use ves_kit::lab::Vm;

/// How long emulated machines may take for what takes a moment elsewhere.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// All that containers leave on a node, one line each.
pub const FOOTPRINT: &str = "losetup -n -O BACK-FILE; ls -d /sys/fs/cgroup/ves/ct-* 2>/dev/null; \
     ip -o link | sed -n 's/^[0-9]*: \\(ves[^:@]*\\).*/\\1/p'; ip route show proto 86; \
     ip -6 route show proto 86; ls /run/ves/ct; grep -c /run/ves/ct/ /proc/self/mountinfo; \
     pgrep -f 've[s]-init monitor'; nft list table inet ves 2>/dev/null | grep -c ves10; true";

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
