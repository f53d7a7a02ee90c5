//! Starts monitors and helpers for the lifecycle daemon, outside of its sandbox.
//!
//! ```text
//! lifecycled ── packet: what, descriptors ──▶ starter ── fork, exec ──▶ monitor | exec
//! (sandbox)                                   (one thread)              goes on by itself
//! ```
//!
//! Who can ask is bounded twice: the socket's owner is the one user who may, and only with the powers that
//! the lifecycle daemon keeps. What can be asked for is a container with a specification, or a command in
//! one: how that is done is planned by the program that does it, and where things are follows from where the
//! socket is. Who says nothing keeps nobody waiting.
//!
//! What a container may do is bounded by what the process that makes it may do, so that cannot live
//! in the sandbox of a daemon. The socket comes from the service manager, and so does a descriptor of the
//! node's mount namespace: a unit may have one of its own, in which pins of networks were nobody's, so the
//! starter leaves it before it starts anything. Never here: what is in a request, which goes by its descriptor
//! to who is asked; a process that stays.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};
use ves_host::channel;
use ves_host::child::{self, How};
use ves_host::namespace;
use ves_host::{Attempt, HostError, mount, peer};
use ves_init_proto::Launch;
use ves_init_proto::report::Created;

use crate::{monitor, perform};

/// The first descriptor of a service manager: the socket.
const SOCKET: i32 = 3;
/// The capabilities of the lifecycle daemon's unit, by which it differs from any other process of its user:
/// DAC_OVERRIDE, KILL, SYS_CHROOT, SYS_ADMIN.
const NEEDED: u64 = 1 << 1 | 1 << 5 | 1 << 18 | 1 << 21;
/// How long a peer may take to say what it wants.
const TIMEOUT: Duration = Duration::from_secs(2);
/// The most peers that have not said it yet; whoever comes then takes the place of the one that came first.
const MAX_SILENT: usize = 64;
/// How long nothing is said of refusals after one was told of.
const QUIET: Duration = Duration::from_secs(1);

/// Serves until it is ended.
pub(crate) fn main() -> ExitCode {
    let serve = || -> Result<(), HostError> {
        let listener = namespace::inherit(SOCKET)?;
        let socket = channel::address(&listener)?;
        let what = || format!("find the directory of {}", socket.display());
        let Some(dir) = socket.parent() else { return Err(Errno::INVAL).attempt(what) };
        let place = mount::node::enter(dir);
        if let Err(e) = &place {
            log_error(e);
        }
        child::close_others(&[listener.as_fd()])?;
        let (mut silent, mut refusals) = (Vec::new(), Refusals::default());
        loop {
            let ready = wait(&listener, &mut silent)?;
            for peer in ready.peers {
                start(&peer, dir, place.as_ref().err())?;
            }
            if !ready.connect {
                continue;
            }
            match accept_with(&listener, SocketFlags::CLOEXEC) {
                Ok(peer) => match peer::require_owner(&peer, NEEDED) {
                    Ok(()) => {
                        if silent.len() >= MAX_SILENT {
                            silent.remove(0);
                        }
                        silent.push(Silent { peer, until: Instant::now() + TIMEOUT });
                    }
                    Err(who) => refusals.tell(&who.to_string(), Instant::now()),
                },
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

fn log_error(error: &HostError) {
    log(&perform::failure("", error).message);
}

#[expect(clippy::print_stderr, reason = "the service manager keeps it, and there is nothing else")]
fn log(text: &str) {
    eprintln!("ves-starter: {text}");
}

/// A peer that may ask and has not yet.
#[derive(Debug)]
struct Silent {
    peer: OwnedFd,
    until: Instant,
}

/// What can be done now.
#[derive(Debug)]
struct Ready {
    connect: bool,
    peers: Vec<OwnedFd>,
}

/// Waits until somebody connects or says something; those whose time is over are closed.
fn wait(listener: &OwnedFd, silent: &mut Vec<Silent>) -> Result<Ready, HostError> {
    let now = Instant::now();
    let left = silent.iter().map(|one| one.until.saturating_duration_since(now)).min();
    let left = left.map(|left| Timespec {
        tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: left.subsec_nanos().into(),
    });
    let mut fds = vec![PollFd::new(listener, PollFlags::IN)];
    fds.extend(silent.iter().map(|one| PollFd::new(&one.peer, PollFlags::IN)));
    match poll(&mut fds, left.as_ref()) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(e) => return Err(e).attempt(|| "wait for the lifecycle daemon".to_owned()),
    }
    let mut woken = fds.iter().map(|fd| !fd.revents().is_empty()).collect::<Vec<_>>().into_iter();
    let connect = woken.next().unwrap_or(false);
    let (ready, still) = silent.drain(..).zip(woken).partition::<Vec<_>, _>(|(_, ready)| *ready);
    silent.extend(still.into_iter().map(|(one, _)| one));
    silent.retain(|one| one.until > Instant::now());
    Ok(Ready { connect, peers: ready.into_iter().map(|(one, _)| one.peer).collect() })
}

/// Tells of refusals, without letting those who are refused fill the log.
#[derive(Debug, Default)]
struct Refusals {
    told: Option<Instant>,
    left_out: u64,
}

impl Refusals {
    fn tell(&mut self, why: &str, now: Instant) {
        if let Some(line) = self.line(why, now) {
            log(&line);
        }
    }

    fn line(&mut self, why: &str, now: Instant) -> Option<String> {
        if self.told.is_some_and(|at| now.saturating_duration_since(at) < QUIET) {
            self.left_out += 1;
            return None;
        }
        self.told = Some(now);
        Some(match std::mem::take(&mut self.left_out) {
            0 => format!("refused: {why}"),
            more => format!("refused: {why}, and {more} more before"),
        })
    }
}

/// Starts what one peer, which has said something, asks for; nonsense is not answered, as its descriptors are
/// closed. No container is made in a place that is wrong for it.
fn start(peer: &OwnedFd, dir: &Path, place_error: Option<&HostError>) -> Result<(), HostError> {
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
        execute(&launch, dir, &packet.fds).ok();
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

fn execute(launch: &Launch, dir: &Path, fds: &[OwnedFd]) -> Result<(), HostError> {
    for (number, fd) in (0..).zip(fds) {
        namespace::place(fd, number)?;
    }
    let words = match launch {
        Launch::Monitor { ct } => vec!["monitor".to_owned(), ct.to_string()],
        Launch::Exec => vec!["exec".to_owned()],
        Launch::Views => vec!["views".to_owned()],
    };
    let c = |text: String| CString::new(text).ok();
    let argv = std::iter::once("ves-init".to_owned()).chain(words).filter_map(c);
    let argv = argv.chain(CString::new(dir.as_os_str().as_bytes()).ok()).collect::<Vec<_>>();
    let env = ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"];
    let env = env.iter().filter_map(|text| c((*text).to_owned())).collect::<Vec<_>>();
    let failed = namespace::exec(c"/proc/self/exe", &argv, &env);
    Err(failed).attempt(|| "execute".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_told_of_once_a_second() {
        let (mut refusals, now) = (Refusals::default(), Instant::now());
        assert_eq!(refusals.line("user 9", now).as_deref(), Some("refused: user 9"));
        assert_eq!(refusals.line("user 9", now), None);
        assert_eq!(refusals.line("user 8", now + QUIET / 2), None);
        let line = refusals.line("user 7", now + QUIET);
        assert_eq!(line.as_deref(), Some("refused: user 7, and 2 more before"));
    }

    #[test]
    fn who_speaks_is_heard_beside_those_who_do_not_and_these_are_closed() {
        let (listener, _other) = channel::pair().expect("a socket");
        let ends: Vec<_> = (0..3).map(|_| channel::pair().expect("a channel")).collect();
        let (ours, theirs): (Vec<_>, Vec<_>) = ends.into_iter().unzip();
        let until = Instant::now() + Duration::from_millis(200);
        let mut silent: Vec<_> = ours.into_iter().map(|peer| Silent { peer, until }).collect();
        channel::send(&theirs[1], b"hello", &[]).expect("sent");
        let ready = wait(&listener, &mut silent).expect("waited");
        assert_eq!((ready.connect, ready.peers.len(), silent.len()), (false, 1, 2));
        assert_eq!(channel::receive(&ready.peers[0]).expect("received").bytes, b"hello");
        while !silent.is_empty() {
            let ready = wait(&listener, &mut silent).expect("waited");
            assert!(ready.peers.is_empty(), "nobody else spoke");
        }
        assert!(channel::receive(&theirs[0]).expect("closed").bytes.is_empty());
    }
}
