//! What a group uses: controllers' counts, and what can be learnt of its processes from `/proc`.
//!
//! A process that ends while it is looked at counts as gone. Nothing here needs a privilege beyond
//! reading what the group's owner may have hidden.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use ves_host::HostError;
use ves_host::cgroup::{self, Controller, Hierarchies};
use ves_types::UbcResource;

use super::KernelHost;
use crate::observe;
use crate::rows::{Count, Usage};

impl KernelHost {
    /// What a group and those below it use.
    pub(super) fn usage_of(&self, group: &str) -> Result<Usage, HostError> {
        let mut counts = BTreeMap::new();
        if let Some((home, _)) = self.home(Controller::Memory) {
            let files = self.files(Controller::Memory, group, observe::memory_files(home))?;
            counts.extend(observe::memory_counts(home, &files));
        }
        let files = self.files(Controller::Pids, group, observe::PIDS_FILES)?;
        counts.extend(observe::pids_count(&files).map(|c| (UbcResource::Numproc, c)));
        self.count_processes(group, &mut counts)?;
        Ok(Usage { counts, cpu_usec: self.cpu_usec(group)? })
    }

    fn cpu_usec(&self, group: &str) -> Result<u64, HostError> {
        if let Some(v1) = self.hierarchies.v1_with(Controller::Cpuacct) {
            let text = cgroup::read_if_exists(&v1.mount.join(group).join("cpuacct.usage"))?;
            return Ok(text.and_then(|t| observe::parse_number(&t)).unwrap_or(0) / 1000);
        }
        let Some(v2) = &self.hierarchies.v2 else { return Ok(0) };
        let text = cgroup::read_if_exists(&v2.mount.join(group).join("cpu.stat"))?;
        Ok(text.and_then(|t| observe::parse_flat(&t).get("usage_usec").copied()).unwrap_or(0))
    }

    /// What `/proc` tells of the processes: descriptors, sockets, queued signals, file locks.
    fn count_processes(
        &self,
        group: &str,
        counts: &mut BTreeMap<UbcResource, Count>,
    ) -> Result<(), HostError> {
        let pids = members(&self.hierarchies, group)?;
        let mut files = self.counts_descriptors().then_some(0u64);
        let mut signals = BTreeMap::new();
        let mut init: Option<(usize, u32)> = None;
        for &pid in &pids {
            let dir = self.proc.join(pid.to_string());
            let Some(text) = cgroup::read_if_exists(&dir.join("status")).ok().flatten() else {
                continue;
            };
            let Some(process) = observe::parse_status(&text) else { continue };
            // The kernel counts queued signals by user.
            signals.insert(process.uid, process.signals);
            let depth = process.ns_pids.len();
            if depth > 1
                && process.ns_pids.last() == Some(&1)
                && init.is_none_or(|(shallowest, _)| depth < shallowest)
            {
                init = Some((depth, pid));
            }
            files = files.map(|n| n + descriptors(&dir));
        }
        if let Some(files) = files {
            counts.insert(UbcResource::Numfile, Count::now(files));
        }
        counts.insert(UbcResource::Numsiginfo, Count::now(signals.values().sum()));
        let locks = cgroup::read_if_exists(&self.proc.join("locks"))?;
        if let Some(text) = locks {
            let held = observe::count_locks(&text, &pids);
            counts.insert(UbcResource::Numflock, Count::now(held));
        }
        // Sockets are counted by network namespace; the container's is that of its first process.
        let read = |file: &str| {
            let pid = init.map(|(_, pid)| pid)?;
            let path = self.proc.join(pid.to_string()).join("net").join(file);
            cgroup::read_if_exists(&path).ok().flatten()
        };
        let v4 = read("sockstat").unwrap_or_default();
        let v6 = read("sockstat6").unwrap_or_default();
        let (tcp, all) = observe::parse_sockets(&v4, &v6);
        counts.insert(UbcResource::Numtcpsock, Count::now(tcp));
        counts.insert(UbcResource::Numothersock, Count::now(all.saturating_sub(tcp)));
        Ok(())
    }

    /// Whether the size of a process's descriptor directory is the number of its descriptors; since
    /// kernel 6.2.
    fn counts_descriptors(&self) -> bool {
        descriptors(&self.proc.join("self")) > 0
    }
}

fn descriptors(process: &Path) -> u64 {
    std::fs::metadata(process.join("fd")).map_or(0, |meta| meta.len())
}

/// The processes of a group: from a version 1 hierarchy, which nobody but root can change, else
/// from the version 2 group and those below.
fn members(hierarchies: &Hierarchies, group: &str) -> Result<BTreeSet<u32>, HostError> {
    let dirs = hierarchies.dirs(group);
    let Some(dir) = dirs.first() else { return Ok(BTreeSet::new()) };
    Ok(cgroup::processes(dir)?.into_iter().collect())
}
