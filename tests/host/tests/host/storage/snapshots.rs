//! Snapshots on the real kernel: taken under load they are sound file systems, they give back what was,
//! and a kill leaves nothing of them.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use caps::Capability as Cap;
use ves_kit::wait_until;
use ves_proto::{Fault, Reason};
use ves_storage::config::Config;
use ves_storage::host::Host;
use ves_storage::plan::{self, Image, Reverted, snapshot};
use ves_storage::service::Snapshot;
use ves_types::{Fence, Generation, SnapshotId};

use super::support::{Storage, needs};

fn id(n: u128) -> SnapshotId {
    SnapshotId::from(n)
}

fn at(storage: &Storage, generation: u64) -> Fence {
    Fence { generation: Generation(generation), ..storage.fence() }
}

fn wish(n: u128, generation: u64) -> snapshot::Desired {
    let generation = Generation(generation);
    snapshot::Desired { id: id(n), name: None, created_unix_ms: 1, generation }
}

fn take(storage: &Storage, n: u128, generation: u64) -> Result<Snapshot, Fault> {
    storage.service.ensure_snapshot(&at(storage, generation), &wish(n, generation))
}

/// Unmounts the volume, takes it back to a snapshot, and mounts it again.
fn switch(storage: &Storage, mib: u64, n: u128, generation: u64) {
    let off = plan::Desired { mounted: false, ..storage.desired(mib) };
    storage.service.ensure(&at(storage, generation), &off).expect("unmounted");
    storage.service.revert(&at(storage, generation), id(n)).expect("reverted");
    storage.service.ensure(&at(storage, generation), &storage.desired(mib)).expect("mounted");
}

/// All files below the pool's snapshots.
fn files(storage: &Storage) -> Vec<PathBuf> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).expect("readable") {
            let path = entry.expect("readable").path();
            if path.is_dir() {
                walk(&path, found);
            }
            found.push(path);
        }
    }
    let mut found = Vec::new();
    walk(&storage.dir.layout().state_dir().join("storage/pool/snapshots"), &mut found);
    found
}

fn check(image: &Path) {
    let out = std::process::Command::new("e2fsck").arg("-fn").arg(image).output().expect("it runs");
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success() && !said.contains("journal"), "{}: {said}", image.display());
}

#[test]
fn a_root_closed_to_others_is_no_obstacle() {
    if !needs() {
        return;
    }
    let storage = Storage::new();
    storage.busybox();
    storage.service.ensure(&storage.fence(), &storage.desired(128)).expect("made");
    storage.inside("chmod 700 . && echo one > etc/mark");
    // As the daemon is where the service manager runs builders for it.
    let confined = [Cap::CAP_SYS_ADMIN, Cap::CAP_SETUID, Cap::CAP_SETGID, Cap::CAP_SYS_CHROOT];
    let taken = std::thread::scope(|scope| {
        let taker = scope.spawn(|| {
            caps::set(None, caps::CapSet::Effective, &confined.into()).expect("dropped");
            let closed = std::fs::read_dir(storage.root()).expect_err("it is closed");
            assert_eq!(closed.kind(), std::io::ErrorKind::PermissionDenied);
            take(&storage, 1, 1)
        });
        taker.join().expect("it ends")
    });
    taken.expect("taken");
    storage.inside("echo two > etc/mark");
    switch(&storage, 128, 1, 2);
    assert_eq!(storage.inside("cat etc/mark"), "one\n");
    storage.service.remove(&at(&storage, 3)).expect("removed");
}

#[test]
fn taken_under_load_it_is_a_sound_file_system_with_all_that_was_written_before() {
    if !needs() {
        return;
    }
    let storage = Storage::new();
    storage.busybox();
    storage.service.ensure(&storage.fence(), &storage.desired(256)).expect("made");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                storage.inside(
                    "mkdir -p load; i=0; while [ $i -lt 40 ]; do \
                     mkdir -p load/$i; yes $i | head -c 300000 > load/$i/x; mv load/$i/x load/$i/y; \
                     ln -f load/$i/y load/z; rm -rf load/$(( (i+7) % 40 )); i=$((i+1)); done",
                );
            }
        });
        let all = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for n in 1..=8u32 {
                // Each falls into another moment of the load.
                let at = format!("load/{}", n * 4);
                wait_until(Duration::from_secs(20), "the load comes by", || {
                    storage.root().join(&at).exists()
                });
                storage.inside(&format!("echo {n} > etc/mark"));
                let taken = take(&storage, n.into(), n.into()).expect("taken under load");
                assert!(taken.current && taken.seen.bytes == 256 << 20, "{taken:?}");
            }
        }));
        stop.store(true, Ordering::Relaxed);
        worker.join().expect("the load ran");
        all.expect("all were taken");
    });
    let image = storage.dir.layout().state_dir();
    let image = image.join(format!("storage/pool/volumes/{}.img", storage.ct()));
    for n in (1..=8u32).rev() {
        switch(&storage, 256, n.into(), 20 - u64::from(n));
        assert_eq!(storage.inside("cat etc/mark; ls -d load"), format!("{n}\nload\n"));
        let off = plan::Desired { mounted: false, ..storage.desired(256) };
        storage.service.ensure(&at(&storage, 20 - u64::from(n)), &off).expect("unmounted");
        // Mounting has replayed its journal.
        check(&image);
    }
    let all = storage.service.snapshots(storage.ct(), true).expect("listed");
    assert_eq!(all.iter().filter(|s| s.current).map(|s| s.id).collect::<Vec<_>>(), [id(1)]);
    assert!(all.iter().all(|s| s.own.is_some_and(|own| own <= s.seen.allocated)), "{all:?}");
    storage.service.remove(&at(&storage, 30)).expect("removed");
    assert_eq!(files(&storage), Vec::<PathBuf>::new());
    assert_eq!(storage.loops().len(), 1, "the pool's only: {:?}", storage.loops());
}

#[test]
fn one_from_before_the_volume_grew_gives_back_its_files_and_keeps_the_size() {
    if !needs() {
        return;
    }
    let storage = Storage::new();
    storage.busybox();
    storage.service.ensure(&storage.fence(), &storage.desired(256)).expect("made");
    storage.inside("echo old > etc/mark; yes old | head -c 8388608 > big; sync");
    take(&storage, 1, 1).expect("taken while it is mounted, so that its journal is not empty");
    let own = || {
        let all = storage.service.snapshots(storage.ct(), true).expect("listed");
        all.first().and_then(|s| s.own).expect("known of a file system with shared blocks")
    };
    let before = own();
    // In the place of the old blocks, not beside them.
    storage.inside(
        "echo new > etc/mark; yes new | head -c 8388608 > tmp/new; \
         dd if=tmp/new of=big bs=1048576 conv=notrunc 2>&1; sync",
    );
    let after = own();
    assert!(before < 1 << 20 && after >= 8 << 20, "what changed is its own: {before} {after}");
    let off = plan::Desired { mounted: false, ..storage.desired(256) };
    storage.service.ensure(&storage.fence(), &off).expect("unmounted");
    let grown = plan::Desired { mounted: false, ..storage.desired(700) };
    storage.service.ensure(&storage.fence(), &grown).expect("grown");
    switch(&storage, 700, 1, 2);
    assert_eq!(storage.inside("cat etc/mark"), "old\n");
    let seen = storage.service.get(storage.ct()).expect("there");
    assert_eq!(seen.bytes, 700 << 20);
    let more = storage.inside("yes | head -c 419430400 > more && sync && echo ok");
    assert_eq!(more, "ok\n", "it has the room of 700 MiB");
    storage.service.ensure(&at(&storage, 3), &grown).expect("unmounted");
    let volumes = storage.dir.layout().state_dir().join("storage/pool/volumes");
    check(&volumes.join(format!("{}.img", storage.ct())));
}

#[test]
fn a_kill_after_any_step_leaves_nothing_behind() {
    if !needs() {
        return;
    }
    let mut storage = Storage::new();
    storage.busybox();
    let ct = storage.ct();
    storage.service.ensure(&storage.fence(), &storage.desired(256)).expect("made");
    for cut in 0..=2 {
        let n = 10 + cut as u128;
        let observed = storage.host.observe(ct, None).expect("seen");
        let planned = snapshot::plan_ensure(&wish(n, 1), &observed, &storage.pool());
        for step in planned.expect("planned").iter().take(cut) {
            storage.host.apply(ct, step).expect("applied");
        }
        let half = files(&storage).iter().any(|f| f.extension().is_some_and(|e| e == "new"));
        assert_eq!(half, cut == 1);
        // Its successor sweeps.
        storage.restart();
        let names = files(&storage);
        assert!(!names.iter().any(|f| f.extension().is_some_and(|e| e == "new")), "{names:?}");
        take(&storage, n, 1).expect("taken");
        storage.service.remove_snapshot(&storage.fence(), id(n)).expect("removed");
        assert_eq!(files(&storage), Vec::<PathBuf>::new());
    }
    take(&storage, 1, 1).expect("taken");
    storage.inside("echo changed > etc/mark");
    let off = plan::Desired { mounted: false, ..storage.desired(256) };
    storage.service.ensure(&storage.fence(), &off).expect("unmounted");
    for cut in 0..=2usize {
        let generation = 2 + cut as u64;
        let to = Reverted { snapshot: id(1), generation: Generation(generation) };
        let planned = snapshot::plan_revert(to, &storage.host.observe(ct, None).expect("seen"));
        for step in planned.expect("planned").iter().take(cut) {
            storage.host.apply(ct, step).expect("applied");
        }
        storage.restart();
        let volume = storage.service.revert(&at(&storage, generation), id(1)).expect("reverted");
        assert_eq!(volume.record.reverted, Some(to));
        let seen = storage.host.observe(ct, None).expect("seen");
        assert!(matches!(seen.image, Image::Ours { .. }) && !seen.unfinished, "{seen:?}");
    }
    storage.service.ensure(&at(&storage, 9), &storage.desired(256)).expect("mounted");
    assert_eq!(storage.inside("[ -e etc/mark ] || echo gone"), "gone\n");
}

#[test]
fn refusals_and_what_is_not_ours() {
    if !needs() {
        return;
    }
    let storage =
        Storage::with(Config { pool_bytes: Some(2 << 30), max_snapshots: 2, ..Config::default() });
    storage.busybox();
    let fault = take(&storage, 1, 1).expect_err("no volume");
    assert_eq!(fault.reason, Reason::VolumeUnknown, "{fault}");
    storage.service.ensure(&storage.fence(), &storage.desired(256)).expect("made");
    take(&storage, 1, 1).expect("taken");
    let fault = storage.service.revert(&at(&storage, 2), id(1)).expect_err("mounted");
    assert_eq!(fault.reason, Reason::Mounted, "{fault}");
    take(&storage, 2, 2).expect("taken");
    let fault = take(&storage, 3, 3).expect_err("too many");
    assert_eq!((fault.reason, fault.facts["limit"].as_str()), (Reason::TooMany, "2"), "{fault}");

    // What each can come to take counts as promised.
    let pool = storage.pool();
    let taken: u64 = [1, 2]
        .iter()
        .map(|n| {
            let all = storage.service.snapshots(storage.ct(), false).expect("listed");
            all.iter().find(|s| s.id == id(*n)).map_or(0, |s| s.seen.allocated)
        })
        .sum();
    assert!(taken > 1 << 20 && pool.held.snapshots == taken, "{taken} {pool:?}");
    let rest = pool.promisable() >> 20 << 20;
    let too_much = storage.desired((256 << 20 | rest) / (1 << 20) + 257);
    let fault = storage.service.ensure(&at(&storage, 4), &too_much).expect_err("no room");
    assert!(matches!(fault.reason, Reason::PoolFull | Reason::NeedsRestart), "{fault}");

    // A file that somebody put there is neither a snapshot nor ours to remove.
    let dir = files(&storage).into_iter().find(|f| f.is_dir()).expect("of the container");
    let foreign = dir.join(format!("{}.img", id(77)));
    std::os::unix::fs::symlink("/etc/passwd", &foreign).expect("made");
    assert_eq!(storage.service.snapshots(storage.ct(), false).expect("listed").len(), 2);
    let fault = storage.service.remove(&at(&storage, 5)).expect_err("not ours");
    assert_eq!(fault.reason, Reason::ForeignContents, "{fault}");
    std::fs::remove_file(&foreign).expect("removed");
    storage.service.remove(&at(&storage, 5)).expect("removed");
    wait_until(Duration::from_secs(60), "nothing is left", || files(&storage).is_empty());
}

#[test]
fn a_pool_of_copies_takes_them_of_what_nobody_uses() {
    if !needs() {
        return;
    }
    let storage = Storage::copying();
    storage.busybox();
    storage.service.ensure(&storage.fence(), &storage.desired(256)).expect("made");
    storage.inside("echo one > etc/mark");
    let fault = take(&storage, 1, 1).expect_err("in use");
    assert_eq!(fault.reason, Reason::Mounted, "{fault}");
    let off = plan::Desired { mounted: false, ..storage.desired(256) };
    storage.service.ensure(&storage.fence(), &off).expect("unmounted");
    let taken = take(&storage, 1, 1).expect("taken");
    assert!(taken.seen.allocated < 200 << 20, "it is sparse: {taken:?}");
    storage.service.ensure(&storage.fence(), &storage.desired(256)).expect("mounted");
    storage.inside("echo two > etc/mark");
    switch(&storage, 256, 1, 2);
    assert_eq!(storage.inside("cat etc/mark"), "one\n");
    storage.service.remove(&at(&storage, 3)).expect("removed");
    assert_eq!(files(&storage), Vec::<PathBuf>::new());
}
