//! Calls between daemons of one process: who is up, and what becomes of calls when one is killed.
//!
//! Every daemon has a runtime of its own, in which its calls are worked on: killing it ends all it does at
//! once, as SIGKILL would. Never here: what is called.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::future::Shared;
use futures::stream::poll_fn;
use futures::{FutureExt, StreamExt};
use http_body_util::{BodyStream, StreamBody};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tonic::Status;
use tonic::body::Body;
use tower::{ServiceExt, service_fn};
use ves_daemon::client::Link;
use ves_types::layout::Daemon;

/// Resolves when a daemon is killed.
type Death = Shared<oneshot::Receiver<()>>;

#[derive(Debug)]
struct Up {
    runtime: Runtime,
    link: Link,
    death: Death,
    alive: oneshot::Sender<()>,
}

impl Up {
    fn kill(self) {
        drop(self.alive);
        self.runtime.shutdown_background();
    }
}

/// The daemons that are up.
#[derive(Debug, Default)]
pub(crate) struct Exchange {
    up: Mutex<HashMap<Daemon, Up>>,
}

fn gone() -> Status {
    // As of a connection, and with no reason of ours.
    Status::from_error(std::io::Error::from(std::io::ErrorKind::ConnectionReset).into())
}

/// An answer that breaks off when who gives it is killed.
fn breaking(body: Body, mut death: Death) -> Body {
    let mut frames = BodyStream::new(body);
    Body::new(StreamBody::new(poll_fn(move |cx| match death.poll_unpin(cx) {
        std::task::Poll::Ready(_) => std::task::Poll::Ready(Some(Err(gone()))),
        std::task::Poll::Pending => frames.poll_next_unpin(cx),
    })))
}

impl Exchange {
    fn all(&self) -> MutexGuard<'_, HashMap<Daemon, Up>> {
        self.up.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A daemon is up, and takes the place of one before.
    pub(crate) fn begin(&self, daemon: Daemon, runtime: Runtime, link: Link) {
        let (alive, death) = oneshot::channel();
        let up = Up { runtime, link, death: death.shared(), alive };
        if let Some(before) = self.all().insert(daemon, up) {
            before.kill();
        }
    }

    /// Kills a daemon, if it is up.
    pub(crate) fn kill(&self, daemon: Daemon) {
        let up = self.all().remove(&daemon);
        if let Some(up) = up {
            up.kill();
        }
    }

    /// The way to a daemon, to whichever is up when it is called.
    pub(crate) fn link(self: &Arc<Self>, daemon: Daemon) -> Link {
        let exchange = Arc::clone(self);
        Link::new(service_fn(move |request| {
            let exchange = Arc::clone(&exchange);
            async move { exchange.call(daemon, request).await }
        }))
    }

    async fn call(
        &self,
        daemon: Daemon,
        request: http::Request<Body>,
    ) -> Result<http::Response<Body>, Status> {
        // Who hangs up cuts the call, but nothing that it has on a thread of its own.
        let mut work = JoinSet::new();
        let death = {
            let all = self.all();
            let up = all.get(&daemon).ok_or_else(gone)?;
            work.spawn_on(up.link.clone().oneshot(request), up.runtime.handle());
            up.death.clone()
        };
        let Some(Ok(answer)) = work.join_next().await else { return Err(gone()) };
        Ok(answer?.map(|body| breaking(body, death)))
    }
}
