//! Tokens: kept as digests of their secrets, known by memory, stored before they count.
//!
//! ```text
//! CreateToken ─ secret, told once ─ SHA-256 ─ stored ─ known ── a call brings the secret: whose is its digest?
//! RevokeToken ─ forgotten by the store ─ forgotten here: the next call is nobody's
//! ```
//!
//! A secret has 256 random bits, so that its digest need not be slow. Never here: what a holder may, or when it is
//! asked (`authenticate`).

pub mod record;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use sha2::{Digest as _, Sha256};
use ves_daemon::{Identity, Principal};
use ves_proto::{Fault, Reason};

use crate::event::record::NewEvent;
use crate::store::state::State;
use crate::store::{Key, Kind, Transaction, record as rows};
use record::{Digest, TokenRecord};

/// The most tokens at once.
pub const MOST: usize = 10_000;
/// How secrets begin, so that one that was lost is found by who looks for such.
const PREFIX: &str = "ves_";
/// How much later than the last stored use another one is stored.
const USE_MS: i64 = 10 * 60 * 1000;

/// The tokens there are.
#[derive(Debug, Default)]
pub struct Registry {
    known: Mutex<Known>,
    /// Held by who changes what is stored, so that who only asks does not wait for the disk.
    changing: Mutex<()>,
}

#[derive(Debug, Default)]
struct Known {
    tokens: BTreeMap<String, TokenRecord>,
    by_digest: HashMap<Digest, String>,
}

impl Known {
    fn put(&mut self, token: TokenRecord) {
        self.by_digest.insert(token.digest.clone(), token.id.clone());
        self.tokens.insert(token.id.clone(), token);
    }
}

impl Registry {
    /// Those that are stored. One that cannot be read counts no more, and stays.
    ///
    /// # Errors
    /// `HOST_FAILED` where the store cannot be read.
    pub fn open(state: &State) -> Result<Self, Fault> {
        let mut known = Known::default();
        for (key, bytes) in state.rows(Kind::Token)? {
            match rows::read::<TokenRecord>(&key, &bytes) {
                Ok(token) => known.put(token),
                Err(fault) => tracing::error!(error = %fault, "a token counts no more"),
            }
        }
        Ok(Self { known: Mutex::new(known), changing: Mutex::default() })
    }

    fn alone(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// At most `count` after `after`, oldest first.
    pub fn page(&self, after: Option<&str>, count: usize) -> Vec<TokenRecord> {
        use std::ops::Bound::{Excluded, Unbounded};
        let range = (after.map_or(Unbounded, Excluded), Unbounded);
        self.known().tokens.range::<str, _>(range).take(count).map(|(_, t)| t.clone()).collect()
    }

    /// Makes this one count, and stores the event with it. Blocks.
    ///
    /// # Errors
    /// `NAME_TAKEN`, `TOO_MANY`, or the store's failure.
    pub(crate) fn add(
        &self,
        state: &State,
        token: TokenRecord,
        event: NewEvent,
    ) -> Result<(), Fault> {
        // One at a time: who comes second sees the first one's name.
        let _alone = self.alone();
        let (same, count) = {
            let known = self.known();
            let mut tokens = known.tokens.values();
            (tokens.find(|other| other.holder == token.holder).cloned(), known.tokens.len())
        };
        if let Some(other) = same {
            let message = format!(
                "a token was given to {} already; revoke it first, or choose another name",
                token.holder
            );
            let fault = Fault::new(Reason::NameTaken, message).fact("name", &token.holder);
            return Err(fault.fact("holder", format!("tokens/{}", other.id)));
        }
        if count >= MOST {
            let message = format!("there are {MOST} tokens, which are the most; revoke some");
            return Err(Fault::new(Reason::TooMany, message).fact("limit", MOST));
        }
        let key = Key::token(&token.id);
        let bytes = rows::write(&key, &token)?;
        let rows = Transaction { puts: vec![(key, bytes)], ..Transaction::default() };
        store(state, rows, event)?;
        self.known().put(token);
        Ok(())
    }

    /// Makes it count no more, and stores the event with that. Blocks.
    ///
    /// # Errors
    /// `TOKEN_UNKNOWN`, or the store's failure.
    pub(crate) fn remove(
        &self,
        state: &State,
        id: &str,
        event: NewEvent,
    ) -> Result<TokenRecord, Fault> {
        let _alone = self.alone();
        let holder = self.known().tokens.get(id).map(|token| token.holder.to_string());
        let Some(holder) = holder else {
            let id: String = id.chars().take(80).collect();
            let message = format!("there is no token {id}");
            return Err(Fault::new(Reason::TokenUnknown, message).fact("token", id));
        };
        let event = event.fact("holder", &holder);
        let deletes = vec![Key::token(id)];
        store(state, Transaction { deletes, ..Transaction::default() }, event)?;
        let mut known = self.known();
        let gone = known.tokens.remove(id);
        let gone = gone.ok_or_else(|| Fault::new(Reason::Bug, "a token went meanwhile"))?;
        known.by_digest.remove(&gone.digest);
        Ok(gone)
    }

    /// Whose secret this is, and whether its use is to be stored.
    ///
    /// # Errors
    /// `UNAUTHENTICATED`, or `TOKEN_EXPIRED`.
    pub(crate) fn holder(
        &self,
        secret: &str,
        now_ms: i64,
    ) -> Result<(Principal, Option<TokenRecord>), Fault> {
        let mut known = self.known();
        let known = &mut *known;
        let id = known.by_digest.get(&digest(secret));
        let token = id.and_then(|id| known.tokens.get_mut(id)).ok_or_else(|| {
            let message = "the token is none of this node's, or was revoked";
            Fault::new(Reason::Unauthenticated, message).fact("why", "unknown")
        })?;
        if !token.counts_at(now_ms) {
            let message = "the token has expired; have a new one made";
            return Err(Fault::new(Reason::TokenExpired, message).fact("token", &token.id));
        }
        let stale = token.used_ms.is_none_or(|used| now_ms.saturating_sub(used) >= USE_MS);
        if stale {
            token.used_ms = Some(now_ms);
        }
        let identity = Identity::Token { id: token.id.as_str().into(), name: token.holder.clone() };
        Ok((Principal::granted(identity, &token.grant), stale.then(|| token.clone())))
    }

    pub(crate) fn counts(&self, id: &str, now_ms: i64) -> bool {
        self.known().tokens.get(id).is_some_and(|token| token.counts_at(now_ms))
    }

    /// Stores that it was used, if it still counts. Blocks.
    pub(crate) fn store_use(&self, state: &State, token: &TokenRecord) -> Result<(), Fault> {
        // Held, so that one that is being revoked is not written again.
        let _alone = self.alone();
        if !self.known().tokens.contains_key(&token.id) {
            return Ok(());
        }
        let key = Key::token(&token.id);
        let bytes = rows::write(&key, token)?;
        state.store_rows(Transaction { puts: vec![(key, bytes)], ..Transaction::default() })
    }
}

/// Stores rows and what they tell, together. Blocks.
fn store(state: &State, rows: Transaction, event: NewEvent) -> Result<(), Fault> {
    state.transact(|_, change| {
        change.rows = rows;
        change.events.push(event);
        Ok(())
    })
}

/// What is kept of a secret.
pub(crate) fn digest(secret: &str) -> Digest {
    Digest(hex(&Sha256::digest(secret.as_bytes())))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A secret nobody can guess.
///
/// # Errors
/// `HOST_FAILED` where the kernel gives no randomness.
pub(crate) fn secret() -> Result<String, Fault> {
    let mut random = [0; 32];
    getrandom::fill(&mut random).map_err(|e| {
        Fault::new(Reason::HostFailed, format!("the kernel gives no random bytes: {e}"))
    })?;
    Ok(format!("{PREFIX}{}", hex(&random)))
}

#[cfg(test)]
mod tests;
