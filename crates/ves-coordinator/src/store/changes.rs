//! What changed lately and in which order, for watchers: a bounded ring. Pure.

use std::collections::{BTreeMap, VecDeque};

use uuid::Uuid;

/// How many changes a watcher may be behind before it is told everything anew.
const CHANGES: usize = 8192;

/// What is known of something that is gone.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Departed {
    /// What no other ever gets, where it had that.
    pub uid: Option<Uuid>,
    /// The project it belonged to.
    pub project: Option<String>,
    /// When it went, in milliseconds since 1970, where that is known.
    pub unix_ms: Option<i64>,
}

/// All things of a kind, or what changed of them, and the revision that leads to.
pub type Changed<K> = (Vec<(K, Option<Departed>)>, u64);

/// The last changes of things that are known by `K`.
#[derive(Debug, Clone)]
pub struct Changes<K> {
    ring: VecDeque<(u64, K, Option<Departed>)>,
    revision: u64,
}

impl<K> Default for Changes<K> {
    fn default() -> Self {
        Self { ring: VecDeque::new(), revision: 0 }
    }
}

impl<K: Ord + Clone> Changes<K> {
    /// The newest change's revision.
    pub const fn revision(&self) -> u64 {
        self.revision
    }

    /// The revision that the first change is after.
    pub(super) const fn begin_after(&mut self, revision: u64) {
        self.revision = revision;
    }

    /// Something changed, or is gone.
    pub(super) fn push(&mut self, key: K, departed: Option<Departed>) {
        self.revision = self.revision.saturating_add(1);
        self.ring.push_back((self.revision, key, departed));
        if self.ring.len() > CHANGES {
            self.ring.pop_front();
        }
    }

    /// What changed after `revision`, each once with the last of this name that is gone, and the revision that
    /// leads to; `None` where that is not known any more.
    pub fn since(&self, revision: u64) -> Option<Changed<K>> {
        // What is before the oldest one in memory is known only up to that one.
        let known_from = self.ring.front().map_or(self.revision, |(r, ..)| r.saturating_sub(1));
        if revision < known_from || revision > self.revision {
            return None;
        }
        let later = self.ring.partition_point(|(r, ..)| *r <= revision);
        let mut changed: BTreeMap<K, Option<Departed>> = BTreeMap::new();
        for (_, key, departed) in self.ring.range(later..) {
            let entry = changed.entry(key.clone()).or_default();
            if departed.is_some() {
                entry.clone_from(departed);
            }
        }
        Some((changed.into_iter().collect(), self.revision))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 256,
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        /// Whoever goes on from any revision hears of each thing that changed since, once, and whether one of its name
        /// is gone; then of nothing more.
        #[test]
        fn whoever_goes_on_hears_of_all(
            pushed in prop::collection::vec((0_u8..6, any::<bool>()), 0..40),
            from in 0_usize..41,
        ) {
            let mut changes = Changes::default();
            changes.begin_after(100);
            for (n, (key, gone)) in (0..).zip(&pushed) {
                let departed = Departed { unix_ms: Some(n), ..Departed::default() };
                changes.push(*key, gone.then_some(departed));
            }
            let from = from.min(pushed.len());
            let revision = 100 + u64::try_from(from).expect("small");
            let (told, to) = changes.since(revision).expect("it is known");
            let mut expected = BTreeMap::new();
            for (n, (key, gone)) in (0..).zip(&pushed).skip(from) {
                let last = expected.entry(*key).or_insert(None);
                if *gone {
                    *last = Some(n);
                }
            }
            let told: BTreeMap<_, _> =
                told.into_iter().map(|(key, gone)| (key, gone.and_then(|d| d.unix_ms))).collect();
            prop_assert_eq!(told, expected);
            prop_assert_eq!(changes.since(to), Some((vec![], to)));
        }
    }

    #[test]
    fn each_change_once_and_nothing_forgotten_without_a_word() {
        let mut changes = Changes::default();
        changes.begin_after(10);
        assert_eq!(changes.since(10), Some((vec![], 10)));
        assert_eq!(changes.since(9), None, "of another life");
        assert_eq!(changes.since(11), None, "of the future");
        let gone = Departed { project: Some("x".to_owned()), ..Departed::default() };
        for (key, departed) in [(3, None), (1, None), (3, Some(gone.clone())), (3, None)] {
            changes.push(key, departed);
        }
        assert_eq!(changes.since(10), Some((vec![(1, None), (3, Some(gone))], 14)));
        assert_eq!(changes.since(13), Some((vec![(3, None)], 14)));
        for key in 0..8192 {
            changes.push(key, None);
        }
        assert_eq!(changes.since(13), None, "it is too far behind");
        assert!(changes.since(14).is_some());
    }
}
