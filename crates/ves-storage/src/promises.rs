//! Promises of the pool's room: what is held, and what calls under way will take.
//!
//! Two calls are never promised the same room: whoever decides something that takes room is
//! [`Promises::alone`] from looking at the pool to reserving. What is held is a cache of what the host
//! would find in the pool; an [`Audit`] holds the one against the other. Never here: how much may be
//! promised, how anything is done.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ves_types::CtId;

use crate::error::Error;
use crate::host::Host;
use crate::ledger::{Difference, Holder, Inventory, Ledger};
use crate::plan::{Observed, PoolFacts};

#[derive(Default)]
struct Books {
    /// `None` until the host was asked, and when nobody knows any more.
    ledger: Option<Ledger>,
    /// While there is an audit, whose share has changed since it began.
    changed: Option<BTreeSet<Holder>>,
    reserved: BTreeMap<u64, u64>,
    next: u64,
}

impl Books {
    /// From now on `holder` holds this much. Answers by how much that is more.
    fn set(&mut self, holder: Holder, bytes: u64) -> u64 {
        let Some(ledger) = &mut self.ledger else { return 0 };
        if let Some(changed) = self.changed.as_mut().filter(|_| ledger.holds(&holder) != bytes) {
            changed.insert(holder.clone());
        }
        ledger.set(holder, bytes)
    }
}

struct Inner {
    host: Arc<dyn Host>,
    deciding: Mutex<()>,
    auditing: Mutex<()>,
    books: Mutex<Books>,
}

/// What was promised. Clones are the same.
#[derive(Clone)]
pub(crate) struct Promises(Arc<Inner>);

impl Promises {
    /// Nothing is known yet.
    pub(crate) fn new(host: Arc<dyn Host>) -> Self {
        let (deciding, auditing) = (Mutex::default(), Mutex::default());
        Self(Arc::new(Inner { host, deciding, auditing, books: Mutex::default() }))
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
        let mut books = self.books();
        let now = books.ledger.as_ref().map(|ledger| ledger.shows(ct, seen)).unwrap_or_default();
        for (holder, bytes) in now {
            books.set(holder, bytes);
        }
    }

    /// From now on `holder` holds this much.
    pub(crate) fn set(&self, holder: Holder, bytes: u64) {
        self.books().set(holder, bytes);
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
        let mut books = self.books();
        // An audit under way is of what was counted before.
        (books.ledger, books.changed) = (None, None);
    }

    /// Holds what is counted against what is in the pool. There is one audit at a time.
    pub(crate) fn audit(&self) -> Result<Audit<'_>, Error> {
        let alone = self.0.auditing.lock().unwrap_or_else(PoisonError::into_inner);
        self.books().changed = Some(BTreeSet::new());
        let mut audit = Audit { promises: self, found: Inventory::new(), _alone: alone };
        // Nobody waits for this, and what changes meanwhile is noted.
        audit.found = self.0.host.inventory()?;
        Ok(audit)
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

/// What was found in the pool, while changes of what is counted are noted.
pub(crate) struct Audit<'p> {
    promises: &'p Promises,
    found: Inventory,
    _alone: MutexGuard<'p, ()>,
}

impl Audit<'_> {
    /// What is counted otherwise than it was found. Of what is being changed that says nothing.
    pub(crate) fn differences(&self) -> Vec<Difference> {
        match &self.promises.books().ledger {
            Some(ledger) => ledger.differences(&self.found),
            None => Vec::new(),
        }
    }

    /// From now on as much is counted as was found, unless the holder's share has changed since. To be
    /// called while nobody can change that; says whether it was wrong.
    pub(crate) fn correct(&self, difference: &Difference) -> bool {
        let mut books = self.promises.books();
        let Difference { holder, found, .. } = difference;
        let same = books.changed.as_ref().is_some_and(|changed| !changed.contains(holder));
        if same {
            books.set(holder.clone(), *found);
        }
        same
    }
}

impl Drop for Audit<'_> {
    fn drop(&mut self) {
        self.promises.books().changed = None;
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
        let grown = books.set(holder, bytes);
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
