//! The laws of promises, over many pools.

use super::*;

const MIB: u64 = 1 << 20;

fn pools() -> Vec<PoolFacts> {
    let mut all = Vec::new();
    for limit in [GIB, 3 * GIB, 100 * GIB, 20_000 * GIB] {
        for part in 1..=4u64 {
            let reach = (limit / 4 * part).max(GIB).min(limit);
            for backed in [0, reach / 2, reach, reach + MIB] {
                for below in [0, SPARE, GIB, limit, 2 * limit] {
                    for held in [0, 100 * MIB, reach / 2, reach, limit] {
                        for overcommit_percent in [50, 100, 300] {
                            for own in [true, false] {
                                let used = held.min(reach);
                                let room = Room {
                                    own,
                                    limit,
                                    reach,
                                    backed,
                                    below,
                                    used,
                                    overcommit_percent,
                                };
                                let held = Sums { volumes: held, ..Sums::default() };
                                all.push(PoolFacts { room, held, reserved: MIB });
                            }
                        }
                    }
                }
            }
        }
    }
    all
}

/// The pool after what was planned was done.
fn after(pool: PoolFacts, backed: Option<u64>, need: u64) -> PoolFacts {
    let mut room = pool.room;
    if let Some(bytes) = backed {
        room.below -= bytes.saturating_sub(room.backed);
        room.backed = room.backed.max(bytes);
        room.reach = room.reach.max(bytes);
    }
    PoolFacts { room, reserved: pool.reserved + need, ..pool }
}

#[test]
fn what_is_promised_is_backed_and_fits() {
    let mut grown = 0;
    for pool in pools().into_iter().filter(|p| p.room.own && p.room.overcommit_percent <= 100) {
        let most = pool.promisable();
        for need in [1, most / 2, most].into_iter().filter(|need| (1..=most).contains(need)) {
            let backed = pool.back(need).expect("it may be promised");
            grown += u64::from(backed.is_some());
            let then = after(pool, backed, need);
            assert!(then.room.backed >= then.room.reach, "{pool:?} {need}");
            assert!(usable(then.room.reach) >= then.committed(), "{pool:?} {need}");
            assert!(then.room.reach <= then.room.limit.max(pool.room.reach), "{pool:?} {need}");
            assert!(then.room.below >= SPARE.min(pool.room.below), "{pool:?} {need}");
            assert_eq!(then.back(0), Ok(None), "it is done: {pool:?} {need}");
            // What is left is what was left, less this.
            assert_eq!(then.promisable(), most - need, "{pool:?} {need}");
        }
    }
    assert!(grown > 100, "{grown}");
}

#[test]
fn nothing_is_promised_that_is_not_there() {
    for pool in pools() {
        let most = pool.promisable();
        let refused = Err(Refusal::PoolFull { need: most + 1, free: most });
        assert_eq!(pool.check(most + 1), refused);
        assert_eq!(pool.back(most + 1).map(drop), refused);
        let Room { own, backed, reach, below, .. } = pool.room;
        if own && backed < reach && backed + below.saturating_sub(SPARE) < reach {
            assert_eq!(most, 0, "what is there cannot be backed: {pool:?}");
        }
        if !own && pool.room.overcommit_percent <= 100 {
            assert!(most <= below.saturating_sub(SPARE), "{pool:?}");
        }
    }
}

#[test]
fn beside_others_files_what_snapshots_can_come_to_take_is_promised_once() {
    let (mut given, mut pools_asked) = (0, 0);
    for pool in pools().into_iter().filter(|p| !p.room.own && p.room.overcommit_percent <= 100) {
        // Snapshots of 64 MiB, as many as are promised: none of them takes any room when it is taken.
        let (size, mut pool) = (64 * MIB, pool);
        while pool.check(size).is_ok() && given < 1_000_000 {
            pool.held.snapshots += size;
            given += 1;
        }
        pools_asked += 1;
        assert!(pool.held.snapshots <= pool.room.below.saturating_sub(SPARE), "{pool:?}");
    }
    assert!(given > 100 && pools_asked > 100, "{given} {pools_asked}");
}

#[test]
fn only_an_operators_factor_promises_more_than_there_is() {
    for pool in pools() {
        let generous = PoolFacts { room: Room { overcommit_percent: 300, ..pool.room }, ..pool };
        let strict = PoolFacts { room: Room { overcommit_percent: 100, ..pool.room }, ..pool };
        assert!(generous.promisable() >= strict.promisable());
        let then = after(generous, generous.back(generous.promisable()).expect("promised"), 0);
        let then = PoolFacts { reserved: MIB + generous.promisable(), ..then };
        if then.room.own && then.committed() > usable(then.room.attainable().max(then.room.reach)) {
            assert!(!then.alarms().is_empty(), "{then:?}");
        }
    }
}

#[test]
fn a_size_and_what_it_holds_agree() {
    for bytes in [0, 1, 4096, 100 * MIB, GIB, 63 * GIB + 5, 1 << 50] {
        assert!(usable(reach_for(bytes)) >= bytes, "{bytes}");
        assert!(usable(reach_for(bytes) - 8192) < bytes.max(1), "{bytes}");
    }
    assert_eq!((step(GIB), step(64 * GIB), step(65 * GIB)), (GIB, GIB, 2 * GIB));
}

#[test]
fn alarms() {
    let room = Room {
        own: true,
        limit: 8 * GIB,
        reach: 2 * GIB,
        backed: 2 * GIB,
        below: 10 * GIB,
        used: 0,
        overcommit_percent: 100,
    };
    let well = PoolFacts { room, held: Sums::default(), reserved: 0 };
    assert_eq!(well.alarms(), []);
    let text = |pool: PoolFacts| pool.alarms().iter().map(|a| format!("{a}\n")).collect::<String>();
    let of = |room| text(PoolFacts { room, ..well });
    assert!(of(Room { backed: GIB, ..room }).contains("only 1 GiB are backed"));
    assert!(of(Room { below: MIB, ..room }).contains("only 1 MiB are free under"));
    let over = PoolFacts { held: Sums { volumes: 9 * GIB, ..Sums::default() }, ..well };
    assert!(text(over).contains("9 GiB are promised"));
}
