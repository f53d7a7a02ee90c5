//! Publishing that processes of a container were killed because memory ran out.
//!
//! A container may run out of memory many times a second: of each it is told at once, and then once in a while for
//! as long as it goes on. Never here: how kills are seen ([`crate::reconcile`]).

use std::sync::Arc;
use std::time::Duration;

use ves_proto::Fault;
use ves_proto::public::container_name;
use ves_types::CtId;

use crate::coordinator::Coordinator;
use crate::event::record::{NewEvent, Type};
use crate::operation::public::own;
use crate::operation::record::Cause;

/// How long nothing more is told of a container that is told of.
const QUIET: Duration = Duration::from_secs(60);
/// How far back it is looked for what was told before this life of the daemon.
const BACK: usize = 1000;

impl Coordinator {
    /// Tells of a container's kills, of which there are more than were known.
    pub(crate) fn publish_kills(&self, ct: CtId) {
        if self.outbox().begin_kills(ct) {
            let own = self.clone();
            tokio::spawn(async move {
                own.publish_kills_now_and_then(ct).await;
            });
        }
    }

    async fn publish_kills_now_and_then(&self, ct: CtId) {
        let mut told = self.kills_published(ct).await.unwrap_or_else(|fault| {
            tracing::warn!(%ct, error = %fault, "what was told of kills cannot be read");
            0
        });
        loop {
            let seen = self.cache().of(ct);
            let kills = seen.oom_kills.unwrap_or(0);
            let record = self.state().read().container(ct).map(Arc::clone);
            let news = kills != told && kills > 0;
            let Some(record) = record.ok().filter(|_| news) else {
                self.outbox().end_kills(ct);
                // What came since it was looked has found somebody who tells.
                let more = self.cache().of(ct).oom_kills.unwrap_or(0) > kills;
                if more && self.outbox().begin_kills(ct) {
                    continue;
                }
                return;
            };
            let victims: Vec<_> = seen.oom_victims.iter().map(ToString::to_string).collect();
            let event = NewEvent::to_container(Type::OutOfMemory, &record)
                .by(own(Cause::Container))
                .fact("kills", &kills.to_string())
                .fact("victims", &victims.join(", "));
            self.publish(event);
            told = kills;
            self.clock().sleep(QUIET).await;
        }
    }

    /// How many kills of the container's last run were told of already.
    async fn kills_published(&self, ct: CtId) -> Result<u64, Fault> {
        let target = container_name(ct);
        let events = self.events_before(None, BACK).await?;
        let last = events.iter().map(|(_, event)| event).find(|event| {
            let kinds = [Type::OutOfMemory, Type::Started, Type::Rebooted, Type::Created];
            event.target == target && kinds.contains(&event.r#type())
        });
        let kills = last.and_then(|event| event.facts.get("kills")?.parse().ok());
        Ok(kills.unwrap_or(0))
    }
}
