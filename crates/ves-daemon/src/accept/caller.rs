//! Whose a connection is, and whose each call on it.
//!
//! An account of this machine and the holder of a certificate are known before the first call; the holder of a
//! token is by what each call brings. Never here: what a call may do.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::HeaderMap;
use ves_proto::{Fault, Reason};

use super::permits::Permits;
use crate::principal::{Identity, Principal, Role};
use crate::tls::Judged;
use crate::token::{self, Tokens};

/// The most tokens of one connection.
const TOKENS: usize = 16;
/// How long a call from the network waits for its answer that nobody is known to have made.
const UNKNOWN_WAITS: Duration = Duration::from_millis(200);
/// For whom a caller calls.
const BEHALF: &str = "ves-on-behalf-of";

/// Whose a connection is; the gate finds it in each request.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    from: Origin,
    has_called: Arc<AtomicBool>,
}

/// How it came.
#[derive(Debug, Clone)]
enum Origin {
    /// By a unix socket, or from within; the pace of strangers is kept by `permits`.
    Here { principal: Principal, permits: Option<Arc<Permits>> },
    /// By the network.
    Network(Arc<Network>),
}

/// A connection from the network.
#[derive(Debug)]
pub(crate) struct Network {
    /// Where it comes from.
    pub(crate) address: IpAddr,
    /// What it has shown.
    pub(crate) certificate: Option<Judged>,
    /// Who knows tokens, where they count.
    pub(crate) tokens: Option<Arc<dyn Tokens>>,
    /// The ids of those that came by it.
    pub(crate) used: Mutex<BTreeSet<Arc<str>>>,
}

impl Network {
    /// Whether everybody that called here may still do so.
    pub(crate) fn check(&self) -> Result<(), Fault> {
        if let Some(certificate) = &self.certificate {
            certificate.check()?;
        }
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = |id: &Arc<str>| self.tokens.as_ref().is_some_and(|tokens| tokens.counts(id));
        if used.iter().all(counts) {
            return Ok(());
        }
        Err(token::refused("revoked", "the token has expired or was revoked"))
    }

    fn principal(&self, token: Option<&str>) -> Result<Principal, Fault> {
        match (&self.certificate, &self.tokens, token) {
            (Some(_), _, Some(_)) => {
                let message = "a certificate and a token came together; bring one of them";
                Err(token::refused("both", message))
            }
            (Some(certificate), _, None) => {
                certificate.check()?;
                certificate.presented().holder.clone()
            }
            (None, Some(tokens), Some(token)) => {
                let principal = tokens.holder(token)?;
                if let Identity::Token { id, .. } = &principal.identity {
                    let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
                    if !used.contains(id) && used.len() >= TOKENS {
                        let message = "a connection has 16 tokens at most; make another one";
                        return Err(Fault::new(Reason::TooMany, message).fact("limit", TOKENS));
                    }
                    used.insert(Arc::clone(id));
                }
                Ok(principal)
            }
            (None, _, None) => {
                let message = "who calls from the network shows a certificate, or brings a token \
                               as `authorization: Bearer TOKEN` where the node lets tokens count";
                Err(token::refused("none", message))
            }
            (None, None, Some(_)) => {
                Err(token::refused("unknown", "this node lets no token count; show a certificate"))
            }
        }
    }
}

impl Caller {
    /// An account that the kernel told us of.
    pub(super) fn account(principal: Principal, permits: Arc<Permits>) -> Self {
        Self::new(Origin::Here { principal, permits: Some(permits) })
    }

    /// Of a connection from the network.
    pub(super) fn network(network: Network) -> Self {
        Self::new(Origin::Network(Arc::new(network)))
    }

    fn new(from: Origin) -> Self {
        Self { from, has_called: Arc::default() }
    }

    /// Of a call that is made in this very process.
    pub(crate) fn within() -> Self {
        let uid = nix::unistd::geteuid().as_raw();
        let pid = Some(nix::unistd::getpid().as_raw());
        let principal = Principal::unix(uid, pid, Role::Own);
        Self::new(Origin::Here { principal, permits: None })
    }

    /// Of a request that came no known way.
    pub(crate) fn nobody() -> Self {
        Self::new(Origin::Here { principal: Principal::nobody(), permits: None })
    }

    /// Notes that something came, of whoever it is.
    pub(crate) fn note_call(&self) {
        self.has_called.store(true, Ordering::Relaxed);
    }

    /// Notes that a request arrived, and tells whose it is and how long its answer waits, which only a
    /// stranger's does.
    pub(crate) fn calls(&self, headers: &HeaderMap) -> (Result<Principal, Fault>, Duration) {
        let behalf = headers.get(BEHALF).map(http::HeaderValue::as_bytes);
        match &self.from {
            Origin::Here { principal, permits } => {
                self.note_call();
                let wait = match (permits, principal.uid()) {
                    (Some(permits), Some(uid)) if principal.role == Role::Other => {
                        permits.call(uid, Instant::now())
                    }
                    _ => Duration::ZERO,
                };
                let principal = match token::bearer(headers) {
                    Ok(None) => principal.clone().for_somebody(behalf),
                    Ok(Some(_)) | Err(_) => Err(token::refused(
                        "both",
                        "accounts of this machine are known without a token; leave it out",
                    )),
                };
                (principal, wait)
            }
            Origin::Network(network) => {
                let principal = token::bearer(headers).and_then(|token| network.principal(token));
                let wait = match &principal {
                    Ok(_) => Duration::ZERO,
                    Err(_) => UNKNOWN_WAITS,
                };
                if principal.is_ok() {
                    self.note_call();
                }
                (principal.and_then(|principal| principal.for_somebody(behalf)), wait)
            }
        }
    }

    /// Whether it has called, as somebody we know where it came by the network.
    pub(super) fn has_called(&self) -> bool {
        self.has_called.load(Ordering::Relaxed)
    }

    /// Whether it is bounded as strangers are, for good.
    pub(super) fn is_stranger(&self) -> bool {
        match &self.from {
            Origin::Here { principal, .. } => principal.role == Role::Other,
            Origin::Network(_) => false,
        }
    }

    /// Whether it is bounded so until it has called.
    pub(super) fn is_unknown(&self) -> bool {
        match &self.from {
            Origin::Here { .. } => false,
            Origin::Network(network) => network.certificate.is_none(),
        }
    }

    /// Refuses a connection on which somebody called that may not any more.
    pub(super) fn check(&self) -> Result<(), Fault> {
        match &self.from {
            Origin::Here { .. } => Ok(()),
            Origin::Network(network) => network.check(),
        }
    }

    /// Whether that has to be looked at again and again.
    pub(super) fn is_checked(&self) -> bool {
        matches!(self.from, Origin::Network(_))
    }

    /// The account, of one on this machine.
    pub(crate) fn uid(&self) -> Option<u32> {
        match &self.from {
            Origin::Here { principal, .. } => Some(principal.uid().unwrap_or(u32::MAX)),
            Origin::Network(_) => None,
        }
    }

    /// Where it comes from, if from the network.
    pub(crate) fn address(&self) -> Option<IpAddr> {
        match &self.from {
            Origin::Here { .. } => None,
            Origin::Network(network) => Some(network.address),
        }
    }
}
