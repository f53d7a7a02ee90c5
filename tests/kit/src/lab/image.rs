//! The node image: a Debian 13 system with a stock kernel, built once and kept under its recipe's
//! digest.
//!
//! Everything a node needs from the distribution is in it, since nodes have no way out of their
//! segment; our own packages are not: they come in at the first start. Built without mounting
//! anything: `mmdebstrap` into a directory, `mke2fs -d` into an image.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};
use sha2::{Digest, Sha256};

/// What the node image is built from.
const SUITE: &str = "trixie";

/// Packages of a node. `qemu-guest-agent` is the way in that needs no network.
const PACKAGES: &[&str] = &[
    "bird2",
    "busybox-static",
    "curl",
    "dbus",
    "dmsetup",
    "e2fsprogs",
    "frr",
    "iproute2",
    "iputils-ping",
    "kmod",
    "linux-image-cloud-amd64",
    "lvm2",
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
    "frr.service",
    "fstrim.timer",
    "getty@tty1.service",
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

/// Which devices udev is told of at boot: QEMU's own, and those that units wait for. For all else that
/// an emulated machine seems to have, it would load drivers that no node needs.
const COLDPLUG: &str = "[Service]
ExecStart=
ExecStart=-udevadm trigger --action=add --subsystem-match=block --subsystem-match=virtio \
     --subsystem-match=virtio-ports
ExecStart=-udevadm trigger --action=add --subsystem-match=tty --sysname-match=hvc0
";

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

/// The first process of a node: finds the disk, which needs a module, and hands over.
const INITRD_INIT: &str = r#"#!/busybox sh
/busybox mkdir -p /dev /new
/busybox mount -t devtmpfs dev /dev
/busybox insmod /virtio_blk.ko
i=0
while [ ! -b /dev/vda ]; do
  i=$((i + 1))
  if [ $i -gt 1000 ]; then echo "the root disk did not appear"; /busybox poweroff -f; fi
  /busybox usleep 10000
done
/busybox mount -t ext4 /dev/vda /new
exec /busybox switch_root /new /sbin/init
"#;

/// Gives a node its addresses on the segment, from the number it was told. All copies of a saved
/// machine begin with one hardware address, so that is set as well.
const ADDRESS: &str = r#"#!/bin/sh
set -eu
number=$(cat /etc/lab-number 2>/dev/null) || exit 0
ip link set eth0 down
ip link set eth0 address "52:54:00:86:00:$(printf %02x "$number")"
ip link set eth0 up
ip addr replace "10.86.0.$number/24" dev eth0
ip addr replace "fd86::$number/64" dev eth0 nodad
"#;

const ADDRESS_UNIT: &str = "[Unit]
Description=Addresses of this node on the lab's segment
DefaultDependencies=no
After=sys-subsystem-net-devices-eth0.device systemd-remount-fs.service
Wants=sys-subsystem-net-devices-eth0.device
Before=network-pre.target network.target
Wants=network-pre.target network.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/local/sbin/lab-address
";

/// A built node image.
#[derive(Debug, Clone)]
pub struct Image {
    dir: PathBuf,
    /// The root file system, raw; never written to.
    pub disk: PathBuf,
    /// The kernel.
    pub kernel: PathBuf,
    /// The initial file system.
    pub initrd: PathBuf,
}

impl Image {
    /// The image in `cache`, built if it is not there. `say` hears what is being done.
    ///
    /// # Errors
    /// A program that is missing or fails, with the end of its output.
    pub fn build(cache: &Path, say: &dyn Fn(&str)) -> anyhow::Result<Self> {
        let recipe = format!(
            "{SUITE}\n{PACKAGES:?}\n{DOCUMENTS:?}\n{MASKED:?}\n{GENERATOR}\n{COLDPLUG}\n{CUSTOMIZE}\n{MIRRORED}\n{MIRROR}\n{MIRROR_UNIT}\n{INITRD_INIT}\n{ADDRESS}\n{ADDRESS_UNIT}\n4"
        );
        let digest = short(Sha256::new().chain_update(recipe));
        let dir = cache.join(format!("image-{digest}"));
        if dir.is_dir() {
            return Ok(Self::at(dir));
        }
        clear(cache, "image-")?;
        let new = cache.join(format!("image-{digest}.new"));
        fs::create_dir_all(&new).with_context(|| format!("make {}", new.display()))?;
        say("installing Debian 13 into a directory");
        let root = new.join("root");
        bootstrap(&root)?;
        say("making the node's disk");
        finish(&root, &new)?;
        fs::remove_dir_all(&root).context("remove the directory the image was made from")?;
        fs::rename(&new, &dir).context("put the image into its place")?;
        Ok(Self::at(dir))
    }

    /// The image in this directory.
    pub fn at(dir: PathBuf) -> Self {
        Self {
            disk: dir.join("root.raw"),
            kernel: dir.join("vmlinuz"),
            initrd: dir.join("initrd"),
            dir,
        }
    }

    /// Names this image; other recipes have other names.
    pub fn name(&self) -> String {
        self.dir.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

/// A digest as a part of a name.
pub(super) fn short(digest: Sha256) -> String {
    digest.finalize().iter().take(8).map(|b| format!("{b:02x}")).collect()
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

/// Writes what makes the directory a node, then the disk, the kernel and the initrd beside it.
fn finish(root: &Path, dir: &Path) -> anyhow::Result<()> {
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
    write(&units.join("systemd-udev-trigger.service.d/lab.conf"), COLDPLUG)?;
    write(
        &root.join("etc/systemd/journald.conf.d/lab.conf"),
        "[Journal]\nStorage=volatile\nRuntimeMaxUse=32M\n",
    )?;
    write(&root.join("etc/dpkg/dpkg.cfg.d/lab"), "force-unsafe-io\n")?;
    // The agent answers as soon as its port is there, long before the node has booted.
    write(
        &units.join("qemu-guest-agent.service.d/early.conf"),
        "[Unit]\nDefaultDependencies=no\nAfter=systemd-remount-fs.service systemd-udevd.service\n\
         [Service]\nExecStart=\nExecStart=/usr/sbin/qemu-ga\nOOMScoreAdjust=-1000\n\
         # It tells of each call, and is asked many times whether a command has ended.\n\
         LogLevelMax=notice\n",
    )?;
    let packaged = Path::new("/usr/lib/systemd/system");
    let agent = "qemu-guest-agent.service";
    want(&units, "sysinit.target", agent, &packaged.join(agent))?;
    write(
        &units.join("serial-getty@hvc0.service.d/shell.conf"),
        "[Service]\nExecStart=\nExecStart=-/sbin/agetty --skip-login --noissue --login-program \
         /bin/bash --keep-baud 115200 - linux\n",
    )?;
    // A generator would find this console, and is masked.
    let getty = packaged.join("serial-getty@.service");
    want(&units, "getty.target", "serial-getty@hvc0.service", &getty)?;
    // Who this node is survives a reboot: its number is in a file, its addresses follow from it.
    let address = "lab-address.service";
    write(&units.join(address), ADDRESS_UNIT)?;
    want(&units, "sysinit.target", address, &Path::new("..").join(address))?;
    write(&units.join("lab-mirror.service"), MIRROR_UNIT)?;
    write(&root.join("usr/local/sbin/lab-address"), ADDRESS)?;
    fs::set_permissions(
        root.join("usr/local/sbin/lab-address"),
        fs::Permissions::from_mode(0o755),
    )?;
    fs::write(root.join("etc/fstab"), "/dev/vda / ext4 defaults 0 1\n")?;
    // What is made anew after the system was replaced is as new as it.
    for dir in ["etc", "var"] {
        fs::write(root.join(dir).join(".updated"), "")?;
    }

    let kernel = single(&root.join("boot"), "vmlinuz-")?;
    fs::copy(&kernel, dir.join("vmlinuz")).context("copy the kernel")?;
    let modules = single(&root.join("lib/modules"), "")?;
    initrd(root, &modules, dir)?;
    run(Command::new("mke2fs")
        .args(["-q", "-F", "-t", "ext4", "-L", "root", "-d"])
        .arg(root)
        .arg(dir.join("root.raw"))
        .arg("8G"))
    .map(drop)
}

/// Puts a link into the place of a unit or generator that says that there is none.
fn mask(at: &Path) -> anyhow::Result<()> {
    if at.symlink_metadata().is_ok() {
        fs::remove_file(at)?;
    }
    symlink("/dev/null", at).with_context(|| format!("mask {}", at.display()))
}

/// Has a target want a unit, which is the file `of`.
fn want(units: &Path, target: &str, unit: &str, of: &Path) -> anyhow::Result<()> {
    let wants = units.join(format!("{target}.wants"));
    fs::create_dir_all(&wants)?;
    symlink(of, wants.join(unit)).with_context(|| format!("have {target} want {unit}"))
}

/// Writes a file whose directory may not be there yet.
fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    }
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

fn initrd(root: &Path, modules: &Path, dir: &Path) -> anyhow::Result<()> {
    let tree = dir.join("initrd.d");
    fs::create_dir_all(&tree)?;
    fs::copy(root.join("usr/bin/busybox"), tree.join("busybox")).context("copy busybox")?;
    let module = modules.join("kernel/drivers/block/virtio_blk.ko");
    fs::copy(&module, tree.join("virtio_blk.ko"))
        .with_context(|| format!("copy {}", module.display()))?;
    let init = tree.join("init");
    fs::write(&init, INITRD_INIT)?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
    let mut cpio = Command::new("cpio")
        .args(["-o", "-H", "newc", "--quiet"])
        .current_dir(&tree)
        .stdin(Stdio::piped())
        .stdout(fs::File::create(dir.join("initrd"))?)
        .spawn()
        .context("start cpio")?;
    let names = "busybox\ninit\nvirtio_blk.ko\n";
    std::io::Write::write_all(&mut cpio.stdin.take().context("cpio reads")?, names.as_bytes())?;
    ensure!(cpio.wait()?.success(), "cpio failed");
    fs::remove_dir_all(&tree).context("remove the initrd's directory")
}

/// The only entry of `dir` whose name begins with `prefix`.
fn single(dir: &Path, prefix: &str) -> anyhow::Result<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            found.push(entry.path());
        }
    }
    match found.as_slice() {
        [one] => Ok(one.clone()),
        other => bail!("{} has {} entries {prefix}*, not one", dir.display(), other.len()),
    }
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
///
/// # Errors
/// What mmdebstrap fails with.
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

/// Removes what was made of other recipes, or begun.
fn clear(cache: &Path, prefix: &str) -> anyhow::Result<()> {
    for entry in fs::read_dir(cache).with_context(|| format!("read {}", cache.display()))? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            fs::remove_dir_all(entry.path())
                .with_context(|| format!("clear {}", entry.path().display()))?;
        }
    }
    Ok(())
}
