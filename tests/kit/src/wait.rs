//! Waiting for a condition with a deadline; the only place where tests sleep.

use std::time::{Duration, Instant};

const PAUSE: Duration = Duration::from_millis(10);

/// Waits until `cond` holds.
///
/// # Panics
/// When it does not within `deadline`; the message says `what` was waited for.
#[track_caller]
pub fn wait_until(deadline: Duration, what: &str, mut cond: impl FnMut() -> bool) {
    let end = Instant::now() + deadline;
    while !cond() {
        assert!(Instant::now() < end, "{what}: not within {deadline:?}");
        std::thread::sleep(PAUSE);
    }
}

/// Waits until the condition that `cond` computes holds, without blocking the runtime.
///
/// # Panics
/// When it does not within `deadline`; the message says `what` was waited for.
#[cfg(feature = "otlp")]
pub async fn wait_until_async<F>(deadline: Duration, what: &str, mut cond: impl FnMut() -> F)
where
    F: Future<Output = bool>,
{
    let end = Instant::now() + deadline;
    while !cond().await {
        assert!(Instant::now() < end, "{what}: not within {deadline:?}");
        tokio::time::sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_as_long_as_needed() {
        let mut calls = 0;
        wait_until(Duration::from_secs(5), "three calls", || {
            calls += 1;
            calls == 3
        });
        assert_eq!(calls, 3);
    }

    #[cfg(feature = "otlp")]
    #[tokio::test]
    #[should_panic(expected = "pigs fly: not within")]
    async fn says_what_did_not_happen() {
        wait_until_async(Duration::from_millis(30), "pigs fly", async || false).await;
    }
}
