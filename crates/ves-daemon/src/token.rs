//! Bearer tokens, for clients that cannot show a certificate.
//!
//! Never here: how tokens are kept, or whose they are.

use http::HeaderMap;
use http::header::AUTHORIZATION;
use ves_proto::{Fault, Reason};

use crate::principal::Principal;

/// The most bytes of a token; ours have fewer.
const MOST: usize = 256;

/// Who knows tokens.
pub trait Tokens: std::fmt::Debug + Send + Sync {
    /// Whose token this is, of which it is known that it has no control characters and no more than 256 bytes.
    ///
    /// # Errors
    /// `UNAUTHENTICATED` where it is nobody's, or no more.
    fn holder(&self, token: &str) -> Result<Principal, Fault>;

    /// Whether the token with this id still counts.
    fn counts(&self, id: &str) -> bool;
}

/// The token that a request brings.
///
/// # Errors
/// `UNAUTHENTICATED` where it brings something else, or more than one.
pub(crate) fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Fault> {
    let mut all = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = all.next() else { return Ok(None) };
    let token = value.to_str().ok().and_then(|text| {
        let (scheme, token) = text.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    });
    match token {
        Some(token) if all.next().is_none() && (1..=MOST).contains(&token.len()) => Ok(Some(token)),
        Some(_) | None => {
            Err(refused("malformed", "`authorization` must be one `Bearer` and a token of ours"))
        }
    }
}

/// Why a caller is nobody's.
pub(crate) fn refused(why: &str, message: &str) -> Fault {
    Fault::new(Reason::Unauthenticated, message).fact("why", why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bearer_and_nothing_else() {
        let of = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                let value = http::HeaderValue::from_bytes(value.as_bytes()).expect("a value");
                headers.append(AUTHORIZATION, value);
            }
            bearer(&headers).map(|token| token.map(str::to_owned))
        };
        assert_eq!(of(&[]), Ok(None));
        for good in ["Bearer abc", "bearer abc", "BEARER  abc "] {
            assert_eq!(of(&[good]), Ok(Some("abc".to_owned())), "{good:?}");
        }
        let long = format!("Bearer {}", "a".repeat(257));
        for bad in ["abc", "Bearer", "Bearer ", "Basic abc", "Bearer \u{e4}", long.as_str()] {
            let fault = of(&[bad]).expect_err(bad);
            assert_eq!(fault.reason, Reason::Unauthenticated);
            assert!(!fault.to_string().contains("abc"), "no secret in a message");
        }
        assert!(of(&["Bearer abc", "Bearer abc"]).is_err());
    }
}
