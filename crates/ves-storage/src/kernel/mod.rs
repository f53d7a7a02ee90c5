//! The real host: what all kinds of pools have in common, on a [`Backend`], which is the seam.
//!
//! [`KernelHost`] mounts volumes with their id maps, grows their file systems while they are mounted,
//! and keeps templates' archives and records. Everything else it asks of its backend: there is one, of
//! image files. Never here: files of the pool, loop devices, logical volumes; decisions.

pub mod backend;
mod build;
mod build_log;
pub(crate) mod builder;
mod file;
mod holders;
pub mod image;
mod old_mounts;
mod order;
mod template;

use std::collections::BTreeMap;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::OFlags;
use rustix::io::Errno;
use ves_host::mount::volumes::{Inside, Volumes};
use ves_host::mount::{self, Change, FsContext, attr};
use ves_host::{Attempt, HostError, ext4, id_map};
use ves_types::layout::{Daemon, Layout, volume as name_of};
use ves_types::{CtId, IdSlot, SnapshotId, TemplateName};

use self::backend::{Backend, VolumeState};
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
    volumes: Volumes,
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
                .built_by(layout.builder_socket())
                .logged_in(layout.service_dir(Daemon::Storage).join("builds"));
        let max_snapshots = config.max_snapshots;
        let online_growth = ext4::may_grow_mounted()?;
        if !online_growth {
            tracing::warn!("without CAP_SYS_RESOURCE volumes grow only while they are unmounted");
        }
        let volumes = Volumes::new(layout.volumes_dir());
        Ok(Self { layout, volumes, max_snapshots, online_growth, templates, backend })
    }

    /// Makes the mount namespace of volumes where there is none, and brings those over that an older
    /// release mounted in the node's.
    pub fn make_namespace(&self) -> Result<(), Error> {
        if self.volumes.make()? {
            tracing::info!("volumes have a new mount namespace");
        }
        Ok(old_mounts::bring_over(&self.layout, &self.volumes, |d| self.backend.shows_volumes(d))?)
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

    /// What is mounted for the container, and whether there is a directory for it.
    fn mounted(
        &self,
        ct: CtId,
        seen: &VolumeState,
        volumes: Option<&Inside>,
    ) -> Result<(Mount, bool), HostError> {
        let name = name_of(ct);
        let Some(volumes) = volumes else { return Ok((Mount::None, false)) };
        let Some(place) = volumes.look(&name)? else { return Ok((Mount::None, false)) };
        let foreign = |what| Mount::Foreign(format!("{what} /{name} where volumes are mounted"));
        if !place.directory {
            return Ok((foreign("the file"), true));
        }
        if place.mounted {
            // Without a volume, a device of this kind mounted here can only be that of one that was
            // deleted.
            let absent = matches!(seen.image, Image::Absent);
            let orphan = absent && self.backend.shows_volumes(place.device);
            let ours = seen.device.as_ref().is_some_and(|d| d.number == place.device);
            let mount = if ours || orphan {
                Mount::Ours { slot: observe::slot_of(place.owner) }
            } else {
                foreign("what is mounted on")
            };
            return Ok((mount, true));
        }
        let what = || format!("list the place of volume {name}");
        for entry in rustix::fs::Dir::read_from(volumes.open(&name)?).attempt(what)? {
            if ![c".", c".."].contains(&entry.attempt(what)?.file_name()) {
                return Ok((foreign("what is in"), true));
            }
        }
        Ok((Mount::None, true))
    }

    /// What is told of a volume, but for who holds it; and its device, where it was let go and is held.
    fn describe(
        &self,
        ct: CtId,
        seen: VolumeState,
        volumes: Option<&Inside>,
    ) -> Result<(host::VolumeFacts, Option<u64>), Error> {
        let (mount, _) = self.mounted(ct, &seen, volumes)?;
        let mut usage = Usage {
            allocated: seen.allocated,
            device: seen.device.as_ref().map(|d| d.number),
            ..Usage::default()
        };
        if let Image::Ours { record, bytes, blocks, .. } = &seen.image {
            let reach = ext4::usable_blocks(*bytes, record.inodes_per_group).max(*blocks);
            usage.inodes = Some(ext4::groups(reach * ext4::BLOCK) * record.inodes_per_group);
        }
        let mounted = matches!(mount, Mount::Ours { .. });
        if let (true, Some(volumes)) = (mounted, volumes) {
            let fs = volumes.usage(&name_of(ct))?;
            usage.used = Some(fs.f_blocks.saturating_sub(fs.f_bfree) * fs.f_frsize);
            usage.used_inodes = Some(fs.f_files.saturating_sub(fs.f_ffree));
        }
        let held = seen.device.filter(|d| d.leaving && !mounted).map(|d| d.number);
        Ok((host::VolumeFacts { image: seen.image, mounted, holder: None, usage }, held))
    }

    /// Bytes the image takes, or will take when what was written to it is written out.
    fn allocated(
        ct: CtId,
        seen: &VolumeState,
        mount: &Mount,
        volumes: Option<&Inside>,
    ) -> Result<u64, HostError> {
        let (Mount::Ours { .. }, Some(volumes)) = (mount, volumes) else {
            return Ok(seen.allocated);
        };
        let fs = volumes.usage(&name_of(ct))?;
        Ok(seen.allocated.max(fs.f_blocks.saturating_sub(fs.f_bfree) * fs.f_frsize))
    }

    fn mount(&self, ct: CtId, slot: IdSlot) -> Result<(), Error> {
        let volumes = match self.volumes.enter()? {
            Some(volumes) => volumes,
            // Somebody has taken the pin of the namespace away.
            None => {
                self.volumes.make()?;
                self.volumes.need()?
            }
        };
        let seen = self.backend.look(ct)?;
        if let (Mount::Ours { slot: there }, _) = self.mounted(ct, &seen, Some(&volumes))?
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
        let what = format!("volume {ct}");
        mount::change(&tree, Change { idmap: Some(ids.as_fd()), ..Change::default() }, &what)?;
        Ok(volumes.attach(&tree, &name_of(ct))?)
    }

    /// Lets a mounted volume's image hold all that was written until now.
    fn write_out(&self, ct: CtId) -> Result<(), Error> {
        let seen = self.backend.look(ct)?;
        let Some(volumes) = self.volumes.enter()? else { return Ok(()) };
        if let (Mount::Ours { .. }, _) = self.mounted(ct, &seen, Some(&volumes))? {
            let written = self.open_root(ct, &volumes).and_then(|root| {
                Ok(rustix::fs::syncfs(root)
                    .attempt(|| format!("write out what container {ct} has written"))?)
            });
            match written {
                // What is damaged takes no more changes; the device has what it took.
                Err(error) if is_damaged(&seen) => {
                    tracing::warn!(%ct, %error, "is not written out")
                }
                other => other?,
            }
        }
        Ok(())
    }

    fn unmount(&self, ct: CtId) -> Result<(), Error> {
        let Some(volumes) = self.volumes.enter()? else { return Ok(()) };
        let name = name_of(ct);
        // Nothing else knows a device whose image was deleted.
        let orphan = match self.backend.look(ct)?.image {
            Image::Absent => volumes.look(&name)?.filter(|place| place.mounted),
            Image::Ours { .. } | Image::Foreign(_) => None,
        };
        // Where somebody holds the file system it does not end with our mount, and writes when it likes.
        if let Err(error) = self.write_out(ct) {
            tracing::warn!(%ct, %error, "unmounted in spite of a failure");
        }
        volumes.unmount(&name)?;
        match orphan.filter(|place| self.backend.shows_volumes(place.device)) {
            Some(place) => self.backend.drop_orphan(place.device),
            None => Ok(()),
        }
    }

    fn remove_mount_point(&self, ct: CtId) -> Result<(), Error> {
        match self.volumes.enter()? {
            Some(volumes) => Ok(volumes.remove(&name_of(ct))?),
            None => Ok(()),
        }
    }

    fn grow(&self, ct: CtId, blocks: u64) -> Result<(), Error> {
        Ok(ext4::grow(self.open_root(ct, &self.volumes.need()?)?, blocks)?)
    }

    /// The root directory of a mounted volume, to speak to its file system by.
    fn open_root(&self, ct: CtId, volumes: &Inside) -> Result<OwnedFd, Error> {
        match volumes.open(&name_of(ct)) {
            // Closed to all but its owner, an id of the container's and not ours; by a mount that shows
            // its owner as us it is.
            Err(e) if e.is(Errno::ACCESS) => {
                let tree = file_system(ct, &self.backend.look(ct)?)?
                    .mount(attr::NODEV | attr::NOSUID | attr::NOEXEC)?;
                id_map::show_as_own(&tree, &format!("volume {ct}"))?;
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                Ok(rustix::fs::openat(&tree, ".", flags, rustix::fs::Mode::empty())
                    .attempt(|| format!("open the root directory of container {ct}"))?)
            }
            other => Ok(other?),
        }
    }
}

/// The file system of a volume, to be mounted from its device.
fn file_system(ct: CtId, seen: &VolumeState) -> Result<FsContext, Error> {
    let device = seen.device.as_ref().ok_or_else(|| Error::Record {
        record: format!("of the volume of container {ct}"),
        why: "it has no device".to_owned(),
    })?;
    // Whatever its superblock says, which an older Ves has made: what is damaged is written to no more.
    Ok(FsContext::new("ext4")?.set("source", &device.path)?.set("errors", "remount-ro")?)
}

fn is_damaged(seen: &VolumeState) -> bool {
    matches!(&seen.image, Image::Ours { damage: Some(_), .. })
}

/// What cannot be mounted since it is damaged: the kernel sees that before it notes anything.
fn damaged(ct: CtId, error: Error) -> Error {
    match &error {
        Error::Host(e) if e.is(Errno::UCLEAN) || e.is(Errno::BADMSG) => {
            Error::Damaged { ct, said: ves_proto::fault::chain(&error), all: false }
        }
        _ => error,
    }
}

impl<B: Backend> Host for KernelHost<B> {
    fn observe(&self, ct: CtId, template: Option<&TemplateName>) -> Result<Observed, Error> {
        let seen = self.backend.look(ct)?;
        let volumes = self.volumes.enter()?;
        let (mount, mount_point) = self.mounted(ct, &seen, volumes.as_ref())?;
        let snapshots = self.backend.snapshots(ct)?;
        Ok(Observed {
            allocated: Self::allocated(ct, &seen, &mount, volumes.as_ref())?,
            unfinished: seen.unfinished || snapshots.unfinished,
            snapshots: snapshots.snapshots,
            foreign_snapshot: snapshots.foreign,
            device: seen.device.as_ref().map(|d| d.bytes),
            leaving: seen.device.as_ref().is_some_and(|d| d.leaving),
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
            Step::Check { mend } => self.backend.check(ct, *mend),
            Step::NoteChecked { generation } => self.backend.note_checked(ct, *generation),
            Step::Mount { slot } => self.mount(ct, *slot).map_err(|e| damaged(ct, e)),
            Step::Grow { blocks } => self.grow(ct, *blocks),
            Step::TakeSnapshot { id, record } => {
                self.write_out(ct)?;
                self.backend.take(ct, *id, record)
            }
            Step::PublishSnapshot { id } => self.backend.publish_snapshot(ct, *id),
            Step::RemoveSnapshot { id } => self.backend.delete_snapshot(ct, *id),
            Step::Revert { to, bytes } => self.backend.clone_snapshot(ct, *to, *bytes),
            Step::Unmount => self.unmount(ct),
            Step::LetGo => self.backend.let_go(ct),
            Step::Deactivate => self.backend.deactivate(ct),
            Step::Remove => self.backend.remove(ct),
            Step::RemoveMountPoint => self.remove_mount_point(ct),
        }
    }

    fn look(&self, ct: CtId) -> Result<host::VolumeFacts, Error> {
        let volumes = self.volumes.enter()?;
        let (facts, held) = self.describe(ct, self.backend.look(ct)?, volumes.as_ref())?;
        let holder = held.and_then(|device| holders::of([device]).remove(&device));
        Ok(host::VolumeFacts { holder, ..facts })
    }

    fn look_all(&self) -> Result<Each<host::VolumeFacts>, Error> {
        let volumes = self.volumes.enter()?;
        let all = self.backend.look_all()?.into_iter();
        let describe = |ct, seen| self.describe(ct, seen, volumes.as_ref());
        let all: Vec<_> = all.map(|(ct, s)| (ct, s.and_then(|s| describe(ct, s)))).collect();
        // They are looked for once, whoever is held.
        let held = all.iter().filter_map(|(_, seen)| seen.as_ref().ok()?.1);
        let holders = holders::of(held);
        let named = |(facts, held): (host::VolumeFacts, Option<u64>)| {
            let holder = held.and_then(|device| holders.get(&device).cloned());
            host::VolumeFacts { holder, ..facts }
        };
        Ok(all.into_iter().map(|(ct, seen)| (ct, seen.map(named))).collect())
    }

    fn met_errors(&self) -> Result<BTreeMap<CtId, u32>, Error> {
        self.backend.met_errors()
    }

    fn orphans(&self) -> Result<Vec<CtId>, Error> {
        let Some(volumes) = self.volumes.enter()? else { return Ok(Vec::new()) };
        let places = volumes.names()?;
        // After that: an image is there before it is mounted.
        let owners = self.backend.owners()?;
        let places = places.iter().filter_map(|name| name.parse::<CtId>().ok());
        let mut orphans = Vec::new();
        for ct in places.filter(|ct| !owners.contains(ct)) {
            let seen = self.backend.look(ct)?;
            let (mount, _) = self.mounted(ct, &seen, Some(&volumes))?;
            if let (Image::Absent, Mount::Ours { .. }) = (&seen.image, mount) {
                orphans.push(ct);
            }
        }
        Ok(orphans)
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
