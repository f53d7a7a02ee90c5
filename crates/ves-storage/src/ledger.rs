//! What has been promised of the pool: sums kept in memory, so that a promise costs the same however
//! many volumes there are.
//!
//! ```text
//! inventory, once ─► held ◄── what each change made of it; what each look at a container saw
//!                    reserved ◄── what calls under way will take
//! ```
//!
//! What failed is looked at anew. The ledger is a cache with a law: whatever was done, failed or was cut
//! off, it has what an inventory would find. Where it has not, somebody else has changed the pool, and
//! [`Ledger::differences`] tells. Never here: how much may be promised, a look at the host.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use ves_types::{Bytes, CtId, SnapshotId, TemplateName};

use crate::plan::room::Sums;
use crate::plan::{Image, Observed};

/// What takes room of the pool.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Holder {
    /// A volume, for its hard size.
    Volume(CtId),
    /// A snapshot, for what it can come to take.
    Snapshot(CtId, SnapshotId),
    /// A template with its base images, for what they take.
    Template(TemplateName),
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Volume(ct) => write!(f, "the volume of container {ct}"),
            Self::Snapshot(ct, id) => write!(f, "snapshot {id} of container {ct}"),
            Self::Template(name) => write!(f, "template {name}"),
        }
    }
}

/// Somebody who holds something else than was counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Who.
    pub holder: Holder,
    /// Bytes that were counted.
    pub counted: u64,
    /// Bytes that were found in the pool.
    pub found: u64,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { holder, counted, found } = self;
        write!(f, "{holder} was counted with {}, and has {}", Bytes(*counted), Bytes(*found))
    }
}

/// Who holds how much.
pub type Inventory = BTreeMap<Holder, u64>;

fn sum<'s>(sums: &'s mut Sums, holder: &Holder) -> &'s mut u64 {
    match holder {
        Holder::Volume(_) => &mut sums.volumes,
        Holder::Snapshot(..) => &mut sums.snapshots,
        Holder::Template(_) => &mut sums.templates,
    }
}

/// Who holds how much, and what that comes to.
#[derive(Debug, Default)]
pub struct Ledger {
    held: Inventory,
    sums: Sums,
}

impl From<Inventory> for Ledger {
    fn from(inventory: Inventory) -> Self {
        let mut ledger = Self::default();
        for (holder, bytes) in inventory {
            ledger.set(holder, bytes);
        }
        ledger
    }
}

impl Ledger {
    /// The sums.
    pub const fn sums(&self) -> Sums {
        self.sums
    }

    /// From now on `holder` holds this much. Answers by how much that is more.
    pub fn set(&mut self, holder: Holder, bytes: u64) -> u64 {
        let sum = sum(&mut self.sums, &holder);
        let before = match bytes {
            0 => self.held.remove(&holder),
            _ => self.held.insert(holder, bytes),
        };
        let before = before.unwrap_or_default();
        // No sum of sizes comes near the end of u64: each is one of files in one file system.
        *sum = sum.wrapping_sub(before).wrapping_add(bytes);
        bytes.saturating_sub(before)
    }

    /// How much that is.
    pub fn holds(&self, holder: &Holder) -> u64 {
        self.held.get(holder).copied().unwrap_or_default()
    }

    /// Who of a container holds how much, as it was seen. Of what is none of ours only an inventory tells
    /// how large it is.
    pub fn shows(&self, ct: CtId, seen: &Observed) -> Inventory {
        let mut all = Inventory::new();
        if seen.foreign_snapshot.is_none() {
            let any = SnapshotId::from(0)..=SnapshotId::from(u128::MAX);
            let any = Holder::Snapshot(ct, *any.start())..=Holder::Snapshot(ct, *any.end());
            all.extend(self.held.range(any).map(|(holder, _)| (holder.clone(), 0)));
        }
        match &seen.image {
            Image::Ours { bytes, .. } => all.insert(Holder::Volume(ct), *bytes),
            Image::Absent => all.insert(Holder::Volume(ct), 0),
            Image::Foreign(_) => None,
        };
        let snapshots = seen.snapshots.iter();
        all.extend(snapshots.map(|(id, s)| (Holder::Snapshot(ct, *id), s.allocated)));
        all
    }

    /// Whose share is another than an inventory found.
    pub fn differences(&self, found: &Inventory) -> Vec<Difference> {
        let all: BTreeSet<&Holder> = self.held.keys().chain(found.keys()).collect();
        let difference = |holder: &Holder| {
            let found = found.get(holder).copied().unwrap_or_default();
            Difference { holder: holder.clone(), counted: self.holds(holder), found }
        };
        all.into_iter().map(difference).filter(|d| d.counted != d.found).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_what_is_held_whatever_happened() {
        let ct = |n: u32| CtId::try_from(n).expect("valid");
        let mut ledger = Ledger::default();
        // A sequence of changes that comes to the same holders again and again.
        let mut number = 1u64;
        for _ in 0..2000 {
            number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let (which, bytes) = ((number >> 33) % 12, (number >> 40) % 1000);
            let owner = ct(101 + u32::try_from(which % 4).expect("small"));
            let holder = match which / 4 {
                0 => Holder::Volume(owner),
                1 => Holder::Snapshot(owner, SnapshotId::from(u128::from(bytes % 3))),
                _ => Holder::Template(format!("t{}", which % 4).parse().expect("a name")),
            };
            let before = ledger.holds(&holder);
            assert_eq!(ledger.set(holder, bytes), bytes.saturating_sub(before));
            let mut sums = Sums::default();
            ledger.held.iter().for_each(|(holder, bytes)| *sum(&mut sums, holder) += bytes);
            assert_eq!(ledger.sums(), sums);
        }
    }

    #[test]
    fn what_is_counted_otherwise_is_told_and_nothing_else() {
        let volume = |n: u32| Holder::Volume(CtId::try_from(n).expect("valid"));
        let counted: Inventory = [(volume(101), 1), (volume(102), 2), (volume(103), 3)].into();
        let found = [(volume(102), 2), (volume(103), 5), (volume(104), 4), (volume(105), 0)].into();
        let ledger = Ledger::from(counted.clone());
        assert_eq!(ledger.differences(&counted), []);
        let told: Vec<_> = ledger.differences(&found);
        let told: Vec<_> = told.iter().map(|d| (&d.holder, d.counted, d.found)).collect();
        assert_eq!(told, [(&volume(101), 1, 0), (&volume(103), 3, 5), (&volume(104), 0, 4)]);
    }
}
