//! What is refused, with which reason and on which field; and that nothing is changed by it.

use ves_proto::{Fault, Reason, api, common};
use ves_sim::Sim;
use ves_sim::sim::Command;
use ves_sim::words as pb;

fn strings(words: &[&str]) -> Vec<String> {
    words.iter().map(|w| (*w).to_owned()).collect()
}

fn refused(sim: &Sim, command: &Command, reason: Reason, facts: &[(&str, &str)]) -> Fault {
    let fault = sim.run(command).expect_err("refused");
    assert_eq!(fault.reason, reason, "{command:?}: {fault}");
    for (name, value) in facts {
        assert_eq!(fault.facts.get(*name).map(String::as_str), Some(*value), "{fault:?}");
    }
    assert!(!fault.message.ends_with('.') && !fault.message.is_empty(), "{fault}");
    fault
}

#[test]
fn bad_values_name_their_field() {
    let sim = Sim::new();
    sim.run(&Command::create(101, |_| {})).expect("created");
    type Change = fn(&mut pb::ContainerSpec);
    let creates: &[(&str, Change)] = &[
        ("alias", |s| s.name = "7up".into()),
        ("alias", |s| s.name = "a/b".into()),
        ("spec.hostname", |s| s.hostname = "under_score".into()),
        ("spec.template", |s| s.template = "../etc".into()),
        ("spec.interfaces[0].addresses[1]", |s| {
            s.addresses = strings(&["192.0.2.1", "10.0.0.0/8"])
        }),
        ("spec.interfaces[0].addresses[0]", |s| s.addresses = strings(&["169.254.0.1"])),
        ("spec.nameservers[0]", |s| s.nameservers = strings(&["ns1"])),
        ("spec.search_domains[0]", |s| s.search_domains = strings(&["a..b"])),
        ("spec.volumes[0].size_bytes", |s| s.disk_bytes = 4096),
        ("spec.volumes[0].size_bytes", |s| s.disk_bytes = u64::MAX),
        ("spec.volumes[0].inodes", |s| s.disk_inodes = Some(1)),
        ("spec.init", |s| s.init = strings(&["sbin/init"])),
        ("description", |s| s.description = "\u{7}".into()),
        ("spec.limits.cpu_units", |s| {
            s.limits = Some(common::Limits { cpu_units: Some(1), ..Default::default() });
        }),
        ("spec.limits.cpu_mask", |s| {
            let cpu_mask = Some("0-8192".to_owned());
            s.limits = Some(common::Limits { cpu_mask, ..Default::default() });
        }),
        ("spec.limits.ubc.numproc", |s| {
            let value = common::UbcValue { barrier: 2, limit: 1 };
            let ubc = [("numproc".to_owned(), value)].into();
            s.limits = Some(common::Limits { ubc, ..Default::default() });
        }),
    ];
    for (field, change) in creates {
        let field = format!("container.{field}");
        let facts = [("field", field.as_str())];
        refused(&sim, &Command::create(102, change), Reason::BadValue, &facts);
    }
    let too_great = Command::create(2_147_483_645, |_| {});
    refused(&sim, &too_great, Reason::BadValue, &[("field", "ct_id")]);
    let nothing = Command::create(102, |s| s.template.clear());
    refused(&sim, &nothing, Reason::MissingField, &[("field", "container.spec.template")]);
    for unknown in ["nonsense", "spec.limits.ubc.nonsense", "limits", "ct_id", "spec.template.x"] {
        let set = Command::set("101", &[unknown], pb::ContainerSpec::default());
        refused(&sim, &set, Reason::BadValue, &[("field", "update_mask")]);
    }
    let fixed = Command::set("101", &["template"], Sim::spec("other"));
    refused(&sim, &fixed, Reason::BadValue, &[("field", "container.spec.template")]);
    let empty = Command::update("101", |r| r.save = true);
    refused(&sim, &empty, Reason::MissingField, &[("field", "update_mask")]);
    let bad = Command::update("101", |r| {
        r.save = true;
        r.remove_addresses = strings(&["everything"]);
    });
    refused(&sim, &bad, Reason::BadValue, &[("field", "changes.remove_addresses[0]")]);
    let long = Command::Start(pb::StartContainerRequest {
        ct: "101".into(),
        request_id: "x".repeat(200),
        ..Default::default()
    });
    refused(&sim, &long, Reason::BadValue, &[("field", "request_id")]);
    let ct = sim.get("101").expect("there");
    assert_eq!(ct.state(), pb::ContainerState::Stopped);
    assert_eq!(sim.script().log().len(), 1, "nothing was asked of any service");
}

#[test]
fn bad_names_of_containers() {
    let sim = Sim::new();
    for (ct, reason) in [
        ("", Reason::MissingField),
        ("0", Reason::BadValue),
        ("4294967295", Reason::BadValue),
        ("99999999999999999999", Reason::BadValue),
        ("-1", Reason::BadValue),
        ("a b", Reason::BadValue),
        ("../101", Reason::BadValue),
        ("101", Reason::ContainerUnknown),
        ("web", Reason::ContainerUnknown),
    ] {
        assert_eq!(sim.get(ct).expect_err(ct).reason, reason, "{ct:?}");
        refused(&sim, &Command::start(ct), reason, &[]);
        refused(&sim, &Command::stop(ct), reason, &[]);
        refused(&sim, &Command::restart(ct), reason, &[]);
        refused(&sim, &Command::delete(ct), reason, &[]);
        refused(&sim, &Command::set(ct, &["onboot"], Default::default()), reason, &[]);
    }
}

#[test]
fn names_and_addresses_belong_to_one() {
    let sim = Sim::new();
    let web = |id| {
        Command::create(id, |s| {
            s.name = "web".into();
            s.addresses = strings(&["192.0.2.1"]);
        })
    };
    sim.run(&web(101)).expect("created");
    refused(&sim, &web(101), Reason::ContainerExists, &[("ct", "101")]);
    let name = Command::create(102, |s| s.name = "web".into());
    refused(&sim, &name, Reason::NameTaken, &[("name", "web"), ("holder", "101")]);
    let address = Command::create(102, |s| s.addresses = strings(&["192.0.2.1"]));
    let facts = [("address", "192.0.2.1"), ("holder", "101")];
    refused(&sim, &address, Reason::AddressTaken, &facts);
    sim.run(&Command::create(102, |s| s.name = "db".into())).expect("created");
    let add = Command::update("db", |r| {
        r.save = true;
        r.add_addresses = strings(&["192.0.2.1"]);
    });
    refused(&sim, &add, Reason::AddressTaken, &facts);
    let rename = pb::ContainerSpec { name: "web".into(), ..Default::default() };
    let facts = [("name", "web"), ("holder", "101")];
    refused(&sim, &Command::set("db", &["name"], rename), Reason::NameTaken, &facts);
    let drop = pb::ContainerSpec { addresses: vec![], ..Default::default() };
    sim.run(&Command::set("web", &["addresses"], drop)).expect("given up");
    // A refused call was no operation: the same call is decided anew.
    sim.run(&add).expect("free now");
}

#[test]
fn the_nodes_own_address_takes_the_change_back() {
    let sim = Sim::new();
    let own = "192.0.2.254".parse().expect("an address");
    sim.kernel().links.state().own.insert(own);
    sim.run(&Command::create(101, |s| s.addresses = strings(&["192.0.2.1"]))).expect("created");
    sim.run(&Command::start("101")).expect("started");
    let add = Command::update("101", |r| {
        r.save = true;
        r.add_addresses = strings(&["192.0.2.254"]);
    });
    refused(&sim, &add, Reason::AddressTaken, &[("holder", "the node itself")]);
    let spec = sim.get("101").expect("there").spec.expect("set");
    assert_eq!(spec.addresses, ["192.0.2.1"]);
    assert_eq!(sim.kernel().ct(101).link.expect("up").len(), 1);
}

#[test]
fn what_must_run_or_must_not() {
    let sim = Sim::new();
    sim.run(&Command::create(101, |_| {})).expect("created");
    refused(&sim, &Command::stop("101"), Reason::NotRunning, &[("ct", "101")]);
    sim.run(&Command::start("101")).expect("started");
    refused(&sim, &Command::start("101"), Reason::Running, &[("ct", "101")]);
    refused(&sim, &Command::delete("101"), Reason::Running, &[("ct", "101")]);
    let late =
        pb::StopContainerRequest { ct: "101".into(), grace_ms: u32::MAX, ..Default::default() };
    refused(&sim, &Command::Stop(late), Reason::BadValue, &[("field", "grace")]);
    let unsaved = Command::update("101", |r| {
        r.update_mask = strings(&["onboot"]);
        r.spec = Some(pb::ContainerSpec { onboot: true, ..Default::default() });
    });
    refused(&sim, &unsaved, Reason::BadValue, &[("field", "until_stop")]);
}

#[test]
fn stale_etags() {
    let sim = Sim::new();
    sim.run(&Command::create(101, |_| {})).expect("created");
    let read = sim.get("101").expect("there").etag;
    let set = |text: &str, etag: &str| {
        Command::update("101", |r| {
            r.update_mask = strings(&["description"]);
            r.spec = Some(pb::ContainerSpec { description: text.into(), ..Default::default() });
            r.save = true;
            r.etag = etag.to_owned();
        })
    };
    sim.run(&set("first", &read)).expect("fresh");
    let have = sim.get("101").expect("there").etag;
    assert_ne!(have, read);
    let facts = [("have", have.as_str()), ("got", read.as_str()), ("ct", "101")];
    refused(&sim, &set("second", &read), Reason::EtagMismatch, &facts);
    refused(&sim, &set("second", "nonsense"), Reason::EtagMismatch, &[]);
    assert_eq!(sim.get("101").expect("there").spec.expect("set").description, "first");
    let stop = api::StopContainerRequest {
        name: "containers/101".into(),
        etag: read,
        request_id: "stop".into(),
        ..Default::default()
    };
    let fault = sim.block(sim.containers().stop_container(stop)).expect_err("old");
    assert_eq!(Fault::from(fault).reason, Reason::EtagMismatch, "of every change");
}

#[test]
fn an_unknown_template_leaves_nothing() {
    let sim = Sim::new();
    let create = Command::create(101, |s| s.template = "woody".into());
    refused(&sim, &create, Reason::TemplateUnknown, &[("template", "woody")]);
    assert_eq!(sim.get("101").expect_err("none").reason, Reason::ContainerUnknown);
}

#[test]
fn corrupt_records_are_named_and_harm_nobody_else() {
    use ves_coordinator::store::Key;
    use ves_types::layout::Daemon;
    let sim = Sim::new();
    for id in [101, 102] {
        let own = format!("192.0.2.{}", id - 100);
        sim.run(&Command::create(id, |s| s.addresses = vec![own])).expect("created");
    }
    sim.run(&Command::start("101")).expect("started");
    sim.kill(Daemon::Coordinator);
    let ct = ves_types::CtId::try_from(101).expect("valid");
    sim.store().spoil(Key::container(ct), b"{\"version\":1,\"record\":{\"id\":");
    sim.store()
        .spoil(Key::operation(&ves_coordinator::operation::record::OpId("x".into())), b"\0\0");
    sim.start_daemon(Daemon::Coordinator);
    sim.until("it is back", || sim.get("102").is_ok());
    let fault = sim.get("101").expect_err("corrupt");
    assert_eq!(
        (fault.reason, fault.facts["record"].as_str()),
        (Reason::RecordCorrupt, "containers/101")
    );
    refused(&sim, &Command::create(101, |_| {}), Reason::RecordCorrupt, &[]);
    let thief = Command::create(103, |s| s.addresses = strings(&["192.0.2.1"]));
    refused(&sim, &thief, Reason::AddressTaken, &[("holder", "101")]);
    sim.run(&Command::start("102")).expect("started");
    let slot = |id| sim.kernel().ct(id).volume.expect("there").slot.expect("it is mounted");
    sim.run(&Command::create(0, |_| {})).expect("created");
    sim.run(&Command::start("103")).expect("started");
    assert_ne!(slot(103), slot(101), "a lost record keeps its id slot");
}

#[test]
fn an_operation_without_a_readable_container_ends() {
    use ves_coordinator::store::Key;
    use ves_types::layout::Daemon;
    let sim = Sim::new();
    sim.run(&Command::create(101, |_| {})).expect("created");
    sim.script().hold(101, true);
    let start = Command::start("101");
    let op = sim.ask(|| start.clone().send(sim.channel())).expect("begun");
    sim.kill(Daemon::Coordinator);
    let ct = ves_types::CtId::try_from(101).expect("valid");
    sim.store().spoil(Key::container(ct), b"{");
    sim.start_daemon(Daemon::Coordinator);
    let end = sim.end_of(&op.id);
    assert_eq!(end.state(), pb::OperationState::Failed);
    assert_eq!(end.fault.expect("says so").reason, Reason::RecordCorrupt);
    sim.script().hold(101, false);
}

#[test]
fn what_a_change_takes_is_nobody_elses_until_it_succeeds() {
    let sim = Sim::new();
    let web = |id| Command::create(id, |s| s.name = "web".into());
    let at = |id| Command::create(id, |s| s.addresses = strings(&["192.0.2.1"]));
    let first = Command::create(101, |s| {
        s.name = "web".into();
        s.addresses = strings(&["192.0.2.1"]);
    });
    sim.run(&first).expect("created");
    sim.run(&Command::start("101")).expect("started");
    let change = || {
        Command::update("101", |r| {
            r.update_mask = strings(&["name"]);
            r.spec = Some(pb::ContainerSpec { name: "shop".into(), ..Default::default() });
            r.remove_addresses = strings(&["all"]);
            r.save = true;
        })
    };
    sim.script().at_call(0, ves_sim::Mishap::FailBefore(Reason::HostFailed));
    sim.script().hold(101, true);
    let op = sim.ask(|| change().send(sim.channel())).expect("begun");
    refused(&sim, &web(102), Reason::NameTaken, &[("holder", "101")]);
    refused(&sim, &at(102), Reason::AddressTaken, &[("holder", "101")]);
    sim.script().hold(101, false);
    assert_eq!(sim.end_of(&op.id).state(), pb::OperationState::Failed);
    let spec = sim.get("web").expect("named as before").spec.expect("set");
    assert_eq!(spec.addresses, ["192.0.2.1"]);
    assert_eq!(sim.get("shop").expect_err("given back").reason, Reason::ContainerUnknown);
    sim.run(&change()).expect("changed");
    assert_eq!(sim.get("web").expect_err("given up").reason, Reason::ContainerUnknown);
    sim.run(&web(102)).expect("free now");
    sim.run(&at(103)).expect("free now");
}

#[test]
fn a_stop_that_fails_keeps_what_was_not_saved() {
    let sim = Sim::new();
    sim.run(&Command::create(101, |_| {})).expect("created");
    sim.run(&Command::start("101")).expect("started");
    let unsaved = Command::update("101", |r| {
        r.add_addresses = strings(&["192.0.2.1"]);
    });
    sim.run(&unsaved).expect("set");
    sim.script().at_call(0, ves_sim::Mishap::FailBefore(Reason::HostFailed));
    sim.run(&Command::stop("101")).expect_err("as scripted");
    let running = sim.get("101").expect("there").running_spec.expect("as before");
    assert_eq!(running.addresses, ["192.0.2.1"]);
    assert_eq!(sim.kernel().ct(101).link.expect("up").len(), 1);
    sim.run(&Command::stop("101")).expect("stopped");
    sim.run(&Command::create(102, |s| s.addresses = strings(&["192.0.2.1"]))).expect("free now");
}
