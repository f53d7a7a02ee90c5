//! Which snapshots of a container are taken by its schedule, and which of these go. Pure.
//!
//! Time is cut into intervals that begin for each container at a moment of its own, so that a node does not
//! keep thousands of disks at once. What was missed while the node was down is taken once. Of an interval that is
//! not kept any more, what was taken stays: a mistake in a schedule deletes nothing.
//! Never here: snapshots that somebody asked for.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use ves_types::{SnapshotId, SnapshotInterval, SnapshotSchedule};

/// What was done by a container's schedule.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Scheduled {
    /// The number of the interval that was served last.
    #[serde(default)]
    last: BTreeMap<SnapshotInterval, i64>,
    /// What was taken, and for which intervals it is kept; it may be gone by now.
    #[serde(default)]
    taken: BTreeMap<SnapshotId, BTreeSet<SnapshotInterval>>,
}

/// The number of the interval that a moment is in, for a container whose intervals begin at `begin_ms`.
fn number(interval: SnapshotInterval, begin_ms: i64, now_ms: i64) -> i64 {
    let begin = begin_ms.rem_euclid(interval.millis());
    now_ms.saturating_sub(begin).div_euclid(interval.millis())
}

impl Scheduled {
    /// Whether nothing was done.
    pub fn is_empty(&self) -> bool {
        self.last.is_empty() && self.taken.is_empty()
    }

    /// Lets intervals begin to count that are new, and forgets those that are none any more: the first snapshot is
    /// taken when the next one begins. Whether anything changed.
    pub fn begin(&mut self, schedule: SnapshotSchedule, begin_ms: i64, now_ms: i64) -> bool {
        let before = self.last.clone();
        self.last.retain(|interval, _| schedule.kept(*interval) > 0);
        for interval in schedule.intervals() {
            self.last.entry(interval).or_insert_with(|| number(interval, begin_ms, now_ms));
        }
        self.last != before
    }

    /// For which intervals a snapshot is to be taken now. A clock that was set back does not stop it for longer than
    /// an interval.
    pub fn due(
        &self,
        schedule: SnapshotSchedule,
        begin_ms: i64,
        now_ms: i64,
    ) -> BTreeSet<SnapshotInterval> {
        let due = |interval: &SnapshotInterval| {
            let now = number(*interval, begin_ms, now_ms);
            self.last.get(interval).is_some_and(|last| now > *last || now < last - 1)
        };
        schedule.intervals().filter(due).collect()
    }

    /// A snapshot is being taken for these intervals.
    pub fn take(
        &mut self,
        id: SnapshotId,
        intervals: &BTreeSet<SnapshotInterval>,
        begin_ms: i64,
        now_ms: i64,
    ) {
        for interval in intervals {
            self.last.insert(*interval, number(*interval, begin_ms, now_ms));
        }
        self.taken.insert(id, intervals.clone());
    }

    /// Forgets those that are not there. Whether there were any.
    pub fn keep_only(&mut self, there: &BTreeSet<SnapshotId>) -> bool {
        let before = self.taken.len();
        self.taken.retain(|id, _| there.contains(id));
        self.taken.len() < before
    }

    /// For which intervals a snapshot is kept; none where no schedule took it.
    pub fn intervals_of(&self, id: SnapshotId) -> impl Iterator<Item = SnapshotInterval> {
        self.taken.get(&id).into_iter().flatten().copied()
    }

    /// Those that no interval keeps any more, the oldest first.
    pub fn expired(&self, schedule: SnapshotSchedule) -> Vec<SnapshotId> {
        let kept_for = |interval: SnapshotInterval| {
            let of_it = self.taken.iter().rev().filter(move |(_, all)| all.contains(&interval));
            let most = match schedule.kept(interval) {
                0 => usize::MAX,
                kept => usize::try_from(kept).unwrap_or(usize::MAX),
            };
            of_it.take(most).map(|(id, _)| *id)
        };
        let kept = SnapshotInterval::ALL.into_iter().flat_map(|(interval, _)| kept_for(interval));
        let kept: BTreeSet<_> = kept.collect();
        self.taken.keys().filter(|id| !kept.contains(id)).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MINUTE: i64 = 60_000;

    fn schedule(text: &str) -> SnapshotSchedule {
        text.parse().expect("valid")
    }

    /// Lives from `from` on for so many minutes; a snapshot has the minute for its id.
    fn live(schedule: SnapshotSchedule, begin_ms: i64, from: i64, minutes: i64) -> Scheduled {
        let mut scheduled = Scheduled::default();
        for minute in from..from + minutes {
            let now = minute * MINUTE;
            scheduled.begin(schedule, begin_ms, now);
            let due = scheduled.due(schedule, begin_ms, now);
            if !due.is_empty() {
                scheduled.take(id(minute), &due, begin_ms, now);
            }
            let expired = scheduled.expired(schedule);
            let there = scheduled.taken.keys().filter(|id| !expired.contains(id)).copied();
            let there = there.collect();
            scheduled.keep_only(&there);
        }
        scheduled
    }

    fn id(minute: i64) -> SnapshotId {
        SnapshotId::from(u128::try_from(minute).expect("after 1970"))
    }

    fn minutes(scheduled: &Scheduled) -> Vec<i64> {
        let all = scheduled.taken.keys();
        all.map(|id| i64::from_str_radix(&id.to_string().replace('-', ""), 16).expect("hex"))
            .collect()
    }

    #[test]
    fn three_days_leave_the_last_hours_and_each_day() {
        let lived = live(schedule("hourly:3,daily:7"), 7 * MINUTE, 1, 3 * 24 * 60);
        let hour = |n: i64| n * 60 + 7;
        assert_eq!(minutes(&lived), [hour(0), hour(24), hour(48), hour(69), hour(70), hour(71)]);
        let day = lived.intervals_of(id(hour(48))).collect::<Vec<_>>();
        assert_eq!(day, [SnapshotInterval::Hourly, SnapshotInterval::Daily], "one for both");
    }

    #[test]
    fn nothing_is_taken_before_an_interval_begins_and_what_was_missed_is_taken_once() {
        let hourly = schedule("hourly:24");
        let mut scheduled = Scheduled::default();
        assert!(scheduled.begin(hourly, 0, 30 * MINUTE));
        assert!(!scheduled.begin(hourly, 0, 31 * MINUTE));
        assert_eq!(scheduled.due(hourly, 0, 59 * MINUTE), BTreeSet::new());
        let due = scheduled.due(hourly, 0, 9 * 60 * MINUTE);
        assert_eq!(due, [SnapshotInterval::Hourly].into());
        scheduled.take(id(1), &due, 0, 9 * 60 * MINUTE);
        assert_eq!(scheduled.due(hourly, 0, (9 * 60 + 59) * MINUTE), BTreeSet::new());
        // The clock goes back a little, and a lot.
        assert_eq!(scheduled.due(hourly, 0, (9 * 60 - 1) * MINUTE), BTreeSet::new());
        assert_eq!(scheduled.due(hourly, 0, 0).len(), 1);
    }

    #[test]
    fn a_schedule_that_is_taken_away_deletes_nothing() {
        let lived = live(schedule("hourly:3"), 0, 1, 24 * 60);
        assert_eq!(lived.taken.len(), 3);
        assert_eq!(lived.expired(SnapshotSchedule::default()), []);
        assert_eq!(lived.expired(schedule("daily:1")), []);
        assert_eq!(lived.expired(schedule("hourly:1")).len(), 2);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn as_many_are_kept_as_are_wanted_and_the_newest_always(
            hourly in 0_u32..5, daily in 0_u32..3, weekly in 0_u32..3,
            begin in any::<i64>(), from in 0_i64..100_000, lived in 1_i64..(9 * 24 * 60),
        ) {
            let schedule = SnapshotSchedule::new(hourly, daily, weekly).expect("few");
            let scheduled = live(schedule, begin, from, lived);
            for (interval, _) in SnapshotInterval::ALL {
                let of_it = scheduled.taken.values().filter(|all| all.contains(&interval)).count();
                let most = usize::try_from(schedule.kept(interval)).expect("few");
                // What another interval keeps still bears the first one's name.
                let others: u32 = schedule.intervals().filter(|i| *i != interval).map(|i| schedule.kept(i)).sum();
                prop_assert!(of_it <= most + usize::try_from(others).expect("few"));
                let begun = lived * MINUTE / interval.millis();
                let least = most.min(usize::try_from(begun).expect("positive"));
                prop_assert!(of_it >= least, "{of_it} of {interval}, {least} at least");
            }
            prop_assert_eq!(scheduled.expired(schedule), vec![], "nothing is left to do");
        }
    }
}
