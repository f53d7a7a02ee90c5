//! The lock that says that a container has a monitor.
//!
//! Never here: what else belongs to one.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{Timespec, poll};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use ves_host::{Attempt, HostError};
use ves_init_proto::report;

use super::state::Plan;

/// How long to try for the lock.
const LOCK_TIMEOUT: Duration = Duration::from_millis(200);

/// The lock at the end of a monitor that has `held` it: where its file was removed meanwhile, the one that
/// is there or made now. `None` where another monitor has that, whose are the files then.
pub(super) fn keep(plan: &Plan, held: OwnedFd) -> Option<OwnedFd> {
    match is_at(&held, &report::lock(&plan.dir)) {
        Ok(true) => Some(held),
        Ok(false) => acquire(plan).ok().flatten(),
        Err(_) => None,
    }
}

/// Whether a descriptor's file is the one at a path.
fn is_at(fd: &OwnedFd, path: &Path) -> rustix::io::Result<bool> {
    let own = rustix::fs::fstat(fd)?;
    let there = rustix::fs::stat(path);
    Ok(there.is_ok_and(|s| (s.st_dev, s.st_ino) == (own.st_dev, own.st_ino)))
}

/// Takes the lock; `None` where another has it.
pub(super) fn acquire(plan: &Plan) -> Result<Option<OwnedFd>, HostError> {
    let path = report::lock(&plan.dir);
    let what = || format!("lock {}", path.display());
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let end = Instant::now() + LOCK_TIMEOUT;
    loop {
        let fd = rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR).attempt(what)?;
        match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {
                // Who cleared up may have removed the file in between; the lock is then nobody's.
                if is_at(&fd, &path).attempt(what)? {
                    return Ok(Some(fd));
                }
            }
            // Who only looks whether there is a monitor holds it for a moment.
            Err(Errno::WOULDBLOCK) => {}
            Err(e) => return Err(e).attempt(what),
        }
        if Instant::now() > end {
            return Ok(None);
        }
        let moment = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
        poll(&mut [], Some(&moment)).ok();
    }
}
