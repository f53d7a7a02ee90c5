//! The argument that names a container: an id or a name.
//!
//! Owns how the two are told apart, nothing else. Never here: whether there is such a container.

use ves_types::{CtId, CtName, ParseError};

/// A container by id or name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ct {
    /// Digits.
    Id(CtId),
    /// A name.
    Name(CtName),
}

impl std::str::FromStr for Ct {
    type Err = ParseError;
    fn from_str(s: &str) -> Result<Self, ParseError> {
        if s.starts_with(|c: char| c.is_ascii_alphabetic()) {
            s.parse().map(Self::Name)
        } else {
            s.parse().map(Self::Id)
        }
    }
}

impl std::fmt::Display for Ct {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}
