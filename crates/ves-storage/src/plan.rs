//! What to do so that a volume is as it should be. Pure.
//!
//! ```text
//! create   back? ► discard? ► make-base-image? ► create ► grow-new? ► publish
//! mount    activate ► check? ► mount ► grow?
//! unmount  unmount ► let-go
//! grow     back? ► enlarge ► refresh ► grow, where the kernel lets us grow what is mounted; else
//!          deactivate ► recreate ► grow-new ► publish
//! remove   unmount ► deactivate ► discard? ► remove snapshots ► remove ► remove-mount-point
//! snapshot, revert: see [`snapshot`]; check: see [`check`]
//! ```
//!
//! A volume is made where nobody sees it and published when it is whole, so what is seen is always
//! complete. Whoever else holds a device keeps nothing from being unmounted: the device is let go, and goes
//! with its last user. Only what needs it free waits for that. Never here: how any of it is done.

pub mod check;
pub mod node;
mod refusal;
pub mod room;
pub mod snapshot;
pub mod template;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use ves_host::ext4::{self, Damage, Mend};
use ves_types::{Bytes, Generation, IdSlot, SnapshotId, TemplateName};

use snapshot::Snapshot;
use template::base_image_bytes;

pub use refusal::Refusal;
pub use room::PoolFacts;

/// Inodes per group where no number is asked for: one for each 16 KiB, as mke2fs does.
pub const DEFAULT_INODES_PER_GROUP: u64 = 8192;
/// Inodes ext4 itself uses, and some.
const OWN_INODES: u64 = 16;

/// What a volume should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    /// Where its contents come from when it is made; not looked at afterwards.
    pub template: TemplateName,
    /// Hard size.
    pub bytes: u64,
    /// Hard number of inodes.
    pub inodes: Option<u64>,
    /// Whose ids the mount maps to.
    pub slot: IdSlot,
    /// Whether it is mounted.
    pub mounted: bool,
}

/// What was decided when a volume was made; it stays with the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// The template.
    pub template: TemplateName,
    /// The number of inodes that was asked for.
    pub inodes: Option<u64>,
    /// What that came to for each group.
    pub inodes_per_group: u64,
    /// The snapshot its contents were last taken from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reverted: Option<Reverted>,
    /// The decision that last had it checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checked: Option<Generation>,
}

impl Record {
    /// The base image a volume is made from.
    pub fn base_image(&self) -> BaseImageId {
        let Self { template, inodes_per_group, .. } = self;
        BaseImageId { template: template.clone(), inodes_per_group: *inodes_per_group }
    }
}

/// Which base image. ext4 fixes the number of inodes per group when it is made, so a template has one
/// for each number that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseImageId {
    /// The template.
    pub template: TemplateName,
    /// Inodes per group.
    pub inodes_per_group: u64,
}

impl fmt::Display for BaseImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "base image of {} with {} inodes a group", self.template, self.inodes_per_group)
    }
}

/// A volume was made to hold what a snapshot holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reverted {
    /// The snapshot; it may be gone by now.
    pub snapshot: SnapshotId,
    /// The decision that was.
    pub generation: Generation,
}

/// What is at the image's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Image {
    /// Nothing.
    Absent,
    /// A volume of ours.
    Ours {
        /// What it is.
        record: Record,
        /// The image's length.
        bytes: u64,
        /// How far its file system reaches.
        blocks: u64,
        /// What the kernel noted of errors in it.
        damage: Option<Damage>,
    },
    /// Something else; in a few words, what.
    Foreign(String),
}

/// What is mounted at the volume's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mount {
    /// Nothing.
    None,
    /// This volume, for the ids of this slot.
    Ours {
        /// The slot, where it is one.
        slot: Option<IdSlot>,
    },
    /// Something else, or there are files in the directory; in a few words, what.
    Foreign(String),
}

/// A template, as far as volumes depend on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateFacts {
    /// Bytes of its files.
    pub content_bytes: u64,
    /// Its inodes.
    pub content_inodes: u64,
    /// Its base images: bytes by inodes per group.
    pub variants: BTreeMap<u64, u64>,
}

/// A volume as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// The image.
    pub image: Image,
    /// Bytes the image takes in the pool, shared ones too, or will take when all that was written is
    /// written out.
    pub allocated: u64,
    /// Its snapshots.
    pub snapshots: BTreeMap<SnapshotId, Snapshot>,
    /// What is where snapshots are and is none of ours; in a few words.
    pub foreign_snapshot: Option<String>,
    /// Whether a clone or a snapshot was begun and not finished.
    pub unfinished: bool,
    /// The size of the device that shows the image, where there is one.
    pub device: Option<u64>,
    /// Whether that was let go while somebody used it, so that it goes with its last user.
    pub leaving: bool,
    /// What is mounted.
    pub mount: Mount,
    /// Whether the directory to mount on is there.
    pub mount_point: bool,
    /// The template asked for, where it exists.
    pub template: Option<TemplateFacts>,
    /// Whether a mounted file system can be grown.
    pub online_growth: bool,
    /// Whether an image can be cloned at one moment, while it is written to.
    pub shares_blocks: bool,
    /// The most snapshots a volume may have.
    pub max_snapshots: usize,
}

impl Observed {
    /// Whether it is mounted by us though its image is gone.
    pub const fn is_orphan(&self) -> bool {
        matches!((&self.image, &self.mount), (Image::Absent, Mount::Ours { .. }))
    }
}

/// One thing to do, by its effect; doing it twice is harmless.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Let so much of the pool be backed by what is under it, and reach so far.
    Back {
        /// Up to there.
        bytes: u64,
    },
    /// Discard a volume or snapshot that was not finished.
    Discard,
    /// Make a base image of the template.
    MakeBaseImage(BaseImageId),
    /// Make a volume from the template; nobody sees it yet.
    Create {
        /// What it will be.
        record: Record,
        /// Its size.
        bytes: u64,
    },
    /// Make the volume anew with the same contents; nobody sees it yet.
    Recreate {
        /// Its size.
        bytes: u64,
    },
    /// Make a volume that holds what a snapshot holds; nobody sees it yet.
    Revert {
        /// Which, and who decided it.
        to: Reverted,
        /// Its size.
        bytes: u64,
    },
    /// Let the file system of the volume that nobody sees yet reach so far.
    GrowNew {
        /// In blocks of 4 KiB.
        blocks: u64,
    },
    /// Let the new volume be the container's, in place of what was.
    Publish,
    /// Make the volume larger.
    Enlarge {
        /// Its new size.
        bytes: u64,
    },
    /// Give the volume a device that stays.
    Activate,
    /// Let the device have the volume's size.
    Refresh,
    /// Check the file system on the device, which nobody has mounted.
    Check {
        /// What is mended.
        mend: Mend,
    },
    /// Note that the volume was checked.
    NoteChecked {
        /// The decision that was.
        generation: Generation,
    },
    /// Mount the device.
    Mount {
        /// Whose ids the mount maps to.
        slot: IdSlot,
    },
    /// Let the file system reach so far.
    Grow {
        /// In blocks of 4 KiB.
        blocks: u64,
    },
    /// Take a snapshot of the volume as it is now; nobody sees it yet.
    TakeSnapshot {
        /// Its id.
        id: SnapshotId,
        /// What it will be.
        record: snapshot::Record,
    },
    /// Let the new snapshot be one of the container's.
    PublishSnapshot {
        /// Its id.
        id: SnapshotId,
    },
    /// Remove a snapshot.
    RemoveSnapshot {
        /// Its id.
        id: SnapshotId,
    },
    /// Unmount, whoever uses what is mounted.
    Unmount,
    /// Let the device go: now, or with its last user.
    LetGo,
    /// Take the device away, which fails as long as somebody uses it.
    Deactivate,
    /// Remove the volume.
    Remove,
    /// Remove the directory that was mounted on.
    RemoveMountPoint,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Back { bytes } => write!(f, "back {} of the pool", Bytes(*bytes)),
            Self::Discard => write!(f, "discard what is unfinished"),
            Self::MakeBaseImage(id) => write!(f, "make a {id}"),
            Self::Create { record, bytes } => {
                write!(f, "make a volume of {} from template {}", Bytes(*bytes), record.template)
            }
            Self::Recreate { bytes } => write!(f, "make the volume anew with {}", Bytes(*bytes)),
            Self::Revert { to, bytes } => {
                write!(f, "make a volume of {} from snapshot {}", Bytes(*bytes), to.snapshot)
            }
            Self::GrowNew { blocks } => {
                write!(f, "grow the new volume's file system to {blocks} blocks")
            }
            Self::Publish => write!(f, "let the new volume be the container's"),
            Self::Enlarge { bytes } => write!(f, "enlarge the volume to {}", Bytes(*bytes)),
            Self::Activate => write!(f, "give the volume a device"),
            Self::Refresh => write!(f, "let the device have the volume's size"),
            Self::Check { mend: Mend::Safe } => write!(f, "check the file system"),
            Self::Check { mend: Mend::All } => {
                write!(f, "check the file system and mend all of it, whatever is lost")
            }
            Self::NoteChecked { .. } => write!(f, "note that it was checked"),
            Self::Mount { slot } => write!(f, "mount for the ids from {}", slot.base()),
            Self::Grow { blocks } => write!(f, "grow the file system to {blocks} blocks"),
            Self::TakeSnapshot { id, .. } => write!(f, "take snapshot {id}"),
            Self::PublishSnapshot { id } => write!(f, "let snapshot {id} be the container's"),
            Self::RemoveSnapshot { id } => write!(f, "remove snapshot {id}"),
            Self::Unmount => write!(f, "unmount"),
            Self::LetGo => write!(f, "let the device go"),
            Self::Deactivate => write!(f, "take the device away"),
            Self::Remove => write!(f, "remove the volume"),
            Self::RemoveMountPoint => write!(f, "remove the mount point"),
        }
    }
}

/// The steps that make a volume what it should be; none where it is.
///
/// # Errors
/// [`Refusal`].
pub fn plan_ensure(
    desired: &Desired,
    observed: &Observed,
    pool: &PoolFacts,
) -> Result<Vec<Step>, Refusal> {
    let mut steps = Vec::new();
    if let Mount::Foreign(what) = &observed.mount {
        return Err(Refusal::Foreign(what.clone()));
    }
    let mut mount = &observed.mount;
    let mut device = observed.device;
    let mut damaged = false;
    let (bytes, blocks, per_group) = match &observed.image {
        Image::Foreign(what) => return Err(Refusal::Foreign(what.clone())),
        Image::Absent => {
            // A device or mount without an image is of one that was deleted behind our back.
            if matches!(mount, Mount::Ours { .. }) {
                steps.push(Step::Unmount);
                mount = &Mount::None;
            }
            if device.take().is_some() {
                steps.push(Step::Deactivate);
            }
            let base_image = create(desired, observed, pool, &mut steps)?;
            (desired.bytes, base_image.0, base_image.1)
        }
        Image::Ours { record, bytes, blocks, damage } => {
            damaged = damage.is_some();
            if desired.inodes != record.inodes {
                return Err(Refusal::InodesFixed { have: record.inodes });
            }
            if desired.bytes < *bytes {
                return Err(Refusal::WouldShrink { have: *bytes, want: desired.bytes });
            }
            steps.extend(back(pool, desired.bytes - bytes)?);
            if observed.unfinished {
                steps.push(Step::Discard);
            }
            let reach = ext4::usable_blocks(desired.bytes, record.inodes_per_group);
            let longer = desired.bytes > *bytes;
            let blocks = if observed.online_growth {
                if longer {
                    steps.push(Step::Enlarge { bytes: desired.bytes });
                }
                *blocks
            } else {
                if longer || *blocks < reach {
                    if matches!(mount, Mount::Ours { .. }) {
                        return Err(Refusal::NeedsUnmount);
                    }
                    if std::mem::take(&mut damaged) {
                        steps.extend(device.is_none().then_some(Step::Activate));
                        steps.push(Step::Check { mend: Mend::Safe });
                        device = Some(*bytes);
                    }
                    if device.take().is_some() {
                        steps.push(Step::Deactivate);
                    }
                    steps.push(Step::Recreate { bytes: desired.bytes });
                    if *blocks < reach {
                        steps.push(Step::GrowNew { blocks: reach });
                    }
                    steps.push(Step::Publish);
                }
                reach
            };
            (desired.bytes, blocks, record.inodes_per_group)
        }
    };
    if !desired.mounted {
        let mounted = matches!(mount, Mount::Ours { .. });
        if mounted {
            steps.push(Step::Unmount);
        }
        if device.is_some() && (mounted || !observed.leaving) {
            steps.push(Step::LetGo);
        }
        return Ok(steps);
    }
    if device.is_none() || observed.leaving {
        steps.push(Step::Activate);
    }
    if device.is_some_and(|size| size != bytes) {
        steps.push(Step::Refresh);
    }
    let mounted = matches!(mount, Mount::Ours { slot } if *slot == Some(desired.slot));
    let reach = ext4::usable_blocks(bytes, per_group);
    if mounted && damaged && blocks < reach {
        return Err(Refusal::DamagedInUse);
    }
    if !mounted {
        if matches!(mount, Mount::Ours { .. }) {
            steps.push(Step::Unmount);
        }
        if damaged {
            steps.push(Step::Check { mend: Mend::Safe });
        }
        steps.push(Step::Mount { slot: desired.slot });
    }
    if blocks < reach {
        steps.push(Step::Grow { blocks: reach });
    }
    Ok(steps)
}

/// Plans a volume that is not there; answers the blocks and inodes per group of its base image.
fn create(
    desired: &Desired,
    observed: &Observed,
    pool: &PoolFacts,
    steps: &mut Vec<Step>,
) -> Result<(u64, u64), Refusal> {
    let template = observed
        .template
        .as_ref()
        .ok_or_else(|| Refusal::TemplateUnknown(desired.template.clone()))?;
    let per_group = match desired.inodes {
        None => DEFAULT_INODES_PER_GROUP,
        Some(max) => {
            let need = template.content_inodes.saturating_add(OWN_INODES);
            let per_group = ext4::inodes_per_group(desired.bytes, max);
            let least = ext4::groups(desired.bytes).saturating_mul(ext4::INODES_PER_BLOCK);
            let need = need.max(least);
            if max < need {
                return Err(Refusal::NoInodes { need, max });
            }
            per_group
        }
    };
    let planned = base_image_bytes(template.content_bytes, template.content_inodes, per_group);
    let base_image = template.variants.get(&per_group).copied().unwrap_or(planned);
    if base_image > desired.bytes {
        return Err(match desired.inodes {
            // With the default number it would fit: it is the inodes that are too few.
            Some(max)
                if base_image_bytes(
                    template.content_bytes,
                    template.content_inodes,
                    DEFAULT_INODES_PER_GROUP,
                ) <= desired.bytes
                    && per_group < DEFAULT_INODES_PER_GROUP =>
            {
                Refusal::NoInodes { need: need_inodes(template, desired.bytes), max }
            }
            _ => Refusal::TooSmall { need: base_image, want: desired.bytes },
        });
    }
    steps.extend(back(pool, desired.bytes)?);
    if observed.unfinished {
        steps.push(Step::Discard);
    }
    let record = Record {
        template: desired.template.clone(),
        inodes: desired.inodes,
        inodes_per_group: per_group,
        reverted: None,
        checked: None,
    };
    if !template.variants.contains_key(&per_group) {
        steps.push(Step::MakeBaseImage(record.base_image()));
    }
    steps.push(Step::Create { record, bytes: desired.bytes });
    let (has, reach) =
        (ext4::usable_blocks(base_image, per_group), ext4::usable_blocks(desired.bytes, per_group));
    let blocks = if observed.online_growth || has >= reach {
        has
    } else {
        steps.push(Step::GrowNew { blocks: reach });
        reach
    };
    steps.push(Step::Publish);
    Ok((blocks, per_group))
}

/// What is done so that the pool can promise this much.
fn back(pool: &PoolFacts, need: u64) -> Result<Option<Step>, Refusal> {
    Ok(pool.back(need)?.map(|bytes| Step::Back { bytes }))
}

/// With so many, rounding down in each group leaves enough.
const fn need_inodes(template: &TemplateFacts, bytes: u64) -> u64 {
    let rounding = ext4::groups(bytes).saturating_mul(ext4::INODES_PER_BLOCK);
    template.content_inodes.saturating_add(OWN_INODES).saturating_add(rounding)
}

/// The steps that make a volume and its snapshots not be; none where there are none.
///
/// # Errors
/// [`Refusal::Foreign`].
pub fn plan_remove(observed: &Observed) -> Result<Vec<Step>, Refusal> {
    if let Image::Foreign(what) = &observed.image {
        return Err(Refusal::Foreign(what.clone()));
    }
    if let Some(what) = &observed.foreign_snapshot {
        return Err(Refusal::Foreign(what.clone()));
    }
    let mut steps = Vec::new();
    match &observed.mount {
        Mount::Foreign(what) => return Err(Refusal::Foreign(what.clone())),
        Mount::Ours { .. } => steps.push(Step::Unmount),
        Mount::None => {}
    }
    if observed.device.is_some() {
        steps.push(Step::Deactivate);
    }
    if observed.unfinished {
        steps.push(Step::Discard);
    }
    steps.extend(observed.snapshots.keys().map(|id| Step::RemoveSnapshot { id: *id }));
    // The image goes last: as long as it is there, everybody sees that there is something to remove.
    if matches!(observed.image, Image::Ours { .. }) {
        steps.push(Step::Remove);
    }
    if observed.mount_point {
        steps.push(Step::RemoveMountPoint);
    }
    Ok(steps)
}

/// The steps that throw away what a step that failed has left; none where it left nothing.
pub fn plan_sweep(observed: &Observed) -> Vec<Step> {
    snapshot::begin(observed)
}

#[cfg(test)]
mod laws;
