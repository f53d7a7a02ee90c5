//! One operation is one trace, from `virtctl` through the coordinator to each kernel step, and
//! metrics and logs of every daemon reach a real OTLP receiver, those of privileged daemons through
//! the coordinator.

use std::collections::BTreeSet;
use std::time::Duration;

use ves_kit::{Otlp, Rootfs, SpanKind, TestNode, need, node};
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
