//! What a container should be, read and written: what `create` gives, and what `set` changes field by field.
//!
//! Pure. Each mistake names its field. Which change can be made while a container runs is the table
//! [`FIELDS`]; what is then done about it is decided in [`crate::operation`].

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use ves_proto::convert::{parse_limits, render_limits};
use ves_proto::{Fault, Reason, coordinator as pb};
use ves_types::{
    Bytes, CtAddress, CtId, CtName, Hostname, Limits, ParseError, StopTimeout, TemplateName,
    UbcResource,
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
    pub search_domains: Vec<String>,
    /// Hard size of its volume.
    pub disk: Bytes,
    /// Hard number of inodes.
    pub inodes: Option<u64>,
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
    /// The init to run; empty: /sbin/init.
    pub init: Vec<String>,
    /// How long init may take to stop; none: [`StopTimeout::DEFAULT`].
    pub stop_timeout: Option<StopTimeout>,
}

/// The size of a volume nobody gave a size for.
pub const DEFAULT_DISK: Bytes = Bytes::gib(2);
/// Nothing useful fits in less.
const LEAST_DISK: Bytes = Bytes::mib(16);
/// ext4's greatest, with 4 KiB blocks.
const GREATEST_DISK: Bytes = Bytes::gib(16 << 10);
/// The most addresses.
const MOST: usize = 256;
/// The most name servers, search domains and words of init, which lifecycle takes.
const MOST_WORDS: usize = 64;

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

/// The fields an update mask can name, other than `limits.ubc.*`.
pub const FIELDS: &[(&str, Effect)] = &[
    ("name", Effect::Saved),
    ("hostname", Effect::Restart),
    ("template", Effect::Fixed),
    ("addresses", Effect::Live),
    ("nameservers", Effect::Restart),
    ("search_domains", Effect::Restart),
    ("disk_bytes", Effect::Live),
    ("disk_inodes", Effect::Fixed),
    ("limits.cpus", Effect::Live),
    ("limits.cpu_millicpus", Effect::Live),
    ("limits.cpu_units", Effect::Live),
    ("onboot", Effect::Saved),
    ("boot_order", Effect::Saved),
    ("disabled", Effect::Saved),
    ("description", Effect::Saved),
    ("init", Effect::Restart),
    ("stop_timeout_s", Effect::Live),
];

/// Parameters that are handed to a container's first process and not looked at again.
const AT_START: [UbcResource; 2] = [UbcResource::Numpty, UbcResource::Shmpages];

/// One field of an update mask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Field {
    /// A row of [`FIELDS`].
    Plain(&'static str, Effect),
    /// `limits.ubc.` and a parameter.
    Ubc(UbcResource),
}

impl Spec {
    /// How long init may take to stop, in milliseconds.
    pub fn grace_ms(&self) -> u32 {
        self.stop_timeout.unwrap_or(StopTimeout::DEFAULT).millis()
    }
}

impl Field {
    /// Reads a path.
    ///
    /// # Errors
    /// `BAD_VALUE` on "update_mask".
    pub fn parse(path: &str) -> Result<Self, Fault> {
        if let Some(name) = path.strip_prefix("limits.ubc.") {
            let resource = name.parse().map_err(|e| Fault::bad_value("update_mask", &e))?;
            return Ok(Self::Ubc(resource));
        }
        let row = FIELDS.iter().find(|(name, _)| *name == path);
        row.map(|(name, effect)| Self::Plain(name, *effect)).ok_or_else(|| {
            let why = "it is no field of a container that can be changed";
            Fault::bad_value("update_mask", &ParseError::new("field", path, why))
        })
    }

    /// The path.
    pub fn path(&self) -> String {
        match self {
            Self::Plain(name, _) => (*name).to_owned(),
            Self::Ubc(resource) => format!("limits.ubc.{resource}"),
        }
    }

    /// When a change takes effect.
    pub fn effect(&self) -> Effect {
        match self {
            Self::Plain(_, effect) => *effect,
            Self::Ubc(resource) if AT_START.contains(resource) => Effect::Restart,
            Self::Ubc(_) => Effect::Live,
        }
    }

    /// Takes this field of `from` over into `into`.
    pub fn copy(&self, from: &Spec, into: &mut Spec) {
        match self {
            Self::Ubc(resource) => match from.limits.ubc.get(resource) {
                Some(value) => {
                    into.limits.ubc.insert(*resource, *value);
                }
                None => {
                    into.limits.ubc.remove(resource);
                }
            },
            Self::Plain(name, _) => match *name {
                "name" => into.name.clone_from(&from.name),
                "hostname" => into.hostname = from.hostname.clone(),
                "addresses" => into.addresses.clone_from(&from.addresses),
                "nameservers" => into.nameservers.clone_from(&from.nameservers),
                "search_domains" => into.search_domains.clone_from(&from.search_domains),
                "disk_bytes" => into.disk = from.disk,
                "limits.cpus" => into.limits.cpus = from.limits.cpus,
                "limits.cpu_millicpus" => into.limits.cpu = from.limits.cpu,
                "limits.cpu_units" => into.limits.cpu_units = from.limits.cpu_units,
                "onboot" => into.onboot = from.onboot,
                "boot_order" => into.boot_order = from.boot_order,
                "disabled" => into.disabled = from.disabled,
                "description" => into.description.clone_from(&from.description),
                "init" => into.init.clone_from(&from.init),
                "stop_timeout_s" => into.stop_timeout = from.stop_timeout,
                // Fixed ones are refused before.
                _ => {}
            },
        }
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
    } = spec.ok_or_else(|| Fault::missing("spec"))?;
    if template.is_empty() {
        return Err(Fault::missing("template"));
    }
    let hostname = if hostname.is_empty() { format!("ct{ct}") } else { hostname };
    Ok(Spec {
        name: match name.as_str() {
            "" => None,
            name => Some(name.parse().map_err(|e| Fault::bad_value("name", &e))?),
        },
        hostname: hostname.parse().map_err(|e| Fault::bad_value("hostname", &e))?,
        template: template.parse().map_err(|e| Fault::bad_value("template", &e))?,
        addresses: parse_addresses("addresses", &addresses)?,
        nameservers: parse_nameservers(&nameservers)?,
        search_domains: parse_domains(search_domains)?,
        disk: parse_disk(disk_bytes)?,
        inodes: parse_inodes(disk_inodes)?,
        limits: parse_limits(limits).map_err(|f| match f.facts.get("field").cloned() {
            Some(field) => f.fact("field", format!("limits.{field}")),
            None => f,
        })?,
        onboot,
        boot_order,
        disabled,
        description: parse_description(description)?,
        init: parse_init(init)?,
        stop_timeout: stop_timeout_s
            .map(|s| s.try_into().map_err(|e| Fault::bad_value("stop_timeout_s", &e)))
            .transpose()?,
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
    } = spec;
    pb::ContainerSpec {
        name: name.as_ref().map(|n| n.as_str().to_owned()).unwrap_or_default(),
        hostname: hostname.as_str().to_owned(),
        template: template.as_str().to_owned(),
        addresses: addresses.iter().map(ToString::to_string).collect(),
        nameservers: nameservers.iter().map(ToString::to_string).collect(),
        search_domains: search_domains.clone(),
        disk_bytes: disk.0,
        disk_inodes: *inodes,
        limits: Some(render_limits(limits)),
        onboot: *onboot,
        boot_order: *boot_order,
        disabled: *disabled,
        description: description.clone(),
        init: init.clone(),
        stop_timeout_s: stop_timeout.map(u32::from),
    }
}

fn bad(field: &str, what: &'static str, input: &str, why: &'static str) -> Fault {
    Fault::bad_value(field, &ParseError::new(what, input, why))
}

fn too_many(field: &str, most: usize) -> Fault {
    let message = format!("{field} has more than {most} entries");
    Fault::new(Reason::BadValue, message).fact("field", field)
}

/// Reads addresses; one that is given twice counts once.
///
/// # Errors
/// `BAD_VALUE` on `field`.
pub fn parse_addresses(field: &str, addresses: &[String]) -> Result<Vec<CtAddress>, Fault> {
    if addresses.len() > MOST {
        return Err(too_many(field, MOST));
    }
    let mut all = Vec::new();
    for text in addresses {
        let address = text.parse().map_err(|e| Fault::bad_value(field, &e))?;
        if !all.contains(&address) {
            all.push(address);
        }
    }
    Ok(all)
}

fn parse_nameservers(servers: &[String]) -> Result<Vec<IpAddr>, Fault> {
    if servers.len() > MOST_WORDS {
        return Err(too_many("nameservers", MOST_WORDS));
    }
    let parse = |text: &String| {
        text.parse::<IpAddr>().map_err(|_| {
            let why = "it must be an IPv4 or IPv6 address";
            bad("nameservers", "name server", text, why)
        })
    };
    servers.iter().map(parse).collect()
}

fn parse_domains(domains: Vec<String>) -> Result<Vec<String>, Fault> {
    if domains.len() > MOST_WORDS {
        return Err(too_many("search_domains", MOST_WORDS));
    }
    for domain in &domains {
        // As lifecycle takes them.
        domain.parse::<Hostname>().map_err(|e| Fault::bad_value("search_domains", &e))?;
    }
    Ok(domains)
}

fn parse_disk(bytes: u64) -> Result<Bytes, Fault> {
    match Bytes(bytes) {
        Bytes(0) => Ok(DEFAULT_DISK),
        size if size < LEAST_DISK || size > GREATEST_DISK => {
            let why = "it must be from 16 MiB to 16 TiB";
            Err(bad("disk_bytes", "size", &size.to_string(), why))
        }
        size => Ok(size),
    }
}

fn parse_inodes(inodes: Option<u64>) -> Result<Option<u64>, Fault> {
    match inodes {
        Some(n) if !(1024..=u64::from(u32::MAX)).contains(&n) => {
            let why = "it must be from 1024 to 4294967295";
            Err(bad("disk_inodes", "number of inodes", &n.to_string(), why))
        }
        other => Ok(other),
    }
}

fn parse_description(text: String) -> Result<String, Fault> {
    if text.len() > 4096 || text.chars().any(|c| c.is_control() && c != '\n' && c != '\t') {
        let why = "it may have 4096 bytes and no control characters";
        return Err(bad("description", "description", &text, why));
    }
    Ok(text)
}

fn parse_init(init: Vec<String>) -> Result<Vec<String>, Fault> {
    if init.len() > MOST_WORDS {
        return Err(too_many("init", MOST_WORDS));
    }
    let long = init.iter().any(|word| word.len() > 4096 || word.contains('\0'));
    match init.first() {
        Some(program) if long || !program.starts_with('/') => {
            let why = "it must be a path from the root, with words of at most 4096 bytes";
            Err(bad("init", "init", program, why))
        }
        _ => Ok(init),
    }
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

    #[test]
    fn defaults() {
        let spec = parse(ct(), Some(given())).expect("valid");
        assert_eq!((spec.hostname.as_str(), spec.disk), ("ct101", DEFAULT_DISK));
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
    fn masks() {
        for (name, effect) in FIELDS {
            let field = Field::parse(name).expect(name);
            assert_eq!((field.path().as_str(), field.effect()), (*name, *effect));
        }
        assert_eq!(Field::parse("limits.ubc.numproc").expect("known").effect(), Effect::Live);
        assert_eq!(Field::parse("limits.ubc.numpty").expect("known").effect(), Effect::Restart);
        for unknown in ["", "limits", "limits.ubc.x", "limits.ubc.", "id", "Name"] {
            let fault = Field::parse(unknown).expect_err(unknown);
            assert_eq!(fault.facts["field"], "update_mask");
        }
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
                    ubc: UbcResource::ALL
                        .map(|r| {
                            let value = ves_proto::common::UbcValue { barrier: 1, limit: 2 };
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
                ..given()
            }),
        )
        .expect("valid");
        let mut into = parse(ct(), Some(given())).expect("valid");
        let plain = FIELDS.iter().map(|(name, _)| (*name).to_owned());
        let ubc = UbcResource::ALL.iter().map(|r| format!("limits.ubc.{r}"));
        for path in plain.chain(ubc) {
            Field::parse(&path).expect(&path).copy(&from, &mut into);
        }
        assert_eq!(into, from);
    }
}
