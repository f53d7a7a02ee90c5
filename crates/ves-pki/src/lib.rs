//! The certification authority of the public API: one directory of files, made and changed by who owns it.
//!
//! ```text
//! ca.key       the authority's key, for nobody else          issued.json  what it issued, and what of that it revoked
//! ca.crt       its certificate, for clients and servers      crl.pem      the same of what was revoked, signed
//! server.crt   what clients are shown, with server.key       lock         held while anything is changed
//! ```
//!
//! A certificate is in the register before anybody has it, and is revoked in the register before it is in the
//! signed list, which is always made of the whole register: a crash between is mended by asking again. Files are
//! written beside their names and renamed when they are whole. Never here: who is served, or clocks.

#![warn(missing_docs)]

mod files;
mod make;
mod register;

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use ves_types::{Grant, HolderName};

use files::{Dir, Mode};
use make::Authority;
pub use make::Host;
pub use register::Entry;
use register::{Register, seconds};

/// How long the authority lasts.
const AUTHORITY_DAYS: u32 = 3650;
/// The most days of a certificate.
pub const MOST_DAYS: u32 = 3650;
/// How long before now certificates begin to count, for clocks that are behind.
const BEFORE: Duration = Duration::from_secs(60 * 60);

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file could not be read or written.
    #[error("{what} {}", path.display())]
    File {
        /// What was attempted.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// What is there is not as it must be, and was left alone.
    #[error("{} {why}", path.display())]
    Foreign {
        /// Where.
        path: PathBuf,
        /// What is the matter, and what would be right.
        why: &'static str,
    },
    /// There is an authority already.
    #[error("there is an authority in {} already; nothing was changed", .0.display())]
    Exists(PathBuf),
    /// There is none.
    #[error("there is no authority in {}", .0.display())]
    Absent(PathBuf),
    /// The register cannot be read.
    #[error("{} cannot be read: {why}", path.display())]
    Register {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// A certificate, a list or a key could not be made.
    #[error("make {what}")]
    Make {
        /// What.
        what: &'static str,
        /// Why not.
        #[source]
        source: rcgen::Error,
    },
    /// There is no randomness.
    #[error("the kernel gives no random bytes: {0}")]
    Random(String),
    /// What was asked for cannot be.
    #[error("{0}")]
    Asked(String),
}

impl PkiError {
    pub(crate) fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { what, path, source }
    }
}

/// A certificate that was issued, with its key. Whoever has both is who it was issued to.
pub struct Issued {
    /// What the register says of it.
    pub entry: Entry,
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
    /// The authority's certificate.
    pub authority: String,
}

impl std::fmt::Debug for Issued {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issued").field("entry", &self.entry).finish_non_exhaustive()
    }
}

/// An authority.
#[derive(Debug)]
pub struct Pki {
    dir: Dir,
}

impl Pki {
    /// Makes an authority called `name` in `dir`, which is made if it is not there, and the certificate of a
    /// server that is reached at `hosts`. `group`: who may read the server's key beside the owner.
    pub fn init(
        dir: &Path,
        name: &HolderName,
        hosts: &[Host],
        group: Option<u32>,
        now: SystemTime,
    ) -> Result<Self, PkiError> {
        let dir = Dir::make(dir)?;
        let _lock = dir.lock()?;
        if dir.has("ca.crt")? {
            return Err(PkiError::Exists(dir.path().to_owned()));
        }
        let (authority, certificate) = Authority::new(name, now, days(AUTHORITY_DAYS))?;
        let own = Self { dir };
        own.dir.write("ca.key", &authority.key(), Mode::Own)?;
        own.store(&Register::default(), &authority, now)?;
        own.server(&authority, hosts, group, MOST_SERVER_DAYS, now)?;
        // Comes last: without it there is no authority, and all is made anew.
        own.dir.write("ca.crt", &certificate, Mode::Public)?;
        Ok(own)
    }

    /// The authority in `dir`.
    pub fn open(dir: &Path) -> Result<Self, PkiError> {
        let absent = || PkiError::Absent(dir.to_owned());
        let own = match Dir::open(dir) {
            Ok(dir) => Self { dir },
            Err(PkiError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Err(absent());
            }
            Err(e) => return Err(e),
        };
        if own.dir.has("ca.crt")? { Ok(own) } else { Err(absent()) }
    }

    /// Makes the certificate of the server anew.
    pub fn renew_server(
        &self,
        hosts: &[Host],
        group: Option<u32>,
        now: SystemTime,
    ) -> Result<(), PkiError> {
        let _lock = self.dir.lock()?;
        self.server(&self.authority()?, hosts, group, MOST_SERVER_DAYS, now)
    }

    /// Issues a certificate.
    pub fn issue(
        &self,
        name: &HolderName,
        grant: &Grant,
        valid_days: u32,
        now: SystemTime,
    ) -> Result<Issued, PkiError> {
        if !(1..=MOST_DAYS).contains(&valid_days) {
            return Err(PkiError::Asked(format!("days must be from 1 to {MOST_DAYS}")));
        }
        let _lock = self.dir.lock()?;
        let authority = self.authority()?;
        let ends = now + days(valid_days);
        let serial = make::serial()?;
        let entry = Entry {
            serial: make::hex(&serial),
            name: name.clone(),
            grant: grant.clone(),
            issued: seconds(now),
            ends: seconds(ends),
            revoked: None,
        };
        let (certificate, key) = authority.client(name, grant, &serial, [now - BEFORE, ends])?;
        let mut register = self.register()?;
        register.issued.push(entry.clone());
        self.write_register(&register)?;
        Ok(Issued { entry, certificate, key, authority: self.dir.read("ca.crt")? })
    }

    /// Revokes what `which` names: one certificate by its serial number, or all of a holder. Answers with those;
    /// what was revoked before stays so.
    pub fn revoke(&self, which: &str, now: SystemTime) -> Result<Vec<Entry>, PkiError> {
        let _lock = self.dir.lock()?;
        let authority = self.authority()?;
        let mut register = self.register()?;
        let revoked = register.revoke(which, now);
        if revoked.is_empty() {
            let which: String = which.chars().take(80).collect();
            let message = format!("no certificate has the serial number or the holder {which:?}");
            return Err(PkiError::Asked(message));
        }
        self.store(&register, &authority, now)?;
        Ok(revoked)
    }

    /// What was issued, oldest first.
    pub fn list(&self) -> Result<Vec<Entry>, PkiError> {
        Ok(self.register()?.issued)
    }

    /// The authority's certificate.
    pub fn authority_file(&self) -> PathBuf {
        self.dir.path().join("ca.crt")
    }

    fn authority(&self) -> Result<Authority, PkiError> {
        Authority::read(&self.dir.read("ca.crt")?, &self.dir.read("ca.key")?)
    }

    fn register(&self) -> Result<Register, PkiError> {
        let text = self.dir.read("issued.json")?;
        let corrupt = |why: String| {
            let path = self.dir.path().join("issued.json");
            PkiError::Register { path, why }
        };
        Register::read(&text).map_err(corrupt)
    }

    fn write_register(&self, register: &Register) -> Result<(), PkiError> {
        self.dir.write("issued.json", &register.text(), Mode::Own)
    }

    /// Writes the register, and the list of what it says was revoked.
    fn store(
        &self,
        register: &Register,
        authority: &Authority,
        now: SystemTime,
    ) -> Result<(), PkiError> {
        self.write_register(register)?;
        let serials: Vec<_> = register.revoked(now).collect();
        let list = authority.revoked(&serials, now)?;
        self.dir.write("crl.pem", &list, Mode::Public)
    }

    fn server(
        &self,
        authority: &Authority,
        hosts: &[Host],
        group: Option<u32>,
        valid_days: u32,
        now: SystemTime,
    ) -> Result<(), PkiError> {
        if hosts.is_empty() {
            return Err(PkiError::Asked("a server is reached at one name at least".to_owned()));
        }
        let hosts: BTreeSet<&Host> = hosts.iter().collect();
        let ends = now + days(valid_days);
        let (certificate, key) = authority.server(&hosts, [now - BEFORE, ends])?;
        // Who reads them between the two finds that they do not go together, and keeps what it had.
        self.dir.write("server.key", &key, Mode::Group(group))?;
        self.dir.write("server.crt", &certificate, Mode::Public)
    }
}

/// How long a server's certificate lasts.
const MOST_SERVER_DAYS: u32 = 730;

/// Writes a certificate, its key and its authority's certificate to new files in `out`, which is made if it is
/// not there: `NAME.crt`, `NAME.key`, `ca.crt`. Answers with their paths. Where one is there already, nothing is
/// written; an authority's certificate that is the same may be.
pub fn write_out(issued: &Issued, out: &Path) -> Result<[PathBuf; 3], PkiError> {
    let name = &issued.entry.name;
    let dir = Dir::make_anywhere(out)?;
    let files = [format!("{name}.crt"), format!("{name}.key"), "ca.crt".to_owned()];
    let same = dir.has("ca.crt")? && dir.read("ca.crt")? == issued.authority;
    dir.write_new(&files[0], &issued.certificate, Mode::Public)?;
    let rest = || {
        dir.write_new(&files[1], &issued.key, Mode::Own)?;
        let written =
            if same { Ok(()) } else { dir.write_new("ca.crt", &issued.authority, Mode::Public) };
        written.inspect_err(|_| dir.remove(&files[1]).unwrap_or_default())
    };
    // They are this one's own: nothing was there.
    rest().inspect_err(|_| dir.remove(&files[0]).unwrap_or_default())?;
    Ok(files.map(|file| dir.path().join(file)))
}

/// A file for a lock.
type Lock = File;

const fn days(count: u32) -> Duration {
    Duration::from_secs(count as u64 * 24 * 60 * 60)
}

#[cfg(test)]
mod tests;
