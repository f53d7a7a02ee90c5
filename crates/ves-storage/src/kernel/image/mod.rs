//! A pool of image files: what [`Backend`] asks, one mechanism a file.
//!
//! ```text
//! pool        <state>/storage/pool, or pool.img mounted there
//! volume      <pool>/volumes/ID.img ─► loop ─► ext4
//! snapshot    <pool>/snapshots/ID/UUID.img
//! base image  <pool>/templates/NAME/golden-N.img
//! ```
//!
//! What is not whole yet has the same name and `.new`. Never here: decisions, mounts of volumes.

mod base_image;
mod damage;
mod devices;
mod file;
pub mod pool;
mod snapshot;
mod volume;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use ves_host::ext4::Mend;
use ves_types::{CtId, Generation, SnapshotId, TemplateName};

use self::devices::Devices;
use self::pool::Pool;
use super::backend::{Backend, BaseImage, SnapshotStates, VolumeState};
use crate::error::Error;
use crate::host::{BackendKind, Each};
use crate::ledger::Inventory;
use crate::plan::node::Leftovers;
use crate::plan::room::Room;
use crate::plan::{BaseImageId, Record, Reverted, snapshot as planned};

/// Image files in a pool.
#[derive(Debug)]
pub struct Images {
    pool: Pool,
    devices: Devices,
}

impl Images {
    /// In this pool.
    pub fn new(pool: Pool) -> Self {
        Self { pool, devices: Devices::default() }
    }
}

impl Backend for Images {
    fn kind(&self) -> BackendKind {
        if self.pool.reflink { BackendKind::ImageReflink } else { BackendKind::ImageCopy }
    }
    fn shares_blocks(&self) -> bool {
        self.pool.reflink
    }
    fn takes_discards(&self) -> bool {
        self.pool.own()
    }
    fn room(&self) -> Result<Room, Error> {
        Ok(self.pool.room()?)
    }
    fn back(&self, bytes: u64) -> Result<(), Error> {
        Ok(self.pool.back(bytes)?)
    }
    fn inventory(&self) -> Result<Inventory, Error> {
        let mut all = self.volume_sizes()?;
        all.extend(self.snapshot_sizes()?);
        Ok(all)
    }
    fn templates(&self) -> PathBuf {
        self.pool.templates()
    }
    fn leftovers(&self) -> Result<Leftovers, Error> {
        Ok(Leftovers {
            base_images: self.unfinished_base_images()?,
            snapshots: self.unfinished_snapshots()?,
            templates: BTreeSet::new(),
            ..self.unfinished_volumes()?
        })
    }
    fn discard_base_images(&self, template: &str) -> Result<(), Error> {
        self.drop_unfinished_base_images(template)
    }
    fn discard_snapshots(&self, ct: CtId) -> Result<(), Error> {
        self.drop_unfinished_snapshots(ct)
    }
    fn drop_device(&self, number: u32) -> Result<(), Error> {
        ves_host::loopdev::detach(number)?;
        self.devices.detached(number);
        Ok(())
    }

    fn look(&self, ct: CtId) -> Result<VolumeState, Error> {
        self.see(ct, None)
    }
    fn owners(&self) -> Result<BTreeSet<CtId>, Error> {
        Ok(self.list()?.into_iter().collect())
    }
    fn look_all(&self) -> Result<Each<VolumeState>, Error> {
        self.see_all()
    }
    fn met_errors(&self) -> Result<BTreeMap<CtId, u32>, Error> {
        self.errors_of_mounted()
    }
    fn clone_base_image(
        &self,
        ct: CtId,
        from: &BaseImageId,
        record: &Record,
        bytes: u64,
    ) -> Result<(), Error> {
        self.volume_of_base_image(ct, from, record, bytes)
    }
    fn clone_volume(&self, ct: CtId, bytes: u64) -> Result<(), Error> {
        self.volume_of_itself(ct, bytes)
    }
    fn clone_snapshot(&self, ct: CtId, to: Reverted, bytes: u64) -> Result<(), Error> {
        self.volume_of_snapshot(ct, to, bytes)
    }
    fn grow_clone(&self, ct: CtId, blocks: u64) -> Result<(), Error> {
        Ok(ves_host::ext4::grow_unmounted(&self.new_path(ct), blocks)?)
    }
    fn publish(&self, ct: CtId) -> Result<(), Error> {
        // Whoever was told that there is a volume never has it made again: its name must last.
        Ok(file::publish(&self.new_path(ct), &self.path(ct))?)
    }
    fn discard(&self, ct: CtId) -> Result<(), Error> {
        file::discard(&self.new_path(ct))?;
        self.drop_unfinished_snapshots(ct)
    }
    fn extend(&self, ct: CtId, bytes: u64) -> Result<(), Error> {
        self.lengthen(ct, bytes)
    }
    fn activate(&self, ct: CtId) -> Result<(), Error> {
        self.attach(ct)
    }
    fn refresh(&self, ct: CtId) -> Result<(), Error> {
        self.refresh_size(ct)
    }
    fn let_go(&self, ct: CtId) -> Result<(), Error> {
        self.detach(ct).map(drop)
    }
    fn check(&self, ct: CtId, mend: Mend) -> Result<(), Error> {
        self.check_device(ct, mend)
    }
    fn note_checked(&self, ct: CtId, generation: Generation) -> Result<(), Error> {
        self.write_checked(ct, generation)
    }
    fn deactivate(&self, ct: CtId) -> Result<(), Error> {
        match self.detach(ct)? {
            Some(device) => Err(volume::in_use(ct, device)),
            None => Ok(()),
        }
    }
    fn remove(&self, ct: CtId) -> Result<(), Error> {
        self.delete(ct)
    }
    fn shows_volumes(&self, device: u64) -> bool {
        volume::is_loop(device)
    }
    fn drop_orphan(&self, device: u64) -> Result<(), Error> {
        self.detach_orphan(device)
    }

    fn snapshots(&self, ct: CtId) -> Result<SnapshotStates, Error> {
        self.see_snapshots(ct)
    }
    fn own_bytes(&self, ct: CtId, id: SnapshotId) -> Result<Option<u64>, Error> {
        self.snapshot_own_bytes(ct, id)
    }
    fn take(&self, ct: CtId, id: SnapshotId, record: &planned::Record) -> Result<(), Error> {
        self.take_snapshot(ct, id, record)
    }
    fn publish_snapshot(&self, ct: CtId, id: SnapshotId) -> Result<(), Error> {
        self.place_snapshot(ct, id)
    }
    fn delete_snapshot(&self, ct: CtId, id: SnapshotId) -> Result<(), Error> {
        self.remove_snapshot(ct, id)
    }

    fn base_images(&self, template: &TemplateName) -> Result<BTreeMap<u64, BaseImage>, Error> {
        self.see_base_images(template)
    }
    fn make_base_image(
        &self,
        id: &BaseImageId,
        bytes: u64,
        fill: &mut dyn FnMut(&Path) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.write_base_image(id, bytes, fill)
    }
    fn delete_base_image(&self, id: &BaseImageId) -> Result<(), Error> {
        Ok(file::discard(&self.base_image_path(id))?)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use ves_types::layout::Layout;

    use super::pool::Place;
    use super::*;
    use crate::config::{Config, PoolKind};
    use crate::plan::node::Step;

    /// The backend on a new pool of copies, in a directory of its own.
    pub(in crate::kernel) fn images() -> (Images, tempfile::TempDir) {
        let dir = tempfile::tempdir().expect("a directory");
        let layout = Layout::new(dir.path().join("run"), dir.path().join("state"));
        let config = Config { pool: PoolKind::ImageCopy, ..Config::default() };
        let place = Place::new(&layout);
        place.observe().expect("seen");
        place.apply(&Step::MakeDirectories).expect("made");
        (Images::new(place.pool(&config).expect("a pool")), dir)
    }
}
