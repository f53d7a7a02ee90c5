//! What dashboards are told of operations: how many are under way, how long they waited for their turn, how long
//! those took that ended, and how they ended.
//!
//! By kind only: an operation's id and its container are in its trace and its log. Never here: what is done.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use opentelemetry::metrics::{Histogram, UpDownCounter};
use opentelemetry::{KeyValue, global};

use super::record::{OpRecord, OpState};

/// The bounds of durations, in seconds: from a stop of a small program to a template that is built.
const BOUNDS: [f64; 14] =
    [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0];

/// The metrics of operations.
#[derive(Debug)]
pub(crate) struct Metrics {
    active: UpDownCounter<i64>,
    /// How many are under way, for who counts those that wait.
    driven: AtomicU64,
    wait: Histogram<f64>,
    duration: Histogram<f64>,
}

/// An operation that is under way.
#[derive(Debug)]
pub(crate) struct Active<'a> {
    metrics: &'a Metrics,
    kind: &'static str,
}

impl Metrics {
    /// Those of this process.
    pub(crate) fn new() -> Self {
        let meter = global::meter("ves");
        let active = meter
            .i64_up_down_counter("ves.operation.active")
            .with_description("operations under way")
            .with_unit("{operation}");
        let duration = meter
            .f64_histogram("ves.operation.duration")
            .with_description("time from accepting an operation to its end")
            .with_unit("s")
            .with_boundaries(BOUNDS.to_vec());
        let wait = meter
            .f64_histogram("ves.operation.queue.wait")
            .with_description("time from accepting an operation to its turn")
            .with_unit("s")
            .with_boundaries(BOUNDS.to_vec());
        Self {
            active: active.build(),
            driven: AtomicU64::new(0),
            wait: wait.build(),
            duration: duration.build(),
        }
    }

    /// How many are under way.
    pub(crate) fn driven(&self) -> u64 {
        self.driven.load(Ordering::Relaxed)
    }

    /// Its turn has come, or it goes on after a restart.
    pub(crate) fn begin(&self, op: &OpRecord, now_ms: i64) -> Active<'_> {
        let kind = op.action.kind().name();
        self.active.add(1, &[KeyValue::new(KIND, kind)]);
        self.driven.fetch_add(1, Ordering::Relaxed);
        // What has done something by now had its turn before.
        if op.steps.is_empty() && op.undoing.is_none() {
            let waited = seconds(now_ms.saturating_sub(op.started_unix_ms));
            self.wait.record(waited, &[KeyValue::new(KIND, kind)]);
        }
        Active { metrics: self, kind }
    }
}

/// Milliseconds as seconds; a clock that was set back makes none.
fn seconds(ms: i64) -> f64 {
    Duration::from_millis(u64::try_from(ms).unwrap_or_default()).as_secs_f64()
}

const KIND: &str = "ves.operation.kind";

impl Active<'_> {
    /// It has ended.
    pub(crate) fn end(&self, op: &OpRecord) {
        let outcome = match op.state {
            OpState::Running => return,
            OpState::Succeeded => "succeeded",
            OpState::Failed => "failed",
            OpState::Cancelled => "cancelled",
        };
        let mut labels =
            vec![KeyValue::new(KIND, self.kind), KeyValue::new("ves.operation.outcome", outcome)];
        if let (OpState::Failed, Some(problem)) = (op.state, &op.fault) {
            labels.push(KeyValue::new("error.type", problem.fault().reason_name()));
        }
        let took_ms = op.ended_unix_ms.unwrap_or_default().saturating_sub(op.started_unix_ms);
        self.metrics.duration.record(seconds(took_ms), &labels);
    }
}

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.metrics.driven.fetch_sub(1, Ordering::Relaxed);
        self.metrics.active.add(-1, &[KeyValue::new(KIND, self.kind)]);
    }
}
