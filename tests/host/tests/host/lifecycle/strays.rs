//! Containers that live though their monitor is not found, on the real kernel: its files were lost, or it
//! died and they did not.

use std::os::unix::fs::{PermissionsExt, chown};
use std::time::Duration;

use rustix::fs::FlockOperation;
use rustix::process::{Pid, Signal};
use ves_init_proto::report::{self, Ended};
use ves_kit::wait_until;
use ves_lifecycle::fake::{FakeHost, Model};
use ves_lifecycle::host::Host as _;
use ves_lifecycle::plan::{Desired, Goal, Observed, Refusal, Step, plan};
use ves_lifecycle::session;
use ves_proto::Reason;
use ves_types::ExitCause;

use super::support::{World, alive, needs, parent, plain};

/// An init that never ends by itself.
const STUBBORN: &str = "trap '' USR2 TERM; echo up; while :; do sleep 1; done";

/// How long what must happen may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Removes files of a container's monitor behind everybody's back.
fn lose(world: &World, names: &[&str]) {
    for name in names {
        std::fs::remove_file(world.layout().ct_dir(world.ct).join(name)).expect("removed");
    }
}

fn want(world: &World, goal: Goal) -> Desired {
    Desired { goal, spec: Some(world.script(STUBBORN)), early_exit_grace_ms: 0 }
}

/// Nothing is done with what lives unseen but to end it.
fn is_left_alone(world: &World, seen: &Observed) {
    for goal in [Goal::Created, Goal::Running, Goal::StillRunning, Goal::Frozen] {
        assert_eq!(plan(&want(world, goal), seen), Err(Refusal::Stray), "{goal:?}");
    }
    let fault = session::admit(world.ct, seen).expect_err("nobody can lead there");
    assert_eq!((fault.reason, fault.facts["lost"].as_str()), (Reason::Running, "monitor"));
}

fn is_gone(after: &Observed) -> bool {
    let lives = after.monitor.is_some() || after.unresponsive || after.stray;
    !lives && !after.leftovers && after.last.is_none()
}

#[test]
fn a_container_whose_files_are_lost_is_never_started_over_and_ends_when_it_should() {
    if !needs() {
        return;
    }
    let world = World::new(9490, |_| {});
    for goal in [Goal::Running, Goal::Created] {
        for names in
            [&["monitor.sock", "monitor.lock"][..], &["monitor.sock", "monitor.lock", "state.json"]]
        {
            let made = world.ensure(goal, Some(world.script(STUBBORN))).expect("made");
            let init = made.monitor.expect("it is there").init_pid;
            let monitor = parent(init);
            lose(&world, names);
            let seen = world.observe();
            assert!(seen.stray && seen.monitor.is_none() && !seen.leftovers, "{seen:?}");
            assert_eq!(seen.run.map(|run| run.init_pid), (names.len() == 2).then_some(init));
            is_left_alone(&world, &seen);
            assert!(world.another_host().list().expect("listed").contains(&world.ct));
            let after = world.stop(1000);
            assert!(is_gone(&after), "{after:?}");
            let lives = || alive(init) || alive(monitor);
            wait_until(PATIENCE, "nothing of it is left but to be reaped", || !lives());
        }
    }
    // And nothing of all that hinders the next.
    world.start(world.script(STUBBORN));
    assert_eq!(world.sh("hostname").trim(), "web.example.org");
}

#[test]
fn all_that_a_directory_held_may_be_lost() {
    if !needs() {
        return;
    }
    let world = World::new(9491, |_| {});
    world.limit_pids(60);
    let bomb = "trap '' USR2 TERM; bomb() { while :; do command eval 'sleep 600 &'; \
                command eval 'bomb &'; done; }; bomb 2>/dev/null & exec sleep 100000";
    let init = world.start(world.script(bomb));
    wait_until(PATIENCE, "the bomb meets its limit", || world.refused_forks() > 100);
    ves_host::namespace::unpin(&world.layout().ct_netns(world.ct)).expect("unpinned");
    lose(&world, &["monitor.sock", "monitor.lock", "state.json"]);
    let host = world.another_host();
    let seen = host.observe(world.ct).expect("observed");
    assert!(seen.stray && seen.run.is_none(), "{seen:?}");
    is_left_alone(&world, &seen);
    assert!(is_gone(&world.stop(0)));
    assert!(!alive(init) && world.count_pids() == 0, "killed by the group, however many");
}

#[test]
fn a_socket_alone_that_is_lost_is_no_way_to_stay() {
    if !needs() {
        return;
    }
    let world = World::new(9492, |_| {});
    let init = world.start(world.script(STUBBORN));
    lose(&world, &["monitor.sock"]);
    let seen = world.observe();
    assert!(seen.unresponsive && !seen.stray, "its lock says that it lives: {seen:?}");
    assert_eq!(plan(&want(&world, Goal::Running), &seen), Err(Refusal::Unresponsive));
    for step in plan(&want(&world, Goal::Absent { grace_ms: 1000 }), &seen).expect("planned") {
        world.host.apply(world.ct, &step).expect("done");
    }
    assert!(is_gone(&world.observe()) && !alive(init));
}

#[test]
fn an_init_that_outlives_its_monitor_is_a_stray() {
    if !needs() {
        return;
    }
    // The kernel forgets with whom a process dies that executes such a program.
    let world = World::new(9493, |root| {
        let program = root.join("bin/busybox-other-group");
        std::fs::copy(root.join("bin/busybox"), &program).expect("copied");
        chown(&program, None, Some(5)).expect("given");
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o2755)).expect("set");
    });
    let script = format!("exec /bin/busybox-other-group sh -c \"{STUBBORN}\"");
    let init = world.start(world.script(&script));
    wait_until(PATIENCE, "it executes", || world.scrollback().starts_with("up"));
    let monitor = parent(init);
    world.kill_monitor();
    wait_until(PATIENCE, "the monitor is dead", || !alive(monitor));
    let seen = world.observe();
    assert!(seen.stray && !seen.leftovers, "{seen:?}");
    assert_eq!(seen.run.map(|run| run.init_pid), Some(init));
    is_left_alone(&world, &seen);
    assert!(alive(init), "nobody has touched it");
    let ended = want(&world, Goal::Absent { grace_ms: 0 });
    for step in plan(&ended, &seen).expect("planned") {
        if step == Step::Forget {
            let end = world.observe().last.expect("it ended");
            assert_eq!((end.cause, end.ended), (ExitCause::Killed, Ended::Signal(9)));
        }
        world.host.apply(world.ct, &step).expect("done");
    }
    assert!(is_gone(&world.observe()));
    wait_until(PATIENCE, "it is reaped", || !alive(init));
}

#[test]
fn one_whose_monitor_is_killed_is_not_taken_for_a_stray_while_it_dies() {
    if !needs() {
        return;
    }
    let world = World::new(9494, |_| {});
    for _ in 0..20 {
        world.start(world.script(STUBBORN));
        world.kill_monitor();
        let seen = world.observe();
        assert!(!seen.stray && seen.leftovers, "{seen:?}");
    }
}

#[test]
fn a_monitor_takes_away_only_what_is_its_own() {
    if !needs() {
        return;
    }
    let world = World::new(9495, |_| {});
    let dir = world.layout().ct_dir(world.ct);
    let end = |init: u32| {
        let monitor = parent(init);
        let init = Pid::from_raw(init.cast_signed()).expect("a number");
        rustix::process::kill_process(init, Signal::KILL).expect("killed");
        wait_until(PATIENCE, "the monitor ends", || !alive(monitor));
    };
    // Another monitor has begun meanwhile, by its lock.
    let init = world.start(world.script(STUBBORN));
    lose(&world, &["monitor.lock"]);
    let lock = std::fs::File::create(report::lock(&dir)).expect("made");
    rustix::fs::flock(&lock, FlockOperation::LockExclusive).expect("locked");
    end(init);
    let pin = world.layout().ct_netns(world.ct);
    assert!(ves_host::mount::is_mount_point(&pin).expect("told"), "its network stays");
    assert!(report::socket(&dir).exists() && report::state(&dir).exists());
    assert!(!report::exit(&dir).exists(), "no end is told of the other");
    drop(lock);
    world.stop(0);
    // The lock was lost, and nobody else has it: what it tells of its end is true.
    let init = world.start(world.script(STUBBORN));
    lose(&world, &["monitor.lock"]);
    end(init);
    let seen = world.observe();
    assert_eq!(seen.last.map(|last| last.ended), Some(Ended::Signal(9)));
    assert!(!seen.leftovers && !report::socket(&dir).exists() && !pin.exists(), "{seen:?}");
}

#[test]
fn the_end_of_a_stray_is_told() {
    if !needs() {
        return;
    }
    let world = World::new(9496, |_| {});
    if world.hierarchies.v2.is_none() {
        // Version 1 has no word for it; it is seen by who looks.
        return;
    }
    let init = world.start(world.script(STUBBORN));
    lose(&world, &["monitor.sock", "monitor.lock"]);
    let host = world.another_host();
    let (told, heard) = std::sync::mpsc::channel();
    let changed = move |ct| told.send(ct).expect("somebody listens");
    host.on_change(Box::new(changed)).expect("it tells");
    host.follow(world.ct).expect("followed");
    assert!(host.observe(world.ct).expect("observed").stray);
    let init = Pid::from_raw(init.cast_signed()).expect("a number");
    rustix::process::kill_process(init, Signal::KILL).expect("killed");
    wait_until(PATIENCE, "the end is told", || {
        let ct = heard.recv_timeout(PATIENCE).expect("told");
        ct == Some(world.ct) && !host.observe(world.ct).expect("observed").stray
    });
}

#[test]
fn the_fake_node_agrees_on_strays() {
    if !needs() {
        return;
    }
    let world = World::new(9497, |_| {});
    let fake = FakeHost::new();
    let model = || plain(fake.observe(world.ct).expect("observed"));
    for goal in [Goal::Created, Goal::Running] {
        for step in plan(&want(&world, goal), &world.observe()).expect("planned") {
            world.host.apply(world.ct, &step).expect("done");
            fake.apply(world.ct, &step).expect("done");
        }
        lose(&world, &["monitor.sock", "monitor.lock"]);
        fake.change(world.ct, Model::stray);
        let seen = world.observe();
        assert_eq!(plain(seen.clone()), model(), "{goal:?}");
        let ended = want(&world, Goal::Absent { grace_ms: 1000 });
        let steps = plan(&ended, &seen).expect("planned");
        assert_eq!(plan(&ended, &model()), Ok(steps.clone()));
        for step in steps {
            world.host.apply(world.ct, &step).expect("done");
            fake.apply(world.ct, &step).expect("done");
            assert_eq!(plain(world.observe()), model(), "after {step} of {goal:?}");
        }
    }
}
