//! The seam: what a kind of pool has to be able to do. Everything that reads or changes a pool, a
//! volume, a snapshot or a base image goes through [`Backend`]; what all kinds have in common (mounts,
//! id maps, growing a mounted ext4, templates' archives and records) is in [`super::KernelHost`] and
//! knows no files, no loop devices and no logical volumes.
//!
//! Each operation finds done what was done before. What is made is made beside its place and moved
//! there when it is whole. Never here: how; decisions.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use ves_host::ext4::Mend;
use ves_types::{CtId, Generation, SnapshotId, TemplateName};

use crate::error::Error;
use crate::host::{BackendKind, Each};
use crate::ledger::Inventory;
use crate::plan::node::Leftovers;
use crate::plan::room::Room;
use crate::plan::snapshot::{self, Snapshot};
use crate::plan::{BaseImageId, Image, Record, Reverted};

/// A volume, as a backend sees it.
#[derive(Debug)]
pub struct VolumeState {
    /// What is at its place.
    pub image: Image,
    /// Whether a clone was begun and not finished.
    pub unfinished: bool,
    /// The device that shows it.
    pub device: Option<Device>,
    /// Bytes it takes.
    pub allocated: u64,
}

/// An active device.
#[derive(Debug, Clone)]
pub struct Device {
    /// Where it is.
    pub path: PathBuf,
    /// The kernel's number of it.
    pub number: u64,
    /// Its size.
    pub bytes: u64,
    /// Whether it goes with its last user.
    pub leaving: bool,
}

/// What there is of a container's snapshots.
#[derive(Debug, Default)]
pub struct SnapshotStates {
    /// Those that are whole.
    pub snapshots: BTreeMap<SnapshotId, Snapshot>,
    /// Whether one was begun and not finished.
    pub unfinished: bool,
    /// What is none of ours.
    pub foreign: Option<String>,
}

/// A base image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BaseImage {
    /// Its length.
    pub bytes: u64,
    /// Bytes it takes in the pool.
    pub allocated: u64,
    /// When it was made, in seconds since 1970.
    pub made_unix: i64,
}

/// A kind of pool.
pub trait Backend: Send + Sync + 'static {
    /// What its pool is made of.
    fn kind(&self) -> BackendKind;
    /// Whether a volume can be cloned at one moment, while it is written to.
    fn shares_blocks(&self) -> bool;
    /// Whether volumes may give back what they do not use. Where others use the same file system they
    /// keep it, or it would be gone when they want it again.
    fn takes_discards(&self) -> bool;
    /// Its room.
    fn room(&self) -> Result<Room, Error>;
    /// Lets so much of it be backed by what is under it, and reach so far.
    fn back(&self, bytes: u64) -> Result<(), Error>;
    /// Its volumes and snapshots, and how much each holds.
    fn inventory(&self) -> Result<Inventory, Error>;
    /// The directory for templates' archives and records.
    fn templates(&self) -> PathBuf;
    /// What a crash may have left, but for templates.
    fn leftovers(&self) -> Result<Leftovers, Error>;
    /// Throws base images away that were not finished.
    fn discard_base_images(&self, template: &str) -> Result<(), Error>;
    /// Throws snapshots away that were not finished.
    fn discard_snapshots(&self, ct: CtId) -> Result<(), Error>;
    /// Takes a device away.
    fn drop_device(&self, number: u32) -> Result<(), Error>;

    /// One volume.
    fn look(&self, ct: CtId) -> Result<VolumeState, Error>;
    /// Who has a volume, or something in its place.
    fn owners(&self) -> Result<BTreeSet<CtId>, Error>;
    /// All volumes, by container.
    fn look_all(&self) -> Result<Each<VolumeState>, Error>;
    /// In whose mounted file systems the kernel has met errors, and how many.
    fn met_errors(&self) -> Result<BTreeMap<CtId, u32>, Error>;
    /// Clones a base image to a volume, beside its place.
    fn clone_base_image(
        &self,
        ct: CtId,
        from: &BaseImageId,
        record: &Record,
        bytes: u64,
    ) -> Result<(), Error>;
    /// Clones the volume itself, beside its place.
    fn clone_volume(&self, ct: CtId, bytes: u64) -> Result<(), Error>;
    /// Clones a snapshot to a volume, beside the volume's place.
    fn clone_snapshot(&self, ct: CtId, to: Reverted, bytes: u64) -> Result<(), Error>;
    /// Grows the file system of the clone.
    fn grow_clone(&self, ct: CtId, blocks: u64) -> Result<(), Error>;
    /// Lets the clone be the volume, in place of what was.
    fn publish(&self, ct: CtId) -> Result<(), Error>;
    /// Throws away a clone or snapshot that was not finished.
    fn discard(&self, ct: CtId) -> Result<(), Error>;
    /// Makes a volume longer.
    fn extend(&self, ct: CtId, bytes: u64) -> Result<(), Error>;
    /// Makes the device exist, and stay.
    fn activate(&self, ct: CtId) -> Result<(), Error>;
    /// Lets the device see the volume's length.
    fn refresh(&self, ct: CtId) -> Result<(), Error>;
    /// Lets the device go: now, or with its last user.
    fn let_go(&self, ct: CtId) -> Result<(), Error>;
    /// Checks the file system on the device, which nobody has mounted.
    ///
    /// # Errors
    /// [`Error::Damaged`], or what failed.
    fn check(&self, ct: CtId, mend: Mend) -> Result<(), Error>;
    /// Notes with a volume which decision had it checked.
    fn note_checked(&self, ct: CtId, generation: Generation) -> Result<(), Error>;
    /// Makes the device not exist.
    ///
    /// # Errors
    /// [`Error::InUse`], or what failed.
    fn deactivate(&self, ct: CtId) -> Result<(), Error>;
    /// Removes a volume that is not active.
    ///
    /// # Errors
    /// [`Error::InUse`], or what failed.
    fn remove(&self, ct: CtId) -> Result<(), Error>;
    /// Whether a device number is of the kind that shows volumes here.
    fn shows_volumes(&self, device: u64) -> bool;
    /// Takes away a device of that kind whose volume was deleted behind our back.
    fn drop_orphan(&self, device: u64) -> Result<(), Error>;

    /// The snapshots of a container.
    fn snapshots(&self, ct: CtId) -> Result<SnapshotStates, Error>;
    /// Bytes nothing else shares with a snapshot, where that can be found out.
    fn own_bytes(&self, ct: CtId, id: SnapshotId) -> Result<Option<u64>, Error>;
    /// Clones the volume to a snapshot, beside its place.
    fn take(&self, ct: CtId, id: SnapshotId, record: &snapshot::Record) -> Result<(), Error>;
    /// Moves a snapshot to its place.
    fn publish_snapshot(&self, ct: CtId, id: SnapshotId) -> Result<(), Error>;
    /// Deletes a snapshot.
    fn delete_snapshot(&self, ct: CtId, id: SnapshotId) -> Result<(), Error>;

    /// A template's base images, by inodes per group.
    fn base_images(&self, template: &TemplateName) -> Result<BTreeMap<u64, BaseImage>, Error>;
    /// Makes a base image: an empty ext4 of this length, then what `fill` puts in by its device. Where
    /// that fails, nothing is left.
    fn make_base_image(
        &self,
        id: &BaseImageId,
        bytes: u64,
        fill: &mut dyn FnMut(&Path) -> Result<(), Error>,
    ) -> Result<(), Error>;
    /// Deletes a base image.
    fn delete_base_image(&self, id: &BaseImageId) -> Result<(), Error>;
}
