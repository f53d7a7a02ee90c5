//! What a group's counters say: a few files, whatever its number of processes.
//!
//! Never here: `/proc`, which has something of each process.

use std::os::unix::fs::MetadataExt as _;

use rustix::io::Errno;
use ves_host::HostError;
use ves_host::cgroup::{self, Controller};
use ves_types::{CtId, UbcResource, layout};

use super::KernelHost;
use crate::counters::{self, Counters, Metered, Pressure};
use crate::model::Home;
use crate::observe::{self, Files};

impl KernelHost {
    /// What the counters of a container's groups say.
    pub(super) fn metered_of(&self, ct: CtId) -> Result<Metered, HostError> {
        let group = layout::cgroup(ct);
        let (wanted, device) = self.kept(ct)?.map_or((None, None), |(l, d)| (Some(l), d));
        let life = self.life_of(&group);
        let mut metered = Metered { wanted, life, ..Metered::default() };
        if let Some((home, _)) = self.home(Controller::Memory) {
            let files = self.files(Controller::Memory, &group, observe::memory_files(home))?;
            counters::take_memory(home, &files, &mut metered);
        }
        let files = self.files(Controller::Pids, &group, observe::PIDS_FILES)?;
        let processes = observe::pids_count(&files).map(|c| (UbcResource::Numproc, c));
        metered.usage.counts.extend(processes);
        metered.counters = Counters {
            cpu: self.cpu_of(&group)?,
            cpu_pressure: self.pressure(&group, "cpu.pressure")?,
            memory_pressure: self.pressure(&group, "memory.pressure")?,
            io_pressure: self.pressure(&group, "io.pressure")?,
            ..metered.counters
        };
        if let Some((home, _)) = self.home(Controller::Cpu) {
            let files = self.files(Controller::Cpu, &group, &["cpu.stat"])?;
            metered.counters.throttled_usec = counters::throttled(home, &files);
        }
        if let Some((home, _)) = self.home(Controller::Blkio) {
            let files = self.files(Controller::Blkio, &group, counters::disk_files(home))?;
            metered.counters.disk = counters::disk(home, &files, device);
        }
        Ok(metered)
    }

    /// Which of all groups of this name it is: the kernel numbers the directories of a hierarchy one after
    /// another.
    fn life_of(&self, group: &str) -> Option<u64> {
        let (_, mount) = self.mounts().next()?;
        std::fs::metadata(mount.join(group)).ok().map(|dir| dir.ino())
    }

    /// Processor time: version 2 tells it of every group, whichever controllers it has.
    fn cpu_of(&self, group: &str) -> Result<Option<(u64, u64)>, HostError> {
        if self.hierarchies.v1_with(Controller::Cpuacct).is_some() {
            let names = counters::cpu_files(Home::V1);
            return Ok(counters::cpu(Home::V1, &self.files(Controller::Cpuacct, group, names)?));
        }
        let Some(v2) = &self.hierarchies.v2 else { return Ok(None) };
        let mut files = Files::default();
        for name in counters::cpu_files(Home::V2) {
            let text = cgroup::read_if_exists(&v2.mount.join(group).join(name))?;
            files.0.extend(text.map(|text| (*name, text)));
        }
        Ok(counters::cpu(Home::V2, &files))
    }

    /// Every group of version 2 tells of pressure, whichever controllers it has, unless the kernel is told
    /// not to count it.
    fn pressure(&self, group: &str, file: &str) -> Result<Option<Pressure>, HostError> {
        let Some(v2) = &self.hierarchies.v2 else { return Ok(None) };
        match cgroup::read_if_exists(&v2.mount.join(group).join(file)) {
            Ok(text) => Ok(text.and_then(|text| counters::pressure(&text))),
            // Of a kernel that was told not to count it.
            Err(e) if e.is(Errno::OPNOTSUPP) => Ok(None),
            Err(e) => Err(e),
        }
    }
}
