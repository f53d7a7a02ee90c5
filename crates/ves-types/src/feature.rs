//! Features of a container: what of the kernel it may use beyond what every container may. Pure.
//!
//! Owns their names, defaults, and which exclude each other. Never here: which system calls that is.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ParseError;

/// Which features a container has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Features {
    /// Namespaces of every kind inside, as Docker and Podman need them.
    pub nesting: bool,
    /// Nothing that hinders a checkpoint; see [`Features::effective`].
    pub migratable: bool,
    /// 32-bit programs.
    pub abi32: bool,
}

impl Default for Features {
    fn default() -> Self {
        Self { nesting: false, migratable: true, abi32: true }
    }
}

impl Features {
    /// What it comes to: namespaces within namespaces cannot be written down, so that what may make them
    /// is not migratable, whatever was chosen before.
    #[must_use]
    pub const fn effective(self) -> Self {
        Self { migratable: self.migratable && !self.nesting, ..self }
    }

    /// Whether it has one.
    pub const fn has(self, feature: Feature) -> bool {
        match feature {
            Feature::Nesting => self.nesting,
            Feature::Migratable => self.migratable,
            Feature::Abi32 => self.abi32,
        }
    }

    /// The same with one on or off.
    #[must_use]
    pub const fn with(mut self, feature: Feature, on: bool) -> Self {
        match feature {
            Feature::Nesting => self.nesting = on,
            Feature::Migratable => self.migratable = on,
            Feature::Abi32 => self.abi32 = on,
        }
        self
    }
}

impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, feature) in Feature::ALL.into_iter().enumerate() {
            let comma = if n > 0 { "," } else { "" };
            let on = if self.has(feature) { "on" } else { "off" };
            write!(f, "{comma}{feature}:{on}")?;
        }
        Ok(())
    }
}

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Feature {
    /// See [`Features::nesting`].
    Nesting,
    /// See [`Features::migratable`].
    Migratable,
    /// See [`Features::abi32`].
    Abi32,
}

impl Feature {
    /// All.
    pub const ALL: [Self; 3] = [Self::Nesting, Self::Migratable, Self::Abi32];

    const fn name(self) -> &'static str {
        match self {
            Self::Nesting => "nesting",
            Self::Migratable => "migratable",
            Self::Abi32 => "abi32",
        }
    }
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// OpenVZ's features that there are not, and what there is instead.
const FOREIGN: [(&str, &str); 10] = [
    ("bridge", "it needs no feature: bridges are made inside where the node's kernel has them"),
    ("fuse", "it is a device; use --devnodes fuse:rw"),
    ("ipgre", "it needs no feature: tunnels are made inside where the node's kernel has them"),
    ("ipip", "it needs no feature: tunnels are made inside where the node's kernel has them"),
    (
        "nfs",
        "the kernel mounts NFS for the node only; use a client that is a program, by --devnodes fuse:rw",
    ),
    ("nfsd", "the kernel's server is the node's; use one that is a program, such as nfs-ganesha"),
    ("ppp", "it is a device; use --devnodes ppp:rw"),
    ("sit", "it needs no feature: tunnels are made inside where the node's kernel has them"),
    ("sysfs", "it needs no feature: every container has a /sys"),
    ("time", "the clock is the node's; keep it right there"),
];

impl FromStr for Feature {
    type Err = ParseError;

    fn from_str(s: &str) -> Result<Self, ParseError> {
        let foreign = || FOREIGN.into_iter().find(|(name, _)| *name == s).map(|(_, why)| why);
        let named = Self::ALL.into_iter().find(|feature| feature.name() == s);
        named.ok_or_else(|| {
            let why = foreign().unwrap_or("it must be nesting, migratable or abi32");
            ParseError::new("feature", s, why)
        })
    }
}

/// One that is to be on or off: `NAME:on` or `NAME:off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeatureSwitch {
    /// Which.
    pub feature: Feature,
    /// What it is to be.
    pub on: bool,
}

impl FromStr for FeatureSwitch {
    type Err = ParseError;

    fn from_str(s: &str) -> Result<Self, ParseError> {
        let (name, state) = s.split_once(':').unwrap_or((s, ""));
        let feature = name.parse()?;
        match state {
            "on" => Ok(Self { feature, on: true }),
            "off" => Ok(Self { feature, on: false }),
            _ => Err(ParseError::new("feature", s, "after its name must come :on or :off")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switches() {
        for feature in Feature::ALL {
            for (state, on) in [("on", true), ("off", false)] {
                let switch = FeatureSwitch { feature, on };
                assert_eq!(format!("{feature}:{state}").parse(), Ok(switch));
                assert_eq!(Features::default().with(feature, on).has(feature), on);
            }
        }
        for bad in ["", "nesting", "nesting:", "nesting:yes", "nesting:ON", ":on", "keyctl:on"] {
            assert!(bad.parse::<FeatureSwitch>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn those_of_openvz_are_refused_by_name() {
        for (name, why) in FOREIGN {
            let error = format!("{name}:on").parse::<FeatureSwitch>().expect_err(name);
            assert_eq!((error.input.as_str(), error.why), (name, why));
        }
    }

    #[test]
    fn what_nests_is_not_migratable() {
        let features = Features::default();
        assert_eq!(features.to_string(), "nesting:off,migratable:on,abi32:on");
        assert_eq!(features.effective(), features);
        let nesting = features.with(Feature::Nesting, true).effective();
        assert_eq!(nesting.to_string(), "nesting:on,migratable:off,abi32:on");
    }
}
