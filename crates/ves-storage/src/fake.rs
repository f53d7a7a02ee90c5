//! A host in memory: what each step does to what is observed, and faults on demand.
//!
//! [`Model`] is one volume and the effect of each step on it; [`FakeHost`] is a node of them. Never here: a
//! decision.

pub mod blocking;
mod model;
mod templates;

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use ves_archive::Init;
use ves_host::ext4::Damage;
use ves_host::{HostError, ext4};
use ves_types::{CtId, SnapshotId, TemplateName};

use self::templates::{Made, Templates, built, take};
use crate::error::Error;
use crate::host::{BackendKind, Each, Host, Making, Source, Template, VolumeFacts};
use crate::ledger::{Holder, Inventory};
use crate::plan::room::{Room, SPARE};
use crate::plan::snapshot::Snapshot;
use crate::plan::template::{self, base_image_bytes};
use crate::plan::{DEFAULT_INODES_PER_GROUP, Image, Observed, Record, Step};

pub use model::{ALLOCATED, HOLDER, Impossible, Model};

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
    /// What is mounted cannot grow.
    stiff: bool,
    /// How many builds of the suite `slow` have been given up.
    given_up: u64,
    /// How many of them have begun.
    slow_begun: u64,
    /// Looks at this one do not end.
    stuck: Option<CtId>,
    /// How many of them have begun.
    stuck_looks: u64,
}

/// A node in memory.
#[derive(Debug, Default)]
pub struct FakeHost {
    node: Mutex<Node>,
    gave_up: Condvar,
    unstuck: Condvar,
}

impl FakeHost {
    /// A node with a pool of 1 TiB and no templates.
    pub fn new() -> Self {
        Self::default()
    }

    fn node(&self) -> MutexGuard<'_, Node> {
        self.node.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether what is mounted can grow.
    pub fn grow_online(&self, can: bool) {
        self.node().stiff = !can;
    }

    /// How many builds of the suite `slow` have ever begun.
    pub fn slow_builds(&self) -> u64 {
        self.node().slow_begun
    }

    /// Ends all builds of the suite `slow`, which do not end by themselves.
    pub fn give_up_builds(&self) {
        self.node().given_up += 1;
        self.gave_up.notify_all();
    }

    /// Lets looks at a volume not end, until this is said of another or of none.
    pub fn stick(&self, ct: Option<CtId>) {
        self.node().stuck = ct;
        self.unstuck.notify_all();
    }

    /// How many looks at a volume that did not end have ever begun.
    pub fn stuck_looks(&self) -> u64 {
        self.node().stuck_looks
    }

    /// Puts a volume there, as if it had been made from a template.
    pub fn make(&self, ct: CtId, template: TemplateName, bytes: u64) {
        let inodes_per_group = DEFAULT_INODES_PER_GROUP;
        let record =
            Record { template, inodes: None, inodes_per_group, reverted: None, checked: None };
        let blocks = ext4::usable_blocks(bytes, inodes_per_group);
        let image = Image::Ours { record, bytes, blocks, damage: None };
        self.node().volumes.entry(ct).or_default().image = image;
    }

    /// Throws away what is unfinished, as the service does when it starts.
    pub fn sweep(&self) {
        self.node().volumes.values_mut().for_each(Model::sweep);
    }

    /// The kernel meets an error in a volume's file system; where it is `hopeless`, nothing mends that
    /// which loses nothing.
    pub fn damage(&self, ct: CtId, hopeless: bool) {
        let mut node = self.node();
        let model = node.volumes.entry(ct).or_default();
        model.hopeless = hopeless;
        if let Image::Ours { damage, .. } = &mut model.image {
            let errors = damage.as_ref().map_or(1, |d| d.errors + 1);
            *damage = Some(Damage { errors, last_unix: 1, last_in: "ext4_lookup".to_owned() });
        }
    }

    /// Loses a volume's image.
    pub fn lose(&self, ct: CtId) {
        self.node().volumes.entry(ct).or_default().image = Image::Absent;
    }

    /// What is in a container's snapshots: a number in place of files.
    pub fn kept(&self, ct: CtId) -> BTreeMap<SnapshotId, u64> {
        let node = self.node();
        let all = node.volumes.get(&ct).map(|v| v.snapshots.iter()).into_iter().flatten();
        all.map(|(id, kept)| (*id, kept.contents)).collect()
    }

    /// Whether nothing of any volume is left.
    pub fn is_clean(&self) -> bool {
        self.node().volumes.values().all(Model::is_nothing)
    }

    /// Puts a template there, as if it had been built.
    pub fn add_template(&self, name: &TemplateName) {
        let mut kept = Made::new(name, built(Init::Systemd), vec![b'('; 4096]);
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

    /// So much more is in a snapshot than was in the volume when it was looked at.
    pub fn write_meanwhile(&self, ct: CtId, bytes: u64) {
        self.node().volumes.entry(ct).or_default().meanwhile = bytes;
    }

    /// Says whether somebody of the node, [`HOLDER`], uses a volume.
    pub fn pin(&self, ct: CtId, pinned: bool) {
        self.node().volumes.entry(ct).or_default().pin(pinned);
    }

    /// Says whether a container's processes use a volume.
    pub fn hold(&self, ct: CtId, held: bool) {
        self.node().volumes.entry(ct).or_default().hold(held);
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
        self.node().volumes.values_mut().for_each(Model::reboot);
    }
}

impl FakeHost {
    /// A build of the suite `nonsuch` fails; one of `slow` ends when it is given up.
    fn build_as_named(&self, making: &Making<'_, '_>) -> Result<(), Error> {
        let Some(Source::Build(build)) = &making.source else { return Ok(()) };
        match build.suite.as_str() {
            "nonsuch" => Err(broken("fetch a suite that the mirror does not have")),
            "slow" => {
                let mut node = self.node();
                node.slow_begun += 1;
                let begun = node.given_up;
                drop(self.gave_up.wait_while(node, |node| node.given_up == begun));
                Err(broken("wait for a build that was given up"))
            }
            _ => Ok(()),
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
        if node.stuck == Some(ct) {
            node.stuck_looks += 1;
            let stuck = |node: &mut Node| node.stuck == Some(ct);
            node = self.unstuck.wait_while(node, stuck).unwrap_or_else(PoisonError::into_inner);
        }
        let facts =
            template.and_then(|t| node.templates.published.get(t)).map(|kept| kept.facts.clone());
        let model = node.volumes.get(&ct).cloned().unwrap_or_default();
        Ok(model.observed(facts, !node.stiff))
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
            Impossible::InUse => Error::InUse { ct, holder: HOLDER.to_owned() },
            Impossible::Damaged => Error::Damaged { ct, said: String::new(), all: false },
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

    fn orphans(&self) -> Result<Vec<CtId>, Error> {
        let node = self.node();
        let orphans = node.volumes.iter().filter(|(_, v)| v.observed(None, true).is_orphan());
        Ok(orphans.map(|(ct, _)| *ct).collect())
    }

    fn met_errors(&self) -> Result<BTreeMap<CtId, u32>, Error> {
        let node = self.node();
        let met = node.volumes.iter().filter_map(|(ct, v)| match &v.seen(*ct) {
            VolumeFacts {
                image: Image::Ours { damage: Some(damage), .. }, mounted: true, ..
            } => Some((*ct, damage.errors)),
            _ => None,
        });
        Ok(met.collect())
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

    fn backend(&self) -> BackendKind {
        BackendKind::ImageReflink
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
            self.build_as_named(making)?;
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
