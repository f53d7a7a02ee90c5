//! Volumes on the real kernel: limits that bite, growth under use, what a kill leaves, and that
//! nothing stays behind.

use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use ves_host::loopdev;
use ves_kit::Inventory;
use ves_proto::Reason;
use ves_storage::host::{BackendKind, Host};
use ves_storage::kernel::image::pool::Place;
use ves_storage::plan::{self, Mount};

use super::support::{Storage, needs};

#[test]
fn created_grown_limited_and_removed() {
    if !needs() {
        return;
    }
    let storage = Storage::new();
    let template = storage.busybox();
    assert!(template.content_inodes > 50 && template.content_bytes > 1 << 20, "{template:?}");
    std::fs::create_dir(storage.dir.layout().cts_dir()).expect("made");
    let text = storage.dir.dir().to_str().expect("test paths are text").to_owned();
    let ours = |_, line: &str| line.contains(&text);
    let before = Inventory::take(storage.dir.layout()).only(ours);

    let volume = storage.service.ensure(&storage.fence(), &storage.desired(256)).expect("made");
    assert!(volume.mounted && volume.bytes == 256 << 20, "{volume:?}");

    // The container's root owns what root owns on disk.
    let base = storage.id.slot().base();
    let meta = std::fs::metadata(storage.root().join("bin/busybox")).expect("it is there");
    assert_eq!((meta.uid(), meta.gid()), (base, base));
    assert_eq!(storage.inside("echo one > etc/new && cat etc/new"), "one\n");

    // The size is hard.
    let full = storage.inside(
        "i=0; while yes | head -c 16777216 > fill$i && sync; do i=$((i+1)); done 2>/dev/null; \
         rm -f fill$i; du -sm . | cut -f1",
    );
    let mib: u64 = full.trim().parse().expect("a number");
    assert!((180..256).contains(&mib), "{mib} MiB fit into 256");
    let used = storage.service.get(storage.ct()).expect("there").usage;
    assert!(used.used.is_some_and(|u| u <= 256 << 20), "{used:?}");

    // It grows, where the kernel lets us while it is in use.
    let off = plan::Desired { mounted: false, ..storage.desired(256) };
    if !storage.host.observe(storage.ct(), None).expect("seen").online_growth {
        let grown = storage.service.ensure(&storage.fence(), &storage.desired(700));
        assert_eq!(grown.expect_err("in use").reason, Reason::NeedsRestart);
        storage.service.ensure(&storage.fence(), &off).expect("unmounted");
    }
    let volume = storage.service.ensure(&storage.fence(), &storage.desired(700)).expect("grown");
    assert_eq!(volume.bytes, 700 << 20);
    let more = storage.inside("yes | head -c 314572800 > more && sync && echo ok; cat etc/new");
    assert_eq!(more, "ok\none\n");
    let again = storage.service.ensure(&storage.fence(), &storage.desired(700)).expect("as it is");
    assert_eq!(again.bytes, 700 << 20);
    let fault =
        storage.service.ensure(&storage.fence(), &storage.desired(600)).expect_err("smaller");
    assert_eq!(fault.reason, Reason::WouldShrink, "{fault}");

    // What is deleted inside comes back to the pool.
    let full = storage.service.get(storage.ct()).expect("there").usage.allocated;
    storage.inside("rm -f more fill*; sync");
    ves_kit::wait_until(Duration::from_secs(20), "discarded blocks come back", || {
        storage.service.get(storage.ct()).expect("there").usage.allocated < full - (300 << 20)
    });

    let off = plan::Desired { mounted: false, ..storage.desired(700) };
    let volume = storage.service.ensure(&storage.fence(), &off).expect("unmounted");
    assert!(!volume.mounted && volume.usage.device.is_none(), "{volume:?}");
    storage.service.remove(&storage.fence()).expect("removed");
    storage.service.remove(&storage.fence()).expect("nothing to remove");
    let fault = storage.service.get(storage.ct()).expect_err("gone");
    assert_eq!(fault.reason, Reason::VolumeUnknown);
    ves_kit::wait_until(Duration::from_secs(60), "nothing is left", || {
        Inventory::take(storage.dir.layout()).only(ours) == before
    });
    assert_eq!(storage.loops().len(), 1, "the pool's only: {:?}", storage.loops());
}

#[test]
fn the_number_of_inodes_is_hard() {
    if !needs() {
        return;
    }
    let storage = Storage::new();
    storage.busybox();
    let desired = plan::Desired { inodes: Some(1000), ..storage.desired(512) };
    let volume = storage.service.ensure(&storage.fence(), &desired).expect("made");
    let inodes = volume.usage.inodes.expect("known");
    assert!((900..=1000).contains(&inodes), "{inodes}");
    let made = storage.inside(
        "mkdir many; i=0; while touch many/$i 2>/dev/null; do i=$((i+1)); [ $i -gt 2000 ] && break; done; echo $i",
    );
    let made: u64 = made.trim().parse().expect("a number");
    assert!(made < 1000 && made > 700, "{made} files");
    let usage = storage.service.get(storage.ct()).expect("there").usage;
    assert_eq!(usage.used_inodes, Some(inodes));

    let other = plan::Desired { inodes: Some(5000), ..storage.desired(512) };
    let fault = storage.service.ensure(&storage.fence(), &other).expect_err("fixed");
    assert_eq!(fault.reason, Reason::NotBuilt, "{fault}");
    storage.service.remove(&storage.fence()).expect("removed");

    let few = plan::Desired { inodes: Some(40), ..storage.desired(512) };
    let fault = storage.service.ensure(&storage.fence(), &few).expect_err("too few");
    assert_eq!(fault.reason, Reason::NoInodes, "{fault}");
    let small = storage.desired(64);
    let fault = storage.service.ensure(&storage.fence(), &small).expect_err("too small");
    assert_eq!(fault.reason, Reason::VolumeTooSmall, "{fault}");
    let large = storage.desired(9000);
    let fault = storage.service.ensure(&storage.fence(), &large).expect_err("too large");
    assert_eq!(fault.reason, Reason::PoolFull, "{fault}");
    assert!(storage.service.list(&[]).expect("listed").is_empty());
}

#[test]
fn a_kill_after_any_step_is_repaired() {
    if !needs() {
        return;
    }
    let mut storage = Storage::new();
    storage.busybox();
    let ct = storage.ct();
    let desired = plan::Desired { inodes: Some(4000), ..storage.desired(400) };
    let observed = storage.host.observe(ct, Some(&desired.template)).expect("seen");
    let steps = plan::plan_ensure(&desired, &observed, &storage.pool()).expect("planned").len();
    assert!(steps >= 6, "{steps}");
    for done in 0..=steps {
        let observed = storage.host.observe(ct, Some(&desired.template)).expect("seen");
        let plan = plan::plan_ensure(&desired, &observed, &storage.pool()).expect("planned");
        for step in plan.iter().take(done) {
            storage.apply(ct, step).expect("applied");
        }
        // The daemon is gone here. Its successor sweeps, then is asked the same.
        storage.restart();
        let volume = storage.service.ensure(&storage.fence(), &desired).expect("made");
        assert!(volume.mounted && volume.bytes == 400 << 20, "{volume:?}");
        assert_eq!(storage.inside("cat etc/passwd | head -1 | cut -c1-4"), "root\n");
        let observed = storage.host.observe(ct, Some(&desired.template)).expect("seen");
        assert_eq!(plan::plan_ensure(&desired, &observed, &storage.pool()), Ok(vec![]));
        // The same for removal.
        let plan = plan::plan_remove(&observed).expect("planned");
        for step in plan.iter().take(done) {
            storage.apply(ct, step).expect("applied");
        }
        storage.restart();
        storage.service.remove(&storage.fence()).expect("removed");
        assert_eq!(storage.loops().len(), 1, "after {done} steps: {:?}", storage.loops());
    }
}

#[test]
fn a_restart_sees_what_runs_and_a_pool_comes_back() {
    if !needs() {
        return;
    }
    let mut storage = Storage::new();
    storage.busybox();
    storage.service.ensure(&storage.fence(), &storage.desired(256)).expect("made");
    storage.inside("echo kept > etc/kept");
    let device = storage.service.get(storage.ct()).expect("there").usage.device;
    storage.restart();
    let volume = storage.service.get(storage.ct()).expect("there");
    assert!(volume.mounted && volume.usage.device == device && device.is_some());

    // In use, the pool stays.
    assert!(Place::new(storage.dir.layout()).detach().is_err());
    // As after a reboot: no mounts, no devices.
    let off = plan::Desired { mounted: false, ..storage.desired(256) };
    storage.service.ensure(&storage.fence(), &off).expect("unmounted");
    assert!(Place::new(storage.dir.layout()).detach().expect("free now"));
    assert!(storage.loops().is_empty(), "{:?}", storage.loops());
    assert!(!Place::new(storage.dir.layout()).detach().expect("nothing to do"));
    storage.restart();
    storage.service.ensure(&storage.fence(), &storage.desired(256)).expect("mounted");
    assert_eq!(storage.inside("cat etc/kept"), "kept\n");
}

#[test]
fn what_is_not_ours_is_left_alone() {
    if !needs() {
        return;
    }
    let storage = Storage::new();
    storage.busybox();
    let ct = storage.ct();
    let image = storage.dir.layout().state_dir().join(format!("storage/pool/volumes/{ct}.img"));
    std::fs::write(&image, "somebody's").expect("written");
    let fault =
        storage.service.ensure(&storage.fence(), &storage.desired(256)).expect_err("refused");
    assert_eq!(fault.reason, Reason::ForeignContents, "{fault}");
    let fault = storage.service.remove(&storage.fence()).expect_err("refused");
    assert_eq!(fault.reason, Reason::ForeignContents, "{fault}");
    assert_eq!(std::fs::read(&image).expect("there"), b"somebody's");
    std::fs::remove_file(&image).expect("removed");

    let root = storage.root();
    std::fs::create_dir_all(&root).expect("made");
    std::fs::write(root.join("x"), "somebody's").expect("written");
    let fault =
        storage.service.ensure(&storage.fence(), &storage.desired(256)).expect_err("refused");
    assert_eq!(fault.reason, Reason::ForeignContents, "{fault}");
    std::fs::remove_file(root.join("x")).expect("removed");

    // An image deleted behind our back leaves its device to be cleaned up.
    storage.service.ensure(&storage.fence(), &storage.desired(256)).expect("made");
    std::fs::remove_file(&image).expect("removed");
    let observed = storage.host.observe(ct, None).expect("seen");
    assert!(matches!(observed.mount, Mount::Ours { .. }), "{observed:?}");
    storage.service.ensure(&storage.fence(), &storage.desired(256)).expect("made anew");
    storage.service.remove(&storage.fence()).expect("removed");
    assert_eq!(storage.loops().len(), 1, "{:?}", storage.loops());
}

#[test]
fn a_pool_of_copies_works_too() {
    if !needs() {
        return;
    }
    let storage = Storage::copying();
    storage.busybox();
    assert_eq!(storage.service.pool().expect("known").0, BackendKind::ImageCopy);
    let volume = storage.service.ensure(&storage.fence(), &storage.desired(1024)).expect("made");
    assert!(volume.mounted, "{volume:?}");
    assert!(volume.usage.allocated >= 1 << 30, "nobody else can take it: {volume:?}");
    storage.service.remove(&storage.fence()).expect("removed");
    assert!(storage.loops().is_empty(), "{:?}", storage.loops());
}

#[test]
fn devices_that_change_behind_our_back_are_seen() {
    if !needs() {
        return;
    }
    let mut storage = Storage::new();
    storage.busybox();
    let off = plan::Desired { mounted: false, ..storage.desired(256) };
    storage.service.ensure(&storage.fence(), &off).expect("made");
    let volumes = storage.dir.layout().state_dir().join("storage/pool/volumes");
    let open = |name: &str| {
        let mut options = std::fs::OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false);
        let file = file.open(volumes.join(name)).expect("opened");
        file.set_len(256 << 20).expect("as long as the volume");
        file
    };
    let (image, other) = (open(&format!("{}.img", storage.ct())), open("other"));
    let shown =
        |storage: &Storage| storage.host.look(storage.ct()).expect("seen").usage.device.is_some();
    let attach = |file: &std::fs::File| loopdev::attach(file, true).expect("attached");
    let detach = |number: u32| {
        loopdev::detach(number).expect("detached");
        assert_eq!(loopdev::backing(number).expect("asked"), None);
    };
    assert!(!shown(&storage));
    let number = attach(&image);
    assert!(shown(&storage), "it came by hand");
    storage.restart();
    assert!(!shown(&storage), "a start sweeps a device that nobody uses");
    assert_eq!(attach(&image), number, "the same device is free");
    assert!(shown(&storage), "it came again");
    detach(number);
    assert!(!shown(&storage), "it went by hand");

    // Given to another file of the same size, and back, with a look in between.
    let number = attach(&other);
    assert!(!shown(&storage), "another file is not ours");
    detach(number);
    assert_eq!(attach(&image), number, "the same device is free");
    let deleted = storage.apply(storage.ct(), &plan::Step::Remove);
    assert!(deleted.is_err(), "an image that a device shows stays");
    assert!(shown(&storage), "all were asked");
    detach(number);

    // A device that goes with its last user is gone after the volume was unmounted.
    storage.service.ensure(&storage.fence(), &storage.desired(256)).expect("mounted");
    let number = loopdev::all().expect("listed").into_iter().find_map(|(number, file)| {
        (file == loopdev::FileId::of(&image).expect("asked")).then_some(number)
    });
    loopdev::detach(number.expect("it is shown")).expect("marked");
    assert!(shown(&storage), "still mounted");
    storage.service.ensure(&storage.fence(), &off).expect("unmounted");
    assert!(!shown(&storage));
    storage.service.remove(&storage.fence()).expect("removed");
    assert_eq!(storage.loops().len(), 1, "{:?}", storage.loops());
}

#[test]
fn what_is_mounted_is_not_checked() {
    use ves_host::ext4::{Mend, check};
    if !needs() {
        return;
    }
    let storage = Storage::new();
    storage.busybox();
    storage.service.ensure(&storage.fence(), &storage.desired(128)).expect("made");
    let devices = storage.loops();
    let volume = format!("volumes/{}.img", storage.ct());
    let line = devices.iter().find(|line| line.trim_end().ends_with(&volume)).expect("it has one");
    let device = line.split_whitespace().next().expect("a name");
    let error = check(device.as_ref(), 128 << 20, Mend::All).expect_err("somebody has it");
    assert!(matches!(error, ves_host::HostError::Command { .. }), "{error}");
    storage.inside("echo one > mark && cat mark");
    let off = plan::Desired { mounted: false, ..storage.desired(128) };
    storage.service.ensure(&storage.fence(), &off).expect("unmounted");
}
