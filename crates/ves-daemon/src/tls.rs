//! TLS of the public API: version 1.3 alone, the server's certificate and those of clients, each of our own
//! certification authority.
//!
//! ```text
//! /etc/ves/pki   ca.crt      whom clients must be certified by; several while one is replaced
//!                crl.pem     what that authority revoked
//!                server.crt  what clients are shown, with its key server.key
//! ```
//!
//! The files are made elsewhere, by who may read the authority's key, and followed here: what is revoked is so
//! within seconds, on connections that there are too. Never here: sockets, or what a caller may.

#[cfg(test)]
pub(crate) mod authority;
mod certificate;
mod client;
mod files;
mod trust;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::SystemTime;

use serde::Deserialize;

pub(crate) use certificate::Presented;
pub use client::{FileError, Remote, RemoteError};
pub(crate) use trust::{Judged, Trust, follow};

/// The application protocol of gRPC.
const HTTP_2: &[u8] = b"h2";
/// That of JSON, for clients that have no other.
const HTTP_1: &[u8] = b"http/1.1";

/// Where the files are by default.
const PKI: &str = "/etc/ves/pki";

/// How the public API is served to the network.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listen {
    /// Where, such as `0.0.0.0:7443` or `[2001:db8::1]:7443`.
    pub tcp: Vec<SocketAddr>,
    /// The directory with `ca.crt`, `crl.pem`, `server.crt` and `server.key`.
    #[serde(default = "pki")]
    pub pki: PathBuf,
    /// Whether a client without a certificate is served too that brings a token.
    #[serde(default)]
    pub tokens: bool,
}

fn pki() -> PathBuf {
    PathBuf::from(PKI)
}

impl Listen {
    /// Checks what types cannot say.
    pub fn validate(&self) -> Result<(), String> {
        match self.tcp.len() {
            0 => return Err("listen.tcp must name an address, such as \"0.0.0.0:7443\"".to_owned()),
            1..=16 => {}
            _ => return Err("listen.tcp must name 16 addresses at most".to_owned()),
        }
        if let Some(none) = self.tcp.iter().find(|address| address.port() == 0) {
            return Err(format!("listen.tcp {none} must have a port"));
        }
        if !self.pki.is_absolute() {
            return Err(format!("listen.pki {} must begin with /", self.pki.display()));
        }
        Ok(())
    }
}

/// Who is told of the certificates that the network is served with. What is told may block.
pub trait Certificates: std::fmt::Debug + Send + Sync {
    /// When each ends: `ca`, `server`. Told every few seconds.
    fn end(&self, ends: &[(&'static str, SystemTime)]);

    /// The serial numbers, in hexadecimal, of all certificates of clients that are revoked. Told when the files are
    /// read, and again while the answer is false.
    fn are_revoked(&self, serials: &BTreeSet<String>) -> bool;
}

/// The one provider of cryptography.
fn provider() -> std::sync::Arc<rustls::crypto::CryptoProvider> {
    std::sync::Arc::new(rustls::crypto::ring::default_provider())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_to_listen() {
        let of = |text: &str| {
            let listen = toml::from_str::<Listen>(text).map_err(|e| e.to_string())?;
            listen.validate().map(|()| listen)
        };
        let listen = of("tcp = ['0.0.0.0:7443', '[::1]:7443']").expect("valid");
        assert_eq!((listen.pki.as_path(), listen.tokens), (std::path::Path::new(PKI), false));
        for bad in [
            "",
            "tcp = []",
            "tcp = ['0.0.0.0']",
            "tcp = ['node:7443']",
            "tcp = ['0.0.0.0:0']",
            "tcp = ['0.0.0.0:7443']\npki = 'pki'",
            "tcp = ['0.0.0.0:7443']\ntoken = true",
        ] {
            assert!(of(bad).is_err(), "{bad:?}");
        }
    }
}
