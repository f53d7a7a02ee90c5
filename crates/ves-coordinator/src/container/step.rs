//! What the four services are asked for, as data. Pure.
//!
//! The `Display` of a step is its line in an operation, in a dry run, in the log, and its span's name.
//! Steps come only from [`super::plan`].

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use ves_types::{
    Bytes, Capability, CtAddress, Device, DiskSize, Features, Hostname, IdSlot, InitArgv,
    InodeLimit, Limits, SearchDomain, SnapshotId, SnapshotName, TemplateName,
};

/// A volume as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeWish {
    /// What it is made from.
    pub template: TemplateName,
    /// At least so large.
    pub size: DiskSize,
    /// Number of inodes.
    pub inodes: Option<InodeLimit>,
    /// Whose ids its mount shows.
    pub slot: IdSlot,
}

/// Processes as they should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessWish {
    /// Whose ids they have.
    pub slot: IdSlot,
    /// The host name; none: the container's own.
    pub hostname: Option<Hostname>,
    /// The init.
    pub init: InitArgv,
    /// Name servers.
    pub nameservers: Vec<IpAddr>,
    /// Search domains.
    pub search_domains: Vec<SearchDomain>,
    /// Most terminals.
    pub max_ptys: Option<u64>,
    /// Most shared memory.
    pub shm: Option<Bytes>,
    /// Most memory.
    pub ram: Option<Bytes>,
    /// Devices of the node.
    pub devices: Vec<Device>,
    /// Capabilities they have not.
    pub capabilities_off: BTreeSet<Capability>,
    /// What of the kernel they may use.
    pub features: Features,
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
    /// Storage: the volume was checked.
    CheckVolume {
        /// All was mended, whatever is lost, after this snapshot where there was room for one; none: what
        /// loses nothing.
        before: Option<SnapshotId>,
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
    /// Lifecycle: init runs, if it has not ended.
    KeepProcess(ProcessWish),
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
            Self::CheckVolume { before: None } => f.write_str("storage: volume checked"),
            Self::CheckVolume { before: Some(id) } => {
                write!(
                    f,
                    "storage: volume checked and mended, after snapshot {id} if there is room"
                )
            }
            Self::RevertVolume { id } => write!(f, "storage: volume as in snapshot {id}"),
            Self::EnsureLimits(_) => f.write_str("resources: control groups and limits"),
            Self::RemoveLimits => f.write_str("resources: no control groups"),
            Self::CreateProcess(_) => f.write_str("lifecycle: namespaces, init waiting"),
            Self::RunProcess(wish) => {
                write!(f, "lifecycle: {} running", wish.init.program())
            }
            Self::KeepProcess(wish) => {
                write!(f, "lifecycle: {} running if it is", wish.init.program())
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
            | Self::CheckVolume { .. }
            | Self::RevertVolume { .. } => "storage",
            Self::EnsureLimits(_) | Self::RemoveLimits => "resources",
            Self::CreateProcess(_)
            | Self::RunProcess(_)
            | Self::KeepProcess(_)
            | Self::StopProcess { .. } => "lifecycle",
            Self::EnsureLink { .. } | Self::RemoveLink => "network",
        }
    }
}

/// Consecutive steps that do not wait for each other, together: those of different services with no
/// process of the container's coming or going in between.
pub fn together(steps: &[Step]) -> impl Iterator<Item = &[Step]> {
    steps.chunk_by({
        let mut asked: Vec<&str> = Vec::new();
        move |one, next| {
            if asked.is_empty() {
                asked.push(one.service());
            }
            let about_device = |step: &&Step| matches!(step, Step::EnsureLimits(l) if l.bound_io());
            let waits =
                about_device(&next) || [one, next].iter().any(|s| s.service() == "lifecycle");
            let alone = waits || asked.contains(&next.service());
            if alone {
                asked.clear();
            } else {
                asked.push(next.service());
            }
            !alone
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_work_at_once_but_not_around_processes() {
        let link = || Step::EnsureLink { addresses: BTreeSet::new() };
        let limits = || Step::EnsureLimits(Limits::default());
        let stop = || Step::StopProcess { grace_ms: 0 };
        let up = [limits(), Step::RemoveVolume, Step::RemoveVolume, stop(), link(), stop()];
        let counts: Vec<_> = together(&up).map(<[Step]>::len).collect();
        assert_eq!(counts, [2, 1, 1, 1, 1]);
        let down = [stop(), Step::RemoveLink, Step::RemoveVolume, Step::RemoveLimits];
        let counts: Vec<_> = together(&down).map(<[Step]>::len).collect();
        assert_eq!(counts, [1, 3]);
        let io_bps = 4096.try_into().ok();
        let bound = Step::EnsureLimits(Limits { io_bps, ..Limits::default() });
        let counts: Vec<_> =
            together(&[link(), Step::RemoveVolume, bound]).map(<[Step]>::len).collect();
        assert_eq!(counts, [2, 1], "what is about a device waits for it");
        assert_eq!(together(&[]).count(), 0);
    }
}
