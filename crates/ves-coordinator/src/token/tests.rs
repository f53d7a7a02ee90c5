//! The registry on a store in memory.

use ves_types::{Grant, GrantRole};

use super::*;
use crate::clock::SystemClock;
use crate::store::memory::MemoryStore;
use crate::store::{Store as _, all_rows};

fn opened(store: &MemoryStore) -> (State, Registry) {
    let node = "n1".parse().expect("a name");
    let state = State::open(Box::new(store.clone()), &node, std::sync::Arc::new(SystemClock))
        .expect("opened");
    let registry = Registry::open(&state).expect("read");
    (state, registry)
}

fn token(n: usize, secret: &str, expires_ms: Option<i64>) -> TokenRecord {
    TokenRecord {
        id: format!("{n:04}"),
        digest: digest(secret),
        holder: format!("panel-{n}").parse().expect("a name"),
        grant: Grant::new(GrantRole::Operator, [].into()).expect("they go together"),
        created_ms: 1000,
        expires_ms,
        used_ms: None,
    }
}

fn event() -> NewEvent {
    NewEvent::to(crate::event::record::Type::Access, "nodes/n1".to_owned())
}

#[test]
fn a_secret_is_known_by_its_digest_and_stored_nowhere() {
    let store = MemoryStore::default();
    let secret = secret().expect("random");
    assert_eq!(secret.len(), PREFIX.len() + 64);
    {
        let (state, tokens) = opened(&store);
        tokens.add(&state, token(1, &secret, None), event()).expect("added");
    }
    let rows = all_rows(&store).expect("read");
    let text = rows.iter().map(|(_, bytes)| String::from_utf8_lossy(bytes)).collect::<String>();
    let bare = secret.trim_start_matches(PREFIX);
    assert!(text.contains(&digest(&secret).0) && !text.contains(bare));
    let (_, tokens) = opened(&store);
    assert!(!format!("{tokens:?}").contains(&digest(&secret).0));
    let (principal, _) = tokens.holder(&secret, 2000).expect("known after a restart");
    assert_eq!(
        (principal.to_string().as_str(), principal.role),
        ("token:panel-1", ves_daemon::Role::Operator)
    );
    for wrong in ["", bare, &secret[..40], "ves_", &format!("{secret}0")] {
        let fault = tokens.holder(wrong, 2000).expect_err("nobody's");
        assert_eq!(fault.reason, Reason::Unauthenticated);
    }
}

#[test]
fn what_has_expired_or_was_revoked_counts_no_more() {
    let store = MemoryStore::default();
    let (state, tokens) = opened(&store);
    tokens.add(&state, token(1, "one", Some(5000)), event()).expect("added");
    tokens.add(&state, token(2, "two", None), event()).expect("added");
    assert!(tokens.holder("one", 4999).is_ok() && tokens.counts("0001", 4999));
    let fault = tokens.holder("one", 5000).expect_err("expired");
    assert_eq!((fault.reason, &*fault.facts["token"]), (Reason::TokenExpired, "0001"));
    assert!(!tokens.counts("0001", 5000));
    let (_, used) = tokens.holder("two", 6000).expect("for ever");
    tokens.remove(&state, "0002", event()).expect("revoked");
    assert!(tokens.holder("two", 6000).is_err() && !tokens.counts("0002", 6000));
    assert_eq!(state.read().log().count(), 3, "each is told");
    // A use that is stored late does not bring it back.
    tokens.store_use(&state, &used.expect("its first use")).expect("nothing to do");
    assert!(opened(&store).1.holder("two", 6000).is_err());
    let fault = tokens.remove(&state, "0002", event()).expect_err("gone");
    assert_eq!(fault.reason, Reason::TokenUnknown);
}

#[test]
fn names_are_held_once_and_tokens_are_not_without_end() {
    let store = MemoryStore::default();
    let (state, tokens) = opened(&store);
    tokens.add(&state, token(1, "one", None), event()).expect("added");
    let again = TokenRecord { id: "0002".to_owned(), ..token(1, "two", None) };
    assert_eq!(tokens.add(&state, again, event()).expect_err("taken").reason, Reason::NameTaken);
    for n in 2..=MOST {
        tokens.known().put(token(n, &n.to_string(), None));
    }
    let fault = tokens.add(&state, token(MOST + 1, "x", None), event()).expect_err("too many");
    assert_eq!(fault.reason, Reason::TooMany);
    assert_eq!(tokens.page(None, 3).len(), 3);
    assert_eq!(tokens.page(Some("0001"), 1)[0].id, "0002");
}

#[test]
fn uses_are_stored_now_and_then() {
    let store = MemoryStore::default();
    let (state, tokens) = opened(&store);
    tokens.add(&state, token(1, "one", None), event()).expect("added");
    let stored = |at| tokens.holder("one", at).expect("known").1.is_some();
    assert!(stored(10_000), "the first");
    assert!(!stored(10_001) && !stored(10_000 + USE_MS - 1));
    assert!(stored(10_000 + USE_MS));
    assert!(!stored(0), "a clock that went back is no reason");
    let (_, used) = tokens.holder("one", 10_000 + 2 * USE_MS).expect("known");
    tokens.store_use(&state, &used.expect("due")).expect("stored");
    let again = opened(&store).1.page(None, 1);
    assert_eq!(again[0].used_ms, Some(10_000 + 2 * USE_MS));
}

#[test]
fn a_token_that_cannot_be_read_counts_no_more_and_stays() {
    let store = MemoryStore::default();
    store.spoil(Key::token("0001"), b"{");
    let (_, tokens) = opened(&store);
    assert!(tokens.page(None, 9).is_empty());
    assert_eq!(store.range(Kind::Token, None, 9).expect("read").len(), 1);
}
