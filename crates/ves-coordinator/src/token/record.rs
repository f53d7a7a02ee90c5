//! What is stored of a token. Pure.

use serde::{Deserialize, Serialize};
use ves_types::{Grant, HolderName};

/// What is kept of a secret: its SHA-256, in hexadecimal digits.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Digest(pub String);

impl std::fmt::Debug for Digest {
    /// Its beginning, which tells one from another.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}…", self.0.get(..8).unwrap_or_default())
    }
}

/// What token is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewToken {
    /// Who is to hold it.
    pub holder: HolderName,
    /// What its holder may.
    pub grant: Grant,
    /// When it ends, in milliseconds since 1970; none: never.
    pub expires_ms: Option<i64>,
}

/// A token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRecord {
    /// Its id: a version 7 UUID, so that ids sort by age.
    pub id: String,
    /// What is kept of its secret.
    pub digest: Digest,
    /// Who holds it.
    pub holder: HolderName,
    /// What its holder may.
    pub grant: Grant,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: i64,
    /// When it ends; none: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<i64>,
    /// About when it was used last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_ms: Option<i64>,
}

impl TokenRecord {
    /// Whether it has not ended.
    pub fn counts_at(&self, now_ms: i64) -> bool {
        self.expires_ms.is_none_or(|end| now_ms < end)
    }
}
