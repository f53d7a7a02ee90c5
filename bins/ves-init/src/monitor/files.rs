//! The files of a run: records for whoever comes later, and what is taken away at the end.
//!
//! Never here: what is in a record.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use ves_host::{Attempt, HostError, file, namespace};

/// What must be taken away when the monitor ends.
#[derive(Debug, Default)]
pub(super) struct Guard {
    pub(super) socket: Option<PathBuf>,
    pub(super) state: Option<PathBuf>,
    pub(super) netns: Option<PathBuf>,
}

impl Guard {
    /// A failure leaves what the daemon's next visit finds and takes away.
    pub(super) fn clean(&mut self) {
        if let Some(netns) = self.netns.take() {
            namespace::unpin(&netns).ok();
        }
        for path in self.state.take().into_iter().chain(self.socket.take()) {
            file::remove_if_exists(&path).ok();
        }
    }
}

/// Writes a record, whole or not at all.
pub(super) fn write_record(path: &Path, record: &impl serde::Serialize) -> Result<(), HostError> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let bytes = serde_json::to_vec(record).unwrap_or_default();
    // The directory is volatile: whole or not at all matters, surviving a power cut does not.
    std::fs::write(&new, bytes)
        .and_then(|()| std::fs::rename(&new, path))
        .attempt(|| format!("write {}", path.display()))
}

/// Milliseconds since 1970, as records have the time.
pub(super) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
