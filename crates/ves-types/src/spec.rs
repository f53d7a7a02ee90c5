//! What a container's specification is made of: the values with a rule of their own, and the name of
//! each field in an update mask.
//!
//! Whoever reads such a value, the command line, the public API or a service, reads it by the rule that
//! stands here. Never here: which option or message a value comes from, and what is done with it.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::feature::Feature;
use crate::id::{ParseError, word};
use crate::quantity::{Bytes, parse_size};
use crate::ubc::UbcResource;

/// The most addresses of a container.
pub const MAX_ADDRESSES: usize = 256;
/// The most name servers, and the most search domains, of a container.
pub const MAX_RESOLVER_ENTRIES: usize = 64;

/// A name server's address.
pub fn parse_nameserver(s: &str) -> Result<IpAddr, ParseError> {
    let why = "it must be an IPv4 or IPv6 address";
    s.parse().map_err(|_| ParseError::new("name server", s, why))
}

/// The hard size of a volume: from 16 MiB, as nothing useful fits in less, to 16 TiB, the greatest
/// ext4 with blocks of 4 KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct DiskSize(u64);

impl DiskSize {
    /// Of a volume nobody gave a size for.
    pub const DEFAULT: Self = Self(2 << 30);
    /// The least.
    pub const MIN: Self = Self(16 << 20);
    /// The greatest.
    pub const MAX: Self = Self(16 << 40);

    /// The nearest there is to so many bytes.
    pub const fn saturating(bytes: u64) -> Self {
        match bytes {
            less if less < Self::MIN.0 => Self::MIN,
            more if more > Self::MAX.0 => Self::MAX,
            bytes => Self(bytes),
        }
    }

    /// In bytes.
    pub const fn bytes(self) -> Bytes {
        Bytes(self.0)
    }

    /// vzctl's `--diskspace`: a bare number counts KiB.
    pub fn parse_kib(s: &str) -> Result<Self, ParseError> {
        parse_size("disk space", s, 1024)?.0.try_into()
    }
}

impl TryFrom<u64> for DiskSize {
    type Error = ParseError;

    fn try_from(bytes: u64) -> Result<Self, ParseError> {
        let size = Self(bytes);
        if (Self::MIN..=Self::MAX).contains(&size) {
            Ok(size)
        } else {
            let why = "it must be from 16 MiB to 16 TiB";
            Err(ParseError::new("disk space", Bytes(bytes), why))
        }
    }
}

impl From<DiskSize> for u64 {
    fn from(size: DiskSize) -> Self {
        size.0
    }
}

impl fmt::Display for DiskSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.bytes().fmt(f)
    }
}

/// The hard number of a volume's inodes: from 1024, as a system needs more, to 4294967295, ext4's most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct InodeLimit(u32);

impl TryFrom<u64> for InodeLimit {
    type Error = ParseError;

    fn try_from(inodes: u64) -> Result<Self, ParseError> {
        match u32::try_from(inodes) {
            Ok(n) if n >= 1024 => Ok(Self(n)),
            _ => {
                let why = "it must be from 1024 to 4294967295";
                Err(ParseError::new("number of inodes", inodes, why))
            }
        }
    }
}

impl From<InodeLimit> for u64 {
    fn from(limit: InodeLimit) -> Self {
        Self::from(limit.0)
    }
}

impl FromStr for InodeLimit {
    type Err = ParseError;

    /// Plain digits.
    fn from_str(s: &str) -> Result<Self, ParseError> {
        let why = "it must be a plain number from 1024 to 4294967295";
        let bad = || ParseError::new("number of inodes", s, why);
        if !s.bytes().all(|b| b.is_ascii_digit()) {
            return Err(bad());
        }
        s.parse::<u64>().map_err(|_| bad())?.try_into()
    }
}

/// The command a container begins with: a path from its root and arguments, at most 64 words of at most
/// 4096 bytes each, without a zero byte. No words mean [`InitArgv::DEFAULT`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct InitArgv(Vec<String>);

impl InitArgv {
    /// What is run where nothing else is said.
    pub const DEFAULT: &str = "/sbin/init";
    /// The most words.
    pub const MAX_WORDS: usize = 64;
    /// The most bytes of a word.
    pub const MAX_WORD: usize = 4096;

    /// The words that were given; none: the default.
    pub fn words(&self) -> &[String] {
        &self.0
    }

    /// All words of the command.
    pub fn command(&self) -> Vec<String> {
        if self.0.is_empty() { vec![Self::DEFAULT.to_owned()] } else { self.0.clone() }
    }

    /// The program's path.
    pub fn program(&self) -> &str {
        self.0.first().map_or(Self::DEFAULT, String::as_str)
    }
}

impl TryFrom<Vec<String>> for InitArgv {
    type Error = ParseError;

    fn try_from(words: Vec<String>) -> Result<Self, ParseError> {
        let bad = |word: &str, why| Err(ParseError::new("init", word, why));
        if words.len() > Self::MAX_WORDS {
            return bad(&words.len().to_string(), "it may have at most 64 words");
        }
        if let Some(long) = words.iter().find(|w| w.len() > Self::MAX_WORD || w.contains('\0')) {
            return bad(long, "a word may have at most 4096 bytes, and no zero byte");
        }
        match words.first() {
            Some(program) if !program.starts_with('/') => {
                bad(program, "it must be a path from the container's root")
            }
            _ => Ok(Self(words)),
        }
    }
}

impl From<InitArgv> for Vec<String> {
    fn from(init: InitArgv) -> Self {
        init.0
    }
}

word!(
    /// A domain in which names without dots are looked for: at most 253 bytes, labels of letters,
    /// digits, `_` and inner hyphens, joined by dots.
    SearchDomain, "search domain", |s| {
        if s.is_empty() || s.len() > 253 {
            return Err("it must have 1 to 253 characters");
        }
        for label in s.split('.') {
            if label.is_empty() || label.len() > 63 {
                return Err("each part between dots must have 1 to 63 characters");
            }
            if label.starts_with('-') || label.ends_with('-') {
                return Err("no part may begin or end with '-'");
            }
            if !label.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)) {
                return Err("it may hold letters, digits, '-', '_' and '.' only");
            }
        }
        Ok(())
    }
);

/// How long a container's init may take to stop before it is killed, in seconds: from 1 to an hour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct StopTimeout(u32);

impl StopTimeout {
    /// vzctl's: 120 s.
    pub const DEFAULT: Self = Self(120);

    /// In milliseconds.
    pub const fn millis(self) -> u32 {
        self.0 * 1000
    }
}

impl TryFrom<u32> for StopTimeout {
    type Error = ParseError;

    fn try_from(seconds: u32) -> Result<Self, ParseError> {
        match seconds {
            1..=3600 => Ok(Self(seconds)),
            _ => {
                let why = "it must be from 1 to 3600 seconds";
                Err(ParseError::new("stop timeout", seconds, why))
            }
        }
    }
}

impl From<StopTimeout> for u32 {
    fn from(timeout: StopTimeout) -> Self {
        timeout.0
    }
}

impl FromStr for StopTimeout {
    type Err = ParseError;

    fn from_str(s: &str) -> Result<Self, ParseError> {
        let why = "it must be a whole number of seconds";
        s.parse::<u32>().map_err(|_| ParseError::new("stop timeout", s, why))?.try_into()
    }
}

/// Whether a container that ended by itself is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestartPolicy {
    /// It is not.
    #[default]
    No,
    /// Where it was not halted or powered off inside.
    OnFailure,
    /// Also where it was.
    Always,
}

impl RestartPolicy {
    /// The words of the command line.
    pub const ALL: [(Self, &'static str); 3] =
        [(Self::No, "no"), (Self::OnFailure, "on-failure"), (Self::Always, "always")];
}

impl FromStr for RestartPolicy {
    type Err = ParseError;

    fn from_str(s: &str) -> Result<Self, ParseError> {
        let why = "it must be no, on-failure or always";
        let named = Self::ALL.into_iter().find(|(_, name)| *name == s);
        named.map(|(policy, _)| policy).ok_or_else(|| ParseError::new("restart policy", s, why))
    }
}

impl fmt::Display for RestartPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(Self::ALL.into_iter().find(|(p, _)| p == self).map_or("", |(_, name)| name))
    }
}

impl From<Feature> for SpecField {
    fn from(feature: Feature) -> Self {
        match feature {
            Feature::Nesting => Self::Nesting,
            Feature::Migratable => Self::Migratable,
            Feature::Abi32 => Self::Abi32,
        }
    }
}

macro_rules! fields {
    ($($(#[$doc:meta])* $variant:ident $path:literal;)*) => {
        /// A field of a specification, as an update mask names it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum SpecField {
            $($(#[$doc])* $variant,)*
            /// A UBC parameter: `limits.ubc.` and its name.
            Ubc(UbcResource),
        }

        impl SpecField {
            /// All that are no UBC parameter.
            pub const PLAIN: &[Self] = &[$(Self::$variant,)*];
        }

        impl FromStr for SpecField {
            type Err = ParseError;

            fn from_str(path: &str) -> Result<Self, ParseError> {
                if let Some(resource) = path.strip_prefix("limits.ubc.") {
                    return resource.parse().map(Self::Ubc);
                }
                match path {
                    $($path => Ok(Self::$variant),)*
                    _ => {
                        let why = "it is no field of a container that can be changed";
                        Err(ParseError::new("field", path, why))
                    }
                }
            }
        }

        impl fmt::Display for SpecField {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Self::$variant => f.pad($path),)*
                    Self::Ubc(resource) => write!(f, "limits.ubc.{resource}"),
                }
            }
        }
    };
}

fields! {
    /// Its name.
    Name "name";
    /// Its host name.
    Hostname "hostname";
    /// What its volume was made from.
    Template "template";
    /// Its addresses.
    Addresses "addresses";
    /// Its name servers.
    Nameservers "nameservers";
    /// Its search domains.
    SearchDomains "search_domains";
    /// Its volume's size.
    Disk "disk_bytes";
    /// Its volume's number of inodes.
    Inodes "disk_inodes";
    /// How many processors it may use.
    Cpus "limits.cpus";
    /// How much processor time it may use.
    CpuLimit "limits.cpu_millicpus";
    /// Its weight in processor time.
    CpuUnits "limits.cpu_units";
    /// Which processors it may use.
    CpuMask "limits.cpu_mask";
    /// Which memory nodes it may use.
    NodeMask "limits.node_mask";
    /// How many bytes a second it may read and write.
    IoBps "limits.io_bps";
    /// How many requests a second it may make of its disk.
    IoIops "limits.io_iops";
    /// The weight of its disk traffic.
    IoPriority "limits.io_priority";
    /// Whether it starts with the node.
    Onboot "onboot";
    /// When it starts, among those that start with the node.
    BootOrder "boot_order";
    /// Whether it is started only with force.
    Disabled "disabled";
    /// Free text.
    Description "description";
    /// The command it begins with.
    Init "init";
    /// How long its init may take to stop.
    StopTimeout "stop_timeout_s";
    /// Whether it is started again when it ended by itself.
    Restart "restart";
    /// Devices of the node that it has.
    Devices "devices";
    /// Capabilities that it has not.
    CapabilitiesOff "capabilities_off";
    /// Whether it may have namespaces of its own inside.
    Nesting "features.nesting";
    /// Whether nothing in it hinders a checkpoint.
    Migratable "features.migratable";
    /// Whether 32-bit programs run in it.
    Abi32 "features.abi32";
    /// Which snapshots are taken of it by themselves.
    SnapshotSchedule "snapshot_schedule";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stop_timeouts() {
        let parse = |s: &str| s.parse::<StopTimeout>().map(StopTimeout::millis);
        assert_eq!(parse("1"), Ok(1000));
        assert_eq!(parse("3600"), Ok(3_600_000));
        for bad in ["", "0", "3601", "1.5", "-1", "1s"] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn restart_policies() {
        for (policy, name) in RestartPolicy::ALL {
            assert_eq!((name.parse(), policy.to_string().as_str()), (Ok(policy), name));
        }
        for bad in ["", "yes", "on_failure", "Always"] {
            assert!(bad.parse::<RestartPolicy>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn disks() {
        let parse = |s| DiskSize::parse_kib(s).map(u64::from);
        assert_eq!(parse("16384"), Ok(16 << 20));
        assert_eq!(parse("16T"), Ok(16 << 40));
        for bad in ["0", "16383", "17592186044417b", "x", "", "1P", "17T"] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(DiskSize::DEFAULT.to_string(), "2 GiB");
    }

    #[test]
    fn numbers_of_inodes() {
        let parse = |s: &str| s.parse::<InodeLimit>().map(u64::from);
        assert_eq!(parse("1024"), Ok(1024));
        assert_eq!(parse("4294967295"), Ok(4_294_967_295));
        for bad in ["", "0", "1023", "4294967296", "1k", "+5000", "99999999999999999999"] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn inits() {
        let parse = |words: &[&str]| {
            InitArgv::try_from(words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(parse(&[]).expect("the default").program(), "/sbin/init");
        assert_eq!(parse(&["/bin/sh", "-c"]).expect("fits").words(), ["/bin/sh", "-c"]);
        let (long, many) = ("x".repeat(4097), vec!["/x"; 65]);
        for bad in [&["sh"][..], &[""], &["/x", "a\0"], &["/x", &long], &many] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn search_domains() {
        for good in ["example.org", "a", "_msdcs.example.org", &"x".repeat(63)] {
            assert!(good.parse::<SearchDomain>().is_ok(), "{good:?}");
        }
        for bad in ["", "a b\nevil", "a..b", "-a", ".", "a.", &"x.".repeat(130)] {
            assert!(bad.parse::<SearchDomain>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_is_stored_keeps_the_rules() {
        assert_eq!(serde_json::from_str::<DiskSize>("16777216").expect("fits"), DiskSize::MIN);
        assert!(serde_json::from_str::<DiskSize>("1").is_err());
        assert!(serde_json::from_str::<InodeLimit>("1").is_err());
        assert!(serde_json::from_str::<InitArgv>("[\"sh\"]").is_err());
    }

    #[test]
    fn each_field_is_read_as_it_is_written() {
        let ubc = UbcResource::ALL.map(SpecField::Ubc);
        for field in SpecField::PLAIN.iter().chain(&ubc) {
            assert_eq!(field.to_string().parse(), Ok(*field));
        }
        for unknown in ["", "limits", "limits.ubc.x", "limits.ubc.", "id", "Name"] {
            assert!(unknown.parse::<SpecField>().is_err(), "{unknown:?}");
        }
    }
}
