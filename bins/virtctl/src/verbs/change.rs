//! Verbs that change a container. Each is one call that answers with an operation.
//!
//! Never here: a decision about a container.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::time::Duration;

use ves_proto::api::interface::Type as InterfaceType;
use ves_proto::api::start_container_request::Until;
use ves_proto::api::stop_container_request::Mode;
use ves_proto::api::update_container_request::Apply;
use ves_proto::api::{self, Device, Interface, LimitCapability, ListChanges, Operation};
use ves_proto::public::{parse_resource, render_device, render_duration};
use ves_proto::{Fault, Reason};
use ves_types::capability::change_capabilities;
use ves_types::device::change_devices;
use ves_types::{CapabilityChange, DeviceChange, Enforcement};

use super::Context;
use crate::cli::{Change, CreateArgs, RestartArgs, SetArgs, StartArgs, StopArgs};
use crate::ct::Ct;
use crate::failure::{Failure, Outcome};
use crate::names;
use crate::operation::{self, ct_of};
use crate::output::Format;
use crate::params::{Params, changed, flattened};
use crate::password::{Secret, UserPassword};
use crate::refused;
use crate::sample::Sample;
use crate::session::{self, Input};
use crate::spec_update::{SpecUpdate, ubc_path};
use crate::unbuilt::not_built;
use crate::usage;
use crate::value::format_duration;

/// A new request id: a call repeated with it is the same call.
pub(super) fn request_id() -> String {
    uuid::Uuid::now_v7().to_string()
}

/// Calls an RPC that answers with an operation, and follows it.
macro_rules! change {
    ($context:ident, $dry_run:expr, $method:ident, $request:expr, $done:expr) => {
        change!($context, $dry_run, containers.$method, $request, $done)
    };
    ($context:ident, $dry_run:expr, $client:ident.$method:ident, $request:expr, $done:expr) => {{
        let request = $request;
        let operation = $context
            .coordinator
            .call(|| {
                let mut client = $context.coordinator.$client();
                let request = request.clone();
                async move { client.$method(request).await }
            })
            .await?;
        let crate::verbs::Context { coordinator, output, .. } = &$context;
        crate::operation::wait(coordinator, *output, operation, $dry_run, $done).await
    }};
}
pub(super) use change;

/// "container 101 started".
fn done(ct: Ct, what: &str) -> impl Fn(&Operation) -> String {
    move |operation| {
        let id = ct_of(operation).map_or_else(|| ct.to_string(), |id| id.to_string());
        format!("container {id} {what}")
    }
}

impl Context {
    pub(super) async fn create(self, args: CreateArgs) -> Outcome {
        let CreateArgs { ct, ostemplate, config, dry_run, params } = args;
        if params.node.is_some() {
            return Err(not_built("--node").into());
        }
        let project = params.project.map(|name| names::project(&name)).unwrap_or_default();
        let params = params.params;
        let already = judge_unbuilt(&params)?;
        if params.label.iter().chain(&params.annotation).any(|tag| tag.value.is_none()) {
            let message =
                "a container that is made has no label to take away: KEY=VALUE gives it one";
            return Err(Failure::usage(message));
        }
        if params.userpasswd.is_some() {
            let message = "a password is set in a running container: create and start it, then use \
                           virtctl set CT --userpasswd";
            return Err(Fault::new(Reason::NotRunning, message).fact("ct", ct).into());
        }
        let mut update = SpecUpdate::default();
        if let Some(config) = config {
            update.sample(Sample::named(&config)?, true);
        }
        update.params(&params);
        let spec = update.spec();
        spec.template = names::template(&ostemplate);
        let addresses = flattened(&params.ipadd);
        if !addresses.is_empty() {
            let (id, r#type) = ("venet0".to_owned(), InterfaceType::Venet.into());
            spec.interfaces = vec![Interface { id, r#type, addresses }];
        }
        let (mut devices, mut off) = (Vec::new(), BTreeSet::new());
        change_devices(&mut devices, &params.device_changes());
        change_capabilities(&mut off, &params.capability_changes());
        spec.devices = devices.iter().map(render_device).collect();
        spec.dropped_capabilities = off.iter().map(ToString::to_string).collect();
        update.container.project = project;
        update.container.labels = changed(BTreeMap::new(), &params.label);
        update.container.annotations = changed(BTreeMap::new(), &params.annotation);
        let alias = &mut update.container.alias;
        let ct_id = match &ct {
            Ct::Id(id) => id.get(),
            Ct::Name(name) if alias.is_empty() || alias == name.as_str() => {
                *alias = name.to_string();
                0
            }
            Ct::Name(name) => {
                let message = format!("the container cannot be called {name} and {alias} both");
                return Err(Failure::usage(message));
            }
        };
        let limited = update.mask;
        let request = api::CreateContainerRequest {
            container: Some(update.container),
            ct_id,
            request_id: request_id(),
            validate_only: dry_run,
        };
        change!(self, dry_run, create_container, request, done(ct, "created"))?;
        self.note_already(&already);
        self.note_unenforced(&limited).await;
        Ok(())
    }

    pub(super) async fn set(self, args: SetArgs) -> Outcome {
        let SetArgs { ct, save, setmode, applyconfig, dry_run, params } = args;
        let ipdel = flattened(&params.ipdel);
        let params = params.params;
        let already = judge_unbuilt(&params)?;
        let password = params.userpasswd.as_ref().map(password).transpose()?;
        let mut update = SpecUpdate::default();
        if let Some(sample) = applyconfig {
            update.sample(Sample::named(&sample)?, false);
        }
        update.params(&params);
        let changes = list_changes(
            flattened(&params.ipadd),
            ipdel,
            &params.device_changes(),
            &params.capability_changes(),
        );
        let (labels, annotations) = (&params.label, &params.annotation);
        let nothing = update.mask.is_empty()
            && changes == ListChanges::default()
            && labels.is_empty()
            && annotations.is_empty();
        if nothing && password.is_none() && already.is_empty() {
            return Err(Failure::usage("nothing to set: name a parameter, such as --ram 1G"));
        }
        let limited = update.mask.clone();
        if !nothing {
            let apply = match setmode.as_deref() {
                Some("restart") => Apply::Restart,
                Some("ignore") => Apply::NextStart,
                _ => Apply::Unspecified,
            };
            update.container.name = names::container(&ct);
            let request = api::UpdateContainerRequest {
                container: Some(update.container),
                update_mask: Some(prost_types::FieldMask { paths: update.mask }),
                request_id: request_id(),
                validate_only: dry_run,
                apply: apply.into(),
                conflict: api::Conflict::Unspecified.into(),
                until_stop: !save,
                changes: Some(changes),
            };
            let what = if save { "changed and saved" } else { "changed until it stops" };
            let operation = self.update(request, labels, annotations).await?;
            let done = done(ct.clone(), what);
            operation::wait(&self.coordinator, self.output, operation, dry_run, done).await?;
        }
        if let Some(password) = password {
            if dry_run {
                let user = password.user;
                return self.output.print(&format!("set the password of {user} inside {ct}\n"));
            }
            self.password(&ct, password).await?;
        }
        self.note_already(&already);
        self.note_unenforced(&limited).await;
        Ok(())
    }

    /// Sets a password by chpasswd inside. It goes through stdin: arguments can be seen by anybody.
    async fn password(&self, ct: &Ct, password: UserPassword) -> Outcome {
        let UserPassword { user, password } = password;
        let script = "id -u \"$1\" >/dev/null 2>&1 || useradd -m \"$1\" && exec chpasswd";
        let argv = ["/bin/sh", "-c", script, "sh", &user].map(str::to_owned).to_vec();
        let input = Input::Bytes(format!("{user}:{}\n", password.0).into_bytes());
        let command =
            session::Command { argv, env: Vec::new(), bare_env: false, tty: false, input };
        let began = std::time::Instant::now();
        match session::exec(&self.coordinator, ct, command).await {
            Ok(()) if self.output.quiet || self.output.format != Format::Table => Ok(()),
            Ok(()) => {
                let took = format_duration(began.elapsed());
                self.output.print(&format!("password of {user} in container {ct} set in {took}\n"))
            }
            Err(Failure::Status(status)) => {
                let message = format!(
                    "cannot set the password of {user} in container {ct}: its useradd or chpasswd \
                     ended with status {status}"
                );
                let fault = Fault::new(Reason::HostFailed, message).fact("step", "chpasswd");
                Err(fault.fact("status", status).into())
            }
            Err(other) => Err(other),
        }
    }

    /// Says which of the parameters change nothing.
    fn note_already(&self, already: &[String]) {
        for note in already.iter().filter(|_| !self.output.quiet) {
            self.output.say(&format!("note: {note}"));
        }
    }

    /// Says which of the parameters the node does not keep. Only a remark: it fails silently.
    async fn note_unenforced(&self, limited: &[String]) {
        let parameter = |f: &String| f.starts_with("spec.limits.ubc.") || option_of(f).is_some();
        if !limited.iter().any(parameter)
            || self.output.quiet
            || self.output.format != Format::Table
        {
            return;
        }
        let Ok(node) = super::node::this_node(&self.coordinator).await else { return };
        for c in &node.capabilities {
            let Some(resource) = parse_resource(c.resource()) else { continue };
            let Some(how) = usage::enforcement(c.enforcement(), &c.why) else { continue };
            let kept = matches!(how, Enforcement::Hard | Enforcement::Bounded);
            if !kept && limited.contains(&ubc_path(resource)) {
                self.output.say(&format!("note: this node does not limit {resource}: {how}"));
            }
        }
        for (option, why) in unkept(&node.limits, limited) {
            self.output.say(&format!("note: {option}: {why}"));
        }
    }

    pub(super) async fn start(self, args: StartArgs) -> Outcome {
        let StartArgs { change: Change { ct, dry_run }, wait, force } = args;
        let request = api::StartContainerRequest {
            name: names::container(&ct),
            request_id: request_id(),
            validate_only: dry_run,
            until: until(wait).into(),
            override_disabled: force,
            ..api::StartContainerRequest::default()
        };
        let what = if wait { "started and booted" } else { "started" };
        change!(self, dry_run, start_container, request, done(ct, what))
    }

    pub(super) async fn mount(self, change: Change) -> Outcome {
        let Change { ct, dry_run } = change;
        let request = api::MountContainerRequest {
            name: names::container(&ct),
            request_id: request_id(),
            validate_only: dry_run,
            ..api::MountContainerRequest::default()
        };
        change!(self, dry_run, mount_container, request, done(ct, "mounted"))
    }

    pub(super) async fn stop(self, args: StopArgs) -> Outcome {
        let StopArgs { change: Change { ct, dry_run }, fast, timeout, skip_umount } = args;
        let seconds = |seconds: u32| render_duration(Duration::from_secs(seconds.into()));
        let request = api::StopContainerRequest {
            name: names::container(&ct),
            request_id: request_id(),
            validate_only: dry_run,
            mode: mode(fast).into(),
            grace: timeout.map(seconds),
            keep_mounted: skip_umount,
            ..api::StopContainerRequest::default()
        };
        change!(self, dry_run, stop_container, request, done(ct, "stopped"))
    }

    pub(super) async fn umount(self, change: Change) -> Outcome {
        let Change { ct, dry_run } = change;
        let request = api::UnmountContainerRequest {
            name: names::container(&ct),
            request_id: request_id(),
            validate_only: dry_run,
            ..api::UnmountContainerRequest::default()
        };
        change!(self, dry_run, unmount_container, request, done(ct, "unmounted"))
    }

    pub(super) async fn fsck(self, change: Change) -> Outcome {
        let Change { ct, dry_run } = change;
        let request = api::CheckVolumeRequest {
            name: names::container(&ct),
            request_id: request_id(),
            validate_only: dry_run,
            ..api::CheckVolumeRequest::default()
        };
        change!(self, dry_run, check_volume, request, done(ct, "checked"))
    }

    pub(super) async fn restart(self, args: RestartArgs) -> Outcome {
        let RestartArgs { change: Change { ct, dry_run }, fast, wait } = args;
        let request = api::RestartContainerRequest {
            name: names::container(&ct),
            request_id: request_id(),
            validate_only: dry_run,
            mode: mode(fast).into(),
            until: until(wait).into(),
            ..api::RestartContainerRequest::default()
        };
        change!(self, dry_run, restart_container, request, done(ct, "restarted"))
    }

    pub(super) async fn destroy(self, change: Change) -> Outcome {
        let Change { ct, dry_run } = change;
        let request = api::DeleteContainerRequest {
            name: names::container(&ct),
            request_id: request_id(),
            validate_only: dry_run,
            ..api::DeleteContainerRequest::default()
        };
        change!(self, dry_run, delete_container, request, done(ct, "destroyed"))
    }
}

/// When a start has succeeded.
const fn until(wait: bool) -> Until {
    if wait { Until::Booted } else { Until::Running }
}

/// How a container is stopped.
const fn mode(fast: bool) -> Mode {
    if fast { Mode::Kill } else { Mode::Graceful }
}

/// What is added to lists, changed in them and taken away; of several changes of one entry the last counts.
fn list_changes(
    add_addresses: Vec<String>,
    mut remove_addresses: Vec<String>,
    devices: &[DeviceChange],
    capabilities: &[CapabilityChange],
) -> ListChanges {
    let remove_all_addresses = remove_addresses.iter().any(|address| address == "all");
    remove_addresses.retain(|address| address != "all");
    let mut changes = ListChanges {
        add_addresses,
        remove_addresses,
        remove_all_addresses,
        ..ListChanges::default()
    };
    for DeviceChange { id, access } in devices {
        let id = id.to_string();
        changes.set_devices.retain(|device| device.id != id);
        changes.remove_devices.retain(|removed| *removed != id);
        match access {
            Some(access) => {
                let (read, write) = (access.read(), access.write());
                changes.set_devices.push(Device { id, read, write });
            }
            None => changes.remove_devices.push(id),
        }
    }
    for CapabilityChange { capability, on } in capabilities {
        let name = capability.to_string();
        changes.drop_capabilities.retain(|dropped| *dropped != name);
        changes.restore_capabilities.retain(|restored| *restored != name);
        let list =
            if *on { &mut changes.restore_capabilities } else { &mut changes.drop_capabilities };
        list.push(name);
    }
    changes
}

/// Refuses parameters of vzctl that are not taken; notes on those that change nothing.
fn judge_unbuilt(params: &Params) -> Result<Vec<String>, Fault> {
    params.unbuilt.given().map(|(option, values)| refused::judge(option, values)).collect()
}

/// The option of a limit of disk traffic, by the path of its field.
fn option_of(field: &str) -> Option<&'static str> {
    Some(match field {
        "spec.limits.io_bytes_per_second" => "--iolimit",
        "spec.limits.io_operations_per_second" => "--iopslimit",
        "spec.limits.io_priority" => "--ioprio",
        _ => return None,
    })
}

/// The options of `limited` that a node does not wholly keep, and why.
pub(super) fn unkept(
    kept: &[LimitCapability],
    limited: &[String],
) -> impl Iterator<Item = (&'static str, String)> {
    let one = |limit: &LimitCapability| {
        let field = format!("spec.limits.{}", limit.field);
        let said = limited.contains(&field) && !limit.why.is_empty();
        option_of(&field).filter(|_| said).map(|option| (option, limit.why.clone()))
    };
    kept.iter().filter_map(one)
}

/// The password itself; "-" is a line of stdin.
fn password(given: &Secret) -> Result<UserPassword, Failure> {
    if given.0 != "-" {
        return UserPassword::parse(given);
    }
    let mut line = String::new();
    std::io::stdin()
        .lock()
        .take(1024)
        .read_to_string(&mut line)
        .map_err(|e| Failure::local("cannot read the password from stdin", &e))?;
    UserPassword::parse(&Secret(line.trim_end_matches(['\n', '\r']).to_owned()))
}
