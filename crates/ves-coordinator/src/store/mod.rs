//! Where the desired state is kept: a narrow trait, an embedded store and one in memory.
//!
//! A [`Store`] keeps rows and does one thing well: a [`Batch`] is applied as a whole or not at all,
//! and claims (names, addresses, id slots) are granted to one container each inside that same
//! transaction. It does not know what is in the rows; [`record`] does. Never here: decisions.

pub mod embedded;
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
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Container,
        Self::Operation,
        Self::Request,
        Self::Name,
        Self::Address,
        Self::Slot,
        Self::Fact,
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
    /// A single fact.
    pub fn fact(name: &str) -> Self {
        Self { kind: Kind::Fact, text: name.to_owned() }
    }
}

/// Changes that become true together. Deletions come first, then claims, then rows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// Rows and claims that go.
    pub deletes: Vec<Key>,
    /// Things that belong to one container at a time.
    pub claims: Vec<(Key, CtId)>,
    /// Rows that are written.
    pub puts: Vec<(Key, Vec<u8>)>,
}

/// A row as it is kept.
pub type Row = (Key, Vec<u8>);

/// Why the store did not do as it was told.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another container has it; nothing of the batch was applied.
    #[error("{} {} belongs to container {holder}", key.kind.table(), key.text)]
    Taken {
        /// What was claimed.
        key: Key,
        /// Whose it is, in digits.
        holder: String,
    },
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
    /// All rows.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    fn load(&self) -> Result<Vec<Row>, StoreError>;

    /// Applies a batch as a whole; it survives a crash once this returns.
    ///
    /// # Errors
    /// [`StoreError::Taken`] or [`StoreError::Failed`]; nothing is applied then.
    fn commit(&self, batch: &Batch) -> Result<(), StoreError>;
}
