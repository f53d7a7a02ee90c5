//! `list` and `status`: containers as vzlist and vzctl showed them.
//!
//! Never here: a change.

use std::collections::BTreeMap;

use ves_proto::common::LimitPromise;
use ves_proto::convert::{self, parse_victim};
use ves_proto::coordinator::{self as api, Container, ContainerSpec, ContainerState};
use ves_proto::{Fault, Reason};
use ves_types::{Bytes, Limit, SpecField, UbcResource, UbcRow};

use super::Context;
use super::change::unkept;
use crate::cli::ListVerb;
use crate::connect::Coordinator;
use crate::ct::Ct;
use crate::failure::{Failure, Outcome};
use crate::output::{Column, Format, Output};
use crate::value::Value;

/// A container and its accounting, where that was asked for and it runs.
struct Row {
    container: Container,
    spec: ContainerSpec,
    ubc: Option<Vec<UbcRow>>,
    /// What the node does not wholly keep of its limits, where that was asked for.
    notes: Vec<String>,
}

impl Context {
    pub(super) async fn list(self, args: ListVerb) -> Outcome {
        let ListVerb { all, stopped, names, ids, json, list_fields, list, cts } = args;
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
        let running_only = !all && !stopped && cts.is_empty();
        let mut containers = containers(&self.coordinator, running_only).await?;
        if stopped {
            containers.retain(|c| !running(c.state()));
        }
        let unknown: Vec<&Ct> =
            cts.iter().filter(|ct| !containers.iter().any(|c| is(c, ct))).collect();
        if !cts.is_empty() {
            containers.retain(|c| cts.iter().any(|ct| is(c, ct)));
        }
        let wanted = || selection.fields.iter().chain(selection.sort.iter().map(|(name, _)| name));
        let promises = if wanted().any(|name| name == "notes") {
            let mut client = self.coordinator.node();
            self.coordinator.call_once(client.get_node(api::GetNodeRequest {})).await?.limits
        } else {
            Vec::new()
        };
        let usage = if wanted().any(|name| accounted(name)) {
            usage(&self.coordinator).await?
        } else {
            BTreeMap::new()
        };
        let rows: Vec<Row> = containers
            .into_iter()
            .map(|container| Row {
                spec: container.spec.clone().unwrap_or_default(),
                ubc: usage.get(&container.id).cloned(),
                notes: notes(&promises, container.spec.as_ref()),
                container,
            })
            .collect();
        let last = if names { "name" } else { "hostname" };
        let default_columns = ["ctid", "numproc", "status", "ip", last];
        let mut columns = columns();
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
        let Self { coordinator, output, .. } = self;
        let answer = coordinator
            .call(|| {
                let mut client = coordinator.containers();
                let request = api::GetContainerRequest { ct: ct.to_string() };
                async move { client.get_container(request).await }
            })
            .await;
        let container = match (answer, ct) {
            (Ok(container), _) => Some(container),
            // vzctl's answer for an id that nobody has.
            (Err(fault), Ct::Id(_)) if fault.reason == Reason::ContainerUnknown => None,
            (Err(fault), _) => return Err(fault.into()),
        };
        print_status(output, ct, container.as_ref())
    }
}

fn print_status(output: Output, ct: &Ct, container: Option<&Container>) -> Outcome {
    let Status { exist, mounted, running } = Status::of(container);
    let id = container.map_or_else(|| ct.to_string(), |c| c.id.to_string());
    if output.format == Format::Table {
        let words = [
            if exist { "exist" } else { "deleted" },
            if mounted { "mounted" } else { "unmounted" },
            if running { "running" } else { "down" },
        ];
        output.print(&format!("CTID {id} {}\n", words.join(" ")))?;
        if let Some(problem) = container.map(|c| &c.problem).filter(|p| !p.is_empty()) {
            output.say(&format!("container {id}: {problem}"));
        }
        if container.is_some_and(|c| c.stopping) {
            output.say(&format!("container {id}: it is going down by itself"));
        }
        if let Some(text) = container.and_then(started_again) {
            output.say(&format!("container {id}: {text}"));
        }
        if let Some(kills) = container.and_then(|c| c.oom_kills) {
            let last = container.and_then(|c| c.oom_victims.last()).map(parse_victim);
            let last = last.map(|victim| format!(", last {victim}")).unwrap_or_default();
            let raise = "`virtctl set --ram` gives it more";
            output.say(&format!(
                "container {id}: processes killed because memory ran out: {kills}{last}; {raise}"
            ));
        }
        return Ok(());
    }
    output.value(&Value::map([
        ("ctid", id.parse().map_or(Value::Null, Value::Num)),
        ("exist", Value::Bool(exist)),
        ("mounted", Value::Bool(mounted)),
        ("running", Value::Bool(running)),
        ("status", Value::text(container.map_or("deleted", |c| state_name(c.state())))),
        ("stopping", Value::Bool(container.is_some_and(|c| c.stopping))),
        ("problem", Value::text(container.map_or("", |c| &c.problem))),
        ("operation", Value::text(container.map_or("", |c| &c.operation))),
        ("restarts", Value::Num(container.map_or(0, |c| c.restarts.into()))),
        ("next_start", Value::maybe_time(container.and_then(|c| c.next_start_unix_ms))),
        ("oom_kills", number(container.and_then(|c| c.oom_kills))),
        ("oom_victims", container.map_or(Value::Null, victims)),
    ]))
}

/// The last that were killed because memory ran out, the newest last.
pub(super) fn victims(container: &Container) -> Value {
    Value::texts(container.oom_victims.iter().map(|v| parse_victim(v).to_string()))
}

/// When it is started again by its restart policy.
fn started_again(container: &Container) -> Option<String> {
    let at = Value::Time(container.next_start_unix_ms?).human();
    let (tries, id) = (container.restarts, container.id);
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
        let (mounted, running) = match container.state() {
            ContainerState::Unspecified
            | ContainerState::Creating
            | ContainerState::Stopped
            | ContainerState::Deleting => (false, false),
            ContainerState::Mounted => (true, false),
            ContainerState::Running | ContainerState::Paused => (true, true),
            ContainerState::Broken => {
                let running = container.init_pid.is_some();
                (running || container.disk_used_bytes.is_some(), running)
            }
        };
        Self { exist: true, mounted, running }
    }
}

/// The word for a state.
pub(super) const fn state_name(state: ContainerState) -> &'static str {
    match state {
        ContainerState::Unspecified => "unknown",
        ContainerState::Creating => "creating",
        ContainerState::Stopped => "stopped",
        ContainerState::Mounted => "mounted",
        ContainerState::Running => "running",
        ContainerState::Deleting => "deleting",
        ContainerState::Paused => "paused",
        ContainerState::Broken => "broken",
    }
}

const fn running(state: ContainerState) -> bool {
    matches!(state, ContainerState::Running | ContainerState::Paused)
}

fn is(container: &Container, ct: &Ct) -> bool {
    match ct {
        Ct::Id(id) => container.id == id.get(),
        Ct::Name(name) => container.spec.as_ref().is_some_and(|s| s.name == name.as_str()),
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

/// All containers, a page at a time.
pub(super) async fn containers(
    coordinator: &Coordinator,
    running_only: bool,
) -> Result<Vec<Container>, Failure> {
    let mut containers = Vec::new();
    let mut page_token = String::new();
    loop {
        let page = coordinator
            .call(|| {
                let mut client = coordinator.containers();
                let page_token = page_token.clone();
                let request = api::ListContainersRequest { page_size: 0, page_token, running_only };
                async move { client.list_containers(request).await }
            })
            .await?;
        containers.extend(page.containers);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(containers);
        }
    }
}

/// Whether a field comes from accounting, which takes a call of its own.
fn accounted(name: &str) -> bool {
    let base = name.split('.').next().unwrap_or_default();
    name != "numproc" && base.parse::<UbcResource>().is_ok()
}

/// The accounting of all running containers, by id.
async fn usage(coordinator: &Coordinator) -> Result<BTreeMap<u32, Vec<UbcRow>>, Failure> {
    let answer = super::resources::fetch(coordinator, String::new()).await?;
    let parse = |c: api::ContainerResources| {
        let rows = c.rows.into_iter().map(convert::parse_row).collect::<Result<_, _>>()?;
        Ok((c.id, rows))
    };
    answer.into_iter().map(parse).collect()
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
        right("ctid", |r| Value::Num(u64::from(r.container.id))),
        right("numproc", |r| number(r.container.numproc)).headed("NPROC"),
        column("status", |r| Value::text(state_name(r.container.state()))),
        column("ip", |r| Value::texts(&r.spec.addresses)).headed("IP_ADDR"),
        column("hostname", |r| match r.spec.hostname.as_str() {
            "" => Value::Text(format!("ct{}", r.container.id)),
            name => Value::text(name),
        }),
        column("name", |r| Value::text(&r.spec.name)),
        column("description", |r| Value::text(&r.spec.description)),
        column("ostemplate", |r| Value::text(&r.spec.template)),
        column("nameserver", |r| Value::texts(&r.spec.nameservers)),
        column("searchdomain", |r| Value::texts(&r.spec.search_domains)),
        column("onboot", |r| Value::Bool(r.spec.onboot)),
        column("restart", |r| {
            Value::text(convert::parse_restart(r.spec.restart).unwrap_or_default().to_string())
        }),
        column("devices", |r| Value::texts(&r.spec.devices)),
        column("capability", |r| {
            Value::texts(r.spec.capabilities_off.iter().map(|name| format!("{name}:off")))
        }),
        column("features", |r| {
            let features = convert::parse_features(r.spec.features);
            Value::text(features.effective().to_string())
        }),
        right("restarts", |r| Value::Num(r.container.restarts.into())),
        column("next_start", |r| Value::maybe_time(r.container.next_start_unix_ms)),
        right("bootorder", |r| r.spec.boot_order.map_or(Value::Null, |n| Value::Int(n.into()))),
        right("stop_timeout", |r| Value::maybe(r.spec.stop_timeout_s.map(u64::from))),
        column("disabled", |r| Value::Bool(r.spec.disabled)),
        right("cpulimit", move |r| Value::maybe(limits(r).cpu_millicpus.map(|m| m / 10))),
        right("cpuunits", move |r| Value::maybe(limits(r).cpu_units)),
        right("cpus", move |r| Value::maybe(limits(r).cpus)),
        column("cpumask", move |r| Value::text(limits(r).cpu_mask.unwrap_or_default())),
        column("nodemask", move |r| Value::text(limits(r).node_mask.unwrap_or_default())),
        right("ioprio", move |r| Value::Num(limits(r).io_priority.unwrap_or(4).into())),
        right("iolimit", move |r| limits(r).io_bps.map_or(Value::Null, Value::Bytes)),
        right("iopslimit", move |r| number(limits(r).io_iops)),
        right("ram", move |r| memory(&limits(r), UbcResource::Physpages)),
        right("swap", move |r| memory(&limits(r), UbcResource::Swappages)),
        right("diskspace", |r| Value::Bytes(r.spec.disk_bytes)),
        right("diskspace.used", |r| r.container.disk_used_bytes.map_or(Value::Null, Value::Bytes)),
        right("diskinodes", |r| number(r.spec.disk_inodes)),
        column("created", |r| match r.container.created_unix {
            0 => Value::Null,
            s => Value::Time(s.saturating_mul(1000)),
        }),
        column("started", |r| r.container.started_unix_ms.map_or(Value::Null, Value::Time)),
        right("uptime", |r| uptime(r.container.started_unix_ms)),
        right("init_pid", |r| Value::maybe(r.container.init_pid)),
        column("node", |r| Value::text(&r.container.node)),
        right("generation", |r| Value::Num(r.container.generation)),
        column("unsaved", |r| Value::Bool(r.container.running_spec.is_some())),
        column("operation", |r| Value::text(&r.container.operation)),
        column("stopping", |r| Value::Bool(r.container.stopping)),
        column("problem", |r| Value::text(&r.container.problem)),
        right("oom_kills", |r| number(r.container.oom_kills)),
        column("oom_victims", |r| victims(&r.container)),
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

/// What a node does not wholly keep of a container's limits.
fn notes(promises: &[LimitPromise], spec: Option<&ContainerSpec>) -> Vec<String> {
    let Some(limits) = spec.and_then(|s| s.limits.as_ref()) else { return Vec::new() };
    let set = [
        limits.io_bps.map(|_| SpecField::IoBps),
        limits.io_iops.map(|_| SpecField::IoIops),
        limits.io_priority.map(|_| SpecField::IoPriority),
    ];
    let set: Vec<_> = set.into_iter().flatten().collect();
    unkept(promises, &set).map(|(option, why)| format!("{option}: {why}")).collect()
}

fn memory(limits: &ves_proto::common::Limits, resource: UbcResource) -> Value {
    match limits.ubc.get(resource.name()).map(|v| Limit::from_wire(v.limit)) {
        Some(Limit::Max(pages)) => Value::Bytes(pages.saturating_mul(Bytes::PAGE)),
        Some(Limit::Unlimited) | None => Value::Null,
    }
}

fn uptime(started_unix_ms: Option<i64>) -> Value {
    let now = jiff::Timestamp::now().as_millisecond();
    let ms = started_unix_ms.and_then(|start| u64::try_from(now.saturating_sub(start)).ok());
    ms.map_or(Value::Null, Value::Millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_words_for_each_state() {
        let status = |state: ContainerState| {
            let container = Container { id: 1, state: state.into(), ..Container::default() };
            let Status { exist, mounted, running } = Status::of(Some(&container));
            (exist, mounted, running)
        };
        assert_eq!(status(ContainerState::Stopped), (true, false, false));
        assert_eq!(status(ContainerState::Mounted), (true, true, false));
        assert_eq!(status(ContainerState::Running), (true, true, true));
        assert_eq!(status(ContainerState::Paused), (true, true, true));
        assert_eq!(status(ContainerState::Broken), (true, false, false));
        assert_eq!(Status::of(None), Status { exist: false, mounted: false, running: false });
    }

    #[test]
    fn what_is_started_again_says_when_and_how_to_keep_it_down() {
        let waits = Container { id: 101, restarts: 3, ..Container::default() };
        assert_eq!(started_again(&waits), None);
        let waits = Container { next_start_unix_ms: Some(1_700_000_000_000), ..waits };
        let text = started_again(&waits).expect("it says so");
        assert!(text.contains("the 3. time") && text.contains("virtctl stop 101"), "{text}");
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
