//! Snapshots: taken while it runs, gone back to when it is stopped, each once, whatever is killed.

use std::time::Duration;

use ves_proto::api::SnapshotInterval as Interval;
use ves_proto::{Fault, Reason};
use ves_sim::sim::Command;
use ves_sim::words as pb;
use ves_sim::{Mishap, Sim, Victim, each_step};
use ves_types::layout::Daemon;

fn list(sim: &Sim) -> Vec<ves_proto::api::Snapshot> {
    sim.snapshots_of("101").expect("listed")
}

fn created() -> Sim {
    let sim = Sim::new();
    sim.run(&Command::create(101, |_| {})).expect("created");
    sim
}

fn take(sim: &Sim, name: &str) -> String {
    let op = sim.run(&Command::snapshot("101", name)).expect("taken");
    assert_eq!((op.kind.as_str(), op.steps.as_slice()), ("snapshot", &*lines(&op)));
    op.snapshot
}

fn lines(op: &pb::Operation) -> Vec<String> {
    vec![format!("storage: snapshot {}", op.snapshot)]
}

#[test]
fn taken_while_it_runs_and_gone_back_to_when_it_is_stopped() {
    let sim = created();
    sim.run(&Command::start("101")).expect("started");
    sim.kernel().write(101, 1);
    let first = take(&sim, "before");
    sim.kernel().write(101, 2);
    let second = take(&sim, "before");
    let names: Vec<_> = list(&sim).into_iter().map(|s| (pb::last(&s.name), s.title)).collect();
    assert_eq!(names, [(first.clone(), "before".into()), (second.clone(), "before".into())]);

    let fault = sim.run(&Command::snapshot_switch("101", &first)).expect_err("it runs");
    assert_eq!(fault.reason, Reason::Running, "{fault}");
    assert!(fault.message.contains("stop it"), "{fault}");
    sim.run(&Command::stop("101")).expect("stopped");
    let op = sim.run(&Command::snapshot_switch("101", &first)).expect("switched");
    assert_eq!((op.kind.as_str(), op.snapshot.as_str()), ("snapshot-switch", first.as_str()));
    assert_eq!(sim.kernel().read(101), Some(1));
    sim.kernel().write(101, 3);
    sim.run(&Command::start("101")).expect("started");
    assert_eq!(sim.kernel().read(101), Some(3), "it is gone back to once");
    sim.run(&Command::stop("101")).expect("stopped");
    sim.run(&Command::snapshot_switch("101", &first)).expect("as often as it is wanted");
    assert_eq!(sim.kernel().read(101), Some(1));

    sim.run(&Command::snapshot_delete("101", &second)).expect("deleted");
    let fault = sim.run(&Command::snapshot_delete("101", &second)).expect_err("gone");
    assert_eq!(fault.reason, Reason::SnapshotUnknown, "{fault}");
    assert_eq!(list(&sim).len(), 1);
    sim.run(&Command::delete("101")).expect("destroyed");
    assert!(sim.kernel().is_clean());
}

#[test]
fn refusals_change_nothing() {
    let sim = created();
    let id = take(&sim, "");
    let other = "019ab4a0-0000-7000-8000-00000000000f";
    let refused = |command: &Command| sim.run(command).expect_err("refused").reason;
    for command in [Command::snapshot_switch("101", other), Command::snapshot_delete("101", other)]
    {
        assert_eq!(refused(&command), Reason::SnapshotUnknown);
    }
    for bad in ["x", "../../etc/passwd", &id.to_uppercase()] {
        assert_eq!(refused(&Command::snapshot_switch("101", bad)), Reason::BadValue, "{bad}");
        assert_eq!(refused(&Command::snapshot_delete("101", bad)), Reason::BadValue, "{bad}");
    }
    assert_eq!(refused(&Command::snapshot_delete("101", "")), Reason::MissingField);
    assert_eq!(refused(&Command::snapshot("101", "a\nb")), Reason::BadValue);
    assert_eq!(refused(&Command::snapshot("101", &"n".repeat(200))), Reason::BadValue);
    assert_eq!(refused(&Command::snapshot("102", "")), Reason::ContainerUnknown);
    assert_eq!(refused(&Command::snapshot_switch("102", &id)), Reason::ContainerUnknown);
    let mount =
        pb::StartContainerRequest { ct: "101".into(), mount_only: true, ..Default::default() };
    sim.run(&Command::Start(mount)).expect("mounted");
    assert_eq!(refused(&Command::snapshot_switch("101", &id)), Reason::Mounted);
    assert_eq!(list(&sim).len(), 1);
    sim.kernel().lose_volume(101);
    assert_eq!(refused(&Command::snapshot("101", "")), Reason::VolumeUnknown);
    assert_eq!(list(&sim).len(), 1);
    let unmount = pb::StopContainerRequest { ct: "101".into(), ..Default::default() };
    sim.run(&Command::Stop(unmount)).ok();
    // What is left of a lost volume goes with the container.
    sim.run(&Command::delete("101")).ok();
    sim.until("all is gone", || {
        sim.run(&Command::delete("101")).ok();
        sim.kernel().is_clean()
    });
}

#[test]
fn dry_runs_say_what_would_be_done() {
    let sim = created();
    let id = take(&sim, "");
    let dry = |command: Command| {
        let command = match command {
            Command::Snapshot(r) => {
                Command::Snapshot(pb::CreateSnapshotRequest { dry_run: true, ..r })
            }
            Command::SnapshotSwitch(r) => {
                Command::SnapshotSwitch(pb::SwitchSnapshotRequest { dry_run: true, ..r })
            }
            Command::SnapshotDelete(r) => {
                Command::SnapshotDelete(pb::DeleteSnapshotRequest { dry_run: true, ..r })
            }
            other => other,
        };
        sim.ask(|| command.clone().send(sim.channel())).expect("planned")
    };
    let planned = |op: &pb::Operation, line: &str| {
        let (first, rest) = op.steps.split_first().expect("planned");
        assert_eq!(first, line);
        // What storage would do for it.
        assert!(!rest.is_empty() && rest.iter().all(|s| s.starts_with("  ")), "{rest:?}");
    };
    let op = dry(Command::snapshot("101", ""));
    planned(&op, &lines(&op)[0]);
    let op = dry(Command::snapshot_switch("101", &id));
    planned(&op, &format!("storage: volume as in snapshot {id}"));
    let op = dry(Command::snapshot_delete("101", &id));
    planned(&op, &format!("storage: no snapshot {id}"));
    assert_eq!(list(&sim).len(), 1);
}

#[test]
fn a_call_that_is_repeated_is_the_same_call() {
    let sim = created();
    let command = Command::snapshot("101", "once");
    let first = sim.run(&command).expect("taken");
    assert_eq!(sim.run(&command).expect("the same"), first);
    assert_eq!(list(&sim).len(), 1);
    let command = Command::snapshot_delete("101", &first.snapshot);
    let deleted = sim.run(&command).expect("deleted");
    assert_eq!(sim.run(&command).expect("the same").id, deleted.id);
}

/// A life with snapshots.
fn live_through(sim: &Sim, mishap: Option<(usize, Mishap)>) {
    let what = format!("{mishap:?}");
    let run = |command: Command| {
        let result = sim.run(&command);
        assert!(result.is_ok(), "{what}, {command:?}: {result:?}");
        result.expect("looked at above")
    };
    run(Command::create(101, |_| {}));
    run(Command::start("101"));
    sim.kernel().write(101, 1);
    let first = run(Command::snapshot("101", "one")).snapshot;
    let ids = |sim: &Sim| list(sim).into_iter().map(|s| pb::last(&s.name)).collect::<Vec<_>>();
    assert_eq!(ids(sim), std::slice::from_ref(&first), "{what}");
    sim.kernel().write(101, 2);
    run(Command::stop("101"));
    let second = run(Command::snapshot("101", "two")).snapshot;
    run(Command::snapshot_switch("101", &first));
    assert_eq!(sim.kernel().read(101), Some(1), "{what}");
    sim.kernel().write(101, 5);
    run(Command::start("101"));
    assert_eq!(sim.kernel().read(101), Some(5), "{what}: what was done is not done again");
    run(Command::snapshot_delete("101", &first));
    assert_eq!(ids(sim), [second], "{what}");
    run(Command::stop("101"));
    run(Command::delete("101"));
}

#[test]
fn storage_or_another_service_killed_at_each_step() {
    each_step(&Mishap::kills(Victim::Daemon), live_through);
}

#[test]
fn the_coordinator_killed_at_each_step() {
    each_step(&Mishap::kills(Victim::Coordinator), live_through);
}

#[test]
fn everything_killed_at_each_step() {
    each_step(&[Mishap::KillAfter(Victim::All)], live_through);
}

#[test]
fn what_fails_for_good_leaves_nothing_and_can_be_repeated() {
    for mishap in [Mishap::FailBefore(Reason::HostFailed), Mishap::FailAfter(Reason::HostFailed)] {
        let sim = created();
        sim.kernel().write(101, 1);
        sim.script().at_call(0, mishap);
        let fault = sim.run(&Command::snapshot("101", "")).expect_err("as scripted");
        assert_eq!(fault.reason, Reason::HostFailed);
        assert_eq!(list(&sim), [], "{mishap:?}");
        let id = take(&sim, "");
        sim.kernel().write(101, 2);
        sim.script().at_call(0, mishap);
        sim.run(&Command::snapshot_switch("101", &id)).expect_err("as scripted");
        assert_eq!(sim.state("101"), pb::ContainerState::Stopped);
        // It is not done later, behind anybody's back.
        let contents = sim.kernel().read(101);
        sim.run(&Command::start("101")).expect("started");
        assert_eq!(sim.kernel().read(101), contents);
        sim.run(&Command::stop("101")).expect("stopped");
        sim.run(&Command::snapshot_switch("101", &id)).expect("repeated");
        assert_eq!(sim.kernel().read(101), Some(1));
        sim.script().at_call(0, mishap);
        sim.run(&Command::snapshot_delete("101", &id)).expect_err("as scripted");
        sim.run(&Command::snapshot_delete("101", &id)).ok();
        assert_eq!(list(&sim), [], "{mishap:?}");
        sim.run(&Command::delete("101")).expect("destroyed");
        assert!(sim.kernel().is_clean());
    }
}

#[test]
fn what_a_container_does_meanwhile_is_honoured_afterwards() {
    use ves_types::ExitCause;
    for (end, state) in [
        (ExitCause::Rebooted, pb::ContainerState::Running),
        (ExitCause::Halted, pb::ContainerState::Stopped),
    ] {
        let sim = created();
        sim.run(&Command::start("101")).expect("started");
        sim.until("it is seen to run", || sim.state("101") == pb::ContainerState::Running);
        let starts = sim.kernel().ct(101).process.starts;
        sim.script().hold(101, true);
        let command = Command::snapshot("101", "");
        let op = sim.ask(|| command.clone().send(sim.channel())).expect("begun");
        sim.kernel().end_inside(101, end, 0);
        sim.until("its end is seen", || sim.state("101") != pb::ContainerState::Running);
        sim.script().hold(101, false);
        assert_eq!(sim.end_of(&op.id).state(), pb::OperationState::Succeeded);
        sim.until("what it did is honoured", || {
            sim.get("101").is_ok_and(|c| c.state() == state && c.operation.is_empty())
        });
        let again = u64::from(end == ExitCause::Rebooted);
        assert_eq!(sim.kernel().ct(101).process.starts, starts + again, "{end:?}");
        assert_eq!(list(&sim).len(), 1);
    }
}

#[test]
fn after_a_boot_in_the_middle_it_is_finished_and_the_container_is_up_again() {
    let sim = Sim::new();
    sim.run(&Command::create(101, |s| s.onboot = true)).expect("created");
    sim.run(&Command::start("101")).expect("started");
    sim.script().hold(101, true);
    let command = Command::snapshot("101", "");
    let op = sim.ask(|| command.clone().send(sim.channel())).expect("begun");
    sim.boot("boot-2");
    sim.script().hold(101, false);
    assert_eq!(sim.end_of(&op.id).state(), pb::OperationState::Succeeded);
    let ids: Vec<_> = list(&sim).into_iter().map(|s| pb::last(&s.name)).collect();
    assert_eq!(ids, [op.snapshot]);
    sim.until("it is up", || {
        sim.get("101")
            .is_ok_and(|c| c.state() == pb::ContainerState::Running && c.operation.is_empty())
    });
}

#[test]
fn a_coordinator_killed_in_the_middle_asks_nobody_else_again() {
    let sim = created();
    sim.run(&Command::start("101")).expect("started");
    sim.until("it is seen to run", || sim.state("101") == pb::ContainerState::Running);
    let before = sim.script().log().len();
    sim.script().at_call(0, Mishap::KillAfter(Victim::Coordinator));
    sim.run(&Command::snapshot("101", "")).expect("taken");
    sim.restart(Daemon::Coordinator);
    sim.until("it is back", || sim.get("101").is_ok_and(|c| c.operation.is_empty()));
    let looks = sim.script().looks();
    sim.until("it was looked at twice, and acted upon once", || {
        sim.advance(Duration::from_secs(300));
        sim.script().looks() >= looks + 2
    });
    assert_eq!(sim.script().log()[before..], ["EnsureSnapshot 101"]);
}

#[test]
fn with_the_real_storage_on_a_fake_host() {
    // Each step fails once, at one of the first steps.
    for fails in 0..14 {
        let sim = Sim::new();
        let ct = 101_u32.try_into().expect("valid");
        let volumes = std::sync::Arc::clone(&sim.kernel().volumes);
        let run = |command: Command| sim.run(&command);
        run(Command::create(101, |_| {})).expect("created");
        run(Command::start("101")).expect("started");
        volumes.write(ct, 1);
        volumes.fail_after(fails);
        let twice = |command: &dyn Fn() -> Command| {
            run(command()).or_else(|_| run(command())).expect("done in the end")
        };
        let first = twice(&|| Command::snapshot("101", "one")).snapshot;
        volumes.write(ct, 2);
        twice(&|| Command::snapshot("101", "two"));
        let shown = list(&sim);
        assert_eq!(shown.len(), 2, "{shown:?}");
        assert_eq!((pb::last(&shown[1].parent), shown[1].current), (first.clone(), true));
        twice(&|| Command::stop("101"));
        twice(&|| Command::snapshot_switch("101", &first));
        assert_eq!(volumes.read(ct), 1);
        assert!(list(&sim)[0].current && list(&sim)[0].own_bytes.is_some());
        sim.restart(Daemon::Storage);
        sim.restart(Daemon::Coordinator);
        twice(&|| Command::start("101"));
        twice(&|| Command::stop("101"));
        twice(&|| Command::delete("101"));
        sim.until("all is gone", || sim.kernel().is_clean());
        let left = list_of_unknown(&sim);
        assert_eq!(left.reason, Reason::ContainerUnknown);
    }
}

fn list_of_unknown(sim: &Sim) -> Fault {
    sim.snapshots_of("101").expect_err("unknown")
}

/// A container that is up and of which snapshots are kept.
fn kept(hourly: u32, daily: u32) -> Sim {
    let sim = created();
    set_schedule(&sim, hourly, daily);
    sim.run(&Command::start("101")).expect("started");
    sim
}

fn set_schedule(sim: &Sim, hourly: u32, daily: u32) {
    let schedule = ves_proto::api::SnapshotSchedule { hourly, daily, weekly: 0 };
    let spec = pb::ContainerSpec { snapshot_schedule: Some(schedule), ..Default::default() };
    sim.run(&Command::set("101", &["snapshot_schedule"], spec)).expect("set");
}

/// Lets so many minutes go by, with a look at schedules in each.
fn live(sim: &Sim, minutes: u64) {
    for _ in 0..minutes {
        sim.advance(Duration::from_secs(60));
        sim.pause(5);
    }
}

/// Lets an hour go by, and as many minutes as it takes until there is a younger snapshot than before and at most
/// so many are left.
fn live_an_hour(sim: &Sim, left: usize) {
    let newest = |all: Vec<ves_proto::api::Snapshot>| all.last().map(|s| s.name.clone());
    let before = newest(list(sim));
    sim.advance(Duration::from_secs(58 * 60));
    sim.until("there is a younger one, and the oldest went", || {
        live(sim, 1);
        let all = list(sim);
        all.len() <= left && newest(all) != before
    });
}

fn kept_for(sim: &Sim) -> Vec<Vec<Interval>> {
    list(sim).iter().map(|s| s.kept_for().collect()).collect()
}

#[test]
fn a_schedule_takes_them_and_lets_the_oldest_go() {
    use Interval::{Daily, Hourly};
    let sim = kept(2, 1);
    let own = take(&sim, "mine");
    live(&sim, 1);
    let daily = |sim: &Sim| kept_for(sim).iter().any(|all| all.contains(&Daily));
    while !daily(&sim) {
        live_an_hour(&sim, 4);
    }
    live_an_hour(&sim, 4);
    live_an_hour(&sim, 4);
    let all = kept_for(&sim);
    assert_eq!(all[0], [], "nobody takes away what somebody asked for");
    assert_eq!(pb::last(&list(&sim)[0].name), own);
    assert_eq!(all[1], [Hourly, Daily], "one for both");
    assert_eq!(all[2..], [[Hourly], [Hourly]]);
    let titles: Vec<_> = list(&sim).into_iter().map(|s| s.title).collect();
    assert_eq!(titles, ["mine", "hourly, daily", "hourly", "hourly"]);
    let ops = sim.all_operations();
    let by = ops.iter().find(|op| op.kind == "snapshot-delete").expect("one was deleted");
    assert_eq!(by.principal, "schedule");

    // Without a schedule they stay.
    set_schedule(&sim, 0, 0);
    live(&sim, 120);
    assert_eq!(list(&sim).len(), 4);
    // Nothing changes while it is down.
    set_schedule(&sim, 2, 1);
    live(&sim, 2);
    sim.run(&Command::stop("101")).expect("stopped");
    let before = list(&sim);
    live(&sim, 130);
    assert_eq!(list(&sim), before);
    sim.run(&Command::delete("101")).expect("destroyed");
    assert!(sim.kernel().is_clean());
}

#[test]
fn a_schedule_counts_what_is_there() {
    let sim = kept(3, 0);
    live(&sim, 1);
    for _ in 0..4 {
        live_an_hour(&sim, 3);
    }
    // Somebody deletes two: the third stays until there are three younger ones.
    let oldest = pb::last(&list(&sim)[0].name);
    for snapshot in &list(&sim)[1..] {
        sim.run(&Command::snapshot_delete("101", &pb::last(&snapshot.name))).expect("deleted");
    }
    live_an_hour(&sim, 2);
    live_an_hour(&sim, 3);
    assert_eq!(pb::last(&list(&sim)[0].name), oldest);
    live_an_hour(&sim, 3);
    assert_ne!(pb::last(&list(&sim)[0].name), oldest);
}

#[test]
fn a_snapshot_that_cannot_be_deleted_is_tried_again_after_an_hour_and_holds_up_nobody() {
    let sim = kept(2, 0);
    live_an_hour(&sim, 2);
    live_an_hour(&sim, 2);
    let stuck = pb::last(&list(&sim)[0].name);
    // The next step there is: a schedule is set without any.
    sim.script().at_step(0, Mishap::FailBefore(Reason::HostFailed));
    set_schedule(&sim, 1, 0);
    let tried = || {
        let ops = sim.all_operations();
        ops.iter().filter(|op| op.kind == "snapshot-delete" && op.snapshot == stuck).count()
    };
    sim.until("it was tried", || {
        live(&sim, 1);
        tried() == 1
    });
    live(&sim, 20);
    assert_eq!((tried(), list(&sim).len()), (1, 2), "{:?}", sim.all_operations());
    sim.until("it is gone", || {
        live(&sim, 1);
        list(&sim).iter().all(|s| pb::last(&s.name) != stuck)
    });
    assert_eq!(tried(), 2);
}
