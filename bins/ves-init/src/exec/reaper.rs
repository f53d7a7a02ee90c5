//! The command's parent, inside the container: makes the command's process, waits for its end and tells it.
//!
//! ```text
//! supervisor (outside) ── seen ──────────▶ reaper (inside) ── parent of ──▶ command
//!                      ◀── how it ended ──
//! ```
//!
//! Whoever is inside has a parent inside: the reaper, and when that is gone, init. So nothing of a session
//! waits for somebody outside, who may be stopped or killed; the reaper's own end waits for nobody, as its
//! parent has the kernel reap it. Signals are held back from it, and it ends with its command.
//! Never here: input and output, of which it holds nothing; the end of a session, which is its supervisor's
//! as long as that lives.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::Signal;
use ves_host::child::{self, Child, How, Life, Why};
use ves_host::{Attempt, HostError, channel, namespace};

use super::command::Command;
use super::handshake::{self, Message};
use crate::perform;

/// The reaper of a command.
pub(super) struct Reaper<'a> {
    pub(super) command: Command<'a>,
    /// Where it tells how the command ended; its other end is the supervisor's alone.
    pub(super) report: &'a OwnedFd,
}

impl Reaper<'_> {
    /// The descriptors it needs.
    pub(super) fn fds(&self) -> Vec<BorrowedFd<'_>> {
        let mut fds = self.command.fds();
        fds.push(self.report.as_fd());
        fds
    }

    /// Makes the command and stays until it has ended. Answers the status to exit with.
    pub(super) fn run(&self) -> i32 {
        match self.make().and_then(|child| self.watch(&child)) {
            Ok(()) => 0,
            Err(e) => {
                handshake::report(self.command.status, perform::failure("enter the container", &e))
            }
        }
    }

    fn make(&self) -> Result<Child, HostError> {
        // Who asks everybody inside to end ends this one by its command.
        child::hold_signals();
        namespace::hide()?;
        rustix::thread::set_name(c"ves-session").attempt(|| "take a name".to_owned())?;
        let keep = self.command.fds();
        let life = Life::Free(Why::Command);
        let child =
            child::fork(How { keep: &keep, life, ..How::default() }, || self.command.run())?;
        Message::Spawned.send(self.command.status, &[child.pidfd.as_fd()])?;
        Ok(child)
    }

    fn watch(&self, child: &Child) -> Result<(), HostError> {
        // That the command executes is known by nobody else holding what it closes then.
        child::close_others(&[self.report.as_fd(), child.pidfd.as_fd()])?;
        // Until it is reaped its number is no other's, by which the supervisor knows the session.
        channel::receive(self.report)?;
        loop {
            let mut fds = [
                PollFd::new(&child.pidfd, PollFlags::IN),
                PollFd::new(self.report, PollFlags::empty()),
            ];
            match poll(&mut fds, None) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(e) => return Err(e).attempt(|| "wait for the command".to_owned()),
            }
            if let Some(ended) = child::reap(child)? {
                // The supervisor may be gone; then nobody wants to know.
                Message::Ended(ended).send(self.report, &[]).ok();
                return Ok(());
            }
            if fds.last().is_some_and(|fd| !fd.revents().is_empty()) {
                // Its supervisor was killed, or has ended the session and leaves what asked to stay. From
                // now on init is the command's parent.
                for signal in [Signal::HUP, Signal::CONT] {
                    rustix::process::kill_process_group(child.pid, signal).ok();
                }
                return Ok(());
            }
        }
    }
}
