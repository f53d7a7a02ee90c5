//! What the service asks of the host. The real one is `kernel::KernelHost`, which is the
//! same on every kind of pool; one in memory is in `fake`.

use std::collections::BTreeMap;
use std::io::Read;

use ves_archive::{Contents, Feed, Init, Owners};
use ves_types::{CtId, SnapshotId, TemplateName};

use crate::error::Error;
use crate::ledger::Inventory;
use crate::plan::room::Room;
use crate::plan::snapshot::Snapshot;
use crate::plan::{Image, Observed, Step, template};
use crate::template::{Build, Progress};

/// What a pool is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackendKind {
    /// Image files that share blocks.
    ImageReflink,
    /// Image files that are copies.
    ImageCopy,
}

/// What a volume uses, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Bytes its image takes in the pool.
    pub allocated: u64,
    /// Bytes used by files, where it is mounted.
    pub used: Option<u64>,
    /// All inodes.
    pub inodes: Option<u64>,
    /// Inodes in use, where it is mounted.
    pub used_inodes: Option<u64>,
    /// The device's number, where it is active.
    pub device: Option<u64>,
}

/// Something of each container; what cannot be found out of one says nothing of the others.
pub type Each<T> = Vec<(CtId, Result<T, Error>)>;

/// A volume by itself, without the pool and the templates: what it costs to see does not grow with
/// the number of others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeFacts {
    /// The image.
    pub image: Image,
    /// Whether it is mounted by us.
    pub mounted: bool,
    /// Who still holds its device, though it was let go.
    pub holder: Option<String>,
    /// What it uses.
    pub usage: Usage,
}

/// A template, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// Its name.
    pub name: TemplateName,
    /// Bytes of its files.
    pub content_bytes: u64,
    /// Its inodes.
    pub content_inodes: u64,
    /// Bytes it takes in the pool.
    pub allocated: u64,
    /// Its init system.
    pub init: Init,
    /// SHA-256 of the archive it was made from, in hex.
    pub sha256: String,
    /// Its operating system's name.
    pub os: Option<String>,
    /// When it was made, in seconds since 1970.
    pub created_unix: i64,
    /// What somebody should know of it.
    pub notes: Vec<String>,
}

/// Where a template's contents come from.
#[allow(missing_debug_implementations, reason = "a feed is a stream")]
pub enum Source<'a> {
    /// An archive; the hash it must have, if that is known.
    Archive {
        /// The archive.
        feed: &'a mut (dyn Feed + 'a),
        /// SHA-256 in hex, small letters.
        sha256: Option<String>,
        /// What becomes of its owners.
        owners: Owners,
    },
    /// Packages.
    Build(Build),
}

/// A template in the making: what only the call knows that makes it.
#[allow(missing_debug_implementations, reason = "a feed is a stream")]
pub struct Making<'s, 'p> {
    /// Where its contents come from, until they were taken.
    pub source: Option<Source<'s>>,
    /// What was taken, with its SHA-256.
    pub taken: Option<(Contents, String)>,
    /// Hears how far it is.
    pub progress: &'p (dyn Fn(Progress) + Sync),
    /// Asked before the archive takes so many bytes; answers how many it may take.
    pub allow: &'p (dyn Fn(u64) -> Result<u64, Error> + Sync),
}

impl Making<'_, '_> {
    /// Of a template that is there, nothing but base images are made.
    pub fn nothing() -> Self {
        Self { source: None, taken: None, progress: &|_| (), allow: &Ok }
    }

    /// What was taken.
    pub fn contents(&self) -> template::Taken {
        let taken = self.taken.as_ref();
        taken.map_or_else(template::Taken::default, |(Contents { bytes, inodes, .. }, _)| {
            template::Taken { bytes: *bytes, inodes: *inodes }
        })
    }
}

/// The host, as far as storage is concerned. Synchronous; the callers hold the container's lock or
/// the template's.
pub trait Host: Send + Sync + 'static {
    /// The volume as it is, for planning; `template` is looked at where it is given.
    fn observe(&self, ct: CtId, template: Option<&TemplateName>) -> Result<Observed, Error>;
    /// Does one step, or finds it done; a base image it only finds.
    fn apply(&self, ct: CtId, step: &Step) -> Result<(), Error>;
    /// One volume by itself.
    fn look(&self, ct: CtId) -> Result<VolumeFacts, Error>;
    /// All that have an image, by container; for each, what [`Self::look`] answers.
    fn look_all(&self) -> Result<Each<VolumeFacts>, Error>;
    /// In whose mounted file systems the kernel has met errors, and how many. Made for being asked often.
    fn met_errors(&self) -> Result<BTreeMap<CtId, u32>, Error>;
    /// Whose volumes are mounted by us though their images are gone.
    fn orphans(&self) -> Result<Vec<CtId>, Error>;
    /// A container's snapshots; where `measure` says so, with the bytes that only it has.
    fn snapshots(
        &self,
        ct: CtId,
        measure: bool,
    ) -> Result<Vec<(SnapshotId, Snapshot, Option<u64>)>, Error>;
    /// What takes room of the pool, and how much: of all there is, so it is asked once.
    fn inventory(&self) -> Result<Inventory, Error>;
    /// The pool's room. What it costs to see does not grow with what is in it.
    fn room(&self) -> Result<Room, Error>;
    /// Lets so much of the pool be backed by what is under it, and reach so far.
    fn back(&self, bytes: u64) -> Result<(), Error>;
    /// What a template takes, with its base images.
    fn takes(&self, template: &TemplateName) -> Result<u64, Error>;
    /// What the pool is made of.
    fn backend(&self) -> BackendKind;
    /// All templates, by name.
    fn templates(&self) -> Result<Vec<Template>, Error>;
    /// A template as it is, for planning.
    fn observe_template(&self, name: &TemplateName) -> Result<template::Observed, Error>;
    /// Does one step of a template's plan, or finds it done.
    fn apply_template(
        &self,
        name: &TemplateName,
        step: &template::Step,
        making: &mut Making<'_, '_>,
    ) -> Result<(), Error>;
    /// A template's contents as tar.zst.
    ///
    /// # Errors
    /// [`Error::TemplateUnknown`], or what failed.
    fn export(&self, name: &TemplateName) -> Result<Box<dyn Read + Send>, Error>;
}
