//! Operations: follows one to its end or leaves it to itself with Ctrl-C, and what one has to show.
//!
//! The operation belongs to the coordinator; nothing that happens here stops it.
//!
//! Never here: how progress is drawn.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};
use ves_proto::coordinator::{Operation, OperationState, WatchOperationRequest};
use ves_proto::{Fault, Reason};

use crate::connect::Coordinator;
use crate::exit;
use crate::failure::{Failure, Outcome};
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
    match operation.state() {
        OperationState::Succeeded => {}
        OperationState::Cancelled => {
            let message = format!(
                "operation {} ({}) was cancelled and its effects were taken back",
                operation.id, operation.kind
            );
            let fault = Fault::new(Reason::Cancelled, message);
            return Err(fault.fact("operation", operation.id).into());
        }
        OperationState::Failed | OperationState::Running | OperationState::Unspecified => {
            let fault = operation.fault.clone().map(Fault::from_message).unwrap_or_else(|| {
                let message = format!("operation {} failed and did not say why", operation.id);
                Fault::new(Reason::Bug, message)
            });
            return Err(fault.into());
        }
    }
    if matches!(output.format, Format::Json | Format::Yaml) {
        return output.value(&render(&operation));
    }
    if dry_run {
        let steps = operation.steps.iter().map(|s| s.clone() + "\n").collect::<String>();
        let nothing = "nothing to do\n".to_owned();
        return output.print(if steps.is_empty() { &nothing } else { &steps });
    }
    if output.verbose {
        for step in &operation.steps {
            output.say(&format!("  {step}"));
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
    let ms = operation.ended_unix_ms.checked_sub(operation.started_unix_ms)?;
    let known = operation.ended_unix_ms > 0 && operation.started_unix_ms > 0;
    u64::try_from(ms).ok().filter(|_| known).map(Duration::from_millis)
}

async fn follow(
    coordinator: &Coordinator,
    display: &mut ProgressDisplay,
    first: Operation,
) -> Result<Operation, Failure> {
    let mut operation = first;
    if operation.state() != OperationState::Running {
        return Ok(operation);
    }
    let id = operation.id.clone();
    let broken = |e: std::io::Error| Failure::local("cannot listen for signals", &e);
    let mut interrupt = signal(SignalKind::interrupt()).map_err(broken)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(broken)?;
    let mut asked = false;
    display.show(&operation);
    loop {
        let request = || WatchOperationRequest { id: id.clone() };
        let mut stream = coordinator
            .call(|| {
                let mut client = coordinator.operations();
                let request = request();
                async move { client.watch_operation(request).await }
            })
            .await?;
        // The stream ends early where the coordinator restarts: then it is watched again.
        let mut idle = true;
        loop {
            tokio::select! {
                // Cancel-safe: a message is taken whole or left in the stream.
                message = stream.message() => match message {
                    Ok(Some(next)) => {
                        idle = false;
                        operation = next;
                        if operation.state() != OperationState::Running {
                            return Ok(operation);
                        }
                        display.show(&operation);
                    }
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

fn detached(id: &str, status: u8) -> Failure {
    let hint = format!("operation {id} goes on; see virtctl operation show {id}");
    Failure::Detached { hint, status }
}

/// The word for a state.
pub(crate) const fn state_name(state: OperationState) -> &'static str {
    match state {
        OperationState::Unspecified => "unknown",
        OperationState::Running => "running",
        OperationState::Succeeded => "succeeded",
        OperationState::Failed => "failed",
        OperationState::Cancelled => "cancelled",
    }
}

fn time(ms: i64) -> Value {
    if ms == 0 { Value::Null } else { Value::Time(ms) }
}

/// What an operation has to show.
pub(crate) fn columns() -> Vec<Column<Operation>> {
    vec![
        Column::new("id", |o: &Operation| Value::text(&o.id)),
        Column::new("kind", |o: &Operation| Value::text(&o.kind)),
        Column::right("ctid", |o: &Operation| match o.ct {
            0 => Value::Null,
            ct => Value::Num(u64::from(ct)),
        }),
        Column::new("state", |o: &Operation| Value::text(state_name(o.state()))),
        Column::new("progress", |o: &Operation| match (&o.progress, o.state()) {
            (Some(p), OperationState::Running) if p.total > 0 => Value::text(format!(
                "{} {}%",
                p.what,
                u128::from(p.done) * 100 / u128::from(p.total)
            )),
            (Some(p), OperationState::Running) => Value::text(&p.what),
            _ => Value::Null,
        }),
        Column::new("started", |o: &Operation| time(o.started_unix_ms)),
        Column::new("ended", |o: &Operation| time(o.ended_unix_ms)),
        Column::right("took", |o: &Operation| duration(o).map_or(Value::Null, Value::millis)),
        Column::new("snapshot", |o: &Operation| Value::text(&o.snapshot)),
        Column::new("principal", |o: &Operation| Value::text(&o.principal)),
        Column::new("steps", |o: &Operation| Value::texts(&o.steps)),
        Column::new("warnings", |o: &Operation| Value::texts(&o.warnings)),
        Column::new("fault", |o: &Operation| match o.fault.clone() {
            Some(fault) => report::render(&Fault::from_message(fault)),
            None => Value::Null,
        }),
        Column::new("problem", |o: &Operation| {
            o.fault.as_ref().map_or(Value::Null, |f| Value::text(&f.message))
        }),
    ]
}

/// An operation as programs read it.
pub(crate) fn render(operation: &Operation) -> Value {
    Value::Map(columns().into_iter().map(|c| (c.name, (c.get)(operation))).collect())
}
