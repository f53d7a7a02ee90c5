//! The shell, with a fake host: fences, locks, faults in any step, promises.

use super::*;
use crate::fake::FakeHost;
use ves_types::{Epoch, IdSlot};

struct Fixture {
    service: Service,
    host: Arc<FakeHost>,
    _dir: tempfile::TempDir,
}

fn fixture() -> Fixture {
    let dir = tempfile::tempdir().expect("a directory");
    let host = Arc::new(FakeHost::new());
    host.add_template(&"debian".parse().expect("a name"));
    let service = Service::new(host.clone(), dir.path().join("fence")).expect("made");
    Fixture { service, host, _dir: dir }
}

fn fence(ct: u32, generation: u64) -> Fence {
    let ct = CtId::try_from(ct).expect("valid");
    Fence { ct, generation: Generation(generation), epoch: Epoch(1) }
}

fn wish(gib: u64) -> Desired {
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
    let held = f.service.locks.hold(fence(101, 1).ct, "a test").expect("free");
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
        assert!(f.service.list().expect("listed").is_empty());
    }
}

#[test]
fn a_volume_in_use_is_not_taken_away() {
    let f = fixture();
    f.service.ensure(&fence(101, 1), &wish(1)).expect("made");
    f.host.hold(fence(101, 1).ct, true);
    let fault = f.service.remove(&fence(101, 2)).expect_err("in use");
    assert_eq!(fault.reason, Reason::Mounted);
    assert_eq!(f.service.list().expect("listed").len(), 1);
    f.host.hold(fence(101, 1).ct, false);
    f.service.remove(&fence(101, 2)).expect("removed");
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
    assert_eq!(f.service.pool().expect("known").1.promised, 9 << 30);
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
fn a_list_looks_once_however_many_there_are() {
    let f = fixture();
    for ct in 101..=140 {
        f.service
            .ensure(&fence(ct, 1), &Desired { mounted: ct % 2 == 0, ..wish(1) })
            .expect("made");
    }
    f.host.asked();
    let listed = f.service.list().expect("listed");
    assert_eq!(f.host.asked(), ["look at all"], "neither the pool nor each volume by itself");
    assert_eq!(listed.len(), 40);
    for volume in listed {
        assert_eq!(f.service.get(volume.ct).expect("there"), volume);
        assert_eq!(f.host.asked(), ["look"]);
    }
}
