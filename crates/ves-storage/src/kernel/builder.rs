//! Where mmdebstrap runs: as a child, or in a unit of its own where the service manager has one.
//!
//! ```text
//! ves-storaged (no network, few capabilities) ── Order, two pipes ──▶ ves-storaged builder
//!      ▲ archive, messages by the pipes                               │ mmdebstrap
//!      └──────────────────────────────── Done ◀───────────────────────┘
//! ```
//!
//! The connection is the order's life: who closes it ends the build. Never here: judging what comes
//! out.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Child, ExitCode, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use serde::{Deserialize, Serialize};
use ves_daemon::complain;
use ves_host::cmd::describe;
use ves_host::{Attempt, HostError};
use ves_host::{channel, peer};
use ves_types::layout::Daemon;

use super::order::{Order, command};

/// The argument that makes the daemon's executable the builder.
pub(crate) const BUILDER: &str = "builder";
/// How long the builder may take to say how a build whose output has ended came out.
const PATIENCE: Duration = Duration::from_secs(60);

/// How a build came out.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Done {
    pub(super) success: bool,
    /// In words.
    pub(super) how: String,
}

/// A build at work.
#[derive(Debug)]
pub(super) enum Worker {
    Child(Child),
    Unit(OwnedFd),
}

impl Worker {
    /// Starts a build; its archive and its messages are read from the answer.
    pub(super) fn start(
        socket: &Path,
        order: &Order,
    ) -> Result<(Self, OwnedFd, OwnedFd), HostError> {
        let lost = || HostError::parse("start mmdebstrap", "the order makes no sense");
        let Some(unit) = channel::connect(socket)? else {
            let cmd = command(&order.build().ok_or_else(lost)?, order)?;
            let mut child = cmd.spawn(Stdio::piped(), Stdio::piped())?;
            let (out, err) = (child.stdout.take(), child.stderr.take());
            let (out, err) = out.zip(err).ok_or_else(lost)?;
            return Ok((Self::Child(child), out.into(), err.into()));
        };
        let pipe = || io::pipe().attempt(|| "make a pipe".to_owned());
        let ((out, to_out), (err, to_err)) = (pipe()?, pipe()?);
        let order = serde_json::to_vec(order).unwrap_or_default();
        channel::send(&unit, &order, &[to_out.as_fd(), to_err.as_fd()])?;
        Ok((Self::Unit(unit), out.into(), err.into()))
    }

    /// How it came out, when its output has ended.
    pub(super) fn wait(&mut self) -> io::Result<Done> {
        match self {
            Self::Child(child) => {
                let status = child.wait()?;
                Ok(Done { success: status.success(), how: describe(status) })
            }
            Self::Unit(unit) => {
                let heard = channel::wait(&*unit, PATIENCE)
                    .and_then(|_| channel::receive(&*unit))
                    .map_err(io::Error::other)?;
                let lost = Done { success: false, how: "was lost with its builder".to_owned() };
                Ok(serde_json::from_slice(&heard.bytes).unwrap_or(lost))
            }
        }
    }

    /// Ends it before it came out. The unit's builder ends it when the connection does.
    pub(super) fn end(&mut self) {
        if let Self::Child(child) = self {
            end(child);
        }
    }
}

/// Ends mmdebstrap with apt and dpkg, which are in its group.
fn end(child: &mut Child) {
    // It may have ended in this moment.
    let pid = Pid::from_child(child);
    kill_process_group(pid, Signal::TERM).ok();
    // mmdebstrap cleans up its directory when it is asked to end.
    let patience = Timespec { tv_sec: 10, tv_nsec: 0 };
    if let Ok(fd) = pidfd_open(pid, PidfdFlags::empty()) {
        // Whether it ended or not, what is left of its group is killed next.
        poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&patience)).ok();
    }
    kill_process_group(pid, Signal::KILL).ok();
    child.wait().ok();
}

/// The builder's whole life: one order, by the connection that is standard input.
pub(crate) fn serve() -> ExitCode {
    let stdin = io::stdin();
    match build(stdin.as_fd()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => complain(Daemon::Storage, &ves_proto::fault::chain(&e), 1),
    }
}

fn build(connection: impl AsFd) -> Result<(), HostError> {
    // Its capabilities cannot be seen from this sandbox, where other users' processes are hidden; the
    // account is the storage daemon's alone.
    peer::require_owner(&connection, 0)
        .or_else(|who| Err(Errno::PERM).attempt(|| format!("build for {who}")))?;
    let packet = channel::receive(&connection)?;
    let unknown = || HostError::parse("take an order", &String::from_utf8_lossy(&packet.bytes));
    let order: Order = serde_json::from_slice(&packet.bytes).map_err(|_| unknown())?;
    let build = order.build().ok_or_else(unknown)?;
    let mut fds = packet.fds.into_iter();
    let (out, err) = fds
        .next()
        .zip(fds.next())
        .ok_or_else(|| HostError::parse("take an order", "it came without descriptors"))?;
    let mut child = command(&build, &order)?.spawn(out.into(), err.into())?;
    let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())
        .attempt(|| "watch mmdebstrap".to_owned())?;
    loop {
        let mut fds = [PollFd::new(&pidfd, PollFlags::IN), PollFd::new(&connection, PollFlags::IN)];
        match poll(&mut fds, None) {
            Err(Errno::INTR) => continue,
            other => other.attempt(|| "watch mmdebstrap".to_owned())?,
        };
        let [ended, left] = fds.map(|fd| !fd.revents().is_empty());
        if ended {
            break;
        }
        if left {
            end(&mut child);
            return Ok(());
        }
    }
    let status = child.wait().attempt(|| "reap mmdebstrap".to_owned())?;
    let done = Done { success: status.success(), how: describe(status) };
    // Who ordered it may be gone.
    channel::send(&connection, &serde_json::to_vec(&done).unwrap_or_default(), &[]).ok();
    Ok(())
}
