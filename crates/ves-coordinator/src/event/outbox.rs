//! The outbox: events that no operation made and that are not stored yet, and what is known so that none is published
//! twice: in memory, and lost with the daemon.
//!
//! Never here: how they are stored ([`crate::events`]).

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;
use ves_types::CtId;

use crate::event::record::NewEvent;

/// How many events wait at most for being stored.
const QUEUE: usize = 4096;

/// Events that wait for being stored.
#[derive(Debug)]
pub struct Outbox {
    to: mpsc::Sender<NewEvent>,
    /// How many could not be kept, which was not told yet.
    lost: AtomicU64,
    from: Mutex<Option<mpsc::Receiver<NewEvent>>>,
    /// Containers whose kills are published now and then.
    kills: Mutex<BTreeSet<CtId>>,
}

impl Default for Outbox {
    fn default() -> Self {
        let (to, from) = mpsc::channel(QUEUE);
        let from = Mutex::new(Some(from));
        Self { to, from, lost: AtomicU64::default(), kills: Mutex::default() }
    }
}

fn lock<T>(held: &Mutex<T>) -> MutexGuard<'_, T> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Outbox {
    /// Puts it behind what waits; false: too much does, and it is counted as lost.
    pub fn push(&self, event: NewEvent) -> bool {
        let waits = self.to.try_send(event).is_ok();
        self.lose(u64::from(!waits));
        waits
    }

    /// So many more are lost.
    pub fn lose(&self, count: u64) {
        self.lost.fetch_add(count, Ordering::Relaxed);
    }

    /// Whether some are lost that were not told of.
    pub fn has_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed) > 0
    }

    /// How many are lost, for the one who tells of them.
    pub fn take_lost(&self) -> u64 {
        self.lost.swap(0, Ordering::Relaxed)
    }

    /// What waits, for the one who stores it.
    pub fn take(&self) -> Option<mpsc::Receiver<NewEvent>> {
        lock(&self.from).take()
    }

    /// Begins to publish a container's kills; false: somebody does.
    pub fn begin_kills(&self, ct: CtId) -> bool {
        lock(&self.kills).insert(ct)
    }

    /// Ends that.
    pub fn end_kills(&self, ct: CtId) {
        lock(&self.kills).remove(&ct);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_has_a_bound() {
        let outbox = Outbox::default();
        let one = NewEvent::to(crate::event::record::Type::Access, String::new());
        assert!((0..QUEUE).all(|_| outbox.push(one.clone())));
        assert!(!outbox.has_lost());
        assert!(!outbox.push(one.clone()) && !outbox.push(one), "it is full");
        assert_eq!((outbox.has_lost(), outbox.take_lost(), outbox.take_lost()), (true, 2, 0));
    }
}
