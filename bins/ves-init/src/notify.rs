//! Receives what init notifies by sd_notify, beside the monitor's loop, so that nothing sent can hold
//! that up.
//!
//! ```text
//! container ── packet, descriptors ──▶ thread ── it is up, goes down ──▶ eventfd ──▶ monitor's loop
//!                                      closes what came
//! ```
//!
//! A packet may carry descriptors of the tenant's making. They are not taken, so the kernel closes
//! them, in the thread that receives the packet or closes the socket as the last; and closing can
//! last as long as the tenant likes: a connection with SO_LINGER and a peer that does not read. So one
//! thread has the socket and does nothing else. What it is kept from is the container's own
//! announcements. At the process's end it is killed, which no linger survives.
//!
//! A thread rather than a process: there is no moment in which the other one is dead and the loop
//! must close the queue, nothing to reap, and no copies of the monitor's descriptors and memory.
//! It begins when the last child was made, since a process that makes children here must have one
//! thread. That newer kernels can refuse descriptors (SO_PASSRIGHTS) helps none of the others.
//! Never here: the socket in other hands, allocation, an end before the process's.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use rustix::event::{EventfdFlags, Timespec, eventfd, poll};
use rustix::io::Errno;

use crate::rate_limit::RateLimit;

/// Enough for a loop over one buffer of 4 KiB, in a build without optimisation too.
const STACK: usize = 64 * 1024;

/// How often what init says of its end may change in a run: each change is work for the whole node.
const CHANGES: u32 = 16;

/// Targets that systemd reaches on its way down.
const DOWN: [&[u8]; 9] = [
    b"shutdown",
    b"umount",
    b"final",
    b"poweroff",
    b"reboot",
    b"halt",
    b"kexec",
    b"exit",
    b"soft-reboot",
];

/// What init has said of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Said {
    /// It has booted, once.
    pub(crate) ready: bool,
    /// It goes down.
    pub(crate) stopping: bool,
}

impl Said {
    /// The same after one more message. Since version 257 systemd tells of each target; what it leaves first
    /// on its way down is multi-user.target, which it also does for another target that it reaches then.
    fn and(self, message: &[u8]) -> Self {
        message.split(|b| *b == b'\n').fold(self, |said, line| {
            let target = |key: &[u8]| line.strip_prefix(key)?.strip_suffix(b".target");
            match line {
                b"READY=1" => Self { ready: true, stopping: false },
                b"STOPPING=1" => Self { stopping: true, ..said },
                _ if line.starts_with(b"X_SYSTEMD_SHUTDOWN=") => Self { stopping: true, ..said },
                _ if target(b"X_SYSTEMD_UNIT_INACTIVE=") == Some(b"multi-user") => {
                    Self { stopping: true, ..said }
                }
                _ => match target(b"X_SYSTEMD_UNIT_ACTIVE=") {
                    Some(target) => Self { stopping: DOWN.contains(&target), ..said },
                    None => said,
                },
            }
        })
    }
}

/// What the thread has heard, and the loop takes.
#[derive(Debug, Default)]
struct Heard {
    ready: AtomicBool,
    stopping: AtomicBool,
}

/// The loop's end: readable when init has said something new.
#[derive(Debug)]
pub(crate) struct NotifyListener {
    news: Arc<OwnedFd>,
    heard: Arc<Heard>,
}

impl NotifyListener {
    /// Begins to listen.
    pub(crate) fn listen(socket: UnixDatagram) -> io::Result<Self> {
        let news = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let heard = Arc::new(Heard::default());
        // The thread has nothing else to wait for.
        socket.set_nonblocking(false)?;
        let (own, to) = (Arc::clone(&news), Arc::clone(&heard));
        let thread = std::thread::Builder::new().name("ves-notify".to_owned()).stack_size(STACK);
        thread.spawn(move || receive(&socket, &own, &to))?;
        Ok(Self { news, heard })
    }

    /// What init has said by now, where that is more than when this was last asked.
    pub(crate) fn news(&self) -> Option<Said> {
        rustix::io::read(&*self.news, &mut [0; 8]).ok()?;
        let Heard { ready, stopping } = &*self.heard;
        let load = |flag: &AtomicBool| flag.load(Ordering::Acquire);
        Some(Said { ready: load(ready), stopping: load(stopping) })
    }
}

impl AsFd for NotifyListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.news.as_fd()
    }
}

fn receive(socket: &UnixDatagram, news: &OwnedFd, heard: &Heard) {
    let mut rate_limit = RateLimit::new();
    let mut buffer = [0; 4096];
    let (mut told, mut changes) = (Said::default(), 0);
    loop {
        if let Some(pause) = rate_limit.pause(Instant::now()) {
            let pause = Timespec { tv_sec: 0, tv_nsec: pause.subsec_nanos().into() };
            // Who wakes early looks again.
            poll(&mut [], Some(&pause)).ok();
            continue;
        }
        let message = match rustix::net::recv(socket, &mut buffer, rustix::net::RecvFlags::empty())
        {
            Ok((n, _)) => buffer.get(..n).unwrap_or_default(),
            Err(Errno::INTR) => continue,
            // The container's announcements are lost, and nothing else.
            Err(_) => return,
        };
        // The shortest packet costs as much work as some bytes.
        rate_limit.spend(message.len().max(1024));
        let mut said = told.and(message);
        // Who said so often that it goes down is believed no more.
        said.stopping &= changes < CHANGES;
        if said != told {
            changes += 1;
            told = said;
            heard.ready.store(told.ready, Ordering::Release);
            heard.stopping.store(told.stopping, Ordering::Release);
            // A counter at its most is readable too.
            rustix::io::write(news, &1u64.to_ne_bytes()).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ves_host::channel;

    use super::*;

    #[test]
    fn readiness_is_told_once_whatever_else_is_said() {
        let (near, far) = UnixDatagram::pair().expect("sockets");
        near.set_nonblocking(true).expect("set");
        let listener = NotifyListener::listen(near).expect("it listens");
        for text in ["", "STATUS=READY=1", "READY=1 \n"] {
            far.send(text.as_bytes()).expect("sent");
        }
        assert!(!channel::wait(&listener, Duration::from_millis(50)).expect("waited"));
        for _ in 0..2 {
            far.send(b"STATUS=up\nREADY=1").expect("sent");
        }
        assert!(channel::wait(&listener, Duration::from_secs(10)).expect("waited"));
        assert_eq!(listener.news(), Some(Said { ready: true, stopping: false }));
        assert!(!channel::wait(&listener, Duration::from_millis(50)).expect("waited"));
        assert_eq!(listener.news(), None);
    }

    #[test]
    fn who_changes_his_mind_is_heard_a_few_times_and_is_up_then() {
        let said = ["STOPPING=1", "READY=1"];
        for first in 0..2 {
            let (near, far) = UnixDatagram::pair().expect("sockets");
            near.set_nonblocking(true).expect("set");
            let listener = NotifyListener::listen(near).expect("it listens");
            let (mut heard, mut last) = (0, None);
            for text in said.iter().cycle().skip(first).take(60) {
                far.send(text.as_bytes()).expect("sent");
                let more = channel::wait(&listener, Duration::from_millis(20)).expect("waited");
                let news = listener.news();
                assert_eq!(news.is_some(), more);
                heard += u32::from(more);
                last = news.or(last);
            }
            assert!((CHANGES..=CHANGES + 1).contains(&heard), "{heard}");
            assert_eq!(last, Some(Said { ready: true, stopping: false }));
        }
    }

    #[test]
    fn who_goes_down_and_who_only_goes_elsewhere() {
        let said = |texts: &[&str]| {
            texts.iter().fold(Said::default(), |said, text| said.and(text.as_bytes()))
        };
        let (up, down) =
            (Said { ready: true, stopping: false }, Said { ready: true, stopping: true });
        let boot = "X_SYSTEMD_UNIT_ACTIVE=multi-user.target\nREADY=1\nSTATUS=Ready.";
        let leaves =
            "X_SYSTEMD_UNIT_INACTIVE=graphical.target\nX_SYSTEMD_UNIT_INACTIVE=multi-user.target";
        // What systemd 257 says when it is powered off.
        assert_eq!(said(&[boot]), up);
        assert_eq!(said(&[boot, leaves]), down);
        assert_eq!(said(&[boot, leaves, "X_SYSTEMD_UNIT_INACTIVE=basic.target"]), down);
        assert_eq!(said(&[boot, leaves, "X_SYSTEMD_UNIT_ACTIVE=umount.target"]), down);
        assert_eq!(said(&[boot, "EXIT_STATUS=0\nX_SYSTEMD_SHUTDOWN=poweroff"]), down);
        // To another target, and after a restart of its programs alone.
        assert_eq!(said(&[boot, leaves, "X_SYSTEMD_UNIT_ACTIVE=rescue.target"]), up);
        assert_eq!(said(&[boot, leaves, "X_SYSTEMD_UNIT_ACTIVE=soft-reboot.target", boot]), up);
        assert_eq!(said(&[boot, "X_SYSTEMD_UNIT_INACTIVE=timers.target", "STOPPING=0"]), up);
        assert_eq!(said(&["STOPPING=1"]), Said { ready: false, stopping: true });
    }
}
