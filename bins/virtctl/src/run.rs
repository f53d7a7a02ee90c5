//! One run of virtctl: parses the command line, chooses the form of output, begins telemetry, hands
//! over to the verb and reports how it ended.
//!
//! Never here: what a verb does.

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use tracing::Instrument as _;
use tracing::field::Empty;
use ves_daemon::Telemetry;

use crate::cli::{
    CertVerb, Cli, ContextVerb, Global, NodeVerb, OperationVerb, TemplateVerb, TokenVerb, Verb,
};
use crate::connect::Coordinator;
use crate::failure::{Failure, Outcome};
use crate::output::{Format, Output};
use crate::report::report;
use crate::unbuilt::not_built;
use crate::verbs::{self, Context};
use crate::{endpoint, exit};

/// Does what the command line says.
pub(crate) fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    let cli = match Cli::read(&args) {
        Ok(cli) => cli,
        Err(error) => return report_parse_error(&args, &error),
    };
    let Cli { global, verb } = cli;
    let (output, fields) = match choose_output(&global, &verb) {
        Ok(chosen) => chosen,
        Err(failure) => return report(failure, Format::Table),
    };
    match execute(global, verb, output, fields) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => report(failure, output.format),
    }
}

/// A command line that does not parse; or a question for help.
fn report_parse_error(args: &[OsString], error: &clap::Error) -> ExitCode {
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
fn choose_output(global: &Global, verb: &Verb) -> Result<(Output, Vec<String>), Failure> {
    let Global { output, quiet, verbose, .. } = global;
    let list = matches!(
        verb,
        Verb::List(_)
            | Verb::Top(_)
            | Verb::Resources(_)
            | Verb::Events(_)
            | Verb::SnapshotList(_)
            | Verb::Template(TemplateVerb::List(_))
            | Verb::Operation(OperationVerb::List(_))
            | Verb::Node(NodeVerb::List(_))
            | Verb::Node(NodeVerb::Cert(CertVerb::List { .. }))
            | Verb::Node(NodeVerb::Token(TokenVerb::List(_)))
            | Verb::Context(ContextVerb::List(_))
    );
    let (format, fields) = match Format::named(output) {
        Some(Format::Csv) if !list && !matches!(verb, Verb::Watch(_)) => {
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

fn execute(global: Global, verb: Verb, output: Output, fields: Vec<String>) -> Outcome {
    // These need no coordinator and no runtime.
    let verb = match verb {
        Verb::Completion { shell } => return verbs::complete(shell, output),
        Verb::Man { dir } => return verbs::man(&dir),
        Verb::Context(verb) => return verbs::context(verb, output, fields),
        Verb::Node(NodeVerb::InitCa(args)) => return verbs::init_ca(args, output),
        Verb::Node(NodeVerb::Cert(verb)) => {
            return verbs::cert(verb, global.endpoint, output, fields);
        }
        Verb::Unbuilt(verb) => return Err(not_built(verb.name()).into()),
        verb => verb,
    };
    let endpoint = endpoint::chosen(&global)?;
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
        let retry_window = Duration::from_secs(u64::from(global.patience));
        let coordinator = Coordinator::at(endpoint, retry_window);
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
        Verb::Fsck(_) => "fsck",
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
        Verb::Watch(_) => "watch",
        Verb::Events(_) => "events",
        Verb::Operation(_) => "operation",
        Verb::Node(_) => "node",
        Verb::Context(_) => "context",
        Verb::Completion { .. } => "completion",
        Verb::Man { .. } => "man",
        Verb::Unbuilt(unbuilt) => unbuilt.name(),
    }
}
