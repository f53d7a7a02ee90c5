//! The 21 rows: what is used, what was wanted, what the node promises, in the users' order. Pure.

use std::collections::BTreeMap;

use ves_types::{Limits, UbcResource, UbcRow};

use crate::enforcement::{self, SelfTest};

/// What is counted of one parameter, in its own unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Count {
    /// In use now.
    pub held: u64,
    /// The most in use, where the kernel remembers it; else what is in use now.
    pub maxheld: u64,
    /// How often something was refused.
    pub failcnt: u64,
}

impl Count {
    /// Something whose greatest value and refusals the kernel does not remember.
    pub const fn now(held: u64) -> Self {
        Self { held, maxheld: held, failcnt: 0 }
    }
}

/// What a container uses.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Usage {
    /// By parameter; one that this node does not count is absent.
    pub counts: BTreeMap<UbcResource, Count>,
    /// Processor time, in microseconds.
    pub cpu_usec: u64,
    /// Processes killed because memory ran out, where the kernel tells.
    pub oom_kills: Option<u64>,
}

impl Usage {
    /// Keeps in `peaks` the most that was ever seen, and takes from it what the kernel forgot.
    pub fn remember(&mut self, peaks: &mut BTreeMap<UbcResource, u64>) {
        for (resource, count) in &mut self.counts {
            let peak = peaks.entry(*resource).or_default();
            *peak = count.maxheld.max(count.held).max(*peak);
            count.maxheld = *peak;
        }
    }
}

/// All rows. The levels are those that were wanted, kept or not.
pub fn rows(usage: &Usage, limits: &Limits, self_test: &SelfTest) -> Vec<UbcRow> {
    let row = |resource: UbcResource| {
        let Count { held, maxheld, failcnt } =
            usage.counts.get(&resource).copied().unwrap_or_default();
        UbcRow {
            resource,
            held,
            maxheld,
            value: limits.ubc.get(&resource).copied().unwrap_or_default(),
            failcnt,
            enforcement: enforcement::enforcement(resource, self_test),
        }
    };
    UbcResource::ALL.map(row).into()
}

#[cfg(test)]
mod tests {
    use ves_types::{Limit, UbcValue};

    use super::*;

    #[test]
    fn all_rows_in_order_with_what_was_wanted() {
        let mut limits = Limits::default();
        let value = UbcValue { barrier: Limit::Max(5), limit: Limit::Max(6) };
        limits.ubc.insert(UbcResource::Privvmpages, value);
        let rows = rows(&Usage::default(), &limits, &SelfTest::all());
        assert_eq!(rows.iter().map(|r| r.resource).collect::<Vec<_>>(), UbcResource::ALL);
        assert_eq!(rows[2].value, value);
        assert_eq!(rows[0].value, UbcValue::default());
    }

    #[test]
    fn the_most_that_was_seen_is_remembered() {
        let mut peaks = BTreeMap::new();
        for held in [3, 9, 4] {
            let counts = [(UbcResource::Numfile, Count::now(held))].into();
            let mut usage = Usage { counts, ..Usage::default() };
            usage.remember(&mut peaks);
            assert!(usage.counts[&UbcResource::Numfile].maxheld >= held);
        }
        assert_eq!(peaks[&UbcResource::Numfile], 9);
    }
}
