//! The accept loop of the network: an address has its part of the places, says in time who it is, and speaks
//! HTTP over TLS 1.3; what does not is closed.
//!
//! A node whose addresses or certificates are not there yet, or no good, goes on without, and tries again.
//! Never here: who is trusted ([`crate::tls`]), or what a call may do.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::addresses::{AddressPermit, AddressPermits, NetworkLimits, counted};
use super::caller::{Caller, Network};
use super::connection::{Bounds, Connection};
use super::{PAUSE, is_transient};
use crate::refusals::{Refusals, Whom};
use crate::tls::{Certificates, Listen, Presented, Trust, follow};
use crate::token::Tokens;

/// How long until an address that could not be listened at is tried again.
const AGAIN: Duration = Duration::from_secs(5);
/// How many connections may wait to be served.
const QUEUE: usize = 64;

/// Connections from the network, as they come. Dropped, nobody listens any more.
#[derive(Debug)]
pub(crate) struct Tcp {
    pub(super) connections: mpsc::Receiver<Connection>,
    _tasks: JoinSet<()>,
}

/// What each listening address needs.
#[derive(Debug, Clone)]
pub(super) struct Common {
    pub(super) trust: Arc<Trust>,
    pub(super) tokens: Option<Arc<dyn Tokens>>,
    pub(super) permits: Arc<AddressPermits>,
    pub(super) bounds: Bounds,
    pub(super) refusals: Arc<Refusals>,
}

impl Tcp {
    /// Listens. Inside a runtime.
    pub(crate) fn listen(
        listen: Listen,
        tokens: Option<Arc<dyn Tokens>>,
        certificates: Option<Arc<dyn Certificates>>,
        refusals: Arc<Refusals>,
    ) -> Result<Self, nix::Error> {
        let (descriptors, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
        let Listen { tcp, pki, tokens: counts } = listen;
        let tokens = tokens.filter(|_| counts);
        let trust = Arc::new(Trust::new(pki, tokens.is_some()));
        let permits = AddressPermits::new(NetworkLimits::of(descriptors));
        let common = Common { trust, tokens, permits, bounds: Bounds::default(), refusals };
        let (sender, connections) = mpsc::channel(QUEUE);
        let mut tasks = JoinSet::new();
        tasks.spawn(follow(Arc::clone(&common.trust), certificates));
        for address in tcp {
            tasks.spawn(serve_at(address, common.clone(), sender.clone()));
        }
        Ok(Self { connections, _tasks: tasks })
    }

    /// The same at a listener that there is, without following the files.
    #[cfg(test)]
    pub(super) fn at(listener: TcpListener, common: Common) -> Self {
        let (sender, connections) = mpsc::channel(QUEUE);
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(listener, common, sender));
        Self { connections, _tasks: tasks }
    }
}

/// Listens at one address as soon as that can be done.
async fn serve_at(address: SocketAddr, common: Common, to: mpsc::Sender<Connection>) {
    let mut told = None;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => {
                tracing::info!(%address, "serving the network");
                return serve(listener, common, to).await;
            }
            Err(e) => {
                if told.replace(e.kind()) != Some(e.kind()) {
                    tracing::error!(%address, error = %e, "cannot listen; trying again");
                }
                sleep(AGAIN).await;
            }
        }
    }
}

/// Serves who connects, until nobody takes connections any more.
pub(super) async fn serve(listener: TcpListener, common: Common, to: mpsc::Sender<Connection>) {
    while !to.is_closed() {
        match listener.accept().await {
            Ok((stream, from)) => {
                let now = Instant::now();
                match common.permits.take(from.ip(), now) {
                    Ok(permit) => {
                        let (common, to) = (common.clone(), to.clone());
                        tokio::spawn(async move {
                            if let Some(connection) = common.shake_hands(stream, from, permit).await
                            {
                                // Nobody takes it any more: the daemon ends.
                                to.send(connection).await.ok();
                            }
                        });
                    }
                    Err(refused) => common.refuse(from, refused.name(), None),
                }
            }
            Err(e) if is_transient(e.kind()) => {}
            Err(error) => {
                common.refusals.count_connection("no_room");
                if let Some(left_out) = common.refusals.line(Whom::Itself, Instant::now()) {
                    tracing::error!(%error, left_out, "cannot accept a connection");
                }
                sleep(PAUSE).await;
            }
        }
    }
}

impl Common {
    /// The connection, if it may be one.
    async fn shake_hands(
        &self,
        stream: TcpStream,
        from: SocketAddr,
        mut permit: AddressPermit,
    ) -> Option<Connection> {
        let Some(terms) = self.trust.terms() else {
            self.refuse(from, "no_certificate_of_ours", None);
            return None;
        };
        // Small answers go at once; where that cannot be had, they go later.
        stream.set_nodelay(true).ok();
        let shaking = TlsAcceptor::from(terms.config()).accept(stream);
        let stream = match timeout(self.bounds.first_call, shaking).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(e)) if e.kind() == ErrorKind::UnexpectedEof => {
                self.refuse(from, "handshake_broken_off", None);
                return None;
            }
            Ok(Err(e)) => {
                self.refuse(from, "handshake_failed", Some(&e.to_string()));
                return None;
            }
            Err(_) => {
                self.refuse(from, "handshake_too_slow", None);
                return None;
            }
        };
        let session = stream.get_ref().1;
        let certificate = Presented::of(session.peer_certificates());
        let certificate = certificate.map(|c| terms.judged(c, Arc::clone(&self.trust)));
        if certificate.is_some() {
            permit.known();
        }
        let caller = Caller::network(Network {
            address: from.ip().to_canonical(),
            certificate,
            tokens: self.tokens.clone(),
            used: Mutex::default(),
        });
        Some(Connection::network(stream, caller, permit, self.bounds))
    }

    fn refuse(&self, from: SocketAddr, reason: &'static str, why: Option<&str>) {
        self.refusals.count_connection(reason);
        let whom = Whom::Address(counted(from.ip()));
        if let Some(left_out) = self.refusals.line(whom, Instant::now()) {
            tracing::warn!(address = %from.ip(), reason, why, left_out, "refused a connection");
        }
    }
}
