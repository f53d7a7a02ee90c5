//! How a command of virtctl ends other than well, and how that is told.
//!
//! One sentence on stderr; with `-o json` the fault as JSON. Never here: deciding what went wrong.

use std::io::Write as _;
use std::process::ExitCode;

use ves_proto::{Fault, Reason};
use ves_types::ParseError;

use crate::exit;
use crate::output::{Format, Value};

/// Why a command did not end with 0.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line asks for what cannot be asked; exit status 2.
    Usage(String),
    /// The coordinator refused or failed, or could not be asked.
    Fault(Fault),
    /// All went well and the command inside ended with this.
    Status(u8),
    /// Nobody reads our output any more.
    OutputClosed,
    /// The user left; what they should know.
    Left {
        /// One sentence.
        hint: String,
        /// 128 + the signal.
        status: u8,
    },
}

/// What a verb answers.
pub(crate) type Outcome = Result<(), Failure>;

impl Failure {
    /// A request nobody could fulfil.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::Usage(message.into())
    }

    /// Something of the caller's machine failed: a file that was named, the terminal.
    pub(crate) fn local(what: &str, error: &std::io::Error) -> Self {
        let reason = match error.kind() {
            std::io::ErrorKind::NotFound
            | std::io::ErrorKind::IsADirectory
            | std::io::ErrorKind::NotADirectory => Reason::BadValue,
            std::io::ErrorKind::PermissionDenied => Reason::NotAllowed,
            _ => Reason::HostFailed,
        };
        Self::Fault(Fault::new(reason, format!("{what}: {error}")))
    }

    /// Tells it, and answers with the exit status it stands for.
    pub(crate) fn report(self, format: Format) -> ExitCode {
        match self {
            Self::Usage(message) => {
                let fault = Fault::new(Reason::BadValue, message);
                tell(&fault, format, "; see virtctl --help");
                ExitCode::from(exit::USAGE)
            }
            Self::Fault(fault) => {
                tell(&fault, format, "");
                ExitCode::from(exit::status(fault.reason))
            }
            Self::Status(status) => ExitCode::from(status),
            Self::OutputClosed => ExitCode::SUCCESS,
            Self::Left { hint, status } => {
                writeln!(std::io::stderr(), "virtctl: {hint}").ok(); // nowhere else to say it
                ExitCode::from(status)
            }
        }
    }
}

/// The fault as programs read it.
pub(crate) fn render(fault: &Fault) -> Value {
    let Fault { reason: _, message, facts, retry_after } = fault;
    Value::map([
        ("reason", Value::text(fault.reason_name())),
        ("code", Value::Int(i64::from(fault.code() as i32))),
        ("message", Value::text(message)),
        ("facts", Value::Map(facts.iter().map(|(k, v)| (k.clone(), Value::text(v))).collect())),
        ("retry_after", retry_after.map_or(Value::Null, Value::millis)),
        ("exit_status", Value::Num(u64::from(exit::status(fault.reason)))),
    ])
}

fn tell(fault: &Fault, format: Format, more: &str) {
    let text = match format {
        Format::Json => serde_json::to_string_pretty(&render(fault)).unwrap_or_default(),
        Format::Yaml => serde_yaml_ng::to_string(&render(fault)).unwrap_or_default(),
        Format::Table | Format::Csv => {
            // Two services may have joined their sentences by a newline; here it is one line.
            format!("virtctl: {}{more}", fault.message.lines().collect::<Vec<_>>().join(" "))
        }
    };
    writeln!(std::io::stderr(), "{}", text.trim_end()).ok(); // nowhere else to say it
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<tonic::Status> for Failure {
    fn from(status: tonic::Status) -> Self {
        Self::Fault(Fault::from(status))
    }
}

impl From<ParseError> for Failure {
    fn from(error: ParseError) -> Self {
        Self::Usage(error.to_string())
    }
}

/// Only for writing to our own stdout.
impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            Self::OutputClosed
        } else {
            Self::local("cannot write the answer to stdout", &error)
        }
    }
}
