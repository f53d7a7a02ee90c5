//! What a container should be, and what becomes of a change of each of its fields.
//!
//! Pure. Which change can be made while a container runs says [`effect`]; what is then done about it is
//! decided in [`crate::operation`]. How it is read and written: [`super::given`].

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use ves_types::{
    Bytes, Capability, CtAddress, CtId, CtName, Device, DiskSize, Features, Hostname, InitArgv,
    InodeLimit, Limits, RestartPolicy, SearchDomain, SnapshotSchedule, SpecField, StopTimeout,
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
    /// Which snapshots are taken of it by themselves.
    #[serde(default)]
    pub snapshot_schedule: SnapshotSchedule,
}

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
    /// Of a template and nothing else.
    pub fn of_template(ct: CtId, template: TemplateName) -> Self {
        Self {
            name: None,
            hostname: Hostname::of_container(ct),
            template,
            addresses: vec![],
            nameservers: vec![],
            search_domains: vec![],
            disk: DiskSize::DEFAULT,
            inodes: None,
            limits: Limits::default(),
            onboot: false,
            boot_order: None,
            disabled: false,
            description: String::new(),
            init: InitArgv::default(),
            stop_timeout: None,
            restart: RestartPolicy::default(),
            devices: vec![],
            capabilities_off: BTreeSet::new(),
            features: Features::default(),
            snapshot_schedule: SnapshotSchedule::default(),
        }
    }

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
        F::Name
        | F::Onboot
        | F::BootOrder
        | F::Disabled
        | F::Description
        | F::Restart
        | F::SnapshotSchedule => Effect::Saved,
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
        F::SnapshotSchedule => into.snapshot_schedule = from.snapshot_schedule,
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

/// Its path in an update mask of the public API.
pub fn path_of(field: SpecField) -> String {
    use SpecField as F;
    let path = match field {
        F::Name => "alias",
        F::Description => "description",
        F::Hostname => "spec.hostname",
        F::Template => "spec.template",
        F::Addresses => "spec.interfaces",
        F::Nameservers => "spec.nameservers",
        F::SearchDomains => "spec.search_domains",
        F::Disk | F::Inodes => "spec.volumes",
        F::Cpus => "spec.limits.cpus",
        F::CpuLimit => "spec.limits.cpu_millicpus",
        F::CpuUnits => "spec.limits.cpu_units",
        F::CpuMask => "spec.limits.cpu_mask",
        F::NodeMask => "spec.limits.node_mask",
        F::IoBps => "spec.limits.io_bytes_per_second",
        F::IoIops => "spec.limits.io_operations_per_second",
        F::IoPriority => "spec.limits.io_priority",
        F::Onboot => "spec.start_on_boot",
        F::BootOrder => "spec.boot_order",
        F::Disabled => "spec.disabled",
        F::Init => "spec.init",
        F::StopTimeout => "spec.stop_timeout",
        F::Restart => "spec.restart_policy",
        F::Devices => "spec.devices",
        F::CapabilitiesOff => "spec.dropped_capabilities",
        F::Nesting => "spec.features.nesting",
        F::Migratable => "spec.features.migratable",
        F::Abi32 => "spec.features.abi32",
        F::SnapshotSchedule => "spec.snapshot_schedule",
        F::Ubc(resource) => return format!("spec.limits.ubc.{resource}"),
    };
    path.to_owned()
}
