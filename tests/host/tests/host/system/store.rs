//! The coordinator's state on a disk that others have filled.

use std::io::Write as _;

use ves_coordinator::store::embedded::EmbeddedStore;
use ves_coordinator::store::{Key, Kind, Store as _, Transaction};
use ves_kit::MountGuard;

/// How many operations are at work at once.
const AT_WORK: usize = 64;

fn put(operation: usize, byte: u8) -> [Transaction; 1] {
    let key = Key { kind: Kind::Operation, text: operation.to_string() };
    [Transaction { puts: vec![(key, vec![byte; 4096])], ..Transaction::default() }]
}

#[test]
fn what_has_begun_is_ended_on_a_full_disk() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = dir.path().join("disk");
    std::fs::create_dir(&disk).expect("made");
    let options = ["-t", "tmpfs", "-o", "size=64m", "none"];
    let _mounted = MountGuard::mount(&options, &disk);
    let store = EmbeddedStore::open(&disk.join("state.redb")).expect("made");
    for operation in 0..AT_WORK {
        store.transact(&put(operation, 1)).expect("there is room for it");
    }
    let ballast = disk.join("ballast");
    let mut file = std::fs::File::create(&ballast).expect("made");
    while file.write_all(&[1; 4096]).is_ok() {}
    drop(file);

    let mut begun = AT_WORK;
    while store.has_room() {
        store.transact(&put(begun, 1)).expect("there is room for it");
        store.transact(&put(begun - AT_WORK, 2)).expect("it was begun");
        begun += 1;
    }
    for operation in begun - AT_WORK..begun {
        store.transact(&put(operation, 2)).expect("it was begun");
    }
    let rows = store.range(Kind::Operation, None, begun).expect("read");
    assert!(rows.len() == begun && rows.iter().all(|(_, value)| value.first() == Some(&2)));
    std::fs::remove_file(&ballast).expect("removed");
    assert!(store.has_room(), "there is room again");
}
