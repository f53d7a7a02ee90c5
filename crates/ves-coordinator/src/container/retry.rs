//! Whether and when a container that ended by itself is started again. Pure.
//!
//! After 1, 2, 4, … and at most 300 seconds, counted from its end; after a run of ten minutes from 1 again.
//! Never here: how it is started, or what else follows from an end.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use ves_types::{ExitCause, RestartPolicy};

/// The longest pause, in milliseconds.
const LONGEST_MS: i64 = 300_000;
/// How long a run is after which pauses begin anew, in milliseconds.
const GOOD_RUN_MS: i64 = 600_000;

/// That a container is started again, or was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retry {
    /// How often in a row, this time included.
    pub tries: u32,
    /// When, in milliseconds since 1970.
    pub at_unix_ms: i64,
    /// Whether that is still to come.
    pub pending: bool,
}

impl Retry {
    /// What follows from an end that no operation led to; `end` is `None` where nobody knows how it came.
    pub fn after_end(
        policy: RestartPolicy,
        end: Option<ExitCause>,
        before: Option<&Self>,
        now_ms: i64,
    ) -> Option<Self> {
        let wanted = match (policy, end) {
            (RestartPolicy::No, _) | (_, Some(ExitCause::Stopped | ExitCause::Killed)) => false,
            (RestartPolicy::OnFailure, Some(ExitCause::Halted)) => false,
            (RestartPolicy::OnFailure | RestartPolicy::Always, _) => true,
        };
        let row = before.filter(|retry| now_ms.saturating_sub(retry.at_unix_ms) < GOOD_RUN_MS);
        wanted.then(|| Self::later(row.map_or(0, |retry| retry.tries), now_ms))
    }

    /// The next one, where this one came to nothing.
    #[must_use]
    pub fn again(&self, now_ms: i64) -> Self {
        Self::later(self.tries, now_ms)
    }

    fn later(tries: u32, now_ms: i64) -> Self {
        let pause = 1000_i64.checked_shl(tries).unwrap_or(LONGEST_MS);
        let pause = if (1000..=LONGEST_MS).contains(&pause) { pause } else { LONGEST_MS };
        Self {
            tries: tries.saturating_add(1),
            at_unix_ms: now_ms.saturating_add(pause),
            pending: true,
        }
    }

    /// The same, which is done now.
    #[must_use]
    pub fn begun(&self, now_ms: i64) -> Self {
        Self { tries: self.tries, at_unix_ms: now_ms, pending: false }
    }

    /// How long it is until then; never longer than a pause is, however the clock was set.
    pub fn wait(&self, now_ms: i64) -> Duration {
        let left = self.at_unix_ms.saturating_sub(now_ms).clamp(0, LONGEST_MS);
        Duration::from_millis(left.unsigned_abs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_five_minutes_and_a_good_run_ends_the_row() {
        let end = |before: Option<&Retry>, now| {
            let end = Some(ExitCause::Exited);
            Retry::after_end(RestartPolicy::OnFailure, end, before, now).expect("wanted")
        };
        let mut now = 7;
        let mut last: Option<Retry> = None;
        for pause in [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300] {
            let retry = end(last.as_ref(), now);
            assert_eq!(retry.wait(now), Duration::from_secs(pause));
            assert_eq!(last.map_or(Some(1), |l| l.tries.checked_add(1)), Some(retry.tries));
            now = retry.at_unix_ms + 1;
            last = Some(retry.begun(now));
            now += GOOD_RUN_MS - 1;
        }
        assert_eq!(end(last.as_ref(), now + 1).tries, 1, "it ran for ten minutes");
        let many = Retry { tries: u32::MAX, at_unix_ms: 0, pending: false };
        assert_eq!(many.again(5).wait(5), Duration::from_secs(300));
    }

    #[test]
    fn a_clock_that_is_set_back_keeps_nobody_waiting() {
        let retry = Retry { tries: 1, at_unix_ms: i64::MAX, pending: true };
        assert_eq!(retry.wait(0), Duration::from_secs(300));
        assert_eq!(Retry { at_unix_ms: 0, ..retry }.wait(i64::MAX), Duration::ZERO);
    }

    #[test]
    fn which_ends_are_followed_by_a_start() {
        use ExitCause::{Exited, Halted, Killed, Stopped};
        let started = |policy| {
            [None, Some(Exited), Some(Halted), Some(Stopped), Some(Killed)]
                .map(|end| Retry::after_end(policy, end, None, 0).is_some())
        };
        assert_eq!(started(RestartPolicy::No), [false; 5]);
        assert_eq!(started(RestartPolicy::OnFailure), [true, true, false, false, false]);
        assert_eq!(started(RestartPolicy::Always), [true, true, true, false, false]);
    }
}
