//! What there is of one container on all parts of a node, to be looked at.

use std::collections::{BTreeMap, BTreeSet};

use ves_lifecycle::plan::{End, Spec};
use ves_resources::host::Host as _;
use ves_storage::host::Host as _;
use ves_storage::plan::{Image, Mount, Reverted};
use ves_types::{CtAddress, CtId, Limits, Phase, SnapshotId};

use crate::FakeNode;

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Where it came from.
    pub template: String,
    /// Its size.
    pub size: u64,
    /// Whether it is mounted.
    pub mounted: bool,
    /// The id slot of its mount.
    pub slot: Option<u32>,
    /// What is in it: a number in place of files.
    pub contents: u64,
    /// The snapshot it was put back to.
    pub reverted: Option<Reverted>,
}

/// Processes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Process {
    /// How far.
    pub phase: Phase,
    /// How they last ended, whether that is forgotten or not.
    pub ended: Option<End>,
    /// What they run with.
    pub spec: Option<Spec>,
    /// How often init was started.
    pub starts: u64,
}

/// All of one container that is there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ct {
    /// Its volume.
    pub volume: Option<Volume>,
    /// Its snapshots: what is in each.
    pub snapshots: BTreeMap<SnapshotId, u64>,
    /// Its limits.
    pub group: Option<Limits>,
    /// Its processes.
    pub process: Process,
    /// Addresses of its link that work.
    pub link: Option<BTreeSet<String>>,
    /// Addresses that are routed to it.
    pub routed: BTreeSet<String>,
    /// Addresses the guard allows it as source, which do not go with the link.
    pub allowed: BTreeSet<String>,
}

impl Ct {
    /// Whether it has processes.
    pub fn alive(&self) -> bool {
        self.process.phase > Phase::Absent
    }

    /// Whether the guard knows it.
    pub fn guard(&self) -> bool {
        !self.allowed.is_empty()
    }

    /// Whether nothing of it is there.
    pub fn is_nothing(&self) -> bool {
        let Self { volume, snapshots, group, process: _, link, routed, allowed } = self;
        volume.is_none()
            && snapshots.is_empty()
            && group.is_none()
            && link.is_none()
            && routed.is_empty()
            && allowed.is_empty()
            && !self.alive()
    }
}

impl FakeNode {
    /// One container.
    pub fn ct(&self, id: u32) -> Ct {
        let Ok(ct) = CtId::try_from(id) else { return Ct::default() };
        let volume = self.volumes.observe(ct, None).ok().and_then(|seen| {
            let Image::Ours { record, bytes, .. } = seen.image else { return None };
            let slot = match seen.mount {
                Mount::Ours { slot } => Some(slot.map(|s| s.get())),
                Mount::None | Mount::Foreign(_) => None,
            };
            Some(Volume {
                template: record.template.to_string(),
                size: bytes,
                mounted: slot.is_some(),
                slot: slot.flatten(),
                contents: self.volumes.read(ct),
                reverted: record.reverted,
            })
        });
        let group = self.groups.observe(ct).ok().filter(|g| g.exists());
        let mut links = self.links.state();
        let net = links.container(ct);
        let link = net.link.as_ref().map(|_| net.working());
        let words =
            |all: &mut dyn Iterator<Item = &CtAddress>| all.map(ToString::to_string).collect();
        let routed = words(&mut net.link.iter().flat_map(|l| &l.routes));
        let allowed = words(&mut net.sources.iter());
        let model = self.processes.model(ct);
        let phase = match &model.state.monitor {
            None if !model.state.unresponsive => Phase::Absent,
            Some(monitor) if !monitor.running => Phase::Created,
            _ if model.state.frozen => Phase::Frozen,
            _ => Phase::Running,
        };
        Ct {
            volume,
            snapshots: self.volumes.kept(ct),
            group: group.map(|g| g.record.unwrap_or_default()),
            process: Process {
                phase,
                ended: model.ended,
                spec: model.state.monitor.and_then(|m| m.spec),
                starts: model.starts,
            },
            link: link.map(|all| all.iter().map(ToString::to_string).collect()),
            routed,
            allowed,
        }
    }
}
