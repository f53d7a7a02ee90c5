//! Where the desired state is kept: a narrow trait, an embedded store and one in memory.
//!
//! A [`Store`] keeps rows and does one thing well: a [`Transaction`] is applied as a whole or not at
//! all, and only where what it compares is as expected; several are synced together. It does not know
//! what is in the rows; [`record`] does. Never here: decisions.

pub mod changes;
pub mod embedded;
pub mod index;
pub mod log;
pub mod memory;
pub mod migrate;
pub mod record;
pub mod state;

use std::error::Error;

use ves_types::{CtAddress, CtId, CtName, IdSlot};

use crate::operation::record::OpId;

/// The kind of a row, and in an embedded store its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A container's record, by id.
    Container,
    /// An operation, by id.
    Operation,
    /// The operation a request became, by the caller's request id.
    Request,
    /// Who has a name.
    Name,
    /// Who has an address.
    Address,
    /// Who has an id slot.
    Slot,
    /// Single facts: the boot seen last, the revision reserved, the floor of generations.
    Fact,
    /// Tokens, by id: see [`crate::token`].
    Token,
    /// What containers have used, by id: see [`crate::ledger`].
    Usage,
    /// Events, by number. The only ones that are not all in memory: see [`crate::events`].
    Event,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Container,
        Self::Operation,
        Self::Request,
        Self::Name,
        Self::Address,
        Self::Slot,
        Self::Fact,
        Self::Token,
        Self::Usage,
        Self::Event,
    ];

    /// The table's name; never changes.
    pub const fn table(self) -> &'static str {
        match self {
            Self::Container => "containers",
            Self::Operation => "operations",
            Self::Request => "requests",
            Self::Name => "names",
            Self::Address => "addresses",
            Self::Slot => "slots",
            Self::Fact => "facts",
            Self::Token => "tokens",
            Self::Usage => "usage",
            Self::Event => "events",
        }
    }
}

/// A row's place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The table.
    pub kind: Kind,
    /// The place in it.
    pub text: String,
}

impl Key {
    /// A container's record.
    pub fn container(ct: CtId) -> Self {
        Self { kind: Kind::Container, text: ct.to_string() }
    }
    /// An operation.
    pub fn operation(id: &OpId) -> Self {
        Self { kind: Kind::Operation, text: id.0.clone() }
    }
    /// A caller's request.
    pub fn request(id: &str) -> Self {
        Self { kind: Kind::Request, text: id.to_owned() }
    }
    /// A claim on a name.
    pub fn name(name: &CtName) -> Self {
        Self { kind: Kind::Name, text: name.as_str().to_owned() }
    }
    /// A claim on an address.
    pub fn address(address: CtAddress) -> Self {
        Self { kind: Kind::Address, text: address.to_string() }
    }
    /// A claim on an id slot.
    pub fn slot(slot: IdSlot) -> Self {
        Self { kind: Kind::Slot, text: slot.get().to_string() }
    }
    /// A token.
    pub fn token(id: &str) -> Self {
        Self { kind: Kind::Token, text: id.to_owned() }
    }
    /// What a container has used.
    pub fn usage(ct: CtId) -> Self {
        Self { kind: Kind::Usage, text: ct.to_string() }
    }
    /// A single fact.
    pub fn fact(name: &str) -> Self {
        Self { kind: Kind::Fact, text: name.to_owned() }
    }
    /// An event. Texts sort as their numbers do.
    pub fn event(number: u64) -> Self {
        Self { kind: Kind::Event, text: format!("{number:020}") }
    }
}

/// What a row must be for a transaction to be applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compare {
    /// The row.
    pub key: Key,
    /// What is in it; `None`: there is none.
    pub value: Option<Vec<u8>>,
}

/// Changes that become true together, if all rows compared are as expected before it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Transaction {
    /// What must hold.
    pub compares: Vec<Compare>,
    /// Rows that go.
    pub deletes: Vec<Key>,
    /// Rows that are written, also where one went.
    pub puts: Vec<Row>,
}

/// A row as it is kept.
pub type Row = (Key, Vec<u8>);

/// Why the store did not do as it was told.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A row is not as it was expected to be.
    #[error("{}/{} was changed by somebody else", .0.kind.table(), .0.text)]
    Conflict(Key),
    /// The store itself failed.
    #[error("{what} the store")]
    Failed {
        /// What was attempted.
        what: &'static str,
        /// Why it failed.
        source: Box<dyn Error + Send + Sync>,
    },
}

/// Keeps rows. Implementations block; they are called on threads that may.
pub trait Store: Send + Sync + std::fmt::Debug {
    /// At most `most` rows of a kind that come after `after`, in the order of their texts.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    fn range(&self, kind: Kind, after: Option<&str>, most: usize) -> Result<Vec<Row>, StoreError>;

    /// At most `most` rows of a kind that come before `before`, or the last ones, in the reverse order of their
    /// texts.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    fn range_back(
        &self,
        kind: Kind,
        before: Option<&str>,
        most: usize,
    ) -> Result<Vec<Row>, StoreError>;

    /// Applies transactions in their order, together as a whole: each finds what those before it did. They
    /// survive a crash once this returns.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] or [`StoreError::Failed`]; nothing of any is applied then.
    fn transact(&self, group: &[Transaction]) -> Result<(), StoreError>;

    /// Whether there is room kept for what is yet to come. Without, only what has begun is ended.
    fn has_room(&self) -> bool;
}

/// All rows of a store that are kept in memory.
pub fn all_rows(store: &dyn Store) -> Result<Vec<Row>, StoreError> {
    let mut rows: Vec<Row> = Vec::new();
    for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::Event) {
        rows.extend(rows_of(store, kind)?);
    }
    Ok(rows)
}

/// All rows of a kind.
pub fn rows_of(store: &dyn Store, kind: Kind) -> Result<Vec<Row>, StoreError> {
    const PAGE: usize = 1024;
    let mut rows: Vec<Row> = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let page = store.range(kind, after.as_deref(), PAGE)?;
        after = page.last().map(|(key, _)| key.text.clone());
        let more = page.len() == PAGE;
        rows.extend(page);
        if !more {
            return Ok(rows);
        }
    }
}

#[cfg(test)]
mod laws;
