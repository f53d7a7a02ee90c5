//! Channels to services, which carry the caller's trace: over their unix sockets, or within a process.
//!
//! A channel connects when it is first used and again when the service was restarted meanwhile; a
//! service that is not there answers `UNAVAILABLE`. Never here: who may call what.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use opentelemetry::global;
use tokio::net::UnixStream;
use tonic::Status;
use tonic::body::Body;
use tonic::metadata::{MetadataKey, MetadataMap, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tower::ServiceExt;
use tower::util::BoxCloneSyncService;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// How long to try where more want to connect than the daemon has accepted so far.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long between two attempts.
const PAUSE: Duration = Duration::from_millis(5);

/// The way a call takes: a socket, or the service itself, as [`crate::App::in_process`] gives it.
pub type Link = BoxCloneSyncService<http::Request<Body>, http::Response<Body>, Status>;

/// A channel that puts the current span's trace context into each call.
pub type Traced = InterceptedService<Link, Inject>;

/// A lazy channel to the service at `socket`. Must be called inside a tokio runtime.
pub fn channel(socket: &Path) -> Traced {
    over(Link::new(untraced(socket).map_err(|e| Status::from_error(e.into()))))
}

/// A channel whose calls go this way.
pub fn over(link: Link) -> Traced {
    InterceptedService::new(link, Inject)
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

/// Puts the current span's W3C trace context into a call's metadata.
#[derive(Debug, Clone, Copy)]
pub struct Inject;

impl Interceptor for Inject {
    fn call(&mut self, mut request: tonic::Request<()>) -> Result<tonic::Request<()>, Status> {
        let context = tracing::Span::current().context();
        global::get_text_map_propagator(|p| {
            p.inject_context(&context, &mut Metadata(request.metadata_mut()));
        });
        Ok(request)
    }
}

struct Metadata<'a>(&'a mut MetadataMap);

impl opentelemetry::propagation::Injector for Metadata<'_> {
    fn set(&mut self, key: &str, value: String) {
        if let (Ok(key), Ok(value)) =
            (MetadataKey::from_bytes(key.as_bytes()), MetadataValue::try_from(&value))
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
