//! What the four services show of a container, as facts. Pure.

use std::collections::{BTreeMap, BTreeSet};

use ves_types::{Bytes, CtAddress, Generation, SnapshotId};

use super::step::Step;

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
}

/// Control groups as resources shows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupSeen {
    /// Last accepted.
    pub generation: Generation,
}

/// A link as network shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkSeen {
    /// Last accepted.
    pub generation: Generation,
    /// Its addresses.
    pub addresses: BTreeSet<CtAddress>,
}

/// How far processes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Phase {
    /// There are none.
    #[default]
    Absent,
    /// The first waits to become init.
    Created,
    /// Init runs.
    Running,
    /// They are frozen.
    Frozen,
}

/// How processes last ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum End {
    /// They did not, or nobody knows.
    #[default]
    None,
    /// Told to stop, or killed by us.
    Stopped,
    /// By halt or poweroff inside.
    Halted,
    /// By reboot inside.
    Rebooted,
    /// Init exited or died.
    Exited,
}

/// Processes as lifecycle shows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ProcessSeen {
    /// Last accepted.
    pub generation: Generation,
    /// How far.
    pub phase: Phase,
    /// How they last ended.
    pub end: End,
    /// The exit status, or 128 and the signal, of the last init.
    pub end_status: Option<u32>,
    /// How often they ended.
    pub incarnation: u64,
    /// The node's pid of init.
    pub init_pid: Option<u32>,
    /// When init started.
    pub started_unix_ms: Option<i64>,
    /// Whether init says that it booted.
    pub booted: bool,
    /// Whether nothing can be done with them but to end them.
    pub unresponsive: bool,
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
}

impl Observed {
    /// What is there and was last asked for with a generation before `first`.
    pub fn before(&self, first: Generation) -> Vec<&'static str> {
        let Self { volume, snapshots, group, process, link } = self;
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

    /// All that is there.
    pub fn everything(&self) -> Vec<&'static str> {
        self.before(Generation(u64::MAX))
    }

    /// The newest generation that a service has accepted.
    pub fn newest(&self) -> Generation {
        let Self { volume, snapshots, group, process, link } = self;
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
        let Self { volume, snapshots, group, process, link } = self.clone();
        // A volume goes with its snapshots, or not at all.
        let old =
            volume.is_some_and(|v| v.generation < first) || snapshots.values().any(|g| *g < first);
        Self {
            volume: volume.filter(|_| !old),
            snapshots: if old { BTreeMap::new() } else { snapshots },
            group: group.filter(|g| g.generation >= first),
            process,
            link: link.filter(|l| l.generation >= first),
        }
    }

    /// What the services are expected to show after `step`, asked for with `generation`.
    #[must_use]
    pub fn after(mut self, step: &Step, generation: Generation) -> Self {
        match step {
            Step::EnsureVolume { volume, mounted } => {
                let used = self.volume.and_then(|v| v.used).filter(|_| *mounted);
                let reverted = self.volume.and_then(|v| v.reverted);
                let (size, mounted) = (volume.size, *mounted);
                self.volume = Some(VolumeSeen { generation, size, mounted, used, reverted });
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
            Step::RevertVolume { id } => {
                if let Some(volume) = &mut self.volume {
                    volume.reverted = Some((*id, generation));
                }
            }
            Step::EnsureLimits(_) => self.group = Some(GroupSeen { generation }),
            Step::RemoveLimits => self.group = None,
            Step::CreateProcess(_) => {
                self.process.generation = generation;
                self.process.phase = self.process.phase.max(Phase::Created);
            }
            Step::RunProcess(_) => {
                self.process.generation = generation;
                self.process.phase = Phase::Running;
            }
            Step::StopProcess { .. } => {
                // A network namespace takes its link with it.
                self.link = None;
                self.process = ProcessSeen {
                    generation,
                    phase: Phase::Absent,
                    end: End::Stopped,
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
