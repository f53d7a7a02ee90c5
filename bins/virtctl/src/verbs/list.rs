//! `list` and `status`: containers as vzlist and vzctl showed them.
//!
//! Never here: a change.

use std::collections::BTreeMap;

use prost_types::FieldMask;
use ves_proto::api::container_status::State;
use ves_proto::api::{
    self, Container, ContainerSpec, ContainerStatus, Device, LimitCapability, Limits, OomVictim,
    Volume,
};
use ves_proto::public::{self, unix_ms};
use ves_proto::{Fault, Reason};
use ves_types::{Bytes, Limit, UbcResource, UbcRow, Victim};

use super::Context;
use super::change::unkept;
use crate::cli::ListVerb;
use crate::connect::Coordinator;
use crate::ct::Ct;
use crate::failure::{Failure, Outcome};
use crate::names::{self, bare};
use crate::output::{Column, Format, Output};
use crate::pages;
use crate::usage::{self, RUNNING, Whys};
use crate::value::Value;

/// All that do not.
const STOPPED: &str = "NOT (status.state=RUNNING OR status.state=STOPPING OR status.state=PAUSED)";

/// What a field begins with that is a label's value.
const LABELS: &str = "labels.";

/// A container and its accounting, where that was asked for and it runs.
struct Row {
    container: Container,
    spec: ContainerSpec,
    status: ContainerStatus,
    ubc: Option<Vec<UbcRow>>,
    /// What the node does not wholly keep of its limits, where that was asked for.
    notes: Vec<String>,
}

impl Context {
    pub(super) async fn list(self, args: ListVerb) -> Outcome {
        let ListVerb { all, stopped, names, ids, json, list_fields, filter, labels, list, cts } =
            args;
        let mut output = self.output;
        if json {
            output.format = Format::Json;
        }
        if list_fields {
            let names: String = columns().iter().map(|c| c.name.clone() + "\n").collect();
            return output.print(&names);
        }
        let mut selection = list.selection(self.fields);
        if ids {
            selection.fields = vec!["ctid".to_owned()];
            selection.no_header = true;
        }
        let filter = match filter {
            Some(filter) if stopped => format!("({filter}) AND {STOPPED}"),
            Some(filter) => filter,
            None if stopped => STOPPED.to_owned(),
            None if all || !cts.is_empty() => String::new(),
            None => RUNNING.to_owned(),
        };
        let labels: Vec<_> = labels.iter().map(|key| format!("{LABELS}{key}")).collect();
        let last = if names { "name" } else { "hostname" };
        let mut default_columns = vec!["ctid", "numproc", "status", "ip", last];
        if selection.fields.is_empty() {
            default_columns.extend(labels.iter().map(String::as_str));
        } else {
            selection.fields.extend(labels.iter().cloned());
        }
        let shown: Vec<&str> = match output.format {
            _ if !selection.fields.is_empty() => {
                selection.fields.iter().map(String::as_str).collect()
            }
            Format::Table | Format::Csv => default_columns.clone(),
            Format::Json | Format::Yaml => vec![ALL],
        };
        let sorted_by = selection.sort.iter().map(|(name, _)| name.as_str());
        let paths = paths(shown.into_iter().chain(sorted_by));
        let mut containers = containers(&self.coordinator, &filter, paths).await?;
        let unknown: Vec<&Ct> =
            cts.iter().filter(|ct| !containers.iter().any(|c| is(c, ct))).collect();
        if !cts.is_empty() {
            containers.retain(|c| cts.iter().any(|ct| is(c, ct)));
        }
        let wanted = || selection.fields.iter().chain(selection.sort.iter().map(|(name, _)| name));
        let limits = if wanted().any(|name| name == "notes") {
            super::node::this_node(&self.coordinator).await?.limits
        } else {
            Vec::new()
        };
        let usage = if wanted().any(|name| accounted(name)) {
            let usage = usage::of(&self.coordinator, None, &Whys::new()).await?;
            usage.into_iter().map(|usage| (usage.ct, usage.rows)).collect()
        } else {
            BTreeMap::new()
        };
        let rows: Vec<Row> = containers
            .into_iter()
            .map(|container| Row {
                spec: container.spec.clone().unwrap_or_default(),
                status: container.status.clone().unwrap_or_default(),
                ubc: usage.get(&container.ct_id).cloned(),
                notes: notes(&limits, container.spec.as_ref()),
                container,
            })
            .collect();
        let mut columns = columns();
        let sorted_by = selection.sort.iter().map(|(name, _)| name);
        let named = selection.fields.iter().chain(sorted_by).chain(&labels);
        columns.extend(named.filter_map(|name| label(name)));
        if selection.fields.is_empty() && usage.is_empty() {
            // Accounting is only shown where it was asked for by name.
            columns.retain(|c| !accounted(&c.name) && c.name != "notes");
        }
        // Those that there are first: one that is gone hides none.
        if !rows.is_empty() || unknown.is_empty() {
            output.list(&columns, &default_columns, &selection, &rows)?;
        }
        none_of(&unknown)
    }

    pub(super) async fn status(self, ct: &Ct) -> Outcome {
        let answer = self.container(names::container(ct)).await;
        let container = match (answer, ct) {
            (Ok(container), _) => Some(container),
            // vzctl's answer for an id that nobody has.
            (Err(fault), Ct::Id(_)) if fault.reason == Reason::ContainerUnknown => None,
            (Err(fault), _) => return Err(fault.into()),
        };
        print_status(self.output, ct, container.as_ref())
    }
}

fn print_status(output: Output, ct: &Ct, container: Option<&Container>) -> Outcome {
    let Status { exist, mounted, running } = Status::of(container);
    let id = container.map_or_else(|| ct.to_string(), |c| c.ct_id.to_string());
    let status = container.and_then(|c| c.status.clone()).unwrap_or_default();
    if output.format == Format::Table {
        let words = [
            if exist { "exist" } else { "deleted" },
            if mounted { "mounted" } else { "unmounted" },
            if running { "running" } else { "down" },
        ];
        output.print(&format!("CTID {id} {}\n", words.join(" ")))?;
        if let Some(problem) = problem(&status) {
            output.say(&format!("container {id}: {problem}"));
        }
        if status.state() == State::Stopping {
            output.say(&format!("container {id}: it is going down by itself"));
        }
        if let Some(text) = started_again(&id, &status) {
            output.say(&format!("container {id}: {text}"));
        }
        if let Some(kills) = status.oom_kills {
            let last = status.oom_victims.last().map(parse_victim);
            let last = last.map(|victim| format!(", last {victim}")).unwrap_or_default();
            let raise = "`virtctl set --ram` gives it more";
            output.say(&format!(
                "container {id}: processes killed because memory ran out: {kills}{last}; {raise}"
            ));
        }
        return Ok(());
    }
    let state = status.state();
    output.value(&Value::map([
        ("ctid", id.parse().map_or(Value::Null, Value::Num)),
        ("exist", Value::Bool(exist)),
        ("mounted", Value::Bool(mounted)),
        ("running", Value::Bool(running)),
        ("status", Value::text(container.map_or("deleted", |_| state_name(state)))),
        ("stopping", Value::Bool(state == State::Stopping)),
        ("problem", problem(&status).map_or(Value::Null, Value::text)),
        ("operation", Value::text(bare(&status.operation))),
        ("restarts", Value::Num(status.restarts.into())),
        ("next_start", time(status.next_start_time.as_ref())),
        ("oom_kills", number(status.oom_kills)),
        ("oom_victims", container.map_or(Value::Null, |_| victims(&status))),
    ]))
}

/// What keeps a container from being what it should be.
pub(super) fn problem(status: &ContainerStatus) -> Option<&str> {
    status.problem.as_ref().map(|problem| problem.message.as_str())
}

pub(super) fn time(time: Option<&prost_types::Timestamp>) -> Value {
    Value::maybe_time(time.map(unix_ms))
}

fn parse_victim(victim: &OomVictim) -> Victim {
    Victim::new(&victim.name, victim.pid)
}

/// The last that were killed because memory ran out, the newest last.
pub(super) fn victims(status: &ContainerStatus) -> Value {
    Value::texts(status.oom_victims.iter().map(|v| parse_victim(v).to_string()))
}

/// When it is started again by its restart policy.
fn started_again(id: &str, status: &ContainerStatus) -> Option<String> {
    let at = time(Some(status.next_start_time.as_ref()?)).human();
    let tries = status.restarts;
    Some(format!(
        "it ended by itself and is started again at {at}, the {tries}. time in a row; virtctl stop {id} \
         keeps it down"
    ))
}

/// vzctl's three answers about a container.
#[derive(Debug, PartialEq, Eq)]
struct Status {
    exist: bool,
    mounted: bool,
    running: bool,
}

impl Status {
    fn of(container: Option<&Container>) -> Self {
        let Some(container) = container else {
            return Self { exist: false, mounted: false, running: false };
        };
        let init = |status: &ContainerStatus| status.init_pid.is_some();
        let disk = |status: &ContainerStatus| status.disk_used_bytes.is_some();
        let (mounted, running) = match state_of(container) {
            State::Unspecified | State::Creating | State::Stopped | State::Deleting => {
                (false, false)
            }
            State::Mounted => (true, false),
            State::Running | State::Stopping | State::Paused => (true, true),
            State::Broken => {
                let running = container.status.as_ref().is_some_and(init);
                (running || container.status.as_ref().is_some_and(disk), running)
            }
        };
        Self { exist: true, mounted, running }
    }
}

/// How far a container is up.
pub(super) fn state_of(container: &Container) -> State {
    container.status.as_ref().map_or(State::Unspecified, ContainerStatus::state)
}

/// The word for a state. One that goes down by itself still runs; that it does is told beside it.
pub(super) const fn state_name(state: State) -> &'static str {
    match state {
        State::Unspecified => "unknown",
        State::Creating => "creating",
        State::Stopped => "stopped",
        State::Mounted => "mounted",
        State::Running | State::Stopping => "running",
        State::Deleting => "deleting",
        State::Paused => "paused",
        State::Broken => "broken",
    }
}

fn is(container: &Container, ct: &Ct) -> bool {
    match ct {
        Ct::Id(id) => container.ct_id == id.get(),
        Ct::Name(name) => container.alias == name.as_str(),
    }
}

/// Fails where there are some that nobody has.
fn none_of(cts: &[&Ct]) -> Outcome {
    let names: Vec<String> = cts.iter().map(ToString::to_string).collect();
    if names.is_empty() {
        return Ok(());
    }
    let names = names.join(", ");
    let message = format!("there is no container {names}");
    Err(Fault::new(Reason::ContainerUnknown, message).fact("ct", names).into())
}

/// Stands for all fields.
const ALL: &str = "*";

/// What of a container the coordinator must tell for these fields; none: all of it.
fn paths<'a>(fields: impl Iterator<Item = &'a str>) -> Option<Vec<&'static str>> {
    // Which container it is, by either.
    let mut paths = vec!["ct_id", "alias"];
    for field in fields {
        paths.push(match field {
            "ctid" | "name" => continue,
            "numproc" => "status.numproc",
            "status" => "status.state",
            "ip" => "spec.interfaces",
            "hostname" => "spec.hostname",
            "ostemplate" => "spec.template",
            "description" => "description",
            "labels" => "labels",
            label if label.starts_with(LABELS) => "labels",
            // Not of the container, but of its usage.
            other if accounted(other) => continue,
            _ => return None,
        });
    }
    paths.sort_unstable();
    paths.dedup();
    Some(paths)
}

/// The containers that a filter finds, by id, as far as these paths say.
pub(super) async fn containers(
    coordinator: &Coordinator,
    filter: &str,
    paths: Option<Vec<&'static str>>,
) -> Result<Vec<Container>, Failure> {
    let list = |page_token| {
        let mut client = coordinator.containers();
        let filter = filter.to_owned();
        let read_mask = paths.as_ref().map(|paths| FieldMask {
            paths: paths.iter().map(|path| (*path).to_owned()).collect(),
        });
        let request = api::ListContainersRequest {
            page_token,
            filter,
            read_mask,
            ..api::ListContainersRequest::default()
        };
        async move { client.list_containers(request).await }
    };
    Ok(pages::all(coordinator, list).await?)
}

/// Whether a field comes from accounting, which takes a call of its own.
fn accounted(name: &str) -> bool {
    let base = name.split('.').next().unwrap_or_default();
    name != "numproc" && base.parse::<UbcResource>().is_ok()
}

fn number(n: Option<u64>) -> Value {
    n.map_or(Value::Null, Value::Num)
}

/// Every field of a container, under vzlist's names where vzlist had it.
fn columns() -> Vec<Column<Row>> {
    fn column(name: &str, get: impl Fn(&Row) -> Value + 'static) -> Column<Row> {
        Column::new(name, get)
    }
    fn right(name: &str, get: impl Fn(&Row) -> Value + 'static) -> Column<Row> {
        Column::right(name, get)
    }
    let limits = |r: &Row| r.spec.limits.clone().unwrap_or_default();
    let mut columns = vec![
        right("ctid", |r| Value::Num(u64::from(r.container.ct_id))),
        right("numproc", |r| number(r.status.numproc)).headed("NPROC"),
        column("status", |r| Value::text(state_name(r.status.state()))),
        column("ip", |r| Value::texts(addresses(&r.spec))).headed("IP_ADDR"),
        column("hostname", |r| match r.spec.hostname.as_str() {
            "" => Value::Text(format!("ct{}", r.container.ct_id)),
            name => Value::text(name),
        }),
        column("name", |r| Value::text(&r.container.alias)),
        column("description", |r| Value::text(&r.container.description)),
        column("ostemplate", |r| Value::text(bare(&r.spec.template))),
        column("nameserver", |r| Value::texts(&r.spec.nameservers)),
        column("searchdomain", |r| Value::texts(&r.spec.search_domains)),
        column("onboot", |r| Value::Bool(r.spec.start_on_boot)),
        column("restart", |r| {
            Value::text(
                public::parse_restart(r.spec.restart_policy).unwrap_or_default().to_string(),
            )
        }),
        column("snapshots", |r| {
            let schedule = r.spec.snapshot_schedule;
            Value::text(public::parse_snapshot_schedule(schedule).unwrap_or_default().to_string())
        }),
        column("devices", |r| Value::texts(r.spec.devices.iter().map(device))),
        column("capability", |r| {
            Value::texts(r.spec.dropped_capabilities.iter().map(|name| format!("{name}:off")))
        }),
        column("features", |r| {
            let features = public::parse_features(r.spec.features).unwrap_or_default();
            Value::text(features.effective().to_string())
        }),
        right("restarts", |r| Value::Num(r.status.restarts.into())),
        column("next_start", |r| time(r.status.next_start_time.as_ref())),
        right("bootorder", |r| r.spec.boot_order.map_or(Value::Null, |n| Value::Int(n.into()))),
        right("stop_timeout", |r| {
            r.spec.stop_timeout.map_or(Value::Null, |t| Value::Int(t.seconds))
        }),
        column("disabled", |r| Value::Bool(r.spec.disabled)),
        right("cpulimit", move |r| Value::maybe(limits(r).cpu_millicpus.map(|m| m / 10))),
        right("cpuunits", move |r| Value::maybe(limits(r).cpu_units)),
        right("cpus", move |r| Value::maybe(limits(r).cpus)),
        column("cpumask", move |r| Value::text(limits(r).cpu_mask)),
        column("nodemask", move |r| Value::text(limits(r).node_mask)),
        right("ioprio", move |r| Value::Num(limits(r).io_priority.unwrap_or(4).into())),
        right("iolimit", move |r| limits(r).io_bytes_per_second.map_or(Value::Null, Value::Bytes)),
        right("iopslimit", move |r| number(limits(r).io_operations_per_second)),
        right("ram", move |r| memory(&limits(r), UbcResource::Physpages)),
        right("swap", move |r| memory(&limits(r), UbcResource::Swappages)),
        right("diskspace", |r| Value::Bytes(root(&r.spec).size_bytes)),
        right("diskspace.used", |r| r.status.disk_used_bytes.map_or(Value::Null, Value::Bytes)),
        right("diskinodes", |r| number(root(&r.spec).inodes)),
        column("created", |r| Value::whole_seconds(r.container.create_time.as_ref())),
        column("started", |r| time(r.status.start_time.as_ref())),
        right("uptime", |r| uptime(r.status.start_time.as_ref())),
        right("init_pid", |r| Value::maybe(r.status.init_pid)),
        column("node", |r| Value::text(bare(&r.container.node))),
        column("uid", |r| Value::text(&r.container.uid)),
        column("project", |r| Value::text(bare(&r.container.project))),
        column("labels", |r| map(&r.container.labels)),
        column("annotations", |r| map(&r.container.annotations)),
        column("delete_protection", |r| Value::Bool(r.container.delete_protection)),
        right("generation", |r| Value::Num(r.container.generation)),
        column("unsaved", |r| Value::Bool(r.status.running_spec.is_some())),
        column("operation", |r| Value::text(bare(&r.status.operation))),
        column("stopping", |r| Value::Bool(r.status.state() == State::Stopping)),
        column("problem", |r| problem(&r.status).map_or(Value::Null, Value::text)),
        right("oom_kills", |r| number(r.status.oom_kills)),
        column("oom_victims", |r| victims(&r.status)),
        column("notes", |r| Value::texts(&r.notes)),
    ];
    for resource in UbcResource::ALL {
        let row = move |r: &Row| {
            r.ubc.as_ref().and_then(|rows| rows.iter().find(|u| u.resource == resource).cloned())
        };
        if resource != UbcResource::Numproc {
            columns.push(right(resource.name(), move |r| number(row(r).map(|u| u.held))));
        }
        let level = |limit: Option<Limit>| limit.map_or(Value::Null, Value::limit);
        let name = |suffix: &str| format!("{resource}.{suffix}");
        columns.push(right(&name("m"), move |r| number(row(r).map(|u| u.maxheld))));
        columns.push(right(&name("b"), move |r| level(row(r).map(|u| u.value.barrier))));
        columns.push(right(&name("l"), move |r| level(row(r).map(|u| u.value.limit))));
        columns.push(right(&name("f"), move |r| number(row(r).map(|u| u.failcnt))));
    }
    columns
}

fn map(entries: &BTreeMap<String, String>) -> Value {
    Value::Map(entries.iter().map(|(k, v)| (k.clone(), Value::Text(v.clone()))).collect())
}

/// The column of a label, where that is what a field names.
fn label(name: &str) -> Option<Column<Row>> {
    let key = name.strip_prefix(LABELS)?;
    let of = key.to_owned();
    let get = move |r: &Row| r.container.labels.get(&of).map_or(Value::Null, Value::text);
    Some(Column::new(name, get).headed(&key.to_ascii_uppercase()))
}

/// The addresses of all its interfaces.
fn addresses(spec: &ContainerSpec) -> impl Iterator<Item = &String> {
    spec.interfaces.iter().flat_map(|interface| &interface.addresses)
}

/// The volume that is mounted at /.
fn root(spec: &ContainerSpec) -> Volume {
    spec.volumes.iter().find(|volume| volume.id == "root").cloned().unwrap_or_default()
}

/// A device as vzctl writes it: `net/tun:rw`.
fn device(device: &Device) -> String {
    let Device { id, read, write } = device;
    format!("{id}:{}{}", if *read { "r" } else { "" }, if *write { "w" } else { "" })
}

/// What a node does not wholly keep of a container's limits.
fn notes(kept: &[LimitCapability], spec: Option<&ContainerSpec>) -> Vec<String> {
    let Some(limits) = spec.and_then(|s| s.limits.as_ref()) else { return Vec::new() };
    let set = [
        limits.io_bytes_per_second.map(|_| "spec.limits.io_bytes_per_second"),
        limits.io_operations_per_second.map(|_| "spec.limits.io_operations_per_second"),
        limits.io_priority.map(|_| "spec.limits.io_priority"),
    ];
    let set: Vec<_> = set.into_iter().flatten().map(str::to_owned).collect();
    unkept(kept, &set).map(|(option, why)| format!("{option}: {why}")).collect()
}

fn memory(limits: &Limits, resource: UbcResource) -> Value {
    let bounds = limits.ubc.as_ref().and_then(|ubc| public::bounds(ubc, resource));
    match bounds.map(|bounds| public::parse_bounds(bounds).limit) {
        Some(Limit::Max(pages)) => Value::Bytes(pages.saturating_mul(Bytes::PAGE)),
        Some(Limit::Unlimited) | None => Value::Null,
    }
}

fn uptime(start: Option<&prost_types::Timestamp>) -> Value {
    let now = jiff::Timestamp::now().as_millisecond();
    let ms = start.and_then(|start| u64::try_from(now.saturating_sub(unix_ms(start))).ok());
    ms.map_or(Value::Null, Value::Millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_words_for_each_state() {
        let status = |state: State| {
            let status = ContainerStatus { state: state.into(), ..ContainerStatus::default() };
            let container = Container { status: Some(status), ..Container::default() };
            let Status { exist, mounted, running } = Status::of(Some(&container));
            (exist, mounted, running)
        };
        assert_eq!(status(State::Stopped), (true, false, false));
        assert_eq!(status(State::Mounted), (true, true, false));
        assert_eq!(status(State::Running), (true, true, true));
        assert_eq!(status(State::Stopping), (true, true, true));
        assert_eq!(status(State::Paused), (true, true, true));
        assert_eq!(status(State::Broken), (true, false, false));
        assert_eq!(Status::of(None), Status { exist: false, mounted: false, running: false });
    }

    #[test]
    fn what_is_started_again_says_when_and_how_to_keep_it_down() {
        let waits = ContainerStatus { restarts: 3, ..ContainerStatus::default() };
        assert_eq!(started_again("101", &waits), None);
        let at = public::timestamp(1_700_000_000_000);
        let waits = ContainerStatus { next_start_time: Some(at), ..waits };
        let text = started_again("101", &waits).expect("it says so");
        assert!(text.contains("the 3. time") && text.contains("virtctl stop 101"), "{text}");
    }

    #[test]
    fn only_what_is_shown_is_asked_for() {
        let paths = |fields: &str| paths(fields.split(',')).map(|paths| paths.join(","));
        let said = |text: &str| Some(text.to_owned());
        assert_eq!(paths("ctid"), said("alias,ct_id"));
        assert_eq!(
            paths("status,numfile.f,labels.a,labels"),
            said("alias,ct_id,labels,status.state")
        );
        assert_eq!(paths("ctid,problem"), None);
        assert_eq!(paths(ALL), None);
    }

    #[test]
    fn fields_have_one_name_each() {
        let mut names: Vec<_> = columns().into_iter().map(|c| c.name).collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
