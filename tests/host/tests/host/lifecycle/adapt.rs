//! What is changed of a container that runs: its host name and name servers, which are its own or its
//! operator's, and the sizes of its memory file systems.

use ves_lifecycle::error::Error;
use ves_lifecycle::host::Host as _;
use ves_lifecycle::plan::{Goal, Spec, Step};

use super::start::OBEDIENT;
use super::support::{World, needs};

const OWN: &str = "mine.example.com\n127.0.0.1 localhost\n127.0.1.1 mine.example.com mine shop\n";

#[test]
fn what_the_tenant_chose_stays_and_what_the_operator_chooses_is_there_at_once() {
    if !needs() {
        return;
    }
    let world = World::new(9467, |root| {
        std::fs::write(root.join("etc/hostname"), "# ours\nmine.example.com\n").expect("written");
        let hosts = OWN.split_once('\n').expect("two files").1;
        std::fs::write(root.join("etc/hosts"), hosts).expect("written");
    });
    let own = Spec { hostname: None, ..world.script(OBEDIENT) };
    let shown = || world.sh("cat /proc/sys/kernel/hostname /etc/hosts");
    for _ in 0..2 {
        world.start(own.clone());
        assert_eq!(shown(), OWN);
        assert!(world.sh("ls /etc/resolv.conf 2>&1 || true").contains("No such"));
        world.stop(5000);
    }

    let init = world.start(own.clone());
    let named = Spec {
        hostname: Some("shop.example.org".parse().expect("valid")),
        nameservers: vec!["192.0.2.53".parse().expect("valid")],
        ..own.clone()
    };
    let wish = |spec: &Spec| {
        let seen = world.ensure(Goal::StillRunning, Some(spec.clone()))?;
        let monitor = seen.monitor.expect("it runs");
        assert_eq!((monitor.init_pid, monitor.spec.as_ref()), (init, Some(spec)));
        Ok::<_, Error>(())
    };
    wish(&named).expect("named");
    let hosts = "127.0.0.1 localhost\n127.0.1.1\tshop.example.org shop\n";
    assert_eq!(shown(), format!("shop.example.org\n{hosts}"));
    assert!(world.sh("cat /etc/resolv.conf").ends_with("\nnameserver 192.0.2.53\n"));
    assert_eq!(world.sh("cat /etc/hostname"), "shop.example.org\n");

    // Nobody's any more: the lines go, and the name is what it is until the tenant says otherwise.
    wish(&own).expect("cleared");
    assert_eq!(world.sh("cat /etc/resolv.conf"), "");
    assert_eq!(shown(), format!("shop.example.org\n{hosts}"));

    // What cannot be done there is told, and is not taken for done.
    world.sh("mkdir -p /etc/resolv.conf.ves-new/full");
    match wish(&named) {
        Err(Error::Inside { failure, .. }) => {
            assert_eq!(failure.step, "write /etc/resolv.conf");
        }
        other => panic!("{other:?}"),
    }
    let before = world.observe().monitor.and_then(|monitor| monitor.spec);
    assert_eq!(before, Some(own));
    world.sh("rmdir -p /etc/resolv.conf.ves-new/full 2>/dev/null; true");
    world.host.apply(world.ct, &Step::Name(Box::new(named))).expect("again");
}

#[test]
fn memory_file_systems_fit_what_it_may_have_while_it_runs() {
    if !needs() {
        return;
    }
    let world = World::new(9468, |_| {});
    let with = |mib: u64| Spec { ram_bytes: Some(mib << 20), ..world.script(OBEDIENT) };
    world.start(with(64));
    world.sh("mount -t tmpfs none /tmp");
    // What systemd mounts for who is logged in, and what it does not.
    world.sh(
        "cd /run && mkdir -p user/1000 user/1001 user/own && touch user/1002 && ln -s ../../tmp user/1003 && \
         for at in 1000 own; do mount -t tmpfs -o size=5m none user/$at; done",
    );
    let users =
        || world.sh("for at in 1000 own; do stat -f -c %b /run/user/$at; done").replace('\n', " ");
    let sizes = || {
        let blocks = world.sh("stat -f -c %b /dev/shm /run /tmp");
        blocks.lines().map(|n| n.parse::<u64>().expect("a number") >> 8).collect::<Vec<_>>()
    };
    assert_eq!(sizes()[..2], [16, 12], "mebibytes");
    let fit = |mib: u64| {
        let seen = world.ensure(Goal::StillRunning, Some(with(mib))).expect("fitted");
        assert_eq!(seen.monitor.expect("it runs").spec, Some(with(mib)));
    };
    fit(256);
    assert_eq!(sizes(), [64, 32, 64]);
    assert_eq!(
        users(),
        "4096 1280 ",
        "pages: a sixteenth of the memory, and what somebody else chose"
    );
    // What is in use stays; and of /tmp the tenant says himself how large it is.
    world.sh("dd if=/dev/zero of=/dev/shm/x bs=1M count=40 2>/dev/null; echo 'none /tmp tmpfs' > /etc/fstab");
    fit(64);
    assert_eq!(sizes(), [40, 12, 64]);
    let full = world.exec(&["sh", "-c", "echo more > /dev/shm/y"]);
    assert!(String::from_utf8_lossy(&full.error).contains("No space left"), "{full:?}");
}
