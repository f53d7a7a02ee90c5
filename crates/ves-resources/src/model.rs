//! The facts and wishes that plans are made of: what a node has, what a container's groups hold, what
//! is wanted. Pure data; how a kernel spells it is [`crate::observe`]'s knowledge.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};
use ves_host::cgroup::{Controller, Version};
use ves_types::{Bytes, Limit, Limits};

/// A hierarchy in which a container has a group of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hierarchy {
    /// The version 1 hierarchy of this controller, and of those mounted together with it that come
    /// later in [`Controller::ALL`].
    V1(Controller),
    /// The version 2 hierarchy.
    V2,
}

impl fmt::Display for Hierarchy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V1(controller) => f.pad(controller.v1_name()),
            Self::V2 => f.pad("unified"),
        }
    }
}

/// Which version a controller is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Home {
    /// Version 1.
    V1,
    /// Version 2.
    V2,
}

/// Something a group can be set to. The order is that in which a plan sets them, apart from the
/// pairs whose order depends on their values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Setting {
    /// The most processes and threads.
    PidsMax,
    /// The memory nodes to use.
    Mems,
    /// The processors to use.
    Cpus,
    /// The most memory, in bytes.
    MemoryMax,
    /// Version 1: the most memory and swap together, in bytes; never below [`Self::MemoryMax`].
    MemswMax,
    /// Version 2: the most swap, in bytes.
    SwapMax,
    /// Where squeezing begins, in bytes: version 1's soft limit, version 2's `memory.high`.
    MemoryHigh,
    /// Version 1: the most memory for TCP buffers, in bytes.
    TcpMax,
    /// Weight against other groups: version 1's shares, version 2's weight.
    CpuWeight,
    /// Version 1: the length of a period, in microseconds.
    CpuPeriod,
    /// Version 1: how much of a period may be used, in microseconds.
    CpuQuota,
    /// Version 2: quota and period.
    CpuMax,
    /// Bytes a second that may be read, by device.
    IoReadBps,
    /// Bytes a second that may be written, by device.
    IoWriteBps,
    /// Requests to read a second, by device.
    IoReadIops,
    /// Requests to write a second, by device.
    IoWriteIops,
    /// Weight in disk traffic where the BFQ scheduler shares it out.
    BfqWeight,
    /// Version 2: the same where the kernel's cost model does.
    CostWeight,
    /// Version 2: how deep groups may be nested, counted from the container's.
    MaxDepth,
    /// Version 2: the most groups below the container's.
    MaxDescendants,
}

impl Setting {
    /// All of them, in order.
    pub const ALL: [Self; 20] = [
        Self::PidsMax,
        Self::Mems,
        Self::Cpus,
        Self::MemoryMax,
        Self::MemswMax,
        Self::SwapMax,
        Self::MemoryHigh,
        Self::TcpMax,
        Self::CpuWeight,
        Self::CpuPeriod,
        Self::CpuQuota,
        Self::CpuMax,
        Self::IoReadBps,
        Self::IoWriteBps,
        Self::IoReadIops,
        Self::IoWriteIops,
        Self::BfqWeight,
        Self::CostWeight,
        Self::MaxDepth,
        Self::MaxDescendants,
    ];

    /// Whose setting it is; none's where it is one of version 2 itself.
    pub const fn controller(self) -> Option<Controller> {
        Some(match self {
            Self::PidsMax => Controller::Pids,
            Self::Mems | Self::Cpus => Controller::Cpuset,
            Self::MemoryMax | Self::MemswMax | Self::SwapMax | Self::MemoryHigh | Self::TcpMax => {
                Controller::Memory
            }
            Self::CpuWeight | Self::CpuPeriod | Self::CpuQuota | Self::CpuMax => Controller::Cpu,
            Self::IoReadBps
            | Self::IoWriteBps
            | Self::IoReadIops
            | Self::IoWriteIops
            | Self::BfqWeight
            | Self::CostWeight => Controller::Blkio,
            Self::MaxDepth | Self::MaxDescendants => return None,
        })
    }

    /// Its file, where that version has it.
    pub const fn file(self, home: Home) -> Option<&'static str> {
        Some(match (self, home) {
            (Self::PidsMax, _) => "pids.max",
            (Self::Mems, _) => "cpuset.mems",
            (Self::Cpus, _) => "cpuset.cpus",
            (Self::MemoryMax, Home::V1) => "memory.limit_in_bytes",
            (Self::MemoryMax, Home::V2) => "memory.max",
            (Self::MemswMax, Home::V1) => "memory.memsw.limit_in_bytes",
            (Self::SwapMax, Home::V2) => "memory.swap.max",
            (Self::MemoryHigh, Home::V1) => "memory.soft_limit_in_bytes",
            (Self::MemoryHigh, Home::V2) => "memory.high",
            (Self::TcpMax, Home::V1) => "memory.kmem.tcp.limit_in_bytes",
            (Self::CpuWeight, Home::V1) => "cpu.shares",
            (Self::CpuWeight, Home::V2) => "cpu.weight",
            (Self::CpuPeriod, Home::V1) => "cpu.cfs_period_us",
            (Self::CpuQuota, Home::V1) => "cpu.cfs_quota_us",
            (Self::CpuMax, Home::V2) => "cpu.max",
            (Self::IoReadBps, Home::V1) => "blkio.throttle.read_bps_device",
            (Self::IoWriteBps, Home::V1) => "blkio.throttle.write_bps_device",
            (Self::IoReadIops, Home::V1) => "blkio.throttle.read_iops_device",
            (Self::IoWriteIops, Home::V1) => "blkio.throttle.write_iops_device",
            (s, Home::V2) if s.throttle_key().is_some() => "io.max",
            (Self::BfqWeight, Home::V1) => "blkio.bfq.weight",
            (Self::BfqWeight, Home::V2) => "io.bfq.weight",
            (Self::CostWeight, Home::V2) => "io.weight",
            (Self::MaxDepth, Home::V2) => "cgroup.max.depth",
            (Self::MaxDescendants, Home::V2) => "cgroup.max.descendants",
            (Self::MemswMax | Self::TcpMax | Self::CpuPeriod | Self::CpuQuota, Home::V2)
            | (Self::SwapMax | Self::CpuMax | Self::MaxDepth | Self::MaxDescendants, Home::V1)
            | (Self::CostWeight, Home::V1)
            | (
                Self::IoReadBps | Self::IoWriteBps | Self::IoReadIops | Self::IoWriteIops,
                Home::V2,
            ) => {
                return None;
            }
        })
    }

    /// What version 2 calls it among the bounds of a device.
    pub const fn throttle_key(self) -> Option<&'static str> {
        Some(match self {
            Self::IoReadBps => "rbps",
            Self::IoWriteBps => "wbps",
            Self::IoReadIops => "riops",
            Self::IoWriteIops => "wiops",
            _ => return None,
        })
    }

    /// What a group that was just made has.
    pub fn fresh(self, home: Home) -> Value {
        match self {
            Self::PidsMax
            | Self::MemoryMax
            | Self::MemswMax
            | Self::SwapMax
            | Self::MemoryHigh
            | Self::TcpMax
            | Self::CpuQuota
            | Self::MaxDepth
            | Self::MaxDescendants => Value::Level(Limit::Unlimited),
            Self::Mems | Self::Cpus => Value::Set(BTreeSet::new()),
            Self::CpuWeight => Value::Number(match home {
                Home::V1 => 1024,
                Home::V2 => 100,
            }),
            Self::CpuPeriod => Value::Number(PERIOD),
            Self::CpuMax => Value::Quota(Limit::Unlimited, PERIOD),
            Self::IoReadBps | Self::IoWriteBps | Self::IoReadIops | Self::IoWriteIops => {
                Value::Throttle(BTreeMap::new())
            }
            Self::BfqWeight | Self::CostWeight => Value::Number(100),
        }
    }
}

/// The length of a processor time period, in microseconds; also the kernel's default.
pub const PERIOD: u64 = 100_000;

/// How deep a container's version 2 groups may be nested, its delegated group being the first level.
/// systemd with users' sessions needs seven, and as much again in a container of its own.
pub const MAX_DEPTH: u64 = 32;

/// How many version 2 groups a container may have. systemd needs some hundred; each costs the kernel
/// some kilobytes, and those who look at the container a read.
pub const MAX_DESCENDANTS: u64 = 4096;

/// A block device, by its numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Device {
    /// Of its driver.
    pub major: u32,
    /// Of it.
    pub minor: u32,
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// What a setting is set to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Value {
    /// A bound.
    Level(Limit),
    /// A plain number.
    Number(u64),
    /// So much of a period, and the period, in microseconds.
    Quota(Limit, u64),
    /// Processors or memory nodes; empty: those of the parent (version 2), or none yet (version 1).
    Set(BTreeSet<u32>),
    /// So much a second, of each of these devices; of others any.
    Throttle(BTreeMap<Device, u64>),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Level(limit) => limit.fmt(f),
            Self::Number(n) => n.fmt(f),
            Self::Quota(quota, period) => write!(f, "{quota} of {period}"),
            Self::Set(set) if set.is_empty() => f.pad("the parent's"),
            Self::Set(set) => f.pad(&render_list(set)),
            Self::Throttle(devices) if devices.is_empty() => f.pad("unlimited"),
            Self::Throttle(devices) => {
                let each: Vec<_> = devices.iter().map(|(d, n)| format!("{n} of {d}")).collect();
                f.pad(&each.join(", "))
            }
        }
    }
}

pub use ves_types::index_list::render as render_list;

/// What a node has, as far as plans depend on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Which versions.
    pub version: Version,
    /// Where containers have groups.
    pub hierarchies: BTreeSet<Hierarchy>,
    /// The settings there are, and in which version.
    pub settings: BTreeMap<Setting, Home>,
    /// The version 2 controllers, which groups enable for their children.
    pub controllers: BTreeSet<Controller>,
    /// The processors containers may use.
    pub cpus: BTreeSet<u32>,
    /// The memory nodes containers may use.
    pub mems: BTreeSet<u32>,
    /// Swap that is free, in bytes.
    pub swap_free: u64,
}

impl Node {
    /// Whether there is this setting.
    pub fn has(&self, setting: Setting) -> bool {
        self.settings.contains_key(&setting)
    }
}

/// What the node keeps for itself, whatever the sum of its containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reserve {
    /// Memory.
    pub ram: Bytes,
    /// Processes and threads.
    pub pids: u64,
}

impl Default for Reserve {
    fn default() -> Self {
        Self { ram: Bytes(512 << 20), pids: 4096 }
    }
}

/// What bounds all containers together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cap {
    /// In which version.
    pub home: Home,
    /// What the node has.
    pub total: u64,
    /// What of it the node keeps.
    pub reserve: u64,
    /// What containers have of it and cannot give back.
    pub used: u64,
    /// The bound of the parent group.
    pub limit: Limit,
}

impl Cap {
    /// What the containers may have: all but the reserve, at least half, in whole pages where it is
    /// memory.
    pub fn bound(&self, setting: Setting) -> u64 {
        let most = self.total.saturating_sub(self.reserve).max(self.total / 2);
        match setting {
            Setting::MemoryMax => most / Bytes::PAGE * Bytes::PAGE,
            _ => most,
        }
    }
}

/// What is shared by all containers of a node: the group they are in, in each hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shared {
    /// Where containers have groups.
    pub hierarchies: BTreeSet<Hierarchy>,
    /// Where the parent group is.
    pub made: BTreeSet<Hierarchy>,
    /// The version 2 controllers there are.
    pub controllers: BTreeSet<Controller>,
    /// The version 2 controllers the root enables.
    pub root_hands_on: BTreeSet<Controller>,
    /// The version 2 controllers the parent group enables.
    pub hands_on: BTreeSet<Controller>,
    /// Version 1 processors and memory nodes: those of the root and those of the parent group. Absent
    /// where version 1 does not control them.
    pub cpuset: Option<Cpusets>,
    /// Memory and processes, as far as the node can bound them.
    pub caps: BTreeMap<Setting, Cap>,
}

/// Version 1's processors and memory nodes, above and in the parent group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cpusets {
    /// The root's processors.
    pub root_cpus: BTreeSet<u32>,
    /// The root's memory nodes.
    pub root_mems: BTreeSet<u32>,
    /// The parent group's processors.
    pub cpus: BTreeSet<u32>,
    /// The parent group's memory nodes.
    pub mems: BTreeSet<u32>,
}

/// A container's groups as they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// The node they are on.
    pub node: Node,
    /// Where the container's group is.
    pub made: BTreeSet<Hierarchy>,
    /// Whether the delegated group is there.
    pub delegated: bool,
    /// The version 2 controllers the container's group enables to the delegated one.
    pub hands_on: BTreeSet<Controller>,
    /// The settings, as far as the groups are there.
    pub settings: BTreeMap<Setting, Value>,
    /// Whether there are processes in any of the groups.
    pub populated: bool,
    /// Memory that cannot be given back without swap: anonymous, shared and the kernel's, in bytes.
    pub unreclaimable: u64,
    /// The device its volume is on, which throttles are about, as it was last told.
    pub device: Option<Device>,
    /// The device that was last kept with the limits.
    pub recorded_device: Option<Device>,
    /// The limits that were last reached. Kept by the service, because the kernel has no place for
    /// most of them.
    pub record: Option<Limits>,
}

impl Observed {
    /// Whether there is anything of the container.
    pub fn exists(&self) -> bool {
        !self.made.is_empty() || self.delegated || self.record.is_some()
    }
}

/// A record of limits on disk. Version 1 also had an id slot.
#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    version: u32,
    /// The device of its volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    device: Option<Device>,
    #[serde(flatten)]
    limits: Limits,
}

const VERSION: u32 = 2;

/// Limits as a record, and the device they are about.
pub fn write_record(limits: &Limits, device: Option<Device>) -> Vec<u8> {
    let stored = Stored { version: VERSION, device, limits: limits.clone() };
    // Maps with string keys, numbers and options always have a JSON form.
    serde_json::to_vec(&stored).unwrap_or_default()
}

/// Limits and their device from a record; `None` where it is damaged or of another version. What is lost
/// then is only what was wanted, and the next `EnsureLimits` says it again.
pub fn read_record(bytes: &[u8]) -> Option<(Limits, Option<Device>)> {
    let Stored { version, device, limits } = serde_json::from_slice(bytes).ok()?;
    (version == VERSION).then_some((limits, device))
}

/// Pages as bytes, "unlimited" where that is more than a kernel counts.
pub fn pages_to_bytes(pages: Limit) -> Limit {
    match pages {
        Limit::Max(n) => whole_pages(n.saturating_mul(Bytes::PAGE)),
        Limit::Unlimited => Limit::Unlimited,
    }
}

/// Bytes rounded up to whole pages, as kernels keep them; "unlimited" where it is more than one
/// counts.
pub fn whole_pages(bytes: u64) -> Limit {
    let most = (Limit::UNLIMITED_TEXT / Bytes::PAGE) * Bytes::PAGE;
    let rounded = Bytes(bytes).pages().saturating_mul(Bytes::PAGE);
    if rounded >= most { Limit::Unlimited } else { Limit::Max(rounded) }
}

#[cfg(test)]
mod tests {
    use ves_types::{UbcResource, UbcValue};

    use super::*;

    #[test]
    fn records_survive_and_garbage_does_not() {
        let mut limits = Limits { cpus: Some(2), ..Limits::default() };
        let value = UbcValue { barrier: Limit::Max(10), limit: Limit::Unlimited };
        limits.ubc.insert(UbcResource::Numproc, value);
        let json = write_record(&limits, None);
        assert_eq!(read_record(&json), Some((limits.clone(), None)));
        let io = Limits { cpu_mask: "0-2".parse().ok(), io_bps: 4096.try_into().ok(), ..limits };
        let device = Some(Device { major: 7, minor: 300 });
        assert_eq!(read_record(&write_record(&io, device)), Some((io, device)));
        let kept = r#"{"version":2,"ubc":{"numproc":{"barrier":{"max":10},"limit":"unlimited"}},"cpu":null,"cpus":2,"cpu_units":null}"#;
        assert_eq!(String::from_utf8_lossy(&json), kept, "as the release before wrote it");
        assert_eq!(read_record(&json[..json.len() - 1]), None);
        let newer =
            String::from_utf8(json).expect("text").replace("\"version\":2", "\"version\":3");
        assert_eq!(read_record(newer.as_bytes()), None);
        assert_eq!(read_record(b""), None);
    }

    #[test]
    fn every_setting_has_a_file_somewhere() {
        for s in Setting::ALL {
            assert!(s.file(Home::V1).is_some() || s.file(Home::V2).is_some(), "{s:?}");
        }
    }

    #[test]
    fn pages() {
        assert_eq!(whole_pages(1), Limit::Max(4096));
        assert_eq!(whole_pages(9_223_372_036_854_771_712), Limit::Unlimited);
        assert_eq!(pages_to_bytes(Limit::Max(u64::MAX / 2)), Limit::Unlimited);
    }
}
