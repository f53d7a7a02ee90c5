//! Events: each thing that happened is told once, in order, kept by number and age, listed and watched.

use std::time::Duration;

use prost_types::Timestamp;
use tonic::Streaming;
use ves_daemon::client::Traced;
use ves_proto::api::access_service_client::AccessServiceClient;
use ves_proto::api::event::Type;
use ves_proto::api::event_service_client::EventServiceClient;
use ves_proto::api::watch_events_response::Event as News;
use ves_proto::{Fault, Reason, api};
use ves_resources::rows::Usage;
use ves_sim::sim::Command;
use ves_sim::words as pb;
use ves_sim::{Mishap, Sim, Victim, each_step};
use ves_types::layout::Daemon;
use ves_types::{CtId, ExitCause, Victim as Killed};

fn client(sim: &Sim) -> EventServiceClient<Traced> {
    EventServiceClient::new(sim.channel())
}

fn list(sim: &Sim, request: api::ListEventsRequest) -> Result<api::ListEventsResponse, Fault> {
    let answer = sim.block(client(sim).list_events(request));
    answer.map(tonic::Response::into_inner).map_err(Fault::from)
}

/// Those that a filter lets through, oldest first.
fn told(sim: &Sim, filter: &str) -> Vec<api::Event> {
    let request = api::ListEventsRequest { filter: filter.to_owned(), ..Default::default() };
    let mut events = list(sim, request).expect("listed").events;
    events.reverse();
    events
}

fn types(events: &[api::Event]) -> Vec<Type> {
    events.iter().map(api::Event::r#type).collect()
}

fn fact<'a>(event: &'a api::Event, name: &str) -> &'a str {
    event.facts.get(name).map_or("", String::as_str)
}

/// What comes by a stream next.
fn next(sim: &Sim, stream: &mut Streaming<api::WatchEventsResponse>) -> (String, News) {
    let message = sim.block(stream.message()).expect("it lives").expect("it goes on");
    (message.resume_token, message.event.expect("set"))
}

fn watch(sim: &Sim, token: &str, filter: &str) -> Streaming<api::WatchEventsResponse> {
    let (resume_token, filter) = (token.to_owned(), filter.to_owned());
    let request = api::WatchEventsRequest { resume_token, filter, heartbeat: None };
    sim.block(client(sim).watch_events(request)).expect("watched").into_inner()
}

#[test]
fn a_life_is_told_in_order_and_once() {
    let sim = Sim::new();
    for command in [
        Command::create(101, |_| {}),
        Command::start("101"),
        Command::update("101", |r| {
            r.update_mask = vec!["description".to_owned(), "onboot".to_owned()];
            let description = "mail".to_owned();
            r.spec = Some(pb::ContainerSpec { description, ..Default::default() });
            r.save = true;
        }),
        Command::restart("101"),
        Command::stop("101"),
        Command::delete("101"),
    ] {
        sim.run(&command).expect("done");
    }
    let events = told(&sim, "");
    let life = [
        Type::Created,
        Type::Started,
        Type::Changed,
        Type::Stopped,
        Type::Started,
        Type::Stopped,
        Type::Deleted,
    ];
    assert_eq!(types(&events), life);
    let first = &events[0];
    assert!(first.uid.parse::<uuid::Uuid>().is_ok());
    for event in &events {
        assert_eq!(event.target, "containers/101");
        assert_eq!(event.uid, first.uid);
        assert_eq!(event.node, first.node);
        let actor = event.actor.as_ref().expect("somebody");
        assert_eq!(actor.r#type(), api::actor::Type::Unix);
        let op = event.operation.strip_prefix("operations/").expect("one");
        sim.operation(op).expect("it is known");
    }
    assert!(events.is_sorted_by(|a, b| a.name < b.name), "names sort by age");
    assert_eq!(fact(&events[2], "fields"), "description");
    // An init of a node in memory never stops when it is asked.
    assert_eq!(fact(&events[5], "cause"), "KILLED");
}

#[test]
fn what_a_container_does_by_itself_is_told() {
    let sim = Sim::new();
    sim.run(&Command::create(101, |_| {})).expect("created");
    sim.run(&Command::start("101")).expect("started");
    sim.advance(Duration::from_secs(5));
    let inside = |cause, what: &str, n| {
        sim.kernel().end_inside(101, cause, 0);
        sim.until(what, || {
            let done = |op: &pb::Operation| op.ended_unix_ms > 0;
            told(&sim, "actor.type=GUEST").len() == n && sim.all_operations().iter().all(done)
        });
    };
    inside(ExitCause::Rebooted, "its reboot is told", 1);
    inside(ExitCause::Halted, "its end is told", 2);
    let events = told(&sim, "actor.type=GUEST");
    assert_eq!(types(&events), [Type::Rebooted, Type::Stopped]);
    assert_eq!(fact(&events[1], "cause"), "HALTED");
    assert_eq!(types(&told(&sim, "")).len(), 4, "nothing is told twice: {:?}", told(&sim, ""));
    sim.run(&Command::start("101")).expect("started");
    sim.boot("another");
    let stopped = told(&sim, "type=STOPPED");
    let last = stopped.last().expect("its end by the node's boot");
    assert_eq!((stopped.len(), fact(last, "cause")), (2, "BOOT"));
    assert_eq!(last.actor.as_ref().map(|actor| actor.id.as_str()), Some("boot"));
}

#[test]
fn failures_and_sessions_are_told() {
    let sim = Sim::new();
    sim.run(&Command::create(101, |_| {})).expect("created");
    let mishap = Mishap::FailBefore(Reason::HostFailed);
    sim.script().at_call_of(101, "EnsureLimits", 0, mishap);
    sim.run(&Command::start("101")).expect_err("it fails");
    let failed = told(&sim, "type=OPERATION_FAILED");
    assert_eq!((fact(&failed[0], "kind"), fact(&failed[0], "reason")), ("START", "HOST_FAILED"));
    assert!(told(&sim, "type=STARTED").is_empty());
    sim.run(&Command::start("101")).expect("started");
    let start = api::ExecStart {
        container: "containers/101".to_owned(),
        argv: vec!["cat".to_owned(), "-psecret".to_owned()],
        env: vec!["TOKEN=secret".to_owned()],
        ..Default::default()
    };
    let start = api::ExecRequest { part: Some(api::exec_request::Part::Start(start)) };
    let mut sessions = sim.sessions();
    drop(sim.block(sessions.exec(tokio_stream::iter([start]))).expect("answered"));
    sim.until("it is told", || !told(&sim, "type=SESSION_OPENED").is_empty());
    let opened = told(&sim, "type=SESSION_OPENED");
    let facts = ["session", "command", "arguments"].map(|name| fact(&opened[0], name));
    assert_eq!((facts, opened[0].facts.len()), (["exec", "cat", "1"], 3));
}

#[test]
fn one_that_runs_and_does_not_say_in_time_that_it_booted_was_started() {
    let sim = Sim::new();
    let init = vec!["/bin/never-boots".to_owned()];
    sim.run(&Command::create(101, |s| s.init = init)).expect("created");
    let start = || {
        let wait = true;
        let start = pb::StartContainerRequest { ct: "101".to_owned(), wait, ..Default::default() };
        Command::Start(start).send(sim.channel())
    };
    sim.ask(start).expect("begun");
    sim.until("it is late", || {
        sim.advance(Duration::from_secs(10));
        !told(&sim, "type=OPERATION_FAILED").is_empty()
    });
    let life = [Type::Created, Type::Started, Type::OperationFailed];
    assert_eq!(types(&told(&sim, "")), life);
    assert_eq!(fact(&told(&sim, "")[2], "reason"), "TIMEOUT");
}

#[test]
fn kills_are_told_at_once_and_then_now_and_then() {
    let sim = Sim::new();
    sim.run(&Command::create(101, |_| {})).expect("created");
    sim.run(&Command::start("101")).expect("started");
    let ct: CtId = 101_u32.try_into().expect("valid");
    sim.kernel().groups.name_victim(ct, Killed::new("redis-server", 812));
    let kill = |kills, known: usize| {
        let usage = Usage { oom_kills: Some(kills), ..Usage::default() };
        sim.kernel().groups.set_usage(ct, usage);
        sim.until("it is told", || {
            sim.advance(Duration::from_secs(61));
            told(&sim, "type=OUT_OF_MEMORY").len() == known
        });
    };
    kill(2, 1);
    kill(9, 2);
    sim.restart(Daemon::Coordinator);
    sim.until("it is known again", || {
        sim.get("101").is_ok_and(|container| container.oom_kills == Some(9))
    });
    kill(11, 3);
    let kills = told(&sim, "type=OUT_OF_MEMORY");
    assert_eq!([0, 1, 2].map(|n| fact(&kills[n], "kills")), ["2", "9", "11"], "each once");
    assert!(fact(&kills[0], "victims").contains("redis-server"));
}

#[test]
fn pages_filters_and_what_is_wrong_with_them() {
    let sim = Sim::new();
    for ct in 101..=106 {
        sim.run(&Command::create(ct, |_| {})).expect("created");
    }
    let page = |page_size, page_token: &str, filter: &str| {
        let (page_token, filter) = (page_token.to_owned(), filter.to_owned());
        list(&sim, api::ListEventsRequest { page_size, page_token, filter })
    };
    let (mut token, mut targets) = (String::new(), Vec::new());
    loop {
        let list = page(2, &token, r#"target!="containers/103""#).expect("a page");
        assert!(list.events.len() <= 2);
        targets.extend(list.events.into_iter().map(|event| event.target));
        token = list.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    let all = [106, 105, 104, 102, 101].map(|ct| format!("containers/{ct}"));
    assert_eq!(targets, all, "newest first");
    let first = page(2, "", "").expect("a page");
    for (size, token, filter, field) in [
        (2, first.next_page_token.as_str(), "type=CREATED", "page_token"),
        (2, "7", "", "page_token"),
        (-1, "", "", "page_size"),
        (2, "", "kind=x", "filter"),
    ] {
        assert_eq!(page(size, token, filter).expect_err(field).facts["field"], field);
    }
    assert_eq!(told(&sim, "type=DELETED"), []);
}

#[test]
fn they_are_kept_by_number_and_by_age() {
    let sim = Sim::configured(|config| config.events_kept = 3);
    let count = |n: usize, what: &str| {
        sim.until(what, || {
            sim.advance(Duration::from_secs(60));
            told(&sim, "").len() == n
        });
    };
    for ct in 101..=105 {
        sim.run(&Command::create(ct, |_| {})).expect("created");
    }
    count(3, "the first two are forgotten");
    assert_eq!(told(&sim, "")[0].target, "containers/103");
    sim.restart(Daemon::Coordinator);
    assert_eq!(told(&sim, "").len(), 3, "they outlive the coordinator");
    sim.advance(Duration::from_secs(91 * 86_400));
    count(1, "those that are old are forgotten, and the newest keeps the number");
    sim.run(&Command::delete("105")).expect("deleted");
    count(1, "the newest is another");
    assert_eq!(types(&told(&sim, "")), [Type::Deleted]);
}

#[test]
fn a_watcher_misses_nothing_or_is_told_so() {
    let sim = Sim::configured(|config| config.events_kept = 3);
    sim.run(&Command::create(101, |_| {})).expect("created");
    let mut stream = watch(&sim, "", "type=CREATED OR type=DELETED");
    assert!(matches!(next(&sim, &mut stream).1, News::Synced(_)), "from now on");
    sim.run(&Command::start("101")).expect("started");
    sim.run(&Command::create(102, |_| {})).expect("created");
    let (token, News::Happened(event)) = next(&sim, &mut stream) else { panic!("it happened") };
    assert_eq!((event.r#type(), event.target.as_str()), (Type::Created, "containers/102"));
    sim.advance(Duration::from_secs(31));
    let (same, News::Heartbeat(beat)) = next(&sim, &mut stream) else { panic!("it is silent") };
    assert!(beat.time.is_some_and(|Timestamp { seconds, .. }| seconds > 0));
    assert_eq!(same, token);
    drop(stream);
    sim.run(&Command::delete("102")).expect("deleted");
    sim.restart(Daemon::Coordinator);
    let mut stream = watch(&sim, &token, "");
    let (_, News::Happened(event)) = next(&sim, &mut stream) else { panic!("it happened") };
    assert_eq!(event.r#type(), Type::Deleted, "where it was, over a restart");
    assert!(matches!(next(&sim, &mut stream).1, News::Synced(_)));
    for ct in 103..=107 {
        sim.run(&Command::create(ct, |_| {})).expect("created");
    }
    sim.until("it is forgotten", || {
        sim.advance(Duration::from_secs(60));
        told(&sim, "").len() == 3
    });
    let foreign = token.replace(|c: char| c.is_ascii_digit(), "0");
    for lost in
        [token.as_str(), "x", foreign.as_str(), "effff-00000000-0000-0000-0000-000000000000"]
    {
        let mut stream = watch(&sim, lost, "");
        assert!(matches!(next(&sim, &mut stream).1, News::Reset(_)), "{lost}");
        let (token, News::Synced(_)) = next(&sim, &mut stream) else { panic!("{lost}: synced") };
        let mut stream = watch(&sim, &token, "");
        assert!(matches!(next(&sim, &mut stream).1, News::Synced(_)), "{lost}: it goes on");
    }
}

#[test]
fn tokens_are_told_of_as_they_are_made_and_revoked_even_on_a_full_disk() {
    let sim = Sim::new();
    let mut access = AccessServiceClient::new(sim.channel());
    let token = api::Token {
        holder: "panel".to_owned(),
        role: api::AccessRole::Operator.into(),
        ..Default::default()
    };
    let create = api::CreateTokenRequest { token: Some(token) };
    let made = sim.block(access.create_token(create.clone())).expect("made").into_inner();
    let name = made.token.expect("it is told").name;
    sim.block(access.create_token(create)).expect_err("its name is taken");
    sim.store().fill(true);
    sim.block(access.revoke_token(api::RevokeTokenRequest { name: name.clone() })).expect("gone");
    let told = told(&sim, "type=ACCESS");
    let of = |n: usize| ["kind", "id", "holder"].map(|name| fact(&told[n], name));
    let id = name.strip_prefix("tokens/").expect("a token's");
    assert_eq!(of(0), ["TOKEN_CREATED", id, "panel"]);
    assert_eq!(of(1), ["TOKEN_REVOKED", id, "panel"]);
    assert_eq!((told.len(), fact(&told[0], "role")), (2, "operator"));
    assert!(!format!("{told:?}").contains(&made.secret));
}

#[test]
fn what_is_cancelled_is_told_and_is_no_failure() {
    let sim = Sim::configured(|config| config.patience_ms = 60_000);
    sim.run(&Command::create(101, |_| {})).expect("created");
    sim.kill(Daemon::Lifecycle);
    let begun = sim.ask(|| Command::start("101").send(sim.channel())).expect("begun");
    sim.cancel(&begun.id).expect("asked");
    sim.start_daemon(Daemon::Lifecycle);
    sim.until("it is taken back", || !told(&sim, "type=OPERATION_CANCELLED").is_empty());
    let events = told(&sim, "");
    assert_eq!(types(&events), [Type::Created, Type::OperationCancelled], "{events:?}");
    assert_eq!((events[1].target.as_str(), fact(&events[1], "kind")), ("containers/101", "START"));
    assert!(events[1].operation.ends_with(&begun.id));
}

#[test]
fn events_that_found_no_room_are_counted_and_told_of() {
    let sim = Sim::new();
    sim.run(&Command::create(101, |_| {})).expect("created");
    sim.run(&Command::start("101")).expect("started");
    let mut stream = watch(&sim, "", "type=EVENTS_LOST");
    assert!(matches!(next(&sim, &mut stream).1, News::Synced(_)));
    sim.store().fill(true);
    let open = || {
        let (container, argv) = ("containers/101".to_owned(), vec!["true".to_owned()]);
        let start = api::ExecStart { container, argv, ..Default::default() };
        let start = api::ExecRequest { part: Some(api::exec_request::Part::Start(start)) };
        drop(sim.block(sim.sessions().exec(tokio_stream::iter([start]))).expect("answered"));
    };
    for _ in 0..3 {
        open();
    }
    sim.advance(Duration::from_secs(5));
    assert!(told(&sim, "type=SESSION_OPENED OR type=EVENTS_LOST").is_empty());
    sim.store().fill(false);
    sim.until("the loss is told", || {
        sim.advance(Duration::from_secs(2));
        !told(&sim, "type=EVENTS_LOST").is_empty()
    });
    let (_, News::Happened(event)) = next(&sim, &mut stream) else { panic!("a watcher hears") };
    assert_eq!(fact(&event, "count"), "3");
    sim.advance(Duration::from_secs(5));
    open();
    sim.until("events go on", || told(&sim, "type=SESSION_OPENED").len() == 1);
    assert_eq!(told(&sim, "type=EVENTS_LOST").len(), 1, "once");
}

#[test]
fn conditions_are_told_when_they_have_stayed_and_over_a_restart() {
    let sim = Sim::new();
    let of = |told: &[api::Event]| {
        let name =
            |event: &api::Event| format!("{}={}", fact(event, "condition"), fact(event, "status"));
        told.iter().map(name).collect::<Vec<_>>()
    };
    let conditions = || told(&sim, "type=NODE_CONDITION");
    let until = |what: &str, count: usize, seconds: u64| {
        sim.until(what, || {
            sim.advance(Duration::from_secs(seconds));
            conditions().len() == count
        });
    };
    sim.kill(Daemon::Network);
    until("network is away", 1, 5);
    sim.restart(Daemon::Coordinator);
    sim.start_daemon(Daemon::Network);
    until("network is back, which it was not when it was told", 2, 5);
    sim.run(&Command::create(101, |_| {})).expect("created");
    sim.kernel().volumes.set_pool_bytes(1 << 20);
    until("the pool is low", 3, 20);
    assert!(!fact(&conditions()[2], "message").is_empty());
    sim.kernel().volumes.set_pool_bytes(1 << 40);
    sim.advance(Duration::from_secs(300));
    until("the pool has room", 4, 60);
    let all = ["NETWORK_READY=FALSE", "NETWORK_READY=TRUE", "POOL_LOW=TRUE", "POOL_LOW=FALSE"];
    assert_eq!(of(&conditions()), all);
    assert!(conditions().iter().all(|event| event.target.starts_with("nodes/")));
}

/// Wherever the coordinator dies: what was done is told, once, and nothing else is.
#[test]
fn a_crash_neither_loses_nor_repeats_any() {
    each_step(&Mishap::kills(Victim::Coordinator), |sim, mishap| {
        sim.run(&Command::create(101, |_| {})).expect("created");
        sim.run(&Command::start("101")).expect("started");
        sim.run(&Command::restart("101")).expect("restarted");
        sim.run(&Command::stop("101")).expect("stopped");
        sim.run(&Command::delete("101")).expect("deleted");
        let events = told(sim, "");
        let life = [
            Type::Created,
            Type::Started,
            Type::Stopped,
            Type::Started,
            Type::Stopped,
            Type::Deleted,
        ];
        assert_eq!(types(&events), life, "{mishap:?}: {events:?}");
    });
}
