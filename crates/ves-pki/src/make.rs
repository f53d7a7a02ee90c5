//! Keys, certificates and lists, made and signed.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::SystemTime;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevokedCertParams, SanType, SerialNumber,
};
use ves_types::{Grant, HolderName, Hostname, ParseError};

use crate::register::seconds;
use crate::{BEFORE, PkiError, days};

/// How long a list of what was revoked says that it is good: nobody makes a new one without need.
const LIST_DAYS: u32 = 3650;
/// The bytes of a serial number.
const SERIAL: usize = 16;

/// Where a server is reached: a name or an address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Host {
    /// A name.
    Name(String),
    /// An address.
    Address(IpAddr),
}

impl FromStr for Host {
    type Err = ParseError;
    fn from_str(s: &str) -> Result<Self, ParseError> {
        if let Ok(address) = s.parse() {
            return Ok(Self::Address(address));
        }
        s.parse::<Hostname>().map(|name| Self::Name(name.as_str().to_owned()))
    }
}

/// Who signs.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
}

fn made(what: &'static str) -> impl FnOnce(rcgen::Error) -> PkiError {
    move |source| PkiError::Make { what, source }
}

fn named(name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    subject
}

/// A number nobody has, of a fixed length.
pub(crate) fn serial() -> Result<[u8; SERIAL], PkiError> {
    let mut serial = [0; SERIAL];
    getrandom::fill(&mut serial).map_err(|e| PkiError::Random(e.to_string()))?;
    // Positive, and without a zero in front.
    serial[0] = (serial[0] & 0x7f) | 0x40;
    Ok(serial)
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        write!(text, "{byte:02x}").ok();
        text
    })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let bytes = (0..text.len()).step_by(2);
    bytes.map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok()).collect()
}

impl Authority {
    /// A new one, and its certificate.
    pub(crate) fn new(
        name: &HolderName,
        now: SystemTime,
        lasts: std::time::Duration,
    ) -> Result<(Self, String), PkiError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = named(&format!("Ves authority {name}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.serial_number = Some(serial()?.to_vec().into());
        params.not_before = (now - BEFORE).into();
        params.not_after = (now + lasts).into();
        let key = KeyPair::generate().map_err(made("a key"))?;
        let certificate = params.self_signed(&key).map_err(made("an authority"))?;
        Ok((Self { issuer: Issuer::new(params, key) }, certificate.pem()))
    }

    /// Of its certificate and its key.
    pub(crate) fn read(certificate: &str, key: &str) -> Result<Self, PkiError> {
        let key = KeyPair::from_pem(key).map_err(made("use of ca.key"))?;
        let issuer = Issuer::from_ca_cert_pem(certificate, key).map_err(made("use of ca.crt"))?;
        Ok(Self { issuer })
    }

    /// Its key.
    pub(crate) fn key(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// The certificate of a client, and its key.
    pub(crate) fn client(
        &self,
        name: &HolderName,
        grant: &Grant,
        serial: &[u8],
        valid: [SystemTime; 2],
    ) -> Result<(String, String), PkiError> {
        let uris = grant.uris().into_iter().map(|uri| Ok(SanType::URI(uri.try_into()?)));
        let uris = uris.collect::<Result<_, rcgen::Error>>().map_err(made("a certificate"))?;
        self.certify(name.as_str(), uris, ExtendedKeyUsagePurpose::ClientAuth, serial, valid)
    }

    /// The certificate of a server, and its key.
    pub(crate) fn server(
        &self,
        hosts: &BTreeSet<&Host>,
        valid: [SystemTime; 2],
    ) -> Result<(String, String), PkiError> {
        let hosts = hosts.iter().map(|host| match host {
            Host::Name(name) => Ok(SanType::DnsName(name.as_str().try_into()?)),
            Host::Address(address) => Ok(SanType::IpAddress(*address)),
        });
        let hosts = hosts.collect::<Result<_, rcgen::Error>>().map_err(made("a certificate"))?;
        self.certify("ves", hosts, ExtendedKeyUsagePurpose::ServerAuth, &serial()?, valid)
    }

    fn certify(
        &self,
        name: &str,
        alternatives: Vec<SanType>,
        usage: ExtendedKeyUsagePurpose,
        serial: &[u8],
        [from, to]: [SystemTime; 2],
    ) -> Result<(String, String), PkiError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = named(name);
        params.subject_alt_names = alternatives;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        params.serial_number = Some(serial.to_vec().into());
        params.use_authority_key_identifier_extension = true;
        params.not_before = from.into();
        params.not_after = to.into();
        let key = KeyPair::generate().map_err(made("a key"))?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(made("a certificate"))?;
        Ok((certificate.pem(), key.serialize_pem()))
    }

    /// The list of what was revoked.
    pub(crate) fn revoked(
        &self,
        serials: &[(&str, SystemTime)],
        now: SystemTime,
    ) -> Result<String, PkiError> {
        let revoked = serials.iter().filter_map(|(serial, when)| {
            Some(RevokedCertParams {
                serial_number: unhex(serial)?.into(),
                revocation_time: (*when).into(),
                reason_code: None,
                invalidity_date: None,
            })
        });
        let list = CertificateRevocationListParams {
            this_update: now.into(),
            next_update: (now + days(LIST_DAYS)).into(),
            crl_number: SerialNumber::from(seconds(now)),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&self.issuer).map_err(made("a list of what was revoked"))?;
        list.pem().map_err(made("a list of what was revoked"))
    }
}
