//! What is counted of a pool is what is in it, on the real kernel: after changes at once, failures, a
//! restart, and what somebody else did.

use std::fs::File;
use std::thread;

use ves_storage::host::Host as _;
use ves_storage::ledger::Holder;
use ves_storage::plan::{Desired, Step, snapshot};
use ves_types::{CtId, Epoch, Fence, Generation, SnapshotId};

use super::support::{Storage, needs};

fn fence(storage: &Storage, n: u32, generation: u64) -> Fence {
    let ct = CtId::try_from(storage.ct().get() + n).expect("valid");
    Fence { ct, generation: Generation(generation), epoch: Epoch(1) }
}

fn snapshot(n: u128, generation: u64) -> snapshot::Desired {
    let generation = Generation(generation);
    snapshot::Desired { id: SnapshotId::from(n), name: None, created_unix_ms: 1, generation }
}

/// What an inventory finds comes to what is counted, holder by holder.
#[track_caller]
fn agrees(storage: &Storage, after: &str) {
    assert_eq!(storage.service.reconcile(), Ok(vec![]), "after {after}");
    let pool = storage.pool();
    let found = storage.host.inventory().expect("listed");
    let sum = |of: fn(&Holder) -> bool| -> u64 {
        found.iter().filter(|(holder, _)| of(holder)).map(|(_, bytes)| bytes).sum()
    };
    let volumes = sum(|holder| matches!(holder, Holder::Volume(_)));
    let snapshots = sum(|holder| matches!(holder, Holder::Snapshot(..)));
    let templates = sum(|holder| matches!(holder, Holder::Template(_)));
    let held = (pool.held.volumes, pool.held.snapshots, pool.held.templates);
    assert_eq!((held, pool.reserved), ((volumes, snapshots, templates), 0), "after {after}");
}

#[test]
fn what_is_counted_is_what_is_in_the_pool() {
    if !needs() {
        return;
    }
    let mut storage = Storage::new();
    storage.busybox();
    agrees(&storage, "a template");
    let off = Desired { mounted: false, ..storage.desired(256) };
    // Several at once, each with its own life; one stays of each.
    thread::scope(|scope| {
        for n in 0..4_u32 {
            let (storage, off) = (&storage, &off);
            scope.spawn(move || {
                let service = &storage.service;
                service.ensure(&fence(storage, n, 1), off).expect("made");
                service.ensure_snapshot(&fence(storage, n, 2), &snapshot(1, 2)).expect("taken");
                let larger = Desired { bytes: (256 + u64::from(n)) << 20, ..off.clone() };
                service.ensure(&fence(storage, n, 3), &larger).expect("grown");
                service.ensure_snapshot(&fence(storage, n, 4), &snapshot(2, 4)).expect("taken");
                let first = SnapshotId::from(1);
                service.remove_snapshot(&fence(storage, n, 5), first).expect("removed");
                if n % 2 == 0 {
                    service.remove(&fence(storage, n, 6)).expect("removed");
                }
            });
        }
    });
    agrees(&storage, "changes at once");

    // A daemon that was killed in the middle of a create left half of it, and counts nothing for it.
    let half = fence(&storage, 5, 1).ct;
    let one = storage.service.get(fence(&storage, 1, 1).ct).expect("there");
    let step = Step::Create { record: one.record, bytes: 256 << 20 };
    storage.host.apply(half, &step).expect("begun");
    let before = storage.pool();
    storage.restart();
    agrees(&storage, "a restart");
    assert_eq!(storage.pool().held, before.held);

    // Somebody deletes an image, lengthens another, and puts there what is no volume.
    let volumes = storage.dir.layout().state_dir().join("storage/pool/volumes");
    let image = |n| volumes.join(format!("{}.img", fence(&storage, n, 1).ct));
    std::fs::remove_file(image(1)).expect("deleted");
    let other = File::options().write(true).open(image(3)).expect("opened");
    other.set_len(300 << 20).expect("lengthened");
    File::create_new(image(7)).expect("made").set_len(1 << 30).expect("sparse");
    let mut told = storage.service.reconcile().expect("looked");
    told.sort_by(|one, other| one.holder.cmp(&other.holder));
    let told: Vec<_> = told.into_iter().map(|d| (d.holder, d.counted, d.found)).collect();
    let holder = |n| Holder::Volume(fence(&storage, n, 1).ct);
    let expected =
        [(holder(1), 257 << 20, 0), (holder(3), 259 << 20, 300 << 20), (holder(7), 0, 1 << 30)];
    assert_eq!(told, expected);
    agrees(&storage, "what somebody else did");
    // What is none of ours is left alone, refused and counted.
    let refused = storage.service.ensure(&fence(&storage, 7, 1), &storage.desired(256));
    assert!(refused.is_err(), "{refused:?}");
    agrees(&storage, "a refusal");
    std::fs::remove_file(image(7)).expect("deleted");
    assert_eq!(storage.service.reconcile().map(|told| told.len()), Ok(1));
    for n in [1, 3] {
        storage.service.remove(&fence(&storage, n, 9)).expect("removed");
    }
    agrees(&storage, "all");
    assert_eq!((storage.pool().held.volumes, storage.pool().held.snapshots), (0, 0));
}
