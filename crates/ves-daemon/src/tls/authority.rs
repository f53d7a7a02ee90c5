//! A certification authority for tests.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevokedCertParams, SanType, SerialNumber,
};
use tempfile::TempDir;
use ves_types::{Grant, GrantRole};

/// A certification authority with its files.
pub(crate) struct Authority {
    pub(crate) dir: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

/// A new one, which has revoked nothing, and its server's certificate.
pub(crate) fn authority() -> Authority {
    let dir = tempfile::tempdir().expect("a directory");
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name.push(DnType::CommonName, "authority");
    let key = KeyPair::generate().expect("a key");
    let ca = params.self_signed(&key).expect("signed");
    fs::write(dir.path().join("ca.crt"), ca.pem()).expect("written");
    let own = Authority { dir, issuer: Issuer::new(params, key) };
    own.revoke(&[]);
    own.server([-1, 90]);
    own
}

impl Authority {
    /// One of its files.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn issue(&self, name: &str, params: &CertificateParams) {
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("signed");
        fs::write(self.path(&format!("{name}.crt")), certificate.pem()).expect("written");
        fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).expect("written");
    }

    /// The server's certificate, from and until so many days from now.
    pub(crate) fn server(&self, days: [i64; 2]) {
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut params = CertificateParams::new(names).expect("names");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        [params.not_before, params.not_after] = days.map(|days| day(days).into());
        self.issue("server", &params);
    }

    /// A client's certificate that says this, from and until so many days from now.
    pub(crate) fn client(&self, name: &str, serial: u64, uris: &[String], days: [i64; 2]) {
        let mut params = CertificateParams::default();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.distinguished_name.push(DnType::CommonName, name);
        params.serial_number = Some(serial.into());
        let uri = |uri: &String| SanType::URI(uri.as_str().try_into().expect("a URI"));
        params.subject_alt_names = uris.iter().map(uri).collect();
        [params.not_before, params.not_after] = days.map(|days| day(days).into());
        self.issue(name, &params);
    }

    /// The certificate of an operator.
    pub(crate) fn operator(&self, name: &str, serial: u64) {
        self.client(name, serial, &grant().uris(), [-1, 1]);
    }

    /// Lets these be what was revoked.
    pub(crate) fn revoke(&self, serials: &[u64]) {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: (*serial).into(),
            revocation_time: day(-1).into(),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: day(-1).into(),
            next_update: day(-1).into(),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&self.issuer).expect("signed").pem().expect("written");
        fs::write(self.path("crl.pem"), list).expect("written");
    }
}

/// So many days from now.
pub(crate) fn day(days: i64) -> SystemTime {
    let time = Duration::from_secs(days.unsigned_abs() * 86400);
    if days < 0 { SystemTime::now() - time } else { SystemTime::now() + time }
}

/// What its operators have.
pub(crate) fn grant() -> Grant {
    Grant::new(GrantRole::Operator, [].into()).expect("they go together")
}
