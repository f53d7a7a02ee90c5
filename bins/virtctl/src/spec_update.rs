//! A specification and its update mask, from samples and parameters.
//!
//! Owns which field of the API each parameter is. Never here: the options, or what a value does.

use ves_proto::coordinator::ContainerSpec;
use ves_proto::{common, convert};
use ves_types::{DiskSize, Feature, FeatureSwitch, SpecField, UbcResource, UbcValue};

use crate::params::{Clearable, Params, flattened};
use crate::sample::Sample;

/// A specification and which of its fields are meant.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct SpecUpdate {
    /// The values.
    pub(crate) spec: ContainerSpec,
    /// Which fields.
    pub(crate) mask: Vec<SpecField>,
}

impl SpecUpdate {
    fn limits(&mut self) -> &mut common::Limits {
        self.spec.limits.get_or_insert_default()
    }
    fn mark(&mut self, field: SpecField) {
        if !self.mask.contains(&field) {
            self.mask.push(field);
        }
    }
    fn ubc(&mut self, resource: UbcResource, value: UbcValue) {
        let value = convert::render_ubc(value);
        self.limits().ubc.insert(resource.name().to_owned(), value);
        self.mark(SpecField::Ubc(resource));
    }
    fn cpu_units(&mut self, units: u32) {
        self.limits().cpu_units = Some(units);
        self.mark(SpecField::CpuUnits);
    }
    fn disk(&mut self, size: DiskSize) {
        self.spec.disk_bytes = size.into();
        self.mark(SpecField::Disk);
    }

    fn feature(&mut self, switch: FeatureSwitch) {
        let FeatureSwitch { feature, on } = switch;
        let features = self.spec.features.get_or_insert_default();
        match feature {
            Feature::Nesting => features.nesting = Some(on),
            Feature::Migratable => features.migratable = Some(on),
            Feature::Abi32 => features.abi32 = Some(on),
        }
        self.mark(feature.into());
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
            self.spec.name.clone_from(name);
            self.mark(SpecField::Name);
        }
        if let Some(hostname) = hostname {
            self.spec.hostname.clone_from(hostname);
            self.mark(SpecField::Hostname);
        }
        if let Some(description) = description {
            self.spec.description.clone_from(description);
            self.mark(SpecField::Description);
        }
        if !nameserver.is_empty() {
            self.spec.nameservers = flattened(nameserver);
            self.mark(SpecField::Nameservers);
        }
        if !searchdomain.is_empty() {
            self.spec.search_domains = flattened(searchdomain);
            self.mark(SpecField::SearchDomains);
        }
        if let Some(size) = diskspace {
            self.disk(*size);
        }
        if let Some(inodes) = diskinodes {
            self.spec.disk_inodes = Some((*inodes).into());
            self.mark(SpecField::Inodes);
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
            self.mark(SpecField::CpuLimit);
        }
        if let Some(units) = cpuunits {
            self.cpu_units(*units);
        }
        if let Some(Clearable(cpus)) = cpus {
            self.limits().cpus = *cpus;
            self.mark(SpecField::Cpus);
        }
        if let Some(Clearable(mask)) = cpumask {
            self.limits().cpu_mask = mask.as_ref().map(ToString::to_string);
            self.mark(SpecField::CpuMask);
        }
        if let Some(Clearable(mask)) = nodemask {
            self.limits().node_mask = mask.as_ref().map(ToString::to_string);
            self.mark(SpecField::NodeMask);
        }
        if let Some(priority) = ioprio {
            self.limits().io_priority = u64::from(*priority).try_into().ok();
            self.mark(SpecField::IoPriority);
        }
        if let Some(Clearable(bytes)) = iolimit {
            self.limits().io_bps = bytes.map(u64::from);
            self.mark(SpecField::IoBps);
        }
        if let Some(Clearable(requests)) = iopslimit {
            self.limits().io_iops = requests.map(u64::from);
            self.mark(SpecField::IoIops);
        }
        if let Some(Clearable(timeout)) = stop_timeout {
            self.spec.stop_timeout_s = timeout.map(u32::from);
            self.mark(SpecField::StopTimeout);
        }
        if let Some(policy) = restart {
            self.spec.restart = convert::render_restart(*policy).into();
            self.mark(SpecField::Restart);
        }
        for switch in features.iter().flat_map(|list| &list.0) {
            self.feature(*switch);
        }
        if let Some(onboot) = onboot {
            self.spec.onboot = *onboot;
            self.mark(SpecField::Onboot);
        }
        if let Some(Clearable(order)) = bootorder {
            self.spec.boot_order = *order;
            self.mark(SpecField::BootOrder);
        }
        if let Some(disabled) = disabled {
            self.spec.disabled = *disabled;
            self.mark(SpecField::Disabled);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::SetParams;
    use clap::Parser;
    use ves_types::Limit;

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

    fn ubc(options: &[&str], name: &str) -> (u64, u64) {
        let update = update(options).expect("the options are valid");
        let value = update.spec.limits.expect("a limit was given").ubc[name];
        assert_eq!(update.mask, [SpecField::Ubc(name.parse().expect("a parameter"))]);
        (value.barrier, value.limit)
    }

    #[test]
    fn all_21_parameters_are_there() {
        for resource in UbcResource::ALL {
            let option = format!("--{resource}");
            assert_eq!(ubc(&[&option, "8192:16384"], resource.name()), (8192, 16384));
            assert_eq!(ubc(&[&option, "1:unlimited"], resource.name()), (1, Limit::UNLIMITED_TEXT));
            for bad in ["", "x", "2:1", "1:2:3", "-1"] {
                assert!(update(&[&format!("{option}={bad}")]).is_err(), "{option} {bad:?}");
            }
        }
    }

    #[test]
    fn units_are_those_of_vzctl() {
        assert_eq!(ubc(&["--ram", "512M"], "physpages"), (0, 131_072));
        assert_eq!(ubc(&["--ram", "4097"], "physpages"), (0, 2));
        assert_eq!(ubc(&["--swap", "0"], "swappages"), (0, 0));
        assert_eq!(ubc(&["--swap", "unlimited"], "swappages"), (0, Limit::UNLIMITED_TEXT));
        assert_eq!(ubc(&["-p", "100"], "numproc"), (100, 100));
        assert_eq!(ubc(&["--privvmpages", "1g"], "privvmpages"), (262_144, 262_144));
        let disk = |s: &str| update(&["--diskspace", s]).map(|w| w.spec.disk_bytes).ok();
        assert_eq!(disk("1048576"), Some(1 << 30));
        assert_eq!(disk("10G:11G"), Some(11 << 30));
        assert_eq!(disk("2G:1G"), None);
        assert_eq!(disk("0"), None);
        let cpu = |s: &str| {
            update(&["--cpulimit", s]).map(|w| w.spec.limits.expect("set").cpu_millicpus).ok()
        };
        assert_eq!(cpu("150%"), Some(Some(1500)));
        assert_eq!(cpu("0"), Some(None));
        assert_eq!(cpu("x"), None);
        let io = |option: &str, s: &str| {
            let limits = update(&[option, s]).ok()?.spec.limits?;
            Some((limits.io_bps, limits.io_iops, limits.io_priority))
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
            update(&[option, s]).map(|w| w.spec.limits.map(|l| (l.cpu_mask, l.node_mask))).ok()
        };
        let text = |s: &str| Some(s.to_owned());
        assert_eq!(masks("--cpumask", "3,0,1"), Some(Some((text("0-1,3"), None))));
        assert_eq!(masks("--nodemask", "1"), Some(Some((None, text("1")))));
        assert_eq!(masks("--cpumask", "all"), Some(Some((None, None))));
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
            "--features",
            "nesting:on,abi32:off",
            "--description",
            "d",
        ])
        .expect("valid");
        assert_eq!(
            w.mask.iter().map(ToString::to_string).collect::<Vec<_>>(),
            [
                "name",
                "hostname",
                "description",
                "nameservers",
                "search_domains",
                "disk_inodes",
                "limits.cpu_units",
                "limits.cpus",
                "limits.cpu_mask",
                "limits.node_mask",
                "limits.io_priority",
                "limits.io_bps",
                "limits.io_iops",
                "stop_timeout_s",
                "restart",
                "features.nesting",
                "features.abi32",
                "onboot",
                "boot_order",
                "disabled"
            ]
        );
        assert_eq!(w.spec.nameservers, ["192.0.2.1", "::1"]);
        assert_eq!(w.spec.search_domains, ["example.org"]);
        assert_eq!((w.spec.boot_order, w.spec.disk_inodes), (Some(-3), Some(9000)));
        let features = w.spec.features.expect("some were given");
        assert_eq!((features.nesting, features.abi32), (Some(true), Some(false)));
        assert_eq!(features.migratable, None);
        assert_eq!(update(&[]).expect("valid"), SpecUpdate::default());
        let w =
            update(&["--hostname", "", "--nameserver", "", "--searchdomain="]).expect("cleared");
        assert_eq!(w.mask, [SpecField::Hostname, SpecField::Nameservers, SpecField::SearchDomains]);
        assert_eq!(w.spec, ContainerSpec::default());
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
