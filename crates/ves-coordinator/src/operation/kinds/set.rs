//! set: a container gets new values. Failure puts back what was. Pure.

use serde::{Deserialize, Serialize};
use ves_proto::{Fault, Reason, convert};
use ves_types::capability::change_capabilities;
use ves_types::device::{MAX_DEVICES, change_devices};
use ves_types::{
    CapabilityChange, CtAddress, DeviceChange, DiskSize, Features, Hostname, ParseError, SpecField,
};

use super::{Action, Kind, Stage, Undo, must_exist, refuse};
use crate::container::meta::{Meta, MetaField};
use crate::container::observed::Observed;
use crate::container::record::{Record, RunState};
use crate::container::spec::{self, Effect, Spec, path_of};
use crate::wrong::bad;

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
    /// What of it is no matter of any service, where that is changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub meta: Option<Box<Meta>>,
    /// All of it is no matter of any service: it is done when it is stored.
    #[serde(skip)]
    pub at_once: bool,
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
        Self { spec: Box::new(spec), running, restart, set_mode, meta: None, at_once: false }
    }
}

/// What a change asks for: the fields that are meant, and their values.
#[derive(Debug, Clone)]
pub struct Update {
    /// What of its specification is meant, and of its alias and description.
    pub fields: Vec<SpecField>,
    /// What of the rest is meant.
    pub meta_fields: Vec<MetaField>,
    /// The values; what is not meant is filled in and not used.
    pub spec: Option<Box<Spec>>,
    /// The same of the rest.
    pub meta: Box<Meta>,
    /// Whether it has a host name of its own.
    pub is_named: bool,
    /// Whether it was asked to become migratable by name.
    pub asks_migratable: bool,
    /// It lasts until the container stops, and is not kept.
    pub until_stop: bool,
    /// What becomes of what cannot change while it runs.
    pub mode: SetMode,
    /// Addresses to add and to take away.
    pub addresses: Addresses,
    /// Devices to add, to change and to take away.
    pub devices: Vec<DeviceChange>,
    /// Capabilities to give back and to take away.
    pub capabilities: Vec<CapabilityChange>,
}

/// Addresses to add and to take away.
#[derive(Debug, Clone, Default)]
pub struct Addresses {
    /// To add.
    pub add: Vec<CtAddress>,
    /// To take away.
    pub remove: Vec<CtAddress>,
    /// All are taken away before.
    pub remove_all: bool,
}

impl Addresses {
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

/// set.
///
/// # Errors
/// `NOT_RUNNING`, `NEEDS_RESTART`, `WOULD_SHRINK`, `MISSING_FIELD`, `BAD_VALUE`.
pub fn admit(record: &Record, update: &Update) -> Result<Action, Fault> {
    must_exist(record)?;
    let kept = !update.until_stop;
    let up = record.run == RunState::Running;
    if !up && !kept {
        let message = "is not running, so that only a change that is kept means anything";
        return Err(refuse(Reason::NotRunning, record, message).fact("field", "until_stop"));
    }
    let mut wanted = update.spec.as_deref().unwrap_or(&record.spec).clone();
    if update.spec.is_some() && !update.is_named {
        wanted.hostname = Hostname::of_container(record.id);
    }
    let fields = update.change_entries(&record.spec, &mut wanted)?;
    if fields.is_empty() && update.meta_fields.is_empty() && update.addresses.is_empty() {
        return Err(Fault::missing("update_mask"));
    }
    let meta = changed_meta(record, update)?;
    let old_running = record.effective().clone();
    let mut spec = record.spec.clone();
    let mut running = old_running.clone();
    let mut restart = false;
    for field in &fields {
        let field = *field;
        let mut all = old_running.clone();
        spec::copy(field, &wanted, &mut all);
        match spec::effect(field) {
            Effect::Fixed => {
                let mut same = record.spec.clone();
                spec::copy(field, &wanted, &mut same);
                if same != record.spec {
                    return Err(stays(&format!("container.{}", path_of(field))));
                }
            }
            Effect::Saved => {
                if !kept {
                    return Err(must_be_kept(&path_of(field)));
                }
                spec::copy(field, &wanted, &mut spec);
                spec::copy(field, &wanted, &mut running);
            }
            Effect::Live => {
                spec::copy(field, &wanted, &mut running);
                // A volume does not shrink again when the container stops.
                if kept || field == SpecField::Disk {
                    spec::copy(field, &wanted, &mut spec);
                }
            }
            Effect::Restart => {
                restart |= restart_wanted(record, update, field, all != old_running)?;
                if kept {
                    spec::copy(field, &wanted, &mut spec);
                }
            }
        }
    }
    if update.features_exclude(&running) || update.features_exclude(&spec) {
        return Err(convert::features_exclude().fact("field", "container.spec.features"));
    }
    update.addresses.apply(&mut running);
    if kept {
        update.addresses.apply(&mut spec);
    }
    if spec.disk < record.spec.disk || running.disk < old_running.disk {
        return Err(would_shrink(record, &wanted));
    }
    // A container that is started anew runs with what is saved.
    if restart || !up {
        running = spec.clone();
    }
    let set_mode = if kept && up { update.mode } else { SetMode::Refuse };
    let at_once = update.addresses.is_empty() && fields.iter().all(|f| is_no_services_matter(*f));
    Ok(Action::Set(Set { meta, at_once, ..Set::new(spec, running, restart, set_mode) }))
}

/// Whether a change of it is done when it is stored.
const fn is_no_services_matter(field: SpecField) -> bool {
    matches!(field, SpecField::Name | SpecField::Description)
}

/// What becomes of what is no matter of any service, where that is meant.
fn changed_meta(record: &Record, update: &Update) -> Result<Option<Box<Meta>>, Fault> {
    let mut meta = record.meta.clone();
    for field in &update.meta_fields {
        if update.until_stop {
            return Err(must_be_kept("what the update mask names"));
        }
        if *field == MetaField::Project && update.meta.project != record.meta.project {
            return Err(stays("container.project"));
        }
        meta.copy(*field, &update.meta);
    }
    Ok((!update.meta_fields.is_empty()).then(|| Box::new(meta)))
}

fn stays(field: &str) -> Fault {
    let why = "it is chosen when a container is created and stays";
    Fault::bad_value(field, &ParseError::new("change", field, why))
}

fn must_be_kept(field: &str) -> Fault {
    let why = "it is of no matter to the running container, so that it must be kept";
    Fault::bad_value("until_stop", &ParseError::new("change", field, why))
}

fn would_shrink(record: &Record, wanted: &Spec) -> Fault {
    let message = format!(
        "cannot shrink to {}: a volume only grows, and has {}; restore a backup into a smaller \
         container instead",
        wanted.disk, record.spec.disk
    );
    refuse(Reason::WouldShrink, record, &message)
        .fact("have_bytes", record.spec.disk.bytes().0)
        .fact("want_bytes", wanted.disk.bytes().0)
}

fn restart_wanted(
    record: &Record,
    update: &Update,
    field: SpecField,
    differs: bool,
) -> Result<bool, Fault> {
    if record.run != RunState::Running || !differs {
        return Ok(false);
    }
    let path = path_of(field);
    if update.mode == SetMode::Refuse {
        let message = format!("takes a change of {path} only when it starts");
        return Err(refuse(Reason::NeedsRestart, record, &message).fact("field", path));
    }
    if update.until_stop {
        let why = "a change that needs a restart must be kept for it";
        return Err(Fault::bad_value("until_stop", &ParseError::new("change", path, why)));
    }
    Ok(update.mode == SetMode::Restart)
}

impl Update {
    /// Makes changes of single entries to the lists that they are of: what is saved, or what is given in place of
    /// that. Answers with all fields that are meant.
    fn change_entries(&self, saved: &Spec, wanted: &mut Spec) -> Result<Vec<SpecField>, Fault> {
        let devices = (!self.devices.is_empty()).then_some(SpecField::Devices);
        let capabilities = (!self.capabilities.is_empty()).then_some(SpecField::CapabilitiesOff);
        let mut fields = self.fields.clone();
        for field in devices.into_iter().chain(capabilities) {
            if !fields.contains(&field) {
                spec::copy(field, saved, wanted);
                fields.push(field);
            }
        }
        change_devices(&mut wanted.devices, &self.devices);
        change_capabilities(&mut wanted.capabilities_off, &self.capabilities);
        match wanted.devices.len() {
            n if n > MAX_DEVICES => {
                let message = format!("it would have {n} devices; {MAX_DEVICES} are the most");
                Err(bad("changes.set_devices", message))
            }
            _ => Ok(fields),
        }
    }

    /// Whether it was asked to become migratable, which what nests is not.
    const fn features_exclude(&self, becomes: &Spec) -> bool {
        let Features { nesting, migratable, .. } = becomes.features;
        self.asks_migratable && nesting && migratable
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
        if let Some(meta) = &self.meta {
            record.set_meta((**meta).clone());
        }
    }

    fn is_done_at_once(&self) -> bool {
        self.at_once
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
        if let Some(meta) = record.reserved.meta.take() {
            record.set_meta(*meta);
        }
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
        let meta = self.meta.clone();
        Some(Action::Set(Self { meta, ..Self::new(spec, running, restart, SetMode::Refuse) }))
    }
}
