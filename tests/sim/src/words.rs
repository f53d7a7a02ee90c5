//! Containers, operations and calls in the short words of the tests: what matters to them, made to and from the
//! messages of `ves.api.v1` in one place. Never here: anything that is asked.
//!
//! A test of the messages themselves uses those.

use ves_coordinator::container::spec::path_of;
use ves_proto::common::{Features, Limits, UbcValue};
use ves_proto::public::{bounds, set_bounds, unix_ms};
use ves_proto::{Fault, api};
use ves_types::{Limit, SpecField, UbcResource};

pub use ves_proto::api::container_status::State as ContainerState;
pub use ves_proto::api::operation::State as OperationState;
pub use ves_proto::api::{OomVictim, RestartPolicy};

/// What a container should be, its alias and its description among it.
#[derive(Debug, Clone, PartialEq, Default)]
#[expect(missing_docs, reason = "fields are those of the API")]
pub struct ContainerSpec {
    pub name: String,
    pub hostname: String,
    pub template: String,
    pub addresses: Vec<String>,
    pub nameservers: Vec<String>,
    pub search_domains: Vec<String>,
    pub disk_bytes: u64,
    pub disk_inodes: Option<u64>,
    pub limits: Option<Limits>,
    pub onboot: bool,
    pub boot_order: Option<i32>,
    pub disabled: bool,
    pub description: String,
    pub init: Vec<String>,
    pub stop_timeout_s: Option<u32>,
    pub restart: i32,
    /// `net/tun:rw`.
    pub devices: Vec<String>,
    pub capabilities_off: Vec<String>,
    pub features: Option<Features>,
    pub snapshot_schedule: Option<api::SnapshotSchedule>,
}

/// `net/tun:rw` as a device.
fn device(word: &str) -> api::Device {
    let (id, access) = word.rsplit_once(':').unwrap_or((word, ""));
    let (read, write) = (access.contains('r'), access.contains('w'));
    api::Device { id: id.to_owned(), read, write }
}

fn limits(limits: Limits) -> api::Limits {
    let mut ubc = api::UbcLimits::default();
    for (name, UbcValue { barrier, limit }) in limits.ubc {
        let levels = api::Bounds { barrier: Some(barrier), limit: Some(limit) };
        set_bounds(&mut ubc, name.parse().expect("a parameter"), Some(levels));
    }
    api::Limits {
        ubc: Some(ubc),
        cpu_millicpus: limits.cpu_millicpus,
        cpus: limits.cpus,
        cpu_units: limits.cpu_units,
        cpu_mask: limits.cpu_mask.unwrap_or_default(),
        node_mask: limits.node_mask.unwrap_or_default(),
        io_bytes_per_second: limits.io_bps,
        io_operations_per_second: limits.io_iops,
        io_priority: limits.io_priority,
    }
}

fn limits_of(limits: api::Limits) -> Limits {
    let ubc = limits.ubc.unwrap_or_default();
    let level = |n: Option<u64>| n.unwrap_or(Limit::Unlimited.to_wire());
    let value = |resource: UbcResource| {
        let levels = bounds(&ubc, resource)?;
        let value = UbcValue { barrier: level(levels.barrier), limit: level(levels.limit) };
        Some((resource.name().to_owned(), value))
    };
    let given = |mask: String| Some(mask).filter(|mask| !mask.is_empty());
    Limits {
        ubc: UbcResource::ALL.into_iter().filter_map(value).collect(),
        cpu_millicpus: limits.cpu_millicpus,
        cpus: limits.cpus,
        cpu_units: limits.cpu_units,
        cpu_mask: given(limits.cpu_mask),
        node_mask: given(limits.node_mask),
        io_bps: limits.io_bytes_per_second,
        io_iops: limits.io_operations_per_second,
        io_priority: limits.io_priority,
    }
}

impl ContainerSpec {
    /// The message that asks for it.
    pub fn container(self) -> api::Container {
        let seconds = |s: u32| prost_types::Duration { seconds: s.into(), nanos: 0 };
        let interface = api::Interface { addresses: self.addresses, ..api::Interface::default() };
        let volume = api::Volume {
            size_bytes: self.disk_bytes,
            inodes: self.disk_inodes,
            ..api::Volume::default()
        };
        let template = match self.template.as_str() {
            "" => String::new(),
            name => format!("templates/{name}"),
        };
        let spec = api::ContainerSpec {
            template,
            hostname: self.hostname,
            interfaces: vec![interface],
            nameservers: self.nameservers,
            search_domains: self.search_domains,
            volumes: vec![volume],
            limits: self.limits.map(limits),
            start_on_boot: self.onboot,
            boot_order: self.boot_order,
            init: self.init,
            stop_timeout: self.stop_timeout_s.map(seconds),
            features: self.features.map(|f| api::Features {
                nesting: f.nesting,
                migratable: f.migratable,
                abi32: f.abi32,
            }),
            disabled: self.disabled,
            restart_policy: self.restart,
            devices: self.devices.iter().map(|word| device(word)).collect(),
            dropped_capabilities: self.capabilities_off,
            snapshot_schedule: self.snapshot_schedule,
        };
        api::Container {
            alias: self.name,
            description: self.description,
            spec: Some(spec),
            ..api::Container::default()
        }
    }

    fn of(spec: api::ContainerSpec) -> Self {
        let interface = spec.interfaces.into_iter().next().unwrap_or_default();
        let volume = spec.volumes.into_iter().next().unwrap_or_default();
        let access = |d: &api::Device| match (d.read, d.write) {
            (true, true) => "rw",
            (true, false) => "r",
            (false, _) => "w",
        };
        Self {
            name: String::new(),
            hostname: spec.hostname,
            template: spec.template.trim_start_matches("templates/").to_owned(),
            addresses: interface.addresses,
            nameservers: spec.nameservers,
            search_domains: spec.search_domains,
            disk_bytes: volume.size_bytes,
            disk_inodes: volume.inodes,
            limits: spec.limits.map(limits_of),
            onboot: spec.start_on_boot,
            boot_order: spec.boot_order,
            disabled: spec.disabled,
            description: String::new(),
            init: spec.init,
            stop_timeout_s: spec.stop_timeout.and_then(|t| t.seconds.try_into().ok()),
            restart: spec.restart_policy,
            devices: spec.devices.iter().map(|d| format!("{}:{}", d.id, access(d))).collect(),
            capabilities_off: spec.dropped_capabilities,
            snapshot_schedule: spec.snapshot_schedule,
            features: spec.features.map(|f| Features {
                nesting: f.nesting,
                migratable: f.migratable,
                abi32: f.abi32,
            }),
        }
    }
}

/// A container as it is shown.
#[derive(Debug, Clone, PartialEq, Default)]
#[expect(missing_docs, reason = "fields are those of the API")]
pub struct Container {
    pub id: u32,
    pub spec: Option<ContainerSpec>,
    pub state: i32,
    pub generation: u64,
    pub etag: String,
    pub node: String,
    pub uid: String,
    pub created_unix: i64,
    pub started_unix_ms: Option<i64>,
    pub numproc: Option<u64>,
    pub problem: String,
    pub operation: String,
    pub init_pid: Option<u32>,
    pub disk_used_bytes: Option<u64>,
    pub oom_kills: Option<u64>,
    pub oom_victims: Vec<OomVictim>,
    pub stopping: bool,
    pub running_spec: Option<ContainerSpec>,
    pub next_start_unix_ms: Option<i64>,
    pub restarts: u32,
}

impl Container {
    /// Its state.
    pub fn state(&self) -> ContainerState {
        ContainerState::try_from(self.state).unwrap_or_default()
    }
}

/// What follows the last slash of a name.
pub fn last(name: &str) -> String {
    name.rsplit('/').next().unwrap_or_default().to_owned()
}

impl From<api::Container> for Container {
    fn from(c: api::Container) -> Self {
        let status = c.status.unwrap_or_default();
        let state = status.state;
        // They are the container's and are shown once.
        let (name, description) = (c.alias, c.description);
        let named = |spec| ContainerSpec {
            name: name.clone(),
            description: description.clone(),
            ..ContainerSpec::of(spec)
        };
        Self {
            id: c.ct_id,
            spec: c.spec.map(named),
            state,
            generation: c.generation,
            etag: c.etag,
            node: last(&c.node),
            uid: c.uid,
            created_unix: c.create_time.map_or(0, |t| t.seconds),
            started_unix_ms: status.start_time.as_ref().map(unix_ms),
            numproc: status.numproc,
            problem: status.problem.map(|problem| problem.message).unwrap_or_default(),
            operation: last(&status.operation),
            init_pid: status.init_pid,
            disk_used_bytes: status.disk_used_bytes,
            oom_kills: status.oom_kills,
            oom_victims: status.oom_victims,
            stopping: state == i32::from(ContainerState::Stopping),
            running_spec: status.running_spec.map(named),
            next_start_unix_ms: status.next_start_time.as_ref().map(unix_ms),
            restarts: status.restarts,
        }
    }
}

/// An operation as it is shown.
#[derive(Debug, Clone, PartialEq, Default)]
#[expect(missing_docs, reason = "fields are those of the API")]
pub struct Operation {
    pub id: String,
    /// The word of the log.
    pub kind: String,
    pub ct: u32,
    pub state: i32,
    pub progress: Option<api::Progress>,
    /// As lines; what is a detail of the step before begins with two spaces.
    pub steps: Vec<String>,
    pub warnings: Vec<String>,
    pub fault: Option<Fault>,
    pub started_unix_ms: i64,
    pub ended_unix_ms: i64,
    pub principal: String,
    pub snapshot: String,
}

impl Operation {
    /// Its state.
    pub fn state(&self) -> OperationState {
        OperationState::try_from(self.state).unwrap_or_default()
    }
}

const fn kind(kind: api::operation::Kind) -> &'static str {
    use api::operation::Kind as K;
    match kind {
        K::Unspecified => "",
        K::Create => "create",
        K::Update => "set",
        K::Delete => "destroy",
        K::Start => "start",
        K::Stop => "stop",
        K::Restart => "restart",
        K::Mount => "mount",
        K::Unmount => "umount",
        K::Snapshot => "snapshot",
        K::SnapshotSwitch => "snapshot-switch",
        K::SnapshotDelete => "snapshot-delete",
        K::TemplateBuild => "template build",
        K::Repair => "repair",
        K::CheckVolume => "fsck",
    }
}

fn line(step: &api::Step) -> String {
    let api::Step { service, message, remark } = step;
    match (service.as_str(), remark) {
        (_, true) => format!("  {message}"),
        ("", false) => message.clone(),
        (service, false) => format!("{service}: {message}"),
    }
}

impl From<api::Operation> for Operation {
    fn from(op: api::Operation) -> Self {
        let target = op.targets.first().map(|target| last(target)).unwrap_or_default();
        Self {
            id: last(&op.name),
            kind: kind(op.kind()).to_owned(),
            ct: target.parse().unwrap_or(0),
            state: op.state,
            progress: op.progress,
            steps: op.steps.iter().map(line).collect(),
            warnings: op.warnings,
            fault: op.error.map(|error| Fault::from_message(&error)),
            started_unix_ms: op.create_time.as_ref().map_or(0, unix_ms),
            ended_unix_ms: op.end_time.as_ref().map_or(0, unix_ms),
            principal: op.actor.unwrap_or_default().id,
            snapshot: last(&op.result),
        }
    }
}

/// What becomes of what cannot change while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SetMode {
    /// It is refused.
    #[default]
    Unspecified,
    /// The container is restarted.
    Restart,
    /// It waits for the next start.
    Ignore,
}

/// A change.
#[derive(Debug, Clone, Default)]
#[expect(missing_docs, reason = "fields are those of the API")]
pub struct UpdateContainerRequest {
    pub ct: String,
    pub spec: Option<ContainerSpec>,
    /// Fields as [`SpecField`] names them; others are taken as paths.
    pub update_mask: Vec<String>,
    pub add_addresses: Vec<String>,
    /// "all" stands for all.
    pub remove_addresses: Vec<String>,
    /// `net/tun:rw`, `net/tun:none`.
    pub change_devices: Vec<String>,
    /// `NET_RAW:off`.
    pub change_capabilities: Vec<String>,
    pub save: bool,
    pub set_mode: SetMode,
    pub etag: String,
    pub request_id: String,
    pub dry_run: bool,
}

/// `containers/CT`; nothing of nothing.
pub fn container_name(ct: &str) -> String {
    if ct.is_empty() { String::new() } else { format!("containers/{ct}") }
}

impl From<UpdateContainerRequest> for api::UpdateContainerRequest {
    fn from(r: UpdateContainerRequest) -> Self {
        use api::update_container_request::Apply;
        let path = |field: &String| match field.parse::<SpecField>() {
            Ok(field) => path_of(field),
            Err(_) => field.clone(),
        };
        let paths: Vec<String> = r.update_mask.iter().map(path).collect();
        let (all, remove): (Vec<_>, Vec<_>) =
            r.remove_addresses.into_iter().partition(|a| a == "all");
        let (gone, set): (Vec<_>, Vec<_>) =
            r.change_devices.into_iter().partition(|d| d.ends_with(":none"));
        let (on, off): (Vec<_>, Vec<_>) =
            r.change_capabilities.into_iter().partition(|c| c.ends_with(":on"));
        let stem = |word: &String| word.rsplit_once(':').map_or("", |(stem, _)| stem).to_owned();
        let changes = api::ListChanges {
            add_addresses: r.add_addresses,
            remove_addresses: remove,
            remove_all_addresses: !all.is_empty(),
            set_devices: set.iter().map(|word| device(word)).collect(),
            remove_devices: gone.iter().map(stem).collect(),
            drop_capabilities: off.iter().map(stem).collect(),
            restore_capabilities: on.iter().map(stem).collect(),
        };
        let container = api::Container {
            name: container_name(&r.ct),
            etag: r.etag,
            ..r.spec.unwrap_or_default().container()
        };
        let apply = match r.set_mode {
            SetMode::Unspecified => Apply::Unspecified,
            SetMode::Restart => Apply::Restart,
            SetMode::Ignore => Apply::NextStart,
        };
        Self {
            container: Some(container),
            update_mask: (!paths.is_empty()).then_some(prost_types::FieldMask { paths }),
            request_id: r.request_id,
            validate_only: r.dry_run,
            apply: apply.into(),
            conflict: 0,
            until_stop: !r.save,
            changes: Some(changes),
        }
    }
}

macro_rules! request {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Default)]
        #[expect(missing_docs, reason = "fields are those of the API")]
        pub struct $name { $(pub $field: $type,)* }
    };
}

request!(
    /// A create.
    CreateContainerRequest { id: u32, spec: Option<ContainerSpec>, request_id: String, dry_run: bool }
);
request!(
    /// A start or a mount.
    StartContainerRequest {
        ct: String,
        mount_only: bool,
        wait: bool,
        force: bool,
        request_id: String,
        dry_run: bool,
    }
);
request!(
    /// A stop or an unmount.
    StopContainerRequest {
        ct: String,
        fast: bool,
        grace_ms: u32,
        skip_unmount: bool,
        unmount_only: bool,
        request_id: String,
        dry_run: bool,
    }
);
request!(
    /// A restart.
    RestartContainerRequest {
        ct: String,
        fast: bool,
        wait: bool,
        request_id: String,
        dry_run: bool,
    }
);
request!(
    /// An end.
    DeleteContainerRequest { ct: String, request_id: String, dry_run: bool }
);
request!(
    /// A check of its volume.
    CheckVolumeRequest { ct: String, request_id: String, dry_run: bool }
);
request!(
    /// A snapshot.
    CreateSnapshotRequest { ct: String, name: String, request_id: String, dry_run: bool }
);
request!(
    /// The way back to one.
    SwitchSnapshotRequest { ct: String, snapshot: String, request_id: String, dry_run: bool }
);
request!(
    /// The end of one.
    DeleteSnapshotRequest { ct: String, snapshot: String, request_id: String, dry_run: bool }
);
