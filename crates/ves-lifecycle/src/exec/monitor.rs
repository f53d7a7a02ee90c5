//! Talking with monitors: find one, ask it, wait for its end, kill it.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use ves_host::init::channel;
use ves_host::init::frame::{Decoder, Frame, Tag};
use ves_host::init::report::{self, Answer, Request, Status};
use ves_host::{Attempt, HostError};
use ves_types::CtId;

use crate::error::{About, Error};
use crate::plan::Monitor;

/// How long a monitor may take for an answer, releasing init included.
const ANSWER: Duration = Duration::from_secs(40);
/// How long a monitor may be neither reachable nor gone.
const BETWEEN: Duration = Duration::from_secs(10);

/// Reads a stream to its end, but not longer than `most`.
pub(super) fn read_all(mut from: impl Read + AsFd, most: Duration) -> Result<Vec<u8>, HostError> {
    let end = Instant::now() + most;
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    loop {
        if !channel::wait(&from, end.saturating_duration_since(Instant::now()))? {
            return Err(std::io::Error::from(ErrorKind::TimedOut)).attempt(|| "hear".to_owned());
        }
        match from.read(&mut piece) {
            Ok(0) => return Ok(bytes),
            Ok(n) => bytes.extend_from_slice(piece.get(..n).unwrap_or_default()),
            Err(e) if matches!(e.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => {}
            Err(e) => return Err(e).attempt(|| "hear".to_owned()),
        }
    }
}

/// Whether a monitor holds the container's lock.
fn locked(dir: &Path) -> Result<bool, HostError> {
    let path = report::lock(dir);
    let file = match File::open(&path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(false),
        other => other.attempt(|| format!("open {}", path.display()))?,
    };
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(false),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(true),
        Err(e) => Err(e).attempt(|| format!("try the lock {}", path.display())),
    }
}

/// A connection to a live monitor, or `None` where none lives. One that is just starting or ending
/// is waited for.
fn reach(ct: CtId, dir: &Path, what: &'static str) -> Result<Option<UnixStream>, Error> {
    let end = Instant::now() + BETWEEN;
    let socket = report::socket(dir);
    loop {
        match UnixStream::connect(&socket) {
            Ok(stream) => return Ok(Some(stream)),
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {}
            Err(e) => {
                return Err(e)
                    .attempt(|| format!("connect to {}", socket.display()))
                    .about(ct, what);
            }
        }
        if !locked(dir).about(ct, what)? {
            return Ok(None);
        }
        if Instant::now() > end {
            return Err(Error::Silent { ct, what });
        }
        super::pause();
    }
}

fn send(ct: CtId, stream: &mut UnixStream, request: Request) -> Result<(), Error> {
    match stream.write_all(&Frame::json(Tag::Request, &request).encode()) {
        Err(e) if matches!(e.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
            Err(Error::Gone { ct })
        }
        other => other.attempt(|| "ask the monitor".to_owned()).about(ct, "ask its monitor"),
    }
}

/// A connection on which the request was sent.
pub(super) fn connect(ct: CtId, dir: &Path, request: Request) -> Result<UnixStream, Error> {
    let mut stream = reach(ct, dir, "ask its monitor")?.ok_or(Error::Gone { ct })?;
    send(ct, &mut stream, request)?;
    Ok(stream)
}

/// The next frame of a connection; `None` at its end.
fn next(
    stream: &mut UnixStream,
    decoder: &mut Decoder,
    end: Instant,
) -> Result<Option<Frame>, HostError> {
    let mut piece = [0; 4096];
    loop {
        match decoder.next_frame() {
            Ok(Some(frame)) => return Ok(Some(frame)),
            Ok(None) => {}
            Err(e) => return Err(HostError::parse("hear the monitor", &e.to_string())),
        }
        if !channel::wait(&*stream, end.saturating_duration_since(Instant::now()))? {
            return Err(std::io::Error::from(ErrorKind::TimedOut))
                .attempt(|| "hear the monitor".to_owned());
        }
        match stream.read(&mut piece) {
            Ok(0) => return Ok(None),
            Err(e) if e.kind() == ErrorKind::ConnectionReset => return Ok(None),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Ok(n) => decoder.push(piece.get(..n).unwrap_or_default()),
            Err(e) => return Err(e).attempt(|| "hear the monitor".to_owned()),
        }
    }
}

/// Asks a monitor that must be there.
pub(super) fn ask(ct: CtId, dir: &Path, request: Request) -> Result<Status, Error> {
    let mut stream = connect(ct, dir, request)?;
    let frame = next(&mut stream, &mut Decoder::default(), Instant::now() + ANSWER);
    let frame = match frame {
        Err(HostError::Sys { source, .. }) if source.kind() == ErrorKind::TimedOut => {
            return Err(Error::Silent { ct, what: "answer" });
        }
        other => other.about(ct, "hear its monitor")?,
    };
    let Some(frame) = frame else { return Err(Error::Gone { ct }) };
    match frame.parse() {
        Some(Answer::Status(status)) => Ok(status),
        Some(Answer::Failed(failure)) => Err(Error::Start { ct, failure }),
        None => {
            let text = String::from_utf8_lossy(&frame.payload).into_owned();
            Err(HostError::parse("understand the monitor", &text)).about(ct, "ask its monitor")
        }
    }
}

/// The live monitor, if there is one.
pub(super) fn find(ct: CtId, dir: &Path) -> Result<Option<Monitor>, Error> {
    match ask(ct, dir, Request::Status) {
        Ok(status) => {
            let Status { running, init_pid, started_unix_ms, booted, kind, incarnation, memo } =
                status;
            let spec = serde_json::from_str(&memo).ok();
            Ok(Some(Monitor {
                running,
                init_pid,
                started_unix_ms,
                booted,
                kind,
                spec,
                incarnation,
            }))
        }
        Err(Error::Gone { .. }) => {
            settle(ct, dir)?;
            Ok(None)
        }
        Err(e) => Err(e),
    }
}

/// Waits until a monitor that let go of its connections is gone altogether.
fn settle(ct: CtId, dir: &Path) -> Result<(), Error> {
    let end = Instant::now() + BETWEEN;
    while locked(dir).about(ct, "wait for its monitor's end")? {
        if Instant::now() > end {
            return Err(Error::Silent { ct, what: "end" });
        }
        super::pause();
    }
    Ok(())
}

/// Waits for the monitor's end; tells whether it came in time.
pub(super) fn await_end(ct: CtId, dir: &Path, most: Duration) -> Result<bool, Error> {
    let end = Instant::now() + most;
    let mut stream = match connect(ct, dir, Request::Follow) {
        Err(Error::Gone { .. }) => return settle(ct, dir).map(|()| true),
        other => other?,
    };
    let mut decoder = Decoder::default();
    loop {
        match next(&mut stream, &mut decoder, end) {
            Ok(Some(_)) => {}
            Ok(None) => return settle(ct, dir).map(|()| true),
            Err(HostError::Sys { source, .. }) if source.kind() == ErrorKind::TimedOut => {
                return Ok(false);
            }
            Err(e) => return Err(e).about(ct, "wait for its end"),
        }
    }
}

/// Kills init, and where that does not help, the monitor, with which init dies.
pub(super) fn kill(ct: CtId, dir: &Path, most: Duration) -> Result<(), Error> {
    let Some(mut stream) = reach(ct, dir, "kill it")? else { return Ok(()) };
    let peer = rustix::net::sockopt::socket_peercred(&stream)
        .attempt(|| "ask who the monitor is".to_owned())
        .about(ct, "kill it")?;
    match send(ct, &mut stream, Request::Kill) {
        Ok(()) | Err(Error::Gone { .. }) => {}
        Err(e) => return Err(e),
    }
    if matches!(await_end(ct, dir, most), Ok(true)) {
        return Ok(());
    }
    tracing::warn!(%ct, pid = peer.pid.as_raw_pid(), "the monitor does not obey; killing it");
    // It held the lock when asked; a process of the same number now would be a strange accident,
    // and the wait below would tell.
    rustix::process::kill_process(peer.pid, rustix::process::Signal::KILL).ok();
    if await_end(ct, dir, most)? { Ok(()) } else { Err(Error::Undying { ct }) }
}
