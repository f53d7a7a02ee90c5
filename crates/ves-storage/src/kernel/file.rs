//! Directories and their durability, as all mechanisms here need them.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use ves_host::{Attempt, HostError};

/// Makes a directory for root only, with its parents.
pub(in crate::kernel) fn directory(path: &Path) -> Result<(), HostError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .attempt(|| format!("make the directory {}", path.display()))
}

/// Makes what was renamed or made in a directory durable.
pub(in crate::kernel) fn sync_dir(path: &Path) -> Result<(), HostError> {
    #[cfg(test)]
    SYNCED.with_borrow_mut(|all| all.push(path.to_owned()));
    File::open(path).and_then(|d| d.sync_all()).attempt(|| format!("sync {}", path.display()))
}

/// The files of a directory; none where it is gone.
pub(in crate::kernel) fn files(
    dir: &Path,
) -> Result<BTreeMap<String, std::fs::Metadata>, HostError> {
    let what = || format!("list {}", dir.display());
    let entries = match std::fs::read_dir(dir) {
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(BTreeMap::new());
        }
        other => other.attempt(what)?,
    };
    let mut found = BTreeMap::new();
    for entry in entries {
        let entry = entry.attempt(what)?;
        // One that vanishes meanwhile was not there.
        if let (Ok(name), Ok(meta)) = (entry.file_name().into_string(), entry.metadata())
            && meta.is_file()
        {
            found.insert(name, meta);
        }
    }
    Ok(found)
}

#[cfg(test)]
thread_local! {
    static SYNCED: std::cell::RefCell<Vec<std::path::PathBuf>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// How often this thread synced a directory.
#[cfg(test)]
pub(in crate::kernel) fn synced(path: &Path) -> usize {
    SYNCED.with_borrow(|all| all.iter().filter(|p| *p == path).count())
}
