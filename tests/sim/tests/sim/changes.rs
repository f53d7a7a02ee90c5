//! What every change through the public API promises: an id, all mistakes at once, a turn, and what is no matter of
//! any service is none.

use std::time::Duration;

use ves_proto::api as pb;
use ves_proto::{Fault, Reason};
use ves_sim::Sim;
use ves_sim::sim::Command;
use ves_types::layout::Daemon;

fn mask(paths: &[&str]) -> Option<prost_types::FieldMask> {
    Some(prost_types::FieldMask { paths: paths.iter().map(|p| (*p).to_owned()).collect() })
}

fn get(sim: &Sim, name: &str) -> pb::Container {
    let request = pb::GetContainerRequest { name: name.to_owned() };
    sim.block(sim.containers().get_container(request)).expect("there").into_inner()
}

/// Changes 101, to the end of that.
fn update(
    sim: &Sim,
    id: &str,
    paths: &[&str],
    container: pb::Container,
) -> Result<pb::Operation, Fault> {
    let request = pb::UpdateContainerRequest {
        container: Some(pb::Container { name: "containers/101".into(), ..container }),
        update_mask: mask(paths),
        request_id: id.to_owned(),
        ..Default::default()
    };
    let begun = sim.block(sim.containers().update_container(request)).map_err(Fault::from)?;
    sim.end_of(begun.get_ref().name.trim_start_matches("operations/"));
    Ok(begun.into_inner())
}

fn fields(fault: &Fault) -> Vec<&str> {
    let mut fields: Vec<_> = fault.violations.iter().map(|v| v.field.as_str()).collect();
    fields.sort_unstable();
    fields
}

fn labels(all: &[(&str, &str)]) -> std::collections::BTreeMap<String, String> {
    all.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

#[test]
fn every_change_has_an_id_and_hears_of_all_mistakes() {
    let sim = Sim::new();
    sim.run(&Command::create(101, |_| {})).expect("created");
    let name = || "containers/101".to_owned();
    let start = pb::StartContainerRequest { name: name(), ..Default::default() };
    let fault = Fault::from(sim.block(sim.containers().start_container(start)).expect_err("no id"));
    assert_eq!((fault.reason, fault.facts["field"].as_str()), (Reason::MissingField, "request_id"));
    let stop =
        pb::StopContainerRequest { name: "101".into(), mode: 9, conflict: 9, ..Default::default() };
    let fault = Fault::from(sim.block(sim.containers().stop_container(stop)).expect_err("much"));
    assert_eq!(fields(&fault), ["conflict", "mode", "name", "request_id"]);
    let grace = Some(prost_types::Duration { seconds: 3601, nanos: 0 });
    let stop = pb::StopContainerRequest { name: name(), grace, ..Default::default() };
    let fault = Fault::from(sim.block(sim.containers().stop_container(stop)).expect_err("long"));
    assert_eq!(fields(&fault), ["grace", "request_id"]);
    let spec = pb::ContainerSpec {
        template: "templates/trixie".into(),
        hostname: "-x".into(),
        interfaces: vec![pb::Interface { addresses: vec!["x".into()], ..Default::default() }],
        ..Default::default()
    };
    let container = pb::Container { spec: Some(spec), alias: "7".into(), ..Default::default() };
    let create = pb::CreateContainerRequest {
        container: Some(container),
        ct_id: u32::MAX,
        ..Default::default()
    };
    let fault = Fault::from(sim.block(sim.containers().create_container(create)).expect_err("no"));
    let wrong = [
        "container.alias",
        "container.spec.hostname",
        "container.spec.interfaces[0].addresses[0]",
        "ct_id",
        "request_id",
    ];
    assert_eq!(fields(&fault), wrong);
    let change = pb::ChangeAddressesRequest {
        name: name(),
        interface: "eth0".into(),
        add: vec!["192.0.2.1".into(), "x".into()],
        remove: vec!["y".into()],
        ..Default::default()
    };
    let fault = Fault::from(sim.block(sim.containers().change_addresses(change)).expect_err("no"));
    assert_eq!(fields(&fault), ["add[1]", "interface", "remove[0]", "request_id"]);
    let request = pb::UpdateContainerRequest {
        container: Some(pb::Container { name: name(), ..Default::default() }),
        update_mask: mask(&["status.state"]),
        apply: 9,
        ..Default::default()
    };
    let answer = sim.block(sim.containers().update_container(request));
    assert_eq!(fields(&answer.expect_err("no").into()), ["apply", "request_id", "update_mask"]);
}

#[test]
fn addresses_are_changed_and_kept_unless_it_is_said() {
    let sim = Sim::new();
    sim.run(&Command::create(101, |s| s.addresses = vec!["192.0.2.1".into()])).expect("created");
    sim.run(&Command::start("101")).expect("started");
    let change = |id: &str, until_stop| {
        let request = pb::ChangeAddressesRequest {
            name: "containers/101".into(),
            interface: "venet0".into(),
            add: vec![format!("192.0.2.{id}")],
            remove: vec!["192.0.2.1".into()],
            request_id: id.to_owned(),
            until_stop,
            ..Default::default()
        };
        let op = sim.block(sim.containers().change_addresses(request)).expect("begun");
        sim.end_of(op.get_ref().name.trim_start_matches("operations/"));
    };
    change("2", false);
    change("3", true);
    let addresses = |spec: Option<pb::ContainerSpec>| {
        spec.map(|spec| spec.interfaces.concat_addresses()).unwrap_or_default()
    };
    let shown = get(&sim, "containers/101");
    assert_eq!(addresses(shown.spec), "192.0.2.2");
    assert_eq!(addresses(shown.status.expect("told").running_spec), "192.0.2.2 192.0.2.3");
}

trait Concat {
    fn concat_addresses(&self) -> String;
}

impl Concat for Vec<pb::Interface> {
    fn concat_addresses(&self) -> String {
        self.iter().flat_map(|i| i.addresses.clone()).collect::<Vec<_>>().join(" ")
    }
}

#[test]
fn what_is_no_services_matter_needs_none() {
    let sim = Sim::new();
    let container = pb::Container {
        project: "projects/acme".into(),
        labels: labels(&[("customer", "17")]),
        annotations: labels(&[("panel/id", "{\"a\": 1}")]),
        spec: Some(pb::ContainerSpec { template: "templates/trixie".into(), ..Default::default() }),
        ..Default::default()
    };
    let request = pb::CreateContainerRequest {
        container: Some(container),
        ct_id: 101,
        request_id: "create".into(),
        validate_only: false,
    };
    let op = sim.block(sim.containers().create_container(request)).expect("begun").into_inner();
    assert_eq!(op.project, "projects/acme");
    sim.end_of(op.name.trim_start_matches("operations/"));
    let before = get(&sim, "containers/101");
    assert_eq!(before.labels, labels(&[("customer", "17")]));
    for service in Daemon::SERVICES {
        sim.kill(service);
    }
    let change = pb::Container {
        alias: "web".into(),
        description: "x".into(),
        labels: labels(&[("customer", "18")]),
        delete_protection: true,
        ..Default::default()
    };
    let paths = ["alias", "description", "labels", "annotations", "delete_protection"];
    let op = update(&sim, "one", &paths, change.clone()).expect("done");
    assert_eq!(op.state(), pb::operation::State::Succeeded, "when it is answered");
    let after = get(&sim, "containers/web");
    assert_eq!((after.labels, after.annotations), (change.labels, labels(&[])));
    assert_eq!((after.description.as_str(), after.delete_protection), ("x", true));
    assert!(after.etag != before.etag && after.generation > before.generation);
    assert_eq!(after.project, "projects/acme");
    for service in Daemon::SERVICES {
        sim.start_daemon(service);
    }
    // It outlives the daemon, and protects.
    sim.restart(Daemon::Coordinator);
    sim.until("it is back", || sim.get("web").is_ok());
    let fault = sim.run(&Command::delete("web")).expect_err("protected");
    assert_eq!(fault.reason, Reason::DeleteProtected);
    let own = pb::Container { project: "projects/acme".into(), ..Default::default() };
    update(&sim, "two", &["project", "delete_protection"], own).expect("the same, and taken away");
    let other = pb::Container { project: "projects/other".into(), ..Default::default() };
    let fault = update(&sim, "three", &["project"], other).expect_err("it stays");
    assert_eq!(fault.facts["field"], "container.project");
    let template = pb::ContainerSpec { template: "templates/x".into(), ..Default::default() };
    let template = pb::Container { spec: Some(template), ..Default::default() };
    let fault = update(&sim, "four", &["spec.template"], template).expect_err("it stays");
    assert_eq!(fault.facts["field"], "container.spec.template");
    let many = (0..65).map(|n| (n.to_string(), String::new())).collect();
    let many = pb::Container { labels: many, ..Default::default() };
    let fault = update(&sim, "five", &["labels"], many).expect_err("too many");
    assert_eq!(fault.facts["field"], "container.labels");
    for path in ["nonsense", "name", "uid", "etag", "generation", "status", "spec.limits.ubc.x"] {
        let fault = update(&sim, "six", &[path], pb::Container::default()).expect_err(path);
        assert_eq!(fault.facts["field"], "update_mask");
        assert!(fault.message.contains(path), "{fault}");
    }
    sim.run(&Command::delete("web")).expect("destroyed");
}

#[test]
fn a_change_that_fails_gives_back_what_was_written_on_it() {
    let sim = Sim::new();
    sim.run(&Command::create(101, |_| {})).expect("created");
    sim.run(&Command::start("101")).expect("started");
    sim.script().at_call(0, ves_sim::Mishap::FailBefore(Reason::HostFailed));
    let limits = pb::Limits { cpus: Some(2), ..Default::default() };
    let change = pb::Container {
        labels: labels(&[("a", "b")]),
        spec: Some(pb::ContainerSpec { limits: Some(limits), ..Default::default() }),
        ..Default::default()
    };
    update(&sim, "one", &["labels", "spec.limits.cpus"], change.clone()).expect("begun");
    let after = get(&sim, "containers/101");
    assert_eq!(after.labels, labels(&[]), "it failed");
    update(&sim, "two", &["labels", "spec.limits.cpus"], change).expect("begun");
    assert_eq!(get(&sim, "containers/101").labels, labels(&[("a", "b")]));
}

#[test]
fn a_call_can_wait_for_its_turn() {
    let sim = Sim::new();
    sim.run(&Command::create(101, |_| {})).expect("created");
    sim.script().hold(101, true);
    let start = Command::start("101");
    let first = sim.ask(|| start.clone().send(sim.channel())).expect("begun");
    let describe = |n: usize, deadline: Duration| {
        let mut client = sim.containers();
        let request = pb::UpdateContainerRequest {
            container: Some(pb::Container {
                name: "containers/101".into(),
                description: n.to_string(),
                ..Default::default()
            }),
            update_mask: mask(&["description"]),
            request_id: format!("turn-{n}"),
            conflict: pb::Conflict::Queue.into(),
            ..Default::default()
        };
        let mut request = tonic::Request::new(request);
        request.set_timeout(deadline);
        async move { client.update_container(request).await.map_err(Fault::from) }
    };
    let (short, long) = (Duration::from_millis(100), Duration::from_secs(600));
    let late = sim.block(describe(99, short)).expect_err("it was not its turn");
    assert!([Reason::Busy, Reason::Timeout, Reason::Cancelled].contains(&late.reason), "{late}");
    // As many as may wait, in their order, and no more.
    let all = sim.block(async {
        let mut waiting = futures::stream::FuturesOrdered::new();
        for n in 0..64 {
            let mut call = Box::pin(describe(n, long));
            // It is under way before the next one is.
            assert!(tokio::time::timeout(Duration::from_millis(5), &mut call).await.is_err());
            waiting.push_back(call);
        }
        let more = describe(64, long).await.expect_err("the line is long");
        assert_eq!(more.reason, Reason::TooMany);
        sim.script().hold(101, false);
        futures::StreamExt::collect::<Vec<_>>(waiting).await
    });
    assert!(all.iter().all(Result::is_ok), "{all:?}");
    assert_eq!(sim.end_of(&first.id).state(), pb::operation::State::Succeeded);
    let done: Vec<_> = sim.all_operations().into_iter().filter(|op| op.kind == "set").collect();
    assert_eq!(done.len(), 64, "one that gave up was not done");
    assert_eq!(get(&sim, "containers/101").description, "63", "the last one of all");
}
