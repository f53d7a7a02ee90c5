//! A container's life through the public API: create, start, set, stop, destroy, and what is shown.

use ves_proto::Reason;
use ves_sim::Sim;
use ves_sim::sim::Command;
use ves_sim::words as pb;
use ves_types::ExitCause;
use ves_types::layout::Daemon;

fn strings(words: &[&str]) -> Vec<String> {
    words.iter().map(|w| (*w).to_owned()).collect()
}

#[test]
fn from_create_to_destroy() {
    let sim = Sim::on_disk();
    let op = sim
        .run(&Command::create(0, |s| {
            s.name = "web".to_owned();
            s.addresses = strings(&["192.0.2.1", "2001:db8::1", "192.0.2.1"]);
        }))
        .expect("created");
    assert_eq!((op.kind.as_str(), op.ct, op.principal.as_str()), ("create", 101, "root"));
    assert_eq!(op.steps, ["storage: volume of 2 GiB from trixie, not mounted"]);
    assert!(op.ended_unix_ms >= op.started_unix_ms && op.started_unix_ms > 0);
    let ct = sim.get("web").expect("there, by name");
    assert_eq!((ct.id, ct.state(), ct.node.as_str()), (101, pb::ContainerState::Stopped, "sim"));
    let spec = ct.spec.expect("set");
    assert_eq!((spec.hostname.as_str(), spec.addresses.len()), ("ct101", 2));

    let op = sim.run(&Command::start("web")).expect("started");
    assert_eq!(
        op.steps,
        [
            "resources: control groups and limits",
            "storage: volume of 2 GiB, mounted",
            "lifecycle: namespaces, init waiting",
            "network: link with 192.0.2.1 2001:db8::1",
            "lifecycle: /sbin/init running",
        ]
    );
    let ct = sim.get("101").expect("there, by id");
    assert_eq!(ct.state(), pb::ContainerState::Running);
    assert_eq!(
        (ct.init_pid, ct.numproc, ct.disk_used_bytes),
        (Some(4242), Some(1), Some(200 << 20))
    );
    assert!(ct.started_unix_ms.is_some() && ct.problem.is_empty() && ct.operation.is_empty());

    let more = |r: &mut pb::UpdateContainerRequest| {
        r.add_addresses = strings(&["192.0.2.9"]);
        r.remove_addresses = strings(&["2001:db8::1"]);
        r.save = true;
    };
    let op = sim.run(&Command::update("101", more)).expect("set");
    assert_eq!(op.steps, ["network: link with 192.0.2.1 192.0.2.9"], "nothing else is disturbed");
    let all = sim.kernel().ct(101).link.expect("up");
    assert_eq!(all.into_iter().collect::<Vec<_>>(), ["192.0.2.1", "192.0.2.9"]);

    let op = sim.run(&Command::stop("101")).expect("stopped");
    assert_eq!(
        op.steps,
        [
            "lifecycle: no processes, killed",
            "network: no link",
            "storage: volume of 2 GiB from trixie, not mounted",
            "resources: no control groups",
        ]
    );
    assert_eq!(sim.state("101"), pb::ContainerState::Stopped);
    let op = sim.run(&Command::delete("101")).expect("destroyed");
    assert_eq!(op.steps, ["storage: no volume"]);
    assert!(sim.kernel().is_clean());
    assert_eq!(sim.get("101").expect_err("gone").reason, Reason::ContainerUnknown);
    assert_eq!(sim.get("web").expect_err("gone").reason, Reason::ContainerUnknown);
    // The same id again: services may remember generations of the one before.
    sim.run(&Command::create(101, |s| s.addresses = strings(&["192.0.2.1"]))).expect("again");
    sim.run(&Command::start("101")).expect("started");
}

#[test]
fn what_is_not_saved_lasts_until_it_stops() {
    let sim = Sim::new();
    sim.run(&Command::create(101, |s| s.addresses = strings(&["192.0.2.1"]))).expect("created");
    let unsaved = |r: &mut pb::UpdateContainerRequest| r.add_addresses = strings(&["192.0.2.2"]);
    let fault = sim.run(&Command::update("101", unsaved)).expect_err("stopped");
    assert_eq!(fault.reason, Reason::NotRunning);
    sim.run(&Command::start("101")).expect("started");
    sim.run(&Command::update("101", unsaved)).expect("set");
    let ct = sim.get("101").expect("there");
    assert_eq!(ct.spec.expect("set").addresses, ["192.0.2.1"]);
    assert_eq!(ct.running_spec.expect("differs").addresses, ["192.0.2.1", "192.0.2.2"]);
    // An address it only runs with is its own as much as a saved one.
    let other = Command::create(102, |s| s.addresses = strings(&["192.0.2.2"]));
    assert_eq!(sim.run(&other).expect_err("taken").reason, Reason::AddressTaken);
    sim.run(&Command::restart("101")).expect("restarted");
    assert_eq!(sim.get("101").expect("there").running_spec, None);
    assert_eq!(sim.kernel().ct(101).link.expect("up").len(), 1);
    sim.run(&other).expect("free again");
}

#[test]
fn names_change_while_it_runs_and_nobodys_are_the_containers_own() {
    let sim = Sim::new();
    sim.run(&Command::create(101, |_| {})).expect("created");
    sim.run(&Command::start("101")).expect("started");
    let names = || sim.kernel().ct(101).process.spec.expect("it runs").names();
    assert_eq!(names().hostname, None, "the default is nobody's choice");
    let set = |save: bool, fields: &[&str], hostname: &str, server: &[&str]| {
        sim.run(&Command::update("101", |r| {
            r.update_mask = strings(fields);
            r.spec = Some(pb::ContainerSpec {
                hostname: hostname.to_owned(),
                nameservers: strings(server),
                ..Default::default()
            });
            r.save = save;
        }))
    };
    let both = ["hostname", "nameservers"];
    set(true, &both, "new", &["192.0.2.53"]).expect("at once");
    assert_eq!(names().hostname.map(|name| name.to_string()).as_deref(), Some("new"));
    assert_eq!(names().nameservers.len(), 1);
    set(false, &["hostname"], "brief", &[]).expect("at once");
    assert_eq!(names().hostname.map(|name| name.to_string()).as_deref(), Some("brief"));
    sim.restart(Daemon::Coordinator);
    sim.restart(Daemon::Lifecycle);
    assert_eq!(names().hostname.map(|name| name.to_string()).as_deref(), Some("brief"));
    sim.run(&Command::restart("101")).expect("restarted");
    assert_eq!(names().hostname.map(|name| name.to_string()).as_deref(), Some("new"), "as saved");
    set(true, &both, "", &[]).expect("cleared");
    assert_eq!((names().hostname, names().nameservers), (None, vec![]));
    assert_eq!(sim.kernel().ct(101).process.starts, 2, "no start but those asked for");
}

#[test]
fn what_needs_a_restart() {
    let sim = Sim::new();
    sim.run(&Command::create(101, |_| {})).expect("created");
    sim.run(&Command::start("101")).expect("started");
    let other = |mode: pb::SetMode| {
        Command::update("101", |r| {
            r.update_mask = strings(&["init"]);
            r.spec = Some(pb::ContainerSpec { init: strings(&["/new"]), ..Default::default() });
            r.save = true;
            r.set_mode = mode;
        })
    };
    let init = || sim.kernel().ct(101).process.spec.expect("it runs").init.program().to_owned();
    let fault = sim.run(&other(pb::SetMode::Unspecified)).expect_err("refused");
    assert_eq!((fault.reason, fault.facts["field"].as_str()), (Reason::NeedsRestart, "spec.init"));
    sim.run(&other(pb::SetMode::Ignore)).expect("saved");
    assert_eq!(init(), "/sbin/init");
    assert!(sim.get("101").expect("there").running_spec.is_some());
    sim.run(&other(pb::SetMode::Restart)).expect("restarted");
    assert_eq!(init(), "/new");
    assert_eq!(sim.kernel().ct(101).process.starts, 2);
    assert_eq!(sim.get("101").expect("there").running_spec, None);
}

#[test]
fn features_are_given_at_a_start_and_two_exclude_each_other() {
    let sim = Sim::new();
    let features = |nesting, migratable, abi32| {
        let features = Some(ves_proto::common::Features { nesting, migratable, abi32 });
        pb::ContainerSpec { features, ..Sim::spec("trixie") }
    };
    let set = |fields: &[&str], spec| {
        sim.run(&Command::update("101", |r| {
            r.update_mask = fields.iter().map(|field| format!("features.{field}")).collect();
            r.spec = Some(spec);
            r.save = true;
            r.set_mode = pb::SetMode::Restart;
        }))
    };
    let runs_with = || {
        let spec = sim.kernel().ct(101).process.spec.expect("it runs");
        spec.features.to_string()
    };
    let both = features(Some(true), Some(true), None);
    let fault = sim.run(&Command::create(101, |s| *s = both.clone())).expect_err("not both");
    assert_eq!(
        (fault.reason, fault.facts["field"].as_str()),
        (Reason::BadValue, "container.spec.features")
    );
    sim.run(&Command::create(101, |_| {})).expect("created");
    sim.run(&Command::start("101")).expect("started");
    assert_eq!(runs_with(), "nesting:off,migratable:on,abi32:on");
    // Who writes back what he has read with one thing changed names that.
    set(&["nesting", "abi32"], features(Some(true), Some(true), Some(false))).expect("restarted");
    assert_eq!(runs_with(), "nesting:on,migratable:off,abi32:off");
    let fault = set(&["migratable"], features(None, Some(true), None)).expect_err("it nests");
    assert_eq!(
        (fault.reason, fault.facts["field"].as_str()),
        (Reason::BadValue, "container.spec.features")
    );
    set(&["migratable", "nesting"], both).expect_err("not both");
    set(&["nesting"], features(Some(false), None, None)).expect("restarted");
    assert_eq!(runs_with(), "nesting:off,migratable:on,abi32:off");
    assert_eq!(sim.kernel().ct(101).process.starts, 3, "no start but those asked for");
}

#[test]
fn volumes_grow_and_stay_grown() {
    let sim = Sim::new();
    let size = |gib: u64| pb::ContainerSpec { disk_bytes: gib << 30, ..Default::default() };
    sim.run(&Command::create(101, |_| {})).expect("created");
    sim.run(&Command::set("101", &["disk_bytes"], size(3))).expect("grown, stopped");
    sim.run(&Command::start("101")).expect("started");
    let unsaved = Command::update("101", |r| {
        r.update_mask = strings(&["disk_bytes"]);
        r.spec = Some(size(4));
    });
    sim.run(&unsaved).expect("grown, running");
    sim.run(&Command::stop("101")).expect("stopped");
    sim.run(&Command::start("101")).expect("and started with what it has");
    assert_eq!(sim.kernel().ct(101).volume.expect("there").size, 4 << 30);
    let fault = sim.run(&Command::set("101", &["disk_bytes"], size(1))).expect_err("shrinks");
    assert_eq!(fault.reason, Reason::WouldShrink);
}

#[test]
fn what_a_service_cannot_do_while_it_runs() {
    let sim = Sim::new();
    sim.kernel().volumes.grow_online(false);
    sim.run(&Command::create(101, |_| {})).expect("created");
    sim.run(&Command::start("101")).expect("started");
    let grow = |gib: u64, mode: pb::SetMode| {
        Command::update("101", |r| {
            r.update_mask = strings(&["disk_bytes"]);
            r.spec = Some(pb::ContainerSpec { disk_bytes: gib << 30, ..Default::default() });
            r.save = true;
            r.set_mode = mode;
        })
    };
    let size = || sim.kernel().ct(101).volume.expect("there").size >> 30;
    let fault = sim.run(&grow(3, pb::SetMode::Unspecified)).expect_err("refused");
    assert_eq!((fault.reason, size()), (Reason::NeedsRestart, 2));
    assert_eq!(sim.get("101").expect("there").spec.expect("set").disk_bytes, 2 << 30);
    sim.run(&grow(3, pb::SetMode::Ignore)).expect("later");
    assert_eq!((size(), sim.kernel().ct(101).process.starts), (2, 1));
    let ct = sim.get("101").expect("there");
    assert_eq!(ct.spec.expect("set").disk_bytes, 3 << 30);
    assert_eq!(ct.running_spec.expect("differs").disk_bytes, 2 << 30);
    sim.run(&grow(4, pb::SetMode::Restart)).expect("restarted");
    assert_eq!((size(), sim.kernel().ct(101).process.starts), (4, 2));
    sim.run(&grow(5, pb::SetMode::Ignore)).expect("later");
    sim.run(&Command::stop("101")).expect("stopped");
    assert_eq!(size(), 5);
    sim.run(&Command::start("101")).expect("started");
}

#[test]
fn mounted_without_running() {
    let sim = Sim::new();
    sim.run(&Command::create(101, |_| {})).expect("created");
    let mount =
        || pb::StartContainerRequest { ct: "101".into(), mount_only: true, ..Default::default() };
    let umount =
        || pb::StopContainerRequest { ct: "101".into(), unmount_only: true, ..Default::default() };
    assert_eq!(sim.run(&Command::Stop(umount())).expect_err("not").reason, Reason::NotMounted);
    sim.run(&Command::Start(mount())).expect("mounted");
    assert_eq!(sim.state("101"), pb::ContainerState::Mounted);
    assert_eq!(sim.run(&Command::Start(mount())).expect_err("is").reason, Reason::Mounted);
    assert_eq!(sim.run(&Command::delete("101")).expect_err("is").reason, Reason::Mounted);
    sim.run(&Command::start("101")).expect("started");
    assert_eq!(sim.run(&Command::Stop(umount())).expect_err("runs").reason, Reason::Running);
    let keep = pb::StopContainerRequest {
        ct: "101".into(),
        fast: true,
        skip_unmount: true,
        ..Default::default()
    };
    sim.run(&Command::Stop(keep)).expect("stopped");
    assert_eq!(sim.state("101"), pb::ContainerState::Mounted);
    sim.run(&Command::Stop(umount())).expect("unmounted");
    assert_eq!(sim.state("101"), pb::ContainerState::Stopped);
}

#[test]
fn reboot_and_halt_inside() {
    let sim = Sim::new();
    sim.run(&Command::create(101, |_| {})).expect("created");
    sim.run(&Command::start("101")).expect("started");
    for n in 2..5 {
        sim.kernel().end_inside(101, ExitCause::Rebooted, 0);
        sim.until("it starts again", || {
            sim.kernel().ct(101).process.starts == n
                && sim.get("101").is_ok_and(|ct| ct.operation.is_empty())
        });
        assert_eq!(sim.state("101"), pb::ContainerState::Running);
    }
    // Lifecycle tells of the same end again when it is watched anew.
    sim.restart(Daemon::Lifecycle);
    sim.restart(Daemon::Coordinator);
    sim.until("it is adopted", || sim.state("101") == pb::ContainerState::Running);
    assert_eq!(sim.kernel().ct(101).process.starts, 4);
    for end in [ExitCause::Halted, ExitCause::Exited] {
        sim.kernel().end_inside(101, end, 0);
        sim.until("it is stopped", || {
            let nothing = sim.kernel().ct(101);
            !nothing.guard()
                && nothing.group.is_none()
                && sim.get("101").is_ok_and(|ct| {
                    ct.operation.is_empty() && ct.state() == pb::ContainerState::Stopped
                })
        });
        sim.run(&Command::start("101")).expect("started by hand");
    }
    sim.kernel().vanish(101);
    sim.restart(Daemon::Lifecycle);
    sim.until("its loss is noticed", || sim.state("101") == pb::ContainerState::Stopped);
}

#[test]
fn a_set_revives_nothing_that_has_ended() {
    let sim = Sim::new();
    sim.run(&Command::create(101, |_| {})).expect("created");
    let ends = [(ExitCause::Halted, 1), (ExitCause::Exited, 1), (ExitCause::Rebooted, 2)];
    for (n, (end, starts)) in (0..).zip(ends) {
        sim.run(&Command::start("101")).expect("started");
        let before = sim.kernel().ct(101).process.starts;
        // The end comes while the change is on its way, which has looked already.
        sim.script().hold(101, true);
        let request = pb::UpdateContainerRequest {
            ct: "101".into(),
            spec: Some(pb::ContainerSpec {
                limits: Some(ves_proto::common::Limits {
                    cpu_units: Some(500 + n),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            update_mask: strings(&["limits.cpu_units"]),
            save: true,
            ..Default::default()
        };
        let change = Command::Update(Box::new(request));
        let begun = sim.ask(|| change.clone().send(sim.channel())).expect("begun");
        sim.kernel().end_inside(101, end, 0);
        sim.script().hold(101, false);
        let op = sim.end_of(&begun.id);
        assert_eq!(op.state(), pb::OperationState::Succeeded, "{op:?}");
        assert!(!op.steps.iter().any(|step| step.ends_with("running")), "{:?}", op.steps);
        sim.until(&format!("the end is honoured: {end:?}"), || {
            let goes_on = end == ExitCause::Rebooted;
            let wanted =
                if goes_on { pb::ContainerState::Running } else { pb::ContainerState::Stopped };
            sim.get("101").is_ok_and(|ct| ct.operation.is_empty() && ct.state() == wanted)
        });
        assert_eq!(sim.kernel().ct(101).process.starts, before + starts - 1, "{end:?}");
    }
}

#[test]
fn a_reboot_while_nobody_looked_is_honoured_once() {
    use Daemon::Coordinator;
    let sim = Sim::new();
    sim.run(&Command::create(101, |_| {})).expect("created");
    sim.run(&Command::start("101")).expect("started");
    sim.kill(Coordinator);
    sim.kernel().end_inside(101, ExitCause::Rebooted, 0);
    sim.start_daemon(Coordinator);
    sim.until("it starts again", || sim.kernel().ct(101).process.starts == 2);
    sim.until("that is over", || sim.get("101").is_ok_and(|ct| ct.operation.is_empty()));
    sim.restart(Coordinator);
    sim.until("it is adopted", || sim.state("101") == pb::ContainerState::Running);
    assert_eq!(sim.kernel().ct(101).process.starts, 2);
}

#[test]
fn an_init_that_ends_at_once() {
    let sim = Sim::configured(|c| c.early_exit_grace_ms = 10_000);
    for (init, status) in [("/bin/false", "1"), ("/bin/late", "3")] {
        sim.run(&Command::create(101, |s| s.init = strings(&[init]))).expect("created");
        let start = Command::start("101");
        let op = sim.ask(|| start.clone().send(sim.channel())).expect("begun");
        if init == "/bin/late" {
            // A moment after lifecycle has answered.
            sim.until("it runs", || sim.state("101") == pb::ContainerState::Running);
            sim.kernel().end_inside(101, ExitCause::Exited, 3);
        }
        let end = sim.end_of(&op.id);
        let fault = end.fault.expect("no init");
        assert_eq!((fault.reason, fault.facts["status"].as_str()), (Reason::InitExited, status));
        assert_eq!(sim.state("101"), pb::ContainerState::Stopped);
        let left = sim.kernel().ct(101);
        assert!(left.group.is_none() && !left.guard() && left.volume.is_some_and(|v| !v.mounted));
        sim.run(&Command::delete("101")).expect("destroyed");
    }
}

#[test]
fn waiting_for_boot() {
    let sim = Sim::configured(|c| c.booted_within_ms = 180_000);
    let start = |ct: &str| {
        Command::Start(pb::StartContainerRequest {
            ct: ct.to_owned(),
            wait: true,
            ..Default::default()
        })
    };
    sim.run(&Command::create(101, |_| {})).expect("created");
    sim.run(&start("101")).expect("booted");
    sim.run(&Command::create(102, |s| s.init = strings(&["/bin/never-boots"]))).expect("created");
    let op = sim.ask(|| start("102").send(sim.channel())).expect("begun");
    let mut end = None;
    sim.until("it is late", || {
        sim.advance(std::time::Duration::from_secs(10));
        let now = sim.operation(&op.id).expect("there");
        end = now.fault;
        now.state != i32::from(pb::OperationState::Running)
    });
    assert_eq!(end.expect("late").reason, Reason::Timeout);
    assert_eq!(sim.state("102"), pb::ContainerState::Running, "slow is not stopped");
}

#[test]
fn onboot_in_order() {
    let sim = Sim::configured(|c| c.boot_parallel = 1);
    let orders = [(101, None), (102, Some(5)), (103, Some(9)), (104, Some(5)), (105, None)];
    for (id, order) in orders {
        sim.run(&Command::create(id, |s| {
            s.onboot = id != 105;
            s.boot_order = order;
            s.disabled = id == 104;
        }))
        .expect("created");
    }
    sim.run(&Command::start("105")).expect("started, but not onboot");
    sim.run(&Command::start("102")).expect("started");
    sim.restart(Daemon::Coordinator);
    sim.until("a restart is no boot", || sim.state("105") == pb::ContainerState::Running);
    sim.script().clear_log();
    sim.boot("boot-2");
    sim.until("all are up", || {
        ["101", "102", "103"].iter().all(|ct| {
            sim.get(ct)
                .is_ok_and(|c| c.state() == pb::ContainerState::Running && c.operation.is_empty())
        })
    });
    let log = sim.script().log();
    let started: Vec<_> = log.iter().filter(|l| l.starts_with("RunProcess")).collect();
    assert_eq!(started, ["RunProcess 103", "RunProcess 102", "RunProcess 101"]);
    for ct in ["104", "105"] {
        assert_eq!(sim.state(ct), pb::ContainerState::Stopped);
    }
}

#[test]
fn disabled_starts_by_force_only() {
    let sim = Sim::new();
    sim.run(&Command::create(101, |s| s.disabled = true)).expect("created");
    let fault = sim.run(&Command::start("101")).expect_err("disabled");
    assert_eq!(fault.reason, Reason::Disabled);
    assert_eq!(sim.run(&Command::restart("101")).expect_err("too").reason, Reason::Disabled);
    let force = pb::StartContainerRequest { ct: "101".into(), force: true, ..Default::default() };
    sim.run(&Command::Start(force)).expect("forced");
}

#[test]
fn a_lost_volume_is_said_and_never_replaced() {
    let sim = Sim::new();
    sim.run(&Command::create(101, |_| {})).expect("created");
    sim.kernel().lose_volume(101);
    assert_eq!(sim.run(&Command::start("101")).expect_err("lost").reason, Reason::VolumeUnknown);
    let ct = sim.get("101").expect("still known");
    assert_eq!(ct.state(), pb::ContainerState::Broken);
    assert!(ct.problem.contains("lost its volume"), "{}", ct.problem);
    assert!(sim.kernel().ct(101).volume.is_none());
    sim.run(&Command::delete("101")).expect("it can be destroyed");
}

fn mount(ct: u32) -> Command {
    let ct = ct.to_string();
    Command::Start(pb::StartContainerRequest { ct, mount_only: true, ..Default::default() })
}

fn umount(ct: u32) -> Command {
    let ct = ct.to_string();
    Command::Stop(pb::StopContainerRequest { ct, unmount_only: true, ..Default::default() })
}

#[test]
fn slots_come_back_last() {
    let sim = Sim::new();
    for id in [101, 102] {
        sim.run(&Command::create(id, |_| {})).expect("created");
    }
    let slot = |ct| {
        // It shows where the volume is mounted.
        sim.run(&mount(ct)).expect("mounted");
        let slot = sim.kernel().ct(ct).volume.expect("there").slot.expect("it is mounted");
        sim.run(&umount(ct)).expect("unmounted");
        slot
    };
    let first = slot(101);
    assert_ne!(first, slot(102));
    sim.run(&Command::delete("101")).expect("destroyed");
    sim.run(&Command::create(103, |_| {})).expect("created");
    assert!(![first, slot(102)].contains(&slot(103)));
}

#[test]
fn init_has_as_long_to_stop_as_the_container_says() {
    let sim = Sim::new();
    sim.run(&Command::create(101, |s| s.stop_timeout_s = Some(30))).expect("created");
    sim.run(&Command::start("101")).expect("started");
    let first = |change: &dyn Fn(&mut pb::StopContainerRequest)| {
        let mut request =
            pb::StopContainerRequest { ct: "101".into(), dry_run: true, ..Default::default() };
        change(&mut request);
        let planned = sim.ask(|| Command::Stop(request.clone()).send(sim.channel()));
        planned.expect("planned").steps[0].clone()
    };
    assert_eq!(first(&|_| {}), "lifecycle: no processes, init has 30 s to stop");
    assert_eq!(first(&|r| r.grace_ms = 5000), "lifecycle: no processes, init has 5 s to stop");
    assert_eq!(first(&|r| r.fast = true), "lifecycle: no processes, killed");
    let none = pb::ContainerSpec { stop_timeout_s: None, ..Sim::spec("trixie") };
    sim.run(&Command::set("101", &["stop_timeout_s"], none)).expect("set while it runs");
    assert_eq!(first(&|_| {}), "lifecycle: no processes, init has 120 s to stop");
}
