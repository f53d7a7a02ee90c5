//! Which events are in the store. Pure.
//!
//! Never here: what they say, or when they are forgotten.

/// Which events are kept: those from `first` to `last`, by number. Numbers begin with 1, and `last` is 0 before there
/// is any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Log {
    /// The oldest that is kept, or the one that comes first.
    pub first: u64,
    /// The newest.
    pub last: u64,
}

impl Default for Log {
    fn default() -> Self {
        Self { first: 1, last: 0 }
    }
}

impl Log {
    /// How many there are.
    pub const fn count(self) -> u64 {
        self.last.saturating_add(1).saturating_sub(self.first)
    }

    /// The number of a new one.
    pub(super) const fn next(&mut self) -> u64 {
        self.last = self.last.saturating_add(1);
        self.last
    }

    /// The numbers of those before `first`, which are none of it any more. The newest stays, so that a number is
    /// never used twice.
    pub(super) fn forget_before(&mut self, first: u64) -> std::ops::Range<u64> {
        let before = self.first;
        self.first = first.min(self.last).max(before);
        before..self.first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_used_once() {
        let mut log = Log::default();
        assert_eq!(log.count(), 0);
        assert_eq!(log.forget_before(5), 1..1, "there is none");
        assert_eq!([log.next(), log.next(), log.next()], [1, 2, 3]);
        assert_eq!(log.forget_before(2), 1..2);
        assert_eq!(log.forget_before(1), 2..2, "they are gone already");
        assert_eq!(log.forget_before(u64::MAX), 2..3, "the newest stays");
        assert_eq!((log, log.count()), (Log { first: 3, last: 3 }, 1));
        assert_eq!(log.next(), 4);
    }
}
