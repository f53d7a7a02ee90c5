//! What to do so that a template is, or is not, or has a base image. Pure.
//!
//! ```text
//! make        discard? ► take-contents ► make-base-image ► describe ► publish
//! base image  remove-base-image* ► make-base-image                 of a template that is published
//! remove      discard? ► withdraw ► discard
//! sweep       discard?
//! ```
//!
//! A template is made beside its place and published when it is whole, and withdrawn in one go before it
//! is discarded: nobody meets half of one. What its archive holds is known only when it was taken, so a
//! template is planned twice: before, and with [`Taken`]. How long a base image must be is estimated, and
//! found out by trying: after each that was too small it is planned anew.

use std::collections::BTreeMap;
use std::fmt;

use ves_host::ext4;
use ves_types::Bytes;

use super::{DEFAULT_INODES_PER_GROUP, OWN_INODES};

/// The most base images of a template; the oldest goes first, never the default one.
pub const MAX_BASE_IMAGES: usize = 8;
/// How often a base image is tried, each time larger.
pub const ATTEMPTS: u64 = 4;

/// A template as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Observed {
    /// Whether it is at its place.
    pub published: bool,
    /// Whether one was begun and not finished, or withdrawn and not discarded.
    pub unfinished: bool,
    /// What it holds, where it is published.
    pub contents: Taken,
    /// When each of its base images was made, in seconds since 1970, by inodes per group.
    pub base_images: BTreeMap<u64, i64>,
}

/// What an archive that was taken holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Taken {
    /// Bytes of its files.
    pub bytes: u64,
    /// Its inodes.
    pub inodes: u64,
}

/// One thing to do; doing it twice is harmless, except to take an archive, which comes once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Discard what is not published.
    Discard,
    /// Judge an archive and keep it.
    TakeContents,
    /// Make a base image from the archive.
    MakeBaseImage {
        /// Inodes per group.
        inodes_per_group: u64,
        /// Its length.
        bytes: u64,
    },
    /// Remove a base image.
    RemoveBaseImage {
        /// Inodes per group.
        inodes_per_group: u64,
    },
    /// Write down what is known of it.
    Describe,
    /// Let the template be.
    Publish,
    /// Let it not be any more, in one go.
    Withdraw,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Discard => write!(f, "discard what is unfinished of the template"),
            Self::TakeContents => write!(f, "take the template's archive"),
            Self::MakeBaseImage { inodes_per_group, bytes } => {
                let bytes = Bytes(*bytes);
                write!(f, "make a base image of {bytes} with {inodes_per_group} inodes a group")
            }
            Self::RemoveBaseImage { inodes_per_group } => {
                write!(f, "remove the base image with {inodes_per_group} inodes a group")
            }
            Self::Describe => write!(f, "write down what the template is"),
            Self::Publish => write!(f, "publish the template"),
            Self::Withdraw => write!(f, "withdraw the template"),
        }
    }
}

/// Why nothing is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// There is one already.
    Exists,
    /// There is none.
    Unknown,
    /// No length that was tried was enough.
    NoRoom,
}

/// The length of a template's base image, so small that any volume that can hold the contents is
/// longer, and so large that they fit.
pub fn base_image_bytes(content_bytes: u64, content_inodes: u64, inodes_per_group: u64) -> u64 {
    // Contents, what directories and extents waste, journal and resize inode.
    let data = content_bytes
        .saturating_add(content_bytes / 16)
        .saturating_add(content_inodes.saturating_mul(64))
        .saturating_add(40 << 20);
    // Each group gives up its bitmaps and inode table, some also copies of the descriptors.
    let tables = inodes_per_group.div_ceil(ext4::INODES_PER_BLOCK) + 2 + 16;
    let room = ext4::GROUP_BLOCKS.saturating_sub(tables).max(1) * ext4::BLOCK;
    let for_data = data.div_ceil(room);
    let for_inodes = content_inodes.saturating_add(OWN_INODES).div_ceil(inodes_per_group.max(1));
    let groups = for_data.max(for_inodes).max(1);
    // A whole number of groups, so that the last one always holds its tables.
    groups.saturating_mul(ext4::GROUP_BYTES)
}

fn make_base_image(inodes_per_group: u64, taken: Taken, tried: u64) -> Result<Step, Refusal> {
    if tried >= ATTEMPTS {
        return Err(Refusal::NoRoom);
    }
    let bytes = base_image_bytes(taken.bytes, taken.inodes, inodes_per_group)
        .saturating_add(tried.saturating_mul(2 * ext4::GROUP_BYTES));
    Ok(Step::MakeBaseImage { inodes_per_group, bytes })
}

/// The steps that take an archive for a template that is not there.
///
/// # Errors
/// [`Refusal::Exists`].
pub fn plan_take(observed: &Observed) -> Result<Vec<Step>, Refusal> {
    if observed.published {
        return Err(Refusal::Exists);
    }
    let mut steps = plan_sweep(observed);
    steps.push(Step::TakeContents);
    Ok(steps)
}

/// The steps that make a template of the archive that this call has taken; so many base images were
/// too small.
///
/// # Errors
/// [`Refusal::NoRoom`], [`Refusal::Exists`].
pub fn plan_make(taken: Taken, tried: u64, observed: &Observed) -> Result<Vec<Step>, Refusal> {
    if observed.published {
        return Err(Refusal::Exists);
    }
    let mut steps = Vec::new();
    if !observed.base_images.contains_key(&DEFAULT_INODES_PER_GROUP) {
        steps.push(make_base_image(DEFAULT_INODES_PER_GROUP, taken, tried)?);
    }
    steps.extend([Step::Describe, Step::Publish]);
    Ok(steps)
}

/// The steps that give a template a base image; none where it has it. The oldest others make room.
///
/// # Errors
/// [`Refusal::Unknown`], [`Refusal::NoRoom`].
pub fn plan_base_image(
    inodes_per_group: u64,
    tried: u64,
    observed: &Observed,
) -> Result<Vec<Step>, Refusal> {
    if !observed.published {
        return Err(Refusal::Unknown);
    }
    if observed.base_images.contains_key(&inodes_per_group) {
        return Ok(Vec::new());
    }
    let make = make_base_image(inodes_per_group, observed.contents, tried)?;
    let others = observed.base_images.iter().filter(|(n, _)| **n != DEFAULT_INODES_PER_GROUP);
    let mut others: Vec<(i64, u64)> = others.map(|(n, made)| (*made, *n)).collect();
    others.sort_unstable();
    // With the new one, and room for the default one, whether it is there or not.
    let too_many = (others.len() + 2).saturating_sub(MAX_BASE_IMAGES);
    let oldest = others.into_iter().take(too_many);
    let mut steps: Vec<Step> =
        oldest.map(|(_, inodes_per_group)| Step::RemoveBaseImage { inodes_per_group }).collect();
    steps.push(make);
    Ok(steps)
}

/// The steps that make a template not be.
///
/// # Errors
/// [`Refusal::Unknown`].
pub fn plan_remove(observed: &Observed) -> Result<Vec<Step>, Refusal> {
    if !observed.published {
        return Err(Refusal::Unknown);
    }
    let mut steps = plan_sweep(observed);
    steps.extend([Step::Withdraw, Step::Discard]);
    Ok(steps)
}

/// The steps that remove what a crash left.
pub fn plan_sweep(observed: &Observed) -> Vec<Step> {
    if observed.unfinished { vec![Step::Discard] } else { Vec::new() }
}

#[cfg(test)]
mod laws;
