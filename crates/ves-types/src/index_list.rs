//! Processors and memory nodes by their numbers, as the kernel lists them: `0-2,5`.
//!
//! Never here: which of them a node has.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::id::ParseError;

/// Numbers of processors or of memory nodes, at least one, none above 8191: no kernel has more.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IndexList(BTreeSet<u32>);

impl IndexList {
    /// The greatest number.
    pub const MAX: u32 = 8191;

    /// The numbers.
    pub const fn numbers(&self) -> &BTreeSet<u32> {
        &self.0
    }

    /// Those of them that are among `others`; none where that is none.
    pub fn among(&self, others: &BTreeSet<u32>) -> Option<Self> {
        let both: BTreeSet<_> = self.0.intersection(others).copied().collect();
        (!both.is_empty()).then_some(Self(both))
    }
}

impl FromStr for IndexList {
    type Err = ParseError;

    fn from_str(s: &str) -> Result<Self, ParseError> {
        let why = "it must be numbers from 0 to 8191 and ranges of them, such as 0-2,5";
        match parse(s, Self::MAX) {
            Some(set) if !set.is_empty() => Ok(Self(set)),
            _ => Err(ParseError::new("list", s, why)),
        }
    }
}

impl TryFrom<String> for IndexList {
    type Error = ParseError;

    fn try_from(s: String) -> Result<Self, ParseError> {
        s.parse()
    }
}

impl From<IndexList> for String {
    fn from(list: IndexList) -> Self {
        list.to_string()
    }
}

impl fmt::Display for IndexList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&render(&self.0))
    }
}

/// What the kernel's notation lists, with no number above `most`; an empty text lists none.
pub fn parse(text: &str, most: u32) -> Option<BTreeSet<u32>> {
    let text = text.trim();
    let mut set = BTreeSet::new();
    if text.is_empty() {
        return Some(set);
    }
    let number = |word: &str| {
        let digits = !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit());
        if digits { word.parse::<u32>().ok() } else { None }
    };
    for range in text.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (number(first)?, number(last)?);
        if first > last || last > most {
            return None;
        }
        set.extend(first..=last);
    }
    Some(set)
}

/// The kernel's notation of it.
pub fn render(set: &BTreeSet<u32>) -> String {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for &n in set {
        match ranges.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(n) => *last = n,
            _ => ranges.push((n, n)),
        }
    }
    let words: Vec<_> = ranges
        .into_iter()
        .map(|(a, b)| if a == b { a.to_string() } else { format!("{a}-{b}") })
        .collect();
    words.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists() {
        let parsed = |s: &str| s.parse::<IndexList>().map(|l| l.to_string()).ok();
        assert_eq!(parsed("5,0-2"), Some("0-2,5".to_owned()));
        assert_eq!(parsed("0,1,2,5,7,8,8191"), Some("0-2,5,7-8,8191".to_owned()));
        for bad in ["", " ", "all", "-1", "+1", "2-1", "0-8192", "0--2", "1,", "1;2", "0x1"] {
            assert_eq!(parsed(bad), None, "{bad:?}");
        }
        assert_eq!(render(&BTreeSet::new()), "");
    }

    #[test]
    fn what_is_stored_keeps_the_rule() {
        let list: IndexList = "0-3".parse().expect("fits");
        assert_eq!(serde_json::to_string(&list).expect("text"), "\"0-3\"");
        assert!(serde_json::from_str::<IndexList>("\"0-9999\"").is_err());
        assert!(serde_json::from_str::<IndexList>("\"\"").is_err());
    }

    #[test]
    fn only_what_there_is() {
        let list: IndexList = "0-3".parse().expect("fits");
        assert_eq!(list.among(&[2, 3, 9].into()), "2-3".parse().ok());
        assert_eq!(list.among(&[4].into()), None);
    }
}
