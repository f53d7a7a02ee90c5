//! The real host and the fake one show the same after the same steps.

use ves_storage::fake::Model;
use ves_storage::host::Host;
use ves_storage::plan::{self, Desired, Image, Observed, Record, Reverted, Step, snapshot};
use ves_types::{Generation, SnapshotId};

use super::support::{Storage, needs};

/// What both must agree on: all but what files take in the pool, which is the machine's.
fn comparable(mut observed: Observed) -> Observed {
    observed.snapshots.values_mut().for_each(|s| s.allocated = 0);
    Observed { allocated: 0, ..observed }
}

struct Pair<'a> {
    storage: &'a Storage,
    model: Model,
}

impl Pair<'_> {
    fn real(&self, desired: &Desired) -> Observed {
        self.storage.host.observe(self.storage.ct(), Some(&desired.template)).expect("seen")
    }
    fn compare(&self, desired: &Desired, after: &str) {
        let real = self.real(desired);
        let fake = self.model.observed(real.template.clone(), real.online_growth);
        assert_eq!(comparable(real), comparable(fake), "after {after}");
    }
    fn apply(&mut self, desired: &Desired, step: &Step) {
        let template = desired.template.clone();
        self.storage.apply(self.storage.ct(), step).expect("applied");
        let host = &self.storage.host;
        let base_image = |r: &Record| {
            let seen = host.observe(self.storage.ct(), Some(&template)).expect("seen");
            seen.template?.variants.get(&r.inodes_per_group).copied()
        };
        self.model.apply(step, base_image).expect("the model can too");
        self.compare(desired, &step.to_string());
    }
    fn ensure(&mut self, desired: &Desired) {
        let pool = self.storage.pool();
        self.carry_out(desired, |seen| plan::plan_ensure(desired, seen, &pool));
    }
    fn carry_out(
        &mut self,
        desired: &Desired,
        planned: impl Fn(&Observed) -> Result<Vec<Step>, plan::Refusal>,
    ) {
        for step in &planned(&self.real(desired)).expect("planned") {
            self.apply(desired, step);
            // Done twice, it is the same.
            self.apply(desired, step);
        }
        assert_eq!(planned(&self.real(desired)), Ok(vec![]));
    }
    fn snapshot(&mut self, desired: &Desired, n: u128, generation: u64) {
        let wish = snapshot::Desired {
            id: SnapshotId::from(n),
            name: Some("before".parse().expect("a name")),
            created_unix_ms: 1,
            generation: Generation(generation),
        };
        let pool = self.storage.pool();
        self.carry_out(desired, |seen| snapshot::plan_ensure(&wish, seen, &pool));
    }
    fn revert(&mut self, desired: &Desired, n: u128, generation: u64) {
        let (snapshot, generation) = (SnapshotId::from(n), Generation(generation));
        let to = Reverted { snapshot, generation };
        self.carry_out(desired, |seen| snapshot::plan_revert(to, seen));
    }
}

#[test]
fn real_and_fake_agree_after_every_step() {
    if !needs() {
        return;
    }
    let storage = Storage::new();
    storage.busybox();
    let desired = storage.desired(256);
    let mut pair = Pair { storage: &storage, model: Model::default() };
    pair.compare(&desired, "nothing");
    let off = Desired { mounted: false, ..desired.clone() };
    let online = pair.real(&desired).online_growth;
    let grown = storage.desired(1000);
    let few = Desired { mounted: false, ..grown.clone() };
    let story = if online {
        vec![&off, &desired, &grown, &few]
    } else {
        vec![&off, &desired, &off, &few, &grown]
    };
    for (n, wish) in (1..).zip(story) {
        pair.ensure(wish);
        // Mounted or not.
        pair.snapshot(wish, n, 2);
    }
    pair.ensure(&few);
    // To one of when it was smaller, and grown again.
    pair.revert(&few, 1, 3);
    pair.ensure(&grown);
    pair.snapshot(&grown, 9, 4);
    pair.carry_out(&grown, |seen| Ok(snapshot::plan_remove(SnapshotId::from(2), seen)));
    let steps = plan::plan_remove(&pair.real(&grown)).expect("planned");
    for step in &steps {
        pair.apply(&grown, step);
        pair.apply(&grown, step);
    }
    let gone = pair.real(&grown);
    assert_eq!((gone.image, gone.snapshots.len()), (Image::Absent, 0));
    // With a number of inodes of its own.
    let counted = Desired { inodes: Some(3000), ..storage.desired(500) };
    pair.ensure(&counted);
}
