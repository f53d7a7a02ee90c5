//! The rest of the public API: lists and pages, watches, usage, the node; and that every RPC is named by a test.

use std::collections::BTreeMap;

use ves_proto::api as pb;
use ves_proto::{Fault, Reason};
use ves_sim::Sim;
use ves_sim::sim::Command;
use ves_types::layout::Daemon;

/// All pages of a list.
fn pages(sim: &Sim, asked: &pb::ListContainersRequest) -> Vec<Vec<u32>> {
    let mut pages = Vec::new();
    let mut request = asked.clone();
    loop {
        let answer = sim.block(sim.containers().list_containers(request.clone()));
        let answer = answer.expect("a page").into_inner();
        pages.push(answer.containers.iter().map(|c| c.ct_id).collect());
        request.page_token = answer.next_page_token;
        if request.page_token.is_empty() {
            return pages;
        }
    }
}

fn list(page_size: i32, filter: &str, order_by: &str) -> pb::ListContainersRequest {
    let (filter, order_by) = (filter.to_owned(), order_by.to_owned());
    pb::ListContainersRequest { page_size, filter, order_by, ..Default::default() }
}

fn bad_list(sim: &Sim, request: pb::ListContainersRequest) -> Fault {
    Fault::from(sim.block(sim.containers().list_containers(request)).expect_err("bad"))
}

fn mask(paths: &[&str]) -> Option<prost_types::FieldMask> {
    Some(prost_types::FieldMask { paths: paths.iter().map(|p| (*p).to_owned()).collect() })
}

#[test]
fn lists_and_pages() {
    let sim = Sim::new();
    assert_eq!(pages(&sim, &list(0, "", "")), [Vec::<u32>::new()]);
    for (id, name) in [(300, "b"), (101, "c"), (205, "a")] {
        sim.run(&Command::create(id, |s| s.name = name.into())).expect("created");
    }
    assert_eq!(pages(&sim, &list(0, "", "")), [[101, 205, 300]]);
    assert_eq!(pages(&sim, &list(2, "", "")), [vec![101, 205], vec![300]]);
    assert_eq!(pages(&sim, &list(2, "", "ct_id desc")), [vec![300, 205], vec![101]]);
    assert_eq!(pages(&sim, &list(1, "", "alias")), [[205], [300], [101]]);
    assert_eq!(pages(&sim, &list(1, "", "alias desc")), [[101], [300], [205]]);
    assert_eq!(pages(&sim, &list(1, "status.state=RUNNING", "")), [Vec::<u32>::new()]);
    sim.run(&Command::start("205")).expect("started");
    assert_eq!(pages(&sim, &list(0, "status.state=RUNNING", "")), [[205]]);
    assert_eq!(pages(&sim, &list(1, "alias=b OR alias=c", "create_time")).concat().len(), 2);

    let request = list(1, "NOT alias=a", "");
    let first = sim.block(sim.containers().list_containers(request.clone())).expect("a page");
    let first = first.into_inner();
    assert_eq!((first.total_size, first.containers.len()), (2, 1));
    let page_token = first.next_page_token;
    let other = pb::ListContainersRequest { page_token: page_token.clone(), ..list(1, "", "") };
    assert_eq!(bad_list(&sim, other).facts["field"], "page_token", "of another filter");
    let other = pb::ListContainersRequest { order_by: "alias".into(), page_token, ..request };
    assert_eq!(bad_list(&sim, other).facts["field"], "page_token", "of another order");

    let wrong = pb::ListContainersRequest {
        page_token: "x".into(),
        read_mask: mask(&["nonsense"]),
        ..list(-1, "nonsense=1", "nonsense")
    };
    let fields: Vec<_> = bad_list(&sim, wrong).violations.into_iter().map(|v| v.field).collect();
    assert_eq!(fields, ["page_size", "page_token", "filter", "order_by", "read_mask"]);

    let read_mask = mask(&["name", "status.state", "spec.limits.ubc.numproc"]);
    let request = pb::ListContainersRequest { read_mask, ..list(1, "alias=a", "") };
    let some = sim.block(sim.containers().list_containers(request)).expect("a page").into_inner();
    let some = some.containers.into_iter().next().expect("one");
    let (spec, status) = (some.spec.expect("some of it"), some.status.expect("some of it"));
    assert_eq!((some.name.as_str(), some.ct_id, spec.hostname.as_str()), ("containers/205", 0, ""));
    assert!(status.state() == pb::container_status::State::Running && status.init_pid.is_none());
    assert!(spec.limits.and_then(|l| l.ubc).is_some_and(|ubc| ubc.numproc.is_some()));
}

#[test]
fn several_by_name() {
    let sim = Sim::new();
    sim.run(&Command::create(101, |s| s.name = "web".into())).expect("created");
    sim.run(&Command::create(102, |_| {})).expect("created");
    let get = |names: &[&str]| {
        let names = names.iter().map(|n| (*n).to_owned()).collect();
        let request = pb::BatchGetContainersRequest { names };
        let answer = sim.block(sim.containers().batch_get_containers(request));
        answer.map(tonic::Response::into_inner).map_err(Fault::from)
    };
    let some = get(&["containers/102", "containers/7", "containers/web"]).expect("told");
    let ids: Vec<_> = some.containers.iter().map(|c| c.ct_id).collect();
    assert_eq!((ids, some.missing), (vec![102, 101], vec!["containers/7".to_owned()]));
    assert_eq!(get(&["containers/101", "101"]).expect_err("no name").facts["field"], "names[1]");
    assert_eq!(get(&[]).expect_err("none").reason, Reason::MissingField);
    assert_eq!(get(&["containers/1"; 1001]).expect_err("many").facts["field"], "names");
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
        let spec = ves_sim::words::ContainerSpec { name: format!("c{n}"), ..Sim::spec("trixie") };
        let given = ves_coordinator::container::given::parse(id, Some(spec.container()));
        let (spec, meta) = given.expect("valid");
        let record = Record {
            id,
            uid: ves_coordinator::clock::Clock::new_id(&ves_coordinator::clock::SystemClock),
            node: "sim".parse().expect("a name"),
            slot: IdSlot::try_from(16 + n).expect("valid"),
            spec,
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
            meta,
            retry: None,
            scheduled: ves_coordinator::container::schedule::Scheduled::default(),
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
    let all = pages(&sim, &list(0, "", ""));
    assert_eq!(all.iter().map(Vec::len).collect::<Vec<_>>(), [1000; 10]);
    let flat = all.concat();
    assert!(flat.is_sorted() && flat.len() == 10_000);
    assert_eq!(pages(&sim, &list(2, "alias=\"c777*\"", "")).concat().len(), 11);
    assert_eq!(sim.run(&Command::create(0, |_| {})).expect("created").ct, 10_101);
}

type Told = pb::watch_containers_response::Event;

/// A watch of containers.
struct Watch<'a> {
    sim: &'a Sim,
    stream: tonic::Streaming<pb::WatchContainersResponse>,
    token: String,
}

impl<'a> Watch<'a> {
    fn begin(sim: &'a Sim, resume_token: &str, filter: &str) -> Self {
        let (resume_token, filter) = (resume_token.to_owned(), filter.to_owned());
        let request = pb::WatchContainersRequest { resume_token, filter, ..Default::default() };
        let stream = sim.block(sim.containers().watch_containers(request)).expect("watched");
        Self { sim, stream: stream.into_inner(), token: String::new() }
    }

    fn next(&mut self) -> Told {
        let told = self.sim.block(self.stream.message()).expect("told").expect("it goes on");
        self.token = told.resume_token;
        told.event.expect("something")
    }

    /// The next, in short.
    fn said(&mut self) -> String {
        match self.next() {
            Told::Changed(container) => format!("{} changed", container.ct_id),
            Told::Gone(gone) => format!("{} gone", gone.name),
            Told::Reset(_) => "reset".to_owned(),
            Told::Synced(_) => "synced".to_owned(),
            Told::Heartbeat(_) => "heartbeat".to_owned(),
        }
    }

    /// Until a container is told that is at rest in this state.
    fn until(&mut self, state: pb::container_status::State) {
        loop {
            if let Told::Changed(container) = self.next() {
                let status = container.status.expect("told");
                if status.state() == state && status.operation.is_empty() {
                    return;
                }
            }
        }
    }
}

#[test]
fn watches_resume() {
    use pb::container_status::State;
    let sim = Sim::new();
    let mut watch = Watch::begin(&sim, "", "");
    assert_eq!([watch.said(), watch.said()], ["reset", "synced"], "where nothing is");
    sim.run(&Command::create(101, |_| {})).expect("created");
    let mut watch = Watch::begin(&sim, "", "");
    assert_eq!([watch.said(), watch.said(), watch.said()], ["reset", "101 changed", "synced"]);
    sim.run(&Command::start("101")).expect("started");
    watch.until(State::Running);
    let token = watch.token.clone();
    let uid = sim.get("101").expect("there").uid;
    drop(watch);
    sim.run(&Command::create(102, |_| {})).expect("created");
    sim.run(&Command::stop("101")).expect("stopped");
    sim.run(&Command::delete("101")).expect("destroyed");
    let mut watch = Watch::begin(&sim, &token, "");
    let Told::Gone(gone) = watch.next() else { unreachable!("it was destroyed") };
    assert_eq!((gone.name.as_str(), gone.uid, gone.time.is_some()), ("containers/101", uid, true));
    assert_eq!(watch.token, token, "a break between the two loses neither");
    assert_eq!(watch.said(), "102 changed", "once, as it is now");
    assert_ne!(watch.token, token);
    let last = watch.token.clone();
    // An id that is another's now: first that the one before is gone.
    sim.run(&Command::delete("102")).expect("destroyed");
    sim.run(&Command::create(102, |_| {})).expect("created");
    let mut watch = Watch::begin(&sim, &last, "");
    assert_eq!([watch.said(), watch.said()], ["containers/102 gone", "102 changed"]);
    // Of another life of the coordinator nothing is known: everything anew.
    sim.restart(Daemon::Coordinator);
    sim.until("it is back", || sim.get("102").is_ok());
    for token in [last.as_str(), "nonsense"] {
        let mut watch = Watch::begin(&sim, token, "");
        assert_eq!([watch.said(), watch.said(), watch.said()], ["reset", "102 changed", "synced"]);
    }
}

#[test]
fn who_ceases_to_match_is_told_as_gone() {
    let sim = Sim::new();
    for id in [101, 102] {
        sim.run(&Command::create(id, |_| {})).expect("created");
    }
    let describe = |ct: &str, text: &str| {
        let spec = ves_sim::words::ContainerSpec { description: text.into(), ..Default::default() };
        sim.run(&Command::set(ct, &["description"], spec)).expect("set");
    };
    describe("101", "mine");
    let mut watch = Watch::begin(&sim, "", "description=mine");
    assert_eq!([watch.said(), watch.said(), watch.said()], ["reset", "101 changed", "synced"]);
    describe("102", "other");
    describe("102", "mine");
    assert_eq!(watch.said(), "102 changed", "what does not match is not told");
    let token = watch.token.clone();
    describe("102", "other");
    assert_eq!(watch.said(), "containers/102 gone");
    describe("102", "another");
    describe("101", "other");
    assert_eq!(watch.said(), "containers/101 gone");
    // Who resumes is told of all that may have matched.
    let mut watch = Watch::begin(&sim, &token, "description=mine");
    assert_eq!([watch.said(), watch.said()], ["containers/101 gone", "containers/102 gone"]);
    sim.run(&Command::delete("101")).expect("destroyed");
    describe("102", "mine");
    assert_eq!(watch.said(), "102 changed");
}

#[test]
fn a_watch_is_never_silent() {
    let sim = Sim::new();
    let mut watch = Watch::begin(&sim, "", "");
    assert_eq!([watch.said(), watch.said()], ["reset", "synced"]);
    let token = watch.token.clone();
    let later = async {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        sim.advance(std::time::Duration::from_secs(31));
    };
    let (told, ()) = sim.block(async { tokio::join!(watch.stream.message(), later) });
    let told = told.expect("told").expect("it goes on");
    assert!(matches!(told.event, Some(Told::Heartbeat(_))), "{told:?}");
    assert_eq!(told.resume_token, token);
    let heartbeat = Some(prost_types::Duration { seconds: 0, nanos: 1 });
    let request = pb::WatchContainersRequest { heartbeat, ..Default::default() };
    let fault = sim.block(sim.containers().watch_containers(request)).expect_err("too often");
    assert_eq!(Fault::from(fault).facts["field"], "heartbeat");
}

#[test]
fn usage() {
    let sim = Sim::new();
    for id in [101, 102, 103] {
        sim.run(&Command::create(id, |_| {})).expect("created");
    }
    sim.run(&Command::start("101")).expect("started");
    sim.run(&Command::start("103")).expect("started");
    let get = |name: &str| {
        let request = pb::GetUsageRequest { container: name.to_owned() };
        let answer = sim.block(sim.usage().get_usage(request));
        answer.map(tonic::Response::into_inner).map_err(Fault::from)
    };
    let one = get("containers/101").expect("told");
    assert_eq!((one.container.as_str(), one.ubc.len()), ("containers/101", 21));
    let cpu_time = Some(prost_types::Duration { seconds: 4, nanos: 500_000_000 });
    assert_eq!((one.cpu_time, one.disk_used_bytes), (cpu_time, Some(200 << 20)));
    assert!(one.start_time.is_some() && one.sample_time.is_some() && !one.uid.is_empty());
    for row in &one.ubc {
        let known = row.enforcement() != pb::Enforcement::Unavailable;
        assert_eq!((row.held.is_some(), row.max_held.is_some()), (known, known), "{row:?}");
    }
    assert!(one.ubc.iter().any(|row| row.held.is_none()), "some cannot be counted");
    let list = |page_size: i32, page_token: &str, filter: &str| {
        let (page_token, filter) = (page_token.to_owned(), filter.to_owned());
        let read_mask = mask(&["container"]);
        let request = pb::ListUsageRequest { page_size, page_token, filter, read_mask };
        let answer = sim.block(sim.usage().list_usage(request)).expect("told").into_inner();
        assert!(answer.usage.iter().all(|usage| usage.ubc.is_empty()));
        let names: Vec<_> = answer.usage.into_iter().map(|usage| usage.container).collect();
        (names.join(" "), answer.next_page_token)
    };
    let all = "containers/101 containers/102 containers/103";
    assert_eq!(list(0, "", ""), (all.to_owned(), String::new()), "also one that is stopped");
    let (first, token) = list(1, "", "");
    assert_eq!(first, "containers/101");
    let (second, token) = list(1, &token, "");
    assert_eq!(second, "containers/102");
    assert_eq!(list(1, &token, ""), ("containers/103".to_owned(), String::new()));
    assert_eq!(list(0, "", "ct_id=103").0, "containers/103");
    let stopped = get("containers/102").expect("told");
    assert_eq!((stopped.ubc.len(), stopped.memory_bytes, stopped.cpu_time), (0, None, None));
    assert!(stopped.start_time.is_some() && stopped.disk_allocated_bytes.is_some());
    assert_eq!(get("containers/7").expect_err("unknown").reason, Reason::ContainerUnknown);
    sim.kill(Daemon::Resources);
    assert_eq!(get("containers/101").expect_err("away").facts["service"], "resources");
    get("containers/102").expect("there is nothing to ask of one that is stopped");
    let running = pages(&sim, &self::list(0, "status.state=RUNNING", ""));
    assert_eq!(running, [[101, 103]], "a list does without");
}

#[test]
fn the_node() {
    use pb::condition::{Status, Type};
    let sim = Sim::new();
    sim.run(&Command::create(101, |_| {})).expect("created");
    sim.run(&Command::start("101")).expect("started");
    let get = |name: &str| {
        let request = pb::GetNodeRequest { name: name.to_owned() };
        let answer = sim.block(sim.node().get_node(request));
        answer.map(tonic::Response::into_inner).map_err(Fault::from)
    };
    let conditions = || {
        let node = get("nodes/-").expect("told");
        let all = node.conditions.into_iter().map(|c| (c.r#type(), c.status()));
        all.collect::<BTreeMap<_, _>>()
    };
    let all = get("nodes/sim").expect("told");
    assert_eq!((all.name.as_str(), all.capabilities.len()), ("nodes/sim", 21));
    assert_eq!(all.cgroup_mode(), pb::node::CgroupMode::V1);
    assert_eq!((all.containers, all.containers_running), (1, 1));
    assert!(!all.kernel.is_empty() && !all.version.is_empty());
    assert_eq!(all.pool.expect("told").name, "nodes/sim/pools/default");
    let ready =
        [Type::StorageReady, Type::NetworkReady, Type::ResourcesReady, Type::LifecycleReady];
    let told = conditions();
    assert!(ready.iter().all(|kind| told[kind] == Status::True), "{told:?}");
    assert_eq!(told[&Type::PoolLow], Status::False);
    assert_eq!(get("nodes/other").expect_err("none").reason, Reason::NodeUnknown);
    let list = sim.block(sim.node().list_nodes(pb::ListNodesRequest::default())).expect("listed");
    assert_eq!(list.into_inner().nodes[0].name, "nodes/sim");
    for service in [Daemon::Storage, Daemon::Network, Daemon::Resources, Daemon::Lifecycle] {
        sim.kill(service);
    }
    let told = conditions();
    assert!(ready.iter().all(|kind| told[kind] == Status::False), "{told:?}");
    assert_eq!(told[&Type::PoolLow], Status::Unknown);
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
    for (rpc, _) in ves_coordinator::access::POLICY {
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
