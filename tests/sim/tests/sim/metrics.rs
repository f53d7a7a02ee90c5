//! What dashboards are told of containers: by few calls, of what is there, and nothing of what is not.
//!
//! Each test has the process's meter for itself: they need a process each.

use std::collections::{BTreeMap, BTreeSet};

use tokio::runtime::Runtime;
use ves_coordinator::Config;
use ves_daemon::config::{LogFormat, Telemetry};
use ves_daemon::telemetry::{Guard, init};
use ves_kit::Otlp;
use ves_kit::otlp::{Metric, Point};
use ves_proto::api::{Container, UpdateContainerRequest, WatchContainersRequest};
use ves_sim::Sim;
use ves_sim::sim::Command;
use ves_types::layout::Daemon;

/// A node whose daemons tell a receiver, when they are told to.
pub(crate) struct Told {
    pub(crate) sim: Sim,
    otlp: Otlp,
    guard: Guard,
    _runtime: Runtime,
}

impl Told {
    pub(crate) fn new() -> Self {
        Self::configured(|_| {})
    }

    /// The same, with what `change` sets.
    fn configured(change: impl FnOnce(&mut Config)) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let otlp = runtime.block_on(Otlp::start());
        let guard = {
            let _inside = runtime.enter();
            let otlp_endpoint = Some(otlp.endpoint());
            let log = "off".to_owned();
            let settings = Telemetry { otlp_endpoint, log, log_format: LogFormat::Text };
            init("ves-sim", &settings).expect("begun")
        };
        Self { sim: Sim::configured(change), otlp, guard, _runtime: runtime }
    }

    fn start(&self, ct: u32) {
        self.sim.run(&Command::create(ct, |_| {})).expect("created");
        self.sim.run(&Command::start(&ct.to_string())).expect("started");
    }

    /// One export.
    pub(crate) fn export(&self) -> Exported {
        self.otlp.take_metrics();
        assert!(self.guard.export_metrics(), "it is received");
        Exported(self.otlp.take_metrics())
    }
}

/// One export.
pub(crate) struct Exported(pub(crate) Vec<Metric>);

impl Exported {
    /// The series of a container: metric and labels beside the container's.
    fn series(&self, ct: u32) -> BTreeMap<(String, Vec<(String, String)>), f64> {
        let ct = ct.to_string();
        let mut all = BTreeMap::new();
        for metric in &self.0 {
            for point in &metric.points {
                let of = |key: &str| key == "container.id" || key == "container.name";
                if point.attribute("container.id") != Some(&ct) {
                    continue;
                }
                let also = point.attributes.iter().filter(|(k, _)| !of(k)).cloned().collect();
                let value = point.value.number().expect("no histogram of a container");
                assert_eq!(all.insert((metric.name.clone(), also), value), None, "told once");
            }
        }
        all
    }

    /// How many calls each RPC of services has answered.
    fn calls(&self) -> BTreeMap<String, u64> {
        let metric = self.0.iter().find(|m| m.name == "rpc.server.call.duration");
        let mut calls = BTreeMap::new();
        for point in metric.iter().flat_map(|m| &m.points) {
            let method = point.attribute("rpc.method").expect("a method").to_owned();
            *calls.entry(method).or_default() += point.value.count();
        }
        calls
    }

    /// Names of metrics that are told of containers.
    fn of_containers(&self) -> BTreeSet<&str> {
        let told = |m: &&Metric| m.points.iter().any(|p| p.attribute("container.id").is_some());
        self.0.iter().filter(told).map(|m| m.name.as_str()).collect()
    }

    fn number(&self, name: &str, label: Option<(&str, &str)>) -> Option<f64> {
        let metric = self.0.iter().find(|m| m.name == name)?;
        let is = |p: &&Point| label.is_none_or(|(k, v)| p.attribute(k) == Some(v));
        metric.points.iter().find(is)?.value.number()
    }
}

#[test]
fn an_export_asks_each_service_once_and_a_container_has_few_series() {
    let told = Told::new();
    let cts = 101..=120;
    cts.clone().for_each(|ct| told.start(ct));
    told.sim.run(&Command::create(121, |_| {})).expect("created");
    told.export();
    let before = told.export().calls();
    let exported = told.export();
    let after = exported.calls();
    let grown = after.iter().filter(|(rpc, n)| before.get(*rpc) != Some(n));
    let grown: Vec<_> =
        grown.map(|(rpc, n)| (rpc.as_str(), n - before.get(rpc).copied().unwrap_or(0))).collect();
    let once = [
        ("ves.network.v1.NetworkService/ListTraffic", 1),
        ("ves.resources.v1.ResourcesService/ListUsage", 1),
        ("ves.storage.v1.StorageService/GetPool", 1),
        ("ves.storage.v1.StorageService/ListVolumes", 1),
    ];
    let lists = |(rpc, _): &(&str, u64)| once.iter().any(|(list, _)| list == rpc);
    let (mut lists, others): (Vec<_>, Vec<_>) = grown.into_iter().partition(lists);
    lists.sort_unstable();
    assert_eq!(lists, once, "whatever the number of containers");
    // Whoever watches by themselves do so whether or not anything is exported.
    assert!(others.iter().all(|(rpc, _)| !rpc.contains("/Get")), "{others:?}");
    for ct in cts {
        let series = exported.series(ct);
        assert!((20..=30).contains(&series.len()), "{}: {series:#?}", series.len());
    }
    let stopped = exported.series(121);
    assert!(stopped.len() <= 4, "it has a volume only: {stopped:#?}");
    assert_eq!(
        exported.number("ves.node.containers", Some(("ves.container.state", "running"))),
        Some(20.0)
    );
}

#[test]
fn who_is_away_and_what_is_gone_has_no_series() {
    let told = Told::new();
    told.start(101);
    told.start(102);
    let all = told.export();
    assert_eq!(all.series(101).len(), all.series(102).len());
    let up =
        |e: &Exported, service| e.number("ves.node.service.up", Some(("ves.service", service)));
    assert_eq!(up(&all, "resources"), Some(1.0));

    told.sim.kill(Daemon::Resources);
    let without = told.export();
    assert_eq!((up(&without, "resources"), up(&without, "network")), (Some(0.0), Some(1.0)));
    assert!(!without.of_containers().contains("container.cpu.time"), "not the last one");
    assert!(without.of_containers().contains("container.network.io"));
    told.sim.start_daemon(Daemon::Resources);

    told.sim.run(&Command::stop("102")).expect("stopped");
    told.sim.run(&Command::delete("102")).expect("destroyed");
    let one = told.export();
    assert_eq!(one.series(101).len(), all.series(101).len());
    assert_eq!(one.series(102).len(), 0, "{:?}", one.series(102));
}

/// Gives a container labels of its owner's.
fn label(sim: &Sim, ct: u32, labels: &[(&str, &str)]) {
    let labels = labels.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
    let name = format!("containers/{ct}");
    let container = Some(Container { name, labels, ..Container::default() });
    let update_mask = Some(prost_types::FieldMask { paths: vec!["labels".to_owned()] });
    let request_id = "label".to_owned();
    let request =
        UpdateContainerRequest { container, update_mask, request_id, ..Default::default() };
    sim.block(sim.containers().update_container(request)).expect("begun");
}

#[test]
fn of_a_containers_labels_those_are_told_that_an_operator_chose() {
    let told = Told::configured(|config| {
        config.metric_labels = vec!["zone".to_owned(), "customer".to_owned()];
    });
    told.start(101);
    let (before, count) = (told.export(), "container.cpu.time");
    label(&told.sim, 101, &[("customer", "17"), ("secret", "x")]);
    let points = |exported: &Exported| {
        let metric = exported.0.iter().find(|m| m.name == count).expect("told").clone();
        metric.points
    };
    let labelled = |exported: &Exported| {
        points(exported).iter().any(|p| p.attribute("container.label.customer").is_some())
    };
    told.sim.until("its label is told", || labelled(&told.export()));
    let after = told.export();
    assert_eq!(points(&before).len(), points(&after).len());
    for point in points(&after) {
        assert_eq!(point.attribute("container.label.customer"), Some("17"), "{point:?}");
        assert_eq!(point.attribute("container.label.zone"), None, "it has none");
        assert_eq!(point.attribute("container.label.secret"), None, "nobody chose it");
    }
    assert!(!labelled(&before));
}

#[test]
fn open_streams_ranges_of_ids_and_devices_are_counted() {
    let told = Told::new();
    told.start(101);
    told.sim.run(&Command::create(102, |_| {})).expect("created");
    let watching = |exported: &Exported| {
        exported.number("ves.watch.active", Some(("ves.watch.kind", "containers")))
    };
    assert_eq!(watching(&told.export()), None, "nobody ever did");
    let request = WatchContainersRequest::default();
    let watch = told.sim.block(told.sim.containers().watch_containers(request)).expect("begun");
    let exported = told.export();
    assert_eq!(watching(&exported), Some(1.0));
    assert_eq!(exported.number("ves.node.id_slots.usage", None), Some(2.0));
    let all = exported.number("ves.node.id_slots.limit", None).expect("told");
    assert!(all > 10_000.0, "{all}");
    assert_eq!(exported.number("ves.node.volumes.active", None), Some(1.0));
    drop(watch);
    told.sim.until("the watch is gone", || watching(&told.export()) == Some(0.0));
}
