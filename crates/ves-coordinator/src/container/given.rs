//! A container between what it should be and the message that says so. Pure.
//!
//! Each mistake names its field by its whole path in the request, and all are told at once. What is empty has its
//! default. Never here: which of it a change means ([`crate::operation::kinds::set`]).

use std::collections::BTreeSet;

use ves_proto::public::{
    parse_devices, parse_features, parse_limits, parse_name, parse_restart,
    parse_snapshot_schedule, render_device, render_duration, render_features, render_limits,
    render_restart, render_snapshot_schedule,
};
use ves_proto::{Fault, api as pb};
use ves_types::capability::MAX_CAPABILITIES;
use ves_types::spec::{MAX_ADDRESSES, MAX_RESOLVER_ENTRIES, parse_nameserver};
use ves_types::{
    Bytes, Capability, CtAddress, CtId, Device, DiskSize, Hostname, InodeLimit, Limits, ParseError,
    StopTimeout, TemplateName, UbcResource,
};

use super::meta::{Meta, check_annotations, check_labels, parse_project};
use super::spec::Spec;
use crate::wrong::{Wrong, bad};

/// The least memory that a container may have.
pub const LEAST_RAM: Bytes = Bytes::mib(16);

/// The one interface there is.
pub const INTERFACE: &str = "venet0";
/// The one volume there is.
const VOLUME: &str = "root";

/// Reads a container as a whole. What is output only is not looked at.
///
/// # Errors
/// `BAD_VALUE` or `MISSING_FIELD` with all fields that are wrong.
pub fn parse(ct: CtId, given: Option<pb::Container>) -> Result<(Spec, Meta), Fault> {
    let mut wrong = Wrong::default();
    let read = given.map(|given| read(ct, given, &mut wrong));
    match read {
        Some(Some(read)) if wrong.is_empty() => Ok(read),
        Some(_) => {
            wrong.end()?;
            Err(Fault::missing("container.spec.template"))
        }
        None => Err(Fault::missing("container")),
    }
}

fn read(ct: CtId, given: pb::Container, wrong: &mut Wrong) -> Option<(Spec, Meta)> {
    let pb::Container {
        name: _,
        ct_id: _,
        uid: _,
        alias,
        project,
        labels,
        annotations,
        description,
        node: _,
        spec,
        status: _,
        etag: _,
        generation: _,
        create_time: _,
        delete_protection,
    } = given;
    let project = match project.as_str() {
        "" => None,
        name => wrong.take(read_project("container.project", name)),
    };
    check_labels("container.labels", &labels, wrong);
    check_annotations("container.annotations", &annotations, wrong);
    let meta = Meta { project, labels, annotations, delete_protection };
    let Some(spec) = spec else {
        wrong.push(Fault::missing("container.spec"));
        return None;
    };
    let pb::ContainerSpec {
        template,
        hostname,
        interfaces,
        nameservers,
        search_domains,
        volumes,
        limits,
        start_on_boot,
        boot_order,
        init,
        stop_timeout,
        features,
        disabled,
        restart_policy,
        devices,
        dropped_capabilities,
        snapshot_schedule,
    } = spec;
    let template = wrong.take(read_template("container.spec.template", &template));
    let (disk, inodes) = read_volumes(&volumes, wrong);
    let name = match alias.as_str() {
        "" => None,
        name => wrong.at("container.alias", name.parse()),
    };
    let hostname = match hostname.as_str() {
        "" => None,
        name => wrong.at("container.spec.hostname", name.parse()),
    };
    let spec = Spec {
        name,
        hostname: hostname.unwrap_or_else(|| Hostname::of_container(ct)),
        addresses: read_interfaces(&interfaces, wrong),
        nameservers: read_list(
            "container.spec.nameservers",
            &nameservers,
            MAX_RESOLVER_ENTRIES,
            parse_nameserver,
            wrong,
        ),
        search_domains: read_list(
            "container.spec.search_domains",
            &search_domains,
            MAX_RESOLVER_ENTRIES,
            str::parse,
            wrong,
        ),
        disk: disk.unwrap_or(DiskSize::DEFAULT),
        inodes,
        limits: wrong
            .within("container.spec.limits", parse_limits(limits).and_then(enough_memory))
            .unwrap_or_default(),
        onboot: start_on_boot,
        boot_order,
        disabled,
        description: wrong.take(parse_description(description)).unwrap_or_default(),
        init: wrong.at("container.spec.init", init.try_into()).unwrap_or_default(),
        stop_timeout: stop_timeout.and_then(|t| wrong.take(read_stop_timeout(t))),
        restart: wrong.within("container.spec", parse_restart(restart_policy)).unwrap_or_default(),
        devices: read_devices("container.spec.devices", &devices, wrong),
        capabilities_off: read_list(
            "container.spec.dropped_capabilities",
            &dropped_capabilities,
            MAX_CAPABILITIES,
            str::parse::<Capability>,
            wrong,
        )
        .into_iter()
        .collect::<BTreeSet<_>>(),
        features: wrong.within("container.spec", parse_features(features)).unwrap_or_default(),
        snapshot_schedule: wrong
            .within("container.spec", parse_snapshot_schedule(snapshot_schedule))
            .unwrap_or_default(),
        // The last, so that all other mistakes are found before.
        template: template?,
    };
    Some((spec, meta))
}

/// Reads `templates/NAME`.
///
/// # Errors
/// `BAD_VALUE` or `MISSING_FIELD` on `field`.
pub fn read_template(field: &str, name: &str) -> Result<TemplateName, Fault> {
    parse_name(field, "templates", name)?.parse().map_err(|e| Fault::bad_value(field, &e))
}

/// Reads `projects/NAME`.
///
/// # Errors
/// `BAD_VALUE` or `MISSING_FIELD` on `field`.
pub fn read_project(field: &str, name: &str) -> Result<String, Fault> {
    let name = parse_name(field, "projects", name)?;
    parse_project(name).map_err(|e| Fault::bad_value(field, &e))
}

/// Reads a list, each entry of which is named by its place.
pub fn read_list<T>(
    field: &str,
    words: &[String],
    most: usize,
    parse: impl Fn(&str) -> Result<T, ParseError>,
    wrong: &mut Wrong,
) -> Vec<T> {
    if words.len() > most {
        let message = format!("{field} has {} entries; {most} are the most", words.len());
        wrong.push(bad(field, message));
        return vec![];
    }
    let entries = words.iter().enumerate();
    entries.filter_map(|(n, word)| wrong.at(&format!("{field}[{n}]"), parse(word))).collect()
}

/// Reads addresses; one that is given twice counts once.
pub fn read_addresses(field: &str, addresses: &[String], wrong: &mut Wrong) -> Vec<CtAddress> {
    let mut all: Vec<CtAddress> = Vec::new();
    for address in read_list(field, addresses, MAX_ADDRESSES, str::parse, wrong) {
        if !all.contains(&address) {
            all.push(address);
        }
    }
    all
}

/// Reads devices, each once and in order.
pub fn read_devices(field: &str, devices: &[pb::Device], wrong: &mut Wrong) -> Vec<Device> {
    let mut all = match devices.len() {
        n if n > ves_types::device::MAX_DEVICES => {
            wrong.take(parse_devices(field, devices)).unwrap_or_default()
        }
        _ => {
            let one = |(n, device): (usize, &pb::Device)| {
                let field = format!("{field}[{n}]");
                wrong.take(parse_devices(&field, std::slice::from_ref(device)))
            };
            devices.iter().enumerate().filter_map(one).flatten().collect::<Vec<_>>()
        }
    };
    all.sort();
    all.dedup_by(|a, b| a.id == b.id);
    all
}

fn read_interfaces(interfaces: &[pb::Interface], wrong: &mut Wrong) -> Vec<CtAddress> {
    let field = "container.spec.interfaces";
    let [interface] = interfaces else {
        if !interfaces.is_empty() {
            let message = format!("one interface, {INTERFACE}, is what a container has so far");
            wrong.push(bad(field, message));
        }
        return vec![];
    };
    let pb::Interface { id, r#type, addresses } = interface;
    let field = format!("{field}[0]");
    if !id.is_empty() && id != INTERFACE {
        let why = "the one that a container has is venet0";
        wrong.at::<()>(&format!("{field}.id"), Err(ParseError::new("interface", id, why)));
    }
    wrong.take(crate::wrong::known::<pb::interface::Type>(&format!("{field}.type"), *r#type));
    read_addresses(&format!("{field}.addresses"), addresses, wrong)
}

fn read_volumes(
    volumes: &[pb::Volume],
    wrong: &mut Wrong,
) -> (Option<DiskSize>, Option<InodeLimit>) {
    let field = "container.spec.volumes";
    let [volume] = volumes else {
        if !volumes.is_empty() {
            let message = format!("one volume, {VOLUME}, is what a container has so far");
            wrong.push(bad(field, message));
        }
        return (None, None);
    };
    let pb::Volume { id, size_bytes, inodes } = volume;
    let field = format!("{field}[0]");
    if !id.is_empty() && id != VOLUME {
        let why = "the one that a container has is root";
        wrong.at::<()>(&format!("{field}.id"), Err(ParseError::new("volume", id, why)));
    }
    let size = match *size_bytes {
        0 => None,
        bytes => wrong.at(&format!("{field}.size_bytes"), bytes.try_into()),
    };
    let inodes = inodes.and_then(|n| wrong.at(&format!("{field}.inodes"), n.try_into()));
    (size, inodes)
}

fn read_stop_timeout(span: prost_types::Duration) -> Result<StopTimeout, Fault> {
    let field = "container.spec.stop_timeout";
    let seconds = u32::try_from(span.seconds).ok().filter(|_| span.nanos == 0);
    let seconds = seconds.ok_or_else(|| {
        let why = "it must be from 1 to 3600 whole seconds";
        let shown = format!("{} s and {} ns", span.seconds, span.nanos);
        Fault::bad_value(field, &ParseError::new("stop timeout", shown, why))
    })?;
    seconds.try_into().map_err(|e| Fault::bad_value(field, &e))
}

/// Refuses so little memory that nothing boots in it.
fn enough_memory(limits: Limits) -> Result<Limits, Fault> {
    match limits.limit_bytes(UbcResource::Physpages) {
        Some(ram) if ram < LEAST_RAM => {
            let why = "it must be at least 16 MiB, or init does not come up; with systemd inside, from \
                       32 MiB on that takes no longer than with more";
            let error = ParseError::new("amount of memory", ram.to_string(), why);
            Err(Fault::bad_value("ubc.physpages", &error).fact("least_bytes", LEAST_RAM.0))
        }
        Some(_) | None => Ok(limits),
    }
}

fn parse_description(text: String) -> Result<String, Fault> {
    if text.len() > 4096 || text.chars().any(|c| c.is_control() && c != '\n' && c != '\t') {
        let why = "it may have 4096 bytes and no control characters";
        let error = ParseError::new("description", &text, why);
        return Err(Fault::bad_value("container.description", &error));
    }
    Ok(text)
}

/// Writes a specification. Its alias and its description are the container's.
pub fn render(spec: &Spec) -> pb::ContainerSpec {
    let Spec {
        name: _,
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
        description: _,
        init,
        stop_timeout,
        restart,
        devices,
        capabilities_off,
        features,
        snapshot_schedule,
    } = spec;
    let interface = pb::Interface {
        id: INTERFACE.to_owned(),
        r#type: pb::interface::Type::Venet.into(),
        addresses: addresses.iter().map(ToString::to_string).collect(),
    };
    let volume = pb::Volume {
        id: VOLUME.to_owned(),
        size_bytes: (*disk).into(),
        inodes: inodes.map(u64::from),
    };
    let timeout = |t: StopTimeout| std::time::Duration::from_secs(u32::from(t).into());
    pb::ContainerSpec {
        template: ves_proto::public::template_name(template),
        hostname: hostname.as_str().to_owned(),
        interfaces: vec![interface],
        nameservers: nameservers.iter().map(ToString::to_string).collect(),
        search_domains: search_domains.iter().map(ToString::to_string).collect(),
        volumes: vec![volume],
        limits: Some(render_limits(limits)),
        start_on_boot: *onboot,
        boot_order: *boot_order,
        init: init.words().to_vec(),
        stop_timeout: stop_timeout.map(|t| render_duration(timeout(t))),
        features: Some(render_features(*features)),
        disabled: *disabled,
        restart_policy: render_restart(*restart).into(),
        devices: devices.iter().map(render_device).collect(),
        dropped_capabilities: capabilities_off.iter().map(ToString::to_string).collect(),
        snapshot_schedule: render_snapshot_schedule(*snapshot_schedule),
    }
}

#[cfg(test)]
mod tests {
    use ves_types::SpecField;

    use super::*;
    use crate::container::spec::copy;

    fn ct() -> CtId {
        CtId::try_from(101).expect("valid")
    }

    fn of(spec: pb::ContainerSpec) -> pb::Container {
        pb::Container { spec: Some(spec), ..pb::Container::default() }
    }

    fn given() -> pb::ContainerSpec {
        pb::ContainerSpec { template: "templates/trixie".to_owned(), ..Default::default() }
    }

    fn strings(word: &str) -> Vec<String> {
        vec![word.to_owned()]
    }

    fn interface(interface: pb::Interface) -> pb::ContainerSpec {
        pb::ContainerSpec { interfaces: vec![interface], ..given() }
    }

    fn volume(size_bytes: u64, inodes: Option<u64>) -> pb::ContainerSpec {
        let volume = pb::Volume { id: "root".to_owned(), size_bytes, inodes };
        pb::ContainerSpec { volumes: vec![volume], ..given() }
    }

    fn seconds(seconds: i64, nanos: i32) -> Option<prost_types::Duration> {
        Some(prost_types::Duration { seconds, nanos })
    }

    #[test]
    fn defaults() {
        let (spec, meta) = parse(ct(), Some(of(given()))).expect("valid");
        assert_eq!((spec.hostname.as_str(), spec.disk), ("ct101", DiskSize::DEFAULT));
        assert_eq!((&spec.name, meta), (&None, Meta::default()));
        assert_eq!(parse(ct(), Some(of(render(&spec)))).map(|(spec, _)| spec), Ok(spec));
    }

    #[test]
    fn every_mistake_names_its_field() {
        let device = |id: &str| pb::Device { id: id.into(), read: true, write: false };
        let in_spec: Vec<(&str, pb::ContainerSpec)> = vec![
            ("template", pb::ContainerSpec::default()),
            ("template", pb::ContainerSpec { template: "trixie".into(), ..given() }),
            ("template", pb::ContainerSpec { template: "templates/.x".into(), ..given() }),
            ("hostname", pb::ContainerSpec { hostname: "-x".into(), ..given() }),
            (
                "interfaces",
                pb::ContainerSpec { interfaces: vec![pb::Interface::default(); 2], ..given() },
            ),
            (
                "interfaces[0].id",
                interface(pb::Interface { id: "eth0".into(), ..Default::default() }),
            ),
            ("interfaces[0].type", interface(pb::Interface { r#type: 9, ..Default::default() })),
            (
                "interfaces[0].addresses[1]",
                interface(pb::Interface {
                    addresses: vec!["192.0.2.1".into(), "127.0.0.1".into()],
                    ..Default::default()
                }),
            ),
            ("nameservers[0]", pb::ContainerSpec { nameservers: strings("ns.x"), ..given() }),
            ("search_domains[0]", pb::ContainerSpec { search_domains: strings("a b"), ..given() }),
            ("volumes", pb::ContainerSpec { volumes: vec![pb::Volume::default(); 2], ..given() }),
            ("volumes[0].size_bytes", volume(1, None)),
            ("volumes[0].inodes", volume(0, Some(0))),
            ("init", pb::ContainerSpec { init: strings("init"), ..given() }),
            ("stop_timeout", pb::ContainerSpec { stop_timeout: seconds(0, 0), ..given() }),
            ("stop_timeout", pb::ContainerSpec { stop_timeout: seconds(1, 1), ..given() }),
            ("restart_policy", pb::ContainerSpec { restart_policy: 99, ..given() }),
            (
                "snapshot_schedule",
                pb::ContainerSpec {
                    snapshot_schedule: Some(pb::SnapshotSchedule {
                        hourly: 61,
                        ..Default::default()
                    }),
                    ..given()
                },
            ),
            ("devices[0]", pb::ContainerSpec { devices: vec![device("mem")], ..given() }),
            (
                "dropped_capabilities[0]",
                pb::ContainerSpec { dropped_capabilities: strings("SYS_TIME"), ..given() },
            ),
            (
                "limits.cpus",
                pb::ContainerSpec {
                    limits: Some(pb::Limits { cpus: Some(0), ..Default::default() }),
                    ..given()
                },
            ),
        ];
        let in_spec = in_spec.into_iter().map(|(f, s)| (format!("container.spec.{f}"), of(s)));
        let whole = [
            ("spec", pb::Container::default()),
            ("alias", pb::Container { alias: "7".into(), ..of(given()) }),
            ("description", pb::Container { description: "\u{1b}".into(), ..of(given()) }),
            ("project", pb::Container { project: "acme".into(), ..of(given()) }),
            ("project", pb::Container { project: "projects/-".into(), ..of(given()) }),
            (
                "labels",
                pb::Container { labels: [("a b".to_owned(), String::new())].into(), ..of(given()) },
            ),
        ];
        let whole = whole.into_iter().map(|(field, c)| (format!("container.{field}"), c));
        for (field, container) in in_spec.chain(whole) {
            let fault = parse(ct(), Some(container)).expect_err(&field);
            assert_eq!(fault.facts["field"], field, "{fault}");
        }
        assert_eq!(parse(ct(), None).expect_err("none").facts["field"], "container");
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let spec = pb::ContainerSpec {
            template: String::new(),
            hostname: "-x".into(),
            nameservers: strings("ns.x"),
            ..interface(pb::Interface { addresses: strings("x"), ..Default::default() })
        };
        let container = pb::Container { alias: "7".into(), ..of(spec) };
        let fault = parse(ct(), Some(container)).expect_err("much is wrong");
        let mut fields: Vec<_> = fault.violations.iter().map(|v| v.field.as_str()).collect();
        fields.sort_unstable();
        assert_eq!(
            fields,
            ["container.alias", "container.spec.hostname", "container.spec.template"]
                .into_iter()
                .chain(["container.spec.interfaces[0].addresses[0]"])
                .chain(["container.spec.nameservers[0]"])
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect::<Vec<_>>()
        );
    }

    #[test]
    fn so_little_memory_that_nothing_boots_is_refused() {
        let with = |pages: Option<u64>| {
            let physpages = Some(pb::Bounds { barrier: Some(0), limit: pages });
            let ubc = Some(pb::UbcLimits { physpages, ..Default::default() });
            let limits = Some(pb::Limits { ubc, ..Default::default() });
            parse(ct(), Some(of(pb::ContainerSpec { limits, ..given() })))
        };
        for few in [0, 1, 4095] {
            let fault = with(Some(few)).expect_err("too little");
            assert_eq!(fault.facts["field"], "container.spec.limits.ubc.physpages");
            assert_eq!(fault.facts["least_bytes"], (16 << 20).to_string());
        }
        assert!(with(Some(4096)).is_ok());
        assert!(with(None).is_ok());
    }

    #[test]
    fn copying_each_field_makes_the_same() {
        let mut ubc = pb::UbcLimits::default();
        for resource in UbcResource::ALL {
            let levels = pb::Bounds { barrier: Some(1), limit: Some(8192) };
            ves_proto::public::set_bounds(&mut ubc, resource, Some(levels));
        }
        let spec = pb::ContainerSpec {
            hostname: "web.example".into(),
            interfaces: vec![pb::Interface {
                addresses: strings("192.0.2.1"),
                ..Default::default()
            }],
            nameservers: strings("192.0.2.53"),
            search_domains: strings("example.net"),
            volumes: vec![pb::Volume { size_bytes: 4 << 30, ..Default::default() }],
            limits: Some(pb::Limits {
                ubc: Some(ubc),
                cpu_millicpus: Some(500),
                cpus: Some(2),
                cpu_units: Some(1000),
                cpu_mask: "0-1".into(),
                node_mask: "0".into(),
                io_bytes_per_second: Some(1 << 20),
                io_operations_per_second: Some(100),
                io_priority: Some(2),
            }),
            start_on_boot: true,
            boot_order: Some(3),
            init: strings("/bin/true"),
            stop_timeout: seconds(7, 0),
            features: Some(pb::Features {
                nesting: Some(true),
                migratable: Some(false),
                abi32: Some(false),
            }),
            disabled: true,
            restart_policy: pb::RestartPolicy::Always.into(),
            devices: vec![pb::Device { id: "net/tun".into(), read: true, write: true }],
            dropped_capabilities: strings("NET_RAW"),
            snapshot_schedule: Some(pb::SnapshotSchedule { hourly: 1, daily: 2, weekly: 3 }),
            ..given()
        };
        let container = pb::Container { alias: "web".into(), description: "x".into(), ..of(spec) };
        let (from, _) = parse(ct(), Some(container)).expect("valid");
        let (mut into, _) = parse(ct(), Some(of(given()))).expect("valid");
        let ubc = UbcResource::ALL.map(SpecField::Ubc);
        for field in SpecField::PLAIN.iter().chain(&ubc) {
            copy(*field, &from, &mut into);
        }
        assert_eq!(into, from);
    }
}
