//! What features open to a container and what they leave shut, on the real kernel.

use std::os::unix::fs::PermissionsExt;

use ves_init_proto::report::Ended;
use ves_lifecycle::plan::Spec;
use ves_types::{Feature, Features};

use super::exec::one_call_32;
use super::support::{World, install, needs};

const IDLE: &str = "while :; do sleep 0.2; done";

fn with(feature: Feature, on: bool) -> Features {
    Features::default().with(feature, on)
}

impl World {
    /// Starts it anew with these features.
    fn restart(&self, script: &str, features: Features) -> u32 {
        self.stop(0);
        self.start(Spec { features, ..self.script(script) })
    }
}

#[test]
fn nesting_gives_namespaces_of_every_kind_and_what_is_mounted_in_them() {
    if !needs() || !ves_kit::check(&[ves_kit::need::filesystem("overlay")]) {
        return;
    }
    let world = World::new(9451, |root| install(root, "unshare"));
    world.restart(IDLE, with(Feature::Nesting, true));
    // As whom containers inside make theirs: root of this one, and root of a user namespace in it.
    let all = "-p -f -m -u -i -n -C -T";
    let inside = "mkdir -p /mnt && cd /mnt && mkdir -p proc sys l w m && hostname inner && \
         mount -t proc p proc && test $(cat proc/1/comm) = sh && cat proc/kallsyms > /dev/null && \
         mount -t sysfs -o ro s sys && test $(ls sys/class/net) = lo && mount -t tmpfs t w && \
         mkdir w/u w/w && echo low > l/x && \
         mount -t overlay -o userxattr,lowerdir=l,upperdir=w/u,workdir=w/w o m && \
         test $(cat m/x) = low && echo new > m/x && test $(cat w/u/x) = new && \
         ip link set lo up && test $(hostname) = inner && echo done";
    for who in ["", "-U -r"] {
        let said = world.sh(&format!("/bin/unshare {who} {all} sh -c '{inside}'"));
        assert_eq!(said, "done\n", "{who}");
    }
    assert_eq!(world.sh("hostname").trim(), "web.example.org");
    // A part of the groups is its own to divide.
    if world.delegated().is_some() {
        world.sh("mkdir /sys/fs/cgroup/a && sh -c 'echo 0 > /sys/fs/cgroup/a/cgroup.procs'");
    }
    // What is the node's is not nearer by it.
    for wall in [
        "mknod /root/sda b 8 0",
        "echo 1 > /run/host/proc/sys/kernel/panic",
        "echo b > /run/host/proc/sysrq-trigger",
        "echo 1 > /run/host/sys/kernel/mm/ksm/run",
        "cat /run/host/proc/kcore",
        "mount -t ext4 /dev/loop0 /mnt",
        "/bin/unshare -U -r -m mount -t devtmpfs d /mnt",
    ] {
        let outcome = world.exec(&["sh", "-c", wall]);
        assert_ne!(outcome.ended, Ok(Ended::Code(0)), "{wall}: {outcome:?}");
    }
    // Without it there are neither.
    world.restart(IDLE, Features::default());
    world.sh("! test -e /run/host/proc && ! test -e /run/host/sys");
}

#[test]
fn commands_join_the_time_of_their_init() {
    if !needs() {
        return;
    }
    let world = World::new(9452, |root| install(root, "unshare"));
    // Nothing but a restored one has another time in earnest; one that nests can give itself one.
    let script = format!("exec /bin/unshare -T sh -c '{IDLE}'");
    let init = world.restart(&script, with(Feature::Nesting, true));
    let time = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/time")).expect("a namespace");
    ves_kit::wait_until(std::time::Duration::from_secs(60), "init has another time", || {
        time(&init.to_string()) != time("self")
    });
    let command = world.sh("readlink /proc/self/ns/time");
    assert_eq!(command.trim(), time(&init.to_string()).to_str().expect("text"));
}

/// What is refused to each, by calls of 32-bit programs, which a test can write; those of 64-bit programs are
/// refused the same, as a law says.
#[test]
#[cfg(target_arch = "x86_64")]
fn features_open_calls_and_shut_an_abi() {
    // With wrong arguments, so that a call which is made says another thing than one that is refused.
    const CALLS: [(&str, u32, [u32; 3]); 5] = [
        ("keyctl", 288, [9999, 0, 0]),
        ("pidfd_open", 434, [0; 3]),
        ("clone3", 435, [0; 3]),
        ("io_uring_setup", 425, [0; 3]),
        ("bpf", 357, [0; 3]),
    ];
    const DEFAULT: [u32; 5] = [1, 38, 38, 1, 1];
    if !needs() {
        return;
    }
    let mut here = None;
    let world = World::new(9453, |root| {
        for (name, call, arguments) in CALLS {
            let path = root.join("bin").join(name);
            std::fs::write(&path, one_call_32(call, arguments)).expect("written");
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("set");
        }
        here = std::process::Command::new(root.join("bin/bpf")).status().ok();
    });
    let runs =
        ves_kit::need::kernel("32-bit programs", here.is_some(), "IA32_EMULATION brings them");
    if !ves_kit::check(&[runs]) {
        return;
    }
    for (features, statuses) in [
        (Features::default(), DEFAULT),
        (with(Feature::Migratable, false), [95, 22, 38, 1, 1]),
        (with(Feature::Nesting, true), [95, 22, 22, 1, 1]),
    ] {
        world.restart(IDLE, features);
        for ((name, ..), status) in CALLS.into_iter().zip(statuses) {
            assert_eq!(world.exec(&[name]).ended, Ok(Ended::Code(status)), "{features}: {name}");
        }
    }
    world.restart(IDLE, with(Feature::Abi32, false));
    for (name, ..) in CALLS {
        let failure = world.exec(&[name]).ended.expect_err("it is not begun");
        assert_eq!(failure.errno, 8, "{failure:?}");
        assert!(failure.message.contains("abi32 is off"), "{failure:?}");
    }
    // One that another program starts comes to nothing; what it is cannot be said then.
    let outcome = world.exec(&["sh", "-c", "bpf; test $? -gt 128"]);
    assert_eq!(outcome.ended, Ok(Ended::Code(0)), "{outcome:?}");
    assert_eq!(world.exec(&["sh", "-c", "exit 7"]).ended, Ok(Ended::Code(7)));
}
