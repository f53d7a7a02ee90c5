//! What has been promised of the pool: sums kept in memory, so that a promise costs the same however
//! many volumes there are.
//!
//! ```text
//! inventory, once ─► held ◄── what each change made of it; what each look at a container saw
//!                    reserved ◄── what calls under way will take
//! ```
//!
//! What failed is looked at anew. Never here: how much may be promised, a look at the host.

use std::collections::BTreeMap;

use ves_types::{CtId, SnapshotId, TemplateName};

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

    /// A container was seen so.
    pub fn see(&mut self, ct: CtId, seen: &Observed) {
        let bytes = match &seen.image {
            Image::Ours { bytes, .. } => *bytes,
            Image::Absent | Image::Foreign(_) => 0,
        };
        self.set(Holder::Volume(ct), bytes);
        let all = SnapshotId::from(0)..=SnapshotId::from(u128::MAX);
        let all = Holder::Snapshot(ct, *all.start())..=Holder::Snapshot(ct, *all.end());
        let known: Vec<Holder> = self.held.range(all).map(|(holder, _)| holder.clone()).collect();
        for holder in known {
            self.set(holder, 0);
        }
        for (id, snapshot) in &seen.snapshots {
            self.set(Holder::Snapshot(ct, *id), snapshot.allocated);
        }
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
            let before = ledger.held.get(&holder).copied().unwrap_or_default();
            assert_eq!(ledger.set(holder, bytes), bytes.saturating_sub(before));
            let mut sums = Sums::default();
            ledger.held.iter().for_each(|(holder, bytes)| *sum(&mut sums, holder) += bytes);
            assert_eq!(ledger.sums(), sums);
        }
    }
}
