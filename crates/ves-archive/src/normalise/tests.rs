//! Archives of all kinds through the judging pass, without root.

use std::io::{Cursor, Write};

use super::normalise;
use crate::contents::{Contents, Init, Limits};
use crate::refused::Refused;

/// A raw entry, so that also what no honest tool writes can be written.
#[derive(Clone)]
struct Raw {
    name: Vec<u8>,
    link: Vec<u8>,
    kind: u8,
    data: Vec<u8>,
    size: Option<u64>,
    uid: u64,
    mode: u32,
}

fn raw(name: &str, kind: u8) -> Raw {
    let (name, link) = (name.as_bytes().to_vec(), Vec::new());
    Raw { name, link, kind, data: Vec::new(), size: None, uid: 0, mode: 0o644 }
}

fn file(name: &str, data: &[u8]) -> Raw {
    Raw { data: data.to_vec(), ..raw(name, b'0') }
}

fn link(name: &str, kind: u8, to: &str) -> Raw {
    Raw { link: to.as_bytes().to_vec(), ..raw(name, kind) }
}

fn dir(name: &str) -> Raw {
    Raw { mode: 0o755, ..raw(name, b'5') }
}

fn pax(key: &str, value: &[u8]) -> Raw {
    let mut data = Vec::new();
    super::pax::record(&mut data, key.as_bytes(), value);
    Raw { data, ..raw("pax", b'x') }
}

fn bytes_of(entries: &[Raw]) -> Vec<u8> {
    let mut out = Vec::new();
    for e in entries {
        let mut header = tar::Header::new_ustar();
        let old = header.as_old_mut();
        for (to, from) in old.name.iter_mut().zip(&e.name) {
            *to = *from;
        }
        for (to, from) in old.linkname.iter_mut().zip(&e.link) {
            *to = *from;
        }
        header.set_entry_type(tar::EntryType::new(e.kind));
        header.set_mode(e.mode);
        header.set_uid(e.uid);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        header.set_size(e.size.unwrap_or(e.data.len() as u64));
        header.set_cksum();
        out.extend_from_slice(header.as_bytes());
        out.extend_from_slice(&e.data);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out
}

fn archive(entries: &[Raw]) -> Vec<u8> {
    let mut out = bytes_of(entries);
    out.extend_from_slice(&[0; 1024]);
    out
}

const SMALL: Limits = Limits { bytes: 1 << 20, inodes: 20, path_bytes: 300, depth: 8 };

fn judge(bytes: &[u8]) -> Result<(Contents, Vec<u8>), Refused> {
    let mut out = Vec::new();
    normalise(Cursor::new(bytes), &mut out, SMALL).map(|c| (c, out))
}

fn listing(bytes: &[u8]) -> Vec<String> {
    let mut archive = tar::Archive::new(Cursor::new(bytes));
    let entries = archive.entries().expect("an archive");
    entries
        .map(|e| {
            let e = e.expect("an entry");
            let path = String::from_utf8_lossy(&e.path_bytes()).into_owned();
            match e.link_name_bytes() {
                Some(to) => format!("{path} -> {}", String::from_utf8_lossy(&to)),
                None => path,
            }
        })
        .collect()
}

#[track_caller]
fn bad(entries: &[Raw], why: &str) {
    match judge(&archive(entries)) {
        Err(Refused::Bad { why: said, .. }) if said.contains(why) => {}
        other => panic!("wanted {why:?}, got {other:?}"),
    }
}

#[track_caller]
fn large(entries: &[Raw], what: &str) {
    match judge(&archive(entries)) {
        Err(Refused::TooLarge { limit, .. }) if limit.contains(what) => {}
        other => panic!("wanted {what:?}, got {other:?}"),
    }
}

#[test]
fn a_good_one_comes_out_clean() {
    let long = format!("usr/{}/x", "d".repeat(200));
    let entries = [
        dir("./"),
        file("./etc/os-release", b"ID=x\nPRETTY_NAME=\"X 1\"\n"),
        file("/etc/machine-id", b"0123456789abcdef\n"),
        file("etc/ssh/ssh_host_rsa_key", b"secret"),
        file("usr/bin/a", b"a"),
        link("usr/bin/b", b'1', "./usr/bin/a"),
        link("bin", b'2', "usr/bin"),
        link("up", b'2', "../../etc/shadow"),
        link("usr/sbin/init", b'2', "../lib/systemd/systemd"),
        raw("run/fifo", b'6'),
        raw("dev/null", b'3'),
        pax("path", long.as_bytes()),
        file("short", b"long"),
    ];
    let (contents, out) = judge(&archive(&entries)).expect("good");
    let list = listing(&out);
    assert_eq!(contents.os.as_deref(), Some("X 1"));
    assert_eq!(contents.init, Init::Systemd);
    assert_eq!(contents.devices_skipped, 1);
    assert!(!list.iter().any(|l| l.contains("ssh_host") || l.contains("null")), "{list:?}");
    assert!(list.contains(&"usr/bin/b -> usr/bin/a".to_owned()), "{list:?}");
    assert!(list.contains(&"up -> ../../etc/shadow".to_owned()), "{list:?}");
    assert!(list.contains(&long), "{list:?}");
    let at = |name: &str| list.iter().position(|l| l == name).expect("listed");
    assert!(at("usr/bin") < at("usr/bin/a"), "parents come first: {list:?}");
    assert!(!String::from_utf8_lossy(&out).contains("0123456789abcdef"), "the machine id is gone");
    // What is clean stays as it is.
    let (again, same) = judge(&out).expect("still good");
    assert_eq!((again.bytes, again.inodes), (contents.bytes, contents.inodes));
    assert_eq!(listing(&same), list);
}

#[test]
fn each_container_has_a_name_and_keys_of_its_own() {
    let keys = [
        file("etc/ssh/ssh_host_rsa_key", b"secret"),
        link("etc/ssh/ssh_host_rsa_key.pub", b'1', "etc/ssh/ssh_host_rsa_key"),
        file("etc/dropbear/dropbear_rsa_host_key", b"secret"),
        file("etc/hostname", b"db1.example.org\n"),
        file("var/lib/dbus/machine-id", b"secret"),
    ];
    let servers = [
        file("lib/systemd/system/ssh.service", b""),
        file("usr/lib/systemd/system/dropbear.service", b""),
        file("etc/init.d/ssh", b""),
        file("etc/init.d/dropbear", b""),
        file("etc/default/ssh", b"SSHD_OPTS=-4"),
    ];
    // Built, it comes without keys; of a copy of a system it has them.
    let mut seen = Vec::new();
    let cleaned = |bytes: &[u8]| {
        let mut out = Vec::new();
        normalise(Cursor::new(bytes), &mut out, Limits::default()).expect("good");
        out
    };
    for with in [&keys[..], &[]] {
        let out = cleaned(&archive(&[with, &servers].concat()));
        let text = String::from_utf8_lossy(&out).into_owned();
        assert!(!text.contains("secret") && !text.contains("db1.example.org"));
        for (settings, line) in [("SSHD_OPTS=-4\n", "ssh-keygen -A"), ("", "dropbearkey -t")] {
            assert!(text.contains(&format!("{settings}VES_HOST_KEYS=$(")), "{settings}");
            assert_eq!(text.matches(line).count(), 2, "by each init: {line}");
        }
        assert!(cleaned(&out) == out, "once");
        let mut list = listing(&out);
        list.retain(|path| path.starts_with("etc/") || path.starts_with("var/"));
        list.retain(|path| {
            !matches!(
                path.as_str(),
                "var" | "var/lib" | "var/lib/dbus" | "etc/ssh" | "etc/dropbear"
            )
        });
        list.sort();
        seen.push(list);
    }
    assert_eq!(seen[0], seen[1]);
    let (_, plain) = judge(&archive(&[file("etc/default/other", b"x")])).expect("good");
    assert_eq!(listing(&plain), ["etc", "etc/default", "etc/default/other"]);
}

#[test]
fn every_compression_is_recognised() {
    let plain = archive(&[file("a", b"x")]);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain).expect("in memory");
    let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
    xz.write_all(&plain).expect("in memory");
    let zstd = zstd::encode_all(Cursor::new(&plain), 1).expect("in memory");
    let all = [plain, gzip.finish().expect("done"), xz.finish().expect("done"), zstd];
    for (n, bytes) in all.iter().enumerate() {
        let (contents, _) = judge(bytes).expect("good");
        assert_eq!(contents.inodes, 2, "format {n}");
        // Cut anywhere, it is refused.
        for cut in [bytes.len() / 3, bytes.len() / 2, bytes.len() * 9 / 10] {
            let piece = bytes.get(..cut).expect("shorter");
            if n == 0 && cut > 1024 + 512 {
                continue;
            }
            assert!(judge(piece).is_err(), "format {n} cut at {cut} of {}", bytes.len());
        }
    }
}

#[test]
fn paths_out_of_the_tree() {
    bad(&[file("../x", b"")], "..");
    bad(&[file("a/../../x", b"")], "..");
    bad(&[file("./..", b"")], "..");
    bad(&[pax("path", b"a/../../etc/passwd"), file("x", b"")], "..");
    bad(&[Raw { data: b"../../x\0".to_vec(), ..raw("././@LongLink", b'L') }, file("x", b"")], "..");
    bad(&[pax("path", b"a\0b"), file("x", b"")], "NUL");
    judge(&archive(&[file("//etc///x", b"")])).expect("it is stripped");
}

#[test]
fn writing_through_links() {
    bad(&[link("a", b'2', "/etc"), file("a/passwd", b"x")], "symbolic link");
    bad(&[link("a", b'2', ".."), dir("a/b")], "symbolic link");
    bad(&[link("a", b'2', "/etc/passwd"), file("a", b"x")], "twice");
    bad(&[link("a", b'2', "/etc"), dir("a")], "twice");
    bad(&[dir("a"), link("a", b'2', "/etc"), file("a/x", b"")], "twice");
    bad(&[file("a", b"x"), file("a/b", b"")], "no directory");
    bad(&[file("a", b"x"), file("./a", b"y")], "twice");
    bad(&[link("d/e", b'2', "/"), link("d/e/f", b'1', "d/e")], "symbolic link");
}

#[test]
fn hard_links_to_elsewhere() {
    bad(&[link("a", b'1', "/etc/shadow")], "no earlier entry");
    bad(&[link("a", b'1', "../x")], "..");
    bad(&[link("a", b'1', "b"), file("b", b"")], "no earlier entry");
    bad(&[dir("d"), link("a", b'1', "d")], "directory");
    bad(&[link("s", b'2', "/etc"), link("a", b'1', "s/shadow")], "no earlier entry");
    judge(&archive(&[raw("dev/sda", b'4'), link("dev/x", b'1', "dev/sda")])).expect("both skipped");
}

#[test]
fn nodes_and_strange_types() {
    bad(&[raw("sda", b'4')], "device node");
    bad(&[raw("device/x", b'3')], "device node");
    bad(&[raw("dev", b'3')], "device node");
    bad(&[raw("x", b'S')], "sparse");
    bad(&[pax("GNU.sparse.major", b"1"), file("x", b"")], "sparse");
    bad(&[raw("x", b'Z')], "type");
    bad(&[raw("x", b'V')], "type");
    bad(&[Raw { uid: 70_000, ..file("x", b"") }], "owner");
    bad(&[pax("uid", b"4294967295"), file("x", b"")], "owner");
    bad(&[link("x", b'2', "")], "link target");
}

#[test]
fn bombs() {
    large(&[Raw { size: Some(1 << 40), ..file("x", b"") }], "bytes");
    large(&[Raw { size: Some((1 << 20) + 1), ..file("x", b"") }], "bytes");
    let many: Vec<_> = (0..21).map(|n| file(&format!("f{n}"), b"")).collect();
    large(&many, "files");
    let deep = "d/".repeat(9);
    large(&[dir(&deep)], "parts");
    large(&[pax("path", "x/".repeat(2000).as_bytes()), file("x", b"")], "path");
    large(&[pax("path", &[b'x'; 256]), file("x", b"")], "255");
    large(&[Raw { size: Some(1 << 30), ..raw("pax", b'x') }], "extended header");
    large(&[Raw { size: Some(1 << 30), ..raw("L", b'L') }], "extended header");
    // Each header by itself is small enough.
    let mut many = vec![pax("SCHILY.xattr.user.x", &[b'x'; 40 << 10]); 2];
    judge(&archive(&[many[..1].to_vec(), vec![file("x", b"")]].concat())).expect("one is good");
    many.push(file("x", b""));
    large(&many, "its extended headers");
    // So is each of what is left out.
    let key = |n: u32| file(&format!("etc/ssh/ssh_host_{n}_key"), &vec![0; 600 << 10]);
    judge(&archive(&[key(1)])).expect("one is good");
    large(&[key(1), key(2)], "left out");
    let endless: Vec<_> = (0..200).map(|_| pax("comment", b"x")).collect();
    large(&endless, "headers");
    // Small when compressed.
    let bomb = zstd::encode_all(Cursor::new(archive(&[file("x", &vec![0; 8 << 20])])), 9);
    assert!(matches!(judge(&bomb.expect("in memory")), Err(Refused::TooLarge { .. })));
    let directories: Vec<_> = (0..6).map(|n| file(&format!("a{n}/b/c/d/e"), b"")).collect();
    large(&directories, "files");
}

#[test]
fn damage_and_garbage() {
    let good = archive(&[file("a", &[7; 3000]), file("b", b"x")]);
    for cut in [0, 100, 511, 512, 1000, 3584, good.len() - 1024] {
        let piece = good.get(..cut).expect("shorter");
        assert!(matches!(judge(piece), Err(Refused::Bad { .. })), "cut at {cut}");
    }
    let mut flipped = good.clone();
    flipped[10] ^= 1;
    assert!(matches!(judge(&flipped), Err(Refused::Bad { .. })));
    assert!(matches!(judge(&[0xAA; 4096]), Err(Refused::Bad { .. })));
    assert!(matches!(judge(&[0; 4096]), Err(Refused::Bad { .. })));
    assert!(matches!(judge(b"\x1f\x8b\x08\x00nonsense follows here"), Err(Refused::Bad { .. })));
    bad(&[Raw { data: b"no record".to_vec(), ..raw("pax", b'x') }, file("x", b"")], "malformed");
    bad(&[Raw { data: b"99 path=x\n".to_vec(), ..raw("pax", b'x') }, file("x", b"")], "malformed");
    bad(&[Raw { data: b"0 =\n".to_vec(), ..raw("pax", b'x') }, file("x", b"")], "malformed");
    bad(&[pax("uid", b"-1"), file("x", b"")], "malformed");
    bad(&[pax("size", b"9"), file("x", b"")], "sizes differ");
}

#[test]
fn no_bytes_at_all_make_it_panic() {
    // A plain generator: every byte of a good archive changed to a few others, and cut everywhere.
    let good = archive(&[dir("a"), pax("path", b"a/bb"), file("x", b"1"), link("c", b'1', "a/bb")]);
    for at in 0..good.len() {
        for value in [0, b'/', b'.', 0x80, 0xFF] {
            let mut changed = good.clone();
            changed[at] = value;
            judge(&changed).ok();
        }
        judge(good.get(..at).expect("shorter")).ok();
    }
}
