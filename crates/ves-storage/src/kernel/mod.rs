//! The real host: what all kinds of pools have in common, on a [`Backend`], which is the seam.
//!
//! [`KernelHost`] mounts volumes with their id maps, grows their file systems while they are mounted,
//! and keeps templates' archives and records. Everything else it asks of its backend: there is one, of
//! image files. Never here: files of the pool, loop devices, logical volumes; decisions.

pub mod backend;
mod build;
pub(crate) mod builder;
mod file;
pub mod image;
mod order;
mod template;

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::OFlags;
use rustix::io::Errno;
use ves_host::mount::{self, Change, FsContext, attr};
use ves_host::{Attempt, HostError, ext4, id_map};
use ves_types::layout::Layout;
use ves_types::{CtId, IdSlot, SnapshotId, TemplateName};

use self::backend::{Backend, VolumeState};
use self::file::directory;
use self::image::Images;
use self::template::Templates;
use crate::config::Config;
use crate::error::Error;
use crate::host::{self, BackendKind, Each, Host, Making, Template, Usage};
use crate::ledger::Inventory;
use crate::observe;
use crate::plan::node::{Leftovers, Sweep};
use crate::plan::room::Room;
use crate::plan::snapshot::Snapshot;
use crate::plan::template as planned;
use crate::plan::{Image, Mount, Observed, Step};

/// The real host on a backend.
#[derive(Debug)]
pub struct KernelHost<B = Images> {
    layout: Layout,
    max_snapshots: usize,
    online_growth: bool,
    templates: Templates<B>,
    backend: Arc<B>,
}

impl<B: Backend> KernelHost<B> {
    /// The host on this backend. `unpacker` is an executable whose `main` begins with
    /// [`crate::dispatch`], such as the daemon's own.
    pub fn new(
        backend: B,
        config: &Config,
        layout: Layout,
        unpacker: PathBuf,
    ) -> Result<Self, Error> {
        let backend = Arc::new(backend);
        let templates =
            Templates::new(backend.clone(), config.limits(), config.mirror.clone(), unpacker)
                .built_by(layout.builder_socket());
        let max_snapshots = config.max_snapshots;
        let online_growth = ext4::may_grow_mounted()?;
        if !online_growth {
            tracing::warn!("without CAP_SYS_RESOURCE volumes grow only while they are unmounted");
        }
        Ok(Self { layout, max_snapshots, online_growth, templates, backend })
    }

    /// What a crash may have left.
    pub fn leftovers(&self) -> Result<Leftovers, Error> {
        let templates = self.templates.leftovers()?;
        Ok(Leftovers { templates, ..self.backend.leftovers()? })
    }

    /// Throws one of it away.
    pub fn sweep(&self, step: &Sweep) -> Result<(), Error> {
        match step {
            Sweep::Volume(ct) => self.backend.discard(*ct),
            Sweep::Snapshots(ct) => self.backend.discard_snapshots(*ct),
            Sweep::BaseImages(template) => self.backend.discard_base_images(template),
            Sweep::Template(name) => self.templates.sweep(name),
            Sweep::Device(number) => self.backend.drop_device(*number),
        }
    }

    /// What is mounted on the container's root, and whether that directory is there.
    fn mounted(&self, ct: CtId, seen: &VolumeState) -> Result<(Mount, bool), HostError> {
        let root = self.layout.ct_root(ct);
        let what = || format!("look at {}", root.display());
        let meta = match std::fs::symlink_metadata(&root) {
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Ok((Mount::None, false));
            }
            other => other.attempt(what)?,
        };
        if !meta.is_dir() {
            return Ok((Mount::Foreign(format!("the file {}", root.display())), true));
        }
        if mount::is_mount_point(&root)? {
            // Without a volume, a device of this kind mounted here can only be that of one that was
            // deleted.
            let absent = matches!(seen.image, Image::Absent);
            let orphan = absent && self.backend.shows_volumes(meta.dev());
            let ours = seen.device.as_ref().is_some_and(|d| d.number == meta.dev());
            let mount = if ours || orphan {
                Mount::Ours { slot: observe::slot_of(meta.uid()) }
            } else {
                Mount::Foreign(format!("what is mounted on {}", root.display()))
            };
            return Ok((mount, true));
        }
        let mut entries = std::fs::read_dir(&root).attempt(what)?;
        if entries.next().is_some() {
            return Ok((Mount::Foreign(format!("what is in {}", root.display())), true));
        }
        Ok((Mount::None, true))
    }

    /// What is told of a volume.
    fn describe(&self, ct: CtId, seen: VolumeState) -> Result<host::VolumeFacts, Error> {
        let (mount, _) = self.mounted(ct, &seen)?;
        let mut usage = Usage {
            allocated: seen.allocated,
            device: seen.device.as_ref().map(|d| d.number),
            ..Usage::default()
        };
        if let Image::Ours { record, bytes, blocks } = &seen.image {
            let reach = ext4::usable_blocks(*bytes, record.inodes_per_group).max(*blocks);
            usage.inodes = Some(ext4::groups(reach * ext4::BLOCK) * record.inodes_per_group);
        }
        let mounted = matches!(mount, Mount::Ours { .. });
        if mounted {
            let fs = self.statvfs(ct)?;
            usage.used = Some(fs.f_blocks.saturating_sub(fs.f_bfree) * fs.f_frsize);
            usage.used_inodes = Some(fs.f_files.saturating_sub(fs.f_ffree));
        }
        Ok(host::VolumeFacts { image: seen.image, mounted, usage })
    }

    fn statvfs(&self, ct: CtId) -> Result<rustix::fs::StatVfs, HostError> {
        let root = self.layout.ct_root(ct);
        rustix::fs::statvfs(&root).attempt(|| format!("ask for the usage of {}", root.display()))
    }

    /// Bytes the image takes, or will take when what was written to it is written out.
    fn allocated(&self, ct: CtId, seen: &VolumeState, mount: &Mount) -> Result<u64, HostError> {
        if !matches!(mount, Mount::Ours { .. }) {
            return Ok(seen.allocated);
        }
        let fs = self.statvfs(ct)?;
        Ok(seen.allocated.max(fs.f_blocks.saturating_sub(fs.f_bfree) * fs.f_frsize))
    }

    fn mount(&self, ct: CtId, slot: IdSlot) -> Result<(), Error> {
        let root = self.layout.ct_root(ct);
        directory(&self.layout.ct_dir(ct))?;
        directory(&root)?;
        let seen = self.backend.look(ct)?;
        if let (Mount::Ours { slot: there }, _) = self.mounted(ct, &seen)?
            && there == Some(slot)
        {
            return Ok(());
        }
        let ids = id_map::namespace(slot.base(), IdSlot::MAPPED)?;
        let volume = file_system(ct, &seen)?;
        let volume = match self.backend.takes_discards() {
            true => volume.flag("discard")?,
            false => volume,
        };
        let tree = volume
            // The image is sparse: what was never written reads as zeros already.
            .flag("noinit_itable")?
            .mount(attr::NODEV)?;
        let what = root.display().to_string();
        mount::change(&tree, Change { idmap: Some(ids.as_fd()), ..Change::default() }, &what)?;
        Ok(mount::node::attach(&tree, &root)?)
    }

    /// Lets a mounted volume's image hold all that was written until now.
    fn write_out(&self, ct: CtId) -> Result<(), Error> {
        let seen = self.backend.look(ct)?;
        if let (Mount::Ours { .. }, _) = self.mounted(ct, &seen)? {
            rustix::fs::syncfs(self.open_root(ct)?)
                .attempt(|| format!("write out what container {ct} has written"))?;
        }
        Ok(())
    }

    /// The device of a deleted volume that is mounted on a directory.
    fn orphan(&self, root: &Path) -> Option<u64> {
        let device = std::fs::symlink_metadata(root).ok()?.dev();
        let ours = mount::is_mount_point(root).ok()? && self.backend.shows_volumes(device);
        ours.then_some(device)
    }

    fn unmount(&self, ct: CtId) -> Result<(), Error> {
        let root = self.layout.ct_root(ct);
        let orphan = match self.backend.look(ct)?.image {
            Image::Absent => self.orphan(&root),
            Image::Ours { .. } | Image::Foreign(_) => None,
        };
        match mount::node::unmount(&root, false) {
            Err(e) if e.is(Errno::INVAL) || e.is(Errno::NOENT) => {}
            Err(e) if e.is(Errno::BUSY) => return Err(Error::InUse { ct }),
            other => other?,
        }
        // Nothing else knows a device whose image was deleted.
        orphan.map_or(Ok(()), |device| self.backend.drop_orphan(device))
    }

    fn remove_mount_point(&self, ct: CtId) -> Result<(), Error> {
        let gone = |path: &Path| match std::fs::remove_dir(path) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            other => other.attempt(|| format!("remove {}", path.display())),
        };
        gone(&self.layout.ct_root(ct))?;
        match gone(&self.layout.ct_dir(ct)) {
            // Others keep their things for the container there; the last one removes it.
            Err(e) if e.is(Errno::NOTEMPTY) || e.is(Errno::BUSY) => Ok(()),
            other => Ok(other?),
        }
    }

    fn grow(&self, ct: CtId, blocks: u64) -> Result<(), Error> {
        Ok(ext4::grow(self.open_root(ct)?, blocks)?)
    }

    /// The root directory of a mounted volume, to speak to its file system by.
    fn open_root(&self, ct: CtId) -> Result<OwnedFd, Error> {
        let root = self.layout.ct_root(ct);
        match File::open(&root) {
            // Closed to all but its owner, an id of the container's and not ours; by a mount without
            // a map of ids its owner is root.
            Err(e) if e.kind() == ErrorKind::PermissionDenied => {
                let tree = file_system(ct, &self.backend.look(ct)?)?
                    .mount(attr::NODEV | attr::NOSUID | attr::NOEXEC)?;
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                Ok(rustix::fs::openat(&tree, ".", flags, rustix::fs::Mode::empty())
                    .attempt(|| format!("open the root directory of container {ct}"))?)
            }
            other => Ok(other.attempt(|| format!("open {}", root.display()))?.into()),
        }
    }
}

/// The file system of a volume, to be mounted from its device.
fn file_system(ct: CtId, seen: &VolumeState) -> Result<FsContext, Error> {
    let device = seen.device.as_ref().ok_or_else(|| Error::Record {
        record: format!("of the volume of container {ct}"),
        why: "it has no device".to_owned(),
    })?;
    Ok(FsContext::new("ext4")?.set("source", &device.path)?)
}

impl<B: Backend> Host for KernelHost<B> {
    fn observe(&self, ct: CtId, template: Option<&TemplateName>) -> Result<Observed, Error> {
        let seen = self.backend.look(ct)?;
        let (mount, mount_point) = self.mounted(ct, &seen)?;
        let snapshots = self.backend.snapshots(ct)?;
        Ok(Observed {
            allocated: self.allocated(ct, &seen, &mount)?,
            unfinished: seen.unfinished || snapshots.unfinished,
            snapshots: snapshots.snapshots,
            foreign_snapshot: snapshots.foreign,
            device: seen.device.as_ref().map(|d| d.bytes),
            image: seen.image,
            mount,
            mount_point,
            template: template.map(|t| self.templates.facts(t)).transpose()?.flatten(),
            online_growth: self.online_growth,
            shares_blocks: self.backend.shares_blocks(),
            max_snapshots: self.max_snapshots,
        })
    }

    fn apply(&self, ct: CtId, step: &Step) -> Result<(), Error> {
        match step {
            Step::Back { bytes } => self.backend.back(*bytes),
            Step::Discard => self.backend.discard(ct),
            Step::MakeBaseImage(id) => self.templates.find_base_image(id),
            Step::Create { record, bytes } => {
                self.backend.clone_base_image(ct, &record.base_image(), record, *bytes)
            }
            Step::Recreate { bytes } => self.backend.clone_volume(ct, *bytes),
            Step::GrowNew { blocks } => self.backend.grow_clone(ct, *blocks),
            Step::Publish => self.backend.publish(ct),
            Step::Enlarge { bytes } => self.backend.extend(ct, *bytes),
            Step::Activate => self.backend.activate(ct),
            Step::Refresh => self.backend.refresh(ct),
            Step::Mount { slot } => self.mount(ct, *slot),
            Step::Grow { blocks } => self.grow(ct, *blocks),
            Step::TakeSnapshot { id, record } => {
                self.write_out(ct)?;
                self.backend.take(ct, *id, record)
            }
            Step::PublishSnapshot { id } => self.backend.publish_snapshot(ct, *id),
            Step::RemoveSnapshot { id } => self.backend.delete_snapshot(ct, *id),
            Step::Revert { to, bytes } => self.backend.clone_snapshot(ct, *to, *bytes),
            Step::Unmount => self.unmount(ct),
            Step::Deactivate => self.backend.deactivate(ct),
            Step::Remove => self.backend.remove(ct),
            Step::RemoveMountPoint => self.remove_mount_point(ct),
        }
    }

    fn look(&self, ct: CtId) -> Result<host::VolumeFacts, Error> {
        self.describe(ct, self.backend.look(ct)?)
    }

    fn look_all(&self) -> Result<Each<host::VolumeFacts>, Error> {
        let all = self.backend.look_all()?.into_iter();
        Ok(all.map(|(ct, seen)| (ct, seen.and_then(|s| self.describe(ct, s)))).collect())
    }

    fn snapshots(
        &self,
        ct: CtId,
        measure: bool,
    ) -> Result<Vec<(SnapshotId, Snapshot, Option<u64>)>, Error> {
        let seen = self.backend.snapshots(ct)?.snapshots.into_iter();
        seen.map(|(id, snapshot)| {
            let own = if measure { self.backend.own_bytes(ct, id)? } else { None };
            Ok((id, snapshot, own))
        })
        .collect()
    }

    fn inventory(&self) -> Result<Inventory, Error> {
        let mut all = self.backend.inventory()?;
        all.extend(self.templates.inventory()?);
        Ok(all)
    }

    fn room(&self) -> Result<Room, Error> {
        self.backend.room()
    }

    fn back(&self, bytes: u64) -> Result<(), Error> {
        self.backend.back(bytes)
    }

    fn takes(&self, template: &TemplateName) -> Result<u64, Error> {
        self.templates.takes(template)
    }

    fn backend(&self) -> BackendKind {
        self.backend.kind()
    }

    fn templates(&self) -> Result<Vec<Template>, Error> {
        self.templates.list()
    }

    fn observe_template(&self, name: &TemplateName) -> Result<planned::Observed, Error> {
        self.templates.observe(name)
    }

    fn apply_template(
        &self,
        name: &TemplateName,
        step: &planned::Step,
        making: &mut Making<'_, '_>,
    ) -> Result<(), Error> {
        self.templates.apply(name, step, making)
    }

    fn export(&self, name: &TemplateName) -> Result<Box<dyn Read + Send>, Error> {
        self.templates.export(name)
    }
}
