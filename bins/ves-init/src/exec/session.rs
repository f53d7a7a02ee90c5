//! A session between the daemon and a command: frames on one side, pipes or a terminal on the other.
//!
//! Owns what is passed on, how much of it waits, and the end of the session. Never here: how the
//! command was started.

use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use ves_host::child::{Child, Ended};
use ves_host::{Attempt, HostError, channel, namespace, pty};
use ves_init_proto::ExecRequest;
use ves_init_proto::frame::{Frame, Tag};

use super::ending::{Ending, Why};
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

    /// Passes on input, output and signals until the command ends or the peer leaves, which ends what was
    /// started.
    pub(super) fn run(
        mut self,
        mut running: Running,
        terminal: bool,
        ending: &Ending<'_>,
    ) -> Result<(), HostError> {
        // What came together with the request.
        self.serve_frames(&running, terminal);
        self.write_input(&mut running, terminal);
        loop {
            let ended = self.poll_once(&mut running, terminal)?;
            if self.conn.is_gone() {
                if terminal {
                    // Closing it hangs up too. Pipes stay until the end: who says something on the way
                    // there would be ended by that.
                    (running.input, running.outputs) = (None, [None, None]);
                }
                ending.end(Why::CallerGone);
                return Ok(());
            }
            if std::mem::take(&mut self.closes) {
                ending.end(Why::ContainerStops);
            }
            if ended {
                let ended = how_ended(&running.report)?;
                if ended.is_none() {
                    // Its parent was killed; there is nobody who will see its end.
                    ending.end(Why::CallerGone);
                }
                let ended = ended.unwrap_or(Ended::Signal(KILLED));
                self.drain_outputs(&mut running, terminal);
                self.conn.send(&Frame::json(Tag::Ended, &ended));
                self.conn.finish(30);
                return Ok(());
            }
        }
    }

    /// Waits once and serves what woke; answers whether the command ended.
    fn poll_once(&mut self, running: &mut Running, terminal: bool) -> Result<bool, HostError> {
        let mut want = PollFlags::empty();
        want.set(PollFlags::OUT, !self.input.is_empty());
        let read = !self.conn.is_full();
        let mut fds = vec![
            PollFd::new(&running.report, PollFlags::IN),
            PollFd::new(&self.conn.stream, self.conn.interest(self.input.len() < MAX_INPUT)),
        ];
        if let Some(input) = running.input.as_ref().filter(|_| !want.is_empty()) {
            fds.push(PollFd::new(input, want));
        }
        let outputs = running.outputs.iter().flatten().filter(|_| read);
        fds.extend(outputs.map(|fd| PollFd::new(fd, PollFlags::IN)));
        match poll(&mut fds, None) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(false),
            Err(e) => return Err(e).attempt(|| "wait for the command".to_owned()),
        }
        let mut flags = fds.iter().map(PollFd::revents);
        let ended = flags.next().is_some_and(|f| !f.is_empty());
        let peer = flags.next().unwrap_or(PollFlags::empty());
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

    /// Passes on what is there of each output, once.
    fn read_outputs(&mut self, running: &mut Running) {
        for (output, tag) in running.outputs.iter_mut().zip([Tag::Output, Tag::ErrorOutput]) {
            forward(&mut self.conn, output, tag, u64::MAX);
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
                match forward(&mut self.conn, output, tag, left) {
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

/// How the command ended, by its parent's word; `None` where that ended without one.
fn how_ended(report: &OwnedFd) -> Result<Option<Ended>, HostError> {
    let packet = channel::receive(report)?;
    Ok(match serde_json::from_slice(&packet.bytes) {
        Ok(Message::Ended(ended)) => Some(ended),
        _ => None,
    })
}

/// Passes on at most `max` bytes of an output; answers how many, and takes it away at its end.
fn forward(conn: &mut FramedConn, output: &mut Option<OwnedFd>, tag: Tag, max: u64) -> u64 {
    let Some(fd) = output else { return 0 };
    let mut chunk = [0; 32 * 1024];
    let max = usize::try_from(max).unwrap_or(usize::MAX).min(chunk.len());
    match rustix::io::read(fd, chunk.get_mut(..max).unwrap_or_default()) {
        Ok(n @ 1..) => {
            conn.send(&Frame::new(tag, chunk.get(..n).unwrap_or_default()));
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
