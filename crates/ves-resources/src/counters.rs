//! What a container uses and has used, for who asks again and again: what the kernel's counters say. Pure.
//!
//! What a kernel does not tell is absent, never 0. Never here: what takes a look at each process
//! ([`crate::rows`]).

use ves_types::{CtId, Limits, UbcRow};

use crate::model::{Device, Home};
use crate::observe::{self, Files};
use crate::rows::Usage;

/// What the counters of a container's groups say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Counters {
    /// Processor time in user mode and in the kernel, in microseconds.
    pub cpu: Option<(u64, u64)>,
    /// How long it was held back by its quota, in microseconds.
    pub throttled_usec: Option<u64>,
    /// Memory in use, in bytes.
    pub memory: Option<u64>,
    /// The same without the page cache that was not used lately.
    pub working_set: Option<u64>,
    /// Traffic of disks.
    pub disk: Option<Disk>,
    /// How long was waited for a processor.
    pub cpu_pressure: Option<Pressure>,
    /// How long was waited for memory.
    pub memory_pressure: Option<Pressure>,
    /// How long was waited for disks.
    pub io_pressure: Option<Pressure>,
}

/// Traffic of disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Disk {
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// How many reads.
    pub reads: u64,
    /// How many writes.
    pub writes: u64,
}

/// How long was waited, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pressure {
    /// While at least one task waited.
    pub some_usec: u64,
    /// While all waited that had something to do, where the kernel tells.
    pub full_usec: Option<u64>,
}

/// What is read of a container's groups without a look at its processes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Metered {
    /// The limits it was last given.
    pub wanted: Option<Limits>,
    /// What controllers count of parameters.
    pub usage: Usage,
    /// What else they count.
    pub counters: Counters,
    /// Which groups these are, where that is known: those made later have the greater number.
    pub life: Option<u64>,
}

impl Metered {
    /// Whether there are no groups that count: a record may be all there is, or they went meanwhile.
    pub fn is_nothing(&self) -> bool {
        let Self { wanted: _, usage, counters, life: _ } = self;
        usage.counts.is_empty() && *counters == Counters::default()
    }
}

/// What one container uses, for the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Used {
    /// The container.
    pub ct: CtId,
    /// The rows whose limit is kept.
    pub rows: Vec<UbcRow>,
    /// Processes killed because memory ran out, where the kernel tells.
    pub oom_kills: Option<u64>,
    /// Swap in use, in bytes.
    pub swap: Option<u64>,
    /// Which groups these are, where that is known: those made later have the greater number.
    pub life: Option<u64>,
    /// The rest.
    pub counters: Counters,
}

/// The files of processor time.
pub const fn cpu_files(home: Home) -> &'static [&'static str] {
    match home {
        Home::V1 => &["cpuacct.usage_user", "cpuacct.usage_sys"],
        Home::V2 => &["cpu.stat"],
    }
}

/// Processor time in user mode and in the kernel, in microseconds.
pub fn cpu(home: Home, files: &Files) -> Option<(u64, u64)> {
    match home {
        Home::V1 => {
            let usec = |name| files.number(name).map(|ns| ns / 1000);
            usec("cpuacct.usage_user").zip(usec("cpuacct.usage_sys"))
        }
        Home::V2 => files.key("cpu.stat", "user_usec").zip(files.key("cpu.stat", "system_usec")),
    }
}

/// How long a group was held back, as its `cpu.stat` says, in microseconds.
pub fn throttled(home: Home, files: &Files) -> Option<u64> {
    match home {
        Home::V1 => files.key("cpu.stat", "throttled_time").map(|ns| ns / 1000),
        Home::V2 => files.key("cpu.stat", "throttled_usec"),
    }
}

/// Memory in use, and what of it would be missed, from [`observe::memory_files`].
pub fn memory(home: Home, files: &Files) -> (Option<u64>, Option<u64>) {
    let (current, inactive) = match home {
        Home::V1 => ("memory.usage_in_bytes", "total_inactive_file"),
        Home::V2 => ("memory.current", "inactive_file"),
    };
    let current = files.number(current);
    let inactive = files.key("memory.stat", inactive);
    (current, current.zip(inactive).map(|(current, inactive)| current.saturating_sub(inactive)))
}

/// The files of disk traffic.
pub const fn disk_files(home: Home) -> &'static [&'static str] {
    match home {
        Home::V1 => &["blkio.throttle.io_service_bytes", "blkio.throttle.io_serviced"],
        Home::V2 => &["io.stat"],
    }
}

/// Traffic of `device`, or of all where that is not known. A volume in an image file has a device above the
/// one of the file; what passes both counts once, where it is known which is its own.
pub fn disk(home: Home, files: &Files, device: Option<Device>) -> Option<Disk> {
    let own = device.map(|d| d.to_string());
    let is_own = |name: &str| own.as_ref().is_none_or(|own| own == name);
    let mut disk = Disk::default();
    match home {
        Home::V1 => {
            let sum = |file: &str, way: &str| {
                let lines = files.0.get(file)?.lines();
                let of = lines.filter_map(|line| {
                    let mut words = line.split_ascii_whitespace();
                    let ours = is_own(words.next()?) && words.next()? == way;
                    words.next()?.parse::<u64>().ok().filter(|_| ours)
                });
                Some(of.fold(0, u64::saturating_add))
            };
            disk.read_bytes = sum("blkio.throttle.io_service_bytes", "Read")?;
            disk.write_bytes = sum("blkio.throttle.io_service_bytes", "Write")?;
            disk.reads = sum("blkio.throttle.io_serviced", "Read")?;
            disk.writes = sum("blkio.throttle.io_serviced", "Write")?;
        }
        Home::V2 => {
            for line in files.0.get("io.stat")?.lines() {
                let mut words = line.split_ascii_whitespace();
                if !words.next().is_some_and(is_own) {
                    continue;
                }
                for (key, n) in words.filter_map(|word| word.split_once('=')) {
                    let Ok(n) = n.parse::<u64>() else { continue };
                    let sum = match key {
                        "rbytes" => &mut disk.read_bytes,
                        "wbytes" => &mut disk.write_bytes,
                        "rios" => &mut disk.reads,
                        "wios" => &mut disk.writes,
                        _ => continue,
                    };
                    *sum = sum.saturating_add(n);
                }
            }
        }
    }
    Some(disk)
}

/// What a file of pressure stall information says.
pub fn pressure(text: &str) -> Option<Pressure> {
    let total = |kind: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(kind))?;
        line.split_ascii_whitespace().find_map(|w| w.strip_prefix("total="))?.parse().ok()
    };
    Some(Pressure { some_usec: total("some ")?, full_usec: total("full ") })
}

/// How many were killed, and the rest of what the files of the memory controller say.
pub fn take_memory(home: Home, files: &Files, metered: &mut Metered) {
    metered.usage.oom_kills = observe::oom_kills(home, files);
    metered.usage.counts.extend(observe::memory_counts(home, files));
    (metered.counters.memory, metered.counters.working_set) = memory(home, files);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(all: &[(&'static str, &str)]) -> Files {
        Files(all.iter().map(|(name, text)| (*name, (*text).to_owned())).collect())
    }

    const VOLUME: Device = Device { major: 7, minor: 1 };

    #[test]
    fn disk_traffic_counts_once() {
        let v1 = files(&[
            (
                "blkio.throttle.io_service_bytes",
                "8:0 Read 10\n8:0 Write 20\n7:1 Read 1\n7:1 Write 2\n7:1 Total 3\nTotal 33\n",
            ),
            ("blkio.throttle.io_serviced", "7:1 Read 3\n7:1 Write 4\n8:0 Read 30\nTotal 37\n"),
        ]);
        let v2 = files(&[(
            "io.stat",
            "8:0 rbytes=10 wbytes=20 rios=30 wios=0 dbytes=0\n7:1 rbytes=1 wbytes=2 rios=3 wios=4\n\
             7:11 rbytes=100\n",
        )]);
        let own = Disk { read_bytes: 1, write_bytes: 2, reads: 3, writes: 4 };
        assert_eq!(disk(Home::V1, &v1, Some(VOLUME)), Some(own));
        assert_eq!(disk(Home::V2, &v2, Some(VOLUME)), Some(own));
        let all = Disk { read_bytes: 11, write_bytes: 22, reads: 33, writes: 4 };
        assert_eq!(disk(Home::V1, &v1, None), Some(all));
        assert_eq!(disk(Home::V2, &v2, None), Some(Disk { read_bytes: 111, ..all }));
        assert_eq!(disk(Home::V1, &files(&[]), None), None, "it is not told");
        assert_eq!(disk(Home::V2, &files(&[("io.stat", "")]), None), Some(Disk::default()));
    }

    #[test]
    fn processor_time_is_in_microseconds() {
        let v1 = files(&[
            ("cpuacct.usage_user", "5000\n"),
            ("cpuacct.usage_sys", "7999\n"),
            ("cpu.stat", "nr_periods 1\nthrottled_time 3000\n"),
        ]);
        assert_eq!((cpu(Home::V1, &v1), throttled(Home::V1, &v1)), (Some((5, 7)), Some(3)));
        let v2 = files(&[("cpu.stat", "usage_usec 12\nuser_usec 5\nsystem_usec 7\n")]);
        assert_eq!((cpu(Home::V2, &v2), throttled(Home::V2, &v2)), (Some((5, 7)), None));
    }

    #[test]
    fn memory_without_what_is_not_missed() {
        let v2 = files(&[("memory.current", "100"), ("memory.stat", "anon 1\ninactive_file 30\n")]);
        assert_eq!(memory(Home::V2, &v2), (Some(100), Some(70)));
        let v1 = files(&[("memory.usage_in_bytes", "10"), ("memory.stat", "inactive_file 3\n")]);
        assert_eq!(memory(Home::V1, &v1), (Some(10), None));
    }

    #[test]
    fn pressure_is_read_and_nonsense_is_not() {
        let line =
            |kind: &str, n: u64| format!("{kind} avg10=0.00 avg60=0.04 avg300=6.89 total={n}\n");
        let both = line("some", 5) + &line("full", 3);
        assert_eq!(pressure(&both), Some(Pressure { some_usec: 5, full_usec: Some(3) }));
        let one = Pressure { some_usec: 5, full_usec: None };
        assert_eq!(pressure(&line("some", 5)), Some(one));
        for bad in ["", "some", "some total=x", &line("full", 3)] {
            assert_eq!(pressure(bad), None, "{bad}");
        }
    }
}
