//! How much of a container's making is served in a tick, since the work of passing it on is the node's.
//!
//! Never here: waiting, or what is served.

use std::time::{Duration, Instant};

/// The most bytes in each [`TICK`].
const MAX_PER_TICK: usize = 1024 * 1024;
const TICK: Duration = Duration::from_millis(100);

/// How much is still served in this tick.
#[derive(Debug)]
pub(crate) struct RateLimit {
    ends: Instant,
    left: usize,
}

impl RateLimit {
    pub(crate) fn new() -> Self {
        Self { ends: Instant::now() + TICK, left: MAX_PER_TICK }
    }
    /// How long to serve nothing of it; `None` where it may be served.
    pub(crate) fn pause(&mut self, now: Instant) -> Option<Duration> {
        if now >= self.ends {
            *self = Self { ends: now + TICK, left: MAX_PER_TICK };
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
        let mut rate_limit = RateLimit::new();
        let begun = rate_limit.ends;
        assert_eq!(rate_limit.pause(begun), None);
        rate_limit.spend(MAX_PER_TICK - 1);
        assert_eq!(rate_limit.pause(begun), None);
        rate_limit.spend(16 * 1024);
        assert_eq!(rate_limit.pause(begun), Some(TICK));
        assert_eq!(rate_limit.pause(begun + TICK / 2), Some(TICK / 2));
        assert_eq!(rate_limit.pause(begun + TICK), None);
    }
}
