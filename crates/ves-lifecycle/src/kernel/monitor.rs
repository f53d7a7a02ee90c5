//! Talking with monitors: find one, ask it, wait for its end, kill it.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use rustix::process::{PidfdFlags, Signal};
use ves_host::channel;
use ves_host::{Attempt, HostError};
use ves_init_proto::frame::{Decoder, Frame, Tag};
use ves_init_proto::report::{self, Answer, Ended, Request, Status};
use ves_types::CtId;

use crate::error::{About, Error};
use crate::observe;
use crate::plan::Monitor;

/// How long a monitor may take for an answer, releasing init included.
const ANSWER: Duration = Duration::from_secs(40);
/// How long it may take to tell its state or to obey, which is a moment's work.
const PROMPT: Duration = Duration::from_secs(5);
/// The same of many that were asked together, after others of them have used up that time. Also how long
/// who was killed may look alive.
const MOMENT: Duration = Duration::from_millis(200);
/// The most bytes of what a monitor tells its starter.
const REPORT: usize = 1 << 20;
/// How long a monitor may be neither reachable nor gone.
const BETWEEN: Duration = Duration::from_secs(10);

/// Reads a stream of at most [`REPORT`] bytes to its end, but not longer than `within`.
pub(super) fn read_report(from: impl Read + AsFd, within: Duration) -> Result<Vec<u8>, HostError> {
    let mut bytes = Vec::new();
    each_piece(from, within, |piece| {
        bytes.extend_from_slice(piece);
        if bytes.len() <= REPORT { Ok(()) } else { Err(ErrorKind::FileTooLarge.into()) }
    })?;
    Ok(bytes)
}

/// Waits for the end of a command, but not longer than `within`, and keeps nothing of what it prints: it is
/// a container that says it, and may go on for ever. `None` where it did not come to an end.
pub(super) fn await_command(session: &UnixStream, within: Duration) -> Option<Ended> {
    let (mut decoder, mut ended) = (Decoder::default(), None);
    let all = each_piece(session, within, |piece| {
        decoder.push(piece);
        while let Some(frame) = decoder.next_frame().map_err(std::io::Error::other)? {
            ended = if frame.tag == Tag::Ended { frame.parse() } else { ended };
        }
        Ok(())
    });
    all.ok().and(ended)
}

fn each_piece(
    mut from: impl Read + AsFd,
    within: Duration,
    mut take: impl FnMut(&[u8]) -> std::io::Result<()>,
) -> Result<(), HostError> {
    let hear = || "hear".to_owned();
    let end = Instant::now() + within;
    let mut piece = [0; 4096];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() || !channel::wait(&from, left)? {
            return Err(std::io::Error::from(ErrorKind::TimedOut)).attempt(hear);
        }
        match from.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(n) => take(piece.get(..n).unwrap_or_default()).attempt(hear)?,
            Err(e) if matches!(e.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => {}
            Err(e) => return Err(e).attempt(hear),
        }
    }
}

/// Takes the container's lock, so that no monitor begins; `None` where there was never one.
pub(super) fn hold(ct: CtId, dir: &Path) -> Result<Option<File>, Error> {
    const WHAT: &str = "make way for who clears up";
    let path = report::lock(dir);
    let file = match File::open(&path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        other => other.attempt(|| format!("open {}", path.display())).about(ct, WHAT)?,
    };
    // Who only looks whether there is a monitor holds it for a moment.
    let end = Instant::now() + Duration::from_secs(1);
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(Some(file)),
            Err(Errno::WOULDBLOCK) if Instant::now() < end => super::pause(),
            Err(Errno::WOULDBLOCK) => return Err(Error::Unresponsive { ct, what: WHAT }),
            Err(e) => {
                return Err(e).attempt(|| format!("lock {}", path.display())).about(ct, WHAT);
            }
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
        Err(Errno::WOULDBLOCK) => Ok(true),
        Err(e) => Err(e).attempt(|| format!("try the lock {}", path.display())),
    }
}

/// Connects without waiting, as a monitor that does not accept would let one wait for ever.
fn connect_now(socket: &Path) -> rustix::io::Result<UnixStream> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&fd, &SocketAddrUnix::new(socket)?)?;
    rustix::io::ioctl_fionbio(&fd, false)?;
    Ok(fd.into())
}

/// A connection to a live monitor, or `None` where none lives. One that is just starting or ending
/// is waited for.
fn connect_or_none(ct: CtId, dir: &Path, what: &'static str) -> Result<Option<UnixStream>, Error> {
    let end = Instant::now() + BETWEEN;
    let socket = report::socket(dir);
    loop {
        match connect_now(&socket) {
            Ok(stream) => return Ok(Some(stream)),
            Err(Errno::NOENT | Errno::CONNREFUSED) => {}
            // So many wait at its door that it cannot have looked for long.
            Err(Errno::AGAIN) => return Err(Error::Unresponsive { ct, what }),
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
            return Err(Error::Unresponsive { ct, what });
        }
        super::pause();
    }
}

fn send(ct: CtId, stream: &mut UnixStream, request: &Request) -> Result<(), Error> {
    match stream.write_all(&Frame::json(Tag::Request, request).encode()) {
        Err(e) if matches!(e.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
            Err(Error::Gone { ct })
        }
        other => other.attempt(|| "ask the monitor".to_owned()).about(ct, "ask its monitor"),
    }
}

/// A connection on which the request was sent.
pub(super) fn connect(ct: CtId, dir: &Path, request: &Request) -> Result<UnixStream, Error> {
    let mut stream = connect_or_none(ct, dir, "ask its monitor")?.ok_or(Error::Gone { ct })?;
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

/// The answer to a request that was sent.
fn answer(ct: CtId, stream: &mut UnixStream, end: Instant) -> Result<Status, Error> {
    let frame = match next(stream, &mut Decoder::default(), end) {
        Err(HostError::Sys { source, .. }) if source.kind() == ErrorKind::TimedOut => {
            return Err(Error::Unresponsive { ct, what: "answer" });
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

/// Asks a monitor that must be there.
pub(super) fn ask(ct: CtId, dir: &Path, request: &Request) -> Result<Status, Error> {
    answer(ct, &mut connect(ct, dir, request)?, Instant::now() + ANSWER)
}

/// What there is of a monitor.
#[derive(Debug)]
pub(super) enum Found {
    Nothing,
    Answers(Box<Monitor>),
    /// One lives and does not answer.
    Unresponsive,
}

/// A monitor that was asked for its state without waiting for anything.
#[derive(Debug)]
pub(super) enum Asked {
    /// It was told.
    Told(UnixStream),
    /// None is at the door.
    Away,
    /// So many wait at its door that it cannot have looked for long.
    Unresponsive,
}

/// Asks for the state.
pub(super) fn begin(ct: CtId, dir: &Path) -> Result<Asked, Error> {
    let socket = report::socket(dir);
    let mut stream = match connect_now(&socket) {
        Ok(stream) => stream,
        Err(Errno::NOENT | Errno::CONNREFUSED) => return Ok(Asked::Away),
        Err(Errno::AGAIN) => return Ok(Asked::Unresponsive),
        Err(e) => {
            let what = || format!("connect to {}", socket.display());
            return Err(e).attempt(what).about(ct, "ask its monitor");
        }
    };
    // A new connection has room for it.
    match send(ct, &mut stream, &Request::Status) {
        Ok(()) => Ok(Asked::Told(stream)),
        Err(Error::Gone { .. }) => Ok(Asked::Away),
        Err(e) => Err(e),
    }
}

/// How long a look may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// By when processes that no monitor answers for are what they seem.
    pub(super) settled: Instant,
    /// By when a monitor should have answered, and the dying be dead.
    pub(super) end: Instant,
}

impl Patience {
    /// With whom is looked at from now on.
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self { settled: now + MOMENT, end: now + PROMPT }
    }

    /// With the next lot of many: whoever can answer does so in a moment.
    pub(super) fn renew(&mut self) {
        self.end = self.end.max(Instant::now() + MOMENT);
    }
}

/// The live monitor, if there is one, by its answer before `end`.
pub(super) fn conclude(
    ct: CtId,
    dir: &Path,
    mut asked: Asked,
    end: Instant,
) -> Result<Found, Error> {
    loop {
        match asked {
            Asked::Unresponsive => return Ok(Found::Unresponsive),
            Asked::Told(mut stream) => match answer(ct, &mut stream, end) {
                Ok(status) => return Ok(Found::Answers(Box::new(observe::monitor(status)))),
                Err(Error::Unresponsive { .. }) => return Ok(Found::Unresponsive),
                // It ends.
                Err(Error::Gone { .. }) => {}
                Err(e) => return Err(e),
            },
            Asked::Away => {}
        }
        // One that is just starting or ending is waited for.
        if !locked(dir).about(ct, "look for its monitor")? {
            return Ok(Found::Nothing);
        }
        if Instant::now() > end {
            return Ok(Found::Unresponsive);
        }
        super::pause();
        asked = begin(ct, dir)?;
    }
}

/// Waits until a monitor that let go of its connections is gone altogether.
fn await_lock(ct: CtId, dir: &Path) -> Result<(), Error> {
    let end = Instant::now() + BETWEEN;
    while locked(dir).about(ct, "wait for its monitor's end")? {
        if Instant::now() > end {
            return Err(Error::Unresponsive { ct, what: "end" });
        }
        super::pause();
    }
    Ok(())
}

/// What a monitor that is followed came to.
#[derive(Debug)]
pub(super) enum Change {
    /// It tells how things are now.
    Told(Status),
    /// It has ended.
    Ended,
    /// Nothing within the time.
    Nothing,
}

/// A monitor that is followed to its end.
#[derive(Debug)]
pub(super) struct Follower<'a> {
    ct: CtId,
    dir: &'a Path,
    /// None where it had ended before.
    stream: Option<UnixStream>,
    decoder: Decoder,
}

impl<'a> Follower<'a> {
    /// Follows it from now on.
    pub(super) fn begin(ct: CtId, dir: &'a Path) -> Result<Self, Error> {
        let stream = match connect(ct, dir, &Request::Follow) {
            Err(Error::Gone { .. }) => None,
            other => Some(other?),
        };
        Ok(Self { ct, dir, stream, decoder: Decoder::default() })
    }

    /// The next that it tells before `end`, of which the first is how things were in the beginning.
    pub(super) fn next(&mut self, end: Instant) -> Result<Change, Error> {
        let Self { ct, dir, .. } = *self;
        while let Some(stream) = &mut self.stream {
            match next(stream, &mut self.decoder, end) {
                Ok(Some(frame)) => {
                    if let Some(Answer::Status(status)) = frame.parse() {
                        return Ok(Change::Told(status));
                    }
                }
                Ok(None) => break,
                Err(HostError::Sys { source, .. }) if source.kind() == ErrorKind::TimedOut => {
                    return Ok(Change::Nothing);
                }
                Err(e) => return Err(e).about(ct, "wait for its end"),
            }
        }
        await_lock(ct, dir).map(|()| Change::Ended)
    }
}

/// Waits for the monitor's end; tells whether it came in time.
pub(super) fn await_end(ct: CtId, dir: &Path, most: Duration) -> Result<bool, Error> {
    let end = Instant::now() + most;
    let mut follower = Follower::begin(ct, dir)?;
    loop {
        match follower.next(end)? {
            Change::Told(_) => {}
            Change::Ended => return Ok(true),
            Change::Nothing => return Ok(false),
        }
    }
}

/// Kills init, and where that does not help, the monitor, with which init dies. Whom that does not reach
/// is killed by the control group.
pub(super) fn kill(ct: CtId, dir: &Path, most: Duration) -> Result<(), Error> {
    let mut stream = match connect_or_none(ct, dir, "kill it") {
        Ok(Some(stream)) => stream,
        // None is there, or one that cannot be reached.
        Ok(None) | Err(Error::Unresponsive { .. }) => return Ok(()),
        Err(e) => return Err(e),
    };
    let hold = || -> rustix::io::Result<_> {
        let peer = rustix::net::sockopt::socket_peercred(&stream)?;
        let pidfd = rustix::process::pidfd_open(peer.pid, PidfdFlags::empty());
        match pidfd {
            Err(Errno::SRCH) => Ok(None),
            // While the connection lives, so does the monitor, and the number is its.
            other => Ok(lives(&stream)?.then_some(other?)),
        }
    };
    let held = hold().attempt(|| "hold the monitor".to_owned()).about(ct, "kill it")?;
    let Some(pidfd) = held else { return await_lock(ct, dir) };
    match send(ct, &mut stream, &Request::Kill) {
        Ok(()) | Err(Error::Gone { .. }) => {}
        Err(e) => return Err(e),
    }
    let heard = next(&mut stream, &mut Decoder::default(), Instant::now() + PROMPT);
    if heard.is_ok() && matches!(await_end(ct, dir, most), Ok(true)) {
        return Ok(());
    }
    tracing::warn!(%ct, "the monitor does not obey; killing it");
    // It may end by itself in this moment.
    rustix::process::pidfd_send_signal(&pidfd, Signal::KILL).ok();
    if channel::wait(&pidfd, most).about(ct, "wait for its monitor's end")? {
        await_lock(ct, dir)
    } else {
        Err(Error::Undying { ct })
    }
}

/// Whether the other side of a connection is still there.
fn lives(stream: &UnixStream) -> rustix::io::Result<bool> {
    let mut fds = [PollFd::new(stream, PollFlags::empty())];
    poll(&mut fds, Some(&Timespec::default()))?;
    Ok(fds.iter().all(|fd| fd.revents().is_empty()))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// A stream on which more comes for as long as anybody reads.
    fn flood() -> UnixStream {
        let (near, mut far) = UnixStream::pair().expect("a pair");
        std::thread::spawn(move || while far.write_all(&[b'x'; 65_536]).is_ok() {});
        near
    }

    #[test]
    fn what_never_ends_is_neither_kept_nor_awaited_for_ever() {
        let report = read_report(flood(), Duration::from_secs(60)).expect_err("too much");
        assert!(ves_proto::fault::chain(&report).contains("too large"), "{report:?}");
        let (near, mut far) = UnixStream::pair().expect("a pair");
        let frame = Frame::new(Tag::Output, [b'x'; 4096]).encode();
        std::thread::spawn(move || while far.write_all(&frame).is_ok() {});
        assert_eq!(await_command(&near, Duration::from_millis(50)), None, "it did not end");
    }

    #[test]
    fn a_command_is_known_by_its_end() {
        let ends = |frames: &[Frame]| {
            let (near, mut far) = UnixStream::pair().expect("a pair");
            frames.iter().for_each(|f| far.write_all(&f.encode()).expect("sent"));
            drop(far);
            await_command(&near, Duration::from_secs(60))
        };
        let ended = Frame::json(Tag::Ended, &Ended::Code(1));
        assert_eq!(ends(&[Frame::new(Tag::Output, *b"no pipe"), ended]), Some(Ended::Code(1)));
        assert_eq!(ends(&[Frame::new(Tag::Started, [])]), None);
    }
}
