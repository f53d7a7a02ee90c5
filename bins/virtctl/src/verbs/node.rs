//! `node`: what a node is, has, has promised and can enforce.
//!
//! Never here: a change of it.

use ves_proto::common::{Enforcement, LimitPromise};
use ves_proto::convert;
use ves_proto::coordinator::{GetNodeRequest, Node, UnknownContainer};
use ves_proto::network::{Guard, Room, RoomKind};
use ves_proto::storage::{Backend, Pool};

use super::Context;
use crate::cli::NodeVerb;
use crate::failure::Outcome;
use crate::output::{Column, Format};
use crate::unbuilt::not_built;
use crate::value::Value;

impl Context {
    pub(super) async fn node(self, verb: NodeVerb) -> Outcome {
        let Self { coordinator, output, fields } = self;
        match &verb {
            NodeVerb::Add { .. } => return Err(not_built("node add").into()),
            NodeVerb::Drain { .. } => return Err(not_built("node drain").into()),
            NodeVerb::Undrain { .. } => return Err(not_built("node undrain").into()),
            NodeVerb::Remove { .. } => return Err(not_built("node remove").into()),
            NodeVerb::List(_) | NodeVerb::Pool | NodeVerb::Capacity => {}
        }
        let node: Node = coordinator
            .call(|| {
                let mut client = coordinator.node();
                async move { client.get_node(GetNodeRequest {}).await }
            })
            .await?;
        if matches!(verb, NodeVerb::Pool) {
            return output.value(&render_pool(node.pool.as_ref()));
        }
        if let NodeVerb::List(list) = verb {
            let default_columns = ["name", "status", "version", "kernel", "cgroup", "size", "free"];
            return output.list(&columns(), &default_columns, &list.selection(fields), &[node]);
        }
        let rows: Vec<_> =
            node.enforcement.iter().cloned().map(convert::parse_row).collect::<Result<_, _>>()?;
        let mut entries: Vec<(String, Value)> =
            columns().into_iter().map(|c| (c.name, (c.get)(&node))).collect();
        let enforced = rows
            .iter()
            .map(|r| (r.resource.name().to_owned(), Value::text(r.enforcement.to_string())));
        if output.format == Format::Table {
            entries.extend(enforced);
            entries.extend(node.limits.iter().map(|p| (p.field.clone(), Value::Text(how_kept(p)))));
        } else {
            entries.push(("enforcement".to_owned(), Value::Map(enforced.collect())));
            let kept = node.limits.iter().map(|p| (p.field.clone(), Value::Text(how_kept(p))));
            entries.push(("limits".to_owned(), Value::Map(kept.collect())));
        }
        output.value(&Value::Map(entries))
    }
}

/// How far a limit is kept, as for parameters, and what of it is not.
fn how_kept(promise: &LimitPromise) -> String {
    let word = match promise.enforcement() {
        Enforcement::Unspecified => "unknown",
        Enforcement::Hard => "hard",
        Enforcement::Bounded => "bounded",
        Enforcement::Accounted => "accounted",
        Enforcement::Unavailable => "unavailable",
    };
    if promise.why.is_empty() { word.to_owned() } else { format!("{word} ({})", promise.why) }
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
const fn guard(guard: Guard) -> &'static str {
    match guard {
        Guard::Unspecified => "unknown",
        Guard::Absent => "absent",
        Guard::Watched => "watched",
        Guard::Owned => "owned",
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

fn columns() -> Vec<Column<Node>> {
    fn pool(get: impl Fn(&Pool) -> Value) -> impl Fn(&Node) -> Value {
        move |node| node.pool.as_ref().map_or(Value::Null, &get)
    }
    vec![
        Column::new("name", |n: &Node| Value::text(&n.name)),
        Column::new("status", |n: &Node| {
            Value::text(if n.unreachable.is_empty() { "ready" } else { "degraded" })
        }),
        Column::new("version", |n: &Node| Value::text(&n.version)),
        Column::new("kernel", |n: &Node| Value::text(&n.kernel)),
        Column::new("cgroup", |n: &Node| Value::text(&n.cgroup)),
        Column::new("backend", pool(backend_word)),
        Column::right("size", pool(|p| Value::Bytes(p.size_bytes))),
        Column::right("free", pool(|p| Value::Bytes(p.free_bytes))),
        Column::right("promised", pool(|p| Value::Bytes(p.promised_bytes))),
        Column::new("unreachable", |n: &Node| {
            Value::Map(n.unreachable.iter().map(|(k, v)| (k.clone(), Value::text(v))).collect())
        }),
        Column::right("ram", |n: &Node| n.ram.map_or(Value::Null, |b| Value::Bytes(b.total))),
        Column::right("ram_limit", |n: &Node| {
            n.ram.and_then(|b| b.limit).map_or(Value::Null, Value::Bytes)
        }),
        Column::right("pids_limit", |n: &Node| {
            n.pids.and_then(|b| b.limit).map_or(Value::Null, Value::Num)
        }),
        Column::new("guard", |n: &Node| Value::text(guard(n.guard()))),
        Column::new("rooms", |n: &Node| {
            Value::Map(n.rooms.iter().map(|r| (room(r.kind()).to_owned(), taken(r))).collect())
        }),
        // `virtctl destroy ID` clears each.
        Column::new("unknown", |n: &Node| {
            let of = |c: &UnknownContainer| (c.id.to_string(), Value::text(c.what.join(", ")));
            Value::Map(n.unknown_containers.iter().map(of).collect())
        }),
    ]
}
