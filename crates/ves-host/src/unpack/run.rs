//! Starts the confined process and feeds it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Child, Stdio};

use sha2::{Digest as _, Sha256};

use super::{Contents, HELPER, Limits, Refused, Report};
use crate::cmd::{Cmd, describe, tail};
use crate::error::{Attempt, HostError};

/// The SHA-256 of what was fed, in hex.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digest(pub String);

/// Where an archive comes from.
pub trait Feed {
    /// The next piece, or `None` at the end.
    ///
    /// # Errors
    /// When the sender broke off.
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
    Cmd::new(program).arg(HELPER).args(args).stdin(Stdio::piped()).spawn(stdout, Stdio::piped())
}

/// Feeds the child and hears its report. A child that ends early breaks the pipe: its report says
/// why, and the rest of the feed is not read.
fn converse(
    mut child: Child,
    feed: &mut (impl Feed + ?Sized),
) -> Result<(Option<Contents>, Digest), Refused> {
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
/// `program` is an executable whose `main` begins with [`super::helper`].
///
/// # Errors
/// [`Refused`].
pub fn normalise_to(
    program: &Path,
    feed: &mut (impl Feed + ?Sized),
    output: &File,
    limits: Limits,
) -> Result<(Contents, Digest), Refused> {
    let limits = serde_json::to_string(&limits).unwrap_or_default();
    let stdout = output.try_clone().attempt(|| "open the clean archive".to_owned())?;
    let child = start(program, &["normalise", &limits], stdout.into())?;
    let (contents, digest) = converse(child, feed)?;
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
    converse(child, &mut &*archive).map(drop)
}
