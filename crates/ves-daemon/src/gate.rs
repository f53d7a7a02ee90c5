//! The gate in front of every RPC: who calls, whether they may, under which trace, how long it took.
//!
//! It decides by the policy table only and looks into no message.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use opentelemetry::metrics::{Counter, Histogram};
use opentelemetry::{KeyValue, global};
use tonic::body::Body;
use tower::{Layer, Service};
use tracing::Instrument;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use ves_proto::{Fault, Reason};

use crate::accept::Caller;
use crate::peer::{Policy, Rpcs, refusal};
use crate::refusals::{Refusals, Whom};

/// What stands in metrics and traces for whatever there is no RPC for: its name is the caller's to choose.
const UNKNOWN: &str = "unknown";
/// How much of a name we do not know is told to who used it.
const NAME: usize = 200;

/// Puts a [`Gate`] before a service.
#[derive(Debug, Clone)]
pub(crate) struct GateLayer {
    rpcs: Arc<Rpcs>,
    refusals: Arc<Refusals>,
    calls: Counter<u64>,
    duration: Histogram<f64>,
}

impl GateLayer {
    pub(crate) fn new(policy: Policy, refusals: Arc<Refusals>) -> Result<Self, String> {
        let meter = global::meter("ves");
        Ok(Self {
            rpcs: Arc::new(Rpcs::new(policy)?),
            refusals,
            calls: meter.u64_counter("ves.rpc.calls").with_description("calls answered").build(),
            duration: meter
                .f64_histogram("ves.rpc.duration")
                .with_description("time until the answer began")
                .with_unit("s")
                .build(),
        })
    }

    /// Counts an answer.
    fn count(&self, rpc: String, code: String, begun: Instant) {
        let labels = [KeyValue::new("rpc", rpc), KeyValue::new("code", code)];
        self.calls.add(1, &labels);
        self.duration.record(begun.elapsed().as_secs_f64(), &labels);
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
    S: Service<http::Request<Body>, Response = http::Response<Body>> + Clone + Send + 'static,
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
        let begun = Instant::now();
        let layer = self.layer.clone();
        let caller = request.extensions().get::<Caller>().cloned();
        let caller = caller.unwrap_or_else(Caller::nobody);
        let (principal, wait) = (caller.principal, caller.calls());
        let path = request.uri().path();
        let known = layer.rpcs.find(path);
        let name = known.map_or(UNKNOWN, |rpc| rpc.path).to_owned();
        let span = tracing::info_span!(
            "rpc",
            otel.name = name.trim_start_matches('/'),
            otel.kind = "server",
            rpc.system = "grpc",
            peer.uid = principal.uid,
            otel.status_code = tracing::field::Empty,
        );
        let parent = global::get_text_map_propagator(|p| p.extract(&Headers(request.headers())));
        // Fails where no trace is collected, which is fine.
        span.set_parent(parent).ok();

        let fault = match known {
            Some(rpc) if rpc.allows(principal.role) => None,
            Some(rpc) => Some(refusal(principal, rpc.path)),
            None => {
                let path: String = path.chars().take(NAME).collect();
                let message = format!("there is no {path:?} here; reflection lists what there is");
                Some(Fault::new(Reason::NotBuilt, message).fact("what", path))
            }
        };
        if let Some(fault) = fault {
            if let Some(left_out) = layer.refusals.line(Whom::Uid(principal.uid), begun) {
                let (uid, reason) = (principal.uid, fault.reason.as_str_name());
                tracing::warn!(parent: &span, uid, rpc = %name, reason, left_out, "refused");
            }
            return Box::pin(
                async move {
                    tokio::time::sleep(wait).await;
                    let status = tonic::Status::from(fault);
                    layer.count(name, i32::from(status.code()).to_string(), begun);
                    Ok(status.into_http())
                }
                .instrument(span),
            );
        }
        request.extensions_mut().insert(principal);

        // The one that was polled until it was ready, and a fresh one for the next call.
        let fresh = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, fresh);
        let recorded = span.clone();
        Box::pin(
            async move {
                if !wait.is_zero() {
                    tokio::time::sleep(wait).await;
                }
                let response = inner.call(request).await?;
                // A failed unary call answers with its status in the headers.
                let code = response.headers().get("grpc-status");
                let code = code.and_then(|c| c.to_str().ok()).unwrap_or("0").to_owned();
                if code != "0" {
                    recorded.record("otel.status_code", "ERROR");
                }
                layer.count(name, code, begun);
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
