//! Whether a request may begin, and which action it is.
//!
//! Pure: looks at the record, at what was last seen of the container's processes, and at the
//! request. Whether somebody else is working on it is looked at by [`crate::service`], in the same
//! transaction that stores the operation.

use ves_proto::{Fault, Reason, coordinator as pb};
use ves_types::{CtAddress, ParseError};

use crate::model::{Action, DEFAULT_GRACE_MS, Presence, Record, RunState, SetMode, Spec};
use crate::plan::Phase;
use crate::spec::{self, Effect, Field};

/// The longest init may be given to stop: an hour.
const GREATEST_GRACE_MS: u32 = 3_600_000;

fn refuse(reason: Reason, record: &Record, message: &str) -> Fault {
    Fault::new(reason, format!("container {} {message}", record.id)).fact("ct", record.id)
}

fn must_exist(record: &Record) -> Result<(), Fault> {
    match record.presence {
        Presence::Present => Ok(()),
        Presence::Creating => {
            let message = "is being created; wait for that, then try again";
            Err(refuse(Reason::Busy, record, message)
                .fact("holder", "create")
                .fact("since", record.created_unix))
        }
        Presence::Deleting => {
            let message = "is being destroyed; repeat destroy if that failed";
            Err(refuse(Reason::ContainerUnknown, record, message))
        }
    }
}

/// start, or mount.
///
/// # Errors
/// `RUNNING`, `MOUNTED`, `DISABLED`.
pub fn start(record: &Record, request: &pb::StartContainerRequest) -> Result<Action, Fault> {
    must_exist(record)?;
    if record.run == RunState::Running {
        return Err(refuse(Reason::Running, record, "is running already"));
    }
    if request.mount_only {
        if record.run == RunState::Mounted {
            return Err(refuse(Reason::Mounted, record, "is mounted already"));
        }
        return Ok(Action::Mount);
    }
    may_start(record, request.force)?;
    Ok(Action::Start { wait: request.wait })
}

fn may_start(record: &Record, force: bool) -> Result<(), Fault> {
    if record.spec.disabled && !force {
        let message = "is disabled; start it with force, or set it to enabled";
        return Err(refuse(Reason::Disabled, record, message));
    }
    Ok(())
}

/// stop, or umount.
///
/// # Errors
/// `NOT_RUNNING`, `NOT_MOUNTED`, `RUNNING`, `BAD_VALUE`.
pub fn stop(
    record: &Record,
    phase: Phase,
    request: &pb::StopContainerRequest,
) -> Result<Action, Fault> {
    must_exist(record)?;
    let up = record.run == RunState::Running || phase != Phase::Absent;
    if request.unmount_only {
        return match record.run {
            _ if up => {
                let message = "is running; stop it, its volume is unmounted then";
                Err(refuse(Reason::Running, record, message))
            }
            RunState::Mounted => Ok(Action::Umount),
            RunState::Stopped | RunState::Running => {
                Err(refuse(Reason::NotMounted, record, "is not mounted"))
            }
        };
    }
    // What a failed stop has left is stopped once more.
    if !up && !record.maybe_dirty && record.problem.is_none() {
        return Err(refuse(Reason::NotRunning, record, "is not running"));
    }
    let grace_ms = grace(request.fast, request.grace_ms)?;
    Ok(Action::Stop { grace_ms, keep_mounted: request.skip_unmount })
}

fn grace(fast: bool, grace_ms: u32) -> Result<u32, Fault> {
    match grace_ms {
        _ if fast => Ok(0),
        0 => Ok(DEFAULT_GRACE_MS),
        ms if ms > GREATEST_GRACE_MS => {
            let why = "it must be at most an hour";
            Err(Fault::bad_value("grace_ms", &ParseError::new("grace period", ms, why)))
        }
        ms => Ok(ms),
    }
}

/// restart; of one that is stopped, start.
///
/// # Errors
/// `DISABLED` for one that is stopped.
pub fn restart(record: &Record, request: &pb::RestartContainerRequest) -> Result<Action, Fault> {
    must_exist(record)?;
    if record.run != RunState::Running {
        may_start(record, false)?;
        return Ok(Action::Start { wait: request.wait });
    }
    Ok(Action::Restart { grace_ms: grace(request.fast, 0)?, wait: request.wait })
}

/// destroy; of one whose destroy failed, the rest of it.
///
/// # Errors
/// `RUNNING`, `MOUNTED`.
pub fn destroy(record: &Record, phase: Phase) -> Result<Action, Fault> {
    if record.presence == Presence::Deleting {
        return Ok(Action::Destroy);
    }
    must_exist(record)?;
    must_be_stopped(record, phase)?;
    Ok(Action::Destroy)
}

/// snapshot, snapshot-switch, or snapshot-delete.
///
/// # Errors
/// `BUSY` while it is being created, `CONTAINER_UNKNOWN` while it goes; of a switch, `RUNNING` and
/// `MOUNTED`.
pub fn snapshot(record: &Record, phase: Phase, action: Action) -> Result<Action, Fault> {
    must_exist(record)?;
    if matches!(action, Action::SnapshotSwitch { .. }) {
        must_be_stopped(record, phase)?;
    }
    Ok(action)
}

fn must_be_stopped(record: &Record, phase: Phase) -> Result<(), Fault> {
    if record.run == RunState::Running || phase != Phase::Absent {
        return Err(refuse(Reason::Running, record, "is running; stop it first"));
    }
    if record.run == RunState::Mounted {
        return Err(refuse(Reason::Mounted, record, "is mounted; unmount it first"));
    }
    Ok(())
}

/// set.
///
/// # Errors
/// `STALE_GENERATION`, `NOT_RUNNING`, `NEEDS_RESTART`, `WOULD_SHRINK`, `BAD_VALUE`.
pub fn set(record: &Record, request: &pb::UpdateContainerRequest) -> Result<Action, Fault> {
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
        let message = "is not running, so that only a saved change means anything; add --save";
        return Err(refuse(Reason::NotRunning, record, message));
    }
    let fields =
        request.update_mask.iter().map(|p| Field::parse(p)).collect::<Result<Vec<_>, _>>()?;
    let list = Addresses::parse(request)?;
    if fields.is_empty() && list.is_empty() {
        return Err(Fault::missing("update_mask"));
    }
    let wanted = values(record, request)?;
    let old_spec = record.spec.clone();
    let old_running = record.effective().clone();
    let mut spec = old_spec.clone();
    let mut running = old_running.clone();
    let mut restart = false;
    for field in &fields {
        let mut all = old_running.clone();
        field.copy(&wanted, &mut all);
        match field.effect() {
            Effect::Fixed => {
                if !fixed_is_same(field, record, request) {
                    let path = field.path();
                    let why = "it is chosen when a container is created and stays";
                    return Err(Fault::bad_value(&path, &ParseError::new("change", &path, why)));
                }
            }
            Effect::Saved => {
                if !request.save {
                    let path = field.path();
                    let why = "it is of no matter to the running container; add --save";
                    return Err(Fault::bad_value("save", &ParseError::new("change", path, why)));
                }
                field.copy(&wanted, &mut spec);
                field.copy(&wanted, &mut running);
            }
            Effect::Live => {
                field.copy(&wanted, &mut running);
                // A volume does not shrink again when the container stops.
                if request.save || *field == Field::Plain("disk_bytes", Effect::Live) {
                    field.copy(&wanted, &mut spec);
                }
            }
            Effect::Restart => {
                restart |= restart_wanted(record, request, field, all != old_running)?;
                if request.save {
                    field.copy(&wanted, &mut spec);
                }
            }
        }
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
            .fact("have_bytes", old_spec.disk.0)
            .fact("want_bytes", wanted.disk.0));
    }
    // A container that is started anew runs with what is saved.
    if restart || !up {
        running = spec.clone();
    }
    Ok(Action::Set {
        spec: Box::new(spec),
        running: Box::new(running),
        old_spec: Box::new(old_spec),
        old_running: Box::new(old_running),
        restart,
        set_mode: match request.set_mode() {
            _ if !request.save || !up => SetMode::Refuse,
            pb::SetMode::Unspecified => SetMode::Refuse,
            pb::SetMode::Restart => SetMode::Restart,
            pb::SetMode::Ignore => SetMode::Later,
        },
    })
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

fn fixed_is_same(field: &Field, record: &Record, request: &pb::UpdateContainerRequest) -> bool {
    let given = request.spec.clone().unwrap_or_default();
    match field.path().as_str() {
        "template" => given.template == record.spec.template.as_str(),
        "disk_inodes" => given.disk_inodes == record.spec.inodes,
        _ => false,
    }
}

fn restart_wanted(
    record: &Record,
    request: &pb::UpdateContainerRequest,
    field: &Field,
    differs: bool,
) -> Result<bool, Fault> {
    if record.run != RunState::Running || !differs {
        return Ok(false);
    }
    if request.set_mode() == pb::SetMode::Unspecified {
        let message = format!(
            "takes a change of {} only when it starts; add --setmode restart or ignore",
            field.path()
        );
        return Err(refuse(Reason::NeedsRestart, record, &message).fact("field", field.path()));
    }
    if !request.save {
        let why = "a change that needs a restart must be kept for it; add --save";
        return Err(Fault::bad_value("save", &ParseError::new("change", field.path(), why)));
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
