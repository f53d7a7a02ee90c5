//! What filters of containers, operations and events may speak of, and what that is in a message. Pure.
//!
//! Each `*_value` answers with the value of every path that its table has; of another, with [`Value::Absent`].
//! docs/api.md lists the tables. Never here: how filters are read.

use std::borrow::Cow;

use prost_types::Timestamp;
use ves_proto::api as pb;
use ves_proto::public::unix_ms;

use super::{Field, Kind, Value};

/// Of containers.
pub const CONTAINER: &[Field] = &[
    Field::new("name", Kind::Text),
    Field::new("ct_id", Kind::Number),
    Field::new("uid", Kind::Text),
    Field::new("alias", Kind::Text),
    Field::new("project", Kind::Text),
    Field::new("labels", Kind::Map),
    Field::new("description", Kind::Text),
    Field::new("node", Kind::Text),
    Field::new("generation", Kind::Number),
    Field::new("create_time", Kind::Time),
    Field::new("delete_protection", Kind::Bool),
    Field::new("spec.template", Kind::Text),
    Field::new("spec.hostname", Kind::Text),
    Field::new("spec.interfaces.addresses", Kind::Addresses),
    Field::new("spec.start_on_boot", Kind::Bool),
    Field::new("spec.disabled", Kind::Bool),
    Field::new("status.state", Kind::Enum(container_state)),
    Field::new("status.reconciling", Kind::Bool),
    Field::short("template", "spec.template", Kind::Text),
    Field::short("hostname", "spec.hostname", Kind::Text),
    Field::short("interfaces.address", "spec.interfaces.addresses", Kind::Addresses),
    Field::short("address", "spec.interfaces.addresses", Kind::Addresses),
    Field::short("start_on_boot", "spec.start_on_boot", Kind::Bool),
    Field::short("disabled", "spec.disabled", Kind::Bool),
    Field::short("state", "status.state", Kind::Enum(container_state)),
];

/// Of operations.
pub const OPERATION: &[Field] = &[
    Field::new("name", Kind::Text),
    Field::new("kind", Kind::Enum(operation_kind)),
    Field::new("state", Kind::Enum(operation_state)),
    Field::new("targets", Kind::Texts),
    Field::new("actor.id", Kind::Text),
    Field::new("actor.type", Kind::Enum(actor_type)),
    Field::new("actor.on_behalf_of", Kind::Text),
    Field::new("request_id", Kind::Text),
    Field::new("node", Kind::Text),
    Field::new("project", Kind::Text),
    Field::new("create_time", Kind::Time),
    Field::new("end_time", Kind::Time),
    Field::short("target", "targets", Kind::Texts),
    Field::short("actor", "actor.id", Kind::Text),
];

/// Of events.
pub const EVENT: &[Field] = &[
    Field::new("name", Kind::Text),
    Field::new("time", Kind::Time),
    Field::new("type", Kind::Enum(event_type)),
    Field::new("target", Kind::Text),
    Field::new("uid", Kind::Text),
    Field::new("project", Kind::Text),
    Field::new("node", Kind::Text),
    Field::new("actor.id", Kind::Text),
    Field::new("actor.type", Kind::Enum(actor_type)),
    Field::new("actor.on_behalf_of", Kind::Text),
    Field::new("operation", Kind::Text),
    Field::new("facts", Kind::Map),
    Field::short("actor", "actor.id", Kind::Text),
];

fn container_state(number: i32) -> Option<&'static str> {
    pb::container_status::State::try_from(number).ok().map(|it| it.as_str_name())
}

fn operation_kind(number: i32) -> Option<&'static str> {
    pb::operation::Kind::try_from(number).ok().map(|it| it.as_str_name())
}

fn operation_state(number: i32) -> Option<&'static str> {
    pb::operation::State::try_from(number).ok().map(|it| it.as_str_name())
}

fn actor_type(number: i32) -> Option<&'static str> {
    pb::actor::Type::try_from(number).ok().map(|it| it.as_str_name())
}

fn event_type(number: i32) -> Option<&'static str> {
    pb::event::Type::try_from(number).ok().map(|it| it.as_str_name())
}

fn time(at: Option<&Timestamp>) -> Value<'static> {
    at.map_or(Value::Absent, |at| Value::Time(unix_ms(at)))
}

fn texts(texts: &[String]) -> Value<'_> {
    Value::Texts(texts.iter().map(|text| Cow::Borrowed(text.as_str())).collect())
}

/// A field of a container.
pub fn container_value<'v>(container: &'v pb::Container, path: &str) -> Value<'v> {
    let (spec, status) = (container.spec.as_ref(), container.status.as_ref());
    match path {
        "name" => Value::text(&container.name),
        "ct_id" => Value::Number(container.ct_id.into()),
        "uid" => Value::text(&container.uid),
        "alias" => Value::text(&container.alias),
        "project" => Value::text(&container.project),
        "labels" => Value::Map(&container.labels),
        "description" => Value::text(&container.description),
        "node" => Value::text(&container.node),
        "generation" => Value::Number(container.generation.into()),
        "create_time" => time(container.create_time.as_ref()),
        "delete_protection" => Value::Bool(container.delete_protection),
        "spec.template" => Value::text(spec.map_or("", |spec| &spec.template)),
        "spec.hostname" => Value::text(spec.map_or("", |spec| &spec.hostname)),
        "spec.interfaces.addresses" => {
            let interfaces = spec.map(|spec| spec.interfaces.as_slice()).unwrap_or_default();
            let addresses = interfaces.iter().flat_map(|interface| &interface.addresses);
            Value::Texts(addresses.map(|address| Cow::Borrowed(address.as_str())).collect())
        }
        "spec.start_on_boot" => Value::Bool(spec.is_some_and(|spec| spec.start_on_boot)),
        "spec.disabled" => Value::Bool(spec.is_some_and(|spec| spec.disabled)),
        "status.state" => Value::Enum(status.map_or(0, |status| status.state)),
        "status.reconciling" => Value::Bool(status.is_some_and(|status| status.reconciling)),
        _ => Value::Absent,
    }
}

/// A field of an operation.
pub fn operation_value<'v>(operation: &'v pb::Operation, path: &str) -> Value<'v> {
    match path {
        "name" => Value::text(&operation.name),
        "kind" => Value::Enum(operation.kind),
        "state" => Value::Enum(operation.state),
        "targets" => texts(&operation.targets),
        "request_id" => Value::text(&operation.request_id),
        "node" => Value::text(&operation.node),
        "project" => Value::text(&operation.project),
        "create_time" => time(operation.create_time.as_ref()),
        "end_time" => time(operation.end_time.as_ref()),
        path => actor_value(operation.actor.as_ref(), path),
    }
}

/// A field of an event.
pub fn event_value<'v>(event: &'v pb::Event, path: &str) -> Value<'v> {
    match path {
        "name" => Value::text(&event.name),
        "time" => time(event.time.as_ref()),
        "type" => Value::Enum(event.r#type),
        "target" => Value::text(&event.target),
        "uid" => Value::text(&event.uid),
        "project" => Value::text(&event.project),
        "node" => Value::text(&event.node),
        "operation" => Value::text(&event.operation),
        "facts" => Value::Map(&event.facts),
        path => actor_value(event.actor.as_ref(), path),
    }
}

fn actor_value<'v>(actor: Option<&'v pb::Actor>, path: &str) -> Value<'v> {
    match path {
        "actor.id" => Value::text(actor.map_or("", |actor| &actor.id)),
        "actor.type" => Value::Enum(actor.map_or(0, |actor| actor.r#type)),
        "actor.on_behalf_of" => Value::text(actor.map_or("", |actor| &actor.on_behalf_of)),
        _ => Value::Absent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every path of a table has a value of its kind.
    fn complete(fields: &[Field], get: impl Fn(&str) -> Value<'static>) {
        for field in fields {
            let value = get(field.means);
            let fits = match field.kind {
                Kind::Text => matches!(value, Value::Text(_)),
                Kind::Texts | Kind::Addresses => matches!(value, Value::Texts(_)),
                Kind::Map => matches!(value, Value::Map(_)),
                Kind::Number => matches!(value, Value::Number(_)),
                Kind::Bool => matches!(value, Value::Bool(_)),
                Kind::Time => matches!(value, Value::Time(_)),
                Kind::Enum(names) => matches!(value, Value::Enum(_)) && names(0).is_some(),
            };
            assert!(fits, "{field:?} is {value:?}");
            assert!(fields.iter().any(|other| other.path == field.means), "{field:?}");
        }
    }

    #[test]
    fn every_field_has_a_value() {
        let at = Some(Timestamp { seconds: 1, nanos: 0 });
        let container: &pb::Container =
            Box::leak(Box::new(pb::Container { create_time: at, ..pb::Container::default() }));
        complete(CONTAINER, |path| container_value(container, path));
        let operation: &pb::Operation = Box::leak(Box::new(pb::Operation {
            create_time: at,
            end_time: at,
            ..pb::Operation::default()
        }));
        complete(OPERATION, |path| operation_value(operation, path));
        let event: &pb::Event = Box::leak(Box::new(pb::Event { time: at, ..pb::Event::default() }));
        complete(EVENT, |path| event_value(event, path));
    }
}
