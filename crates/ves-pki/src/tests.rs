//! An authority in a directory of a test.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use tempfile::TempDir;
use ves_types::GrantRole;
use x509_parser::pem::parse_x509_pem;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::revocation_list::CertificateRevocationList;

use super::*;

fn now() -> SystemTime {
    SystemTime::now()
}

fn name(text: &str) -> HolderName {
    text.parse().expect("a name")
}

fn hosts() -> Vec<Host> {
    ["node1.example", "192.0.2.1", "2001:db8::1"].map(|h| h.parse().expect("a host")).to_vec()
}

fn made() -> (TempDir, PathBuf, Pki) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("pki");
    let pki = Pki::init(&path, &name("n1"), &hosts(), None, now()).expect("made");
    (dir, path, pki)
}

fn tenant() -> Grant {
    let projects = ["acme", "beta"].map(|p| p.parse().expect("a project"));
    Grant::new(GrantRole::Tenant, projects.into()).expect("they go together")
}

/// The serial numbers in the list of what was revoked, which the authority has signed.
fn revoked(path: &Path) -> Vec<String> {
    let ca = fs::read(path.join("ca.crt")).expect("there");
    let (_, ca) = parse_x509_pem(&ca).expect("PEM");
    let (_, ca) = X509Certificate::from_der(&ca.contents).expect("a certificate");
    let list = fs::read(path.join("crl.pem")).expect("there");
    let (_, list) = parse_x509_pem(&list).expect("PEM");
    let (_, list) = CertificateRevocationList::from_der(&list.contents).expect("a list");
    list.verify_signature(ca.public_key()).expect("signed by the authority");
    list.iter_revoked_certificates().map(|r| make::hex(r.raw_serial())).collect()
}

fn mode(path: PathBuf) -> u32 {
    fs::metadata(path).expect("there").permissions().mode() & 0o777
}

#[test]
fn what_is_issued_says_what_was_granted_and_is_in_the_register() {
    let (_dir, path, pki) = made();
    assert_eq!(pki.list().expect("read"), []);
    let issued = pki.issue(&name("panel"), &tenant(), 90, now()).expect("issued");
    let (_, pem) = parse_x509_pem(issued.certificate.as_bytes()).expect("PEM");
    let (_, leaf) = X509Certificate::from_der(&pem.contents).expect("a certificate");
    assert_eq!(make::hex(leaf.raw_serial()), issued.entry.serial);
    assert_eq!(leaf.subject().to_string(), "CN=panel");
    let (_, ca) = parse_x509_pem(issued.authority.as_bytes()).expect("PEM");
    let (_, ca) = X509Certificate::from_der(&ca.contents).expect("a certificate");
    leaf.verify_signature(Some(ca.public_key())).expect("signed by the authority");
    let usage = leaf.extended_key_usage().expect("read").expect("there").value;
    assert!(usage.client_auth && !usage.server_auth);
    assert!(!leaf.is_ca() && ca.is_ca());
    let alternatives = leaf.subject_alternative_name().expect("read").expect("there").value;
    let uris = alternatives.general_names.iter().filter_map(|name| match name {
        x509_parser::extensions::GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    assert_eq!(Grant::of_uris(uris), Ok(tenant()));
    let lasts = leaf.validity().not_after.timestamp() - leaf.validity().not_before.timestamp();
    assert_eq!(lasts, 90 * 86400 + 3600, "an hour for clocks that are behind");
    assert_eq!(pki.list().expect("read"), [issued.entry]);
    assert_eq!(revoked(&path), [""; 0]);
    for days in [0, MOST_DAYS + 1] {
        assert!(matches!(pki.issue(&name("x"), &tenant(), days, now()), Err(PkiError::Asked(_))));
    }
}

#[test]
fn keys_are_for_who_needs_them() {
    let (_dir, path, pki) = made();
    for secret in ["ca.key", "server.key", "issued.json", "lock"] {
        assert_eq!(mode(path.join(secret)), 0o600, "{secret}");
    }
    for public in ["ca.crt", "server.crt", "crl.pem"] {
        assert_eq!(mode(path.join(public)), 0o644, "{public}");
    }
    let group = rustix::process::getegid().as_raw();
    pki.renew_server(&hosts(), Some(group), now()).expect("renewed");
    assert_eq!(mode(path.join("server.key")), 0o640);
    let issued = pki.issue(&name("panel"), &tenant(), 90, now()).expect("issued");
    assert!(!format!("{issued:?}").contains("PRIVATE"));
    assert!(!fs::read_to_string(path.join("issued.json")).expect("there").contains("PRIVATE"));
}

#[test]
fn what_is_revoked_is_so_for_good() {
    let (_dir, path, pki) = made();
    let issue =
        |holder: &str| pki.issue(&name(holder), &tenant(), 90, now()).expect("issued").entry.serial;
    let (one, two, three) = (issue("panel"), issue("panel"), issue("billing"));
    assert_eq!(pki.revoke(&one, now()).expect("revoked").len(), 1);
    assert_eq!(revoked(&path), std::slice::from_ref(&one));
    let all = pki.revoke("panel", now()).expect("revoked");
    assert_eq!(all.len(), 2);
    assert_eq!(revoked(&path), [one, two]);
    // A crash after the register was written: the list is made of all of it, by asking again.
    fs::write(path.join("crl.pem"), "half").expect("written");
    pki.revoke("panel", now()).expect("again");
    assert_eq!(revoked(&path).len(), 2);
    let later = now() + days(91);
    pki.revoke(&three, later).expect("revoked");
    assert_eq!(revoked(&path), [""; 0], "what has ended needs no list");
    for unknown in ["", "nobody", "00", "panel\n"] {
        assert!(matches!(pki.revoke(unknown, now()), Err(PkiError::Asked(_))), "{unknown:?}");
    }
}

#[test]
fn there_is_one_authority_and_what_is_half_made_is_none() {
    let (_dir, path, _pki) = made();
    let ca = fs::read(path.join("ca.crt")).expect("there");
    let again = Pki::init(&path, &name("n1"), &hosts(), None, now());
    assert!(matches!(again, Err(PkiError::Exists(_))), "{again:?}");
    assert_eq!(fs::read(path.join("ca.crt")).expect("there"), ca);
    assert!(matches!(Pki::open(&path.join("none")), Err(PkiError::Absent(_))));
    let empty = path.join("empty");
    assert!(matches!(Pki::init(&empty, &name("n1"), &[], None, now()), Err(PkiError::Asked(_))));
    assert!(matches!(Pki::open(&empty), Err(PkiError::Absent(_))));
    Pki::init(&empty, &name("n1"), &hosts(), None, now())
        .expect("what was half made is no obstacle");
    fs::remove_file(path.join("ca.key")).expect("taken to a safe place");
    let kept = Pki::open(&path).expect("there is one");
    kept.list().expect("which says what it issued");
    assert!(kept.revoke("panel", now()).is_err(), "and signs nothing");
    assert!(Pki::init(&path, &name("n1"), &hosts(), None, now()).is_err());
}

#[test]
fn what_is_not_ours_is_left_alone() {
    let (dir, path, pki) = made();
    let elsewhere = dir.path().join("elsewhere");
    fs::write(&elsewhere, "precious").expect("written");
    for file in ["crl.pem", "issued.json", "crl.pem.new"] {
        let whole = fs::read(path.join(file)).ok();
        fs::remove_file(path.join(file)).ok();
        symlink(&elsewhere, path.join(file)).expect("linked");
        pki.issue(&name("panel"), &tenant(), 9, now()).ok();
        let refused = pki.revoke("panel", now());
        assert!(refused.is_err(), "{file}");
        assert_eq!(fs::read_to_string(&elsewhere).expect("there"), "precious", "{file}");
        fs::remove_file(path.join(file)).expect("the link is still there");
        if let Some(whole) = whole {
            fs::write(path.join(file), whole).expect("written");
        }
    }
    for bits in [0o777, 0o775] {
        fs::set_permissions(&path, fs::Permissions::from_mode(bits)).expect("set");
        assert!(matches!(Pki::open(&path), Err(PkiError::Foreign { .. })), "{bits:o}");
    }
    let link = dir.path().join("link");
    symlink(&path, &link).expect("linked");
    assert!(matches!(Pki::open(&link), Err(PkiError::Foreign { .. })));
    assert!(matches!(Pki::open(&elsewhere), Err(PkiError::Foreign { .. })));
}

#[test]
fn a_register_that_is_not_understood_is_named() {
    let (_dir, path, pki) = made();
    for bad in ["", "{}", r#"{"version":2,"issued":[]}"#, r#"{"version":1,"issued":[{}]}"#] {
        fs::write(path.join("issued.json"), bad).expect("written");
        let errors = [pki.list().err(), pki.issue(&name("x"), &tenant(), 9, now()).err()];
        for error in errors {
            assert!(matches!(error, Some(PkiError::Register { .. })), "{bad}: {error:?}");
        }
    }
}

#[test]
fn what_is_written_out_replaces_nothing() {
    let (dir, _path, pki) = made();
    let out = dir.path().join("out");
    let issued = pki.issue(&name("panel"), &tenant(), 90, now()).expect("issued");
    let files = write_out(&issued, &out).expect("written");
    let text = files.map(|file| fs::read_to_string(file).expect("there"));
    assert_eq!(text, [&*issued.certificate, &*issued.key, &*issued.authority]);
    assert_eq!(mode(out.join("panel.key")), 0o600);
    let second = pki.issue(&name("panel"), &tenant(), 90, now()).expect("issued");
    assert!(write_out(&second, &out).is_err(), "they are there");
    assert_eq!(fs::read_to_string(out.join("panel.key")).expect("there"), issued.key);
    let other = pki.issue(&name("other"), &tenant(), 90, now()).expect("issued");
    write_out(&other, &out).expect("beside it, with the same authority");
    fs::write(out.join("ca.crt"), "another's").expect("written");
    let third = pki.issue(&name("third"), &tenant(), 90, now()).expect("issued");
    assert!(write_out(&third, &out).is_err());
    assert!(!out.join("third.crt").exists() && !out.join("third.key").exists());
}

#[test]
fn hosts_are_names_or_addresses() {
    assert_eq!("::1".parse(), Ok(Host::Address(std::net::Ipv6Addr::LOCALHOST.into())));
    assert_eq!("n1.example".parse(), Ok(Host::Name("n1.example".to_owned())));
    for bad in ["", "a b", "-a", "https://n1", "n1:7443", "*.example"] {
        assert!(bad.parse::<Host>().is_err(), "{bad:?}");
    }
}
