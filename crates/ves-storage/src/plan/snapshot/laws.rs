//! The laws for snapshots, over the states of [`crate::plan`]'s tests with snapshots added.

use std::collections::BTreeMap;

use super::super::laws::{MIB, POOL, World, fresh, record, slot, states};
use super::super::room::Sums;
use super::super::{self as plan, PoolFacts, Refusal};
use super::*;

const NOW: Generation = Generation(7);

fn id(n: u128) -> SnapshotId {
    SnapshotId::from(n)
}

fn wish(n: u128) -> Desired {
    Desired { id: id(n), name: None, created_unix_ms: 5, generation: NOW }
}

fn plan_ensure(desired: &Desired, observed: &Observed) -> Result<Vec<Step>, Refusal> {
    super::plan_ensure(desired, observed, &POOL)
}

fn kept(generation: u64) -> Snapshot {
    Snapshot {
        record: Record {
            name: None,
            created_unix_ms: 1,
            generation: Generation(generation),
            parent: None,
            volume: record(None),
        },
        bytes: 300 * MIB,
        allocated: MIB,
        damaged: false,
    }
}

/// Every state of a volume, with no, one and two snapshots, reverted or not.
fn all() -> Vec<Observed> {
    let mut all = Vec::new();
    for state in states().into_iter().filter(|s| s.template.is_none() && s.online_growth) {
        for snapshots in [vec![], vec![1], vec![1, 2]] {
            let snapshots: BTreeMap<_, _> = snapshots
                .into_iter()
                .map(|n| (id(n), kept(u64::try_from(n).unwrap_or(0))))
                .collect();
            for shares_blocks in [false, true] {
                for at in [None, Some(3), Some(7)] {
                    let mut state =
                        Observed { snapshots: snapshots.clone(), shares_blocks, ..state.clone() };
                    if let Image::Ours { record, .. } = &mut state.image {
                        let to = |n| Reverted { snapshot: id(1), generation: Generation(n) };
                        record.reverted = at.map(to);
                    } else if at.is_some() {
                        continue;
                    }
                    all.push(state);
                }
            }
        }
    }
    all
}

/// Runs a plan, cut at each place and taken up again, and shows how it ends.
fn each_end(
    state: &Observed,
    planned: impl Fn(&Observed) -> Result<Vec<Step>, Refusal>,
    check: impl Fn(&World, &[Step]),
) -> usize {
    let Ok(steps) = planned(state) else { return 0 };
    for cut in 0..=steps.len() {
        let mut world = World::of(state);
        steps.iter().take(cut).for_each(|s| world.apply(s));
        // The last step may have been done without anybody knowing.
        if let Some(last) = cut.checked_sub(1).and_then(|n| steps.get(n)) {
            world.apply(last);
        }
        let again = planned(&world.observed())
            .unwrap_or_else(|e| panic!("{e} after {cut} of {steps:?} from {state:?}"));
        again.iter().for_each(|s| world.apply(s));
        assert_eq!(planned(&world.observed()), Ok(vec![]), "{state:?}\n{steps:?} cut at {cut}");
        check(&world, &steps);
    }
    1
}

/// What must stay as it is, whatever is done to snapshots.
fn same_volume(before: &Observed, after: &Observed) {
    assert_eq!(before.image, after.image);
    assert_eq!((before.device, &before.mount), (after.device, &after.mount));
}

#[test]
fn taken_deleted_and_reverted_from_anywhere_and_after_any_crash() {
    let (mut taken, mut reverted) = (0, 0);
    for state in all() {
        taken += each_end(
            &state,
            |o| plan_ensure(&wish(9), o),
            |world, _| {
                let after = world.observed();
                same_volume(&state, &after);
                assert!(!after.unfinished && after.snapshots.contains_key(&id(9)), "{after:?}");
                assert!(state.snapshots.iter().all(|(id, s)| after.snapshots.get(id) == Some(s)));
            },
        );
        each_end(
            &state,
            |o| Ok(plan_remove(id(1), o)),
            |world, _| {
                let after = world.observed();
                same_volume(&state, &after);
                assert!(!after.unfinished && !after.snapshots.contains_key(&id(1)));
                assert_eq!(state.snapshots.get(&id(2)), after.snapshots.get(&id(2)));
            },
        );
        let to = Reverted { snapshot: id(1), generation: NOW };
        reverted += each_end(
            &state,
            |o| plan_revert(to, o),
            |world, steps| {
                let after = world.observed();
                let Image::Ours { record, bytes, .. } = &after.image else { panic!("{after:?}") };
                assert_eq!(record.reverted, Some(to));
                assert!(matches!(&state.image, Image::Ours { bytes: had, .. } if had <= bytes));
                assert_eq!(state.snapshots, after.snapshots);
                let done = !steps.iter().any(|s| matches!(s, Step::Revert { .. }));
                assert!(
                    done || world.model.contents == u64::MAX,
                    "it holds what the snapshot holds"
                );
            },
        );
    }
    assert!(taken > 500 && reverted > 100, "{taken} {reverted}");
}

#[test]
fn forbidden_steps_never_appear() {
    for state in all() {
        let to = Reverted { snapshot: id(1), generation: NOW };
        let plans = [
            plan_ensure(&wish(9), &state),
            Ok(plan_remove(id(1), &state)),
            plan_revert(to, &state),
        ];
        for steps in plans.iter().flatten() {
            let reverts = steps.iter().any(|s| matches!(s, Step::Revert { .. } | Step::Publish));
            assert!(!reverts || state.mount == Mount::None, "reverts what is mounted: {state:?}");
            assert!(!steps.iter().any(|s| matches!(s, Step::Remove | Step::Unmount)), "{steps:?}");
        }
        // Only what is asked for is deleted.
        let deleted = plan_remove(id(1), &state);
        assert!(!deleted.contains(&Step::RemoveSnapshot { id: id(2) }));
        let kept = plans.iter().step_by(2).flatten().flatten();
        assert!(kept.clone().all(|s| !matches!(s, Step::RemoveSnapshot { .. })));
        // To make a volume what it should be, no snapshot is touched.
        let desired = plan::Desired {
            template: record(None).template,
            bytes: 900 * MIB,
            inodes: None,
            slot: slot(20),
            mounted: true,
        };
        let ensured = plan::plan_ensure(&desired, &state, &POOL).unwrap_or_default();
        let ours = |s: &Step| matches!(s, Step::RemoveSnapshot { .. } | Step::Revert { .. });
        assert!(!ensured.iter().any(ours), "{ensured:?}");
    }
}

#[test]
fn with_the_volume_its_snapshots_go_first() {
    for state in all() {
        let Ok(steps) = plan::plan_remove(&state) else { continue };
        let mut world = World::of(&state);
        for step in &steps {
            if *step == Step::Remove {
                assert!(world.observed().snapshots.is_empty(), "{steps:?}");
            }
            world.apply(step);
        }
        assert!(world.observed().snapshots.is_empty());
        let foreign = Observed { foreign_snapshot: Some("x".to_owned()), ..state };
        assert!(matches!(plan::plan_remove(&foreign), Err(Refusal::Foreign(_))));
    }
}

fn there() -> Observed {
    let image =
        Image::Ours { record: record(None), bytes: 512 * MIB, blocks: 131_072, damage: None };
    let snapshots = [(id(1), kept(1)), (id(2), kept(2))].into();
    Observed { image, allocated: 100 * MIB, snapshots, ..fresh() }
}

#[test]
fn refusals() {
    let refuse = |o: &Observed| plan_ensure(&wish(9), o).expect_err("refused");
    assert_eq!(refuse(&fresh()), Refusal::NoVolume);
    assert_eq!(refuse(&Observed { max_snapshots: 2, ..there() }), Refusal::TooManySnapshots(2));
    let held = Sums { volumes: 3740 * MIB, snapshots: MIB, templates: 0 };
    let full = PoolFacts { held, ..POOL };
    assert_eq!(
        super::plan_ensure(&wish(9), &there(), &full),
        Err(Refusal::PoolFull { need: 100 * MIB, free: 99 * MIB })
    );
    let mounted = Observed {
        device: Some(512 * MIB),
        mount: Mount::Ours { slot: Some(slot(20)) },
        mount_point: true,
        ..there()
    };
    assert_eq!(refuse(&Observed { shares_blocks: false, ..mounted.clone() }), Refusal::CopyInUse);
    // One that is there is there, whatever else is so.
    let last = Observed { max_snapshots: 0, shares_blocks: false, ..mounted.clone() };
    assert_eq!(super::plan_ensure(&wish(1), &last, &full), Ok(vec![]));

    let revert = |n, o: &Observed| plan_revert(Reverted { snapshot: id(n), generation: NOW }, o);
    assert_eq!(revert(5, &there()), Err(Refusal::SnapshotUnknown(id(5))));
    assert_eq!(revert(1, &mounted), Err(Refusal::Mounted));
    assert_eq!(revert(1, &fresh()), Err(Refusal::NoVolume));
    assert_eq!(plan_remove(id(5), &there()), vec![]);
}

#[test]
fn where_a_volume_comes_from() {
    let snapshots: BTreeMap<_, _> = [(id(8), kept(1)), (id(2), kept(2)), (id(3), kept(4))].into();
    let at = |snapshot, generation| {
        let generation = Generation(generation);
        current(Some(Reverted { snapshot: id(snapshot), generation }), &snapshots)
    };
    assert_eq!(current(None, &BTreeMap::new()), None);
    assert_eq!(current(None, &snapshots), Some(id(3)), "the last one taken");
    assert_eq!(at(8, 5), Some(id(8)), "the one it went back to");
    assert_eq!(at(8, 3), Some(id(3)), "the one taken since");
    assert_eq!(at(77, 5), None, "one that is gone");
    let Ok(steps) = plan_ensure(&wish(9), &there()) else { panic!("refused") };
    assert!(
        steps.iter().any(
            |s| matches!(s, Step::TakeSnapshot { record, .. } if record.parent == Some(id(2)))
        )
    );
}

#[test]
fn steps_read_well() {
    let text = |steps: &[Step]| steps.iter().map(|s| format!("{s}\n")).collect::<String>();
    let id = |n: u32| format!("00000000-0000-0000-0000-{n:012x}");
    let unfinished = Observed { unfinished: true, ..there() };
    assert_eq!(
        text(&plan_ensure(&wish(9), &unfinished).expect("planned")),
        format!(
            "discard what is unfinished\ntake snapshot {0}\nlet snapshot {0} be the container's\n",
            id(9)
        )
    );
    let to = Reverted { snapshot: SnapshotId::from(1), generation: NOW };
    assert_eq!(
        text(&plan_revert(to, &there()).expect("planned")),
        format!(
            "make a volume of 512 MiB from snapshot {}\nlet the new volume be the container's\n",
            id(1)
        )
    );
}
