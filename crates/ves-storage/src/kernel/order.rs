//! What a builder of templates is asked for, and the command of mmdebstrap that does it.
//!
//! The order is data that crosses from the daemon to the builder, which believes no word of it before
//! it has looked at it again. Never here: running the command.

use serde::{Deserialize, Serialize};
use ves_host::cmd::find;
use ves_host::{Cmd, HostError};

use crate::observe::parse_mirror;
use crate::template::{Build, BuildInit, is_mirror};

/// What of the environment a build gets.
const PROXIES: [&str; 3] = ["http_proxy", "https_proxy", "no_proxy"];

/// Useful in any system container: addresses are set from outside, so no network manager is there.
const COMMON: &[&str] = &["iproute2", "procps", "login", "passwd", "netbase", "util-linux"];
const SYSTEMD: &[&str] = &["systemd", "systemd-sysv", "dbus"];
const SYSVINIT: &[&str] = &["sysvinit-core", "sysv-rc", "initscripts", "insserv", "startpar"];

/// Units that have no work in a container, or work the host does.
const MASKED: &[&str] = &[
    "systemd-udevd.service",
    "systemd-udevd-control.socket",
    "systemd-udevd-kernel.socket",
    "systemd-udev-trigger.service",
    "systemd-udev-settle.service",
    "systemd-networkd.service",
    "systemd-networkd.socket",
    "systemd-networkd-wait-online.service",
    "systemd-resolved.service",
    "systemd-timesyncd.service",
    "systemd-modules-load.service",
    "systemd-remount-fs.service",
    "systemd-firstboot.service",
    "systemd-hwdb-update.service",
    "systemd-journald-audit.socket",
    "systemd-rfkill.service",
    "systemd-rfkill.socket",
    "systemd-pstore.service",
    "systemd-binfmt.service",
    "dev-hugepages.mount",
    "dev-mqueue.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "sys-kernel-config.mount",
    "sys-fs-fuse-connections.mount",
    "proc-sys-fs-binfmt_misc.automount",
    "proc-sys-fs-binfmt_misc.mount",
    "getty@tty1.service",
    "getty-static.service",
    "e2scrub_reap.service",
    "e2scrub_all.timer",
    "fstrim.timer",
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
];

/// Scripts of System V init that have no work in a container.
const DISABLED: &[&str] = &[
    "hwclock.sh",
    "checkroot.sh",
    "checkroot-bootclean.sh",
    "checkfs.sh",
    "mountall.sh",
    "mountall-bootclean.sh",
    "mountkernfs.sh",
    "mountdevsubfs.sh",
    "mountnfs.sh",
    "mountnfs-bootclean.sh",
    "udev",
    "kmod",
    "urandom",
    "hostname.sh",
];

/// What the builder is asked for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Order {
    suite: String,
    sysvinit: bool,
    packages: Vec<String>,
    mirror: Option<String>,
    proxies: Vec<(String, String)>,
}

impl Order {
    /// To build this with what this node knows: its mirror, and the proxies of its environment.
    pub(super) fn new(build: &Build, configured_mirror: Option<&str>) -> Self {
        let proxy = |name: &&str| Some(((*name).to_owned(), std::env::var(name).ok()?));
        Self {
            suite: build.suite.clone(),
            sysvinit: build.init == BuildInit::Sysvinit,
            packages: build.packages.clone(),
            mirror: mirror(configured_mirror),
            proxies: PROXIES.iter().filter_map(proxy).collect(),
        }
    }

    /// What is to be built, every word checked again.
    pub(super) fn build(&self) -> Option<Build> {
        if self.mirror.as_deref().is_some_and(|mirror| !is_mirror(mirror)) {
            return None;
        }
        let init = if self.sysvinit { BuildInit::Sysvinit } else { BuildInit::Systemd };
        Build::parse(self.suite.clone(), init, self.packages.clone()).ok()
    }
}

/// The mirror to use: the configured one, or the first Debian one of apt's own sources.
fn mirror(configured: Option<&str>) -> Option<String> {
    if let Some(configured) = configured {
        return Some(configured.to_owned());
    }
    let mut paths = vec![std::path::PathBuf::from("/etc/apt/sources.list")];
    let more = std::fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten();
    let mut more: Vec<_> = more.map(|e| e.path()).collect();
    more.sort();
    paths.extend(more);
    paths.into_iter().find_map(|path| parse_mirror(&std::fs::read_to_string(path).ok()?))
}

/// The command of a build.
pub(super) fn command(build: &Build, order: &Order) -> Result<Cmd, HostError> {
    let init = match build.init {
        BuildInit::Systemd => SYSTEMD,
        BuildInit::Sysvinit => SYSVINIT,
    };
    let packages: Vec<&str> = [COMMON, init]
        .concat()
        .into_iter()
        .chain(build.packages.iter().map(String::as_str))
        .collect();
    let mut cmd = Cmd::new(find("mmdebstrap", "mmdebstrap")?)
        .args(["--mode=root", "--variant=minbase", "--format=tar"])
        .arg(format!("--include={}", packages.join(",")))
        .args([
            "--aptopt=Acquire::Languages \"none\"",
            "--aptopt=Apt::Install-Recommends \"false\"",
            "--dpkgopt=path-exclude=/usr/share/doc/*",
            "--dpkgopt=path-exclude=/usr/share/man/*",
            "--dpkgopt=path-exclude=/usr/share/info/*",
            "--dpkgopt=path-exclude=/usr/share/locale/*",
            "--dpkgopt=path-exclude=/usr/share/lintian/*",
        ])
        .arg(format!("--customize-hook={}", script(build.init)))
        .env("DEBIAN_FRONTEND", "noninteractive")
        // Where device nodes work and there is room: not in memory.
        .env("TMPDIR", "/var/tmp");
    for (name, value) in order.proxies.iter().filter(|(name, _)| PROXIES.contains(&name.as_str())) {
        cmd = cmd.env(name, value);
    }
    cmd = cmd.arg("--").arg(&build.suite).arg("-");
    Ok(match &order.mirror {
        Some(mirror) => cmd.arg(mirror),
        None => cmd,
    })
}

/// What is done in the tree when all packages are installed; `$1` is the tree. Everything in it is
/// ours and constant. What every template must be free of is no matter of a build's: its archive is
/// normalised as anybody's.
fn script(init: BuildInit) -> String {
    let mut s = String::from(
        "set -e; cd \"$1\"; \
         rm -rf var/lib/apt/lists/* var/cache/apt/*.bin var/cache/debconf/*-old var/log/*.log; \
         rm -f etc/resolv.conf; : > etc/fstab; \
         printf '127.0.0.1 localhost\\n::1 localhost ip6-localhost ip6-loopback\\n' > etc/hosts; \
         find usr/share/locale usr/share/doc usr/share/man -type f -delete 2>/dev/null || true; ",
    );
    match init {
        BuildInit::Systemd => {
            for unit in MASKED {
                s.push_str(&format!("ln -sf /dev/null etc/systemd/system/{unit}; "));
            }
            s.push_str(
                "mkdir -p etc/systemd/system/getty.target.wants; \
                 ln -sf /usr/lib/systemd/system/console-getty.service \
                 etc/systemd/system/getty.target.wants/console-getty.service; \
                 rm -f etc/systemd/system/getty.target.wants/getty@tty1.service; \
                 ln -sf /usr/lib/systemd/system/multi-user.target etc/systemd/system/default.target; \
                 mkdir -p etc/systemd/system.conf.d etc/systemd/journald.conf.d; \
                 printf '[Manager]\\nDefaultTimeoutStopSec=20s\\nDefaultMemoryPressureWatch=off\\n' \
                 > etc/systemd/system.conf.d/10-ves.conf; \
                 printf '[Journal]\\nAudit=no\\nReadKMsg=no\\nMemoryPressureWatch=off\\n' \
                 > etc/systemd/journald.conf.d/10-ves.conf; ",
            );
        }
        BuildInit::Sysvinit => {
            for name in DISABLED {
                s.push_str(&format!(
                    "test ! -e etc/init.d/{name} || rm -f etc/rc?.d/[SK][0-9][0-9]{name}; "
                ));
            }
            s.push_str(INITTAB);
        }
    }
    s
}

/// Puts the console's getty in the place of those of terminals that are not there, and what a failing power
/// means. Of two entries with one id System V's init takes the first and complains of the other, so those
/// with ours go.
const INITTAB: &str = "sed -i -e '/getty.*tty[1-6]/d' -e '/ttyS/d' -e '/^\\(1\\|pf\\|p0\\):/d' etc/inittab; \
     printf '1:2345:respawn:/sbin/getty --noclear --keep-baud console 115200,38400,9600 linux\\n\
     pf::powerwait:/sbin/shutdown -h now\\np0::powerfail:/sbin/shutdown -h now\\n' \
     >> etc/inittab; ";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_entries_of_an_inittab_have_one_id() {
        // Debian's, without comments.
        let debian = "id:2:initdefault:\nsi::sysinit:/etc/init.d/rcS\nl2:2:wait:/etc/init.d/rc 2\n\
                      ca:12345:ctrlaltdel:/sbin/shutdown -t1 -a -r now\n\
                      pf::powerwait:/etc/init.d/powerfail start\n\
                      po::powerokwait:/etc/init.d/powerfail stop\n\
                      1:2345:respawn:/sbin/getty --noclear 38400 tty1\n\
                      2:23:respawn:/sbin/getty 38400 tty2\n";
        let dir = tempfile::tempdir().expect("a directory");
        let table = dir.path().join("etc/inittab");
        std::fs::create_dir(dir.path().join("etc")).expect("made");
        std::fs::write(&table, debian).expect("written");
        let at = dir.path().to_str().expect("text");
        let script = format!("set -e; cd \"$1\"; {INITTAB}");
        Cmd::new("/bin/sh").args(["-c", &script, "sh", at]).run().expect("it runs");
        let text = std::fs::read_to_string(&table).expect("there");
        let mut ids: Vec<_> = text.lines().filter_map(|l| l.split(':').next()).collect();
        ids.sort_unstable();
        assert_eq!(ids, ["1", "ca", "id", "l2", "p0", "pf", "po", "si"], "{text}");
        assert!(text.contains("getty --noclear --keep-baud console"), "{text}");
    }

    #[test]
    fn the_scripts_are_shell() {
        for init in [BuildInit::Systemd, BuildInit::Sysvinit] {
            Cmd::new("/bin/sh").args(["-n", "-c", &script(init)]).run().expect("it parses");
        }
    }
}
