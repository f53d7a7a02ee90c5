//! What others write, as they read it.

use super::*;

#[test]
fn the_last_of_a_path_counts() {
    let twice = [
        file("a", b"old"),
        link("b", b'1', "a"),
        file("./a", b"new"),
        link("s", b'2', "/etc"),
        dir("s"),
        file("s/x", b"1"),
        dir("d"),
        link("d", b'2', "s"),
        file("d/y", b"2"),
    ];
    let (contents, out) = judge(&archive(&twice)).expect("the last counts");
    let at: Vec<_> = entries(&out).into_iter().filter(|e| e.path == "a").map(|e| e.data).collect();
    assert_eq!(at, [b"old", b"new"]);
    assert!(listing(&out).contains(&"s/y".to_owned()));
    // The root, etc, two files, the directory s with two files, the link d.
    assert_eq!(contents.inodes, 8);
    // What is gone takes no room, but is not written without a bound.
    let large = || file("x", &vec![0; 300 << 10]);
    judge(&archive(&[large(), large(), large(), large()])).expect("one of them is there");
    let many = vec![large(); 8];
    assert!(matches!(judge(&archive(&many)), Err(Refused::TooLarge { .. })));
}

#[test]
fn hard_links_to_elsewhere() {
    bad(&[link("a", b'1', "/etc/shadow")], "which no entry is");
    bad(&[link("a", b'1', "../x")], "..");
    bad(&[dir("d"), link("a", b'1', "d")], "directory");
    bad(&[link("a", b'1', "a")], "which no entry is");
    bad(&[link("s", b'2', "/nowhere"), link("a", b'1', "s/shadow")], "leads to nothing");
    judge(&archive(&[raw("dev/sda", b'4'), link("dev/x", b'1', "dev/sda")])).expect("both skipped");
}

#[test]
fn hard_links_may_come_before_their_targets() {
    let early = [
        link("a", b'1', "b"),
        link("b", b'1', "c"),
        link("x", b'1', "c"),
        file("c", b"1"),
        file("x", b"2"),
    ];
    let (contents, out) = judge(&archive(&early)).expect("all are there at the end");
    let list = listing(&out);
    let at = |name: &str| list.iter().position(|l| l == name).expect("listed");
    assert!(at("c") < at("b -> c") && at("b -> c") < at("a -> b"), "{list:?}");
    assert_eq!(list.iter().filter(|l| l.starts_with('x')).count(), 1, "the last counts: {list:?}");
    assert_eq!(contents.inodes, 4);
}

#[test]
fn nodes_are_left_out_and_strange_types_refused() {
    let upper = [
        Raw { uid: 903_700_503, ..raw("sda", b'4') },
        device("usr/lib/udev/devices/null", 1, 3),
        device("usr/bin/gone", 0, 0),
        file("etc/.wh.hosts", b""),
        file("etc/.wh..wh..opq", b""),
        file("etc/.wh.full", b"x"),
        Raw { data: b"x".to_vec(), ..raw("backup", b'V') },
    ];
    let (contents, out) = judge(&archive(&upper)).expect("they are left out");
    assert_eq!(
        contents.notes[..3],
        [
            "left out: device nodes, 2 of them, such as \"sda\"",
            "left out: whiteouts of layers, 3 of them, such as \"usr/bin/gone\"",
            "left out: volume labels, \"backup\"",
        ]
    );
    assert_eq!(
        listing(&out),
        [
            "usr",
            "usr/lib",
            "usr/lib/udev",
            "usr/lib/udev/devices",
            "usr/bin",
            "etc",
            "etc/.wh.full",
            "etc"
        ]
    );
    bad(&[file("usr/x", b"1"), device("usr/x", 0, 0)], "takes an earlier entry away");
    bad(&[raw("x", b'Z')], "type 'Z'");
    bad(&[raw("x", b'M')], "earlier volume");
    bad(&[pax("GNU.volume.offset", b"512"), file("x", b"")], "earlier volume");
    bad(&[Raw { uid: 70_000, ..file("x", b"") }], "owner");
    bad(&[pax("uid", b"4294967295"), file("x", b"")], "owner");
    bad(&[link("x", b'2', "")], "link target");
}

fn device(name: &str, major: u32, minor: u32) -> Raw {
    Raw { device: (major, minor), ..raw(name, b'3') }
}

#[test]
fn all_that_cannot_be_taken_is_named_at_once() {
    let mut entries: Vec<_> =
        (1..=3).map(|n| Raw { uid: 903_700_500 + n, ..file(&format!("srv/{n}"), b"x") }).collect();
    entries.extend([raw("strange", b'Z'), file("../up", b"")]);
    let Err(Refused::Entries(refused)) = judge(&archive(&entries)) else { panic!("not refused") };
    assert_eq!((refused.count, refused.first.as_str()), (5, "srv/1"));
    assert_eq!(refused.ids, [903_700_501, 903_700_502, 903_700_503]);
    for part in ["\"srv/3\" (903700503:0)", "--map-owner", "\"strange\"", "\"../up\"", "type 'Z'"] {
        assert!(refused.said.contains(part), "{part}: {}", refused.said);
    }
    let Limits { path_bytes, depth, .. } = SMALL;
    let limits = Limits { bytes: 1 << 30, inodes: 1 << 20, path_bytes, depth };
    let many: Vec<_> = (0..5000)
        .map(|n| Raw { uid: 70_000 + n, ..file(&format!("{}/{n}", "ř".repeat(90)), b"") })
        .chain((0..50).map(|n| file(&format!("f{n}/.."), b"")))
        .chain((0..50).flat_map(|n| [file(&format!("g{n}"), b""), file(&format!("g{n}/x"), b"")]))
        .collect();
    let refused = judge_by(&archive(&many), &Judging::new(limits, Owners::default()));
    let Err(Refused::Entries(refused)) = refused else { panic!("not refused") };
    assert_eq!((refused.count, refused.ids.len()), (5100, 40));
    assert!(refused.said.chars().count() <= 2401, "{}", refused.said.len());
}

#[test]
fn what_a_header_leaves_empty_is_nothing() {
    // As GNU tar writes the label of a volume.
    let mut label = bytes_of(&[raw("backup", b'V'), raw("x", b'0')]);
    for at in [0, 512] {
        let header = label.get_mut(at..at + 512).expect("there");
        header[100..148].fill(0);
        let sum: u32 = header
            .iter()
            .enumerate()
            .map(|(at, b)| if (148..156).contains(&at) { 32 } else { u32::from(*b) })
            .sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    label.extend(archive(&[]));
    let (contents, out) = judge(&label).expect("taken");
    assert_eq!(contents.notes[0], "left out: volume labels, \"backup\"");
    assert_eq!(only(&out, "x").mode(), 0);
}

#[test]
fn what_follows_the_end_is_noted() {
    let two = [archive(&[file("x", b"")]), archive(&[file("y", b"")])].concat();
    let (contents, out) = judge(&two).expect("the first is whole");
    assert!(contents.notes[0].contains("after the archive's end"), "{:?}", contents.notes);
    assert_eq!(listing(&out), ["x", "etc"]);
    let padded = [archive(&[]), vec![0; 10_240]].concat();
    let (contents, _) = judge(&padded).expect("whole");
    assert!(!contents.notes[0].contains("end"), "{:?}", contents.notes);
}

#[test]
fn owners_are_mapped() {
    let setuid = |uid| Raw { uid, mode: 0o6755, ..file("x", b"") };
    let map = |map: &[(u32, u32)], squash| {
        Judging::new(SMALL, Owners { map: map.iter().copied().collect(), squash })
    };
    let owner = |raw: Raw, judging: &Judging| {
        let (_, out) = judge_by(&archive(&[raw]), judging).expect("mapped");
        let x = only(&out, "x");
        (x.header.uid().expect("a number"), x.mode())
    };
    let mapped = map(&[(903_700_503, 1000), (1000, 7)], false);
    assert_eq!(owner(setuid(903_700_503), &mapped), (1000, 0o6755));
    assert_eq!(owner(setuid(1000), &mapped), (7, 0o6755));
    let squashed = map(&[], true);
    assert_eq!(owner(setuid(70_000), &squashed), (65_534, 0o2755), "nobody runs it as himself");
    assert_eq!(owner(setuid(5), &squashed), (5, 0o6755));
    assert!(judge_by(&archive(&[setuid(70_000)]), &mapped).is_err());
}

#[test]
fn sparse_files_of_every_form_keep_their_holes() {
    let size = 64 << 20;
    let map = Map::new(size, vec![(512, 5), (size - 1, 1)]).expect("good");
    let data = b"aaaaaz";
    let sparse = |records: &[(&str, &str)], data: &[u8]| {
        let mut all = Vec::new();
        for (key, value) in records {
            crate::normalise::pax::record(&mut all, key.as_bytes(), value.as_bytes());
        }
        vec![Raw { data: all, ..raw("pax", b'x') }, file("GNUSparseFile.0/f", data)]
    };
    let total = size.to_string();
    let (end, map_text) = ((size - 1).to_string(), format!("512,5,{},1", size - 1));
    let mut header = tar::Header::new_gnu();
    let inner = header.as_gnu_mut().expect("it is GNU's");
    inner.name[..5].copy_from_slice(b"var/f");
    let pieces = [(512, 5), (size - 1, 1), (size, 0)];
    for (place, (offset, length)) in inner.sparse.iter_mut().zip(pieces) {
        place.offset.copy_from_slice(format!("{offset:011o}\0").as_bytes());
        place.numbytes.copy_from_slice(format!("{length:011o}\0").as_bytes());
    }
    inner.realsize.copy_from_slice(format!("{size:011o}\0").as_bytes());
    header.set_entry_type(tar::EntryType::GNUSparse);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(data.len() as u64);
    header.set_cksum();
    let mut gnu = [header.as_bytes(), &data[..], &[0; 506]].concat();
    gnu.extend(archive(&[]));
    let forms = [
        gnu,
        archive(&sparse(
            &[
                ("GNU.sparse.size", &total),
                ("GNU.sparse.numblocks", "2"),
                ("GNU.sparse.offset", "512"),
                ("GNU.sparse.numbytes", "5"),
                ("GNU.sparse.offset", &end),
                ("GNU.sparse.numbytes", "1"),
                ("path", "var/f"),
            ],
            data,
        )),
        archive(&sparse(
            &[
                ("GNU.sparse.size", &total),
                ("GNU.sparse.numblocks", "2"),
                ("GNU.sparse.map", &map_text),
                ("GNU.sparse.name", "var/f"),
            ],
            data,
        )),
        archive(&sparse(
            &[
                ("GNU.sparse.major", "1"),
                ("GNU.sparse.minor", "0"),
                ("GNU.sparse.name", "var/f"),
                ("GNU.sparse.realsize", &total),
            ],
            &[&map.before_data()[..], data].concat(),
        )),
    ];
    for (n, form) in forms.iter().enumerate() {
        let (contents, out) = judge(form).unwrap_or_else(|e| panic!("form {n}: {e}"));
        // The root, etc, var and two blocks of the file: what is stored counts.
        assert_eq!(contents.bytes, 5 * 4096, "form {n}");
        let f = entries(&out).into_iter().find(|e| e.said("GNU.sparse.name") == Some(b"var/f"));
        let f = f.unwrap_or_else(|| panic!("form {n} has no holes"));
        assert_eq!(f.said("GNU.sparse.realsize"), Some(total.as_bytes()), "form {n}");
        let (again, rest) = f.data.split_at(map.before_data().len());
        assert_eq!((again, rest), (&map.before_data()[..], &data[..]), "form {n}");
        let (same, _) = judge(&out).expect("still good");
        assert_eq!(same.bytes, contents.bytes, "form {n}");
    }
    for (map, why) in [
        ("512,5", "not what is there"),
        ("9,9,1,1", "malformed"),
        ("1,x", "malformed"),
        ("1", "malformed"),
    ] {
        bad(&sparse(&[("GNU.sparse.size", "1000"), ("GNU.sparse.map", map)], data), why);
    }
    bad(&[raw("x", b'S')], "malformed");
    large(
        &sparse(&[("GNU.sparse.size", "99999999999999"), ("GNU.sparse.map", "")], b""),
        "more than a file",
    );
}

#[test]
fn what_pax_says_of_all_is_said_of_each() {
    let global = |key: &str, value: &[u8]| Raw { kind: b'g', ..pax(key, value) };
    let entries = [
        global("comment", b"of git"),
        global("uid", b"7"),
        file("a", b""),
        pax("uid", b"8"),
        file("b", b""),
        pax("uid", b""),
        file("c", b""),
        file("d", b""),
    ];
    let (_, out) = judge(&archive(&entries)).expect("good");
    let uid = |path| only(&out, path).header.uid().expect("a number");
    assert_eq!([uid("a"), uid("b"), uid("c"), uid("d")], [7, 8, 0, 7]);
    bad(&[global("path", b"x"), file("a", b"")], "only one entry");
    // The size in a header may be another, or none: it is that of pax that counts.
    let (_, out) =
        judge(&archive(&[pax("size", b"3"), Raw { size: Some(0), ..file("x", b"abc") }]))
            .expect("good");
    assert_eq!(only(&out, "x").data, b"abc");
    let endless = vec![global("comment", &vec![b'x'; 600 << 10]); 2];
    large(&endless, "bytes");
}

#[test]
fn access_control_lists_are_kept() {
    let acl = "user::rw-,user:7:rw-,group::r--,mask::rw-,other::r--";
    let list = |which: &str, text: &str, raw: Raw| {
        vec![pax(&format!("SCHILY.acl.{which}"), text.as_bytes()), raw]
    };
    let x = |mode| Raw { mode, ..file("x", b"") };
    let (_, out) = judge(&archive(&list("access", acl, x(0o664)))).expect("kept");
    let kept = only(&out, "x");
    let binary = kept.said("SCHILY.xattr.system.posix_acl_access").expect("a list").to_vec();
    assert_eq!(kept.mode(), 0o664);
    assert_eq!(binary.len(), 4 + 5 * 8);
    let (_, out) =
        judge(&archive(&[pax("SCHILY.xattr.system.posix_acl_access", &binary), x(0o640)]))
            .expect("kept");
    let kept = only(&out, "x");
    assert_eq!(kept.mode(), 0o640, "never more than the mode");
    assert_ne!(kept.said("SCHILY.xattr.system.posix_acl_access").expect("a list"), binary);
    // libarchive writes them in base64, without padding.
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD_NO_PAD.encode(&binary);
    let (_, out) = judge(&archive(&[
        pax("LIBARCHIVE.xattr.system.posix%5Facl_access", text.as_bytes()),
        x(0o664),
    ]))
    .expect("kept");
    assert_eq!(only(&out, "x").said("SCHILY.xattr.system.posix_acl_access"), Some(&binary[..]));
    // A list that says less than the mode.
    let (_, out) = judge(&archive(&list("access", "user::rw-,group::---,other::---", x(0o666))))
        .expect("kept");
    assert_eq!(only(&out, "x").mode(), 0o600);
    bad(&list("access", "user::rw-", x(0o666)), "not understood");
    bad(&list("ace", "owner@:r:allow", x(0o666)), "NFSv4");
    bad(&list("access", &acl.replace('7', "70000"), x(0o666)), "owner");
    let (_, out) = judge(&archive(&list("default", acl, dir("etc")))).expect("kept");
    let default = "SCHILY.xattr.system.posix_acl_default";
    assert!(entries(&out).iter().any(|e| e.said(default).is_some()));
    // What ext4 would not take is not tried.
    let all = |raw: Raw| {
        let said = [
            pax("SCHILY.acl.default", acl.as_bytes()),
            pax("SCHILY.acl.access", acl.as_bytes()),
            pax("SCHILY.xattr.user.note", b"x"),
            raw,
        ];
        let (_, out) = judge(&archive(&said)).expect("good");
        only(&out, "x").pax.into_iter().map(|(key, _)| key).collect::<Vec<_>>()
    };
    let [access, note] = ["SCHILY.xattr.system.posix_acl_access", "SCHILY.xattr.user.note"];
    assert_eq!(all(x(0o664)), [note, access]);
    assert_eq!(all(raw("x", b'6')), [access]);
    assert_eq!(all(link("x", b'2', "etc")), [""; 0]);
}

#[test]
fn names_in_lists_are_those_of_the_archives_own_users() {
    let acl = b"user::rwx,user:lisa:rw-,group::r-x,group:adm:r-x,mask::rwx,other::---";
    let journal = [
        pax("SCHILY.acl.access", acl),
        Raw { mode: 0o770, ..file("var/log/x", b"") },
        file("etc/passwd", b"root:x:0:0:::\nlisa:x:1005:1005:::\n"),
        file("etc/group", b"root:x:0:\nadm:x:4:\n"),
    ];
    let numbers = |out: &[u8]| {
        let x = only(out, "var/log/x");
        let list = x.said("SCHILY.xattr.system.posix_acl_access").expect("a list").to_vec();
        let id =
            |n: usize| u32::from_le_bytes(list[4 + n * 8 + 4..][..4].try_into().expect("four"));
        [id(1), id(3)]
    };
    let (contents, out) = judge(&archive(&journal)).expect("named inside");
    assert_eq!(numbers(&out), [1005, 4]);
    assert_eq!(contents.inodes, 7);
    let owners = Owners { map: [(1005, 9), (9, 10)].into(), squash: false };
    let (_, out) = judge_by(&archive(&journal), &Judging::new(SMALL, owners)).expect("mapped");
    assert_eq!(numbers(&out), [9, 4], "a name is mapped once, as owners are");
    bad(&journal[..2], "\"lisa\"");
}

#[test]
fn attributes_are_kept_or_named() {
    let capability = [&0x0200_0001u32.to_le_bytes()[..], &[1; 16]].concat();
    let x = || file("x", b"");
    let kept = |key: &str, value: &[u8]| {
        let (contents, out) = judge(&archive(&[pax(key, value), x()])).expect("good");
        (contents.notes, only(&out, "x").said(key).map(<[u8]>::to_vec))
    };
    let (_, said) = kept("SCHILY.xattr.security.capability", &capability);
    assert_eq!(said, Some(capability.clone()));
    assert_eq!(kept("SCHILY.xattr.user.x", b"\n\0=").1, Some(b"\n\0=".to_vec()));
    for other in ["security.selinux", "trusted.overlay.opaque", "security.ima"] {
        let (notes, said) = kept(&format!("SCHILY.xattr.{other}"), b"x");
        assert_eq!(said, None);
        assert_eq!(notes[0], format!("left out: attributes {other}, \"x\""));
    }
    bad(&[pax("SCHILY.xattr.security.capability", b"x"), x()], "capabilities");
    bad(&[pax("SCHILY.xattr.trusted.overlay.metacopy", b""), x()], "lower one");
    large(&[pax("SCHILY.xattr.user.x", &[b'x'; 4096]), x()], "block of ext4");
}

#[test]
fn incremental_backups_are_taken_when_they_are_whole() {
    let dumped = |names: &[u8]| Raw { data: names.to_vec(), mode: 0o755, ..raw("usr", b'D') };
    let root = Raw { data: b"Nusr\0\0".to_vec(), mode: 0o755, ..raw("./", b'D') };
    let whole = [root, dumped(b"Yx\0Dsub\0\0"), file("usr/x", b"1")];
    let (_, out) = judge(&archive(&whole)).expect("whole");
    assert_eq!(listing(&out), ["./", "usr", "usr/x", "etc"]);
    bad(&[dumped(b"Ny\0Yx\0\0"), file("usr/x", b"1")], "incremental");
    bad(&[pax("GNU.dumpdir", b"Ny\0\0"), dir("usr")], "incremental");
}

#[test]
fn a_system_below_a_directory_is_found() {
    let image = [
        file("metadata.yaml", b"x"),
        dir("rootfs/"),
        file("rootfs/etc/machine-id", b"0123456789abcdef\n"),
        file("rootfs/usr/lib/os-release", b"PRETTY_NAME=\"X 1\"\n"),
        link("rootfs/bin", b'2', "usr/bin"),
        file("rootfs/usr/bin/sh", b"x"),
        link("rootfs/bin/sh2", b'1', "rootfs/usr/bin/sh"),
        file("rootfs/etc/ssh/ssh_host_rsa_key", b"secret"),
        file("rootfs/sbin/init", b"x"),
        file("templates/hosts.tpl", b""),
    ];
    let end = [0; 1024];
    let (contents, out) = judge(&[&bytes_of(&image)[..], &end].concat()).expect("understood");
    assert_eq!((contents.init, contents.os.as_deref()), (Init::Other, Some("X 1")));
    assert_eq!(contents.notes.len(), 1, "{:?}", contents.notes);
    assert!(contents.notes[0].contains("beside the root"), "{:?}", contents.notes);
    let list = listing(&out);
    assert!(list.contains(&"usr/bin/sh2 -> usr/bin/sh".to_owned()), "{list:?}");
    assert!(
        !list
            .iter()
            .any(|p| p.contains("rootfs") || p.contains("metadata") || p.contains("ssh_host"))
    );
    let text = String::from_utf8_lossy(&out);
    assert!(!text.contains("0123456789abcdef") && !text.contains("secret"));
    let around = [dir("debian"), file("debian/etc/x", b""), file("debian/usr/x", b"")];
    let (_, out) = judge(&[&bytes_of(&around)[..], &end].concat()).expect("understood");
    assert_eq!(listing(&out), ["./", "etc", "etc/x", "usr", "usr/x"]);
    let none = judge(&[&bytes_of(&[file("x", b"")])[..], &end].concat());
    assert!(matches!(none, Err(Refused::Bad { .. })));
    let (contents, _) = judge(&archive(&[])).expect("a system without an init");
    assert!(contents.notes[0].contains("no /sbin/init"), "{:?}", contents.notes);
}
