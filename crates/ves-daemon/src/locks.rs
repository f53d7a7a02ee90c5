//! One worker a container at a time; the second hears who works and since when.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use ves_proto::{Fault, Reason};
use ves_types::CtId;

type Table = Mutex<HashMap<CtId, (String, Timestamp)>>;

/// The locks of all containers of a service.
#[derive(Debug, Clone, Default)]
pub(crate) struct Locks {
    table: Arc<Table>,
}

/// A held lock; dropping it releases.
#[derive(Debug)]
pub struct Held {
    table: Arc<Table>,
    ct: CtId,
}

impl Locks {
    /// Takes the container's lock for work described by `what`, such as `EnsureVolume`.
    ///
    /// # Errors
    /// `BUSY` with facts `ct`, `holder` and `since` while somebody else has it.
    pub(crate) fn hold(&self, ct: CtId, what: impl Into<String>) -> Result<Held, Fault> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((holder, since)) = table.get(&ct) {
            let since = since.strftime("%Y-%m-%dT%H:%M:%SZ");
            let message = format!(
                "container {ct} is busy with {holder} since {since}; wait for it and try again"
            );
            return Err(Fault::new(Reason::Busy, message)
                .fact("ct", ct)
                .fact("holder", holder)
                .fact("since", since));
        }
        table.insert(ct, (what.into(), Timestamp::now()));
        Ok(Held { table: Arc::clone(&self.table), ct })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.table.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.ct);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_hears_of_the_first() {
        let (locks, ct) = (Locks::default(), CtId::try_from(101).expect("valid"));
        let held = locks.hold(ct, "EnsureVolume").expect("free");
        let fault = locks.hold(ct, "RemoveVolume").expect_err("held");
        assert_eq!((fault.reason, fault.facts["holder"].as_str()), (Reason::Busy, "EnsureVolume"));
        assert!(fault.facts["since"].ends_with('Z'));
        let other = locks.hold(CtId::try_from(102).expect("valid"), "EnsureVolume");
        assert!(other.is_ok(), "another container is not locked");
        drop(held);
        assert!(locks.hold(ct, "RemoveVolume").is_ok());
    }
}
