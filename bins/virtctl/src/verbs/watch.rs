//! `watch`: containers as they are and as they change, a line each.
//!
//! Never here: a change.

use tokio::signal::unix::{SignalKind, signal};
use ves_proto::Reason;
use ves_proto::api::container_status::State;
use ves_proto::api::watch_containers_response::Event as Told;
use ves_proto::api::{Container, ContainerStatus, WatchContainersRequest, WatchContainersResponse};

use super::Context;
use super::list::{problem, state_name, time, victims};
use crate::cli::WatchArgs;
use crate::failure::{Failure, Outcome};
use crate::names::{bare, ct_id};
use crate::output::{Column, Format, Output, Selection};
use crate::value::Value;

impl Context {
    /// All containers as they are; with `--follow` also everything that comes, one line or JSON
    /// object each.
    pub(super) async fn watch(self, args: WatchArgs) -> Outcome {
        let WatchArgs { follow, since, no_header } = args;
        let Self { coordinator, output, .. } = self;
        let broken = |e: std::io::Error| Failure::local("cannot listen for signals", &e);
        let mut interrupt = signal(SignalKind::interrupt()).map_err(broken)?;
        let mut printer = Printer { output, header: !no_header, width: None };
        let mut view = View { token: since, ..View::default() };
        if view.token == "0" {
            view.token.clear(); // before all there was
        }
        loop {
            let mut stream = coordinator
                .call(|| {
                    let mut client = coordinator.containers();
                    let resume_token = view.token.clone();
                    let request = WatchContainersRequest {
                        resume_token,
                        ..WatchContainersRequest::default()
                    };
                    async move { client.watch_containers(request).await }
                })
                .await?;
            loop {
                let told = tokio::select! {
                    // Cancel-safe: a message is taken whole or left in the stream.
                    told = stream.message() => told,
                    _ = interrupt.recv() => return Ok(()),
                };
                match told {
                    Ok(Some(told)) => {
                        for line in view.take(told) {
                            printer.print(&line)?;
                        }
                        if !follow && view.synced {
                            return Ok(());
                        }
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
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    }
}

/// One line of the answer.
#[derive(Debug, Clone, PartialEq)]
struct Line {
    /// Hand in that of the last line to go on from there.
    token: String,
    event: &'static str,
    ct: u32,
    /// None: it is gone.
    container: Option<Container>,
    status: ContainerStatus,
}

/// What a watch told so far.
#[derive(Debug, Default)]
struct View {
    /// That of the last message that had one.
    token: String,
    /// All is told that there is, rather than what changes.
    initial: bool,
    /// All was told that there was.
    synced: bool,
    /// The last of these, which is printed with the token of the message after it: who goes on from there is
    /// not told all of them again.
    held: Option<Line>,
}

impl View {
    /// The lines that a message makes.
    fn take(&mut self, told: WatchContainersResponse) -> Vec<Line> {
        let WatchContainersResponse { resume_token, event } = told;
        if !resume_token.is_empty() {
            self.token.clone_from(&resume_token);
        }
        let mut lines = Vec::new();
        match event {
            Some(Told::Changed(container)) => {
                let line = Line {
                    token: resume_token,
                    event: if self.initial { "present" } else { "changed" },
                    ct: container.ct_id,
                    status: container.status.clone().unwrap_or_default(),
                    container: Some(container),
                };
                if self.initial {
                    lines.extend(self.held.replace(line));
                } else {
                    lines.push(line);
                }
            }
            Some(Told::Gone(gone)) => {
                lines.extend(self.held.take());
                lines.push(Line {
                    token: resume_token,
                    event: "deleted",
                    ct: ct_id(&gone.name).unwrap_or_default(),
                    container: None,
                    status: ContainerStatus::default(),
                });
            }
            Some(Told::Reset(_)) => {
                lines.extend(self.held.take());
                self.initial = true;
            }
            Some(Told::Synced(_)) => {
                (self.initial, self.synced) = (false, true);
                let token = self.token.clone();
                lines.extend(self.held.take().map(|last| Line { token, ..last }));
            }
            Some(Told::Heartbeat(_)) | None => {}
        }
        lines
    }
}

struct Printer {
    output: Output,
    header: bool,
    /// Characters of a revision.
    width: Option<usize>,
}

impl Printer {
    fn print(&mut self, event: &Line) -> Outcome {
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
                // Those that come become longer, by a digit now and then.
                let width = *self.width.get_or_insert_with(|| 10.max(event.token.len() + 4));
                if std::mem::take(&mut self.header) {
                    self.output.print(&line(width, columns.iter().map(|c| c.header.clone())))?;
                }
                self.output.print(&line(width, columns.iter().map(|c| (c.get)(event).human())))
            }
        }
    }
}

/// A line of columns of fixed width, as they come one at a time.
fn line(width: usize, cells: impl Iterator<Item = String>) -> String {
    let cells: Vec<String> = cells.collect();
    let [revision, event, ctid, status, rest @ ..] = cells.as_slice() else {
        return String::new();
    };
    let rest = rest.join("  ");
    let line = format!("{revision:>width$}  {event:<8}{ctid:>11}  {status:<9} {rest}");
    line.trim_end().to_owned() + "\n"
}

fn columns() -> Vec<Column<Line>> {
    vec![
        // Before all is told there is nothing to go on from.
        Column::right("revision", |l: &Line| match l.token.as_str() {
            "" => Value::Num(0),
            token => token.parse().map_or_else(|_| Value::text(token), Value::Num),
        }),
        Column::new("event", |l: &Line| Value::text(l.event)),
        Column::right("ctid", |l: &Line| Value::Num(u64::from(l.ct))),
        Column::new("status", |l: &Line| match l.container {
            Some(_) => Value::text(state_name(l.status.state())),
            None => Value::Null,
        }),
        Column::right("generation", |l: &Line| {
            Value::Num(l.container.as_ref().map_or(0, |c| c.generation))
        }),
        Column::new("operation", |l: &Line| Value::text(bare(&l.status.operation))),
        Column::new("stopping", |l: &Line| match l.status.state() {
            State::Stopping => Value::Bool(true),
            _ => Value::Null,
        }),
        Column::new("problem", |l: &Line| problem(&l.status).map_or(Value::Null, Value::text)),
        Column::new("next_start", |l: &Line| time(l.status.next_start_time.as_ref())),
        Column::new("oom_kills", |l: &Line| Value::maybe(l.status.oom_kills)),
        Column::new("oom_victims", |l: &Line| victims(&l.status)),
    ]
}

#[cfg(test)]
mod tests {
    use ves_proto::api::{Gone, Heartbeat, Reset, Synced};

    use super::*;

    fn told(token: &str, event: Told) -> WatchContainersResponse {
        WatchContainersResponse { resume_token: token.to_owned(), event: Some(event) }
    }

    fn changed(ct_id: u32) -> Told {
        Told::Changed(Container { ct_id, ..Container::default() })
    }

    /// Token, event and container of each line.
    fn lines(
        view: &mut View,
        messages: Vec<WatchContainersResponse>,
    ) -> Vec<(String, String, u32)> {
        let lines = messages.into_iter().flat_map(|message| view.take(message));
        lines.map(|line| (line.token, line.event.to_owned(), line.ct)).collect()
    }

    #[test]
    fn the_last_of_what_is_there_tells_where_to_go_on() {
        let line = |token: &str, event: &str, ct| (token.to_owned(), event.to_owned(), ct);
        let mut view = View::default();
        let beginning = vec![
            told("", Told::Reset(Reset::default())),
            told("", changed(101)),
            told("", Told::Heartbeat(Heartbeat::default())),
            told("", changed(102)),
            told("7", Told::Synced(Synced {})),
        ];
        let said = lines(&mut view, beginning);
        assert_eq!(said, [line("", "present", 101), line("7", "present", 102)]);
        assert_eq!((view.token.as_str(), view.initial), ("7", false));
        let gone = Told::Gone(Gone { name: "containers/101".into(), ..Gone::default() });
        let said = lines(&mut view, vec![told("8", changed(102)), told("9", gone)]);
        assert_eq!(said, [line("8", "changed", 102), line("9", "deleted", 101)]);
        // Told anew, and cut off in the middle of it.
        let anew = vec![told("", Told::Reset(Reset::default())), told("", changed(102))];
        assert_eq!(lines(&mut view, anew), []);
        let anew = vec![told("", Told::Reset(Reset::default())), told("", changed(103))];
        assert_eq!(lines(&mut view, anew), [line("", "present", 102)]);
        assert!(view.initial);
        // An empty node.
        let empty =
            vec![told("", Told::Reset(Reset::default())), told("3", Told::Synced(Synced {}))];
        assert_eq!(lines(&mut View::default(), empty), []);
    }
}
