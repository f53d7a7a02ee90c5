//! Inits of real distributions as PID 1: they boot, say so, run commands, stop when asked, halt and
//! reboot from inside. Templates are built once by mmdebstrap into the target directory.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ves_init_proto::report::{Ended, InitKind};
use ves_kit::{need, wait_until};
use ves_lifecycle::host::Host;
use ves_lifecycle::plan::{Spec, Step};
use ves_types::ExitCause;

use super::support::{World, needs};
use super::views::Lxcfs;

/// The template's archive; `None` where it cannot be built.
pub(super) fn template(suite: &str, packages: &str) -> Option<PathBuf> {
    let name = format!("ves-lifecycle-{suite}-{}.tar", packages.split(',').next().unwrap_or(""));
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    if path.is_file() {
        return Some(path);
    }
    let mirror = match need::mirror(suite) {
        Ok(mirror) => mirror,
        Err(lack) => {
            ves_kit::check(&[Err(lack)]);
            return None;
        }
    };
    let new = path.with_extension("new.tar");
    let include = format!("--include={packages}");
    let to = new.to_str().expect("text");
    let built = std::process::Command::new("mmdebstrap")
        .args(["--quiet", "--variant=minbase", &include, suite, to, &mirror])
        .output()
        .expect("mmdebstrap starts");
    let why = String::from_utf8_lossy(&built.stderr).into_owned();
    let there = need::setup(&format!("a Debian mirror with {suite}"), built.status.success(), &why);
    if !ves_kit::check(&[there]) {
        return None;
    }
    std::fs::rename(&new, &path).expect("renamed");
    Some(path)
}

pub(super) fn ready() -> bool {
    needs()
        && ves_kit::check(&[
            need::program("mmdebstrap", "mmdebstrap"),
            need::program("mke2fs", "e2fsprogs"),
            need::program("lxcfs", "lxcfs"),
        ])
}

/// Of a container that may have 256 MiB: its memory file systems hold less, ordinary users may ping, and
/// units that want what there is not inside start.
fn is_fitted(world: &World) {
    let in_memory = |path: &str| {
        let text = world.sh(&format!("stat -fc '%T %b %S' {path}"));
        let [kind, blocks, block] = text.split_whitespace().collect::<Vec<_>>()[..] else {
            panic!("{text}");
        };
        let number = |text: &str| text.parse::<u64>().expect("a number");
        (kind == "tmpfs").then(|| number(blocks) * number(block))
    };
    assert_eq!(in_memory("/run"), Some(32 << 20));
    assert_eq!(in_memory("/dev/shm"), Some(64 << 20));
    if let Some(size) = in_memory("/tmp") {
        assert_eq!(size, 64 << 20);
        let full = world.exec(&["dd", "if=/dev/zero", "of=/tmp/big", "bs=1M", "count=80"]);
        let said = String::from_utf8_lossy(&full.error);
        assert!(said.contains("No space left on device"), "{said}");
        world.sh("rm /tmp/big");
    }
    // What a login has, without one: a unit's would be taken away as soon as nobody is seen to be logged in.
    let login = |act: &str| world.sh(&format!("/usr/lib/systemd/systemd-user-runtime-dir {act} 1"));
    login("start");
    assert_eq!(in_memory("/run/user/1"), Some(16 << 20));
    login("stop");
    assert_eq!(world.sh("cat /proc/sys/net/ipv4/ping_group_range").trim(), "0\t65534");
    for property in ["PrivateUsers=yes", "PrivateIPC=yes", "ProtectHostname=yes"] {
        let ran = world.exec(&["systemd-run", "--wait", "--quiet", "-p", property, "/bin/true"]);
        assert_eq!(ran.ended, Ok(Ended::Code(0)), "{property}: {ran:?}");
    }
}

/// Whoever fills a container's memory: others are killed for it, and not the init that all depend on.
fn init_outlives_full_memory(world: &World) {
    let init = world.observe().monitor.expect("it runs").init_pid;
    let score = |pid: &str| world.sh(&format!("cat /proc/{pid}/oom_score_adj")).trim().to_owned();
    let spared = score("1") == "-200";
    assert!(spared || score("1") == "0", "{}", score("1"));
    assert_eq!(score("self"), "200");
    let service = world.sh("systemd-run --wait --pipe --quiet cat /proc/self/oom_score_adj");
    assert_eq!(service.trim(), "200");
    let journal = "$(systemctl show --value -p MainPID systemd-journald)";
    assert_eq!(score(journal), "200");
    world.limit_memory(96 << 20);
    assert_eq!(world.exec(&["tail", "/dev/zero"]).ended, Ok(Ended::Signal(9)));
    let state = world.sh("systemctl is-active systemd-journald dbus");
    assert_eq!(state, "active\nactive\n", "only who took too much was killed");
    // Where even root's own file system is the memory's end, the node must be able to spare init.
    if spared {
        world.sh("mount -t tmpfs -o size=1g none /mnt");
        for _ in 0..3 {
            world.exec(&["dd", "if=/dev/zero", "of=/mnt/big", "bs=1M", "count=200"]);
        }
    }
    assert_eq!(world.observe().monitor.map(|m| m.init_pid), Some(init), "init lives");
    world.limit_memory(1 << 30);
    world.sh("! mountpoint -q /mnt || umount /mnt; systemd-run --wait --quiet /bin/true");
}

/// Of a container that may have 256 MiB and runs a server: it sees as much, and whoever fills its /tmp gets told
/// so and hurts nobody.
fn serves_with_full_tmp(world: &World) {
    let total = world.sh("free -m | grep ^Mem: | tr -s ' ' | cut -d' ' -f2");
    assert_eq!(total.trim(), "256");
    let top = world.sh("TERM=dumb top -b -n 1 | head -n 5");
    assert!(top.contains("MiB Mem :    256.0 total"), "{top}");
    let banner = || world.sh("bash -c 'exec 3<>/dev/tcp/127.0.0.1/22; head -n 1 <&3'");
    assert!(banner().starts_with("SSH-2.0-"), "{}", banner());
    let full = world.exec(&["dd", "if=/dev/zero", "of=/tmp/big", "bs=1M"]);
    let said = String::from_utf8_lossy(&full.error);
    assert!(said.contains("No space left on device"), "{said}");
    assert!(banner().starts_with("SSH-2.0-"), "{}", banner());
    assert_eq!(world.killed_for_memory(), 0);
    world.sh("rm /tmp/big");
}

fn boots(number: u32, suite: &str, more: &str) {
    if !ready() {
        return;
    }
    let Some(tar) = template(suite, &format!("{more}systemd-sysv,dbus,procps")) else { return };
    let world = World::from_tar(number, &tar, |_| {});
    world.limit_memory(256 << 20);
    let views = Lxcfs::provide(&world);
    let begun = std::time::Instant::now();
    world.start(Spec { ram_bytes: Some(256 << 20), ..world.spec() });
    let monitor = world.observe().monitor.expect("it runs");
    assert_eq!(monitor.kind, InitKind::Systemd);
    assert!(!monitor.booted, "it has not said so yet");
    let console = || world.scrollback();
    let deadline = Duration::from_secs(180);
    let begin = std::time::Instant::now();
    while !world.observe().monitor.is_some_and(|m| m.booted) {
        assert!(begin.elapsed() < deadline, "{suite} does not boot: {}", console());
        std::thread::sleep(Duration::from_millis(50));
    }
    eprintln!("{suite}: booted after {:?}", begun.elapsed());
    assert_eq!(
        world.sh("systemd-detect-virt; cat /proc/1/comm").trim(),
        "container-other\nsystemd"
    );
    assert_eq!(world.sh("hostname; stat -fc %T /sys/fs/cgroup"), "web.example.org\ncgroup2fs\n");
    let failed = world.sh("systemctl --failed --no-legend --plain");
    assert_eq!(failed, "", "no unit failed");
    let state = world.exec(&["systemctl", "is-system-running"]);
    assert_eq!(
        state.text().trim(),
        "running",
        "{}",
        world.sh("systemctl list-jobs; journalctl -b -p 4 --no-pager | tail -40")
    );
    // A service of its own, in a group of its own.
    world.sh("systemd-run --wait --quiet /bin/true");
    let group = world.sh("systemd-run --wait --pipe --quiet /bin/cat /proc/self/cgroup");
    assert!(group.contains("0::/system.slice/run-"), "{group}");
    is_fitted(&world);
    if more.contains("openssh-server") {
        serves_with_full_tmp(&world);
    }
    drop(views);
    init_outlives_full_memory(&world);
    for (command, cause) in
        [("systemctl reboot", ExitCause::Rebooted), ("systemctl poweroff", ExitCause::Halted)]
    {
        if world.observe().monitor.is_none() {
            world.start(world.spec());
            wait_until(deadline, "it boots again", || {
                world.observe().monitor.is_some_and(|m| m.booted)
            });
        }
        assert!(world.observe().monitor.is_some_and(|m| !m.stopping));
        world.exec(&["sh", "-c", command]);
        // Older ones say it at the last moment, if at all.
        assert!(is_seen_going_down(&world) || suite == "bookworm", "{command}");
        assert_eq!(world.ended().last.map(|l| l.cause), Some(cause), "{command}");
    }
    world.start(world.spec());
    wait_until(deadline, "it boots again", || world.observe().monitor.is_some_and(|m| m.booted));
    let begun = std::time::Instant::now();
    world.host.apply(world.ct, &Step::AskInit { ms: 60_000 }).expect("asked");
    assert_eq!(world.ended().last.map(|l| l.cause), Some(ExitCause::Stopped));
    eprintln!("{suite}: stopped after {:?}", begun.elapsed());
    stops_as_young(&world);
}

/// Waits for the end of one that goes down by itself; whether that was seen before.
fn is_seen_going_down(world: &World) -> bool {
    let mut seen = false;
    wait_until(Duration::from_secs(120), "it ends", || {
        let monitor = world.observe().monitor;
        seen = seen || monitor.as_ref().is_some_and(|m| m.stopping);
        monitor.is_none()
    });
    seen
}

/// Stopped as soon as it was started, it takes no longer than it needs, and is not killed.
fn stops_as_young(world: &World) {
    world.stop(0);
    world.start(world.spec());
    world.host.apply(world.ct, &Step::AskInit { ms: 120_000 }).expect("asked");
    assert_eq!(world.observe().last.map(|l| l.cause), Some(ExitCause::Stopped));
}

#[test]
fn trixie_systemd() {
    boots(9420, "trixie", "openssh-server,");
}

#[test]
fn bookworm_systemd() {
    boots(9421, "bookworm", "");
}

#[test]
fn bookworm_sysvinit() {
    if !ready() {
        return;
    }
    let Some(tar) = template("bookworm", "sysvinit-core,procps,libpam-runtime") else { return };
    let world = World::from_tar(9422, &tar, |_| {});
    let up = || {
        world.start(world.spec());
        let monitor = world.observe().monitor.expect("it runs");
        assert_eq!((monitor.kind, monitor.booted), (InitKind::Sysvinit, false));
        wait_until(Duration::from_secs(120), "it has booted", || {
            world.observe().monitor.is_some_and(|m| m.booted)
        });
        assert_eq!(world.sh("runlevel").trim(), "N 2");
    };
    for (command, cause) in [("reboot", ExitCause::Rebooted), ("poweroff", ExitCause::Halted)] {
        up();
        assert!(world.observe().monitor.is_some_and(|m| !m.stopping));
        world.exec(&["sh", "-c", command]);
        assert!(is_seen_going_down(&world), "{command}");
        assert_eq!(world.ended().last.map(|l| l.cause), Some(cause), "{command}");
    }
    up();
    world.host.apply(world.ct, &Step::AskInit { ms: 60_000 }).expect("asked");
    let in_time = std::time::Instant::now();
    assert_eq!(world.ended().last.map(|l| l.cause), Some(ExitCause::Stopped));
    eprintln!("sysvinit: stopped after {:?}", in_time.elapsed());
    stops_as_young(&world);
}
