//! Limits really bite, through cgroup v2 and a file system of one's own.

use ves_cluster::PATIENCE;
use ves_kit::lab::{Machine, Need, story};

/// One number of `virtctl resources 101 -o json`.
fn resource(node: &dyn Machine, row: &str, column: &str) -> anyhow::Result<u64> {
    let rows: serde_json::Value = serde_json::from_str(&node.sh("virtctl resources 101 -o json")?)?;
    let found = rows.as_array().and_then(|rows| rows.iter().find(|r| r["resource"] == row));
    found
        .and_then(|row| row[column].as_u64())
        .ok_or_else(|| anyhow::anyhow!("no {column} of {row} in {rows}"))
}

/// Makes processes until it may not, and says how many it could.
const FORKS: &str = "perl -e 'for (1..100) { my $p = fork; last unless defined $p; \
     if (!$p) { sleep 100; exit } push @all, $p } print scalar @all; kill 9, @all; 1 while wait > 0'";

#[test]
fn limits_bite() {
    story::on(1, &[Need::Cgroup2], |lab| {
        let node = lab.node(1);
        node.sh("virtctl create 101 --ostemplate trixie --diskspace 256M --diskinodes 12000 \
             --ram 128M --swap 0 --numproc 60 && virtctl start 101 --wait")?;
        let inside = |command: &str| node.exec_in(101, command);

        let forks: u32 = inside(FORKS)?.stdout.parse()?;
        assert!((1..60).contains(&forks), "{forks} processes beside those that were there");
        assert!(resource(node, "numproc", "failcnt")? > 0);

        let hog = inside("head -c 400000000 /dev/zero | tail | wc -c")?;
        assert_ne!(hog.stdout.trim(), "400000000", "memory beyond --ram was given: {hog:?}");
        assert!(resource(node, "physpages", "maxheld")? <= 128 << 20 >> 12);
        assert!(resource(node, "physpages", "failcnt")? > 0, "{hog:?}");

        let flood = inside("dd if=/dev/zero of=/flood bs=1M count=300")?;
        assert!(flood.stderr.contains("No space left"), "{flood:?}");
        inside("rm /flood")?;
        let files = inside("mkdir /many && cd /many && seq 14000 | xargs touch")?;
        assert!(files.stderr.contains("No space left"), "{files:?}");

        inside("chmod 700 /")?;
        node.sh("virtctl snapshot 101 && virtctl set 101 --diskspace 400M --save")?;
        let larger = inside("dd if=/dev/zero of=/more bs=1M count=220")?;
        assert_eq!(larger.status, 0, "the mounted volume has not grown: {larger:?}");
        Ok(())
    });
}

#[test]
fn a_share_of_a_processor_is_no_more_than_that() {
    story::on(1, &[Need::Cgroup2], |lab| {
        let node = lab.node(1);
        node.sh("virtctl create 101 --ostemplate trixie --cpulimit 20 && virtctl start 101")?;
        let spin = "timeout 8 sh -c 'while :; do :; done'";
        let used = "sed -n 's/^usage_usec //p' /sys/fs/cgroup/ves/ct-101/cpu.stat";
        let times = node.sh(&format!(
            "a=$({used}); b=$(date +%s%6N); virtctl exec 101 -- {spin} || true; \
             echo $(( ($({used}) - a) * 100 / ($(date +%s%6N) - b) ))"
        ))?;
        let percent: u64 = times.parse()?;
        assert!((5..=24).contains(&percent), "{percent} % of a processor were used, not 20");
        Ok(())
    });
}

#[test]
fn limits_of_units_inside_bite_too() {
    story::on(1, &[Need::Cgroup2], |lab| {
        let node = lab.node(1);
        node.sh("virtctl create 101 --ostemplate trixie --ram 256M && virtctl start 101 --wait")?;
        node.exec_in(
            101,
            "printf '[Service]\\nMemoryMax=20M\\nMemorySwapMax=0\\nExecStart=/bin/sh -c \
             \"head -c 90000000 /dev/zero | tail\"\\n' > /etc/systemd/system/hog.service",
        )?;
        node.exec_in(101, "systemctl start hog; while systemctl is-active -q hog; do :; done")?;
        let end = node.exec_in(101, "systemctl show -P Result hog")?;
        assert_eq!(end.stdout.trim(), "oom-kill");

        // Its limits are those of a group above that of its init.
        let sees =
            |kib: u64| format!("virtctl exec 101 -- grep -q '^MemTotal: *{kib} kB' /proc/meminfo");
        node.sh(&sees(256 << 10))?;
        node.sh("virtctl set 101 --cpus 1 --ram 128M")?;
        node.sh(&sees(128 << 10))?;
        let online = node.exec_in(101, "cat /sys/devices/system/cpu/online")?;
        assert_eq!(online.stdout.trim(), "0");
        node.sh("virtctl set 101 --ram 256M && systemctl kill -s KILL ves-lxcfs")?;
        let again = "test $(systemctl show --value -p NRestarts ves-lxcfs) -gt 0";
        node.until(&format!("{again} && {}", sees(256 << 10)), PATIENCE)?;
        assert_eq!(node.sh("virtctl list -H -o csv --fields status")?, "running");

        // A threaded group, which has no list of processes to read, hides nothing from the node.
        let threaded = node.exec_in(
            101,
            "cd /sys/fs/cgroup && mkdir -p loose/threads && echo threaded > loose/threads/cgroup.type",
        )?;
        assert_eq!(threaded.status, 0, "{threaded:?}");
        assert!(resource(node, "numfile", "held")? > 0);
        node.sh("virtctl stop 101 --fast && virtctl destroy 101")?;
        Ok(())
    });
}
