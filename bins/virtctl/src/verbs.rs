//! What each verb does: one call of the API and how its answer looks.
//!
//! `run` parses, chooses the form of output, begins telemetry and hands over to the verb.

mod change;
mod events;
mod inside;
mod list;
mod node;
mod resources;
mod snapshot;
mod template;
mod top;

use std::ffi::OsString;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory as _, Parser as _};
use tracing::Instrument as _;
use tracing::field::Empty;
use ves_daemon::Telemetry;
use ves_proto::coordinator as api;
use ves_proto::{Fault, Reason};
use ves_types::layout::{Layout, Service};

use crate::cli::{Cli, Global, NodeVerb, OperationVerb, TemplateVerb, Verb};
use crate::connect::Coordinator;
use crate::exit;
use crate::failure::{Failure, Outcome};
use crate::operation;
use crate::output::{Format, Output};
use crate::report::report;
use crate::unbuilt::not_built;

/// What a verb works with.
struct Context {
    coordinator: Coordinator,
    output: Output,
    /// Field names given as `-o A,B`.
    fields: Vec<String>,
}

/// Does what the command line says.
pub(crate) fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(error) => return explain(&args, &error),
    };
    let Cli { global, verb } = cli;
    let (output, fields) = match choose(&global, &verb) {
        Ok(chosen) => chosen,
        Err(failure) => return report(failure, Format::Table),
    };
    match begin(global, verb, output, fields) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => report(failure, output.format),
    }
}

/// A command line that does not parse; or a question for help.
fn explain(args: &[OsString], error: &clap::Error) -> ExitCode {
    let json = args.windows(2).any(|w| (w[0] == "-o" || w[0] == "--output") && w[1] == "json")
        || args.iter().any(|a| a == "-ojson" || a == "--output=json");
    if error.use_stderr() && json {
        let text = error.to_string();
        let first = text.split("\n\n").next().unwrap_or_default();
        let message = first.strip_prefix("error: ").unwrap_or(first);
        let message = message.split_whitespace().collect::<Vec<_>>().join(" ");
        return report(Failure::usage(message), Format::Json);
    }
    error.print().ok(); // nowhere else to say it
    if error.use_stderr() { ExitCode::from(exit::USAGE) } else { ExitCode::SUCCESS }
}

/// What `-o` means for this verb.
fn choose(global: &Global, verb: &Verb) -> Result<(Output, Vec<String>), Failure> {
    let Global { output, quiet, verbose, .. } = global;
    let list = matches!(
        verb,
        Verb::List(_)
            | Verb::Top(_)
            | Verb::Resources(_)
            | Verb::SnapshotList(_)
            | Verb::Template(TemplateVerb::List(_))
            | Verb::Operation(OperationVerb::List(_))
            | Verb::Node(NodeVerb::List(_))
    );
    let (format, fields) = match Format::named(output) {
        Some(Format::Csv) if !list && !matches!(verb, Verb::Events(_)) => {
            return Err(Failure::usage("only lists can be shown as csv"));
        }
        Some(format) => (format, Vec::new()),
        None if list => (Format::Table, output.split(',').map(str::to_owned).collect()),
        None => {
            return Err(Failure::usage(format!(
                "no format is called {output:?}; there are: table, json, yaml, and for lists csv"
            )));
        }
    };
    Ok((Output { format, quiet: *quiet, verbose: *verbose > 0 }, fields))
}

fn begin(global: Global, verb: Verb, output: Output, fields: Vec<String>) -> Outcome {
    // These need no coordinator and no runtime.
    let verb = match verb {
        Verb::Completion { shell } => return completion(shell, output),
        Verb::Man { dir } => return man(&dir),
        Verb::Unbuilt(verb) => return Err(not_built(verb.name()).into()),
        verb => verb,
    };
    let socket = socket(global.socket)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|e| Failure::local("cannot begin", &e))?;
    let telemetry = runtime.block_on(async {
        let settings = Telemetry { log: "off".to_owned(), ..Telemetry::default() };
        ves_daemon::telemetry::init("virtctl", &settings)
    });
    let telemetry = telemetry.map_err(|e| Failure::usage(ves_proto::fault::chain(&e)))?;
    let outcome = runtime.block_on(async {
        let patience = Duration::from_secs(u64::from(global.patience));
        let coordinator = Coordinator::at(&socket, patience);
        let context = Context { coordinator, output, fields };
        let name = format!("virtctl {}", name(&verb));
        let span = tracing::info_span!("virtctl", otel.name = name, otel.status_code = Empty);
        let outcome = context.verb(verb).instrument(span.clone()).await;
        if let Err(Failure::Fault(fault)) = &outcome {
            span.record("otel.status_code", "ERROR");
            span.in_scope(|| tracing::warn!(reason = fault.reason_name(), "{fault}"));
        }
        outcome
    });
    telemetry.flush();
    // A thread that still reads stdin must not keep us.
    runtime.shutdown_background();
    outcome
}

fn socket(given: Option<String>) -> Result<PathBuf, Failure> {
    let Some(given) = given.filter(|s| !s.is_empty()) else {
        return Ok(Layout::default().socket(Service::Coordinator));
    };
    match given.split_once(':') {
        Some(("unix", path)) => Ok(PathBuf::from(path.strip_prefix("//").unwrap_or(path))),
        Some(("http" | "https" | "tcp", _)) => {
            let message = "only the coordinator of this node can be asked so far: name its socket \
                           with --socket";
            Err(Fault::new(Reason::NotBuilt, message).fact("what", "--endpoint over TCP").into())
        }
        _ => Ok(PathBuf::from(given)),
    }
}

const fn name(verb: &Verb) -> &'static str {
    match verb {
        Verb::Template(_) => "template",
        Verb::Create(_) => "create",
        Verb::Set(_) => "set",
        Verb::Start(_) => "start",
        Verb::Stop(_) => "stop",
        Verb::Restart(_) => "restart",
        Verb::Destroy(_) => "destroy",
        Verb::Mount(_) => "mount",
        Verb::Umount(_) => "umount",
        Verb::Status(_) => "status",
        Verb::Enter(_) => "enter",
        Verb::Exec(_) => "exec",
        Verb::Exec2(_) => "exec2",
        Verb::Runscript(_) => "runscript",
        Verb::Snapshot(_) => "snapshot",
        Verb::SnapshotList(_) => "snapshot-list",
        Verb::SnapshotSwitch(_) => "snapshot-switch",
        Verb::SnapshotDelete(_) => "snapshot-delete",
        Verb::Console(_) => "console",
        Verb::List(_) => "list",
        Verb::Top(_) => "top",
        Verb::Resources(_) => "resources",
        Verb::Events(_) => "events",
        Verb::Operation(_) => "operation",
        Verb::Node(_) => "node",
        Verb::Completion { .. } => "completion",
        Verb::Man { .. } => "man",
        Verb::Unbuilt(unbuilt) => unbuilt.name(),
    }
}

impl Context {
    async fn verb(self, verb: Verb) -> Outcome {
        match verb {
            Verb::Template(verb) => self.template(verb).await,
            Verb::Create(args) => self.create(*args).await,
            Verb::Set(args) => self.set(*args).await,
            Verb::Start(args) => self.start(args).await,
            Verb::Stop(args) => self.stop(args).await,
            Verb::Restart(args) => self.restart(args).await,
            Verb::Destroy(change) => self.destroy(change).await,
            Verb::Mount(change) => self.mount(change).await,
            Verb::Umount(change) => self.umount(change).await,
            Verb::Status(one) => self.status(&one.ct).await,
            Verb::Enter(args) => self.enter(args).await,
            Verb::Exec(args) => self.exec(args, false).await,
            Verb::Exec2(args) => self.exec(args, true).await,
            Verb::Runscript(args) => self.runscript(args).await,
            Verb::Snapshot(args) => self.snapshot(args).await,
            Verb::SnapshotList(args) => self.snapshot_list(args).await,
            Verb::SnapshotSwitch(args) => self.snapshot_switch(args).await,
            Verb::SnapshotDelete(args) => self.snapshot_delete(args).await,
            Verb::Console(args) => self.console(args).await,
            Verb::List(args) => self.list(args).await,
            Verb::Top(args) => self.top(args).await,
            Verb::Resources(args) => self.resources(args).await,
            Verb::Events(args) => self.events(args).await,
            Verb::Operation(verb) => self.operation(verb).await,
            Verb::Node(verb) => self.node(verb).await,
            Verb::Completion { shell } => completion(shell, self.output),
            Verb::Man { dir } => man(&dir),
            Verb::Unbuilt(unbuilt) => Err(not_built(unbuilt.name()).into()),
        }
    }

    async fn operation(self, verb: OperationVerb) -> Outcome {
        let Self { coordinator, output, fields } = self;
        let get = async |id: &str| {
            coordinator
                .ask(|| {
                    let mut client = coordinator.operations();
                    let request = api::GetOperationRequest { id: id.to_owned() };
                    async move { client.get_operation(request).await }
                })
                .await
        };
        match verb {
            OperationVerb::List(list) => {
                let mut operations = Vec::new();
                let mut page_token = String::new();
                loop {
                    let page = coordinator
                        .ask(|| {
                            let mut client = coordinator.operations();
                            let request = api::ListOperationsRequest {
                                page_size: 0,
                                page_token: page_token.clone(),
                            };
                            async move { client.list_operations(request).await }
                        })
                        .await?;
                    operations.extend(page.operations);
                    page_token = page.next_page_token;
                    if page_token.is_empty() {
                        break;
                    }
                }
                let usual = ["id", "kind", "ctid", "state", "started", "took", "problem"];
                output.list(&operation::columns(), &usual, &list.selection(fields), &operations)
            }
            OperationVerb::Show { id } => {
                let operation = get(&id).await?;
                output.value(&operation::render(&operation))
            }
            OperationVerb::Wait { id } => {
                let first = get(&id).await?;
                let done = |o: &api::Operation| format!("operation {} ({}) done", o.id, o.kind);
                operation::finish(&coordinator, output, first, false, done).await
            }
            OperationVerb::Cancel { id } => {
                let operation = coordinator
                    .ask(|| {
                        let mut client = coordinator.operations();
                        let request = api::CancelOperationRequest { id: id.clone() };
                        async move { client.cancel_operation(request).await }
                    })
                    .await?;
                if output.format != Format::Table {
                    return output.value(&operation::render(&operation));
                }
                if output.quiet {
                    return Ok(());
                }
                let state = operation::state(operation.state());
                output.print(&format!("operation {id} was asked to stop; it is {state} now\n"))
            }
        }
    }
}

fn completion(shell: clap_complete::Shell, output: Output) -> Outcome {
    output.print(&crate::completion::script(shell))
}

fn man(dir: &std::path::Path) -> Outcome {
    let wrong = |e: std::io::Error| Failure::local(&format!("cannot write {}", dir.display()), &e);
    std::fs::create_dir_all(dir).map_err(wrong)?;
    clap_mangen::generate_to(Cli::command(), dir).map_err(wrong)?;
    writeln!(std::io::stderr(), "man pages are in {}", dir.display()).ok(); // only to be friendly
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets() {
        let path = |s: &str| socket(Some(s.into())).map(|p| p.display().to_string()).ok();
        assert_eq!(path("/a/b"), Some("/a/b".into()));
        assert_eq!(path("unix:/a/b"), Some("/a/b".into()));
        assert_eq!(path("unix:///a/b"), Some("/a/b".into()));
        assert_eq!(path("https://node"), None);
        assert_eq!(path(""), Some("/run/ves/api/coordinator.sock".into()));
    }
}
