//! How much traffic with its disk a container may have.
//!
//! Never here: which device that is, and what a kernel makes of it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::ParseError;
use crate::quantity::Bytes;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident $inner:ty, $what:literal, $range:pat, $why:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "u64", into = "u64")]
        pub struct $name($inner);

        impl TryFrom<u64> for $name {
            type Error = ParseError;

            fn try_from(n: u64) -> Result<Self, ParseError> {
                match <$inner>::try_from(n) {
                    Ok(n @ $range) => Ok(Self(n)),
                    _ => Err(ParseError::new($what, n, $why)),
                }
            }
        }

        impl From<$name> for u64 {
            fn from(n: $name) -> Self {
                Self::from(n.0)
            }
        }
    };
}

number!(
    /// Bytes a second, of what is read and again of what is written: at least a page, or nothing moves.
    IoBandwidth u64, "disk bandwidth", 4096..=1_152_921_504_606_846_976,
    "it must be from 4096 bytes to 1 EiB a second"
);
number!(
    /// Requests a second, of reads and again of writes.
    IoRate u32, "number of disk requests", 1..=4_294_967_295,
    "it must be from 1 to 4294967295 a second"
);
number!(
    /// Weight of its traffic against that of others, vzctl's 0 to 7; 7 is the most.
    IoPriority u8, "disk priority", 0..=7, "it must be from 0 to 7"
);

impl IoPriority {
    /// Where none is given.
    pub const DEFAULT: Self = Self(4);

    /// As a kernel's weight, of which 100 is usual: each level is about half as much again as the one below.
    pub const fn weight(self) -> u64 {
        match self.0 {
            0 => 20,
            1 => 30,
            2 => 45,
            3 => 70,
            4 => 100,
            5 => 150,
            6 => 225,
            _ => 340,
        }
    }
}

impl fmt::Display for IoBandwidth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Bytes(self.0).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules() {
        let (bytes, rate) = (IoBandwidth::try_from, IoRate::try_from);
        assert!(bytes(4096).is_ok() && bytes(4095).is_err() && bytes(u64::MAX).is_err());
        assert!(rate(1).is_ok() && rate(0).is_err() && rate(1 << 32).is_err());
        assert!(IoPriority::try_from(7).is_ok() && IoPriority::try_from(8).is_err());
        assert!(serde_json::from_str::<IoPriority>("9").is_err());
    }

    #[test]
    fn more_is_more() {
        let weights: Vec<_> =
            (0..8).filter_map(|n| IoPriority::try_from(n).ok()).map(IoPriority::weight).collect();
        assert!(weights.is_sorted() && weights.len() == 8, "{weights:?}");
        assert_eq!(IoPriority::DEFAULT.weight(), 100);
    }
}
