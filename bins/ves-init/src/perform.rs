//! The performance of init steps: the outer ones by the monitor, the inner ones by the process that
//! becomes init.
//!
//! The process holds no descriptor of the node's when it executes, and every place below its root
//! is resolved without following symbolic links, since the root's contents belong to the tenant.
//! Never here: an order of its own; the list is performed as it is.

mod adapt;
mod dev;
mod devices;
mod etc;
mod execute;
mod inner;
mod outer;
mod place;
mod views;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use ves_host::HostError;
use ves_host::channel;
use ves_host::child::{self, Child, How, Life};
use ves_host::namespace::Namespace;
use ves_host::pty::Pty;
use ves_init_proto::report::{Failure, Performed};
use ves_init_proto::{InitStep, Side};
use ves_types::layout::Layout;

pub(crate) use self::adapt::adapt;
pub(crate) use self::execute::{execute, remember_program};
use self::inner::inner;
pub(crate) use self::outer::limit;
use self::outer::{Console, Outer, perform_outer};
pub(crate) use self::views::{Views, mounted};

/// How long the process may take from its birth to waiting for release.
const PREPARE: Duration = Duration::from_secs(30);

/// What the process tells the monitor.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Word {
    /// It waits; with it comes the notification socket.
    Waiting {
        /// What could not be done but does not matter.
        warnings: Vec<String>,
        /// Its steps up to here.
        performed: Vec<Performed>,
    },
    /// A step failed.
    Failed(Failure),
}

/// A process that waits to become init.
#[derive(Debug)]
pub(crate) struct Waiting {
    /// It.
    pub(crate) child: Child,
    /// The way to let it go; ends when it executes.
    channel: OwnedFd,
    /// Its console.
    pub(crate) console: Pty,
    /// Where it tells how far it is.
    pub(crate) notify: Option<UnixDatagram>,
    /// What could not be done but does not matter.
    pub(crate) warnings: Vec<String>,
    /// The steps up to here.
    pub(crate) performed: Vec<Performed>,
}

/// Performs a step; answers when, too.
fn timed<T>(step: &InitStep, perform: impl FnOnce() -> T) -> (Performed, T) {
    let begun = Instant::now();
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let done = perform();
    let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    let begun_unix_us = micros(since_1970);
    (Performed { step: step.to_string(), begun_unix_us, took_us: micros(begun.elapsed()) }, done)
}

impl Waiting {
    /// Lets it become init, and waits until it executes. One that cannot is killed.
    pub(crate) fn release(&self) -> Result<(), Failure> {
        let failed = |e: HostError| failure("execute init", &e);
        let go = || {
            channel::send(&self.channel, b"go", &[]).map_err(failed)?;
            if !channel::wait(&self.channel, PREPARE).map_err(failed)? {
                return Err(late("execute init"));
            }
            let packet = channel::receive(&self.channel).map_err(failed)?;
            match serde_json::from_slice(&packet.bytes) {
                Ok(Word::Failed(failure)) => Err(failure),
                // The end without a word: it executes.
                Ok(Word::Waiting { .. }) | Err(_) => Ok(()),
            }
        };
        go().inspect_err(|_| {
            // It may yet execute; nobody would know then that it runs. The monitor reaps it.
            rustix::process::pidfd_send_signal(&self.child.pidfd, Signal::KILL).ok();
        })
    }
}

fn late(step: &str) -> Failure {
    Failure { step: step.to_owned(), message: "it took too long".to_owned(), errno: 0 }
}

/// A failure in the form that travels.
pub(crate) fn failure(step: &str, error: &HostError) -> Failure {
    let mut message = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(source) = next {
        message.push_str(": ");
        message.push_str(&source.to_string());
        next = source.source();
    }
    let errno = match error {
        HostError::Lacks { .. } => rustix::io::Errno::NODEV.raw_os_error(),
        _ => error.errno().unwrap_or_default(),
    };
    Failure { step: step.to_owned(), message, errno }
}

/// Where things of containers are; of durable ones these programs need none.
pub(crate) fn layout(run_dir: &Path) -> Layout {
    Layout::new(run_dir, Layout::default().state_dir())
}

/// Performs all steps up to waiting for release. In the child this never returns. Where a step failed,
/// nothing runs any more.
pub(crate) fn launch(steps: &[InitStep]) -> Result<Waiting, Failure> {
    let mut outer = Outer::default();
    let mut born: Option<(Child, OwnedFd)> = None;
    let mut performed = Vec::new();
    for step in steps.iter().filter(|s| s.side() == Side::Outer) {
        let (time, done) = timed(step, || match (step, &born) {
            (InitStep::Clone { namespaces, creator }, None) => {
                clone(&outer, namespaces, *creator, steps).map(|b| born = Some(b))
            }
            (_, born) => perform_outer(step, &mut outer, born.as_ref().map(|(child, _)| child)),
        });
        performed.push(time);
        if let Err(e) = done {
            if let Some((child, _)) = &born {
                end(child);
            }
            return Err(failure(&step.to_string(), &e));
        }
    }
    let prepare = "prepare the container";
    let Some((child, near)) = born else {
        return Err(Failure {
            step: prepare.to_owned(),
            message: "the plan makes no process".to_owned(),
            errno: 0,
        });
    };
    let Some(Console { pty: console, .. }) = outer.console.take() else {
        end(&child);
        return Err(Failure {
            step: prepare.to_owned(),
            message: "the plan makes no console".to_owned(),
            errno: 0,
        });
    };
    drop(outer);
    greet(child, near, console, prepare, performed)
}

/// Tells the new process that its identity is there, and hears how far it comes.
fn greet(
    child: Child,
    near: OwnedFd,
    console: Pty,
    prepare: &str,
    mut performed: Vec<Performed>,
) -> Result<Waiting, Failure> {
    let hear = || -> Result<channel::Packet, Failure> {
        let failed = |e: HostError| failure(prepare, &e);
        channel::send(&near, b"mapped", &[]).map_err(failed)?;
        if !channel::wait(&near, PREPARE).map_err(failed)? {
            return Err(late(prepare));
        }
        channel::receive(&near).map_err(failed)
    };
    let heard = hear().and_then(|packet| match serde_json::from_slice(&packet.bytes) {
        Ok(Word::Waiting { warnings, performed: inside }) => {
            performed.extend(inside);
            Ok((packet.fds, warnings))
        }
        Ok(Word::Failed(failure)) => Err(failure),
        Err(_) => Err(Failure {
            step: prepare.to_owned(),
            message: "the process died".to_owned(),
            errno: 0,
        }),
    });
    let (fds, warnings) = heard.inspect_err(|_| end(&child))?;
    let notify = fds.into_iter().next().map(UnixDatagram::from);
    Ok(Waiting { child, channel: near, console, notify, warnings, performed })
}

/// Kills a process and waits for it.
fn end(child: &Child) {
    // It may have died by itself.
    rustix::process::pidfd_send_signal(&child.pidfd, Signal::KILL).ok();
    if channel::wait(&child.pidfd, PREPARE).unwrap_or(false) {
        child::reap(child).ok();
    }
}

fn clone(
    outer: &Outer,
    namespaces: &[Namespace],
    creator: u32,
    steps: &[InitStep],
) -> Result<(Child, OwnedFd), HostError> {
    let (near, far) = channel::pair()?;
    let keep: Vec<BorrowedFd<'_>> = outer.held().collect();
    let how = How {
        new: namespaces,
        group: outer.unified.as_ref().map(AsFd::as_fd),
        keep: &keep,
        // The change of identity that follows undoes it, and a step does it again.
        life: Life::BoundBy(far.as_fd()),
        ..How::default()
    };
    let child = child::fork_as(creator, how, || match inner(outer, &far, steps) {
        Ok(()) => 0,
        Err(failure) => {
            let word = serde_json::to_vec(&Word::Failed(failure)).unwrap_or_default();
            // The monitor may be gone; then nobody wants to know.
            channel::send(&far, &word, &[]).ok();
            1
        }
    })?;
    Ok((child, near))
}
