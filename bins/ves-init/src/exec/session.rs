//! A session between the daemon and a command: frames on one side, pipes or a terminal on the other.
//!
//! ```text
//! attached ─ the command ends ─────────────────────────────────▶ its end is told
//!    │ └──── its time is over, the container stops ─▶ ending ──▶ its end is told
//!    └────── the caller is gone ─┬─▶ ending ───────────────────▶ nobody is told
//!                                └─▶ left: no input, output is dropped, time still counts
//! ```
//!
//! The caller is gone when the daemon says so, which then stays to tell of a stop, or when the daemon is.
//! Owns what is passed on, how much of it waits, and the end of the session. Never here: how the
//! command was started; how a session is ended.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use ves_host::child::{Child, Ended};
use ves_host::{Attempt, HostError, channel, namespace, pty};
use ves_init_proto::frame::{Frame, Tag};
use ves_init_proto::report::SessionEnd;
use ves_init_proto::{ExecRequest, OnDisconnect};

use super::ending::{Ending, Members, Why};
use super::handshake::Message;
use crate::framed_conn::FramedConn;

/// The signal of a command whose end nobody saw: it was killed, and its parent before it.
const KILLED: u32 = 9;
/// The most input that waits for the command.
const MAX_INPUT: usize = 256 * 1024;
/// The most a terminal keeps of what was written before the end.
const MAX_TERMINAL: u64 = 128 * 1024;

/// A command that runs, and the outer ends of what it reads and writes.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) child: Child,
    /// Where its parent inside tells how it ended.
    pub(super) report: OwnedFd,
    /// The write end of its input, or the terminal.
    pub(super) input: Option<OwnedFd>,
    /// The read ends of its output and error output; the terminal is in the first place.
    pub(super) outputs: [Option<OwnedFd>; 2],
}

/// What was asked of a session.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Terms {
    /// Whether the command has a terminal.
    pub(super) terminal: bool,
    /// What becomes of it when its caller is gone.
    pub(super) on_disconnect: OnDisconnect,
    /// How long it may run.
    pub(super) timeout: Option<Duration>,
}

/// How far the end of a session is.
#[derive(Debug, Default)]
struct Course<'a> {
    /// How the command ended.
    ended: Option<Ended>,
    /// When its time is over; none where it has all time, or that was seen.
    limit: Option<Instant>,
    timed_out: bool,
    ending: Option<Ending<'a>>,
    /// Whether nothing more is done about who is left.
    spent: bool,
}

/// One session: its peer, and what that sent and the command has not read yet.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) conn: FramedConn,
    input: Vec<u8>,
    input_ends: bool,
    /// Whether the last that a terminal was given is a part of a line.
    in_line: bool,
    /// Whether a terminal was given the end of input.
    end_typed: bool,
    /// Whether the container is about to stop.
    closes: bool,
    /// Whether the daemon says that the caller is gone.
    hung_up: bool,
}

impl Session {
    pub(super) const fn new(conn: FramedConn) -> Self {
        Self {
            conn,
            input: Vec::new(),
            input_ends: false,
            in_line: false,
            end_typed: false,
            closes: false,
            hung_up: false,
        }
    }

    /// Waits for what is asked; `None` where the peer left.
    pub(super) fn request(&mut self) -> Result<Option<ExecRequest>, HostError> {
        loop {
            if let Some(frame) = self.conn.next() {
                return Ok(frame.parse());
            }
            if self.conn.is_gone() {
                return Ok(None);
            }
            let mut fds = [PollFd::new(&self.conn.stream, PollFlags::IN)];
            match poll(&mut fds, None) {
                Ok(_) | Err(Errno::INTR) => self.conn.fill(),
                Err(e) => return Err(e).attempt(|| "wait for a request".to_owned()),
            }
        }
    }

    /// Whether nobody hears it any more.
    fn is_left(&self) -> bool {
        self.hung_up || self.conn.is_gone()
    }

    /// Passes on input, output and signals until the command ends, or what was started is ended.
    pub(super) fn run(
        mut self,
        mut running: Running,
        terms: Terms,
        members: Members<'_>,
    ) -> Result<(), HostError> {
        let Terms { terminal, timeout, .. } = terms;
        let limit = timeout.map(|timeout| Instant::now() + timeout);
        let mut course = Course { limit, ..Course::default() };
        // What came together with the request.
        self.serve_frames(&running, terminal);
        self.write_input(&mut running, terminal);
        loop {
            self.decide(&mut running, &mut course, terms, members);
            let over = course.spent || course.ending.is_none();
            match course.ended {
                Some(ended) if over => {
                    if !self.is_left() {
                        self.drain_outputs(&mut running, terminal);
                    }
                    let end = SessionEnd { ended, timed_out: course.timed_out };
                    self.conn.send(&Frame::json(Tag::Ended, &end));
                    self.conn.finish(30);
                    return Ok(());
                }
                // What asked to stay, or cannot be killed, is its container's matter.
                None if course.spent && self.is_left() => return Ok(()),
                _ => {}
            }
            if self.poll_once(&mut running, terminal, &course)? {
                let ended = how_ended(&running.report)?;
                if ended.is_none() && course.ending.is_none() {
                    // Its parent was killed; there is nobody who will see its end.
                    let why = Why::CallerGone;
                    course.ending = Some(Ending::begin(members, why, Instant::now()));
                }
                course.ended = Some(ended.unwrap_or(Ended::Signal(KILLED)));
            }
        }
    }

    /// Sees whether the session is to end, and goes on with that.
    fn decide<'a>(
        &mut self,
        running: &mut Running,
        course: &mut Course<'a>,
        terms: Terms,
        members: Members<'a>,
    ) {
        let now = Instant::now();
        let late = course.limit.is_some_and(|limit| now >= limit);
        if std::mem::take(&mut self.closes) {
            course.ending = Some(Ending::begin(members, Why::ContainerStops, now));
            course.spent = false;
        } else if late && course.ended.is_none() && course.ending.is_none() {
            (course.limit, course.timed_out) = (None, true);
            course.ending = Some(Ending::begin(members, Why::TimeOver, now));
        } else if self.is_left() && course.ended.is_none() && course.ending.is_none() {
            match terms.on_disconnect {
                // It reads to the end what its caller had said.
                OnDisconnect::Leave => {
                    self.input_ends = true;
                    self.write_input(running, terms.terminal);
                }
                OnDisconnect::Kill => {
                    if terms.terminal {
                        // Closing it hangs up too. Pipes stay until the end: who says something on the way
                        // there would be ended by that.
                        (running.input, running.outputs) = (None, [None, None]);
                    }
                    // What has a time limit must not outlive it by asking to stay.
                    let limited = terms.timeout.is_some();
                    let why = if limited { Why::TimeOver } else { Why::CallerGone };
                    course.ending = Some(Ending::begin(members, why, now));
                }
            }
        }
        if let Some(ending) = course.ending.as_mut().filter(|_| !course.spent) {
            course.spent = ending.look(now);
        }
    }

    /// Waits once and serves what woke; answers whether it is told how the command ended.
    fn poll_once(
        &mut self,
        running: &mut Running,
        terminal: bool,
        course: &Course<'_>,
    ) -> Result<bool, HostError> {
        let read = self.is_left() || !self.conn.is_full();
        let (waits, connected) = (course.ended.is_none(), !self.conn.is_gone());
        let mut fds = Vec::new();
        fds.extend(waits.then(|| PollFd::new(&running.report, PollFlags::IN)));
        let interest = self.conn.interest(self.input.len() < MAX_INPUT);
        fds.extend(connected.then(|| PollFd::new(&self.conn.stream, interest)));
        let input = running.input.as_ref().filter(|_| !self.input.is_empty());
        fds.extend(input.map(|fd| PollFd::new(fd, PollFlags::OUT)));
        let outputs = running.outputs.iter().flatten().filter(|_| read);
        fds.extend(outputs.map(|fd| PollFd::new(fd, PollFlags::IN)));
        match poll(&mut fds, course.patience(Instant::now()).as_ref()) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(false),
            Err(e) => return Err(e).attempt(|| "wait for the command".to_owned()),
        }
        let mut flags = fds.iter().map(PollFd::revents);
        let ended = waits && flags.next().is_some_and(|f| !f.is_empty());
        let peer = if connected { flags.next() } else { None }.unwrap_or(PollFlags::empty());
        let rest = flags.any(|f| !f.is_empty());
        drop(fds);
        if peer.intersects(PollFlags::OUT) {
            self.conn.flush();
        }
        if peer.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            self.conn.fill();
            self.serve_frames(running, terminal);
        }
        if rest && read {
            self.read_outputs(running);
        }
        self.write_input(running, terminal);
        Ok(ended)
    }

    /// Serves what the peer sent.
    fn serve_frames(&mut self, running: &Running, terminal: bool) {
        while let Some(frame) = self.conn.next() {
            match frame.tag {
                Tag::Input if !self.input_ends => self.input.extend(frame.payload),
                Tag::InputEnd => self.input_ends = true,
                Tag::Close => self.closes = true,
                Tag::HangUp => self.hung_up = true,
                Tag::Resize => {
                    if let (true, Some((rows, cols)), [Some(master), _]) =
                        (terminal, frame.size(), &running.outputs)
                    {
                        // A terminal that was hung up has no size.
                        pty::resize(master, rows, cols).ok();
                    }
                }
                Tag::Signal => {
                    let number = frame.payload.first().copied().unwrap_or_default();
                    if let Some(signal) = namespace::signal(number.into()) {
                        // The group may have ended in this moment.
                        rustix::process::kill_process_group(running.child.pid, signal).ok();
                    }
                }
                _ => {}
            }
        }
    }

    /// Gives the command its input, and the end of it.
    fn write_input(&mut self, running: &mut Running, terminal: bool) {
        let Some(input) = &running.input else { return self.input.clear() };
        loop {
            while !self.input.is_empty() {
                match rustix::io::write(input, &self.input) {
                    Ok(n) => {
                        let last = self.input.drain(..n).next_back();
                        self.in_line = last.is_some_and(|byte| byte != b'\n');
                    }
                    Err(Errno::INTR) => {}
                    Err(Errno::AGAIN) => return,
                    Err(_) => {
                        // Nobody reads any more.
                        self.input.clear();
                        self.input_ends = true;
                    }
                }
            }
            if !self.input_ends || self.end_typed {
                return;
            }
            if !terminal {
                running.input = None;
                return;
            }
            // It is not closed by the end of input: who reads lines sees that by ^D, twice where the first
            // only sends off a line that was begun.
            self.end_typed = true;
            let typed = 1 + usize::from(self.in_line);
            self.input = pty::end_of_input(input).map(|end| vec![end; typed]).unwrap_or_default();
        }
    }

    /// Passes on what is there of each output, once, or drops it where nobody listens.
    fn read_outputs(&mut self, running: &mut Running) {
        let left = self.is_left();
        for (output, tag) in running.outputs.iter_mut().zip([Tag::Output, Tag::ErrorOutput]) {
            forward((!left).then_some(&mut self.conn), output, tag, u64::MAX);
        }
    }

    /// Passes on what was written before the end and is still on its way. Who still holds the other
    /// ends is neither waited for nor heard, however much it writes.
    fn drain_outputs(&mut self, running: &mut Running, terminal: bool) {
        for (output, tag) in running.outputs.iter_mut().zip([Tag::Output, Tag::ErrorOutput]) {
            let Some(fd) = output else { continue };
            // A terminal does not tell all that it keeps, but keeps little.
            let pending = if terminal { Ok(MAX_TERMINAL) } else { rustix::io::ioctl_fionread(fd) };
            let mut left = pending.unwrap_or_default();
            while left > 0 && !self.conn.is_gone() {
                match forward(Some(&mut self.conn), output, tag, left) {
                    0 => break,
                    n => left = left.saturating_sub(n),
                }
                while self.conn.is_full() && !self.conn.is_gone() {
                    let mut fds = [PollFd::new(&self.conn.stream, PollFlags::OUT)];
                    match poll(&mut fds, None) {
                        Ok(_) | Err(Errno::INTR) => self.conn.flush(),
                        Err(_) => return,
                    }
                }
            }
        }
    }
}

impl Course<'_> {
    /// How long to wait for what happens before something is due; none: as long as it takes.
    fn patience(&self, now: Instant) -> Option<Timespec> {
        let ending = self.ending.as_ref().filter(|_| !self.spent);
        let limit = self.limit.filter(|_| self.ended.is_none() && self.ending.is_none());
        let left = ending.map(Ending::next).or(limit)?.saturating_duration_since(now);
        Some(Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        })
    }
}

/// How the command ended, by its parent's word; `None` where that ended without one.
fn how_ended(report: &OwnedFd) -> Result<Option<Ended>, HostError> {
    let packet = channel::receive(report)?;
    Ok(match serde_json::from_slice(&packet.bytes) {
        Ok(Message::Ended(ended)) => Some(ended),
        _ => None,
    })
}

/// Passes on at most `max` bytes of an output; answers how many, and takes it away at its end.
fn forward(conn: Option<&mut FramedConn>, output: &mut Option<OwnedFd>, tag: Tag, max: u64) -> u64 {
    let Some(fd) = output else { return 0 };
    let mut chunk = [0; 32 * 1024];
    let max = usize::try_from(max).unwrap_or(usize::MAX).min(chunk.len());
    match rustix::io::read(fd, chunk.get_mut(..max).unwrap_or_default()) {
        Ok(n @ 1..) => {
            if let Some(conn) = conn {
                conn.send(&Frame::new(tag, chunk.get(..n).unwrap_or_default()));
            }
            u64::try_from(n).unwrap_or_default()
        }
        Err(Errno::AGAIN | Errno::INTR) => 0,
        // The end; a terminal says it with an error.
        Ok(0) | Err(_) => {
            *output = None;
            0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_told_as_they_are() {
        let frame = Frame::json(Tag::Ended, &Ended::Code(3));
        assert_eq!(frame.parse::<Ended>(), Some(Ended::Code(3)));
    }
}
