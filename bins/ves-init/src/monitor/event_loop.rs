//! The monitor's one loop: what it waits for, whom it serves then, and what it does when init ends.
//!
//! Never here: what a client is answered; waiting for anything but the next event.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use ves_host::{child, peer};
use ves_init_proto::report::{self, Ended, ExitRecord, InitKind};

use super::client::{Client, Role};
use super::files::{now_ms, write_record};
use super::lock;
use super::state::Monitor;
use crate::framed_conn::FramedConn;
use crate::notify::NotifyListener;

/// The most clients at once; each is a descriptor.
const MAX_CLIENTS: usize = 64;
/// How long all clients together may take for the last of the console.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);
/// The most input that waits for the console.
const MAX_INPUT: usize = 64 * 1024;

/// What woke the loop.
#[derive(Debug)]
struct Events {
    ended: bool,
    console: PollFlags,
    news: bool,
    connect: bool,
    clients: Vec<PollFlags>,
}

impl Monitor {
    /// Serves until init ends.
    pub(super) fn serve(mut self) {
        loop {
            let events = match self.wait() {
                Ok(events) => events,
                Err(Errno::INTR) => continue,
                // Without poll nothing can be done; init dies with this process.
                Err(_) => return,
            };
            if events.console.intersects(PollFlags::OUT) {
                self.type_input();
            }
            if events.console.intersects(PollFlags::IN | PollFlags::ERR | PollFlags::HUP) {
                self.read_console();
            }
            if events.news {
                self.read_notify();
            }
            for (index, flags) in events.clients.iter().enumerate() {
                self.serve_client(index, *flags);
            }
            self.clients.retain(|c| {
                let leaves = matches!(c.role, Role::Leaving | Role::Scrollback);
                !c.conn.is_gone() && c.role != Role::Dropped && !(leaves && c.conn.is_idle())
            });
            if events.connect {
                self.accept();
            }
            if events.ended
                && let Ok(Some(ended)) = child::reap(&self.waiting.child)
            {
                self.finish(ended);
                return;
            }
        }
    }

    fn wait(&mut self) -> rustix::io::Result<Events> {
        let pause = self.rate_limit.pause(Instant::now());
        let mut console = PollFlags::empty();
        console.set(PollFlags::IN, pause.is_none());
        console.set(PollFlags::OUT, !self.input.is_empty());
        let mut fds = vec![
            PollFd::new(&self.waiting.child.pidfd, PollFlags::IN),
            PollFd::new(&self.waiting.console.master, console),
            PollFd::new(&self.listener, PollFlags::IN),
        ];
        for client in &self.clients {
            // Who types faster than the terminal takes it waits.
            let read = !matches!(client.role, Role::Leaving | Role::Scrollback)
                && (client.role != Role::Console || self.input.len() < MAX_INPUT);
            fds.push(PollFd::new(&client.conn.stream, client.conn.interest(read)));
        }
        if let Some(notify) = &self.notify {
            fds.push(PollFd::new(notify, PollFlags::IN));
        }
        let pause = pause.map(|pause| Timespec { tv_sec: 0, tv_nsec: pause.subsec_nanos().into() });
        poll(&mut fds, pause.as_ref())?;
        let mut flags = fds.iter().map(PollFd::revents);
        let mut next = || flags.next().unwrap_or(PollFlags::empty());
        let (ended, console, connect) = (!next().is_empty(), next(), !next().is_empty());
        let clients = self.clients.iter().map(|_| next()).collect();
        Ok(Events { ended, console, connect, clients, news: !next().is_empty() })
    }

    /// Takes in what init says of itself.
    fn read_notify(&mut self) {
        let Some(said) = self.notify.as_ref().and_then(NotifyListener::news) else { return };
        // Others than systemd leave the socket to all that they start; what they do is seen from outside.
        let stopping = said.stopping && self.kind_now() == InitKind::Systemd;
        let now = (self.booted || said.ready, stopping);
        if now != (self.booted, self.stopping) {
            (self.booted, self.stopping) = now;
            self.publish();
        }
    }

    fn accept(&mut self) {
        match self.listener.accept() {
            // Beyond the most, and of others than may ask, it is closed, which the peer understands.
            Ok((stream, _)) if self.clients.len() < MAX_CLIENTS => {
                // A mode does not keep out who passes all of them.
                let known = peer::user(&stream).is_ok_and(|user| self.may_ask.contains(&user));
                if known && let Ok(conn) = FramedConn::new(stream) {
                    self.clients.push(Client { conn, role: Role::New });
                }
            }
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            Err(_) => {}
        }
    }

    /// Init ended and with it every process of the container.
    fn finish(mut self, ended: Ended) {
        while self.read_console() {}
        // The files are whose the lock is, who may be another by now.
        if let Some(lock) = lock::keep(&self.plan, self.lock) {
            if self.started_unix_ms != 0 {
                let record = ExitRecord {
                    incarnation: self.plan.incarnation,
                    cause: report::exit_cause(ended, self.stop_requested, self.killed),
                    ended,
                    started_unix_ms: self.started_unix_ms,
                    ended_unix_ms: now_ms(),
                };
                // What it said last is the first thing people want to read; its lack hinders nothing.
                std::fs::write(report::last_words(&self.plan.dir), self.ring.contents()).ok();
                // A record that cannot be written is reconstructed from the one of the state.
                if write_record(&report::exit(&self.plan.dir), &record).is_err() {
                    self.guard.state = None;
                }
            }
            self.guard.clean();
            // From now on another may begin.
            drop(lock);
        }
        // All at once, so that the slow do not keep each other, and the rest is closed.
        let end = Instant::now() + DRAIN_TIMEOUT;
        self.clients.retain(|c| matches!(c.role, Role::Console | Role::Scrollback));
        loop {
            self.clients.retain(|c| !c.conn.is_gone() && !c.conn.is_idle());
            let left = end.saturating_duration_since(Instant::now());
            if self.clients.is_empty() || left.is_zero() {
                return;
            }
            let left = Timespec { tv_sec: 0, tv_nsec: left.subsec_nanos().into() };
            let mut fds: Vec<_> =
                self.clients.iter().map(|c| PollFd::new(&c.conn.stream, PollFlags::OUT)).collect();
            match poll(&mut fds, Some(&left)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => return,
            }
            drop(fds);
            self.clients.iter_mut().for_each(|c| c.conn.flush());
        }
    }
}
