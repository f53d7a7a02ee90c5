//! Exec and console: two streams piped through, in both directions.
//!
//! Nothing is buffered here: a message is taken from one side when the other asks for it, so that a
//! slow reader slows the writer. A caller that goes away takes its session with it, as does the
//! coordinator; the container and its console stay.

use tokio_stream::{Stream, StreamExt};
use tonic::Streaming;
use ves_proto::{Fault, Reason, coordinator as pb, lifecycle};
use ves_types::CtId;

use super::Answers;
use super::containers::not_running;
use crate::model::{Record, RunState};
use crate::peers::fault_of;
use crate::plan::Phase;
use crate::service::Coordinator;

async fn first<T>(stream: &mut Streaming<T>) -> Result<T, Fault> {
    let message = stream.message().await.map_err(|s| Fault::from_status(&s))?;
    message.ok_or_else(|| Fault::missing("the first message"))
}

/// What comes after the first message. A caller that breaks off ends its side of the session.
fn rest<T: Send + 'static, U>(
    stream: Streaming<T>,
    each: impl FnMut(T) -> Option<U> + Send + 'static,
) -> impl Stream<Item = U> + Send + 'static
where
    U: Send + 'static,
{
    stream.map_while(Result::ok).filter_map(each)
}

fn must_run(coordinator: &Coordinator, record: &Record) -> Result<CtId, Fault> {
    let seen = coordinator.sight().of(record.id).process.phase;
    if record.run != RunState::Running && seen == Phase::Absent {
        return Err(not_running(record.id));
    }
    Ok(record.id)
}

fn no_start() -> Fault {
    let message = "the first message of a session says what to start";
    Fault::new(Reason::MissingField, message).fact("field", "start")
}

pub(super) async fn exec(
    coordinator: &Coordinator,
    mut stream: Streaming<pb::ExecRequest>,
) -> Result<Answers<lifecycle::ExecResponse>, Fault> {
    use lifecycle::exec_request::Part;
    let begin = first(&mut stream).await?;
    let ct = must_run(coordinator, &*coordinator.resolve(&begin.ct)?)?;
    // Whatever id the caller wrote there: this session is about this container.
    let for_ct = move |request: Option<lifecycle::ExecRequest>| {
        let mut request = request?;
        if let Some(Part::Start(start)) = &mut request.part {
            start.ct = ct.get();
        }
        Some(request)
    };
    let start = for_ct(begin.request)
        .filter(|r| matches!(r.part, Some(Part::Start(_))))
        .ok_or_else(no_start)?;
    let outgoing =
        tokio_stream::once(start).chain(rest(stream, move |message| for_ct(message.request)));
    let answer = coordinator.peers().lifecycle.clone().exec(outgoing).await;
    let answers = answer.map_err(|s| fault_of("lifecycle", &s))?.into_inner();
    Ok(Box::pin(answers.map(|m| m.map_err(|s| fault_of("lifecycle", &s).into()))))
}

pub(super) async fn console(
    coordinator: &Coordinator,
    mut stream: Streaming<pb::ConsoleRequest>,
) -> Result<Answers<lifecycle::ConsoleResponse>, Fault> {
    use lifecycle::console_request::Part;
    let begin = first(&mut stream).await?;
    // The scroll-back of one that has stopped can be read too; lifecycle knows what it has.
    let ct = coordinator.resolve(&begin.ct)?.id;
    let for_ct = move |request: Option<lifecycle::ConsoleRequest>| {
        let mut request = request?;
        if let Some(Part::Start(start)) = &mut request.part {
            start.ct = ct.get();
        }
        Some(request)
    };
    let start = for_ct(begin.request)
        .filter(|r| matches!(r.part, Some(Part::Start(_))))
        .ok_or_else(no_start)?;
    let outgoing =
        tokio_stream::once(start).chain(rest(stream, move |message| for_ct(message.request)));
    let answer = coordinator.peers().lifecycle.clone().console(outgoing).await;
    let answers = answer.map_err(|s| fault_of("lifecycle", &s))?.into_inner();
    Ok(Box::pin(answers.map(|m| m.map_err(|s| fault_of("lifecycle", &s).into()))))
}
