//! What clients of a monitor ask for, and what they get.
//!
//! Never here: waiting for them, or their end.

use std::os::fd::AsFd;

use rustix::event::PollFlags;
use rustix::process::Signal;
use ves_host::channel;
use ves_host::{namespace, pty};
use ves_init_proto::frame::{Frame, LONGEST, Tag};
use ves_init_proto::report::{Answer, Failure, InitKind, Request, Status};

use super::client::{Client, Role};
use super::files::now_ms;
use super::state::Monitor;

/// The most of all clients at the console, so that who asks or tells something always finds a place.
const MAX_CONSOLES: usize = 32;

impl Monitor {
    /// Sends and receives what goes of one client, and answers it.
    pub(super) fn serve_client(&mut self, index: usize, flags: PollFlags) {
        if let Some(client) = self.clients.get_mut(index) {
            if flags.intersects(PollFlags::OUT) {
                client.conn.flush();
            }
            if flags.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
                client.conn.fill();
            }
        }
        while let Some(client) = self.clients.get_mut(index)
            && let Some(frame) = client.conn.next()
        {
            match (client.role, frame.tag) {
                (Role::New, Tag::Request) => match frame.parse() {
                    Some(request) => self.answer(index, request),
                    None => client.role = Role::Leaving,
                },
                (Role::Console, Tag::Input) => self.input.extend(&frame.payload),
                (Role::Console, Tag::Resize) => {
                    if let Some((rows, cols)) = frame.size() {
                        // A terminal that is being torn down has no size.
                        pty::resize(&self.waiting.console.master, rows, cols).ok();
                    }
                }
                // Nobody who understands the other side says this.
                _ => client.role = Role::Dropped,
            }
        }
        if !self.input.is_empty() {
            self.type_input();
        }
    }

    fn answer(&mut self, index: usize, request: Request) {
        let mut role = Role::Leaving;
        let mut answer = None;
        match request {
            Request::Status => {}
            Request::Follow => role = Role::Follower,
            Request::Release => {
                if self.started_unix_ms == 0 {
                    answer = self.release().err().map(Answer::Failed);
                }
            }
            Request::Ask(signal) => {
                self.stop_requested = true;
                if let Some(signal) = signal.and_then(signal_of) {
                    // Init may have ended in this moment, which is what is wanted.
                    rustix::process::pidfd_send_signal(&self.waiting.child.pidfd, signal).ok();
                }
            }
            Request::Remember(opaque_spec) => self.plan.opaque_spec = opaque_spec,
            Request::Kill => {
                self.killed = true;
                rustix::process::pidfd_send_signal(&self.waiting.child.pidfd, Signal::KILL).ok();
            }
            Request::Pidfd => {
                // One packet with the descriptor, so without what may be long.
                let status = Status { opaque_spec: String::new(), ..self.status() };
                let frame = Frame::json(Tag::Answer, &Answer::Status(status)).encode();
                if let Some(client) = self.clients.get_mut(index) {
                    let fd = self.waiting.child.pidfd.as_fd();
                    // The peer is new, so there is room for one frame; else it asks again.
                    channel::send(&client.conn.stream, &frame, &[fd]).ok();
                    client.role = Role::Leaving;
                }
                return;
            }
            Request::Console { scrollback_only } => {
                let at_it = |c: &&Client| matches!(c.role, Role::Console | Role::Scrollback);
                if self.clients.iter().filter(at_it).count() >= MAX_CONSOLES {
                    if let Some(client) = self.clients.get_mut(index) {
                        client.role = Role::Dropped;
                    }
                    return;
                }
                let contents = self.ring.contents();
                if let Some(client) = self.clients.get_mut(index) {
                    for chunk in contents.chunks(LONGEST) {
                        client.conn.send(&Frame::new(Tag::Output, chunk));
                    }
                    client.role = if scrollback_only { Role::Scrollback } else { Role::Console };
                }
                return;
            }
        }
        let frame =
            Frame::json(Tag::Answer, &answer.unwrap_or_else(|| Answer::Status(self.status())));
        if let Some(client) = self.clients.get_mut(index) {
            client.conn.send(&frame);
            client.role = role;
        }
    }

    fn release(&mut self) -> Result<(), Failure> {
        self.waiting.release()?;
        self.started_unix_ms = now_ms();
        self.kind = self.kind_now();
        // Only systemd is known to tell when it is done; of others it is known that they execute.
        self.booted = self.kind != InitKind::Systemd;
        if self.kind == InitKind::Systemd {
            self.spare_init();
        }
        // The record serves a monitor that is killed; without it the end's time is less exact.
        self.record().ok();
        self.publish();
        Ok(())
    }
}

fn signal_of(number: u32) -> Option<Signal> {
    i32::try_from(number).ok().and_then(namespace::signal)
}
