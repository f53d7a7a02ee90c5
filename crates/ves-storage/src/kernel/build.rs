//! Builds a template's archive from Debian packages with mmdebstrap.
//!
//! The packages are signed and come from the mirror the host trusts; their scripts run as root of a
//! directory tree, by the builder. What comes out is judged like any archive.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use ves_archive::Feed;
use ves_host::HostError;
use ves_host::cmd::tail;

use ves_proto::{Fault, Reason};

use super::builder::Worker;
use super::order::Order;
use crate::observe::parse_build_line;
use crate::template::{Build, Progress};

/// How long a build may take.
const DEADLINE: Duration = Duration::from_secs(30 * 60);

/// A running build; its archive is read as it is made.
#[derive(Debug)]
pub(super) struct Building {
    worker: Worker,
    stdout: File,
    said: Arc<Mutex<Vec<u8>>>,
    until: Instant,
    ended: bool,
}

impl Drop for Building {
    fn drop(&mut self) {
        if !self.ended {
            self.worker.end();
        }
    }
}

impl Feed for Building {
    fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        let left = self.until.saturating_duration_since(Instant::now());
        let left = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        loop {
            match poll(&mut [PollFd::new(&self.stdout, PollFlags::IN)], Some(&left)) {
                Err(rustix::io::Errno::INTR) => {}
                Ok(0) => return Err(io::Error::other("mmdebstrap was too slow and was ended")),
                other => {
                    other?;
                    break;
                }
            }
        }
        let mut piece = vec![0; 1 << 17];
        let n = self.stdout.read(&mut piece)?;
        if n > 0 {
            piece.truncate(n);
            return Ok(Some(piece));
        }
        let done = self.worker.wait()?;
        self.ended = true;
        if done.success {
            return Ok(None);
        }
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let (status, stderr) = (done.how, tail(&said));
        let message = format!("build a template: mmdebstrap {status}: {stderr}");
        let fault = Fault::new(Reason::HostFailed, message).fact("step", "build a template");
        Err(io::Error::other(fault.fact("status", status).fact("stderr", stderr)))
    }
}

/// Starts a build, by the builder that listens at `builder` where one does.
pub(super) fn start(
    builder: &Path,
    build: &Build,
    configured_mirror: Option<&str>,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<Building, HostError> {
    progress(Progress { what: "starting mmdebstrap".to_owned(), done: 0, total: 0 });
    let order = Order::new(build, configured_mirror);
    let (worker, stdout, stderr) = Worker::start(builder, &order)?;
    let (stdout, stderr) = (File::from(stdout), File::from(stderr));
    let said = Arc::new(Mutex::new(Vec::new()));
    let hears = said.clone();
    let (lines, heard) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            tracing::debug!(%line, "mmdebstrap");
            if let Some(what) = parse_build_line(&line) {
                // Nobody listens any more; the text is still kept.
                lines.send(what).ok();
            }
            let mut said = hears.lock().unwrap_or_else(PoisonError::into_inner);
            if said.len() < 1 << 20 {
                said.extend_from_slice(line.as_bytes());
                said.push(b'\n');
            }
        }
    });
    let building =
        Building { worker, stdout, said, until: Instant::now() + DEADLINE, ended: false };
    tell(&heard, progress);
    Ok(building)
}

/// Tells of a build until the archive begins to come, which is when mmdebstrap is almost done.
fn tell(heard: &std::sync::mpsc::Receiver<String>, progress: &(dyn Fn(Progress) + Sync)) {
    for (done, what) in heard.iter().enumerate() {
        let last = what.starts_with("creating tarball");
        progress(Progress { what, done: done as u64 + 1, total: 8 });
        if last {
            return;
        }
    }
}
