//! Archives of all kinds through the judging pass, without root.

use std::collections::HashMap;
use std::io::{Cursor, Write};

use super::{MAX_EXTENSION, normalise, pax_pairs};
use crate::contents::{Contents, Init, Judging, Limits, Owners};
use crate::refused::Refused;
use crate::sparse::Map;

mod others;

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
    device: (u32, u32),
}

fn raw(name: &str, kind: u8) -> Raw {
    let (name, link) = (name.as_bytes().to_vec(), Vec::new());
    Raw { name, link, kind, data: Vec::new(), size: None, uid: 0, mode: 0o644, device: (1, 1) }
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
        header.set_device_major(e.device.0).expect("ustar has it");
        header.set_device_minor(e.device.1).expect("ustar has it");
        header.set_cksum();
        out.extend_from_slice(header.as_bytes());
        out.extend_from_slice(&e.data);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out
}

/// Of a system: there is an `etc`.
fn archive(entries: &[Raw]) -> Vec<u8> {
    let mut out = bytes_of(entries);
    out.extend_from_slice(&bytes_of(&[dir("etc")]));
    out.extend_from_slice(&[0; 1024]);
    out
}

const SMALL: Limits = Limits { bytes: 1 << 20, inodes: 20, path_bytes: 300, depth: 8 };

fn judge_by(bytes: &[u8], judging: &Judging) -> Result<(Contents, Vec<u8>), Refused> {
    let mut out = Vec::new();
    let found = normalise(Cursor::new(bytes), &mut out, judging)?;
    match judging.once_more(&found) {
        Some(judging) => judge_by(&out, &judging),
        None => {
            assert_clean(&out);
            Ok((found, out))
        }
    }
}

/// What is true of all that comes out, whatever went in.
fn assert_clean(bytes: &[u8]) {
    use tar::EntryType as Type;
    let mut kinds = HashMap::from([(String::new(), Type::Directory)]);
    for e in entries(bytes) {
        let text = |said: &[u8]| String::from_utf8_lossy(said).into_owned();
        let path = ["path", "GNU.sparse.name"]
            .iter()
            .find_map(|key| e.said(key))
            .map_or_else(|| e.path.clone(), text);
        let path = if path == "./" { String::new() } else { path };
        assert!(
            path.is_empty() || !path.split('/').any(|p| matches!(p, "" | "." | "..")),
            "{path:?}"
        );
        let parent = path.rsplit_once('/').map_or("", |(dir, _)| dir);
        assert_eq!(kinds.get(parent), Some(&Type::Directory), "{path:?} lies in a directory");
        let plain = e.header.link_name_bytes().map(|l| text(&l)).unwrap_or_default();
        let link = e.said("linkpath").map_or(plain, text);
        let kind = match e.header.entry_type() {
            Type::Link => *kinds.get(&link).unwrap_or_else(|| panic!("{path:?} -> {link:?}")),
            other => other,
        };
        assert!(
            matches!(kind, Type::Regular | Type::Directory | Type::Symlink | Type::Fifo),
            "{path:?}"
        );
        assert!(kind != Type::Directory || e.header.entry_type() == Type::Directory, "{path:?}");
        let below = format!("{path}/");
        let full = !path.is_empty() && kinds.keys().any(|known| known.starts_with(&below));
        assert!(kind == Type::Directory || !full, "{path:?} was a directory that is not empty");
        for id in [e.header.uid(), e.header.gid()] {
            assert!(id.expect("a number") <= 65_534, "{path:?}");
        }
        if let Some(size) = e.said("GNU.sparse.realsize") {
            let size = text(size).parse().expect("a number");
            let mut data = e.data.as_slice();
            let room = data.len() as u64;
            let map = Map::read_before_data(size, room, &mut data).expect("a map");
            assert_eq!(map.stored(), data.len() as u64, "{path:?}");
        }
        kinds.insert(path, kind);
    }
}

fn judge(bytes: &[u8]) -> Result<(Contents, Vec<u8>), Refused> {
    judge_by(bytes, &Judging::new(SMALL, Owners::default()))
}

/// What came out of an entry: its header, what pax says, its data with a map of holes before them.
struct Out {
    path: String,
    header: tar::Header,
    pax: Vec<(String, Vec<u8>)>,
    data: Vec<u8>,
}

impl Out {
    fn said(&self, key: &str) -> Option<&[u8]> {
        self.pax.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_slice())
    }
    fn mode(&self) -> u32 {
        self.header.mode().expect("a number")
    }
}

/// A clean archive, entry by entry, as it is stored.
fn entries(mut bytes: &[u8]) -> Vec<Out> {
    let (mut all, mut pax) = (Vec::new(), Vec::new());
    loop {
        let (head, rest) = bytes.split_at(512);
        let header = tar::Header::from_byte_slice(head).clone();
        if head.iter().all(|b| *b == 0) {
            return all;
        }
        let size = usize::try_from(header.entry_size().expect("a number")).expect("small");
        let data = rest.get(..size).expect("whole").to_vec();
        bytes = rest.get(size.next_multiple_of(512)..).expect("whole");
        if header.entry_type() == tar::EntryType::XHeader {
            let pairs = pax_pairs(&data).expect("well formed");
            let text = |k: &[u8]| String::from_utf8(k.to_vec()).expect("text");
            pax = pairs.into_iter().map(|(k, v)| (text(k), v.to_vec())).collect();
            continue;
        }
        let path = String::from_utf8_lossy(&header.path_bytes()).into_owned();
        all.push(Out { path, header, pax: std::mem::take(&mut pax), data });
    }
}

/// The last entry of a path.
#[track_caller]
fn only(bytes: &[u8], path: &str) -> Out {
    entries(bytes).into_iter().rfind(|e| e.path == path).expect("it came out")
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
    assert_eq!(contents.notes, ["left out: device nodes, \"dev/null\""]);
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
        normalise(Cursor::new(bytes), &mut out, &Judging::default()).expect("good");
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
    assert_eq!(listing(&plain), ["etc", "etc/default", "etc/default/other", "etc"]);
}

#[test]
fn every_compression_is_recognised() {
    let plain = archive(&[file("a", b"x")]);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain).expect("in memory");
    let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
    xz.write_all(&plain).expect("in memory");
    let zstd = zstd::encode_all(Cursor::new(&plain), 1).expect("in memory");
    let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    bzip2.write_all(&plain).expect("in memory");
    let mut lz4 = lz4_flex::frame::FrameEncoder::new(Vec::new());
    lz4.write_all(&plain).expect("in memory");
    let (bzip2, lz4) = (bzip2.finish().expect("done"), lz4.finish().expect("done"));
    let skipped = [b"\x50\x2a\x4d\x18\x04\0\0\0\x01\x02\x03\x04", zstd.as_slice()].concat();
    let all = [
        plain,
        gzip.finish().expect("done"),
        xz.finish().expect("done"),
        zstd,
        bzip2,
        lz4,
        skipped,
    ];
    for (n, bytes) in all.iter().enumerate() {
        let (contents, _) = judge(bytes).expect("good");
        assert_eq!(contents.inodes, 3, "format {n}");
        // Cut anywhere, it is refused.
        for cut in [bytes.len() / 3, bytes.len() / 2, bytes.len() * 9 / 10] {
            let piece = bytes.get(..cut).expect("shorter");
            if n == 0 && cut > 2 * 512 + 512 {
                continue;
            }
            assert!(judge(piece).is_err(), "format {n} cut at {cut} of {}", bytes.len());
        }
    }
}

#[test]
fn streams_of_several_pieces_are_read_to_the_end() {
    let plain = archive(&[file("a", &[7; 3000])]);
    let (one, two) = plain.split_at(2000);
    let gzip = |bytes: &[u8]| {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(bytes).expect("in memory");
        gzip.finish().expect("done")
    };
    let bzip2 = |bytes: &[u8]| {
        let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        bzip2.write_all(bytes).expect("in memory");
        bzip2.finish().expect("done")
    };
    let lz4 = |bytes: &[u8]| {
        let mut lz4 = lz4_flex::frame::FrameEncoder::new(Vec::new());
        lz4.write_all(bytes).expect("in memory");
        lz4.finish().expect("done")
    };
    let zstd = |bytes: &[u8]| zstd::encode_all(Cursor::new(bytes), 1).expect("in memory");
    for (n, bytes) in [
        [gzip(one), gzip(two)].concat(),
        [bzip2(one), bzip2(two)].concat(),
        [lz4(one), lz4(b""), lz4(two)].concat(),
        [zstd(one), zstd(two)].concat(),
    ]
    .iter()
    .enumerate()
    {
        let (_, out) = judge(bytes).unwrap_or_else(|e| panic!("format {n}: {e}"));
        assert_eq!(only(&out, "a").data, [7; 3000], "format {n}");
    }
}

#[test]
fn what_is_no_tar_archive_is_named() {
    let lzma = {
        let options = liblzma::stream::LzmaOptions::new_preset(1).expect("a preset");
        let stream = liblzma::stream::Stream::new_lzma_encoder(&options).expect("an encoder");
        let mut lzma = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
        lzma.write_all(&archive(&[])).expect("in memory");
        lzma.finish().expect("done")
    };
    let long = |magic: &[u8]| [magic, &[b'x'; 600]].concat();
    for (bytes, name) in [
        (lzma, "lzma-alone"),
        (long(b"LZIP\x01"), "lzip"),
        (long(b"\x89LZO\0\r\n\x1a\n"), "lzop"),
        (long(b"\x1f\x9d\x90"), "compress (.Z)"),
        (long(b"7z\xbc\xaf\x27\x1c"), "7z"),
        (b"PK\x03\x04short".to_vec(), "zip"),
        (long(b"Rar!\x1a\x07\x01\0"), "rar"),
        (long(b"070701"), "cpio"),
        (long(b"hsqs"), "squashfs"),
    ] {
        let packed = zstd::encode_all(Cursor::new(&bytes), 1).expect("in memory");
        for bytes in [bytes, packed] {
            match judge(&bytes) {
                Err(Refused::Bad { why, .. }) if why.contains(name) => {}
                other => panic!("wanted {name:?}, got {other:?}"),
            }
        }
    }
    // A file may be called so.
    judge(&archive(&[file("070701", b"x"), file("LZIP", b"x")])).expect("it is an archive");
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
    let elsewhere =
        [("/nowhere", "leads to nothing"), ("..", "leads out"), ("a", "without an end")];
    for (to, why) in elsewhere {
        bad(&[link("a", b'2', to), file("a/passwd", b"x")], why);
        bad(&[link("a", b'2', to), dir("a/b")], why);
        bad(&[link("a", b'2', to), link("b", b'1', "a/shadow")], why);
    }
    bad(&[file("a", b"x"), file("a/b", b"")], "no directory");
    bad(&[dir("a"), file("a/x", b""), link("a", b'2', "/etc")], "is no directory");
    let inside = [
        dir("usr/lib"),
        link("lib", b'2', "usr/lib"),
        link("usr/root", b'2', "/"),
        file("lib/x", b"1"),
        file("usr/root/lib/new/y", b"2"),
        link("z", b'1', "lib/x"),
    ];
    let (_, out) = judge(&archive(&inside)).expect("it stays inside");
    let list = listing(&out);
    for path in ["usr/lib/x", "usr/lib/new/y", "z -> usr/lib/x"] {
        assert!(list.contains(&path.to_owned()), "{path}: {list:?}");
    }
    assert!(!list.iter().any(|p| p.starts_with("lib/") || p.starts_with("usr/root/")), "{list:?}");
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
    let half = usize::try_from(MAX_EXTENSION / 2 + 1).expect("small");
    let mut many = vec![pax("comment", &vec![b'x'; half]); 2];
    judge(&archive(&[many[..1].to_vec(), vec![file("x", b"")]].concat())).expect("one is good");
    many.push(file("x", b""));
    assert!(matches!(judge(&archive(&many)), Err(Refused::TooLarge { .. })));
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
}

#[test]
fn no_bytes_at_all_make_it_panic() {
    // A plain generator: every byte of a good archive changed to a few others, and cut everywhere.
    let list = b"user::rwx,user:7:r--,group::r-x,mask::r-x,other::---";
    let map = [("major", "1"), ("minor", "0"), ("realsize", "9"), ("name", "s/hole")];
    let mut said = Vec::new();
    for (key, value) in map {
        super::pax::record(&mut said, format!("GNU.sparse.{key}").as_bytes(), value.as_bytes());
    }
    let map = Map::new(9, vec![(1, 2)]).expect("good").before_data();
    let good = archive(&[
        dir("a"),
        pax("path", b"a/bb"),
        file("x", b"1"),
        link("c", b'1', "a/bb"),
        link("s", b'2', "a"),
        Raw { data: said, ..raw("pax", b'x') },
        file("x", &[&map[..], b"xy"].concat()),
        pax("SCHILY.acl.access", list),
        file("s/bb", b"2"),
    ]);
    judge(&good).expect("good");
    for at in 0..good.len() {
        // Of contents and padding one is as good as another.
        if at % 7 > 0 && good.get(at..at + 4).is_none_or(|next| next == [0; 4]) {
            continue;
        }
        for value in [0, b'/', b'.', 0x80, 0xFF] {
            let mut changed = good.clone();
            changed[at] = value;
            judge(&changed).ok();
        }
        judge(good.get(..at).expect("shorter")).ok();
    }
}
