//! Native nodes where only cgroup version 2 is: one inside a virtual machine, made by the same program.
//! `cargo xtask test --all` tells this.

use ves_cluster::PATIENCE;
use ves_kit::lab::{Need, story};

/// Lays out what native nodes begin from: on a disk of its own, for no layer may be below another, and
/// with the machine's own system as the base.
const LAYOUT: &str = "set -eu
lvcreate -qq -y -n lab -L 4G ves
mkfs.ext4 -q /dev/ves/lab
mkdir -p CACHE
mount /dev/ves/lab CACHE
cd CACHE
mkdir -p base/root base/devices/net made/up/var/lib/ves made/up/etc/systemd/system
mount --bind / base/root
cp -a /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty /dev/loop-control base/devices
for n in $(seq 0 31); do mknod -m 660 base/devices/loop$n b 7 $n; done
# The machine's own pool is not the node's.
mknod made/up/var/lib/ves/storage c 0 0
: > made/up/etc/fstab
for unit in lab-address qemu-guest-agent serial-getty@hvc0; do
    ln -s /dev/null made/up/etc/systemd/system/$unit.service
done
ln -s ../base made/base
ln -s made golden";

#[test]
fn a_native_node_runs_where_only_version_2_is() {
    story::on(1, &[Need::Kernel, Need::Cgroup2], |lab| {
        let machine = lab.node(1);
        ves_lab::install(machine, "xtask")?;
        let cache = story::cache().display().to_string();
        machine.sh(&LAYOUT.replace("CACHE", &cache))?;
        let left = "losetup -n -l; ls -d /sys/fs/cgroup/ves-node-* 2>/dev/null; true";
        machine.sh("systemctl stop 've[s]-*'")?;
        let before = machine.sh(left)?;
        machine.sh("systemd-run -q -u cluster xtask cluster serve 1")?;
        machine.until(&format!("test -e {cache}/cluster/ready"), PATIENCE)?;

        let inside = |command: &str| machine.sh(&format!("xtask cluster ssh 1 -- '{command}'"));
        assert!(inside("virtctl node capacity")?.contains("cgroup        v2\n"));
        inside("virtctl template import /srv/payload/trixie.tar.zst --name trixie")?;
        inside("virtctl create 101 --ostemplate trixie --diskspace 512M --ram 128M")?;
        inside("virtctl start 101 --wait")?;
        let group = "/sys/fs/cgroup/ves-node-*/ves/ct-101";
        assert_eq!(machine.sh(&format!("cat {group}/memory.max"))?, "134217728");
        inside("virtctl stop 101 && virtctl destroy 101")?;

        machine.sh("systemctl stop cluster && xtask cluster down")?;
        assert_eq!(machine.sh(left)?, before);
        Ok(())
    });
}
