//! What is counted of the pool is held against what is in it.
//!
//! Nobody but this service changes a pool. Where somebody did all the same, what is found counts from then
//! on, and an operator hears of it. Never here: what is counted, how it is found.

use std::time::Duration;

use ves_daemon::blocking;
use ves_proto::Fault;

use super::{Service, observing};
use crate::ledger::{Difference, Holder};

/// How often: each time all volumes are listed.
const EVERY: Duration = Duration::from_secs(3600);

impl Service {
    /// Audits the pool from now on. Call it inside the runtime.
    pub(super) fn audit(&self) {
        let this = self.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(EVERY).await;
                let own = this.clone();
                if let Err(fault) = blocking(move || own.reconcile()).await {
                    tracing::warn!("audit the pool: {fault}");
                }
            }
        });
    }

    /// Counts what was found in the pool where something else was counted, and answers where that was. What
    /// is being changed is left out. It costs a look at all there is, and nobody waits for it.
    pub fn reconcile(&self) -> Result<Vec<Difference>, Fault> {
        let audit = self.promises.audit().map_err(|e| observing(&e))?;
        let mut wrong = audit.differences();
        wrong.retain(|difference| {
            // Whoever changes it counts it.
            match &difference.holder {
                Holder::Volume(ct) | Holder::Snapshot(ct, _) => {
                    let Ok(_held) = self.shell.hold(*ct, "being counted") else { return false };
                    audit.correct(difference)
                }
                Holder::Template(name) => {
                    let Ok(_one) = self.making.try_lock() else { return false };
                    let Ok(_reading) = self.uses.read(name) else { return false };
                    audit.correct(difference)
                }
            }
        });
        for difference in &wrong {
            tracing::warn!("the pool was changed by somebody else: {difference}");
        }
        Ok(wrong)
    }
}

#[cfg(test)]
mod laws;
