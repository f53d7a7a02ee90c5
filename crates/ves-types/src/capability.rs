//! Capabilities of Linux, as far as a container may have them or be without them.
//!
//! Never here: how a process gives one up.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::id::ParseError;

/// How many there are.
pub const MAX_CAPABILITIES: usize = 41;

const MODULES: &str = "kernel modules are the node's, for all containers";
const HARDWARE: &str = "it reaches the node's hardware";
const ACCT: &str = "process accounting is the node's";
const CLOCK: &str = "the clock is the node's, for all containers";
const AUDIT: &str = "the audit log is the node's";
const POLICY: &str = "the access policy is the node's, for all containers";
const LOG: &str = "the kernel's log is the node's";
const SLEEP: &str = "when the node sleeps and wakes is the node's";
const TRACING: &str = "programs in the kernel see the whole node";

/// By number: the name, and why no container has it, not even in its own user namespace.
const ALL: [(&str, Option<&str>); MAX_CAPABILITIES] = [
    ("CHOWN", None),
    ("DAC_OVERRIDE", None),
    ("DAC_READ_SEARCH", None),
    ("FOWNER", None),
    ("FSETID", None),
    ("KILL", None),
    ("SETGID", None),
    ("SETUID", None),
    ("SETPCAP", None),
    ("LINUX_IMMUTABLE", None),
    ("NET_BIND_SERVICE", None),
    ("NET_BROADCAST", None),
    ("NET_ADMIN", None),
    ("NET_RAW", None),
    ("IPC_LOCK", None),
    ("IPC_OWNER", None),
    ("SYS_MODULE", Some(MODULES)),
    ("SYS_RAWIO", Some(HARDWARE)),
    ("SYS_CHROOT", None),
    ("SYS_PTRACE", None),
    ("SYS_PACCT", Some(ACCT)),
    ("SYS_ADMIN", None),
    ("SYS_BOOT", None),
    ("SYS_NICE", None),
    ("SYS_RESOURCE", None),
    ("SYS_TIME", Some(CLOCK)),
    ("SYS_TTY_CONFIG", None),
    ("MKNOD", None),
    ("LEASE", None),
    ("AUDIT_WRITE", None),
    ("AUDIT_CONTROL", Some(AUDIT)),
    ("SETFCAP", None),
    ("MAC_OVERRIDE", Some(POLICY)),
    ("MAC_ADMIN", Some(POLICY)),
    ("SYSLOG", Some(LOG)),
    ("WAKE_ALARM", Some(SLEEP)),
    ("BLOCK_SUSPEND", Some(SLEEP)),
    ("AUDIT_READ", Some(AUDIT)),
    ("PERFMON", Some(TRACING)),
    ("BPF", Some(TRACING)),
    ("CHECKPOINT_RESTORE", None),
];

/// A capability that containers have unless it is switched off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Capability(u8);

impl Capability {
    /// Those that no container has, as bits by number.
    pub fn never() -> u64 {
        Self::bits(|why| why.is_some())
    }

    /// Those that a container has where none is switched off.
    pub fn usual() -> u64 {
        Self::bits(|why| why.is_none())
    }

    fn bits(which: impl Fn(Option<&str>) -> bool) -> u64 {
        let chosen = ALL.iter().enumerate().filter(|(_, (_, why))| which(*why));
        chosen.fold(0, |bits, (n, _)| bits | 1 << n)
    }

    /// These as bits.
    pub fn bits_of<'a>(capabilities: impl IntoIterator<Item = &'a Self>) -> u64 {
        capabilities.into_iter().fold(0, |bits, capability| bits | 1 << capability.0)
    }

    /// One of any that Linux has, by its name, and why no container has it, where none has.
    fn find(s: &str) -> Option<(Self, Option<&'static str>)> {
        let upper = s.to_ascii_uppercase();
        let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
        let found = (0..).zip(ALL).find(|(_, (known, _))| *known == name);
        found.map(|(n, (_, why))| (Self(n), why))
    }

    fn name(self) -> &'static str {
        ALL.get(usize::from(self.0)).map_or("", |(name, _)| name)
    }
}

impl FromStr for Capability {
    type Err = ParseError;

    /// With or without `CAP_`, in letters of any case.
    fn from_str(s: &str) -> Result<Self, ParseError> {
        let bad = |why| Err(ParseError::new("capability", s, why));
        match Self::find(s) {
            Some((_, Some(why))) => bad(why),
            Some((capability, None)) => Ok(capability),
            None if s.to_ascii_uppercase().ends_with("VE_ADMIN") => bad(
                "it is of OpenVZ's own kernel; SYS_ADMIN and NET_ADMIN are what it was, and are there",
            ),
            None => bad("it is none that Linux has; capabilities(7) lists them"),
        }
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl TryFrom<String> for Capability {
    type Error = ParseError;

    fn try_from(s: String) -> Result<Self, ParseError> {
        s.parse()
    }
}

impl From<Capability> for String {
    fn from(capability: Capability) -> Self {
        capability.name().to_owned()
    }
}

/// A capability that is switched on or off: `net_raw:off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CapabilityChange {
    /// Which; one that no container has only where it is switched off.
    pub capability: Capability,
    /// Whether it is on then.
    pub on: bool,
}

impl FromStr for CapabilityChange {
    type Err = ParseError;

    fn from_str(s: &str) -> Result<Self, ParseError> {
        let why = "it must be a capability's name and on or off, such as net_raw:off";
        match s.split_once(':') {
            Some((name, choice @ ("on" | "off"))) => {
                let on = choice == "on";
                let capability = match Capability::find(name) {
                    // It is off already of one that no container has.
                    Some((capability, _)) if !on => capability,
                    _ => name.parse()?,
                };
                Ok(Self { capability, on })
            }
            _ => Err(ParseError::new("choice of a capability", s, why)),
        }
    }
}

impl fmt::Display for CapabilityChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.capability, if self.on { "on" } else { "off" })
    }
}

/// Those that are switched off, after changes.
pub fn change_capabilities(off: &mut BTreeSet<Capability>, changes: &[CapabilityChange]) {
    for CapabilityChange { capability, on } in changes {
        if *on {
            off.remove(capability);
        } else if Capability::usual() & Capability::bits_of([capability]) != 0 {
            off.insert(*capability);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_container_has_is_off_already() {
        let change: CapabilityChange = "cap_sys_module:off".parse().expect("so it is");
        let mut off = BTreeSet::new();
        change_capabilities(&mut off, &[change, "net_raw:off".parse().expect("valid")]);
        assert_eq!(off, ["NET_RAW".parse().expect("valid")].into());
        assert!("sys_module:on".parse::<CapabilityChange>().is_err());
        assert!("nonsense:off".parse::<CapabilityChange>().is_err());
    }

    #[test]
    fn names_are_linuxs_in_any_case() {
        for name in ["net_raw", "NET_RAW", "CAP_NET_RAW", "cap_net_raw", "Net_Raw"] {
            assert_eq!(name.parse::<Capability>(), Ok(Capability(13)), "{name}");
        }
        for (n, (name, why)) in (0..).zip(ALL) {
            match why {
                None => assert_eq!(name.parse(), Ok(Capability(n))),
                Some(why) => assert_eq!(name.parse::<Capability>().expect_err(name).why, why),
            }
        }
        for bad in ["", "CAP_", "RAW", "CAP_CAP_KILL", "net raw"] {
            assert!(bad.parse::<Capability>().is_err(), "{bad:?}");
        }
        assert_eq!(serde_json::to_string(&Capability(13)).expect("text"), "\"NET_RAW\"");
        assert!(serde_json::from_str::<Capability>("\"SYS_TIME\"").is_err());
    }

    #[test]
    fn every_one_is_usual_or_never() {
        let (usual, never) = (Capability::usual(), Capability::never());
        assert_eq!((usual & never, usual | never), (0, (1 << 41) - 1));
        assert_eq!(Capability::bits_of(&[Capability(0), Capability(13)]), 1 | 1 << 13);
    }

    #[test]
    fn choices() {
        let parse = |s: &str| s.parse::<CapabilityChange>();
        assert_eq!(parse("cap_net_raw:off").expect("valid").to_string(), "NET_RAW:off");
        assert!(parse("sys_time:on").expect_err("never").why.contains("clock"));
        for bad in ["net_raw", "net_raw:", "net_raw:yes", ":on", "ve_admin:on", "net_raw:on:off"] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
        let mut off = BTreeSet::new();
        let changes =
            ["net_raw:off", "kill:off", "net_raw:on", "mknod:on"].map(|s| parse(s).expect("valid"));
        change_capabilities(&mut off, &changes);
        assert_eq!(off.into_iter().map(|c| c.to_string()).collect::<Vec<_>>(), ["KILL"]);
    }
}
