//! Whether a container lives, for whom nothing else tells: by its control groups, which no process can leave.
//!
//! Never here: who its processes are, or an end of theirs.

use std::time::{Duration, Instant};

use ves_host::HostError;
use ves_host::cgroup::{self, Hierarchies};
use ves_types::CtId;
use ves_types::layout;

/// How often it is looked again whether the last process has gone.
const PAUSE: Duration = Duration::from_millis(5);

/// Whether processes are in the container's groups, and still are after this time: what leaves may take a
/// moment. A node without control groups has no containers.
pub(super) fn inhabited(ct: CtId, patience: Duration) -> Result<bool, HostError> {
    let hierarchies = match Hierarchies::detect() {
        Err(HostError::Lacks { .. }) => return Ok(false),
        other => other?,
    };
    let end = Instant::now() + patience;
    while has_processes(&hierarchies, ct)? {
        if Instant::now() >= end {
            return Ok(true);
        }
        pause();
    }
    Ok(false)
}

#[expect(clippy::disallowed_methods, reason = "version 1 tells nobody that a group is empty")]
fn pause() {
    std::thread::sleep(PAUSE);
}

fn has_processes(hierarchies: &Hierarchies, ct: CtId) -> Result<bool, HostError> {
    for dir in hierarchies.dirs(&layout::cgroup(ct)) {
        if !cgroup::processes(&dir)?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}
