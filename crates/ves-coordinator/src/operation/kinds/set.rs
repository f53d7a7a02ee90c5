//! set: a container gets new values. Failure puts back what was. Pure.

use serde::{Deserialize, Serialize};
use ves_proto::{Fault, Reason, convert, coordinator as pb};
use ves_types::capability::{MAX_CAPABILITIES, change_capabilities};
use ves_types::device::{MAX_DEVICES, change_devices};
use ves_types::{
    CapabilityChange, CtAddress, DeviceChange, DiskSize, Features, ParseError, SpecField,
};

use super::{Action, Kind, Stage, Undo, must_exist, refuse};
use crate::container::observed::Observed;
use crate::container::record::{Record, RunState};
use crate::container::spec::{self, Effect, Spec};

/// Changes a container. What it was before stands in its record while the change is under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Set {
    /// What is saved.
    pub spec: Box<Spec>,
    /// What it runs with until it is started anew, where that differs.
    pub running: Option<Box<Spec>>,
    /// Stop it before and start it after.
    pub restart: bool,
    /// What is done where a service says that it cannot make the change while it runs.
    pub set_mode: SetMode,
}

/// What becomes of a change that a service refuses with `NEEDS_RESTART`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SetMode {
    /// It fails.
    #[default]
    Refuse,
    /// The container is restarted with it.
    Restart,
    /// It waits for the next start.
    Later,
}

impl Set {
    fn new(spec: Spec, running: Spec, restart: bool, set_mode: SetMode) -> Self {
        let running = (running != spec).then(|| Box::new(running));
        Self { spec: Box::new(spec), running, restart, set_mode }
    }
}

/// set.
///
/// # Errors
/// `STALE_GENERATION`, `NOT_RUNNING`, `NEEDS_RESTART`, `WOULD_SHRINK`, `BAD_VALUE`.
pub fn admit(record: &Record, request: &pb::UpdateContainerRequest) -> Result<Action, Fault> {
    must_exist(record)?;
    if request.generation != 0 && request.generation != record.generation.0 {
        let (have, got) = (record.generation.0, request.generation);
        let message = format!(
            "container {} has changed meanwhile: generation {got} is not {have}; read it again",
            record.id
        );
        return Err(Fault::new(Reason::StaleGeneration, message)
            .fact("ct", record.id)
            .fact("have", have)
            .fact("got", got));
    }
    let up = record.run == RunState::Running;
    if !up && !request.save {
        let message = "is not running, so that only a saved change means anything";
        return Err(refuse(Reason::NotRunning, record, message).fact("field", "save"));
    }
    let fields =
        request.update_mask.iter().map(|path| path.parse()).collect::<Result<Vec<SpecField>, _>>();
    let mut fields = fields.map_err(|e| Fault::bad_value("update_mask", &e))?;
    let list = Addresses::parse(request)?;
    let entries = Entries::parse(request)?;
    fields.extend(entries.fields().filter(|f| !fields.contains(f)).collect::<Vec<_>>());
    if fields.is_empty() && list.is_empty() {
        return Err(Fault::missing("update_mask"));
    }
    let mut wanted = values(record, request)?;
    entries.apply(&record.spec, &request.update_mask, &mut wanted)?;
    let old_spec = record.spec.clone();
    let old_running = record.effective().clone();
    let mut spec = old_spec.clone();
    let mut running = old_running.clone();
    let mut restart = false;
    for field in fields {
        let mut all = old_running.clone();
        spec::copy(field, &wanted, &mut all);
        match spec::effect(field) {
            Effect::Fixed => {
                if !fixed_is_same(field, record, request) {
                    let why = "it is chosen when a container is created and stays";
                    let error = ParseError::new("change", field, why);
                    return Err(Fault::bad_value(&field.to_string(), &error));
                }
            }
            Effect::Saved => {
                if !request.save {
                    let why =
                        "it is of no matter to the running container, so that it must be saved";
                    return Err(Fault::bad_value("save", &ParseError::new("change", field, why)));
                }
                spec::copy(field, &wanted, &mut spec);
                spec::copy(field, &wanted, &mut running);
            }
            Effect::Live => {
                spec::copy(field, &wanted, &mut running);
                // A volume does not shrink again when the container stops.
                if request.save || field == SpecField::Disk {
                    spec::copy(field, &wanted, &mut spec);
                }
            }
            Effect::Restart => {
                restart |= restart_wanted(record, request, field, all != old_running)?;
                if request.save {
                    spec::copy(field, &wanted, &mut spec);
                }
            }
        }
    }
    if features_exclude(request, &running) || features_exclude(request, &spec) {
        return Err(convert::features_exclude());
    }
    list.apply(&mut running);
    if request.save {
        list.apply(&mut spec);
    }
    if spec.disk < old_spec.disk || running.disk < old_running.disk {
        let message = format!(
            "cannot shrink to {}: a volume only grows, and has {}; restore a backup into a \
             smaller container instead",
            wanted.disk, old_spec.disk
        );
        return Err(refuse(Reason::WouldShrink, record, &message)
            .fact("have_bytes", old_spec.disk.bytes().0)
            .fact("want_bytes", wanted.disk.bytes().0));
    }
    // A container that is started anew runs with what is saved.
    if restart || !up {
        running = spec.clone();
    }
    let set_mode = match request.set_mode() {
        _ if !request.save || !up => SetMode::Refuse,
        pb::SetMode::Unspecified => SetMode::Refuse,
        pb::SetMode::Restart => SetMode::Restart,
        pb::SetMode::Ignore => SetMode::Later,
    };
    Ok(Action::Set(Set::new(spec, running, restart, set_mode)))
}

/// The request's values as a whole specification; what the mask does not name is filled in so that
/// it can be read, and not used.
fn values(record: &Record, request: &pb::UpdateContainerRequest) -> Result<Spec, Fault> {
    let mut given = request.spec.clone().unwrap_or_default();
    if given.template.is_empty() {
        given.template = record.spec.template.as_str().to_owned();
    }
    let parsed = spec::parse(record.id, Some(given))?;
    Ok(parsed)
}

/// Whether it was asked to become migratable, which what nests is not.
fn features_exclude(request: &pb::UpdateContainerRequest, becomes: &Spec) -> bool {
    let asked = request.update_mask.contains(&SpecField::Migratable.to_string());
    let Features { nesting, migratable, .. } = becomes.features;
    asked && nesting && migratable
}

fn fixed_is_same(field: SpecField, record: &Record, request: &pb::UpdateContainerRequest) -> bool {
    let given = request.spec.clone().unwrap_or_default();
    match field {
        SpecField::Template => given.template == record.spec.template.as_str(),
        SpecField::Inodes => given.disk_inodes == record.spec.inodes.map(u64::from),
        _ => false,
    }
}

fn restart_wanted(
    record: &Record,
    request: &pb::UpdateContainerRequest,
    field: SpecField,
    differs: bool,
) -> Result<bool, Fault> {
    if record.run != RunState::Running || !differs {
        return Ok(false);
    }
    if request.set_mode() == pb::SetMode::Unspecified {
        let message = format!("takes a change of {} only when it starts", field);
        return Err(refuse(Reason::NeedsRestart, record, &message).fact("field", field));
    }
    if !request.save {
        let why = "a change that needs a restart must be saved for it";
        return Err(Fault::bad_value("save", &ParseError::new("change", field, why)));
    }
    Ok(request.set_mode() == pb::SetMode::Restart)
}

/// `--ipadd` and `--ipdel`.
struct Addresses {
    add: Vec<CtAddress>,
    remove: Vec<CtAddress>,
    remove_all: bool,
}

impl Addresses {
    fn parse(request: &pb::UpdateContainerRequest) -> Result<Self, Fault> {
        let remove_all = request.remove_addresses.iter().any(|a| a == "all");
        let named: Vec<String> =
            request.remove_addresses.iter().filter(|a| *a != "all").cloned().collect();
        Ok(Self {
            add: spec::parse_addresses("add_addresses", &request.add_addresses)?,
            remove: spec::parse_addresses("remove_addresses", &named)?,
            remove_all,
        })
    }

    fn is_empty(&self) -> bool {
        self.add.is_empty() && self.remove.is_empty() && !self.remove_all
    }

    fn apply(&self, spec: &mut Spec) {
        spec.addresses.retain(|a| !self.remove_all && !self.remove.contains(a));
        for address in &self.add {
            if !spec.addresses.contains(address) {
                spec.addresses.push(*address);
            }
        }
    }
}

/// `--devnodes`, `--devices` and `--capability`: single entries of lists of what is saved, or of what is given
/// in place of that.
struct Entries {
    devices: Vec<DeviceChange>,
    capabilities: Vec<CapabilityChange>,
}

impl Entries {
    fn parse(request: &pb::UpdateContainerRequest) -> Result<Self, Fault> {
        let pb::UpdateContainerRequest { change_devices, change_capabilities, .. } = request;
        let field = "change_devices";
        let devices = spec::parse_all(field, change_devices, MAX_DEVICES, str::parse)?;
        let field = "change_capabilities";
        let most = 2 * MAX_CAPABILITIES;
        let capabilities = spec::parse_all(field, change_capabilities, most, str::parse)?;
        Ok(Self { devices, capabilities })
    }

    fn fields(&self) -> impl Iterator<Item = SpecField> {
        let devices = (!self.devices.is_empty()).then_some(SpecField::Devices);
        let capabilities = (!self.capabilities.is_empty()).then_some(SpecField::CapabilitiesOff);
        devices.into_iter().chain(capabilities)
    }

    fn apply(&self, saved: &Spec, mask: &[String], wanted: &mut Spec) -> Result<(), Fault> {
        for field in self.fields().filter(|field| !mask.contains(&field.to_string())) {
            spec::copy(field, saved, wanted);
        }
        change_devices(&mut wanted.devices, &self.devices);
        change_capabilities(&mut wanted.capabilities_off, &self.capabilities);
        if wanted.devices.len() > MAX_DEVICES {
            let message = format!(
                "it would have {} devices; {MAX_DEVICES} are the most",
                wanted.devices.len()
            );
            return Err(Fault::new(Reason::BadValue, message).fact("field", "change_devices"));
        }
        Ok(())
    }
}

impl Kind for Set {
    fn name(&self) -> &'static str {
        "set"
    }

    /// Stopped, not only unmounted: what changes may be the volume.
    fn stages(&self) -> &'static [Stage] {
        if self.restart {
            &[Stage::Stopped, Stage::Changed, Stage::Running]
        } else {
            &[Stage::Changed]
        }
    }

    /// What it has stopped itself.
    fn starts(&self) -> bool {
        self.restart
    }

    fn enter(&self, _: Stage, record: &mut Record) {
        let running = self.running.as_ref().unwrap_or(&self.spec);
        record.set_specs((*self.spec).clone(), (**running).clone());
    }

    fn undo(&self, record: &mut Record, observed: &Observed) -> Undo {
        let (mut spec, mut running) = record.before();
        // What grew stays grown.
        let grown = observed.volume.map_or(spec.disk, |v| DiskSize::saturating(v.size.0));
        if grown > spec.disk && record.spec.disk >= grown {
            spec.disk = grown;
            running.disk = grown;
        }
        if self.restart {
            record.set_run(RunState::Running);
        }
        record.set_specs(spec, running);
        record.ask_again();
        Undo::RollBack
    }

    fn grace_ms(&self, record: &Record) -> u32 {
        record.effective().grace_ms()
    }

    fn fallback(&self, record: &Record, reason: Reason) -> Option<Action> {
        let (running, restart) = match self.set_mode {
            _ if self.restart || reason != Reason::NeedsRestart => return None,
            SetMode::Refuse => return None,
            SetMode::Restart => ((*self.spec).clone(), true),
            SetMode::Later => (record.before().1, false),
        };
        let spec = (*self.spec).clone();
        Some(Action::Set(Self::new(spec, running, restart, SetMode::Refuse)))
    }
}
