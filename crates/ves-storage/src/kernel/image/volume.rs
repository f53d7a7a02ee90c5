//! Volumes as image files on loop devices.

use std::collections::{BTreeSet, HashSet};
use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::time::Duration;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use ves_host::ext4::{self, Damage, Mend, Verdict};
use ves_host::loopdev::{self, Attached, FileId};
use ves_host::{Attempt, HostError, file};
use ves_types::{CtId, Generation};

use super::Images;
use super::devices::Snapshot;
use super::file::{clone_file, read_attribute, until, write_attribute};
use crate::error::Error;
use crate::host::Each;
use crate::kernel::backend::{Device, VolumeState};
use crate::kernel::file::sync_dir;
use crate::kernel::holders;
use crate::ledger::{Holder, Inventory};
use crate::observe::{self, RECORD_ATTRIBUTE, VolumeRecord};
use crate::plan::node::{Leftovers, Shows};
use crate::plan::{BaseImageId, Image, Record};

/// How long the kernel may take to take a device away after the last unmount; namespaces end
/// asynchronously.
const PATIENCE: Duration = Duration::from_secs(5);

/// Block devices of this major number are loop devices.
const LOOP_MAJOR: u32 = 7;

/// Whether this is the number of a loop device.
pub(super) fn is_loop(device: u64) -> bool {
    rustix::fs::major(device) == LOOP_MAJOR
}

impl Images {
    /// A volume's image.
    pub(super) fn path(&self, ct: CtId) -> PathBuf {
        self.pool.volumes().join(observe::image_name(ct))
    }
    pub(super) fn new_path(&self, ct: CtId) -> PathBuf {
        self.pool.volumes().join(format!("{}.new", observe::image_name(ct)))
    }

    fn open_volume(&self, ct: CtId, write: bool) -> Result<Option<File>, HostError> {
        let path = self.path(ct);
        let opened = OpenOptions::new()
            .read(true)
            .write(write)
            .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
            .open(&path);
        match opened {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            other => other.map(Some).attempt(|| format!("open {}", path.display())),
        }
    }

    pub(super) fn need(&self, ct: CtId) -> Result<File, Error> {
        self.open_volume(ct, true)?.ok_or_else(|| self.gone(ct))
    }

    fn gone(&self, ct: CtId) -> Error {
        Error::Record {
            record: self.path(ct).display().to_string(),
            why: format!("the image of container {ct} is gone"),
        }
    }

    /// Makes a clone of an image beside the volume's place, marked as the container's volume.
    pub(super) fn clone_image(
        &self,
        ct: CtId,
        from: &File,
        record: &Record,
        bytes: u64,
    ) -> Result<File, Error> {
        let target = clone_file(from, &self.new_path(ct), bytes, self.pool.reflink)?;
        self.reserve(&target, bytes)?;
        let record = VolumeRecord { ct, record: record.clone() };
        write_attribute(&target, RECORD_ATTRIBUTE, &record)?;
        Ok(target)
    }

    /// Gives a volume all its blocks, where others could take them.
    fn reserve(&self, image: &File, bytes: u64) -> Result<(), HostError> {
        match self.pool.own() {
            true => Ok(()),
            false => fallocate(image, FallocateFlags::empty(), 0, bytes)
                .attempt(|| format!("reserve {bytes} bytes for a volume")),
        }
    }

    /// The loop device of an image.
    fn device(&self, ct: CtId, image: &File) -> Result<Option<Attached>, HostError> {
        self.devices.find(ct, FileId::of(image)?, None)
    }

    pub(super) fn see(&self, ct: CtId, attached: Option<&Snapshot>) -> Result<VolumeState, Error> {
        let unfinished = std::fs::symlink_metadata(self.new_path(ct)).is_ok();
        let path = self.path(ct);
        let foreign = |why: String| VolumeState {
            image: Image::Foreign(format!("{} ({why})", path.display())),
            unfinished,
            device: None,
            allocated: 0,
        };
        let image = match self.open_volume(ct, false) {
            Err(e) if e.is(Errno::LOOP) => return Ok(foreign("a symbolic link".to_owned())),
            other => other?,
        };
        let Some(image) = image else {
            return Ok(VolumeState {
                image: Image::Absent,
                unfinished,
                device: None,
                allocated: 0,
            });
        };
        let meta = image.metadata().attempt(|| format!("look at {}", path.display()))?;
        if !meta.is_file() {
            return Ok(foreign("no file".to_owned()));
        }
        let Some(value) = read_attribute(&image, RECORD_ATTRIBUTE)? else {
            return Ok(foreign("it has no record".to_owned()));
        };
        let record = value.and_then(|bytes| observe::parse_volume_record(ct, &bytes));
        let record = match record {
            Ok(record) => record,
            Err(why) => return Ok(foreign(format!("its record: {why}"))),
        };
        let id = FileId { device: meta.dev(), inode: meta.ino() };
        let shown = self.devices.find(ct, id, attached)?;
        // The kernel changes a mounted file system's superblock in the device's cache first.
        let superblock = ext4::inspect(shown.as_ref().map_or(&image, |device| &device.open))?;
        let device = shown.map(|seen| Device {
            path: loopdev::path(seen.number),
            number: seen.device,
            bytes: seen.bytes,
            leaving: seen.leaving,
        });
        // A volume had one when it was made: without, it is damaged, and was as large as its image.
        let (blocks, damage) = superblock.map_or_else(
            || {
                let blocks = ext4::usable_blocks(meta.len(), record.inodes_per_group);
                (blocks, Some(Damage::default()))
            },
            |superblock| (superblock.blocks, superblock.damage),
        );
        let image = Image::Ours { record, bytes: meta.len(), blocks, damage };
        Ok(VolumeState { image, unfinished, device, allocated: meta.blocks() * 512 })
    }

    /// Lets a device go; tells whether it is gone.
    fn release(&self, device: Attached) -> Result<bool, Error> {
        let Attached { number, file, open, .. } = device;
        drop(open);
        loopdev::detach(number)?;
        let gone = until(PATIENCE, || Ok(loopdev::backing(number)? != Some(file)))?;
        if gone {
            self.devices.detached(number);
        }
        Ok(gone)
    }

    /// Unfinished volumes and devices, whatever they show.
    pub(super) fn unfinished_volumes(&self) -> Result<Leftovers, Error> {
        let dir = self.pool.volumes();
        let what = || format!("list {}", dir.display());
        let (mut volumes, mut images) = (BTreeSet::new(), HashSet::new());
        for entry in std::fs::read_dir(&dir).attempt(what)? {
            let name = entry.attempt(what)?.file_name();
            let Some(name) = name.to_str() else { continue };
            if let Some(ct) = observe::parse_image_name(name) {
                // One that cannot be looked at is told when it is asked for; the others are served.
                match self
                    .open_volume(ct, false)
                    .and_then(|i| i.map(|i| FileId::of(&i)).transpose())
                {
                    Ok(id) => images.extend(id),
                    Err(error) => tracing::warn!(%error, name, "look for its device, ignoring"),
                }
            } else {
                let ct = name.strip_suffix(".new").and_then(observe::parse_image_name);
                volumes.extend(ct);
            }
        }
        let pool = self.pool.device()?;
        let mut devices = Vec::new();
        for (number, id) in loopdev::all()? {
            let shows = if images.contains(&id) {
                Shows::Volume
            } else if self.pool.own() && id.device == pool {
                Shows::Stray
            } else {
                Shows::Other
            };
            devices.push((number, shows, loopdev::held(number)?));
        }
        Ok(Leftovers { volumes, devices, ..Leftovers::default() })
    }

    pub(super) fn list(&self) -> Result<Vec<CtId>, Error> {
        let volumes = self.pool.volumes();
        let what = || format!("list {}", volumes.display());
        let mut cts = Vec::new();
        for entry in std::fs::read_dir(&volumes).attempt(what)? {
            let name = entry.attempt(what)?.file_name();
            cts.extend(name.to_str().and_then(observe::parse_image_name));
        }
        Ok(cts)
    }

    /// Takes a loop device away whose image was deleted; nothing else knows it.
    pub(super) fn detach_orphan(&self, device: u64) -> Result<(), Error> {
        let link = format!("/sys/dev/block/{LOOP_MAJOR}:{}", rustix::fs::minor(device));
        let target = std::fs::read_link(link).ok();
        let name = target.as_deref().and_then(|t| t.file_name()?.to_str()?.strip_prefix("loop"));
        if let Some(number) = name.and_then(|n| n.parse().ok()).filter(|_| is_loop(device)) {
            loopdev::detach(number)?;
            self.devices.detached(number);
        }
        Ok(())
    }

    /// The lengths of all volumes.
    pub(super) fn volume_sizes(&self) -> Result<Inventory, Error> {
        let size = |ct| {
            // One that vanishes meanwhile holds nothing.
            let bytes = std::fs::symlink_metadata(self.path(ct)).map_or(0, |m| m.len());
            (Holder::Volume(ct), bytes)
        };
        Ok(self.list()?.into_iter().map(size).collect())
    }

    pub(super) fn see_all(&self) -> Result<Each<VolumeState>, Error> {
        let mut cts = self.list()?;
        cts.sort_unstable();
        let attached = self.devices.all()?;
        Ok(cts.into_iter().map(|ct| (ct, self.see(ct, Some(&attached)))).collect())
    }

    pub(super) fn volume_of_base_image(
        &self,
        ct: CtId,
        from: &BaseImageId,
        record: &Record,
        bytes: u64,
    ) -> Result<(), Error> {
        let path = self.base_image_path(from);
        let source = File::open(&path).attempt(|| format!("open {}", path.display()))?;
        let target = self.clone_image(ct, &source, record, bytes)?;
        Ok(ext4::set_uuid(&target, random_uuid()?)?)
    }

    pub(super) fn volume_of_itself(&self, ct: CtId, bytes: u64) -> Result<(), Error> {
        let Image::Ours { record, .. } = self.see(ct, None)?.image else {
            return Err(self.gone(ct));
        };
        self.clone_image(ct, &self.need(ct)?, &record, bytes).map(drop)
    }

    pub(super) fn lengthen(&self, ct: CtId, bytes: u64) -> Result<(), Error> {
        let what = || format!("extend {}", self.path(ct).display());
        let image = self.need(ct)?;
        if image.metadata().attempt(what)?.len() < bytes {
            image.set_len(bytes).attempt(what)?;
            self.reserve(&image, bytes)?;
            image.sync_all().attempt(what)?;
        }
        Ok(())
    }

    pub(super) fn attach(&self, ct: CtId) -> Result<(), Error> {
        let image = self.need(ct)?;
        match self.device(ct, &image)? {
            Some(device) if device.leaving => loopdev::keep(&device)?,
            Some(_) => {}
            None => {
                // The volume's own file system has a page cache; a second one would only cost memory.
                let number = loopdev::attach(&image, true)?;
                self.devices.attached(ct, number);
            }
        }
        Ok(())
    }

    pub(super) fn refresh_size(&self, ct: CtId) -> Result<(), Error> {
        let image = self.need(ct)?;
        match self.device(ct, &image)? {
            Some(device) => Ok(loopdev::refresh_size(device.number)?),
            None => Ok(()),
        }
    }

    /// Checks a volume's file system by its device, which e2fsck opens for itself alone.
    pub(super) fn check_device(&self, ct: CtId, mend: Mend) -> Result<(), Error> {
        let image = self.need(ct)?;
        let device = self.device(ct, &image)?.ok_or_else(|| self.gone(ct))?;
        let (path, bytes, number) = (loopdev::path(device.number), device.bytes, device.device);
        if loopdev::held(device.number)? {
            return Err(in_use(ct, number));
        }
        drop(device);
        match ext4::check(&path, bytes, mend)? {
            Verdict::Sound => Ok(()),
            Verdict::Damaged(said) => Err(Error::Damaged { ct, said, all: mend == Mend::All }),
        }
    }

    pub(super) fn write_checked(&self, ct: CtId, generation: Generation) -> Result<(), Error> {
        let Image::Ours { record, .. } = self.see(ct, None)?.image else {
            return Err(self.gone(ct));
        };
        let record = Record { checked: Some(generation), ..record };
        let record = VolumeRecord { ct, record };
        Ok(write_attribute(&self.need(ct)?, RECORD_ATTRIBUTE, &record)?)
    }

    /// Lets the device go; answers its number where somebody uses it, with whom it goes.
    pub(super) fn detach(&self, ct: CtId) -> Result<Option<u64>, Error> {
        let Some(image) = self.open_volume(ct, false)? else { return Ok(None) };
        let Some(device) = self.device(ct, &image)? else { return Ok(None) };
        let number = device.device;
        Ok((!self.release(device)?).then_some(number))
    }

    pub(super) fn delete(&self, ct: CtId) -> Result<(), Error> {
        if let Some(image) = self.open_volume(ct, false)?
            && let Some(number) = self.devices.shown(FileId::of(&image)?)?
        {
            return Err(in_use(ct, loopdev::device_number(number)?));
        }
        file::remove_if_exists(&self.path(ct))?;
        Ok(sync_dir(&self.pool.volumes())?)
    }
}

/// Whoever holds the device.
pub(super) fn in_use(ct: CtId, device: u64) -> Error {
    Error::InUse { ct, holder: holders::of([device]).remove(&device).unwrap_or_default() }
}

fn random_uuid() -> Result<[u8; 16], HostError> {
    let path = "/proc/sys/kernel/random/uuid";
    let text = std::fs::read_to_string(path).attempt(|| format!("read {path}"))?;
    let hex: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    u128::from_str_radix(&hex, 16)
        .map(u128::to_be_bytes)
        .map_err(|_| HostError::parse("make a UUID", &text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::backend::Backend;
    use crate::kernel::file::synced;
    use crate::kernel::image::tests::images;

    fn ct() -> CtId {
        CtId::try_from(9301).expect("valid")
    }

    #[test]
    fn a_published_volume_keeps_its_name_over_a_power_cut() {
        let (images, _dir) = images();
        std::fs::write(images.new_path(ct()), b"a clone").expect("written");
        let before = synced(&images.pool.volumes());
        images.publish(ct()).expect("published");
        assert!(images.path(ct()).exists());
        assert_eq!(synced(&images.pool.volumes()), before + 1);
        images.publish(ct()).expect("found published");
        assert_eq!(synced(&images.pool.volumes()), before + 2, "the first call may have died");
    }

    #[test]
    fn a_base_image_is_not_cut_short() {
        let (images, dir) = images();
        let base_image = dir.path().join("base_image.img");
        std::fs::write(&base_image, [1; 8192]).expect("written");
        let (base_image, new) = (File::open(&base_image).expect("there"), images.new_path(ct()));
        let error = clone_file(&base_image, &new, 4096, false).expect_err("it does not fit");
        assert!(
            matches!(error, Error::TooSmall { need: 8192, want: 4096 }),
            "{error} is another failure"
        );
        assert!(!new.exists());
        clone_file(&base_image, &new, 8192, false).expect("it fits");
    }

    #[test]
    fn a_bad_image_does_not_stop_the_look_for_leftovers() {
        let (images, _dir) = images();
        std::os::unix::fs::symlink("/nowhere", images.path(ct())).expect("made");
        images.unfinished_volumes().expect("looked through");
        assert!(images.look(ct()).is_ok_and(|s| matches!(s.image, Image::Foreign(_))));
    }
}
