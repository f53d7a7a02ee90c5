//! The rest of the public API: lists and pages, watches, sessions, templates, accounting, the node;
//! and that every RPC is named by a test.

use std::collections::BTreeMap;

use futures::StreamExt;
use ves_fake::id;
use ves_proto::coordinator as pb;
use ves_proto::{Fault, Reason, common, lifecycle, storage};
use ves_resources::rows::Usage;
use ves_sim::Sim;
use ves_sim::sim::Command;
use ves_types::layout::Daemon;

fn pages(sim: &Sim, size: u32, running_only: bool) -> Vec<Vec<u32>> {
    let mut pages = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = pb::ListContainersRequest { page_size: size, page_token, running_only };
        let answer = sim.block(sim.containers().list_containers(request)).expect("a page");
        let answer = answer.into_inner();
        pages.push(answer.containers.iter().map(|c| c.id).collect());
        page_token = answer.next_page_token;
        if page_token.is_empty() {
            return pages;
        }
    }
}

#[test]
fn lists_and_pages() {
    let sim = Sim::new();
    assert_eq!(pages(&sim, 0, false), [Vec::<u32>::new()]);
    for id in [300, 101, 205] {
        sim.run(&Command::create(id, |_| {})).expect("created");
    }
    assert_eq!(pages(&sim, 0, false), [[101, 205, 300]]);
    assert_eq!(pages(&sim, 2, false), [vec![101, 205], vec![300]]);
    assert_eq!(pages(&sim, 1, true), [Vec::<u32>::new()]);
    sim.run(&Command::start("205")).expect("started");
    assert_eq!(pages(&sim, 0, true), [[205]]);
    let bad = pb::ListContainersRequest { page_token: "x".into(), ..Default::default() };
    let fault = Fault::from(sim.block(sim.containers().list_containers(bad)).expect_err("bad"));
    assert_eq!(fault.facts["field"], "page_token");
}

#[test]
fn ten_thousand_containers() {
    use ves_coordinator::container::record::{Presence, Record, Reserved, RunState, Since};
    use ves_coordinator::store::{Key, Store, Transaction, record};
    use ves_types::{CtId, Epoch, Generation, IdSlot};
    let sim = Sim::new();
    sim.kernel().volumes.set_pool_bytes(1 << 46);
    sim.kill(Daemon::Coordinator);
    let mut rows = Transaction::default();
    for n in 0..10_000_u32 {
        let id = CtId::try_from(101 + n).expect("valid");
        let spec = pb::ContainerSpec { name: format!("c{n}"), ..Sim::spec("trixie") };
        let record = Record {
            id,
            uid: ves_coordinator::clock::Clock::new_id(&ves_coordinator::clock::SystemClock),
            node: "sim".parse().expect("a name"),
            slot: IdSlot::try_from(16 + n).expect("valid"),
            spec: ves_coordinator::container::spec::parse(id, Some(spec)).expect("valid"),
            running: None,
            presence: Presence::Present,
            run: RunState::Stopped,
            generation: Generation(1),
            creating_since: None,
            epoch: Epoch(1),
            since: Since::default(),
            created_unix: 0,
            seen_incarnation: 0,
            maybe_dirty: false,
            problem: None,
            reserved: Reserved::default(),
            snapshot: None,
            retry: None,
        };
        let key = Key::container(id);
        let holder = id.to_string().into_bytes();
        rows.puts.push((Key::slot(record.slot), holder.clone()));
        rows.puts.extend(record.spec.name.as_ref().map(|n| (Key::name(n), holder)));
        rows.puts.push((key.clone(), record::write(&key, &record).expect("written")));
        sim.kernel().volumes.make(id, "trixie".parse().expect("a name"), record.spec.disk.into());
    }
    sim.store().transact(&[rows]).expect("written");
    sim.start_daemon(Daemon::Coordinator);
    sim.until("it is back", || sim.get("c9999").is_ok());
    let all = pages(&sim, 0, false);
    assert_eq!(
        all.iter().map(Vec::len).collect::<Vec<_>>(),
        [[1000; 10].to_vec(), vec![0]].concat()
    );
    let flat = all.concat();
    assert!(flat.is_sorted() && flat.len() == 10_000);
    let request =
        pb::ListContainersRequest { page_size: 50, page_token: "9000".into(), running_only: false };
    let page = sim.block(sim.containers().list_containers(request)).expect("a page").into_inner();
    assert_eq!(page.containers.len(), 50);
    assert_eq!(sim.run(&Command::create(0, |_| {})).expect("created").ct, 10_101);
}

async fn next(stream: &mut tonic::Streaming<pb::ContainerEvent>) -> pb::ContainerEvent {
    stream.message().await.expect("told").expect("it goes on")
}

#[test]
fn watches_resume() {
    let sim = Sim::new();
    sim.run(&Command::create(101, |_| {})).expect("created");
    let watch = |resume_revision| {
        let request = pb::WatchContainersRequest { resume_revision };
        let stream = sim.block(sim.containers().watch_containers(request)).expect("watched");
        stream.into_inner()
    };
    let mut stream = watch(0);
    let first = sim.block(next(&mut stream));
    assert!(first.initial && !first.deleted);
    assert_eq!(first.container.expect("it").id, 101);
    sim.run(&Command::start("101")).expect("started");
    let mut last = first.revision;
    loop {
        let event = sim.block(next(&mut stream));
        assert!(event.revision > last && !event.initial);
        last = event.revision;
        let ct = event.container.expect("it");
        if ct.state() == pb::ContainerState::Running && ct.operation.is_empty() {
            break;
        }
    }
    drop(stream);
    sim.run(&Command::create(102, |_| {})).expect("created");
    sim.run(&Command::stop("101")).expect("stopped");
    sim.run(&Command::delete("101")).expect("destroyed");
    let mut stream = watch(last);
    let events = [sim.block(next(&mut stream)), sim.block(next(&mut stream))];
    let told: Vec<_> = events
        .iter()
        .map(|e| (e.container.as_ref().map_or(0, |c| c.id), e.deleted, e.initial))
        .collect();
    assert_eq!(told, [(101, true, false), (102, false, false)], "each once, as it is now");
    assert_eq!(events[0].revision, last, "a break between the two loses neither");
    assert!(events[1].revision > last);
    // Of another life of the coordinator nothing is known: everything anew.
    sim.restart(Daemon::Coordinator);
    sim.until("it is back", || sim.get("102").is_ok());
    let event = sim.block(async { next(&mut watch_again(&sim, events[1].revision).await).await });
    assert!(event.initial && event.revision > events[1].revision);
    assert_eq!(event.container.expect("it").id, 102);
}

async fn watch_again(sim: &Sim, resume_revision: u64) -> tonic::Streaming<pb::ContainerEvent> {
    let request = pb::WatchContainersRequest { resume_revision };
    sim.containers().watch_containers(request).await.expect("watched").into_inner()
}

fn exec_part(part: lifecycle::exec_request::Part) -> pb::ExecRequest {
    let request = Some(lifecycle::ExecRequest { part: Some(part) });
    pb::ExecRequest { ct: String::new(), request }
}

fn exec_start(ct: &str, argv: &[&str]) -> pb::ExecRequest {
    let argv = argv.iter().map(|a| (*a).to_owned()).collect();
    // The id inside is the coordinator's to fill in; another container's is not believed.
    let start = lifecycle::ExecStart { ct: 999, argv, ..Default::default() };
    pb::ExecRequest { ct: ct.to_owned(), ..exec_part(lifecycle::exec_request::Part::Start(start)) }
}

#[test]
fn exec_is_piped_both_ways() {
    use lifecycle::{exec_request as ask, exec_response as tell};
    let sim = Sim::new();
    sim.run(&Command::create(101, |s| s.name = "web".into())).expect("created");
    let exec = |messages: Vec<pb::ExecRequest>| {
        let stream = tokio_stream::iter(messages);
        sim.block(async {
            let answer = sim.containers().exec(stream).await.map_err(Fault::from)?;
            let parts = answer.into_inner().map(|m| m.map_err(Fault::from)).collect::<Vec<_>>();
            parts.await.into_iter().collect::<Result<Vec<_>, Fault>>()
        })
    };
    let stopped = exec(vec![exec_start("web", &["cat"])]).expect_err("stopped");
    assert_eq!(stopped.reason, Reason::NotRunning);
    sim.run(&Command::start("101")).expect("started");
    let chunk = vec![b'x'; 60_000];
    let mut messages = vec![exec_start("web", &["cat", "-"])];
    messages.extend((0..50).map(|_| exec_part(ask::Part::Stdin(chunk.clone().into()))));
    messages.push(exec_part(ask::Part::StdinClosed(true)));
    let parts = exec(messages).expect("run");
    let mut bytes = 0;
    let mut said = String::new();
    for part in &parts {
        match part.part.as_ref().expect("set") {
            tell::Part::Stdout(data) => bytes += data.len(),
            tell::Part::Stderr(data) => said = String::from_utf8_lossy(data).into_owned(),
            tell::Part::Started(_) | tell::Part::Exit(_) => {}
        }
    }
    assert_eq!((bytes, said.as_str()), (3_000_000, r#"101 ["cat", "-"]"#));
    let exit = common::ExitStatus { how: Some(common::exit_status::How::Code(0)) };
    assert_eq!(parts.last().and_then(|p| p.part.clone()), Some(tell::Part::Exit(exit)));
    let unknown = exec(vec![exec_start("101", &["/no/such"])]).expect_err("unknown");
    assert_eq!(unknown.reason, Reason::CommandUnknown);
    let none = exec(vec![exec_start("7", &[])]).expect_err("unknown");
    assert_eq!(none.reason, Reason::ContainerUnknown);
    assert_eq!(exec(vec![]).expect_err("empty").reason, Reason::MissingField);
    let no_start = pb::ExecRequest { ct: "101".into(), request: None };
    assert_eq!(exec(vec![no_start]).expect_err("nothing").facts["field"], "start");
}

#[test]
fn the_console_is_piped_both_ways() {
    use lifecycle::console_request::Part;
    let sim = Sim::new();
    sim.run(&Command::create(101, |_| {})).expect("created");
    let part = |ct: &str, part| pb::ConsoleRequest {
        ct: ct.to_owned(),
        request: Some(lifecycle::ConsoleRequest { part: Some(part) }),
    };
    let start = |scrollback_only| {
        Part::Start(lifecycle::ConsoleStart { ct: 0, size: None, scrollback_only })
    };
    // Until it has said this, or ends.
    let console = |messages: Vec<pb::ConsoleRequest>, until: &str| {
        let messages = tokio_stream::iter(messages).chain(futures::stream::pending());
        sim.block(async {
            let answer = sim.containers().console(messages).await;
            let mut stream = answer.map_err(Fault::from)?.into_inner();
            let mut said = String::new();
            while said != until {
                let Some(message) = stream.next().await else { break };
                said.push_str(&String::from_utf8_lossy(&message.map_err(Fault::from)?.output));
            }
            Ok::<_, Fault>(said)
        })
    };
    let stopped = console(vec![part("101", start(true))], "").expect_err("it is stopped");
    assert_eq!(stopped.reason, Reason::NotRunning);
    sim.run(&Command::start("101")).expect("started");
    let messages = vec![part("101", start(false)), part("", Part::Stdin("hello".into()))];
    let said = console(messages, "booted\r\nhello");
    assert_eq!(said.expect("attached"), "booted\r\nhello");
    let said = console(vec![part("101", start(true))], "and more than is there");
    assert_eq!(said.expect("printed, and ended"), "booted\r\n");
    let none = console(vec![part("9", start(true))], "").expect_err("unknown");
    assert_eq!(none.reason, Reason::ContainerUnknown);
    let early = console(vec![part("101", Part::Stdin("x".into()))], "").expect_err("no start");
    assert_eq!(early.reason, Reason::MissingField);
}

/// A template's archive, with a file of 2000 bytes.
fn archive() -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(2000);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    archive.append_data(&mut header, "etc/motd", [b'x'; 2000].as_slice()).expect("added");
    archive.into_inner().expect("written")
}

#[test]
fn templates_are_passed_through() {
    use storage::import_template_request::Part;
    let sim = Sim::new();
    let import = |parts: Vec<Part>| {
        let messages: Vec<_> =
            parts.into_iter().map(|p| storage::ImportTemplateRequest { part: Some(p) }).collect();
        sim.block(async {
            let stream = tokio_stream::iter(messages);
            let answer = sim.templates().import_template(stream).await.map_err(Fault::from)?;
            let told = answer.into_inner().collect::<Vec<_>>().await;
            told.into_iter().last().expect("an answer").map_err(Fault::from)
        })
    };
    let named = |name: &str| {
        Part::Header(storage::ImportTemplateHeader { name: name.into(), ..Default::default() })
    };
    let data =
        archive().chunks(700).map(|piece| Part::Data(piece.to_vec().into())).collect::<Vec<_>>();
    let made = import([vec![named("alpine")], data].concat()).expect("imported");
    let Some(storage::template_progress::Is::Template(template)) = made.is else {
        unreachable!("the last that is told is the template")
    };
    assert_eq!(template.name, "alpine");
    assert!(template.content_bytes >= 2000, "{template:?}");
    let empty = import(vec![named("empty")]).expect_err("empty");
    assert_eq!(empty.reason, Reason::BadArchive, "{empty}");

    let list = sim.block(sim.templates().list_templates(pb::ListTemplatesRequest {}));
    let names: Vec<_> =
        list.expect("listed").into_inner().templates.into_iter().map(|t| t.name).collect();
    assert_eq!(names, ["alpine", "trixie"]);

    let export = |name: &str| {
        let name = name.to_owned();
        sim.block(async {
            let request = storage::ExportTemplateRequest { name };
            let answer = sim.templates().export_template(request).await.map_err(Fault::from)?;
            answer.into_inner().next().await.expect("an answer").map_err(Fault::from)
        })
    };
    assert_eq!(export("trixie").expect("exported").data.len(), 4096);
    assert_eq!(export("woody").expect_err("unknown").reason, Reason::TemplateUnknown);
    assert_eq!(export("/etc").expect_err("bad").facts["field"], "name");

    let delete = |name: &str| {
        let request = pb::DeleteTemplateRequest { name: name.to_owned() };
        sim.block(sim.templates().delete_template(request)).map_err(Fault::from)
    };
    assert_eq!(delete("").expect_err("none").reason, Reason::MissingField);
    assert_eq!(delete("woody").expect_err("none").reason, Reason::TemplateUnknown);
    delete("alpine").expect("deleted");
    assert_eq!(delete("alpine").expect_err("gone").reason, Reason::TemplateUnknown);
    // One that is being made is in use.
    let build = storage::BuildTemplateRequest {
        name: "slow".into(),
        suite: "slow".into(),
        ..Default::default()
    };
    let build = pb::BuildTemplateRequest { build: Some(build), ..Default::default() };
    sim.block(sim.templates().build_template(build)).expect("begun");
    sim.until("it is being made", || {
        delete("slow").is_err_and(|f| f.reason == Reason::TemplateInUse)
    });
    // A volume stays when its template goes.
    sim.run(&Command::create(101, |_| {})).expect("created");
    delete("trixie").expect("deleted");
    sim.run(&Command::start("101")).expect("started");
    let another = sim.run(&Command::create(102, |_| {})).expect_err("there is none");
    assert_eq!(another.reason, Reason::TemplateUnknown);
}

#[test]
fn accounting() {
    let sim = Sim::new();
    for id in [101, 102, 103] {
        sim.run(&Command::create(id, |_| {})).expect("created");
    }
    sim.run(&Command::start("101")).expect("started");
    sim.run(&Command::start("103")).expect("started");
    let usage = Usage { cpu_usec: 7, ..Usage::default() };
    sim.kernel().groups.set_usage(id(101), usage);
    let resources = |ct: &str| {
        let request = pb::GetResourcesRequest { ct: ct.to_owned() };
        let answer = sim.block(sim.containers().get_resources(request));
        answer.map(|a| a.into_inner().containers).map_err(Fault::from)
    };
    let one = resources("101").expect("told");
    assert_eq!((one.len(), one[0].rows.len(), one[0].cpu_usec), (1, 21, 7));
    let all: Vec<u32> = resources("").expect("told").iter().map(|c| c.id).collect();
    assert_eq!(all, [101, 103]);
    assert_eq!(resources("102").expect_err("stopped").reason, Reason::NotRunning);
    assert_eq!(resources("7").expect_err("unknown").reason, Reason::ContainerUnknown);
    sim.kill(Daemon::Resources);
    assert_eq!(resources("101").expect_err("away").facts["service"], "resources");
    assert_eq!(pages(&sim, 0, true), [[101, 103]], "a list does without");
}

#[test]
fn the_node() {
    let sim = Sim::new();
    let node = || sim.block(sim.node().get_node(pb::GetNodeRequest {})).expect("told").into_inner();
    let all = node();
    assert_eq!((all.name.as_str(), all.cgroup.as_str(), all.enforcement.len()), ("sim", "v1", 21));
    assert!(!all.kernel.is_empty() && !all.version.is_empty() && all.pool.is_some());
    assert_eq!(all.unreachable.len(), 0);
    for service in [Daemon::Storage, Daemon::Network, Daemon::Resources, Daemon::Lifecycle] {
        sim.kill(service);
    }
    let mut away: Vec<_> = node().unreachable.into_keys().collect();
    away.sort();
    assert_eq!(away, ["lifecycle", "network", "resources", "storage"]);
}

/// Every RPC of the public API is called by some test here.
#[test]
fn every_rpc_is_tested() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut text = String::new();
    for folder in ["tests/sim", "src"] {
        for entry in std::fs::read_dir(dir.join(folder)).expect("there") {
            let path = entry.expect("readable").path();
            if path.is_file() {
                text.push_str(&std::fs::read_to_string(path).expect("text"));
            }
        }
    }
    let mut missing = BTreeMap::new();
    for (rpc, _) in ves_coordinator::api::POLICY {
        let name = rpc.rsplit('/').next().expect("there is one");
        let mut snake = String::new();
        for c in name.chars() {
            if c.is_ascii_uppercase() && !snake.is_empty() {
                snake.push('_');
            }
            snake.push(c.to_ascii_lowercase());
        }
        if !text.contains(&format!(".{snake}(")) {
            missing.insert(name, snake);
        }
    }
    assert_eq!(missing, BTreeMap::new());
}
