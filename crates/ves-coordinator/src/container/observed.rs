//! What the four services show of a container, as facts. Pure.

use std::collections::{BTreeMap, BTreeSet};

use ves_types::{Bytes, CtAddress, ExitCause, Generation, Phase, SnapshotId};

use super::step::Step;
use crate::usage::reading::Counted;

/// A volume as storage shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VolumeSeen {
    /// Last accepted; 0 where storage does not know, as of a volume it has no fence of.
    pub generation: Generation,
    /// Its size.
    pub size: Bytes,
    /// Whether it is mounted.
    pub mounted: bool,
    /// Bytes its files take, where it is mounted.
    pub used: Option<Bytes>,
    /// The snapshot it was last put back to, and the generation that wanted it.
    pub reverted: Option<(SnapshotId, Generation)>,
    /// How many errors the kernel has met in its file system, if any; 0: nobody knows how many.
    pub damage: Option<u32>,
    /// The generation that last wanted it to be checked.
    pub checked: Option<Generation>,
    /// The kernel's number of the device it is on, where that is known.
    pub device: Option<u64>,
}

/// Control groups as resources shows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupSeen {
    /// Last accepted.
    pub generation: Generation,
    /// The device that bounds of disk traffic are about, where it was told.
    pub device: Option<u64>,
}

/// A link as network shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkSeen {
    /// Last accepted.
    pub generation: Generation,
    /// Its addresses.
    pub addresses: BTreeSet<CtAddress>,
}

/// Processes as lifecycle shows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ProcessSeen {
    /// Last accepted.
    pub generation: Generation,
    /// How far.
    pub phase: Phase,
    /// How they last ended; none: they did not, or nobody knows.
    pub end: Option<ExitCause>,
    /// The exit status, or 128 and the signal, of the last init.
    pub end_status: Option<u32>,
    /// The signal that ended the last init, where one did.
    pub end_signal: Option<u32>,
    /// How often they ended.
    pub incarnation: u64,
    /// The node's pid of init.
    pub init_pid: Option<u32>,
    /// When init started.
    pub started_unix_ms: Option<i64>,
    /// Whether init says that it booted.
    pub booted: bool,
    /// Whether init goes down by itself.
    pub stopping: bool,
    /// Whether nothing can be done with them but to end them.
    pub unresponsive: bool,
}

/// What one service shows of its share, when it has done a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Share {
    /// Storage's.
    Volume(VolumeSeen),
    /// Storage's: a snapshot that is there, and the generation it was taken with.
    Snapshot(SnapshotId, Generation),
    /// Resources'.
    Group(GroupSeen),
    /// Lifecycle's.
    Process(ProcessSeen),
    /// Network's.
    Link(LinkSeen),
    /// What the step takes away is not there.
    Gone,
}

/// What the services show of one container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Observed {
    /// Storage.
    pub volume: Option<VolumeSeen>,
    /// Storage: snapshots, each with the generation it was taken with.
    pub snapshots: BTreeMap<SnapshotId, Generation>,
    /// Resources.
    pub group: Option<GroupSeen>,
    /// Lifecycle.
    pub process: ProcessSeen,
    /// Network.
    pub link: Option<LinkSeen>,
    /// What network counted until then; groups are read when they go. No ground of a step.
    pub counted: Counted,
}

impl Observed {
    /// What is there and was last asked for with a generation before `first`.
    pub fn before(&self, first: Generation) -> Vec<&'static str> {
        let Self { volume, snapshots, group, process, link, counted: _ } = self;
        let all = [
            ("volume", volume.map(|v| v.generation)),
            ("snapshots", snapshots.values().min().copied()),
            ("control groups", group.map(|g| g.generation)),
            ("processes", (process.phase != Phase::Absent).then_some(process.generation)),
            ("link", link.as_ref().map(|l| l.generation)),
        ];
        let old = all.into_iter().filter(|(_, g)| g.is_some_and(|g| g < first));
        old.map(|(what, _)| what).collect()
    }

    /// The device of its volume, where that is mounted and its device known.
    pub fn device(&self) -> Option<u64> {
        self.volume.filter(|v| v.mounted)?.device
    }

    /// All that is there.
    pub fn everything(&self) -> Vec<&'static str> {
        self.before(Generation(u64::MAX))
    }

    /// The newest generation that a service has accepted.
    pub fn newest(&self) -> Generation {
        let Self { volume, snapshots, group, process, link, counted: _ } = self;
        let volume = volume.map_or(Generation(0), |v| v.generation);
        let snapshots = snapshots.values().max().copied().unwrap_or_default();
        let group = group.map_or(Generation(0), |g| g.generation);
        let link = link.as_ref().map_or(Generation(0), |l| l.generation);
        volume.max(snapshots).max(group).max(link).max(process.generation)
    }

    /// The same without what is from before `first`; nothing where processes are.
    pub(super) fn own(&self, first: Generation) -> Self {
        if self.process.phase != Phase::Absent && self.process.generation < first {
            return Self::default();
        }
        let Self { volume, snapshots, group, process, link, counted } = self.clone();
        // A volume goes with its snapshots, or not at all.
        let old =
            volume.is_some_and(|v| v.generation < first) || snapshots.values().any(|g| *g < first);
        Self {
            volume: volume.filter(|_| !old),
            snapshots: if old { BTreeMap::new() } else { snapshots },
            group: group.filter(|g| g.generation >= first),
            process,
            link: link.filter(|l| l.generation >= first),
            counted,
        }
    }

    /// What the services show after `step`, asked for with `generation` and answered with `share`:
    /// nobody is asked again for what was just answered.
    #[must_use]
    pub fn answered(self, step: &Step, generation: Generation, share: Share) -> Self {
        let mut seen = self.after(step, generation);
        match share {
            Share::Volume(volume) => seen.volume = Some(volume),
            Share::Snapshot(id, generation) => {
                seen.snapshots.insert(id, generation);
            }
            Share::Group(group) => seen.group = Some(group),
            Share::Process(process) => seen.process = process,
            Share::Link(link) => seen.link = Some(link),
            Share::Gone => {}
        }
        seen
    }

    /// What the services are expected to show after `step`, asked for with `generation`.
    #[must_use]
    pub fn after(mut self, step: &Step, generation: Generation) -> Self {
        match step {
            Step::EnsureVolume { volume, mounted } => {
                let used = self.volume.and_then(|v| v.used).filter(|_| *mounted);
                let reverted = self.volume.and_then(|v| v.reverted);
                let checked = self.volume.and_then(|v| v.checked);
                // It is checked when it is mounted.
                let kept = |v: &VolumeSeen| v.mounted || !*mounted;
                let device = self.volume.filter(|v| v.mounted && *mounted).and_then(|v| v.device);
                let damage = self.volume.filter(kept).and_then(|v| v.damage);
                self.volume = Some(VolumeSeen {
                    generation,
                    size: volume.size.bytes(),
                    mounted: *mounted,
                    used,
                    reverted,
                    damage,
                    checked,
                    device,
                });
            }
            Step::RemoveVolume => {
                self.volume = None;
                self.snapshots.clear();
            }
            Step::TakeSnapshot { id, .. } => {
                self.snapshots.insert(*id, generation);
            }
            Step::DeleteSnapshot { id } => {
                self.snapshots.remove(id);
            }
            Step::CheckVolume { .. } => {
                if let Some(volume) = &mut self.volume {
                    (volume.damage, volume.checked) = (None, Some(generation));
                }
            }
            Step::RevertVolume { id } => {
                if let Some(volume) = &mut self.volume {
                    volume.reverted = Some((*id, generation));
                }
            }
            Step::EnsureLimits(_) => {
                let device = self.device().or_else(|| self.group.and_then(|g| g.device));
                self.group = Some(GroupSeen { generation, device });
            }
            Step::RemoveLimits => self.group = None,
            Step::CreateProcess(_) => {
                self.process.generation = generation;
                self.process.phase = self.process.phase.max(Phase::Created);
            }
            Step::RunProcess(_) => {
                self.process.generation = generation;
                self.process.phase = Phase::Running;
            }
            Step::KeepProcess(_) => {
                self.process.generation = generation;
                if self.process.phase == Phase::Frozen {
                    self.process.phase = Phase::Running;
                }
            }
            Step::StopProcess { .. } => {
                // A network namespace takes its link with it.
                self.link = None;
                self.process = ProcessSeen {
                    generation,
                    phase: Phase::Absent,
                    end: Some(ExitCause::Stopped),
                    incarnation: self.process.incarnation.saturating_add(1),
                    ..ProcessSeen::default()
                };
            }
            Step::EnsureLink { addresses } => {
                self.link = Some(LinkSeen { generation, addresses: addresses.clone() });
            }
            Step::RemoveLink => self.link = None,
        }
        self
    }
}
