//! The built-in samples of parameters that `--config` and `--applyconfig` name.
//!
//! The values are those OpenVZ shipped under these names. Pure data.

use ves_types::UbcResource as U;
use ves_types::{DiskSize, Limit, UbcValue};

use crate::failure::Failure;

/// A set of parameters under a name.
#[derive(Debug)]
pub(crate) struct Sample {
    /// The name users know.
    pub(crate) name: &'static str,
    /// Hard size of the volume.
    pub(crate) disk: DiskSize,
    /// Weight.
    pub(crate) cpu_units: u32,
    ubc: &'static [(U, u64, u64)],
}

/// Unlimited, as a number.
const MAX: u64 = Limit::UNLIMITED_TEXT;

/// All there are.
pub(crate) const ALL: &[Sample] = &[
    Sample {
        name: "vswap-256m",
        disk: DiskSize::DEFAULT,
        cpu_units: 1000,
        ubc: &[(U::Physpages, 0, 65_536), (U::Swappages, 0, 131_072)],
    },
    Sample {
        name: "basic",
        disk: DiskSize::saturating(2_306_867_200), // soft 2 GiB, hard 2.2 GiB: only the hard one counts
        cpu_units: 1000,
        ubc: &[
            (U::Kmemsize, 14_372_700, 14_790_164),
            (U::Lockedpages, 2048, 2048),
            (U::Privvmpages, 65_536, 69_632),
            (U::Shmpages, 21_504, 21_504),
            (U::Numproc, 240, 240),
            (U::Vmguarpages, 33_792, MAX),
            (U::Oomguarpages, 26_112, MAX),
            (U::Numtcpsock, 360, 360),
            (U::Numflock, 188, 206),
            (U::Numpty, 16, 16),
            (U::Numsiginfo, 256, 256),
            (U::Tcpsndbuf, 1_720_320, 2_703_360),
            (U::Tcprcvbuf, 1_720_320, 2_703_360),
            (U::Othersockbuf, 1_126_080, 2_097_152),
            (U::Dgramrcvbuf, 262_144, 262_144),
            (U::Numothersock, 360, 360),
            (U::Dcachesize, 3_409_920, 3_624_960),
            (U::Numfile, 9312, 9312),
            (U::Numiptent, 128, 128),
        ],
    },
];

impl Sample {
    /// The sample of this name.
    pub(crate) fn named(name: &str) -> Result<&'static Self, Failure> {
        ALL.iter().find(|s| s.name == name).ok_or_else(|| {
            let names: Vec<_> = ALL.iter().map(|s| s.name).collect();
            Failure::usage(format!("no sample is called {name:?}; there are: {}", names.join(", ")))
        })
    }

    /// Its UBC parameters.
    pub(crate) fn ubc(&self) -> impl Iterator<Item = (U, UbcValue)> + '_ {
        self.ubc.iter().map(|&(resource, barrier, limit)| {
            let value =
                UbcValue { barrier: Limit::from_wire(barrier), limit: Limit::from_wire(limit) };
            (resource, value)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn barriers_do_not_exceed_limits_and_nothing_is_twice() {
        for sample in ALL {
            let mut seen = std::collections::BTreeSet::new();
            for (resource, value) in sample.ubc() {
                assert!(value.barrier <= value.limit, "{} {resource}", sample.name);
                assert!(seen.insert(resource), "{} {resource}", sample.name);
            }
        }
        assert!(Sample::named("nonsense").is_err());
    }
}
