//! The files of the public key infrastructure, read and made into what a TLS server needs.
//!
//! What is too large, unreadable or does not fit together is an error that names the file; a directory without
//! a list of what was revoked is one too. Never here: when they are read.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::revocation_list::CertificateRevocationList;

use super::certificate::{end_of, hex};
use super::{HTTP_1, HTTP_2, provider};

/// The most bytes of a file; a list of revoked certificates has some 40 each.
const MOST: u64 = 4 << 20;

/// What a server needs of the files.
pub(super) struct Loaded {
    /// How connections are begun.
    pub(super) config: Arc<ServerConfig>,
    /// Who judges clients' certificates.
    pub(super) verifier: Arc<dyn ClientCertVerifier>,
    /// When our own certificates end, by their files' names.
    pub(super) ends: [(&'static str, SystemTime); 2],
    /// The serial numbers of what is revoked, in hexadecimal.
    pub(super) revoked: BTreeSet<String>,
}

impl std::fmt::Debug for Loaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loaded").field("ends", &self.ends).finish_non_exhaustive()
    }
}

/// What is wrong with the files.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PkiError {
    /// One cannot be read.
    #[error("read {}; `virtctl node init-ca` makes it", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
    /// One is not what it should be.
    #[error("{}: {why}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// They do not go together.
    #[error("the files in {} do not go together", dir.display())]
    Together {
        /// Their directory.
        dir: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
}

/// The names of the files, in the order in which they are read.
pub(super) const FILES: [&str; 4] = ["ca.crt", "crl.pem", "server.crt", "server.key"];

/// Reads all of `dir`. Where `tokens` count, a client need not have a certificate.
pub(super) fn load(dir: &Path, tokens: bool) -> Result<Loaded, PkiError> {
    let [ca, crl, server, key] = FILES.map(|name| dir.join(name));
    let authorities = certificates(&ca)?;
    let mut roots = RootCertStore::empty();
    for authority in &authorities {
        roots.add(authority.clone()).map_err(|e| content(&ca, &e))?;
    }
    let lists = items::<CertificateRevocationListDer<'static>>(&crl, "list of what was revoked")?;
    let revoked = revoked(&crl, &lists)?;
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
        .with_crls(lists)
        .only_check_end_entity_revocation();
    let builder = if tokens { builder.allow_unauthenticated() } else { builder };
    let verifier = builder.build().map_err(|e| content(&crl, &e))?;
    let chain = certificates(&server)?;
    let ends = [("ca", end(&ca, &authorities)?), ("server", end(&server, &chain)?)];
    let key = PrivateKeyDer::from_pem_slice(&read(&key)?).map_err(|e| content(&key, &e))?;
    let together = |source| PkiError::Together { dir: dir.to_owned(), source };
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(together)?
        .with_client_cert_verifier(Arc::clone(&verifier))
        .with_single_cert(chain, key)
        .map_err(together)?;
    config.alpn_protocols = vec![HTTP_2.to_vec(), HTTP_1.to_vec()];
    // A session that goes on would not be asked for its certificate again.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Loaded { config: Arc::new(config), verifier, ends, revoked })
}

/// The serial numbers in these lists. Two that name the same authority are refused: only the first of them would be
/// looked at, and what the second one revokes would not be revoked.
fn revoked(
    path: &Path,
    lists: &[CertificateRevocationListDer<'_>],
) -> Result<BTreeSet<String>, PkiError> {
    let (mut serials, mut issuers) = (BTreeSet::new(), BTreeSet::new());
    for der in lists {
        let list = CertificateRevocationList::from_der(der);
        let (_, list) = list.map_err(|e| content(path, &e))?;
        if !issuers.insert(list.issuer().as_raw().to_vec()) {
            let why = format!(
                "two lists are of {}; keep the newest, and give another authority another name",
                list.issuer()
            );
            return Err(content(path, &why));
        }
        serials.extend(list.iter_revoked_certificates().map(|entry| hex(entry.raw_serial())));
    }
    Ok(serials)
}

/// The first of these that ends.
fn end(path: &Path, certificates: &[CertificateDer<'_>]) -> Result<SystemTime, PkiError> {
    let ends = certificates.iter().map(|der| match X509Certificate::from_der(der) {
        Ok((_, certificate)) => Ok(end_of(&certificate)),
        Err(e) => Err(content(path, &e)),
    });
    let ends = ends.collect::<Result<Vec<_>, _>>()?;
    ends.into_iter().min().ok_or_else(|| content(path, &"it holds no certificate"))
}

pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, PkiError> {
    items(path, "certificate")
}

fn items<T: PemObject>(path: &Path, what: &str) -> Result<Vec<T>, PkiError> {
    let text = read(path)?;
    let items: Result<Vec<T>, _> = T::pem_slice_iter(&text).collect();
    let items = items.map_err(|e| content(path, &e))?;
    if items.is_empty() {
        return Err(content(path, &format!("it holds no {what}")));
    }
    Ok(items)
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, PkiError> {
    let failed = |source| PkiError::Read { path: path.to_owned(), source };
    let mut text = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(MOST + 1).read_to_end(&mut text).map_err(failed)?;
    if text.len() as u64 > MOST {
        return Err(content(path, &"it has more than 4 MiB"));
    }
    Ok(text)
}

pub(super) fn content(path: &Path, why: &dyn std::fmt::Display) -> PkiError {
    PkiError::Content { path: path.to_owned(), why: why.to_string() }
}
