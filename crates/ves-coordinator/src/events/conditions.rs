//! The node's conditions, told as they change: that a service is away, that it is back, that the pool has little room.
//!
//! ```text
//! streams of services ─┐
//! network is asked ────┼─ how it is, since when ── long enough so, and told otherwise? ── event, and what was told
//! the pool is asked ───┘
//! ```
//!
//! One that comes and goes is told when it has stayed so for a while, and much later that it is well again than that
//! it is not. What was told is stored with the event, so that a restart neither repeats nor forgets it. Never here: how
//! a service is followed ([`crate::reconcile`]), or what the API says of a condition when it is asked.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use ves_proto::api::condition::{Status, Type as Condition};
use ves_proto::public::node_name;
use ves_proto::{network, storage};

use crate::coordinator::Coordinator;
use crate::events::record::{NewEvent, Type, bare};
use crate::operation::public::own;
use crate::operation::record::Cause;
use crate::services::ask;
use crate::store::index::Index;

/// How often it is looked whether something is to be told.
const TICK: Duration = Duration::from_secs(5);
/// After how many of these network is asked, which has no stream of its own.
const NETWORK: u32 = 3;
/// After how many of these the pool is asked for.
const POOL: u32 = 12;
/// How long a service may take to answer.
const WITHIN: Duration = Duration::from_secs(5);

/// How long a condition must be so before that is told. A daemon that is replaced is away for a moment.
const fn settles_in(condition: Condition, well: bool) -> Duration {
    Duration::from_secs(match (condition, well) {
        (Condition::PoolLow, false) => 60,
        (Condition::PoolLow, true) => 600,
        (_, false) => 10,
        (_, true) => 30,
    })
}

/// How a condition was seen last.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    well: bool,
    since: Instant,
    message: String,
}

/// Conditions as they were seen last.
#[derive(Debug, Default)]
pub struct Conditions {
    seen: Mutex<BTreeMap<Condition, Seen>>,
}

impl Conditions {
    fn seen(&self) -> MutexGuard<'_, BTreeMap<Condition, Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It is well now, or not, and why.
    fn saw(&self, condition: Condition, well: bool, message: String, now: Instant) {
        let mut seen = self.seen();
        let before = seen.get(&condition).filter(|before| before.well == well);
        let since = before.map_or(now, |before| before.since);
        seen.insert(condition, Seen { well, since, message });
    }

    /// Those that are as they are for long enough.
    fn settled(&self, now: Instant) -> Vec<(Condition, Seen)> {
        let seen = self.seen();
        let long = |(condition, seen): &(&Condition, &Seen)| {
            now.duration_since(seen.since) >= settles_in(**condition, seen.well)
        };
        seen.iter().filter(long).map(|(condition, seen)| (*condition, seen.clone())).collect()
    }
}

/// The fact that says how a condition was told last.
const fn fact_of(condition: Condition) -> Option<&'static str> {
    match condition {
        Condition::Unspecified => None,
        Condition::StorageReady => Some("told_storage_ready"),
        Condition::NetworkReady => Some("told_network_ready"),
        Condition::ResourcesReady => Some("told_resources_ready"),
        Condition::LifecycleReady => Some("told_lifecycle_ready"),
        Condition::PoolLow => Some("told_pool_low"),
    }
}

/// Whether it is well when it is false.
const fn is_alarm(condition: Condition) -> bool {
    matches!(condition, Condition::PoolLow)
}

/// As the public API says it.
fn status(condition: Condition, well: bool) -> &'static str {
    let status = if well == is_alarm(condition) { Status::False } else { Status::True };
    bare(status.as_str_name(), "STATUS_")
}

/// Whether something else was told last; before anything was told all is well.
fn is_news(index: &Index, condition: Condition, fact: &str, well: bool) -> bool {
    let told = index.fact(fact).unwrap_or_else(|| status(condition, true));
    told != status(condition, well)
}

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
            if !is_news(&self.state().read(), condition, fact, well) {
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
                if is_news(index, condition, fact, well) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_and_goes_is_told_when_it_has_stayed() {
        let (conditions, begun) = (Conditions::default(), Instant::now());
        let after = |seconds| begun + Duration::from_secs(seconds);
        let saw =
            |well, at| conditions.saw(Condition::NetworkReady, well, String::new(), after(at));
        let settled = |at| {
            let settled = conditions.settled(after(at));
            settled.first().map(|(_, seen)| seen.well)
        };
        assert_eq!(settled(99), None, "nobody has looked");
        saw(false, 100);
        saw(false, 105);
        assert_eq!([settled(109), settled(110)], [None, Some(false)]);
        saw(true, 111);
        assert_eq!([settled(140), settled(141)], [None, Some(true)]);
        // Away for a moment, again and again.
        for at in (200..300).step_by(10) {
            saw(false, at);
            assert_eq!(settled(at + 5), None);
            saw(true, at + 5);
            assert_eq!(settled(at + 9), None);
        }
        conditions.saw(Condition::PoolLow, false, "little".to_owned(), after(0));
        assert_eq!(conditions.settled(after(59)), []);
        assert_eq!(conditions.settled(after(60))[0].1.message, "little");
    }

    #[test]
    fn an_alarm_is_well_when_it_is_false() {
        use Condition as C;
        let of = |condition| [false, true].map(|well| status(condition, well));
        assert_eq!((of(C::PoolLow), of(C::StorageReady)), (["TRUE", "FALSE"], ["FALSE", "TRUE"]));
        let index = Index::default();
        assert!(is_news(&index, C::PoolLow, "told_pool_low", false));
        assert!(!is_news(&index, C::PoolLow, "told_pool_low", true));
    }
}
