//! What a container should be, read and written: what `create` gives, and what `set` changes field by field.
//!
//! Pure. Each mistake names its field. Which change can be made while a container runs says
//! [`effect`]; what is then done about it is decided in [`crate::operation`].

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use ves_proto::convert::{
    parse_features, parse_limits, parse_list, parse_restart, render_features, render_limits,
    render_restart,
};
use ves_proto::{Fault, Reason, coordinator as pb};
use ves_types::capability::MAX_CAPABILITIES;
use ves_types::device::MAX_DEVICES;
use ves_types::spec::{MAX_ADDRESSES, MAX_RESOLVER_ENTRIES, parse_nameserver};
use ves_types::{
    Bytes, Capability, CtAddress, CtId, CtName, Device, DiskSize, Features, Hostname, InitArgv,
    InodeLimit, Limits, ParseError, RestartPolicy, SearchDomain, SpecField, StopTimeout,
    TemplateName, UbcResource,
};

/// What a container should be, as `create` and `set` give it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// A second way to name it.
    pub name: Option<CtName>,
    /// Its host name.
    pub hostname: Hostname,
    /// What its volume was made from; fixed.
    pub template: TemplateName,
    /// Its addresses, in the order given, without doubles.
    pub addresses: Vec<CtAddress>,
    /// Name servers.
    pub nameservers: Vec<IpAddr>,
    /// Search domains.
    pub search_domains: Vec<SearchDomain>,
    /// Hard size of its volume.
    pub disk: DiskSize,
    /// Hard number of inodes.
    pub inodes: Option<InodeLimit>,
    /// Limits.
    pub limits: Limits,
    /// Start it when the node starts.
    pub onboot: bool,
    /// Higher starts earlier; none: last.
    pub boot_order: Option<i32>,
    /// Not started without force.
    pub disabled: bool,
    /// Free text.
    pub description: String,
    /// The init to run.
    pub init: InitArgv,
    /// How long init may take to stop; none: [`StopTimeout::DEFAULT`].
    pub stop_timeout: Option<StopTimeout>,
    /// Whether it is started again when it ended by itself.
    #[serde(default)]
    pub restart: RestartPolicy,
    /// Devices of the node that it has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<Device>,
    /// Capabilities that it has not, of those that containers have.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub capabilities_off: BTreeSet<Capability>,
    /// What of the kernel it may use.
    #[serde(default)]
    pub features: Features,
}

/// The least memory that a container may have.
pub const LEAST_RAM: Bytes = Bytes::mib(16);

/// When a change of a field of a running container takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// At once.
    Live,
    /// When it starts the next time.
    Restart,
    /// It is no matter of the running container: only saving it means something.
    Saved,
    /// Never: it is chosen at creation.
    Fixed,
}

impl Spec {
    /// What a container is called and whom it asks for names.
    pub fn names(&self) -> (&Hostname, &[IpAddr], &[SearchDomain]) {
        (&self.hostname, &self.nameservers, &self.search_domains)
    }

    /// How much memory it may have; none: no limit.
    pub fn ram(&self) -> Option<Bytes> {
        self.limits.limit_bytes(UbcResource::Physpages)
    }

    /// How long init may take to stop, in milliseconds.
    pub fn grace_ms(&self) -> u32 {
        self.stop_timeout.unwrap_or(StopTimeout::DEFAULT).millis()
    }
}

/// When a change of `field` takes effect.
pub const fn effect(field: SpecField) -> Effect {
    use SpecField as F;
    match field {
        F::Template | F::Inodes => Effect::Fixed,
        // As all that a container's first process is given: what it may do has no way back.
        F::Init | F::Devices | F::CapabilitiesOff | F::Nesting | F::Migratable | F::Abi32 => {
            Effect::Restart
        }
        F::Name | F::Onboot | F::BootOrder | F::Disabled | F::Description | F::Restart => {
            Effect::Saved
        }
        F::Hostname
        | F::Nameservers
        | F::SearchDomains
        | F::Addresses
        | F::Disk
        | F::Cpus
        | F::CpuLimit
        | F::CpuUnits
        | F::CpuMask
        | F::NodeMask
        | F::IoBps
        | F::IoIops
        | F::IoPriority
        | F::StopTimeout => Effect::Live,
        // Handed to a container's first process and not looked at again.
        F::Ubc(UbcResource::Numpty | UbcResource::Shmpages) => Effect::Restart,
        F::Ubc(_) => Effect::Live,
    }
}

/// Takes `field` of `from` over into `into`.
pub fn copy(field: SpecField, from: &Spec, into: &mut Spec) {
    use SpecField as F;
    match field {
        F::Name => into.name.clone_from(&from.name),
        F::Hostname => into.hostname.clone_from(&from.hostname),
        F::Template => into.template.clone_from(&from.template),
        F::Addresses => into.addresses.clone_from(&from.addresses),
        F::Nameservers => into.nameservers.clone_from(&from.nameservers),
        F::SearchDomains => into.search_domains.clone_from(&from.search_domains),
        F::Disk => into.disk = from.disk,
        F::Inodes => into.inodes = from.inodes,
        F::Cpus => into.limits.cpus = from.limits.cpus,
        F::CpuLimit => into.limits.cpu = from.limits.cpu,
        F::CpuUnits => into.limits.cpu_units = from.limits.cpu_units,
        F::CpuMask => into.limits.cpu_mask.clone_from(&from.limits.cpu_mask),
        F::NodeMask => into.limits.node_mask.clone_from(&from.limits.node_mask),
        F::IoBps => into.limits.io_bps = from.limits.io_bps,
        F::IoIops => into.limits.io_iops = from.limits.io_iops,
        F::IoPriority => into.limits.io_priority = from.limits.io_priority,
        F::Onboot => into.onboot = from.onboot,
        F::BootOrder => into.boot_order = from.boot_order,
        F::Disabled => into.disabled = from.disabled,
        F::Description => into.description.clone_from(&from.description),
        F::Init => into.init.clone_from(&from.init),
        F::StopTimeout => into.stop_timeout = from.stop_timeout,
        F::Restart => into.restart = from.restart,
        F::Devices => into.devices.clone_from(&from.devices),
        F::CapabilitiesOff => into.capabilities_off.clone_from(&from.capabilities_off),
        F::Nesting => into.features.nesting = from.features.nesting,
        F::Migratable => into.features.migratable = from.features.migratable,
        F::Abi32 => into.features.abi32 = from.features.abi32,
        F::Ubc(resource) => match from.limits.ubc.get(&resource) {
            Some(value) => {
                into.limits.ubc.insert(resource, *value);
            }
            None => {
                into.limits.ubc.remove(&resource);
            }
        },
    }
}

/// Reads a specification as a whole. What is empty gets its default.
///
/// # Errors
/// `BAD_VALUE` or `MISSING_FIELD` with the field.
pub fn parse(ct: CtId, spec: Option<pb::ContainerSpec>) -> Result<Spec, Fault> {
    let pb::ContainerSpec {
        name,
        hostname,
        template,
        addresses,
        nameservers,
        search_domains,
        disk_bytes,
        disk_inodes,
        limits,
        onboot,
        boot_order,
        disabled,
        description,
        init,
        stop_timeout_s,
        restart,
        devices,
        capabilities_off,
        features,
    } = spec.ok_or_else(|| Fault::missing("spec"))?;
    if template.is_empty() {
        return Err(Fault::missing("template"));
    }
    Ok(Spec {
        name: match name.as_str() {
            "" => None,
            name => Some(name.parse().map_err(|e| Fault::bad_value("name", &e))?),
        },
        hostname: match hostname.as_str() {
            "" => Hostname::of_container(ct),
            name => name.parse().map_err(|e| Fault::bad_value("hostname", &e))?,
        },
        template: template.parse().map_err(|e| Fault::bad_value("template", &e))?,
        addresses: parse_addresses("addresses", &addresses)?,
        nameservers: parse_list(
            "nameservers",
            &nameservers,
            MAX_RESOLVER_ENTRIES,
            parse_nameserver,
        )?,
        search_domains: parse_list(
            "search_domains",
            &search_domains,
            MAX_RESOLVER_ENTRIES,
            str::parse,
        )?,
        disk: match disk_bytes {
            0 => DiskSize::DEFAULT,
            bytes => bytes.try_into().map_err(|e| Fault::bad_value("disk_bytes", &e))?,
        },
        inodes: disk_inodes
            .map(|n| n.try_into().map_err(|e| Fault::bad_value("disk_inodes", &e)))
            .transpose()?,
        limits: parse_limits(limits)
            .map_err(|f| match f.facts.get("field").cloned() {
                Some(field) => f.fact("field", format!("limits.{field}")),
                None => f,
            })
            .and_then(enough_memory)?,
        onboot,
        boot_order,
        disabled,
        description: parse_description(description)?,
        init: init.try_into().map_err(|e| Fault::bad_value("init", &e))?,
        stop_timeout: stop_timeout_s
            .map(|s| s.try_into().map_err(|e| Fault::bad_value("stop_timeout_s", &e)))
            .transpose()?,
        restart: parse_restart(restart)?,
        devices: parse_devices(&devices)?,
        capabilities_off: parse_all(
            "capabilities_off",
            &capabilities_off,
            MAX_CAPABILITIES,
            str::parse,
        )?
        .into_iter()
        .collect(),
        features: parse_features(features),
    })
}

/// Writes a specification.
pub fn render(spec: &Spec) -> pb::ContainerSpec {
    let Spec {
        name,
        hostname,
        template,
        addresses,
        nameservers,
        search_domains,
        disk,
        inodes,
        limits,
        onboot,
        boot_order,
        disabled,
        description,
        init,
        stop_timeout,
        restart,
        devices,
        capabilities_off,
        features,
    } = spec;
    pb::ContainerSpec {
        name: name.as_ref().map(|n| n.as_str().to_owned()).unwrap_or_default(),
        hostname: hostname.as_str().to_owned(),
        template: template.as_str().to_owned(),
        addresses: addresses.iter().map(ToString::to_string).collect(),
        nameservers: nameservers.iter().map(ToString::to_string).collect(),
        search_domains: search_domains.iter().map(ToString::to_string).collect(),
        disk_bytes: (*disk).into(),
        disk_inodes: inodes.map(u64::from),
        limits: Some(render_limits(limits)),
        onboot: *onboot,
        boot_order: *boot_order,
        disabled: *disabled,
        description: description.clone(),
        init: init.words().to_vec(),
        stop_timeout_s: stop_timeout.map(u32::from),
        restart: render_restart(*restart).into(),
        devices: devices.iter().map(ToString::to_string).collect(),
        capabilities_off: capabilities_off.iter().map(ToString::to_string).collect(),
        features: Some(render_features(*features)),
    }
}

fn bad(field: &str, what: &'static str, input: &str, why: &'static str) -> Fault {
    Fault::bad_value(field, &ParseError::new(what, input, why))
}

/// Refuses so little memory that nothing boots in it.
fn enough_memory(limits: Limits) -> Result<Limits, Fault> {
    match limits.limit_bytes(UbcResource::Physpages) {
        Some(ram) if ram < LEAST_RAM => {
            let why = "it must be at least 16 MiB, or init does not come up; with systemd inside, from \
                       32 MiB on that takes no longer than with more";
            let field = SpecField::Ubc(UbcResource::Physpages).to_string();
            let fault = bad(&field, "amount of memory", &ram.to_string(), why);
            Err(fault.fact("least_bytes", LEAST_RAM.0))
        }
        Some(_) | None => Ok(limits),
    }
}

/// Reads addresses; one that is given twice counts once.
///
/// # Errors
/// `BAD_VALUE` on `field`.
pub fn parse_addresses(field: &str, addresses: &[String]) -> Result<Vec<CtAddress>, Fault> {
    let mut all: Vec<CtAddress> = Vec::new();
    for address in parse_list(field, addresses, MAX_ADDRESSES, str::parse)? {
        if !all.contains(&address) {
            all.push(address);
        }
    }
    Ok(all)
}

/// The most mistakes that are told at once.
const MISTAKES: usize = 16;

/// Reads a list of which all mistakes are told at once.
///
/// # Errors
/// `BAD_VALUE` on `field`.
pub fn parse_all<T>(
    field: &str,
    words: &[String],
    most: usize,
    parse: impl Fn(&str) -> Result<T, ParseError>,
) -> Result<Vec<T>, Fault> {
    let mistakes: Vec<_> = words.iter().filter_map(|word| parse(word).err()).collect();
    if words.len() > most || mistakes.len() < 2 {
        return parse_list(field, words, most, parse);
    }
    let mut all: Vec<_> = mistakes.iter().take(MISTAKES).map(ToString::to_string).collect();
    if let more @ 1.. = mistakes.len() - all.len() {
        all.push(format!("and {more} more"));
    }
    Err(Fault::new(Reason::BadValue, all.join("; ")).fact("field", field))
}

fn parse_devices(words: &[String]) -> Result<Vec<Device>, Fault> {
    let mut devices: Vec<Device> = parse_all("devices", words, MAX_DEVICES, str::parse)?;
    devices.sort();
    devices.dedup_by(|a, b| a.id == b.id);
    Ok(devices)
}

fn parse_description(text: String) -> Result<String, Fault> {
    if text.len() > 4096 || text.chars().any(|c| c.is_control() && c != '\n' && c != '\t') {
        let why = "it may have 4096 bytes and no control characters";
        return Err(bad("description", "description", &text, why));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ct() -> CtId {
        CtId::try_from(101).expect("valid")
    }

    fn given() -> pb::ContainerSpec {
        pb::ContainerSpec { template: "trixie".to_owned(), ..Default::default() }
    }

    fn features(nesting: bool, migratable: bool) -> Option<ves_proto::common::Features> {
        let (nesting, migratable) = (Some(nesting), Some(migratable));
        Some(ves_proto::common::Features { nesting, migratable, abi32: Some(false) })
    }

    #[test]
    fn defaults() {
        let spec = parse(ct(), Some(given())).expect("valid");
        assert_eq!((spec.hostname.as_str(), spec.disk), ("ct101", DiskSize::DEFAULT));
        assert_eq!(spec.name, None);
        assert_eq!(parse(ct(), Some(render(&spec))), Ok(spec));
    }

    #[test]
    fn every_mistake_names_its_field() {
        let strings = |s: &str| vec![s.to_owned()];
        let table: Vec<(&str, pb::ContainerSpec)> = vec![
            ("template", pb::ContainerSpec::default()),
            ("template", pb::ContainerSpec { template: "../x".into(), ..given() }),
            ("name", pb::ContainerSpec { name: "7".into(), ..given() }),
            ("hostname", pb::ContainerSpec { hostname: "-x".into(), ..given() }),
            ("addresses", pb::ContainerSpec { addresses: strings("127.0.0.1"), ..given() }),
            ("nameservers", pb::ContainerSpec { nameservers: strings("ns.x"), ..given() }),
            ("search_domains", pb::ContainerSpec { search_domains: strings("a b"), ..given() }),
            ("disk_bytes", pb::ContainerSpec { disk_bytes: 1, ..given() }),
            ("disk_inodes", pb::ContainerSpec { disk_inodes: Some(0), ..given() }),
            ("description", pb::ContainerSpec { description: "\u{1b}".into(), ..given() }),
            ("init", pb::ContainerSpec { init: strings("init"), ..given() }),
            ("stop_timeout_s", pb::ContainerSpec { stop_timeout_s: Some(0), ..given() }),
            ("restart", pb::ContainerSpec { restart: 99, ..given() }),
            ("devices", pb::ContainerSpec { devices: strings("mem:rw"), ..given() }),
            (
                "capabilities_off",
                pb::ContainerSpec { capabilities_off: strings("SYS_TIME"), ..given() },
            ),
            (
                "limits.cpus",
                pb::ContainerSpec {
                    limits: Some(ves_proto::common::Limits { cpus: Some(0), ..Default::default() }),
                    ..given()
                },
            ),
        ];
        for (field, spec) in table {
            let fault = parse(ct(), Some(spec)).expect_err(field);
            assert_eq!(fault.facts["field"], field, "{fault}");
        }
    }

    #[test]
    fn so_little_memory_that_nothing_boots_is_refused() {
        let with = |pages: u64| {
            let value = ves_proto::common::UbcValue { barrier: 0, limit: pages };
            let limits = ves_proto::common::Limits {
                ubc: [("physpages".to_owned(), value)].into(),
                ..Default::default()
            };
            parse(ct(), Some(pb::ContainerSpec { limits: Some(limits), ..given() }))
        };
        for few in [0, 1, 4095] {
            let fault = with(few).expect_err("too little");
            assert_eq!(fault.facts["field"], "limits.ubc.physpages");
            assert_eq!(fault.facts["least_bytes"], (16 << 20).to_string());
        }
        assert!(with(4096).is_ok());
        assert!(with(ves_types::Limit::UNLIMITED_TEXT).is_ok());
    }

    #[test]
    fn copying_each_field_makes_the_same() {
        let from = parse(
            ct(),
            Some(pb::ContainerSpec {
                name: "web".into(),
                hostname: "web.example".into(),
                addresses: vec!["192.0.2.1".into()],
                nameservers: vec!["192.0.2.53".into()],
                search_domains: vec!["example.net".into()],
                disk_bytes: 4 << 30,
                limits: Some(ves_proto::common::Limits {
                    cpus: Some(2),
                    cpu_millicpus: Some(500),
                    cpu_units: Some(1000),
                    cpu_mask: Some("0-1".into()),
                    node_mask: Some("0".into()),
                    io_bps: Some(1 << 20),
                    io_iops: Some(100),
                    io_priority: Some(2),
                    ubc: UbcResource::ALL
                        .map(|r| {
                            let value = ves_proto::common::UbcValue { barrier: 1, limit: 8192 };
                            (r.name().to_owned(), value)
                        })
                        .into(),
                }),
                onboot: true,
                boot_order: Some(3),
                disabled: true,
                description: "x".into(),
                init: vec!["/bin/true".into()],
                stop_timeout_s: Some(7),
                restart: pb::RestartPolicy::Always.into(),
                devices: vec!["net/tun:rw".into()],
                capabilities_off: vec!["NET_RAW".into()],
                features: features(true, false),
                ..given()
            }),
        )
        .expect("valid");
        let mut into = parse(ct(), Some(given())).expect("valid");
        let ubc = UbcResource::ALL.map(SpecField::Ubc);
        for field in SpecField::PLAIN.iter().chain(&ubc) {
            copy(*field, &from, &mut into);
        }
        assert_eq!(into, from);
    }
}
