//! What dashboards are told of containers, the pool and the node.
//!
//! Each export reads each service's list once, whatever the number of containers; nobody reads where
//! nothing is exported. A container that is gone, and what a service does that is away, has no series,
//! rather than the last one. Never here: what is done to containers, or which labels an operator adds.
//!
//! ```text
//!  SDK, once an interval ── each instrument's callback ── collection ── look ── four calls at once
//!                                                             └── series (pure) ← records, what was seen
//! ```

mod collection;
mod definition;
mod look;
mod series;

use std::sync::Arc;

use opentelemetry::global;
use opentelemetry::metrics::Meter;
use tokio::runtime::Handle;

use collection::Collection;
use definition::{Kind, Metric};

use crate::coordinator::Coordinator;

/// Lets the process's meter ask about containers, pool and node. Inside a runtime. It keeps the
/// coordinator not alive.
pub fn observe(coordinator: &Coordinator) {
    let collection = Arc::new(Collection::new(coordinator.observer(), Handle::current()));
    let meter = global::meter("ves");
    for metric in Metric::ALL {
        register(&meter, metric, Arc::clone(&collection));
    }
}

/// Sums, also where a gauge would say the same: the SDK tells a gauge's last value for ever, of a sum only
/// what was observed this time.
fn register(meter: &Meter, metric: Metric, collection: Arc<Collection>) {
    let (name, unit, description) = (metric.name(), metric.unit(), metric.description());
    match metric.kind() {
        Kind::Total => {
            let counter = meter.u64_observable_counter(name).with_unit(unit);
            let observed = counter.with_description(description).with_callback(move |to| {
                for point in collection.take(metric) {
                    to.observe(point.value, &point.labels);
                }
            });
            observed.build();
        }
        Kind::Seconds => {
            let counter = meter.f64_observable_counter(name).with_unit(unit);
            let observed = counter.with_description(description).with_callback(move |to| {
                for point in collection.take(metric) {
                    to.observe(point.seconds(), &point.labels);
                }
            });
            observed.build();
        }
        Kind::Level => {
            let level = meter.i64_observable_up_down_counter(name).with_unit(unit);
            let observed = level.with_description(description).with_callback(move |to| {
                for point in collection.take(metric) {
                    let value = i64::try_from(point.value).unwrap_or(i64::MAX);
                    to.observe(value, &point.labels);
                }
            });
            observed.build();
        }
        Kind::Age => {
            let level = meter.f64_observable_up_down_counter(name).with_unit(unit);
            let observed = level.with_description(description).with_callback(move |to| {
                for point in collection.take(metric) {
                    to.observe(point.seconds(), &point.labels);
                }
            });
            observed.build();
        }
    }
}
