//! What of an archive is left out, counted by kind, in bounded room.
//!
//! Never here: what is refused.

use crate::refused::lossy;

/// The most kinds that are told apart.
const MAX_KINDS: usize = 24;

/// What was left out so far: the kind, how many, the first.
#[derive(Debug, Default)]
pub(crate) struct Notes(Vec<(String, u64, String)>);

impl Notes {
    /// Counts one; `what` is a kind, in the plural.
    pub(crate) fn left_out(&mut self, what: &str, entry: &[u8]) {
        if let Some((_, count, _)) = self.0.iter_mut().find(|(known, ..)| known == what) {
            *count += 1;
        } else if self.0.len() < MAX_KINDS {
            self.0.push((what.to_owned(), 1, lossy(entry)));
        }
    }

    /// A line for each kind.
    pub(crate) fn lines(&self) -> Vec<String> {
        let line = |(what, count, first): &(String, u64, String)| match count {
            1 => format!("left out: {what}, {first:?}"),
            _ => format!("left out: {what}, {count} of them, such as {first:?}"),
        };
        self.0.iter().map(line).collect()
    }
}
