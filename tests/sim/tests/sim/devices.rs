//! Devices and capabilities of a container: entries of lists that are changed one by one, and taken at the
//! next start.

use ves_proto::{Fault, Reason};
use ves_sim::Sim;
use ves_sim::sim::Command;
use ves_sim::words as pb;

fn strings(words: &[&str]) -> Vec<String> {
    words.iter().map(|w| (*w).to_owned()).collect()
}

fn change(devices: &[&str], capabilities: &[&str], mode: pb::SetMode) -> Command {
    Command::update("101", |r| {
        r.change_devices = strings(devices);
        r.change_capabilities = strings(capabilities);
        r.save = true;
        r.set_mode = mode;
    })
}

fn saved(sim: &Sim) -> (Vec<String>, Vec<String>) {
    let spec = sim.get("101").expect("there").spec.expect("told");
    (spec.devices, spec.capabilities_off)
}

#[test]
fn entries_change_one_by_one_and_are_taken_at_the_next_start() {
    let sim = Sim::new();
    let set = |devices: &[&str], capabilities: &[&str]| {
        sim.run(&change(devices, capabilities, pb::SetMode::Unspecified)).expect("set");
    };
    sim.run(&Command::create(101, |s| s.devices = strings(&["fuse:rw"]))).expect("created");
    set(&["net/tun:rw", "c:10:232:rw"], &["cap_net_raw:off", "kill:off"]);
    set(&["net/tun:r", "fuse:none", "kvm:none"], &["KILL:on"]);
    let devices = strings(&["net/tun:r", "c:10:232:rw"]);
    assert_eq!(saved(&sim), (devices.clone(), strings(&["NET_RAW"])));

    sim.run(&Command::start("101")).expect("started");
    let runs = || {
        let spec = sim.kernel().ct(101).process.spec.expect("it runs");
        (
            spec.devices.iter().map(ToString::to_string).collect::<Vec<_>>(),
            spec.capabilities_off.len(),
        )
    };
    assert_eq!(runs(), (devices.clone(), 1));
    for (devices, capabilities, field) in [
        (&["fuse:rw"][..], &[][..], "spec.devices"),
        (&[], &["KILL:off"], "spec.dropped_capabilities"),
    ] {
        let now = change(devices, capabilities, pb::SetMode::Unspecified);
        let fault = sim.run(&now).expect_err("only at a start");
        assert_eq!((fault.reason, fault.facts["field"].as_str()), (Reason::NeedsRestart, field));
    }
    sim.run(&change(&["fuse:rw"], &["KILL:off"], pb::SetMode::Ignore)).expect("saved");
    assert_eq!(runs(), (devices, 1));
    sim.run(&Command::restart("101")).expect("restarted");
    assert_eq!(runs(), (strings(&["fuse:rw", "net/tun:r", "c:10:232:rw"]), 2));
    // With the mask the whole list is meant.
    let all = Command::set("101", &["devices"], pb::ContainerSpec::default());
    sim.run(&Command::stop("101")).expect("stopped");
    sim.run(&all).expect("set");
    assert_eq!(saved(&sim).0, Vec::<String>::new());
}

#[test]
fn what_hands_over_the_node_is_refused_at_once_and_what_it_does_not_give_at_the_start() {
    let sim = Sim::new();
    sim.run(&Command::create(101, |_| {})).expect("created");
    let refused = |devices: &[&str], capabilities: &[&str]| -> Fault {
        let fault = sim.run(&change(devices, capabilities, pb::SetMode::Unspecified));
        let fault = fault.expect_err("refused");
        assert_eq!(fault.reason, Reason::BadValue);
        fault
    };
    let all = refused(&["mem:rw", "fuse:rw", "sda:r", "net/tun:"], &[]);
    let fields: Vec<_> = all.violations.iter().map(|v| v.field.as_str()).collect();
    assert_eq!(fields, [0, 2, 3].map(|n| format!("changes.set_devices[{n}]")));
    for part in ["\"mem\"", "\"sda\"", "nothing may be done"] {
        assert!(all.message.contains(part), "{part}: {all}");
    }
    let all = refused(&[], &["sys_time:on", "sys_module:on", "net_raw:off"]);
    assert!(all.message.contains("clock") && all.message.contains("modules"), "{all}");
    let many: Vec<_> = (0..65).map(|n| format!("nvidia{n}:rw")).collect();
    refused(&many.iter().map(String::as_str).collect::<Vec<_>>(), &[]);
    let bad: Vec<_> = (0..64).map(|n| format!("sd{n}:rw")).collect();
    let all = refused(&bad.iter().map(String::as_str).collect::<Vec<_>>(), &[]);
    assert!(all.message.ends_with("and 48 more"), "{all}");
    assert_eq!(saved(&sim), (vec![], vec![]));

    sim.run(&change(&["ttyS0:rw"], &[], pb::SetMode::Unspecified)).expect("saved");
    let dry = pb::StartContainerRequest { ct: "101".into(), dry_run: true, ..Default::default() };
    assert_eq!(sim.run(&Command::Start(dry)).expect_err("refused").facts["device"], "ttyS0");
    let fault = sim.run(&Command::start("101")).expect_err("refused");
    assert_eq!((fault.reason, fault.facts["device"].as_str()), (Reason::BadValue, "ttyS0"));
    assert!(fault.message.contains("allow_devices = [\"ttyS0\"]"), "{fault}");
    sim.run(&change(&["ttyS0:none"], &[], pb::SetMode::Unspecified)).expect("taken away");
    sim.run(&Command::start("101")).expect("started");
}
