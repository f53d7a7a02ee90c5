//! How much of a container's making is served in a tick, since the work of passing it on is the node's.

use std::time::{Duration, Instant};

/// The most bytes in each [`TICK`].
const MOST_PER_TICK: usize = 1024 * 1024;
const TICK: Duration = Duration::from_millis(100);

/// How much is still served in this tick.
#[derive(Debug)]
pub(crate) struct Allowance {
    ends: Instant,
    left: usize,
}

impl Allowance {
    pub(crate) fn new() -> Self {
        Self { ends: Instant::now() + TICK, left: MOST_PER_TICK }
    }
    /// How long to serve nothing of it; `None` where it may be served.
    pub(crate) fn pause(&mut self, now: Instant) -> Option<Duration> {
        if now >= self.ends {
            *self = Self { ends: now + TICK, left: MOST_PER_TICK };
        }
        (self.left == 0).then(|| self.ends.saturating_duration_since(now))
    }
    pub(crate) fn spend(&mut self, bytes: usize) {
        self.left = self.left.saturating_sub(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_prints_too_much_waits_for_the_next_tick() {
        let mut allowance = Allowance::new();
        let begun = allowance.ends;
        assert_eq!(allowance.pause(begun), None);
        allowance.spend(MOST_PER_TICK - 1);
        assert_eq!(allowance.pause(begun), None);
        allowance.spend(16 * 1024);
        assert_eq!(allowance.pause(begun), Some(TICK));
        assert_eq!(allowance.pause(begun + TICK / 2), Some(TICK / 2));
        assert_eq!(allowance.pause(begun + TICK), None);
    }
}
