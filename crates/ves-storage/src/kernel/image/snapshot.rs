//! Snapshots as image files beside those of volumes: `<pool>/snapshots/CT/UUID.img`.
//!
//! A snapshot of a mounted volume is taken without freezing its file system: that is written out
//! (`syncfs`), then the image is cloned while the container goes on. The clone of a whole file happens
//! at one moment: xfs and btrfs hold the inode's lock against writers, wait for direct I/O under way
//! and write out what the page cache has of the file, which the loop device does not use. So a snapshot
//! holds what the disk would after a power cut at that moment; ext4's journal is replayed when it is
//! first mounted again, and all that was written before the call is in it.
//!
//! Freezing (`FIFREEZE`) would spare that replay and give nothing else. But nothing thaws when its
//! caller is killed: the container would hang until somebody came to see it. Where blocks are not
//! shared a clone is a copy that takes time, and the planner asks for a volume that nobody uses.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use ves_host::{Attempt, HostError, ext4, extent, file};
use ves_types::{CtId, SnapshotId};

use super::Images;
use super::file::{clone_file, discard, publish, read_attribute, write_attribute};
use crate::error::Error;
use crate::kernel::backend::SnapshotStates;
use crate::kernel::file::{directory, sync_dir};
use crate::ledger::{Holder, Inventory};
use crate::observe::{self, SNAPSHOT_ATTRIBUTE, SnapshotRecord};
use crate::plan::snapshot::{Record, Snapshot};
use crate::plan::{self, Reverted};

/// What is in a directory; nothing where there is none.
fn entries(dir: &Path) -> Result<Vec<PathBuf>, HostError> {
    let what = || format!("list {}", dir.display());
    let entries = match std::fs::read_dir(dir) {
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        other => other.attempt(what)?,
    };
    entries.map(|entry| Ok(entry.attempt(what)?.path())).collect()
}

fn name(path: &Path) -> &str {
    path.file_name().and_then(|n| n.to_str()).unwrap_or_default()
}

fn is_unfinished(path: &Path) -> bool {
    name(path).strip_suffix(".new").and_then(observe::parse_snapshot_name).is_some()
}

/// What is at a snapshot's place.
enum There {
    /// Nothing, or it has just been removed.
    Nothing,
    /// A snapshot of ours, opened for reading.
    Ours(File, Box<Snapshot>),
    /// Something else; in a few words, what.
    Foreign(String),
}

fn open(ct: CtId, id: SnapshotId, path: &Path) -> Result<There, HostError> {
    use rustix::fs::OFlags;
    let what = || format!("open {}", path.display());
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed())
        .open(path)
        .attempt(what);
    let image = match opened {
        Err(e) if e.is(Errno::NOENT) => return Ok(There::Nothing),
        Err(e) if e.is(Errno::LOOP) => return Ok(There::Foreign("a symbolic link".to_owned())),
        other => other?,
    };
    let meta = image.metadata().attempt(what)?;
    if !meta.is_file() {
        return Ok(There::Foreign("no file".to_owned()));
    }
    let Some(value) = read_attribute(&image, SNAPSHOT_ATTRIBUTE)? else {
        return Ok(There::Foreign("it has no record".to_owned()));
    };
    let record = value.and_then(|bytes| observe::parse_snapshot_record(ct, id, &bytes));
    let (bytes, allocated) = (meta.len(), meta.blocks() * 512);
    Ok(match record {
        Ok(record) => {
            // As the file system's copy itself says, so also of one that was damaged between the look at
            // the volume and its copy.
            let damaged = ext4::inspect(&image)?.is_none_or(|s| s.damage.is_some());
            There::Ours(image, Box::new(Snapshot { record, bytes, allocated, damaged }))
        }
        Err(why) => There::Foreign(format!("its record: {why}")),
    })
}

impl Images {
    fn snapshot_dir(&self, ct: CtId) -> PathBuf {
        self.pool.snapshots().join(ct.to_string())
    }
    fn snapshot_path(&self, ct: CtId, id: SnapshotId) -> PathBuf {
        self.snapshot_dir(ct).join(observe::snapshot_name(id))
    }
    fn new_snapshot_path(&self, ct: CtId, id: SnapshotId) -> PathBuf {
        self.snapshot_dir(ct).join(format!("{}.new", observe::snapshot_name(id)))
    }

    /// Removes the directory of a container's snapshots, if there are none.
    fn tidy(&self, ct: CtId) -> Result<(), HostError> {
        let dir = self.snapshot_dir(ct);
        match std::fs::remove_dir(&dir).attempt(|| format!("remove {}", dir.display())) {
            Err(e) if e.is(Errno::NOENT) || e.is(Errno::NOTEMPTY) || e.is(Errno::EXIST) => Ok(()),
            other => other,
        }
    }

    /// Containers with unfinished snapshots, or a directory without any.
    pub(super) fn unfinished_snapshots(&self) -> Result<BTreeSet<CtId>, Error> {
        let mut left = BTreeSet::new();
        for dir in entries(&self.pool.snapshots())? {
            let Ok(ct) = name(&dir).parse::<CtId>() else { continue };
            let all = entries(&dir)?;
            if all.is_empty() || all.iter().any(|path| is_unfinished(path)) {
                left.insert(ct);
            }
        }
        Ok(left)
    }

    pub(super) fn see_snapshots(&self, ct: CtId) -> Result<SnapshotStates, Error> {
        let mut seen = SnapshotStates::default();
        for path in entries(&self.snapshot_dir(ct))? {
            if is_unfinished(&path) {
                seen.unfinished = true;
                continue;
            }
            let foreign = |why: &str| Some(format!("{} ({why})", path.display()));
            let Some(id) = observe::parse_snapshot_name(name(&path)) else {
                seen.foreign = foreign("no snapshot is called so");
                continue;
            };
            match open(ct, id, &path)? {
                There::Nothing => {}
                There::Ours(_, snapshot) => {
                    seen.snapshots.insert(id, *snapshot);
                }
                There::Foreign(why) => {
                    tracing::warn!(%ct, %id, %why, "leave out what is no snapshot of ours");
                    seen.foreign = foreign(&why);
                }
            }
        }
        Ok(seen)
    }

    /// What each snapshot takes, shared or not.
    pub(super) fn snapshot_sizes(&self) -> Result<Inventory, Error> {
        let mut all = Inventory::new();
        for dir in entries(&self.pool.snapshots())? {
            let Ok(ct) = name(&dir).parse() else { continue };
            for path in entries(&dir)? {
                // One that vanishes meanwhile takes nothing.
                let blocks = std::fs::symlink_metadata(&path).map_or(0, |m| m.blocks());
                if let Some(id) = observe::parse_snapshot_name(name(&path)) {
                    all.insert(Holder::Snapshot(ct, id), blocks * 512);
                }
            }
        }
        Ok(all)
    }

    pub(super) fn snapshot_own_bytes(
        &self,
        ct: CtId,
        id: SnapshotId,
    ) -> Result<Option<u64>, Error> {
        Ok(match open(ct, id, &self.snapshot_path(ct, id))? {
            There::Ours(image, _) => extent::own_bytes(&image)?,
            There::Nothing | There::Foreign(_) => None,
        })
    }

    pub(super) fn take_snapshot(
        &self,
        ct: CtId,
        id: SnapshotId,
        record: &Record,
    ) -> Result<(), Error> {
        let image = self.need(ct)?;
        let bytes = image.metadata().attempt(|| format!("look at the image of {ct}"))?.len();
        directory(&self.snapshot_dir(ct))?;
        let new = self.new_snapshot_path(ct, id);
        let target = clone_file(&image, &new, bytes, self.pool.reflink)?;
        let record = SnapshotRecord { ct, id, record: record.clone() };
        Ok(write_attribute(&target, SNAPSHOT_ATTRIBUTE, &record)?)
    }

    pub(super) fn place_snapshot(&self, ct: CtId, id: SnapshotId) -> Result<(), Error> {
        publish(&self.new_snapshot_path(ct, id), &self.snapshot_path(ct, id))?;
        // It may be the first in its directory.
        Ok(sync_dir(&self.pool.snapshots())?)
    }

    pub(super) fn remove_snapshot(&self, ct: CtId, id: SnapshotId) -> Result<(), Error> {
        file::remove_if_exists(&self.snapshot_path(ct, id))?;
        if self.snapshot_dir(ct).exists() {
            sync_dir(&self.snapshot_dir(ct))?;
        }
        Ok(self.tidy(ct)?)
    }

    pub(super) fn drop_unfinished_snapshots(&self, ct: CtId) -> Result<(), Error> {
        for path in entries(&self.snapshot_dir(ct))?.into_iter().filter(|p| is_unfinished(p)) {
            tracing::info!(path = %path.display(), "throw away an unfinished snapshot");
            discard(&path)?;
        }
        Ok(self.tidy(ct)?)
    }

    pub(super) fn volume_of_snapshot(
        &self,
        ct: CtId,
        to: Reverted,
        bytes: u64,
    ) -> Result<(), Error> {
        let path = self.snapshot_path(ct, to.snapshot);
        let gone = |why: String| Error::Record { record: path.display().to_string(), why };
        let (image, snapshot) = match open(ct, to.snapshot, &path)? {
            There::Ours(image, snapshot) => (image, snapshot),
            There::Nothing => return Err(gone("it is gone".to_owned())),
            There::Foreign(why) => return Err(gone(why)),
        };
        let record = plan::Record { reverted: Some(to), ..snapshot.record.volume };
        self.clone_image(ct, &image, &record, bytes).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::backend::Backend;
    use crate::kernel::file::synced;
    use crate::kernel::image::tests::images;

    fn ct() -> CtId {
        CtId::try_from(9302).expect("valid")
    }

    fn half(images: &Images, id: SnapshotId) {
        directory(&images.snapshot_dir(ct())).expect("made");
        std::fs::write(images.new_snapshot_path(ct(), id), b"an image").expect("written");
    }

    #[test]
    fn a_published_snapshot_keeps_its_name_over_a_power_cut() {
        let (images, _dir) = images();
        let id = SnapshotId::from(1);
        half(&images, id);
        let (own, all) = (images.snapshot_dir(ct()), images.pool.snapshots());
        for times in 1..=2 {
            // The second finds it published: the first may have died.
            images.publish_snapshot(ct(), id).expect("published");
            assert!(images.snapshot_path(ct(), id).exists());
            assert_eq!((synced(&own), synced(&all)), (times, times));
        }
        images.delete_snapshot(ct(), id).expect("deleted");
        assert_eq!((synced(&own), own.exists()), (3, false));
        images.delete_snapshot(ct(), id).expect("found deleted");
    }

    #[test]
    fn a_sweep_takes_what_is_unfinished_and_nothing_else() {
        let (images, _dir) = images();
        half(&images, SnapshotId::from(1));
        let sweep = || {
            let left = images.unfinished_snapshots().expect("listed");
            left.into_iter().for_each(|ct| images.discard_snapshots(ct).expect("swept"));
        };
        sweep();
        assert!(!images.snapshot_dir(ct()).exists());
        half(&images, SnapshotId::from(2));
        images.publish_snapshot(ct(), SnapshotId::from(2)).expect("published");
        half(&images, SnapshotId::from(3));
        let stray = images.snapshot_dir(ct()).join("notes");
        std::fs::write(&stray, b"somebody's").expect("written");
        assert!(images.snapshots(ct()).is_ok_and(|s| s.unfinished && s.foreign.is_some()));
        sweep();
        assert!(stray.exists() && images.snapshot_path(ct(), SnapshotId::from(2)).exists());
        assert!(images.snapshots(ct()).is_ok_and(|s| !s.unfinished));
    }
}
