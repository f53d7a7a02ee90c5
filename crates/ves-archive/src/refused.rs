//! Why an archive was not taken.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::{fmt, io};

use serde::{Deserialize, Serialize};

use ves_host::HostError;

/// Why an archive was not taken.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// It is malformed or hostile.
    #[error("{} is refused: {why}", subject(.entry))]
    Bad {
        /// The entry's name as the archive has it, cut; empty where it is about the whole.
        entry: String,
        /// What is wrong.
        why: String,
    },
    /// It expands beyond a limit.
    #[error("the archive is too large at {entry:?}: {limit}")]
    TooLarge {
        /// The entry's name.
        entry: String,
        /// Which limit, with its value.
        limit: String,
    },
    /// More than one of its entries cannot be taken.
    #[error("{}", .0.said)]
    Entries(Entries),
    /// The target has no room.
    #[error("no room for the archive's contents")]
    NoRoom,
    /// Reading or writing failed on this side.
    #[error("{what}")]
    Io {
        /// What was attempted.
        what: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The confined process could not be run or ended strangely.
    #[error(transparent)]
    Host(#[from] HostError),
}

impl Refused {
    pub(crate) fn bad(entry: &[u8], why: impl fmt::Display) -> Self {
        Self::Bad { entry: lossy(entry), why: why.to_string() }
    }
    pub(crate) fn too_large(entry: &[u8], limit: impl fmt::Display) -> Self {
        Self::TooLarge { entry: lossy(entry), limit: limit.to_string() }
    }
}

/// What a refusal is about.
fn subject(entry: &str) -> String {
    match entry {
        "" => "the archive".to_owned(),
        entry => format!("the archive's entry {entry:?}"),
    }
}

/// Entries of an archive that cannot be taken, all of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entries {
    /// How many.
    pub count: u64,
    /// The first one's name.
    pub first: String,
    /// What is wrong with it.
    pub why: String,
    /// Owners and groups that no container has, as many as fit, the least first.
    pub ids: Vec<u64>,
    /// What is wrong with which, for people; cut where it would be too long.
    pub said: String,
}

/// The most kinds of problems that are told.
const MAX_KINDS: usize = 8;
/// The most bytes of names that are told, beside the first of each kind.
const MAX_NAMES: usize = 900;
/// The most characters of all that is said; it goes into the head of an answer, twice.
const MAX_SAID: usize = 2400;
/// The most ids that are told.
const MAX_IDS: usize = 40;

/// Why one entry cannot be taken; what follows it still can be looked at.
#[derive(Debug)]
pub(crate) struct Problem {
    /// Whether it is beyond a limit, and not wrong.
    large: bool,
    pub(crate) why: Cow<'static, str>,
    /// Its owner and group, where those are the problem, and which of them no container has.
    owner: Option<(u64, u64)>,
    strange: Vec<u64>,
}

impl Problem {
    pub(crate) fn bad(why: impl Into<Cow<'static, str>>) -> Self {
        Self { large: false, why: why.into(), owner: None, strange: Vec::new() }
    }
    pub(crate) fn large(limit: impl Into<Cow<'static, str>>) -> Self {
        Self { large: true, why: limit.into(), owner: None, strange: Vec::new() }
    }
    pub(crate) fn owner(uid: u64, gid: u64, strange: impl IntoIterator<Item = u64>) -> Self {
        let why = "its owner or group does not exist in a container, where 65534 is the last; map each with \
                   --map-owner FROM:TO, or all of them to 65534 with --squash-owner";
        let strange = strange.into_iter().collect();
        Self { large: false, why: why.into(), owner: Some((uid, gid)), strange }
    }
}

/// All problems of an archive, by kind, in bounded room.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    kinds: Vec<(Problem, u64, Vec<String>)>,
    count: u64,
    /// The first one's entry.
    first: String,
    /// Bytes of names so far, beside the first of each kind.
    said: usize,
    ids: BTreeSet<u64>,
}

impl Problems {
    pub(crate) const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Takes one down.
    pub(crate) fn add(&mut self, entry: &[u8], problem: Problem) {
        if self.count == 0 {
            self.first = lossy(entry);
        }
        self.count += 1;
        self.ids.extend(&problem.strange);
        while self.ids.len() > MAX_IDS {
            self.ids.pop_last();
        }
        let entry: String = lossy(entry).chars().take(80).collect();
        let name = match problem.owner {
            Some((uid, gid)) => format!("{entry:?} ({uid}:{gid})"),
            None => format!("{entry:?}"),
        };
        let known = self.kinds.iter_mut().find(|(known, ..)| known.why == problem.why);
        if let Some((_, count, names)) = known {
            *count += 1;
            if self.said + name.len() <= MAX_NAMES {
                self.said += name.len();
                names.push(name);
            }
        } else if self.kinds.len() < MAX_KINDS {
            self.kinds.push((problem, 1, vec![name]));
        }
    }

    /// The refusal, where there is a problem.
    pub(crate) fn refusal(self) -> Result<(), Refused> {
        let Self { kinds, count, first: entry, said: _, ids } = self;
        let Some((first, ..)) = kinds.first() else { return Ok(()) };
        let why = match first.owner {
            Some((uid, gid)) => format!("it belongs to {uid}:{gid}; {}", first.why),
            None => first.why.to_string(),
        };
        if count == 1 {
            return Err(match first.large {
                true => Refused::TooLarge { entry, limit: why },
                false => Refused::Bad { entry, why },
            });
        }
        let mut said = format!("{count} of the archive's entries are refused");
        let mut told = 0;
        for (problem, count, names) in &kinds {
            said.push_str(&format!("; {}: {}", problem.why, names.join(", ")));
            told += count;
            let more = count - names.len() as u64;
            if more > 0 {
                said.push_str(&format!(" and {more} more"));
            }
        }
        if count > told {
            said.push_str(&format!("; {} for other reasons", count - told));
        }
        if let Some((cut, _)) = said.char_indices().nth(MAX_SAID) {
            said.truncate(cut);
            said.push('…');
        }
        let ids = ids.into_iter().collect();
        Err(Refused::Entries(Entries { count, first: entry, why, ids, said }))
    }
}

/// A name for a message: cut, invalid bytes replaced.
pub(crate) fn lossy(name: &[u8]) -> String {
    String::from_utf8_lossy(name).chars().take(200).collect()
}
