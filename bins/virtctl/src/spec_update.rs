//! A container's values and their update mask, from samples and parameters.
//!
//! Owns which field of the API each parameter is. Never here: the options, or what a value does.

use std::time::Duration;

use ves_proto::api::{Container, ContainerSpec, Limits, Volume};
use ves_proto::public;
use ves_types::{DiskSize, Feature, FeatureSwitch, UbcResource, UbcValue};

use crate::params::{Clearable, Params, flattened};
use crate::sample::Sample;

/// The values of a container and which of its fields are meant.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct SpecUpdate {
    /// The values.
    pub(crate) container: Container,
    /// Which fields, by their paths.
    pub(crate) mask: Vec<String>,
}

/// The path of a UBC parameter.
pub(crate) fn ubc_path(resource: UbcResource) -> String {
    format!("spec.limits.ubc.{resource}")
}

impl SpecUpdate {
    /// What it should be.
    pub(crate) fn spec(&mut self) -> &mut ContainerSpec {
        self.container.spec.get_or_insert_default()
    }
    fn limits(&mut self) -> &mut Limits {
        self.spec().limits.get_or_insert_default()
    }
    fn mark(&mut self, field: &str) {
        if !self.mask.iter().any(|marked| marked == field) {
            self.mask.push(field.to_owned());
        }
    }
    fn ubc(&mut self, resource: UbcResource, value: UbcValue) {
        let bounds = Some(public::render_bounds(value));
        let limits = self.limits().ubc.get_or_insert_default();
        public::set_bounds(limits, resource, bounds);
        self.mark(&ubc_path(resource));
    }
    fn cpu_units(&mut self, units: u32) {
        self.limits().cpu_units = Some(units);
        self.mark("spec.limits.cpu_units");
    }
    /// Changes the volume that is mounted at /.
    fn root(&mut self, change: impl FnOnce(&mut Volume)) {
        let volumes = &mut self.spec().volumes;
        let new = || Volume { id: "root".to_owned(), ..Volume::default() };
        let mut root = volumes.pop().unwrap_or_else(new);
        change(&mut root);
        volumes.push(root);
        self.mark("spec.volumes");
    }
    fn disk(&mut self, size: DiskSize) {
        self.root(|root| root.size_bytes = size.into());
    }

    fn feature(&mut self, switch: FeatureSwitch) {
        let FeatureSwitch { feature, on } = switch;
        let features = self.spec().features.get_or_insert_default();
        let path = match feature {
            Feature::Nesting => {
                features.nesting = Some(on);
                "spec.features.nesting"
            }
            Feature::Migratable => {
                features.migratable = Some(on);
                "spec.features.migratable"
            }
            Feature::Abi32 => {
                features.abi32 = Some(on);
                "spec.features.abi32"
            }
        };
        self.mark(path);
    }

    /// All of a sample but its disk, which only a new container takes.
    pub(crate) fn sample(&mut self, sample: &Sample, disk: bool) {
        for (resource, value) in sample.ubc() {
            self.ubc(resource, value);
        }
        self.cpu_units(sample.cpu_units);
        if disk {
            self.disk(sample.disk);
        }
    }

    /// What was given on the command line; what changes entries of lists is left to the caller.
    pub(crate) fn params(&mut self, params: &Params) {
        let Params {
            name,
            hostname,
            description,
            label: _,
            annotation: _,
            delete_protection,
            ipadd: _,
            nameserver,
            searchdomain,
            diskspace,
            diskinodes,
            ram,
            swap,
            cpulimit,
            cpuunits,
            cpus,
            cpumask,
            nodemask,
            ioprio,
            iolimit,
            iopslimit,
            restart,
            snapshots,
            features,
            onboot,
            bootorder,
            stop_timeout,
            devnodes: _,
            devices: _,
            capability: _,
            disabled,
            userpasswd: _,
            ubc,
            unbuilt: _,
        } = params;
        if let Some(name) = name {
            self.container.alias.clone_from(name);
            self.mark("alias");
        }
        if let Some(hostname) = hostname {
            self.spec().hostname.clone_from(hostname);
            self.mark("spec.hostname");
        }
        if let Some(description) = description {
            self.container.description.clone_from(description);
            self.mark("description");
        }
        if let Some(protected) = delete_protection {
            self.container.delete_protection = *protected;
            self.mark("delete_protection");
        }
        if !nameserver.is_empty() {
            self.spec().nameservers = flattened(nameserver);
            self.mark("spec.nameservers");
        }
        if !searchdomain.is_empty() {
            self.spec().search_domains = flattened(searchdomain);
            self.mark("spec.search_domains");
        }
        if let Some(size) = diskspace {
            self.disk(*size);
        }
        if let Some(inodes) = diskinodes {
            self.root(|root| root.inodes = Some((*inodes).into()));
        }
        for (resource, value) in ubc.given() {
            self.ubc(resource, value);
        }
        if let Some(value) = ram {
            self.ubc(UbcResource::Physpages, *value);
        }
        if let Some(value) = swap {
            self.ubc(UbcResource::Swappages, *value);
        }
        if let Some(Clearable(limit)) = cpulimit {
            self.limits().cpu_millicpus = limit.map(|l| l.millicpus);
            self.mark("spec.limits.cpu_millicpus");
        }
        if let Some(units) = cpuunits {
            self.cpu_units(*units);
        }
        if let Some(Clearable(cpus)) = cpus {
            self.limits().cpus = *cpus;
            self.mark("spec.limits.cpus");
        }
        if let Some(Clearable(mask)) = cpumask {
            self.limits().cpu_mask = mask.as_ref().map(ToString::to_string).unwrap_or_default();
            self.mark("spec.limits.cpu_mask");
        }
        if let Some(Clearable(mask)) = nodemask {
            self.limits().node_mask = mask.as_ref().map(ToString::to_string).unwrap_or_default();
            self.mark("spec.limits.node_mask");
        }
        if let Some(priority) = ioprio {
            self.limits().io_priority = u64::from(*priority).try_into().ok();
            self.mark("spec.limits.io_priority");
        }
        if let Some(Clearable(bytes)) = iolimit {
            self.limits().io_bytes_per_second = bytes.map(u64::from);
            self.mark("spec.limits.io_bytes_per_second");
        }
        if let Some(Clearable(requests)) = iopslimit {
            self.limits().io_operations_per_second = requests.map(u64::from);
            self.mark("spec.limits.io_operations_per_second");
        }
        if let Some(Clearable(timeout)) = stop_timeout {
            self.spec().stop_timeout = timeout.map(|timeout| {
                public::render_duration(Duration::from_secs(u32::from(timeout).into()))
            });
            self.mark("spec.stop_timeout");
        }
        if let Some(policy) = restart {
            self.spec().restart_policy = public::render_restart(*policy).into();
            self.mark("spec.restart_policy");
        }
        if let Some(schedule) = snapshots {
            self.spec().snapshot_schedule = public::render_snapshot_schedule(*schedule);
            self.mark("spec.snapshot_schedule");
        }
        for switch in features.iter().flat_map(|list| &list.0) {
            self.feature(*switch);
        }
        if let Some(onboot) = onboot {
            self.spec().start_on_boot = *onboot;
            self.mark("spec.start_on_boot");
        }
        if let Some(Clearable(order)) = bootorder {
            self.spec().boot_order = *order;
            self.mark("spec.boot_order");
        }
        if let Some(disabled) = disabled {
            self.spec().disabled = *disabled;
            self.mark("spec.disabled");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::SetParams;
    use clap::Parser;
    use ves_proto::api::Bounds;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        params: SetParams,
    }

    fn update(options: &[&str]) -> Result<SpecUpdate, clap::Error> {
        let line = Line::try_parse_from(["set"].iter().chain(options))?;
        let mut update = SpecUpdate::default();
        update.params(&line.params.params);
        Ok(update)
    }

    /// The levels that an option sets; none is unlimited.
    fn ubc(options: &[&str], name: &str) -> (Option<u64>, Option<u64>) {
        let update = update(options).expect("the options are valid");
        let limits = limits(&update).ubc.expect("a parameter was given");
        let resource = name.parse().expect("a parameter");
        assert_eq!(update.mask, [ubc_path(resource)]);
        let Bounds { barrier, limit } = public::bounds(&limits, resource).expect("it was given");
        (barrier, limit)
    }

    fn spec(update: &SpecUpdate) -> ContainerSpec {
        update.container.spec.clone().expect("something of the spec was given")
    }

    fn limits(update: &SpecUpdate) -> Limits {
        spec(update).limits.expect("a limit was given")
    }

    #[test]
    fn all_21_parameters_are_there() {
        for resource in UbcResource::ALL {
            let option = format!("--{resource}");
            assert_eq!(ubc(&[&option, "8192:16384"], resource.name()), (Some(8192), Some(16384)));
            assert_eq!(ubc(&[&option, "1:unlimited"], resource.name()), (Some(1), None));
            for bad in ["", "x", "2:1", "1:2:3", "-1"] {
                assert!(update(&[&format!("{option}={bad}")]).is_err(), "{option} {bad:?}");
            }
        }
    }

    #[test]
    fn units_are_those_of_vzctl() {
        assert_eq!(ubc(&["--ram", "512M"], "physpages"), (Some(0), Some(131_072)));
        assert_eq!(ubc(&["--ram", "4097"], "physpages"), (Some(0), Some(2)));
        assert_eq!(ubc(&["--swap", "0"], "swappages"), (Some(0), Some(0)));
        assert_eq!(ubc(&["--swap", "unlimited"], "swappages"), (Some(0), None));
        assert_eq!(ubc(&["-p", "100"], "numproc"), (Some(100), Some(100)));
        assert_eq!(ubc(&["--privvmpages", "1g"], "privvmpages"), (Some(262_144), Some(262_144)));
        let disk =
            |s: &str| update(&["--diskspace", s]).map(|w| spec(&w).volumes[0].size_bytes).ok();
        assert_eq!(disk("1048576"), Some(1 << 30));
        assert_eq!(disk("10G:11G"), Some(11 << 30));
        assert_eq!(disk("2G:1G"), None);
        assert_eq!(disk("0"), None);
        let cpu = |s: &str| update(&["--cpulimit", s]).map(|w| limits(&w).cpu_millicpus).ok();
        assert_eq!(cpu("150%"), Some(Some(1500)));
        assert_eq!(cpu("0"), Some(None));
        assert_eq!(cpu("x"), None);
        let io = |option: &str, s: &str| {
            let limits = limits(&update(&[option, s]).ok()?);
            let Limits { io_bytes_per_second, io_operations_per_second, io_priority, .. } = limits;
            Some((io_bytes_per_second, io_operations_per_second, io_priority))
        };
        assert_eq!(io("--iolimit", "4m"), Some((Some(4 << 20), None, None)));
        assert_eq!(io("--iolimit", "5000b"), Some((Some(5000), None, None)));
        assert_eq!(io("--iopslimit", "500"), Some((None, Some(500), None)));
        for none in ["0", "unlimited"] {
            assert_eq!(io("--iolimit", none), Some((None, None, None)));
            assert_eq!(io("--iopslimit", none), Some((None, None, None)));
        }
        assert_eq!(io("--ioprio", "0"), Some((None, None, Some(0))));
        let masks = |option: &str, s: &str| {
            let limits = limits(&update(&[option, s]).expect("valid"));
            format!("{}/{}", limits.cpu_mask, limits.node_mask)
        };
        assert_eq!(masks("--cpumask", "3,0,1"), "0-1,3/");
        assert_eq!(masks("--nodemask", "1"), "/1");
        assert_eq!(masks("--cpumask", "all"), "/");
    }

    #[test]
    fn only_what_was_given_is_in_the_mask() {
        let w = update(&[
            "--hostname",
            "a.example",
            "--name",
            "web",
            "--onboot",
            "yes",
            "--bootorder",
            "-3",
            "--disabled",
            "no",
            "--cpus",
            "2",
            "--cpuunits",
            "500",
            "--cpumask",
            "0",
            "--nodemask",
            "all",
            "--ioprio",
            "7",
            "--iolimit",
            "1g",
            "--iopslimit",
            "9",
            "--nameserver",
            "192.0.2.1,::1",
            "--nameserver",
            "192.0.2.1",
            "--searchdomain",
            "example.org.",
            "--diskinodes",
            "1024:9000",
            "--stop-timeout",
            "30",
            "--restart",
            "on-failure",
            "--snapshots",
            "daily:7,hourly:24",
            "--features",
            "nesting:on,abi32:off",
            "--description",
            "d",
            "--delete-protection",
            "yes",
        ])
        .expect("valid");
        assert_eq!(
            w.mask,
            [
                "alias",
                "spec.hostname",
                "description",
                "delete_protection",
                "spec.nameservers",
                "spec.search_domains",
                "spec.volumes",
                "spec.limits.cpu_units",
                "spec.limits.cpus",
                "spec.limits.cpu_mask",
                "spec.limits.node_mask",
                "spec.limits.io_priority",
                "spec.limits.io_bytes_per_second",
                "spec.limits.io_operations_per_second",
                "spec.stop_timeout",
                "spec.restart_policy",
                "spec.snapshot_schedule",
                "spec.features.nesting",
                "spec.features.abi32",
                "spec.start_on_boot",
                "spec.boot_order",
                "spec.disabled"
            ]
        );
        assert_eq!((w.container.alias.as_str(), w.container.description.as_str()), ("web", "d"));
        assert!(w.container.delete_protection);
        let spec = spec(&w);
        assert_eq!(spec.nameservers, ["192.0.2.1", "::1"]);
        assert_eq!(spec.search_domains, ["example.org"]);
        assert_eq!((spec.boot_order, spec.volumes[0].inodes), (Some(-3), Some(9000)));
        assert_eq!(spec.stop_timeout.map(|timeout| timeout.seconds), Some(30));
        let schedule = ves_proto::api::SnapshotSchedule { hourly: 24, daily: 7, weekly: 0 };
        assert_eq!(spec.snapshot_schedule, Some(schedule));
        let features = spec.features.expect("some were given");
        assert_eq!((features.nesting, features.abi32), (Some(true), Some(false)));
        assert_eq!(features.migratable, None);
        assert_eq!(update(&[]).expect("valid"), SpecUpdate::default());
        let w =
            update(&["--hostname", "", "--nameserver", "", "--searchdomain="]).expect("cleared");
        assert_eq!(w.mask, ["spec.hostname", "spec.nameservers", "spec.search_domains"]);
        assert_eq!(w.container.spec, Some(ContainerSpec::default()));
    }

    #[test]
    fn bad_values_are_refused() {
        for bad in [
            ["--ipadd", "10.0.0.1/24"],
            ["--ipadd", ""],
            ["--ipadd", "127.0.0.1"],
            ["--ipadd", "10.0.0.1,x"],
            ["--ipdel", "everything"],
            ["--hostname", "a_b"],
            ["--name", "1a"],
            ["--nameserver", "ns.example"],
            ["--searchdomain", "-x"],
            ["--diskspace", "1x"],
            ["--diskspace", "1:"],
            ["--diskinodes", "1k"],
            ["--diskinodes", "1023"],
            ["--diskinodes", "+5"],
            ["--ram", "lots"],
            ["--ram", "-1"],
            ["--cpus", "-1"],
            ["--cpus", "65537"],
            ["--ioprio", "8"],
            ["--ioprio", ""],
            ["--iolimit", "100b"],
            ["--iolimit", "5000"],
            ["--iolimit", "fast"],
            ["--iopslimit", "-1"],
            ["--iopslimit", "1k"],
            ["--cpumask", ""],
            ["--cpumask", "1-0"],
            ["--nodemask", "0-9999"],
            ["--cpuunits", "7"],
            ["--cpuunits", "500001"],
            ["--onboot", "maybe"],
            ["--bootorder", "first"],
            ["--disabled", "1"],
            ["--restart", "yes"],
            ["--devnodes", "mem:rw"],
            ["--devnodes", "net/tun:rwq"],
            ["--devnodes", "c:10:200:rw"],
            ["--devices", "net/tun:rw"],
            ["--devices", "b:8:0:rw"],
            ["--capability", "sys_time:on"],
            ["--capability", "net_raw"],
            ["--features", "fuse:on"],
            ["--features", ""],
        ] {
            assert!(update(&bad).is_err(), "{bad:?}");
        }
        assert!(update(&["--ram", "1g", "--physpages", "1"]).is_err());
        let all = update(&["--devnodes", "mem:rw,fuse:rw,../x:r,fuse:q"]).expect_err("bad");
        for mistake in ["\"mem\"", "\"../x\"", "quotas"] {
            assert!(all.to_string().contains(mistake), "{mistake}: {all}");
        }
    }
}
