//! A container's control groups: where they are, whether they exist, freezing. The groups are made
//! and limited by the resources service, and a monitor says which devices they may open; nothing here
//! changes them but freezing.

use std::time::{Duration, Instant};

use ves_host::cgroup::{self, Controller, Hierarchies};
use ves_types::CtId;
use ves_types::layout::CGROUP_DELEGATED;

use super::group;
use crate::error::{About, Error};
use crate::init_plan::Groups;
use crate::observe;

/// How long freezing may take.
const FREEZE: Duration = Duration::from_secs(10);

/// Where the container's groups are.
pub(super) fn of(hierarchies: &Hierarchies, ct: CtId) -> Groups {
    let group = group(ct);
    Groups {
        v1: hierarchies.v1.iter().map(|h| h.mount.join(&group)).collect(),
        devices: hierarchies.v1_with(Controller::Devices).map(|h| h.mount.join(&group)),
        v2: hierarchies
            .v2
            .as_ref()
            .map(|h| (h.mount.clone(), format!("{group}/{CGROUP_DELEGATED}"))),
    }
}

/// Whether all of them exist.
pub(super) fn exist(hierarchies: &Hierarchies, ct: CtId) -> bool {
    hierarchies.procs_files(&group(ct), CGROUP_DELEGATED).iter().all(|file| file.exists())
}

/// Whether the container's processes are frozen.
pub(super) fn frozen(hierarchies: &Hierarchies, ct: CtId) -> Result<bool, ves_host::HostError> {
    let Some(freezer) = hierarchies.freezer(&group(ct)) else { return Ok(false) };
    let text = cgroup::read_if_exists(&freezer.state)?.unwrap_or_default();
    Ok(observe::frozen(&text, freezer.frozen))
}

/// Freezes or thaws, and waits until it is so.
pub(super) fn freeze(hierarchies: &Hierarchies, ct: CtId, freeze: bool) -> Result<(), Error> {
    let Some(freezer) = hierarchies.freezer(&group(ct)) else {
        return Err(Error::Node(ves_host::HostError::Lacks {
            feature: "freezing".to_owned(),
            why: "neither cgroup2 nor the freezer controller is mounted".to_owned(),
        }));
    };
    let end = Instant::now() + FREEZE;
    loop {
        // Version 1 may need the word again while processes come and go.
        let word = if freeze { freezer.freeze } else { freezer.thaw };
        cgroup::write(&freezer.file, word).about(ct, "freeze or thaw it")?;
        if frozen(hierarchies, ct).about(ct, "see whether it is frozen")? == freeze {
            return Ok(());
        }
        if Instant::now() > end {
            return Err(Error::Unresponsive { ct, what: "freeze or thaw" });
        }
        super::pause();
    }
}
