//! A node in memory, with a kernel's rules and faults on demand, for tests without root.
//!
//! Owns the rules a plan must respect (memory with swap is never below memory, a group with
//! processes does not go, a setting needs its group). Never used by a daemon.

pub mod blocking;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use rustix::io::Errno;
use ves_host::HostError;
use ves_host::cgroup::{Controller, Version};
use ves_types::{CtId, Limit, Limits, UbcResource, Victim};

use crate::counters::{Counters, Disk, Metered, Pressure};
use crate::enforcement::{Proven, SelfTest};
use crate::host::Host;
use crate::model::{Cap, Cpusets, Hierarchy, Home, Node, Observed, Setting, Shared, Value};
use crate::observe::FileLocks;
use crate::plan::{SharedStep, Step};
use crate::rows::{Count, Usage};

/// A machine whose controllers are in version 1, beside a version 2 hierarchy without any.
pub fn node_hybrid() -> Node {
    let mut node = node_v1();
    node.version = Version::Hybrid;
    node.hierarchies.insert(Hierarchy::V2);
    let nesting = [Setting::MaxDepth, Setting::MaxDescendants];
    node.settings.extend(nesting.map(|s| (s, Home::V2)));
    node
}

/// A machine with version 1 only.
pub fn node_v1() -> Node {
    let settings = Setting::ALL
        .into_iter()
        .filter(|s| s.file(Home::V1).is_some())
        .map(|s| (s, Home::V1))
        .collect();
    Node {
        version: Version::V1,
        hierarchies: Controller::ALL.into_iter().map(Hierarchy::V1).collect(),
        settings,
        controllers: BTreeSet::new(),
        cpus: (0..4).collect(),
        mems: [0].into(),
        swap_free: 0,
    }
}

/// A machine with version 2 only.
pub fn node_v2() -> Node {
    let settings = Setting::ALL
        .into_iter()
        .filter(|s| s.file(Home::V2).is_some())
        .map(|s| (s, Home::V2))
        .collect();
    Node {
        version: Version::V2,
        hierarchies: [Hierarchy::V2].into(),
        settings,
        controllers: Controller::ALL.into_iter().filter(|c| c.v2_name().is_some()).collect(),
        cpus: (0..4).collect(),
        mems: [0].into(),
        swap_free: 0,
    }
}

/// The parent group of a node before anything was made.
pub fn shared_fresh(node: &Node) -> Shared {
    let v1_cpuset = node.settings.get(&Setting::Cpus) == Some(&Home::V1);
    Shared {
        hierarchies: node.hierarchies.clone(),
        made: BTreeSet::new(),
        controllers: node.controllers.clone(),
        root_hands_on: BTreeSet::new(),
        hands_on: BTreeSet::new(),
        cpuset: v1_cpuset.then(|| Cpusets {
            root_cpus: node.cpus.clone(),
            root_mems: node.mems.clone(),
            cpus: BTreeSet::new(),
            mems: BTreeSet::new(),
        }),
        caps: [(Setting::PidsMax, 1 << 15, 1 << 12), (Setting::MemoryMax, 1 << 33, 1 << 29)]
            .into_iter()
            .filter_map(|(setting, total, reserve)| {
                let home = *node.settings.get(&setting)?;
                let limit = Limit::Unlimited;
                Some((setting, Cap { home, total, reserve, used: 0, limit }))
            })
            .collect(),
    }
}

/// Nothing of a container on a node.
pub fn nothing(node: &Node) -> Observed {
    Observed {
        node: node.clone(),
        made: BTreeSet::new(),
        delegated: false,
        hands_on: BTreeSet::new(),
        settings: BTreeMap::new(),
        populated: false,
        unreclaimable: 0,
        device: None,
        recorded_device: None,
        record: None,
    }
}

fn refused(what: &str, errno: Errno) -> HostError {
    HostError::Sys { what: what.to_owned(), source: errno.into() }
}

/// What a kernel does with the parent group.
pub fn perform_shared(shared: &mut Shared, step: &SharedStep) -> Result<(), HostError> {
    match step {
        SharedStep::Make(h) => {
            shared.made.insert(*h);
        }
        SharedStep::EnableInRoot(c) => shared.root_hands_on.extend(c.iter().copied()),
        SharedStep::EnableControllers(c) => {
            if !shared.made.contains(&Hierarchy::V2) || !c.is_subset(&shared.root_hands_on) {
                return Err(refused(&step.to_string(), Errno::NOENT));
            }
            shared.hands_on.extend(c.iter().copied());
        }
        SharedStep::Mems(set) | SharedStep::Cpus(set) => {
            let cpuset = shared.made.contains(&Hierarchy::V1(Controller::Cpuset));
            let Some(sets) = shared.cpuset.as_mut().filter(|_| cpuset) else {
                return Err(refused(&step.to_string(), Errno::NOENT));
            };
            match step {
                SharedStep::Mems(_) => sets.mems.clone_from(set),
                _ => sets.cpus.clone_from(set),
            }
        }
        SharedStep::Cap { setting, home, most } => {
            let made = shared.made.iter().any(|h| at(*setting, *home, *h));
            let on = *home == Home::V1
                || setting.controller().is_some_and(|c| shared.root_hands_on.contains(&c));
            let Some(cap) = shared.caps.get_mut(setting).filter(|_| made && on) else {
                return Err(refused(&step.to_string(), Errno::NOENT));
            };
            if *setting == Setting::MemoryMax && cap.used > *most {
                return Err(refused(&step.to_string(), Errno::BUSY));
            }
            cap.limit = Limit::Max(*most);
        }
    }
    Ok(())
}

/// What a kernel does with a container's groups.
pub fn perform(observed: &mut Observed, step: &Step) -> Result<(), HostError> {
    let fail = |errno| Err(refused(&step.to_string(), errno));
    let unified = observed.made.contains(&Hierarchy::V2);
    match step {
        Step::Make(h) => {
            if observed.made.insert(*h) {
                let node = &observed.node;
                let settings = node.settings.iter().filter(|(s, home)| at(**s, **home, *h));
                observed.settings.extend(settings.map(|(s, home)| (*s, s.fresh(*home))));
            }
        }
        Step::EnableControllers(c) => {
            if !unified {
                return fail(Errno::NOENT);
            }
            observed.hands_on.extend(c.iter().copied());
        }
        Step::MakeDelegated => {
            if !unified {
                return fail(Errno::NOENT);
            }
            observed.delegated = true;
        }
        Step::Set { setting, value, .. } => {
            let level = |s| observed.settings.get(&s).cloned();
            let (memory, both) = match setting {
                Setting::MemoryMax => (Some(value.clone()), level(Setting::MemswMax)),
                Setting::MemswMax => (level(Setting::MemoryMax), Some(value.clone())),
                _ => (None, None),
            };
            if both.is_some_and(|both| memory.is_some_and(|memory| memory > both)) {
                return fail(Errno::INVAL);
            }
            if let (Setting::Cpus | Setting::Mems, Value::Set(set)) = (setting, value)
                && set.is_empty()
                && observed.populated
            {
                return fail(Errno::NOSPC);
            }
            let Some(slot) = observed.settings.get_mut(setting) else { return fail(Errno::NOENT) };
            slot.clone_from(value);
        }
        Step::Record(limits, device) => {
            observed.record = Some(Limits::clone(limits));
            (observed.device, observed.recorded_device) = (*device, *device);
        }
        Step::RemoveDelegated => {
            if observed.populated {
                return fail(Errno::BUSY);
            }
            observed.delegated = false;
        }
        Step::Remove(h) => {
            if observed.populated || (*h == Hierarchy::V2 && observed.delegated) {
                return fail(Errno::BUSY);
            }
            observed.made.remove(h);
            let homes = &observed.node.settings;
            observed.settings.retain(|s, _| homes.get(s).is_none_or(|home| !at(*s, *home, *h)));
            if *h == Hierarchy::V2 {
                observed.hands_on.clear();
            }
        }
        Step::Forget => {
            (observed.record, observed.device, observed.recorded_device) = (None, None, None);
        }
    }
    Ok(())
}

/// Whether a setting is kept in this hierarchy of a machine with controllers mounted one by one.
fn at(setting: Setting, home: Home, hierarchy: Hierarchy) -> bool {
    match home {
        Home::V1 => setting.controller().is_some_and(|c| hierarchy == Hierarchy::V1(c)),
        Home::V2 => hierarchy == Hierarchy::V2,
    }
}

/// Each counter of a kernel that tells all, each with another number.
pub fn all_counters() -> Counters {
    let pressure = |some_usec| Some(Pressure { some_usec, full_usec: Some(some_usec / 2) });
    Counters {
        cpu: Some((3_000_000, 1_500_000)),
        throttled_usec: Some(250_000),
        memory: Some(64 << 20),
        working_set: Some(48 << 20),
        disk: Some(Disk { read_bytes: 4 << 20, write_bytes: 1 << 20, reads: 90, writes: 40 }),
        cpu_pressure: pressure(120_000),
        memory_pressure: pressure(60_000),
        io_pressure: pressure(30_000),
    }
}

/// How a fault happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The step fails and has no effect.
    Before,
    /// The step takes effect, and the caller hears that it failed; as when it is killed meanwhile.
    After,
}

#[derive(Debug)]
struct State {
    node: Node,
    shared: Shared,
    containers: BTreeMap<CtId, Observed>,
    usage: BTreeMap<CtId, Usage>,
    counters: BTreeMap<CtId, Counters>,
    /// How many groups were made, and which of them a container has.
    lives: u64,
    life: BTreeMap<CtId, u64>,
    log: Vec<String>,
    /// After how many more steps which fault happens, once.
    fault: Option<(usize, Fault)>,
    /// How often the node's file locks were read.
    locks_read: usize,
    /// Containers whose use cannot be read.
    dark: BTreeSet<CtId>,
    victims: Vec<(CtId, Victim)>,
    self_test: SelfTest,
    /// Whether the limit of processes is said to be set and is not: a bug that tests have to find.
    loses_limit: bool,
}

/// A node in memory.
#[derive(Debug)]
pub struct FakeHost {
    state: Mutex<State>,
}

impl Default for FakeHost {
    fn default() -> Self {
        Self::new(node_hybrid())
    }
}

impl FakeHost {
    /// A node without containers.
    pub fn new(node: Node) -> Self {
        let state = State {
            shared: shared_fresh(&node),
            node,
            containers: BTreeMap::new(),
            usage: BTreeMap::new(),
            counters: BTreeMap::new(),
            lives: 0,
            life: BTreeMap::new(),
            log: Vec::new(),
            fault: None,
            locks_read: 0,
            dark: BTreeSet::new(),
            victims: Vec::new(),
            self_test: SelfTest::all(),
            loses_limit: false,
        };
        Self { state: Mutex::new(state) }
    }

    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Lets `skip` more steps succeed, then one fail.
    pub fn fail(&self, skip: usize, fault: Fault) {
        self.with(|s| s.fault = Some((skip, fault)));
    }

    /// Takes back [`Self::fail`], if it did not happen yet.
    pub fn heal(&self) {
        self.with(|s| s.fault = None);
    }

    /// Says whether there are processes in a container's groups.
    pub fn populate(&self, ct: CtId, populated: bool) {
        self.with(|s| {
            let node = s.node.clone();
            s.containers.entry(ct).or_insert_with(|| nothing(&node)).populated = populated;
        });
    }

    /// Says what a container uses.
    pub fn set_usage(&self, ct: CtId, usage: Usage) {
        self.with(|s| s.usage.insert(ct, usage));
    }

    /// Says what a container's counters say.
    pub fn set_counters(&self, ct: CtId, counters: Counters) {
        self.with(|s| s.counters.insert(ct, counters));
    }

    /// The node has booted: groups are numbered anew.
    pub fn number_anew(&self) {
        self.with(|s| {
            s.lives = 0;
            s.life.clear();
            s.counters.clear();
        });
    }

    /// Says whom the kernel's log names next.
    pub fn name_victim(&self, ct: CtId, victim: Victim) {
        self.with(|s| s.victims.push((ct, victim)));
    }

    /// Makes what a container uses unreadable.
    pub fn darken(&self, ct: CtId) {
        self.with(|s| s.dark.insert(ct));
    }

    /// Says what the self-test proves.
    pub fn set_self_test(&self, self_test: SelfTest) {
        self.with(|s| s.self_test = self_test);
    }

    /// From now on the limit of processes is said to be set and is not: a bug that tests have to find.
    pub fn lose_processes_limit(&self) {
        self.with(|s| s.loses_limit = true);
    }

    /// Changes a container behind the service's back, as another program could.
    pub fn meddle(&self, ct: CtId, f: impl FnOnce(&mut Observed)) {
        self.with(|s| {
            let node = s.node.clone();
            f(s.containers.entry(ct).or_insert_with(|| nothing(&node)));
        });
    }

    /// Every step so far, as it reads.
    pub fn log(&self) -> Vec<String> {
        self.with(|s| s.log.clone())
    }

    /// How often the file locks of the whole node were read.
    pub fn locks_read(&self) -> usize {
        self.with(|s| s.locks_read)
    }

    /// Whether nothing of any container is left.
    pub fn is_clean(&self) -> bool {
        self.with(|s| s.containers.values().all(|o| !o.exists()))
    }
}

impl State {
    fn inject(
        &mut self,
        what: &str,
        act: impl FnOnce(&mut Self) -> Result<(), HostError>,
    ) -> Result<(), HostError> {
        match &mut self.fault {
            Some((0, fault)) => {
                let fault = *fault;
                self.fault = None;
                if fault == Fault::After {
                    act(self)?;
                    self.log.push(what.to_owned());
                }
                return Err(refused(what, Errno::IO));
            }
            Some((left, _)) => *left -= 1,
            None => {}
        }
        act(self)?;
        self.log.push(what.to_owned());
        Ok(())
    }
}

impl Host for FakeHost {
    fn observe_shared(&self) -> Result<Shared, HostError> {
        Ok(self.with(|s| s.shared.clone()))
    }

    fn apply_shared(&self, step: &SharedStep) -> Result<(), HostError> {
        self.with(|s| s.inject(&step.to_string(), |s| perform_shared(&mut s.shared, step)))
    }

    fn release_shared(&self) -> Result<(), HostError> {
        self.with(|s| {
            if s.containers.values().all(|o| o.made.is_empty()) {
                s.shared = shared_fresh(&s.node);
            }
        });
        Ok(())
    }

    fn observe(&self, ct: CtId) -> Result<Observed, HostError> {
        Ok(self.with(|s| s.containers.get(&ct).cloned().unwrap_or_else(|| nothing(&s.node))))
    }

    fn apply(&self, ct: CtId, step: &Step) -> Result<(), HostError> {
        self.with(|s| {
            s.inject(&step.to_string(), |s| {
                if let Step::Make(h) = step
                    && !s.shared.made.contains(h)
                {
                    return Err(refused(&step.to_string(), Errno::NOENT));
                }
                if s.loses_limit && matches!(step, Step::Set { setting: Setting::PidsMax, .. }) {
                    return Ok(());
                }
                let node = s.node.clone();
                if matches!(step, Step::Make(_))
                    && s.containers.get(&ct).is_none_or(|o| o.made.is_empty())
                {
                    s.lives += 1;
                    s.life.insert(ct, s.lives);
                    s.counters.remove(&ct);
                }
                perform(s.containers.entry(ct).or_insert_with(|| nothing(&node)), step)
            })
        })
    }

    fn containers(&self) -> Result<Vec<CtId>, HostError> {
        Ok(self
            .with(|s| s.containers.iter().filter(|(_, o)| o.exists()).map(|(ct, _)| *ct).collect()))
    }

    fn locks(&self) -> Result<Option<FileLocks>, HostError> {
        self.with(|s| s.locks_read += 1);
        Ok(Some(FileLocks::new()))
    }

    fn usage(&self, ct: CtId, _: Option<&FileLocks>) -> Result<Usage, HostError> {
        if self.with(|s| s.dark.contains(&ct)) {
            return Err(refused("read what it uses", Errno::IO));
        }
        Ok(self.with(|s| {
            s.usage.get(&ct).cloned().unwrap_or_else(|| {
                let mut counts: BTreeMap<_, _> =
                    UbcResource::ALL.into_iter().map(|r| (r, Count::default())).collect();
                let populated = s.containers.get(&ct).is_some_and(|o| o.populated);
                counts.insert(UbcResource::Numproc, Count::now(populated.into()));
                Usage { counts, ..Usage::default() }
            })
        }))
    }

    fn metered(&self, ct: CtId) -> Result<Metered, HostError> {
        let usage = self.usage(ct, None)?;
        Ok(self.with(|s| Metered {
            wanted: s.containers.get(&ct).and_then(|o| o.record.clone()),
            usage,
            counters: s.counters.get(&ct).cloned().unwrap_or_else(all_counters),
            life: s.life.get(&ct).copied(),
        }))
    }

    fn oom_kills(&self) -> Result<BTreeMap<CtId, u64>, HostError> {
        let kills = |(ct, usage): (&CtId, &Usage)| Some((*ct, usage.oom_kills?));
        Ok(self.with(|s| s.usage.iter().filter_map(kills).collect()))
    }

    fn victims(&self) -> Result<Vec<(CtId, Victim)>, HostError> {
        Ok(self.with(|s| std::mem::take(&mut s.victims)))
    }

    fn shares_disks(&self) -> Result<bool, HostError> {
        Ok(false)
    }

    fn self_test(&self) -> Result<SelfTest, HostError> {
        Ok(self.with(|s| s.self_test.clone()))
    }
}

impl SelfTest {
    /// Everything was proven.
    pub fn all() -> Self {
        Self {
            pids: Proven::Yes,
            memory: Proven::Yes,
            swap: Proven::Yes,
            tcp: Proven::Yes,
            quota: Proven::Yes,
            cpuset: Proven::Yes,
            counted: UbcResource::ALL
                .into_iter()
                .filter(|r| crate::enforcement::countable(*r))
                .map(|r| (r, Proven::Yes))
                .collect(),
        }
    }
}
