//! How often a container's disk is kept by itself, and how many of each kind.
//!
//! Never here: when a snapshot is due.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ParseError;

/// How long it is from one snapshot to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SnapshotInterval {
    /// An hour.
    Hourly,
    /// A day.
    Daily,
    /// Seven days.
    Weekly,
}

impl SnapshotInterval {
    /// All, with the words of the command line; the shortest first.
    pub const ALL: [(Self, &'static str); 3] =
        [(Self::Hourly, "hourly"), (Self::Daily, "daily"), (Self::Weekly, "weekly")];

    /// Its length in milliseconds.
    pub const fn millis(self) -> i64 {
        const HOUR: i64 = 3_600_000;
        match self {
            Self::Hourly => HOUR,
            Self::Daily => 24 * HOUR,
            Self::Weekly => 7 * 24 * HOUR,
        }
    }
}

impl fmt::Display for SnapshotInterval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(Self::ALL.into_iter().find(|(i, _)| i == self).map_or("", |(_, name)| name))
    }
}

/// How many snapshots of each interval are kept; 0: none are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SnapshotSchedule {
    hourly: u32,
    daily: u32,
    weekly: u32,
}

impl SnapshotSchedule {
    /// The most of all intervals together. A node keeps 64 of a container by default, and one more is there
    /// while the oldest goes.
    pub const MOST: u32 = 60;

    /// So many of each.
    ///
    /// # Errors
    /// When they are more than [`Self::MOST`] together.
    pub fn new(hourly: u32, daily: u32, weekly: u32) -> Result<Self, ParseError> {
        let all = hourly.saturating_add(daily).saturating_add(weekly);
        if all > Self::MOST {
            let why = "it may keep at most 60 snapshots together";
            return Err(ParseError::new("snapshot schedule", all, why));
        }
        Ok(Self { hourly, daily, weekly })
    }

    /// How many of an interval are kept.
    pub const fn kept(self, interval: SnapshotInterval) -> u32 {
        match interval {
            SnapshotInterval::Hourly => self.hourly,
            SnapshotInterval::Daily => self.daily,
            SnapshotInterval::Weekly => self.weekly,
        }
    }

    /// The intervals at which snapshots are taken.
    pub fn intervals(self) -> impl Iterator<Item = SnapshotInterval> {
        let all = SnapshotInterval::ALL.into_iter().map(|(interval, _)| interval);
        all.filter(move |interval| self.kept(*interval) > 0)
    }
}

impl fmt::Display for SnapshotSchedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<_> = self.intervals().map(|i| format!("{i}:{}", self.kept(i))).collect();
        f.pad(if words.is_empty() { "none".to_owned() } else { words.join(",") }.as_str())
    }
}

impl FromStr for SnapshotSchedule {
    type Err = ParseError;

    fn from_str(s: &str) -> Result<Self, ParseError> {
        if s == "none" {
            return Ok(Self::default());
        }
        let why = "it must be none, or some of hourly:N, daily:N and weekly:N with commas between";
        let bad = || ParseError::new("snapshot schedule", s, why);
        let mut kept = [None; 3];
        for word in s.split(',') {
            let (name, count) = word.split_once(':').ok_or_else(bad)?;
            let all = SnapshotInterval::ALL.iter().zip(&mut kept);
            let (_, kept) = all.into_iter().find(|((_, n), _)| *n == name).ok_or_else(bad)?;
            let digits = count.bytes().all(|b| b.is_ascii_digit());
            let count = count.parse().ok().filter(|_| digits).ok_or_else(bad)?;
            if kept.replace(count).is_some() {
                return Err(bad());
            }
        }
        let [hourly, daily, weekly] = kept.map(Option::unwrap_or_default);
        Self::new(hourly, daily, weekly)
    }
}

impl TryFrom<String> for SnapshotSchedule {
    type Error = ParseError;

    fn try_from(s: String) -> Result<Self, ParseError> {
        s.parse()
    }
}

impl From<SnapshotSchedule> for String {
    fn from(schedule: SnapshotSchedule) -> Self {
        schedule.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules() {
        for (given, shown) in [
            ("none", "none"),
            ("hourly:24,daily:7", "hourly:24,daily:7"),
            ("weekly:4,hourly:1", "hourly:1,weekly:4"),
            ("daily:0", "none"),
            ("hourly:60", "hourly:60"),
        ] {
            assert_eq!(given.parse::<SnapshotSchedule>().expect("valid").to_string(), shown);
        }
        let bad = ["", "hourly", "hourly:", "hourly:+1", "hourly:-1", "hourly:1,hourly:2"];
        let also = ["hourly:61", "hourly:30,daily:31", "daily:7,", "yearly:1", "daily:4294967296"];
        for bad in bad.into_iter().chain(also) {
            assert!(bad.parse::<SnapshotSchedule>().is_err(), "{bad:?}");
        }
    }
}
