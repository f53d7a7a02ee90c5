//! Who waits for a turn at a container, first come first served, and how many may.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use ves_proto::{Fault, Reason};
use ves_types::CtId;

/// How many calls may wait for one container.
pub const MOST_WAITING: usize = 64;

/// How long a call waits at most.
pub const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// What becomes of a change while somebody else works on the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conflict {
    /// It is refused.
    Fail,
    /// It waits for its turn, so long at most.
    Queue(Duration),
}

/// Those who wait, by container.
#[derive(Debug, Default)]
pub struct Queues {
    lines: Mutex<HashMap<CtId, Line>>,
}

#[derive(Debug)]
struct Line {
    turn: Arc<Semaphore>,
    waiting: usize,
}

/// A place in a line; it is left when this is dropped.
#[derive(Debug)]
pub struct Place<'a> {
    queues: &'a Queues,
    ct: CtId,
    turn: Arc<Semaphore>,
}

impl Queues {
    fn lines(&self) -> MutexGuard<'_, HashMap<CtId, Line>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the last place.
    ///
    /// # Errors
    /// `TOO_MANY` where the line is long.
    pub fn join(&self, ct: CtId) -> Result<Place<'_>, Fault> {
        let mut lines = self.lines();
        let line = lines
            .entry(ct)
            .or_insert_with(|| Line { turn: Arc::new(Semaphore::new(1)), waiting: 0 });
        if line.waiting >= MOST_WAITING {
            let message = format!(
                "{MOST_WAITING} calls wait for container {ct} already; try again when some are done"
            );
            return Err(Fault::new(Reason::TooMany, message).fact("limit", MOST_WAITING));
        }
        line.waiting += 1;
        Ok(Place { queues: self, ct, turn: Arc::clone(&line.turn) })
    }
}

impl Place<'_> {
    /// Waits until nobody who came before waits any more.
    pub async fn first(&self) -> Option<OwnedSemaphorePermit> {
        // Never closed.
        Arc::clone(&self.turn).acquire_owned().await.ok()
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut lines = self.queues.lines();
        if let Some(line) = lines.get_mut(&self.ct) {
            line.waiting = line.waiting.saturating_sub(1);
            if line.waiting == 0 {
                lines.remove(&self.ct);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn first_come_first_served_and_not_too_many() {
        let queues = Queues::default();
        let ct = CtId::try_from(101).expect("an id");
        let all: Vec<_> = (0..MOST_WAITING).map(|_| queues.join(ct).expect("room")).collect();
        assert_eq!(queues.join(ct).expect_err("too many").reason, Reason::TooMany);
        let turn = all[0].first().await;
        {
            let mut next = std::pin::pin!(all[1].first());
            assert!(futures::poll!(next.as_mut()).is_pending(), "one at a time");
            drop(turn);
            assert!(next.await.is_some());
        }
        drop(all);
        assert!(queues.lines().is_empty(), "nothing is left of it");
    }
}
