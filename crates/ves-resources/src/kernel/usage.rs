//! What a group uses: controllers' counts, and what can be learnt of its processes from `/proc`.
//!
//! A process that ends while it is looked at counts as gone. Nothing here needs a privilege beyond
//! reading what the group's owner may have hidden.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind};
use std::path::Path;

use ves_host::cgroup::{self, Controller, Hierarchies};
use ves_host::{Attempt, HostError};
use ves_types::layout::{self, CGROUP_ROOT};
use ves_types::{CtId, UbcResource};

use super::{KernelHost, containers_in};
use crate::observe::{self, FileLocks};
use crate::rows::{Count, Usage};

impl KernelHost {
    /// What a group and those below it use.
    pub(super) fn usage_of(
        &self,
        group: &str,
        locks: Option<&FileLocks>,
    ) -> Result<Usage, HostError> {
        let (mut counts, mut oom_kills) = (BTreeMap::new(), None);
        if let Some((home, _)) = self.home(Controller::Memory) {
            let files = self.files(Controller::Memory, group, observe::memory_files(home))?;
            oom_kills = observe::oom_kills(home, &files);
            counts.extend(observe::memory_counts(home, &files));
        }
        let files = self.files(Controller::Pids, group, observe::PIDS_FILES)?;
        counts.extend(observe::pids_count(&files).map(|c| (UbcResource::Numproc, c)));
        match members(&self.hierarchies, group) {
            Ok(pids) => self.count_processes(&pids, locks, &mut counts),
            // Its root makes groups below it as it likes; what the controllers count stands.
            Err(e) => tracing::warn!(
                group,
                error = ves_proto::fault::chain(&e),
                "cannot count by processes"
            ),
        }
        Ok(Usage { counts, cpu_usec: self.cpu_usec(group)?, oom_kills })
    }

    /// How many of each container were killed because memory ran out; one file is read of each.
    pub(super) fn all_kills(&self) -> Result<BTreeMap<CtId, u64>, HostError> {
        let Some((home, mount)) = self.home(Controller::Memory) else { return Ok(BTreeMap::new()) };
        let mut kills = BTreeMap::new();
        for ct in containers_in(&mount.join(CGROUP_ROOT))? {
            let group = layout::cgroup(ct);
            let files = self.files(Controller::Memory, &group, &[observe::kills_file(home)])?;
            kills.extend(observe::oom_kills(home, &files).map(|n| (ct, n)));
        }
        Ok(kills)
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
        pids: &BTreeSet<u32>,
        locks: Option<&FileLocks>,
        counts: &mut BTreeMap<UbcResource, Count>,
    ) {
        let mut files = self.counts_descriptors().then_some(0u64);
        let mut signals = BTreeMap::new();
        let mut init: Option<(usize, u32)> = None;
        for &pid in pids {
            let dir = self.proc.join(pid.to_string());
            // A process chooses its name, and that need not be text.
            let Ok(bytes) = std::fs::read(dir.join("status")) else { continue };
            let text = String::from_utf8_lossy(&bytes);
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
        if let Some(locks) = locks {
            let held = pids.iter().filter_map(|pid| locks.get(pid)).sum();
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
    }

    /// The file locks of all processes of the node; `None` where the kernel does not tell.
    pub(super) fn all_locks(&self) -> Result<Option<FileLocks>, HostError> {
        let path = self.proc.join("locks");
        let what = || format!("read {}", path.display());
        let mut locks = FileLocks::new();
        let file = match File::open(&path) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            other => other.attempt(what)?,
        };
        for line in BufReader::new(file).split(b'\n') {
            let line = line.attempt(what)?;
            if let Some(pid) = observe::lock_holder(&String::from_utf8_lossy(&line)) {
                *locks.entry(pid).or_default() += 1;
            }
        }
        Ok(Some(locks))
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
