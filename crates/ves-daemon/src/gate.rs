//! The gate in front of every RPC: who calls, whether they may, under which trace, how long it took.
//!
//! It decides by the policy table only and looks into no message. Each call that changes something, or opens a
//! session, is told of for audit.

use std::net::IpAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use opentelemetry::global;
use tonic::Code;
use tonic::body::Body;
use tower::{Layer, Service};
use tracing::Instrument;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use ves_proto::{Fault, Reason};

use crate::accept::Caller;
use crate::peer::{Policy, Rpcs, is_public, refusal};
use crate::principal::{Identity, Principal};
use crate::refusals::{Refusals, Whom};
use crate::rpc::{self, Durations};

/// How much of a name we do not know is told to who used it.
const NAME: usize = 200;

/// Puts a [`Gate`] before a service.
#[derive(Debug, Clone)]
pub(crate) struct GateLayer {
    rpcs: Arc<Rpcs>,
    refusals: Arc<Refusals>,
    durations: Durations,
    /// Whether each change is told of: where not only the coordinator calls, whose own calls are told of by it.
    audit: bool,
}

impl GateLayer {
    pub(crate) fn new(policy: Policy, refusals: Arc<Refusals>) -> Result<Self, String> {
        let rpcs = Arc::new(Rpcs::new(policy)?);
        let audit = is_public(policy);
        Ok(Self { rpcs, refusals, durations: Durations::new(), audit })
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
        let (principal, wait) = caller.calls(request.headers());
        let path = request.uri().path();
        let known = layer.rpcs.find(path);
        let method = known.map_or(rpc::OTHER, |rpc| rpc.path.trim_start_matches('/')).to_owned();
        let completes = known.is_some_and(|rpc| !rpc.is_standard());
        let measured = layer.durations.begin(method.clone(), completes);
        let span = tracing::info_span!(
            "rpc",
            otel.name = method,
            otel.kind = "server",
            otel.status_code = tracing::field::Empty,
            rpc.system.name = "grpc",
            rpc.method = method,
            rpc.response.status_code = tracing::field::Empty,
            peer.uid = caller.uid(),
            client.address = caller.address().map(tracing::field::display),
        );
        let parent = global::get_text_map_propagator(|p| p.extract(&Headers(request.headers())));
        // Fails where no trace is collected, which is fine.
        span.set_parent(parent).ok();

        let allowed = match (known, principal) {
            (Some(rpc), Ok(principal)) if rpc.allows(principal.role) => Ok(principal),
            (Some(rpc), Ok(principal)) => Err(refusal(&principal, rpc.path)),
            (_, Err(fault)) => Err(fault),
            (None, Ok(_)) => {
                let path: String = path.chars().take(NAME).collect();
                let message = format!("there is no {path:?} here; reflection lists what there is");
                Err(Fault::new(Reason::NotBuilt, message).fact("what", path))
            }
        };
        let principal = match allowed {
            Ok(principal) => principal,
            Err(fault) => {
                let (uid, address) = (caller.uid(), caller.address());
                let whom = match (uid, address) {
                    (Some(uid), _) => Whom::Uid(uid),
                    (None, Some(address)) => Whom::Address(address),
                    (None, None) => Whom::Others,
                };
                if let Some(left_out) = layer.refusals.line(whom, begun) {
                    let reason = fault.reason.as_str_name();
                    let address = address.map(tracing::field::display);
                    let rpc = method.as_str();
                    tracing::warn!(parent: &span, uid, address, rpc, reason, left_out, "refused");
                }
                return Box::pin(
                    async move {
                        tokio::time::sleep(wait).await;
                        let status = tonic::Status::from(fault);
                        measured.end(status.code());
                        Ok(status.into_http())
                    }
                    .instrument(span),
                );
            }
        };
        let audited = known.filter(|rpc| layer.audit && rpc.changes()).is_some();
        let audited = audited.then(|| (principal.clone(), caller.address(), method));
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
                let response = measured.end_with(inner.call(request).await?);
                // A failed unary call answers with its status in the headers.
                let code = rpc::code(response.headers()).unwrap_or(Code::Ok);
                rpc::record(&recorded, code, rpc::is_server_error(code));
                if let Some((principal, address, rpc)) = audited {
                    audit(&principal, address, &rpc, code);
                }
                Ok(response)
            }
            .instrument(span),
        )
    }
}

/// Tells who had something changed, or opened a session. What was asked for stands in the operation, and in the
/// line of the log that tells of it.
fn audit(principal: &Principal, address: Option<IpAddr>, rpc: &str, code: Code) {
    let (certificate, token) = match &principal.identity {
        Identity::Certificate { serial, .. } => (Some(&**serial), None),
        Identity::Token { id, .. } => (None, Some(&**id)),
        Identity::Unix { .. } | Identity::Unknown => (None, None),
    };
    tracing::info!(
        target: "audit",
        %principal,
        role = principal.role.as_str(),
        certificate,
        token,
        on_behalf_of = principal.on_behalf_of.as_deref(),
        address = address.map(tracing::field::display),
        rpc,
        code = rpc::name(code),
        "called",
    );
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
