//! Where the desired state is kept: a narrow trait, an embedded store and one in memory.
//!
//! A [`Store`] keeps rows and does what etcd's version 3 does too, so that one can stand in its place: it
//! reads rows, alone or in ranges; applies a [`Transaction`] as a whole where its comparisons hold, or not
//! at all; tells who watches what changed, in the order of commits; and drops rows whose lease nobody
//! renews. Both stores here are tested by the same laws. What is claimed (names, addresses, id slots) is a
//! row that must be absent or the claimant's own. A store does not know what is in the rows; [`record`]
//! does. Never here: decisions.

pub mod embedded;
#[cfg(test)]
mod laws;
mod lease;
pub mod memory;
pub mod migrate;
pub mod record;
pub mod state;
mod watch;

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ves_types::{CtAddress, CtId, CtName, IdSlot, NodeName};

use crate::operation::record::OpId;

pub use watch::{Changed, Watch, Watched};

/// The kind of a row.
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

    /// Whether its rows are one node's own. Id slots are places among a node's user ids; facts are about a
    /// node's boots, its coordinator's starts and what its services may remember. Everything else means the
    /// same on all nodes: ids, names and addresses are unique among them, and any node answers for any
    /// operation.
    pub const fn of_a_node(self) -> bool {
        matches!(self, Self::Slot | Self::Fact)
    }
}

/// Whose a row is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// All nodes' together.
    Cluster,
    /// One node's.
    Node(NodeName),
}

impl fmt::Display for Scope {
    /// How keys begin.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cluster => Ok(()),
            Self::Node(node) => write!(f, "nodes/{node}/"),
        }
    }
}

/// A row's place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Whose it is.
    pub scope: Scope,
    /// The table.
    pub kind: Kind,
    /// The place in it.
    pub text: String,
}

impl Key {
    fn cluster(kind: Kind, text: String) -> Self {
        Self { scope: Scope::Cluster, kind, text }
    }
    fn of_node(node: &NodeName, kind: Kind, text: String) -> Self {
        Self { scope: Scope::Node(node.clone()), kind, text }
    }
    /// A container's record.
    pub fn container(ct: CtId) -> Self {
        Self::cluster(Kind::Container, ct.to_string())
    }
    /// An operation.
    pub fn operation(id: &OpId) -> Self {
        Self::cluster(Kind::Operation, id.0.clone())
    }
    /// A caller's request.
    pub fn request(id: &str) -> Self {
        Self::cluster(Kind::Request, id.to_owned())
    }
    /// A claim on a name.
    pub fn name(name: &CtName) -> Self {
        Self::cluster(Kind::Name, name.as_str().to_owned())
    }
    /// A claim on an address.
    pub fn address(address: CtAddress) -> Self {
        Self::cluster(Kind::Address, address.to_string())
    }
    /// A claim on an id slot of a node.
    pub fn slot(node: &NodeName, slot: IdSlot) -> Self {
        Self::of_node(node, Kind::Slot, slot.get().to_string())
    }
    /// A single fact of a node.
    pub fn fact(node: &NodeName, name: &str) -> Self {
        Self::of_node(node, Kind::Fact, name.to_owned())
    }

    /// The key as a store writes it, which [`Self::parse`] reads: `containers/101`, `nodes/alpha/slots/16`.
    fn path(&self) -> String {
        format!("{}{}/{}", self.scope, self.kind.table(), self.text)
    }

    fn parse(path: &str) -> Option<Self> {
        let (scope, path) = match path.strip_prefix("nodes/") {
            Some(rest) => {
                let (node, rest) = rest.split_once('/')?;
                (Scope::Node(node.parse().ok()?), rest)
            }
            None => (Scope::Cluster, path),
        };
        let (table, text) = path.split_once('/')?;
        let kind = Kind::ALL.into_iter().find(|kind| kind.table() == table)?;
        Some(Self { scope, kind, text: text.to_owned() })
    }
}

/// How many transactions a store had committed when something was so. Grows with each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(pub u64);

impl Revision {
    #[must_use]
    const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// Rows that go together when their lease is not renewed in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub u64);

/// Which rows are meant: those of one kind, or all; in the order of their keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    prefix: String,
    beyond: Option<String>,
    limit: usize,
    backwards: bool,
}

impl Range {
    /// Every row.
    pub const fn all() -> Self {
        Self { prefix: String::new(), beyond: None, limit: usize::MAX, backwards: false }
    }

    /// The rows of a kind.
    pub fn of(scope: &Scope, kind: Kind) -> Self {
        Self { prefix: format!("{scope}{}/", kind.table()), ..Self::all() }
    }

    /// Of these the ones after `text`; before it where they are read backwards.
    #[must_use]
    pub fn beyond(self, text: &str) -> Self {
        Self { beyond: Some(format!("{}{text}", self.prefix)), ..self }
    }

    /// The last ones first.
    #[must_use]
    pub fn backwards(self) -> Self {
        Self { backwards: true, ..self }
    }

    /// At most so many.
    #[must_use]
    pub fn limit(self, limit: usize) -> Self {
        Self { limit, ..self }
    }

    /// Takes them from rows that are within the bounds, in the order of their keys.
    fn pick<T>(&self, rows: impl DoubleEndedIterator<Item = T>) -> Vec<T> {
        match self.backwards {
            true => rows.rev().take(self.limit).collect(),
            false => rows.take(self.limit).collect(),
        }
    }

    fn contains(&self, key: &Key) -> bool {
        std::ops::RangeBounds::<String>::contains(&self.bounds(), &key.path())
    }

    /// Where they begin and end.
    fn bounds(&self) -> (std::ops::Bound<String>, std::ops::Bound<String>) {
        use std::ops::Bound::{Excluded, Included, Unbounded};
        // Keys are text, in which nothing is greater than this.
        let end = match self.prefix.as_str() {
            "" => Unbounded,
            prefix => Excluded(format!("{prefix}{}", char::MAX)),
        };
        match self.beyond.clone() {
            Some(before) if self.backwards => (Included(self.prefix.clone()), Excluded(before)),
            Some(after) => (Excluded(after), end),
            None => (Included(self.prefix.clone()), end),
        }
    }
}

/// A row as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Its place.
    pub key: Key,
    /// What it is.
    pub value: Vec<u8>,
    /// The transaction that wrote it last.
    pub revision: Revision,
}

/// Rows as they were at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The rows.
    pub rows: Vec<Stored>,
    /// The moment; who watches from it misses nothing.
    pub revision: Revision,
}

/// A row's place and what it is.
pub type Row = (Key, Vec<u8>);

/// What a row must be for a transaction to be applied, as it was before it. In etcd, which compares
/// revisions, [`Self::AbsentOr`] is a read whose answer is compared with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Is {
    /// It is not there.
    Absent,
    /// It is there, whatever it is.
    Present,
    /// It was last written by this transaction.
    At(Revision),
    /// It is not there, or is this.
    AbsentOr(Vec<u8>),
}

impl Is {
    fn holds(&self, found: Option<(Revision, &[u8])>) -> bool {
        match (self, found) {
            (Self::Absent | Self::AbsentOr(_), None) | (Self::Present, Some(_)) => true,
            (Self::At(revision), Some((at, _))) => *revision == at,
            (Self::AbsentOr(mine), Some((_, value))) => mine == value,
            (Self::Absent, Some(_)) | (Self::Present | Self::At(_), None) => false,
        }
    }
}

/// Changes that become true together, where all comparisons hold. Deletions come before rows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Transaction {
    /// What must be so.
    pub compares: Vec<(Key, Is)>,
    /// Rows that go.
    pub deletes: Vec<Key>,
    /// Rows that are written.
    pub puts: Vec<Row>,
    /// What the rows that are written last as long as; none: for ever.
    pub lease: Option<LeaseId>,
}

impl Transaction {
    /// Makes something a container's, which must be nobody's or its own.
    pub fn claim(&mut self, key: Key, ct: CtId) {
        let mine = ct.to_string().into_bytes();
        self.compares.push((key.clone(), Is::AbsentOr(mine.clone())));
        self.puts.push((key, mine));
    }
}

/// Why the store did not do as it was told.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// A row is not what it must be; nothing of the transaction was applied.
    #[error("{} is not what it was taken for", key.path())]
    Differs {
        /// Which.
        key: Key,
        /// What it is.
        found: Option<Vec<u8>>,
    },
    /// There is no such lease any more, and none of its rows.
    #[error("the lease {} has ended", .0.0)]
    LeaseEnded(LeaseId),
    /// The store itself failed.
    #[error("{what} the store")]
    Failed {
        /// What was attempted.
        what: &'static str,
        /// Why it failed; of all transactions that were committed together.
        source: Arc<dyn Error + Send + Sync>,
    },
}

/// Keeps rows. Implementations block; they are called on threads that may.
pub trait Store: Send + Sync + fmt::Debug {
    /// One row.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    fn get(&self, key: &Key) -> Result<Option<Stored>, StoreError>;

    /// Rows in the order of their keys, all as they were at one moment.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    fn range(&self, range: &Range) -> Result<Page, StoreError>;

    /// Applies a transaction as a whole; it survives a crash once this returns. Those that arrive while
    /// another is written are written together, each with its own outcome.
    ///
    /// # Errors
    /// Any; nothing is applied then.
    fn transact(&self, transaction: &Transaction) -> Result<Revision, StoreError>;

    /// Tells of each change after a revision, in the order of commits.
    fn watch(&self, range: &Range, after: Revision) -> Watch;

    /// A new lease, which ends when it was not renewed for so long. A store that was opened anew gives
    /// each lease its whole time again.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError>;

    /// Makes a lease last for its whole time from now on.
    ///
    /// # Errors
    /// [`StoreError::LeaseEnded`] or [`StoreError::Failed`].
    fn renew(&self, lease: LeaseId) -> Result<(), StoreError>;

    /// Ends the leases whose time is over, and with them their rows, where the store does not do so by
    /// itself; every other call does this first.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    fn expire(&self) -> Result<(), StoreError>;
}
