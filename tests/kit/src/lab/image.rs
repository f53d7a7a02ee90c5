//! The disk of virtual machines: the golden node's system with what only a machine of its own needs, as
//! one file system, and the kernel and initrd that boot it.
//!
//! Built by `mke2fs -d` from the golden node's directories, which are laid over each other in a mount
//! namespace that ends with that command. Kept under its recipe's digest.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};
use sha2::{Digest, Sha256};

use super::base::{clear, run, short, want, write};
use super::golden::Golden;

/// Which devices udev is told of at boot: QEMU's own, and those that units wait for. For all else that
/// an emulated machine seems to have, it would load drivers that no node needs.
const COLDPLUG: &str = "[Service]
ExecStart=
ExecStart=-udevadm trigger --action=add --subsystem-match=block --subsystem-match=virtio \
     --subsystem-match=virtio-ports
ExecStart=-udevadm trigger --action=add --subsystem-match=tty --sysname-match=hvc0
";

/// The agent answers as soon as its port is there, long before the node has booted.
const AGENT: &str = "[Unit]
DefaultDependencies=no
After=systemd-remount-fs.service systemd-udevd.service
[Service]
ExecStart=
ExecStart=/usr/sbin/qemu-ga
OOMScoreAdjust=-1000
# It tells of each call, and is asked many times whether a command has ended.
LogLevelMax=notice
";

/// A root shell on the console.
const GETTY: &str = "[Service]
ExecStart=
ExecStart=-/sbin/agetty --skip-login --noissue --login-program /bin/bash --keep-baud 115200 - linux
";

/// Makes one file system of layers: with a directory to lay them in, and the file to make.
const PACK: &str = "mount -t overlay overlay -o \"lowerdir=$1\" \"$2\"
mke2fs -q -F -t ext4 -L root -d \"$2\" \"$3\" 8G
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
    /// The disk of a golden node in `cache`, built if it is not there. `say` hears what is being done.
    pub fn build(cache: &Path, golden: &Golden, say: &dyn Fn(&str)) -> anyhow::Result<Self> {
        let recipe = format!(
            "{}\n{COLDPLUG}\n{AGENT}\n{GETTY}\n{INITRD_INIT}\n{ADDRESS}\n{ADDRESS_UNIT}\n{PACK}\n5",
            golden.name()
        );
        let dir = cache.join(format!("image-{}", short(Sha256::new().chain_update(recipe))));
        if !dir.is_dir() {
            clear(cache, "image-")?;
            let new = dir.with_extension("new");
            say("making the disk of virtual machines");
            layer(&new.join("layer"))?;
            let root = golden.root();
            let kernel = single(&root.join("boot"), "vmlinuz-")?;
            fs::copy(&kernel, new.join("vmlinuz")).context("copy the kernel")?;
            initrd(&root, &new)?;
            let mut layers = vec![new.join("layer")];
            layers.extend(golden.origin().layers);
            let layers: Vec<_> = layers.iter().map(|dir| dir.to_string_lossy()).collect();
            fs::create_dir(new.join("root"))?;
            run(Command::new("unshare")
                .args(["--mount", "--propagation", "private", "sh", "-ec", PACK, "sh"])
                .args([&*layers.join(":")])
                .args([&new.join("root"), &new.join("root.raw")]))?;
            fs::rename(&new, &dir).context("put the disk into its place")?;
        }
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

/// Writes what is on the disk beside the golden node's system.
fn layer(root: &Path) -> anyhow::Result<()> {
    let units = root.join("etc/systemd/system");
    write(&units.join("systemd-udev-trigger.service.d/lab.conf"), COLDPLUG)?;
    let packaged = Path::new("/usr/lib/systemd/system");
    let agent = "qemu-guest-agent.service";
    write(&units.join(format!("{agent}.d/early.conf")), AGENT)?;
    want(&units, "sysinit.target", agent, &packaged.join(agent))?;
    write(&units.join("serial-getty@hvc0.service.d/shell.conf"), GETTY)?;
    // A generator would find this console, and is masked.
    let getty = packaged.join("serial-getty@.service");
    want(&units, "getty.target", "serial-getty@hvc0.service", &getty)?;
    // Who this node is survives a reboot: its number is in a file, its addresses follow from it.
    let address = "lab-address.service";
    write(&units.join(address), ADDRESS_UNIT)?;
    want(&units, "sysinit.target", address, &Path::new("..").join(address))?;
    let program = root.join("usr/local/sbin/lab-address");
    write(&program, ADDRESS)?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    write(&root.join("etc/fstab"), "/dev/vda / ext4 defaults 0 1\n")
}

/// Makes the initrd in `dir` of what is in the system.
fn initrd(root: &Path, dir: &Path) -> anyhow::Result<()> {
    let modules = single(&root.join("lib/modules"), "")?;
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
