//! The laws of checking: the goal from any state, after any crash, and what never happens.

use super::*;
use crate::plan::laws::{POOL, World, states};
use crate::plan::room::Sums;
use crate::plan::{Image, Step};
use ves_types::SnapshotId;

const NOW: Generation = Generation(7);

fn before() -> snapshot::Desired {
    let id = SnapshotId::from(9);
    snapshot::Desired { id, name: None, created_unix_ms: 1, generation: NOW }
}

fn wishes() -> [Desired; 2] {
    [None, Some(before())].map(|mend_all| Desired { generation: NOW, mend_all })
}

fn full() -> PoolFacts {
    PoolFacts { held: Sums { volumes: POOL.promisable() + (1 << 30), ..POOL.held }, ..POOL }
}

#[test]
fn the_goal_is_reached_from_anywhere_and_after_any_crash() {
    let mut planned = 0;
    for (desired, state) in wishes().iter().flat_map(|d| states().into_iter().map(move |s| (d, s)))
    {
        let plan = |o: &Observed| plan_check(desired, o, &POOL);
        let Ok(steps) = plan(&state) else { continue };
        planned += 1;
        for cut in 0..=steps.len() {
            let mut world = World::of(&state);
            // What loses nothing is not enough, and with it what is asked for here.
            world.model.hopeless = desired.mend_all.is_some();
            steps.iter().take(cut).for_each(|s| world.apply(s));
            if let Some(last) = cut.checked_sub(1).and_then(|n| steps.get(n)) {
                world.apply(last);
            }
            let again = plan(&world.observed()).expect("nothing stands in the way");
            again.iter().for_each(|s| world.apply(s));
            let after = world.observed();
            let Image::Ours { record, damage, .. } = &after.image else { panic!("{after:?}") };
            assert_eq!((record.checked, damage.as_ref(), after.device), (Some(NOW), None, None));
            assert_eq!(after.snapshots.contains_key(&before().id), desired.mend_all.is_some());
            assert_eq!(plan(&after), Ok(vec![]), "{state:?}\n{steps:?} cut at {cut}");
        }
    }
    assert!(planned > 100, "{planned}");
}

#[test]
fn nothing_is_checked_in_use_and_all_is_mended_only_on_demand_and_after_a_snapshot() {
    let at = |steps: &[Step], wanted: &Step| steps.iter().position(|s| s == wanted);
    for (desired, state) in wishes().iter().flat_map(|d| states().into_iter().map(move |s| (d, s)))
    {
        let Ok(steps) = plan_check(desired, &state, &POOL) else {
            let free = matches!(state.mount, Mount::None);
            assert!(!(free && matches!(state.image, Image::Ours { .. })), "{state:?}");
            continue;
        };
        assert_eq!(state.mount, Mount::None);
        let all = at(&steps, &Step::Check { mend: Mend::All });
        assert_eq!(all.is_some(), desired.mend_all.is_some(), "{steps:?}");
        let kept = at(&steps, &Step::PublishSnapshot { id: before().id });
        assert!(all.is_none() || kept < all && kept.is_some(), "{steps:?}");
        // Without room it is mended all the same.
        let tight = plan_check(desired, &Observed { allocated: 1 << 20, ..state }, &full());
        let tight = tight.expect("it needs no room");
        assert!(!tight.iter().any(|s| matches!(s, Step::TakeSnapshot { .. })), "{tight:?}");
        assert_eq!(at(&tight, &Step::Check { mend: Mend::All }).is_some(), all.is_some());
    }
}
