//! Devices of the node that a container is given, and capabilities that are taken from it.

use std::path::Path;

use rustix::io::Errno;
use ves_init_proto::report::Ended;
use ves_kit::need;
use ves_lifecycle::error::Error;
use ves_lifecycle::plan::{Goal, Spec};
use ves_proto::{Fault, Reason};
use ves_types::{Capability, Device};

use super::support::{World, needs};

const IDLE: &str = "while :; do sleep 1; done";

fn devices(words: &[&str]) -> Vec<Device> {
    words.iter().map(|word| word.parse().expect("a device")).collect()
}

/// What each line of the kernel's about capabilities of init and of a command says, as bits.
fn capabilities(world: &World) -> Vec<(String, u64)> {
    let lines = world.sh("grep Cap /proc/1/status /proc/self/status");
    let bits = |line: &str| {
        let (what, hex) = line.rsplit_once(':').expect("a name");
        (what.to_owned(), u64::from_str_radix(hex.trim(), 16).expect("hexadecimal"))
    };
    let all: Vec<_> = lines.lines().map(bits).collect();
    assert_eq!(all.len(), 10, "{lines}");
    all
}

#[test]
fn tun_and_fuse_are_there_for_whom_they_are_given() {
    let there = |path: &'static str, module| need::kernel(path, Path::new(path).exists(), module);
    need!(
        there("/dev/net/tun", "`modprobe tun` brings it"),
        there("/dev/fuse", "`modprobe fuse` brings it")
    );
    if !needs() {
        return;
    }
    let mut world = World::new(9486, |root| {
        for applet in ["tunctl", "stat", "chmod", "mknod", "rm"] {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).ok();
        }
    });
    let fails = |world: &World, script: &str| {
        let outcome = world.exec(&["sh", "-c", script]);
        assert!(matches!(outcome.ended, Ok(Ended::Code(1..))), "{script}: {outcome:?}");
    };
    let spec = |world: &World, words: &[&str], off: &[&str]| Spec {
        devices: devices(words),
        capabilities_off: off.iter().map(|name| name.parse().expect("a capability")).collect(),
        ..world.script(IDLE)
    };

    // Who asked for nothing has nothing, and as much as before.
    world.start(world.script(IDLE));
    world.sh("test ! -e /dev/net && test ! -e /dev/fuse");
    fails(&world, "mknod /dev/fuse c 10 229");
    let usual = capabilities(&world);
    assert!(
        usual.contains(&("/proc/1/status:CapBnd".to_owned(), Capability::usual())),
        "{usual:?}"
    );

    // By name, and by number; what of capabilities is off is off for init and for commands.
    world.stop(0);
    world.start(spec(&world, &["net/tun:rw", "c:10:229:rw"], &["NET_RAW", "SYS_CHROOT"]));
    let seen = world.sh("stat -c '%a %u %g %t:%T' /dev/net/tun /dev/fuse /dev/net");
    assert_eq!(seen, "666 0 0 a:c8\n666 0 0 a:e5\n755 0 0 0:0\n");
    world.sh("tunctl -t tap7 && ip link set tap7 up && ip addr add 192.0.2.7/32 dev tap7");
    assert!(world.sh("ip addr show tap7").contains("192.0.2.7"));
    // Of anybody inside: the device is for its users too.
    world.sh("mkdir -p /mnt && exec 5<>/dev/fuse && \
         mount -t fuse -o fd=5,rootmode=40000,user_id=0,group_id=0 none /mnt && \
         grep -q ' /mnt fuse ' /proc/mounts && umount -l /mnt");
    let off = 1 << 13 | 1 << 18;
    for ((what, now), (_, before)) in capabilities(&world).into_iter().zip(usual) {
        assert_eq!(now, before & !off, "{what}");
    }

    // What may only be read stays so, whoever root is; without SYS_ADMIN the rest holds all the same.
    world.stop(0);
    world.start(spec(&world, &["fuse:r"], &["SYS_ADMIN"]));
    world.sh("exec 5</dev/fuse");
    fails(&world, "exec 5<>/dev/fuse");
    fails(&world, "chmod 666 /dev/fuse");
    fails(&world, "mount -t tmpfs none /mnt");
    for (what, now) in capabilities(&world) {
        assert_eq!(now & 1 << 21, 0, "{what}");
    }
    assert_eq!(world.sh("grep -c Seccomp:.2 /proc/1/status").trim(), "1");
    let named = Spec {
        hostname: Some("other.example.org".parse().expect("a name")),
        ..spec(&world, &["fuse:r"], &["SYS_ADMIN"])
    };
    world.ensure(Goal::Running, Some(named)).expect("named, by who is not of the container");
    assert_eq!(world.sh("hostname").trim(), "other.example.org");

    // What the node has not, or does not give, starts nothing and says what would help.
    world.stop(0);
    let refused = |world: &World, word: &str| match world
        .ensure(Goal::Running, Some(spec(world, &[word], &[])))
    {
        Err(error @ Error::Start { .. }) => Fault::from(error),
        other => panic!("no failed start: {other:?}"),
    };
    let absent = refused(&world, "nvidia-absent:rw");
    assert_eq!(absent.reason, Reason::KernelLacks);
    assert_eq!(absent.facts["feature"], "give devices nvidia-absent:rw");
    assert!(absent.message.contains("load the module of its driver there"), "{absent}");
    let unusual = refused(&world, "ves-absent:rw");
    assert_eq!(unusual.reason, Reason::StartFailed);
    assert!(unusual.message.contains("allow_devices = [\"ves-absent\"]"), "{unusual}");
    world.host = world.another_host().allowing(vec!["ves-*".parse().expect("a pattern")]);
    assert_eq!(refused(&world, "ves-absent:rw").reason, Reason::KernelLacks, "only that is left");
    let errno = world.ensure(Goal::Running, Some(spec(&world, &["c:1:1:r"], &[])));
    assert!(
        matches!(&errno, Err(Error::Start { failure, .. }) if failure.message.contains("the memory or the ports") || failure.errno == Errno::NODEV.raw_os_error()),
        "{errno:?}"
    );
    assert!(world.observe().monitor.is_none(), "nothing runs");
}
