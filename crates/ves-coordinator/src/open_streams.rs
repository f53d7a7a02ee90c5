//! How many streams are open that somebody reads: sessions and watches, by kind.
//!
//! Never here: what is in them, or who reads them.

use opentelemetry::metrics::UpDownCounter;
use opentelemetry::{KeyValue, global};

/// A kind of stream that somebody reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StreamKind {
    /// A command in a container.
    Exec,
    /// A container's console.
    Console,
    /// A watch of containers.
    Containers,
    /// A watch of operations.
    Operations,
    /// A watch of events.
    Events,
}

/// How many streams are open.
#[derive(Debug)]
pub(crate) struct OpenStreams {
    sessions: UpDownCounter<i64>,
    watches: UpDownCounter<i64>,
}

/// A stream that is open until this is dropped.
#[derive(Debug)]
pub(crate) struct Open {
    counter: UpDownCounter<i64>,
    label: KeyValue,
}

impl OpenStreams {
    /// Those of this process.
    pub(crate) fn new() -> Self {
        let meter = global::meter("ves");
        let counter = |name, unit, description| {
            meter.i64_up_down_counter(name).with_unit(unit).with_description(description).build()
        };
        Self {
            sessions: counter("ves.session.active", "{session}", "sessions that are open"),
            watches: counter("ves.watch.active", "{watch}", "watches that are open"),
        }
    }

    /// One more is open.
    pub(crate) fn open(&self, kind: StreamKind) -> Open {
        let (counter, key, value) = match kind {
            StreamKind::Exec => (&self.sessions, SESSION, "exec"),
            StreamKind::Console => (&self.sessions, SESSION, "console"),
            StreamKind::Containers => (&self.watches, WATCH, "containers"),
            StreamKind::Operations => (&self.watches, WATCH, "operations"),
            StreamKind::Events => (&self.watches, WATCH, "events"),
        };
        let open = Open { counter: counter.clone(), label: KeyValue::new(key, value) };
        open.counter.add(1, std::slice::from_ref(&open.label));
        open
    }
}

const SESSION: &str = "ves.session.kind";
const WATCH: &str = "ves.watch.kind";

impl Drop for Open {
    fn drop(&mut self) {
        self.counter.add(-1, std::slice::from_ref(&self.label));
    }
}
