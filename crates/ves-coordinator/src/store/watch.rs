//! What changed last, for those that watch.
//!
//! A bounded log of the newest transactions' changes, from which each watcher takes what it has not been
//! told. A slow watcher costs nothing; one that is too far behind is told that it lost something. Never
//! here: rows that did not change.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::{Key, Range, Revision};

/// How many changes are remembered.
const CHANGES: usize = 4096;

/// A row that changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// Its place.
    pub key: Key,
    /// What it is now; `None`: it went.
    pub value: Option<Vec<u8>>,
    /// The transaction that changed it.
    pub revision: Revision,
}

/// What a watcher is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Watched {
    /// These changed, in the order of commits; transactions are told whole.
    Changes {
        /// What changed.
        changes: Vec<Changed>,
        /// A watch after this one goes on after them.
        revision: Revision,
    },
    /// More changed than is remembered: read all anew.
    Lost,
}

/// The newest changes.
#[derive(Debug)]
pub(super) struct Log {
    newest: Mutex<Newest>,
    told: watch::Sender<Revision>,
}

#[derive(Debug)]
struct Newest {
    /// Every change after this one is here.
    from: Revision,
    /// The newest.
    at: Revision,
    changes: VecDeque<Changed>,
}

impl Log {
    /// Nothing is known of what was up to `at`.
    pub(super) fn from(at: Revision) -> Arc<Self> {
        let newest = Mutex::new(Newest { from: at, at, changes: VecDeque::new() });
        Arc::new(Self { newest, told: watch::Sender::new(at) })
    }

    fn lock(&self) -> MutexGuard<'_, Newest> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A transaction was committed.
    pub(super) fn push(&self, revision: Revision, changes: impl IntoIterator<Item = Changed>) {
        let mut newest = self.lock();
        newest.at = revision;
        newest.changes.extend(changes);
        // Transactions are forgotten whole.
        while newest.changes.len() > CHANGES
            && let Some(oldest) = newest.changes.front().map(|c| c.revision)
        {
            let kept = newest.changes.iter().position(|c| c.revision > oldest);
            let gone = kept.unwrap_or(newest.changes.len());
            newest.changes.drain(..gone);
            newest.from = oldest;
        }
        drop(newest);
        self.told.send_replace(revision);
    }

    /// All that was known is void.
    pub(super) fn forget(&self, at: Revision) {
        *self.lock() = Newest { from: at, at, changes: VecDeque::new() };
        self.told.send_replace(at);
    }
}

/// A place in the order of changes.
#[derive(Debug)]
pub struct Watch {
    log: Arc<Log>,
    told: watch::Receiver<Revision>,
    range: Range,
    at: Revision,
}

impl Watch {
    pub(super) fn new(log: &Arc<Log>, range: &Range, after: Revision) -> Self {
        let told = log.told.subscribe();
        Self { log: Arc::clone(log), told, range: range.clone(), at: after }
    }

    /// The next changes; waits for them.
    pub async fn next(&mut self) -> Watched {
        loop {
            self.told.borrow_and_update();
            if let Some(watched) = self.now() {
                return watched;
            }
            // The sender is in the log, which is held here.
            self.told.changed().await.ok();
        }
    }

    /// The changes there are by now.
    pub fn now(&mut self) -> Option<Watched> {
        let newest = self.log.lock();
        if self.at < newest.from || self.at > newest.at {
            self.at = newest.at;
            return Some(Watched::Lost);
        }
        let after = newest.changes.partition_point(|c| c.revision <= self.at);
        let meant = |c: &&Changed| self.range.contains(&c.key);
        let changes: Vec<_> = newest.changes.range(after..).filter(meant).cloned().collect();
        self.at = newest.at;
        (!changes.is_empty()).then_some(Watched::Changes { changes, revision: newest.at })
    }
}
