//! The gate in front of every RPC: who calls, whether they may, under which trace, how long it took.
//!
//! It decides by the policy table only and looks into no message.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use opentelemetry::metrics::{Counter, Histogram};
use opentelemetry::{KeyValue, global};
use tonic::body::Body;
use tonic::transport::server::UdsConnectInfo;
use tower::{Layer, Service};
use tracing::Instrument;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use ves_proto::{Fault, Reason};

use crate::peer::{Peers, Policy, Principal, Role, allowed};

/// Puts a [`Gate`] before a service.
#[derive(Debug, Clone)]
pub(crate) struct GateLayer {
    policy: Policy,
    peers: Arc<Peers>,
    calls: Counter<u64>,
    duration: Histogram<f64>,
}

impl GateLayer {
    pub(crate) fn new(policy: Policy, peers: Peers) -> Self {
        let meter = global::meter("ves");
        Self {
            policy,
            peers: Arc::new(peers),
            calls: meter.u64_counter("ves.rpc.calls").with_description("calls answered").build(),
            duration: meter
                .f64_histogram("ves.rpc.duration")
                .with_description("time until the answer began")
                .with_unit("s")
                .build(),
        }
    }
}

impl<S> Layer<S> for GateLayer {
    type Service = Gate<S>;
    fn layer(&self, inner: S) -> Gate<S> {
        Gate { layer: self.clone(), inner }
    }
}

/// A service behind the gate.
#[derive(Debug, Clone)]
pub(crate) struct Gate<S> {
    layer: GateLayer,
    inner: S,
}

type Answer<E> =
    std::pin::Pin<Box<dyn Future<Output = Result<http::Response<Body>, E>> + Send + 'static>>;

impl<S> Service<http::Request<Body>> for Gate<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = Answer<S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let path = request.uri().path().to_owned();
        let cred = request.extensions().get::<UdsConnectInfo>().and_then(|i| i.peer_cred);
        let principal = match cred {
            Some(cred) => Principal {
                uid: cred.uid(),
                pid: cred.pid(),
                role: self.layer.peers.role(cred.uid()),
            },
            None => Principal { uid: u32::MAX, pid: None, role: Role::Other },
        };
        let span = tracing::info_span!(
            "rpc",
            otel.name = path.trim_start_matches('/'),
            otel.kind = "server",
            rpc.system = "grpc",
            peer.uid = principal.uid,
            otel.status_code = tracing::field::Empty,
        );
        let parent = global::get_text_map_propagator(|p| p.extract(&Headers(request.headers())));
        // Fails where no trace is collected, which is fine.
        span.set_parent(parent).ok();

        if !allowed(self.layer.policy, &path, principal.role) {
            tracing::warn!(parent: &span, uid = principal.uid, rpc = %path, "refused");
            let message = format!("{principal} may not call {path}");
            let fault = Fault::new(Reason::NotAllowed, message)
                .fact("principal", principal)
                .fact("rpc", &path);
            let response = tonic::Status::from(fault).into_http();
            return Box::pin(std::future::ready(Ok(response)));
        }
        request.extensions_mut().insert(principal);

        let (calls, duration) = (self.layer.calls.clone(), self.layer.duration.clone());
        let begun = Instant::now();
        let answer = self.inner.call(request);
        let recorded = span.clone();
        Box::pin(
            async move {
                let response = answer.await?;
                // A failed unary call answers with its status in the headers.
                let code = response.headers().get("grpc-status");
                let code = code.and_then(|c| c.to_str().ok()).unwrap_or("0").to_owned();
                if code != "0" {
                    recorded.record("otel.status_code", "ERROR");
                }
                let labels = [KeyValue::new("rpc", path), KeyValue::new("code", code)];
                calls.add(1, &labels);
                duration.record(begun.elapsed().as_secs_f64(), &labels);
                Ok(response)
            }
            .instrument(span),
        )
    }
}

struct Headers<'a>(&'a http::HeaderMap);

impl opentelemetry::propagation::Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|v| v.to_str().ok())
    }
    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}
