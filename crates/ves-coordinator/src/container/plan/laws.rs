//! The planner's laws over every combination of wishes and sights, without root or services.

use std::collections::{BTreeMap, BTreeSet};

use ves_types::{Bytes, IdSlot, InitArgv, SnapshotId};

use super::*;
use crate::container::observed::{GroupSeen, LinkSeen, ProcessSeen, VolumeSeen};
use crate::container::record::Want;
use crate::usage::reading::Counted;

const OLD: Generation = Generation(3);
const FIRST: Generation = Generation(5);
const NOW: Generation = Generation(7);

fn address(n: u8) -> CtAddress {
    format!("192.0.2.{n}").parse().expect("valid")
}

fn desired(presence: Presence, run: RunState, maybe_dirty: bool) -> Desired {
    let slot = IdSlot::try_from(20).expect("valid");
    Desired {
        ct: CtId::try_from(101).expect("valid"),
        presence,
        run,
        since: Since::all(NOW),
        first: Generation(0),
        volume: VolumeWish {
            template: "trixie".parse().expect("valid"),
            size: DiskSize::DEFAULT,
            inodes: None,
            slot,
        },
        limits: Limits::default(),
        process: ProcessWish {
            slot,
            hostname: None,
            init: InitArgv::default(),
            nameservers: vec![],
            search_domains: vec![],
            max_ptys: None,
            devices: vec![],
            capabilities_off: BTreeSet::new(),
            shm: None,
            ram: None,
            features: ves_types::Features::default(),
        },
        addresses: [address(1), address(2)].into(),
        maybe_dirty,
        needs_volume: true,
        maybe_volume: false,
        snapshot: None,
        grace_ms: 5,
        starts: true,
    }
}

fn id(n: u128) -> SnapshotId {
    SnapshotId::from(n)
}

fn wishes() -> Vec<Desired> {
    let mut all = Vec::new();
    for presence in [Presence::Creating, Presence::Present, Presence::Deleting] {
        for run in [RunState::Stopped, RunState::Mounted, RunState::Running] {
            for maybe_dirty in [false, true] {
                let wish = desired(presence, run, maybe_dirty);
                // A present container is born by being created.
                if presence != Presence::Present && !maybe_dirty {
                    all.push(Desired { first: FIRST, ..wish.clone() });
                }
                // What is wanted of snapshots is wanted of one that is there.
                if presence == Presence::Present && !maybe_dirty {
                    let taken = SnapshotWish::taken(id(2), None);
                    let with_all = SnapshotWish { alone: false, ..taken.clone() };
                    let reverted = SnapshotWish::reverted(id(1), NOW);
                    let checked = [false, true].map(|all| SnapshotWish::checked(id(2), NOW, all));
                    let others = [taken, with_all, SnapshotWish::deleted(id(1)), reverted];
                    for snapshot in others.into_iter().chain(checked) {
                        let reverts =
                            matches!(snapshot.want, Want::Reverted { .. } | Want::Checked { .. });
                        if run == RunState::Stopped || !reverts {
                            all.push(Desired { snapshot: Some(snapshot), ..wish.clone() });
                        }
                    }
                }
                if run == RunState::Running && presence == Presence::Present {
                    all.push(Desired { starts: false, ..wish.clone() });
                }
                if run == RunState::Stopped && presence == Presence::Present {
                    all.push(Desired { needs_volume: false, ..wish.clone() });
                }
                if presence == Presence::Deleting && maybe_dirty {
                    all.push(Desired { maybe_volume: true, ..wish.clone() });
                }
                all.push(wish);
            }
        }
    }
    all
}

/// A volume that was only made.
const VOLUME: VolumeSeen = VolumeSeen {
    generation: NOW,
    size: Bytes::gib(2),
    mounted: false,
    used: None,
    reverted: None,
    damage: None,
    checked: None,
    device: None,
};

fn sights() -> Vec<Observed> {
    let mut all = Vec::new();
    let mut volumes = vec![None];
    for generation in [OLD, NOW] {
        for size in [1, 2, 3].map(Bytes::gib) {
            for mounted in [false, true] {
                volumes.push(Some(VolumeSeen { generation, size, mounted, ..VOLUME }));
            }
        }
    }
    let reverted = |generation| {
        let reverted = Some((id(1), generation));
        Some(VolumeSeen { generation, reverted, ..VOLUME })
    };
    let damaged = |mounted| Some(VolumeSeen { mounted, damage: Some(3), ..VOLUME });
    let checked = |at| Some(VolumeSeen { checked: Some(at), ..VOLUME });
    volumes.extend([reverted(OLD), reverted(NOW), damaged(false), damaged(true)]);
    volumes.extend([checked(OLD), checked(NOW)]);
    let snapshots = [BTreeMap::new(), [(id(1), OLD)].into(), [(id(1), NOW), (id(3), NOW)].into()];
    let group = |generation| Some(GroupSeen { generation, device: None });
    let groups = [None, group(OLD), group(NOW)];
    let mut links = vec![None];
    for generation in [OLD, NOW] {
        for addresses in [vec![], vec![address(1)], vec![address(2), address(1)]] {
            let addresses = addresses.into_iter().collect();
            links.push(Some(LinkSeen { generation, addresses }));
        }
    }
    for volume in volumes {
        for group in groups {
            for link in &links {
                for phase in [Phase::Absent, Phase::Created, Phase::Running, Phase::Frozen] {
                    for generation in [OLD, NOW] {
                        let process = ProcessSeen { generation, phase, ..ProcessSeen::default() };
                        // Snapshots matter to storage's share only.
                        let many = if link.is_none() { &snapshots[..] } else { &snapshots[..1] };
                        let seen = |snapshots: &BTreeMap<_, _>, process| {
                            let (snapshots, link) = (snapshots.clone(), link.clone());
                            let counted = Counted::default();
                            Observed { volume, snapshots, group, process, link, counted }
                        };
                        all.extend(many.iter().map(|snapshots| seen(snapshots, process)));
                        if phase == Phase::Running {
                            let process = ProcessSeen { unresponsive: true, ..process };
                            all.push(seen(&BTreeMap::new(), process));
                        }
                    }
                }
            }
        }
    }
    all
}

fn each(mut check: impl FnMut(&Desired, &Observed)) {
    let sights = sights();
    for wish in wishes() {
        for sight_was in &sights {
            check(&wish, sight_was);
        }
    }
}

fn run(steps: &[Step], from: &Observed) -> Observed {
    steps.iter().fold(from.clone(), |seen, step| seen.after(step, NOW))
}

/// What is wanted, said without the planner.
fn reached(wish: &Desired, seen: &Observed) -> bool {
    if let Some(SnapshotWish { id, want, alone }) = &wish.snapshot {
        let reached = match want {
            Want::Taken { .. } => seen.snapshots.contains_key(id),
            Want::Deleted => !seen.snapshots.contains_key(id),
            Want::Checked { .. } => {
                seen.volume.is_some_and(|v| v.checked == Some(NOW) && v.damage.is_none())
            }
            Want::Reverted { .. } => {
                let reverted = seen.volume.and_then(|v| v.reverted);
                reverted.is_some_and(|(to, at)| to == *id && at == NOW)
            }
        };
        if *alone || !reached {
            return reached;
        }
    }
    let nothing_runs =
        seen.process.phase == Phase::Absent && seen.link.is_none() && seen.group.is_none();
    let volume = |mounted| {
        seen.volume.is_some_and(|v| v.mounted == mounted && v.size >= wish.volume.size.bytes())
    };
    match (wish.presence, wish.run) {
        (Presence::Deleting, _) => {
            let foreign = |g: Generation| g < wish.first;
            let runs = seen.process.phase != Phase::Absent;
            (runs && foreign(seen.process.generation))
                || (!runs
                    && seen.link.as_ref().is_none_or(|l| foreign(l.generation))
                    && seen.group.is_none_or(|g| foreign(g.generation))
                    && (seen.volume.is_some_and(|v| foreign(v.generation))
                        || seen.snapshots.values().any(|g| foreign(*g))
                        || (seen.volume.is_none() && seen.snapshots.is_empty())))
        }
        (_, RunState::Stopped) => {
            nothing_runs && (volume(false) || (!wish.needs_volume && seen.volume.is_none()))
        }
        (_, RunState::Mounted) => nothing_runs && volume(true),
        (_, RunState::Running) if !wish.starts && seen.process.phase < Phase::Running => {
            volume(true) && seen.group.is_some_and(|g| g.generation == NOW)
        }
        (_, RunState::Running) => {
            volume(true)
                && seen.process.phase == Phase::Running
                && seen.group.is_some_and(|g| g.generation == NOW)
                && seen.link.as_ref().is_some_and(|l| l.addresses == wish.addresses)
        }
    }
}

fn lost(wish: &Desired, seen: &Observed) -> bool {
    wish.presence == Presence::Present && wish.needs_volume && seen.volume.is_none()
}

fn no_such_snapshot(wish: &Desired, seen: &Observed) -> bool {
    wish.snapshot.as_ref().is_some_and(|w| {
        matches!(w.want, Want::Reverted { .. }) && !seen.snapshots.contains_key(&w.id)
    })
}

fn foreign(wish: &Desired, seen: &Observed) -> bool {
    let runs = seen.process.phase != Phase::Absent;
    wish.presence != Presence::Deleting
        && (seen.volume.is_some_and(|v| v.generation < wish.first)
            || seen.snapshots.values().any(|g| *g < wish.first)
            || seen.group.is_some_and(|g| g.generation < wish.first)
            || seen.link.as_ref().is_some_and(|l| l.generation < wish.first)
            || (runs && seen.process.generation < wish.first))
}

#[test]
fn what_is_from_before_its_first_generation_is_never_touched() {
    let mut spared = 0;
    each(|wish, sight_was| {
        let Ok(steps) = plan(wish, sight_was) else { return };
        if wish.first != FIRST {
            return;
        }
        let old_runs =
            sight_was.process.phase != Phase::Absent && sight_was.process.generation == OLD;
        assert!(!old_runs || steps.is_empty(), "{sight_was:?}\n{steps:?}");
        if sight_was.volume.is_some_and(|v| v.generation == OLD) {
            spared += 1;
            assert_eq!(wish.presence, Presence::Deleting, "adopts: {sight_was:?}");
            let touches = |s: &Step| s.service() == "storage";
            assert!(!steps.iter().any(touches), "{sight_was:?}\n{steps:?}");
        }
        if sight_was.group.is_some_and(|g| g.generation == OLD) {
            assert!(!steps.contains(&Step::RemoveLimits), "{sight_was:?}\n{steps:?}");
        }
    });
    assert!(spared > 100, "{spared}");
}

#[test]
fn goal_and_fixed_point() {
    let mut plans = 0;
    each(|wish, sight_was| {
        let Ok(steps) = plan(wish, sight_was) else {
            let fine = lost(wish, sight_was)
                || foreign(wish, sight_was)
                || no_such_snapshot(wish, sight_was)
                || sight_was.process.unresponsive;
            assert!(fine, "refused {wish:?} seeing {sight_was:?}");
            return;
        };
        plans += 1;
        let seen = run(&steps, sight_was);
        assert!(reached(wish, &seen), "{wish:?}\n{sight_was:?}\n{steps:?}");
        // The record says that nothing is left once everything was done.
        let up = wish.run == RunState::Running && wish.presence != Presence::Deleting;
        let maybe_dirty = wish.maybe_dirty && up;
        let wish = Desired { maybe_dirty, maybe_volume: false, ..wish.clone() };
        assert_eq!(plan(&wish, &seen), Ok(vec![]), "{wish:?}\n{sight_was:?}\n{steps:?}");
    });
    assert!(plans > 10_000, "{plans}");
}

#[test]
fn after_a_crash_anywhere_the_goal_is_still_reached() {
    each(|wish, sight_was| {
        let Ok(steps) = plan(wish, sight_was) else { return };
        for n in 0..=steps.len() {
            let seen = run(&steps[..n], sight_was);
            // The step that was under way is asked for once more, or not at all.
            let again = n.checked_sub(1).map_or_else(|| seen.clone(), |k| run(&steps[k..n], &seen));
            for seen in [seen, again] {
                let rest = plan(wish, &seen).expect("still possible");
                assert!(
                    reached(wish, &run(&rest, &seen)),
                    "{wish:?}\n{sight_was:?}\n{n} {steps:?}"
                );
            }
        }
    });
}

#[test]
fn nothing_forbidden_is_ever_planned() {
    each(|wish, sight_was| {
        let Ok(steps) = plan(wish, sight_was) else { return };
        let mut seen = sight_was.clone();
        for step in &steps {
            let dead = seen.process.phase == Phase::Absent;
            let why = format!("{step} in {steps:?}\n{wish:?}\n{seen:?}");
            match step {
                Step::RemoveVolume => {
                    assert_eq!(wish.presence, Presence::Deleting, "{why}");
                    assert!(dead && seen.volume.is_none_or(|v| !v.mounted), "{why}");
                    let some = seen.volume.is_some() || !seen.snapshots.is_empty();
                    assert!(some || wish.maybe_volume, "{why}");
                }
                Step::RevertVolume { id } => {
                    assert!(dead && seen.volume.is_some_and(|v| !v.mounted), "{why}");
                    assert!(seen.snapshots.contains_key(id), "{why}");
                    let wanted = wish
                        .snapshot
                        .as_ref()
                        .is_some_and(|w| w.id == *id && matches!(w.want, Want::Reverted { .. }));
                    assert!(wanted, "{why}");
                }
                Step::CheckVolume { before } => {
                    assert!(dead && seen.volume.is_some_and(|v| !v.mounted), "{why}");
                    let wanted = SnapshotWish::checked(id(2), NOW, before.is_some());
                    assert_eq!(wish.snapshot, Some(wanted), "{why}");
                }
                Step::DeleteSnapshot { id } => {
                    assert_eq!(wish.snapshot, Some(SnapshotWish::deleted(*id)), "{why}");
                }
                Step::TakeSnapshot { .. } => {
                    assert!(seen.volume.is_some(), "of nothing: {why}");
                    let alone = wish.snapshot.as_ref().is_some_and(|w| w.alone);
                    assert!(!alone || steps.len() == 1, "touches something else: {why}");
                }
                Step::EnsureVolume { volume, mounted } => {
                    assert!(
                        seen.volume.is_none_or(|v| v.size <= volume.size.bytes()),
                        "shrinks: {why}"
                    );
                    assert!(dead || *mounted, "unmounts under processes: {why}");
                    let makes = seen.volume.is_none();
                    assert!(!makes || wish.presence == Presence::Creating, "papers over: {why}");
                }
                Step::RemoveLimits | Step::RemoveLink => assert!(dead, "{why}"),
                Step::CreateProcess(_) => {
                    assert!(wish.starts, "revives what has ended: {why}");
                    assert!(seen.group.is_some(), "unlimited: {why}");
                    assert!(seen.volume.is_some_and(|v| v.mounted), "no root: {why}");
                }
                Step::EnsureLink { .. } => {
                    assert!(!dead && !seen.process.unresponsive, "no namespace: {why}");
                }
                Step::KeepProcess(_) => {
                    assert!(!dead && !wish.starts && !seen.process.unresponsive, "{why}");
                }
                Step::RunProcess(_) => {
                    assert!(wish.starts, "revives what has ended: {why}");
                    assert!(!dead && seen.link.is_some() && seen.group.is_some(), "{why}");
                    assert!(seen.volume.is_some_and(|v| v.mounted), "{why}");
                }
                Step::StopProcess { .. } => {
                    let down = wish.run != RunState::Running;
                    let rootless = seen.volume.is_none();
                    assert!(down || rootless || wish.presence == Presence::Deleting, "{why}");
                }
                Step::EnsureLimits(_) => {}
            }
            seen = seen.after(step, NOW);
        }
    });
}

#[test]
fn refusal_names_the_loss_and_plans_are_deterministic() {
    each(|wish, sight_was| {
        assert_eq!(plan(wish, sight_was), plan(&wish.clone(), &sight_was.clone()));
        if lost(wish, sight_was) {
            assert_eq!(plan(wish, sight_was), Err(Refusal::VolumeLost(wish.ct)));
        }
        if foreign(wish, sight_was) {
            let refusal = plan(wish, sight_was).expect_err("refused");
            assert!(matches!(refusal, Refusal::Foreign(..)), "{refusal}");
        }
    });
}

#[test]
fn what_is_right_is_left_alone() {
    let wish = desired(Presence::Present, RunState::Running, true);
    let up = run(
        &plan(
            &wish,
            &Observed {
                volume: Some(VolumeSeen { size: DiskSize::DEFAULT.bytes(), ..VOLUME }),
                ..Observed::default()
            },
        )
        .expect("planned"),
        &Observed::default(),
    );
    let other = Desired { addresses: [address(9)].into(), ..wish.clone() };
    let steps = plan(&other, &up).expect("planned");
    assert_eq!(steps, vec![Step::EnsureLink { addresses: [address(9)].into() }]);
}

#[test]
fn what_is_damaged_is_mounted_anew_by_whoever_brings_it_up_and_never_under_processes() {
    let mut mended = 0;
    each(|wish, sight_was| {
        let damaged = sight_was.volume.is_some_and(|v| v.mounted && v.damage.is_some());
        let Ok(steps) = plan(wish, sight_was) else { return };
        // That nothing is unmounted under processes is in what is forbidden.
        let unmounts = |s: &Step| matches!(s, Step::EnsureVolume { mounted: false, .. });
        let up = wish.presence != Presence::Deleting && wish.run != RunState::Stopped;
        let alone = wish.snapshot.as_ref().is_some_and(|w| w.alone);
        if !damaged || !up || alone {
            return;
        }
        let idle = wish.starts && sight_was.process.phase == Phase::Absent;
        let anew = wish.run == RunState::Mounted || idle;
        assert_eq!(steps.iter().any(unmounts), anew, "{wish:?}\n{sight_was:?}\n{steps:?}");
        let left = run(&steps, sight_was).volume.and_then(|v| v.damage);
        assert_eq!(left.is_none(), anew, "{wish:?}\n{sight_was:?}\n{steps:?}");
        mended += usize::from(anew);
    });
    assert!(mended > 100, "{mended}");
}

#[test]
fn bounds_of_disk_traffic_follow_the_device() {
    let mut wish = desired(Presence::Present, RunState::Running, false);
    wish.limits.io_bps = 4096.try_into().ok();
    let made = Observed { volume: Some(VOLUME), ..Observed::default() };
    let steps = plan(&wish, &made).expect("planned");
    let kinds: Vec<_> = steps.iter().map(Step::service).collect();
    assert_eq!(kinds, ["storage", "resources", "lifecycle", "network", "lifecycle"]);
    let mut up = run(&steps, &made);
    assert_eq!(plan(&wish, &up), Ok(vec![]));
    // What was mounted tells its device after that, or has another one.
    for device in [Some(1), Some(2)] {
        up.volume = up.volume.map(|v| VolumeSeen { device, ..v });
        let steps = plan(&wish, &up).expect("planned");
        assert_eq!(steps, [Step::EnsureLimits(wish.limits.clone())]);
        up = run(&steps, &up);
        assert_eq!(plan(&wish, &up), Ok(vec![]));
    }
    wish.limits.io_bps = None;
    up.volume = up.volume.map(|v| VolumeSeen { device: Some(3), ..v });
    assert_eq!(plan(&wish, &up), Ok(vec![]), "to others it does not matter");
}

#[test]
fn the_way_up_and_the_way_down() {
    let lines = |steps: Vec<Step>| steps.iter().map(Step::to_string).collect::<Vec<_>>();
    let up = desired(Presence::Creating, RunState::Running, true);
    assert_eq!(
        lines(plan(&up, &Observed::default()).expect("planned")),
        [
            "storage: volume of 2 GiB from trixie, not mounted",
            "resources: control groups and limits",
            "storage: volume of 2 GiB, mounted",
            "lifecycle: namespaces, init waiting",
            "network: link with 192.0.2.1 192.0.2.2",
            "lifecycle: /sbin/init running",
        ]
    );
    let seen = run(&plan(&up, &Observed::default()).expect("planned"), &Observed::default());
    let down = desired(Presence::Deleting, RunState::Stopped, true);
    assert_eq!(
        lines(plan(&down, &seen).expect("planned")),
        [
            "lifecycle: no processes, init has 1 s to stop",
            "network: no link",
            "storage: volume of 2 GiB from trixie, not mounted",
            "resources: no control groups",
            "storage: no volume",
        ]
    );
}
