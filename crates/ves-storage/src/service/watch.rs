//! The room under the pool is watched: holes in it are filled, and an operator hears what is wrong.
//!
//! Never here: what is wrong, how anything is done.

use std::collections::BTreeSet;
use std::time::Duration;

use ves_daemon::blocking;
use ves_daemon::converge::variant;
use ves_proto::Fault;

use super::{Service, observing};
use crate::plan::room::Alarm;

/// How often it is looked at.
const EVERY: Duration = Duration::from_secs(30);

impl Service {
    /// Watches the pool from now on. Call it inside the runtime.
    pub fn watch(&self) {
        let this = self.clone();
        tokio::spawn(async move {
            let mut raised = BTreeSet::new();
            loop {
                let own = this.clone();
                match blocking(move || own.tend()).await {
                    Ok(alarms) => raised = tell(&raised, &alarms),
                    Err(fault) => tracing::warn!("look at the pool: {fault}"),
                }
                tokio::time::sleep(EVERY).await;
            }
        });
    }

    /// Backs again what should be backed and is not, and answers what else is wrong.
    pub(crate) fn tend(&self) -> Result<Vec<Alarm>, Fault> {
        if let Err(error) = self.promise(&self.promises.reserve(0), 0) {
            tracing::warn!(%error, "the pool is not backed");
        }
        Ok(self.promises.facts().map_err(|e| observing(&e))?.alarms())
    }
}

/// Tells of each alarm once, and when it is over; answers those that are raised now.
fn tell(before: &BTreeSet<String>, alarms: &[Alarm]) -> BTreeSet<String> {
    let now: BTreeSet<String> = alarms.iter().map(|alarm| variant(alarm)).collect();
    for alarm in alarms.iter().filter(|alarm| !before.contains(&variant(*alarm))) {
        tracing::error!(alarm = variant(alarm), "{alarm}");
    }
    for alarm in before.difference(&now) {
        tracing::info!(alarm, "is over");
    }
    now
}
