//! The accept loop of every unix socket of a daemon: who connects is known before a byte of it is read, who
//! is not served is closed at once, and nobody takes what is needed to serve the others. The network, where it
//! is served, has a loop and a part of its own.
//!
//! Where the kernel has no descriptor or memory for one more, the loop pauses instead of spinning. Never
//! here: what a call may do, which is the gate's.

mod addresses;
mod authority;
mod caller;
mod connection;
#[cfg(test)]
mod network_tests;
mod permits;
mod tcp;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::io::ErrorKind;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::net::unix::UCred;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{Sleep, sleep};
use tokio_stream::Stream;

pub(crate) use caller::Caller;
use connection::Bounds;
pub(crate) use connection::Connection;
use permits::{Limits, Permits};
pub(crate) use tcp::Tcp;

use crate::principal::{Principal, Role};
use crate::refusals::{Refusals, Whom};

/// How long nothing is accepted after the kernel had no room for a connection.
const PAUSE: Duration = Duration::from_millis(200);

/// Raises how many descriptors this process may have to what it may raise that to.
pub(crate) fn raise_descriptors() -> Result<(), nix::Error> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard { setrlimit(Resource::RLIMIT_NOFILE, hard, hard) } else { Ok(()) }
}

/// What an account is to the one who listens.
type RoleOf = dyn Fn(&UCred) -> Role + Send + Sync;

/// Connections that may be served, as they come.
pub(crate) struct Acceptor {
    listener: UnixListener,
    role: Box<RoleOf>,
    permits: Arc<Permits>,
    bounds: Bounds,
    refusals: Arc<Refusals>,
    pause: Option<Pin<Box<Sleep>>>,
    network: Option<Tcp>,
}

/// Whether a connection went while it was being accepted.
const fn is_transient(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::ConnectionAborted | ErrorKind::Interrupted)
}

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acceptor").field("listener", &self.listener).finish_non_exhaustive()
    }
}

impl Acceptor {
    /// Accepts at `listener`; strangers too where it is `public`.
    pub(crate) fn new(
        listener: UnixListener,
        public: bool,
        refusals: Arc<Refusals>,
        role: impl Fn(&UCred) -> Role + Send + Sync + 'static,
    ) -> Result<Self, nix::Error> {
        let (descriptors, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
        let permits = Permits::new(Limits::of(descriptors, public));
        let (role, bounds) = (Box::new(role), Bounds::default());
        Ok(Self { listener, role, permits, bounds, refusals, pause: None, network: None })
    }

    /// The same with connections from the network.
    pub(crate) fn with_network(self, network: Option<Tcp>) -> Self {
        Self { network, ..self }
    }

    /// The connection, if it may be one.
    fn admit(&self, stream: UnixStream) -> Option<Connection> {
        // Without credentials there is nobody to answer.
        let peer = stream.peer_cred().ok()?;
        let (uid, role) = (peer.uid(), (self.role)(&peer));
        let now = Instant::now();
        match self.permits.take(uid, role, now) {
            Ok(permit) => {
                let principal = Principal::unix(uid, peer.pid(), role);
                let caller = Caller::account(principal, Arc::clone(&self.permits));
                Some(Connection::unix(stream, caller, permit, self.bounds))
            }
            Err(refused) => {
                let reason = refused.name();
                self.refusals.count_connection(reason);
                if let Some(left_out) = self.refusals.line(Whom::Uid(uid), now) {
                    tracing::warn!(uid, reason, left_out, "refused a connection");
                }
                None
            }
        }
    }

    /// Notes that the kernel has no room for a connection.
    fn rest(&mut self, error: &std::io::Error) {
        self.refusals.count_connection("no_room");
        if let Some(left_out) = self.refusals.line(Whom::Itself, Instant::now()) {
            tracing::error!(%error, left_out, "cannot accept a connection");
        }
        self.pause = Some(Box::pin(sleep(PAUSE)));
    }
}

impl Stream for Acceptor {
    type Item = Result<Connection, Infallible>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        // The network is asked first and never ends: who comes by it waits for nobody's unix connection.
        if let Some(network) = &mut this.network
            && let Poll::Ready(Some(connection)) = network.connections.poll_recv(cx)
        {
            return Poll::Ready(Some(Ok(connection)));
        }
        loop {
            if let Some(pause) = &mut this.pause {
                std::task::ready!(pause.as_mut().poll(cx));
                this.pause = None;
            }
            match std::task::ready!(this.listener.poll_accept(cx)) {
                Ok((stream, _)) => {
                    if let Some(connection) = this.admit(stream) {
                        return Poll::Ready(Some(Ok(connection)));
                    }
                }
                // That one is gone already.
                Err(e) if is_transient(e.kind()) => {}
                Err(e) => this.rest(&e),
            }
        }
    }
}
