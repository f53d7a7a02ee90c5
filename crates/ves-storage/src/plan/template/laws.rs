//! The laws of templates' planner, over all states one can be in.

use super::*;

const TAKEN: Taken = Taken { bytes: 100 << 20, inodes: 4000 };

/// A template, and what each step does to it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Model {
    published: Option<BTreeMap<u64, i64>>,
    unfinished: Option<Half>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Half {
    contents: bool,
    described: bool,
    base_images: BTreeMap<u64, i64>,
}

impl Model {
    fn observed(&self) -> Observed {
        let half = self.unfinished.as_ref().map(|half| half.base_images.clone());
        Observed {
            published: self.published.is_some(),
            unfinished: self.unfinished.is_some(),
            contents: self.published.as_ref().map_or_else(Taken::default, |_| TAKEN),
            base_images: self.published.clone().or(half).unwrap_or_default(),
        }
    }

    fn apply(&mut self, step: &Step) {
        match step {
            Step::Discard => self.unfinished = None,
            Step::TakeContents => {
                assert_eq!(self.published, None, "a template is replaced");
                self.unfinished = Some(Half { contents: true, ..Half::default() });
            }
            Step::MakeBaseImage { inodes_per_group, .. } => {
                let all = self.published.as_mut().unwrap_or_else(|| {
                    let half = self.unfinished.as_mut().expect("of a template");
                    assert!(half.contents, "a base image of nothing");
                    &mut half.base_images
                });
                all.insert(*inodes_per_group, 1000);
            }
            Step::RemoveBaseImage { inodes_per_group } => {
                self.published.as_mut().expect("of a template").remove(inodes_per_group);
            }
            Step::Describe => {
                self.unfinished.as_mut().expect("one is made").described = true;
            }
            // The second time it is there.
            Step::Publish => {
                if let Some(half) = self.unfinished.take() {
                    assert!(half.contents && half.described, "half a template is published");
                    assert!(half.base_images.contains_key(&DEFAULT_INODES_PER_GROUP));
                    self.published = Some(half.base_images);
                }
            }
            Step::Withdraw => {
                if let Some(base_images) = self.published.take() {
                    assert_eq!(self.unfinished, None, "what is withdrawn has no place");
                    self.unfinished = Some(Half { contents: true, described: true, base_images });
                }
            }
        }
    }

    /// Each step twice, as if nobody knew that it was done.
    fn apply_all(&mut self, steps: &[Step]) {
        steps.iter().for_each(|step| {
            self.apply(step);
            self.apply(step);
        });
    }
}

fn states() -> Vec<Model> {
    let many = |n: u64, default: bool| {
        // The newest have the smallest numbers.
        let mut all: BTreeMap<_, _> =
            (0..n).map(|i| (16 * (i + 1), 900 - i.cast_signed())).collect();
        if default {
            all.insert(DEFAULT_INODES_PER_GROUP, 1);
        }
        all
    };
    let mut all = Vec::new();
    for unfinished in [
        None,
        Some(Half::default()),
        Some(Half { contents: true, ..Half::default() }),
        Some(Half { contents: true, described: true, base_images: many(2, true) }),
    ] {
        all.push(Model { published: None, unfinished: unfinished.clone() });
        for n in 0..12 {
            for default in [false, true] {
                let published = Some(many(n, default));
                all.push(Model { published, unfinished: unfinished.clone() });
            }
        }
    }
    all
}

/// All of making one, as a call does it.
fn make(model: &mut Model) -> Result<(), Refusal> {
    let steps = plan_take(&model.observed())?;
    model.apply_all(&steps);
    let steps = plan_make(TAKEN, 0, &model.observed())?;
    model.apply_all(&steps);
    Ok(())
}

fn is_whole(model: &Model) -> bool {
    model.published.as_ref().is_some_and(|all| all.contains_key(&DEFAULT_INODES_PER_GROUP))
        && model.unfinished.is_none()
}

#[test]
fn making_reaches_a_whole_template_and_replaces_none() {
    for state in states() {
        let mut model = state.clone();
        match make(&mut model) {
            Ok(()) => assert!(is_whole(&model), "{state:?} became {model:?}"),
            Err(refusal) => {
                assert!(state.published.is_some(), "{state:?}");
                assert_eq!((refusal, &model), (Refusal::Exists, &state), "a refusal is pure");
            }
        }
        assert_eq!(make(&mut model), Err(Refusal::Exists));
    }
}

#[test]
fn a_crash_while_one_is_made_is_repaired() {
    for state in states().into_iter().filter(|s| s.published.is_none()) {
        let first = plan_take(&state.observed()).expect("planned");
        let mut taken = state.clone();
        taken.apply_all(&first);
        let second = plan_make(TAKEN, 0, &taken.observed()).expect("planned");
        let all: Vec<Step> = first.into_iter().chain(second).collect();
        for cut in 0..all.len() {
            let mut model = state.clone();
            model.apply_all(all.get(..cut).expect("shorter"));
            assert_eq!(model.published, None, "nobody meets half a template");
            // Swept at the next start, or not; what was taken is lost with the call.
            let mut swept = model.clone();
            swept.apply_all(&plan_sweep(&model.observed()));
            assert_eq!(swept, Model::default());
            for mut model in [model, swept] {
                make(&mut model).expect("made");
                assert!(is_whole(&model), "{all:?} cut at {cut}");
            }
        }
    }
}

#[test]
fn removal_leaves_nothing_wherever_it_is_cut() {
    for state in states() {
        let Ok(steps) = plan_remove(&state.observed()) else {
            assert_eq!(state.published, None);
            continue;
        };
        for cut in 0..=steps.len() {
            let mut model = state.clone();
            model.apply_all(steps.get(..cut).expect("shorter"));
            let whole = model.published == state.published;
            assert!(whole || model.published.is_none(), "half is gone: {steps:?} at {cut}");
            if let Ok(again) = plan_remove(&model.observed()) {
                model.apply_all(&again);
            }
            model.apply_all(&plan_sweep(&model.observed()));
            assert_eq!(model, Model::default(), "{steps:?} cut at {cut}");
        }
    }
}

#[test]
fn base_images_come_and_the_oldest_go() {
    for state in states() {
        for wanted in [16, 4096, DEFAULT_INODES_PER_GROUP] {
            let observed = state.observed();
            let Ok(steps) = plan_base_image(wanted, 0, &observed) else {
                assert_eq!(state.published, None);
                continue;
            };
            let gone: Vec<u64> = steps
                .iter()
                .filter_map(|step| match step {
                    Step::RemoveBaseImage { inodes_per_group } => Some(*inodes_per_group),
                    Step::MakeBaseImage { .. } => None,
                    other => panic!("{other} touches more than base images"),
                })
                .collect();
            assert!(!gone.contains(&DEFAULT_INODES_PER_GROUP) && !gone.contains(&wanted));
            let made = |n: &u64| observed.base_images.get(n).copied();
            let kept = observed.base_images.keys().filter(|n| !gone.contains(n));
            let kept = kept.filter(|n| **n != DEFAULT_INODES_PER_GROUP);
            let oldest_kept = kept.filter_map(made).min();
            let newest_gone = gone.iter().filter_map(made).max();
            assert!(newest_gone.is_none_or(|g| oldest_kept.is_none_or(|k| g <= k)), "{steps:?}");
            for cut in 0..=steps.len() {
                let mut model = state.clone();
                model.apply_all(steps.get(..cut).expect("shorter"));
                let again = plan_base_image(wanted, 0, &model.observed()).expect("planned");
                model.apply_all(&again);
                let all = model.published.clone().expect("it stays");
                assert!(all.contains_key(&wanted));
                assert!(steps.is_empty() || all.len() <= MAX_BASE_IMAGES, "{all:?}");
                assert_eq!(plan_base_image(wanted, 0, &model.observed()), Ok(vec![]));
            }
        }
    }
}

#[test]
fn what_was_too_small_is_tried_larger_and_not_for_ever() {
    let there = Observed { published: true, contents: TAKEN, ..Observed::default() };
    let mut before = 0;
    for tried in 0..ATTEMPTS {
        let steps = plan_base_image(624, tried, &there).expect("tried");
        let [Step::MakeBaseImage { bytes, .. }] = steps.as_slice() else { panic!("{steps:?}") };
        assert!(*bytes > before && bytes % ext4::GROUP_BYTES == 0);
        before = *bytes;
    }
    assert_eq!(plan_base_image(624, ATTEMPTS, &there), Err(Refusal::NoRoom));
    assert_eq!(plan_make(TAKEN, ATTEMPTS, &Observed::default()), Err(Refusal::NoRoom));
}
