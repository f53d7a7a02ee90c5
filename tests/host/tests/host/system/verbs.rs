//! The verbs of a day's work through `virtctl` and five real daemons: changes of a running
//! container, sessions inside, lists, templates, and what a container does to itself.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use serde_json::Value;
use ves_host::cgroup::Hierarchies;
use ves_kit::{Proc, Rootfs, TestNode, http, need, node, wait_until};
use ves_types::CtId;
use ves_types::layout;

/// How long what must happen may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A web server that says hello on the console.
fn rootfs() -> Rootfs {
    let rootfs = Rootfs::web();
    let hello = "echo hello on the console >/dev/console\n";
    std::fs::write(rootfs.dir().join("etc/rc"), hello).expect("writable");
    rootfs
}

/// A field of a container, by `list`.
#[track_caller]
fn field(node: &TestNode, ct: CtId, name: &str) -> Value {
    node.json(&format!("list {ct} --fields {name}"))[0][name].clone()
}

/// The limit of a resource, by `resources`.
#[track_caller]
fn limit(node: &TestNode, ct: CtId, name: &str) -> Value {
    let rows = node.json(&format!("resources {ct}"));
    let row = rows.as_array().and_then(|rows| rows.iter().find(|row| row["resource"] == name));
    row.map_or(Value::Null, |row| row["limit"].clone())
}

/// Reads a terminal until its screen has this.
#[track_caller]
fn read_until(terminal: &mut std::fs::File, screen: &mut String, text: &str) {
    let end = Instant::now() + PATIENCE;
    while !screen.contains(text) {
        let left = end.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).expect("short");
        let mut fds = [PollFd::new(terminal, PollFlags::IN)];
        assert!(poll(&mut fds, Some(&left)) != Ok(0), "no {text:?} in time: {screen:?}");
        let mut piece = [0; 4096];
        let read = terminal.read(&mut piece).expect("readable");
        screen.push_str(&String::from_utf8_lossy(piece.get(..read).unwrap_or_default()));
    }
}

fn runs(node: &TestNode, ct: CtId) -> bool {
    field(node, ct, "status") == "running"
}

#[test]
fn a_running_container_is_changed_without_disturbing_it() {
    need!(node::node());
    let node = TestNode::start().with_template("web", &rootfs());
    let (ct, spare) = (node.ct(), node.ct());
    let (stays, comes): (Ipv4Addr, Ipv4Addr) = (node::ipv4(ct), node::ipv4(spare));
    node.ok(&format!(
        "create {ct} --ostemplate web --ipadd {stays} --diskspace 128M --ram 64M --numproc 60"
    ));
    node.ok(&format!("start {ct}"));
    http::get_within(stays.into(), PATIENCE).expect("it answers");
    let init = field(&node, ct, "init_pid");

    let (stop, answered, lost) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let counter = match http::get(IpAddr::V4(stays), PATIENCE) {
                    Ok(_) => &answered,
                    Err(_) => &lost,
                };
                counter.fetch_add(1, Ordering::Relaxed);
            }
        });
        let result = std::panic::catch_unwind(|| {
            for _ in 0..5 {
                node.ok(&format!("set {ct} --ipadd {comes} --save"));
                http::get_within(comes.into(), PATIENCE).expect("the new address answers");
                node.ok(&format!("set {ct} --ipdel {comes} --save"));
            }
        });
        stop.store(true, Ordering::Relaxed);
        result.expect("addresses come and go");
    });
    assert!(answered.into_inner() > 0);
    assert_eq!(lost.into_inner(), 0, "requests to the address that stays");
    assert_eq!(field(&node, ct, "init_pid"), init);

    // What is not saved lasts until it stops; what is saved, longer.
    node.ok(&format!("set {ct} --numproc 70 --cpus 1 --cpulimit 50"));
    assert_eq!(limit(&node, ct, "numproc"), 70);
    node.ok(&format!("set {ct} --ram 96M --name n{ct} --save"));
    let pages = (96_u64 << 20) / 4096;
    assert_eq!(limit(&node, ct, "physpages"), pages);
    // Of its disk: the device it is on now, and the one it is on after a restart.
    node.ok(&format!("set {ct} --iolimit 1M --ioprio 6 --cpumask 0 --save"));
    assert_eq!(field(&node, ct, "iolimit"), 1 << 20);
    let throttled = || {
        let dirs = Hierarchies::detect().expect("there are some").dirs(&layout::cgroup(ct));
        let files = ["blkio.throttle.read_bps_device", "io.max"];
        let texts = dirs.iter().flat_map(|dir| files.map(|f| std::fs::read_to_string(dir.join(f))));
        texts.filter_map(Result::ok).collect::<String>()
    };
    assert!(throttled().contains("1048576"), "{}", throttled());
    node.ok(&format!("restart n{ct} --fast"));
    assert!(throttled().contains("1048576"), "{}", throttled());
    node.ok(&format!("set {ct} --iolimit 0 --save"));
    assert_eq!(throttled(), "");
    assert_eq!(limit(&node, ct, "numproc"), 60);
    assert_eq!(limit(&node, ct, "physpages"), pages);
    assert_ne!(field(&node, ct, "init_pid"), init);
    assert_eq!(field(&node, ct, "name"), format!("n{ct}"));
}

#[test]
fn sessions_lists_and_templates() {
    need!(node::node());
    let node = TestNode::start().with_template("web", &rootfs());
    let (ct, copy) = (node.ct(), node.ct());
    node.ok(&format!("create {ct} --ostemplate web --hostname one --diskspace 128M --numproc 60"));

    // Without processes.
    let status = |words: &str| format!("CTID {ct} exist {words}\n");
    node.ok(&format!("mount {ct}"));
    assert_eq!(node.ok(&format!("status {ct}")), status("mounted down"));
    node.ok(&format!("umount {ct}"));
    assert_eq!(node.ok(&format!("status {ct}")), status("unmounted down"));

    // Who watches sees it start.
    let mut events = node.virtctl();
    events.args(["watch", "--follow", "-o", "json"]).stdout(Stdio::piped());
    let mut events = Proc::spawn(events);
    let mut lines = BufReader::new(events.child().stdout.take().expect("piped")).lines();
    lines.next().expect("a first event").expect("readable");
    node.ok(&format!("start {ct}"));
    assert_eq!(node.ok(&format!("status {ct}")), status("mounted running"));
    let seen = lines
        .map(|line| serde_json::from_str::<Value>(&line.expect("readable")).expect("JSON"))
        .find(|event| event["ctid"] == ct.get() && event["status"] == "running");
    assert!(seen.is_some());
    drop(events);

    // Commands.
    assert_eq!(node.ok(&format!("exec {ct} hostname")), "one\n");
    let code = |words: &[&str]| {
        let ran = node.virtctl().args(words).output().expect("virtctl starts");
        (ran.status.code(), String::from_utf8_lossy(&ran.stdout).into_owned())
    };
    let id = ct.to_string();
    assert_eq!(code(&["exec", &id, "exit 42"]).0, Some(42));
    assert_eq!(code(&["exec", &id, "kill -9 $$"]).0, Some(128 + 9));
    let (status, environment) = code(&["exec2", &id, "env"]);
    // Words are a line of shell, and after "--" they are a program and its arguments.
    assert_eq!(node.ok(&format!("exec {ct} cd /srv && pwd")), "/srv\n");
    let exact = code(&["exec", &id, "--", "sh", "-c", "echo \"$1\"", "sh", "a  b && c"]);
    assert_eq!(exact, (Some(0), "a  b && c\n".to_owned()));
    for (argv, status) in [("/no/such/program", 127), ("/etc/passwd", 126)] {
        assert_eq!(code(&["exec", &id, argv]).0, Some(status), "{argv}");
        assert_eq!(code(&["exec", &id, "--", argv]).0, Some(status), "{argv}");
    }
    assert_eq!(status, Some(0));
    assert!(environment.lines().all(|line| !line.starts_with("VES_")), "{environment}");
    let mut cat = node.virtctl();
    cat.args(["exec", &id, "cat"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut cat = Proc::spawn(cat);
    cat.child().stdin.take().expect("piped").write_all(&[7; 100_000]).expect("it reads");
    let mut back = Vec::new();
    cat.child().stdout.take().expect("piped").read_to_end(&mut back).expect("readable");
    assert_eq!(back, [7; 100_000]);

    // A script runs whatever has become of the usual places.
    let script = node.dir().join("script");
    std::fs::write(&script, "#!/bin/sh\necho \"in order: $1\"; exit 4\n").expect("written");
    node.ok(&format!("exec {ct} mount -t tmpfs -o noexec none /run; mv /tmp /away; >/tmp"));
    let mut run = node.virtctl();
    let ran = run.args(["runscript", &id]).arg(&script).arg("a b").output().expect("it starts");
    assert_eq!(String::from_utf8_lossy(&ran.stdout), "in order: a b\n", "{ran:?}");
    assert_eq!(ran.status.code(), Some(4), "{ran:?}");
    assert_eq!(node.ok(&format!("exec {ct} umount /run; rm /tmp; mv /away /tmp; ls /tmp")), "");

    // A terminal sees the end of input, also in the middle of a line.
    for input in ["hello\n", "hello", ""] {
        let mut cat = node.virtctl();
        cat.args(["exec", "-t", &id, "cat"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut cat = Proc::spawn(cat);
        cat.child().stdin.take().expect("piped").write_all(input.as_bytes()).expect("it reads");
        let mut back = String::new();
        cat.child().stdout.take().expect("piped").read_to_string(&mut back).expect("readable");
        assert_eq!(cat.wait().code(), Some(0), "{input:?}");
        assert!(back.contains(input.trim()), "{back:?}");
    }

    // A terminal: its size, and the status of the shell.
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
    grantpt(&ours).expect("granted");
    unlockpt(&ours).expect("unlocked");
    let size = Winsize { ws_row: 33, ws_col: 77, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(&ours, size).expect("a size");
    let path = ptsname(&ours, Vec::new()).expect("a name").into_string().expect("text");
    let theirs = || {
        let options = std::fs::File::options().read(true).write(true).open(&path);
        Stdio::from(options.expect("the other end opens"))
    };
    let mut enter = node.virtctl();
    enter.args(["enter", &id]).stdin(theirs()).stdout(theirs()).stderr(theirs());
    let mut enter = Proc::spawn(enter);
    let mut ours = std::fs::File::from(ours);
    let mut screen = String::new();
    // What is typed before the prompt is thrown away by the shell's line editor.
    read_until(&mut ours, &mut screen, "# ");
    ours.write_all(b"stty size; exit 5\n").expect("typed");
    read_until(&mut ours, &mut screen, "33 77");
    assert_eq!(enter.wait().code(), Some(5));

    wait_until(PATIENCE, "the console remembers", || {
        node.ok(&format!("console {ct} --scrollback")).contains("hello on the console")
    });

    // Lists.
    assert_eq!(
        node.ok(&format!("list {ct} -o csv -H --fields ctid,hostname")),
        format!("{ct},one\n")
    );
    assert_eq!(node.ok("list -1").trim(), id);
    assert!(node.ok("list -o yaml").contains("hostname: one"));
    let operations = node.json("operation list");
    let start = operations.as_array().and_then(|all| all.iter().find(|op| op["kind"] == "start"));
    let start = start.and_then(|op| op["id"].as_str()).expect("the start is known").to_owned();
    let start = node.json(&format!("operation show {start}"));
    assert_eq!((&start["ctid"], &start["state"]), (&ct.get().into(), &"succeeded".into()));

    // A template out and in again.
    let file = node.dir().join("web.tar.zst");
    node.ok(&format!("template export web {}", file.display()));
    node.ok(&format!("template import {} --name again", file.display()));
    node.ok(&format!("create {copy} --ostemplate again --diskspace 128M"));
    node.ok(&format!("start {copy}"));
    assert_eq!(node.ok(&format!("exec {copy} cat /srv/www/index.html")), "ves\n");
}

#[test]
fn reboot_and_halt_from_inside_are_honoured() {
    need!(node::node());
    let node = TestNode::start().with_template("web", &rootfs());
    let ct = node.ct();
    node.ok(&format!("create {ct} --ostemplate web --diskspace 128M --numproc 60"));
    node.ok(&format!("start {ct}"));
    let init = field(&node, ct, "init_pid");
    // The session may end before it can say how.
    node.run(&format!("exec -n {ct} reboot"));
    wait_until(PATIENCE, "a new init runs", || {
        let now = field(&node, ct, "init_pid");
        runs(&node, ct) && now.as_u64().is_some_and(|pid| pid > 0) && now != init
    });
    node.run(&format!("exec -n {ct} poweroff"));
    wait_until(PATIENCE, "it is stopped", || {
        node.ok(&format!("status {ct}")).trim() == format!("CTID {ct} exist unmounted down")
    });
    // What the halt began is finished before anything else.
    wait_until(PATIENCE, "it starts again", || {
        node.run(&format!("start {ct}"));
        runs(&node, ct)
    });
}
