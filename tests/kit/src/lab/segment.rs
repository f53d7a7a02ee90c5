//! What the segment between machines does wrong on request, whatever carries it: the hub between
//! virtual machines, the bridge between native nodes.

use std::collections::BTreeSet;
use std::time::Duration;

/// What the segment does wrong. Machines are named by their numbers, from 1 on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fault {
    /// Machines that hear nobody and are heard by nobody, and are not told of it.
    pub cut: BTreeSet<usize>,
    /// Sets of machines that hear each other only; empty: everybody.
    pub partitions: Vec<BTreeSet<usize>>,
    /// Pairs of machines that do not hear each other, the smaller number first.
    pub apart: BTreeSet<(usize, usize)>,
    /// Machines whose link has no carrier: they know it at once.
    pub unplugged: BTreeSet<usize>,
    /// Each how many-th frame is dropped; 0: none. Counted, not drawn, so that a failure repeats.
    pub drop_every: u32,
    /// How long each frame is held back.
    pub delay: Duration,
}

impl Fault {
    /// Whether frames of one machine reach another.
    pub(super) fn passes(&self, from: usize, to: usize) -> bool {
        let parted = self.partitions.iter().any(|p| p.contains(&from) != p.contains(&to));
        let apart = self.apart.contains(&(from.min(to), from.max(to)));
        !parted && !apart && ![from, to].iter().any(|m| self.cut.contains(m))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_apart_hears_nothing_of_each_other() {
        let all = |fault: &Fault| {
            let pairs = [(1, 2), (2, 1), (1, 3), (3, 1), (2, 3), (3, 2)];
            pairs.map(|(from, to)| fault.passes(from, to))
        };
        assert_eq!(all(&Fault::default()), [true; 6]);
        let apart = Fault { apart: [(1, 2)].into(), ..Fault::default() };
        assert_eq!(all(&apart), [false, false, true, true, true, true]);
        let parted = Fault { partitions: vec![[1, 2].into()], ..Fault::default() };
        assert_eq!(all(&parted), [true, true, false, false, false, false]);
        let cut = Fault { cut: [3].into(), ..Fault::default() };
        assert_eq!(all(&cut), [true, true, false, false, false, false]);
    }
}
