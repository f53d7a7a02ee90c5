//! One life of a daemon: what it does to the node ends with it, also what is half done on some thread of
//! its own. Never here: what is done.

use std::sync::{Arc, PoisonError, RwLock};

/// A life. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Life {
    over: Arc<RwLock<bool>>,
}

impl Life {
    /// It ends, when what is being done at this moment is done.
    pub fn end(&self) {
        *self.over.write().unwrap_or_else(PoisonError::into_inner) = true;
    }

    /// Whether it goes on.
    pub fn lives(&self) -> bool {
        !*self.over.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something, or fails since it is over.
    pub fn act<T, E>(
        &self,
        act: impl FnOnce() -> Result<T, E>,
        over: impl FnOnce() -> E,
    ) -> Result<T, E> {
        let guard = self.over.read().unwrap_or_else(PoisonError::into_inner);
        if *guard { Err(over()) } else { act() }
    }
}
