//! `SessionService`: exec and console, two streams piped through in both directions.
//!
//! Nothing is buffered here: a message is taken from one side when the other asks for it, so that a
//! slow reader slows the writer. A caller that goes away is gone for lifecycle too, as it is with the coordinator:
//! lifecycle knows what is to become of the command then; the container and its console stay.

use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};
use ves_daemon::Principal;
use ves_proto::api as pb;
use ves_proto::api::session_service_server::SessionService;
use ves_proto::{Fault, Reason, common, lifecycle};
use ves_types::{CtId, Phase};

use super::{Answers, Api};
use crate::container::record::{Record, RunState};
use crate::container::refusal::not_running;
use crate::coordinator::Coordinator;
use crate::event::record::{NewEvent, Type};
use crate::open_streams::StreamKind;
use crate::operation::public::asker;
use crate::services::fault_of;

/// The first message; of one that cannot be read the chassis says what is wrong.
async fn first<T>(stream: &mut Streaming<T>) -> Result<T, Status> {
    stream.message().await?.ok_or_else(|| no_start().into())
}

fn no_start() -> Fault {
    let message = "the first message of a session says what to start";
    Fault::new(Reason::MissingField, message).fact("field", "start")
}

fn must_run(coordinator: &Coordinator, record: &Record) -> Result<CtId, Fault> {
    let seen = coordinator.cache().of(record.id).process.phase;
    if record.run != RunState::Running && seen == Phase::Absent {
        return Err(not_running(record.id));
    }
    Ok(record.id)
}

/// The scroll-back of one that has ended can be read too, and lifecycle knows what it has. Of one that was never
/// started that would be the scroll-back of another, which had its id before.
fn may_have_printed(coordinator: &Coordinator, record: &Record) -> Result<CtId, Fault> {
    let seen = coordinator.cache().of(record.id).process;
    let own = seen.started_unix_ms.is_some_and(|started| started / 1000 >= record.created_unix);
    if seen.phase == Phase::Absent && !own {
        return Err(not_running(record.id));
    }
    Ok(record.id)
}

fn size(size: pb::WindowSize) -> common::WindowSize {
    let pb::WindowSize { rows, cols } = size;
    common::WindowSize { rows, cols }
}

/// What lifecycle is told after the start of a command. A caller that breaks off, or says nothing, ends its side of
/// the session.
fn exec_input(message: pb::ExecRequest) -> Option<lifecycle::ExecRequest> {
    use lifecycle::exec_request::Part as To;
    use pb::exec_request::Part;
    let part = match message.part? {
        // Whatever is there, the session has begun.
        Part::Start(_) => return None,
        Part::Stdin(data) => To::Stdin(data),
        Part::StdinEnd(_) => To::StdinClosed(true),
        Part::Resize(window) => To::Resize(size(window)),
        Part::Signal(signal) => To::Signal(signal),
    };
    Some(lifecycle::ExecRequest { part: Some(part) })
}

fn exec_output(message: lifecycle::ExecResponse) -> pb::ExecResponse {
    use common::exit_status::How;
    use lifecycle::exec_response::Part as From;
    use pb::exec_response::Part;
    let part = message.part.map(|part| match part {
        From::Started(_) => Part::Started(pb::ExecStarted {}),
        From::Stdout(data) => Part::Stdout(data),
        From::Stderr(data) => Part::Stderr(data),
        From::Exit(status) => {
            let how = status.how.map(|how| match how {
                How::Code(code) => pb::exit_status::How::Code(code),
                How::Signal(signal) => pb::exit_status::How::Signal(signal),
            });
            Part::Exit(pb::ExitStatus { how })
        }
    });
    pb::ExecResponse { part, timed_out: message.timed_out }
}

/// What lifecycle is told to start in a container; it judges what it is told.
fn exec_start(ct: CtId, start: pb::ExecStart) -> Result<lifecycle::ExecStart, Fault> {
    use lifecycle::OnDisconnect as To;
    let pb::ExecStart { container: _, argv, env, bare_env, cwd, user, tty, on_disconnect, timeout } =
        start;
    let on_disconnect = match pb::OnDisconnect::try_from(on_disconnect) {
        Ok(pb::OnDisconnect::Unspecified) => To::Unspecified,
        Ok(pb::OnDisconnect::Kill) => To::Kill,
        Ok(pb::OnDisconnect::Leave) => To::Leave,
        Err(_) => {
            let message = format!("{on_disconnect} says nothing of what becomes of the command");
            let fault = Fault::new(Reason::BadValue, message);
            return Err(fault.fact("field", "start.on_disconnect"));
        }
    };
    Ok(lifecycle::ExecStart {
        ct: ct.get(),
        argv,
        env,
        tty: tty.map(size),
        bare_env,
        cwd,
        user,
        on_disconnect: on_disconnect.into(),
        timeout,
    })
}

fn console_input(message: pb::ConsoleRequest) -> Option<lifecycle::ConsoleRequest> {
    use lifecycle::console_request::Part as To;
    use pb::console_request::Part;
    let part = match message.part? {
        Part::Start(_) => return None,
        Part::Stdin(data) => To::Stdin(data),
        Part::Resize(window) => To::Resize(size(window)),
    };
    Some(lifecycle::ConsoleRequest { part: Some(part) })
}

fn console_output(message: lifecycle::ConsoleResponse) -> pb::ConsoleResponse {
    pb::ConsoleResponse { output: message.output }
}

/// Who opened what kind of session. Of a command only its name is told: what follows may be a secret.
fn session(principal: &Principal, record: &Record, kind: &str) -> NewEvent {
    let actor = asker(&principal.to_string(), None);
    NewEvent::to_container(Type::SessionOpened, record).by(actor).fact("session", kind)
}

/// A session's input: its start, and what the caller says after that.
fn input<T: Send + 'static, U: Send + 'static>(
    start: U,
    rest: Streaming<T>,
    parse: fn(T) -> Option<U>,
) -> impl Stream<Item = U> + Send + 'static {
    tokio_stream::once(start).chain(rest.map_while(Result::ok).filter_map(parse))
}

/// What lifecycle answers, as the caller hears it.
fn answers<T: Send + 'static, U: Send + 'static>(
    opened: Result<Response<Streaming<T>>, Status>,
    render: fn(T) -> U,
) -> Result<Answers<U>, Status> {
    let fault = |status| fault_of("lifecycle", &status);
    let answers = opened.map_err(fault)?.into_inner();
    let answers = answers.map(move |message| message.map(render).map_err(|s| fault(s).into()));
    Ok(Box::pin(answers))
}

/// Tells who opened a session; not what was said in it.
fn audit(principal: &Principal, kind: &str, ct: u32) {
    let on_behalf_of = principal.on_behalf_of.as_deref();
    tracing::info!(target: "audit", session = kind, ct, %principal, on_behalf_of, "begun");
}

#[tonic::async_trait]
impl SessionService for Api {
    type ExecStream = Answers<pb::ExecResponse>;

    async fn exec(
        &self,
        request: Request<Streaming<pb::ExecRequest>>,
    ) -> Result<Response<Self::ExecStream>, Status> {
        use lifecycle::exec_request::Part;
        let principal = ves_daemon::principal(&request);
        let mut stream = request.into_inner();
        let Some(pb::exec_request::Part::Start(start)) = first(&mut stream).await?.part else {
            return Err(no_start().into());
        };
        let record = self.container(&principal, "start.container", &start.container)?;
        let ct = must_run(&self.0, &record)?;
        audit(&principal, "exec", ct.get());
        let opened = session(&principal, &record, "exec")
            .fact("command", start.argv.first().map_or("", String::as_str))
            .fact("arguments", &start.argv.len().saturating_sub(1).to_string());
        let start = Part::Start(exec_start(ct, start)?);
        let start = lifecycle::ExecRequest { part: Some(start) };
        let requests = input(start, stream, exec_input);
        let answers =
            answers(self.0.services().lifecycle.clone().exec(requests).await, exec_output)?;
        self.0.publish(opened);
        Ok(self.counted(answers, StreamKind::Exec))
    }

    type ConsoleStream = Answers<pb::ConsoleResponse>;

    async fn console(
        &self,
        request: Request<Streaming<pb::ConsoleRequest>>,
    ) -> Result<Response<Self::ConsoleStream>, Status> {
        use lifecycle::console_request::Part;
        let principal = ves_daemon::principal(&request);
        let mut stream = request.into_inner();
        let Some(pb::console_request::Part::Start(start)) = first(&mut stream).await?.part else {
            return Err(no_start().into());
        };
        let pb::ConsoleStart { container, size: window, scrollback_only } = start;
        let record = self.container(&principal, "start.container", &container)?;
        let ct = may_have_printed(&self.0, &record)?.get();
        audit(&principal, "console", ct);
        let size = window.map(size);
        let start = Part::Start(lifecycle::ConsoleStart { ct, size, scrollback_only });
        let start = lifecycle::ConsoleRequest { part: Some(start) };
        let requests = input(start, stream, console_input);
        let answers =
            answers(self.0.services().lifecycle.clone().console(requests).await, console_output)?;
        self.0.publish(session(&principal, &record, "console"));
        Ok(self.counted(answers, StreamKind::Console))
    }
}
