//! `node`: what a node is, has, has promised and can enforce.
//!
//! Never here: a change of it.

use ves_proto::api::node::CgroupMode;
use ves_proto::api::pool::Backend;
use ves_proto::api::room::Kind as RoomKind;
use ves_proto::api::{
    self, Condition, LimitCapability, Node, NodeBound, Pool, Room, SourceGuard, UnknownContainer,
    condition,
};
use ves_proto::public::parse_resource;
use ves_types::Enforcement;

use super::{Context, access};
use crate::cli::NodeVerb;
use crate::connect::Coordinator;
use crate::failure::{Failure, Outcome};
use crate::names::bare;
use crate::output::{Column, Format};
use crate::pages;
use crate::unbuilt::not_built;
use crate::usage;
use crate::value::Value;

/// The name of the node that is asked, whatever it is called.
const THIS_NODE: &str = "nodes/-";

impl Context {
    pub(super) async fn node(self, verb: NodeVerb) -> Outcome {
        let verb = match verb {
            NodeVerb::Token(verb) => return self.token(verb).await,
            NodeVerb::InitCa(args) => return access::init_ca(args, self.output),
            NodeVerb::Cert(verb) => return access::cert(verb, None, self.output, self.fields),
            verb => verb,
        };
        let Self { coordinator, output, fields } = self;
        match &verb {
            NodeVerb::Add { .. } => return Err(not_built("node add").into()),
            NodeVerb::Drain { .. } => return Err(not_built("node drain").into()),
            NodeVerb::Undrain { .. } => return Err(not_built("node undrain").into()),
            NodeVerb::Remove { .. } => return Err(not_built("node remove").into()),
            _ => {}
        }
        if let NodeVerb::List(list) = verb {
            let page = |page_token| {
                let mut client = coordinator.node();
                let request = api::ListNodesRequest { page_size: 0, page_token };
                async move { client.list_nodes(request).await }
            };
            let nodes = pages::all(&coordinator, page).await?;
            let default_columns = ["name", "status", "version", "kernel", "cgroup", "size", "free"];
            return output.list(&columns(), &default_columns, &list.selection(fields), &nodes);
        }
        let node = this_node(&coordinator).await?;
        if matches!(verb, NodeVerb::Pool) {
            return output.value(&render_pool(node.pool.as_ref()));
        }
        let mut entries: Vec<(String, Value)> =
            columns().into_iter().map(|c| (c.name, (c.get)(&node))).collect();
        let enforced = node.capabilities.iter().filter_map(|c| {
            let how = usage::enforcement(c.enforcement(), &c.why);
            let how = how.map_or_else(|| "unknown".to_owned(), |how| how.to_string());
            Some((parse_resource(c.resource())?.name().to_owned(), Value::Text(how)))
        });
        let kept =
            node.limits.iter().map(|l| (limit_word(&l.field).to_owned(), Value::Text(how_kept(l))));
        if output.format == Format::Table {
            entries.extend(enforced.chain(kept));
        } else {
            entries.push(("enforcement".to_owned(), Value::Map(enforced.collect())));
            entries.push(("limits".to_owned(), Value::Map(kept.collect())));
        }
        output.value(&Value::Map(entries))
    }
}

/// The node that is asked.
pub(super) async fn this_node(coordinator: &Coordinator) -> Result<Node, Failure> {
    let get = || {
        let mut client = coordinator.node();
        async move { client.get_node(api::GetNodeRequest { name: THIS_NODE.to_owned() }).await }
    };
    Ok(coordinator.call(get).await?)
}

/// What scripts know a limit by, which were there before the API had its names.
fn limit_word(field: &str) -> &str {
    match field {
        "io_bytes_per_second" => "io_bps",
        "io_operations_per_second" => "io_iops",
        field => field,
    }
}

/// How far a limit is kept, as for parameters, and what of it is not.
fn how_kept(limit: &LimitCapability) -> String {
    let word = match usage::enforcement(limit.enforcement(), "") {
        None => "unknown",
        Some(Enforcement::Hard) => "hard",
        Some(Enforcement::Bounded) => "bounded",
        Some(Enforcement::Accounted) => "accounted",
        Some(Enforcement::Unavailable(_)) => "unavailable",
    };
    if limit.why.is_empty() { word.to_owned() } else { format!("{word} ({})", limit.why) }
}

/// The word by which operators configure it.
fn backend_word(pool: &Pool) -> Value {
    match pool.backend() {
        Backend::Unspecified => Value::Null,
        Backend::ImageReflink => Value::text("image-reflink"),
        Backend::ImageCopy => Value::text("image-copy"),
    }
}

fn render_pool(pool: Option<&Pool>) -> Value {
    let Some(pool) = pool else { return Value::Map(vec![("backend".to_owned(), Value::Null)]) };
    let Pool {
        name: _,
        backend: _,
        size_bytes,
        free_bytes,
        promised_bytes,
        allocated_bytes,
        backed_bytes,
        promisable_bytes,
        alarms,
    } = pool;
    let mut entries = vec![("backend", backend_word(pool))];
    entries.extend(
        [
            ("size", size_bytes),
            ("promised", promised_bytes),
            ("promisable", promisable_bytes),
            ("allocated", allocated_bytes),
            ("backed", backed_bytes),
            ("free", free_bytes),
        ]
        .map(|(name, bytes)| (name, Value::Bytes(*bytes))),
    );
    entries.push(("alarms", Value::List(alarms.iter().map(Value::text).collect())));
    Value::Map(entries.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

/// How the guard against false sources stands.
const fn guard(guard: SourceGuard) -> &'static str {
    match guard {
        SourceGuard::Unspecified => "unknown",
        SourceGuard::Absent => "absent",
        SourceGuard::Watched => "watched",
        SourceGuard::Owned => "owned",
    }
}

/// What the kernel has once for all containers, by the name of what it is room for.
const fn room(kind: RoomKind) -> &'static str {
    match kind {
        RoomKind::Unspecified => "unknown",
        RoomKind::NeighboursV4 => "neighbours-v4",
        RoomKind::NeighboursV6 => "neighbours-v6",
        RoomKind::Terminals => "terminals",
        RoomKind::OwnTerminals => "terminals-reserved",
        RoomKind::AsyncEvents => "async-events",
    }
}

/// How much of a room is taken, and where there is less than there should be.
fn taken(room: &Room) -> Value {
    let Room { kind: _, limit, least, used } = room;
    let of = used.map_or_else(|| limit.to_string(), |used| format!("{used} of {limit}"));
    let short = if limit < least { format!(", should be {least}") } else { String::new() };
    Value::text(of + &short)
}

/// The word for how a kernel counts and limits.
const fn cgroup(mode: CgroupMode) -> &'static str {
    match mode {
        CgroupMode::Unspecified => "",
        CgroupMode::V1 => "v1",
        CgroupMode::V2 => "v2",
        CgroupMode::Hybrid => "hybrid",
    }
}

/// A service of which a condition tells whether it answers.
const fn service(about: condition::Type) -> Option<&'static str> {
    match about {
        condition::Type::StorageReady => Some("storage"),
        condition::Type::NetworkReady => Some("network"),
        condition::Type::ResourcesReady => Some("resources"),
        condition::Type::LifecycleReady => Some("lifecycle"),
        condition::Type::Unspecified | condition::Type::PoolLow => None,
    }
}

/// The services that do not answer, and why.
fn unreachable(node: &Node) -> impl Iterator<Item = (String, Value)> {
    let away = |c: &Condition| {
        let service = service(c.r#type()).filter(|_| c.status() != condition::Status::True)?;
        Some((service.to_owned(), Value::text(&c.message)))
    };
    node.conditions.iter().filter_map(away)
}

fn columns() -> Vec<Column<Node>> {
    fn bound(bound: Option<NodeBound>) -> Option<u64> {
        bound.and_then(|b| b.limit)
    }
    fn pool(get: impl Fn(&Pool) -> Value) -> impl Fn(&Node) -> Value {
        move |node| node.pool.as_ref().map_or(Value::Null, &get)
    }
    vec![
        Column::new("name", |n: &Node| Value::text(bare(&n.name))),
        Column::new("status", |n: &Node| {
            Value::text(if unreachable(n).next().is_none() { "ready" } else { "degraded" })
        }),
        Column::new("version", |n: &Node| Value::text(&n.version)),
        Column::new("kernel", |n: &Node| Value::text(&n.kernel)),
        Column::new("cgroup", |n: &Node| Value::text(cgroup(n.cgroup_mode()))),
        Column::new("backend", pool(backend_word)),
        Column::right("size", pool(|p| Value::Bytes(p.size_bytes))),
        Column::right("free", pool(|p| Value::Bytes(p.free_bytes))),
        Column::right("promised", pool(|p| Value::Bytes(p.promised_bytes))),
        Column::new("unreachable", |n: &Node| Value::Map(unreachable(n).collect())),
        Column::right("ram", |n: &Node| n.memory.map_or(Value::Null, |b| Value::Bytes(b.total))),
        Column::right("ram_limit", |n: &Node| bound(n.memory).map_or(Value::Null, Value::Bytes)),
        Column::right("pids_limit", |n: &Node| bound(n.processes).map_or(Value::Null, Value::Num)),
        Column::new("guard", |n: &Node| Value::text(guard(n.source_guard()))),
        Column::new("rooms", |n: &Node| {
            Value::Map(n.rooms.iter().map(|r| (room(r.kind()).to_owned(), taken(r))).collect())
        }),
        // `virtctl destroy ID` clears each.
        Column::new("unknown", |n: &Node| {
            let of =
                |c: &UnknownContainer| (bare(&c.name).to_owned(), Value::text(c.what.join(", ")));
            Value::Map(n.unknown_containers.iter().map(of).collect())
        }),
    ]
}
