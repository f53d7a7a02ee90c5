//! A new event, before it has its place among those that are kept. Pure.
//!
//! What it says is cut to what the public API promises, and is plain text: a name that a guest chose may be anything. Never here: when
//! there is one ([`crate::operation::ends`], [`crate::events`]).

use uuid::Uuid;
use ves_proto::api as pb;
use ves_proto::public::{container_name, event_name, node_name, timestamp};
use ves_types::NodeName;

pub use ves_proto::api::event::Type;

use crate::container::record::Record;

/// How many facts there are at most.
const MOST_FACTS: usize = 16;
/// How many bytes a fact has at most.
const LONGEST_FACT: usize = 256;

/// A new event. Name, time and node are given when it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct NewEvent {
    event: pb::Event,
}

impl NewEvent {
    /// To what has this name.
    pub fn to(kind: Type, target: String) -> Self {
        Self { event: pb::Event { r#type: kind.into(), target, ..pb::Event::default() } }
    }

    /// To a container.
    pub fn to_container(kind: Type, record: &Record) -> Self {
        let mut event = Self::to(kind, container_name(record.id));
        event.event.uid = record.uid.to_string();
        event.event.project = record.meta.project_name().unwrap_or_default();
        event
    }

    /// Whoever did it.
    #[must_use]
    pub fn by(mut self, actor: pb::Actor) -> Self {
        self.event.actor = Some(actor);
        self
    }

    /// The operation that did it.
    #[must_use]
    pub fn in_operation(mut self, name: String) -> Self {
        self.event.operation = name;
        self
    }

    /// What else there is to say, cut where it is long.
    #[must_use]
    pub fn fact(mut self, name: &str, value: &str) -> Self {
        if self.event.facts.len() < MOST_FACTS {
            let plain = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
            let value: String = value.chars().take(LONGEST_FACT).map(plain).collect();
            let end = value.floor_char_boundary(LONGEST_FACT);
            let value = value.get(..end).unwrap_or_default().to_owned();
            self.event.facts.insert(name.to_owned(), value);
        }
        self
    }

    /// Gives it its place among all events.
    pub(crate) fn take_place(&mut self, id: Uuid, node: &NodeName, now_ms: i64) {
        self.event.name = event_name(id);
        self.event.node = node_name(node);
        self.event.time = Some(timestamp(now_ms));
    }

    /// As it is kept.
    pub const fn event(&self) -> &pb::Event {
        &self.event
    }
}

/// A name of the public API's enums without what all of that enum begin with.
pub fn bare<'a>(name: &'a str, prefix: &str) -> &'a str {
    name.strip_prefix(prefix).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_have_bounds() {
        let mut event = NewEvent::to(Type::Access, "nodes/n1".to_owned());
        event = event.fact("long", &"é".repeat(300));
        for n in 0..40 {
            event = event.fact(&n.to_string(), "x");
        }
        let facts = &event.event().facts;
        assert_eq!(facts.len(), 16);
        assert_eq!(facts["long"], "é".repeat(128));
        let shown = NewEvent::to(Type::Access, String::new()).fact("name", "a\x1b[2J\n");
        assert_eq!(shown.event().facts["name"], "a\u{fffd}[2J\u{fffd}");
    }
}
