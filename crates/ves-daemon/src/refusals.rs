//! Telling of refusals without letting those who are refused fill the log: at most one line a second and
//! account or address, which says how many it left out, and a count of each.
//!
//! Never here: who is refused.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use opentelemetry::metrics::Counter;
use opentelemetry::{KeyValue, global};

/// How long an account that was told of is not told of again.
const QUIET: Duration = Duration::from_secs(1);
/// The most accounts that are told of in that time; whoever comes then is told of as one.
const MOST: usize = 32;

/// Whom a line tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Whom {
    /// An account.
    Uid(u32),
    /// An address of the network.
    Address(IpAddr),
    /// This daemon, which has no room for another connection.
    Itself,
    /// Accounts beyond those that are told of one by one.
    Others,
}

#[derive(Debug, Clone, Copy)]
struct Told {
    at: Instant,
    left_out: u64,
}

/// What was told of lately.
#[derive(Debug)]
pub(crate) struct Refusals {
    told: Mutex<BTreeMap<Whom, Told>>,
    connections: Counter<u64>,
}

impl Refusals {
    pub(crate) fn new() -> Self {
        let connections = global::meter("ves")
            .u64_counter("ves.connections.refused")
            .with_description("connections that were not taken")
            .build();
        Self { told: Mutex::default(), connections }
    }

    /// Counts a connection that was not taken.
    pub(crate) fn count_connection(&self, reason: &'static str) {
        self.connections.add(1, &[KeyValue::new("reason", reason)]);
    }

    /// Whether to write a line, and how many were left out since the last one of this account.
    pub(crate) fn line(&self, whom: Whom, now: Instant) -> Option<u64> {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let mut whom = whom;
        if !told.contains_key(&whom) && told.len() >= MOST {
            told.retain(|_, last| now.saturating_duration_since(last.at) < QUIET);
            if told.len() >= MOST {
                whom = Whom::Others;
            }
        }
        match told.get_mut(&whom) {
            Some(last) if now.saturating_duration_since(last.at) < QUIET => {
                last.left_out += 1;
                None
            }
            Some(last) => {
                let left_out = last.left_out;
                *last = Told { at: now, left_out: 0 };
                Some(left_out)
            }
            None => {
                told.insert(whom, Told { at: now, left_out: 0 });
                Some(0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_second_and_account_which_says_what_it_left_out() {
        let (refusals, begun) = (Refusals::new(), Instant::now());
        let line = |uid, ms| refusals.line(Whom::Uid(uid), begun + Duration::from_millis(ms));
        assert_eq!(line(1000, 0), Some(0));
        assert_eq!((line(1000, 1), line(1000, 999)), (None, None));
        assert_eq!(line(1001, 500), Some(0), "another is told of for itself");
        assert_eq!(line(1000, 1000), Some(2));
        assert_eq!(line(1000, 5000), Some(0));
    }

    #[test]
    fn who_has_many_accounts_gets_no_more_lines() {
        let (refusals, now) = (Refusals::new(), Instant::now());
        let lines = (0..10_000).filter(|uid| refusals.line(Whom::Uid(*uid), now).is_some()).count();
        assert_eq!(lines, MOST + 1, "and one for all others");
        let later = now + QUIET;
        assert_eq!(refusals.line(Whom::Uid(20_000), later), Some(0), "there is room again");
        assert_eq!(refusals.line(Whom::Others, later), Some(0), "forgotten with the rest");
    }
}
