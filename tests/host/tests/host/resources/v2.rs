//! The version 2 half of the resources service, on a directory that plays a kernel: a tree of plain
//! files in the format of Debian 13's kernel, brought to what a kernel makes of each write.
//!
//! What it proves: the right files get the right texts in an order a kernel accepts, and are
//! understood when read back. What it cannot prove is that limits bite; `tests/lab` does.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ves_host::cgroup::{Controller, Hierarchies, parse_v2_controllers};
use ves_kit::{TestLayout, need};
use ves_resources::host::Host;
use ves_resources::kernel::KernelHost;
use ves_resources::model::{Hierarchy, Setting, Value};
use ves_resources::plan::{Step, plan, plan_shared};
use ves_types::{CpuLimit, CtId, Limit, Limits, UbcResource, UbcValue};

/// A file of a new group: its name, its contents, and the controller that brings it.
const FILES: [(&str, &str, Option<Controller>); 23] = [
    ("cgroup.procs", "", None),
    ("cgroup.threads", "", None),
    ("cgroup.subtree_control", "", None),
    ("cgroup.events", "populated 0\nfrozen 0\n", None),
    ("cgroup.max.depth", "max\n", None),
    ("cgroup.max.descendants", "max\n", None),
    ("cpu.stat", include_str!("../../../../../crates/ves-resources/fixtures/v2/cpu.stat"), None),
    ("memory.max", "max\n", Some(Controller::Memory)),
    ("memory.high", "max\n", Some(Controller::Memory)),
    ("memory.swap.max", "max\n", Some(Controller::Memory)),
    (
        "memory.stat",
        include_str!("../../../../../crates/ves-resources/fixtures/v2/memory.stat"),
        Some(Controller::Memory),
    ),
    ("memory.current", "36188160\n", Some(Controller::Memory)),
    ("memory.peak", "40001536\n", Some(Controller::Memory)),
    (
        "memory.events",
        include_str!("../../../../../crates/ves-resources/fixtures/v2/memory.events"),
        Some(Controller::Memory),
    ),
    ("memory.swap.current", "8192\n", Some(Controller::Memory)),
    ("pids.max", "max\n", Some(Controller::Pids)),
    ("pids.current", "17\n", Some(Controller::Pids)),
    ("pids.events", "max 3\n", Some(Controller::Pids)),
    ("cpu.max", "max 100000\n", Some(Controller::Cpu)),
    ("cpu.weight", "100\n", Some(Controller::Cpu)),
    ("cpuset.cpus", "\n", Some(Controller::Cpuset)),
    ("cpuset.mems", "\n", Some(Controller::Cpuset)),
    ("cpuset.cpus.effective", "0-3\n", Some(Controller::Cpuset)),
];

const CONTROLLERS: &str = "cpuset cpu io memory hugetlb pids rdma misc dmem\n";

/// A directory that plays a version 2 hierarchy.
struct Machine {
    dir: TestLayout,
    root: PathBuf,
    host: KernelHost,
}

impl Machine {
    fn new() -> Self {
        let dir = TestLayout::new();
        let root = dir.dir().join("cgroup");
        fs::create_dir(&root).expect("made");
        fs::write(root.join("cgroup.controllers"), CONTROLLERS).expect("written");
        fs::write(root.join("cgroup.subtree_control"), "memory pids\n").expect("written");
        fs::write(root.join("cpuset.cpus.effective"), "0-3\n").expect("written");
        fs::write(root.join("cpuset.mems.effective"), "0\n").expect("written");
        let proc = dir.dir().join("proc");
        fs::create_dir_all(proc.join("self/fd")).expect("made");
        let meminfo = "MemTotal:       4194304 kB\nSwapFree:          2048 kB\n";
        fs::write(proc.join("meminfo"), meminfo).expect("written");
        fs::create_dir_all(proc.join("sys/kernel")).expect("made");
        fs::write(proc.join("sys/kernel/pid_max"), "32768\n").expect("written");
        fs::write(proc.join("sys/kernel/threads-max"), "50000\n").expect("written");
        fs::write(proc.join("locks"), "").expect("written");
        let host = KernelHost::new(
            Hierarchies::unified(&root, parse_v2_controllers(CONTROLLERS)),
            dir.layout().run_dir().join("resources"),
            proc,
            Duration::from_secs(1),
        );
        Self { dir, root, host }
    }

    fn group(&self) -> PathBuf {
        self.root.join("ves/ct-101")
    }

    fn text(&self, file: &str) -> String {
        fs::read_to_string(self.group().join(file)).expect("there").trim().to_owned()
    }

    /// Does what a kernel does behind a write: new groups have files, handing on is remembered.
    fn settle(&self) {
        settle(&self.root, true);
    }

    fn reach(&self, desired: &Limits) -> Vec<String> {
        for step in plan_shared(&self.host.observe_shared().expect("observed")) {
            self.host.apply_shared(&step).expect("applied");
            self.settle();
        }
        let observed = self.host.observe(ct()).expect("observed");
        let steps = plan(ct(), Some(desired), &observed).expect("planned");
        for step in &steps {
            self.host.apply(ct(), step).expect("applied");
            self.settle();
        }
        steps.iter().map(ToString::to_string).collect()
    }
}

fn settle(dir: &Path, root: bool) {
    let control = dir.join("cgroup.subtree_control");
    if let Ok(text) = fs::read_to_string(&control) {
        let (mut on, mut now) = (BTreeSet::new(), BTreeSet::new());
        for word in text.split_ascii_whitespace() {
            match word.strip_prefix('+') {
                Some(name) => now.insert(name.to_owned()),
                None => on.insert(word.to_owned()),
            };
        }
        on.extend(now);
        let words: Vec<_> = on.into_iter().collect();
        fs::write(&control, words.join(" ") + "\n").expect("written");
    }
    let parent = dir.parent().expect("below the root").join("cgroup.subtree_control");
    let brings = parse_v2_controllers(&fs::read_to_string(parent).unwrap_or_default());
    for (name, contents, controller) in FILES.iter().filter(|_| !root) {
        let file = dir.join(name);
        if controller.is_none_or(|c| brings.contains(&c)) && !file.exists() {
            fs::write(&file, contents).expect("written");
        }
    }
    for entry in fs::read_dir(dir).expect("listed") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            settle(&path, false);
        }
    }
}

fn ct() -> CtId {
    CtId::try_from(101).expect("valid")
}

fn desired() -> Limits {
    let value = |b, l| UbcValue { barrier: Limit::Max(b), limit: Limit::Max(l) };
    Limits {
        ubc: [
            (UbcResource::Physpages, value(8192, 16384)),
            (UbcResource::Swappages, value(0, 1024)),
            (UbcResource::Numproc, value(512, 512)),
        ]
        .into(),
        cpu: Some(CpuLimit { millicpus: 1500 }),
        cpus: Some(2),
        cpu_units: Some(2000),
        ..Limits::default()
    }
}

#[test]
fn limits_are_written_as_version_2_has_them() {
    need!(need::root());
    let machine = Machine::new();
    machine.reach(&desired());
    assert_eq!(machine.text("memory.max"), "67108864");
    assert_eq!(machine.text("memory.high"), "33554432");
    assert_eq!(machine.text("memory.swap.max"), "4194304");
    assert_eq!(machine.text("pids.max"), "512");
    assert_eq!(machine.text("cpu.max"), "150000 100000");
    assert_eq!(machine.text("cpu.weight"), "200");
    assert_eq!(machine.text("cpuset.cpus"), "2-3");
    assert_eq!(machine.text("cgroup.subtree_control"), "cpu cpuset io memory pids");
    assert!(machine.group().join("payload/memory.max").exists(), "enabled");
    let bounds = ["cgroup.max.depth", "cgroup.max.descendants"].map(|f| machine.text(f));
    assert_eq!(bounds, ["32", "4096"], "of the group that is not delegated");
}

#[test]
fn all_containers_together_are_bounded() {
    need!(need::root());
    let machine = Machine::new();
    machine.reach(&desired());
    let text = |file: &str| fs::read_to_string(machine.root.join("ves").join(file)).expect("there");
    assert_eq!(text("memory.max").trim(), ((4_u64 << 30) - (512 << 20)).to_string());
    assert_eq!(text("pids.max").trim(), (32_768 - 4096).to_string());
    // More is in use than the bound, which would kill: it is left as it is.
    fs::write(machine.root.join("ves/memory.max"), "max\n").expect("written");
    fs::write(machine.root.join("ves/memory.stat"), "anon 4294967296\n").expect("written");
    machine.reach(&desired());
    assert_eq!(text("memory.max").trim(), "max");
}

#[test]
fn what_was_written_is_read_back_and_needs_nothing() {
    need!(need::root());
    let machine = Machine::new();
    machine.reach(&desired());
    assert_eq!(machine.reach(&desired()), Vec::<String>::new());
    let observed = machine.host.observe(ct()).expect("observed");
    assert_eq!(observed.made, [Hierarchy::V2].into());
    assert_eq!(observed.record, Some(desired()));
    assert_eq!(observed.node.swap_free, 2 << 20);
    assert!(!observed.populated);
    let cpus = Value::Set([2, 3].into());
    assert_eq!(observed.settings.get(&Setting::Cpus), Some(&cpus));
    assert_eq!(observed.settings.get(&Setting::MemswMax), None);
}

#[test]
fn a_change_writes_what_changed() {
    need!(need::root());
    let machine = Machine::new();
    machine.reach(&desired());
    let mut less = desired();
    less.cpus = None;
    less.cpu = None;
    less.ubc.remove(&UbcResource::Numproc);
    assert_eq!(
        machine.reach(&less),
        [
            "set pids.max to unlimited",
            "set cpuset.cpus to the parent's",
            "set cpu.max to unlimited of 100000",
            "keep the limits that were reached",
        ]
    );
    assert_eq!(machine.text("pids.max"), "max");
    assert_eq!(machine.text("cpuset.cpus"), "");
    assert_eq!(machine.text("cpu.max"), "max 100000");
}

#[test]
fn usage_is_read_as_version_2_tells_it() {
    need!(need::root());
    let machine = Machine::new();
    machine.reach(&desired());
    let locks = machine.host.locks().expect("read");
    let usage = machine.host.usage(ct(), locks.as_ref()).expect("read");
    let count = |r| usage.counts.get(&r).copied().unwrap_or_default();
    assert_eq!(usage.cpu_usec, 812_345);
    let physpages = count(UbcResource::Physpages);
    assert_eq!((physpages.held, physpages.maxheld, physpages.failcnt), (8835, 9766, 7));
    assert_eq!(count(UbcResource::Numproc).failcnt, 3);
    assert_eq!(count(UbcResource::Dcachesize).held, 1_986_816);
    assert_eq!(count(UbcResource::Swappages).held, 2);
}

#[test]
fn populated_groups_stay_and_others_go() {
    need!(need::root());
    let machine = Machine::new();
    machine.reach(&desired());
    let events = machine.group().join("cgroup.events");
    fs::write(&events, "populated 1\nfrozen 0\n").expect("written");
    let observed = machine.host.observe(ct()).expect("observed");
    assert!(observed.populated && plan(ct(), None, &observed).is_err());
    fs::write(&events, "populated 0\nfrozen 0\n").expect("written");
    let observed = machine.host.observe(ct()).expect("observed");
    let steps = plan(ct(), None, &observed).expect("nobody is inside");
    let expected = [Step::RemoveDelegated, Step::Remove(Hierarchy::V2), Step::Forget];
    assert_eq!(steps, expected);
    // Plain directories go only when their files do; a kernel's go with them.
    empty(&machine.group());
    for step in &steps {
        machine.host.apply(ct(), step).expect("applied");
    }
    assert!(!machine.group().exists());
    assert!(!machine.host.observe(ct()).expect("observed").exists());
    assert_eq!(machine.host.containers().expect("listed"), []);
    assert_eq!(
        machine.dir.layout().run_dir().join("resources").read_dir().expect("read").count(),
        0
    );
}

fn empty(dir: &Path) {
    for entry in fs::read_dir(dir).expect("listed") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            empty(&path);
        } else {
            fs::remove_file(&path).expect("removed");
        }
    }
}
