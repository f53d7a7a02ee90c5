//! How a failure is reported: one sentence on stderr, or with `-o json` the fault as JSON.
//!
//! Owns that form and the exit status that goes with it. Never here: deciding what went wrong.

use std::io::Write as _;
use std::process::ExitCode;

use ves_proto::fault::Violation;
use ves_proto::{Fault, Reason};

use crate::exit;
use crate::failure::Failure;
use crate::hint;
use crate::output::Format;
use crate::value::Value;

/// Reports a failure, and answers with the exit status it stands for.
pub(crate) fn report(failure: Failure, format: Format) -> ExitCode {
    match failure {
        Failure::Usage(message) => {
            let fault = Fault::new(Reason::BadValue, message);
            print(&fault, format, Some("see virtctl --help"));
            ExitCode::from(exit::USAGE)
        }
        Failure::Fault(fault) => {
            print(&fault, format, hint::of(&fault).as_deref());
            ExitCode::from(exit::status(&fault))
        }
        Failure::Status(status) => ExitCode::from(status),
        Failure::OutputClosed => ExitCode::SUCCESS,
        Failure::Detached { hint, status } => {
            writeln!(std::io::stderr(), "virtctl: {hint}").ok(); // nowhere else to say it
            ExitCode::from(status)
        }
    }
}

/// The fault as programs read it.
pub(crate) fn render(fault: &Fault) -> Value {
    let Fault { reason: _, message, facts, retry_after, violations } = fault;
    let violation = |v: &Violation| {
        Value::map([("field", Value::text(&v.field)), ("message", Value::text(&v.message))])
    };
    Value::map([
        ("reason", Value::text(fault.reason_name())),
        ("code", Value::Int(i64::from(fault.code() as i32))),
        ("message", Value::text(message)),
        ("facts", Value::Map(facts.iter().map(|(k, v)| (k.clone(), Value::text(v))).collect())),
        ("hint", hint::of(fault).map_or(Value::Null, Value::text)),
        ("retry_after", retry_after.map_or(Value::Null, Value::millis)),
        ("exit_status", Value::Num(u64::from(exit::status(fault)))),
        ("violations", Value::List(violations.iter().map(violation).collect())),
    ])
}

fn print(fault: &Fault, format: Format, hint: Option<&str>) {
    let text = match format {
        Format::Json => serde_json::to_string_pretty(&render(fault)).unwrap_or_default(),
        Format::Yaml => serde_yaml_ng::to_string(&render(fault)).unwrap_or_default(),
        Format::Table | Format::Csv => {
            // Two services may have joined their sentences by a newline; here it is one line.
            let hint = hint.map(|hint| format!("; {hint}")).unwrap_or_default();
            let mut text = format!("virtctl: {}{hint}", one_line(&fault.message));
            for Violation { field, message } in &fault.violations {
                text.push_str(&format!("\n  {}: {}", one_line(field), one_line(message)));
            }
            text
        }
    };
    writeln!(std::io::stderr(), "{}", text.trim_end()).ok(); // nowhere else to say it
}

fn one_line(text: &str) -> String {
    text.lines().collect::<Vec<_>>().join(" ")
}
