//! One look for all instruments of an export: the first that is asked has it made, the others take from it.
//!
//! The SDK asks from a thread of its own, and each instrument once an export.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::Duration;

use tokio::runtime::Handle;
use tracing::Instrument;

use super::definition::Metric;
use super::look::{self, Look};
use super::series::{self, Point};
use crate::coordinator::Observer;

/// How much longer than its calls a look may take.
const SLACK: Duration = Duration::from_secs(1);

/// What of the present export was not taken yet.
#[derive(Debug)]
pub(super) struct Collection {
    observer: Observer,
    runtime: Handle,
    points: Mutex<BTreeMap<Metric, Vec<Point>>>,
}

impl Collection {
    pub(super) fn new(observer: Observer, runtime: Handle) -> Self {
        Self { observer, runtime, points: Mutex::default() }
    }

    /// The points of a metric. Who asks for one again begins the next export. Blocks: not on a thread of
    /// the runtime.
    pub(super) fn take(&self, metric: Metric) -> Vec<Point> {
        let mut points = self.points.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(taken) = points.remove(&metric) {
            return taken;
        }
        *points = self.look();
        points.remove(&metric).unwrap_or_default()
    }

    /// All points there are now, of each metric a list. Nothing where the coordinator or its runtime ends.
    fn look(&self) -> BTreeMap<Metric, Vec<Point>> {
        let Some(coordinator) = self.observer.coordinator() else { return BTreeMap::new() };
        let (to, from) = mpsc::sync_channel::<Look>(1);
        let services = coordinator.services().clone();
        let asked = async move {
            to.send(look::look(services).await).ok();
        };
        // Waiting by a channel: a runtime that ends drops the task, and who waits hears of it.
        self.runtime.spawn(asked.instrument(tracing::info_span!("collect metrics")));
        let look = from.recv_timeout(look::WITHIN + SLACK).unwrap_or_default();
        series::points(&look, &series::known(&coordinator), &series::node(&coordinator))
    }
}
