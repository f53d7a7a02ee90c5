//! JSON against a service of the public API, without a socket and over one.

use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::service::Routes;
use tonic::{Request, Response};
use tower::ServiceExt;
use ves_proto::api as pb;
use ves_proto::api::node_service_server::{NodeService, NodeServiceServer};

use super::*;
use crate::peer::Policy;
use crate::principal::Role;
use crate::serve::{App, serve_on};

const SERVICE: &str = "ves.api.v1.NodeService";

/// Answers with the name that was asked for, unless that is "nodes/none".
struct Echo;

#[tonic::async_trait]
impl NodeService for Echo {
    async fn get_node(
        &self,
        request: Request<pb::GetNodeRequest>,
    ) -> Result<Response<pb::Node>, Status> {
        let on_behalf_of = request.metadata().get("ves-on-behalf-of").cloned();
        let name = request.into_inner().name;
        if name == "nodes/none" {
            return Err(Fault::new(Reason::Busy, "somebody is at it").fact("ct", 6).into());
        }
        let version = on_behalf_of.and_then(|v| v.to_str().ok().map(str::to_owned));
        let version = version.unwrap_or_default();
        Ok(Response::new(pb::Node { name, version, containers: 3, ..Default::default() }))
    }

    async fn list_nodes(
        &self,
        request: Request<pb::ListNodesRequest>,
    ) -> Result<Response<pb::ListNodesResponse>, Status> {
        let next_page_token = request.into_inner().page_size.to_string();
        Ok(Response::new(pb::ListNodesResponse { nodes: vec![], next_page_token }))
    }
}

fn routes() -> Routes {
    Routes::new(NodeServiceServer::new(Echo))
}

/// The code and the JSON of an answer.
async fn asked(method: &str, uri: &str, body: &'static str) -> (u16, serde_json::Value) {
    let layer = JsonLayer::new(&[SERVICE, "ves.api.v1.ContainerService"]).expect("rules");
    let request = http::Request::builder()
        .method(method)
        .uri(uri)
        .header("content-type", "application/json; charset=utf-8")
        .header("ves-on-behalf-of", "anna")
        .body(Body::new(Full::from(body)));
    let response = layer.layer(routes()).oneshot(request.expect("a request")).await;
    let response = response.expect("an answer");
    let code = response.status().as_u16();
    let bytes = response.into_body().collect().await.expect("a body").to_bytes();
    (code, serde_json::from_slice(&bytes).expect("JSON"))
}

#[tokio::test]
async fn a_call_is_a_path() {
    let (code, node) = asked("GET", "/v1/nodes/n1", "").await;
    assert_eq!((code, &node["name"], &node["containers"]), (200, &"nodes/n1".into(), &3.into()));
    assert_eq!(node["version"], "anna", "who asks is told on");
    let (code, list) = asked("GET", "/v1/nodes?pageSize=7", "").await;
    assert_eq!((code, &list["nextPageToken"]), (200, &"7".into()));
}

#[tokio::test]
async fn a_failure_tells_its_reason() {
    let (code, body) = asked("GET", "/v1/nodes/none", "").await;
    let error = &body["error"];
    assert_eq!((code, &error["status"]), (409, &"ABORTED".into()), "{body}");
    let detail = |kind: &str| {
        let details = error["details"].as_array().expect("details");
        let kind = format!("type.googleapis.com/google.rpc.{kind}");
        details.iter().find(|d| d["@type"] == kind).cloned().unwrap_or_default()
    };
    assert_eq!(detail("ErrorInfo")["reason"], "BUSY", "{body}");
    assert_eq!(detail("ErrorInfo")["metadata"]["ct"], "6");
    assert_eq!(detail("RetryInfo")["retryDelay"], "0.500s");
}

#[tokio::test]
async fn what_is_not_there_or_does_not_fit_is_refused() {
    for (method, uri, body, code) in [
        ("GET", "/v1/nothing", "", 404),
        ("GET", "/v1/", "", 404),
        ("PUT", "/v1/nodes/n1", "", 405),
        ("GET", "/v1/nodes/n1", "{}", 400),
        ("GET", "/v1/nodes?pageSize=x", "", 400),
        ("GET", "/v1/nodes?nonsense=1", "", 400),
        ("POST", "/v1/containers?ctId=1", "{}", 400),
        ("POST", "/v1/containers", "[1]", 400),
        ("POST", "/v1/containers", "{\"nonsense\": 1}", 400),
    ] {
        let (got, body) = asked(method, uri, body).await;
        assert_eq!((got, &body["error"]["code"]), (code, &code.into()), "{method} {uri}: {body}");
        assert!(body["error"]["message"].as_str().is_some_and(|m| !m.is_empty()), "{body}");
    }
    let (code, _) = asked("POST", "/v1/containers", "{}").await;
    assert_eq!(code, 501, "it has a path and no server here");
}

#[tokio::test]
async fn a_body_must_say_that_it_is_json() {
    let layer = JsonLayer::new(&["ves.api.v1.ContainerService"]).expect("rules");
    let request = http::Request::post("/v1/containers").header("content-type", "text/plain");
    let request = request.body(Body::new(Full::from("{}"))).expect("a request");
    let response = layer.layer(routes()).oneshot(request).await.expect("an answer");
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
}

/// What a page of somebody else's can have a browser send, in the name of who looks at it.
#[tokio::test]
async fn a_page_has_nothing_done() {
    let layer = JsonLayer::new(&[SERVICE, "ves.api.v1.ContainerService"]).expect("rules");
    let node = "/ves.api.v1.NodeService/GetNode";
    let start = "/v1/containers/6:start";
    let sent = async |method: &str, path: &str, headers: &[(&str, &str)]| {
        let mut request = http::Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        // A call without a field, as gRPC frames it.
        let request = request.body(Body::new(Full::from(&[0_u8; 5][..]))).expect("a request");
        let response = layer.layer(routes()).oneshot(request).await.expect("an answer");
        let called = response.headers().contains_key("grpc-status")
            || response
                .headers()
                .get(header::CONTENT_TYPE)
                .is_some_and(|v| v == "application/grpc");
        (response.status().as_u16(), called)
    };
    let (json, grpc) = (("content-type", "application/json"), ("content-type", "application/grpc"));
    let (plain, proto) =
        (("content-type", "text/plain"), ("content-type", "Application/grpc+proto"));
    for good in [grpc, proto] {
        assert_eq!(sent("POST", node, &[good]).await, (200, true), "{good:?}");
    }
    for origin in ["https://evil.example", "null", ""] {
        for (path, kind) in [(node, grpc), (start, json), ("/v1/nodes/n1", json)] {
            assert_eq!(
                sent("POST", path, &[kind, ("origin", origin)]).await,
                (403, false),
                "{path}"
            );
        }
        assert_eq!(
            sent("OPTIONS", start, &[("origin", origin)]).await,
            (403, false),
            "no preflight"
        );
    }
    for kinds in [&[plain][..], &[], &[json], &[grpc, plain], &[plain, grpc]] {
        assert_eq!(sent("POST", node, kinds).await, (415, false), "{kinds:?}");
    }
    for (method, path) in [("GET", node), ("GET", "/"), ("PUT", node), ("HEAD", "/index.html")] {
        assert_eq!(sent(method, path, &[plain]).await, (404, false), "{method} {path}");
    }
    assert_eq!(sent("POST", start, &[json, plain]).await, (400, false), "one type and no other");
}

#[test]
fn what_changes_something_is_never_got() {
    let pool = DescriptorPool::decode(ves_proto::DESCRIPTORS).expect("descriptors");
    let all: Vec<_> = pool.services().filter(|s| s.package_name() == "ves.api.v1").collect();
    let all: Vec<_> = all.iter().map(prost_reflect::ServiceDescriptor::full_name).collect();
    let layer = JsonLayer::new(&all).expect("rules");
    assert!(layer.routes.len() > 20);
    for route in &*layer.routes {
        let reads = crate::peer::reads(route.rpc.path());
        assert!(reads || route.verb != Method::GET, "{}", route.rpc);
    }
}

#[test]
fn a_call_has_all_that_its_request_says_of_who_asks() {
    let mut asked = HeaderMap::new();
    for value in ["Bearer one", "Bearer two"] {
        asked.append("authorization", HeaderValue::from_static(value));
    }
    asked.insert("x-other", HeaderValue::from_static("1"));
    asked.insert("te", HeaderValue::from_static("chunked"));
    let headers = head_of_call(&asked);
    assert_eq!(headers.get_all("authorization").iter().count(), 2);
    assert!(crate::token::bearer(&headers).is_err(), "as by gRPC");
    assert!(headers.get("x-other").is_none() && headers["te"] == "trailers");
}

/// What may be one request to whom it passes by and two to us, or the other way round.
#[tokio::test]
async fn a_request_has_one_end() {
    let dir = tempfile::tempdir().expect("a directory");
    let socket = dir.path().join("s");
    let listener = tokio::net::UnixListener::bind(&socket).expect("bound");
    let app = App {
        routes: routes(),
        policy: &[("/ves.api.v1.NodeService/GetNode", &[Role::Root, Role::Own, Role::Operator])],
        services: &[SERVICE],
        operators: vec![],
        needs: vec![],
        network: None,
    };
    tokio::spawn(serve_on(listener, app, std::future::pending()));
    let hidden = "GET /v1/nodes/hidden HTTP/1.1\r\nHost: x\r\n\r\n";
    let length = hidden.len();
    let answers = async |head: &str| {
        let mut stream = tokio::net::UnixStream::connect(&socket).await.expect("connected");
        stream.write_all(format!("{head}\r\n\r\n{hidden}").as_bytes()).await.expect("sent");
        stream.shutdown().await.expect("no more");
        let mut answer = Vec::new();
        // Where it was closed before all of it was read, that is told after the answer.
        stream.read_to_end(&mut answer).await.ok();
        String::from_utf8(answer).expect("text")
    };
    // The second request is the first one's body here: it is not done, whatever is said of the first.
    for (head, code) in [
        (format!("GET /v1/nodes/n1 HTTP/1.1\r\nHost: x\r\nContent-Length: {length}"), 400),
        (format!("GET /v1/nothing HTTP/1.1\r\nHost: x\r\nContent-Length: {length}"), 404),
        (format!("POST /v1/nothing HTTP/1.1\r\nHost: x\r\nOrigin: x\r\nContent-Length: {length}"), 403),
        (format!("GET /v1/nodes/n1 HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\nContent-Length: 0"), 400),
        ("GET /v1/nodes/n1 HTTP/1.1\r\nHost: x\r\nContent-Length: +0".to_owned(), 400),
        ("GET /v1/nodes/n1 HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nTransfer-Encoding: chunked".to_owned(), 400),
        ("GET /v1/nodes/n1 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked".to_owned(), 400),
        ("GET /v1/nodes/n1 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, identity".to_owned(), 400),
        ("GET /v1/nodes/n1 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding : chunked".to_owned(), 400),
        ("GET /v1/nodes/n1 HTTP/1.1\r\nHost: x\r\n Content-Length: 0".to_owned(), 400),
        ("GET /v1/nodes/n1\u{b}HTTP/1.1\r\nHost: x".to_owned(), 400),
    ] {
        let answer = answers(&head).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {code} ")), "{head}\n-- {answer}");
        assert!(!answer.contains("nodes/hidden"), "{head}\n-- {answer}");
    }
    let both = answers("GET /v1/nodes/n1 HTTP/1.1\r\nHost: x").await;
    assert!(both.contains("nodes/n1") && both.contains("nodes/hidden"), "two that are two: {both}");
}

#[tokio::test]
async fn what_no_call_is_keeps_the_pace_of_calls() {
    let dir = tempfile::tempdir().expect("a directory");
    let socket = dir.path().join("s");
    let listener = tokio::net::UnixListener::bind(&socket).expect("bound");
    let refusals = Arc::new(crate::refusals::Refusals::new());
    let stranger = |_: &tokio::net::unix::UCred| Role::Other;
    let acceptor = crate::accept::Acceptor::new(listener, true, Arc::clone(&refusals), stranger);
    let app = App {
        routes: routes(),
        policy: &[("/ves.api.v1.NodeService/GetNode", &[Role::Operator])],
        services: &[SERVICE],
        operators: vec![],
        needs: vec![],
        network: None,
    };
    let gate = crate::gate::GateLayer::new(app.policy, refusals).expect("a gate");
    let acceptor = acceptor.expect("limits");
    tokio::spawn(crate::serve::serve_all(acceptor, gate, app, std::future::pending()));
    for request in [
        "GET /v1/nothing HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /v1/nodes?nonsense=1 HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    ] {
        let mut stream = tokio::net::UnixStream::connect(&socket).await.expect("connected");
        let begun = std::time::Instant::now();
        stream.write_all(request.repeat(40).as_bytes()).await.expect("sent");
        let (mut said, mut piece) = (String::new(), [0; 4096]);
        while said.matches("HTTP/1.1 4").count() < 40 {
            let length = stream.read(&mut piece).await.expect("answered");
            assert!(length > 0, "closed after {said}");
            said.push_str(std::str::from_utf8(piece.get(..length).expect("read")).expect("ASCII"));
        }
        // 32 at once, then twenty a second.
        assert!(begun.elapsed() >= Duration::from_millis(350), "{request}: {:?}", begun.elapsed());
    }
}

/// What curl does: HTTP 1.1 on the socket that gRPC is on; and the gate is asked.
#[tokio::test]
async fn the_socket_speaks_both_and_the_gate_stands_before_both() {
    const POLICY: Policy = &[
        ("/ves.api.v1.NodeService/GetNode", &[Role::Root, Role::Own, Role::Operator]),
        ("/ves.api.v1.NodeService/ListNodes", &[Role::Operator]),
    ];
    let dir = tempfile::tempdir().expect("a directory");
    let socket = dir.path().join("s");
    let listener = tokio::net::UnixListener::bind(&socket).expect("bound");
    let app = App {
        routes: routes(),
        policy: POLICY,
        services: &[SERVICE],
        operators: vec![],
        needs: vec![],
        network: None,
    };
    tokio::spawn(serve_on(listener, app, std::future::pending()));
    for (path, code) in [("/v1/nodes/n1", "200 OK"), ("/v1/nodes", "403 Forbidden")] {
        let mut stream = tokio::net::UnixStream::connect(&socket).await.expect("connected");
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("answered");
        assert!(answer.starts_with(&format!("HTTP/1.1 {code}")), "{answer}");
    }
    let channel = crate::client::channel(&socket);
    let mut client = pb::node_service_client::NodeServiceClient::new(channel);
    let request = pb::GetNodeRequest { name: "nodes/n1".to_owned() };
    let node = client.get_node(request).await.expect("allowed").into_inner();
    assert_eq!(node.name, "nodes/n1");
}
