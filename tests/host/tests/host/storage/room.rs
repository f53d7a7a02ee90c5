//! What was promised can be written, whatever else happens on the machine.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ves_kit::{Rootfs, TestLayout, run, wait_until};
use ves_proto::Reason;
use ves_storage::config::{Config, PoolKind};
use ves_storage::plan::room::Alarm;
use ves_storage::plan::{Desired, snapshot};
use ves_types::{CtId, Epoch, Fence, Generation, SnapshotId};

use super::support::{Storage, needs};

/// The service with its state on a file system of its own, of this size; the pool's image is in it.
fn on_disk(mib: u64, pool_mib: u64) -> Storage {
    let config = Config { pool_bytes: Some(pool_mib << 20), ..Config::default() };
    with_state_on_disk(mib, config)
}

fn with_state_on_disk(mib: u64, config: Config) -> Storage {
    let dir = TestLayout::new();
    let disk = dir.dir().join("disk.img");
    File::create(&disk).expect("made").set_len(mib << 20).expect("sparse");
    let disk = disk.to_str().expect("text");
    let state = dir.layout().state_dir().to_str().expect("text").to_owned();
    run("mke2fs", &["-q", "-t", "ext4", "-m", "0", disk]);
    run("mount", &["-o", "loop", disk, &state]);
    Storage::at(dir, config)
}

fn pool_image(storage: &Storage) -> PathBuf {
    storage.dir.layout().state_dir().join("storage/pool.img")
}

/// Fills the file system that a directory is on, as anybody can.
fn fill(dir: &Path) -> u64 {
    let path = dir.join("somebody's");
    let mut file = File::create(&path).expect("made");
    let piece = vec![1; 1 << 20];
    while file.write_all(&piece).is_ok() {}
    // What is left of less than a piece.
    while file.write_all(&[1; 4096]).is_ok() {}
    let left = free(dir);
    assert!(left < 1 << 20, "{left} bytes are left");
    file.metadata().expect("there").len()
}

fn free(dir: &Path) -> u64 {
    let said = run("stat", &["-f", "-c", "%a %S", dir.to_str().expect("text")]);
    said.split_whitespace().map(|n| n.parse::<u64>().expect("a number")).product()
}

fn another(storage: &Storage, n: u32) -> Fence {
    let ct = CtId::try_from(storage.ct().get() + n).expect("valid");
    Fence { ct, generation: Generation(1), epoch: Epoch(1) }
}

/// Writes at least so much over a file in a volume, all of it to the disk.
fn write(storage: &Storage, ct: CtId, mib: u64) {
    let volume = crate::volume(storage.dir.layout(), ct);
    let one = std::fs::metadata(volume.join("bin/busybox"));
    let times = (mib << 20).div_ceil(one.expect("there").len());
    let all = format!("n=0; while [ $n -lt {times} ]; do cat /bin/busybox; n=$((n + 1)); done");
    // In place, block by block; what cannot be written out fails.
    let to = "dd of=root/all bs=65536 conv=fsync,notrunc 2>/dev/null";
    storage.inside_of(ct, &format!("({all}) | {to}"));
    let size = storage.inside_of(ct, "busybox stat -c %s root/all");
    assert!(size.trim().parse::<u64>().is_ok_and(|size| size >= mib << 20), "{size}");
}

#[test]
fn who_fills_the_disk_below_takes_nothing_from_a_volume() {
    if !needs() {
        return;
    }
    let storage = on_disk(3000, 2500);
    storage.busybox();
    let fences = [another(&storage, 0), another(&storage, 1)];
    for fence in &fences {
        storage.service.ensure(fence, &storage.desired(400)).expect("made");
    }
    let pool = storage.pool();
    assert!(pool.room.backed >= pool.room.reach && pool.alarms().is_empty(), "{pool:?}");
    fill(storage.dir.layout().state_dir());
    for fence in &fences {
        write(&storage, fence.ct, 300);
        write(&storage, fence.ct, 300);
    }
    // Nothing more is promised, and the operator is told.
    let fault = storage.service.ensure(&another(&storage, 2), &storage.desired(2000));
    assert_eq!(fault.map(drop).map_err(|f| f.reason), Err(Reason::PoolFull));
    let alarms = storage.pool().alarms();
    assert!(alarms.iter().any(|a| matches!(a, Alarm::LittleBelow { .. })), "{alarms:?}");
}

#[test]
fn a_volume_of_a_pool_of_copies_has_its_blocks_from_the_beginning() {
    if !needs() {
        return;
    }
    let storage =
        with_state_on_disk(1500, Config { pool: PoolKind::ImageCopy, ..Config::default() });
    storage.busybox();
    let off = Desired { mounted: false, ..storage.desired(260) };
    storage.service.ensure(&storage.fence(), &off).expect("made");
    storage.service.ensure(&storage.fence(), &storage.desired(400)).expect("grown");
    write(&storage, storage.ct(), 100);
    storage.inside("rm root/all; sync");
    fill(storage.dir.layout().state_dir());
    write(&storage, storage.ct(), 300);
    assert_eq!(storage.pool().promisable(), 0);
    let fault = storage.service.ensure(&another(&storage, 1), &storage.desired(256));
    assert_eq!(fault.map(drop).map_err(|f| f.reason), Err(Reason::PoolFull));
}

#[test]
fn what_is_zero_in_a_template_takes_no_room() {
    if !needs() {
        return;
    }
    let storage = Storage::new();
    let busybox = storage.busybox();
    let rootfs = Rootfs::busybox();
    File::create(rootfs.dir().join("large")).expect("made").set_len(500 << 20).expect("sparse");
    let archive = rootfs.tar(&storage.dir.dir().join("zeros.tar.gz"));
    let zeros = storage.import("zeros", &archive).expect("good");
    assert!(zeros.content_bytes > 500 << 20, "{zeros:?}");
    assert!(zeros.allocated < busybox.allocated + (32 << 20), "{zeros:?} {busybox:?}");
    let wish = Desired { template: zeros.name, ..storage.desired(1000) };
    storage.service.ensure(&storage.fence(), &wish).expect("made");
    let size = storage.inside("busybox stat -c %s large");
    assert_eq!(size.trim(), (500u64 << 20).to_string());
}

#[test]
fn a_pool_that_was_made_sparse_is_backed_when_it_is_opened_and_after_holes_came() {
    if !needs() {
        return;
    }
    let mut storage = on_disk(4000, 2000);
    storage.busybox();
    storage.service.ensure(&storage.fence(), &storage.desired(300)).expect("made");
    let image = pool_image(&storage);
    let backed = || std::fs::metadata(&image).expect("there").blocks() * 512;
    let before = backed();
    // As an image of before was, and as `fstrim` on the pool leaves one.
    let pool = storage.dir.layout().state_dir().join("storage/pool");
    let trim = || {
        run("fstrim", &[pool.to_str().expect("text")]);
        // XFS has the last holes made in the background.
        wait_until(Duration::from_secs(10), "holes", || backed() < before / 2);
    };
    trim();
    let alarms = storage.pool().alarms();
    assert!(alarms.iter().any(|a| matches!(a, Alarm::NotBacked { .. })), "{alarms:?}");
    storage.restart();
    assert!(backed() >= before, "{} of {before}", backed());
    assert_eq!(storage.pool().alarms(), []);
    // Where that is not possible nothing is promised, and what runs goes on.
    trim();
    fill(storage.dir.layout().state_dir());
    storage.restart();
    assert_eq!(storage.pool().promisable(), 0);
    let fault = storage.service.ensure(&another(&storage, 1), &storage.desired(256));
    assert_eq!(fault.map(drop).map_err(|f| f.reason), Err(Reason::PoolFull));
    let volume = storage.service.ensure(&storage.fence(), &storage.desired(300)).expect("as it is");
    assert!(volume.mounted);
    let off = Desired { mounted: false, ..storage.desired(300) };
    storage.service.ensure(&storage.fence(), &off).expect("unmounted");
}

#[test]
fn what_a_container_discards_stays_in_the_pool() {
    if !needs() {
        return;
    }
    let storage = on_disk(4000, 2000);
    storage.busybox();
    storage.service.ensure(&storage.fence(), &storage.desired(300)).expect("made");
    write(&storage, storage.ct(), 100);
    let blocks = |path: &Path| std::fs::metadata(path).expect("there").blocks() * 512;
    let image = format!("storage/pool/volumes/{}.img", storage.ct());
    let image = storage.dir.layout().state_dir().join(image);
    let pool = pool_image(&storage);
    let (used, backed) = (blocks(&image), blocks(&pool));
    storage.inside("busybox rm root/all && busybox sync");
    wait_until(Duration::from_secs(30), "it is discarded", || {
        run("sync", &["-f", storage.root().to_str().expect("text")]);
        blocks(&image) + (90 << 20) < used
    });
    assert_eq!(blocks(&pool), backed);
    assert_eq!(storage.pool().alarms(), []);
}

#[test]
fn all_that_was_promised_can_be_written_over_with_snapshots_and_templates_beside() {
    if !needs() {
        return;
    }
    let storage = on_disk(2000, 1024);
    storage.busybox();
    let ct = storage.ct();
    storage.service.ensure(&storage.fence(), &storage.desired(300)).expect("made");
    write(&storage, ct, 200);
    let fence = Fence { generation: Generation(2), ..storage.fence() };
    let wish = snapshot::Desired {
        id: SnapshotId::from(1),
        name: None,
        created_unix_ms: 1,
        generation: fence.generation,
    };
    storage.service.ensure_snapshot(&fence, &wish).expect("taken");
    // Another gets all the rest.
    let rest = storage.pool().promisable() >> 20;
    let other = another(&storage, 1);
    storage.service.ensure(&other, &storage.desired(rest)).expect("there is so much");
    let fault = storage.service.ensure(&another(&storage, 2), &storage.desired(256));
    assert_eq!(fault.map(drop).map_err(|f| f.reason), Err(Reason::PoolFull));
    fill(storage.dir.layout().state_dir());
    // The first over all that the snapshot shares; each until its own file system is full; and again.
    for round in 0..2 {
        write(&storage, ct, 200);
        for ct in [other.ct, ct] {
            let full = "exec 1<>root/rest; while cat /bin/busybox 2>/dev/null; do :; done; sync";
            storage.inside_of(ct, full);
            // What is written and read back was written: an error would have stopped it.
            let again = "touch root/mark; sync; busybox cat root/rest | busybox md5sum";
            assert!(storage.inside_of(ct, again).len() > 32, "round {round}");
        }
    }
    let pool = storage.pool();
    assert!(pool.room.used <= pool.room.reach, "{pool:?}");
}

#[test]
fn an_archive_that_unpacks_to_more_than_the_pool_has_is_refused_and_leaves_nothing() {
    if !needs() {
        return;
    }
    let storage = on_disk(4000, 1024);
    storage.busybox();
    let before = storage.pool();
    let rootfs = Rootfs::busybox();
    File::create(rootfs.dir().join("large")).expect("made").set_len(1500 << 20).expect("sparse");
    let archive = rootfs.tar(&storage.dir.dir().join("bomb.tar.gz"));
    assert!(archive.metadata().expect("there").len() < 8 << 20);
    let fault = storage.import("bomb", &archive).expect_err("it is larger than the pool");
    assert_eq!(fault.reason, Reason::PoolFull, "{fault}");
    let after = storage.pool();
    assert_eq!((after.held, after.reserved), (before.held, 0));
    assert!(after.room.used < before.room.used + (16 << 20), "{before:?} {after:?}");
    storage.service.ensure(&storage.fence(), &storage.desired(300)).expect("there is room");
}
