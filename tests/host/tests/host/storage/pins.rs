//! Who of the node can hold a volume, and what becomes of it then.

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ves_host::mount::volumes::Volumes;
use ves_host::mount::{self, Change, FsContext, attr};
use ves_host::{id_map, loopdev};
use ves_kit::{LoopFile, MountGuard, TestLayout, need, run, wait_until};
use ves_proto::Reason;
use ves_storage::host::Host;
use ves_storage::plan::{Desired, Mount};
use ves_types::layout::volume as name_of;
use ves_types::{Fence, Generation, IdSlot};

use super::support::{Storage, needs};

/// How long what must happen may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A process that ends with the test.
struct Sleeper(Child);

impl Sleeper {
    fn spawn(command: &mut Command) -> Self {
        let sleeper = Self(command.stdin(Stdio::null()).spawn().expect("it starts"));
        wait_until(PATIENCE, "it sleeps", || {
            std::fs::read_to_string(format!("/proc/{}/comm", sleeper.0.id()))
                .is_ok_and(|name| name == "sleep\n")
        });
        sleeper
    }

    fn mounts(&self) -> String {
        std::fs::read_to_string(format!("/proc/{}/mountinfo", self.0.id())).expect("it lives")
    }

    fn words(&self, user: &str) -> String {
        format!("sleep (pid {}, user {user})", self.0.id())
    }

    fn end(mut self) {
        self.0.kill().and_then(|()| self.0.wait()).expect("it ends");
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        self.0.kill().and_then(|()| self.0.wait()).ok();
    }
}

fn at(storage: &Storage, generation: u64) -> Fence {
    Fence { generation: Generation(generation), ..storage.fence() }
}

/// The loop devices that show the volume's image.
fn devices(storage: &Storage) -> Vec<String> {
    let image = format!("/volumes/{}.img", storage.ct());
    storage.loops().into_iter().filter(|line| line.contains(&image)).collect()
}

#[test]
fn who_copies_the_nodes_mount_namespace_holds_no_volume() {
    if !needs() {
        return;
    }
    let storage = Storage::new();
    storage.busybox();
    let on = storage.desired(128);
    let off = Desired { mounted: false, ..on.clone() };
    let volume = storage.service.ensure(&at(&storage, 1), &on).expect("made");
    let device = volume.usage.device.expect("active");
    let number = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups", "unshare"];
    let copy = ["-Urm", "sleep", "1000"];
    let copies = [
        Sleeper::spawn(Command::new("unshare").args(["-m", "sleep", "1000"])),
        Sleeper::spawn(Command::new("unshare").args(copy)),
        Sleeper::spawn(Command::new("setpriv").args(nobody).args(copy)),
    ];
    let own = std::fs::read_to_string("/proc/self/mountinfo").expect("a table");
    for table in copies.iter().map(Sleeper::mounts).chain([own]) {
        assert!(!table.lines().any(|line| line.split(' ').nth(2) == Some(&number)), "{table}");
        assert!(!table.contains("/volumes/ns mnt:["), "the namespace's file is not copied either");
    }
    let begun = Instant::now();
    let stopped = storage.service.ensure(&at(&storage, 2), &off).expect("unmounted");
    assert_eq!((stopped.holder, stopped.usage.device), (None, None));
    assert!(begun.elapsed() < Duration::from_secs(5), "nobody is waited for");
    storage.service.ensure(&at(&storage, 3), &on).expect("mounted");
    storage.service.remove(&at(&storage, 4)).expect("removed");
    assert_eq!(devices(&storage), Vec::<String>::new());
}

#[test]
fn a_program_that_works_inside_keeps_nothing_from_going_on_and_is_named() {
    if !needs() {
        return;
    }
    let mut storage = Storage::new();
    storage.busybox();
    let on = storage.desired(128);
    let off = Desired { mounted: false, ..on.clone() };
    storage.service.ensure(&at(&storage, 1), &on).expect("made");
    storage.inside("echo one > etc/mark");
    let sleeper = |storage: &Storage| {
        Sleeper::spawn(Command::new("sleep").arg("1000").current_dir(storage.root().join("etc")))
    };
    let first = sleeper(&storage);
    let stopped = storage.service.ensure(&at(&storage, 2), &off).expect("unmounted");
    assert_eq!((stopped.mounted, stopped.holder), (false, Some(first.words("root"))));
    let seen = storage.host.observe(storage.ct(), None).expect("seen");
    assert!(seen.mount == Mount::None && seen.leaving && seen.device.is_some(), "{seen:?}");
    let all = storage.service.list(&[]).expect("listed");
    assert_eq!(all[0].holder, Some(first.words("root")), "{all:?}");

    // What needs the device free is refused; what does not goes on, on the same file system.
    let fault = storage.service.remove(&at(&storage, 3)).expect_err("held");
    assert_eq!(fault.reason, Reason::Mounted, "{fault}");
    assert_eq!(fault.facts.get("holder"), Some(&first.words("root")), "{fault}");
    storage.restart();
    let started = storage.service.ensure(&at(&storage, 4), &on).expect("mounted");
    assert_eq!((started.mounted, started.holder), (true, None));
    assert_eq!(storage.inside("cat etc/mark && echo two > etc/mark"), "one\n");
    // Whoever held it ends while it is up: it stays up.
    first.end();
    let seen = storage.host.observe(storage.ct(), None).expect("seen");
    assert!(matches!(seen.mount, Mount::Ours { .. }) && !seen.leaving, "{seen:?}");
    assert_eq!(storage.inside("cat etc/mark"), "two\n");

    // And one that ends while it is down takes the device along, without anybody's doing.
    let second = sleeper(&storage);
    let file = std::fs::File::open(storage.root().join("etc/mark")).expect("there");
    storage.service.ensure(&at(&storage, 5), &off).expect("unmounted");
    second.end();
    let fault = storage.service.remove(&at(&storage, 6)).expect_err("held");
    assert!(
        fault.message.contains("fuser -vm /dev/loop"),
        "this process is not looked at: {fault}"
    );
    assert_eq!(devices(&storage).len(), 1);
    drop(file);
    wait_until(PATIENCE, "the device goes", || devices(&storage).is_empty());
    storage.service.remove(&at(&storage, 7)).expect("removed");
}

#[test]
fn a_namespace_that_is_half_made_or_taken_away_is_made_whole() {
    if !needs() {
        return;
    }
    let storage = Storage::new();
    storage.busybox();
    let layout = storage.dir.layout().clone();
    let dir = layout.volumes_dir();
    let text = dir.to_str().expect("test paths are text").to_owned();
    let pin = format!("{text}/ns");
    let volumes = Volumes::new(&dir);
    let wish = storage.desired(128);
    storage.service.ensure(&at(&storage, 1), &wish).expect("made");
    storage.inside("echo kept > etc/mark");
    let strip = |how_far: usize| {
        let steps: [&dyn Fn(); 4] = [
            &|| drop(run("umount", &[&pin])),
            &|| std::fs::remove_file(&pin).expect("removed"),
            &|| drop(run("umount", &[&text])),
            &|| std::fs::remove_dir(&dir).expect("removed"),
        ];
        steps.iter().take(how_far).for_each(|step| step());
    };
    for (generation, how_far) in (2..).zip(0..=4) {
        strip(how_far);
        if how_far == 3 {
            // Bound by a process that was killed before it could say that it is nobody else's.
            run("mount", &["--bind", &text, &text]);
            run("mount", &["--make-shared", &text]);
        }
        let seen = storage.host.observe(storage.ct(), None).expect("seen");
        assert_eq!(seen.mount == Mount::None, how_far > 0, "{how_far}: {seen:?}");
        let again = storage.service.ensure(&at(&storage, generation), &wish).expect("mounted");
        assert!(again.mounted, "{how_far}");
        assert_eq!(storage.inside("cat etc/mark"), "kept\n", "{how_far}");
        assert!(!volumes.make().expect("there"), "{how_far}");
        let table = std::fs::read_to_string("/proc/self/mountinfo").expect("a table");
        let mut points = table.lines().filter(|line| line.contains(&text));
        assert!(points.all(|line| !line.contains("shared:")), "{how_far}: {table}");
    }
    // Many at once make one.
    storage
        .service
        .ensure(&at(&storage, 10), &Desired { mounted: false, ..wish.clone() })
        .expect("off");
    strip(4);
    let made: usize = std::thread::scope(|scope| {
        let makers: Vec<_> =
            (0..8).map(|_| scope.spawn(|| volumes.make().expect("made"))).collect();
        makers.into_iter().map(|maker| usize::from(maker.join().expect("it ends"))).sum()
    });
    assert_eq!(made, 1);
    let table = std::fs::read_to_string("/proc/self/mountinfo").expect("a table");
    let points = table.lines().filter(|line| line.contains(&text)).collect::<Vec<_>>();
    assert_eq!(points.len(), 2, "the directory and the file: {points:#?}");
    storage.service.ensure(&at(&storage, 11), &wish).expect("mounted");
    assert_eq!(storage.inside("cat etc/mark"), "kept\n");
}

#[test]
fn nothing_of_the_node_is_in_the_namespace() {
    need!(need::root(), need::disposable(), need::program("mke2fs", "e2fsprogs"));
    let kit = TestLayout::new();
    let device = LoopFile::create(&kit.dir().join("image"), 64 << 20);
    let path = device.device().to_str().expect("text").to_owned();
    run("mke2fs", &["-q", "-t", "ext4", &path]);
    // Where systemd runs all of a node's mounts are shared: what is unmounted below one, is everywhere.
    let dir = kit.dir().join("of-the-node");
    let point = dir.join("mounted");
    std::fs::create_dir_all(&point).expect("made");
    let text = dir.to_str().expect("text");
    let shared = MountGuard::mount(&["--bind", text], &dir);
    run("mount", &["--make-shared", text]);
    let mounted = MountGuard::mount(&["-t", "ext4", &path], &point);
    let volumes = Volumes::new(kit.layout().volumes_dir());
    assert!(volumes.make().expect("made"));
    assert!(mount::is_mount_point(&point).expect("told"), "the node keeps what it has mounted");
    drop((mounted, shared));
    let number = path.trim_start_matches("/dev/loop").parse().expect("a number");
    wait_until(PATIENCE, "it is not held there", || !loopdev::held(number).expect("told"));
    let inside = volumes.need().expect("made before");
    let stat = rustix::fs::fstat(&inside).expect("told");
    assert_eq!((stat.st_mode & 0o7777, stat.st_uid), (0o700, 0));
    let free = inside.usage(".").expect("told");
    assert!(free.f_blocks * free.f_frsize <= 64 << 10, "nobody fills the node's memory");
    assert_eq!(inside.look("101").expect("seen"), None);
    inside.clone_mount("101").expect_err("no directory is taken for a volume");

    // It ends when nothing is mounted in it, and leaves nothing.
    let tree = FsContext::new("tmpfs").and_then(|fs| fs.mount(0)).expect("a file system");
    inside.attach(&tree, "101").expect("mounted");
    assert!(!volumes.end().expect("looked at"), "it is used");
    inside.clone_mount("101").expect("still there");
    inside.unmount("101").expect("unmounted");
    inside.clone_mount("101").expect_err("an empty directory is no volume either");
    assert!(volumes.end().expect("ended") && volumes.end().expect("ended before"));
    assert!(!kit.layout().volumes_dir().exists());
    let table = std::fs::read_to_string("/proc/self/mountinfo").expect("a table");
    assert!(!table.contains(kit.dir().to_str().expect("text")), "{table}");
}

#[test]
fn what_an_older_release_mounted_on_the_node_is_brought_over() {
    if !needs() {
        return;
    }
    let mut storage = Storage::new();
    storage.busybox();
    let wish = storage.desired(128);
    let volume = storage.service.ensure(&at(&storage, 1), &wish).expect("made");
    let device = volume.usage.device.expect("active");
    let path = loopdev::path(rustix::fs::minor(device));
    let layout = storage.dir.layout().clone();
    let old = layout.ct_old_root(storage.ct());
    // As such a release did, with and without what this one would have done before it was killed.
    for killed_half_way in [false, true] {
        std::fs::create_dir_all(&old).expect("made");
        let slot: IdSlot = wish.slot;
        let ids = id_map::namespace(slot.base(), IdSlot::MAPPED).expect("a map");
        let tree = FsContext::new("ext4").and_then(|fs| fs.set("source", &path));
        let tree = tree.and_then(|fs| fs.mount(attr::NODEV)).expect("mounted");
        let change = Change { idmap: Some(ids.as_fd()), ..Change::default() };
        mount::change(&tree, change, "a volume").expect("mapped");
        mount::attach(&tree, &old).expect("mounted");
        drop(tree);
        let user = Sleeper::spawn(Command::new("sleep").arg("1000").current_dir(old.join("etc")));
        let inside = Volumes::new(layout.volumes_dir()).need().expect("made before");
        if !killed_half_way {
            inside.unmount(&name_of(storage.ct())).expect("unmounted");
        }
        storage.restart();
        let seen = storage.host.observe(storage.ct(), None).expect("seen");
        assert_eq!(seen.mount, Mount::Ours { slot: Some(wish.slot) }, "{killed_half_way}");
        assert!(!old.exists(), "{killed_half_way}");
        let table = std::fs::read_to_string("/proc/self/mountinfo").expect("a table");
        assert!(!table.contains(old.to_str().expect("text")), "{table}");
        let mark = format!("/proc/{}/cwd/mark", user.0.id());
        storage.inside("echo kept > etc/mark");
        assert_eq!(std::fs::read(mark).expect("who uses it notices nothing"), b"kept\n");
    }
    storage.service.remove(&at(&storage, 2)).expect("removed");
    assert_eq!(devices(&storage), Vec::<String>::new());
    let numbers: BTreeSet<_> = loopdev::attached().expect("told").into_iter().collect();
    assert!(!numbers.iter().any(|(n, _)| *n == rustix::fs::minor(device)), "{numbers:?}");
}
