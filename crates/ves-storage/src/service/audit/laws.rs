//! The law of the ledger: whatever was done, has failed, was cut off or was done at once, it has what an
//! inventory finds. And: nobody is promised what another was, nobody waits for another's disk.

use std::sync::Barrier;
use std::thread;

use ves_proto::Reason;
use ves_types::{Generation, SnapshotId};

use crate::fake::FakeHost;
use crate::host::Host as _;
use crate::ledger::Holder;
use crate::plan::{self, Desired};
use crate::service::Service;
use crate::service::tests::{Fixture, fence, fixture, snapshot, wish};

/// Numbers that look like chance, and are the same each time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        (self.0 >> 33) % most
    }
}

#[track_caller]
fn is_what_is_there(service: &Service, host: &FakeHost, after: &str) {
    let audit = service.promises.audit().expect("looked");
    assert_eq!(audit.differences(), [], "after {after}");
    drop(audit);
    let pool = service.pool().expect("known").1;
    assert_eq!(pool.reserved, 0, "after {after}");
    let volumes = host.inventory().expect("listed");
    let volumes = volumes.iter().filter(|(holder, _)| matches!(holder, Holder::Volume(_)));
    assert_eq!(pool.held.volumes, volumes.map(|(_, bytes)| bytes).sum::<u64>(), "after {after}");
}

/// One thing that somebody may ask for, of one of few containers; it may fail.
fn change(f: &Fixture, numbers: &mut Numbers, generation: u64) -> String {
    let ct = 101 + u32::try_from(numbers.below(4)).expect("small");
    let fence = fence(ct, generation);
    let id = SnapshotId::from(u128::from(numbers.below(3)));
    let service = &f.service;
    match numbers.below(9) {
        0..=2 => {
            let mounted = numbers.below(2) == 0;
            let done = service.ensure(&fence, &Desired { mounted, ..wish(1 + numbers.below(4)) });
            format!("ensure {ct}: {done:?}")
        }
        3 => format!("remove {ct}: {:?}", service.remove(&fence)),
        4 | 5 => {
            f.host.write_meanwhile(fence.ct, numbers.below(2) << 20);
            let wish = plan::snapshot::Desired { id, ..snapshot(0, generation) };
            format!("snapshot {ct}: {:?}", service.ensure_snapshot(&fence, &wish))
        }
        6 => format!("remove a snapshot of {ct}: {:?}", service.remove_snapshot(&fence, id)),
        7 => format!("revert {ct}: {:?}", service.revert(&fence, id)),
        _ => {
            f.host.damage(fence.ct, numbers.below(2) == 0);
            let before = snapshot(7, generation);
            let mend_all = Some(before).filter(|_| numbers.below(2) == 0);
            let desired = plan::check::Desired { generation: Generation(generation), mend_all };
            format!("check {ct}: {:?}", service.check(&fence, &desired))
        }
    }
}

#[test]
fn the_ledger_has_what_an_inventory_finds_whatever_happened() {
    let mut failures = 0;
    for seed in 0..30 {
        let (f, mut numbers) = (fixture(), Numbers(seed));
        // Of some pools more is asked than there is.
        f.host.set_pool_bytes((4 + numbers.below(30)) << 30);
        f.service.pool().expect("known");
        for generation in 1..=40 {
            if numbers.below(3) == 0 {
                f.host.fail_after(numbers.below(6));
            }
            let done = change(&f, &mut numbers, generation);
            failures += u32::from(done.contains("Err("));
            f.host.fail_after(u64::MAX);
            is_what_is_there(&f.service, &f.host, &format!("{done} (seed {seed})"));
            if numbers.below(8) == 0 {
                f.host.reboot();
                f.host.sweep();
                // A service that begins anew asks the host, and says the same.
                let anew = Service::new(f.host.clone(), f.service.shell.clone());
                assert_eq!(anew.pool(), f.service.pool(), "seed {seed}");
            }
        }
    }
    assert!(failures > 50, "only {failures} have failed, so little was tried");
}

#[test]
fn the_ledger_has_what_an_inventory_finds_when_many_change_at_once() {
    for seed in 0..8 {
        let f = fixture();
        f.service.pool().expect("known");
        thread::scope(|scope| {
            for part in 0..4_u32 {
                let f = &f;
                scope.spawn(move || {
                    for generation in 1..=12 {
                        let ct = 101 + part;
                        let wish = wish(1 + (generation + seed + u64::from(part)) % 5);
                        // Whether these are done or refused.
                        f.service.ensure(&fence(ct, generation), &wish).ok();
                        let taken = snapshot(generation.into(), generation);
                        f.service.ensure_snapshot(&fence(ct, generation), &taken).ok();
                        if generation % 4 == 3 {
                            f.service.remove(&fence(ct, generation)).ok();
                        }
                    }
                });
            }
            // Somebody audits all the time, and has nothing to tell and nothing to correct.
            for _ in 0..50 {
                assert_eq!(f.service.reconcile(), Ok(vec![]));
            }
        });
        is_what_is_there(&f.service, &f.host, "all");
    }
}

#[test]
fn the_last_room_is_promised_once() {
    for _ in 0..50 {
        let f = fixture();
        let held = f.service.pool().expect("known").1.held.templates;
        f.host.set_pool_bytes(plan::room::reach_for(held + (3 << 29)));
        let together = Barrier::new(2);
        let made = thread::scope(|scope| {
            let make = |ct| {
                together.wait();
                f.service.ensure(&fence(ct, 1), &wish(1)).map(drop).map_err(|f| f.reason)
            };
            let one = scope.spawn(move || make(101));
            let other = make(102);
            [one.join().expect("it ended"), other]
        });
        let full = Err(Reason::PoolFull);
        assert!(made == [Ok(()), full] || made == [full, Ok(())], "{made:?}");
        is_what_is_there(&f.service, &f.host, "both");
    }
}

#[test]
fn nobody_waits_for_a_look_at_anothers_volume() {
    let f = fixture();
    let slow = fence(101, 1);
    f.host.stick(Some(slow.ct));
    thread::scope(|scope| {
        let waits = scope.spawn(|| f.service.ensure(&slow, &wish(1)).map(drop));
        while f.host.stuck_looks() == 0 {
            thread::yield_now();
        }
        // Whatever takes room of the pool, or gives it back.
        f.service.ensure(&fence(102, 1), &wish(1)).expect("made");
        f.service.ensure_snapshot(&fence(102, 2), &snapshot(1, 2)).expect("taken");
        f.service.ensure(&fence(102, 3), &wish(2)).expect("grown");
        f.service.remove(&fence(102, 4)).expect("removed");
        f.service.tend().expect("looked at");
        f.host.stick(None);
        waits.join().expect("it ended").expect("made");
    });
    is_what_is_there(&f.service, &f.host, "all");
}

#[test]
fn what_somebody_else_did_to_the_pool_is_found_counted_and_told_once() {
    let f = fixture();
    for ct in [101, 102] {
        f.service.ensure(&fence(ct, 1), &wish(1)).expect("made");
    }
    assert_eq!(f.service.reconcile(), Ok(vec![]));
    let before = f.service.pool().expect("known").1.held;
    f.host.lose(fence(101, 1).ct);
    f.host.make(fence(103, 1).ct, wish(1).template, 5 << 30);
    let busy = f.service.shell.hold(fence(103, 1).ct, "a test").expect("free");
    let told = f.service.reconcile().expect("looked");
    let told: Vec<_> = told.iter().map(ToString::to_string).collect();
    assert_eq!(told, ["the volume of container 101 was counted with 1 GiB, and has 0 B"]);
    drop(busy);
    let told = f.service.reconcile().expect("looked");
    assert_eq!((told.len(), told[0].found), (1, 5 << 30), "when nobody changes it any more");
    assert_eq!(f.service.reconcile(), Ok(vec![]));
    let after = f.service.pool().expect("known").1.held;
    assert_eq!(after.volumes, before.volumes + (4 << 30));
    is_what_is_there(&f.service, &f.host, "all");
}

#[test]
fn what_changes_while_the_pool_is_looked_at_is_not_corrected_to_what_it_was() {
    let f = fixture();
    f.service.ensure(&fence(101, 1), &wish(1)).expect("made");
    let promises = &f.service.promises;
    f.host.lose(fence(101, 1).ct);
    let audit = promises.audit().expect("looked");
    let wrong = audit.differences();
    assert_eq!(wrong.len(), 1);
    // It is made again before that is corrected, as large as it was.
    promises.set(Holder::Volume(fence(101, 1).ct), 0);
    f.service.ensure(&fence(101, 2), &wish(1)).expect("made");
    assert!(!audit.correct(&wrong[0]));
    drop(audit);
    is_what_is_there(&f.service, &f.host, "both");
    // Nor where nobody knows any more what was counted.
    f.host.lose(fence(101, 1).ct);
    let audit = promises.audit().expect("looked");
    let wrong = audit.differences();
    promises.forget();
    promises.facts().expect("known");
    assert!(!audit.correct(&wrong[0]));
}
