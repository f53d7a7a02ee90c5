//! The shell, with a fake host: fences, locks, faults in any step, promises.

use super::*;
use crate::converge::Checked;
use crate::fake::blocking::Blocking;
use crate::fake::{FakeHost, HOLDER};
use crate::host::Source;
use crate::plan::Desired;
use crate::template::{Build, BuildInit};
use ves_daemon::{Call, FenceStore};
use ves_types::layout::Daemon;
use ves_types::{Epoch, Fence, IdSlot};

pub(super) struct Fixture {
    pub(super) service: Blocking,
    pub(super) host: Arc<FakeHost>,
    _dir: tempfile::TempDir,
}

pub(super) fn fixture() -> Fixture {
    let dir = tempfile::tempdir().expect("a directory");
    let host = Arc::new(FakeHost::new());
    host.add_template(&"debian".parse().expect("a name"));
    let fences = FenceStore::open_synced(dir.path().join("fence")).expect("opened");
    let service = Blocking(Service::new(host.clone(), Shell::new(Daemon::Storage, fences, 16)));
    Fixture { service, host, _dir: dir }
}

pub(super) fn fence(ct: u32, generation: u64) -> Fence {
    let ct = CtId::try_from(ct).expect("valid");
    Fence { ct, generation: Generation(generation), epoch: Epoch(1) }
}

pub(super) fn wish(gib: u64) -> Desired {
    Desired {
        template: "debian".parse().expect("a name"),
        bytes: gib << 30,
        inodes: None,
        slot: IdSlot::try_from(20).expect("in range"),
        mounted: true,
    }
}

#[test]
fn old_decisions_are_refused_and_change_nothing() {
    let f = fixture();
    f.service.ensure(&fence(101, 5), &wish(1)).expect("made");
    let done = f.host.applied().len();
    let fault = f.service.ensure(&fence(101, 4), &wish(2)).expect_err("old");
    assert_eq!(fault.reason, Reason::StaleGeneration);
    let fault = f.service.remove(&fence(101, 4)).expect_err("old");
    assert_eq!(fault.reason, Reason::StaleGeneration);
    assert_eq!(f.host.applied().len(), done);
    let volume = f.service.ensure(&fence(101, 6), &wish(2)).expect("grown");
    assert_eq!((volume.generation, volume.bytes), (Generation(6), 2 << 30));
}

#[test]
fn what_was_delayed_does_not_bring_back_what_was_removed() {
    let f = fixture();
    f.service.ensure(&fence(101, 5), &wish(1)).expect("made");
    f.service.remove(&fence(101, 6)).expect("removed");
    let fault = f.service.ensure(&fence(101, 5), &wish(1)).expect_err("old");
    assert_eq!(fault.reason, Reason::StaleGeneration);
    // Nor where there was nothing to remove.
    f.service.remove(&fence(101, 7)).expect("removed");
    f.service.remove_snapshot(&fence(102, 7), SnapshotId::from(1)).expect("removed");
    for ct in [101, 102] {
        let fault = f.service.ensure(&fence(ct, 6), &wish(1)).expect_err("old");
        assert_eq!(fault.reason, Reason::StaleGeneration);
    }
    assert!(f.service.list(&[]).expect("listed").is_empty());
    f.service.ensure(&fence(101, 8), &wish(1)).expect("a new container of that id");
}

#[test]
fn a_dry_run_tells_the_steps_and_does_none() {
    let f = fixture();
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let service = &f.service.0;
    let dry = Call { fence: fence(101, 7), dry_run: true };
    let planned = runtime.block_on(service.ensure(dry, wish(1))).expect("planned");
    assert_eq!((planned.answer, f.host.applied().len()), (None, 0));
    assert!(planned.steps.len() > 3, "{:?}", planned.steps);
    assert_eq!(f.service.pool().expect("known").1.held.volumes, 0);
    let done = runtime.block_on(service.ensure(fence(101, 3).into(), wish(1)));
    assert_eq!(done.expect("7 was not accepted").steps, planned.steps);
    let (done, id) = (f.host.applied().len(), SnapshotId::from(1));
    let dry = Call { fence: fence(101, 7), dry_run: true };
    let snapshot = runtime.block_on(service.ensure_snapshot(dry, snapshot(1, 7)));
    assert_eq!(snapshot.expect("planned").steps.len(), 2);
    assert_eq!(runtime.block_on(service.remove_snapshot(dry, id)).expect("none").steps, [""; 0]);
    let fault = runtime.block_on(service.revert(dry, id)).expect_err("there is none");
    assert_eq!(fault.reason, Reason::SnapshotUnknown);
    assert!(runtime.block_on(service.remove(dry)).expect("planned").steps.len() > 1);
    assert_eq!(f.host.applied().len(), done);
}

#[test]
fn a_refusal_accepts_no_generation() {
    let f = fixture();
    f.service.ensure(&fence(101, 5), &wish(2)).expect("made");
    let fault = f.service.ensure(&fence(101, 9), &wish(1)).expect_err("smaller");
    assert_eq!(fault.reason, Reason::WouldShrink);
    f.service.ensure(&fence(101, 6), &wish(2)).expect("9 was never accepted");
}

#[test]
fn the_second_hears_who_holds_it() {
    let f = fixture();
    let held = f.service.shell.hold(fence(101, 1).ct, "a test").expect("free");
    let fault = f.service.ensure(&fence(101, 1), &wish(1)).expect_err("busy");
    assert_eq!(fault.reason, Reason::Busy);
    assert!(fault.facts["holder"].contains("a test"), "{fault:?}");
    drop(held);
    f.service.ensure(&fence(101, 1), &wish(1)).expect("made");
}

#[test]
fn a_failure_in_any_step_is_told_and_repaired_by_repeating() {
    for fails in 0..6 {
        let f = fixture();
        f.host.fail_after(fails);
        let result = f.service.ensure(&fence(101, 1), &wish(1));
        if let Err(fault) = result {
            assert_eq!(fault.reason, Reason::HostFailed);
            assert!(
                fault.facts.contains_key("step") && fault.facts.contains_key("errno"),
                "{fault:?}"
            );
        }
        let volume = f.service.ensure(&fence(101, 1), &wish(1)).expect("repaired");
        assert!(volume.mounted);
        f.host.fail_after(fails);
        f.service.remove(&fence(101, 1)).ok();
        f.host.fail_after(u64::MAX);
        f.service.remove(&fence(101, 1)).expect("removed");
        assert!(f.service.list(&[]).expect("listed").is_empty());
    }
}

#[test]
fn a_volume_in_use_is_not_taken_away() {
    let f = fixture();
    f.service.ensure(&fence(101, 1), &wish(1)).expect("made");
    f.host.pin(fence(101, 1).ct, true);
    let fault = f.service.remove(&fence(101, 2)).expect_err("in use");
    assert_eq!(fault.reason, Reason::Mounted);
    assert_eq!(fault.facts.get("holder").map(String::as_str), Some(HOLDER));
    assert!(fault.message.contains(HOLDER), "{fault}");
    let left = f.service.get(fence(101, 1).ct).expect("there");
    assert_eq!((left.mounted, left.holder.as_deref()), (false, Some(HOLDER)));
    let held = f.service.pool().expect("known").1.held.volumes;
    assert_eq!(held, wish(1).bytes, "it still counts");
    f.host.pin(fence(101, 1).ct, false);
    f.service.remove(&fence(101, 2)).expect("removed");
}

#[test]
fn a_volume_in_use_is_unmounted_and_says_who_holds_it() {
    let f = fixture();
    let ct = fence(101, 1).ct;
    f.service.ensure(&fence(101, 1), &wish(1)).expect("made");
    f.host.pin(ct, true);
    let off = Desired { mounted: false, ..wish(1) };
    let stopped = f.service.ensure(&fence(101, 2), &off).expect("unmounted");
    assert_eq!((stopped.mounted, stopped.holder.as_deref()), (false, Some(HOLDER)));
    let up = f.service.ensure(&fence(101, 3), &wish(1)).expect("mounted");
    assert_eq!((up.mounted, up.holder), (true, None));
    f.service.ensure(&fence(101, 4), &off).expect("unmounted");
    f.host.pin(ct, false);
    let stopped = f.service.get(ct).expect("there");
    assert_eq!((stopped.holder, stopped.usage.device), (None, None));
}

#[test]
fn after_a_reboot_it_is_mounted_again() {
    let f = fixture();
    f.service.ensure(&fence(101, 1), &wish(1)).expect("made");
    f.host.reboot();
    assert!(!f.service.get(fence(101, 1).ct).expect("there").mounted);
    assert!(f.service.ensure(&fence(101, 1), &wish(1)).expect("mounted").mounted);
}

#[test]
fn the_pool_promises_no_byte_twice() {
    let f = fixture();
    f.host.set_pool_bytes(10 << 30);
    let threads: Vec<_> = (1..=8)
        .map(|n| {
            let service = f.service.clone();
            std::thread::spawn(move || service.ensure(&fence(n, 1), &wish(3)).map(drop))
        })
        .collect();
    let results: Vec<_> = threads.into_iter().map(|t| t.join().expect("no panic")).collect();
    assert_eq!(results.iter().filter(|r| r.is_ok()).count(), 3, "{results:?}");
    assert!(
        results.iter().filter_map(|r| r.as_ref().err()).all(|f| f.reason == Reason::PoolFull),
        "{results:?}"
    );
    let facts = f.service.pool().expect("known").1;
    assert_eq!((facts.held.volumes, facts.reserved), (9 << 30, 0));
}

#[test]
fn templates_are_made_once_and_not_removed_while_read() {
    let f = fixture();
    let name = "debian".parse().expect("a name");
    let (_stream, reading) = f.service.export(&name).expect("opened");
    let fault = f.service.remove_template(&name).expect_err("read");
    assert_eq!(fault.reason, Reason::TemplateInUse);
    drop(reading);
    f.service.remove_template(&name).expect("removed");
    let fault = f.service.ensure(&fence(101, 1), &wish(1)).expect_err("no template");
    assert_eq!(fault.reason, Reason::TemplateUnknown);
}

#[test]
fn a_template_is_promised_its_room_like_anything_else() {
    let f = fixture();
    let build = || Build::parse("trixie".to_owned(), BuildInit::Systemd, Vec::new()).expect("good");
    let make = |name: &str| {
        let name = name.parse().expect("a name");
        f.service.make_template(&name, Source::Build(build()), &|_| ())
    };
    let held = f.service.pool().expect("known").1.committed();
    f.host.set_pool_bytes(plan::room::reach_for(held + (300 << 20)));
    let base_image = plan::template::base_image_bytes(200 << 20, 10_000, 8192);
    assert!(base_image > 300 << 20);
    let fault = make("large").expect_err("its base image does not fit");
    assert_eq!(fault.reason, Reason::PoolFull, "{fault}");
    assert_eq!(f.service.pool().expect("known").1.committed(), held, "nothing is left of it");
    let few = Desired { inodes: Some(20_000), ..wish(1) };
    f.host.set_pool_bytes(plan::room::reach_for(held + (1 << 30) + (100 << 20)));
    let fault = f.service.ensure(&fence(101, 1), &few).expect_err("another base image");
    assert_eq!(fault.reason, Reason::PoolFull, "{fault}");
    f.host.set_pool_bytes(10 << 30);
    let made = make("large").expect("there is room");
    assert_eq!(f.service.pool().expect("known").1.held.templates, held + made.allocated);
    f.service.ensure(&fence(101, 1), &few).expect("and for the volume");
    let facts = f.service.pool().expect("known").1;
    assert_eq!((facts.reserved, facts.held.volumes), (0, 1 << 30));
    f.service.remove_template(&made.name).expect("removed");
    assert_eq!(f.service.pool().expect("known").1.held.templates, held);
}

#[test]
fn a_template_that_fails_in_any_step_leaves_nothing() {
    for fails in 0..5 {
        let f = fixture();
        f.host.fail_after(fails);
        let name = "other".parse().expect("a name");
        let build =
            Build::parse("trixie".to_owned(), BuildInit::Systemd, Vec::new()).expect("good");
        let made = f.service.make_template(&name, Source::Build(build), &|_| ());
        assert_eq!(made.is_ok(), fails == 4, "{made:?}");
        let seen = f.host.observe_template(&name).expect("seen");
        assert_eq!((seen.published, seen.unfinished), (fails == 4, false), "after {fails}");
        let anew = Promises::new(f.host.clone()).facts().expect("known");
        assert_eq!(f.service.pool().expect("known").1, anew);
    }
}

#[test]
fn a_list_looks_once_however_many_there_are() {
    let f = fixture();
    for ct in 101..=140 {
        f.service
            .ensure(&fence(ct, 1), &Desired { mounted: ct % 2 == 0, ..wish(1) })
            .expect("made");
    }
    f.host.asked();
    let listed = f.service.list(&[]).expect("listed");
    assert_eq!(f.host.asked(), ["look at all"], "neither the pool nor each volume by itself");
    assert_eq!(listed.len(), 40);
    let named = [104, 105, 999].map(|ct| fence(ct, 1).ct);
    let few = f.service.list(&named).expect("listed");
    assert_eq!(f.host.asked(), ["look"; 3], "those that are asked for and no other");
    assert!(few.iter().map(|v| v.ct).eq(named[..2].iter().copied()));
    for volume in listed {
        assert_eq!(f.service.get(volume.ct).expect("there"), volume);
        assert_eq!(f.host.asked(), ["look"]);
    }
}

#[test]
fn a_promise_costs_the_same_however_many_volumes_there_are() {
    let f = fixture();
    let make = |ct| f.service.ensure(&fence(ct, 1), &wish(1)).expect("made");
    make(101);
    f.host.asked();
    for many in [10, 200] {
        (102..102 + many).for_each(|ct| drop(make(ct)));
        f.host.asked();
        make(101 + 2000 + many);
        let asked = f.host.asked();
        assert_eq!(asked, ["observe", "room", "look"], "with {many} volumes");
        f.service.ensure_snapshot(&fence(101, 2), &snapshot(many.into(), 2)).expect("taken");
        assert!(!f.host.asked().contains(&"inventory"), "with {many} volumes");
        f.service.pool().expect("known");
        assert_eq!(f.host.asked(), ["room"], "with {many} volumes");
    }
}

#[test]
fn a_pool_grows_with_its_promises() {
    let f = fixture();
    f.host.set_pool_bytes(10 << 30);
    f.host.set_pool_reach(1 << 30);
    let mut before = 0;
    for ct in 101..=109 {
        f.service.ensure(&fence(ct, 1), &wish(1)).expect("there is room");
        let facts = f.service.pool().expect("known").1;
        assert!(facts.room.backed >= plan::room::reach_for(facts.committed()), "{facts:?}");
        assert!(facts.room.reach > before && facts.alarms().is_empty(), "{facts:?}");
        before = facts.room.reach;
    }
    let fault = f.service.ensure(&fence(110, 1), &wish(1)).expect_err("full");
    assert_eq!(fault.reason, Reason::PoolFull, "{fault}");
}

#[test]
fn holes_in_the_pool_are_alarmed_and_filled() {
    let f = fixture();
    f.host.punch_pool(1 << 30);
    let alarms = f.service.pool().expect("known").1.alarms();
    assert!(matches!(alarms.as_slice(), [plan::room::Alarm::NotBacked { .. }]), "{alarms:?}");
    assert_eq!(f.service.tend(), Ok(vec![]));
    assert!(f.host.asked().contains(&"back"));
    assert_eq!(f.service.tend(), Ok(vec![]));
    assert!(!f.host.asked().contains(&"back"), "what is backed is left alone");
}

#[test]
fn what_is_held_is_what_a_new_service_finds() {
    let f = fixture();
    let held = |f: &Fixture| f.service.pool().expect("known").1;
    for fails in 0..40 {
        let ct = 101 + fails % 3;
        f.host.fail_after(u64::from(fails % 7));
        // Whether these fail or not: they leave no more and no less than what is counted.
        let generation = u64::from(fails) + 1;
        f.service.ensure(&fence(ct, generation), &wish(1 + generation)).ok();
        f.service.ensure_snapshot(&fence(ct, generation), &snapshot(fails.into(), generation)).ok();
        if fails % 5 == 4 {
            f.service.remove_snapshot(&fence(ct, generation), SnapshotId::from(1)).ok();
            f.service.remove(&fence(ct, generation)).ok();
        }
        f.host.fail_after(u64::MAX);
        let anew = Promises::new(f.host.clone()).facts().expect("known");
        assert_eq!(held(&f), anew, "after {fails}");
        assert_eq!(anew.reserved, 0);
    }
}

pub(super) fn snapshot(n: u128, generation: u64) -> snapshot::Desired {
    let generation = Generation(generation);
    snapshot::Desired { id: SnapshotId::from(n), name: None, created_unix_ms: 1, generation }
}

#[test]
fn a_snapshot_keeps_what_was_and_gives_it_back_once_for_each_decision() {
    let f = fixture();
    let ct = fence(101, 1).ct;
    f.service.ensure(&fence(101, 1), &wish(1)).expect("made");
    f.host.write(ct, 1);
    let first = f.service.ensure_snapshot(&fence(101, 2), &snapshot(1, 2)).expect("taken");
    assert!(first.current && first.parent.is_none() && first.own.is_none(), "{first:?}");
    f.host.write(ct, 2);
    let again = f.service.ensure_snapshot(&fence(101, 2), &snapshot(1, 2)).expect("there");
    assert_eq!(again, first);
    let second = f.service.ensure_snapshot(&fence(101, 3), &snapshot(2, 3)).expect("taken");
    assert_eq!((second.parent, second.current), (Some(first.id), true));

    let fault = f.service.revert(&fence(101, 4), first.id).expect_err("mounted");
    assert_eq!(fault.reason, Reason::Mounted, "{fault}");
    let off = Desired { mounted: false, ..wish(1) };
    f.service.ensure(&fence(101, 5), &off).expect("unmounted");
    f.service.revert(&fence(101, 6), first.id).expect("reverted");
    assert_eq!(f.host.read(ct), 1);
    let all = f.service.snapshots(ct, true).expect("listed");
    assert_eq!(all.iter().map(|s| s.current).collect::<Vec<_>>(), [true, false]);
    assert!(all.iter().all(|s| s.own.is_some()), "{all:?}");
    f.host.write(ct, 3);
    f.service.revert(&fence(101, 6), first.id).expect("done before");
    assert_eq!(f.host.read(ct), 3);
    f.service.revert(&fence(101, 7), first.id).expect("decided anew");
    assert_eq!(f.host.read(ct), 1);

    let fault = f.service.revert(&fence(101, 8), SnapshotId::from(9)).expect_err("unknown");
    assert_eq!(fault.reason, Reason::SnapshotUnknown, "{fault}");
    f.service.remove_snapshot(&fence(101, 9), first.id).expect("removed");
    f.service.remove_snapshot(&fence(101, 9), first.id).expect("is not there");
    let fault = f.service.ensure_snapshot(&fence(101, 8), &snapshot(7, 8)).expect_err("old");
    assert_eq!(fault.reason, Reason::StaleGeneration, "{fault}");
    let all = f.service.snapshots(ct, false).expect("listed");
    assert_eq!(all.iter().map(|s| (s.id, s.parent)).collect::<Vec<_>>(), [(second.id, None)]);
    f.service.remove(&fence(101, 10)).expect("removed");
    assert_eq!(f.service.snapshots(ct, false).expect("listed"), []);
}

#[test]
fn what_snapshots_take_is_counted() {
    let f = fixture();
    let templates = f.service.pool().expect("known").1.held.templates;
    let holds = templates + (1 << 30) + 2 * crate::fake::ALLOCATED;
    f.host.set_pool_bytes(plan::room::reach_for(holds));
    f.service.ensure(&fence(101, 1), &wish(1)).expect("made");
    for n in [1, 2] {
        f.service.ensure_snapshot(&fence(101, 2), &snapshot(n, 2)).expect("there is room");
    }
    let fault = f.service.ensure_snapshot(&fence(101, 2), &snapshot(3, 2)).expect_err("full");
    assert_eq!(fault.reason, Reason::PoolFull, "{fault}");
    f.service.remove_snapshot(&fence(101, 3), SnapshotId::from(1)).expect("removed");
    f.service.ensure_snapshot(&fence(101, 4), &snapshot(3, 4)).expect("there is room again");
    let fault = f.service.ensure(&fence(102, 1), &wish(1)).expect_err("full");
    assert_eq!(fault.reason, Reason::PoolFull, "{fault}");
    assert_eq!(f.service.pool().expect("known").1.held.snapshots, 2 * crate::fake::ALLOCATED);
}

#[test]
fn a_snapshot_that_came_to_take_more_than_there_is_goes_again() {
    let f = fixture();
    let ct = fence(101, 1).ct;
    f.service.ensure(&fence(101, 1), &wish(1)).expect("made");
    let held = f.service.pool().expect("known").1.held;
    let holds = held.templates + held.volumes + (100 << 20);
    f.host.set_pool_bytes(plan::room::reach_for(holds));
    f.host.write_meanwhile(ct, 200 << 20);
    let fault = f.service.ensure_snapshot(&fence(101, 2), &snapshot(1, 2)).expect_err("larger");
    assert_eq!(fault.reason, Reason::PoolFull, "{fault}");
    assert_eq!(f.service.snapshots(ct, false), Ok(vec![]));
    let facts = f.service.pool().expect("known").1;
    assert_eq!((facts.held, facts.reserved), (held, 0));
    f.host.write_meanwhile(ct, 20 << 20);
    let taken = f.service.ensure_snapshot(&fence(101, 3), &snapshot(1, 3)).expect("there is room");
    let facts = f.service.pool().expect("known").1;
    assert_eq!(facts.held.snapshots, taken.seen.allocated);
}

#[test]
fn a_snapshot_that_fails_in_any_step_is_told_and_repaired_by_repeating() {
    for fails in 0..3 {
        let f = fixture();
        f.service.ensure(&fence(101, 1), &wish(1)).expect("made");
        f.host.fail_after(fails);
        if let Err(fault) = f.service.ensure_snapshot(&fence(101, 2), &snapshot(1, 2)) {
            assert_eq!(fault.reason, Reason::HostFailed);
        }
        f.host.fail_after(u64::MAX);
        f.service.ensure_snapshot(&fence(101, 2), &snapshot(1, 2)).expect("repaired");
        assert_eq!(f.service.snapshots(fence(101, 1).ct, false).expect("listed").len(), 1);
        let off = Desired { mounted: false, ..wish(1) };
        f.service.ensure(&fence(101, 3), &off).expect("unmounted");
        f.host.fail_after(fails);
        f.service.revert(&fence(101, 4), SnapshotId::from(1)).ok();
        f.host.fail_after(u64::MAX);
        f.service.revert(&fence(101, 4), SnapshotId::from(1)).expect("repaired");
    }
}

#[test]
fn what_is_damaged_is_told_checked_before_it_is_mounted_and_else_refused() {
    let f = fixture();
    let ct = CtId::try_from(101).expect("valid");
    let down = Desired { mounted: false, ..wish(1) };
    f.service.ensure(&fence(101, 1), &wish(1)).expect("made");
    f.host.damage(ct, false);
    let seen = f.service.0.get(ct).expect("there");
    assert_eq!(seen.damage.map(|d| d.errors), Some(1));
    // While it is mounted it is left alone.
    let seen = f.service.ensure(&fence(101, 2), &wish(1)).expect("nothing to do");
    assert!(seen.damage.is_some() && seen.mounted);
    f.service.ensure(&fence(101, 3), &down).expect("unmounted");
    let mended = f.service.ensure(&fence(101, 4), &wish(1)).expect("mounted");
    assert_eq!((mended.damage, mended.mounted), (None, true));

    f.host.damage(ct, true);
    f.service.ensure(&fence(101, 5), &down).expect("unmounted");
    let fault = f.service.ensure(&fence(101, 6), &wish(1)).expect_err("it may lose files");
    assert_eq!((fault.reason, fault.facts["ct"].as_str()), (Reason::VolumeDamaged, "101"));
    assert!(f.service.0.get(ct).is_ok_and(|v| v.damage.is_some() && !v.mounted));
    let check = |generation, mend_all| {
        let fence = fence(101, generation);
        let desired = plan::check::Desired { generation: fence.generation, mend_all };
        f.service.check(&fence, &desired)
    };
    let fault = check(7, None).expect_err("that is not enough");
    assert_eq!(fault.reason, Reason::VolumeDamaged);
    let before = snapshot::Desired {
        id: SnapshotId::from(5),
        name: None,
        created_unix_ms: 0,
        generation: Generation(8),
    };
    let Checked { volume: whole, kept } = check(8, Some(before.clone())).expect("mended");
    assert!(kept);
    assert_eq!((whole.damage, whole.record.checked), (None, Some(Generation(8))));
    let kept = f.service.0.snapshots(ct, false).expect("listed");
    assert!(kept.len() == 1 && kept[0].seen.damaged, "{kept:?}");
    let done = f.host.applied().len();
    check(8, Some(before)).expect("was done");
    assert_eq!(f.host.applied().len(), done);
    f.service.ensure(&fence(101, 9), &wish(1)).expect("mounted");
}

#[test]
fn errors_of_mounted_file_systems_are_told_once_and_until_they_are_mounted_no_more() {
    let f = fixture();
    let ct = CtId::try_from(101).expect("valid");
    f.service.ensure(&fence(101, 1), &wish(1)).expect("made");
    let mut errors = f.service.errors.subscribe();
    let mut look = || {
        let count = f.service.look_for_errors().expect("looked");
        let news = errors.has_changed().expect("it is there");
        (count, news, errors.borrow_and_update().get(&ct).copied())
    };
    assert_eq!(look(), (0, false, None));
    f.host.damage(ct, false);
    assert_eq!(look(), (1, true, Some(1)));
    assert_eq!(look(), (1, false, Some(1)));
    f.host.damage(ct, false);
    assert_eq!(look(), (1, true, Some(2)));
    f.service.ensure(&fence(101, 2), &Desired { mounted: false, ..wish(1) }).expect("unmounted");
    assert_eq!(look(), (0, true, None));
}

#[test]
fn the_mount_of_a_volume_that_is_gone_goes_too_and_no_other() {
    let f = fixture();
    for ct in [101, 102] {
        f.service.ensure(&fence(ct, 1), &wish(1)).expect("mounted");
    }
    let gone = CtId::try_from(101).expect("valid");
    f.host.lose(gone);
    assert_eq!(f.host.orphans().expect("looked"), [gone]);
    f.service.let_orphans_go().expect("looked");
    assert!(f.host.orphans().expect("looked").is_empty());
    let other = f.host.observe(fence(102, 1).ct, None).expect("seen");
    assert!(matches!(other.mount, plan::Mount::Ours { .. }), "{other:?}");
}

#[test]
fn a_create_that_fails_in_any_step_leaves_nothing_unfinished() {
    for fails in 0..6 {
        let f = fixture();
        let few = Desired { inodes: Some(20_000), mounted: false, ..wish(1) };
        f.host.fail_after(fails);
        let made = f.service.ensure(&fence(101, 1), &few);
        let seen = f.host.observe(fence(101, 1).ct, None).expect("seen");
        assert!(!seen.unfinished, "after {fails}: {made:?}");
        assert_eq!(made.is_ok(), matches!(seen.image, Image::Ours { .. }), "after {fails}");
    }
}
