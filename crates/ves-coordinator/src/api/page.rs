//! Pages of lists, and the tokens that say where one ended. Pure.
//!
//! A token carries what it is of: one that is handed in with another filter or order is refused, since what it
//! would answer is no continuation of anything.

use sha2::{Digest, Sha256};
use ves_proto::Fault;

use crate::wrong::{Wrong, bad};

/// How many bytes of a digest say what a token is of.
const SCOPE: usize = 8;

/// What is asked for of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Page {
    /// At most so many.
    pub(super) size: usize,
    /// The key of the last one that was told.
    pub(super) after: Option<String>,
    scope: String,
}

impl Page {
    /// Reads a request for a page: `usual` is the size where none is asked for, `most` the greatest. `scope` is
    /// all that makes one list another.
    pub(super) fn read(
        size: i32,
        token: &str,
        (usual, most): (usize, usize),
        scope: &[&str],
        wrong: &mut Wrong,
    ) -> Option<Self> {
        let size = match usize::try_from(size) {
            Ok(0) => Some(usual),
            Ok(n) => Some(n.min(most)),
            Err(_) => {
                wrong.push(bad("page_size", format!("page_size: {size} is negative")));
                None
            }
        };
        let scope = digest(scope);
        let after = match token {
            "" => Some(None),
            token => wrong.take(key_of(token, &scope)).map(Some),
        };
        Some(Self { size: size?, after: after?, scope })
    }

    /// The token of what follows `last`.
    pub(super) fn token(&self, last: &str) -> String {
        format!("{}{}", self.scope, hex(last.as_bytes()))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2);
    let byte = |pair: &[u8]| {
        let pair = std::str::from_utf8(pair).ok().filter(|pair| pair.len() == 2)?;
        u8::from_str_radix(pair, 16).ok()
    };
    pairs.map(byte).collect()
}

fn digest(scope: &[&str]) -> String {
    let mut digest = Sha256::new();
    for part in scope {
        digest.update(part);
        digest.update([0]);
    }
    let digest = digest.finalize();
    hex(digest.get(..SCOPE).unwrap_or(&digest))
}

fn key_of(token: &str, scope: &str) -> Result<String, Fault> {
    let field = "page_token";
    let key = token.get(2 * SCOPE..).and_then(unhex).and_then(|key| String::from_utf8(key).ok());
    match key {
        Some(key) if token.starts_with(scope) => Ok(key),
        Some(_) => {
            let message = "the page token is of a list with another filter or order; begin from the \
                           first page";
            Err(bad(field, message))
        }
        None => Err(bad(field, "the page token is none of ours; begin from the first page")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(size: i32, token: &str, scope: &[&str]) -> Result<Page, Fault> {
        let mut wrong = Wrong::default();
        let page = Page::read(size, token, (100, 1000), scope, &mut wrong);
        wrong.end()?;
        Ok(page.expect("nothing is wrong"))
    }

    #[test]
    fn sizes_have_bounds() {
        let size = |n| read(n, "", &[]).map(|page| page.size);
        assert_eq!((size(0), size(7), size(i32::MAX)), (Ok(100), Ok(7), Ok(1000)));
        assert_eq!(size(-1).expect_err("negative").facts["field"], "page_size");
    }

    #[test]
    fn tokens_go_on_where_a_page_ended_and_nowhere_else() {
        let page = read(0, "", &["list", "a", "b"]).expect("the first");
        let token = page.token("é 7");
        let next = read(0, &token, &["list", "a", "b"]).expect("the next");
        assert_eq!(next.after.as_deref(), Some("é 7"));
        for (token, scope) in [
            (token.as_str(), ["list", "ab", ""]),
            ("7", ["list", "a", "b"]),
            ("zz", ["list", "a", "b"]),
            (&token[..17], ["list", "a", "b"]),
            (&"é".repeat(20), ["list", "a", "b"]),
        ] {
            assert_eq!(read(0, token, &scope).expect_err(token).facts["field"], "page_token");
        }
    }
}
