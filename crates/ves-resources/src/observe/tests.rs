//! Parsers on files recorded from a version 1 machine (kernel 6.18), and on files in the format of
//! Debian 13's kernel for version 2.

use super::*;

macro_rules! fixture {
    ($home:literal, $name:literal) => {
        include_str!(concat!("../../fixtures/", $home, "/", $name))
    };
}

fn v1() -> Files {
    let files = [
        ("memory.stat", fixture!("v1", "memory.stat")),
        ("memory.usage_in_bytes", fixture!("v1", "memory.usage_in_bytes")),
        ("memory.max_usage_in_bytes", fixture!("v1", "memory.max_usage_in_bytes")),
        ("memory.failcnt", fixture!("v1", "memory.failcnt")),
        ("memory.oom_control", fixture!("v1", "memory.oom_control")),
        ("memory.memsw.failcnt", fixture!("v1", "memory.memsw.failcnt")),
        ("memory.kmem.usage_in_bytes", fixture!("v1", "memory.kmem.usage_in_bytes")),
        ("memory.kmem.max_usage_in_bytes", fixture!("v1", "memory.kmem.max_usage_in_bytes")),
        ("memory.kmem.failcnt", fixture!("v1", "memory.kmem.failcnt")),
        ("memory.kmem.tcp.usage_in_bytes", fixture!("v1", "memory.kmem.tcp.usage_in_bytes")),
        (
            "memory.kmem.tcp.max_usage_in_bytes",
            fixture!("v1", "memory.kmem.tcp.max_usage_in_bytes"),
        ),
        ("memory.kmem.tcp.failcnt", fixture!("v1", "memory.kmem.tcp.failcnt")),
        ("pids.current", fixture!("v1", "pids.current")),
        ("pids.peak", fixture!("v1", "pids.peak")),
        ("pids.events", fixture!("v1", "pids.events")),
    ];
    Files(files.into_iter().map(|(name, text)| (name, text.to_owned())).collect())
}

fn v2() -> Files {
    let files = [
        ("memory.stat", fixture!("v2", "memory.stat")),
        ("memory.current", fixture!("v2", "memory.current")),
        ("memory.peak", fixture!("v2", "memory.peak")),
        ("memory.events", fixture!("v2", "memory.events")),
        ("memory.swap.current", fixture!("v2", "memory.swap.current")),
        ("memory.swap.peak", fixture!("v2", "memory.swap.peak")),
        ("memory.swap.events", fixture!("v2", "memory.swap.events")),
        ("pids.current", fixture!("v2", "pids.current")),
        ("pids.peak", fixture!("v2", "pids.peak")),
        ("pids.events", fixture!("v2", "pids.events")),
    ];
    Files(files.into_iter().map(|(name, text)| (name, text.to_owned())).collect())
}

fn count(held: u64, maxheld: u64, failcnt: u64) -> Option<Count> {
    Some(Count { held, maxheld, failcnt })
}

#[test]
fn kills_are_counted_in_both_versions() {
    let files = |home, text: &str| Files([(kills_file(home), text.to_owned())].into());
    let v1 = files(Home::V1, "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n");
    assert_eq!(oom_kills(Home::V1, &v1), Some(3));
    // Before Linux 4.13 version 1 had no count.
    assert_eq!(oom_kills(Home::V1, &files(Home::V1, "oom_kill_disable 0\nunder_oom 0\n")), None);
    let v2 = "low 0\nhigh 0\nmax 91\noom 7\noom_kill 5\noom_group_kill 1\n";
    assert_eq!(oom_kills(Home::V2, &files(Home::V2, v2)), Some(5));
    assert_eq!(oom_kills(Home::V2, &Files::default()), None);
}

#[test]
fn counts_of_version_1() {
    let counts = memory_counts(Home::V1, &v1());
    let of = |r| counts.get(&r).copied();
    assert_eq!(of(UbcResource::Physpages), count(1004, 8192, 60));
    assert_eq!(of(UbcResource::Kmemsize), count(266_240, 454_656, 0));
    assert_eq!(of(UbcResource::Shmpages), count(768, 768, 0));
    assert_eq!(of(UbcResource::Swappages), count(0, 0, 0));
    assert_eq!(of(UbcResource::Lockedpages), count(0, 0, 0));
    assert_eq!(of(UbcResource::Tcprcvbuf), count(0, 0, 0));
    assert_eq!(of(UbcResource::Dcachesize), None);
    assert_eq!(pids_count(&v1()), count(3, 3, 0));
    assert_eq!(unreclaimable(Home::V1, &v1()), 335_872 + 3_145_728 + 266_240);
}

#[test]
fn counts_of_version_2() {
    let counts = memory_counts(Home::V2, &v2());
    let of = |r| counts.get(&r).copied();
    assert_eq!(of(UbcResource::Physpages), count(8835, 9766, 7));
    assert_eq!(of(UbcResource::Kmemsize), count(3_411_968, 3_411_968, 0));
    assert_eq!(of(UbcResource::Dcachesize), count(1_986_816, 1_986_816, 0));
    assert_eq!(of(UbcResource::Shmpages), count(1000, 1000, 0));
    assert_eq!(of(UbcResource::Lockedpages), count(2, 2, 0));
    assert_eq!(of(UbcResource::Swappages), count(2, 5, 4));
    assert_eq!(of(UbcResource::Oomguarpages), count(8837, 8837, 0));
    assert_eq!(of(UbcResource::Tcpsndbuf), count(12_288, 12_288, 0));
    assert_eq!(pids_count(&v2()), count(17, 29, 3));
    assert_eq!(unreclaimable(Home::V2, &v2()), 9_420_800 + 4_096_000 + 3_411_968 - 1_986_816);
}

#[test]
fn what_is_missing_is_absent_not_zero() {
    assert!(memory_counts(Home::V1, &Files::default()).is_empty());
    assert!(memory_counts(Home::V2, &Files::default()).is_empty());
    assert_eq!(pids_count(&Files::default()), None);
    let mut old = v2();
    old.0.remove("memory.peak");
    let counts = memory_counts(Home::V2, &old);
    assert_eq!(counts[&UbcResource::Physpages].maxheld, 8835, "a kernel before 5.19");
}

#[test]
fn settings() {
    let parse = parse_value;
    let level = |n| Some(Value::Level(Limit::Max(n)));
    let unlimited = Some(Value::Level(Limit::Unlimited));
    let (one, two) = (Home::V1, Home::V2);
    assert_eq!(
        parse(Setting::MemoryMax, one, fixture!("v1", "memory.limit_in_bytes")),
        level(32 << 20)
    );
    assert_eq!(
        parse(Setting::MemswMax, one, fixture!("v1", "memory.memsw.limit_in_bytes")),
        unlimited
    );
    assert_eq!(parse(Setting::PidsMax, one, fixture!("v1", "pids.max")), level(3));
    assert_eq!(parse(Setting::CpuQuota, one, "-1\n"), unlimited);
    assert_eq!(parse(Setting::MemoryMax, two, fixture!("v2", "memory.max")), level(64 << 20));
    assert_eq!(parse(Setting::MemoryHigh, two, fixture!("v2", "memory.high")), unlimited);
    assert_eq!(
        parse(Setting::CpuMax, two, fixture!("v2", "cpu.max")),
        Some(Value::Quota(Limit::Max(50_000), 100_000))
    );
    assert_eq!(
        parse(Setting::CpuMax, two, "max 100000\n"),
        Some(Value::Quota(Limit::Unlimited, 100_000))
    );
    assert_eq!(
        parse(Setting::Cpus, two, fixture!("v2", "cpuset.cpus")),
        Some(Value::Set(BTreeSet::new()))
    );
    for (setting, bad) in [
        (Setting::MemoryMax, "lots"),
        (Setting::PidsMax, ""),
        (Setting::CpuMax, "100000"),
        (Setting::Cpus, "3-1"),
        (Setting::Cpus, "0-4294967295"),
        (Setting::CpuWeight, "max"),
    ] {
        assert_eq!(parse(setting, two, bad), None, "{setting:?} {bad}");
    }
}

#[test]
fn settings_survive_the_kernel() {
    for home in [Home::V1, Home::V2] {
        let whole = |s: &Setting| s.file(home).is_some() && s.throttle_key().is_none();
        for setting in Setting::ALL.into_iter().filter(whole) {
            for value in [
                setting.fresh(home),
                match setting.fresh(home) {
                    Value::Level(_) => Value::Level(Limit::Max(8192)),
                    Value::Number(_) => Value::Number(77),
                    Value::Quota(..) => Value::Quota(Limit::Max(2000), 100_000),
                    Value::Set(_) | Value::Throttle(_) => Value::Set([0, 1, 3].into()),
                },
            ] {
                let text = render_value(home, setting, &value);
                assert!(!text.is_empty());
                assert_eq!(parse_value(setting, home, &text), Some(value), "{setting:?}");
            }
        }
    }
}

#[test]
fn throttles() {
    let device = |minor| Device { major: 7, minor };
    let parse = |home, text| match parse_value(Setting::IoWriteIops, home, text) {
        Some(Value::Throttle(devices)) => Some(devices.into_iter().collect::<Vec<_>>()),
        _ => None,
    };
    assert_eq!(
        parse(Home::V1, "7:0 100\n7:300 20\n"),
        Some(vec![(device(0), 100), (device(300), 20)])
    );
    let text =
        "7:0 rbps=4096 wbps=max riops=max wiops=max\n7:1 rbps=max wbps=max riops=9 wiops=5\n";
    assert_eq!(parse(Home::V2, text), Some(vec![(device(1), 5)]));
    assert_eq!(parse(Home::V2, ""), Some(vec![]));
    for (home, bad) in [(Home::V1, "7:0"), (Home::V1, "x:0 1"), (Home::V2, "7:0 rbps=max")] {
        assert_eq!(parse(home, bad), None, "{bad}");
    }
    let weight = |text| parse_value(Setting::BfqWeight, Home::V2, text);
    assert_eq!(weight("default 150\n8:0 20\n"), Some(Value::Number(150)));
    assert_eq!(weight("100\n"), Some(Value::Number(100)));
}

#[test]
fn processes() {
    let host = parse_status(fixture!("v1", "status")).expect("recorded");
    assert_eq!(host, Process { uid: 0, ns_pids: vec![3007], signals: 0 });
    let inside = "Uid:\t1310720\t1310720\t0\t0\nNSpid:\t3007\t1\nSigQ:\t5/96365\n";
    let inside = parse_status(inside).expect("whole");
    assert_eq!(inside, Process { uid: 1_310_720, ns_pids: vec![3007, 1], signals: 5 });
    assert_eq!(parse_status("Name:\tx\n"), None);
}

#[test]
fn sockets() {
    let (tcp, all) = parse_sockets(fixture!("v1", "sockstat"), fixture!("v1", "sockstat6"));
    assert!(all >= tcp);
    let v4 = "sockets: used 40\nTCP: inuse 3 orphan 0 tw 1 alloc 3 mem 316\nUDP: inuse 0 mem 0\n";
    assert_eq!(parse_sockets(v4, "TCP6: inuse 2\nUDP6: inuse 9\n"), (5, 40));
    assert_eq!(parse_sockets("", ""), (0, 0));
}

#[test]
fn locks() {
    let text = "1: FLOCK  ADVISORY  WRITE 26505 fe:00:10027014 0 EOF\n\
                1: -> FLOCK  ADVISORY  WRITE 7 fe:00:10027014 0 EOF\n\
                2: OFDLCK ADVISORY  READ  -1 00:05:1032 0 EOF\n\
                3: POSIX  ADVISORY  WRITE 7 fe:00:10133507 0 EOF\n";
    let holders: Vec<_> = text.lines().map(lock_holder).collect();
    assert_eq!(holders, [Some(26505), None, None, Some(7)]);
    assert_eq!(lock_holder(""), None);
}

#[test]
fn free_swap() {
    assert_eq!(parse_swap_free("SwapTotal: 8 kB\nSwapFree:          4 kB\n"), 4096);
    assert_eq!(parse_swap_free(""), 0);
    assert_eq!(parse_mem_total("MemTotal:       16 kB\nMemFree: 8 kB\n"), Some(16_384));
    assert_eq!(parse_mem_total("MemFree: 8 kB\n"), None);
}
