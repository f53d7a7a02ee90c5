//! The fence: the newest generation and epoch a service accepted for each container.
//!
//! One rule for all services:
//!
//! - A call that is older than what was accepted is refused, before anything is looked at. An equal one
//!   is the same decision repeated.
//! - What was planned is accepted before its first effect, also where nothing is to be done. What was
//!   refused, or could not be planned, is not accepted.
//! - A container that is gone is not forgotten: the fence of its removal stays, so that what was decided
//!   before and comes after cannot bring it back. A container that gets its id again begins with a
//!   greater generation. Of such tombstones the oldest go, when there are more than
//!   [`MOST_TOMBSTONES`].
//!
//! A crash between accepting and the first effect leaves a fence for which nothing was done yet: the
//! same decision is admitted again and does it. After the last effect nothing is written any more, so
//! that there is no crash in between.
//!
//! One small JSON file a container, replaced whole by a rename. What lies below the run directory dies
//! with the kernel, and with all that it fences: nothing of it is synced. What fences volumes
//! outlives a power cut as they do: its contents are synced before they get their name. The name is not:
//! the file system keeps the order of names, so that an effect on it that lasted has its fence; and a
//! fence that is lost lets in an older decision, which the coordinator, itself restarted, no longer
//! makes. An empty file says nothing, and counts as none. A file that cannot be read or understood
//! costs its container every change until somebody looks, and no other container anything.

use std::collections::BTreeMap;
use std::fs::{DirEntry, File};
use std::io::{self, Read as _, Write as _};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use ves_proto::{Fault, Reason};
use ves_types::{CtId, Epoch, Fence, Generation};

/// How many containers that are gone are remembered.
pub const MOST_TOMBSTONES: usize = 4096;

/// More than a record ever has.
const LONGEST: u64 = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    generation: Generation,
    epoch: Epoch,
    /// Whether the decision was that nothing is left.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    removed: bool,
}

#[derive(Debug)]
struct Known {
    /// `None` where the file is there and cannot be understood.
    record: Option<Record>,
    /// Grows with each that is accepted.
    turn: u64,
}

#[derive(Debug, Default)]
struct Table {
    known: BTreeMap<CtId, Known>,
    /// Whose tombstones there are, by turn: so that one more costs the same however many there are.
    graves: BTreeMap<u64, CtId>,
    turns: u64,
}

impl Table {
    fn insert(&mut self, ct: CtId, record: Option<Record>) {
        self.turns += 1;
        let turn = self.turns;
        if let Some(before) = self.known.insert(ct, Known { record, turn }) {
            self.graves.remove(&before.turn);
        }
        if record.is_some_and(|r| r.removed) {
            self.graves.insert(turn, ct);
        }
    }

    fn forget(&mut self, ct: CtId) {
        if let Some(known) = self.known.remove(&ct) {
            self.graves.remove(&known.turn);
        }
    }

    /// The tombstones that are too many, oldest first.
    fn surplus(&self, most: usize) -> Vec<CtId> {
        let surplus = self.graves.len().saturating_sub(most);
        self.graves.values().take(surplus).copied().collect()
    }
}

/// Refuses a call that is older than what was `accepted` before, and one that says to be newer than any
/// can be.
///
/// # Errors
/// `STALE_EPOCH`, `STALE_GENERATION`, or `BAD_VALUE` on the field.
pub fn admit(fence: &Fence, accepted: Option<(Generation, Epoch)>) -> Result<(), Fault> {
    let &Fence { ct, generation, epoch } = fence;
    for (field, got, most) in [
        ("fence.generation", generation.0, Generation::MAX.0),
        ("fence.epoch", epoch.0, Epoch::MAX.0),
    ] {
        if got > most {
            let message = format!("container {ct}: {field} {got} is beyond {most}, the greatest");
            return Err(Fault::new(Reason::BadValue, message).fact("field", field).fact("ct", ct));
        }
    }
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
    synced: bool,
    table: Mutex<Table>,
}

impl FenceStore {
    /// Reads what was accepted before; makes the directory where there is none. Nothing is synced: for
    /// a directory that dies with what is fenced.
    pub fn open(dir: PathBuf) -> Result<Self, io::Error> {
        std::fs::create_dir_all(&dir)?;
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&dir)? {
            let entry = entry?;
            let Some(ct) = entry.file_name().to_str().and_then(|n| n.parse::<CtId>().ok()) else {
                continue;
            };
            let record = read(&entry).unwrap_or_else(|e| {
                tracing::warn!(%ct, error = %e, "a fence cannot be read, refusing its container");
                Some(None)
            });
            if let Some(record) = record {
                // Of what was accepted when, it only matters what is very old.
                let accepted = entry.metadata().and_then(|m| m.modified());
                found.push((accepted.unwrap_or(SystemTime::UNIX_EPOCH), ct, record));
            }
        }
        found.sort_unstable_by_key(|(accepted, ct, _)| (*accepted, *ct));
        let mut table = Table::default();
        for (_, ct, record) in found {
            table.insert(ct, record);
        }
        Ok(Self { dir, synced: false, table: Mutex::new(table) })
    }

    /// The same for a directory that outlives the kernel, as what is fenced does.
    pub fn open_synced(dir: PathBuf) -> Result<Self, io::Error> {
        Ok(Self { synced: true, ..Self::open(dir)? })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was last accepted for the container.
    pub fn accepted(&self, ct: CtId) -> Option<(Generation, Epoch)> {
        self.table().known.get(&ct).and_then(|k| k.record).map(|r| (r.generation, r.epoch))
    }

    /// The generation that was last accepted for the container; 0 where none was.
    pub fn generation(&self, ct: CtId) -> Generation {
        self.accepted(ct).map(|(generation, _)| generation).unwrap_or_default()
    }

    /// Whether a container is left by what was accepted: one that was not removed, or of which nobody
    /// knows.
    pub fn any_left(&self) -> bool {
        self.table().known.values().any(|k| k.record.is_none_or(|r| !r.removed))
    }

    /// Refuses what is older than what was accepted.
    ///
    /// # Errors
    /// Those of [`admit`], or `RECORD_CORRUPT`.
    pub fn admit(&self, fence: &Fence) -> Result<(), Fault> {
        match self.table().known.get(&fence.ct).map(|k| k.record) {
            None => admit(fence, None),
            Some(Some(r)) => admit(fence, Some((r.generation, r.epoch))),
            Some(None) => {
                let path = self.dir.join(fence.ct.to_string());
                let message = format!(
                    "container {}: the fence {} cannot be understood; remove it when no other \
                     node runs the container, and start the service again",
                    fence.ct,
                    path.display()
                );
                Err(Fault::new(Reason::RecordCorrupt, message).fact("record", path.display()))
            }
        }
    }

    /// Records that this was accepted, before its first effect; `removed`: it is that nothing of the
    /// container is left.
    ///
    /// # Errors
    /// `HOST_FAILED` when it cannot be written.
    pub fn accept(&self, fence: &Fence, removed: bool) -> Result<(), Fault> {
        let &Fence { ct, generation, epoch } = fence;
        let record = Record { generation, epoch, removed };
        if self.table().known.get(&ct).is_some_and(|k| k.record == Some(record)) {
            return Ok(());
        }
        let path = self.dir.join(ct.to_string());
        let new = self.dir.join(format!("{ct}.new"));
        let write = || {
            let mut file = File::create(&new)?;
            file.write_all(&serde_json::to_vec(&record)?)?;
            if self.synced {
                file.sync_data()?;
            }
            std::fs::rename(&new, &path)
        };
        write().map_err(|e| {
            let message = format!("write the fence {}: {e}", path.display());
            let fault = Fault::new(Reason::HostFailed, message).fact("step", "write the fence");
            fault.fact_if_known("errno", e.raw_os_error())
        })?;
        let surplus = {
            let mut table = self.table();
            table.insert(ct, Some(record));
            if removed { table.surplus(MOST_TOMBSTONES) } else { Vec::new() }
        };
        for ct in surplus {
            self.table().forget(ct);
            if let Err(e) = std::fs::remove_file(self.dir.join(ct.to_string())) {
                tracing::warn!(%ct, error = %e, "remove an old fence, ignoring");
            }
        }
        Ok(())
    }
}

/// A record: none where the file is empty, `Some(None)` where it is not understood.
fn read(entry: &DirEntry) -> Result<Option<Option<Record>>, io::Error> {
    // Not opened: whatever else is there may keep us waiting.
    if !entry.file_type()?.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    let mut bytes = Vec::new();
    File::open(entry.path())?.take(LONGEST).read_to_end(&mut bytes)?;
    Ok((!bytes.is_empty()).then(|| serde_json::from_slice(&bytes).ok()))
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

    fn reason(result: Result<(), Fault>) -> Result<(), Reason> {
        result.map_err(|f| f.reason)
    }

    #[test]
    fn the_past_is_refused_and_nothing_else() {
        let had = Some((Generation(5), Epoch(2)));
        let admitted = |generation, epoch, had| {
            reason(admit(&Fence { epoch: Epoch(epoch), ..fence(generation) }, had))
        };
        assert_eq!(admitted(1, 1, None), Ok(()));
        assert_eq!(admitted(5, 2, had), Ok(()));
        assert_eq!(admitted(6, 2, had), Ok(()));
        assert_eq!(admitted(1, 3, had), Ok(()));
        assert_eq!(admitted(4, 2, had), Err(Reason::StaleGeneration));
        assert_eq!(admitted(9, 1, had), Err(Reason::StaleEpoch));
    }

    #[test]
    fn what_no_container_comes_to_have_is_refused() {
        for (bad, field) in [
            (fence(u64::MAX), "fence.generation"),
            (fence(Generation::MAX.0 + 1), "fence.generation"),
            (Fence { epoch: Epoch(u64::MAX), ..fence(1) }, "fence.epoch"),
        ] {
            let fault = admit(&bad, None).expect_err("beyond");
            assert_eq!((fault.reason, fault.facts["field"].as_str()), (Reason::BadValue, field));
        }
        // In the year 2200, by a clock that is right or wrong.
        assert_eq!(reason(admit(&fence(7_258_118_400_000), None)), Ok(()));
    }

    #[test]
    fn a_removal_is_remembered_and_survives_a_restart() {
        for open in [FenceStore::open, FenceStore::open_synced] {
            let dir = tempfile::tempdir().expect("a directory");
            let open = || open(dir.path().join("fence")).expect("opened");
            let store = open();
            store.admit(&fence(3)).expect("nothing was accepted yet");
            store.accept(&fence(3), false).expect("written");
            let store = open();
            assert_eq!(reason(store.admit(&fence(2))), Err(Reason::StaleGeneration));
            store.admit(&fence(3)).expect("the same again");
            assert!(store.any_left());
            store.accept(&fence(4), true).expect("written");
            assert!(!store.any_left());
            for store in [store, open()] {
                assert_eq!(reason(store.admit(&fence(3))), Err(Reason::StaleGeneration));
                store.admit(&fence(5)).expect("a new container");
            }
        }
    }

    #[test]
    fn of_those_that_are_gone_the_oldest_are_forgotten_and_of_others_none() {
        let ct = |n: usize| CtId::try_from(u32::try_from(n).expect("small")).expect("valid");
        let mut table = Table::default();
        for n in 1..=9 {
            let record = Record { generation: Generation(1), epoch: Epoch(1), removed: n > 3 };
            table.insert(ct(n), Some(record));
        }
        assert_eq!(table.surplus(6), []);
        // One that was accepted again is not old any more.
        table.insert(
            ct(4),
            Some(Record { generation: Generation(2), epoch: Epoch(1), removed: true }),
        );
        assert_eq!(table.surplus(4), [ct(5), ct(6)]);
        table.forget(ct(5));
        assert_eq!(table.surplus(4), [ct(6)]);
        // Nor is one that is there again.
        let there = Record { generation: Generation(3), epoch: Epoch(1), removed: false };
        table.insert(ct(6), Some(there));
        assert_eq!((table.surplus(4), table.surplus(3)), (vec![], vec![ct(7)]));
        table.insert(ct(1), None);
        assert_eq!(table.surplus(0).len(), 4, "neither what exists nor what is not understood");
    }

    #[test]
    fn what_the_release_before_wrote_is_read() {
        let dir = tempfile::tempdir().expect("a directory");
        let kept = br#"{"generation":1764000000000,"epoch":1}"#;
        std::fs::write(dir.path().join("101"), kept).expect("written");
        let store = FenceStore::open(dir.path().to_owned()).expect("opened");
        assert_eq!(store.accepted(fence(1).ct), Some((Generation(1_764_000_000_000), Epoch(1))));
        store.accept(&fence(1_764_000_000_000), false).expect("known");
        store.accept(&fence(1_764_000_000_001), false).expect("written");
        let written = std::fs::read_to_string(dir.path().join("101")).expect("read");
        assert_eq!(written, r#"{"generation":1764000000001,"epoch":1}"#);
    }

    #[test]
    fn an_empty_file_is_no_fence() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("101"), b"").expect("written");
        let store = FenceStore::open(dir.path().to_owned()).expect("opened");
        assert_eq!(store.accepted(fence(1).ct), None);
        store.admit(&fence(1)).expect("nothing was accepted");
        store.accept(&fence(1), false).expect("written over");
    }

    #[test]
    fn garbage_refuses_its_container_only() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("101"), b"{\"generation\":").expect("written");
        std::fs::write(dir.path().join("102"), vec![b' '; 1 << 16]).expect("written");
        std::fs::create_dir(dir.path().join("103")).expect("made");
        std::os::unix::fs::symlink("/nowhere", dir.path().join("104")).expect("made");
        std::fs::write(dir.path().join("lost+found"), b"").expect("written");
        let store = FenceStore::open(dir.path().to_owned()).expect("opened");
        let of = |ct: u32| Fence { ct: CtId::try_from(ct).expect("valid"), ..fence(9) };
        for ct in 101..=104 {
            assert_eq!(reason(store.admit(&of(ct))), Err(Reason::RecordCorrupt), "{ct}");
        }
        store.admit(&of(105)).expect("another container");
        store.accept(&of(105), false).expect("another container");
    }
}
