//! The user beancounter parameters: names, order, units, and what a row of accounting says.
//!
//! Order and names are those of OpenVZ's `/proc/bc/<id>/resources` (`swappages` last, dummies
//! skipped). Which kernel mechanism stands behind a row is the resources service's knowledge.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::id::ParseError;
use crate::quantity::{Bytes, Limit, parse_size};

/// What a parameter counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Things; written without suffix.
    Items,
    /// Pages of 4096 bytes; a bare number is pages.
    Pages,
    /// Bytes; a bare number is bytes.
    Bytes,
}

macro_rules! ubc {
    ($($variant:ident $name:literal $unit:ident $doc:literal;)*) => {
        /// One of the 21 parameters, in the order `/proc/bc/<id>/resources` lists them.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "lowercase")]
        pub enum UbcResource { $(#[doc = $doc] $variant,)* }

        impl UbcResource {
            /// All of them, in order.
            pub const ALL: [Self; 21] = [$(Self::$variant,)*];
            /// The name users know.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
            /// What it counts.
            pub const fn unit(self) -> Unit {
                match self { $(Self::$variant => Unit::$unit,)* }
            }
        }
    };
}

ubc! {
    Kmemsize "kmemsize" Bytes "Kernel memory that cannot be swapped.";
    Lockedpages "lockedpages" Pages "Memory locked by mlock.";
    Privvmpages "privvmpages" Pages "Address space that may become private memory.";
    Shmpages "shmpages" Pages "Shared memory: System V, shared anonymous, tmpfs.";
    Numproc "numproc" Items "Processes and threads.";
    Physpages "physpages" Pages "Memory in RAM.";
    Vmguarpages "vmguarpages" Pages "Memory that is guaranteed to be allocatable (barrier).";
    Oomguarpages "oomguarpages" Pages "Memory below which no process is killed for others (barrier).";
    Numtcpsock "numtcpsock" Items "TCP sockets.";
    Numflock "numflock" Items "File locks.";
    Numpty "numpty" Items "Pseudo-terminals.";
    Numsiginfo "numsiginfo" Items "Queued signals.";
    Tcpsndbuf "tcpsndbuf" Bytes "Send buffers of TCP sockets.";
    Tcprcvbuf "tcprcvbuf" Bytes "Receive buffers of TCP sockets.";
    Othersockbuf "othersockbuf" Bytes "Send buffers of other sockets.";
    Dgramrcvbuf "dgramrcvbuf" Bytes "Receive buffers of datagram sockets.";
    Numothersock "numothersock" Items "Sockets other than TCP.";
    Dcachesize "dcachesize" Bytes "Directory entries and inodes held in memory.";
    Numfile "numfile" Items "Open files.";
    Numiptent "numiptent" Items "Packet filter rules.";
    Swappages "swappages" Pages "Memory in swap.";
}

impl fmt::Display for UbcResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for UbcResource {
    type Err = ParseError;
    fn from_str(s: &str) -> Result<Self, ParseError> {
        Self::ALL
            .into_iter()
            .find(|r| r.name() == s)
            .ok_or_else(|| ParseError::new("parameter", s, "it is none of the 21 UBC parameters"))
    }
}

/// A parameter's two levels in the parameter's own unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct UbcValue {
    /// Where refusals or squeezing begin; for guarantees, what is guaranteed.
    pub barrier: Limit,
    /// What is never exceeded.
    pub limit: Limit,
}

impl UbcValue {
    /// vzctl's `BARRIER[:LIMIT]`; one value sets both; `unlimited` is a value; suffixes as
    /// [`parse_size`] has them but for `P`, which is pages here too; none for things that are counted.
    pub fn parse(resource: UbcResource, s: &str) -> Result<Self, ParseError> {
        let (barrier, limit) = s.split_once(':').unwrap_or((s, s));
        let value =
            Self { barrier: parse_part(resource, barrier)?, limit: parse_part(resource, limit)? };
        if value.barrier > value.limit {
            return Err(ParseError::new(
                resource.name(),
                s,
                "the barrier must not exceed the limit",
            ));
        }
        Ok(value)
    }
}

fn parse_part(resource: UbcResource, s: &str) -> Result<Limit, ParseError> {
    if s == "unlimited" {
        return Ok(Limit::Unlimited);
    }
    let name = resource.name();
    let pages = s.strip_suffix('P').map(|number| format!("{number}p"));
    let size = |bare| parse_size(name, pages.as_deref().unwrap_or(s), bare);
    let number = match resource.unit() {
        Unit::Items if s.bytes().any(|b| !b.is_ascii_digit()) => {
            return Err(ParseError::new(name, s, "it must be a plain number or 'unlimited'"));
        }
        Unit::Items | Unit::Bytes => size(1)?.0,
        Unit::Pages => size(Bytes::PAGE)?.pages(),
    };
    Ok(Limit::from_wire(number))
}

/// How far a parameter is really kept on this node; what the start-up self-test proved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", content = "why")]
pub enum Enforcement {
    /// The kernel refuses what goes beyond the limit.
    Hard,
    /// Kept within bounds by means that can overshoot or be coarse.
    Bounded,
    /// Counted, not limited.
    Accounted,
    /// Neither; the text says why.
    Unavailable(String),
}

impl fmt::Display for Enforcement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hard => f.pad("hard"),
            Self::Bounded => f.pad("bounded"),
            Self::Accounted => f.pad("accounted"),
            Self::Unavailable(why) => f.pad(&format!("unavailable ({why})")),
        }
    }
}

/// One line of a container's accounting, in the parameter's unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UbcRow {
    /// Which parameter.
    pub resource: UbcResource,
    /// In use now.
    pub held: u64,
    /// The most that was in use since start.
    pub maxheld: u64,
    /// The two levels.
    pub value: UbcValue,
    /// How often something was refused.
    pub failcnt: u64,
    /// What the node proved it can do.
    pub enforcement: Enforcement,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_names() {
        let names: Vec<_> = UbcResource::ALL.iter().map(|r| r.name()).collect();
        assert_eq!(names.len(), 21);
        assert_eq!((names[0], names[20]), ("kmemsize", "swappages"));
        for r in UbcResource::ALL {
            assert_eq!(r.name().parse(), Ok(r));
        }
    }

    #[test]
    fn values() {
        let parse = |r, s| UbcValue::parse(r, s).map(|v| (v.barrier.to_wire(), v.limit.to_wire()));
        assert_eq!(parse(UbcResource::Numproc, "100"), Ok((100, 100)));
        assert_eq!(parse(UbcResource::Physpages, "0:1G"), Ok((0, 262_144)));
        assert_eq!(parse(UbcResource::Physpages, "256"), Ok((256, 256)));
        for pages in ["2p:3p", "2P:3P"] {
            assert_eq!(parse(UbcResource::Physpages, pages), Ok((2, 3)));
            assert_eq!(parse(UbcResource::Kmemsize, pages), Ok((8192, 12_288)));
        }
        assert_eq!(
            parse(UbcResource::Kmemsize, "14m:unlimited"),
            Ok((14 << 20, Limit::UNLIMITED_TEXT))
        );
        for (r, bad) in [
            (UbcResource::Numproc, "1k"),
            (UbcResource::Numproc, "2:1"),
            (UbcResource::Numproc, ""),
            (UbcResource::Numproc, "1:"),
            (UbcResource::Kmemsize, "x"),
            (UbcResource::Kmemsize, "1:2:3"),
        ] {
            assert!(parse(r, bad).is_err(), "{r} {bad:?}");
        }
    }
}
