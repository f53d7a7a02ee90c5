//! From what services tell to points with labels. Pure, but for [`known`] and [`node`].
//!
//! A container has some 28 series with the limits it has by default, and 40 at most: parameters are told only
//! where the limit is kept and finite, failures and drops once there are any. What has no record has none.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use opentelemetry::{KeyValue, StringValue, Value};
use ves_proto::convert::parse_row;
use ves_proto::{common, network, resources, storage};
use ves_types::{Bytes, CtId, Enforcement, IdSlot, Phase, UbcResource, UbcRow};

use super::definition::Metric;
use super::look::Look;
use crate::container::record::Record;
use crate::container::state::State;
use crate::coordinator::Coordinator;
use crate::operation::record::OpState;

/// The states a container can be in.
const STATES: [&str; 7] =
    ["creating", "stopped", "mounted", "running", "deleting", "paused", "broken"];

/// A value with its labels.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Point {
    pub(super) value: u64,
    pub(super) labels: Vec<KeyValue>,
}

impl Point {
    #[expect(clippy::cast_precision_loss, reason = "microseconds of a century fit")]
    pub(super) fn seconds(&self) -> f64 {
        self.value as f64 / 1e6
    }
}

/// What the coordinator knows of a container.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Known {
    /// See [`labels_of`].
    pub(super) labels: Vec<KeyValue>,
    /// What it is.
    pub(super) state: &'static str,
    /// For how long its init has run, in microseconds.
    pub(super) up_usec: Option<u64>,
}

/// What the coordinator knows of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Node {
    /// Operations that wait for their turn.
    pub(super) queued: u64,
    /// Ranges of user ids that containers have.
    pub(super) id_slots: u64,
}

/// A text that many points share.
fn shared(text: impl Into<String>) -> Value {
    Value::String(StringValue::from(Arc::<str>::from(text.into())))
}

/// What the coordinator knows of each container.
pub(super) fn known(coordinator: &Coordinator) -> HashMap<CtId, Known> {
    let records: Vec<_> = coordinator.state().read().containers().map(Arc::clone).collect();
    let now = coordinator.clock().now_ms();
    let wanted = &coordinator.config().metric_labels;
    let of = |record: &Record| {
        let seen = coordinator.cache().of(record.id);
        let labels = labels_of(record, wanted);
        let started = seen.process.started_unix_ms.filter(|_| is_up(seen.process.phase));
        let up_usec = started.map(|ms| u64::try_from(now.saturating_sub(ms)).unwrap_or(0) * 1000);
        Known { labels, state: word(State::of(record, &seen)), up_usec }
    };
    records.iter().map(|record| (record.id, of(record))).collect()
}

/// What all points of a container bear, in the order of their keys, as the SDK wants them.
fn labels_of(record: &Record, wanted: &[String]) -> Vec<KeyValue> {
    let mut labels = vec![KeyValue::new("container.id", shared(record.id.to_string()))];
    for key in wanted {
        if let Some(value) = record.meta.labels.get(key) {
            labels.push(KeyValue::new(format!("container.label.{key}"), shared(value.as_str())));
        }
    }
    let name = record.spec.name.as_ref();
    labels.extend(name.map(|n| KeyValue::new("container.name", shared(n.to_string()))));
    let project = record.meta.project.as_deref();
    labels.extend(project.map(|project| KeyValue::new("ves.project", shared(project))));
    labels.sort_unstable_by(|a, b| a.key.as_str().cmp(b.key.as_str()));
    labels
}

const fn is_up(phase: Phase) -> bool {
    matches!(phase, Phase::Running | Phase::Frozen)
}

/// The word for what a container is; one that goes down by itself runs still.
const fn word(state: State) -> &'static str {
    match state {
        State::Creating => "creating",
        State::Stopped => "stopped",
        State::Mounted => "mounted",
        State::Running | State::Stopping => "running",
        State::Paused => "paused",
        State::Deleting => "deleting",
        State::Broken => "broken",
    }
}

fn number(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

/// What the coordinator knows of the node.
pub(super) fn node(coordinator: &Coordinator) -> Node {
    let index = coordinator.state().read();
    let accepted = index.operations().filter(|op| op.state == OpState::Running).count();
    let (accepted, id_slots) = (number(accepted), number(index.slots_in_use()));
    let queued = accepted.saturating_sub(coordinator.metrics().driven());
    Node { queued, id_slots }
}

/// All points, of each metric a list, be it empty.
pub(super) fn points(
    look: &Look,
    known: &HashMap<CtId, Known>,
    node: &Node,
) -> BTreeMap<Metric, Vec<Point>> {
    let all = Metric::ALL.into_iter().map(|metric| (metric, Vec::new())).collect();
    let mut to = Points { all, known };
    let Look { usages, traffic, volumes, pool } = look;
    for usage in usages.iter().flatten() {
        to.usage(usage);
    }
    for traffic in traffic.iter().flat_map(|t| &t.links) {
        to.traffic(traffic);
    }
    for volume in volumes.iter().flatten() {
        to.volume(volume);
    }
    for known in known.values() {
        if let Some(up) = known.up_usec {
            to.add(Metric::Uptime, &known.labels, None, up);
        }
    }
    to.pool(pool.as_ref());
    to.node(look, *node);
    to.all
}

/// A label that a container's point has beside its id and name.
type Also = Option<(&'static str, &'static str)>;

struct Points<'a> {
    all: BTreeMap<Metric, Vec<Point>>,
    known: &'a HashMap<CtId, Known>,
}

impl Points<'_> {
    fn add(&mut self, metric: Metric, labels: &[KeyValue], also: Also, value: u64) {
        let mut all = Vec::with_capacity(labels.len() + 1);
        all.extend_from_slice(labels);
        if let Some((key, value)) = also {
            let at = all.partition_point(|label| label.key.as_str() < key);
            all.insert(at, KeyValue::new(key, value));
        }
        self.all.entry(metric).or_default().push(Point { value, labels: all });
    }

    /// The labels of a container that has a record.
    fn labels(&self, ct: u32) -> Option<Vec<KeyValue>> {
        Some(self.known.get(&CtId::try_from(ct).ok()?)?.labels.clone())
    }

    fn usage(&mut self, usage: &resources::Usage) {
        let Some(labels) = self.labels(usage.ct) else { return };
        let resources::Usage {
            ct: _,
            cpu_user_usec,
            cpu_system_usec,
            cpu_throttled_usec,
            memory_bytes,
            working_set_bytes,
            disk,
            pressure,
            oom_kills,
            rows,
            life: _,
            swap_bytes: _,
        } = usage;
        let told = [
            (Metric::CpuTime, Some(("cpu.mode", "user")), cpu_user_usec),
            (Metric::CpuTime, Some(("cpu.mode", "system")), cpu_system_usec),
            (Metric::CpuThrottled, None, cpu_throttled_usec),
            (Metric::MemoryUsage, None, memory_bytes),
            (Metric::MemoryWorkingSet, None, working_set_bytes),
            (Metric::OomKills, None, oom_kills),
        ];
        for (metric, also, value) in told {
            if let Some(value) = *value {
                self.add(metric, &labels, also, value);
            }
        }
        if let Some(resources::Disk { read_bytes, write_bytes, reads, writes }) = *disk {
            let (read, write) = (both(DISK, "read"), both(DISK, "write"));
            self.add(Metric::DiskIo, &labels, read, read_bytes);
            self.add(Metric::DiskIo, &labels, write, write_bytes);
            self.add(Metric::DiskOperations, &labels, read, reads);
            self.add(Metric::DiskOperations, &labels, write, writes);
        }
        for pressure in pressure {
            let of = match pressure.kind() {
                resources::PressureKind::Cpu => "cpu",
                resources::PressureKind::Memory => "memory",
                resources::PressureKind::Io => "io",
                resources::PressureKind::Unspecified => continue,
            };
            let also = both("ves.pressure.resource", of);
            self.add(Metric::Pressure, &labels, also, pressure.some_usec);
        }
        for row in rows {
            self.row(&labels, row);
        }
    }

    /// A row of which the limit is kept.
    fn row(&mut self, labels: &[KeyValue], row: &common::UbcRow) {
        let kept =
            |row: &UbcRow| matches!(row.enforcement, Enforcement::Hard | Enforcement::Bounded);
        let Some(row) = parse_row(row.clone()).ok().filter(kept) else { return };
        let also = both("ves.ubc.resource", row.resource.name());
        if let Some(limit) = row.value.limit.max() {
            self.add(Metric::UbcHeld, labels, also, row.held);
            self.add(Metric::UbcLimit, labels, also, limit);
        }
        if row.failcnt > 0 {
            self.add(Metric::UbcFailures, labels, also, row.failcnt);
        }
    }

    fn traffic(&mut self, traffic: &network::Traffic) {
        let Some(labels) = self.labels(traffic.ct) else { return };
        let ways = [("receive", traffic.received), ("transmit", traffic.transmitted)];
        for (way, counts) in ways {
            let Some(network::Counts { bytes, packets, dropped }) = counts else { continue };
            let also = both("network.io.direction", way);
            self.add(Metric::NetworkIo, &labels, also, bytes);
            self.add(Metric::NetworkPackets, &labels, also, packets);
            if dropped > 0 {
                self.add(Metric::NetworkDropped, &labels, also, dropped);
            }
        }
    }

    fn volume(&mut self, volume: &storage::Volume) {
        let Some(labels) = self.labels(volume.ct) else { return };
        let told = [
            (Metric::FilesystemCapacity, Some(volume.size_bytes)),
            (Metric::FilesystemUsage, volume.used_bytes),
            (Metric::InodesLimit, volume.inodes),
            (Metric::InodesUsage, volume.used_inodes),
            // The kernel need not have counted them.
            (Metric::FilesystemErrors, volume.damage.as_ref().map(|d| d.errors.max(1).into())),
        ];
        for (metric, value) in told {
            if let Some(value) = value {
                self.add(metric, &labels, None, value);
            }
        }
    }

    fn pool(&mut self, pool: Option<&storage::Pool>) {
        let Some(pool) = pool else { return };
        let told = [
            (Metric::PoolSize, pool.size_bytes),
            (Metric::PoolUsage, pool.allocated_bytes),
            (Metric::PoolFree, pool.free_bytes),
            (Metric::PoolPromised, pool.promised_bytes),
            (Metric::PoolPromisable, pool.promisable_bytes),
            (Metric::PoolAlarms, number(pool.alarms.len())),
        ];
        for (metric, value) in told {
            self.add(metric, &[], None, value);
        }
    }

    fn node(&mut self, look: &Look, node: Node) {
        for state in STATES {
            let count = self.known.values().filter(|known| known.state == state).count();
            let also = both("ves.container.state", state);
            self.add(Metric::NodeContainers, &[], also, number(count));
        }
        self.add(Metric::NodeIdSlotsUsage, &[], None, node.id_slots);
        self.add(Metric::NodeIdSlotsLimit, &[], None, IdSlot::COUNT.into());
        if let Some(volumes) = &look.volumes {
            let active = volumes.iter().filter(|volume| volume.device.is_some()).count();
            self.add(Metric::NodeDevices, &[], None, number(active));
        }
        self.add(Metric::OperationQueued, &[], None, node.queued);
        if let Some(usages) = &look.usages {
            let ram = |usage: &resources::Usage| {
                let rows = usage.rows.iter().filter_map(|row| parse_row(row.clone()).ok());
                let row = rows.into_iter().find(|row| row.resource == UbcResource::Physpages)?;
                Some(row.value.limit.max()?.saturating_mul(Bytes::PAGE))
            };
            let up = |usage: &&resources::Usage| {
                let ct = CtId::try_from(usage.ct).ok();
                ct.and_then(|ct| self.known.get(&ct)).is_some_and(|k| k.up_usec.is_some())
            };
            let promised = usages.iter().filter(up).filter_map(ram).fold(0, u64::saturating_add);
            self.add(Metric::NodeMemoryPromised, &[], None, promised);
        }
        if let Some(traffic) = &look.traffic {
            self.add(Metric::NodeSpoofed, &[], None, traffic.spoofed_packets);
        }
        let services = [
            ("storage", look.volumes.is_some() && look.pool.is_some()),
            ("network", look.traffic.is_some()),
            ("resources", look.usages.is_some()),
        ];
        for (service, up) in services {
            self.add(Metric::NodeServiceUp, &[], both("ves.service", service), up.into());
        }
    }
}

const DISK: &str = "disk.io.direction";

const fn both(key: &'static str, value: &'static str) -> Also {
    Some((key, value))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use ves_types::{Limit, UbcValue};

    use super::*;

    /// The most series a container can have.
    const MOST: usize = 40;

    fn ct(n: u32) -> CtId {
        CtId::try_from(n).expect("valid")
    }

    fn known(name: Option<&str>) -> Known {
        let mut labels = vec![KeyValue::new("container.id", "7")];
        labels.extend(name.map(|name| KeyValue::new("container.name", name.to_owned())));
        Known { labels, state: "running", up_usec: Some(1_500_000) }
    }

    fn row(resource: UbcResource, limit: Limit, enforcement: Enforcement) -> common::UbcRow {
        ves_proto::convert::render_row(UbcRow {
            resource,
            held: 3,
            maxheld: 4,
            value: UbcValue { barrier: limit, limit },
            failcnt: 0,
            enforcement,
        })
    }

    /// All that services can tell of a container.
    fn everything() -> Look {
        let kinds = [
            resources::PressureKind::Cpu,
            resources::PressureKind::Memory,
            resources::PressureKind::Io,
        ];
        let pressure = |kind: resources::PressureKind| resources::Pressure {
            kind: kind.into(),
            some_usec: 2_000_000,
            full_usec: Some(1),
        };
        let kept = [
            UbcResource::Numproc,
            UbcResource::Physpages,
            UbcResource::Swappages,
            UbcResource::Tcpsndbuf,
            UbcResource::Tcprcvbuf,
        ];
        let row = |r| common::UbcRow { failcnt: 9, ..row(r, Limit::Max(50), Enforcement::Hard) };
        let usage = resources::Usage {
            ct: 7,
            cpu_user_usec: Some(1),
            cpu_system_usec: Some(2),
            cpu_throttled_usec: Some(3),
            memory_bytes: Some(4),
            working_set_bytes: Some(5),
            disk: Some(resources::Disk { read_bytes: 6, write_bytes: 7, reads: 8, writes: 9 }),
            pressure: kinds.map(pressure).into(),
            oom_kills: Some(10),
            rows: kept.map(row).into(),
            ..resources::Usage::default()
        };
        let counts = Some(network::Counts { bytes: 1, packets: 2, dropped: 3 });
        let traffic = network::Traffic { ct: 7, received: counts, transmitted: counts, link: 1 };
        let volume = storage::Volume {
            ct: 7,
            size_bytes: 100,
            used_bytes: Some(50),
            inodes: Some(10),
            used_inodes: Some(5),
            damage: Some(storage::Damage::default()),
            ..storage::Volume::default()
        };
        Look {
            usages: Some(vec![usage]),
            traffic: Some(network::ListTrafficResponse {
                links: vec![traffic],
                spoofed_packets: 4,
            }),
            volumes: Some(vec![volume]),
            pool: Some(storage::Pool { size_bytes: 1000, ..storage::Pool::default() }),
        }
    }

    fn all(look: &Look, known: &HashMap<CtId, Known>) -> Vec<(Metric, Point)> {
        let points = points(look, known, &Node::default());
        points.into_iter().flat_map(|(m, all)| all.into_iter().map(move |p| (m, p))).collect()
    }

    fn of_containers(look: &Look, known: &HashMap<CtId, Known>) -> Vec<(Metric, Point)> {
        let own = |p: &Point| p.labels.iter().any(|l| l.key.as_str() == "container.id");
        all(look, known).into_iter().filter(|(_, p)| own(p)).collect()
    }

    #[test]
    fn a_container_has_so_many_series_and_each_once() {
        let known = HashMap::from([(ct(7), known(Some("web")))]);
        let points = of_containers(&everything(), &known);
        assert_eq!(points.len(), MOST);
        let text = |p: &Point| p.labels.iter().map(|l| format!("{l:?}")).collect::<Vec<_>>();
        let different: BTreeSet<_> = points.iter().map(|(m, p)| (*m, text(p))).collect();
        assert_eq!(different.len(), points.len());
        for (metric, point) in &points {
            let keys: Vec<_> = point.labels.iter().map(|l| l.key.as_str()).collect();
            assert!(keys.is_sorted(), "{metric:?}: {keys:?}");
        }
        let value = |metric| points.iter().find(|(m, _)| *m == metric).map(|(_, p)| p.value);
        assert_eq!(value(Metric::FilesystemErrors), Some(1), "not told how many");
        let up = points.iter().find(|(m, _)| *m == Metric::Uptime).map(|(_, p)| p.seconds());
        assert_eq!(up, Some(1.5));
    }

    #[test]
    fn a_limit_is_told_where_it_is_kept_and_finite() {
        let known = HashMap::from([(ct(7), known(None))]);
        let told = |row| {
            let usage = resources::Usage { ct: 7, rows: vec![row], ..resources::Usage::default() };
            let look = Look { usages: Some(vec![usage]), ..Look::default() };
            let points = of_containers(&look, &known).into_iter();
            let told = points.map(|(m, p)| (m, p.value)).filter(|(m, _)| *m != Metric::Uptime);
            told.collect::<Vec<_>>()
        };
        let numproc = |limit, enforcement| row(UbcResource::Numproc, limit, enforcement);
        let both = vec![(Metric::UbcHeld, 3), (Metric::UbcLimit, 50)];
        assert_eq!(told(numproc(Limit::Max(50), Enforcement::Hard)), both);
        assert_eq!(told(numproc(Limit::Max(50), Enforcement::Bounded)), both);
        assert_eq!(told(numproc(Limit::Unlimited, Enforcement::Hard)), vec![]);
        assert_eq!(told(numproc(Limit::Max(50), Enforcement::Accounted)), vec![]);
        let failed = numproc(Limit::Unlimited, Enforcement::Hard);
        let failed = common::UbcRow { failcnt: 2, ..failed };
        assert_eq!(told(failed.clone()), vec![(Metric::UbcFailures, 2)]);
        assert_eq!(told(common::UbcRow { resource: "made-up".to_owned(), ..failed }), vec![]);
    }

    #[test]
    fn nothing_is_told_of_what_has_no_record_or_was_not_seen() {
        let nobody = HashMap::new();
        assert_eq!(of_containers(&everything(), &nobody), vec![]);
        let known = HashMap::from([(ct(7), known(None))]);
        let away = all(&Look::default(), &known);
        let names: BTreeSet<_> = away.iter().map(|(m, _)| *m).collect();
        let still = [
            Metric::Uptime,
            Metric::OperationQueued,
            Metric::NodeContainers,
            Metric::NodeIdSlotsUsage,
            Metric::NodeIdSlotsLimit,
            Metric::NodeServiceUp,
        ];
        assert_eq!(names, still.into());
        let up = away.iter().filter(|(m, p)| *m == Metric::NodeServiceUp && p.value == 1);
        assert_eq!(up.count(), 0);
        assert!(points(&Look::default(), &nobody, &Node::default()).len() == Metric::ALL.len());
    }

    #[test]
    fn memory_is_promised_to_what_runs() {
        let promised = |known: Known| {
            let known = HashMap::from([(ct(7), known)]);
            let all = all(&everything(), &known);
            all.iter().find(|(m, _)| *m == Metric::NodeMemoryPromised).map(|(_, p)| p.value)
        };
        assert_eq!(promised(known(None)), Some(50 * Bytes::PAGE));
        assert_eq!(promised(Known { up_usec: None, ..known(None) }), Some(0));
    }
}
