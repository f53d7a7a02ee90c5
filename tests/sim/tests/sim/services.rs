//! The real services on their fake hosts, under the real coordinator.

use ves_fake::Ended;
use ves_proto::{Fault, Reason};
use ves_sim::Sim;
use ves_sim::sim::Command;
use ves_sim::words as pb;
use ves_types::layout::Daemon;
use ves_types::{CtId, ExitCause};

fn ct() -> CtId {
    CtId::try_from(101).expect("valid")
}

fn addresses(words: &[&str]) -> Vec<String> {
    words.iter().map(|w| (*w).to_owned()).collect()
}

fn links(sim: &Sim) -> Vec<String> {
    let mut state = sim.kernel().links.state();
    let mut all: Vec<_> =
        state.container(ct()).working().into_iter().map(|a| a.to_string()).collect();
    all.sort();
    all
}

fn life(sim: &Sim, between: impl Fn()) {
    sim.run(&Command::create(101, |s| s.addresses = addresses(&["192.0.2.1"]))).expect("created");
    between();
    sim.run(&Command::start("101")).expect("started");
    between();
    sim.until("it is seen to run", || sim.state("101") == pb::ContainerState::Running);
    let more = Command::update("101", |r| {
        r.add_addresses = addresses(&["2001:db8::1"]);
        r.save = true;
    });
    sim.run(&more).expect("set");
    assert_eq!(links(sim), ["192.0.2.1", "2001:db8::1"]);
    between();
    sim.run(&Command::restart("101")).expect("restarted");
    between();
    sim.run(&Command::stop("101")).expect("stopped");
    between();
    sim.until("it is seen to be stopped", || sim.state("101") == pb::ContainerState::Stopped);
    sim.run(&Command::delete("101")).expect("destroyed");
    assert!(sim.kernel().is_clean());
    assert!(links(sim).is_empty());
}

#[test]
fn a_life() {
    let sim = Sim::new();
    life(&sim, || {});
    life(&sim, || {});
}

/// What a node that lacks a feature says, and that it is left as it was.
fn lacking(sim: &Sim, command: &Command, feature: &str) {
    let fault: Fault = sim.run(command).expect_err("it cannot be had");
    assert_eq!((fault.reason, fault.code()), (Reason::KernelLacks, tonic::Code::Unimplemented));
    assert_eq!(fault.facts.get("feature").map(String::as_str), Some(feature), "{fault:?}");
    let host = sim.kernel();
    sim.until("all is taken back", || {
        let idle = sim.get("101").is_ok_and(|c| c.state() == pb::ContainerState::Stopped);
        let link = host.links.state().container(ct()).link.is_some();
        let sources = !host.links.state().container(ct()).sources.is_empty();
        let monitor = host.processes.monitored(ct());
        idle && !link && !sources && !monitor
    });
}

#[test]
fn without_ipv6_a_container_with_such_an_address_is_refused_and_nothing_is_left() {
    let sim = Sim::new();
    sim.kernel().links.state().container(ct()).ipv6 = false;
    sim.run(&Command::create(101, |s| s.addresses = addresses(&["2001:db8::1"]))).expect("created");
    lacking(&sim, &Command::start("101"), "IPv6");
    let drop = pb::ContainerSpec { addresses: addresses(&["192.0.2.1"]), ..Default::default() };
    sim.run(&Command::set("101", &["addresses"], drop)).expect("set");
    sim.run(&Command::start("101")).expect("started");
    // A change that needs it is taken back, and what runs goes on.
    let more = Command::update("101", |r| {
        r.add_addresses = addresses(&["2001:db8::1"]);
        r.save = true;
    });
    assert_eq!(sim.run(&more).expect_err("no IPv6").reason, Reason::KernelLacks);
    let spec = sim.get("101").expect("there").spec.expect("set");
    assert_eq!(spec.addresses, ["192.0.2.1"]);
    assert_eq!(links(&sim), ["192.0.2.1"]);
    sim.run(&Command::stop("101")).expect("stopped");
    sim.run(&Command::delete("101")).expect("destroyed");
    assert!(sim.kernel().is_clean());
}

#[test]
fn without_nft_no_container_starts_unguarded_and_nothing_is_left() {
    let sim = Sim::new();
    sim.kernel().links.state().lacks = Some("nft");
    sim.run(&Command::create(101, |s| s.addresses = addresses(&["192.0.2.1"]))).expect("created");
    lacking(&sim, &Command::start("101"), "nft");
    sim.kernel().links.state().lacks = None;
    sim.run(&Command::start("101")).expect("started");
    sim.run(&Command::stop("101")).expect("stopped");
    sim.run(&Command::delete("101")).expect("destroyed");
    assert!(sim.kernel().is_clean());
}

#[test]
fn a_life_with_every_daemon_killed_between_commands() {
    let sim = Sim::new();
    life(&sim, || Daemon::ALL.iter().for_each(|s| sim.restart(*s)));
}

#[test]
fn reboot_and_halt_inside() {
    let sim = Sim::new();
    sim.run(&Command::create(101, |_| {})).expect("created");
    sim.run(&Command::start("101")).expect("started");
    let starts = || {
        let done = sim.kernel().processes.done();
        done.iter().filter(|(_, step)| step == "let init go").count()
    };
    let before = starts();
    sim.kernel().processes.end(ct(), ExitCause::Rebooted, Ended::Signal(1));
    sim.until("it starts again", || {
        starts() > before
            && sim
                .get("101")
                .is_ok_and(|c| c.state() == pb::ContainerState::Running && c.operation.is_empty())
    });
    sim.kernel().processes.end(ct(), ExitCause::Halted, Ended::Signal(2));
    sim.until("it is stopped", || {
        sim.get("101")
            .is_ok_and(|c| c.state() == pb::ContainerState::Stopped && c.operation.is_empty())
    });
    assert!(sim.kernel().groups.is_clean());
}

#[test]
fn what_goes_down_by_itself_is_waited_for() {
    let sim = Sim::new();
    sim.run(&Command::create(101, |_| {})).expect("created");
    sim.run(&Command::start("101")).expect("started");
    let refused = |command| sim.run(&command).expect_err("it runs");
    for command in [Command::start("101"), Command::delete("101")] {
        let fault = refused(command);
        assert_eq!(fault.reason, Reason::Running);
        assert!(!fault.message.contains("going down"), "{fault}");
    }
    // Powered off inside, and its services take a while.
    sim.kernel().processes.go_down(ct());
    let fault = refused(Command::delete("101"));
    assert!(fault.reason == Reason::Running && fault.message.contains("going down"), "{fault}");
    assert!(sim.get("101").expect("there").stopping);
    sim.run(&Command::start("101")).expect("it ends, and is started");
    let done = sim.kernel().processes.done();
    let done: Vec<_> = done.iter().map(|(_, step)| step.as_str()).collect();
    let last = done.iter().rposition(|step| *step == "let init go").expect("started again");
    assert!(done[..last].iter().any(|step| step.starts_with("ask init to stop")), "{done:?}");
    assert_eq!(sim.kernel().ct(101).process.starts, 2);
    let ct = sim.get("101").expect("there");
    assert!(ct.state() == pb::ContainerState::Running && !ct.stopping);
}

#[test]
fn what_has_just_ended_is_started() {
    for _ in 0..20 {
        let sim = Sim::new();
        sim.run(&Command::create(101, |_| {})).expect("created");
        sim.run(&Command::start("101")).expect("started");
        sim.kernel().processes.end(ct(), ExitCause::Halted, Ended::Signal(2));
        sim.run(&Command::start("101")).expect("started, whoever hears first of the end");
        sim.until("it runs", || sim.state("101") == pb::ContainerState::Running);
        assert_eq!(sim.kernel().ct(101).process.starts, 2);
    }
}

/// A life in which every command may fail, and is repeated then.
fn tolerant_life(sim: &Sim, what: &str) -> usize {
    let grown = || {
        Command::update("101", |r| {
            r.add_addresses = addresses(&["192.0.2.2"]);
            r.update_mask = addresses(&["disk_bytes", "limits.cpus"]);
            r.spec = Some(pb::ContainerSpec {
                disk_bytes: 3 << 30,
                limits: Some(ves_proto::common::Limits { cpus: Some(2), ..Default::default() }),
                ..Default::default()
            });
            r.save = true;
            r.set_mode = pb::SetMode::Restart;
        })
    };
    let commands: [&dyn Fn() -> Command; 5] = [
        &|| Command::create(101, |s| s.addresses = addresses(&["192.0.2.1"])),
        &|| Command::start("101"),
        &grown,
        &|| Command::stop("101"),
        &|| Command::delete("101"),
    ];
    let mut failures = 0;
    for (i, command) in commands.iter().enumerate() {
        if let Err(fault) = sim.run(&command()) {
            failures += 1;
            let second = sim.run(&command());
            assert!(second.is_ok(), "{what}, command {i}: {fault}, again: {second:?}");
        }
    }
    sim.until(what, || sim.kernel().is_clean());
    failures
}

#[test]
fn each_step_of_each_host_failing_once() {
    type Fail = fn(&Sim, usize);
    let hosts: [(&str, Fail); 4] = [
        ("storage", |sim, n| sim.kernel().volumes.fail_after(u64::try_from(n).expect("small"))),
        ("lifecycle", |sim, n| sim.kernel().processes.fail_after(n)),
        ("resources", |sim, n| {
            sim.kernel().groups.fail(n, ves_resources::fake::Fault::Before);
        }),
        ("network", |sim, n| sim.kernel().links.state().fail_after = Some(n)),
    ];
    let through = |(name, fail): (&str, Fail)| {
        let mut quiet = 0;
        let mut failed = 0;
        // Until the life is over before the failing step comes.
        for n in 0.. {
            let sim = Sim::new();
            // So that growing takes a restart.
            sim.kernel().volumes.grow_online(false);
            fail(&sim, n);
            match tolerant_life(&sim, &format!("{name}, step {n}")) {
                0 => quiet += 1,
                _ => failed += 1,
            }
            if quiet >= 3 {
                break;
            }
        }
        assert!(failed > 3, "{name}: {failed}");
    };
    std::thread::scope(|scope| {
        for host in hosts {
            scope.spawn(move || through(host));
        }
    });
}

#[test]
fn a_dry_run_tells_the_steps_of_the_services() {
    let sim = Sim::new();
    let dry = |command: &Command| {
        let op = sim.ask(|| command.clone().send(sim.channel()))?;
        for step in &op.steps {
            eprintln!("{step}");
        }
        Ok::<_, Fault>(op.steps)
    };
    let create = |size: u64, dry_run| {
        Command::Create(Box::new(pb::CreateContainerRequest {
            id: 101,
            spec: Some(pb::ContainerSpec { disk_bytes: size, ..Sim::spec("trixie") }),
            dry_run,
            ..Default::default()
        }))
    };
    let steps = dry(&create(1 << 30, true)).expect("planned");
    assert_eq!(steps[0], "storage: volume of 1 GiB from trixie, not mounted");
    assert!(steps.len() > 2 && steps[1..].iter().all(|s| s.starts_with("  ")), "{steps:?}");
    // A service refuses in a dry run as it would in earnest.
    let full = dry(&create(1 << 43, true)).expect_err("there is no such room");
    assert_eq!(full.reason, Reason::PoolFull);
    assert!(sim.kernel().is_clean());

    sim.run(&create(1 << 30, false)).expect("created");
    let start = pb::StartContainerRequest { ct: "101".into(), dry_run: true, ..Default::default() };
    let steps = dry(&Command::Start(start)).expect("planned");
    assert_eq!(steps.iter().filter(|s| !s.starts_with("  ")).count(), 5);
    assert!(steps.iter().any(|s| s.starts_with("  ")));
    assert_eq!(sim.state("101"), pb::ContainerState::Stopped);
    sim.run(&Command::start("101")).expect("started");
    let stop = pb::StopContainerRequest { ct: "101".into(), dry_run: true, ..Default::default() };
    let steps = dry(&Command::Stop(stop)).expect("planned");
    assert!(steps[0].starts_with("lifecycle: no processes") && steps[1].starts_with("  "));
    assert_eq!(sim.state("101"), pb::ContainerState::Running);
}
