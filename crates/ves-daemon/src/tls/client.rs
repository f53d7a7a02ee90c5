//! The client's side: a coordinator that is reached by the network.
//!
//! Never here: what is asked of it.

use std::io::{Error, ErrorKind};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Uri};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::files::{PkiError, certificates, content, read};
use super::{HTTP_2, provider};

/// How long a connection may take until it is there.
const PATIENCE: Duration = Duration::from_secs(10);
/// The port of a coordinator.
const PORT: u16 = 7443;

/// A coordinator in the network, and as whom it is asked.
#[derive(Clone)]
pub struct Remote {
    host: String,
    port: u16,
    name: ServerName<'static>,
    config: Arc<ClientConfig>,
    token: Option<HeaderValue>,
}

impl std::fmt::Debug for Remote {
    /// Without the secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Remote").field("host", &self.host).field("port", &self.port).finish()
    }
}

/// Why a coordinator in the network cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// Its address is none.
    #[error("the endpoint {0:?} must be https://HOST or https://HOST:PORT")]
    Endpoint(String),
    /// A file is no good.
    #[error(transparent)]
    File(#[from] FileError),
    /// The token is none.
    #[error("a token is one line of printable letters")]
    Token,
}

/// A file of certificates or keys that is no good.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct FileError(PkiError);

impl From<PkiError> for RemoteError {
    fn from(error: PkiError) -> Self {
        Self::File(FileError(error))
    }
}

impl Remote {
    /// The coordinator at `endpoint` whose certificate is of the authority in the file `ca`; asked with the
    /// certificate and the key in two files, or with a token.
    pub fn new(
        endpoint: &str,
        ca: &Path,
        certificate: Option<(&Path, &Path)>,
        token: Option<&str>,
    ) -> Result<Self, RemoteError> {
        let (host, port) = parse(endpoint)?;
        let bad = || RemoteError::Endpoint(endpoint.chars().take(200).collect());
        let name = ServerName::try_from(host.clone()).map_err(|_| bad())?;
        let mut roots = RootCertStore::empty();
        for authority in certificates(ca)? {
            roots.add(authority).map_err(|e| content(ca, &e))?;
        }
        let config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|e| content(ca, &e))?
            .with_root_certificates(roots);
        let mut config = match certificate {
            Some((certificate, key)) => {
                let chain = certificates(certificate)?;
                let pair =
                    PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|e| content(key, &e))?;
                config.with_client_auth_cert(chain, pair).map_err(|e| content(certificate, &e))?
            }
            None => config.with_no_client_auth(),
        };
        config.alpn_protocols = vec![HTTP_2.to_vec()];
        let token = token.map(|token| {
            let mut value =
                HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| RemoteError::Token)?;
            value.set_sensitive(true);
            Ok::<_, RemoteError>(value)
        });
        let (config, token) = (Arc::new(config), token.transpose()?);
        Ok(Self { host, port, name, config, token })
    }

    /// Its address, as it was meant.
    pub fn endpoint(&self) -> String {
        if self.host.contains(':') {
            format!("https://[{}]:{}", self.host, self.port)
        } else {
            format!("https://{}:{}", self.host, self.port)
        }
    }

    /// What goes with each call.
    pub(crate) const fn authorization(&self) -> Option<&HeaderValue> {
        self.token.as_ref()
    }

    /// Connects.
    pub async fn connect(&self) -> Result<TlsStream<TcpStream>, Error> {
        let connecting = async {
            let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
            stream.set_nodelay(true)?;
            TlsConnector::from(Arc::clone(&self.config)).connect(self.name.clone(), stream).await
        };
        let late = || Error::new(ErrorKind::TimedOut, "it did not answer within 10 s");
        let stream = timeout(PATIENCE, connecting).await.map_err(|_| late())??;
        if stream.get_ref().1.alpn_protocol() != Some(HTTP_2) {
            return Err(Error::new(ErrorKind::InvalidData, "it does not speak HTTP/2"));
        }
        Ok(stream)
    }

    /// Shakes hands over a connection, asking for other protocols.
    #[cfg(test)]
    pub(crate) async fn connect_with(
        &self,
        stream: TcpStream,
        protocols: Vec<Vec<u8>>,
    ) -> Result<TlsStream<TcpStream>, Error> {
        let mut config = ClientConfig::clone(&self.config);
        config.alpn_protocols = protocols;
        TlsConnector::from(Arc::new(config)).connect(self.name.clone(), stream).await
    }
}

/// Host and port of an endpoint, a host of digits and colons without its brackets.
fn parse(endpoint: &str) -> Result<(String, u16), RemoteError> {
    let bad = || RemoteError::Endpoint(endpoint.chars().take(200).collect());
    let uri: Uri = endpoint.parse().map_err(|_| bad())?;
    let parts = uri.into_parts();
    let plain = parts.path_and_query.is_none_or(|path| path == "/");
    let authority =
        parts.authority.filter(|a| plain && !a.as_str().contains('@')).ok_or_else(bad)?;
    if parts.scheme != Some(http::uri::Scheme::HTTPS) || authority.host().is_empty() {
        return Err(bad());
    }
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let port = match authority.as_str().strip_prefix(authority.host()) {
        Some("") => PORT,
        _ => authority.port_u16().filter(|port| *port > 0).ok_or_else(bad)?,
    };
    Ok((host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints() {
        let of = |endpoint: &str| parse(endpoint).ok();
        let is = |host: &str, port| Some((host.to_owned(), port));
        assert_eq!(of("https://node1.example"), is("node1.example", 7443));
        assert_eq!(of("https://node1.example:443/"), is("node1.example", 443));
        assert_eq!(of("https://[2001:db8::1]:7443"), is("2001:db8::1", 7443));
        assert_eq!(of("https://192.0.2.1"), is("192.0.2.1", 7443));
        for bad in [
            "",
            "node1",
            "http://node1",
            "https://",
            "https://a@node1",
            "https://node1/x",
            "https://node1:",
            "https://node1:99999",
            "https://no de",
        ] {
            assert_eq!(of(bad), None, "{bad:?}");
        }
    }
}
