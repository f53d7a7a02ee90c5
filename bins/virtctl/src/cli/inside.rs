//! Words of the verbs that run something inside a container, or attach to its console.
//!
//! Owns their options. Never here: a session.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;
use ves_types::ParseError;

use crate::ct::Ct;

/// How a session ends, for the two verbs that begin one.
const SESSIONS: &str = "What was started ends with the session: when the connection is lost it is hung up, and killed \
    five seconds later. What should stay leaves the session (setsid) or ignores the hang-up (nohup). \
    A stop ends sessions first, and kills all that is in them.";

#[derive(Debug, Args)]
#[command(after_long_help = SESSIONS)]
pub(crate) struct EnterArgs {
    /// Container, by id or name
    #[arg(value_name = "CT")]
    pub(crate) ct: Ct,
    /// Run this first; the shell comes after it
    #[arg(long, value_name = "CMD", num_args = 1.., allow_hyphen_values = true)]
    pub(crate) exec: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_long_help = SESSIONS)]
pub(crate) struct ExecArgs {
    /// Give it a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Do not read stdin
    #[arg(short = 'n', long)]
    pub(crate) no_stdin: bool,
    /// Set a variable of its environment
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = variable)]
    pub(crate) env: Vec<String>,
    /// Container, by id or name
    #[arg(value_name = "CT")]
    pub(crate) ct: Ct,
    /// A line of shell, in one word or several, as vzctl took it; after "--", a program and its
    /// arguments as they are, without a shell; "-" reads lines of shell from stdin
    #[arg(value_name = "WORD", required = true, trailing_var_arg = true)]
    pub(crate) words: Vec<String>,
    /// Whether "--" stood before the words.
    #[arg(skip)]
    pub(crate) exact: bool,
}

impl ExecArgs {
    /// Sees whether "--" stood before the words, which are the end of the command line, as they are.
    pub(super) fn see_exact(&mut self, line: &[OsString]) {
        let before = line.len().checked_sub(self.words.len() + 1);
        self.exact = before.and_then(|at| line.get(at)).is_some_and(|word| word == "--");
    }
}

#[derive(Debug, Args)]
pub(crate) struct RunscriptArgs {
    /// Container, by id or name
    #[arg(value_name = "CT")]
    pub(crate) ct: Ct,
    /// The script, a file of this machine
    pub(crate) file: PathBuf,
    /// Its arguments
    #[arg(value_name = "ARG", trailing_var_arg = true)]
    pub(crate) args: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ConsoleArgs {
    /// Container, by id or name
    #[arg(value_name = "CT")]
    pub(crate) ct: Ct,
    /// Which console; there is one
    #[arg(value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2), hide = true)]
    pub(crate) number: u8,
    /// Print what was last on it, and end
    #[arg(long)]
    pub(crate) scrollback: bool,
}

fn variable(s: &str) -> Result<String, ParseError> {
    match s.split_once('=') {
        Some((name, _)) if !name.is_empty() && !s.contains('\0') => Ok(s.to_owned()),
        _ => Err(ParseError::new("variable", s, "it must be NAME=VALUE")),
    }
}
