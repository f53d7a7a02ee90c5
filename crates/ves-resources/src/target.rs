//! What limits mean in a kernel's settings, and what a kernel's settings mean in limits. Pure.
//!
//! | limit | version 1 | version 2 |
//! |---|---|---|
//! | `physpages` limit (`--ram`) | `memory.limit_in_bytes` | `memory.max` |
//! | `physpages` barrier, above 0 and below the limit | `memory.soft_limit_in_bytes` | `memory.high` |
//! | `swappages` limit (`--swap`) | `memory.memsw.limit_in_bytes` = memory + swap | `memory.swap.max` |
//! | `numproc` limit | `pids.max` | `pids.max` |
//! | `tcpsndbuf` + `tcprcvbuf` limits | `memory.kmem.tcp.limit_in_bytes` | – |
//! | cpu units | `cpu.shares` = units × 1024 / 1000 | `cpu.weight` = units / 10 |
//! | cpu limit | `cpu.cfs_quota_us` of a 100 ms period | `cpu.max` |
//! | cpus | `cpuset.cpus`, else quota | `cpuset.cpus`, else quota |
//! | cpu mask, node mask | `cpuset.cpus`, `cpuset.mems` | `cpuset.cpus`, `cpuset.mems` |
//! | io bandwidth and requests, of the volume's device | `blkio.throttle.*` | `io.max` |
//! | io priority | `blkio.bfq.weight` | `io.bfq.weight`, `io.weight` |
//! | always | – | `cgroup.max.depth`, `cgroup.max.descendants` |
//!
//! vzctl's default of 1000 units becomes the kernel's default share (1024, 100). Version 1 can
//! limit swap only together with memory, so a container without a memory limit has no swap limit
//! there. Version 1 counts TCP buffers of both directions together.

use std::collections::{BTreeMap, BTreeSet};

use ves_types::{
    Bytes, CpuLimit, CtId, IndexList, IoPriority, Limit, Limits, UbcResource, UbcValue,
};

use crate::model::{
    Device, Home, MAX_DEPTH, MAX_DESCENDANTS, Node, PERIOD, Setting, Value, pages_to_bytes,
    render_list, whole_pages,
};

/// The most processes a Linux kernel has; a greater limit is none.
const PIDS: u64 = 4_194_304;

/// What each setting of the node is to be for these limits.
pub fn target(
    ct: CtId,
    limits: &Limits,
    node: &Node,
    device: Option<Device>,
) -> BTreeMap<Setting, Value> {
    let throttle = |most: Option<u64>| Value::Throttle(device.zip(most).into_iter().collect());
    let wanted = |s, home| match s {
        Setting::PidsMax => Value::Level(match limits.limit(UbcResource::Numproc) {
            Limit::Max(n) if n <= PIDS => Limit::Max(n),
            Limit::Max(_) | Limit::Unlimited => Limit::Unlimited,
        }),
        Setting::Mems => match (&limits.node_mask, home) {
            (Some(mask), _) => Value::Set(masked(Some(mask), &node.mems)),
            (None, Home::V1) => Value::Set(node.mems.clone()),
            (None, Home::V2) => s.fresh(home),
        },
        Setting::Cpus => match (limits.cpus, &limits.cpu_mask, home) {
            (Some(n), mask, _) => Value::Set(spread(ct, n, &masked(mask.as_ref(), &node.cpus))),
            (None, Some(mask), _) => Value::Set(masked(Some(mask), &node.cpus)),
            (None, None, Home::V1) => Value::Set(node.cpus.clone()),
            (None, None, Home::V2) => s.fresh(home),
        },
        Setting::MemoryMax => Value::Level(memory(limits)),
        Setting::MemswMax => Value::Level(match (memory(limits), swap(limits)) {
            (Limit::Max(memory), Limit::Max(swap)) => whole_pages(memory.saturating_add(swap)),
            _ => Limit::Unlimited,
        }),
        Setting::SwapMax => Value::Level(swap(limits)),
        Setting::MemoryHigh => Value::Level(high(limits)),
        Setting::TcpMax => Value::Level(tcp(limits)),
        Setting::CpuWeight => Value::Number(weight(limits.cpu_units, home)),
        Setting::CpuPeriod => Value::Number(PERIOD),
        Setting::CpuQuota => Value::Level(quota(limits, node)),
        Setting::CpuMax => Value::Quota(quota(limits, node), PERIOD),
        Setting::IoReadBps | Setting::IoWriteBps => throttle(limits.io_bps.map(u64::from)),
        Setting::IoReadIops | Setting::IoWriteIops => throttle(limits.io_iops.map(u64::from)),
        Setting::BfqWeight | Setting::CostWeight => {
            Value::Number(limits.io_priority.unwrap_or(IoPriority::DEFAULT).weight())
        }
        Setting::MaxDepth => Value::Level(Limit::Max(MAX_DEPTH)),
        Setting::MaxDescendants => Value::Level(Limit::Max(MAX_DESCENDANTS)),
    };
    node.settings.iter().map(|(s, home)| (*s, wanted(*s, *home))).collect()
}

/// The limits as the kernel has them: those that were wanted, as far as the settings agree with
/// them, else what the settings say.
pub fn limits_from(
    ct: CtId,
    wanted: Option<&Limits>,
    settings: &BTreeMap<Setting, Value>,
    node: &Node,
    device: Option<Device>,
) -> Limits {
    let mut limits = wanted.cloned().unwrap_or_default();
    let expected = target(ct, &limits, node, device);
    let differs = |s: &Setting| settings.get(s).filter(|have| expected.get(s) != Some(have));
    let level = |value: &Value| match value {
        Value::Level(limit) => *limit,
        Value::Quota(quota, _) => *quota,
        Value::Number(n) => Limit::Max(*n),
        Value::Set(_) | Value::Throttle(_) => Limit::Unlimited,
    };
    let pages = |value: &Value| {
        level(value).max().map_or(Limit::Unlimited, |b| Limit::Max(b / Bytes::PAGE))
    };
    let set = |limits: &mut Limits, resource, limit: Limit| {
        let barrier = limits.ubc.get(&resource).map_or(limit, |v: &UbcValue| v.barrier.min(limit));
        match limit {
            Limit::Unlimited => drop(limits.ubc.remove(&resource)),
            Limit::Max(_) => drop(limits.ubc.insert(resource, UbcValue { barrier, limit })),
        }
    };
    if let Some(v) = differs(&Setting::PidsMax) {
        set(&mut limits, UbcResource::Numproc, level(v));
    }
    if let Some(v) = differs(&Setting::MemoryMax) {
        set(&mut limits, UbcResource::Physpages, pages(v));
    }
    if let Some(v) = differs(&Setting::SwapMax) {
        set(&mut limits, UbcResource::Swappages, pages(v));
    }
    let memory_or_swap = [Setting::MemoryMax, Setting::MemswMax];
    if memory_or_swap.iter().any(|s| differs(s).is_some())
        && let Some(both) = settings.get(&Setting::MemswMax).map(level)
    {
        let memory = settings.get(&Setting::MemoryMax).and_then(|v| level(v).max()).unwrap_or(0);
        let swap = both
            .max()
            .map_or(Limit::Unlimited, |both| Limit::Max(both.saturating_sub(memory) / Bytes::PAGE));
        set(&mut limits, UbcResource::Swappages, swap);
    }
    if let Some(Value::Number(n)) = differs(&Setting::CpuWeight) {
        let home = node.settings.get(&Setting::CpuWeight).copied().unwrap_or(Home::V2);
        limits.cpu_units = Some(units(*n, home));
    }
    // Of a mask, what is there of it.
    limits.cpu_mask = limits.cpu_mask.and_then(|mask| mask.among(&node.cpus));
    limits.node_mask = limits.node_mask.and_then(|mask| mask.among(&node.mems));
    let list = |set: &BTreeSet<u32>| render_list(set).parse().ok();
    if let Some(Value::Set(cpus)) = differs(&Setting::Cpus) {
        limits.cpus = u32::try_from(cpus.len()).ok().filter(|n| *n > 0);
        if limits.cpu_mask.is_some() {
            limits.cpu_mask = list(cpus);
        }
    }
    if let Some(Value::Set(mems)) = differs(&Setting::Mems) {
        limits.node_mask = list(mems).filter(|_| *mems != node.mems);
    }
    // Of the two directions, what is read stands for both.
    let throttled = |s: Setting| match (settings.get(&s), device) {
        (Some(Value::Throttle(devices)), Some(device)) => devices.get(&device).copied(),
        _ => None,
    };
    limits.io_bps = throttled(Setting::IoReadBps).and_then(|n| n.try_into().ok());
    limits.io_iops = throttled(Setting::IoReadIops).and_then(|n| n.try_into().ok());
    let of = |quota: Limit, period: u64| {
        let millicpus = quota.max()?.saturating_mul(1000).checked_div(period)?;
        Some(CpuLimit { millicpus: u32::try_from(millicpus).unwrap_or(u32::MAX) })
    };
    if let Some(Value::Quota(quota, period)) = differs(&Setting::CpuMax) {
        limits.cpu = of(*quota, *period);
    }
    if let (Some(Value::Level(quota)), Some(Value::Number(period)), true) = (
        settings.get(&Setting::CpuQuota),
        settings.get(&Setting::CpuPeriod),
        differs(&Setting::CpuQuota).is_some() || differs(&Setting::CpuPeriod).is_some(),
    ) {
        limits.cpu = of(*quota, *period);
    }
    limits
}

/// `n` of the processors, all where there are no more; which ones depends on the container's id, so
/// that containers spread over the node and one container keeps its own.
pub fn spread(ct: CtId, n: u32, cpus: &BTreeSet<u32>) -> BTreeSet<u32> {
    let count = usize::try_from(n).unwrap_or(usize::MAX).min(cpus.len());
    let id = usize::try_from(ct.get()).unwrap_or(0);
    // Containers with neighbouring ids take neighbouring runs of processors.
    let first = id.wrapping_mul(count).checked_rem(cpus.len()).unwrap_or(0);
    cpus.iter().cycle().skip(first).take(count).copied().collect()
}

/// Those of a node's processors or memory nodes that a mask names.
fn masked(mask: Option<&IndexList>, there: &BTreeSet<u32>) -> BTreeSet<u32> {
    match mask {
        Some(mask) => mask.numbers().intersection(there).copied().collect(),
        None => there.clone(),
    }
}

fn memory(limits: &Limits) -> Limit {
    pages_to_bytes(limits.limit(UbcResource::Physpages))
}

fn swap(limits: &Limits) -> Limit {
    pages_to_bytes(limits.limit(UbcResource::Swappages))
}

/// The barrier of `physpages`, where it says something the limit does not.
fn high(limits: &Limits) -> Limit {
    match limits.ubc.get(&UbcResource::Physpages) {
        Some(v) if v.barrier > Limit::Max(0) && v.barrier < v.limit => pages_to_bytes(v.barrier),
        _ => Limit::Unlimited,
    }
}

fn tcp(limits: &Limits) -> Limit {
    let of = |resource| limits.limit(resource);
    match (of(UbcResource::Tcpsndbuf), of(UbcResource::Tcprcvbuf)) {
        (Limit::Max(send), Limit::Max(receive)) => whole_pages(send.saturating_add(receive)),
        _ => Limit::Unlimited,
    }
}

/// Weight of so many units; vzctl's default is 1000.
pub fn weight(units: Option<u32>, home: Home) -> u64 {
    let units = u64::from(units.unwrap_or(1000));
    match home {
        Home::V1 => (units * 1024 / 1000).clamp(2, 262_144),
        Home::V2 => (units / 10).clamp(1, 10_000),
    }
}

/// The reverse of [`weight`], as near as it can be.
fn units(weight: u64, home: Home) -> u32 {
    let units = match home {
        Home::V1 => weight.saturating_mul(1000).div_ceil(1024),
        Home::V2 => weight.saturating_mul(10),
    };
    u32::try_from(units).unwrap_or(u32::MAX).clamp(8, 500_000)
}

/// Processor time of a period: the limit, and no more than the processors it may use where these
/// cannot be chosen.
fn quota(limits: &Limits, node: &Node) -> Limit {
    let by_limit = limits.cpu.map(|c| u64::from(c.millicpus) * (PERIOD / 1000));
    let by_count = limits
        .cpus
        .filter(|_| !node.has(Setting::Cpus))
        .map(|n| u64::from(n).saturating_mul(PERIOD));
    by_limit.into_iter().chain(by_count).min().map_or(Limit::Unlimited, Limit::Max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake;

    fn ct(n: u32) -> CtId {
        CtId::try_from(n).expect("valid")
    }

    fn ubc(pairs: &[(UbcResource, u64, u64)]) -> Limits {
        let value = |b, l| UbcValue { barrier: Limit::from_wire(b), limit: Limit::from_wire(l) };
        Limits {
            ubc: pairs.iter().map(|(r, b, l)| (*r, value(*b, *l))).collect(),
            ..Limits::default()
        }
    }

    #[test]
    fn version_1() {
        let mut limits = ubc(&[
            (UbcResource::Physpages, 100, 256),
            (UbcResource::Swappages, 64, 64),
            (UbcResource::Numproc, 80, 80),
            (UbcResource::Tcpsndbuf, 1000, 4000),
            (UbcResource::Tcprcvbuf, 1000, 4000),
        ]);
        limits.cpu_units = Some(500);
        limits.cpu = Some(CpuLimit { millicpus: 1500 });
        limits.cpus = Some(2);
        let t = target(ct(1), &limits, &fake::node_v1(), None);
        let level = |n| Some(Value::Level(Limit::Max(n)));
        assert_eq!(t.get(&Setting::MemoryMax).cloned(), level(1 << 20));
        assert_eq!(t.get(&Setting::MemswMax).cloned(), level(320 * 4096));
        assert_eq!(t.get(&Setting::MemoryHigh).cloned(), level(100 * 4096));
        assert_eq!(t.get(&Setting::PidsMax).cloned(), level(80));
        assert_eq!(t.get(&Setting::TcpMax).cloned(), level(8192));
        assert_eq!(t.get(&Setting::CpuWeight), Some(&Value::Number(512)));
        assert_eq!(t.get(&Setting::CpuQuota).cloned(), level(150_000));
        assert_eq!(t.get(&Setting::Cpus), Some(&Value::Set([2, 3].into())));
        assert_eq!(t.get(&Setting::SwapMax), None);
    }

    #[test]
    fn version_2() {
        let mut limits = ubc(&[(UbcResource::Physpages, 0, 256), (UbcResource::Swappages, 0, 0)]);
        limits.cpu = Some(CpuLimit { millicpus: 250 });
        let t = target(ct(1), &limits, &fake::node_v2(), None);
        assert_eq!(t.get(&Setting::MemoryMax), Some(&Value::Level(Limit::Max(1 << 20))));
        assert_eq!(t.get(&Setting::SwapMax), Some(&Value::Level(Limit::Max(0))));
        assert_eq!(t.get(&Setting::MemoryHigh), Some(&Value::Level(Limit::Unlimited)));
        assert_eq!(t.get(&Setting::CpuWeight), Some(&Value::Number(100)));
        assert_eq!(t.get(&Setting::CpuMax), Some(&Value::Quota(Limit::Max(25_000), PERIOD)));
        assert_eq!(t.get(&Setting::Cpus), Some(&Value::Set(BTreeSet::new())));
    }

    #[test]
    fn without_cpusets_the_quota_stands_in() {
        let mut node = fake::node_v2();
        node.settings.remove(&Setting::Cpus);
        let limits = Limits { cpus: Some(2), ..Limits::default() };
        let t = target(ct(1), &limits, &node, None);
        assert_eq!(t.get(&Setting::CpuMax), Some(&Value::Quota(Limit::Max(200_000), PERIOD)));
        let limits = Limits { cpu: Some(CpuLimit { millicpus: 500 }), ..limits };
        let t = target(ct(1), &limits, &node, None);
        assert_eq!(t.get(&Setting::CpuMax), Some(&Value::Quota(Limit::Max(50_000), PERIOD)));
    }

    #[test]
    fn processors_are_spread_and_stay() {
        let cpus: BTreeSet<u32> = (0..4).collect();
        let picks: Vec<_> = (1..=4).map(|n| spread(ct(n), 1, &cpus)).collect();
        let all: BTreeSet<_> = picks.iter().flatten().copied().collect();
        assert_eq!(all, cpus);
        assert_eq!(spread(ct(3), 2, &cpus), spread(ct(3), 2, &cpus));
        assert_eq!(spread(ct(3), 9, &cpus), cpus);
        assert_eq!(spread(ct(3), 9, &BTreeSet::new()), BTreeSet::new());
    }

    #[test]
    fn a_mask_is_shown_as_far_as_it_is_there() {
        for node in [fake::node_v1(), fake::node_v2()] {
            let mask = |s: &str| Limits { cpu_mask: s.parse().ok(), ..Limits::default() };
            let wanted = Limits { cpus: Some(2), ..mask("2-9") };
            let settings = target(ct(1), &wanted, &node, None);
            assert_eq!(settings.get(&Setting::Cpus), Some(&Value::Set([2, 3].into())));
            let have = limits_from(ct(1), Some(&wanted), &settings, &node, None);
            assert_eq!((have.cpus, have.cpu_mask), (Some(2), mask("2-3").cpu_mask));
            let other = [(Setting::Cpus, Value::Set([0].into()))].into();
            let have = limits_from(ct(1), Some(&mask("2")), &other, &node, None);
            assert_eq!(have.cpu_mask, mask("0").cpu_mask, "as somebody else has set it");
        }
    }

    #[test]
    fn weights_stay_within_the_kernel() {
        for units in [8, 1000, 500_000] {
            assert!((2..=262_144).contains(&weight(Some(units), Home::V1)));
            assert!((1..=10_000).contains(&weight(Some(units), Home::V2)));
        }
        assert_eq!((weight(None, Home::V1), weight(None, Home::V2)), (1024, 100));
    }

    #[test]
    fn what_the_kernel_has_wins_over_what_was_wanted() {
        for node in [fake::node_v1(), fake::node_v2()] {
            let mut wanted =
                ubc(&[(UbcResource::Physpages, 256, 256), (UbcResource::Numproc, 80, 80)]);
            wanted.cpu = Some(CpuLimit { millicpus: 500 });
            wanted.cpu_units = Some(777);
            let mut settings = target(ct(1), &wanted, &node, None);
            assert_eq!(limits_from(ct(1), Some(&wanted), &settings, &node, None), wanted);
            settings.insert(Setting::PidsMax, Value::Level(Limit::Max(7)));
            settings.insert(Setting::MemoryMax, Value::Level(Limit::Max(128 * 4096)));
            let have = limits_from(ct(1), Some(&wanted), &settings, &node, None);
            assert_eq!(have.limit(UbcResource::Numproc), Limit::Max(7));
            assert_eq!(have.limit(UbcResource::Physpages), Limit::Max(128));
            assert_eq!((have.cpu, have.cpu_units), (wanted.cpu, wanted.cpu_units));
            let unasked = limits_from(ct(1), None, &settings, &node, None);
            assert_eq!(unasked.limit(UbcResource::Numproc), Limit::Max(7));
            assert_eq!(unasked.cpu, wanted.cpu);
        }
    }
}
