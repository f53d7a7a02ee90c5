//! One operation is one trace, from `virtctl` through the coordinator to each kernel step, and
//! metrics and logs of every daemon reach a real OTLP receiver, those of privileged daemons through
//! the coordinator.

use std::collections::BTreeSet;
use std::time::Duration;

use ves_kit::otlp::{Metric, Point};
use ves_kit::stack::READY;
use ves_kit::{Otlp, Rootfs, SpanKind, TestNode, http, need, node};
use ves_proto::api;
use ves_proto::api::usage_service_client::UsageServiceClient;
use ves_types::CtId;
use ves_types::layout::Daemon;

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_is_one_trace_and_daemons_report() {
    need!(node::node());
    let otlp = Otlp::start().await;
    // As on a node with our packages: only the coordinator has a network.
    let node = TestNode::start_with(|service, layout| {
        let endpoint = match service {
            Daemon::Coordinator => otlp.endpoint(),
            _ => format!("unix:{}", layout.telemetry_socket().display()),
        };
        format!("[telemetry]\notlp_endpoint = '{endpoint}'")
    })
    .with_template("telemetry", &Rootfs::busybox());
    let ct = node.ct();
    let address = node::ipv4(ct);
    node.ok(&format!("create {ct} --ostemplate telemetry --ipadd {address} --diskspace 256M"));
    let started = node
        .virtctl()
        .args(["start", &ct.to_string()])
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", otlp.endpoint())
        .output()
        .expect("virtctl starts");
    assert!(started.status.success(), "{}", String::from_utf8_lossy(&started.stderr));
    node.ok(&format!("stop {ct} --fast"));
    // A daemon that ends sends what it still has.
    for service in Daemon::ALL {
        node.stack().stop(service).expect("it ends");
    }

    let spans = otlp
        .wait_spans(Duration::from_secs(30), "virtctl's span and each daemon's", |spans| {
            let from = |name: &str| spans.iter().any(|s| s.service == name);
            from("virtctl") && Daemon::ALL.into_iter().all(|s| from(s.program()))
        })
        .await;
    let root = spans
        .iter()
        .find(|s| s.service == "virtctl" && s.parent.chars().all(|c| c == '0'))
        .expect("virtctl begins the trace");
    let trace = otlp.trace(&root.trace);
    let services: BTreeSet<_> = trace.iter().map(|s| s.service.as_str()).collect();
    for daemon in Daemon::ALL.map(Daemon::program) {
        assert!(services.contains(daemon), "{daemon} has a part in the trace: {services:?}");
    }
    for call in trace.iter().filter(|s| s.kind == SpanKind::Server) {
        let caller = trace.iter().find(|s| s.id == call.parent).expect("somebody called");
        assert!(caller.kind == SpanKind::Client && caller.name == call.name, "{call:?} {caller:?}");
    }
    let ids: BTreeSet<_> = trace.iter().map(|s| s.id.as_str()).collect();
    for span in trace.iter().filter(|s| s.id != root.id) {
        assert!(ids.contains(span.parent.as_str()), "{span:?} hangs in the air");
    }
    for service in Daemon::ALL.into_iter().filter(|s| *s != Daemon::Coordinator) {
        let daemon = service.program();
        assert!(
            trace.iter().any(|s| s.service == daemon && s.name.starts_with("step ")),
            "each kernel step of {daemon} is a span: {:?}",
            trace.iter().map(|s| (&s.service, &s.name)).collect::<Vec<_>>()
        );
    }

    // Those that ves-init performs hang below the daemon's step that had it do so.
    let inner: Vec<_> = trace.iter().filter(|s| s.name == "init step").collect();
    let parents: BTreeSet<_> = inner.iter().map(|s| s.parent.as_str()).collect();
    let above: Vec<_> = trace.iter().filter(|s| parents.contains(s.id.as_str())).collect();
    assert!(inner.len() > 20, "{inner:?}");
    assert!(above.len() == 1 && above[0].name.starts_with("step "), "{above:?}");

    // What dashboards group by holds no id.
    for span in &trace {
        let id = [ct.to_string(), address.to_string()].iter().any(|id| span.name.contains(id));
        assert!(!id, "{span:?}");
    }
    let ended = otlp.logs().into_iter().find(|l| l.body == "operation ended").expect("it ended");
    let named = |key: &str| ended.attributes.iter().any(|(k, v)| k == key && !v.is_empty());
    assert!(named("container.id") && named("ves.operation.id"), "{ended:?}");

    let metrics = otlp.metrics();
    assert!(metrics.iter().any(|(_, m)| m == "ves.operation.duration"), "{metrics:?}");
    for daemon in Daemon::ALL.map(Daemon::program) {
        let has = |name: &str| metrics.iter().any(|(s, m)| s == daemon && m == name);
        assert!(has("rpc.server.call.duration"), "{daemon} counts its calls");
        assert!(otlp.logs().iter().any(|l| l.service == daemon), "{daemon} sends its log");
    }
}

/// The number of a container's point, of one export.
fn number(metrics: &[Metric], ct: CtId, name: &str, label: Option<&str>) -> Option<f64> {
    let metric = metrics.iter().find(|m| m.name == name)?;
    let own = metric.points.iter().filter(|p| p.attribute("container.id") == Some(&ct.to_string()));
    let has = |p: &Point, value| p.attributes.iter().any(|(_, v)| v == value);
    own.filter(|p| label.is_none_or(|value| has(p, value))).find_map(|p| p.value.number())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_container_does_is_measured_by_the_kernel() {
    need!(node::node());
    let otlp = Otlp::start().await;
    let node =
        TestNode::start_with(|_, _| format!("[telemetry]\notlp_endpoint = '{}'", otlp.endpoint()))
            .with_template("measured", &Rootfs::web());
    let ct = node.ct();
    let address = node::ipv4(ct);
    node.ok(&format!(
        "create {ct} --ostemplate measured --ipadd {address} --diskspace 256M --numproc 50"
    ));
    node.ok(&format!("start {ct}"));
    node.ok(&format!("exec {ct} dd if=/dev/zero of=/root/full bs=1048576 count=16 conv=fsync"));
    for _ in 0..10 {
        http::get_within(address.into(), Duration::from_secs(30)).expect("it answers");
    }
    otlp.take_metrics();
    // A daemon that ends sends what it knows; the services are still there to be asked.
    node.stack().stop(Daemon::Coordinator).expect("it ends");
    let metrics = otlp.take_metrics();
    let mib = f64::from(1 << 20);
    let checks = [
        ("container.cpu.time", Some("system"), 0.000_1, 60.0),
        ("container.memory.usage", None, 0.1 * mib, 1024.0 * mib),
        ("container.memory.working_set", None, 0.01 * mib, 1024.0 * mib),
        ("container.disk.io", Some("write"), 16.0 * mib, 200.0 * mib),
        ("ves.container.disk.operations", Some("write"), 1.0, 100_000.0),
        ("container.network.io", Some("receive"), 1000.0, mib),
        ("container.network.io", Some("transmit"), 1000.0, mib),
        ("container.filesystem.usage", None, 16.0 * mib, 256.0 * mib),
        ("container.filesystem.capacity", None, 256.0 * mib, 256.0 * mib),
        ("container.uptime", None, 0.001, 600.0),
        ("ves.container.oom.kills", None, 0.0, 0.0),
        ("ves.ubc.limit", Some("numproc"), 50.0, 50.0),
        ("ves.ubc.held", Some("numproc"), 1.0, 50.0),
    ];
    for (name, label, least, most) in checks {
        let value = number(&metrics, ct, name, label);
        let within = value.is_some_and(|value| (least..=most).contains(&value));
        assert!(within, "{name} {label:?} is {value:?}: {metrics:#?}");
    }
    // Where the kernel counts it.
    let counted = std::path::Path::new("/proc/pressure/io").exists();
    let pressure = number(&metrics, ct, "ves.container.pressure", Some("io"));
    assert!(pressure.is_some() || !counted, "{metrics:#?}");
    node.stack().start(Daemon::Coordinator).expect("it starts, and takes away what there is");

    // What it has used outlasts its groups, its link and the coordinator.
    node.stack().wait_ready(Daemon::Coordinator, READY).expect("listening again");
    let usage = async || {
        let channel = ves_daemon::client::channel(&node.layout().socket(Daemon::Coordinator));
        let request = api::GetUsageRequest { container: format!("containers/{ct}") };
        let answer = UsageServiceClient::new(channel).get_usage(request).await;
        answer.expect("told").into_inner()
    };
    let figures = |usage: &api::Usage| {
        let traffic = usage.traffic.first().expect("told");
        let time = |time: Option<prost_types::Duration>| {
            u64::try_from(Duration::try_from(time.expect("told")).expect("positive").as_micros())
        };
        [
            time(usage.cpu_time).expect("it fits"),
            time(usage.running_time).expect("it fits"),
            usage.io_write_bytes.expect("told"),
            traffic.receive_bytes,
            traffic.transmit_bytes,
        ]
    };
    let mut before = figures(&usage().await);
    assert!(before[0] > 100 && before[2] >= 16 << 20 && before[3] > 1000, "{before:?}");
    for verb in ["restart", "stop --fast", "start"] {
        let (verb, fast) = verb.split_once(' ').unwrap_or((verb, ""));
        node.ok(&format!("{verb} {ct} {fast}"));
        let after = figures(&usage().await);
        assert!(before.iter().zip(&after).all(|(b, a)| b <= a), "{verb}: {before:?} {after:?}");
        // It does not begin anew either, nor count anything twice.
        assert!(after[2] < 2 * before[2], "{verb}: {before:?} {after:?}");
        before = after;
    }
    println!("used after all: {before:?}");
}
