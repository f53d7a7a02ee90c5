//! What to do so that the node has a pool, and so that nothing is in it that nobody uses. Pure.
//!
//! ```text
//! make     make-image ► attach ► mount ► make-directories     where blocks could not be shared else
//! adopt    attach? ► mount? ► make-directories?               what is there, whatever is configured
//! sweep    what a crash left unfinished, then devices that nobody uses
//! ```
//!
//! The choice of the pool's kind is made once, when there is nothing yet. Where there were volumes, no
//! empty pool takes the place of theirs. Never here: how any of it is done, anything of one container.

use std::collections::BTreeSet;
use std::fmt;

use ves_types::{Bytes, CtId};

use super::room;
use crate::config::{LEAST_POOL, PoolKind};

/// What is configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Desired {
    /// How images are kept.
    pub kind: PoolKind,
    /// The size of a pool image; absent: four fifths of what is free.
    pub bytes: Option<u64>,
}

/// A file system that shares blocks, in an image of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileSystem {
    /// xfs.
    Xfs,
    /// btrfs.
    Btrfs,
}

impl FileSystem {
    /// All, the best first.
    pub const ALL: [Self; 2] = [Self::Xfs, Self::Btrfs];

    /// As the kernel calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }
}

/// What is where the pool's image is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Image {
    /// Nothing.
    Absent,
    /// A link to what is not there.
    Dangling,
    /// An image.
    There {
        /// Whether it is behind a device.
        attached: bool,
    },
}

/// What is mounted where the pool is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mount {
    /// Nothing.
    None,
    /// The pool's image.
    Image,
    /// Something else; in a few words, what.
    Foreign(String),
}

/// What there is of a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// Its image.
    pub image: Image,
    /// Its mount.
    pub mount: Mount,
    /// Whether all its directories are there.
    pub ready: bool,
    /// Whether its directory holds volumes, or did. Looked for only where there is no image, as all that
    /// follows.
    pub used: bool,
    /// Whether there were volumes by what was decided here, and were not removed since.
    pub had_volumes: bool,
    /// Whether files beside it can share blocks.
    pub shares_blocks: bool,
    /// File systems with shared blocks that can be made and mounted here, the best first.
    pub makes: Vec<FileSystem>,
    /// Bytes free where an image would be.
    pub below: u64,
}

/// One thing to do; doing it twice is harmless.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Make an image with a file system that shares blocks.
    MakeImage {
        /// Which.
        fs: FileSystem,
        /// Its size.
        bytes: u64,
        /// How far the file system reaches at first; so much is backed.
        reach: u64,
    },
    /// Put the image behind a device.
    Attach,
    /// Mount the image.
    Mount,
    /// Make the directories where things are.
    MakeDirectories,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MakeImage { fs, bytes, reach } => {
                let (bytes, reach) = (Bytes(*bytes), Bytes(*reach));
                write!(f, "make a pool image of {bytes} with {}, now of {reach}", fs.name())
            }
            Self::Attach => write!(f, "attach the pool image"),
            Self::Mount => write!(f, "mount the pool image"),
            Self::MakeDirectories => write!(f, "make the pool's directories"),
        }
    }
}

/// Why there is no pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Something that is not ours is in its place.
    Foreign(String),
    /// There were volumes, and the pool they were in is not there.
    Gone,
    /// Blocks cannot be shared, and must.
    SharesNoBlocks,
}

/// The steps after which there is a pool; none where there is one.
///
/// # Errors
/// [`Refusal`].
pub fn plan(desired: &Desired, observed: &Observed) -> Result<Vec<Step>, Refusal> {
    if let Mount::Foreign(what) = &observed.mount {
        return Err(Refusal::Foreign(what.clone()));
    }
    let mut steps = Vec::new();
    match observed.image {
        Image::Dangling => return Err(Refusal::Gone),
        Image::There { attached } => {
            if observed.mount == Mount::None {
                if !attached {
                    steps.push(Step::Attach);
                }
                steps.push(Step::Mount);
            }
        }
        Image::Absent => {
            if !observed.used && observed.had_volumes {
                return Err(Refusal::Gone);
            }
            if let Some(fs) = image_to_make(desired.kind, observed)? {
                let bytes = image_bytes(desired.bytes, observed.below);
                let reach = first_reach(fs, bytes, observed.below);
                steps.extend([Step::MakeImage { fs, bytes, reach }, Step::Attach, Step::Mount]);
            }
        }
    }
    if !observed.ready || steps.contains(&Step::Mount) {
        steps.push(Step::MakeDirectories);
    }
    Ok(steps)
}

/// The file system of an image to make; `None` where the pool is a directory beside others' files.
fn image_to_make(kind: PoolKind, observed: &Observed) -> Result<Option<FileSystem>, Refusal> {
    let directory = match kind {
        PoolKind::ImageCopy => true,
        PoolKind::Auto | PoolKind::ImageReflink => observed.used || observed.shares_blocks,
    };
    match (directory, observed.makes.first(), kind) {
        (true, _, _) | (false, None, PoolKind::Auto | PoolKind::ImageCopy) => Ok(None),
        (false, Some(fs), _) => Ok(Some(*fs)),
        (false, None, PoolKind::ImageReflink) => Err(Refusal::SharesNoBlocks),
    }
}

/// How large an image is made where so much is free.
fn image_bytes(wanted: Option<u64>, free: u64) -> u64 {
    // A file system grows in steps of its own; a whole number of MiB suits both.
    let bytes = wanted.unwrap_or(free / 5 * 4);
    (bytes >> 20 << 20).max(LEAST_POOL)
}

/// How far the file system of a new image reaches.
fn first_reach(fs: FileSystem, bytes: u64, free: u64) -> u64 {
    match fs {
        FileSystem::Xfs => {
            let spare = free.saturating_sub(room::SPARE) >> 20 << 20;
            room::step(bytes).min(spare).max(LEAST_POOL).min(bytes)
        }
        // It would have to be told of each growth by a program of its own.
        FileSystem::Btrfs => bytes,
    }
}

/// What a loop device or its like shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shows {
    /// A volume that is there.
    Volume,
    /// A file in the pool's own file system that is no volume.
    Stray,
    /// Nothing of the pool, or a file beside it, which may be somebody's.
    Other,
}

/// What a crash may have left.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Leftovers {
    /// Containers of which a volume was not finished.
    pub volumes: BTreeSet<CtId>,
    /// Containers of which a snapshot was not finished, or whose place for snapshots is empty.
    pub snapshots: BTreeSet<CtId>,
    /// Templates with base images that were not finished.
    pub base_images: BTreeSet<String>,
    /// Templates that were not finished.
    pub templates: BTreeSet<String>,
    /// Devices: what each shows, and whether somebody uses it.
    pub devices: Vec<(u32, Shows, bool)>,
}

/// One thing to throw away; doing it twice is harmless.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sweep {
    /// An unfinished volume of a container.
    Volume(CtId),
    /// Unfinished snapshots of a container.
    Snapshots(CtId),
    /// Unfinished base images of a template.
    BaseImages(String),
    /// An unfinished template.
    Template(String),
    /// A device.
    Device(u32),
}

impl fmt::Display for Sweep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Volume(ct) => write!(f, "discard an unfinished volume of container {ct}"),
            Self::Snapshots(ct) => write!(f, "discard unfinished snapshots of container {ct}"),
            Self::BaseImages(name) => write!(f, "discard unfinished base images of {name}"),
            Self::Template(name) => write!(f, "discard the unfinished template {name}"),
            Self::Device(number) => write!(f, "detach device {number}, which nobody uses"),
        }
    }
}

/// What of the leftovers is thrown away.
pub fn plan_sweep(left: &Leftovers) -> Vec<Sweep> {
    let Leftovers { volumes, snapshots, base_images, templates, devices } = left;
    let idle = devices.iter().filter(|(_, shows, used)| *shows != Shows::Other && !used);
    base_images
        .iter()
        .map(|name| Sweep::BaseImages(name.clone()))
        .chain(volumes.iter().map(|ct| Sweep::Volume(*ct)))
        .chain(snapshots.iter().map(|ct| Sweep::Snapshots(*ct)))
        .chain(templates.iter().map(|name| Sweep::Template(name.clone())))
        .chain(idle.map(|(number, ..)| Sweep::Device(*number)))
        .collect()
}

#[cfg(test)]
mod laws;
