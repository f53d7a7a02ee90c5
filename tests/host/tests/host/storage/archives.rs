//! Archives of anybody through the real, confined unpacker: each bad one is a typed error, and
//! nothing outside is touched.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use ves_archive::Owners;
use ves_proto::Reason;
use ves_storage::config::Config;
use ves_storage::host::{BackendKind, Source};
use ves_storage::plan;

use super::support::{Storage, name, needs};

/// An entry as no honest tool would write it; its data are zeros, where it says no others.
#[derive(Clone, Default)]
struct Entry {
    /// What pax says of it.
    pax: Vec<(&'static str, Vec<u8>)>,
    data: Option<Vec<u8>>,
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
        let mut said = Vec::new();
        for (key, value) in &e.pax {
            // The length counts itself.
            let rest = key.len() + value.len() + 3;
            let length = (1..9).map(|n| rest + n).find(|l| l.to_string().len() == l - rest);
            said.extend(format!("{} {key}=", length.expect("short")).into_bytes());
            said.extend(value.iter().chain(b"\n"));
        }
        if !said.is_empty() {
            put(b'x', b"pax", &Entry::default(), &said);
        }
        if e.name.len() > 99 {
            let name = [e.name.as_bytes(), b"\0"].concat();
            put(b'L', b"././@LongLink", &Entry::default(), &name);
        }
        let data = e.data.clone().unwrap_or_else(|| vec![0; e.size]);
        put(e.kind, e.name.as_bytes(), e, &data);
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
        ("symlink-dir", vec![entry("l", b'2', &inside), file("l/canary", 1)], bad),
        (
            "replaced-dir",
            vec![entry("l", b'5', ""), entry("l", b'2', &inside), file("l/canary", 1)],
            bad,
        ),
        (
            "replaced-full-dir",
            vec![file("l/canary", 1), entry("l", b'2', &inside), file("l/canary", 1)],
            bad,
        ),
        ("hardlink", vec![entry("h", b'1', &outside), file("h", 1)], bad),
        ("hardlink-through", vec![entry("l", b'2', &inside), entry("h", b'1', "l/canary")], bad),
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
    let good = archive(&dir, "good.tar", &[file("etc/x", 300_000)]);
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
    let source = Source::Archive {
        feed: &mut feed,
        sha256: Some("0".repeat(64)),
        owners: Owners::default(),
    };
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
    let source = Source::Archive { feed: &mut stream, sha256: None, owners: Owners::default() };
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

fn text(name: &str, data: &[u8]) -> Entry {
    Entry { data: Some(data.to_vec()), ..file(name, 0) }
}

#[test]
fn what_others_write_is_in_the_volume_as_they_read_it() {
    if !needs() {
        return;
    }
    let storage = Storage::new();
    let mut map = b"2\n1048576\n4\n67108863\n1\n".to_vec();
    map.resize(512, 0);
    let lastlog = Entry {
        pax: vec![
            ("GNU.sparse.major", b"1".to_vec()),
            ("GNU.sparse.minor", b"0".to_vec()),
            ("GNU.sparse.name", b"rootfs/var/log/lastlog".to_vec()),
            ("GNU.sparse.realsize", b"67108864".to_vec()),
        ],
        ..text("GNUSparseFile.1/lastlog", &[&map[..], b"lisaz"].concat())
    };
    let acl = b"user::rw-,user:lisa:rw-,group::---,mask::rw-,other::---".to_vec();
    let words = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let attributes = vec![
        ("SCHILY.acl.access", acl),
        ("SCHILY.xattr.user.note", b"kept".to_vec()),
        ("SCHILY.xattr.security.selinux", b"left out".to_vec()),
    ];
    let archive = archive(
        storage.dir.dir(),
        "image.tar",
        &[
            text("metadata.yaml", b"architecture: x86_64\n"),
            entry("rootfs/etc/early", b'1', "rootfs/etc/late"),
            text("rootfs/etc/motd", b"old"),
            entry("rootfs/etc/old", b'1', "rootfs/etc/motd"),
            text("rootfs/etc/motd", b"new"),
            text("rootfs/etc/late", b"late"),
            text("rootfs/etc/passwd", b"root:x:0:0::/:\nlisa:x:1005:1005::/:\n"),
            entry("rootfs/bin", b'2', "/usr/bin"),
            Entry { mode: 0o755, ..entry("rootfs/usr/bin", b'5', "") },
            Entry { mode: 0o755, ..entry("rootfs/srv/was-empty", b'5', "") },
            entry("rootfs/srv/was-empty", b'2', "/etc"),
            entry("rootfs/srv/was-link", b'2', "/etc"),
            Entry { mode: 0o750, ..entry("rootfs/srv/was-link", b'5', "") },
            text("rootfs/srv/was-link/x", b"x"),
            Entry {
                pax: vec![("SCHILY.xattr.security.capability", words.to_vec())],
                ..text("rootfs/usr/bin/ping", b"ping")
            },
            lastlog,
            Entry { mode: 0o660, pax: attributes, ..text("rootfs/srv/shared", b"x") },
            Entry { uid: 903_700_503, ..text("rootfs/srv/mapped", b"x") },
            Entry { uid: 903_700_504, mode: 0o4755, ..text("rootfs/srv/squashed", b"x") },
            entry("rootfs/var/gone", b'3', ""),
        ],
    );
    let refused = storage.import("image", &archive).expect_err("of nobody here");
    assert_eq!(refused.facts["ids"], "903700503,903700504", "{refused}");
    assert_eq!(refused.facts["entries"], "2", "{refused}");
    let owners = Owners { map: [(903_700_503, 1000)].into(), squash: true };
    let mut feed = std::fs::File::open(&archive).expect("there");
    let source = Source::Archive { feed: &mut feed, sha256: None, owners };
    let made = storage.service.make_template(&name("image"), source, &|_| ()).expect("understood");
    let notes = made.notes.join("\n");
    for part in ["\"rootfs/var/gone\"", "security.selinux", "\"metadata.yaml\"", "no /sbin/init"] {
        assert!(notes.contains(part), "{part}: {notes}");
    }
    assert!(made.content_bytes < 1 << 20, "holes take no room: {made:?}");

    let base = storage.id.slot().base();
    let desired = plan::Desired { template: name("image"), ..storage.desired(128) };
    storage.service.ensure(&storage.fence(), &desired).expect("made");
    let root = storage.root();
    let read = |path: &str| std::fs::read_to_string(root.join(path)).expect(path);
    let at = |path: &str| std::fs::symlink_metadata(root.join(path)).expect(path);
    assert_eq!((read("etc/motd"), read("etc/old")), ("new".to_owned(), "old".to_owned()));
    assert_eq!((read("etc/early"), at("etc/late").nlink()), ("late".to_owned(), 2));
    assert_eq!(read("usr/bin/ping"), "ping");
    assert!(at("bin").is_symlink() && at("srv/was-empty").is_symlink());
    assert_eq!(
        (at("srv/was-link").mode() & 0o7777, read("srv/was-link/x")),
        (0o750, "x".to_owned())
    );
    assert!(!root.join("metadata.yaml").exists() && !root.join("rootfs").exists());
    let log = at("var/log/lastlog");
    assert_eq!(log.len(), 64 << 20);
    assert!(log.blocks() <= 32, "{} sectors", log.blocks());
    let log = std::fs::read(root.join("var/log/lastlog")).expect("there");
    assert_eq!(log.get((1 << 20)..(1 << 20) + 5), Some(&b"lisa\0"[..]));
    assert_eq!(log.last(), Some(&b'z'));
    assert_eq!((at("srv/mapped").uid(), at("srv/squashed").uid()), (base + 1000, base + 65_534));
    assert_eq!(at("srv/squashed").mode() & 0o7777, 0o755, "nobody's programs run as their callers");
    let attribute = |path: &str, name: &str| {
        let mut value = vec![0; 256];
        let length = rustix::fs::getxattr(root.join(path), name, value.as_mut_slice());
        value.truncate(length.unwrap_or_else(|e| panic!("{name} of {path}: {e}")));
        value
    };
    assert_eq!(attribute("srv/shared", "user.note"), b"kept");
    let acl = attribute("srv/shared", "system.posix_acl_access");
    let lisa =
        [&2u16.to_le_bytes()[..], &6u16.to_le_bytes(), &(base + 1005).to_le_bytes()].concat();
    assert!(acl.windows(8).any(|entry| entry == lisa), "{acl:?}");
    let group = [4, 0, 0, 0];
    assert!(acl.windows(4).any(|entry| entry == group), "the group has nothing: {acl:?}");
    // They are those of the container's root, and of no other.
    let ping = attribute("usr/bin/ping", "security.capability");
    assert_eq!(ping.get(4..20), words.get(4..20));
    assert_eq!(ping.get(20..), Some(&base.to_le_bytes()[..]), "{ping:?}");
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
    let judging = ves_archive::Judging::new(limits, Owners::default());
    let unpacker = super::support::unpacker();
    let ended = ves_archive::normalise_to(&unpacker, &mut feed, &output, &judging);
    assert!(ended.is_err() && !feed.outlived, "{ended:?}");
}
