//! Exec and console: piped both ways, to the container that was named.

use std::time::Duration;

use futures::StreamExt;
use ves_proto::api as pb;
use ves_proto::{Fault, Reason};
use ves_sim::Sim;
use ves_sim::sim::Command;

const PATIENCE: Duration = Duration::from_secs(20);

const fn exec_part(part: pb::exec_request::Part) -> pb::ExecRequest {
    pb::ExecRequest { part: Some(part) }
}

fn exec_start(ct: &str, argv: &[&str]) -> pb::ExecRequest {
    let argv = argv.iter().map(|a| (*a).to_owned()).collect();
    let container = format!("containers/{ct}");
    let start = pb::ExecStart { container, argv, ..Default::default() };
    exec_part(pb::exec_request::Part::Start(start))
}

#[test]
fn exec_is_piped_both_ways() {
    use pb::{exec_request as ask, exec_response as tell};
    let sim = Sim::new();
    sim.run(&Command::create(101, |s| s.name = "web".into())).expect("created");
    let exec = |messages: Vec<pb::ExecRequest>| {
        let stream = tokio_stream::iter(messages);
        sim.block(async {
            let answer = sim.sessions().exec(stream).await.map_err(Fault::from)?;
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
    messages.push(exec_part(ask::Part::StdinEnd(pb::StdinEnd {})));
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
    let exit = pb::ExitStatus { how: Some(pb::exit_status::How::Code(0)) };
    assert_eq!(parts.last().and_then(|p| p.part.clone()), Some(tell::Part::Exit(exit)));
    let unknown = exec(vec![exec_start("101", &["/no/such"])]).expect_err("unknown");
    assert_eq!(unknown.reason, Reason::CommandUnknown);
    let none = exec(vec![exec_start("7", &[])]).expect_err("unknown");
    assert_eq!(none.reason, Reason::ContainerUnknown);
    for empty in [vec![], vec![pb::ExecRequest { part: None }]] {
        assert_eq!(exec(empty).expect_err("nothing").facts["field"], "start");
    }
    let nameless = exec_part(ask::Part::Start(pb::ExecStart::default()));
    assert_eq!(exec(vec![nameless]).expect_err("whose").facts["field"], "start.container");
}

#[test]
fn a_command_ends_with_its_caller_unless_it_is_left() {
    let sim = Sim::new();
    sim.run(&Command::create(101, |_| {})).expect("created");
    sim.run(&Command::start("101")).expect("started");
    let start = |on_disconnect: pb::OnDisconnect| pb::ExecStart {
        container: "containers/101".to_owned(),
        argv: vec!["sleep".to_owned()],
        on_disconnect: on_disconnect.into(),
        ..Default::default()
    };
    let running = || sim.kernel().processes.commands();
    let ended = || ves_kit::wait_until(PATIENCE, "it has ended", || running() == 0);
    // Its caller hears that it runs and is gone, having said before that it says nothing more, or not.
    let begin_and_go = |start: pb::ExecStart, says_all: bool| {
        let (sender, messages) = tokio::sync::mpsc::channel(1);
        let messages = tokio_stream::wrappers::ReceiverStream::new(messages);
        sim.block(async {
            let first = exec_part(pb::exec_request::Part::Start(start));
            sender.send(first).await.expect("queued");
            let sender = Some(sender).filter(|_| !says_all);
            let answers = sim.sessions().exec(messages).await;
            let mut answers = answers.expect("begun").into_inner();
            answers.next().await.expect("it runs").expect("no fault");
            assert_eq!(running(), 1);
            drop((answers, sender));
        });
    };
    for says_all in [false, true] {
        begin_and_go(start(pb::OnDisconnect::Unspecified), says_all);
        ended();
        begin_and_go(start(pb::OnDisconnect::Kill), says_all);
        ended();
    }
    begin_and_go(start(pb::OnDisconnect::Leave), true);
    // What another does in the meantime says that it was time to end, if it was to.
    sim.run(&Command::create(102, |_| {})).expect("created");
    assert_eq!(running(), 1, "it was left");
    sim.run(&Command::restart("101")).expect("stopped as it asks for, and started");
    ended();
    let odd = pb::ExecStart { on_disconnect: 7, ..start(pb::OnDisconnect::Kill) };
    let odd = tokio_stream::iter([exec_part(pb::exec_request::Part::Start(odd))]);
    let refused = sim.block(sim.sessions().exec(odd)).expect_err("neither");
    assert_eq!(Fault::from(refused).facts["field"], "start.on_disconnect");
}

#[test]
fn the_console_is_piped_both_ways() {
    use pb::console_request::Part;
    let sim = Sim::new();
    sim.run(&Command::create(101, |_| {})).expect("created");
    let start = |ct: &str, scrollback_only| {
        let container = format!("containers/{ct}");
        Part::Start(pb::ConsoleStart { container, size: None, scrollback_only })
    };
    // Until it has said this, or ends.
    let console = |parts: Vec<Part>, until: &str| {
        let messages = parts.into_iter().map(|part| pb::ConsoleRequest { part: Some(part) });
        let messages = tokio_stream::iter(messages.collect::<Vec<_>>());
        let messages = messages.chain(futures::stream::pending());
        sim.block(async {
            let answer = sim.sessions().console(messages).await;
            let mut stream = answer.map_err(Fault::from)?.into_inner();
            let mut said = String::new();
            while said != until {
                let Some(message) = stream.next().await else { break };
                said.push_str(&String::from_utf8_lossy(&message.map_err(Fault::from)?.output));
            }
            Ok::<_, Fault>(said)
        })
    };
    let stopped = console(vec![start("101", true)], "").expect_err("it is stopped");
    assert_eq!(stopped.reason, Reason::NotRunning);
    sim.run(&Command::start("101")).expect("started");
    let parts = vec![start("101", false), Part::Stdin("hello".into())];
    assert_eq!(console(parts, "booted\r\nhello").expect("attached"), "booted\r\nhello");
    let said = console(vec![start("101", true)], "and more than is there");
    assert_eq!(said.expect("printed, and ended"), "booted\r\n");
    let none = console(vec![start("9", true)], "").expect_err("unknown");
    assert_eq!(none.reason, Reason::ContainerUnknown);
    let early = console(vec![Part::Stdin("x".into())], "").expect_err("no start");
    assert_eq!(early.reason, Reason::MissingField);
}
