//! What scrolled by on a console, kept up to a fixed size.
//!
//! Never here: who sees it.

use std::collections::VecDeque;

/// How much is kept.
const SIZE: usize = 64 * 1024;

/// The last bytes of a console's output.
#[derive(Debug, Default)]
pub(crate) struct Ring {
    bytes: VecDeque<u8>,
}

impl Ring {
    /// Adds output and forgets the oldest beyond the size.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
        let excess = self.bytes.len().saturating_sub(SIZE);
        self.bytes.drain(..excess);
    }
    /// All that is kept, oldest first.
    pub(crate) fn contents(&self) -> Vec<u8> {
        self.bytes.iter().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_last() {
        let mut ring = Ring::default();
        ring.push(b"old");
        ring.push(&vec![b'x'; SIZE - 1]);
        ring.push(b"y");
        let contents = ring.contents();
        assert_eq!(contents.len(), SIZE);
        assert_eq!(contents.last(), Some(&b'y'));
        assert!(!contents.contains(&b'o'));
    }
}
