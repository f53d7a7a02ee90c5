//! Starting, stopping, ending and finding again, on the real kernel with a busybox root.

use std::os::unix::fs::{MetadataExt, symlink};
use std::time::Duration;

use ves_init_proto::frame::{Frame, Tag};
use ves_init_proto::report::{Ended, Failure, InitKind};
use ves_kit::wait_until;
use ves_lifecycle::error::Error;
use ves_lifecycle::fake::FakeHost;
use ves_lifecycle::host::Host;
use ves_lifecycle::plan::{Desired, Goal, Observed, Refusal, Spec, Step, plan};
use ves_types::{ExitCause, layout};

use super::support::{Session, World, alive, needs};

/// An init that never ends by itself and obeys when asked.
pub(crate) const OBEDIENT: &str = "trap 'exit 3' USR2; echo up; while :; do sleep 0.05; done";
/// An init that does not.
const STUBBORN: &str = "trap '' USR2 TERM; echo up; while :; do sleep 1; done";

/// How long what must happen may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until busybox's init has arranged for the signals that `reboot` and `poweroff` send: the
/// kernel gives a first process none that it has not asked for. It holds those back, unseen while it
/// waits for one, and afterwards sets its handler of this one.
#[track_caller]
fn listens(init: u32) {
    const TSTP: u64 = 1 << (20 - 1);
    wait_until(PATIENCE, "init listens", || {
        let status = std::fs::read_to_string(format!("/proc/{init}/status")).unwrap_or_default();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).map(str::trim);
        caught.is_some_and(|mask| u64::from_str_radix(mask, 16).is_ok_and(|m| m & TSTP != 0))
    });
}

/// How a start that must fail did.
#[track_caller]
fn failure(result: Result<Observed, Error>) -> Failure {
    match result {
        Err(Error::Start { failure, .. }) => failure,
        other => panic!("no failed start: {other:?}"),
    }
}

#[test]
fn starts_runs_and_stops_and_leaves_nothing() {
    if !needs() {
        return;
    }
    let world = World::new(9400, |_| {});
    let init = world.start(world.script(OBEDIENT));
    let monitor = world.observe().monitor.expect("it runs");
    assert!(monitor.running && monitor.started_unix_ms > 0);
    assert!(world.layout().ct_netns(world.ct).exists(), "the network namespace is pinned");
    assert_eq!(world.sh("hostname").trim(), "web.example.org");
    assert_eq!(
        world.ensure(Goal::Running, Some(world.spec())).expect("again").monitor,
        Some(monitor)
    );
    // The end is told before it is forgotten.
    world.host.apply(world.ct, &Step::AskInit { ms: 60_000 }).expect("done");
    let end = world.observe().last.expect("it ended");
    assert_eq!((end.cause, end.ended), (ExitCause::Stopped, Ended::Code(3)));
    let after = world.stop(0);
    assert_eq!((after.monitor, after.last, after.leftovers), (None, None, false));
    assert!(!alive(init));
    assert!(!world.layout().ct_dir(world.ct).exists(), "nothing is left of it");
    let place = world.volumes().look(&layout::volume(world.ct)).expect("seen");
    assert!(place.is_some_and(|place| place.mounted), "its volume is still mounted");
}

#[test]
fn one_that_does_not_stop_is_killed() {
    if !needs() {
        return;
    }
    let world = World::new(9401, |_| {});
    let init = world.start(world.script(STUBBORN));
    let begun = std::time::Instant::now();
    let desired =
        Desired { goal: Goal::Absent { grace_ms: 300 }, spec: None, early_exit_grace_ms: 0 };
    for step in plan(&desired, &world.observe()).expect("planned") {
        if step == Step::Forget {
            let end = world.observe().last.expect("it ended");
            assert_eq!((end.cause, end.ended), (ExitCause::Killed, Ended::Signal(9)));
        }
        world.host.apply(world.ct, &step).expect("done");
    }
    assert!(begun.elapsed() >= Duration::from_millis(300), "it was given its time");
    assert!(!alive(init));
}

#[test]
fn busybox_init_boots_halts_reboots_and_is_asked() {
    if !needs() {
        return;
    }
    let world = World::new(9402, |_| {});
    for (command, cause) in [("poweroff", ExitCause::Halted), ("reboot", ExitCause::Rebooted)] {
        let init = world.start(world.spec());
        assert_eq!(world.observe().monitor.map(|m| m.kind), Some(InitKind::Busybox));
        listens(init);
        // The session may end with the container, before it can say how.
        world.exec(&["sh", "-c", command]);
        let observed = world.ended();
        assert_eq!(observed.monitor, None);
        assert_eq!(observed.last.map(|l| l.cause), Some(cause), "{command}");
        assert!(!observed.leftovers, "the monitor cleans up by itself: {observed:?}");
    }
    // It need not listen yet to be asked.
    world.start(world.spec());
    world.host.apply(world.ct, &Step::AskInit { ms: 60_000 }).expect("asked");
    assert_eq!(world.observe().last.map(|l| l.cause), Some(ExitCause::Stopped));
}

#[test]
fn an_init_that_is_too_young_to_hear_is_asked_until_it_does() {
    if !needs() {
        return;
    }
    let world = World::new(9416, |_| {});
    for (learns, cause, ended) in [
        ("trap 'exit 3' USR2;", ExitCause::Stopped, Ended::Code(3)),
        // It has all of its time to learn to hear.
        ("", ExitCause::Killed, Ended::Signal(9)),
    ] {
        world.start(world.script(&format!("sleep 0.5; {learns} while :; do sleep 0.05; done")));
        let begun = std::time::Instant::now();
        world.host.apply(world.ct, &Step::AskInit { ms: 2_000 }).expect("asked");
        let in_time = begun.elapsed() < Duration::from_secs(2);
        assert_eq!(in_time, cause == ExitCause::Stopped, "{:?}", begun.elapsed());
        world.host.apply(world.ct, &Step::Kill).expect("it is gone");
        let last = world.observe().last.expect("it ended");
        assert_eq!((last.cause, last.ended), (cause, ended));
    }
}

#[test]
fn an_init_that_ends_at_once_or_cannot_execute_is_told() {
    if !needs() {
        return;
    }
    let world = World::new(9403, |root| {
        std::fs::write(root.join("bin/plain"), "no program").expect("written");
    });
    world.start_only(world.script("echo last words; exit 4"));
    let last = world.ended().last.expect("it ended");
    assert_eq!((last.cause, last.ended), (ExitCause::Exited, Ended::Code(4)));
    assert!(world.scrollback().contains("last words"), "the console can be read afterwards");
    world.start_only(world.script("kill -9 $$; exit 0"));
    assert_eq!(world.ended().last.map(|l| l.ended), Some(Ended::Code(0)), "pid 1 is immune");
    assert!(world.observe().last.expect("there").incarnation > last.incarnation);
    for (init, errno) in [("/no/such", 2), ("/bin/plain", 13)] {
        let spec =
            Spec { init: vec![init.to_owned()].try_into().expect("an init"), ..world.spec() };
        let failure = failure(world.ensure(Goal::Running, Some(spec)));
        assert_eq!(failure.errno, errno, "{failure:?}");
        assert!(failure.step.contains(init), "{failure:?}");
        let now = world.observe();
        assert!(now.monitor.is_none() && !now.leftovers, "nothing is left: {now:?}");
    }
}

#[test]
fn created_waits_and_is_let_go_with_its_network_pinned() {
    if !needs() {
        return;
    }
    let world = World::new(9404, |_| {});
    let observed = world.ensure(Goal::Created, Some(world.script(OBEDIENT))).expect("created");
    let monitor = observed.monitor.expect("it waits");
    assert!(!monitor.running && alive(monitor.init_pid));
    if let Some(delegated) = world.delegated() {
        let owner = |name: &str| {
            let meta = std::fs::metadata(delegated.join(name)).expect("there");
            (meta.uid(), meta.gid())
        };
        let base = world.slot.base();
        for name in ["", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"] {
            assert_eq!(owner(name), (base, base), "{name}");
        }
        assert_eq!(owner("cgroup.max.depth"), (0, 0), "its limits are not its own");
        assert_eq!(owner(".."), (0, 0));
    }
    // What network does between the two phases.
    let netns = world.layout().ct_netns(world.ct);
    let netns = netns.to_str().expect("text");
    ves_kit::run("nsenter", &[&format!("--net={netns}"), "ip", "link", "set", "lo", "up"]);
    let running = world.ensure(Goal::Running, None).expect("let go").monitor.expect("it runs");
    assert_eq!((running.init_pid, running.running), (monitor.init_pid, true));
    assert!(world.sh("cat /sys/class/net/lo/operstate /proc/net/dev; ip link").contains("UP"));
    // Another wish for what is created replaces it; one for what runs does not.
    world.stop(0);
    let first = world.ensure(Goal::Created, Some(world.script(OBEDIENT))).expect("created");
    let other = Spec { hostname: Some("other".parse().expect("valid")), ..world.script(OBEDIENT) };
    let second = world.ensure(Goal::Created, Some(other.clone())).expect("created anew");
    assert_ne!(first.monitor.map(|m| m.init_pid), second.monitor.map(|m| m.init_pid));
    world.ensure(Goal::Running, Some(other)).expect("let go");
    assert_eq!(world.sh("hostname; cat /etc/hostname").split_whitespace().count(), 2);
}

#[test]
fn a_new_daemon_finds_it_with_its_console() {
    if !needs() {
        return;
    }
    let world = World::new(9405, |_| {});
    let script = "echo first words; while read line; do echo \"heard $line\"; done; sleep 600";
    let before = world.start(world.script(script));
    // Another daemon's eyes.
    let again = world.another_host();
    assert!(again.list().expect("listed").contains(&world.ct));
    let observed = again.observe(world.ct).expect("observed");
    assert_eq!(observed.monitor.map(|m| m.init_pid), Some(before));
    let mut one = Session::over(again.console(world.ct, false).expect("attached"));
    one.until("first words");
    let mut two = Session::over(world.host.console(world.ct, false).expect("attached"));
    one.send(&Frame::resize(33, 99));
    one.send(&Frame::new(Tag::Input, b"you\n".to_vec()));
    one.until("heard you");
    two.until("heard you");
    drop(one);
    two.send(&Frame::new(Tag::Input, b"again\n".to_vec()));
    two.until("heard again");
    let scrollback = Session::over(world.host.console(world.ct, true).expect("attached"));
    let text = scrollback.drain();
    assert!(text.contains("first words") && text.contains("heard again"), "{text:?}");
    assert_eq!(world.sh("stty size < /dev/console").trim(), "33 99");
}

#[test]
fn init_dies_with_its_monitor_and_the_next_wish_clears_up() {
    if !needs() {
        return;
    }
    let world = World::new(9406, |_| {});
    for goal in [Goal::Running, Goal::Created] {
        let spec = world.script(STUBBORN);
        let init = world.ensure(goal, Some(spec.clone())).expect("made").monitor;
        let init = init.expect("there").init_pid;
        world.kill_monitor();
        wait_until(PATIENCE, "init died", || !alive(init));
        let observed = world.observe();
        assert!(observed.monitor.is_none() && observed.leftovers, "{observed:?}");
        let again = world.ensure(goal, Some(spec)).expect("made again");
        assert_eq!(again.monitor.map(|m| m.running), Some(goal == Goal::Running));
        if goal == Goal::Running {
            assert_eq!(again.last.map(|l| l.cause), Some(ExitCause::Killed), "its end is known");
        }
        world.stop(0);
    }
}

#[test]
fn freezes_and_thaws_and_stops_while_frozen() {
    if !needs() {
        return;
    }
    let world = World::new(9407, |_| {});
    world.start(world.script("while :; do echo tick > /tmp/t; echo x; sleep 0.02; done"));
    assert!(world.ensure(Goal::Frozen, None).expect("frozen").frozen);
    let ticks = || world.scrollback().len();
    // What it said before may still be on its way.
    let mut before = ticks();
    wait_until(PATIENCE, "nothing runs", || {
        std::thread::sleep(Duration::from_millis(300));
        std::mem::replace(&mut before, ticks()) == before
    });
    assert!(!world.ensure(Goal::Running, None).expect("thawed").frozen);
    wait_until(PATIENCE, "it goes on", || ticks() > before);
    world.ensure(Goal::Frozen, None).expect("frozen");
    let after = world.stop(500);
    assert!(after.monitor.is_none() && !after.frozen);
}

#[test]
fn a_fork_bomb_is_held_and_can_be_stopped() {
    if !needs() {
        return;
    }
    let world = World::new(9408, |_| {});
    world.limit_pids(60);
    // A shell whose fork fails ends, and so would this init: it forks no more.
    world.start(world.script("trap '' USR2 TERM; exec sleep 100000"));
    // Nor do the bomb's shells end: `command` makes a failure of them one that can be survived.
    let bomb = "bomb() { while :; do command eval 'sleep 600 &'; command eval 'bomb &'; done; }; \
                bomb 2>/dev/null";
    let session = world.begin(&["sh", "-c", bomb]);
    wait_until(PATIENCE, "the bomb meets its limit", || world.refused_forks() > 100);
    // What is refused is counted for the moment until it is.
    wait_until(PATIENCE, "it fills its room and no more", || world.count_pids() == 60);
    world.stop(0);
    drop(session);
    wait_until(PATIENCE, "none is left", || world.count_pids() == 0);
}

#[test]
fn links_in_the_place_of_directories_are_refused_and_missing_ones_are_made() {
    if !needs() {
        return;
    }
    for (number, name) in [(9409, "dev"), (9410, "proc"), (9411, "sys"), (9412, "run")] {
        let world = World::new(number, |root| {
            std::fs::remove_dir_all(root.join(name)).expect("removed");
            symlink("/tmp", root.join(name)).expect("linked");
        });
        let failure = failure(world.ensure(Goal::Running, Some(world.script(OBEDIENT))));
        assert!(failure.message.contains("symbolic link"), "{failure:?}");
        assert!(failure.message.contains(&format!("/{name}")), "{failure:?}");
        let now = world.observe();
        assert!(now.monitor.is_none() && !now.leftovers, "{now:?}");
    }
    let world = World::new(9413, |root| {
        for name in ["dev", "proc", "sys", "run", "tmp", "etc"] {
            std::fs::remove_dir_all(root.join(name)).expect("removed");
        }
        // Where the host could be hurt if anybody outside followed it.
        std::fs::create_dir(root.join("etc")).expect("made");
        symlink("/../../../../../../tmp/ves-victim", root.join("etc/hostname")).expect("linked");
        symlink("/proc/1/root/tmp/ves-victim", root.join("etc/resolv.conf")).expect("linked");
    });
    let spec = Spec {
        nameservers: vec!["192.0.2.53".parse().expect("valid")],
        search: vec!["example.org".parse().expect("valid")],
        ..world.script(OBEDIENT)
    };
    world.start(spec);
    assert_eq!(world.sh("cat /etc/hostname").trim(), "web.example.org");
    let resolv = world.sh("cat /etc/resolv.conf");
    assert!(resolv.ends_with(":\nsearch example.org\nnameserver 192.0.2.53\n"), "{resolv}");
    assert!(world.sh("stat -c %u:%g:%a / /etc/hostname /proc /sys /run").contains("0:0:644"));
    assert!(!std::path::Path::new("/tmp/ves-victim").exists());
}

#[test]
fn the_fake_node_agrees() {
    if !needs() {
        return;
    }
    let world = World::new(9414, |_| {});
    let fake = FakeHost::new();
    let spec = world.script(OBEDIENT);
    // Numbers of processes and times differ, and what init is only the real node knows.
    let plain = |mut o: Observed| {
        if let Some(monitor) = &mut o.monitor {
            monitor.init_pid = 0;
            monitor.started_unix_ms = monitor.started_unix_ms.min(1);
            monitor.kind = InitKind::Other;
            monitor.incarnation = 0;
        }
        if let Some(last) = &mut o.last {
            last.incarnation = 0;
            last.started_unix_ms = 0;
        }
        o
    };
    let goals = [
        Goal::Created,
        Goal::Running,
        Goal::Frozen,
        Goal::Running,
        Goal::Absent { grace_ms: 0 },
        Goal::Running,
        Goal::Frozen,
        Goal::Absent { grace_ms: 0 },
        Goal::Created,
        Goal::Absent { grace_ms: 100 },
    ];
    for goal in goals {
        let desired = Desired { goal, spec: Some(spec.clone()), early_exit_grace_ms: 0 };
        let steps = plan(&desired, &world.observe()).expect("planned");
        assert_eq!(plan(&desired, &fake.observe(world.ct).expect("observed")), Ok(steps.clone()));
        for step in steps {
            world.host.apply(world.ct, &step).expect("done");
            fake.apply(world.ct, &step).expect("done");
            let (real, model) = (world.observe(), fake.observe(world.ct).expect("observed"));
            assert_eq!(plain(real), plain(model), "after {step} towards {goal:?}");
        }
    }
}

#[test]
fn watchers_of_the_console_leave_room_for_control() {
    if !needs() {
        return;
    }
    let world = World::new(9445, |_| {});
    // More than a connection takes, so that those who do not look stay behind.
    world.start(world.script("while :; do echo 0123456789012345678901234567890123456789; done"));
    let mut watchers: Vec<_> =
        (0..80).map(|n| world.host.console(world.ct, n % 2 == 0).expect("a connection")).collect();
    for _ in 0..3 {
        assert!(world.observe().monitor.is_some_and(|m| m.running));
        std::thread::sleep(Duration::from_millis(200));
    }
    watchers.truncate(20);
    // A monitor that the slow keep would be killed instead, and its container's end not recorded.
    world.host.apply(world.ct, &Step::Kill).expect("it ends");
    let observed = world.observe();
    assert_eq!((observed.monitor, observed.leftovers), (None, false), "the slow keep nobody");
    assert_eq!(observed.last.map(|l| l.cause), Some(ExitCause::Killed));
    world.stop(0);
}

#[test]
fn a_monitor_that_does_not_answer_is_seen_and_can_be_ended() {
    if !needs() {
        return;
    }
    let world = World::new(9446, |_| {});
    let init = world.start(world.script(STUBBORN));
    world.signal_monitor(rustix::process::Signal::STOP);
    // Even where many have connected already.
    let waiting: Vec<_> =
        (0..20).filter_map(|_| world.host.console(world.ct, false).ok()).collect();
    let seen = world.observe();
    assert!(seen.unresponsive && seen.monitor.is_none() && !seen.leftovers, "{seen:?}");
    for goal in [Goal::Created, Goal::Running, Goal::Frozen] {
        let desired = Desired { goal, spec: Some(world.spec()), early_exit_grace_ms: 0 };
        assert_eq!(plan(&desired, &seen), Err(Refusal::Unresponsive));
    }
    drop(waiting);
    let after = world.stop(1000);
    assert_eq!((after.unresponsive, after.leftovers, after.last), (false, false, None));
    wait_until(PATIENCE, "init died", || !alive(init));
}

#[test]
fn changes_are_told_through_one_descriptor() {
    if !needs() {
        return;
    }
    let world = World::new(9448, |_| {});
    let (told, heard) = std::sync::mpsc::channel();
    let changed = move |ct| told.send(ct).expect("somebody listens");
    world.host.on_change(Box::new(changed)).expect("it tells");
    let open = || std::fs::read_dir("/proc/self/fd").expect("listed").count();
    let hear = |what: &str| {
        let ct = heard.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("told of {what}"));
        assert_eq!(ct, Some(world.ct), "{what}");
        // One change may be told more than once.
        while heard.try_recv().is_ok() {}
    };
    world.host.follow(world.ct).expect("where there was no monitor yet, nothing is followed");
    for round in 0..2 {
        world.ensure(Goal::Created, Some(world.script(STUBBORN))).expect("made");
        let before = open();
        world.host.follow(world.ct).expect("followed");
        assert_eq!(open(), before, "a container costs no descriptor");
        world.ensure(Goal::Running, None).expect("runs");
        hear("init running");
        match round {
            0 => world.host.apply(world.ct, &Step::Kill).expect("it ends"),
            _ => world.signal_monitor(rustix::process::Signal::KILL),
        }
        hear("the end, also of a monitor that cannot tell of it any more");
        world.stop(0);
    }
}

#[test]
fn a_record_that_cannot_be_understood_hinders_nothing() {
    if !needs() {
        return;
    }
    let world = World::new(9447, |_| {});
    world.start_only(world.script("exit 4"));
    assert!(world.ended().last.is_some());
    let dir = world.layout().ct_dir(world.ct);
    std::fs::write(ves_init_proto::report::exit(&dir), "{").expect("written");
    assert_eq!(world.observe().last, None);
    assert!(dir.join("exit.json.bad").exists(), "it is kept for who wants to know");
    world.start(world.script(STUBBORN));
    world.stop(0);
    // There is no monitor, but nobody may clear up while somebody holds its lock.
    std::fs::create_dir_all(&dir).expect("made");
    let lock = ves_init_proto::report::lock(&dir);
    let held = std::fs::File::create(&lock).expect("made");
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).expect("locked");
    for step in [Step::Cleanup, Step::Forget] {
        let refused = world.host.apply(world.ct, &step);
        assert!(matches!(refused, Err(Error::Unresponsive { .. })), "{refused:?}");
    }
    drop(held);
    world.host.apply(world.ct, &Step::Forget).expect("done");
    assert!(!lock.exists() && !dir.join("exit.json.bad").exists());
}
