//! What is to be told and is not stored yet, and what of that is held back: in memory, and lost with the daemon.
//!
//! Never here: what is done with it ([`crate::events`]).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use ves_types::CtId;

use crate::happening::Happening;

/// How many events wait at most for being stored.
const QUEUE: usize = 4096;

/// How long a service is away before that is told: a daemon that is replaced is away for a moment.
const AWAY: Duration = Duration::from_secs(10);

/// What is to be told.
#[derive(Debug)]
pub struct Telling {
    to: mpsc::Sender<Happening>,
    from: Mutex<Option<mpsc::Receiver<Happening>>>,
    /// Containers whose kills are told of now and then.
    kills: Mutex<BTreeSet<CtId>>,
    /// Services that are away: since when, and whether that was told.
    away: Mutex<BTreeMap<String, (Instant, bool)>>,
}

impl Default for Telling {
    fn default() -> Self {
        let (to, from) = mpsc::channel(QUEUE);
        let from = Mutex::new(Some(from));
        Self { to, from, kills: Mutex::default(), away: Mutex::default() }
    }
}

fn lock<T>(held: &Mutex<T>) -> MutexGuard<'_, T> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Telling {
    /// Puts it behind what waits; false: too much does.
    pub fn push(&self, happening: Happening) -> bool {
        self.to.try_send(happening).is_ok()
    }

    /// What waits, for the one who stores it.
    pub fn take(&self) -> Option<mpsc::Receiver<Happening>> {
        lock(&self.from).take()
    }

    /// Begins to tell of a container's kills; false: somebody does.
    pub fn begin_kills(&self, ct: CtId) -> bool {
        lock(&self.kills).insert(ct)
    }

    /// Ends that.
    pub fn end_kills(&self, ct: CtId) {
        lock(&self.kills).remove(&ct);
    }

    /// A service is away; true where that is to be told now.
    pub fn is_away(&self, service: &str, now: Instant) -> bool {
        let mut away = lock(&self.away);
        let (since, told) = away.entry(service.to_owned()).or_insert((now, false));
        let tell = !*told && now.duration_since(*since) >= AWAY;
        *told |= tell;
        tell
    }

    /// A service answers; true where that is to be told.
    pub fn is_back(&self, service: &str) -> bool {
        lock(&self.away).remove(service).is_some_and(|(_, told)| told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_that_is_away_for_long_is_told_once() {
        let (telling, begun) = (Telling::default(), Instant::now());
        let after = |seconds| begun + Duration::from_secs(seconds);
        let away = [0, 9, 10, 11, 99].map(|s| telling.is_away("storage", after(s)));
        assert_eq!(away, [false, false, true, false, false]);
        assert!(!telling.is_away("network", after(99)), "another one");
        assert!(telling.is_back("storage"));
        assert!(!telling.is_back("storage"), "it was");
        assert!(!telling.is_back("network"), "nobody knew that it was away");
    }

    #[test]
    fn what_waits_has_a_bound() {
        let telling = Telling::default();
        let one = Happening::to(crate::happening::Type::Access, String::new());
        assert!((0..QUEUE).all(|_| telling.push(one.clone())));
        assert!(!telling.push(one));
    }
}
