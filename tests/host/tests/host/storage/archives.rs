//! Archives of anybody through the real, confined unpacker: each bad one is a typed error, and
//! nothing outside is touched.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use ves_proto::Reason;
use ves_storage::config::Config;
use ves_storage::host::{BackendKind, Source};
use ves_storage::plan;

use super::support::{Storage, name, needs};

/// An entry as no honest tool would write it; its data are zeros.
#[derive(Clone, Default)]
struct Entry {
    name: String,
    kind: u8,
    link: String,
    size: usize,
    mode: u32,
    uid: u64,
}

fn entry(name: &str, kind: u8, link: &str) -> Entry {
    let (name, link) = (name.to_owned(), link.to_owned());
    Entry { name, kind, link, mode: 0o644, ..Entry::default() }
}

fn file(name: &str, size: usize) -> Entry {
    Entry { size, ..entry(name, b'0', "") }
}

fn archive(dir: &Path, file: &str, entries: &[Entry]) -> PathBuf {
    let mut out = Vec::new();
    let mut put = |kind: u8, name: &[u8], e: &Entry, data: &[u8]| {
        let mut header = tar::Header::new_gnu();
        let old = header.as_old_mut();
        old.name.iter_mut().zip(name).for_each(|(to, from)| *to = *from);
        old.linkname.iter_mut().zip(e.link.as_bytes()).for_each(|(to, from)| *to = *from);
        header.set_entry_type(tar::EntryType::new(kind));
        header.set_mode(e.mode);
        header.set_uid(e.uid);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        header.set_size(data.len() as u64);
        header.set_cksum();
        out.extend_from_slice(header.as_bytes());
        out.extend_from_slice(data);
        out.resize(out.len().next_multiple_of(512), 0);
    };
    for e in entries {
        if e.name.len() > 99 {
            let name = [e.name.as_bytes(), b"\0"].concat();
            put(b'L', b"././@LongLink", &Entry::default(), &name);
        }
        put(e.kind, e.name.as_bytes(), e, &vec![0; e.size]);
    }
    out.extend_from_slice(&[0; 1024]);
    let path = dir.join(file);
    std::fs::write(&path, out).expect("written");
    path
}

#[test]
fn hostile_archives_are_refused_and_touch_nothing() {
    if !needs() {
        return;
    }
    let storage = Storage::with(Config {
        pool_bytes: Some(4 << 30),
        max_template_bytes: 64 << 20,
        max_template_inodes: 2000,
        ..Config::default()
    });
    let dir = storage.dir.dir().to_owned();
    let canary = dir.join("canary");
    std::fs::write(&canary, "alive").expect("written");
    let outside = canary.to_str().expect("test paths are text").to_owned();
    let inside = dir.to_str().expect("test paths are text").to_owned();
    let canary_by_dots = format!("../../../../../../../../..{outside}");
    let (bad, large) = (Reason::BadArchive, Reason::ArchiveTooLarge);
    let cases: Vec<(&str, Vec<Entry>, Reason)> = vec![
        ("dots", vec![file(&canary_by_dots, 1)], bad),
        ("inner-dots", vec![file(&format!("a/../{canary_by_dots}"), 1)], bad),
        ("symlink-file", vec![entry("l", b'2', &outside), file("l", 1)], bad),
        ("symlink-dir", vec![entry("l", b'2', &inside), file("l/canary", 1)], bad),
        (
            "replaced-dir",
            vec![entry("l", b'5', ""), entry("l", b'2', &inside), file("l/canary", 1)],
            bad,
        ),
        ("hardlink", vec![entry("h", b'1', &outside), file("h", 1)], bad),
        ("hardlink-through", vec![entry("l", b'2', &inside), entry("h", b'1', "l/canary")], bad),
        ("device", vec![entry("sda", b'4', "")], bad),
        ("device-below", vec![entry("mydev/kmem", b'3', "")], bad),
        ("owner", vec![Entry { uid: 200_000, ..file("x", 1) }], bad),
        ("sparse", vec![entry("x", b'S', "")], bad),
        ("big", vec![file("x", 80 << 20)], large),
        ("many", (0..3000).map(|n| file(&format!("f{n}"), 0)).collect(), large),
        ("deep", vec![file(&vec!["d"; 200].join("/"), 0)], large),
        ("long", vec![file(&vec!["d".repeat(100).as_str(); 30].join("/"), 0)], large),
    ];
    for (case, entries, reason) in cases {
        let path = archive(&dir, &format!("{case}.tar"), &entries);
        let fault = storage.import(case, &path).expect_err(case);
        assert_eq!(fault.reason, reason, "{case}: {fault}");
        assert!(fault.facts.contains_key("entry"), "{case}: {fault:?}");
    }
    let good = archive(&dir, "good.tar", &[file("x", 300_000)]);
    let bytes = std::fs::read(&good).expect("there");
    for (case, bytes) in [
        ("cut", bytes.get(..bytes.len() / 2).expect("shorter").to_vec()),
        ("garbage", b"this is no archive of any kind, whatever it says".repeat(100)),
        ("empty", Vec::new()),
        ("zeros", vec![0; 10240]),
    ] {
        let path = dir.join(case);
        std::fs::write(&path, bytes).expect("written");
        let fault = storage.import(case, &path).expect_err(case);
        assert_eq!(fault.reason, Reason::BadArchive, "{case}: {fault}");
    }
    let mut feed = std::fs::File::open(&good).expect("there");
    let source = Source::Archive { feed: &mut feed, sha256: Some("0".repeat(64)) };
    let fault = storage.service.make_template(&name("hash"), source, &|_| ()).expect_err("other");
    assert_eq!(fault.reason, Reason::BadArchive, "{fault}");

    assert_eq!(std::fs::read(&canary).expect("there"), b"alive");
    assert_eq!(std::fs::metadata(&canary).expect("there").nlink(), 1);
    assert!(storage.service.templates().expect("listed").is_empty());
    let left = storage.dir.layout().state_dir().join("storage/pool/templates");
    assert_eq!(std::fs::read_dir(left).expect("there").count(), 0, "nothing is left");
    assert_eq!(storage.loops().len(), 1, "{:?}", storage.loops());
    storage.import("good", &good).expect("a good one is still taken");
    let fault = storage.import("good", &good).expect_err("there is one");
    assert_eq!(fault.reason, Reason::TemplateExists);
}

#[test]
fn what_is_in_an_archive_is_in_the_volume() {
    if !needs() {
        return;
    }
    let storage = Storage::new();
    let archive = archive(
        storage.dir.dir(),
        "all.tar",
        &[
            Entry { mode: 0o4755, ..file("./bin/su", 2) },
            entry("bin/copy", b'1', "./bin/su"),
            Entry { mode: 0o2750, uid: 1000, ..entry("home/u", b'5', "") },
            Entry { uid: 1000, ..file("home/u/f", 1) },
            entry("abs", b'2', "/etc/shadow"),
            entry("p", b'6', ""),
            file("/rooted", 5),
            entry("dev/null", b'3', ""),
            Entry { uid: 65_534, ..file("nobody", 0) },
            file("etc/machine-id", 33),
            file("etc/ssh/ssh_host_key", 9),
        ],
    );
    let template = storage.import("all", &archive).expect("good");
    assert_eq!(template.sha256.len(), 64);
    let base = storage.id.slot().base();
    let desired = plan::Desired { template: name("all"), ..storage.desired(256) };
    storage.service.ensure(&storage.fence(), &desired).expect("made");
    let at = |path: &str| {
        std::fs::symlink_metadata(storage.root().join(path))
            .unwrap_or_else(|e| panic!("{path}: {e}"))
    };
    let su = at("bin/su");
    assert_eq!((su.permissions().mode() & 0o7777, su.uid(), su.nlink()), (0o4755, base, 2));
    let home = at("home/u");
    assert_eq!((home.permissions().mode() & 0o7777, home.uid()), (0o2750, base + 1000));
    assert_eq!(at("nobody").uid(), base + 65_534);
    assert_eq!(at("etc/machine-id").len(), 0);
    assert!(at("abs").is_symlink());
    assert_eq!(at("p").permissions().mode() & 0o170_000, 0o010_000);
    for absent in ["dev/null", "etc/ssh/ssh_host_key", "lost+found"] {
        assert!(!storage.root().join(absent).exists(), "{absent}");
    }
    assert!(storage.root().join("rooted").exists());

    // Exported and imported again it is the same.
    let (mut stream, reading) = storage.service.export(&name("all")).expect("opened");
    let fault = storage.service.remove_template(&name("all")).expect_err("it is being read");
    assert_eq!(fault.reason, Reason::TemplateInUse);
    let source = Source::Archive { feed: &mut stream, sha256: None };
    let again = storage.service.make_template(&name("again"), source, &|_| ()).expect("good");
    drop(reading);
    assert_eq!(
        (again.content_bytes, again.content_inodes),
        (template.content_bytes, template.content_inodes)
    );
    storage.service.remove_template(&name("all")).expect("removed");
    let fault = storage.service.remove_template(&name("all")).expect_err("gone");
    assert_eq!(fault.reason, Reason::TemplateUnknown);
    // The volume does not need its template any more.
    assert_eq!(std::fs::read(storage.root().join("rooted")).expect("there"), [0; 5]);
}

#[test]
fn two_volumes_of_a_template_are_two_systems() {
    if !needs() {
        return;
    }
    let storage = Storage::new();
    storage.busybox();
    let other = ves_kit::TestId::take();
    let fence = |ct| ves_types::Fence { ct, ..storage.fence() };
    storage.service.ensure(&fence(storage.ct()), &storage.desired(256)).expect("made");
    let second = plan::Desired { slot: other.slot(), ..storage.desired(256) };
    storage.service.ensure(&fence(other.ct()), &second).expect("made");
    storage.inside("echo mine > etc/who");
    let there = crate::volume(storage.dir.layout(), other.ct()).join("etc/who");
    assert!(!there.exists());
    let uuid = |ct| {
        let image = format!("storage/pool/volumes/{ct}.img");
        let image = storage.dir.layout().state_dir().join(image);
        let image = std::fs::File::open(image).expect("there");
        ves_host::ext4::inspect(&image).expect("readable").expect("ext4").uuid
    };
    assert_ne!(uuid(storage.ct()), uuid(other.ct()));
    let pool = storage.service.pool().expect("known");
    assert_eq!((pool.0, pool.1.held.volumes), (BackendKind::ImageReflink, 512 << 20));
    storage.service.remove(&fence(other.ct())).expect("removed");
    assert_eq!(storage.service.list(&[]).expect("listed").len(), 1);
}

/// Begins an archive; when the confined process has changed its user, kills the one that waits for
/// it and waits for its end.
struct Killer {
    marker: String,
    begun: bool,
    outlived: bool,
}

/// The children of a process.
fn children(pid: &str) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    tasks
        .filter_map(|t| std::fs::read_to_string(t.path().join("children")).ok())
        .flat_map(|c| c.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .collect()
}

impl ves_archive::Feed for Killer {
    fn next(&mut self) -> std::io::Result<Option<Vec<u8>>> {
        if !std::mem::replace(&mut self.begun, true) {
            return Ok(Some(vec![b'x'; 100]));
        }
        let read = |pid: &str, file| {
            std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default()
        };
        let confined = || {
            let waiting =
                children("self").into_iter().find(|p| read(p, "cmdline").contains(&self.marker))?;
            let inner = children(&waiting).into_iter().next()?;
            // It reads the archive, so it is done with preparing itself.
            let status = read(&inner, "status");
            let ready = status.contains("Uid:\t4294836224\t")
                && status.contains("CapPrm:\t000000008000001b");
            ready.then_some((waiting, inner))
        };
        let mut found = None;
        ves_kit::wait_until(std::time::Duration::from_secs(60), "the archive is read", || {
            found = confined();
            found.is_some()
        });
        let (waiting, inner) = found.expect("waited for");
        ves_kit::run("kill", &["-KILL", &waiting]);
        ves_kit::wait_until(
            std::time::Duration::from_secs(60),
            "the confined process ends",
            || {
                !Path::new(&format!("/proc/{inner}")).exists()
                    || read(&inner, "status").contains("State:\tZ")
            },
        );
        self.outlived = false;
        Ok(None)
    }
}

#[test]
fn the_confined_process_dies_with_the_one_that_waits_for_it() {
    if !needs() {
        return;
    }
    let dir = ves_kit::TestLayout::new();
    let output = std::fs::File::create(dir.dir().join("out")).expect("made");
    let limits = ves_archive::Limits { depth: 63, inodes: 424_242, ..Default::default() };
    let mut feed = Killer { marker: "424242".to_owned(), begun: false, outlived: true };
    let ended = ves_archive::normalise_to(&super::support::unpacker(), &mut feed, &output, limits);
    assert!(ended.is_err() && !feed.outlived, "{ended:?}");
}
