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
use ves_types::TemplateName;

use super::build_log::{BuildLogs, Said};
use super::builder::Worker;
use super::order::Order;
use crate::observe::{parse_build_failure, parse_build_line};
use crate::template::{Build, Progress};

/// How long a build may take.
const DEADLINE: Duration = Duration::from_secs(30 * 60);

/// A running build; its archive is read as it is made.
#[derive(Debug)]
pub(super) struct Building {
    worker: Worker,
    stdout: File,
    said: Arc<Mutex<Said>>,
    name: TemplateName,
    logs: BuildLogs,
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

impl Building {
    /// Keeps what a build that failed has said; answers with the cause, and where the rest is.
    fn failed(&self, status: &str) -> io::Error {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner).text();
        let stderr = tail(said.as_bytes());
        let cause = parse_build_failure(&said).unwrap_or_else(|| stderr.clone());
        let log = self.logs.keep(&self.name, &said);
        let place = match &log {
            Ok(path) => format!("its whole log is {} on the node", path.display()),
            Err(e) => format!("its log could not be kept: {}", ves_proto::fault::chain(e)),
        };
        let message =
            format!("build template {}: {cause} (mmdebstrap {status}; {place})", self.name);
        let mut fault = Fault::new(Reason::HostFailed, message)
            .fact("step", "build a template")
            .fact("template", &self.name)
            .fact("status", status)
            .fact("cause", cause)
            .fact("stderr", stderr);
        if let Ok(path) = log {
            fault = fault.fact("log", path.display());
        }
        io::Error::other(fault)
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
                Ok(0) => return Err(self.failed("was too slow and was ended")),
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
        Err(self.failed(&done.how))
    }
}

/// Starts a build of the template `name`, by the builder that listens at `builder` where one does.
pub(super) fn start(
    builder: &Path,
    (name, build): (&TemplateName, &Build),
    configured_mirror: Option<&str>,
    logs: &BuildLogs,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<Building, HostError> {
    progress(Progress { what: "starting mmdebstrap".to_owned(), done: 0, total: 0 });
    let order = Order::new(build, configured_mirror);
    let (worker, stdout, stderr) = Worker::start(builder, &order)?;
    let (stdout, stderr) = (File::from(stdout), File::from(stderr));
    let said = Arc::new(Mutex::new(Said::default()));
    let hears = said.clone();
    let (lines, heard) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for bytes in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&bytes);
            tracing::debug!(%line, "mmdebstrap");
            if let Some(what) = parse_build_line(&line) {
                // Nobody listens any more; the text is still kept.
                lines.send(what).ok();
            }
            let line = [&bytes[..], b"\n"].concat();
            hears.lock().unwrap_or_else(PoisonError::into_inner).push(&line);
        }
    });
    let (name, logs, until) = (name.clone(), logs.clone(), Instant::now() + DEADLINE);
    let building = Building { worker, stdout, said, name, logs, until, ended: false };
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
