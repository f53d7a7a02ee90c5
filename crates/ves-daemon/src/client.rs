//! Channels to services, which carry the caller's trace: over their unix sockets, over the network, or within
//! a process.
//!
//! A channel connects when it is first used and again when the service was restarted meanwhile; a
//! service that is not there answers `UNAVAILABLE`. Never here: who may call what.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use opentelemetry::global;
use tokio::net::UnixStream;
use tonic::body::Body;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tower::util::BoxCloneSyncService;
use tower::{Service, ServiceExt};
use tracing::Instrument;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::rpc;
use crate::tls::Remote;

/// How long to try where more want to connect than the daemon has accepted so far.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long between two attempts.
const PAUSE: Duration = Duration::from_millis(5);

/// The way a call takes: a socket, or the service itself, as [`crate::App::in_process`] gives it.
pub type Link = BoxCloneSyncService<http::Request<Body>, http::Response<Body>, Status>;

/// A lazy channel to the service at `socket`. Must be called inside a tokio runtime.
pub fn channel(socket: &Path) -> Traced {
    over(Link::new(untraced(socket).map_err(|e| Status::from_error(e.into()))))
}

/// A lazy channel to a coordinator in the network. Must be called inside a tokio runtime.
pub fn remote(remote: Remote) -> Traced {
    let authorization = remote.authorization().cloned();
    let endpoint = Endpoint::from_static("http://ves.invalid");
    let channel = endpoint.connect_with_connector_lazy(tower::service_fn(move |_| {
        let remote = remote.clone();
        async move { remote.connect().await.map(TokioIo::new) }
    }));
    let authorized = move |mut request: http::Request<Body>| {
        if let Some(token) = &authorization {
            request.headers_mut().insert(http::header::AUTHORIZATION, token.clone());
        }
        request
    };
    over(Link::new(channel.map_request(authorized).map_err(|e| Status::from_error(e.into()))))
}

/// A channel whose calls go this way.
pub const fn over(link: Link) -> Traced {
    Traced { link }
}

/// The same without a trace: what reports traces must not be part of one.
pub(crate) fn untraced(socket: &Path) -> Channel {
    let socket: PathBuf = socket.to_owned();
    // The name is never looked up: the connector below knows where to go.
    let endpoint = Endpoint::from_static("http://ves.invalid");
    endpoint.connect_with_connector_lazy(tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { connect(&socket).await.map(TokioIo::new) }
    }))
}

/// Connects, where the queue of those who want to is full as soon as it is not.
async fn connect(socket: &Path) -> Result<UnixStream, std::io::Error> {
    let end = Instant::now() + PATIENCE;
    loop {
        match UnixStream::connect(socket).await {
            Err(e) if e.kind() == ErrorKind::WouldBlock && Instant::now() < end => {
                tokio::time::sleep(PAUSE).await;
            }
            other => return other,
        }
    }
}

/// A channel each of whose calls is a span, whose W3C trace context goes with it.
#[derive(Debug, Clone)]
pub struct Traced {
    link: Link,
}

impl Service<http::Request<Body>> for Traced {
    type Response = http::Response<Body>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Status>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        self.link.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let method = request.uri().path().trim_start_matches('/');
        let span = tracing::info_span!(
            "call",
            otel.name = method,
            otel.kind = "client",
            otel.status_code = tracing::field::Empty,
            rpc.system.name = "grpc",
            rpc.method = method,
            rpc.response.status_code = tracing::field::Empty,
        );
        global::get_text_map_propagator(|p| {
            p.inject_context(&span.context(), &mut Headers(request.headers_mut()));
        });
        let answer = self.link.call(request);
        let recorded = span.clone();
        Box::pin(
            async move {
                let answer = answer.await;
                let code = match &answer {
                    Ok(answer) => rpc::code(answer.headers()).unwrap_or(Code::Ok),
                    Err(status) => status.code(),
                };
                // To a caller every code but OK is an error.
                rpc::record(&recorded, code, code != Code::Ok);
                answer
            }
            .instrument(span),
        )
    }
}

struct Headers<'a>(&'a mut http::HeaderMap);

impl opentelemetry::propagation::Injector for Headers<'_> {
    fn set(&mut self, key: &str, value: String) {
        if let (Ok(key), Ok(value)) =
            (http::HeaderName::from_bytes(key.as_bytes()), http::HeaderValue::try_from(value))
        {
            self.0.insert(key, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use nix::sys::socket;

    use super::*;

    #[tokio::test]
    async fn who_finds_the_queue_full_waits_for_its_turn() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("s");
        let kind = socket::SockType::Stream;
        let flags = socket::SockFlag::SOCK_CLOEXEC;
        let listener =
            socket::socket(socket::AddressFamily::Unix, kind, flags, None).expect("made");
        let address = socket::UnixAddr::new(&path).expect("short");
        socket::bind(listener.as_raw_fd(), &address).expect("bound");
        socket::listen(&listener, socket::Backlog::new(0).expect("valid")).expect("it listens");
        let mut queued = Vec::new();
        let full = loop {
            match UnixStream::connect(&path).await {
                Ok(stream) => queued.push(stream),
                Err(e) => break e.kind(),
            }
        };
        assert_eq!(full, ErrorKind::WouldBlock);
        let turn = async {
            tokio::time::sleep(4 * PAUSE).await;
            socket::accept(listener.as_raw_fd()).expect("accepted")
        };
        let (connected, _) = tokio::join!(connect(&path), turn);
        connected.expect("its turn came");
        let gone = connect(&dir.path().join("nobody")).await.expect_err("nobody listens");
        assert_eq!(gone.kind(), ErrorKind::NotFound);
    }
}
