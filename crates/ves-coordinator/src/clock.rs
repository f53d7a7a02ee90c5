//! The time and new ids, given from outside, so that a test can say what they are, and when it is later.
//!
//! What the coordinator waits for by itself, it waits for by this clock. How long a service may take to
//! answer is no part of it.

use std::fmt;
use std::pin::Pin;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;
use uuid::Uuid;

/// Resolves when it is time.
pub type Wait = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Where the coordinator's times and ids come from.
pub trait Clock: fmt::Debug + Send + Sync {
    /// Milliseconds since 1970.
    fn now_ms(&self) -> i64;
    /// Now, on a clock that nobody sets.
    fn instant(&self) -> Instant;
    /// Waits until then.
    fn until(&self, then: Instant) -> Wait;
    /// An id nobody has, later ones greater: version 7 of UUIDs.
    fn new_id(&self) -> Uuid;

    /// Waits for so long.
    fn sleep(&self, time: Duration) -> Wait {
        self.until(self.instant() + time)
    }
}

/// The node's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_ms(&self) -> i64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    }

    fn instant(&self) -> Instant {
        Instant::now()
    }

    fn until(&self, then: Instant) -> Wait {
        Box::pin(tokio::time::sleep_until(then))
    }

    fn new_id(&self) -> Uuid {
        Uuid::now_v7()
    }
}

/// A time as people and programs read it.
pub fn rfc3339(unix_ms: i64) -> String {
    match jiff::Timestamp::from_second(unix_ms.div_euclid(1000)) {
        Ok(time) => time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        Err(_) => unix_ms.to_string(),
    }
}
