//! Receives what init notifies by sd_notify, beside the monitor's loop, so that nothing sent can hold
//! that up.
//!
//! ```text
//! container ── packet, descriptors ──▶ thread ── READY ──▶ eventfd ──▶ monitor's loop
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
use std::time::Instant;

use rustix::event::{EventfdFlags, Timespec, eventfd, poll};
use rustix::io::Errno;

use crate::rate_limit::RateLimit;

/// Enough for a loop over one buffer of 4 KiB, in a build without optimisation too.
const STACK: usize = 64 * 1024;

/// The loop's end: readable when init has said that it is ready.
#[derive(Debug)]
pub(crate) struct NotifyListener {
    ready: Arc<OwnedFd>,
}

impl NotifyListener {
    /// Begins to listen.
    pub(crate) fn listen(socket: UnixDatagram) -> io::Result<Self> {
        let ready = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        // The thread has nothing else to wait for.
        socket.set_nonblocking(false)?;
        let own = Arc::clone(&ready);
        let thread = std::thread::Builder::new().name("ves-notify".to_owned()).stack_size(STACK);
        thread.spawn(move || receive(&socket, &own))?;
        Ok(Self { ready })
    }

    /// Whether init has said that it is ready since this was last asked.
    pub(crate) fn ready(&self) -> bool {
        rustix::io::read(&*self.ready, &mut [0; 8]).is_ok()
    }
}

impl AsFd for NotifyListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ready.as_fd()
    }
}

fn receive(socket: &UnixDatagram, ready: &OwnedFd) {
    let mut rate_limit = RateLimit::new();
    let mut buffer = [0; 4096];
    let mut signalled = false;
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
        if !signalled && message.split(|b| *b == b'\n').any(|line| line == b"READY=1") {
            // A counter at its most is readable too.
            rustix::io::write(ready, &1u64.to_ne_bytes()).ok();
            signalled = true;
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
        assert!(listener.ready());
        assert!(!channel::wait(&listener, Duration::from_millis(50)).expect("waited"));
        assert!(!listener.ready());
    }
}
