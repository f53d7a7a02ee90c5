//! What the event that tells of a container's end says of what it had used, so that a bill can be closed. Pure.
//!
//! Never here: when that is told.

use crate::event::record::{NewEvent, Type};
use crate::usage::accrued::Accrued;

/// The event, with what is known of that where it tells of an end; any other as it is.
pub fn last_words(used: &Accrued, event: NewEvent) -> NewEvent {
    if event.event().r#type() != Type::Deleted {
        return event;
    }
    let seconds = |usec: u64| format!("{}.{:06}", usec / 1_000_000, usec % 1_000_000);
    let (group, link) = (used.group.total(), used.link.total());
    let number = |n: u64| n.to_string();
    let facts = [
        ("cpu_seconds", group.cpu_usec.map(seconds)),
        ("running_seconds", Some(seconds(used.run.total_ms().saturating_mul(1000)))),
        ("io_read_bytes", group.read_bytes.map(number)),
        ("io_write_bytes", group.write_bytes.map(number)),
        ("receive_bytes", link.receive_bytes.map(number)),
        ("transmit_bytes", link.transmit_bytes.map(number)),
        ("oom_kills", group.oom_kills.map(number)),
    ];
    facts.iter().fold(event, |event, (name, value)| match value {
        Some(value) => event.fact(name, value),
        None => event,
    })
}
