//! Verbs that run something inside a container.
//!
//! Never here: the session itself.

use std::io::IsTerminal as _;

use super::Context;
use crate::cli::{ConsoleArgs, EnterArgs, ExecArgs, RunscriptArgs};
use crate::failure::{Failure, Outcome};
use crate::session::{self, Command, Input};

/// All the environment exec2 gives, but for TERM and what the caller adds.
const BARE: [&str; 2] =
    ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"];

/// Runs what comes by stdin as a file of its own, whatever interpreter its first line names.
const SCRIPT: &str = r#"f=$(mktemp /tmp/virtctl.XXXXXXXXXX) || exit 126
trap 'rm -f "$f"' EXIT
cat >"$f" && chmod 700 "$f" || exit 126
"$f" "$@" </dev/null"#;

impl Context {
    pub(super) async fn exec(self, args: ExecArgs, bare_env: bool) -> Outcome {
        let ExecArgs { tty, no_stdin, env, ct, command } = args;
        let mut variables: Vec<String> = Vec::new();
        if bare_env {
            variables.extend(BARE.map(str::to_owned));
        }
        variables.extend(term(tty));
        variables.extend(env);
        let input = if no_stdin { Input::Nothing } else { Input::Stdin };
        let command = Command { argv: argv(command), env: variables, bare_env, tty, input };
        session::exec(&self.coordinator, &ct, command).await
    }

    pub(super) async fn enter(self, args: EnterArgs) -> Outcome {
        let EnterArgs { ct, exec } = args;
        let tty = std::io::stdin().is_terminal();
        let argv = if exec.is_empty() {
            Vec::new()
        } else {
            let first = "\"$@\"; exec \"${SHELL:-/bin/sh}\" -l";
            let mut argv = ["/bin/sh", "-c", first, "sh"].map(str::to_owned).to_vec();
            argv.extend(exec);
            argv
        };
        let env = term(tty);
        let command = Command { argv, env, bare_env: false, tty, input: Input::Stdin };
        session::exec(&self.coordinator, &ct, command).await
    }

    pub(super) async fn runscript(self, args: RunscriptArgs) -> Outcome {
        let RunscriptArgs { ct, file, args } = args;
        let script = std::fs::read(&file).map_err(|e| {
            Failure::local(&format!("cannot read the script {}", file.display()), &e)
        })?;
        let mut argv = ["/bin/sh", "-c", SCRIPT, "sh"].map(str::to_owned).to_vec();
        argv.extend(args);
        let input = Input::Bytes(script);
        let command = Command { argv, env: Vec::new(), bare_env: false, tty: false, input };
        session::exec(&self.coordinator, &ct, command).await
    }

    pub(super) async fn console(self, args: ConsoleArgs) -> Outcome {
        let ConsoleArgs { ct, number: _, scrollback } = args;
        session::console(&self.coordinator, self.output, &ct, scrollback).await
    }
}

/// What kind of terminal it is, where it is one.
fn term(tty: bool) -> Vec<String> {
    let term = std::env::var("TERM").ok().filter(|t| !t.is_empty());
    term.filter(|_| tty).map(|t| format!("TERM={t}")).into_iter().collect()
}

/// Several words are program and arguments; one that no program would be called is a line of shell;
/// "-" is a shell that reads lines.
fn argv(command: Vec<String>) -> Vec<String> {
    let plain = |c: char| c.is_alphanumeric() || "_-+./:@%,".contains(c);
    match command.as_slice() {
        [dash] if dash == "-" => ["/bin/sh", "-s"].map(str::to_owned).to_vec(),
        [line] if !line.chars().all(plain) => {
            vec!["/bin/sh".to_owned(), "-c".to_owned(), line.clone()]
        }
        _ => command,
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn commands_as_vzctl_took_them() {
        let argv = |words: &[&str]| super::argv(words.iter().map(|w| (*w).to_owned()).collect());
        assert_eq!(argv(&["uptime"]), ["uptime"]);
        assert_eq!(argv(&["/bin/ls", "-l", "a b"]), ["/bin/ls", "-l", "a b"]);
        assert_eq!(argv(&["ls /tmp | wc -l"]), ["/bin/sh", "-c", "ls /tmp | wc -l"]);
        assert_eq!(argv(&["echo $HOME"]), ["/bin/sh", "-c", "echo $HOME"]);
        assert_eq!(argv(&["-"]), ["/bin/sh", "-s"]);
    }
}
