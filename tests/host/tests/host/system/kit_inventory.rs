//! That the inventory sees each kind of thing that may be left behind, and sees it go: what cannot be
//! seen here could leak unnoticed.

use std::path::PathBuf;
use std::time::Duration;

use ves_kit::inventory::Kind;
use ves_kit::{Inventory, LoopFile, MountGuard, TestLayout, Undo, need, run};

#[test]
fn each_kind_is_seen_to_come_and_go() {
    need!(
        need::root(),
        need::disposable(),
        need::program("ip", "iproute2"),
        need::program("nft", "nftables")
    );
    let dir = TestLayout::new();
    let layout = dir.layout();
    // Names that nobody else has, to be told apart from what others do on this machine.
    let word = format!("vk{}", std::process::id());
    let place = dir.dir().to_string_lossy().into_owned();
    let (w, p) = (word.clone(), place.clone());
    let ours = move |_: Kind, line: &str| line.contains(&w) || line.contains(&p);
    let before = Inventory::take(layout).only(&ours);

    let image = dir.layout().state_dir().join("image");
    let disk = LoopFile::create(&image, 1 << 20);
    let point = dir.layout().run_dir().join("mount");
    std::fs::create_dir(&point).expect("a new directory");
    let mount = MountGuard::mount(&["-t", "tmpfs", "none"], &point);
    let hierarchy = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"]
        .iter()
        .map(PathBuf::from)
        .find(|p| p.join("cgroup.procs").exists())
        .expect("a control group hierarchy");
    let group = hierarchy.join(format!("ves-{word}"));
    std::fs::create_dir(&group).expect("a control group");
    let ungroup = Undo::by("rmdir", &[&group.to_string_lossy()]);
    let netns = dir.layout().run_dir().join("netns");
    std::fs::write(&netns, "").expect("a file to mount on");
    let pin = MountGuard::mount(&["--bind", "/proc/self/ns/net"], &netns);
    let unlink = Undo::by("ip", &["link", "del", &word]);
    run("ip", &["link", "add", &word, "type", "veth", "peer", "name", &format!("{word}p")]);
    run("ip", &["link", "set", &word, "up"]);
    run("ip", &["route", "add", "192.0.2.77/32", "dev", &word]);
    run("ip", &["-6", "route", "add", "2001:db8::77/128", "dev", &word]);
    let mac = "02:00:00:00:00:77";
    run("ip", &["neigh", "add", "192.0.2.77", "lladdr", mac, "dev", &word, "nud", "permanent"]);
    let untable = Undo::by("nft", &["delete", "table", "inet", &word]);
    run("nft", &["add", "table", "inet", &word]);
    let set = "{ type ipv4_addr; counter; elements = { 192.0.2.77 } ; }";
    run("nft", &["add", "set", "inet", &word, "guard", set]);

    let diff = before.diff(&Inventory::take(layout).only(&ours));
    assert!(diff.vanished.is_empty(), "{diff}");
    let seen = |kind: Kind, text: &str| {
        assert!(
            diff.appeared.iter().any(|(k, l)| *k == kind && l.contains(text)),
            "{kind:?}\n{diff}"
        );
    };
    seen(Kind::Loop, "state/image");
    seen(Kind::File, "state/image");
    seen(Kind::Mount, "run/mount tmpfs");
    seen(Kind::Mount, "run/netns nsfs");
    seen(Kind::Cgroup, &format!("ves-{word}"));
    seen(Kind::Link, &format!("{word} veth"));
    seen(Kind::Route, "-4 192.0.2.77 dev");
    seen(Kind::Route, "-6 2001:db8::77 dev");
    seen(Kind::Neighbour, mac);
    seen(Kind::Nft, "set guard | elements = { 192.0.2.77");

    // Nothing of it changes by itself.
    let again = Inventory::take(layout).only(&ours);
    let diff = again.diff(&Inventory::take(layout).only(&ours));
    assert!(diff.is_empty(), "{diff}");

    drop((untable, unlink, ungroup, pin, mount, disk));
    std::fs::remove_file(&netns).expect("it is no mount point any more");
    std::fs::remove_dir(&point).expect("it is empty again");
    std::fs::remove_file(&image).expect("it is free again");
    before.wait_clean_of(layout, Duration::from_secs(60), ours);
}
