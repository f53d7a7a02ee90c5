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

/// Runs what comes by stdin as a file of its own, whatever interpreter its first line names. Any of
/// its places may be full, read-only or closed to programs: the first that runs one is taken.
const SCRIPT: &str = r#"trap 'rm -f "$f"' EXIT
for d in /run /dev/shm /tmp /var/tmp /root /; do
    f=$(mktemp "$d/.virtctl.XXXXXXXXXX" 2>/dev/null) || continue
    { echo '#!/bin/sh' >"$f" && chmod 700 "$f" && "$f"; } 2>/dev/null && break
    rm -f "$f"
    f=
done
[ -n "$f" ] || { echo "no directory inside takes a script: all are full or run no programs" >&2; exit 126; }
cat >"$f" || exit 126
"$f" "$@" </dev/null"#;

impl Context {
    pub(super) async fn exec(self, args: ExecArgs, bare_env: bool) -> Outcome {
        let ExecArgs { tty, no_stdin, env, ct, words, exact } = args;
        let argv = if exact { words } else { line(words) };
        let mut variables: Vec<String> = Vec::new();
        if bare_env {
            variables.extend(BARE.map(str::to_owned));
        }
        variables.extend(term(tty));
        variables.extend(env);
        let input = if no_stdin { Input::Nothing } else { Input::Stdin };
        let command = Command { argv, env: variables, bare_env, tty, input };
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

/// The words are a line of shell, as vzctl made it; "-" is a shell that reads lines. Where a shell would
/// do nothing but execute a program by its path, it is left out: not every container has one.
fn line(words: Vec<String>) -> Vec<String> {
    let plain = |c: char| c.is_alphanumeric() || "_-+./:@%,".contains(c);
    match words.as_slice() {
        [dash] if dash == "-" => ["/bin/sh", "-s"].map(str::to_owned).to_vec(),
        [path, ..]
            if path.starts_with('/')
                && words.iter().all(|word| !word.is_empty() && word.chars().all(plain)) =>
        {
            words
        }
        _ => vec!["/bin/sh".to_owned(), "-c".to_owned(), words.join(" ")],
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn commands_as_vzctl_took_them() {
        let line = |words: &[&str]| super::line(words.iter().map(|w| (*w).to_owned()).collect());
        let shell = |line: &str| ["/bin/sh", "-c", line].map(str::to_owned);
        assert_eq!(line(&["ulimit", "-n"]), shell("ulimit -n"));
        assert_eq!(line(&["cd", "/tmp", "&&", "pwd"]), shell("cd /tmp && pwd"));
        assert_eq!(line(&["/bin/ls", "a b"]), shell("/bin/ls a b"));
        assert_eq!(line(&["/bin/ls", "*"]), shell("/bin/ls *"));
        assert_eq!(line(&["/bin/ls", ""]), shell("/bin/ls "));
        assert_eq!(line(&["/bin/ls", "-l", "/srv"]), ["/bin/ls", "-l", "/srv"]);
        assert_eq!(line(&["ls /tmp | wc -l"]), shell("ls /tmp | wc -l"));
        assert_eq!(line(&["-"]), ["/bin/sh", "-s"]);
    }
}
