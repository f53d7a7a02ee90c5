//! Operations: follows one to its end or leaves it to itself with Ctrl-C, and what one has to show.
//!
//! The operation belongs to the coordinator; nothing that happens here stops it.
//!
//! Never here: how progress is drawn.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};
use ves_proto::api::actor::Type as ActorType;
use ves_proto::api::operation::{Kind, State};
use ves_proto::api::watch_operations_response::Event;
use ves_proto::api::{Operation, Progress, Step, WatchOperationsRequest};
use ves_proto::public::unix_ms;
use ves_proto::{Fault, Reason};

use crate::connect::Coordinator;
use crate::exit;
use crate::failure::{Failure, Outcome};
use crate::names::{bare, ct_id};
use crate::output::{Column, Format, Output};
use crate::progress::ProgressDisplay;
use crate::report;
use crate::value::{Value, format_duration};

/// Waits for the end of `first` and says what was done: `done` in a few words, such as "container
/// 101 started".
pub(crate) async fn wait(
    coordinator: &Coordinator,
    output: Output,
    first: Operation,
    dry_run: bool,
    done: impl Fn(&Operation) -> String,
) -> Outcome {
    let began = Instant::now();
    let mut display = ProgressDisplay::new(output);
    let last = follow(coordinator, &mut display, first).await;
    display.end();
    let operation = last?;
    let id = bare(&operation.name).to_owned();
    match operation.state() {
        State::Succeeded => {}
        State::Cancelled => {
            let kind = kind_name(operation.kind());
            let message =
                format!("operation {id} ({kind}) was cancelled and its effects were taken back");
            return Err(Fault::new(Reason::Cancelled, message).fact("operation", id).into());
        }
        State::Failed | State::Running | State::Cancelling | State::Unspecified => {
            let fault = operation.error.as_ref().map(Fault::from_message).unwrap_or_else(|| {
                let message = format!("operation {id} failed and did not say why");
                Fault::new(Reason::Bug, message)
            });
            return Err(fault.into());
        }
    }
    if matches!(output.format, Format::Json | Format::Yaml) {
        return output.value(&render(&operation));
    }
    if dry_run {
        let steps = operation.steps.iter().map(|s| step_line(s) + "\n").collect::<String>();
        let nothing = "nothing to do\n".to_owned();
        return output.print(if steps.is_empty() { &nothing } else { &steps });
    }
    if output.verbose {
        for step in &operation.steps {
            output.say(&format!("  {}", step_line(step)));
        }
    }
    for warning in &operation.warnings {
        output.say(&format!("note: {warning}"));
    }
    if output.quiet {
        return Ok(());
    }
    let took = format_duration(duration(&operation).unwrap_or_else(|| began.elapsed()));
    output.print(&format!("{} in {took}\n", done(&operation)))
}

/// How long it took, if it is done.
fn duration(operation: &Operation) -> Option<Duration> {
    let began = unix_ms(operation.create_time.as_ref()?);
    let ms = unix_ms(operation.end_time.as_ref()?).checked_sub(began)?;
    u64::try_from(ms).ok().map(Duration::from_millis)
}

/// Whether it has not ended.
fn goes_on(operation: &Operation) -> bool {
    matches!(operation.state(), State::Running | State::Cancelling)
}

async fn follow(
    coordinator: &Coordinator,
    display: &mut ProgressDisplay,
    first: Operation,
) -> Result<Operation, Failure> {
    let mut operation = first;
    if !goes_on(&operation) {
        return Ok(operation);
    }
    let name = operation.name.clone();
    let id = bare(&name).to_owned();
    let broken = |e: std::io::Error| Failure::local("cannot listen for signals", &e);
    let mut interrupt = signal(SignalKind::interrupt()).map_err(broken)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(broken)?;
    let mut asked = false;
    display.progress(&shown(&operation));
    loop {
        // Without a token: begun anew, the watch tells first what it is now.
        let request =
            WatchOperationsRequest { name: name.clone(), ..WatchOperationsRequest::default() };
        let mut stream = coordinator
            .call(|| {
                let mut client = coordinator.operations();
                let request = request.clone();
                async move { client.watch_operations(request).await }
            })
            .await?;
        // The stream ends early where the coordinator restarts: then it is watched again.
        let mut idle = true;
        loop {
            tokio::select! {
                // Cancel-safe: a message is taken whole or left in the stream.
                message = stream.message() => match message {
                    Ok(Some(told)) => match told.event {
                        Some(Event::Changed(next)) => {
                            idle = false;
                            operation = next;
                            if !goes_on(&operation) {
                                return Ok(operation);
                            }
                            display.progress(&shown(&operation));
                        }
                        Some(Event::Gone(_)) => return Err(forgotten(&id).into()),
                        Some(Event::Reset(_) | Event::Synced(_) | Event::Heartbeat(_)) | None => {}
                    },
                    Ok(None) => break,
                    Err(status) => {
                        let fault = coordinator.fault(status);
                        match fault.reason {
                            Reason::PeerDown | Reason::Starting | Reason::Cancelled => break,
                            _ => return Err(fault.into()),
                        }
                    }
                },
                _ = interrupt.recv() => {
                    if asked || !std::io::stdin().is_terminal() {
                        return Err(detached(&id, exit::INTERRUPTED));
                    }
                    asked = true;
                    display.note(&format!(
                        "operation {id} goes on by itself: Ctrl-C again leaves it alone, \
                         \"virtctl operation cancel {id}\" stops it"
                    ));
                }
                _ = terminate.recv() => return Err(detached(&id, 143)),
            }
        }
        if idle {
            // A coordinator that ends every watch at once is asked for the state in between.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// How far an operation is, and on what it works.
fn shown(operation: &Operation) -> Progress {
    let fresh = operation.progress.clone().unwrap_or_default();
    let message = match fresh.message.as_str() {
        "" => kind_name(operation.kind()),
        message => message,
    };
    let subject = ct_of(operation).map(|ct| format!("container {ct}: ")).unwrap_or_default();
    Progress { message: subject + message, ..fresh }
}

fn detached(id: &str, status: u8) -> Failure {
    let hint = format!("operation {id} goes on; see virtctl operation show {id}");
    Failure::Detached { hint, status }
}

fn forgotten(id: &str) -> Fault {
    let message = format!("operation {id} is not known any more; what became of it is not known");
    Fault::new(Reason::OperationUnknown, message).fact("operation", id)
}

/// The word for a state. One that was asked to stop still runs.
pub(crate) const fn state_name(state: State) -> &'static str {
    match state {
        State::Unspecified => "unknown",
        State::Running | State::Cancelling => "running",
        State::Succeeded => "succeeded",
        State::Failed => "failed",
        State::Cancelled => "cancelled",
    }
}

/// The word for what an operation does.
pub(crate) const fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Unspecified => "unknown",
        Kind::Create => "create",
        Kind::Update => "set",
        Kind::Delete => "destroy",
        Kind::Start => "start",
        Kind::Stop => "stop",
        Kind::Restart => "restart",
        Kind::Mount => "mount",
        Kind::Unmount => "umount",
        Kind::Snapshot => "snapshot",
        Kind::SnapshotSwitch => "snapshot-switch",
        Kind::SnapshotDelete => "snapshot-delete",
        Kind::TemplateBuild => "template build",
        Kind::Repair => "repair",
        Kind::CheckVolume => "fsck",
    }
}

/// The container an operation works on.
pub(crate) fn ct_of(operation: &Operation) -> Option<u32> {
    operation.targets.iter().find_map(|target| ct_id(target))
}

/// A step in one line; what is remarked on one stands below it.
fn step_line(step: &Step) -> String {
    let Step { service, message, remark } = step;
    match (remark, service.as_str()) {
        (true, _) => format!("  {message}"),
        (false, "") => message.clone(),
        (false, service) => format!("{service}: {message}"),
    }
}

/// Who asked.
fn principal(operation: &Operation) -> Value {
    match &operation.actor {
        // The container is named beside it.
        Some(actor) if actor.r#type() == ActorType::Guest => Value::text("container"),
        Some(actor) => Value::text(&actor.id),
        None => Value::Null,
    }
}

fn progress(operation: &Operation) -> Value {
    match &operation.progress {
        Some(p) if goes_on(operation) && p.total > 0 => {
            let percent = u128::from(p.done) * 100 / u128::from(p.total);
            Value::text(format!("{} {percent}%", p.message))
        }
        Some(p) if goes_on(operation) => Value::text(&p.message),
        _ => Value::Null,
    }
}

/// What an operation has to show.
pub(crate) fn columns() -> Vec<Column<Operation>> {
    let time =
        |time: &Option<prost_types::Timestamp>| Value::maybe_time(time.as_ref().map(unix_ms));
    let fault = |o: &Operation| o.error.as_ref().map(Fault::from_message);
    vec![
        Column::new("id", |o: &Operation| Value::text(bare(&o.name))),
        Column::new("kind", |o: &Operation| Value::text(kind_name(o.kind()))),
        Column::right("ctid", |o: &Operation| Value::maybe(ct_of(o))),
        Column::new("state", |o: &Operation| Value::text(state_name(o.state()))),
        Column::new("progress", progress),
        Column::new("started", move |o: &Operation| time(&o.create_time)),
        Column::new("ended", move |o: &Operation| time(&o.end_time)),
        Column::right("took", |o: &Operation| duration(o).map_or(Value::Null, Value::millis)),
        Column::new("snapshot", |o: &Operation| Value::text(bare(&o.result))),
        Column::new("principal", principal),
        Column::new("steps", |o: &Operation| Value::texts(o.steps.iter().map(step_line))),
        Column::new("warnings", |o: &Operation| Value::texts(&o.warnings)),
        Column::new("fault", move |o: &Operation| {
            fault(o).map_or(Value::Null, |fault| report::render(&fault))
        }),
        Column::new("problem", move |o: &Operation| {
            fault(o).map_or(Value::Null, |fault| Value::text(&fault.message))
        }),
        Column::new("cancelling", |o: &Operation| Value::Bool(o.state() == State::Cancelling)),
        Column::new("on_behalf_of", |o: &Operation| {
            o.actor.as_ref().map_or(Value::Null, |actor| Value::text(&actor.on_behalf_of))
        }),
    ]
}

/// An operation as people read it: without what is seldom so.
pub(crate) fn render_short(operation: &Operation) -> Value {
    let said = |c: &Column<Operation>| {
        let seldom = ["cancelling", "on_behalf_of"].contains(&c.name.as_str());
        !seldom || !matches!((c.get)(operation), Value::Null | Value::Bool(false))
    };
    Value::Map(columns().into_iter().filter(said).map(|c| (c.name, (c.get)(operation))).collect())
}

/// An operation as programs read it.
pub(crate) fn render(operation: &Operation) -> Value {
    Value::Map(columns().into_iter().map(|c| (c.name, (c.get)(operation))).collect())
}
