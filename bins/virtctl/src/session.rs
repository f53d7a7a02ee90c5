//! Sessions inside a container: a command with its three streams or a terminal, and the console.
//!
//! ```text
//! stdin ── thread ──┐                        ┌── stdout
//! SIGWINCH, signals ┼─▶ requests ─▶ gRPC ─▶ ─┼── stderr
//!                   │                        └── exit status
//! ```
//!
//! A thread of its own reads stdin, as a blocked read cannot be given up; it ends with the process.
//! The terminal is given back on every way out by [`Raw`]'s drop. Sessions are never begun twice.
//!
//! Never here: which command it is.

use std::io::{IsTerminal as _, Read as _, Write as _};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use ves_proto::api::{
    ConsoleRequest, ConsoleStart, ExecRequest, ExecStart, ExitStatus, StdinEnd, console_request,
    exec_request, exec_response, exit_status,
};

use crate::connect::Coordinator;
use crate::ct::Ct;
use crate::exit;
use crate::failure::{Failure, Outcome};
use crate::names;
use crate::output::Output;
use crate::terminal::{self, Escape, Raw};

/// Bytes of input in one message; the API's greatest is 64 KiB.
const CHUNK: usize = 32 * 1024;
/// Messages on their way; a container that does not read makes us wait.
const QUEUE: usize = 16;

/// How long a signal may wait behind input that is not read.
const SIGNAL_TIMEOUT: Duration = Duration::from_secs(1);

/// What the command inside reads.
#[derive(Debug)]
pub(crate) enum Input {
    /// Ours.
    Stdin,
    /// This.
    Bytes(Vec<u8>),
    /// Nothing.
    Nothing,
}

/// What to run inside.
#[derive(Debug)]
pub(crate) struct Command {
    /// Program and arguments; none: a login shell.
    pub(crate) argv: Vec<String>,
    /// Further environment.
    pub(crate) env: Vec<String>,
    /// That environment and no other.
    pub(crate) bare_env: bool,
    /// On a terminal.
    pub(crate) tty: bool,
    /// What it reads.
    pub(crate) input: Input,
}

/// Runs a command inside and ends as it does.
pub(crate) async fn exec(coordinator: &Coordinator, ct: &Ct, command: Command) -> Outcome {
    let Command { argv, env, bare_env, tty, input } = command;
    let (requests, rest) = mpsc::channel::<ExecRequest>(QUEUE);
    let (container, tty_size) = (names::container(ct), tty.then(terminal::size));
    let start = ExecStart { container, argv, env, bare_env, tty: tty_size, ..ExecStart::default() };
    requests.try_send(part(exec_request::Part::Start(start))).ok(); // the queue is empty and `rest` is here
    let mut client = coordinator.sessions();
    let mut answers = coordinator.call_once(client.exec(ReceiverStream::new(rest))).await?;
    let mut signals = Signals::listen(&requests, tty)?;
    let mut reading = Some((input, requests));
    let mut raw = None;
    loop {
        let answer = tokio::select! {
            // Cancel-safe: a message is taken whole or left in the stream.
            answer = answers.message() => answer,
            left = signals.left() => return Err(left),
        };
        let answer = answer.map_err(|s| coordinator.fault(s))?;
        let Some(answer) = answer else {
            return Err(coordinator
                .connection_lost("the session ended without an exit status")
                .into());
        };
        match answer.part {
            Some(exec_response::Part::Started(_)) => {
                // Only now: a refusal must not cost the terminal its mode or the input its bytes.
                if let Some((input, requests)) = reading.take() {
                    if tty {
                        raw = Raw::enter()?;
                    }
                    send_input(input, requests);
                }
            }
            Some(exec_response::Part::Stdout(bytes)) => {
                let mut stdout = std::io::stdout().lock();
                stdout.write_all(&bytes)?;
                stdout.flush()?;
            }
            Some(exec_response::Part::Stderr(bytes)) => {
                std::io::stderr().write_all(&bytes).ok(); // nobody reads it: nothing to tell
            }
            Some(exec_response::Part::Exit(status)) => {
                drop(raw);
                return match code(&status) {
                    0 => Ok(()),
                    status => Err(Failure::Status(status)),
                };
            }
            None => {}
        }
    }
}

/// Attaches to the console until the user leaves or the container is gone.
pub(crate) async fn console(
    coordinator: &Coordinator,
    output: Output,
    ct: &Ct,
    scrollback_only: bool,
) -> Outcome {
    let (requests, rest) = mpsc::channel::<ConsoleRequest>(QUEUE);
    let size = Some(terminal::size());
    let start = ConsoleStart { container: names::container(ct), size, scrollback_only };
    let first = console_part(console_request::Part::Start(start));
    requests.try_send(first).ok(); // the queue is empty and `rest` is here
    let mut client = coordinator.sessions();
    let mut answers = coordinator.call_once(client.console(ReceiverStream::new(rest))).await?;
    let interactive = !scrollback_only && std::io::stdin().is_terminal();
    if interactive {
        output.say(&format!("console of {ct}; Ctrl-] leaves it, and so does ~. after Enter"));
    }
    let broken = |e: std::io::Error| Failure::local("cannot listen for signals", &e);
    let mut resized = signal(SignalKind::window_change()).map_err(broken)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(broken)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(broken)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(broken)?;
    let raw = if interactive { Raw::enter()? } else { None };
    let (leave, mut leaves) = mpsc::channel::<()>(1);
    if !scrollback_only {
        send_typed(requests.clone(), interactive, leave);
    }
    let end = loop {
        tokio::select! {
            // Cancel-safe: a message is taken whole or left in the stream.
            answer = answers.message() => match answer.map_err(|s| coordinator.fault(s))? {
                Some(answer) => {
                    let mut stdout = std::io::stdout().lock();
                    stdout.write_all(&answer.output)?;
                    stdout.flush()?;
                }
                None => break Ok("the console is closed"),
            },
            Some(()) = leaves.recv() => break Ok("left the console"),
            _ = resized.recv() => {
                let size = console_part(console_request::Part::Resize(terminal::size()));
                requests.try_send(size).ok(); // a full queue has the next one
            }
            _ = interrupt.recv() => break Err(exit::INTERRUPTED),
            _ = terminate.recv() => break Err(143),
            _ = hangup.recv() => break Err(129),
        }
    };
    drop(raw);
    match end {
        Ok(words) if interactive => output.say(&format!("\n{words}")),
        Ok(_) => {}
        Err(status) => return Err(Failure::Status(status)),
    }
    Ok(())
}

const fn part(part: exec_request::Part) -> ExecRequest {
    ExecRequest { part: Some(part) }
}

const fn console_part(part: console_request::Part) -> ConsoleRequest {
    ConsoleRequest { part: Some(part) }
}

/// The exit status a shell would have.
fn code(status: &ExitStatus) -> u8 {
    match status.how {
        Some(exit_status::How::Code(code)) => u8::try_from(code).unwrap_or(u8::MAX),
        Some(exit_status::How::Signal(signal)) => u8::try_from(128 + signal).unwrap_or(u8::MAX),
        None => 3,
    }
}

/// Sends input and its end, on a thread of its own.
fn send_input(input: Input, requests: mpsc::Sender<ExecRequest>) {
    std::thread::spawn(move || {
        let send = |chunk: &[u8]| {
            let bytes = chunk.to_vec().into();
            requests.blocking_send(part(exec_request::Part::Stdin(bytes))).is_ok()
        };
        match input {
            Input::Nothing => {}
            Input::Bytes(bytes) => {
                if !bytes.chunks(CHUNK).all(send) {
                    return;
                }
            }
            Input::Stdin => {
                let mut buffer = vec![0; CHUNK];
                loop {
                    match std::io::stdin().lock().read(&mut buffer) {
                        Ok(0) => break,
                        Ok(n) => {
                            if !send(buffer.get(..n).unwrap_or_default()) {
                                return;
                            }
                        }
                        Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                        Err(_) => break, // a terminal that is gone, a closed descriptor: the end
                    }
                }
            }
        }
        requests.blocking_send(part(exec_request::Part::StdinEnd(StdinEnd {}))).ok(); // it has ended
    });
}

/// Sends what is typed to a console, on a thread of its own; says when the user leaves.
fn send_typed(requests: mpsc::Sender<ConsoleRequest>, interactive: bool, leave: mpsc::Sender<()>) {
    std::thread::spawn(move || {
        let mut escape = Escape::default();
        let mut buffer = vec![0; CHUNK];
        loop {
            let n = match std::io::stdin().lock().read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(_) => break,
            };
            let typed = buffer.get(..n).unwrap_or_default();
            let (send, left) =
                if interactive { escape.feed(typed) } else { (typed.to_vec(), false) };
            let chunk = console_part(console_request::Part::Stdin(send.into()));
            if requests.blocking_send(chunk).is_err() {
                return;
            }
            if left {
                leave.blocking_send(()).ok(); // the session is over either way
                return;
            }
        }
        if interactive {
            leave.blocking_send(()).ok(); // the terminal is gone
        }
    });
}

/// Signals that concern the command inside.
struct Signals {
    left: mpsc::Receiver<u8>,
}

impl Signals {
    /// Hands on INT, TERM, QUIT and HUP, and the terminal's size. On a terminal, TERM and HUP are
    /// for us; without one, a second TERM or HUP and a third INT or QUIT are, so that one can leave
    /// a command that does not care.
    fn listen(requests: &mpsc::Sender<ExecRequest>, tty: bool) -> Result<Self, Failure> {
        let broken = |e: std::io::Error| Failure::local("cannot listen for signals", &e);
        let (leave, left) = mpsc::channel(1);
        if tty {
            let mut resized = signal(SignalKind::window_change()).map_err(broken)?;
            let requests = requests.clone();
            tokio::spawn(async move {
                while resized.recv().await.is_some() {
                    let size = part(exec_request::Part::Resize(terminal::size()));
                    if requests.send(size).await.is_err() {
                        return;
                    }
                }
            });
        }
        for (kind, number, ours) in [
            (SignalKind::interrupt(), 2u8, 3),
            (SignalKind::quit(), 3, 3),
            (SignalKind::terminate(), 15, if tty { 1 } else { 2 }),
            (SignalKind::hangup(), 1, if tty { 1 } else { 2 }),
        ] {
            let mut signals = signal(kind).map_err(broken)?;
            let (requests, leave) = (requests.clone(), leave.clone());
            tokio::spawn(async move {
                let mut count = 0;
                while signals.recv().await.is_some() {
                    count += 1;
                    // What is for us is not handed on: the answer to it would race with our leaving.
                    // The session hears that its caller is gone.
                    let stay = count < ours && {
                        let forward = part(exec_request::Part::Signal(u32::from(number)));
                        // A command that does not even read its input must not keep us here.
                        matches!(timeout(SIGNAL_TIMEOUT, requests.send(forward)).await, Ok(Ok(())))
                    };
                    if !stay {
                        leave.send(128 + number).await.ok(); // the session is over already
                        return;
                    }
                }
            });
        }
        Ok(Self { left })
    }

    /// Waits until the user leaves.
    async fn left(&mut self) -> Failure {
        match self.left.recv().await {
            Some(status) => Failure::Status(status),
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_those_of_a_shell() {
        let how = |how| code(&ExitStatus { how });
        assert_eq!(how(Some(exit_status::How::Code(0))), 0);
        assert_eq!(how(Some(exit_status::How::Code(255))), 255);
        assert_eq!(how(Some(exit_status::How::Code(300))), 255);
        assert_eq!(how(Some(exit_status::How::Signal(9))), 137);
        assert_eq!(how(None), 3);
    }
}
