//! Devices of the node that a container is given, by name or by number, and what it may do with them.
//!
//! A device that would hand over the node itself has no name here, so that nobody can ask for it. Which
//! others are given is the node's own choice. Never here: what device has which number.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::id::{ParseError, word};

/// The most entries in a container's list of devices.
pub const MAX_DEVICES: usize = 64;

const MEMORY: &str =
    "it is the memory or the ports of the node, by which all on it can be read and changed";
const LOG: &str = "it is the log of the node's kernel";
const DISK: &str = "it is a disk of the node, whose contents nobody checks; --diskspace gives the container more of its own";
const MAKER: &str = "it makes devices for the whole node, or drives hardware past the kernel";
const MACHINE: &str =
    "it sets the node's clock, stops the node or changes what runs on its processors";
const CONSOLE: &str = "it is a console of the node";
const OWN: &str = "every container has one of its own";

/// What no container is given. `*` is any rest; `#` a digit and any rest.
const NEVER: &[(&str, &[&str])] = &[
    (MEMORY, &["mem", "kmem", "port", "nvram", "udmabuf", "userfaultfd"]),
    (LOG, &["kmsg"]),
    (
        DISK,
        &[
            "sd*",
            "hd*",
            "vd*",
            "xvd*",
            "nvme*",
            "mmcblk*",
            "dm-*",
            "md#",
            "md/*",
            "mapper/*",
            "disk/*",
            "block/*",
            "loop#",
            "nbd*",
            "rbd*",
            "zd#",
            "zvol/*",
            "sr#",
            "sg#",
            "st#",
            "nst#",
            "bsg/*",
            "bcache*",
            "pmem*",
            "dax*",
            "ram#",
            "zram*",
            "raw/*",
            "rawctl",
            "drbd*",
            "mtd*",
            "ublk*",
            "btrfs-control",
            "zfs",
            "ng#",
            "ubi*",
            "fd#",
        ],
    ),
    (
        MAKER,
        &[
            "loop-control",
            "cuse",
            "uinput",
            "uhid",
            "vhci",
            "vfio/*",
            "iommu",
            "autofs",
            "input/*",
            "bus/*",
            "usbmon*",
            "i2c-*",
            "spidev*",
            "gpiochip*",
            "megaraid*",
            "mpt*ctl",
        ],
    ),
    (
        MACHINE,
        &[
            "watchdog*",
            "cpu/*",
            "cpu_dma_latency",
            "hpet",
            "rtc*",
            "snapshot",
            "mei*",
            "ipmi*",
            "tpm*",
            "mcelog",
            "ptp*",
            "sev",
            "sgx_provision",
            "sgx_vepc",
        ],
    ),
    (CONSOLE, &["tty#", "vcs*", "fb#", "hvc#"]),
    (
        OWN,
        &[
            "null", "zero", "full", "random", "urandom", "tty", "console", "ptmx", "pts/*", "pts",
            "shm", "shm/*", "mqueue", "mqueue/*", "fd", "stdin", "stdout", "stderr", "core", "log",
        ],
    ),
];

/// Whether `name` is what `pattern` says.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once(['*', '#']) {
        None => pattern == name,
        Some((start, end)) => {
            let digit = pattern.contains('#');
            let rest = name.strip_prefix(start).and_then(|rest| rest.strip_suffix(end));
            rest.is_some_and(|rest| !digit || rest.starts_with(|c: char| c.is_ascii_digit()))
        }
    }
}

word!(
    /// A device's name below the node's /dev, such as `net/tun`: at most 64 of `A-Z a-z 0-9 . _ + -` and
    /// `/`, no part of which begins with a dot. What no container is given is no such name.
    DeviceName, "device", |s| {
        if s.is_empty() || s.len() > 64 {
            return Err("it must have 1 to 64 characters");
        }
        if s.split('/').any(|part| part.is_empty() || part.starts_with('.')) {
            return Err("it must be a name below /dev, no part of which is empty or begins with a dot");
        }
        if !s.bytes().all(|b| b.is_ascii_alphanumeric() || b"._+-/".contains(&b)) {
            return Err("it may hold letters, digits, '.', '_', '+', '-' and '/' only");
        }
        let never = NEVER.iter().find(|(_, all)| all.iter().any(|pattern| matches(pattern, s)));
        never.map_or(Ok(()), |(why, _)| Err(why))
    }
);

word!(
    /// Names of devices that a node gives: one, or with a `*` at its end all that begin so.
    DevicePattern, "pattern of devices", |s| {
        let rest = s.strip_suffix('*').unwrap_or(s);
        let name = rest.strip_suffix('/').unwrap_or(rest);
        name.parse::<DeviceName>().map(drop).map_err(|e| e.why)
    }
);

impl DevicePattern {
    /// Whether a name is one of these.
    pub fn covers(&self, name: &DeviceName) -> bool {
        matches(&self.0, name.as_str())
    }
}

/// What may be done with a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Access {
    read: bool,
    write: bool,
}

impl Access {
    /// Everything.
    pub const ALL: Self = Self { read: true, write: true };

    /// What is so; none where that is nothing.
    pub const fn new(read: bool, write: bool) -> Option<Self> {
        if read || write { Some(Self { read, write }) } else { None }
    }

    /// Whether it may be read.
    pub const fn read(self) -> bool {
        self.read
    }

    /// Whether it may be written.
    pub const fn write(self) -> bool {
        self.write
    }
}

impl FromStr for Access {
    type Err = ParseError;

    fn from_str(s: &str) -> Result<Self, ParseError> {
        let bad = |why| Err(ParseError::new("access to a device", s, why));
        if s.contains('q') {
            return bad("q is for quotas on a disk of the node, and none is given to a container");
        }
        let count = |letter| s.matches(letter).count();
        let (read, write) = (count('r') == 1, count('w') == 1);
        if s.is_empty() || s.len() != usize::from(read) + usize::from(write) {
            return bad("it must be r, w, rw or none");
        }
        Ok(Self { read, write })
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match (self.read, self.write) {
            (true, true) => "rw",
            (true, false) => "r",
            (false, true) => "w",
            (false, false) => "none",
        })
    }
}

/// Which device, or which of a kind.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DeviceId {
    /// The one of this name.
    Name(DeviceName),
    /// The ones of this number, of those that the node has when the container starts.
    Number {
        /// Its driver's.
        major: u32,
        /// Its own; none: all of the driver.
        minor: Option<u32>,
    },
}

impl FromStr for DeviceId {
    type Err = ParseError;

    /// `net/tun`, or `c:10:200` and `c:10:all`.
    fn from_str(s: &str) -> Result<Self, ParseError> {
        let Some((kind, numbers)) = s.split_once(':') else { return s.parse().map(Self::Name) };
        let bad = |why| Err(ParseError::new("device", s, why));
        let number = |s: &str, most: u32| {
            let digits = !s.is_empty() && s.len() <= 7 && s.bytes().all(|b| b.is_ascii_digit());
            s.parse().ok().filter(|n| digits && *n <= most)
        };
        match (kind, numbers.split_once(':')) {
            ("b", _) => bad(DISK),
            ("c", Some((major, minor))) => {
                let all = minor == "all";
                match (number(major, 4095), number(minor, (1 << 20) - 1)) {
                    (Some(major), minor) if all || minor.is_some() => {
                        Ok(Self::Number { major, minor })
                    }
                    _ => bad(
                        "its numbers must be MAJOR, at most 4095, and MINOR, at most 1048575, or all",
                    ),
                }
            }
            _ => bad("it must be a name below /dev, or c:MAJOR:MINOR or c:MAJOR:all"),
        }
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Number { major, minor: Some(minor) } => write!(f, "c:{major}:{minor}"),
            Self::Number { major, minor: None } => write!(f, "c:{major}:all"),
        }
    }
}

/// A device that a container has.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Device {
    /// Which.
    pub id: DeviceId,
    /// What may be done with it.
    pub access: Access,
}

impl FromStr for Device {
    type Err = ParseError;

    fn from_str(s: &str) -> Result<Self, ParseError> {
        let DeviceChange { id, access } = s.parse()?;
        let none = || ParseError::new("device", s, "with none it is not one that a container has");
        Ok(Self { id, access: access.ok_or_else(none)? })
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.id, self.access)
    }
}

impl TryFrom<String> for Device {
    type Error = ParseError;

    fn try_from(s: String) -> Result<Self, ParseError> {
        s.parse()
    }
}

impl From<Device> for String {
    fn from(device: Device) -> Self {
        device.to_string()
    }
}

/// A device that a container gets, or has no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceChange {
    /// Which.
    pub id: DeviceId,
    /// What may be done with it; none: it is taken away.
    pub access: Option<Access>,
}

impl FromStr for DeviceChange {
    type Err = ParseError;

    /// vzctl's words: `net/tun:rw`, `c:10:200:rw`, `net/tun:none`.
    fn from_str(s: &str) -> Result<Self, ParseError> {
        let why = "it must be NAME and what may be done with it, such as net/tun:rw";
        let split = s.rsplit_once(':').ok_or_else(|| ParseError::new("device", s, why));
        let (id, access) = split?;
        let access = if access == "none" { None } else { Some(access.parse()?) };
        Ok(Self { id: id.parse()?, access })
    }
}

impl fmt::Display for DeviceChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.access {
            Some(access) => write!(f, "{}:{access}", self.id),
            None => write!(f, "{}:none", self.id),
        }
    }
}

/// A list after a change: sorted, each device once.
pub fn change_devices(devices: &mut Vec<Device>, changes: &[DeviceChange]) {
    for DeviceChange { id, access } in changes {
        devices.retain(|device| device.id != *id);
        devices.extend(access.map(|access| Device { id: id.clone(), access }));
    }
    devices.sort();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read_as_they_are_written() {
        for good in ["net/tun:rw", "fuse:r", "dri/renderD128:w", "c:10:200:rw", "c:108:all:r"] {
            assert_eq!(good.parse::<Device>().expect(good).to_string(), good);
            let json = serde_json::to_string(&good.parse::<Device>().expect(good)).expect("text");
            assert_eq!(json, format!("\"{good}\""));
        }
        assert_eq!("fuse:wr".parse::<Device>().expect("the same").to_string(), "fuse:rw");
        for bad in [
            "",
            "fuse",
            "fuse:",
            ":rw",
            "fuse:x",
            "fuse:rr",
            "fuse:rwm",
            "../mem:r",
            "net//tun:r",
            "/fuse:r",
            "net/../mem:r",
            "net/.x:r",
            "a b:r",
            "c:10:rw",
            "c:x:1:rw",
            "c:10:-1:rw",
            "c:10::rw",
            "c:4096:1:rw",
            "c:10:1048576:rw",
            "c:99999999:1:rw",
            "p:1:1:r",
            "fuse:none",
            &format!("{}:r", "x".repeat(65)),
        ] {
            assert!(bad.parse::<Device>().is_err(), "{bad:?}");
        }
        assert!(serde_json::from_str::<Device>("\"mem:rw\"").is_err());
    }

    #[test]
    fn what_hands_over_the_node_has_no_name() {
        let why = |s: &str| s.parse::<Device>().expect_err(s).why;
        for (names, reason) in [
            (&["mem:r", "kmem:rw", "port:rw"][..], MEMORY),
            (&["kmsg:r"], LOG),
            (
                &[
                    "sda:rw",
                    "vda1:r",
                    "nvme0n1:r",
                    "dm-0:rw",
                    "mapper/control:rw",
                    "loop0:rw",
                    "sg0:rw",
                    "b:8:0:rw",
                    "b:8:all:rw",
                    "md127:r",
                    "disk/by-id/x:r",
                ],
                DISK,
            ),
            (
                &["loop-control:rw", "cuse:rw", "uinput:rw", "vfio/vfio:rw", "bus/usb/001/001:rw"],
                MAKER,
            ),
            (&["watchdog0:w", "rtc0:r", "cpu/0/msr:rw"], MACHINE),
            (&["tty1:rw", "vcsa:r"], CONSOLE),
            (&["null:rw", "pts/0:rw", "tty:rw"], OWN),
        ] {
            for name in names {
                assert_eq!(why(name), reason, "{name}");
            }
        }
        for fine in
            ["net/tun", "fuse", "kvm", "ttyUSB0", "ttyS0", "sgx_enclave", "stx", "mdio", "ppp"]
        {
            assert!(fine.parse::<DeviceName>().is_ok(), "{fine}");
        }
        assert!(why("fuse:rwq").contains("quota") && why("c:10:229:q").contains("quota"));
    }

    #[test]
    fn patterns_cover_what_begins_so() {
        let covers = |pattern: &str, name: &str| {
            let pattern: DevicePattern = pattern.parse().expect("a pattern");
            pattern.covers(&name.parse().expect("a name"))
        };
        assert!(
            covers("dri/*", "dri/card0") && covers("ttyUSB*", "ttyUSB0") && covers("kvm", "kvm")
        );
        assert!(!covers("dri/*", "dri") && !covers("kvm", "kvm0") && !covers("ttyUSB*", "ttyS0"));
        for bad in ["", "*", "mem", "/dev/kvm", "a*b", "../*", "sda"] {
            assert!(bad.parse::<DevicePattern>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn changes_leave_each_device_once() {
        let mut devices = vec!["net/tun:rw".parse().expect("valid")];
        let changes = ["fuse:rw", "net/tun:r", "c:10:232:rw", "fuse:none", "kvm:none"];
        let changes = changes.map(|c| c.parse::<DeviceChange>().expect("valid"));
        change_devices(&mut devices, &changes);
        assert_eq!(
            devices.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["net/tun:r", "c:10:232:rw"]
        );
        assert_eq!(changes.map(|c| c.to_string())[3..], ["fuse:none", "kvm:none"]);
    }
}
