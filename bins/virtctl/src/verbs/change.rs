//! Verbs that change a container. Each is one call that answers with an operation.
//!
//! Never here: a decision about a container.

use std::collections::BTreeSet;
use std::io::Read as _;

use ves_proto::common::LimitPromise;
use ves_proto::coordinator::{self as api, Operation, SetMode};
use ves_proto::{Fault, Reason, convert};
use ves_types::capability::change_capabilities;
use ves_types::device::change_devices;
use ves_types::{Enforcement, SpecField};

use super::Context;
use crate::cli::{Change, CreateArgs, RestartArgs, SetArgs, StartArgs, StopArgs};
use crate::ct::Ct;
use crate::failure::{Failure, Outcome};
use crate::output::Format;
use crate::params::{Params, flattened};
use crate::password::{Secret, UserPassword};
use crate::refused;
use crate::sample::Sample;
use crate::session::{self, Input};
use crate::spec_update::SpecUpdate;
use crate::unbuilt::not_built;
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
        let id = if operation.ct == 0 { ct.to_string() } else { operation.ct.to_string() };
        format!("container {id} {what}")
    }
}

impl Context {
    pub(super) async fn create(self, args: CreateArgs) -> Outcome {
        let CreateArgs { ct, ostemplate, config, dry_run, params } = args;
        if params.node.is_some() {
            return Err(not_built("--node").into());
        }
        let params = params.params;
        let already = judge_unbuilt(&params)?;
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
        let mut spec = update.spec;
        spec.template = ostemplate.to_string();
        spec.addresses = flattened(&params.ipadd);
        let (mut devices, mut off) = (Vec::new(), BTreeSet::new());
        change_devices(&mut devices, &params.device_changes());
        change_capabilities(&mut off, &params.capability_changes());
        spec.devices = devices.iter().map(ToString::to_string).collect();
        spec.capabilities_off = off.iter().map(ToString::to_string).collect();
        let id = match &ct {
            Ct::Id(id) => id.get(),
            Ct::Name(name) if spec.name.is_empty() || spec.name == name.as_str() => {
                spec.name = name.to_string();
                0
            }
            Ct::Name(name) => {
                let other = &spec.name;
                let message = format!("the container cannot be called {name} and {other} both");
                return Err(Failure::usage(message));
            }
        };
        let limited = update.mask.clone();
        let request =
            api::CreateContainerRequest { id, spec: Some(spec), request_id: request_id(), dry_run };
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
        let ipadd = flattened(&params.ipadd);
        let devices: Vec<_> = params.device_changes().iter().map(ToString::to_string).collect();
        let capabilities: Vec<_> =
            params.capability_changes().iter().map(ToString::to_string).collect();
        let lists = [&ipadd, &ipdel, &devices, &capabilities];
        let nothing = update.mask.is_empty() && lists.iter().all(|list| list.is_empty());
        if nothing && password.is_none() && already.is_empty() {
            return Err(Failure::usage("nothing to set: name a parameter, such as --ram 1G"));
        }
        let limited = update.mask.clone();
        if !nothing {
            let set_mode = match setmode.as_deref() {
                Some("restart") => SetMode::Restart,
                Some("ignore") => SetMode::Ignore,
                _ => SetMode::Unspecified,
            };
            let request = api::UpdateContainerRequest {
                ct: ct.to_string(),
                spec: Some(update.spec),
                update_mask: update.mask.iter().map(ToString::to_string).collect(),
                save,
                generation: 0,
                request_id: request_id(),
                dry_run,
                set_mode: set_mode.into(),
                add_addresses: ipadd,
                remove_addresses: ipdel,
                change_devices: devices,
                change_capabilities: capabilities,
            };
            let what = if save { "changed and saved" } else { "changed until it stops" };
            change!(self, dry_run, update_container, request, done(ct.clone(), what))?;
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
    async fn note_unenforced(&self, limited: &[SpecField]) {
        let parameter = |f: &SpecField| option_of(*f).is_some() || matches!(f, SpecField::Ubc(_));
        if !limited.iter().any(parameter)
            || self.output.quiet
            || self.output.format != Format::Table
        {
            return;
        }
        let mut client = self.coordinator.node();
        let Ok(node) = self.coordinator.call_once(client.get_node(api::GetNodeRequest {})).await
        else {
            return;
        };
        for row in node.enforcement {
            let Ok(row) = convert::parse_row(row) else { continue };
            let kept = matches!(row.enforcement, Enforcement::Hard | Enforcement::Bounded);
            if !kept && limited.contains(&SpecField::Ubc(row.resource)) {
                let (name, how) = (row.resource, row.enforcement);
                self.output.say(&format!("note: this node does not limit {name}: {how}"));
            }
        }
        for (option, why) in unkept(&node.limits, limited) {
            self.output.say(&format!("note: {option}: {why}"));
        }
    }

    pub(super) async fn start(self, args: StartArgs) -> Outcome {
        let StartArgs { change: Change { ct, dry_run }, wait, force } = args;
        let request = api::StartContainerRequest {
            ct: ct.to_string(),
            request_id: request_id(),
            dry_run,
            wait,
            force,
            mount_only: false,
        };
        let what = if wait { "started and booted" } else { "started" };
        change!(self, dry_run, start_container, request, done(ct, what))
    }

    pub(super) async fn mount(self, change: Change) -> Outcome {
        let Change { ct, dry_run } = change;
        let request = api::StartContainerRequest {
            ct: ct.to_string(),
            request_id: request_id(),
            dry_run,
            wait: false,
            force: false,
            mount_only: true,
        };
        change!(self, dry_run, start_container, request, done(ct, "mounted"))
    }

    pub(super) async fn stop(self, args: StopArgs) -> Outcome {
        let StopArgs { change: Change { ct, dry_run }, fast, timeout, skip_umount } = args;
        let request = api::StopContainerRequest {
            ct: ct.to_string(),
            request_id: request_id(),
            dry_run,
            fast,
            grace_ms: timeout.unwrap_or(0).saturating_mul(1000),
            skip_unmount: skip_umount,
            unmount_only: false,
        };
        change!(self, dry_run, stop_container, request, done(ct, "stopped"))
    }

    pub(super) async fn umount(self, change: Change) -> Outcome {
        let Change { ct, dry_run } = change;
        let request = api::StopContainerRequest {
            ct: ct.to_string(),
            request_id: request_id(),
            dry_run,
            fast: false,
            grace_ms: 0,
            skip_unmount: false,
            unmount_only: true,
        };
        change!(self, dry_run, stop_container, request, done(ct, "unmounted"))
    }

    pub(super) async fn fsck(self, change: Change) -> Outcome {
        let Change { ct, dry_run } = change;
        let request =
            api::CheckVolumeRequest { ct: ct.to_string(), request_id: request_id(), dry_run };
        change!(self, dry_run, check_volume, request, done(ct, "checked"))
    }

    pub(super) async fn restart(self, args: RestartArgs) -> Outcome {
        let RestartArgs { change: Change { ct, dry_run }, fast, wait } = args;
        let request = api::RestartContainerRequest {
            ct: ct.to_string(),
            request_id: request_id(),
            dry_run,
            fast,
            wait,
        };
        change!(self, dry_run, restart_container, request, done(ct, "restarted"))
    }

    pub(super) async fn destroy(self, change: Change) -> Outcome {
        let Change { ct, dry_run } = change;
        let request =
            api::DeleteContainerRequest { ct: ct.to_string(), request_id: request_id(), dry_run };
        change!(self, dry_run, delete_container, request, done(ct, "destroyed"))
    }
}

/// Refuses parameters of vzctl that are not taken; notes on those that change nothing.
fn judge_unbuilt(params: &Params) -> Result<Vec<String>, Fault> {
    params.unbuilt.given().map(|(option, values)| refused::judge(option, values)).collect()
}

/// The option of a limit of disk traffic.
const fn option_of(field: SpecField) -> Option<&'static str> {
    Some(match field {
        SpecField::IoBps => "--iolimit",
        SpecField::IoIops => "--iopslimit",
        SpecField::IoPriority => "--ioprio",
        _ => return None,
    })
}

/// The options of `limited` that a node does not wholly keep, and why.
pub(super) fn unkept(
    promises: &[LimitPromise],
    limited: &[SpecField],
) -> impl Iterator<Item = (&'static str, String)> {
    let one = |promise: &LimitPromise| {
        let field: SpecField = format!("limits.{}", promise.field).parse().ok()?;
        let said = limited.contains(&field) && !promise.why.is_empty();
        option_of(field).filter(|_| said).map(|option| (option, promise.why.clone()))
    };
    promises.iter().filter_map(one)
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
