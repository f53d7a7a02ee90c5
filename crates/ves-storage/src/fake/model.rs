//! One volume in memory, and the pure effect of each step on it. Never here: pools, templates.

use std::collections::BTreeMap;

use ves_host::ext4::{self, Damage, Mend};
use ves_types::{CtId, SnapshotId};

use crate::host::{Usage, VolumeFacts};
use crate::plan::snapshot::{self, Snapshot};
use crate::plan::{Image, Mount, Observed, Record, Step, TemplateFacts};

/// A clone that is not at its place yet.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Unfinished {
    record: Record,
    bytes: u64,
    blocks: u64,
    contents: u64,
    health: Health,
}

/// What is wrong with a file system.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Health {
    /// What the kernel noted.
    pub(super) damage: Option<Damage>,
    /// Nothing mends it that loses nothing.
    pub(super) hopeless: bool,
}

/// A snapshot, and what is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) snapshot: Snapshot,
    blocks: u64,
    pub(super) contents: u64,
    health: Health,
}

/// Whoever holds a device.
pub const HOLDER: &str = "sleep (pid 4711, user nobody)";

/// What each image and snapshot takes in the pool.
pub const ALLOCATED: u64 = 1 << 20;

/// One volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    pub(super) image: Image,
    unfinished: Option<Unfinished>,
    device: Option<u64>,
    leaving: bool,
    mount: Mount,
    mount_point: bool,
    pub(super) snapshots: BTreeMap<SnapshotId, Kept>,
    unfinished_snapshot: Option<(SnapshotId, snapshot::Record)>,
    /// A container's processes use the device.
    held: bool,
    /// Somebody of the node uses it.
    pinned: bool,
    /// What the files say: a number in place of them.
    pub contents: u64,
    /// What is written between the look at it and a snapshot.
    pub meanwhile: u64,
    /// Whether the pool can clone what is in use.
    pub shares_blocks: bool,
    /// Nothing mends its file system that loses nothing.
    pub hopeless: bool,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            image: Image::Absent,
            unfinished: None,
            device: None,
            leaving: false,
            mount: Mount::None,
            mount_point: false,
            snapshots: BTreeMap::new(),
            unfinished_snapshot: None,
            held: false,
            pinned: false,
            contents: 0,
            meanwhile: 0,
            shares_blocks: true,
            hopeless: false,
        }
    }
}

/// Why a step cannot be done to a model: the real host would fail too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Impossible {
    /// The device is used.
    InUse,
    /// The file system is damaged.
    Damaged,
    /// The step makes no sense here.
    Senseless(&'static str),
}

impl Model {
    /// A volume as observed; used to begin from any state. An unfinished clone is of `record`.
    pub fn of(observed: &Observed, record: &Record) -> Self {
        let Observed { image, unfinished, device, leaving, mount, mount_point, .. } =
            observed.clone();
        let clone = || Unfinished {
            record: record.clone(),
            bytes: 0,
            blocks: 0,
            contents: 0,
            health: Health::default(),
        };
        let unfinished = unfinished.then(clone);
        let keep = |(id, snapshot): (&SnapshotId, &Snapshot)| {
            let (snapshot, blocks) = (snapshot.clone(), snapshot.bytes / ext4::BLOCK);
            let damage = snapshot.damaged.then(Damage::default);
            let health = Health { damage, hopeless: false };
            (*id, Kept { snapshot, blocks, contents: u64::MAX, health })
        };
        let snapshots = observed.snapshots.iter().map(keep).collect();
        let shares_blocks = observed.shares_blocks;
        let model = Self { image, unfinished, device, mount, mount_point, ..Self::default() };
        // What is let go and there is held.
        Self { snapshots, shares_blocks, leaving, pinned: leaving, ..model }
    }

    /// What is seen of it.
    pub fn observed(&self, template: Option<TemplateFacts>, online_growth: bool) -> Observed {
        Observed {
            image: self.image.clone(),
            allocated: if self.image == Image::Absent { 0 } else { ALLOCATED },
            snapshots: self.snapshots.iter().map(|(id, k)| (*id, k.snapshot.clone())).collect(),
            foreign_snapshot: None,
            unfinished: self.unfinished.is_some() || self.unfinished_snapshot.is_some(),
            device: self.device,
            leaving: self.leaving,
            mount: self.mount.clone(),
            mount_point: self.mount_point,
            template,
            online_growth,
            shares_blocks: self.shares_blocks,
            max_snapshots: crate::Config::default().max_snapshots,
        }
    }

    /// The machine was switched off and on: mounts and devices are gone.
    pub fn reboot(&mut self) {
        (self.device, self.leaving) = (None, false);
        (self.held, self.pinned) = (false, false);
        self.mount = Mount::None;
        self.mount_point = false;
    }

    /// A container's processes use the device, or do not any more.
    pub fn hold(&mut self, held: bool) {
        self.held = held;
        self.leave();
    }

    /// Somebody of the node uses it, or does not any more.
    pub fn pin(&mut self, pinned: bool) {
        self.pinned = pinned;
        self.leave();
    }

    /// What was let go goes with its last user.
    fn leave(&mut self) {
        if self.leaving && !self.held && !self.pinned && self.mount == Mount::None {
            (self.device, self.leaving) = (None, false);
        }
    }

    /// Throws away what is unfinished.
    pub fn sweep(&mut self) {
        (self.unfinished, self.unfinished_snapshot) = (None, None);
    }

    /// Whether nothing of it is left.
    pub fn is_nothing(&self) -> bool {
        // What its files said and what the pool can do is no part of it, and an empty directory to mount it
        // at goes with the boot.
        let Self { mount_point, contents, shares_blocks, .. } = *self;
        *self == Self { mount_point, contents, shares_blocks, ..Self::default() }
    }

    /// What is told of it.
    pub(super) fn seen(&self, ct: CtId) -> VolumeFacts {
        let mounted = matches!(self.mount, Mount::Ours { .. });
        let usage = match &self.image {
            Image::Ours { record, bytes, .. } => Usage {
                allocated: ALLOCATED,
                used: mounted.then_some(200 << 20),
                inodes: Some(ext4::groups(*bytes) * record.inodes_per_group),
                used_inodes: mounted.then_some(10_011),
                device: self.device.map(|_| 0x700 + u64::from(ct.get())),
            },
            Image::Absent | Image::Foreign(_) => Usage::default(),
        };
        let holder = (self.leaving && !mounted).then(|| HOLDER.to_owned());
        VolumeFacts { image: self.image.clone(), mounted, holder, usage }
    }

    /// What a step does; `base_image` is the length of the template's base image by inodes per group.
    ///
    /// # Errors
    /// [`Impossible`]; then nothing has changed, but that a device which is held is let go.
    pub fn apply(
        &mut self,
        step: &Step,
        base_image: impl Fn(&Record) -> Option<u64>,
    ) -> Result<(), Impossible> {
        let senseless = |why| Err(Impossible::Senseless(why));
        match (step, &mut self.image) {
            (Step::Back { .. }, _) => {}
            (Step::Discard, _) => {
                self.sweep();
            }
            (Step::MakeBaseImage(_), _) => {}
            (Step::Create { record, bytes }, _) => {
                let Some(base_image) = base_image(record) else {
                    return senseless("no such base image");
                };
                let blocks = ext4::usable_blocks(base_image, record.inodes_per_group);
                let bytes = *bytes;
                let record = record.clone();
                let health = Health::default();
                self.unfinished = Some(Unfinished { record, bytes, blocks, contents: 0, health });
            }
            (Step::Recreate { bytes }, Image::Ours { record, blocks, damage, .. }) => {
                if self.device.is_some() {
                    return senseless("copy a volume in use");
                }
                let (record, blocks, bytes) = (record.clone(), *blocks, *bytes);
                let contents = self.contents;
                let health = Health { damage: damage.clone(), hopeless: self.hopeless };
                self.unfinished = Some(Unfinished { record, bytes, blocks, contents, health });
            }
            (Step::GrowNew { blocks }, _) => match &mut self.unfinished {
                Some(clone) => clone.blocks = clone.blocks.max(*blocks),
                None => return senseless("grow no clone"),
            },
            (Step::Publish, image) => match (self.unfinished.take(), &image) {
                (Some(Unfinished { record, bytes, blocks, contents, health }), _) => {
                    if self.device.is_some() {
                        return senseless("replace an image in use");
                    }
                    let Health { damage, hopeless } = health;
                    *image = Image::Ours { record, bytes, blocks, damage };
                    (self.contents, self.hopeless) = (contents, hopeless);
                }
                (None, Image::Ours { .. }) => {}
                (None, _) => return senseless("publish nothing"),
            },
            (Step::Enlarge { bytes: want }, Image::Ours { bytes, .. }) => {
                *bytes = (*bytes).max(*want)
            }
            (Step::Activate, Image::Ours { bytes, .. }) => {
                self.device.get_or_insert(*bytes);
                self.leaving = false;
            }
            (Step::Refresh, Image::Ours { bytes, .. }) => {
                let bytes = *bytes;
                self.device = self.device.map(|_| bytes);
            }
            (Step::Check { mend }, Image::Ours { damage, .. }) => {
                if self.device.is_none() || self.held || self.mount != Mount::None {
                    return senseless("check what has no device, or is in use");
                }
                if *mend == Mend::Safe && self.hopeless {
                    return Err(Impossible::Damaged);
                }
                (*damage, self.hopeless) = (None, false);
            }
            (Step::NoteChecked { generation }, Image::Ours { record, .. }) => {
                record.checked = Some(*generation);
            }
            (Step::Mount { slot }, Image::Ours { damage, .. }) => {
                if damage.is_some() {
                    return senseless("mount what is damaged");
                }
                if self.device.is_none() {
                    return senseless("mount no device");
                }
                self.mount_point = true;
                self.mount = Mount::Ours { slot: Some(*slot) };
            }
            (Step::Grow { blocks: want }, Image::Ours { blocks, .. }) => {
                let room = self.device.map_or(0, |bytes| bytes / ext4::BLOCK);
                if self.mount == Mount::None || *want > room {
                    return senseless("grow beyond the device");
                }
                *blocks = (*blocks).max(*want);
            }
            (Step::TakeSnapshot { id, record }, Image::Ours { .. }) => {
                if self.device.is_some() && !self.shares_blocks {
                    return senseless("copy what changes meanwhile");
                }
                self.unfinished_snapshot = Some((*id, record.clone()));
            }
            (Step::PublishSnapshot { id }, Image::Ours { bytes, blocks, damage, .. }) => {
                match self.unfinished_snapshot.take() {
                    Some((new, record)) if new == *id => {
                        let allocated = ALLOCATED + self.meanwhile;
                        let damaged = damage.is_some();
                        let snapshot = Snapshot { record, bytes: *bytes, allocated, damaged };
                        let (blocks, contents) = (*blocks, self.contents);
                        let health = Health { damage: damage.clone(), hopeless: self.hopeless };
                        self.snapshots.insert(new, Kept { snapshot, blocks, contents, health });
                    }
                    _ if self.snapshots.contains_key(id) => {}
                    _ => return senseless("publish no snapshot"),
                }
            }
            (Step::RemoveSnapshot { id }, _) => {
                self.snapshots.remove(id);
            }
            (Step::Revert { to, bytes }, Image::Ours { bytes: have, .. }) => {
                let Some(kept) = self.snapshots.get(&to.snapshot) else {
                    return senseless("go back to no snapshot");
                };
                if self.device.is_some() || self.mount != Mount::None || *bytes < *have {
                    return senseless("replace a volume in use, or by a smaller one");
                }
                let record = Record { reverted: Some(*to), ..kept.snapshot.record.volume.clone() };
                let (bytes, blocks, contents) = (*bytes, kept.blocks, kept.contents);
                let health = kept.health.clone();
                self.unfinished = Some(Unfinished { record, bytes, blocks, contents, health });
            }
            (Step::Unmount, image) => {
                if matches!(self.mount, Mount::Ours { .. }) {
                    self.mount = Mount::None;
                }
                if *image == Image::Absent {
                    // Nothing else knows a device whose image was deleted.
                    (self.device, self.leaving) = (None, false);
                }
                self.leave();
            }
            (Step::LetGo | Step::Deactivate, _) => {
                self.leaving = self.device.is_some();
                self.leave();
                if self.leaving && *step == Step::Deactivate {
                    return Err(Impossible::InUse);
                }
            }
            (Step::Remove, Image::Ours { .. }) => {
                if self.device.is_some() {
                    return Err(Impossible::InUse);
                }
                (self.image, self.hopeless) = (Image::Absent, false);
            }
            (Step::Remove, Image::Absent) => {}
            (Step::RemoveMountPoint, _) => {
                if self.mount != Mount::None {
                    return Err(Impossible::InUse);
                }
                self.mount_point = false;
            }
            (_, Image::Absent | Image::Foreign(_)) => return senseless("no volume"),
        }
        Ok(())
    }
}
