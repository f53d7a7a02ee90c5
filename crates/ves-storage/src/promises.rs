//! Promises of the pool's room: what is held, and what calls under way will take.
//!
//! Two calls are never promised the same room: whoever decides something that takes room is
//! [`Promises::alone`] from looking at the pool to reserving. Never here: how much may be promised, how
//! anything is done.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ves_types::CtId;

use crate::error::Error;
use crate::host::Host;
use crate::ledger::{Holder, Ledger};
use crate::plan::{Observed, PoolFacts};

#[derive(Default)]
struct Books {
    /// `None` until the host was asked, and when nobody knows any more.
    ledger: Option<Ledger>,
    reserved: BTreeMap<u64, u64>,
    next: u64,
}

struct Inner {
    host: Arc<dyn Host>,
    deciding: Mutex<()>,
    books: Mutex<Books>,
}

/// What was promised. Clones are the same.
#[derive(Clone)]
pub(crate) struct Promises(Arc<Inner>);

impl Promises {
    /// Nothing is known yet.
    pub(crate) fn new(host: Arc<dyn Host>) -> Self {
        Self(Arc::new(Inner { host, deciding: Mutex::default(), books: Mutex::default() }))
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.0.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nobody else decides while the answer lives.
    pub(crate) fn alone(&self) -> MutexGuard<'_, ()> {
        self.0.deciding.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pool as it is now.
    pub(crate) fn facts(&self) -> Result<PoolFacts, Error> {
        let mut books = self.books();
        let held = match &books.ledger {
            Some(ledger) => ledger.sums(),
            None => books.ledger.insert(self.0.host.inventory()?.into()).sums(),
        };
        Ok(PoolFacts { room: self.0.host.room()?, held, reserved: books.reserved.values().sum() })
    }

    /// A container was seen so.
    pub(crate) fn see(&self, ct: CtId, seen: &Observed) {
        if let Some(ledger) = &mut self.books().ledger {
            ledger.see(ct, seen);
        }
    }

    /// From now on `holder` holds this much.
    pub(crate) fn set(&self, holder: Holder, bytes: u64) {
        if let Some(ledger) = &mut self.books().ledger {
            ledger.set(holder, bytes);
        }
    }

    /// Something failed, and nobody knows what a container holds.
    pub(crate) fn doubt(&self, ct: CtId) {
        match self.0.host.observe(ct, None) {
            Ok(seen) => self.see(ct, &seen),
            Err(_) => self.forget(),
        }
    }

    /// Nobody knows who holds what: the host is asked again.
    pub(crate) fn forget(&self) {
        self.books().ledger = None;
    }

    /// Promises this much to one call.
    pub(crate) fn reserve(&self, bytes: u64) -> Reservation {
        let mut books = self.books();
        let key = books.next;
        books.next += 1;
        books.reserved.insert(key, bytes);
        Reservation { promises: self.clone(), key }
    }
}

/// What one call was promised and has not taken yet. It goes with the call.
pub(crate) struct Reservation {
    promises: Promises,
    key: u64,
}

impl Reservation {
    /// This much more was promised to the call.
    pub(crate) fn add(&self, bytes: u64) {
        *self.promises.books().reserved.entry(self.key).or_default() += bytes;
    }

    /// `holder` holds this much now; what it has come to hold more was promised, and is taken.
    pub(crate) fn take(&self, holder: Holder, bytes: u64) {
        let mut books = self.promises.books();
        let grown = books.ledger.as_mut().map_or(0, |ledger| ledger.set(holder, bytes));
        if let Some(left) = books.reserved.get_mut(&self.key) {
            *left = left.saturating_sub(grown);
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.promises.books().reserved.remove(&self.key);
    }
}

impl std::fmt::Debug for Reservation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Reservation").field(&self.key).finish()
    }
}
