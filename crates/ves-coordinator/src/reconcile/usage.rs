//! Reading what containers have used, and having it stored: at each interval, and when something ends.
//!
//! An interval costs two calls, whatever the number of containers, and a commit where something changed; in between
//! there is a call each quarter of a minute, which reads the node's links. Never here: what is made of it ([`crate::usage::accrued`]).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ves_proto::{Fault, network, resources};
use ves_types::{CtId, Phase};

use crate::container::observed::Observed;
use crate::container::record::{Record, RunState};
use crate::container::step::Step;
use crate::coordinator::Coordinator;
use crate::services::ask;
use crate::usage::accrued::Accrued;
use crate::usage::reading::Counted;

/// How long to wait at most between two readings of traffic, which are not stored each: a link goes with the last
/// process of its container, and takes along what nobody has read.
const TRAFFIC: Duration = Duration::from_secs(15);

/// How long a service may take to tell what all containers have used.
const WITHIN: Duration = Duration::from_secs(30);

impl Coordinator {
    /// Reads and stores what containers have used, for ever.
    pub(crate) async fn keep_usage(self) {
        let every = Duration::from_secs(self.config().usage_every_s);
        let mut next = self.clock().instant() + every;
        loop {
            self.clock().sleep(every.min(TRAFFIC)).await;
            let whole = self.clock().instant() >= next;
            self.read_usage(whole).await;
            if !whole {
                continue;
            }
            next = self.clock().instant() + every;
            if let Err(fault) = self.store_usage().await {
                tracing::warn!(error = %fault, "what containers have used is stored later");
            }
        }
    }

    /// Reads what all that run have used, or of that only the traffic. A service that is away is asked the next
    /// time.
    async fn read_usage(&self, whole: bool) {
        // Whose it is, is known before it is read.
        let up: Vec<Arc<Record>> = {
            let index = self.state().read();
            let up = index.containers().filter(|record| record.run == RunState::Running);
            up.map(Arc::clone).collect()
        };
        if up.is_empty() {
            return;
        }
        let (mut r, mut n) = (self.services().resources.clone(), self.services().network.clone());
        let (usages, traffic) = tokio::join!(
            async {
                let none = resources::ListUsageResponse::default();
                let request = resources::ListUsageRequest {};
                if whole { ask("resources", WITHIN, r.list_usage(request)).await } else { Ok(none) }
            },
            ask("network", WITHIN, n.list_traffic(network::ListTrafficRequest {})),
        );
        if let Some(fault) =
            usages.as_ref().err().or_else(|| traffic.as_ref().err()).filter(|_| whole)
        {
            tracing::warn!(error = %fault, "what containers have used is read again later");
        }
        let usages = usages.map(|answer| answer.usages).unwrap_or_default();
        let links = traffic.map(|answer| answer.links).unwrap_or_default();
        let usages: HashMap<u32, _> = usages.iter().map(|usage| (usage.ct, usage)).collect();
        let links: HashMap<u32, _> = links.iter().map(|link| (link.ct, link)).collect();
        for record in up {
            let id = record.id.get();
            let (usage, link) = (usages.get(&id).copied(), links.get(&id).copied());
            self.count(&record, &Counted::of(usage, link));
        }
    }

    /// Stores all that is not stored yet, of containers that are there.
    async fn store_usage(&self) -> Result<(), Fault> {
        if !self.usage().has_changed() {
            return Ok(());
        }
        let own = self.clone();
        let stored = self
            .transact(move |index, change| {
                // Of now: what an operation has stored meanwhile is not to be overwritten by what was before.
                let changed = own.usage().changed();
                let there = |(ct, accrued): &(CtId, Accrued)| {
                    index.container(*ct).is_ok_and(|record| record.uid == accrued.uid)
                };
                change.usage = changed.into_iter().filter(there).collect();
                Ok(change.usage.clone())
            })
            .await?;
        for (ct, accrued) in &stored {
            self.usage().stored(*ct, accrued);
        }
        Ok(())
    }

    /// Takes in what was read of a container, and how long it has run until now.
    pub(crate) fn count(&self, record: &Record, counted: &Counted) {
        self.count_run(record);
        self.usage().read(record.id, record.uid, |accrued| counted.add_to(accrued));
    }

    /// Takes in how long it has run until now, where it runs.
    pub(crate) fn count_run(&self, record: &Record) {
        let process = self.cache().of(record.id).process;
        if let (Phase::Running | Phase::Frozen, Some(started)) =
            (process.phase, process.started_unix_ms)
        {
            let now = self.clock().now_ms();
            self.usage().read(record.id, record.uid, |accrued| accrued.run.read(started, now));
        }
    }

    /// A step was done: what it has ended counts no further. `before`: what was seen before it.
    pub(crate) fn count_step(
        &self,
        record: &Record,
        step: &Step,
        before: &Observed,
        last: Option<&resources::Usage>,
    ) {
        let (ct, uid) = (record.id, record.uid);
        match step {
            Step::StopProcess { .. } => {
                let ran = matches!(before.process.phase, Phase::Running | Phase::Frozen);
                if let Some(started) = before.process.started_unix_ms.filter(|_| ran) {
                    let now = self.clock().now_ms();
                    self.usage().close(ct, uid, |accrued| accrued.run.read(started, now));
                }
            }
            Step::RemoveLink => self.usage().close(ct, uid, |accrued| accrued.link.end()),
            Step::RemoveLimits => {
                let counted = Counted::of(last, None);
                self.usage().close(ct, uid, |accrued| {
                    counted.add_to(accrued);
                    accrued.group.end();
                });
            }
            Step::EnsureVolume { .. }
            | Step::RemoveVolume
            | Step::TakeSnapshot { .. }
            | Step::DeleteSnapshot { .. }
            | Step::CheckVolume { .. }
            | Step::RevertVolume { .. }
            | Step::EnsureLimits(_)
            | Step::CreateProcess(_)
            | Step::RunProcess(_)
            | Step::KeepProcess(_)
            | Step::EnsureLink { .. } => {}
        }
    }
}
