//! The limits of a container that is made without any: no container has all of the node. Pure.
//!
//! They are filled in when it is made and stored as its own, so that they are shown, and stay what they
//! are where the defaults change. Never here: the node's own reserve, which bounds all of them together.

use ves_types::{Bytes, Limit, Limits, UbcResource, UbcValue};

/// The least memory that a default gives.
const LEAST_RAM: Bytes = Bytes::mib(256);

/// What part of the node's memory a container has by default.
const RAM_DIVISOR: u64 = 16;

/// What is filled in; none: no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DefaultLimits {
    /// Processes and threads.
    pub numproc: Option<u64>,
    /// Memory. Half of it may be shared.
    pub ram: Option<Bytes>,
}

impl DefaultLimits {
    /// A sixteenth of the node's memory, `ram`.
    pub fn share_of(ram: Bytes) -> Bytes {
        Bytes(ram.0 / RAM_DIVISOR).max(LEAST_RAM)
    }

    /// Fills in what was not given.
    pub fn fill(&self, limits: &mut Limits) {
        if let Some(numproc) = self.numproc {
            let limit = Limit::Max(numproc);
            let both = UbcValue { barrier: limit, limit };
            limits.ubc.entry(UbcResource::Numproc).or_insert(both);
        }
        let own = limits.ubc.contains_key(&UbcResource::Physpages);
        let ram = if own { limits.limit_bytes(UbcResource::Physpages) } else { self.ram };
        let Some(ram) = ram else { return };
        let shares = [(UbcResource::Physpages, ram), (UbcResource::Shmpages, Bytes(ram.0 / 2))];
        for (resource, bytes) in shares {
            let most = UbcValue { barrier: Limit::Max(0), limit: Limit::Max(bytes.pages()) };
            limits.ubc.entry(resource).or_insert(most);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULTS: DefaultLimits = DefaultLimits { numproc: Some(400), ram: Some(Bytes::gib(1)) };

    fn filled(given: &[(UbcResource, Limit)]) -> [Option<u64>; 3] {
        let value = |limit| UbcValue { barrier: limit, limit };
        let ubc = given.iter().map(|(resource, limit)| (*resource, value(*limit))).collect();
        let mut limits = Limits { ubc, ..Limits::default() };
        DEFAULTS.fill(&mut limits);
        [UbcResource::Numproc, UbcResource::Physpages, UbcResource::Shmpages]
            .map(|resource| limits.limit(resource).max())
    }

    #[test]
    fn what_is_not_given_has_a_limit() {
        use UbcResource::{Numproc, Physpages, Shmpages};
        assert_eq!(filled(&[]), [Some(400), Some(262_144), Some(131_072)]);
        assert_eq!(filled(&[(Physpages, Limit::Max(1000))]), [Some(400), Some(1000), Some(500)]);
        let own = [(Numproc, Limit::Max(7)), (Shmpages, Limit::Max(9))];
        assert_eq!(filled(&own), [Some(7), Some(262_144), Some(9)]);
        let none = [(Numproc, Limit::Unlimited), (Physpages, Limit::Unlimited)];
        assert_eq!(filled(&none), [None, None, None], "asked for by name");
    }

    #[test]
    fn a_sixteenth_of_the_node_and_no_less_than_a_system_needs() {
        assert_eq!(DefaultLimits::share_of(Bytes::gib(64)), Bytes::gib(4));
        assert_eq!(DefaultLimits::share_of(Bytes::gib(1)), Bytes::mib(256));
    }
}
