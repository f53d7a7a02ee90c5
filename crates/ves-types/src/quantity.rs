//! Quantities: bytes, limits that may be absent, shares of processors.
//!
//! Parsing follows vzctl's grammar; nothing here knows which parameter a quantity belongs to.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::id::ParseError;

/// A size in bytes.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Bytes(pub u64);

impl Bytes {
    /// The page size UBC counts in; x86-64 and arm64 with 4 KiB pages.
    pub const PAGE: u64 = 4096;

    /// So many mebibytes.
    pub const fn mib(n: u64) -> Self {
        Self(n << 20)
    }
    /// So many gibibytes.
    pub const fn gib(n: u64) -> Self {
        Self(n << 30)
    }
    /// Whole pages, rounded up.
    pub const fn pages(self) -> u64 {
        self.0.div_ceil(Self::PAGE)
    }
}

/// Splits a number with an optional suffix `b k m g t P` into its value in bytes, where a bare number counts
/// units of `bare` bytes. A small `p` is vzctl's: pages; a great one is a pebibyte, as whoever types `1P`
/// after `1T` means it. Fractions are accepted before a suffix (`1.5g`).
pub fn parse_size(what: &'static str, s: &str, bare: u64) -> Result<Bytes, ParseError> {
    let bad = |why| ParseError::new(what, s, why);
    let (number, unit) = match s.trim_end_matches(|c: char| c.is_ascii_alphabetic()) {
        "" => return Err(bad("it must be a number, such as 512M or 10G")),
        digits => (digits, &s[digits.len()..]),
    };
    let factor = match unit.to_ascii_lowercase().as_str() {
        "" => bare,
        "p" if unit == "p" => Bytes::PAGE,
        "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        "t" | "tb" | "tib" => 1 << 40,
        "p" | "pb" | "pib" => 1 << 50,
        _ => return Err(bad("the suffix must be one of b k m g t P, or p for pages")),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) || number.ends_with('.') {
        return Err(bad("it must be a number, such as 512M or 10G"));
    }
    if !fraction.is_empty() && (factor == 1 || fraction.len() > 9) {
        return Err(bad("it must come to whole bytes"));
    }
    let too_big = || bad("it is larger than a size can be");
    let whole: u128 = whole.parse().map_err(|_| too_big())?;
    let scale = 10u128.pow(u32::try_from(fraction.len()).map_err(|_| too_big())?);
    let part =
        if fraction.is_empty() { 0 } else { fraction.parse::<u128>().map_err(|_| too_big())? };
    let total = whole
        .checked_mul(u128::from(factor))
        .and_then(|w| w.checked_add(part * u128::from(factor) / scale))
        .ok_or_else(too_big)?;
    match u64::try_from(total) {
        Ok(n) if n <= i64::MAX.unsigned_abs() => Ok(Bytes(n)),
        _ => Err(too_big()),
    }
}

impl FromStr for Bytes {
    type Err = ParseError;
    /// A bare number is bytes.
    fn from_str(s: &str) -> Result<Self, ParseError> {
        parse_size("size", s, 1)
    }
}

impl fmt::Display for Bytes {
    /// The largest binary unit in which it is at least one, with one decimal where it is not whole.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [("EiB", 60), ("PiB", 50), ("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
        let text = match units.iter().find(|(_, shift)| self.0 >> shift > 0) {
            None => format!("{} B", self.0),
            Some((name, shift)) if self.0 & ((1 << shift) - 1) == 0 => {
                format!("{} {name}", self.0 >> shift)
            }
            Some((name, shift)) => {
                let tenths = (u128::from(self.0) * 10) >> shift;
                format!("{}.{} {name}", tenths / 10, tenths % 10)
            }
        };
        f.pad(&text)
    }
}

/// A number, or no limit at all.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// At most this many; the unit is the parameter's.
    Max(u64),
    /// As much as the node has.
    #[default]
    Unlimited,
}

impl Limit {
    /// What OpenVZ printed for "unlimited": `LONG_MAX` on 64-bit machines.
    pub const UNLIMITED_TEXT: u64 = i64::MAX as u64;

    /// The number, with "unlimited" as [`Self::UNLIMITED_TEXT`].
    pub const fn to_wire(self) -> u64 {
        match self {
            Self::Max(n) => n,
            Self::Unlimited => Self::UNLIMITED_TEXT,
        }
    }
    /// The reverse of [`Self::to_wire`].
    pub const fn from_wire(n: u64) -> Self {
        if n >= Self::UNLIMITED_TEXT { Self::Unlimited } else { Self::Max(n) }
    }
    /// The number, if there is one.
    pub const fn max(self) -> Option<u64> {
        match self {
            Self::Max(n) => Some(n),
            Self::Unlimited => None,
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Max(n) => n.fmt(f),
            Self::Unlimited => f.pad("unlimited"),
        }
    }
}

/// How much processor time a container may use, in thousandths of one processor; 1500 is one and
/// a half. vzctl wrote it in percent of one processor (`--cpulimit 150`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CpuLimit {
    /// Thousandths of one processor, at least 10.
    pub millicpus: u32,
}

impl CpuLimit {
    /// vzctl's `--cpulimit`: a percentage of one processor, with or without `%`; 0 is unlimited.
    pub fn parse_percent(s: &str) -> Result<Option<Self>, ParseError> {
        let why = "it must be percent of one processor, such as 50 or 150%, or 0 for unlimited";
        let bad = || ParseError::new("cpu limit", s, why);
        let digits = s.strip_suffix('%').unwrap_or(s);
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(bad());
        }
        match digits.parse::<u32>().map_err(|_| bad())? {
            0 => Ok(None),
            n @ 1..=1_000_000 => Ok(Some(Self { millicpus: n * 10 })),
            _ => Err(bad()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes() {
        let size = |s: &str| parse_size("size", s, 1).map(|b| b.0);
        assert_eq!(size("0"), Ok(0));
        assert_eq!(size("512M"), Ok(512 << 20));
        assert_eq!(size("1.5g"), Ok(3 << 29));
        assert_eq!(size("2p"), Ok(8192));
        assert_eq!(size("1P"), Ok(1 << 50));
        assert_eq!(size("1.5PiB"), Ok(3 << 49));
        assert_eq!(size("1pb"), Ok(1 << 50));
        // The greatest that there is, by each suffix.
        let most = i64::MAX.unsigned_abs();
        for (suffix, shift) in
            [("b", 0), ("k", 10), ("m", 20), ("g", 30), ("T", 40), ("P", 50), ("p", 12)]
        {
            let n = most >> shift;
            assert_eq!(size(&format!("{n}{suffix}")), Ok(n << shift), "{suffix}");
            assert!(size(&format!("{}{suffix}", n + 1)).is_err(), "{suffix}");
        }
        assert_eq!(parse_size("size", "10", 1024).map(|b| b.0), Ok(10240));
        for bad in [
            "",
            "g",
            "-1",
            "1.",
            ".5",
            "1.5",
            "1x",
            "1 G",
            "99999999999999999999t",
            "1e3",
            "8388608t",
        ] {
            assert!(size(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn sizes_as_people_read_them() {
        let shown = |n| Bytes(n).to_string();
        assert_eq!(shown(0), "0 B");
        assert_eq!(shown(1 << 30), "1 GiB");
        assert_eq!(shown(3 << 29), "1.5 GiB");
        assert_eq!(shown(1 << 50), "1 PiB");
        assert_eq!(shown(i64::MAX as u64), "7.9 EiB");
    }

    #[test]
    fn cpu_limits() {
        let milli = |s| CpuLimit::parse_percent(s).map(|l| l.map(|l| l.millicpus));
        assert_eq!(milli("150%"), Ok(Some(1500)));
        assert_eq!(milli("0"), Ok(None));
        for bad in ["", "%", "-5", "1.5", "1000001", "abc"] {
            assert!(milli(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn limits_survive_the_wire(n in 0..i64::MAX as u64) {
            prop_assert_eq!(Limit::from_wire(Limit::Max(n).to_wire()), Limit::Max(n));
        }
        #[test]
        fn size_parser_never_panics(s in ".{0,40}") {
            drop(parse_size("size", &s, 1024));
        }
    }
}
