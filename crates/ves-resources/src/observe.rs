//! How kernels spell settings and counts: parsers and their reverse. Pure.
//!
//! Tested on files recorded from real hosts (`fixtures/`). A text that cannot be understood is
//! `None`, never a guess.

use std::collections::{BTreeMap, BTreeSet};

use ves_types::{Bytes, Limit, UbcResource};

use crate::model::{Device, Home, Setting, Value, render_list, whole_pages};
use crate::rows::Count;

/// The greatest processor or memory node number we believe in.
const MOST_CPUS: u32 = 65_535;

/// What a setting's file says.
pub fn parse_value(setting: Setting, home: Home, text: &str) -> Option<Value> {
    let text = text.trim();
    Some(match setting {
        Setting::Mems | Setting::Cpus => Value::Set(parse_list(text)?),
        Setting::CpuWeight | Setting::CpuPeriod => Value::Number(text.parse().ok()?),
        Setting::BfqWeight | Setting::CostWeight => {
            let usual = text.lines().next().unwrap_or_default();
            Value::Number(usual.strip_prefix("default ").unwrap_or(usual).trim().parse().ok()?)
        }
        Setting::IoReadBps | Setting::IoWriteBps | Setting::IoReadIops | Setting::IoWriteIops => {
            Value::Throttle(parse_throttle(setting.throttle_key()?, home, text)?)
        }
        Setting::CpuMax => {
            let (quota, period) = text.split_once(' ')?;
            Value::Quota(parse_level(quota)?, period.parse().ok()?)
        }
        Setting::PidsMax | Setting::CpuQuota | Setting::MaxDepth | Setting::MaxDescendants => {
            Value::Level(parse_level(text)?)
        }
        Setting::MemoryMax
        | Setting::MemswMax
        | Setting::SwapMax
        | Setting::MemoryHigh
        | Setting::TcpMax => Value::Level(match (parse_level(text)?, home) {
            // Version 1 says "unlimited" as the greatest number of whole pages.
            (Limit::Max(n), Home::V1) => whole_pages(n),
            (other, _) => other,
        }),
    })
}

/// What is written to a setting's file.
pub fn render_value(home: Home, setting: Setting, value: &Value) -> String {
    let level = |limit: &Limit| match (limit, setting, home) {
        (Limit::Max(n), _, _) => n.to_string(),
        (Limit::Unlimited, Setting::PidsMax, _) | (Limit::Unlimited, _, Home::V2) => {
            "max".to_owned()
        }
        (Limit::Unlimited, _, Home::V1) => "-1".to_owned(),
    };
    match value {
        Value::Level(limit) => level(limit),
        Value::Number(n) => n.to_string(),
        Value::Quota(quota, period) => format!("{} {period}", level(quota)),
        // An empty write is none at all.
        Value::Set(set) if set.is_empty() => "\n".to_owned(),
        Value::Set(set) => render_list(set),
        Value::Throttle(_) => String::new(),
    }
}

/// Lines of a device and its bound: version 1 has one kind of bound a file, version 2 all kinds in a line.
fn parse_throttle(key: &str, home: Home, text: &str) -> Option<BTreeMap<Device, u64>> {
    let mut devices = BTreeMap::new();
    for line in text.lines().filter(|l| !l.trim().is_empty()) {
        let (device, bounds) = line.trim().split_once(' ')?;
        let (major, minor) = device.split_once(':')?;
        let device = Device { major: major.parse().ok()?, minor: minor.parse().ok()? };
        let bound = match home {
            Home::V1 => bounds.trim(),
            Home::V2 => bounds.split(' ').find_map(|b| b.strip_prefix(key)?.strip_prefix('='))?,
        };
        if let Limit::Max(bound) = parse_level(bound)? {
            devices.insert(device, bound);
        }
    }
    Some(devices)
}

/// The writes that lead from bounds to others, one a device.
pub fn render_throttle(
    setting: Setting,
    home: Home,
    from: &BTreeMap<Device, u64>,
    to: &BTreeMap<Device, u64>,
) -> Vec<String> {
    let line = |device: &Device, bound: Option<u64>| match (home, bound) {
        (Home::V1, bound) => format!("{device} {}", bound.unwrap_or(0)),
        (Home::V2, bound) => {
            let key = setting.throttle_key().unwrap_or_default();
            format!("{device} {key}={}", bound.map_or_else(|| "max".to_owned(), |n| n.to_string()))
        }
    };
    let gone = from.keys().filter(|d| !to.contains_key(d)).map(|d| line(d, None));
    let new = to.iter().filter(|(d, n)| from.get(d) != Some(n)).map(|(d, n)| line(d, Some(*n)));
    new.chain(gone).collect()
}

fn parse_level(text: &str) -> Option<Limit> {
    match text {
        "max" | "-1" => Some(Limit::Unlimited),
        number => number.parse().ok().map(Limit::Max),
    }
}

/// The kernel's list notation, `0-2,5`.
pub fn parse_list(text: &str) -> Option<BTreeSet<u32>> {
    ves_types::index_list::parse(text, MOST_CPUS)
}

/// Lines of a name and a number, as `memory.stat` has them.
pub fn parse_flat(text: &str) -> BTreeMap<&str, u64> {
    let pair =
        |line| str::split_once(line, ' ').and_then(|(k, v)| Some((k, v.trim().parse().ok()?)));
    text.lines().filter_map(pair).collect()
}

/// A number on its own.
pub fn parse_number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// The files of a controller, by name; those that are not there are absent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Files(pub BTreeMap<&'static str, String>);

impl Files {
    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        parse_number(self.0.get(name)?)
    }
    pub(crate) fn key(&self, name: &str, key: &str) -> Option<u64> {
        parse_flat(self.0.get(name)?).get(key).copied()
    }
}

/// The files [`memory_counts`] reads.
pub const fn memory_files(home: Home) -> &'static [&'static str] {
    match home {
        Home::V1 => &[
            "memory.stat",
            "memory.usage_in_bytes",
            "memory.max_usage_in_bytes",
            "memory.failcnt",
            "memory.oom_control",
            "memory.memsw.failcnt",
            "memory.kmem.usage_in_bytes",
            "memory.kmem.max_usage_in_bytes",
            "memory.kmem.failcnt",
            "memory.kmem.tcp.usage_in_bytes",
            "memory.kmem.tcp.max_usage_in_bytes",
            "memory.kmem.tcp.failcnt",
        ],
        Home::V2 => &[
            "memory.stat",
            "memory.current",
            "memory.peak",
            "memory.events",
            "memory.swap.current",
            "memory.swap.peak",
            "memory.swap.events",
        ],
    }
}

/// The file that counts who was killed because memory ran out. Version 2 counts in it those of groups below,
/// too; in version 1 there are none.
pub const fn kills_file(home: Home) -> &'static str {
    match home {
        Home::V1 => "memory.oom_control",
        Home::V2 => "memory.events",
    }
}

/// How many were killed because memory ran out; `None` where the kernel does not tell.
pub fn oom_kills(home: Home, files: &Files) -> Option<u64> {
    files.key(kills_file(home), "oom_kill")
}

/// What the memory controller counts.
///
/// Version 1 counts both directions of TCP together, and version 2 all sockets; both rows show that
/// common count. On version 1 a refusal that ends in a kill is not always among the counted ones
/// (where memory and swap are limited to the same), so the greater of both counts is shown.
pub fn memory_counts(home: Home, files: &Files) -> BTreeMap<UbcResource, Count> {
    let mut counts = BTreeMap::new();
    let mut put = |resource, count: Option<Count>| {
        if let Some(count) = count {
            counts.insert(resource, count);
        }
    };
    let whole = |held: u64, max: Option<u64>, failcnt: Option<u64>| Count {
        held,
        maxheld: max.unwrap_or(held),
        failcnt: failcnt.unwrap_or(0),
    };
    let pages = |c: Count| Count {
        held: Bytes(c.held).pages(),
        maxheld: Bytes(c.maxheld).pages(),
        failcnt: c.failcnt,
    };
    let stat = |key| files.key("memory.stat", key);
    let stat_pages = |key| stat(key).map(|b| Count::now(Bytes(b).pages()));
    match home {
        Home::V1 => {
            let counter = |usage, max, failcnt| {
                Some(whole(files.number(usage)?, files.number(max), files.number(failcnt)))
            };
            let usage = files.number("memory.usage_in_bytes");
            let kills = oom_kills(home, files).unwrap_or(0);
            put(
                UbcResource::Physpages,
                counter("memory.usage_in_bytes", "memory.max_usage_in_bytes", "memory.failcnt")
                    .map(|c| pages(Count { failcnt: c.failcnt.max(kills), ..c })),
            );
            put(
                UbcResource::Kmemsize,
                counter(
                    "memory.kmem.usage_in_bytes",
                    "memory.kmem.max_usage_in_bytes",
                    "memory.kmem.failcnt",
                ),
            );
            let tcp = counter(
                "memory.kmem.tcp.usage_in_bytes",
                "memory.kmem.tcp.max_usage_in_bytes",
                "memory.kmem.tcp.failcnt",
            );
            put(UbcResource::Tcpsndbuf, tcp);
            put(UbcResource::Tcprcvbuf, tcp);
            put(UbcResource::Lockedpages, stat_pages("total_unevictable"));
            put(UbcResource::Shmpages, stat_pages("total_shmem"));
            let swap = stat("total_swap");
            put(
                UbcResource::Swappages,
                swap.map(|s| pages(whole(s, None, files.number("memory.memsw.failcnt")))),
            );
            let both = usage.map(|u| Bytes(u + swap.unwrap_or(0)).pages());
            put(UbcResource::Oomguarpages, both.map(Count::now));
        }
        Home::V2 => {
            let current = files.number("memory.current");
            let refused = files.key("memory.events", "max");
            put(
                UbcResource::Physpages,
                current.map(|held| pages(whole(held, files.number("memory.peak"), refused))),
            );
            put(UbcResource::Kmemsize, stat("kernel").map(Count::now));
            put(UbcResource::Dcachesize, stat("slab_reclaimable").map(Count::now));
            put(UbcResource::Tcpsndbuf, stat("sock").map(Count::now));
            put(UbcResource::Tcprcvbuf, stat("sock").map(Count::now));
            put(UbcResource::Lockedpages, stat_pages("unevictable"));
            put(UbcResource::Shmpages, stat_pages("shmem"));
            let swap = files.number("memory.swap.current");
            let failed = files.key("memory.swap.events", "max");
            put(
                UbcResource::Swappages,
                swap.map(|s| pages(whole(s, files.number("memory.swap.peak"), failed))),
            );
            let both = current.map(|c| Bytes(c + swap.unwrap_or(0)).pages());
            put(UbcResource::Oomguarpages, both.map(Count::now));
        }
    }
    counts
}

/// Memory that cannot be given back without swap: anonymous, shared and the kernel's, in bytes.
pub fn unreclaimable(home: Home, files: &Files) -> u64 {
    let stat = |key| files.key("memory.stat", key).unwrap_or(0);
    match home {
        Home::V1 => {
            let kernel = files.number("memory.kmem.usage_in_bytes").unwrap_or(0);
            stat("total_rss").saturating_add(stat("total_shmem")).saturating_add(kernel)
        }
        Home::V2 => {
            let kernel = stat("kernel").saturating_sub(stat("slab_reclaimable"));
            stat("anon").saturating_add(stat("shmem")).saturating_add(kernel)
        }
    }
}

/// The files [`pids_count`] reads.
pub const PIDS_FILES: &[&str] = &["pids.current", "pids.peak", "pids.events"];

/// What the pids controller counts.
pub fn pids_count(files: &Files) -> Option<Count> {
    let held = files.number("pids.current")?;
    Some(Count {
        held,
        maxheld: files.number("pids.peak").unwrap_or(held),
        failcnt: files.key("pids.events", "max").unwrap_or(0),
    })
}

/// What `/proc/PID/status` says that is of interest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Process {
    /// Its real user id, on the host.
    pub uid: u32,
    /// Its ids, from the host's namespace to its own.
    pub ns_pids: Vec<u32>,
    /// Signals that are queued for its user.
    pub signals: u64,
}

/// Reads `/proc/PID/status`.
pub fn parse_status(text: &str) -> Option<Process> {
    let field = |name: &str| {
        text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
    };
    let ns_pids = field("NSpid").unwrap_or("").split_ascii_whitespace();
    Some(Process {
        uid: field("Uid")?.split_ascii_whitespace().next()?.parse().ok()?,
        ns_pids: ns_pids.map_while(|n| n.parse().ok()).collect(),
        signals: field("SigQ")?.split_once('/')?.0.parse().ok()?,
    })
}

/// Sockets of a network namespace: TCP ones, and all, from `/proc/PID/net/sockstat` and
/// `sockstat6`.
pub fn parse_sockets(sockstat: &str, sockstat6: &str) -> (u64, u64) {
    let field = |text: &str, line: &str, key: &str| {
        let rest = text.lines().find_map(|l| l.strip_prefix(line))?;
        let mut words = rest.split_ascii_whitespace();
        words.find(|w| *w == key)?;
        words.next()?.parse().ok()
    };
    let tcp = field(sockstat, "TCP:", "inuse").unwrap_or(0u64)
        + field(sockstat6, "TCP6:", "inuse").unwrap_or(0);
    (tcp, field(sockstat, "sockets:", "used").unwrap_or(tcp))
}

/// File locks held, by process.
pub type FileLocks = BTreeMap<u32, u64>;

/// Which process holds the lock in a line of `/proc/locks`; `None` for one that waits for it, and
/// for one that belongs to no process.
pub fn lock_holder(line: &str) -> Option<u32> {
    let mut words = line.split_ascii_whitespace().skip(1);
    words.next().filter(|w| *w != "->")?;
    words.nth(2)?.parse().ok()
}

/// `SwapFree` of `/proc/meminfo`, in bytes.
pub fn parse_swap_free(meminfo: &str) -> u64 {
    parse_meminfo(meminfo, "SwapFree:").unwrap_or(0)
}

/// `MemTotal` of `/proc/meminfo`, in bytes.
pub fn parse_mem_total(meminfo: &str) -> Option<u64> {
    parse_meminfo(meminfo, "MemTotal:")
}

fn parse_meminfo(meminfo: &str, name: &str) -> Option<u64> {
    let kib = |l: &str| l.strip_prefix(name)?.trim().strip_suffix("kB")?.trim().parse().ok();
    meminfo.lines().find_map(kib).map(|n: u64| n.saturating_mul(1024))
}

#[cfg(test)]
mod tests;
