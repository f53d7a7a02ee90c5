//! What the root of a container can make of its own groups and processes: nothing of it keeps the
//! container from being looked at, counted and removed.

use std::ffi::OsStr;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::{Mode, OFlags};
use ves_host::cgroup;
use ves_kit::{MountGuard, Proc, TestId, TestLayout, Undo, need, wait_until};
use ves_types::layout::{self, CGROUP_DELEGATED};
use ves_types::{Limits, UbcResource};

use super::support::{PATIENCE, Rig, row};

/// Makes groups one in another, with the longest names; the innermost, and how many there are.
fn nest(dir: &Path, levels: usize) -> (OwnedFd, usize) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let name = "n".repeat(250);
    let mut here = rustix::fs::open(dir, flags, Mode::empty()).expect("it is there");
    for level in 0..levels {
        if rustix::fs::mkdirat(&here, &name, Mode::from(0o755)).is_err() {
            return (here, level);
        }
        here = rustix::fs::openat(&here, &name, flags, Mode::empty()).expect("it was just made");
    }
    (here, levels)
}

fn write_at(dir: impl AsFd, file: &str, text: &str) {
    let file = rustix::fs::openat(dir, file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
    rustix::io::write(file.expect("it is there"), text.as_bytes()).expect("written");
}

/// Deeper than a path is long, and than a process has descriptors.
#[test]
fn the_deepest_groups_are_read_and_removed() {
    need!(need::root());
    let (id, dir) = (TestId::take(), TestLayout::new());
    let v2 = MountGuard::mount(&["-t", "cgroup2", "none"], dir.layout().run_dir());
    let domain = v2.point().join(format!("ves-deep-{}", id.ct()));
    fs::create_dir(&domain).expect("a group");
    let path = domain.to_str().expect("text").to_owned();
    let _undo = Undo::by("find", &[&path, "-depth", "-type", "d", "-delete"]);
    let (deepest, made) = nest(&domain, 1_500);
    assert_eq!(made, 1_500);
    let mut sleeper = Proc::spawn({
        let mut command = Command::new("sleep");
        command.arg("600");
        command
    });
    write_at(&deepest, "cgroup.procs", &sleeper.id().to_string());
    drop(deepest);
    fs::create_dir(domain.join("beside")).expect("a group");
    assert_eq!(cgroup::processes(&domain).expect("readable"), [sleeper.id()]);
    let busy = cgroup::remove(&domain).expect_err("somebody is inside");
    assert!(busy.is(rustix::io::Errno::BUSY), "{busy}");
    sleeper.kill();
    cgroup::remove(&domain).expect("nobody is inside");
    assert!(!domain.exists());
}

#[test]
fn a_container_nests_its_groups_so_deep_and_no_deeper() {
    need!(need::root(), need::disposable());
    let rig = Rig::new();
    rig.service.ensure(&rig.fence(), &Limits::default()).expect("made");
    let v2 = rig.host.hierarchies().v2.as_ref().map(|v2| v2.mount.clone());
    let there = v2.is_some();
    need!(need::kernel("control groups version 2", there, "nothing is delegated without"));
    let group = v2.expect("it is there").join(layout::cgroup(rig.ct()));
    let (_, made) = nest(&group.join(CGROUP_DELEGATED), 60);
    assert_eq!(made, 31, "the delegated group is the first of 32");
    rig.service.group(rig.ct()).expect("can be looked at");
    rig.service.groups(&[]).expect("can be listed");
    rig.service.remove(&rig.fence()).expect("can be removed");
    assert!(!group.exists());
}

#[test]
fn every_lock_is_counted_however_many_there_are() {
    need!(need::root(), need::disposable());
    let rig = Rig::new();
    rig.service.ensure(&rig.fence(), &Limits::default()).expect("made");
    // More than fits into a mebibyte, in files of their own so that the kernel finds them fast.
    let program = r#"
        use Fcntl;
        for my $f (1..25) {
            open($h[$f], ">", "$ARGV[0]/$f") or die;
            for my $n (1..1000) {
                my $lock = pack("s s x4 q q l x4", F_WRLCK, 0, $n * 2, 1, 0);
                fcntl($h[$f], F_SETLK, $lock) or die "lock: $!";
            }
        }
        $| = 1; print "."; sleep 600;
    "#;
    need!(need::program("perl", "perl"));
    let mut command = Command::new("perl");
    command.args(["-e", program]).arg(rig.layout.dir()).stdout(Stdio::piped());
    let mut locker = Proc::spawn(command);
    let stdout = locker.child().stdout.as_mut().expect("it is piped");
    std::io::Read::read_exact(stdout, &mut [0]).expect("all are taken");
    rig.take_in(locker.id());
    // The kernel gives the machine's list in pieces: what somebody else locks meanwhile moves one line
    // from a piece into the next, where it is told again.
    let held = || row(&rig.group(), UbcResource::Numflock).held;
    wait_until(PATIENCE, "each is counted once", || held() == 25_000);
    locker.kill();
}

#[test]
fn a_process_whose_name_is_no_text_is_counted() {
    let counted = fs::metadata("/proc/self/fd").is_ok_and(|m| m.len() > 0);
    need!(
        need::root(),
        need::disposable(),
        need::kernel("the size of /proc/PID/fd", counted, "descriptors are counted since 6.2")
    );
    let rig = Rig::new();
    rig.service.ensure(&rig.fence(), &Limits::default()).expect("made");
    let program = rig.layout.dir().join(OsStr::from_bytes(b"a\xff"));
    fs::copy("/bin/sleep", &program).expect("copied");
    let mut command = Command::new(&program);
    command.arg("600");
    let mut sleeper = Proc::spawn(command);
    rig.take_in(sleeper.id());
    assert!(row(&rig.group(), UbcResource::Numfile).held > 0);
    sleeper.kill();
}
