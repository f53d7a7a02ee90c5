//! Who may ask the starter of containers, and for what, on the real kernel.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::thread::{CapabilitySet, CapabilitySets};
use ves_init_proto::frame::{Frame, Tag};
use ves_init_proto::report::{Created, Request};
use ves_init_proto::{Launch, StartRequest};
use ves_kit::{Proc, need, wait_until};

use super::support::{World, needs};
use super::unit_namespaces::{namespace_of_a_unit, starter};

/// An init that never ends by itself.
const STUBBORN: &str = "trap '' USR2 TERM; while :; do sleep 1; done";

/// What is reported to a peer of the starter, which `setpriv` makes with these words.
fn ask(world: &World, privileges: &[&str], request: &[u8]) -> Option<Created> {
    let launch = Launch::Monitor { ct: world.ct };
    let mut child = Command::new("setpriv")
        .args(privileges)
        .arg(env!("CARGO_BIN_EXE_starter-client"))
        .arg(world.layout().starter_socket())
        .arg(serde_json::to_string(&launch).expect("it can be said"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut stdin = child.stdin.take().expect("piped");
    // Who is sent away reads nothing.
    stdin.write_all(request).ok();
    drop(stdin);
    let out = child.wait_with_output().expect("it ends");
    assert!(out.status.success(), "{privileges:?}: it reaches the socket");
    (!out.stdout.is_empty()).then(|| serde_json::from_slice(&out.stdout).expect("a report"))
}

#[test]
fn only_the_lifecycle_daemon_is_served_and_only_containers_are_made() {
    need!(need::program("setpriv", "util-linux"), need::program("nsenter", "util-linux"));
    if !needs() {
        return;
    }
    let world = World::new(9484, |_| {});
    let unit = namespace_of_a_unit();
    let _starter = starter(world.layout(), &unit, true);
    let request =
        StartRequest { incarnation: 1, spec: world.script(STUBBORN), allow_devices: vec![] };
    let request = serde_json::to_vec(&request).expect("it can be said");
    let with = |powers: &str| format!("--bounding-set=-all,{powers}");
    // Another daemon of the same user: as networkd, and as storaged is.
    for powers in ["+net_admin,+sys_admin", "+sys_admin,+sys_chroot,+setuid,+setgid,+sys_resource"]
    {
        let words = [&with(powers), "--inh-caps=-all", "--no-new-privs"];
        assert_eq!(ask(&world, &words, &request), None, "{powers}");
    }
    // Another user, of whatever powers, even where the socket's mode lets it in.
    let socket = world.layout().starter_socket();
    fs::set_permissions(&socket, PermissionsExt::from_mode(0o666)).expect("set");
    fs::set_permissions(world.layout().run_dir(), PermissionsExt::from_mode(0o755)).expect("set");
    let powers = "-all,+sys_admin,+sys_chroot,+dac_override,+kill";
    let (inherited, ambient) = (format!("--inh-caps={powers}"), format!("--ambient-caps={powers}"));
    let other = ["--reuid=65534", "--regid=65534", "--clear-groups", &inherited, &ambient];
    assert_eq!(ask(&world, &other, &request), None);
    // The daemon itself is not obeyed when it brings a plan of its own.
    let daemon = [&with("+sys_admin,+sys_chroot,+dac_override,+kill"), "--no-new-privs"];
    let proof = world.layout().run_dir().join("proof");
    let plan = format!(
        r#"{{"dir":"{0}","incarnation":1,"memo":"","steps":[{{"exec":{{"argv":["/bin/sh","-c",
        "id >{1}"],"env":[]}}}}]}}"#,
        world.layout().run_dir().display(),
        proof.display(),
    );
    match ask(&world, &daemon, plan.as_bytes()) {
        Some(Created::Failed(failure)) => assert!(failure.message.contains("dir"), "{failure:?}"),
        other => panic!("no refusal: {other:?}"),
    }
    assert!(!proof.exists(), "nothing of it was done");
    assert!(world.observe().monitor.is_none(), "until here nothing was made");
    fs::create_dir_all(world.layout().ct_dir(world.ct)).expect("made");
    // Those who may ask and say nothing do not keep it from the others.
    let _silent: Vec<_> = (0..5)
        .map(|_| {
            let mut silent = Command::new("setpriv");
            silent.args(daemon).arg(env!("CARGO_BIN_EXE_starter-client"));
            silent.arg(world.layout().starter_socket()).stdin(Stdio::null());
            Proc::spawn(silent)
        })
        .collect();
    let begun = Instant::now();
    ask(&world, &daemon, b"nonsense");
    // Each of them is waited for for two seconds.
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    let made = ask(&world, &daemon, &request);
    assert!(matches!(made, Some(Created::Waiting { .. })), "{made:?}");
    wait_until(Duration::from_secs(60), "it waits", || {
        world.observe().monitor.is_some_and(|monitor| !monitor.running)
    });
    world.stop(0);
    world.start(world.script(STUBBORN));
    assert_eq!(world.sh("hostname").trim(), "web.example.org");
}

/// What a monitor answers a user who passes any mode: its first bytes, none where it hangs up.
fn asked_by(user: u32, socket: std::path::PathBuf) -> Vec<u8> {
    let ask = move || {
        // The kernel notes the thread that connects.
        let uid = rustix::process::Uid::from_raw(user);
        let powers = CapabilitySet::DAC_OVERRIDE;
        let sets = CapabilitySets { effective: powers, permitted: powers, inheritable: powers };
        rustix::thread::set_keep_capabilities(true).expect("kept");
        rustix::thread::set_thread_res_uid(uid, uid, uid).expect("changed");
        rustix::thread::set_capabilities(None, sets).expect("few");
        let mut monitor = UnixStream::connect(socket).expect("its mode lets in");
        monitor.set_read_timeout(Some(Duration::from_secs(60))).expect("set");
        // Who is sent away may find it closed already.
        monitor.write_all(&Frame::json(Tag::Request, &Request::Status).encode()).ok();
        let mut bytes = vec![0; 64];
        let heard = monitor.read(&mut bytes);
        match heard {
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => bytes.clear(),
            heard => bytes.truncate(heard.expect("an answer, or the end")),
        }
        bytes
    };
    std::thread::spawn(ask).join().expect("no panic")
}

#[test]
fn a_monitor_answers_root_and_the_lifecycle_daemon_only() {
    if !needs() {
        return;
    }
    let world = World::new(9485, |_| {});
    world.start(world.script(STUBBORN));
    let socket = || ves_init_proto::report::socket(&world.layout().ct_dir(world.ct));
    assert!(!asked_by(0, socket()).is_empty());
    assert!(asked_by(65_534, socket()).is_empty());
    world.stop(0);
}
