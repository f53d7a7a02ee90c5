//! What those on the way inside report to the supervisor.
//!
//! ```text
//! helper:  Failed ────────────────────────▶ supervisor
//! reaper:  Spawned + pidfd, or Failed ────▶ supervisor
//! command: Terminal + master, or Failed ──▶ supervisor; executing closes the channel
//! reaper:  Ended ─────────────────────────▶ supervisor, by a channel of their own
//!          ◀──────────────────────── Seen
//! ```
//!
//! Owns those messages and how both ends use them. Never here: entering or executing.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use ves_host::channel;
use ves_host::child::{Child, Ended};
use ves_host::{Attempt, HostError};
use ves_init_proto::report::Failure;

/// How long it may take until the command executes. The daemon is a little more patient.
pub(super) const START_TIMEOUT: Duration = Duration::from_secs(10);

/// What those on the way inside and the supervisor tell each other.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Message {
    /// The command's process exists; with it comes a descriptor of it.
    Spawned,
    /// From the supervisor: it knows the command's number, which may become another's.
    Seen,
    /// The command has ended.
    Ended(Ended),
    /// It has a terminal; with it comes the outer end.
    Terminal,
    /// Something failed.
    Failed(Failure),
}

impl Message {
    /// Sends it to the supervisor.
    pub(super) fn send(&self, status: &OwnedFd, fds: &[BorrowedFd<'_>]) -> Result<(), HostError> {
        channel::send(status, &serde_json::to_vec(self).unwrap_or_default(), fds)
    }
}

/// Reports what failed; answers the status to exit with.
pub(super) fn report(status: &OwnedFd, failure: Failure) -> i32 {
    // The supervisor may be gone; then nobody wants to know.
    Message::Failed(failure).send(status, &[]).ok();
    127
}

/// What has been received so far.
#[derive(Debug, Default)]
pub(super) struct Handshake {
    pub(super) child: Option<Child>,
    master: Option<OwnedFd>,
    failed: Option<Failure>,
}

impl Handshake {
    /// Receives all messages until the command executes, which closes the channel; answers whether
    /// that came in time and before `peer` left.
    pub(super) fn receive(
        &mut self,
        status: &OwnedFd,
        peer: Option<&UnixStream>,
        timeout: Duration,
    ) -> Result<bool, HostError> {
        let end = Instant::now() + timeout;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let left = Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            };
            let mut fds = vec![PollFd::new(status, PollFlags::IN)];
            // Of the peer only its end is of interest.
            fds.extend(peer.map(|peer| PollFd::new(peer, PollFlags::empty())));
            match poll(&mut fds, Some(&left)) {
                Err(Errno::INTR) => continue,
                other => other.attempt(|| "wait for the command".to_owned())?,
            };
            if fds.first().is_none_or(|fd| fd.revents().is_empty()) {
                return Ok(false);
            }
            let packet = channel::receive(status)?;
            if packet.bytes.is_empty() {
                return Ok(true);
            }
            let fd = packet.fds.into_iter().next();
            match (serde_json::from_slice(&packet.bytes), fd) {
                (Ok(Message::Spawned), Some(pidfd)) => self.child = Child::received(pidfd)?,
                (Ok(Message::Terminal), Some(fd)) => self.master = Some(fd),
                (Ok(Message::Failed(failure)), _) => self.failed = Some(failure),
                _ => {}
            }
        }
    }

    /// The command, or why there is none.
    pub(super) fn outcome(self) -> Result<(Child, Option<OwnedFd>), Failure> {
        match (self.failed, self.child) {
            (None, Some(child)) => Ok((child, self.master)),
            // Whoever is inside ends by itself.
            (Some(failure), _) => Err(failure),
            (None, None) => Err(Failure {
                step: "enter the container".to_owned(),
                message: "the helper died".to_owned(),
                errno: 0,
            }),
        }
    }
}
