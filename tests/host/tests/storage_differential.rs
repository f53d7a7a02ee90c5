//! The real host and the fake one show the same after the same steps.

mod storage_support;

use storage_support::{Storage, needs};
use ves_storage::fake::Model;
use ves_storage::host::Host;
use ves_storage::plan::{self, Desired, Image, Observed, Record, Step};

/// What both must agree on: all but the pool, whose sizes are the machine's.
fn comparable(observed: Observed, like: &Observed) -> Observed {
    Observed { pool: like.pool, ..observed }
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
        let fake = self.model.observed(real.template.clone(), real.online_growth, real.pool);
        assert_eq!(comparable(real.clone(), &real), fake, "after {after}");
    }
    fn apply(&mut self, desired: &Desired, step: &Step) {
        let template = desired.template.clone();
        self.storage.host.apply(self.storage.ct(), step).expect("applied");
        let host = &self.storage.host;
        let golden = |r: &Record| {
            let seen = host.observe(self.storage.ct(), Some(&template)).expect("seen");
            seen.template?.variants.get(&r.inodes_per_group).copied()
        };
        self.model.apply(step, golden).expect("the model can too");
        self.compare(desired, &step.to_string());
    }
    fn ensure(&mut self, desired: &Desired) {
        let steps = plan::plan_ensure(desired, &self.real(desired)).expect("planned");
        for step in &steps {
            self.apply(desired, step);
            // Done twice, it is the same.
            self.apply(desired, step);
        }
        assert_eq!(plan::plan_ensure(desired, &self.real(desired)), Ok(vec![]));
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
    for wish in story {
        pair.ensure(wish);
    }
    let steps = plan::plan_remove(&pair.real(&grown)).expect("planned");
    for step in &steps {
        pair.apply(&grown, step);
        if *step != Step::Publish {
            pair.apply(&grown, step);
        }
    }
    assert_eq!(pair.real(&grown).image, Image::Absent);
    // With a number of inodes of its own.
    let counted = Desired { inodes: Some(3000), ..storage.desired(500) };
    pair.ensure(&counted);
}
