//! `events`: what happens to containers, a line each.
//!
//! Never here: a change.

use tokio::signal::unix::{SignalKind, signal};
use ves_proto::Reason;
use ves_proto::coordinator::{Container, ContainerEvent, WatchContainersRequest};

use super::Context;
use super::list::{containers, state_name, victims};
use crate::cli::EventsArgs;
use crate::failure::{Failure, Outcome};
use crate::output::{Column, Format, Output, Selection};
use crate::value::Value;

impl Context {
    /// All containers as they are; with `--follow` also everything that comes, one line or JSON
    /// object each.
    pub(super) async fn events(self, args: EventsArgs) -> Outcome {
        let EventsArgs { follow, since, no_header } = args;
        let Self { coordinator, output, .. } = self;
        let broken = |e: std::io::Error| Failure::local("cannot listen for signals", &e);
        let mut interrupt = signal(SignalKind::interrupt()).map_err(broken)?;
        let mut printer = Printer { output, header: !no_header };
        let mut resume_revision = since;
        // Without --follow, the view is complete with as many as there are now.
        let mut expected =
            if follow { usize::MAX } else { containers(&coordinator, false).await?.len() };
        while expected > 0 {
            let mut stream = coordinator
                .call(|| {
                    let mut client = coordinator.containers();
                    let request = WatchContainersRequest { resume_revision };
                    async move { client.watch_containers(request).await }
                })
                .await?;
            while expected > 0 {
                let event = tokio::select! {
                    // Cancel-safe: a message is taken whole or left in the stream.
                    event = stream.message() => event,
                    _ = interrupt.recv() => return Ok(()),
                };
                match event {
                    Ok(Some(event)) => {
                        if !follow && !event.initial {
                            return Ok(());
                        }
                        resume_revision = resume_revision.max(event.revision);
                        printer.print(&event)?;
                        expected = expected.saturating_sub(1);
                    }
                    Ok(None) if !follow => return Ok(()),
                    Ok(None) => break,
                    Err(status) => {
                        let fault = coordinator.fault(status);
                        match fault.reason {
                            // A coordinator that restarts is asked for what came meanwhile.
                            Reason::PeerDown | Reason::Starting | Reason::Cancelled if follow => {
                                break;
                            }
                            _ => return Err(fault.into()),
                        }
                    }
                }
            }
            if expected > 0 {
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
        Ok(())
    }
}

struct Printer {
    output: Output,
    header: bool,
}

impl Printer {
    fn print(&mut self, event: &ContainerEvent) -> Outcome {
        let columns = columns();
        let entries =
            || Value::Map(columns.iter().map(|c| (c.name.clone(), (c.get)(event))).collect());
        match self.output.format {
            Format::Json => {
                let line = serde_json::to_string(&entries())
                    .map_err(|e| Failure::from(std::io::Error::other(e)))?;
                self.output.print(&(line + "\n"))
            }
            Format::Yaml => {
                self.output.print("---\n")?;
                self.output.value(&entries())
            }
            Format::Csv => {
                let fields = columns.iter().map(|c| c.name.clone()).collect();
                let no_header = !std::mem::take(&mut self.header);
                let selection = Selection { fields, no_header, sort: None };
                self.output.list(&columns, &[], &selection, std::slice::from_ref(event))
            }
            Format::Table => {
                if std::mem::take(&mut self.header) {
                    self.output.print(&line(columns.iter().map(|c| c.header.clone())))?;
                }
                self.output.print(&line(columns.iter().map(|c| (c.get)(event).human())))
            }
        }
    }
}

/// A line of columns of fixed width, as they come one at a time.
fn line(cells: impl Iterator<Item = String>) -> String {
    let cells: Vec<String> = cells.collect();
    let [revision, event, ctid, status, rest @ ..] = cells.as_slice() else {
        return String::new();
    };
    let rest = rest.join("  ");
    let line = format!("{revision:>10}  {event:<8}{ctid:>11}  {status:<9} {rest}");
    line.trim_end().to_owned() + "\n"
}

fn columns() -> Vec<Column<ContainerEvent>> {
    fn container(e: &ContainerEvent) -> Container {
        e.container.clone().unwrap_or_default()
    }
    vec![
        Column::right("revision", |e: &ContainerEvent| Value::Num(e.revision)),
        Column::new("event", |e: &ContainerEvent| {
            Value::text(match (e.deleted, e.initial) {
                (true, _) => "deleted",
                (false, true) => "present",
                (false, false) => "changed",
            })
        }),
        Column::right("ctid", |e| Value::Num(u64::from(container(e).id))),
        Column::new("status", |e: &ContainerEvent| {
            if e.deleted { Value::Null } else { Value::text(state_name(container(e).state())) }
        }),
        Column::right("generation", |e| Value::Num(container(e).generation)),
        Column::new("operation", |e| Value::text(container(e).operation)),
        Column::new("stopping", |e| match container(e).stopping {
            true => Value::Bool(true),
            false => Value::Null,
        }),
        Column::new("problem", |e| Value::text(container(e).problem)),
        Column::new("next_start", |e| Value::maybe_time(container(e).next_start_unix_ms)),
        Column::new("oom_kills", |e| Value::maybe(container(e).oom_kills)),
        Column::new("oom_victims", |e| victims(&container(e))),
    ]
}
