//! Starts the confined process and feeds it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use rustix::thread::CapabilitySet;
use sha2::{Digest as _, Sha256};

use ves_host::cmd::{Cmd, describe, tail};
use ves_host::{Attempt, HostError};

use crate::contents::{Contents, Judging};
use crate::helper::{ALONE, HELPER};
use crate::refused::Refused;
use crate::report::Report;

/// How long an archive may take, from its first byte to its last: the largest over a slow line.
const PATIENCE: Duration = Duration::from_secs(4 * 3600);

/// What the process needs to confine itself: namespaces, mounts, a root, and maps of ids not its own.
const NEEDED: CapabilitySet = CapabilitySet::SYS_ADMIN
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETGID);

/// The SHA-256 of what was fed, in hex.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digest(pub String);

/// Where an archive comes from.
pub trait Feed {
    /// The next piece, or `None` at the end; an error where the sender broke off.
    fn next(&mut self) -> io::Result<Option<Vec<u8>>>;
}

/// Any reader is a feed.
impl<R: Read> Feed for R {
    fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut piece = vec![0; 1 << 17];
        let n = self.read(&mut piece)?;
        piece.truncate(n);
        Ok((n > 0).then_some(piece))
    }
}

fn start(program: &Path, args: &[&str], stdout: Stdio) -> Result<Child, HostError> {
    let alone = ves_host::mount::node::adopt().then_some(ALONE);
    Cmd::new(program)
        .arg(HELPER)
        .args(alone)
        .args(args)
        .capabilities(NEEDED)
        .stdin(Stdio::piped())
        .spawn(stdout, Stdio::piped())
}

/// Ends a child that is still there when the patience is. The sender is dropped to stop watching;
/// the answer is whether it was too slow.
fn watch(
    child: &Child,
    patience: Duration,
) -> Result<(mpsc::Sender<()>, JoinHandle<bool>), HostError> {
    let child = pidfd_open(Pid::from_child(child), PidfdFlags::empty())
        .attempt(|| "watch the unpacker".to_owned())?;
    let (stop, stopped) = mpsc::channel();
    let watching = std::thread::spawn(move || {
        let late = stopped.recv_timeout(patience) == Err(RecvTimeoutError::Timeout);
        if late {
            // It may just have ended by itself.
            pidfd_send_signal(&child, Signal::KILL).ok();
        }
        late
    });
    Ok((stop, watching))
}

/// Feeds the child and hears its report. A child that ends early breaks the pipe: its report says
/// why, and the rest of the feed is not read.
fn converse(
    mut child: Child,
    feed: &mut (impl Feed + ?Sized),
    patience: Duration,
) -> Result<(Option<Contents>, Digest), Refused> {
    let (stop, watching) = match watch(&child, patience) {
        Ok(watch) => watch,
        Err(error) => {
            // The failure to watch is the one to tell.
            child.kill().and_then(|()| child.wait()).ok();
            return Err(error.into());
        }
    };
    let mut hash = Sha256::new();
    let mut broke_off = None;
    if let Some(mut pipe) = child.stdin.take() {
        loop {
            match feed.next() {
                Ok(None) => break,
                Ok(Some(piece)) => {
                    hash.update(&piece);
                    if pipe.write_all(&piece).is_err() {
                        break;
                    }
                }
                Err(e) => {
                    broke_off = Some(e);
                    break;
                }
            }
        }
    }
    let mut said = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        stderr.take(1 << 20).read_to_end(&mut said).attempt(|| "hear the unpacker".to_owned())?;
    }
    let status = child.wait().attempt(|| "wait for the unpacker".to_owned())?;
    drop(stop);
    if watching.join().unwrap_or(false) {
        return Err(HostError::Deadline {
            program: HELPER.to_owned(),
            seconds: patience.as_secs(),
        }
        .into());
    }
    if let Some(source) = broke_off {
        return Err(Refused::Io { what: "receive the archive".to_owned(), source });
    }
    let digest = Digest(hash.finalize().iter().map(|b| format!("{b:02x}")).collect());
    let text = String::from_utf8_lossy(&said);
    let report = text.lines().last().and_then(|line| serde_json::from_str(line).ok());
    match report {
        Some(Report::Done(contents)) if status.success() => Ok((contents, digest)),
        Some(Report::Bad { entry, why }) => Err(Refused::Bad { entry, why }),
        Some(Report::TooLarge { entry, limit }) => Err(Refused::TooLarge { entry, limit }),
        Some(Report::Entries(entries)) => Err(Refused::Entries(entries)),
        Some(Report::NoRoom) => Err(Refused::NoRoom),
        Some(Report::Failed { what, errno }) if errno != 0 => {
            Err(Refused::Io { what, source: io::Error::from_raw_os_error(errno) })
        }
        Some(Report::Failed { what, .. }) => Err(HostError::Command {
            program: HELPER.to_owned(),
            status: "failed".to_owned(),
            stderr: what,
        }
        .into()),
        Some(Report::Done(_)) | None => Err(HostError::Command {
            program: HELPER.to_owned(),
            status: describe(status),
            stderr: tail(&said),
        }
        .into()),
    }
}

/// Judges an archive in confinement; its clean form, compressed with zstd, goes to `output`.
/// `program` is an executable whose `main` begins with [`crate::helper()`].
///
/// # Errors
/// [`Refused`].
pub fn normalise_to(
    program: &Path,
    feed: &mut (impl Feed + ?Sized),
    output: &File,
    judging: &Judging,
) -> Result<(Contents, Digest), Refused> {
    let judging = serde_json::to_string(judging).unwrap_or_default();
    let stdout = output.try_clone().attempt(|| "open the clean archive".to_owned())?;
    let child = start(program, &["normalise", &judging], stdout.into())?;
    let (contents, digest) = converse(child, feed, PATIENCE)?;
    let contents = contents.ok_or_else(|| HostError::parse("hear the unpacker", "no contents"))?;
    Ok((contents, digest))
}

/// Unpacks a clean archive into the fresh file system on `device`, in confinement.
///
/// # Errors
/// [`Refused`]; [`Refused::NoRoom`] when the file system is too small.
pub fn extract_into(program: &Path, device: &Path, archive: &File) -> Result<(), Refused> {
    let device = device.to_string_lossy();
    let child = start(program, &["extract", &device], Stdio::null())?;
    converse(child, &mut &*archive, PATIENCE).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_conversation_has_an_end() {
        let child = Cmd::new("/bin/sleep").arg("600").stdin(Stdio::piped());
        let child = child.spawn(Stdio::null(), Stdio::piped()).expect("started");
        let late = converse(child, &mut io::empty(), Duration::from_millis(50));
        let late = late.expect_err("it says nothing");
        assert!(
            matches!(late, Refused::Host(HostError::Deadline { .. })),
            "{late} is another failure"
        );
    }
}
