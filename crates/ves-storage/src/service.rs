//! What is only looked at. Changes of containers are in `converge.rs`, of templates in
//! `service/templates.rs`.
//!
//! Synchronous; `api` calls it on the blocking pool. Never here: decisions, or how
//! anything is done.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio::sync::watch;
use ves_daemon::Shell;
use ves_host::ext4::Damage;
use ves_proto::{Fault, Reason};
use ves_types::{CtId, Generation, SnapshotId};

use crate::error::Error;
use crate::host::{BackendKind, Host, Usage, VolumeFacts};
use crate::plan::snapshot;
use crate::plan::{self, Image, PoolFacts, Record};
use crate::promises::Promises;
use crate::template::Uses;

/// A volume, for the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Its container.
    pub ct: CtId,
    /// The last accepted generation.
    pub generation: Generation,
    /// What it was made as.
    pub record: Record,
    /// Hard size.
    pub bytes: u64,
    /// What it uses.
    pub usage: Usage,
    /// Whether it is mounted.
    pub mounted: bool,
    /// Who still holds its device, though it is not mounted any more.
    pub holder: Option<String>,
    /// What the kernel noted of errors in its file system.
    pub damage: Option<Damage>,
}

/// A snapshot, for the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Its id.
    pub id: SnapshotId,
    /// What it is.
    pub seen: snapshot::Snapshot,
    /// The snapshot the volume came from when it was taken, where that is still there.
    pub parent: Option<SnapshotId>,
    /// Whether the volume comes from it now.
    pub current: bool,
    /// Bytes nothing else shares, where that was asked for and is known.
    pub own: Option<u64>,
}

/// The service. Clones are the same service.
#[derive(Clone)]
pub struct Service {
    pub(crate) host: Arc<dyn Host>,
    pub(crate) shell: Shell,
    pub(crate) uses: Uses,
    pub(crate) promises: Promises,
    /// Held while a base image is made.
    making: Arc<Mutex<()>>,
    /// In whose mounted file systems the kernel has met how many errors, as it was last looked at.
    pub(crate) errors: Arc<watch::Sender<BTreeMap<CtId, u32>>>,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service").field("backend", &self.host.backend()).finish_non_exhaustive()
    }
}

pub(crate) fn observing(error: &Error) -> Fault {
    error.fault("observe")
}

impl Service {
    /// A service on this host.
    pub fn new(host: Arc<dyn Host>, shell: Shell) -> Self {
        let promises = Promises::new(host.clone());
        Self {
            host,
            shell,
            uses: Uses::default(),
            promises,
            making: Arc::default(),
            errors: Arc::default(),
        }
    }

    /// The snapshots of a container, oldest first; where `measure` says so, with the bytes that only
    /// each has.
    pub fn snapshots(&self, ct: CtId, measure: bool) -> Result<Vec<Snapshot>, Fault> {
        let all = self.host.snapshots(ct, measure).map_err(|e| observing(&e))?;
        if all.is_empty() {
            return Ok(Vec::new());
        }
        let reverted = match self.host.look(ct).map_err(|e| observing(&e))?.image {
            Image::Ours { record, .. } => record.reverted,
            Image::Absent | Image::Foreign(_) => None,
        };
        let current = snapshot::current(reverted, all.iter().map(|(id, s, _)| (id, s)));
        let there: Vec<SnapshotId> = all.iter().map(|(id, ..)| *id).collect();
        let mut all: Vec<Snapshot> = all
            .into_iter()
            .map(|(id, seen, own)| Snapshot {
                parent: seen.record.parent.filter(|p| there.contains(p)),
                current: current == Some(id),
                id,
                seen,
                own,
            })
            .collect();
        all.sort_by_key(|s| s.seen.record.generation);
        Ok(all)
    }

    /// One volume.
    ///
    /// # Errors
    /// `VOLUME_UNKNOWN`, `FOREIGN_CONTENTS`, or what could not be found out.
    pub fn get(&self, ct: CtId) -> Result<Volume, Fault> {
        self.look(ct)?.ok_or_else(|| unknown(ct))
    }

    /// All volumes, by container.
    pub fn list(&self, cts: &[CtId]) -> Result<Vec<Volume>, Fault> {
        let mut all = Vec::new();
        let seen = match cts {
            [] => self.host.look_all().map_err(|e| observing(&e))?,
            cts => cts.iter().map(|ct| (*ct, self.host.look(*ct))).collect(),
        };
        for (ct, seen) in seen {
            match self.describe(ct, seen) {
                Ok(volume) => all.extend(volume),
                // One bad volume hides no other.
                Err(fault) => tracing::warn!(%ct, %fault, "leave out of the list"),
            }
        }
        Ok(all)
    }

    pub(crate) fn look(&self, ct: CtId) -> Result<Option<Volume>, Fault> {
        self.describe(ct, self.host.look(ct))
    }

    fn describe(
        &self,
        ct: CtId,
        seen: Result<VolumeFacts, Error>,
    ) -> Result<Option<Volume>, Fault> {
        let VolumeFacts { image, mounted, holder, usage } = seen.map_err(|e| observing(&e))?;
        match image {
            Image::Absent => Ok(None),
            Image::Foreign(what) => Err(plan::Refusal::Foreign(what).fault(ct)),
            Image::Ours { record, bytes, damage, .. } => Ok(Some(Volume {
                ct,
                generation: self.shell.generation(ct),
                record,
                bytes,
                usage,
                mounted,
                holder,
                damage,
            })),
        }
    }

    /// The pool's backend and room.
    pub fn pool(&self) -> Result<(BackendKind, PoolFacts), Fault> {
        Ok((self.host.backend(), self.promises.facts().map_err(|e| observing(&e))?))
    }
}

pub(crate) fn unknown(ct: CtId) -> Fault {
    Fault::new(Reason::VolumeUnknown, format!("container {ct} has no volume")).fact("ct", ct)
}

mod audit;
mod templates;
mod watching;

#[cfg(test)]
mod tests;
