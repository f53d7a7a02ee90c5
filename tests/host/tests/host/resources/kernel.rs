//! Limits on this machine's kernel: that they bite, that they change under running processes, that
//! nothing of them is left, and that a restarted service reads them back.
//!
//! cgroups-rs is the independent witness of what the kernel was told.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cgroups_rs::fs::cpu::CpuController;
use cgroups_rs::fs::hierarchies::{V1, auto};
use cgroups_rs::fs::memory::MemController;
use cgroups_rs::fs::pid::PidController;
use cgroups_rs::fs::{Cgroup, MaxValue};
use ves_daemon::{FenceStore, Shell};
use ves_host::cgroup::{self, Controller, Hierarchies, Version};
use ves_host::kmsg::KernelLog;
use ves_kit::{LoopFile, MountGuard, Proc, TestId, TestLayout, Undo, need, wait_until};
use ves_proto::Reason;
use ves_resources::fake::FakeHost;
use ves_resources::fake::blocking::Blocking;
use ves_resources::host::Host;
use ves_resources::model::{Device, Observed, Setting};
use ves_resources::plan::{plan, plan_shared};
use ves_resources::service::Service;
use ves_types::layout::{self, CGROUP_DELEGATED};
use ves_types::{CpuLimit, CtId, Enforcement, Limit, Limits, UbcResource, UbcValue, Victim};

use super::support::{PATIENCE, Rig, row, start};

fn both(n: u64) -> UbcValue {
    UbcValue { barrier: Limit::Max(n), limit: Limit::Max(n) }
}

fn ubc(pairs: &[(UbcResource, u64)]) -> Limits {
    Limits { ubc: pairs.iter().map(|(r, n)| (*r, both(*n))).collect(), ..Limits::default() }
}

/// What cgroups-rs reads in a group.
struct Witness(Cgroup);

impl Witness {
    fn of(ct: CtId) -> Self {
        Self(Cgroup::load(auto(), layout::cgroup(ct)))
    }
    fn memory(&self) -> (i64, i64) {
        let memory = self.0.controller_of::<MemController>().expect("memory");
        (memory.memory_stat().limit_in_bytes, memory.memswap().limit_in_bytes)
    }
    fn pids(&self) -> MaxValue {
        self.0.controller_of::<PidController>().expect("pids").get_pid_max().expect("read")
    }
    fn cpu(&self) -> (u64, i64) {
        let cpu = self.0.controller_of::<CpuController>().expect("cpu");
        (cpu.shares().expect("read"), cpu.cfs_quota().expect("read"))
    }
}

fn v1() -> Result<(), ves_kit::Lack> {
    let there = Hierarchies::detect()
        .is_ok_and(|h| h.version() != Version::V2 && h.v1_with(Controller::Memory).is_some());
    need::kernel("version 1 controllers", there, "this machine has version 2 only")
}

#[test]
fn numproc_bites_a_fork_bomb() {
    need!(need::root(), need::disposable());
    let rig = Rig::new();
    let group = rig.ensure(&ubc(&[(UbcResource::Numproc, 16)]));
    assert_eq!(row(&group, UbcResource::Numproc).enforcement, Enforcement::Hard);
    // At most 2^8 processes even if nothing held it.
    let bomb = "f() { [ $1 -gt 0 ] && { f $(($1-1)) & f $(($1-1)) & wait; }; }; f 7";
    rig.shell(bomb).wait();
    let row = row(&rig.group(), UbcResource::Numproc);
    assert!(row.maxheld <= 16 && row.maxheld > 4, "{row:?}");
    assert!(row.failcnt > 0, "{row:?}");
    wait_until(PATIENCE, "the bomb is over", || rig.processes().is_empty());
}

#[test]
fn ram_bites_and_is_counted() {
    need!(need::root(), need::disposable());
    let rig = Rig::new();
    let megabytes = |n: u64| n << 8;
    let limits = ubc(&[(UbcResource::Physpages, megabytes(16)), (UbcResource::Swappages, 0)]);
    rig.ensure(&limits);
    let fits = "exec dd if=/dev/zero of=/dev/null bs=4M count=1 status=none";
    assert!(rig.shell(fits).wait().success());
    assert_eq!(row(&rig.group(), UbcResource::Physpages).failcnt, 0);
    let exceeds = "exec dd if=/dev/zero of=/dev/null bs=64M count=1 status=none";
    assert!(!rig.shell(exceeds).wait().success());
    let row = row(&rig.group(), UbcResource::Physpages);
    assert!(
        row.failcnt > 0 && row.maxheld <= megabytes(16) && row.maxheld > megabytes(8),
        "{row:?}"
    );
}

#[test]
fn cpulimit_throttles_compared_with_an_unlimited_loop() {
    need!(need::root(), need::disposable());
    let (limited, free) = (Rig::new(), Rig::new());
    limited.ensure(&Limits { cpu: Some(CpuLimit { millicpus: 50 }), ..Limits::default() });
    free.ensure(&Limits::default());
    let (a, b) = (limited.shell("while :; do :; done"), free.shell("while :; do :; done"));
    let used = |rig: &Rig| rig.group().cpu_usec;
    wait_until(Duration::from_secs(60), "the unlimited loop used half a second", || {
        used(&free) > 500_000
    });
    // One twentieth of a processor against what a busy machine leaves an unlimited one.
    let (held, whole) = (used(&limited), used(&free));
    assert!(held * 2 < whole, "limited {held} µs, unlimited {whole} µs");
    assert!(held > 0, "it runs all the same");
    drop((a, b));
}

#[test]
fn limits_change_under_a_running_process() {
    need!(need::root(), need::disposable(), v1());
    let rig = Rig::new();
    let mut limits = ubc(&[
        (UbcResource::Numproc, 20),
        (UbcResource::Physpages, 1 << 14),
        (UbcResource::Swappages, 1 << 10),
    ]);
    limits.cpu_units = Some(500);
    limits.cpu = Some(CpuLimit { millicpus: 1500 });
    rig.ensure(&limits);
    let witness = Witness::of(rig.ct());
    assert_eq!(witness.pids(), MaxValue::Value(20));
    assert_eq!(witness.memory(), (64 << 20, 68 << 20));
    assert_eq!(witness.cpu(), (512, 150_000));

    // Holds 24 MiB of shared memory.
    let path = format!("/dev/shm/ves-test-{}", rig.ct());
    let _undo = Undo::by("rm", &["-f", &path]);
    let hold = format!("dd if=/dev/zero of={path} bs=1M count=24 status=none; exec sleep 600");
    let mut inside = rig.shell(&hold);
    wait_until(PATIENCE, "the process holds its memory", || {
        row(&rig.group(), UbcResource::Shmpages).held == (24 << 8)
    });
    for (ram, swap) in [(1 << 15, 0), (1 << 13, 1 << 12), (1 << 14, 1 << 15), (1 << 13, 0)] {
        limits.ubc.insert(UbcResource::Physpages, both(ram));
        limits.ubc.insert(UbcResource::Swappages, both(swap));
        limits.ubc.insert(UbcResource::Numproc, both(ram / 1000));
        let group = rig.ensure(&limits);
        assert_eq!(group.limits, limits);
        let bytes = |pages: u64| i64::try_from(pages * 4096).expect("small");
        assert_eq!(witness.memory(), (bytes(ram), bytes(ram + swap)));
    }
    let before = witness.memory();
    limits.ubc.insert(UbcResource::Physpages, both(1 << 12));
    let refused = rig.service.ensure(&rig.fence(), &limits).expect_err("24 MiB do not fit in 16");
    assert_eq!(refused.reason, Reason::NeedsRestart, "{refused}");
    assert_eq!(witness.memory(), before, "nothing changed");
    assert!(inside.alive(), "nobody was killed");

    // Who takes more than there is: killed, and counted, also for those who only ask who was.
    assert_eq!(rig.group().oom_kills, Some(0));
    let mut greedy = rig.shell("exec tail /dev/zero");
    wait_until(PATIENCE, "the greedy one is killed", || !greedy.alive());
    let kills = rig.group().oom_kills.expect("this kernel tells");
    assert!(kills > 0);
    assert_eq!(rig.host.oom_kills().expect("read").get(&rig.ct()), Some(&kills));
    // The kernel names at most ten in five seconds, of the whole machine, and not to everybody.
    if KernelLog::open().is_ok() {
        wait_until(PATIENCE, "one is named", || {
            let mut greedy = rig.shell("exec tail /dev/zero");
            wait_until(PATIENCE, "it is killed", || !greedy.alive());
            rig.group().oom_victims.last() == Some(&Victim::new("tail", greedy.id()))
        });
    }

    limits = Limits { cpus: Some(1), ..Limits::default() };
    rig.ensure(&limits);
    let status = fs::read_to_string(format!("/proc/{}/status", inside.id())).expect("it runs");
    let allowed = status.lines().find_map(|l| l.strip_prefix("Cpus_allowed_list:"));
    let allowed = allowed.expect("a line of status").trim().to_owned();
    assert!(allowed.parse::<u32>().is_ok(), "one processor, not {allowed}");

    // A mask moves it to the processors it names, as far as they are there, and back.
    let of_status = |line: &str| {
        let status = fs::read_to_string(format!("/proc/{}/status", inside.id())).expect("it runs");
        let found = status.lines().find_map(|l| l.strip_prefix(line)).map(str::trim);
        found.expect("a line of status").to_owned()
    };
    for wanted in ["0", "0,8191"] {
        let (cpu_mask, node_mask) = (wanted.parse().ok(), "0".parse().ok());
        let group = rig.ensure(&Limits { cpu_mask, node_mask, ..Limits::default() });
        assert_eq!(of_status("Cpus_allowed_list:"), "0");
        assert_eq!(of_status("Mems_allowed_list:"), "0");
        assert_eq!(group.limits.cpu_mask.map(|m| m.to_string()), Some("0".to_owned()));
    }
    let cpu_mask = "8191".parse().ok();
    let wish = Limits { cpu_mask, ..Limits::default() };
    let refused = rig.service.ensure(&rig.fence(), &wish).expect_err("it is not there");
    assert_eq!((refused.reason, refused.facts["field"].as_str()), (Reason::BadValue, "cpu_mask"));
    rig.ensure(&Limits::default());
    let online = fs::read_to_string("/sys/fs/cgroup/cpuset/cpuset.effective_cpus");
    let online = online.expect("version 1 tells");
    assert_eq!(of_status("Cpus_allowed_list:"), online.trim());
    assert_eq!(witness.pids(), MaxValue::Max);
}

#[test]
fn disk_traffic_is_held_to_its_bounds_on_its_device_only() {
    need!(need::root(), need::disposable());
    let rig = Rig::new();
    let files = ["own", "other"].map(|name| rig.layout.dir().join(name));
    let [own, other] = files.map(|file| LoopFile::create(&file, 8 << 20));
    let number = |disk: &LoopFile| fs::metadata(disk.device()).expect("a device").rdev();
    let device = |disk: &LoopFile| Device {
        major: rustix::fs::major(number(disk)),
        minor: rustix::fs::minor(number(disk)),
    };
    let ensure = |limits: &Limits, disk: &LoopFile| {
        let group = rig.service.ensure_on(&rig.fence(), limits, Some(device(disk)));
        let group = group.expect("limits hold");
        assert_eq!((&group.limits, group.device), (limits, Some(device(disk))));
    };
    let dd = |words: String| {
        let begun = Instant::now();
        assert!(rig.shell(&format!("exec dd status=none {words}")).wait().success(), "{words}");
        begun.elapsed()
    };
    let read = |disk: &LoopFile| {
        let from = disk.device().display();
        dd(format!("if={from} of=/dev/null bs=256k count=8 iflag=direct"))
    };
    // 2 MiB at 1 MiB a second; what is free takes milliseconds, here and on a busy machine.
    let second = Duration::from_secs(1);
    let megabyte = Limits { io_bps: (1 << 20).try_into().ok(), ..Limits::default() };
    ensure(&megabyte, &own);
    let (bound, free) = (read(&own), read(&other));
    assert!(bound > second && free < bound, "bound {bound:?}, free {free:?}");
    // The volume has another device, and requests are bounded too, of writes as of reads.
    let few = Limits { io_iops: 20.try_into().ok(), ..Limits::default() };
    ensure(&few, &other);
    let free = read(&own);
    let to = other.device().display();
    let bound = dd(format!("if=/dev/zero of={to} bs=4k count=40 oflag=direct"));
    assert!(bound > second && free < bound, "bound {bound:?}, free {free:?}");
    // A service that begins anew knows the device.
    let group = start(&rig.layout).1.group(rig.ct()).expect("it is there");
    assert_eq!((&group.limits, group.device), (&few, Some(device(&other))));
    ensure(&Limits::default(), &other);
    let files = ["blkio.throttle.write_iops_device", "io.max"];
    let left = rig.dirs().into_iter().flat_map(|dir| files.map(|file| dir.join(file)));
    let left: Vec<_> = left.filter_map(|file| fs::read_to_string(file).ok()).collect();
    assert!(!left.is_empty() && left.iter().all(String::is_empty), "{left:?}");
}

#[test]
fn removal_waits_for_processes_and_leaves_nothing() {
    need!(need::root(), need::disposable());
    let rig = Rig::new();
    rig.ensure(&ubc(&[(UbcResource::Numproc, 20)]));
    let inside = rig.shell("exec sleep 600");
    wait_until(PATIENCE, "it joined", || rig.processes().contains(&inside.id()));
    let running = rig.service.remove(&rig.fence()).expect_err("a process is inside");
    assert_eq!(running.reason, Reason::Running);
    assert_eq!(rig.dirs().iter().filter(|d| d.is_dir()).count(), rig.dirs().len());
    drop(inside);
    // What the container left below its own group, locked against everybody.
    if let Some(v2) = &rig.host.hierarchies().v2 {
        let delegated = v2.mount.join(layout::cgroup(rig.ct())).join(CGROUP_DELEGATED);
        let deep = delegated.join("system.slice/deep");
        fs::create_dir_all(&deep).expect("made");
        let base = rig.id.slot().base();
        std::os::unix::fs::chown(&deep, Some(base), Some(base)).expect("given");
        set_mode(&deep, 0);
        set_mode(&delegated, 0);
    }
    rig.service.remove(&rig.fence()).expect("nobody is inside");
    rig.service.remove(&rig.fence()).expect("nothing to remove");
    assert!(rig.dirs().iter().all(|d| !d.exists()));
    assert!(!rig.observe().exists());
    let unknown = rig.service.group(rig.ct()).expect_err("gone");
    assert_eq!(unknown.reason, Reason::ContainerUnknown);
}

fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("changed");
}

#[test]
fn half_removed_groups_are_made_whole_or_removed() {
    need!(need::root(), need::disposable());
    let rig = Rig::new();
    let limits = ubc(&[(UbcResource::Numproc, 20)]);
    rig.ensure(&limits);
    for (n, dir) in rig.dirs().iter().enumerate() {
        if n % 2 == 0 {
            cgroup::remove(dir).expect("nobody is inside");
        }
    }
    assert_eq!(rig.ensure(&limits).limits, limits);
    for dir in rig.dirs().iter().skip(1) {
        cgroup::remove(dir).expect("nobody is inside");
    }
    rig.service.remove(&rig.fence()).expect("the rest goes");
    assert!(rig.dirs().iter().all(|d| !d.exists()));
}

#[test]
fn a_restart_reads_the_kernel_and_plans_nothing() {
    need!(need::root(), need::disposable());
    let mut rig = Rig::new();
    let mut limits = ubc(&[
        (UbcResource::Numproc, 20),
        (UbcResource::Physpages, 1 << 14),
        (UbcResource::Privvmpages, 1 << 15),
    ]);
    limits.cpus = Some(1);
    let before = rig.ensure(&limits);
    let mut inside = rig.shell("exec sleep 600");
    wait_until(PATIENCE, "it joined", || rig.processes().contains(&inside.id()));
    rig.restart();
    let observed = rig.observe();
    assert_eq!(plan(rig.ct(), Some(&limits), &observed), Ok(vec![]));
    assert_eq!(plan_shared(&rig.host.observe_shared().expect("observed")), vec![]);
    let after = rig.group();
    assert_eq!((after.limits.clone(), after.generation), (before.limits, before.generation));
    assert_eq!(row(&after, UbcResource::Privvmpages).value, both(1 << 15), "kept by the record");
    assert_eq!(row(&after, UbcResource::Numproc).held, 1);
    assert!(inside.alive());
    // A record that cannot be read is what was wanted, lost; what is in the kernel stays known.
    let record = rig.layout.layout().run_dir().join(format!("resources/{}.json", rig.ct()));
    fs::write(&record, b"{").expect("written");
    assert_eq!(rig.group().limits.limit(UbcResource::Numproc), Limit::Max(20));
    rig.ensure(&limits);
    assert_eq!(rig.group().limits, limits);
}

#[test]
fn what_is_used_is_counted() {
    need!(need::root(), need::disposable());
    let rig = Rig::new();
    rig.ensure(&Limits::default());
    let _inside = rig.shell("exec 3</dev/null 4</dev/null 5</dev/zero; sleep 600 & wait");
    wait_until(PATIENCE, "both run", || row(&rig.group(), UbcResource::Numproc).held == 2);
    let group = rig.group();
    let held = |r| row(&group, r).held;
    assert!(held(UbcResource::Numfile) >= 8, "{}", held(UbcResource::Numfile));
    assert!(held(UbcResource::Physpages) > 0);
    assert!(held(UbcResource::Kmemsize) > 0);
    assert_eq!(held(UbcResource::Numtcpsock), 0, "no network namespace of its own");
    assert!(group.cpu_usec > 0);
    assert_eq!(group.rows.len(), 21);
    let listed = rig.service.groups(&[]).expect("listed");
    assert!(listed.iter().any(|g| g.ct == rig.ct()));
    for row in group.rows {
        if let Enforcement::Unavailable(why) = row.enforcement {
            assert!(why.len() > 20, "{} says why: {why}", row.resource);
        }
    }
}

#[test]
fn all_containers_together_leave_the_node_its_reserve() {
    need!(need::root(), need::disposable());
    let rig = Rig::new();
    rig.ensure(&Limits::default());
    let caps = rig.host.observe_shared().expect("observed").caps;
    let reserve = ves_resources::model::Reserve::default();
    let number = |file: &str| {
        let text = fs::read_to_string(file).expect("readable");
        text.split_whitespace().find_map(|w| w.parse::<u64>().ok()).expect("a number")
    };
    let pids = number("/proc/sys/kernel/pid_max").min(number("/proc/sys/kernel/threads-max"));
    let ram = number("/proc/meminfo") * 1024;
    for (setting, total, kept) in
        [(Setting::PidsMax, pids, reserve.pids), (Setting::MemoryMax, ram, reserve.ram.0)]
    {
        let cap = caps[&setting];
        assert_eq!(cap.total, total);
        let left = total - cap.limit.max().expect("bounded");
        assert!(left >= kept.min(total / 2) && left < kept + 8192, "{setting:?}: {cap:?}");
    }
    // Each container counts against it, and what somebody changed is put right.
    let _inside = rig.shell("sleep 600 & wait");
    let dirs = rig.host.hierarchies().dirs(layout::CGROUP_ROOT);
    let group = dirs.iter().find(|d| d.join("pids.max").exists()).expect("bounded");
    let current = || fs::read_to_string(group.join("pids.current")).expect("readable");
    wait_until(PATIENCE, "both are counted", || current().trim() == "2");
    fs::write(group.join("pids.max"), "max").expect("written");
    rig.ensure(&Limits::default());
    assert_eq!(
        rig.host.observe_shared().expect("observed").caps[&Setting::PidsMax].limit,
        caps[&Setting::PidsMax].limit
    );
}

#[test]
fn the_self_test_proves_much_and_leaves_nothing() {
    need!(need::root(), need::disposable(), v1());
    let rig = Rig::new();
    rig.ensure(&Limits::default());
    let self_test = rig.host.self_test().expect("tested");
    for proven in [&self_test.pids, &self_test.memory, &self_test.quota, &self_test.cpuset] {
        assert!(proven.is_yes(), "{self_test:?}");
    }
    for dir in rig.host.hierarchies().dirs(layout::CGROUP_ROOT) {
        let own = format!("self-test-{}-", std::process::id());
        let mine = cgroup::children(&dir).expect("listed");
        let left = mine.iter().filter_map(|p| p.file_name()?.to_str()).any(|n| n.starts_with(&own));
        // Another test of this process may be in the middle of its own.
        if left {
            wait_until(PATIENCE, "self-tests are over", || {
                let now = cgroup::children(&dir).expect("listed");
                !now.iter().filter_map(|p| p.file_name()?.to_str()).any(|n| n.starts_with(&own))
            });
        }
    }
}

/// The differential law: kernel and fake agree after every call.
#[test]
fn kernel_and_fake_agree() {
    need!(need::root(), need::disposable());
    let rig = Rig::new();
    let node = {
        // The parent group must be there for the node to be seen whole.
        rig.ensure(&Limits::default());
        rig.observe().node
    };
    rig.service.remove(&rig.fence()).expect("removed");
    let fake = Arc::new(FakeHost::new(node));
    let fences = FenceStore::open(rig.layout.dir().join("fake")).expect("opened");
    let shell = Shell::new(layout::Daemon::Resources, fences, 16);
    let model = Service::new(Arc::clone(&fake) as Arc<dyn Host>, shell).expect("started");
    let model = Blocking(model);
    let mut whole = ubc(&[
        (UbcResource::Numproc, 100),
        (UbcResource::Physpages, 1 << 14),
        (UbcResource::Swappages, 1 << 12),
        (UbcResource::Tcpsndbuf, 1 << 20),
        (UbcResource::Tcprcvbuf, 1 << 20),
    ]);
    whole.cpu = Some(CpuLimit { millicpus: 10 });
    whole.cpus = Some(1);
    whole.cpu_units = Some(500_000);
    let mut barrier = Limits::default();
    let value = UbcValue { barrier: Limit::Max(100), limit: Limit::Max(4000) };
    barrier.ubc.insert(UbcResource::Physpages, value);
    barrier.cpu_units = Some(8);
    let odd = ubc(&[
        (UbcResource::Numproc, 4_194_305),
        (UbcResource::Tcpsndbuf, 1),
        (UbcResource::Tcprcvbuf, 4097),
        (UbcResource::Physpages, u64::MAX >> 1),
    ]);
    let none = ubc(&[(UbcResource::Numproc, 0), (UbcResource::Physpages, 0)]);
    for limits in [Limits::default(), whole.clone(), barrier, odd, none, whole] {
        let real = rig.ensure(&limits).limits;
        let modelled = model.ensure(&rig.fence(), &limits).expect("modelled").limits;
        assert_eq!(real, modelled);
        assert_eq!(steady(rig.observe()), steady(fake.observe(rig.ct()).expect("modelled")));
    }
    rig.service.remove(&rig.fence()).expect("removed");
    model.remove(&rig.fence()).expect("modelled");
    let (real, modelled) = (rig.observe(), fake.observe(rig.ct()).expect("modelled"));
    assert!(!real.exists() && !modelled.exists());
    assert_eq!(real.settings, modelled.settings);
}

/// Without what changes by itself.
fn steady(mut observed: Observed) -> Observed {
    observed.unreclaimable = 0;
    observed.node.swap_free = 0;
    observed
}

/// With just its capabilities the service can do all of it, and each of them is needed.
#[test]
fn the_capabilities_are_enough_and_all_needed() {
    need!(need::root(), need::disposable(), v1());
    let keep: caps::CapsHashSet = ves_resources::CAPABILITIES.iter().copied().collect();
    // Capabilities belong to threads.
    let with = |set: caps::CapsHashSet| {
        let rig = Rig::new();
        rig.ensure(&Limits::default());
        rig.service.remove(&rig.fence()).expect("removed");
        std::thread::scope(|scope| {
            let work = || {
                caps::set(None, caps::CapSet::Effective, &set).expect("dropped");
                let fault = |what: &'static str| move |f| format!("{what}: {f}");
                let (_, service) = start(&rig.layout);
                let limits = ubc(&[(UbcResource::Numproc, 20), (UbcResource::Physpages, 1 << 14)]);
                service.ensure(&rig.fence(), &limits).map_err(fault("ensure"))?;
                hide_payload(&rig);
                service.group(rig.ct()).map_err(fault("observe"))?;
                service.remove(&rig.fence()).map_err(fault("remove"))
            };
            scope
                .spawn(work)
                .join()
                .unwrap_or_else(|_| Err("the service does not start".to_owned()))
        })
    };
    assert_eq!(with(keep.clone()).map(drop), Ok(()));
    for cap in &keep {
        let mut fewer = keep.clone();
        fewer.remove(cap);
        let without = with(fewer);
        println!("without {cap}: {without:?}");
        assert!(without.is_err(), "{cap} is not needed");
    }
}

/// Locks the delegated group against everybody, as its owner may.
fn hide_payload(rig: &Rig) {
    let Some(v2) = &rig.host.hierarchies().v2 else { return };
    let delegated = v2.mount.join(layout::cgroup(rig.ct())).join(CGROUP_DELEGATED);
    // A new process has all of root's capabilities; this thread has few.
    let status = Command::new("/bin/chmod").arg("000").arg(&delegated).status().expect("started");
    assert!(status.success());
}

#[test]
fn a_group_is_frozen_thawed_and_killed_as_a_whole() {
    need!(need::root(), need::disposable());
    let rig = Rig::new();
    rig.ensure(&Limits::default());
    let group = layout::cgroup(rig.ct());
    let _inside = rig.shell("sleep 600 & exec sleep 600");
    wait_until(PATIENCE, "both run", || row(&rig.group(), UbcResource::Numproc).held == 2);
    let freezer = rig.host.hierarchies().freezer(&group).expect("there is a freezer");
    let frozen = || {
        let text = cgroup::read(&freezer.state).expect("read");
        text.lines().any(|line| line == freezer.frozen)
    };
    cgroup::write(&freezer.file, freezer.freeze).expect("written");
    wait_until(PATIENCE, "all are frozen", frozen);
    cgroup::write(&freezer.file, freezer.thaw).expect("written");
    wait_until(PATIENCE, "all go on", || !frozen());
    if let Some(file) = rig.host.hierarchies().kill_file(&group) {
        cgroup::write(&file, "1").expect("written");
        wait_until(PATIENCE, "all are gone", || rig.processes().is_empty());
        // The last of them may still be on its way out; that is waited for.
        rig.service.remove(&rig.fence()).expect("removed");
    }
}

/// Root of a container may make one in its own part, and must not blind the node by it.
#[test]
fn a_threaded_group_hides_no_process() {
    need!(need::root());
    let (id, dir) = (TestId::take(), TestLayout::new());
    let v2 = MountGuard::mount(&["-t", "cgroup2", "none"], dir.layout().run_dir());
    let domain = v2.point().join(format!("ves-threads-{}", id.ct()));
    let threads = domain.join("threads");
    fs::create_dir_all(&threads).expect("groups");
    let path = |group: &Path| group.to_str().expect("text").to_owned();
    let _undo = Undo::by("rmdir", &[&path(&threads), &path(&domain)]);
    let mut command = Command::new("sleep");
    command.arg("600");
    let sleeper = Proc::spawn(command);
    cgroup::write(&domain.join("cgroup.procs"), &sleeper.id().to_string()).expect("moved");
    cgroup::write(&threads.join("cgroup.type"), "threaded").expect("made a threaded group");
    cgroup::write(&threads.join("cgroup.threads"), &sleeper.id().to_string()).expect("moved");
    assert_eq!(cgroup::processes(&domain).expect("readable"), [sleeper.id()]);
}

#[test]
fn the_witness_finds_the_same_hierarchies() {
    need!(need::root(), v1());
    let ours = Hierarchies::detect().expect("control groups");
    let theirs = V1::new();
    use cgroups_rs::fs::Controllers as C;
    for (controller, name) in [
        (Controller::Memory, C::Mem),
        (Controller::Pids, C::Pids),
        (Controller::Cpu, C::Cpu),
        (Controller::Cpuset, C::CpuSet),
    ] {
        let mount = theirs.get_mount_point(name).map(|(point, _)| point);
        assert_eq!(ours.v1_with(controller).map(|h| h.mount.clone()), mount);
    }
}
