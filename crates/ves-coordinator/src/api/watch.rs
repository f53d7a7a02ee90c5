//! Watches of containers and of operations, which have one shape: what there is, then what changes.
//!
//! A stream begins with all there is, between `reset` and `synced`, unless a token of this life of the coordinator
//! says from where on it goes; it is never silent for longer than its heartbeat. A watcher that is slow costs no
//! memory: changes of one thing between two reads are told once, as it is then.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use prost_types::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;
use ves_proto::public::{parse_duration, timestamp};
use ves_proto::{Fault, api as pb};

use super::Answers;
use crate::coordinator::Coordinator;
pub(super) use crate::store::changes::Changed as Batch;
use crate::store::changes::Departed;
use crate::wrong::bad;

/// How long a stream is silent where nothing else is asked for, and at least, and at most.
const HEARTBEAT: (Duration, Duration, Duration) =
    (Duration::from_secs(30), Duration::from_secs(1), Duration::from_secs(600));

/// What is told.
#[derive(Debug)]
pub(super) enum News<T> {
    /// It is there and is now like this.
    Changed(Box<T>),
    /// It is not there.
    Gone(pb::Gone),
    /// What was told before counts no more.
    Reset(pb::Reset),
    /// All that there was is told.
    Synced(pb::Synced),
    /// Nothing changed.
    Heartbeat(pb::Heartbeat),
}

/// What is watched.
pub(super) trait Source: Send + 'static {
    /// What one is known by.
    type Key: Ord + Clone + Send;
    /// How one is shown.
    type Item: Send;

    /// All there are.
    fn all(&self) -> Batch<Self::Key>;
    /// What changed after a revision, where that is known.
    fn since(&self, revision: u64) -> Option<Batch<Self::Key>>;
    /// One as it is now, and whether the watcher's filter lets it through; none: it is not there, or the watcher
    /// does not see it.
    fn now(&self, key: &Self::Key) -> Option<(Self::Item, bool)>;
    /// Whether the watcher has seen what is gone.
    fn saw(&self, departed: &Departed) -> bool;
    /// Its name.
    fn name(&self, key: &Self::Key) -> String;
    /// The uid of one that is there.
    fn uid(&self, item: &Self::Item) -> String;
    /// Whether some are not let through.
    fn is_filtered(&self) -> bool;
    /// Whether this was the last that is to be told.
    fn is_last(&self, item: &Self::Item) -> bool;
}

/// What is yet to be told.
#[derive(Debug)]
enum Entry<K> {
    Reset,
    Thing(K, Option<Departed>, u64),
    Synced,
}

struct Watcher<S: Source> {
    source: S,
    coordinator: Coordinator,
    ticks: watch::Receiver<u64>,
    queue: VecDeque<Entry<S::Key>>,
    /// Where it is: what was told leads to this.
    at: u64,
    /// Where it is when the queue is empty.
    to: u64,
    /// It is to be told all.
    anew: Option<&'static str>,
    /// The name of what follows in the answer to one entry.
    second: Option<News<S::Item>>,
    /// Of a filtered watch: which it has, as far as that is known; false: it has it not.
    has: BTreeMap<S::Key, bool>,
    /// It went on from a token, so that it may have others, too.
    resumed: bool,
    heartbeat: Duration,
    told: Instant,
    ended: bool,
}

/// Reads how long a stream may be silent.
///
/// # Errors
/// `BAD_VALUE` on "heartbeat".
pub(super) fn heartbeat(asked: Option<&prost_types::Duration>) -> Result<Duration, Fault> {
    let (usual, least, most) = HEARTBEAT;
    let Some(asked) = asked else { return Ok(usual) };
    let asked = parse_duration("heartbeat", asked)?;
    if (least..=most).contains(&asked) {
        return Ok(asked);
    }
    Err(bad("heartbeat", "heartbeat: it must be from 1 s to 10 min"))
}

/// The token of a revision in this life of the coordinator.
fn token(life: &str, revision: u64) -> String {
    format!("{life}-{revision:x}")
}

/// The revision of a token of this life.
fn revision(life: &str, token: &str) -> Option<u64> {
    let digits = token.strip_prefix(life)?.strip_prefix('-')?;
    u64::from_str_radix(digits, 16).ok()
}

/// What there is and what changes, from a token on.
pub(super) fn watch<S: Source, T: Send + 'static>(
    source: S,
    coordinator: Coordinator,
    ticks: watch::Receiver<u64>,
    (resume_token, heartbeat): (&str, Duration),
    message: impl Fn(String, News<S::Item>) -> T + Send + 'static,
) -> Answers<T> {
    let resumed = revision(coordinator.life(), resume_token);
    let anew = match resumed {
        Some(_) => None,
        None if resume_token.is_empty() => Some("this is the beginning"),
        None => Some("the token is of another life of the coordinator, or none of ours"),
    };
    let at = resumed.unwrap_or(0);
    let told = coordinator.clock().instant();
    let watcher = Watcher {
        source,
        coordinator,
        ticks,
        queue: VecDeque::new(),
        at,
        to: at,
        anew,
        second: None,
        has: BTreeMap::new(),
        resumed: resumed.is_some(),
        heartbeat,
        told,
        ended: false,
    };
    Box::pin(futures::stream::unfold((watcher, message), |(mut watcher, message)| async move {
        let (token, news) = watcher.next().await?;
        Some((Ok(message(token, news)), (watcher, message)))
    }))
}

impl<S: Source> Watcher<S> {
    async fn next(&mut self) -> Option<(String, News<S::Item>)> {
        if self.ended {
            return None;
        }
        let news = self.news().await?;
        self.told = self.coordinator.clock().instant();
        Some((token(self.coordinator.life(), self.at), news))
    }

    async fn news(&mut self) -> Option<News<S::Item>> {
        loop {
            if let Some(news) = self.second.take() {
                return Some(news);
            }
            while let Some(entry) = self.queue.pop_front() {
                if let Some(news) = self.tell(entry) {
                    return Some(news);
                }
            }
            // All that led there is told, or not to be told to this one.
            self.at = self.to;
            self.ticks.borrow_and_update();
            self.fill();
            if !self.queue.is_empty() {
                continue;
            }
            let silent = self.coordinator.clock().until(self.told + self.heartbeat);
            tokio::select! {
                biased;
                () = silent => {
                    let time: Timestamp = timestamp(self.coordinator.clock().now_ms());
                    return Some(News::Heartbeat(pb::Heartbeat { time: Some(time) }));
                }
                changed = self.ticks.changed() => changed.ok()?,
            }
        }
    }

    /// Finds what is to be told next.
    fn fill(&mut self) {
        let changed = match self.anew {
            Some(_) => None,
            None => self.source.since(self.at),
        };
        let (things, to) = match changed {
            Some(changed) => changed,
            None => {
                self.anew.get_or_insert("too much has changed since");
                // Who resumes in the middle of these is told all of them again.
                self.at = 0;
                self.has.clear();
                self.resumed = false;
                self.queue.push_back(Entry::Reset);
                self.source.all()
            }
        };
        let before = self.at;
        let last = things.len().checked_sub(1).filter(|_| self.anew.is_none());
        for (n, (key, departed)) in things.into_iter().enumerate() {
            let leads_to = if Some(n) == last { to } else { before };
            self.queue.push_back(Entry::Thing(key, departed, leads_to));
        }
        if self.anew.is_some() {
            self.queue.push_back(Entry::Synced);
        }
        self.to = to;
    }

    fn tell(&mut self, entry: Entry<S::Key>) -> Option<News<S::Item>> {
        match entry {
            Entry::Reset => {
                let why = self.anew.unwrap_or_default().to_owned();
                Some(News::Reset(pb::Reset { why }))
            }
            Entry::Synced => {
                self.anew = None;
                self.at = self.to;
                Some(News::Synced(pb::Synced {}))
            }
            Entry::Thing(key, departed, leads_to) => {
                let now = self.source.now(&key);
                let gone = departed
                    .filter(|departed| self.has_had(&key) && self.source.saw(departed))
                    .map(|departed| self.gone(&key, &departed));
                let now = self.tell_present(&key, now);
                // One that is gone and another of its name: first that the one is gone.
                let (first, second) = match (gone, now) {
                    (Some(gone), now) => (Some(News::Gone(gone)), now),
                    (None, now) => (now, None),
                };
                self.second = second;
                if self.second.is_none() {
                    self.at = leads_to;
                }
                first
            }
        }
    }

    /// Whether the watcher may have one.
    fn has_had(&self, key: &S::Key) -> bool {
        if !self.source.is_filtered() {
            return true;
        }
        self.has.get(key).copied().unwrap_or(self.resumed)
    }

    fn gone(&mut self, key: &S::Key, departed: &Departed) -> pb::Gone {
        self.has.remove(key);
        pb::Gone {
            name: self.source.name(key),
            uid: departed.uid.map(|uid| uid.to_string()).unwrap_or_default(),
            time: departed.unix_ms.map(timestamp),
        }
    }

    fn tell_present(
        &mut self,
        key: &S::Key,
        now: Option<(S::Item, bool)>,
    ) -> Option<News<S::Item>> {
        let (item, passes) = now?;
        if passes {
            if self.source.is_filtered() {
                self.has.insert(key.clone(), true);
            }
            self.ended = self.source.is_last(&item);
            return Some(News::Changed(Box::new(item)));
        }
        let had = self.has_had(key);
        if self.resumed {
            self.has.insert(key.clone(), false);
        } else {
            self.has.remove(key);
        }
        let (name, uid) = (self.source.name(key), self.source.uid(&item));
        had.then(|| News::Gone(pb::Gone { name, uid, time: None }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_of_one_life() {
        let life = "0123456789abcdef";
        assert_eq!(revision(life, &token(life, u64::MAX)), Some(u64::MAX));
        for bad in ["", "7", "0123456789abcdef", "0123456789abcdef-x", "fedcba9876543210-7"] {
            assert_eq!(revision(life, bad), None, "{bad:?}");
        }
    }

    #[test]
    fn heartbeats_have_bounds() {
        let read = |seconds| heartbeat(Some(&prost_types::Duration { seconds, nanos: 0 }));
        assert_eq!(heartbeat(None), Ok(Duration::from_secs(30)));
        assert_eq!(read(1), Ok(Duration::from_secs(1)));
        for seconds in [-1, 0, 601, i64::MAX] {
            assert_eq!(read(seconds).expect_err("none").facts["field"], "heartbeat");
        }
    }
}
