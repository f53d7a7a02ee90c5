//! Clients that others wrote, in other languages: what is in the way of the first call is seen by none of ours.

use std::time::Duration;

use serde_json::{Value, json};
use ves_kit::{TestNode, need, node, python, wait_until};
use ves_types::layout::Daemon;

const PATIENCE: Duration = Duration::from_secs(30);

/// What a program in Python finds that knows only the socket.
fn first_calls(node: &TestNode) -> Value {
    let socket = node.layout().socket(Daemon::Coordinator);
    let out = python::client("first_calls.py").arg(socket).output().expect("it starts");
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{said}");
    serde_json::from_slice(&out.stdout).expect("JSON")
}

#[test]
fn a_program_on_the_c_core_of_grpc_needs_no_option_and_finds_what_there_is() {
    need!(node::node(), python::python());
    let node = TestNode::start();
    node.ok("list -a");
    let mut found = Value::Null;
    wait_until(PATIENCE, "all daemons are known to be reached", || {
        found = first_calls(&node);
        let all = found["health"].as_object().expect("some services");
        all.values().all(|status| status == "SERVING")
    });
    let served = ves_coordinator::api::SERVICES.iter().copied();
    let standard = [
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    ];
    let mut services: Vec<_> = served.chain(standard).collect();
    services.sort_unstable();
    assert_eq!(found["services"], json!(services));
    assert_eq!(found["health"].as_object().map(|all| all.len()), Some(services.len() - 3 + 1));
    assert!(found["node"]["kernel"].is_string(), "{found}");
    let bad = json!(["INVALID_ARGUMENT", ["BAD_VALUE"]]);
    assert_eq!((&found["undecodable"], &found["too large"]), (&bad, &bad));
    assert_eq!(found["unknown"], json!(["UNIMPLEMENTED", ["NOT_BUILT"]]));

    node.stack().stop(Daemon::Network).expect("it ends");
    let away = |found: &Value| {
        let status = |short: &str| {
            let all = found["health"].as_object().expect("some services");
            let one = all.iter().find(|(name, _)| name.ends_with(short)).expect("it is there").1;
            one.as_str().map(str::to_owned).expect("a status")
        };
        (status(".ContainerService"), status(".TemplateService"), found["health"][""].clone())
    };
    wait_until(PATIENCE, "containers are not served without a network", || {
        away(&first_calls(&node)).0 == "NOT_SERVING"
    });
    let found = first_calls(&node);
    assert_eq!(away(&found), ("NOT_SERVING".into(), "SERVING".into(), json!("SERVING")));
    let conditions = found["node"]["conditions"].as_array().expect("conditions");
    let network = conditions.iter().find(|c| c["type"] == "TYPE_NETWORK_READY");
    assert_eq!(network.map(|c| &c["status"]), Some(&json!("STATUS_FALSE")), "{found}");
    node.stack().start_all().expect("it starts again");
    wait_until(PATIENCE, "containers are served again", || {
        away(&first_calls(&node)).0 == "SERVING"
    });
}
