//! The node's conditions, told as they change: that a service is away, that it is back, that the pool has little room.
//!
//! ```text
//! streams of services ─┐
//! network is asked ────┼─ how it is, since when ── long enough so, and told otherwise? ── event, and what was told
//! the pool is asked ───┘
//! ```
//!
//! What was told is stored with the event, so that a restart neither repeats nor forgets it. Never here: how a service
//! is followed (`reconcile`), how long a condition must last ([`crate::event::condition`]), or what the API says of one
//! when it is asked.

use std::time::Duration;

use ves_proto::api::condition::Type as Condition;
use ves_proto::public::node_name;
use ves_proto::{network, storage};

use crate::coordinator::Coordinator;
use crate::event::condition::{Seen, fact_of, is_news, status};
use crate::event::record::{NewEvent, Type, bare};
use crate::operation::public::own;
use crate::operation::record::Cause;
use crate::services::ask;

/// How often it is looked whether something is to be told.
const TICK: Duration = Duration::from_secs(5);
/// After how many of these network is asked, which has no stream of its own.
const NETWORK: u32 = 3;
/// After how many of these the pool is asked for.
const POOL: u32 = 12;
/// How long a service may take to answer.
const WITHIN: Duration = Duration::from_secs(5);

/// What the node's condition that a service answers is called.
fn condition_of(service: &str) -> Option<Condition> {
    match service {
        "storage" => Some(Condition::StorageReady),
        "network" => Some(Condition::NetworkReady),
        "resources" => Some(Condition::ResourcesReady),
        "lifecycle" => Some(Condition::LifecycleReady),
        _ => None,
    }
}

impl Coordinator {
    /// A service does not answer, or has ended what is followed.
    pub(crate) fn service_is_away(&self, service: &str) {
        self.saw_service(service, false);
    }

    /// A service answers.
    pub(crate) fn service_is_back(&self, service: &str) {
        self.saw_service(service, true);
    }

    fn saw_service(&self, service: &str, well: bool) {
        if let Some(condition) = condition_of(service) {
            self.conditions().saw(condition, well, String::new(), self.clock().instant());
        }
    }

    /// Follows the node's conditions for ever.
    pub(crate) async fn follow_conditions(self) {
        for tick in (0..u32::MAX).cycle() {
            if tick % NETWORK == 0 {
                self.look_at_network().await;
            }
            if tick % POOL == 0 {
                self.look_at_pool().await;
            }
            self.publish_conditions().await;
            self.clock().sleep(TICK).await;
        }
    }

    async fn look_at_network(&self) {
        let mut network = self.services().network.clone();
        let asked = ask("network", WITHIN, network.get_node(network::GetNodeRequest {})).await;
        self.saw_service("network", asked.is_ok());
    }

    async fn look_at_pool(&self) {
        let mut storage = self.services().storage.clone();
        let asked = ask("storage", WITHIN, storage.get_pool(storage::GetPoolRequest {})).await;
        if let Ok(pool) = asked {
            let (well, why) = (pool.alarms.is_empty(), pool.alarms.join("; "));
            self.conditions().saw(Condition::PoolLow, well, why, self.clock().instant());
        }
    }

    async fn publish_conditions(&self) {
        for (condition, Seen { well, since: _, message }) in
            self.conditions().settled(self.clock().instant())
        {
            let Some(fact) = fact_of(condition) else { continue };
            if !is_news(self.state().read().fact(fact), condition, well) {
                continue;
            }
            let status = status(condition, well);
            let mut event = NewEvent::to(Type::NodeCondition, node_name(self.node()))
                .by(own(Cause::Node))
                .fact("condition", bare(condition.as_str_name(), "TYPE_"))
                .fact("status", status);
            if !message.is_empty() {
                event = event.fact("message", &message);
            }
            let stored = self.transact(move |index, change| {
                if is_news(index.fact(fact), condition, well) {
                    change.facts.push((fact, status.to_owned()));
                    change.events.push(event);
                }
                Ok(())
            });
            if let Err(fault) = stored.await {
                tracing::warn!(?condition, error = %fault, "a condition is told later");
            }
        }
    }
}
