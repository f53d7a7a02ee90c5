//! Events: what happened, kept for audits and bills after operations are forgotten.
//!
//! What an operation does is an event in the very transaction that stores its end ([`crate::operation::ends`]),
//! without a sync more. What nobody's operation did is published from here, by one writer: what comes while it commits is
//! committed together the next time. Events are numbered as they are stored and read from the store; in memory is
//! only which numbers there are.
//!
//! What waits for being stored has a bound. What finds no place, in the queue or on the disk, is counted, and an event
//! tells how many there were as soon as one can be stored.
//!
//! Never here: who may see an event ([`crate::api`]), and how long something is known that is no event.

mod certificates;
mod conditions;
mod kills;
pub mod token;

use std::time::Duration;

use ves_daemon::blocking;
use ves_proto::public::{node_name, unix_ms};
use ves_proto::{Fault, Reason, api as pb};

use crate::coordinator::Coordinator;
use crate::event::record::{NewEvent, Type};
use crate::operation::public::own;
use crate::operation::record::Cause;

/// How many are stored, or looked at, together.
const TOGETHER: usize = 256;
/// How long to wait before events are tried again that could not be stored.
const PAUSE: Duration = Duration::from_secs(1);
/// How many are forgotten in one transaction, where there are too many.
const FORGOTTEN: u64 = 1000;
const MILLIS_A_DAY: i64 = 86_400_000;

impl Coordinator {
    /// Publishes what no operation did. It is stored soon; nobody waits for that.
    pub fn publish(&self, event: NewEvent) {
        tracing::info!(event = ?event.event(), "this happened");
        if !self.outbox().push(event) {
            tracing::error!("an event is lost: the store does not keep up");
        }
    }

    /// Stores what is published, for ever.
    pub(crate) async fn keep_events(self) {
        let Some(mut from) = self.outbox().take() else { return };
        loop {
            let mut events = Vec::new();
            tokio::select! {
                biased;
                count = from.recv_many(&mut events, TOGETHER) => if count == 0 { return },
                () = self.clock().sleep(PAUSE), if self.outbox().has_lost() => {}
            }
            self.keep(events).await;
        }
    }

    /// Stores these, and how many were lost before. Where the disk is full they are lost themselves, and counted.
    async fn keep(&self, mut events: Vec<NewEvent>) {
        let (count, lost) = (events.len() as u64, self.outbox().take_lost());
        if lost > 0 {
            let told = NewEvent::to(Type::EventsLost, node_name(self.node())).by(own(Cause::Node));
            events.push(told.fact("count", &lost.to_string()));
        }
        loop {
            let again = events.clone();
            let stored = self.transact(move |_, change| {
                change.events = again;
                Ok(())
            });
            match stored.await {
                Ok(()) => return,
                Err(fault) if fault.reason == Reason::StoreFull => {
                    if count > 0 {
                        tracing::error!(error = %fault, ?events, "events are lost");
                    }
                    return self.outbox().lose(lost.saturating_add(count));
                }
                Err(fault) => {
                    tracing::error!(error = %fault, "storing events failed, trying again");
                    self.clock().sleep(PAUSE).await;
                }
            }
        }
    }

    /// Forgets events that are too old, or of which there are too many.
    pub(crate) async fn sweep_events(&self) -> Result<(), Fault> {
        let kept = u64::try_from(self.config().events_kept).unwrap_or(u64::MAX);
        let age = i64::from(self.config().events_days).saturating_mul(MILLIS_A_DAY);
        loop {
            let log = self.state().read().log();
            let before = self.clock().now_ms().saturating_sub(age);
            let is_old =
                |event: &pb::Event| event.time.as_ref().is_none_or(|time| unix_ms(time) < before);
            let excess = log.count().saturating_sub(kept).min(FORGOTTEN);
            let mut first = log.first.saturating_add(excess);
            let next = |first: u64, most| self.events_after(first.saturating_sub(1), most);
            if next(first, 1).await?.iter().any(|(_, event)| is_old(event)) {
                let old = next(first, TOGETHER).await?;
                let old = old.iter().take_while(|(_, event)| is_old(event)).last();
                first = old.map_or(first, |(number, _)| number.saturating_add(1));
            }
            let first = first.min(log.last);
            if first <= log.first {
                return Ok(());
            }
            self.transact(move |_, change| {
                change.first_event = first;
                Ok(())
            })
            .await?;
            tracing::info!(events = first.saturating_sub(log.first), "old events were forgotten");
        }
    }

    /// As [`crate::store::state::State::events_after`], on a thread that may block.
    ///
    /// # Errors
    /// `HOST_FAILED`.
    pub async fn events_after(
        &self,
        after: u64,
        most: usize,
    ) -> Result<Vec<(u64, pb::Event)>, Fault> {
        let own = self.clone();
        blocking(move || own.state().events_after(after, most)).await
    }

    /// As [`crate::store::state::State::events_before`], on a thread that may block.
    ///
    /// # Errors
    /// `HOST_FAILED`.
    pub async fn events_before(
        &self,
        before: Option<u64>,
        most: usize,
    ) -> Result<Vec<(u64, pb::Event)>, Fault> {
        let own = self.clone();
        blocking(move || own.state().events_before(before, most)).await
    }
}
