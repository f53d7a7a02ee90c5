//! A clock that goes as the machine's, and can be put forward by hand. Never here: who waits for what.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use ves_coordinator::clock::{Clock, SystemClock, Wait};

/// A clock. Clones are the same clock.
#[derive(Debug, Clone, Default)]
pub(crate) struct SimClock {
    ahead: watch::Sender<Duration>,
}

impl SimClock {
    /// It is later by so much, and who waited for that waits no longer.
    pub(crate) fn advance(&self, time: Duration) {
        self.ahead.send_modify(|ahead| *ahead += time);
    }

    fn ahead(&self) -> Duration {
        *self.ahead.borrow()
    }
}

impl Clock for SimClock {
    fn now_ms(&self) -> i64 {
        SystemClock.now_ms() + i64::try_from(self.ahead().as_millis()).unwrap_or_default()
    }

    fn instant(&self) -> Instant {
        Instant::now() + self.ahead()
    }

    fn until(&self, then: Instant) -> Wait {
        let mut ahead = self.ahead.subscribe();
        Box::pin(async move {
            loop {
                let here = then.checked_sub(*ahead.borrow_and_update());
                let Some(here) = here.filter(|here| *here > Instant::now()) else { return };
                tokio::select! {
                    () = tokio::time::sleep_until(here) => return,
                    changed = ahead.changed() => if changed.is_err() { return },
                }
            }
        })
    }

    fn new_id(&self) -> uuid::Uuid {
        SystemClock.new_id()
    }
}
