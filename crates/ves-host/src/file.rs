//! Durable small files: written whole or not at all, and read with a bound.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use crate::error::{Attempt, HostError};

/// Replaces `path` by `bytes` so that after a crash at any moment either the old or the new
/// contents are there, whole. The directory must exist. Mode 0600.
///
/// # Errors
/// [`HostError::Sys`].
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), HostError> {
    let what = || format!("write {}", path.display());
    let dir =
        path.parent().ok_or_else(|| std::io::Error::from(ErrorKind::InvalidInput)).attempt(what)?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = dir.join(name);
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)
        .attempt(what)?;
    file.write_all(bytes).attempt(what)?;
    file.sync_all().attempt(what)?;
    std::fs::rename(&new, path).attempt(what)?;
    File::open(dir).and_then(|d| d.sync_all()).attempt(what)
}

/// The contents of `path`, or `None` where there is no such file.
///
/// # Errors
/// [`HostError::Sys`], also when it is larger than `most` bytes.
pub fn read_if_exists(path: &Path, most: u64) -> Result<Option<Vec<u8>>, HostError> {
    let what = || format!("read {}", path.display());
    let file = match File::open(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        other => other.attempt(what)?,
    };
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes).attempt(what)?;
    if bytes.len() as u64 > most {
        return Err(std::io::Error::from(ErrorKind::FileTooLarge)).attempt(what);
    }
    Ok(Some(bytes))
}

/// Makes a directory, with its parents, through which its group gets and in which nobody but its owner sees
/// anything, whatever the umask. One that is there stays as it is.
///
/// # Errors
/// [`HostError::Sys`].
pub fn make_passage(dir: &Path) -> Result<(), HostError> {
    let what = || format!("make the directory {}", dir.display());
    if let Some(parent) = dir.parent() {
        std::fs::create_dir_all(parent).attempt(what)?;
    }
    match std::fs::create_dir(dir) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(()),
        made => made
            .and_then(|()| std::fs::set_permissions(dir, Permissions::from_mode(0o710)))
            .attempt(what),
    }
}

/// Removes a file; one that is not there is no failure.
///
/// # Errors
/// [`HostError::Sys`].
pub fn remove_if_exists(path: &Path) -> Result<(), HostError> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        other => other.attempt(|| format!("remove {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_passage_is_for_its_group_and_stays_as_it_is() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("ct/101");
        let mode = || std::fs::metadata(&path).expect("there").permissions().mode() & 0o7777;
        make_passage(&path).expect("made");
        assert_eq!(mode(), 0o710);
        std::fs::set_permissions(&path, Permissions::from_mode(0o700)).expect("set");
        make_passage(&path).expect("there");
        assert_eq!(mode(), 0o700);
    }

    #[test]
    fn replaces_whole() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("x");
        assert_eq!(read_if_exists(&path, 10).expect("absent"), None);
        write_atomic(&path, b"one").expect("written");
        write_atomic(&path, b"two").expect("replaced");
        assert_eq!(read_if_exists(&path, 10).expect("read"), Some(b"two".to_vec()));
        assert!(read_if_exists(&path, 2).is_err());
        remove_if_exists(&path).expect("removed");
        remove_if_exists(&path).expect("nothing to remove");
        assert_eq!(std::fs::read_dir(dir.path()).expect("read").count(), 0);
    }
}
