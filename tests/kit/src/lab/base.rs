//! What all nodes begin from: a Debian 13 system in a directory, built once and kept under its recipe's
//! digest, and a template that containers on them can be made from.
//!
//! Everything a node needs from the distribution is in it, a kernel for virtual machines too, since nodes
//! have no way out of their segment; our own packages are not. Built without mounting anything. Never
//! here: what only one kind of machine needs.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, bail};
use sha2::{Digest, Sha256};

/// The release of Debian that nodes run.
const SUITE: &str = "trixie";

/// Packages of a node. `qemu-guest-agent` is the way into a virtual one that needs no network.
const PACKAGES: &[&str] = &[
    "bird2",
    "busybox-static",
    "curl",
    "dbus",
    "dmsetup",
    "e2fsprogs",
    "etcd-client",
    "etcd-server",
    "frr",
    "iproute2",
    "iputils-ping",
    "kmod",
    "linux-image-cloud-amd64",
    "lvm2",
    "lxcfs",
    "mmdebstrap",
    "nftables",
    "procps",
    "qemu-guest-agent",
    "systemd-sysv",
    "thin-provisioning-tools",
    "udev",
    "xfsprogs",
    "xz-utils",
    "zstd",
];

/// Units that only cost time here, or that a story starts when it wants them.
const MASKED: &[&str] = &[
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "bird.service",
    "dev-hugepages.mount",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "etcd.service",
    "frr.service",
    "fstrim.timer",
    "getty@tty1.service",
    "lxcfs.service",
    "modprobe@configfs.service",
    "modprobe@drm.service",
    "modprobe@efi_pstore.service",
    "proc-sys-fs-binfmt_misc.automount",
    "sys-kernel-config.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "systemd-binfmt.service",
    "systemd-firstboot.service",
    "systemd-logind.service",
    "systemd-pstore.service",
    "systemd-random-seed.service",
    "systemd-timesyncd.service",
];

/// The one generator of units that a node has a use for. systemd runs all of them at each boot and
/// each time it reads its units again, which packages make it do many times.
const GENERATOR: &str = "systemd-fstab-generator";

/// Files of packages that a node does without, and those that it is to have all the same: our own
/// pages, of which packages promise that they are there.
const DOCUMENTS: &[&str] = &[
    "path-exclude=/usr/share/doc/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/man/*",
    "path-include=/usr/share/man/man?/ves*",
    "path-include=/usr/share/man/man?/virtctl*",
];

/// Packages of a template beside those without which there is no Debian.
const TEMPLATE: &str = "systemd-sysv,busybox-static,iproute2,procps";

/// Run in the new system: modules are kept unpacked, for decompressing them takes long on an
/// emulated processor.
const CUSTOMIZE: &str = r#"
set -eu
cd /lib/modules/*
find . -name '*.ko.xz' -print0 | xargs -0 -r xz -d
depmod "$(basename "$PWD")"
rm -f /boot/initrd.img* /etc/machine-id /etc/hostname
: > /etc/machine-id
"#;

/// What a template built on a node is made of, by way of the mirror below: the smallest system, what
/// storage adds to it for System V init, the quickest to install.
const MIRRORED: &str = "?essential ?priority(required) apt iproute2 procps login passwd netbase \
     util-linux sysvinit-core sysv-rc initscripts insserv startpar";

/// Run beside the new system, of which `$1` is the directory and `$2` the suite: puts a mirror on it
/// with what templates are made of, signed by a key that it trusts and nobody has any more. The node
/// serves it to itself, as it reaches no other.
const MIRROR: &str = r#"
set -eu
mirror=$1/srv/mirror/debian
index=main/binary-amd64/Packages
mkdir -p "$mirror/pool/partial" "$mirror/dists/$2/${index%/*}"
APT_CONFIG=$MMDEBSTRAP_APT_CONFIG apt-get -qq -y --download-only --no-install-recommends \
    -o Dir::State::status=/dev/null -o Dir::Cache::archives="$mirror/pool" install $3
rm -rf "$mirror/pool/partial" "$mirror/pool/lock"
cd "$mirror"
dpkg-scanpackages -m pool > "dists/$2/$index"
cd "dists/$2"
cat > Release <<END
Origin: Debian
Suite: $2
Codename: $2
Date: $(date -uR)
Architectures: amd64
Components: main
SHA256:
 $(sha256sum $index | cut -d' ' -f1) $(stat -c %s $index) $index
END
GNUPGHOME=$(mktemp -d)
export GNUPGHOME
gpg --quiet --batch --passphrase '' --quick-gen-key lab ed25519 sign never
gpg --quiet --batch --clearsign --digest-algo SHA512 --output InRelease Release
gpg --quiet --batch --armor --export > "$1/etc/apt/trusted.gpg.d/lab.asc"
gpgconf --kill all
rm -r Release "$GNUPGHOME"
"#;

/// Serves it. Nothing on a node needs it before a story asks.
const MIRROR_UNIT: &str = "[Service]
ExecStart=/usr/bin/busybox httpd -f -p 127.0.0.1:3142 -h /srv/mirror
";

/// Device nodes of a native node: its numbers of loop devices are those of the machine.
const DEVICES: &str = "set -eu
umask 0
cd \"$1\"
mkdir net
while read -r name major minor; do
    mknod -m 666 \"$name\" c \"$major\" \"$minor\"
done <<END
null 1 3
zero 1 5
full 1 7
random 1 8
urandom 1 9
tty 5 0
fuse 10 229
loop-control 10 237
net/tun 10 200
END
n=0
while [ $n -lt 512 ]; do
    mknod -m 660 loop$n b 7 $n
    n=$((n + 1))
done
";

/// A Debian system in a directory. Nothing of it is ever changed.
#[derive(Debug, Clone)]
pub struct Base {
    dir: PathBuf,
}

impl Base {
    /// The system in `cache`, built if it is not there. `say` hears what is being done.
    pub fn build(cache: &Path, say: &dyn Fn(&str)) -> anyhow::Result<Self> {
        let recipe = format!(
            "{SUITE}\n{PACKAGES:?}\n{DOCUMENTS:?}\n{MASKED:?}\n{GENERATOR}\n{CUSTOMIZE}\n{MIRRORED}\n\
             {MIRROR}\n{MIRROR_UNIT}\n{DEVICES}\n1"
        );
        let dir = cache.join(format!("base-{}", short(Sha256::new().chain_update(recipe))));
        if !dir.is_dir() {
            clear(cache, "base-")?;
            let new = dir.with_extension("new");
            fs::create_dir_all(&new).with_context(|| format!("make {}", new.display()))?;
            say("installing Debian 13 into a directory");
            bootstrap(&new.join("root"))?;
            configure(&new.join("root"))?;
            fs::create_dir(new.join("devices"))?;
            let mut devices = Command::new("sh");
            run(devices.args(["-c", DEVICES, "sh"]).arg(new.join("devices")))?;
            fs::rename(&new, &dir).context("put the system into its place")?;
        }
        Ok(Self { dir })
    }

    /// Its root directory.
    pub fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    /// The directory of device nodes for native nodes.
    pub fn devices(&self) -> PathBuf {
        self.dir.join("devices")
    }

    /// Names it; other recipes have other names.
    pub fn name(&self) -> String {
        self.dir.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

/// Writes what every node has beside packages.
fn configure(root: &Path) -> anyhow::Result<()> {
    let units = root.join("etc/systemd/system");
    MASKED.iter().try_for_each(|unit| mask(&units.join(unit)))?;
    let masks = root.join("etc/systemd/system-generators");
    fs::create_dir_all(&masks)?;
    for entry in fs::read_dir(root.join("usr/lib/systemd/system-generators"))? {
        let name = entry?.file_name();
        if name != GENERATOR {
            mask(&masks.join(name))?;
        }
    }
    let journal = "[Journal]\nStorage=volatile\nRuntimeMaxUse=32M\n";
    write(&root.join("etc/systemd/journald.conf.d/lab.conf"), journal)?;
    write(&root.join("etc/dpkg/dpkg.cfg.d/lab"), "force-unsafe-io\n")?;
    write(&units.join("lab-mirror.service"), MIRROR_UNIT)?;
    // What is made anew after the system was replaced is as new as it.
    ["etc", "var"].iter().try_for_each(|dir| write(&root.join(dir).join(".updated"), ""))
}

/// The Debian mirror apt is configured with.
fn mirror() -> anyhow::Result<String> {
    crate::need::mirror(SUITE).map_err(|lack| anyhow::anyhow!("{}: {}", lack.what, lack.why))
}

fn bootstrap(root: &Path) -> anyhow::Result<()> {
    let quoted = |text: &str| format!("'{}'", text.replace('\'', r"'\''"));
    let script = format!("chroot \"$1\" sh -c {}", quoted(CUSTOMIZE));
    let mirrored = format!("sh -c {} sh \"$1\" {SUITE} {}", quoted(MIRROR), quoted(MIRRORED));
    let mut command = mmdebstrap(&PACKAGES.join(","));
    command
        .arg("--format=directory")
        .arg(format!("--customize-hook={mirrored}"))
        .arg(format!("--customize-hook={script}"));
    run(command.arg(SUITE).arg(root).arg(mirror()?)).map(drop)
}

/// The beginning of a command that makes a small Debian with these packages and without documents.
fn mmdebstrap(packages: &str) -> Command {
    let mut command = Command::new("mmdebstrap");
    command.args(["--variant=minbase", &format!("--include={packages}")]);
    command.args(DOCUMENTS.iter().map(|rule| format!("--dpkgopt={rule}")));
    command
}

/// Puts a link into the place of a unit or generator that says that there is none.
fn mask(at: &Path) -> anyhow::Result<()> {
    if at.symlink_metadata().is_ok() {
        fs::remove_file(at)?;
    }
    symlink("/dev/null", at).with_context(|| format!("mask {}", at.display()))
}

/// Has a target want a unit, which is the file `of`.
pub(super) fn want(units: &Path, target: &str, unit: &str, of: &Path) -> anyhow::Result<()> {
    let wants = units.join(format!("{target}.wants"));
    fs::create_dir_all(&wants)?;
    symlink(of, wants.join(unit)).with_context(|| format!("have {target} want {unit}"))
}

/// Writes a file whose directory may not be there yet.
pub(super) fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    }
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

/// A digest as a part of a name.
pub(super) fn short(digest: Sha256) -> String {
    digest.finalize().iter().take(8).map(|b| format!("{b:02x}")).collect()
}

/// Runs a program and answers its output; on failure says the end of what it complained.
pub(super) fn run(command: &mut Command) -> anyhow::Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let out = command.stdin(Stdio::null()).output().with_context(|| format!("start {name}"))?;
    if !out.status.success() {
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        let lines: Vec<_> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(12)..].join("\n");
        bail!("{name} failed ({}):\n{tail}", out.status);
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// A template that containers on a node can be made from: Debian 13 with systemd, as `trixie.tar.zst`
/// in a directory under its recipe's digest.
pub fn template(cache: &Path, say: &dyn Fn(&str)) -> anyhow::Result<PathBuf> {
    let digest = short(Sha256::new().chain_update(format!("{SUITE}\n{TEMPLATE}\n{DOCUMENTS:?}")));
    let dir = cache.join(format!("template-{digest}"));
    let name = format!("{SUITE}.tar.zst");
    if !dir.is_dir() {
        clear(cache, "template-")?;
        say("making a template of Debian 13");
        let new = cache.join(format!("template-{digest}.new"));
        fs::create_dir_all(&new).with_context(|| format!("make {}", new.display()))?;
        run(mmdebstrap(TEMPLATE).arg(SUITE).arg(new.join(&name)).arg(mirror()?))?;
        fs::rename(&new, &dir).context("put the template into its place")?;
    }
    Ok(dir.join(name))
}

/// Says that what is in a directory of the cache is in use, and not to be cleared, while it lives.
#[derive(Debug, Clone)]
pub(super) struct Used {
    _lock: Arc<File>,
}

impl Used {
    /// Waits for whoever clears it.
    pub(super) fn mark(dir: &Path) -> anyhow::Result<Self> {
        let path = dir.join(USED);
        let lock = File::create(&path).with_context(|| format!("make {}", path.display()))?;
        lock.lock_shared().with_context(|| format!("lock {}", path.display()))?;
        Ok(Self { _lock: Arc::new(lock) })
    }
}

/// The file whose lock says so.
const USED: &str = "in-use";

/// Removes what was made of other recipes and nobody uses, or was begun.
pub(super) fn clear(cache: &Path, prefix: &str) -> anyhow::Result<()> {
    for entry in fs::read_dir(cache).with_context(|| format!("read {}", cache.display()))? {
        let entry = entry?;
        let used = || File::open(entry.path().join(USED)).is_ok_and(|f| f.try_lock().is_err());
        if entry.file_name().to_string_lossy().starts_with(prefix) && !used() {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

/// Removes a directory with all that is in it, if it is there.
pub(super) fn remove(dir: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done.with_context(|| format!("remove {}", dir.display())),
    }
}
