//! The planner's laws, over all states a volume can be in.

use super::room::{Room, Sums};
use super::*;
use crate::fake::{Impossible, Model};

pub(super) const MIB: u64 = 1 << 20;

pub(super) fn name() -> TemplateName {
    "debian".parse().expect("a name")
}

pub(super) fn slot(n: u32) -> IdSlot {
    IdSlot::try_from(n).expect("in range")
}

pub(super) fn record(inodes: Option<u64>) -> Record {
    Record {
        template: name(),
        inodes,
        inodes_per_group: inodes
            .map_or(DEFAULT_INODES_PER_GROUP, |n| ext4::inodes_per_group(512 * MIB, n)),
        reverted: None,
        checked: None,
    }
}

fn facts(variants: &[u64]) -> TemplateFacts {
    let (content_bytes, content_inodes) = (100 * MIB, 4000);
    let base_image = |n: &u64| (*n, base_image_bytes(content_bytes, content_inodes, *n));
    TemplateFacts {
        content_bytes,
        content_inodes,
        variants: variants.iter().map(base_image).collect(),
    }
}

pub(super) const POOL: PoolFacts = PoolFacts {
    room: Room {
        own: true,
        limit: 4 << 30,
        reach: 4 << 30,
        backed: 4 << 30,
        below: 1 << 30,
        used: 0,
        overcommit_percent: 100,
    },
    held: Sums { volumes: 1 << 30, snapshots: 0, templates: 100 * MIB },
    reserved: 0,
};

fn ours(inodes: Option<u64>, mib: u64, reach_mib: u64, damaged: bool) -> Image {
    Image::Ours {
        record: record(inodes),
        bytes: mib * MIB,
        blocks: reach_mib * MIB / 4096,
        damage: damaged.then(Damage::default),
    }
}

/// Every state, reachable or not.
pub(super) fn states() -> Vec<Observed> {
    let images = [
        Image::Absent,
        Image::Foreign("x".to_owned()),
        ours(None, 512, 256, false),
        ours(None, 512, 256, true),
        ours(None, 512, 512, false),
        ours(None, 512, 512, true),
        ours(Some(20_000), 300, 256, false),
        ours(None, 1024, 1024, false),
    ];
    let mounts = [
        Mount::None,
        Mount::Foreign("y".to_owned()),
        Mount::Ours { slot: Some(slot(20)) },
        Mount::Ours { slot: Some(slot(21)) },
        Mount::Ours { slot: None },
    ];
    let templates = [None, Some(facts(&[])), Some(facts(&[DEFAULT_INODES_PER_GROUP]))];
    let mut all = Vec::new();
    for image in &images {
        for mount in &mounts {
            for device in [None, Some(256 * MIB), Some(512 * MIB)] {
                for template in &templates {
                    for bits in 0..16u8 {
                        // Whatever is mounted is mounted from a device, somewhere.
                        let ours = matches!(mount, Mount::Ours { .. });
                        if ours && (device.is_none() || bits & 2 == 0) {
                            continue;
                        }
                        let leaving = bits & 8 != 0;
                        if leaving && (device.is_none() || *mount != Mount::None) {
                            continue;
                        }
                        all.push(Observed {
                            image: image.clone(),
                            allocated: 0,
                            snapshots: BTreeMap::new(),
                            foreign_snapshot: None,
                            shares_blocks: true,
                            max_snapshots: 64,
                            unfinished: bits & 1 != 0,
                            device,
                            leaving,
                            mount: mount.clone(),
                            mount_point: bits & 2 != 0,
                            template: template.clone(),
                            online_growth: bits & 4 != 0,
                        });
                    }
                }
            }
        }
    }
    all
}

fn plan_ensure(desired: &Desired, observed: &Observed) -> Result<Vec<Step>, Refusal> {
    super::plan_ensure(desired, observed, &POOL)
}

fn wishes() -> Vec<Desired> {
    let mut all = Vec::new();
    for bytes in [64 * MIB, 300 * MIB, 512 * MIB, 900 * MIB, 100 << 30] {
        for inodes in [None, Some(100), Some(20_000)] {
            for slot_number in [20, 21] {
                for mounted in [false, true] {
                    all.push(Desired {
                        template: name(),
                        bytes,
                        inodes,
                        slot: slot(slot_number),
                        mounted,
                    });
                }
            }
        }
    }
    all
}

fn cases() -> impl Iterator<Item = (Desired, Observed)> {
    let states = states();
    wishes().into_iter().flat_map(move |d| {
        states.clone().into_iter().map(move |o| (d.clone(), o)).collect::<Vec<_>>()
    })
}

/// Is the volume as it should be? Written without the planner.
fn is_as_desired(d: &Desired, o: &Observed) -> bool {
    let Image::Ours { record, bytes, blocks, .. } = &o.image else { return false };
    let whole = *blocks == ext4::usable_blocks(*bytes, record.inodes_per_group);
    let right_size = *bytes == d.bytes && record.inodes == d.inodes;
    let right_place = if d.mounted {
        o.mount == Mount::Ours { slot: Some(d.slot) } && o.device == Some(d.bytes) && whole
    } else {
        o.mount == Mount::None && (o.device.is_none() || o.leaving)
    };
    right_size && right_place && !o.unfinished
}

pub(super) struct World {
    pub(super) model: Model,
    template: Option<TemplateFacts>,
    before: Observed,
}

impl World {
    pub(super) fn of(o: &Observed) -> Self {
        let model = Model::of(o, &record(None));
        Self { model, template: o.template.clone(), before: o.clone() }
    }
    pub(super) fn apply(&mut self, step: &Step) {
        if let (Step::MakeBaseImage(id), Some(t)) = (step, &mut self.template) {
            let bytes = base_image_bytes(t.content_bytes, t.content_inodes, id.inodes_per_group);
            t.variants.insert(id.inodes_per_group, bytes);
        }
        let template = self.template.clone();
        let base_image = |r: &Record| template.as_ref()?.variants.get(&r.inodes_per_group).copied();
        match self.model.apply(step, base_image) {
            // Only what needs the device free waits for who holds it.
            Err(Impossible::InUse) if *step == Step::Deactivate => self.model.pin(false),
            done => done.unwrap_or_else(|e| {
                panic!("{step} cannot be done to {:?}: {e:?}", self.model);
            }),
        }
    }
    pub(super) fn observed(&self) -> Observed {
        let Observed { online_growth, max_snapshots, .. } = self.before;
        let seen = self.model.observed(self.template.clone(), online_growth);
        Observed { max_snapshots, ..seen }
    }
}

#[test]
fn goal_and_fixed_point() {
    let mut planned = 0;
    for (desired, observed) in cases() {
        let Ok(steps) = plan_ensure(&desired, &observed) else { continue };
        planned += 1;
        let mut world = World::of(&observed);
        steps.iter().for_each(|s| world.apply(s));
        let after = world.observed();
        assert!(is_as_desired(&desired, &after), "{desired:?}\n{observed:?}\n{steps:?}\n{after:?}");
        assert_eq!(
            plan_ensure(&desired, &after),
            Ok(vec![]),
            "{desired:?}\n{observed:?}\n{after:?}"
        );
    }
    assert!(planned > 1000, "{planned}");
}

#[test]
fn a_crash_anywhere_is_repaired() {
    for (desired, observed) in cases() {
        let Ok(steps) = plan_ensure(&desired, &observed) else { continue };
        for cut in 0..=steps.len() {
            let mut world = World::of(&observed);
            steps.iter().take(cut).for_each(|s| world.apply(s));
            // The last step may have been done without anybody knowing.
            if let Some(last) = steps.get(cut.wrapping_sub(1)).filter(|_| cut > 0) {
                world.apply(last);
            }
            let again = plan_ensure(&desired, &world.observed())
                .unwrap_or_else(|e| panic!("{e} after {cut} of {steps:?} from {observed:?}"));
            again.iter().for_each(|s| world.apply(s));
            assert!(is_as_desired(&desired, &world.observed()), "{steps:?} cut at {cut}");
        }
    }
}

#[test]
fn removal_reaches_nothing_from_anywhere() {
    for observed in states() {
        let Ok(steps) = plan_remove(&observed) else {
            let foreign = matches!(observed.image, Image::Foreign(_))
                || matches!(observed.mount, Mount::Foreign(_));
            assert!(foreign, "{observed:?}");
            continue;
        };
        for cut in 0..=steps.len() {
            let mut world = World::of(&observed);
            steps.iter().take(cut).for_each(|s| world.apply(s));
            let again = plan_remove(&world.observed()).expect("nothing foreign came");
            again.iter().for_each(|s| world.apply(s));
            let after = world.observed();
            assert_eq!(
                (&after.image, after.unfinished, after.device, &after.mount, after.mount_point),
                (&Image::Absent, false, None, &Mount::None, false),
                "{observed:?}\n{steps:?}"
            );
            assert_eq!(plan_remove(&after), Ok(vec![]));
        }
    }
}

#[test]
fn who_holds_a_device_keeps_nothing_from_being_unmounted_or_mounted() {
    let size = 512 * MIB;
    let image = Image::Ours {
        record: record(None),
        bytes: size,
        blocks: ext4::usable_blocks(size, DEFAULT_INODES_PER_GROUP),
        damage: None,
    };
    let mount = Mount::Ours { slot: Some(slot(20)) };
    let mounted = Observed { image, mount, mount_point: true, device: Some(size), ..fresh() };
    let mut model = Model::of(&mounted, &record(None));
    model.pin(true);
    let mut ensure = |wish: &Desired| {
        let seen = model.observed(None, true);
        for step in plan_ensure(wish, &seen).expect("admitted") {
            model.apply(&step, |_| None).unwrap_or_else(|e| panic!("{step}: {e:?}"));
        }
        let after = model.observed(None, true);
        assert_eq!(plan_ensure(wish, &after), Ok(vec![]), "{after:?}");
        (after.mount != Mount::None, after.device, after.leaving)
    };
    let off = Desired { mounted: false, ..wish(512) };
    assert_eq!(ensure(&off), (false, Some(size), true));
    assert_eq!(ensure(&wish(512)), (true, Some(size), false), "the same file system");
    assert_eq!(ensure(&off), (false, Some(size), true));
    model.pin(false);
    assert_eq!(model.observed(None, true).device, None, "it goes with its last user");
}

#[test]
fn forbidden_steps_never_appear() {
    for (desired, observed) in cases() {
        let Ok(steps) = plan_ensure(&desired, &observed) else { continue };
        assert!(!steps.contains(&Step::Remove), "{steps:?}");
        assert!(!steps.contains(&Step::RemoveMountPoint), "{steps:?}");
        let ours = matches!(observed.image, Image::Ours { .. });
        assert!(!(ours && steps.iter().any(|s| matches!(s, Step::Create { .. }))), "{steps:?}");
        let online = |s: &Step| matches!(s, Step::Grow { .. } | Step::Enlarge { .. });
        assert!(observed.online_growth || !steps.iter().any(online), "{steps:?}");
        let offline = |s: &Step| matches!(s, Step::GrowNew { .. } | Step::Recreate { .. });
        assert!(!observed.online_growth || !steps.iter().any(offline), "{steps:?}");
        // The model checks the rest: no step on a volume in use that must not be.
        if let Image::Ours { bytes, .. } = observed.image {
            assert!(desired.bytes >= bytes, "it would shrink: {steps:?}");
        }
    }
}

#[test]
fn what_is_damaged_is_checked_before_it_is_mounted_and_never_while_it_is() {
    let (mut checked, mut refused) = (0, 0);
    for (desired, observed) in cases() {
        let Image::Ours { damage, .. } = &observed.image else { continue };
        let steps = match plan_ensure(&desired, &observed) {
            Ok(steps) => steps,
            Err(refusal) => {
                refused += usize::from(refusal == Refusal::DamagedInUse);
                assert!(refusal != Refusal::DamagedInUse || damage.is_some());
                continue;
            }
        };
        let at = |wanted: fn(&Step) -> bool| steps.iter().position(wanted);
        let check = at(|s| matches!(s, Step::Check { .. }));
        assert!(damage.is_some() || check.is_none(), "{steps:?}");
        assert!(!steps.contains(&Step::Check { mend: Mend::All }), "nobody asked for it");
        let work = at(|s| matches!(s, Step::Mount { .. } | Step::Recreate { .. }));
        if let (Some(_), Some(work)) = (damage, work) {
            // That it is not mounted meanwhile, and has a device, the model sees to.
            assert!(check.is_some_and(|check| check < work), "{observed:?}\n{steps:?}");
            checked += 1;
        }
        let mut world = World::of(&observed);
        steps.iter().for_each(|s| world.apply(s));
    }
    assert!(checked > 100 && refused > 10, "{checked} {refused}");
}

#[test]
fn what_is_foreign_is_never_touched() {
    for (desired, observed) in cases() {
        let foreign = matches!(observed.image, Image::Foreign(_))
            || matches!(observed.mount, Mount::Foreign(_));
        if foreign {
            assert!(matches!(plan_ensure(&desired, &observed), Err(Refusal::Foreign(_))));
            assert!(matches!(plan_remove(&observed), Err(Refusal::Foreign(_))));
        }
    }
}

#[test]
fn the_same_question_has_the_same_answer() {
    for (desired, observed) in cases() {
        assert_eq!(plan_ensure(&desired, &observed), plan_ensure(&desired, &observed));
    }
}

pub(super) fn fresh() -> Observed {
    Observed {
        image: Image::Absent,
        allocated: 0,
        snapshots: BTreeMap::new(),
        foreign_snapshot: None,
        shares_blocks: true,
        max_snapshots: 64,
        unfinished: false,
        device: None,
        leaving: false,
        mount: Mount::None,
        mount_point: false,
        template: Some(facts(&[DEFAULT_INODES_PER_GROUP])),
        online_growth: true,
    }
}

fn wish(mib: u64) -> Desired {
    Desired { template: name(), bytes: mib * MIB, inodes: None, slot: slot(20), mounted: true }
}

fn text(steps: &[Step]) -> String {
    steps.iter().map(|s| format!("{s}\n")).collect()
}

#[test]
fn steps_read_well() {
    assert_eq!(
        text(&plan_ensure(&wish(512), &fresh()).expect("planned")),
        "make a volume of 512 MiB from template debian\n\
         let the new volume be the container's\n\
         give the volume a device\n\
         mount for the ids from 1310720\n\
         grow the file system to 131072 blocks\n"
    );
    let offline = Observed { online_growth: false, ..fresh() };
    let desired = Desired { inodes: Some(20_000), ..wish(512) };
    assert_eq!(
        text(&plan_ensure(&desired, &offline).expect("planned")),
        "make a base image of debian with 4992 inodes a group\n\
         make a volume of 512 MiB from template debian\n\
         grow the new volume's file system to 131072 blocks\n\
         let the new volume be the container's\n\
         give the volume a device\n\
         mount for the ids from 1310720\n"
    );
}

#[test]
fn what_is_promised_is_backed_first() {
    let room = Room { reach: 1 << 30, backed: 1 << 30, below: 8 << 30, ..POOL.room };
    let small = PoolFacts { room, ..POOL };
    let steps = super::plan_ensure(&wish(512), &fresh(), &small).expect("planned");
    assert_eq!(steps.first(), Some(&Step::Back { bytes: 2 << 30 }));
    let there = Observed { image: ours(None, 512, 512, false), ..fresh() };
    let steps = super::plan_ensure(&wish(1024), &there, &small).expect("planned");
    assert_eq!(steps.first(), Some(&Step::Back { bytes: 2 << 30 }));
}

#[test]
fn refusals_tell_what_is_needed() {
    let refuse = |d: &Desired, o: &Observed| plan_ensure(d, o).expect_err("refused");
    assert_eq!(
        refuse(&wish(512), &Observed { template: None, ..fresh() }),
        Refusal::TemplateUnknown(name())
    );
    assert!(
        matches!(refuse(&wish(64), &fresh()), Refusal::TooSmall { need, .. } if need == 256 * MIB)
    );
    let few = Desired { inodes: Some(4001), ..wish(512) };
    assert!(matches!(refuse(&few, &fresh()), Refusal::NoInodes { max: 4001, .. }));
    let tight = Desired { inodes: Some(4020), ..wish(512) };
    let Refusal::NoInodes { need, .. } = refuse(&tight, &fresh()) else {
        panic!("other refusal");
    };
    let enough = Desired { inodes: Some(need), ..wish(512) };
    plan_ensure(&enough, &fresh()).expect("what is said to be needed is enough");

    let full = POOL.promisable();
    assert_eq!(refuse(&wish(4096), &fresh()), Refusal::PoolFull { need: 4 << 30, free: full });
    let room = Room { overcommit_percent: 200, ..POOL.room };
    let generous = PoolFacts { room, ..POOL };
    super::plan_ensure(&wish(4096), &fresh(), &generous).expect("overcommitted");
    let busy = PoolFacts { reserved: full, ..POOL };
    assert_eq!(
        super::plan_ensure(&wish(512), &fresh(), &busy),
        Err(Refusal::PoolFull { need: 512 * MIB, free: 0 }),
        "what others were promised is not promised again"
    );

    let there = Observed { image: ours(None, 512, 512, false), ..fresh() };
    assert_eq!(
        refuse(&wish(300), &there),
        Refusal::WouldShrink { have: 512 * MIB, want: 300 * MIB }
    );
    assert_eq!(
        refuse(&Desired { inodes: Some(9), ..wish(512) }, &there),
        Refusal::InodesFixed { have: None }
    );
    let mounted = Observed {
        mount: Mount::Ours { slot: Some(slot(20)) },
        mount_point: true,
        device: Some(512 * MIB),
        online_growth: false,
        ..there
    };
    assert_eq!(refuse(&wish(600), &mounted), Refusal::NeedsUnmount);
    assert_eq!(plan_ensure(&wish(512), &mounted), Ok(vec![]));
}

#[test]
fn golden_images_hold_their_contents() {
    for content_mib in [1u64, 100, 900, 5000] {
        for inodes in [10u64, 4000, 100_000, 1_000_000] {
            for per_group in [16u64, 624, 8192, 32_768] {
                let bytes = base_image_bytes(content_mib * MIB, inodes, per_group);
                assert_eq!(bytes % ext4::GROUP_BYTES, 0);
                assert!(ext4::groups(bytes) * per_group >= inodes + OWN_INODES);
                let tables = ext4::groups(bytes) * per_group * ext4::INODE_BYTES;
                assert!(bytes >= content_mib * MIB + tables, "{content_mib} {inodes} {per_group}");
            }
        }
    }
}
