//! The node's conditions as they were seen, and what of them is to be told.
//!
//! One that comes and goes is told when it has stayed so for a while, and much later that it is well again than that
//! it is not. Never here: who looks, and how what was told is stored ([`crate::events`]).

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use ves_proto::api::condition::{Status, Type as Condition};

use super::record::bare;

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
pub struct Seen {
    /// Whether all is well.
    pub well: bool,
    /// Since when it is so.
    pub since: Instant,
    /// Why it is so, where that is known.
    pub message: String,
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
    pub fn saw(&self, condition: Condition, well: bool, message: String, now: Instant) {
        let mut seen = self.seen();
        let before = seen.get(&condition).filter(|before| before.well == well);
        let since = before.map_or(now, |before| before.since);
        seen.insert(condition, Seen { well, since, message });
    }

    /// Those that are as they are for long enough.
    pub fn settled(&self, now: Instant) -> Vec<(Condition, Seen)> {
        let seen = self.seen();
        let long = |(condition, seen): &(&Condition, &Seen)| {
            now.duration_since(seen.since) >= settles_in(**condition, seen.well)
        };
        seen.iter().filter(long).map(|(condition, seen)| (*condition, seen.clone())).collect()
    }
}

/// The fact that says how a condition was told last.
pub const fn fact_of(condition: Condition) -> Option<&'static str> {
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
pub fn status(condition: Condition, well: bool) -> &'static str {
    let status = if well == is_alarm(condition) { Status::False } else { Status::True };
    bare(status.as_str_name(), "STATUS_")
}

/// Whether what was told last is something else; before anything was told all is well.
pub fn is_news(told: Option<&str>, condition: Condition, well: bool) -> bool {
    told.unwrap_or_else(|| status(condition, true)) != status(condition, well)
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
        assert!(is_news(None, C::PoolLow, false) && !is_news(None, C::PoolLow, true));
        assert!(is_news(Some("TRUE"), C::PoolLow, true));
        assert!(!is_news(Some("TRUE"), C::PoolLow, false));
    }
}
