//! What runs leave behind: records, pins and sockets. Never here: processes, which have ended before.

use std::path::{Path, PathBuf};

use ves_host::{Attempt, HostError, file, namespace};
use ves_init_proto::report::{self, Ended, ExitRecord, StateRecord};
use ves_types::{CtId, ExitCause};

use crate::error::{About, Error};
use crate::observe;
use crate::plan::{End, Run};

/// The longest record.
const MOST: u64 = 64 * 1024;

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>, HostError> {
    let Some(bytes) = file::read_if_exists(path, MOST)? else { return Ok(None) };
    let text = || String::from_utf8_lossy(&bytes).into_owned();
    let record = serde_json::from_slice(&bytes);
    record.map(Some).map_err(|_| HostError::parse(format!("read {}", path.display()), &text()))
}

/// Where a record of the last end is put that cannot be understood.
fn aside(dir: &Path) -> PathBuf {
    dir.join("exit.json.bad")
}

/// How the container last ended. A run that left only its state was cut by its monitor's death.
pub(super) fn last_end(dir: &Path) -> Result<Option<End>, HostError> {
    let path = report::exit(dir);
    let exit: Option<ExitRecord> = match read(&path) {
        Err(error @ HostError::Parse { .. }) => {
            // It helps nobody any more, and must not keep the container from being handled.
            tracing::warn!("put aside: {error}");
            std::fs::rename(&path, aside(dir))
                .attempt(|| format!("put {} aside", path.display()))?;
            None
        }
        other => other?,
    };
    Ok(exit.as_ref().map(observe::end))
}

/// The run whose monitor does not answer or is lost, where its init is the process it wrote down.
pub(super) fn run(dir: &Path) -> Option<Run> {
    // What cannot be read tells nothing, and hinders nobody from ending it.
    let state: StateRecord = read(&report::state(dir)).ok()??;
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", state.init_pid)).ok()?;
    observe::run(&state, &stat)
}

/// What a run that ended printed last; `None` where nothing is kept.
pub(super) fn last_words(dir: &Path) -> Result<Option<Vec<u8>>, HostError> {
    file::read_if_exists(&report::last_words(dir), MOST)
}

/// Whether a run left something.
pub(super) fn leftovers(dir: &Path, netns: &Path) -> bool {
    [report::socket(dir), report::state(dir), netns.to_owned()]
        .iter()
        .any(|path| path.symlink_metadata().is_ok())
}

/// Takes away what a run left, holding the container's monitor lock.
pub(super) fn clean(ct: CtId, dir: &Path, netns: &Path) -> Result<(), Error> {
    let what = "take away what is left of it";
    let _held = super::monitor::hold(ct, dir)?;
    // A record that cannot be read tells of no end.
    if let Ok(Some(state)) = read::<StateRecord>(&report::state(dir)) {
        let known = last_end(dir).about(ct, what)?.map_or(0, |end| end.incarnation);
        if state.started_unix_ms != 0 && state.incarnation > known {
            let record = ExitRecord {
                incarnation: state.incarnation,
                cause: ExitCause::Killed,
                ended: Ended::Signal(9),
                started_unix_ms: state.started_unix_ms,
                ended_unix_ms: state.started_unix_ms,
            };
            let bytes = serde_json::to_vec(&record).unwrap_or_default();
            file::write_atomic(&report::exit(dir), &bytes).about(ct, what)?;
        }
    }
    namespace::unpin(netns).about(ct, what)?;
    for path in [report::socket(dir), report::state(dir)] {
        file::remove_if_exists(&path).about(ct, what)?;
    }
    Ok(())
}

/// Forgets how it last ended, and the directory if nobody else has something in it.
pub(super) fn forget(ct: CtId, dir: &Path) -> Result<(), Error> {
    // A monitor that opened the lock's file sees that it is another one by now.
    let _held = super::monitor::hold(ct, dir)?;
    let what = "forget how it last ended";
    for path in [report::exit(dir), aside(dir), report::last_words(dir), report::lock(dir)] {
        file::remove_if_exists(&path).about(ct, what)?;
    }
    match std::fs::remove_dir(dir) {
        Err(e)
            if matches!(
                e.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::DirectoryNotEmpty
            ) =>
        {
            Ok(())
        }
        other => other.attempt(|| format!("remove {}", dir.display())).about(ct, what),
    }
}
