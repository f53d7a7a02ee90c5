//! The fence: the newest generation and epoch a service accepted for each container.
//!
//! One small JSON file a container, replaced whole: its contents are synced before they get its
//! name, so a power cut leaves the old or the new fence. The name is not synced: a fence that is
//! lost lets an older decision in, which the coordinator, itself restarted, no longer makes. An
//! empty file says nothing, and counts as none.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, ErrorKind, Write as _};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use ves_proto::{Fault, Reason};
use ves_types::{CtId, Epoch, Fence, Generation};

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    generation: Generation,
    epoch: Epoch,
}

/// Refuses a call that is older than what was `accepted` before.
///
/// # Errors
/// `STALE_EPOCH` or `STALE_GENERATION`.
pub fn admit(fence: &Fence, accepted: Option<(Generation, Epoch)>) -> Result<(), Fault> {
    let &Fence { ct, generation, epoch } = fence;
    let Some((accepted_generation, accepted_epoch)) = accepted else { return Ok(()) };
    let stale = |reason, what: &str, have: u64, got: u64| {
        let message =
            format!("container {ct}: {what} {got} is older than {have}; read the container again");
        Err(Fault::new(reason, message).fact("ct", ct).fact("have", have).fact("got", got))
    };
    if epoch < accepted_epoch {
        return stale(Reason::StaleEpoch, "epoch", accepted_epoch.0, epoch.0);
    }
    if epoch == accepted_epoch && generation < accepted_generation {
        return stale(Reason::StaleGeneration, "generation", accepted_generation.0, generation.0);
    }
    Ok(())
}

/// The fences of all containers of a service.
#[derive(Debug)]
pub struct FenceStore {
    dir: PathBuf,
    /// `None` where the file is there and cannot be understood.
    known: Mutex<BTreeMap<CtId, Option<Record>>>,
}

impl FenceStore {
    /// Reads what was accepted before; makes the directory where there is none.
    pub fn open(dir: PathBuf) -> Result<Self, io::Error> {
        std::fs::create_dir_all(&dir)?;
        let mut known = BTreeMap::new();
        for entry in std::fs::read_dir(&dir)? {
            let entry = entry?;
            if let Some(ct) = entry.file_name().to_str().and_then(|n| n.parse().ok()) {
                let record = std::fs::read(entry.path())?;
                if !record.is_empty() {
                    known.insert(ct, serde_json::from_slice(&record).ok());
                }
            }
        }
        Ok(Self { dir, known: Mutex::new(known) })
    }

    /// What was last accepted for the container.
    pub fn accepted(&self, ct: CtId) -> Option<(Generation, Epoch)> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&ct).copied().flatten().map(|r| (r.generation, r.epoch))
    }

    /// The generation that was last accepted for the container; 0 where none was.
    pub fn generation(&self, ct: CtId) -> Generation {
        self.accepted(ct).map(|(generation, _)| generation).unwrap_or_default()
    }

    /// Refuses what is older than what was accepted.
    ///
    /// # Errors
    /// `STALE_GENERATION`, `STALE_EPOCH`, or `RECORD_CORRUPT`.
    pub fn admit(&self, fence: &Fence) -> Result<(), Fault> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match known.get(&fence.ct) {
            None => Ok(()),
            Some(Some(r)) => admit(fence, Some((r.generation, r.epoch))),
            Some(None) => {
                let path = self.dir.join(fence.ct.to_string());
                let message = format!(
                    "container {}: the fence {} cannot be understood; remove it when no other \
                     node runs the container",
                    fence.ct,
                    path.display()
                );
                Err(Fault::new(Reason::RecordCorrupt, message).fact("record", path.display()))
            }
        }
    }

    /// Records that this was accepted; before the first effect.
    ///
    /// # Errors
    /// `HOST_FAILED` when it cannot be written.
    pub fn accept(&self, fence: &Fence) -> Result<(), Fault> {
        let record = Record { generation: fence.generation, epoch: fence.epoch };
        let path = self.dir.join(fence.ct.to_string());
        let new = self.dir.join(format!("{}.new", fence.ct));
        let write = || {
            let mut file = File::create(&new)?;
            file.write_all(&serde_json::to_vec(&record)?)?;
            file.sync_data()?;
            std::fs::rename(&new, &path)
        };
        write().map_err(|e| {
            let message = format!("write the fence {}: {e}", path.display());
            Fault::new(Reason::HostFailed, message)
        })?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(fence.ct, Some(record));
        Ok(())
    }

    /// Forgets a container that is gone for good.
    pub fn forget(&self, ct: CtId) {
        match std::fs::remove_file(self.dir.join(ct.to_string())) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                tracing::warn!(%ct, error = %e, "remove the fence, ignoring");
            }
            _ => {}
        }
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(&ct);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fence(generation: u64) -> Fence {
        Fence {
            ct: CtId::try_from(101).expect("valid"),
            generation: Generation(generation),
            epoch: Epoch(1),
        }
    }

    #[test]
    fn the_past_is_refused_and_nothing_else() {
        let had = Some((Generation(5), Epoch(2)));
        let admitted = |generation, epoch, had| {
            admit(&Fence { epoch: Epoch(epoch), ..fence(generation) }, had).map_err(|f| f.reason)
        };
        assert_eq!(admitted(1, 1, None), Ok(()));
        assert_eq!(admitted(5, 2, had), Ok(()));
        assert_eq!(admitted(6, 2, had), Ok(()));
        assert_eq!(admitted(1, 3, had), Ok(()));
        assert_eq!(admitted(4, 2, had), Err(Reason::StaleGeneration));
        assert_eq!(admitted(9, 1, had), Err(Reason::StaleEpoch));
    }

    #[test]
    fn survives_a_restart_and_is_forgotten() {
        let dir = tempfile::tempdir().expect("a directory");
        let open = || FenceStore::open(dir.path().join("fence")).expect("opened");
        let store = open();
        store.admit(&fence(3)).expect("nothing was accepted yet");
        store.accept(&fence(3)).expect("written");
        let store = open();
        assert_eq!(store.admit(&fence(2)).map_err(|f| f.reason), Err(Reason::StaleGeneration));
        store.admit(&fence(3)).expect("the same again");
        store.forget(fence(3).ct);
        open().admit(&fence(1)).expect("forgotten");
    }

    #[test]
    fn an_empty_file_is_no_fence() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("101"), b"").expect("written");
        let store = FenceStore::open(dir.path().to_owned()).expect("opened");
        assert_eq!(store.accepted(fence(1).ct), None);
        store.admit(&fence(1)).expect("nothing was accepted");
        store.accept(&fence(1)).expect("written over");
    }

    #[test]
    fn garbage_refuses_its_container_only() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("101"), b"{\"generation\":").expect("written");
        std::fs::write(dir.path().join("lost+found"), b"").expect("written");
        let store = FenceStore::open(dir.path().to_owned()).expect("opened");
        assert_eq!(store.admit(&fence(9)).map_err(|f| f.reason), Err(Reason::RecordCorrupt));
        let other = Fence { ct: CtId::try_from(102).expect("valid"), ..fence(1) };
        store.admit(&other).expect("another container");
    }
}
