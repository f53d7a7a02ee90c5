//! What to ask the four services for, so that a container becomes what it should be.
//!
//! Pure: [`plan`] looks at what is wanted and what the services show and answers with their RPCs in
//! order; [`Observed::after`] says what a step is expected to do. One code path makes, changes,
//! mends, boots and takes away. Never here: calls, waiting, storing, or what to do when a step fails.
//!
//! ```text
//! up    volume → limits → volume mounted → process created → link → process running
//! down  process gone → link gone → volume unmounted → limits gone → volume gone
//!       → volume as in a snapshot
//! else  snapshot there or gone, and nothing else, be it up or down
//! ```
//!
//! A volume that is missing is made only while the container is being created. Later it is a loss,
//! which no plan may paper over with an empty volume. What is there already while the container is
//! being created, from before its birth, is left from another life of the id: it is neither adopted
//! nor taken away.

pub mod snapshot;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use ves_proto::convert::Limits;
use ves_types::{
    Bytes, CtAddress, CtId, Generation, Hostname, IdSlot, SnapshotId, SnapshotName, TemplateName,
    UbcResource,
};

use snapshot::SnapshotWish;

use crate::model::{Presence, Record, RunState, Since};

/// A volume as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeWish {
    /// What it is made from.
    pub template: TemplateName,
    /// At least so large.
    pub size: Bytes,
    /// Number of inodes.
    pub inodes: Option<u64>,
    /// Whose ids its mount shows.
    pub slot: IdSlot,
}

/// Processes as they should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessWish {
    /// Whose ids they have.
    pub slot: IdSlot,
    /// The host name.
    pub hostname: Hostname,
    /// The init.
    pub init: Vec<String>,
    /// Name servers.
    pub nameservers: Vec<IpAddr>,
    /// Search domains.
    pub search_domains: Vec<String>,
    /// Most terminals.
    pub max_ptys: Option<u64>,
    /// Most shared memory.
    pub shm: Option<Bytes>,
}

/// What is wanted of one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    /// Whose.
    pub ct: CtId,
    /// Whether it should exist.
    pub presence: Presence,
    /// How far it should be up.
    pub run: RunState,
    /// When each share changed.
    pub since: Since,
    /// What carries an older generation is not this container's. 0 once it was created: a service
    /// that has lost its fence is then told again.
    pub birth: Generation,
    /// Its volume.
    pub volume: VolumeWish,
    /// Its limits.
    pub limits: Limits,
    /// Its processes.
    pub process: ProcessWish,
    /// Its addresses.
    pub addresses: BTreeSet<CtAddress>,
    /// See [`Record::maybe_dirty`].
    pub maybe_dirty: bool,
    /// Of its snapshots.
    pub snapshot: Option<SnapshotWish>,
    /// How long init may take to stop; 0: not at all.
    pub grace_ms: u32,
}

impl Desired {
    /// What a record wants; `grace_ms` is the working operation's.
    pub fn of(record: &Record, grace_ms: u32) -> Self {
        let spec = record.effective();
        let limit = |r| spec.limits.limit(r).max();
        Self {
            ct: record.id,
            presence: record.presence,
            run: record.run,
            since: record.since,
            birth: if record.unborn { record.birth } else { Generation(0) },
            volume: VolumeWish {
                template: spec.template.clone(),
                size: spec.disk,
                inodes: spec.inodes,
                slot: record.slot,
            },
            limits: spec.limits.clone(),
            process: ProcessWish {
                slot: record.slot,
                hostname: spec.hostname.clone(),
                init: spec.init.clone(),
                nameservers: spec.nameservers.clone(),
                search_domains: spec.search_domains.clone(),
                max_ptys: limit(UbcResource::Numpty),
                shm: spec.limits.limit_bytes(UbcResource::Shmpages),
            },
            addresses: spec.addresses.iter().copied().collect(),
            maybe_dirty: record.maybe_dirty && !record.unborn,
            snapshot: record.snapshot.clone(),
            grace_ms,
        }
    }
}

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

/// One RPC of one service. Asking twice is harmless.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Storage: the volume is there and mounted or not.
    EnsureVolume {
        /// What it should be.
        volume: VolumeWish,
        /// Whether it should be mounted.
        mounted: bool,
    },
    /// Storage: the volume and its snapshots are gone.
    RemoveVolume,
    /// Storage: the snapshot is there.
    TakeSnapshot {
        /// Its id.
        id: SnapshotId,
        /// Its name.
        name: Option<SnapshotName>,
    },
    /// Storage: the snapshot is gone.
    DeleteSnapshot {
        /// Its id.
        id: SnapshotId,
    },
    /// Storage: the volume holds what the snapshot holds.
    RevertVolume {
        /// The snapshot's id.
        id: SnapshotId,
    },
    /// Resources: control groups with these limits are there.
    EnsureLimits(Limits),
    /// Resources: control groups are gone.
    RemoveLimits,
    /// Lifecycle: namespaces are there and the first process waits.
    CreateProcess(ProcessWish),
    /// Lifecycle: init runs.
    RunProcess(ProcessWish),
    /// Lifecycle: nothing of it is left.
    StopProcess {
        /// How long init may take.
        grace_ms: u32,
    },
    /// Network: the link is there with these addresses.
    EnsureLink {
        /// The addresses.
        addresses: BTreeSet<CtAddress>,
    },
    /// Network: the link, its routes and its guard are gone.
    RemoveLink,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EnsureVolume { volume, mounted: false } => {
                write!(
                    f,
                    "storage: volume of {} from {}, not mounted",
                    volume.size, volume.template
                )
            }
            Self::EnsureVolume { volume, mounted: true } => {
                write!(f, "storage: volume of {}, mounted", volume.size)
            }
            Self::RemoveVolume => f.write_str("storage: no volume"),
            Self::TakeSnapshot { id, .. } => write!(f, "storage: snapshot {id}"),
            Self::DeleteSnapshot { id } => write!(f, "storage: no snapshot {id}"),
            Self::RevertVolume { id } => write!(f, "storage: volume as in snapshot {id}"),
            Self::EnsureLimits(_) => f.write_str("resources: control groups and limits"),
            Self::RemoveLimits => f.write_str("resources: no control groups"),
            Self::CreateProcess(_) => f.write_str("lifecycle: namespaces, init waiting"),
            Self::RunProcess(wish) => {
                let init = wish.init.first().map_or("/sbin/init", String::as_str);
                write!(f, "lifecycle: {init} running")
            }
            Self::StopProcess { grace_ms: 0 } => f.write_str("lifecycle: no processes, killed"),
            Self::StopProcess { grace_ms } => {
                write!(f, "lifecycle: no processes, init has {} s to stop", grace_ms.div_ceil(1000))
            }
            Self::EnsureLink { addresses } if addresses.is_empty() => {
                f.write_str("network: link without addresses")
            }
            Self::EnsureLink { addresses } => {
                f.write_str("network: link with")?;
                addresses.iter().try_for_each(|a| write!(f, " {a}"))
            }
            Self::RemoveLink => f.write_str("network: no link"),
        }
    }
}

impl Step {
    /// The service that is asked.
    pub const fn service(&self) -> &'static str {
        match self {
            Self::EnsureVolume { .. }
            | Self::RemoveVolume
            | Self::TakeSnapshot { .. }
            | Self::DeleteSnapshot { .. }
            | Self::RevertVolume { .. } => "storage",
            Self::EnsureLimits(_) | Self::RemoveLimits => "resources",
            Self::CreateProcess(_) | Self::RunProcess(_) | Self::StopProcess { .. } => "lifecycle",
            Self::EnsureLink { .. } | Self::RemoveLink => "network",
        }
    }
}

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The volume of a container that was created is not there.
    #[error(
        "container {0} has lost its volume; restore it from a backup, or destroy the container"
    )]
    VolumeLost(CtId),
    /// The snapshot to go back to is not there.
    #[error("container {0} has no snapshot {1}; list them with `virtctl snapshot-list {0}`")]
    SnapshotUnknown(CtId, SnapshotId),
    /// Something of another life of the id is there.
    #[error("{}", foreign_message(*.0, .1))]
    Foreign(CtId, Vec<&'static str>),
}

/// What to say of leftovers: they may be somebody's files.
pub fn foreign_message(ct: CtId, what: &[&str]) -> String {
    format!(
        "there is something of an earlier container {ct} ({}), which is left alone; save what is \
         of use in it and clear it with `virtctl destroy {ct}`, or choose another id",
        what.join(", ")
    )
}

/// The steps that lead from `observed` to `desired`; none where it is so already.
///
/// # Errors
/// [`Refusal`] where no step of ours could lead there without harm.
pub fn plan(desired: &Desired, observed: &Observed) -> Result<Vec<Step>, Refusal> {
    match (desired.presence, desired.run) {
        (Presence::Deleting, _) => Ok(take_away(desired, &observed.own(desired.birth))),
        (Presence::Creating | Presence::Present, run) => {
            let foreign = observed.before(desired.birth);
            if !foreign.is_empty() {
                return Err(Refusal::Foreign(desired.ct, foreign));
            }
            if observed.volume.is_none() && desired.presence == Presence::Present {
                return Err(Refusal::VolumeLost(desired.ct));
            }
            let snapshot = snapshot::step(desired, observed)?;
            if desired.snapshot.as_ref().is_some_and(|wish| wish.alone) {
                return Ok(snapshot.into_iter().collect());
            }
            let mut steps = match run {
                RunState::Running => bring_up(desired, observed),
                RunState::Stopped | RunState::Mounted => bring_down(desired, observed),
            };
            steps.extend(snapshot);
            Ok(steps)
        }
    }
}

fn take_away(desired: &Desired, observed: &Observed) -> Vec<Step> {
    let mut steps = no_processes(desired, observed);
    if let Some(seen) = observed.volume.filter(|v| v.mounted) {
        let volume = VolumeWish { size: seen.size, ..desired.volume.clone() };
        steps.push(Step::EnsureVolume { volume, mounted: false });
    }
    steps.extend(no_limits(desired, observed));
    if observed.volume.is_some() || !observed.snapshots.is_empty() {
        steps.push(Step::RemoveVolume);
    }
    steps
}

fn bring_down(desired: &Desired, observed: &Observed) -> Vec<Step> {
    let mounted = desired.run == RunState::Mounted;
    let mut steps = no_processes(desired, observed);
    if !volume_is_right(desired, observed, mounted) {
        // Not every host can let a mounted volume grow: first it is unmounted, then it grows.
        if let Some(seen) = observed.volume.filter(|v| v.mounted && !mounted)
            && seen.size < desired.volume.size
        {
            let volume = VolumeWish { size: seen.size, ..desired.volume.clone() };
            steps.push(Step::EnsureVolume { volume, mounted: false });
        }
        steps.push(ensure_volume(desired, observed, mounted));
    }
    steps.extend(no_limits(desired, observed));
    steps
}

fn bring_up(desired: &Desired, observed: &Observed) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut process = observed.process;
    if observed.volume.is_none() {
        // Processes without a volume are left from another life.
        if process.phase != Phase::Absent {
            steps = no_processes(desired, observed);
            process.phase = Phase::Absent;
        }
        steps.push(ensure_volume(desired, observed, false));
    }
    if observed.group.is_none_or(|g| g.generation < desired.since.limits) {
        steps.push(Step::EnsureLimits(desired.limits.clone()));
    }
    if !volume_is_right(desired, observed, true) {
        steps.push(ensure_volume(desired, observed, true));
    }
    let process_is_new = process.generation >= desired.since.process;
    if process.phase == Phase::Absent || (process.phase == Phase::Created && !process_is_new) {
        steps.push(Step::CreateProcess(desired.process.clone()));
    }
    let link_is_right = observed
        .link
        .as_ref()
        .is_some_and(|l| l.addresses == desired.addresses && l.generation >= desired.since.link);
    // A new network namespace has no link yet, whatever is left of the one before.
    if process.phase == Phase::Absent || !link_is_right {
        steps.push(Step::EnsureLink { addresses: desired.addresses.clone() });
    }
    if process.phase != Phase::Running || !process_is_new {
        steps.push(Step::RunProcess(desired.process.clone()));
    }
    steps
}

fn no_processes(desired: &Desired, observed: &Observed) -> Vec<Step> {
    let mut steps = Vec::new();
    let alive = observed.process.phase != Phase::Absent;
    // What ended by itself has left its pins; they are lifecycle's to take away.
    if alive || desired.maybe_dirty {
        steps.push(Step::StopProcess { grace_ms: desired.grace_ms });
    }
    if alive || observed.link.is_some() || desired.maybe_dirty {
        steps.push(Step::RemoveLink);
    }
    steps
}

fn no_limits(desired: &Desired, observed: &Observed) -> Option<Step> {
    (observed.group.is_some() || desired.maybe_dirty).then_some(Step::RemoveLimits)
}

fn volume_is_right(desired: &Desired, observed: &Observed, mounted: bool) -> bool {
    observed.volume.is_some_and(|v| {
        v.mounted == mounted
            && v.size >= desired.volume.size
            && v.generation >= desired.since.volume
    })
}

/// A volume never shrinks, also not to what is wanted when a change was taken back.
fn ensure_volume(desired: &Desired, observed: &Observed, mounted: bool) -> Step {
    let mut volume = desired.volume.clone();
    volume.size = volume.size.max(observed.volume.map_or(Bytes(0), |v| v.size));
    Step::EnsureVolume { volume, mounted }
}

impl Observed {
    /// What is there and was last asked for with a generation before `birth`.
    pub fn before(&self, birth: Generation) -> Vec<&'static str> {
        let Self { volume, snapshots, group, process, link } = self;
        let all = [
            ("volume", volume.map(|v| v.generation)),
            ("snapshots", snapshots.values().min().copied()),
            ("control groups", group.map(|g| g.generation)),
            ("processes", (process.phase != Phase::Absent).then_some(process.generation)),
            ("link", link.as_ref().map(|l| l.generation)),
        ];
        let old = all.into_iter().filter(|(_, g)| g.is_some_and(|g| g < birth));
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

    /// The same without what is from before `birth`; nothing where processes are.
    fn own(&self, birth: Generation) -> Self {
        if self.process.phase != Phase::Absent && self.process.generation < birth {
            return Self::default();
        }
        let Self { volume, snapshots, group, process, link } = self.clone();
        // A volume goes with its snapshots, or not at all.
        let old =
            volume.is_some_and(|v| v.generation < birth) || snapshots.values().any(|g| *g < birth);
        Self {
            volume: volume.filter(|_| !old),
            snapshots: if old { BTreeMap::new() } else { snapshots },
            group: group.filter(|g| g.generation >= birth),
            process,
            link: link.filter(|l| l.generation >= birth),
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

#[cfg(test)]
mod laws;
