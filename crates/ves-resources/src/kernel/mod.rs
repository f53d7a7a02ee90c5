//! The real node: control groups as files. What limits a group is written by cgroups-rs
//! (`limits`); which hierarchies there are, groups themselves and what is read are ours.
//!
//! Never here: decisions. Each step is one or a few writes.

mod limits;
mod metered;
mod selftest;
mod usage;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ves_host::cgroup::{self, Controller, Hierarchies};
use ves_host::kmsg::KernelLog;
use ves_host::{Attempt, HostError, file};
use ves_types::layout::{self, CGROUP_DELEGATED, CGROUP_ROOT};
use ves_types::{CtId, Limit, Limits, Victim};

use crate::counters::Metered;
use crate::enforcement::SelfTest;
use crate::host::Host;
use crate::model::{
    self, Cap, Cpusets, Device, Hierarchy, Home, Node, Observed, Reserve, Setting, Shared, Value,
};
use crate::observe::{self, FileLocks, Files};
use crate::plan::{SharedStep, Step};
use crate::rows::Usage;
use crate::victims::parse_victim;

/// The most of the kernel's log that one look reads.
const RECORDS: usize = 10_000;
/// The largest record we wrote.
const RECORD: u64 = 64 << 10;

/// The containers that have a group in this one.
fn containers_in(dir: &Path) -> Result<Vec<CtId>, HostError> {
    let names = cgroup::children(dir)?;
    let ids = names.iter().filter_map(|p| p.file_name()?.to_str()?.strip_prefix("ct-"));
    Ok(ids.filter_map(|id| id.parse().ok()).collect())
}

/// A node's control groups in its kernel, and the limits that were reached in a directory.
#[derive(Debug)]
pub struct KernelHost {
    hierarchies: Hierarchies,
    records: PathBuf,
    proc: PathBuf,
    patience: Duration,
    reserve: Reserve,
    log: Option<KernelLog>,
}

impl KernelHost {
    /// The machine's hierarchies. `records` is a directory for what the kernel cannot keep;
    /// `patience` is how long one process of the self-test may take.
    ///
    /// # Errors
    /// Those of [`Hierarchies::detect`].
    pub fn detect(records: PathBuf, patience: Duration) -> Result<Self, HostError> {
        Ok(Self::new(Hierarchies::detect()?, records, PathBuf::from("/proc"), patience))
    }

    /// Given hierarchies, which may be directories that only look like some.
    pub fn new(
        hierarchies: Hierarchies,
        records: PathBuf,
        proc: PathBuf,
        patience: Duration,
    ) -> Self {
        Self { hierarchies, records, proc, patience, reserve: Reserve::default(), log: None }
    }

    /// Which learns from the kernel's log who was killed.
    #[must_use]
    pub fn hearing(self, log: Option<KernelLog>) -> Self {
        Self { log, ..self }
    }

    /// Of which the node keeps so much for itself.
    #[must_use]
    pub fn keeping(self, reserve: Reserve) -> Self {
        Self { reserve, ..self }
    }

    /// What was detected.
    pub const fn hierarchies(&self) -> &Hierarchies {
        &self.hierarchies
    }

    /// Every hierarchy, and where it is mounted.
    fn mounts(&self) -> impl Iterator<Item = (Hierarchy, &Path)> {
        let v1 = self
            .hierarchies
            .v1
            .iter()
            .filter_map(|h| Some((Hierarchy::V1(*h.controllers.first()?), h.mount.as_path())));
        v1.chain(self.hierarchies.v2.iter().map(|h| (Hierarchy::V2, h.mount.as_path())))
    }

    fn mount(&self, hierarchy: Hierarchy) -> Result<&Path, HostError> {
        let found = self.mounts().find(|(h, _)| *h == hierarchy).map(|(_, mount)| mount);
        found.ok_or_else(|| HostError::Lacks {
            feature: format!("the {hierarchy} hierarchy"),
            why: "it was not mounted when the service started".to_owned(),
        })
    }

    /// In which version a controller is, and where that is mounted.
    fn home(&self, controller: Controller) -> Option<(Home, &Path)> {
        let v1 = self.hierarchies.v1_with(controller).map(|h| (Home::V1, h.mount.as_path()));
        v1.or_else(|| self.hierarchies.v2_with(controller).map(|h| (Home::V2, h.mount.as_path())))
    }

    /// The file of a setting of a group.
    fn setting(&self, group: &str, setting: Setting) -> Option<(Home, PathBuf)> {
        let (home, mount) = match setting.controller() {
            Some(controller) => self.home(controller)?,
            None => (Home::V2, self.hierarchies.v2.as_ref()?.mount.as_path()),
        };
        Some((home, mount.join(group).join(setting.file(home)?)))
    }

    fn delegated(&self, ct: CtId) -> Option<PathBuf> {
        let v2 = self.hierarchies.v2.as_ref()?;
        Some(v2.mount.join(layout::cgroup(ct)).join(CGROUP_DELEGATED))
    }

    fn need_delegated(&self, ct: CtId) -> Result<PathBuf, HostError> {
        self.delegated(ct).ok_or_else(|| HostError::Lacks {
            feature: "delegation".to_owned(),
            why: "no version 2 hierarchy is mounted".to_owned(),
        })
    }

    fn record(&self, ct: CtId) -> PathBuf {
        self.records.join(format!("{ct}.json"))
    }

    /// The limits that were reached, and their device; `None` where there is no record that can be read.
    fn kept(&self, ct: CtId) -> Result<Option<(Limits, Option<Device>)>, HostError> {
        let path = self.record(ct);
        Ok(file::read_if_exists(&path, RECORD)?.and_then(|bytes| {
            let record = model::read_record(&bytes);
            if record.is_none() {
                tracing::warn!(record = %path.display(), "cannot understand the record, ignoring");
            }
            record
        }))
    }

    fn list(&self, path: &Path) -> Result<BTreeSet<u32>, HostError> {
        let text = cgroup::read_if_exists(path)?.unwrap_or_default();
        observe::parse_list(&text)
            .ok_or_else(|| HostError::parse(format!("read {}", path.display()), &text))
    }

    /// The processors and memory nodes the whole machine has for groups.
    fn processors(&self) -> Result<(BTreeSet<u32>, BTreeSet<u32>), HostError> {
        let first = |names: [PathBuf; 2]| {
            let [one, other] = names;
            let set = self.list(&one)?;
            if set.is_empty() { self.list(&other) } else { Ok(set) }
        };
        let system = |kind: &str| PathBuf::from(format!("/sys/devices/system/{kind}/online"));
        match self.home(Controller::Cpuset) {
            Some((Home::V1, mount)) => Ok((
                first([mount.join("cpuset.effective_cpus"), mount.join("cpuset.cpus")])?,
                first([mount.join("cpuset.effective_mems"), mount.join("cpuset.mems")])?,
            )),
            Some((Home::V2, mount)) => Ok((
                first([mount.join("cpuset.cpus.effective"), system("cpu")])?,
                first([mount.join("cpuset.mems.effective"), system("node")])?,
            )),
            None => Ok((self.list(&system("cpu"))?, self.list(&system("node"))?)),
        }
    }

    fn node(&self) -> Result<Node, HostError> {
        let (cpus, mems) = self.processors()?;
        let settings = Setting::ALL
            .into_iter()
            .filter_map(|s| self.setting(CGROUP_ROOT, s).map(|(home, file)| (s, home, file)))
            .filter(|(_, _, file)| file.exists())
            .map(|(s, home, _)| (s, home))
            .collect();
        let meminfo = cgroup::read_if_exists(&self.proc.join("meminfo"))?.unwrap_or_default();
        Ok(Node {
            version: self.hierarchies.version(),
            hierarchies: self.mounts().map(|(h, _)| h).collect(),
            settings,
            controllers: self.v2_controllers(),
            cpus,
            mems,
            swap_free: observe::parse_swap_free(&meminfo),
        })
    }

    /// What bounds all containers together, as far as this node can and says how much it has.
    fn caps(&self) -> Result<BTreeMap<Setting, Cap>, HostError> {
        let read = |file: &str| cgroup::read_if_exists(&self.proc.join(file));
        let number = |file| Ok(read(file)?.and_then(|t| observe::parse_number(&t)));
        let ram = read("meminfo")?.and_then(|t| observe::parse_mem_total(&t));
        let most = (number("sys/kernel/pid_max")?, number("sys/kernel/threads-max")?);
        let pids = most.0.zip(most.1).map(|(pids, threads)| pids.min(threads));
        let Reserve { ram: keep_ram, pids: keep_pids } = self.reserve;
        let both = [(Setting::PidsMax, pids, keep_pids), (Setting::MemoryMax, ram, keep_ram.0)];
        let mut caps = BTreeMap::new();
        for (setting, total, reserve) in both {
            let Some((total, (home, file))) = total.zip(self.setting(CGROUP_ROOT, setting)) else {
                continue;
            };
            let text = cgroup::read_if_exists(&file)?;
            let value = match &text {
                Some(text) => observe::parse_value(setting, home, text),
                None => Some(setting.fresh(home)),
            };
            let Some(Value::Level(limit)) = value else {
                let text = text.unwrap_or_default();
                return Err(HostError::parse(format!("read {}", file.display()), &text));
            };
            let used = match setting {
                Setting::MemoryMax => {
                    let names = observe::memory_files(home);
                    observe::unreclaimable(
                        home,
                        &self.files(Controller::Memory, CGROUP_ROOT, names)?,
                    )
                }
                // A bound below it refuses new ones, and ends none.
                _ => 0,
            };
            caps.insert(setting, Cap { home, total, reserve, used, limit });
        }
        Ok(caps)
    }

    fn v2_controllers(&self) -> BTreeSet<Controller> {
        self.hierarchies.v2.as_ref().map(|h| h.controllers.clone()).unwrap_or_default()
    }

    /// What a version 2 group enables to its children.
    fn hands_on(&self, group: &str) -> Result<BTreeSet<Controller>, HostError> {
        let Some(v2) = &self.hierarchies.v2 else { return Ok(BTreeSet::new()) };
        let file = v2.mount.join(group).join("cgroup.subtree_control");
        Ok(cgroup::parse_v2_controllers(&cgroup::read_if_exists(&file)?.unwrap_or_default()))
    }

    fn enable_controllers(
        &self,
        group: &str,
        controllers: &BTreeSet<Controller>,
    ) -> Result<(), HostError> {
        let names = controllers.iter().filter_map(|c| c.v2_name());
        let text: Vec<_> = names.map(|n| format!("+{n}")).collect();
        let mount = self.mount(Hierarchy::V2)?;
        cgroup::write(&mount.join(group).join("cgroup.subtree_control"), &text.join(" "))
    }

    fn files(
        &self,
        controller: Controller,
        group: &str,
        names: &[&'static str],
    ) -> Result<Files, HostError> {
        let mut files = Files::default();
        if let Some((_, mount)) = self.home(controller) {
            for name in names {
                if let Some(text) = cgroup::read_if_exists(&mount.join(group).join(name))? {
                    files.0.insert(name, text);
                }
            }
        }
        Ok(files)
    }

    /// Whether a process is in any of the container's groups.
    fn populated(&self, group: &str) -> Result<bool, HostError> {
        for (hierarchy, mount) in self.mounts() {
            let dir = mount.join(group);
            let any = match hierarchy {
                Hierarchy::V1(_) => !cgroup::processes(&dir)?.is_empty(),
                // Says it of the children too, also of those whose owner hides them.
                Hierarchy::V2 => cgroup::read_if_exists(&dir.join("cgroup.events"))?
                    .is_some_and(|text| observe::parse_flat(&text).get("populated") == Some(&1)),
            };
            if any {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl Host for KernelHost {
    fn observe_shared(&self) -> Result<Shared, HostError> {
        let v1_cpuset = self.hierarchies.v1_with(Controller::Cpuset);
        let cpuset = match v1_cpuset {
            None => None,
            Some(h) => {
                let (root_cpus, root_mems) = self.processors()?;
                let dir = h.mount.join(CGROUP_ROOT);
                Some(Cpusets {
                    root_cpus,
                    root_mems,
                    cpus: self.list(&dir.join("cpuset.cpus"))?,
                    mems: self.list(&dir.join("cpuset.mems"))?,
                })
            }
        };
        let made = |(h, mount): (Hierarchy, &Path)| mount.join(CGROUP_ROOT).is_dir().then_some(h);
        Ok(Shared {
            hierarchies: self.mounts().map(|(h, _)| h).collect(),
            made: self.mounts().filter_map(made).collect(),
            controllers: self.v2_controllers(),
            root_hands_on: self.hands_on("")?,
            hands_on: self.hands_on(CGROUP_ROOT)?,
            cpuset,
            caps: self.caps()?,
        })
    }

    fn apply_shared(&self, step: &SharedStep) -> Result<(), HostError> {
        let cpuset = |file: &str, set| {
            let dir = self.mount_of(Controller::Cpuset)?.join(CGROUP_ROOT);
            cgroup::write(&dir.join(file), &model::render_list(set))
        };
        match step {
            SharedStep::Make(h) => cgroup::make(&self.mount(*h)?.join(CGROUP_ROOT)),
            SharedStep::EnableInRoot(controllers) => self.enable_controllers("", controllers),
            SharedStep::EnableControllers(controllers) => {
                self.enable_controllers(CGROUP_ROOT, controllers)
            }
            SharedStep::Mems(set) => cpuset("cpuset.mems", set),
            SharedStep::Cpus(set) => cpuset("cpuset.cpus", set),
            SharedStep::Cap { setting, home, most } => {
                let controller = setting.controller().unwrap_or(Controller::Memory);
                let dir = self.mount_of(controller)?.join(CGROUP_ROOT);
                limits::write(&dir, *home, *setting, &Value::Level(Limit::Max(*most)))
            }
        }
    }

    fn release_shared(&self) -> Result<(), HostError> {
        let dirs = self.hierarchies.dirs(CGROUP_ROOT);
        for dir in &dirs {
            if !cgroup::children(dir)?.is_empty() {
                return Ok(());
            }
        }
        for dir in dirs {
            cgroup::remove_if_empty(&dir)?;
        }
        Ok(())
    }

    fn observe(&self, ct: CtId) -> Result<Observed, HostError> {
        let group = layout::cgroup(ct);
        let node = self.node()?;
        let made: BTreeSet<_> = self
            .mounts()
            .filter(|(_, mount)| mount.join(&group).is_dir())
            .map(|(h, _)| h)
            .collect();
        let mut settings = BTreeMap::new();
        for &setting in node.settings.keys() {
            let Some((home, file)) = self.setting(&group, setting) else { continue };
            let Some(text) = cgroup::read_if_exists(&file)? else { continue };
            let value = observe::parse_value(setting, home, &text)
                .ok_or_else(|| HostError::parse(format!("read {}", file.display()), &text))?;
            settings.insert(setting, value);
        }
        let memory = self.home(Controller::Memory).map(|(home, _)| home);
        let unreclaimable = match memory {
            Some(home) => {
                let files = self.files(Controller::Memory, &group, observe::memory_files(home))?;
                observe::unreclaimable(home, &files)
            }
            None => 0,
        };
        let kept = self.kept(ct)?;
        let (record, device) = kept.map_or((None, None), |(limits, device)| (Some(limits), device));
        Ok(Observed {
            node,
            made,
            delegated: self.delegated(ct).is_some_and(|p| p.is_dir()),
            hands_on: self.hands_on(&group)?,
            settings,
            populated: self.populated(&group)?,
            unreclaimable,
            device,
            recorded_device: device,
            record,
        })
    }

    fn apply(&self, ct: CtId, step: &Step) -> Result<(), HostError> {
        let group = layout::cgroup(ct);
        match step {
            Step::Make(h) => cgroup::make(&self.mount(*h)?.join(&group)),
            Step::EnableControllers(controllers) => self.enable_controllers(&group, controllers),
            Step::MakeDelegated => cgroup::make(&self.need_delegated(ct)?),
            Step::Set { setting, value, .. } => {
                let (home, file) =
                    self.setting(&group, *setting).ok_or_else(|| HostError::Lacks {
                        feature: format!("{setting:?}"),
                        why: "its controller is not mounted".to_owned(),
                    })?;
                limits::write(file.parent().unwrap_or(&file), home, *setting, value)
            }
            Step::Record(limits, device) => {
                let dir = &self.records;
                std::fs::create_dir_all(dir).attempt(|| format!("make {}", dir.display()))?;
                file::write_atomic(&self.record(ct), &model::write_record(limits, *device))
            }
            Step::RemoveDelegated => cgroup::remove(&self.need_delegated(ct)?),
            Step::Remove(h) => cgroup::remove(&self.mount(*h)?.join(&group)),
            Step::Forget => file::remove_if_exists(&self.record(ct)),
        }
    }

    fn containers(&self) -> Result<Vec<CtId>, HostError> {
        let mut found = BTreeSet::new();
        for dir in self.hierarchies.dirs(CGROUP_ROOT) {
            found.extend(containers_in(&dir)?);
        }
        match std::fs::read_dir(&self.records) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            entries => {
                let what = || format!("list {}", self.records.display());
                for entry in entries.attempt(what)? {
                    let name = entry.attempt(what)?.file_name();
                    let name = name.to_str().and_then(|n| n.strip_suffix(".json"));
                    found.extend(name.and_then(|n| n.parse::<CtId>().ok()));
                }
            }
        }
        Ok(found.into_iter().collect())
    }

    fn locks(&self) -> Result<Option<FileLocks>, HostError> {
        self.all_locks()
    }

    fn usage(&self, ct: CtId, locks: Option<&FileLocks>) -> Result<Usage, HostError> {
        self.usage_of(&layout::cgroup(ct), locks)
    }

    fn metered(&self, ct: CtId) -> Result<Metered, HostError> {
        self.metered_of(ct)
    }

    fn oom_kills(&self) -> Result<BTreeMap<CtId, u64>, HostError> {
        self.all_kills()
    }

    fn victims(&self) -> Result<Vec<(CtId, Victim)>, HostError> {
        let mut victims = Vec::new();
        if let Some(log) = &self.log {
            log.read(RECORDS, |record| victims.extend(parse_victim(record)))?;
        }
        Ok(victims)
    }

    fn shares_disks(&self) -> Result<bool, HostError> {
        let says = |file: &Path, word: &str| {
            Ok(cgroup::read_if_exists(file)?.is_some_and(|text| text.contains(word)))
        };
        if let Some(h) = self.hierarchies.v2_with(Controller::Blkio)
            && says(&h.mount.join("io.cost.qos"), "enable=1")?
        {
            return Ok(true);
        }
        // What the machine has of disks is no matter of a container: one that goes meanwhile is none.
        for disk in std::fs::read_dir("/sys/block").into_iter().flatten().flatten() {
            if says(&disk.path().join("queue/scheduler"), "[bfq]")? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn self_test(&self) -> Result<SelfTest, HostError> {
        selftest::run(self)
    }
}

impl KernelHost {
    fn mount_of(&self, controller: Controller) -> Result<&Path, HostError> {
        self.home(controller).map(|(_, mount)| mount).ok_or_else(|| HostError::Lacks {
            feature: format!("the {} controller", controller.v1_name()),
            why: "it is not mounted".to_owned(),
        })
    }
}
