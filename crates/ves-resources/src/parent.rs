//! The parent group of all containers' groups, and who relies on it: it goes with the last container, and
//! never while a call counts on its being there.
//!
//! Never here: what is to be done to it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::Error;
use crate::host::Host;
use crate::model::Shared;
use crate::plan::SharedStep;

/// The parent group, and who relies on it.
#[derive(Debug)]
pub(crate) struct Parent {
    host: Arc<dyn Host>,
    /// How many calls count on its being there.
    users: Mutex<usize>,
    /// Held while it is changed.
    changing: Mutex<()>,
}

/// While this lives, we do not remove the parent group.
#[derive(Debug)]
pub(crate) struct Relies(Arc<Parent>);

impl Drop for Relies {
    fn drop(&mut self) {
        let mut users = self.0.users();
        *users = users.saturating_sub(1);
    }
}

impl Parent {
    pub(crate) fn new(host: Arc<dyn Host>) -> Arc<Self> {
        Arc::new(Self { host, users: Mutex::default(), changing: Mutex::default() })
    }

    fn users(&self) -> MutexGuard<'_, usize> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps it.
    pub(crate) fn rely(self: &Arc<Self>) -> Relies {
        *self.users() += 1;
        Relies(Arc::clone(self))
    }

    /// What it is.
    pub(crate) fn observe(&self) -> Result<Shared, Error> {
        self.host.observe_shared().map_err(Error::Node)
    }

    /// Changes it.
    pub(crate) fn apply(&self, step: &SharedStep) -> Result<(), Error> {
        let _alone = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        self.host.apply_shared(step).map_err(Error::Node)
    }

    /// Removes it where no container is in it and nobody is about to come. One that stays disturbs
    /// nobody, and goes with the next container.
    pub(crate) fn release(&self) {
        let users = self.users();
        if *users > 0 {
            return;
        }
        if let Err(e) = self.host.release_shared() {
            tracing::warn!(error = %ves_proto::fault::chain(&e), "leave the parent group");
        }
    }
}
