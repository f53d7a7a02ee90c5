//! Exec and console: two streams piped through, in both directions.
//!
//! Nothing is buffered here: a message is taken from one side when the other asks for it, so that a
//! slow reader slows the writer. A caller that goes away takes its session with it, as does the
//! coordinator; the container and its console stay.

use tokio_stream::{Stream, StreamExt};
use tonic::{Response, Status, Streaming};
use ves_proto::{Fault, Reason, coordinator as pb, lifecycle};
use ves_types::{CtId, Phase};

use super::Answers;

use crate::container::record::{Record, RunState};
use crate::container::refusal::not_running;
use crate::coordinator::Coordinator;
use crate::services::fault_of;

async fn first<T>(stream: &mut Streaming<T>) -> Result<T, Fault> {
    let message = stream.message().await.map_err(|s| Fault::from_status(&s))?;
    message.ok_or_else(|| Fault::missing("the first message"))
}

fn must_run(coordinator: &Coordinator, record: &Record) -> Result<CtId, Fault> {
    let seen = coordinator.cache().of(record.id).process.phase;
    if record.run != RunState::Running && seen == Phase::Absent {
        return Err(not_running(record.id));
    }
    Ok(record.id)
}

/// What lifecycle is told, in a session that a caller has begun with one request and goes on with
/// `rest`. `id` finds the container's id in a request to start, and in no other: whatever is there,
/// the session is about `ct`. A caller that breaks off ends its side of the session.
fn requests<T: Send + 'static>(
    ct: CtId,
    begin: Option<T>,
    rest: impl Stream<Item = T> + Send + 'static,
    id: impl Fn(&mut T) -> Option<&mut u32> + Send + 'static,
) -> Result<impl Stream<Item = T> + Send + 'static, Fault> {
    let for_ct = move |request: &mut T| id(request).map(|id| *id = ct.get()).is_some();
    let start = begin.and_then(|mut request| for_ct(&mut request).then_some(request));
    let start = start.ok_or_else(|| {
        let message = "the first message of a session says what to start";
        Fault::new(Reason::MissingField, message).fact("field", "start")
    })?;
    let rest = rest.map(move |mut request| {
        for_ct(&mut request);
        request
    });
    Ok(tokio_stream::once(start).chain(rest))
}

/// What lifecycle answers, as the caller hears it.
fn answers<T: Send + 'static>(
    opened: Result<Response<Streaming<T>>, Status>,
) -> Result<Answers<T>, Fault> {
    let fault = |status| fault_of("lifecycle", &status);
    let answers = opened.map_err(fault)?.into_inner();
    Ok(Box::pin(answers.map(move |message| message.map_err(|s| fault(s).into()))))
}

pub(super) async fn exec(
    coordinator: &Coordinator,
    mut stream: Streaming<pb::ExecRequest>,
) -> Result<Answers<lifecycle::ExecResponse>, Fault> {
    use lifecycle::exec_request::Part;
    let begin = first(&mut stream).await?;
    let ct = must_run(coordinator, &*coordinator.resolve(&begin.ct)?)?;
    let rest = stream.map_while(Result::ok).filter_map(|message| message.request);
    let requests = requests(ct, begin.request, rest, |request| match &mut request.part {
        Some(Part::Start(start)) => Some(&mut start.ct),
        _ => None,
    })?;
    answers(coordinator.services().lifecycle.clone().exec(requests).await)
}

pub(super) async fn console(
    coordinator: &Coordinator,
    mut stream: Streaming<pb::ConsoleRequest>,
) -> Result<Answers<lifecycle::ConsoleResponse>, Fault> {
    use lifecycle::console_request::Part;
    let begin = first(&mut stream).await?;
    // The scroll-back of one that has stopped can be read too; lifecycle knows what it has.
    let ct = coordinator.resolve(&begin.ct)?.id;
    let rest = stream.map_while(Result::ok).filter_map(|message| message.request);
    let requests = requests(ct, begin.request, rest, |request| match &mut request.part {
        Some(Part::Start(start)) => Some(&mut start.ct),
        _ => None,
    })?;
    answers(coordinator.services().lifecycle.clone().console(requests).await)
}
