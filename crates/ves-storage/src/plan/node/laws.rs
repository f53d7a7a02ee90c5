//! The laws of the node's planner, over all states a pool can be in.

use super::*;

fn desires() -> Vec<Desired> {
    let kinds = [PoolKind::Auto, PoolKind::ImageCopy, PoolKind::ImageReflink];
    let sizes = [None, Some(3 << 30)];
    kinds.into_iter().flat_map(|kind| sizes.map(|bytes| Desired { kind, bytes })).collect()
}

fn states() -> Vec<Observed> {
    let images = [
        Image::Absent,
        Image::Dangling,
        Image::There { attached: false },
        Image::There { attached: true },
    ];
    let mut all = Vec::new();
    for image in images {
        for mount in [Mount::None, Mount::Image, Mount::Foreign("x".to_owned())] {
            // What is mounted is behind a device.
            if mount == Mount::Image && image != (Image::There { attached: true }) {
                continue;
            }
            for bits in 0..32u8 {
                let makes = [vec![], vec![FileSystem::Btrfs], FileSystem::ALL.to_vec()];
                for makes in makes {
                    all.push(Observed {
                        image,
                        mount: mount.clone(),
                        ready: bits & 1 != 0,
                        used: bits & 3 != 0,
                        had_volumes: bits & 4 != 0,
                        shares_blocks: bits & 8 != 0,
                        makes,
                        below: if bits & 16 == 0 { 100 << 30 } else { 0 },
                    });
                }
            }
        }
    }
    all
}

fn cases() -> impl Iterator<Item = (Desired, Observed)> {
    desires().into_iter().flat_map(|d| states().into_iter().map(move |o| (d, o)))
}

fn apply(world: &mut Observed, step: &Step) {
    match step {
        Step::MakeImage { .. } => {
            assert!(!world.used, "what is in the directory would be hidden");
            assert!(matches!(world.image, Image::Absent | Image::There { attached: false }));
            world.image = Image::There { attached: false };
            world.ready = false;
        }
        Step::Attach => {
            assert!(matches!(world.image, Image::There { .. }), "no image to attach");
            world.image = Image::There { attached: true };
        }
        Step::Mount => {
            assert_eq!(world.image, Image::There { attached: true }, "no device to mount");
            world.mount = Mount::Image;
        }
        Step::MakeDirectories => {
            world.ready = true;
            world.used |= world.image == Image::Absent;
        }
    }
}

/// Is there a pool? Written without the planner.
fn is_pool(o: &Observed) -> bool {
    o.ready
        && match o.image {
            Image::Absent => o.mount == Mount::None,
            Image::Dangling => false,
            Image::There { .. } => o.mount == Mount::Image,
        }
}

#[test]
fn there_is_a_pool_in_the_end_and_after_any_crash() {
    let mut planned = 0;
    for (desired, state) in cases() {
        let Ok(steps) = plan(&desired, &state) else { continue };
        planned += 1;
        for cut in 0..=steps.len() {
            let mut world = state.clone();
            steps.iter().take(cut).for_each(|s| apply(&mut world, s));
            // The last step may have been done without anybody knowing.
            if let Some(last) = cut.checked_sub(1).and_then(|n| steps.get(n)) {
                apply(&mut world, last);
            }
            let again = plan(&desired, &world).expect("a crash is no reason to refuse");
            again.iter().for_each(|s| apply(&mut world, s));
            assert!(is_pool(&world), "{desired:?}\n{state:?}\n{steps:?} cut at {cut}");
            assert_eq!(plan(&desired, &world), Ok(vec![]));
        }
    }
    assert!(planned > 300, "{planned}");
}

#[test]
fn what_is_there_is_used_whatever_is_configured() {
    for (desired, state) in cases() {
        let steps = plan(&desired, &state).unwrap_or_default();
        let made = steps.iter().any(|s| matches!(s, Step::MakeImage { .. }));
        let anything = state.used || state.had_volumes || state.image != Image::Absent;
        assert!(!(made && anything), "{state:?}");
        assert!(!(made && desired.kind == PoolKind::ImageCopy), "{desired:?}");
        assert!(!(made && state.shares_blocks), "{state:?}");
        if state.image != Image::Absent {
            assert!(desires().iter().all(|d| plan(d, &state) == plan(&desired, &state)));
        }
    }
}

#[test]
fn refusals() {
    for (desired, state) in cases() {
        let lacks = desired.kind == PoolKind::ImageReflink
            && !(state.used || state.shares_blocks)
            && state.makes.is_empty();
        let expected = match (&state.mount, state.image) {
            (Mount::Foreign(what), _) => Some(Refusal::Foreign(what.clone())),
            (_, Image::Dangling) => Some(Refusal::Gone),
            (_, Image::There { .. }) => None,
            _ if state.had_volumes && !state.used => Some(Refusal::Gone),
            _ if lacks => Some(Refusal::SharesNoBlocks),
            _ => None,
        };
        assert_eq!(plan(&desired, &state).err(), expected, "{desired:?}\n{state:?}");
    }
}

#[test]
fn an_image_is_as_large_as_is_asked_for_or_four_fifths_of_what_is_free() {
    assert_eq!(image_bytes(Some((3 << 30) + 17), 0), 3 << 30);
    assert_eq!(image_bytes(None, 100 << 30), 80 << 30);
    assert_eq!(image_bytes(None, 0), LEAST_POOL);
    let first = |bytes, free| first_reach(FileSystem::Xfs, bytes, free);
    assert_eq!(first(8 << 30, 10 << 30), 1 << 30, "the rest when it is promised");
    assert_eq!(first(640 << 30, 700 << 30), 10 << 30);
    assert_eq!(first(640 << 30, 5 << 30), (5 << 30) - room::SPARE);
    assert_eq!(first_reach(FileSystem::Btrfs, 8 << 30, 10 << 30), 8 << 30);
}

#[test]
fn a_sweep_takes_what_is_unfinished_and_devices_of_the_pool_that_nobody_uses() {
    let ct = CtId::try_from(7).expect("valid");
    let left = Leftovers {
        volumes: [ct].into(),
        snapshots: [ct].into(),
        base_images: ["a".to_owned()].into(),
        templates: ["b".to_owned()].into(),
        devices: vec![
            (1, Shows::Volume, false),
            (2, Shows::Volume, true),
            (3, Shows::Stray, false),
            (4, Shows::Stray, true),
            (5, Shows::Other, false),
        ],
    };
    assert_eq!(
        plan_sweep(&left),
        [
            Sweep::BaseImages("a".to_owned()),
            Sweep::Volume(ct),
            Sweep::Snapshots(ct),
            Sweep::Template("b".to_owned()),
            Sweep::Device(1),
            Sweep::Device(3),
        ]
    );
    assert_eq!(plan_sweep(&Leftovers::default()), []);
}
