//! Starts monitors and helpers for the lifecycle daemon, outside of its sandbox.
//!
//! ```text
//! lifecycled ── packet: words, descriptors ──▶ starter ── fork, exec ──▶ monitor | exec
//! (sandbox)                                    (one thread)              goes on by itself
//! ```
//!
//! What a container may do is bounded by what the process that makes it may do, so that cannot live
//! in the sandbox of a daemon. The socket comes from the service manager and is root's, and so does a
//! descriptor of the node's mount namespace: a unit may have one of its own, in which volumes were late
//! copies of the node's and pins of networks nobody's, so the starter leaves it before it starts
//! anything. Never here: what is in a plan, which goes by its descriptor to who performs it; a process
//! that stays.

use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{SocketAddrUnix, SocketFlags, accept_with};
use ves_host::channel;
use ves_host::child::{self, How};
use ves_host::namespace;
use ves_host::{Attempt, HostError, mount};
use ves_init_proto::Launch;
use ves_init_proto::report::Created;

use crate::{monitor, perform};

/// The first descriptor of a service manager: the socket.
const SOCKET: i32 = 3;
/// How long a peer may take to say what it wants.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Serves until it is ended.
pub(crate) fn main() -> ExitCode {
    let serve = || -> Result<(), HostError> {
        let listener = namespace::inherit(SOCKET)?;
        let place = directory(&listener).and_then(|at| mount::node::enter(&at));
        if let Err(e) = &place {
            log_error(e);
        }
        child::close_others(&[listener.as_fd()])?;
        loop {
            match accept_with(&listener, SocketFlags::CLOEXEC) {
                Ok(peer) => start(&peer, place.as_ref().err())?,
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(e) => return Err(e).attempt(|| "wait for the lifecycle daemon".to_owned()),
            }
        }
    };
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            log_error(&e);
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stderr, reason = "the service manager keeps it, and there is nothing else")]
fn log_error(error: &HostError) {
    eprintln!("ves-starter: {}", perform::failure("", error).message);
}

/// The directory of the socket: where daemons see what they share, mounts too.
fn directory(listener: &OwnedFd) -> Result<PathBuf, HostError> {
    let what = || "find out where the socket is".to_owned();
    let address = rustix::net::getsockname(listener).attempt(what)?;
    let address = SocketAddrUnix::try_from(address).attempt(what)?;
    let path = address.path_bytes().map(|bytes| PathBuf::from(OsStr::from_bytes(bytes)));
    let dir = path.as_deref().and_then(Path::parent).map(Path::to_owned);
    dir.ok_or(Errno::AFNOSUPPORT).attempt(what)
}

/// Starts what one peer asks for; nonsense is not answered, as its descriptors are closed. No container
/// is made in a place that is wrong for it.
fn start(peer: &OwnedFd, place_error: Option<&HostError>) -> Result<(), HostError> {
    if !channel::wait(peer, TIMEOUT).unwrap_or(false) {
        return Ok(());
    }
    let Ok(packet) = channel::receive(peer) else { return Ok(()) };
    let Ok(launch) = serde_json::from_slice::<Launch>(&packet.bytes) else { return Ok(()) };
    if let (Some(error), Launch::Monitor { .. }) = (place_error, launch) {
        if let Some(report) = packet.fds.into_iter().nth(1) {
            monitor::report_created(
                report,
                &Created::Failed(perform::failure("start its monitor", error)),
            );
        }
        return Ok(());
    }
    let keep: Vec<BorrowedFd<'_>> = packet.fds.iter().map(AsFd::as_fd).collect();
    let child = child::fork(How { keep: &keep, ..How::default() }, || {
        execute(&launch, &packet.fds).ok();
        1
    });
    // No room for a process: the peer sees its descriptors closed.
    let Ok(child) = child else { return Ok(()) };
    drop(packet);
    // It forks and ends at once.
    while child::reap(&child)?.is_none() {
        channel::wait(&child.pidfd, TIMEOUT)?;
    }
    Ok(())
}

fn execute(launch: &Launch, fds: &[OwnedFd]) -> Result<(), HostError> {
    for (number, fd) in (0..).zip(fds) {
        namespace::place(fd, number)?;
    }
    let words = match launch {
        Launch::Monitor { ct } => vec!["monitor".to_owned(), ct.to_string()],
        Launch::Exec => vec!["exec".to_owned()],
    };
    let c = |text: String| CString::new(text).ok();
    let argv =
        std::iter::once("ves-init".to_owned()).chain(words).filter_map(c).collect::<Vec<_>>();
    let env = ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"];
    let env = env.iter().filter_map(|text| c((*text).to_owned())).collect::<Vec<_>>();
    let failed = namespace::exec(c"/proc/self/exe", &argv, &env);
    Err(failed).attempt(|| "execute".to_owned())
}
