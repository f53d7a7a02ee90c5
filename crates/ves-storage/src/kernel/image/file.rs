//! Image files: cloned, published, discarded; the records in their attributes.

use std::fs::{File, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{XattrFlags, copy_file_range};
use rustix::io::Errno;
use serde::Serialize;
use ves_host::loopdev::{self, FileId};
use ves_host::{Attempt, HostError, file};

use crate::error::Error;
use crate::kernel::file::sync_dir;

/// Moves a file that is whole to its place, durably: all of it before its name. Where it was moved by
/// a call that did not end, its name is made to last.
pub(super) fn publish(new: &Path, path: &Path) -> Result<(), HostError> {
    let what = || format!("move {} to its place", new.display());
    let file = match File::open(new) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && path.exists() => None,
        other => Some(other.attempt(what)?),
    };
    if let Some(file) = file {
        file.sync_all().attempt(what)?;
        std::fs::rename(new, path).attempt(what)?;
    }
    sync_dir(path.parent().unwrap_or_else(|| Path::new("/")))
}

/// Makes `new`, which need not be whole, a clone of an image: with the image's blocks where the pool
/// shares them, of this length.
pub(super) fn clone_file(
    from: &File,
    new: &Path,
    bytes: u64,
    reflink: bool,
) -> Result<File, Error> {
    let what = || format!("clone an image to {}", new.display());
    // Cut short, it would be no file system.
    let need = from.metadata().attempt(what)?.len();
    if need > bytes {
        return Err(Error::TooSmall { need, want: bytes });
    }
    file::remove_if_exists(new)?;
    let target = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(new)
        .attempt(what)?;
    if reflink {
        rustix::fs::ioctl_ficlone(&target, from).attempt(what)?;
    } else {
        copy_sparse(from, &target).attempt(what)?;
    }
    target.set_len(bytes).attempt(what)?;
    Ok(target)
}

/// Where a file has data.
fn data(file: &File) -> Result<Vec<Range<u64>>, Errno> {
    use rustix::fs::{SeekFrom, seek};
    let (mut all, mut at) = (Vec::new(), 0);
    loop {
        let start = match seek(file, SeekFrom::Data(at)) {
            Err(Errno::NXIO) => return Ok(all),
            other => other?,
        };
        at = seek(file, SeekFrom::Hole(start))?;
        all.push(start..at);
    }
}

/// Copies a file's data and leaves its holes.
fn copy_sparse(from: &File, to: &File) -> Result<(), std::io::Error> {
    to.set_len(from.metadata()?.len())?;
    // All are looked for before any is read: what is read ahead of a block that was only reserved counts
    // as data from then on.
    for Range { start, end } in data(from)? {
        let (mut source, mut target) = (start, start);
        while source < end {
            let most = usize::try_from(end - source).unwrap_or(usize::MAX).min(1 << 30);
            if copy_file_range(from, Some(&mut source), to, Some(&mut target), most)? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
    Ok(())
}

/// Reads a record from an attribute of an image; `None` where it has none, and in words what is wrong
/// with one that is too long.
pub(super) fn read_attribute(
    image: &File,
    name: &str,
) -> Result<Option<Result<Vec<u8>, String>>, HostError> {
    let mut value = vec![0u8; 4096];
    match rustix::fs::fgetxattr(image, name, &mut value) {
        Err(Errno::NODATA) => Ok(None),
        Err(Errno::RANGE) => Ok(Some(Err("it is too long".to_owned()))),
        other => {
            let n = other.attempt(|| format!("read the attribute {name}"))?;
            value.truncate(n);
            Ok(Some(Ok(value)))
        }
    }
}

/// Writes a record to an attribute of an image.
pub(super) fn write_attribute(
    image: &File,
    name: &str,
    record: &impl Serialize,
) -> Result<(), HostError> {
    let what = || format!("write the attribute {name}");
    let text = serde_json::to_vec(record).map_err(std::io::Error::from).attempt(what)?;
    rustix::fs::fsetxattr(image, name, &text, XattrFlags::empty()).attempt(what)
}

/// Removes an image's name; a device that shows it goes with its last user.
pub(super) fn discard(path: &Path) -> Result<(), HostError> {
    let image = match File::open(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other.attempt(|| format!("open {}", path.display()))?,
    };
    let id = FileId::of(&image)?;
    for (number, backing) in loopdev::all()? {
        if backing == id {
            loopdev::detach(number)?;
        }
    }
    file::remove_if_exists(path)
}

/// Waits for a condition the kernel brings about by itself.
#[expect(
    clippy::disallowed_methods,
    reason = "the kernel tells nobody when it lets go of a device"
)]
pub(super) fn until(
    patience: Duration,
    mut condition: impl FnMut() -> Result<bool, HostError>,
) -> Result<bool, HostError> {
    let end = std::time::Instant::now() + patience;
    let mut pause = Duration::from_micros(200);
    loop {
        if condition()? {
            return Ok(true);
        }
        if std::time::Instant::now() >= end {
            return Ok(false);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{FallocateFlags, fallocate};
    use std::os::unix::fs::{FileExt, MetadataExt};

    #[test]
    fn a_copy_takes_what_was_written_and_not_what_was_reserved() {
        let dir = tempfile::tempdir().expect("a directory");
        let from = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(dir.path().join("from"))
            .expect("made");
        let length = 64 << 20;
        from.set_len(length).expect("set");
        fallocate(&from, FallocateFlags::empty(), 0, length).expect("reserved");
        // Long enough that more is read ahead.
        from.write_all_at(&vec![1; 4 << 20], 32 << 20).expect("written");
        from.sync_all().expect("synced");
        rustix::fs::fadvise(&from, 0, None, rustix::fs::Advice::DontNeed).expect("forgotten");
        let to = clone_file(&from, &dir.path().join("to"), length, false).expect("copied");
        let meta = to.metadata().expect("there");
        assert_eq!(meta.len(), length);
        assert!(meta.blocks() * 512 < 5 << 20, "{}", meta.blocks() * 512);
        let mut read = [0; 8192];
        to.read_exact_at(&mut read, 32 << 20).expect("read");
        assert_eq!(read, [1; 8192]);
    }
}
