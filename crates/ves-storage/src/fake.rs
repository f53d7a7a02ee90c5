//! A host in memory: what each step does to what is observed, and faults on demand.
//!
//! [`Model`] is one volume and the pure effect of each step on it; [`FakeHost`] is a node of them.

pub mod blocking;
mod templates;

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ves_archive::Init;
use ves_host::{HostError, ext4};
use ves_types::{CtId, SnapshotId, TemplateName};

use self::templates::{Made, Templates, built, take};
use crate::error::Error;
use crate::host::{Each, Host, Making, Template, Usage, VolumeFacts};
use crate::ledger::{Holder, Inventory};
use crate::plan::room::{Room, SPARE};
use crate::plan::snapshot::{self, Snapshot};
use crate::plan::template::{self, base_image_bytes};
use crate::plan::{DEFAULT_INODES_PER_GROUP, Image, Mount, Observed, Record, Step, TemplateFacts};

/// A clone that is not at its place yet.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Unfinished {
    record: Record,
    bytes: u64,
    blocks: u64,
    contents: u64,
}

/// A snapshot, and what is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Kept {
    snapshot: Snapshot,
    blocks: u64,
    contents: u64,
}

/// What each image and snapshot takes in the pool.
pub const ALLOCATED: u64 = 1 << 20;

/// One volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    image: Image,
    unfinished: Option<Unfinished>,
    device: Option<u64>,
    mount: Mount,
    mount_point: bool,
    snapshots: BTreeMap<SnapshotId, Kept>,
    unfinished_snapshot: Option<(SnapshotId, snapshot::Record)>,
    /// Somebody else uses the device, as a container's mount namespace does.
    pub held: bool,
    /// What the files say: a number in place of them.
    pub contents: u64,
    /// Whether the pool can clone what is in use.
    pub shares_blocks: bool,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            image: Image::Absent,
            unfinished: None,
            device: None,
            mount: Mount::None,
            mount_point: false,
            snapshots: BTreeMap::new(),
            unfinished_snapshot: None,
            held: false,
            contents: 0,
            shares_blocks: true,
        }
    }
}

/// Why a step cannot be done to a model: the real host would fail too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Impossible {
    /// The device is used.
    InUse,
    /// The step makes no sense here.
    Senseless(&'static str),
}

impl Model {
    /// A volume as observed; used to begin from any state. An unfinished clone is of `record`.
    pub fn of(observed: &Observed, record: &Record) -> Self {
        let Observed { image, unfinished, device, mount, mount_point, .. } = observed.clone();
        let clone = || Unfinished { record: record.clone(), bytes: 0, blocks: 0, contents: 0 };
        let unfinished = unfinished.then(clone);
        let keep = |(id, snapshot): (&SnapshotId, &Snapshot)| {
            let (snapshot, blocks) = (snapshot.clone(), snapshot.bytes / ext4::BLOCK);
            (*id, Kept { snapshot, blocks, contents: u64::MAX })
        };
        let snapshots = observed.snapshots.iter().map(keep).collect();
        let shares_blocks = observed.shares_blocks;
        let model = Self { image, unfinished, device, mount, mount_point, ..Self::default() };
        Self { snapshots, shares_blocks, ..model }
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
            mount: self.mount.clone(),
            mount_point: self.mount_point,
            template,
            online_growth,
            shares_blocks: self.shares_blocks,
            max_snapshots: crate::Config::default().max_snapshots,
        }
    }

    /// What is told of it.
    fn seen(&self, ct: CtId) -> VolumeFacts {
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
        VolumeFacts { image: self.image.clone(), mounted, usage }
    }

    /// What a step does; `base_image` is the length of the template's base image by inodes per group.
    ///
    /// # Errors
    /// [`Impossible`]; then nothing has changed.
    pub fn apply(
        &mut self,
        step: &Step,
        base_image: impl Fn(&Record) -> Option<u64>,
    ) -> Result<(), Impossible> {
        let senseless = |why| Err(Impossible::Senseless(why));
        match (step, &mut self.image) {
            (Step::Back { .. }, _) => {}
            (Step::Discard, _) => {
                self.unfinished = None;
                self.unfinished_snapshot = None;
            }
            (Step::MakeBaseImage(_), _) => {}
            (Step::Create { record, bytes }, _) => {
                let Some(base_image) = base_image(record) else {
                    return senseless("no such base image");
                };
                let blocks = ext4::usable_blocks(base_image, record.inodes_per_group);
                let bytes = *bytes;
                let record = record.clone();
                self.unfinished = Some(Unfinished { record, bytes, blocks, contents: 0 });
            }
            (Step::Recreate { bytes }, Image::Ours { record, blocks, .. }) => {
                if self.device.is_some() {
                    return senseless("copy a volume in use");
                }
                let (record, blocks, bytes) = (record.clone(), *blocks, *bytes);
                let contents = self.contents;
                self.unfinished = Some(Unfinished { record, bytes, blocks, contents });
            }
            (Step::GrowNew { blocks }, _) => match &mut self.unfinished {
                Some(clone) => clone.blocks = clone.blocks.max(*blocks),
                None => return senseless("grow no clone"),
            },
            (Step::Publish, image) => match (self.unfinished.take(), &image) {
                (Some(Unfinished { record, bytes, blocks, contents }), _) => {
                    if self.device.is_some() {
                        return senseless("replace an image in use");
                    }
                    *image = Image::Ours { record, bytes, blocks };
                    self.contents = contents;
                }
                (None, Image::Ours { .. }) => {}
                (None, _) => return senseless("publish nothing"),
            },
            (Step::Enlarge { bytes: want }, Image::Ours { bytes, .. }) => {
                *bytes = (*bytes).max(*want)
            }
            (Step::Activate, Image::Ours { bytes, .. }) => {
                self.device.get_or_insert(*bytes);
            }
            (Step::Refresh, Image::Ours { bytes, .. }) => {
                let bytes = *bytes;
                self.device = self.device.map(|_| bytes);
            }
            (Step::Mount { slot }, Image::Ours { .. }) => {
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
            (Step::PublishSnapshot { id }, Image::Ours { bytes, blocks, .. }) => {
                match self.unfinished_snapshot.take() {
                    Some((new, record)) if new == *id => {
                        let snapshot = Snapshot { record, bytes: *bytes, allocated: ALLOCATED };
                        let (blocks, contents) = (*blocks, self.contents);
                        self.snapshots.insert(new, Kept { snapshot, blocks, contents });
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
                self.unfinished = Some(Unfinished { record, bytes, blocks, contents });
            }
            (Step::Unmount, image) => {
                if matches!(self.mount, Mount::Ours { .. }) {
                    self.mount = Mount::None;
                }
                if *image == Image::Absent {
                    // Nothing else knows a device whose image was deleted.
                    self.device = None;
                }
            }
            (Step::Deactivate, _) => {
                if self.held || self.mount != Mount::None {
                    return Err(Impossible::InUse);
                }
                self.device = None;
            }
            (Step::Remove, Image::Ours { .. }) => {
                if self.device.is_some() {
                    return Err(Impossible::InUse);
                }
                self.image = Image::Absent;
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

#[derive(Debug, Default)]
struct Node {
    volumes: BTreeMap<CtId, Model>,
    templates: Templates,
    pool_bytes: Option<u64>,
    /// How far the pool reaches, where that is not all.
    reach: Option<u64>,
    /// How much of that lost what it had under it.
    holes: u64,
    fail_after: Option<u64>,
    applied: Vec<(CtId, String)>,
    asked: Vec<&'static str>,
}

/// A node in memory.
#[derive(Debug)]
pub struct FakeHost {
    node: Mutex<Node>,
    online_growth: bool,
}

impl Default for FakeHost {
    fn default() -> Self {
        Self::new()
    }
}

impl FakeHost {
    /// A node with a pool of 1 TiB and no templates.
    pub fn new() -> Self {
        Self { node: Mutex::default(), online_growth: true }
    }
    /// A node that cannot grow what is mounted.
    pub fn without_online_growth() -> Self {
        Self { node: Mutex::default(), online_growth: false }
    }

    fn node(&self) -> MutexGuard<'_, Node> {
        self.node.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a template there, as if it had been built.
    pub fn add_template(&self, name: &TemplateName) {
        let mut kept = Made::new(name, built(Init::Systemd), Vec::new());
        let Template { content_bytes, content_inodes, .. } = kept.template;
        let per_group = DEFAULT_INODES_PER_GROUP;
        let bytes = base_image_bytes(content_bytes, content_inodes, per_group);
        kept.facts.variants.insert(per_group, bytes);
        self.node().templates.published.insert(name.clone(), kept);
    }

    /// Sets the pool's size.
    pub fn set_pool_bytes(&self, size: u64) {
        self.node().pool_bytes = Some(size);
    }

    /// Sets how far the pool reaches until more is promised.
    pub fn set_pool_reach(&self, reach: u64) {
        self.node().reach = Some(reach);
    }

    /// Takes so much away that was under the pool, as a trim of it does.
    pub fn punch_pool(&self, bytes: u64) {
        self.node().holes = bytes;
    }

    /// Lets `steps` more steps succeed, and then one fail.
    pub fn fail_after(&self, steps: u64) {
        self.node().fail_after = Some(steps);
    }

    /// Says whether something else, such as a container, uses a volume.
    pub fn hold(&self, ct: CtId, held: bool) {
        self.node().volumes.entry(ct).or_default().held = held;
    }

    /// Writes to a volume's files: a number in their place.
    pub fn write(&self, ct: CtId, contents: u64) {
        self.node().volumes.entry(ct).or_default().contents = contents;
    }

    /// What was last written to a volume's files.
    pub fn read(&self, ct: CtId) -> u64 {
        self.node().volumes.get(&ct).map_or(0, |v| v.contents)
    }

    /// The pool cannot clone what is in use.
    pub fn share_no_blocks(&self, ct: CtId) {
        self.node().volumes.entry(ct).or_default().shares_blocks = false;
    }

    /// The steps applied until now, as text.
    pub fn applied(&self) -> Vec<(CtId, String)> {
        self.node().applied.clone()
    }

    /// What was asked since this was last called, a word a call.
    pub fn asked(&self) -> Vec<&'static str> {
        std::mem::take(&mut self.node().asked)
    }

    /// The machine was switched off and on: mounts and devices are gone.
    pub fn reboot(&self) {
        for model in self.node().volumes.values_mut() {
            model.device = None;
            model.mount = Mount::None;
            model.mount_point = false;
            model.held = false;
        }
    }
}

impl Node {
    /// Fails where the test wants it to.
    fn fail(&mut self) -> Result<(), Error> {
        match &mut self.fail_after {
            Some(0) => {
                self.fail_after = None;
                return Err(broken("do a step, as the test wants it to fail"));
            }
            Some(left) => *left -= 1,
            None => {}
        }
        Ok(())
    }
}

fn broken(what: &str) -> Error {
    Error::Host(HostError::Sys {
        what: what.to_owned(),
        source: std::io::Error::from_raw_os_error(5),
    })
}

impl Host for FakeHost {
    fn observe(&self, ct: CtId, template: Option<&TemplateName>) -> Result<Observed, Error> {
        let mut node = self.node();
        node.asked.push("observe");
        let facts =
            template.and_then(|t| node.templates.published.get(t)).map(|kept| kept.facts.clone());
        let model = node.volumes.get(&ct).cloned().unwrap_or_default();
        Ok(model.observed(facts, self.online_growth))
    }

    fn apply(&self, ct: CtId, step: &Step) -> Result<(), Error> {
        let mut node = self.node();
        node.fail()?;
        if let Step::Back { bytes } = step {
            node.reach = node.reach.map(|reach| reach.max(*bytes));
        }
        let templates = node.templates.published.clone();
        let base_image = |record: &Record| {
            let facts = &templates.get(&record.template)?.facts;
            facts.variants.get(&record.inodes_per_group).copied()
        };
        let done = node.volumes.entry(ct).or_default().apply(step, base_image);
        node.applied.push((ct, step.to_string()));
        done.map_err(|e| match e {
            Impossible::InUse => Error::InUse { ct },
            Impossible::Senseless(why) => broken(why),
        })
    }

    fn look(&self, ct: CtId) -> Result<VolumeFacts, Error> {
        let mut node = self.node();
        node.asked.push("look");
        Ok(node.volumes.get(&ct).cloned().unwrap_or_default().seen(ct))
    }

    fn look_all(&self) -> Result<Each<VolumeFacts>, Error> {
        let mut node = self.node();
        node.asked.push("look at all");
        let there = node.volumes.iter().filter(|(_, v)| v.image != Image::Absent);
        Ok(there.map(|(ct, v)| (*ct, Ok(v.seen(*ct)))).collect())
    }

    fn snapshots(
        &self,
        ct: CtId,
        measure: bool,
    ) -> Result<Vec<(SnapshotId, Snapshot, Option<u64>)>, Error> {
        let node = self.node();
        let kept = node.volumes.get(&ct).map(|v| v.snapshots.iter()).into_iter().flatten();
        Ok(kept.map(|(id, k)| (*id, k.snapshot.clone(), measure.then_some(4096))).collect())
    }

    fn inventory(&self) -> Result<Inventory, Error> {
        let mut node = self.node();
        node.asked.push("inventory");
        let mut all = Inventory::new();
        for (ct, model) in &node.volumes {
            if let Image::Ours { bytes, .. } = &model.image {
                all.insert(Holder::Volume(*ct), *bytes);
            }
            let kept = model.snapshots.iter();
            all.extend(kept.map(|(id, k)| (Holder::Snapshot(*ct, *id), k.snapshot.allocated)));
        }
        let templates = node.templates.published.keys();
        all.extend(templates.map(|n| (Holder::Template(n.clone()), node.templates.takes(n))));
        Ok(all)
    }

    fn room(&self) -> Result<Room, Error> {
        let mut node = self.node();
        node.asked.push("room");
        let limit = node.pool_bytes.unwrap_or(1 << 40);
        let reach = node.reach.unwrap_or(limit).min(limit);
        let (backed, below) = (reach - node.holes, limit - reach + node.holes + SPARE);
        let overcommit_percent = 100;
        Ok(Room { own: true, limit, reach, backed, below, used: 0, overcommit_percent })
    }

    fn back(&self, bytes: u64) -> Result<(), Error> {
        let mut node = self.node();
        node.asked.push("back");
        node.reach = node.reach.map(|reach| reach.max(bytes));
        node.holes = 0;
        Ok(())
    }

    fn takes(&self, template: &TemplateName) -> Result<u64, Error> {
        Ok(self.node().templates.takes(template))
    }

    fn backend(&self) -> &'static str {
        "fake"
    }

    fn templates(&self) -> Result<Vec<Template>, Error> {
        Ok(self.node().templates.published.values().map(|kept| kept.template.clone()).collect())
    }

    fn observe_template(&self, name: &TemplateName) -> Result<template::Observed, Error> {
        Ok(self.node().templates.observe(name))
    }

    fn apply_template(
        &self,
        name: &TemplateName,
        step: &template::Step,
        making: &mut Making<'_, '_>,
    ) -> Result<(), Error> {
        self.node().fail()?;
        if *step == template::Step::TakeContents {
            let kept = take(name, making)?;
            self.node().templates.taken(kept);
        }
        self.node().templates.apply(name, step);
        Ok(())
    }

    fn export(&self, name: &TemplateName) -> Result<Box<dyn Read + Send>, Error> {
        let node = self.node();
        let kept = node.templates.published.get(name);
        let archive = kept.map(|kept| kept.archive.clone());
        let archive = archive.ok_or_else(|| Error::TemplateUnknown(name.clone()))?;
        Ok(Box::new(std::io::Cursor::new(archive)))
    }
}
