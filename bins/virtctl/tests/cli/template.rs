//! Templates come by a stream and go by another.
//!
//! Never here: how an archive is made of a directory, which has tests of its own.

use ves_proto::{Fault, Reason};

use crate::fake::Fake;
use crate::program::{json, out, run, virtctl};

#[test]
fn templates_come_and_go() {
    let fake = Fake::started();
    let archive = fake.dir().join("Deb.tar.zst");
    let bytes: Vec<u8> = (0..700_000u32).map(|n| n.to_le_bytes()[0]).collect();
    std::fs::write(&archive, &bytes).expect("an archive");
    let (status, stdout, stderr) = out(virtctl(&fake).args(["template", "import"]).arg(&archive));
    assert_eq!((status, stderr.as_str()), (0, "read the archive\n"));
    assert!(stdout.starts_with("template deb imported in "), "{stdout}");
    assert_eq!(fake.state().imported, bytes);
    let tree = fake.dir().join("tree");
    std::fs::create_dir_all(tree.join("etc")).expect("a tree");
    std::fs::write(tree.join("etc/os-release"), "ID=x").expect("a file");
    let (status, _, stderr) =
        out(virtctl(&fake).args(["template", "import", "--name", "t"]).arg(&tree));
    assert_eq!(status, 0, "{stderr}");
    let imported = fake.state().imported.clone();
    assert!(String::from_utf8_lossy(&imported).contains("etc/os-release"));
    let (status, _, stderr) =
        out(virtctl(&fake).args(["template", "import", "--name", "t", "-"]).write_stdin("tar"));
    assert_eq!(status, 0, "{stderr}");
    assert_eq!(fake.state().imported, b"tar");
    assert_eq!(run(&fake, "template import /nonexistent --name x").0, 2);
    assert_eq!(run(&fake, "template import oci:debian --name x").0, 5);
    assert_eq!(run(&fake, &format!("template import {} --sha256 zz", archive.display())).0, 2);
    let owners = "--map-owner 903700503:1000 --map-owner 7:8 --squash-owner";
    let import = format!("template import {} {owners}", archive.display());
    assert_eq!(run(&fake, &import).0, 0);
    let header = fake.state().header.clone();
    let pairs: Vec<_> = header.owner_mappings.iter().map(|o| (o.from, o.to)).collect();
    assert_eq!((pairs, header.squash_owners), (vec![(903_700_503, 1000), (7, 8)], true));
    for bad in ["7", "7:", "x:7", "7:-1", "7:8:9"] {
        let import = format!("template import {} --map-owner {bad}", archive.display());
        assert_eq!(run(&fake, &import).0, 2, "{bad}");
    }
    fake.state().notes = vec!["left out: device nodes, \"dev/null\"".to_owned()];
    let import = format!("template import {}", archive.display());
    let (_, stdout, stderr) = run(&fake, &format!("--quiet {import}"));
    assert!(
        stderr.ends_with("virtctl: template deb: left out: device nodes, \"dev/null\"\n"),
        "{stderr}"
    );
    assert_eq!(stdout, "");
    assert_eq!(json(&fake, &import)["notes"][0], "left out: device nodes, \"dev/null\"");
    let to = fake.dir().join("out.tar.zst");
    let export = format!("template export debian-13 {}", to.display());
    let (status, stdout, _) = run(&fake, &export);
    assert_eq!(status, 0);
    assert!(stdout.contains("(6 B)"), "{stdout}");
    assert_eq!(std::fs::read(&to).expect("the export"), b"abcdef");
    assert_eq!(run(&fake, "template export debian-13 -").1, "abcdef");
    assert_eq!(json(&fake, "template delete x")["done"], "template x deleted");
    assert!(run(&fake, "template delete x").1.starts_with("template x deleted in "));
    fake.state().faults.push_back(Fault::new(Reason::TemplateInUse, "template x is in use"));
    assert_eq!(run(&fake, "template delete x").0, 207);
}
