//! What a client's certificate says: whose it is, what it grants, and until when.
//!
//! The handshake has proven by then that our authority made it and that the client has its key. Never here:
//! that.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::CertificateDer;
use ves_proto::{Fault, Reason};
use ves_types::Grant;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::principal::{Identity, Principal};

/// A certificate that a client has shown.
#[derive(Debug, Clone)]
pub(crate) struct Presented {
    /// It, and what it is certified by.
    pub(super) chain: Vec<CertificateDer<'static>>,
    /// When it ends.
    pub(super) ends: SystemTime,
    /// Who has it; or why nobody can be told by it.
    pub(crate) holder: Result<Principal, Fault>,
}

impl Presented {
    /// What a client has shown; `None` where that was nothing.
    pub(crate) fn of(chain: Option<&[CertificateDer<'_>]>) -> Option<Self> {
        let chain: Vec<_> = chain?.iter().map(|c| c.clone().into_owned()).collect();
        let (holder, ends) = match chain.first().map(|leaf| X509Certificate::from_der(leaf)) {
            Some(Ok((_, leaf))) => (holder(&leaf), end_of(&leaf)),
            Some(Err(e)) => (Err(refused(&e.to_string())), UNIX_EPOCH),
            None => return None,
        };
        Some(Self { holder, ends, chain })
    }
}

/// When a certificate ends.
pub(super) fn end_of(certificate: &X509Certificate<'_>) -> SystemTime {
    let seconds = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0);
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn holder(certificate: &X509Certificate<'_>) -> Result<Principal, Fault> {
    let names: Vec<&str> =
        certificate.subject().iter_common_name().filter_map(|cn| cn.as_str().ok()).collect();
    let [name] = names.as_slice() else {
        return Err(refused("its subject has not one common name"));
    };
    let name = name.parse().map_err(|e| refused(&format!("its common name: {e}")))?;
    let alternatives = certificate
        .subject_alternative_name()
        .map_err(|e| refused(&e.to_string()))?
        .map(|extension| extension.value.general_names.as_slice())
        .unwrap_or_default();
    let uris = alternatives.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    let grant = Grant::of_uris(uris).map_err(|e| refused(&e.to_string()))?;
    let serial = hex(certificate.raw_serial());
    Ok(Principal::granted(Identity::Certificate { name, serial: serial.into() }, &grant))
}

fn refused(why: &str) -> Fault {
    let message = format!(
        "the client's certificate does not say who may do what: {why}; use one that \
         `virtctl node cert issue` made"
    );
    Fault::new(Reason::Unauthenticated, message).fact("why", "certificate")
}

/// A serial number as it is told.
pub(super) fn hex(serial: &[u8]) -> String {
    serial.iter().map(|byte| format!("{byte:02x}")).collect()
}
