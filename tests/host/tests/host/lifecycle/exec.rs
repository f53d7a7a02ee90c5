//! Commands inside, and what a container can see and do, on the real kernel.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use ves_init_proto::frame::{Frame, Tag};
use ves_init_proto::report::Ended;
use ves_kit::wait_until;
use ves_lifecycle::host::Host;
use ves_lifecycle::init_plan::Command;
use ves_lifecycle::plan::Step;
use ves_types::Capability;

use super::support::{Session, World, alive, install, needs};

const IDLE: &str = "while :; do sleep 0.2; done";

fn with_terminal(argv: &[&str]) -> Command {
    let argv = argv.iter().map(|&a| a.to_owned()).collect();
    Command { argv, terminal: Some((31, 97)), ..Command::default() }
}

#[test]
fn statuses_streams_and_environments_are_exact() {
    if !needs() {
        return;
    }
    let world = World::new(9430, |root| {
        std::fs::write(root.join("bin/plain"), "no program").expect("written");
    });
    world.start(world.script(IDLE));
    for code in [0, 1, 7, 126, 255] {
        let outcome = world.exec(&["sh", "-c", &format!("exit {code}")]);
        assert_eq!(outcome.ended, Ok(Ended::Code(code)));
    }
    assert_eq!(world.exec(&["sh", "-c", "kill -9 $$"]).ended, Ok(Ended::Signal(9)));
    let outcome = world.exec(&["sh", "-c", "echo out; echo err >&2"]);
    assert_eq!(
        (outcome.output.as_slice(), outcome.error.as_slice()),
        (&b"out\n"[..], &b"err\n"[..])
    );
    for (command, errno) in [("nonsense", 2), ("/bin/plain", 13), ("plain", 13), ("/tmp", 13)] {
        let failure = world.exec(&[command]).ended.expect_err("it cannot be executed");
        assert_eq!(failure.errno, errno, "{failure:?}");
        assert_eq!(failure.step, format!("execute {command}"));
    }
    let run = |env: &[(&str, &str)], bare| {
        let env = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let argv = vec!["/bin/env".to_owned()];
        let outcome =
            Session::begin(&world, &Command { argv, env, bare, ..Command::default() }).finish();
        let mut lines: Vec<_> = outcome.text().lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(run(&[("A", "b=c")], true), ["A=b=c"]);
    let clean = run(&[("TERM", "xterm")], false);
    let names: Vec<_> = clean.iter().filter_map(|l| l.split('=').next()).collect();
    assert_eq!(names, ["HOME", "LOGNAME", "PATH", "SHELL", "TERM", "USER"]);
    assert!(clean.contains(&"TERM=xterm".to_owned()));
    assert_eq!(world.sh("pwd").trim(), "/root");
}

#[test]
fn input_of_any_size_comes_back_and_ends() {
    if !needs() {
        return;
    }
    let world = World::new(9431, |_| {});
    world.start(world.script(IDLE));
    let mut session = world.begin(&["cat"]);
    let sent: Vec<u8> = (0..3_000_000u32).map(|n| n.to_le_bytes()[0]).collect();
    let mut writer = session.stream.try_clone().expect("cloned");
    let data = sent.clone();
    let feeder = std::thread::spawn(move || {
        use std::io::Write;
        for piece in data.chunks(40_000) {
            writer.write_all(&Frame::new(Tag::Input, piece).encode()).expect("taken");
        }
        writer.write_all(&Frame::new(Tag::InputEnd, []).encode()).expect("taken");
    });
    while session.turn() {}
    feeder.join().expect("all was taken");
    let outcome = session.finish();
    assert_eq!(outcome.ended, Ok(Ended::Code(0)));
    assert!(outcome.output == sent, "{} bytes came back", outcome.output.len());
    // All that was written before the end is there.
    let long = world.exec(&["sh", "-c", "yes x | head -c 1000000; echo last >&2"]);
    assert_eq!((long.output.len(), long.error.as_slice()), (1_000_000, &b"last\n"[..]));
}

#[test]
fn a_terminal_is_one() {
    if !needs() {
        return;
    }
    let world = World::new(9432, |_| {});
    world.start(world.script(IDLE));
    let script = "tty; stty size; trap 'stty size' WINCH; trap 'echo int; exit 5' INT; \
                  echo ready; while :; do sleep 0.1; done";
    let mut session = Session::begin(&world, &with_terminal(&["sh", "-c", script]));
    session.until("ready");
    let text = session.output();
    assert!(text.contains("/dev/pts/") && text.contains("31 97"), "{text}");
    session.send(&Frame::resize(40, 120));
    session.until("40 120");
    session.send(&Frame::new(Tag::Input, b"\x03".to_vec()));
    session.until("int");
    assert_eq!(session.finish().ended, Ok(Ended::Code(5)));
    // Without a command: a login shell.
    let mut shell = Session::begin(&world, &with_terminal(&[]));
    // What is typed before the prompt is thrown away by its line editor.
    shell.until("# ");
    shell.send(&Frame::new(Tag::Input, b"echo $0-$SHELL; exit 3\n".to_vec()));
    let outcome = shell.finish();
    assert!(outcome.text().contains("-sh-/bin/sh"), "{outcome:?}");
    assert_eq!(outcome.ended, Ok(Ended::Code(3)));
}

#[test]
fn signals_reach_the_group_and_a_lost_caller_hangs_up() {
    if !needs() {
        return;
    }
    let world = World::new(9433, |_| {});
    world.start(world.script(IDLE));
    let mut session = world.begin(&["sh", "-c", "echo up; sleep 600 | sleep 600"]);
    session.until("up");
    session.send(&Frame::new(Tag::Signal, [15]));
    assert_eq!(session.finish().ended, Ok(Ended::Signal(15)));
    wait_until(Duration::from_secs(60), "the whole group ended", || {
        !world.sh("ps -o args").contains("sleep 600")
    });
    // With a terminal or without one, a session that nobody listens to is hung up.
    for terminal in [Some((31, 97)), None] {
        let script = "trap 'echo hup > /tmp/hup; exit' HUP; echo up; while :; do sleep 0.1; done";
        let argv = ["sh", "-c", script].map(str::to_owned).to_vec();
        let mut session = Session::begin(&world, &Command { argv, terminal, ..Command::default() });
        session.until("up");
        drop(session);
        wait_until(Duration::from_secs(60), "it heard", || {
            world.exec(&["cat", "/tmp/hup"]).text() == "hup\n"
        });
        world.sh("rm /tmp/hup");
    }
}

#[test]
fn what_a_session_started_ends_with_it_but_for_what_left_it_or_asked_to_stay() {
    if !needs() {
        return;
    }
    let world = World::new(9447, |root| {
        std::os::unix::fs::symlink("busybox", root.join("bin/setsid")).ok();
    });
    world.start(world.script(IDLE));
    // Without a terminal one of them does not end by being hung up, which takes its time.
    let script = |stubborn| {
        format!(
            "trap '' TERM; sleep 601 & {stubborn} (trap '' HUP; sleep 603) & setsid sleep 604 & \
             echo up; sleep 605"
        )
    };
    let stubborn = "(trap 'echo no' HUP; sleep 602; sleep 602) &";
    let sleeps = || {
        let text = world.sh("ps -o args");
        let mut seconds: Vec<_> =
            text.lines().filter_map(|l| l.strip_prefix("sleep 60")?.parse::<u32>().ok()).collect();
        seconds.sort_unstable();
        seconds
    };
    for (terminal, stubborn, all) in
        [(Some((31, 97)), "", &[1, 3, 4, 5][..]), (None, stubborn, &[1, 2, 3, 4, 5])]
    {
        let argv = vec!["sh".to_owned(), "-c".to_owned(), script(stubborn)];
        let mut session = Session::begin(&world, &Command { argv, terminal, ..Command::default() });
        session.until("up");
        wait_until(Duration::from_secs(60), "all are there", || sleeps() == all);
        let begun = std::time::Instant::now();
        drop(session);
        wait_until(Duration::from_secs(60), "those of the session are gone", || sleeps() == [3, 4]);
        let took = begun.elapsed();
        let due = if stubborn.is_empty() { 0..5 } else { 5..10 };
        assert!(due.contains(&took.as_secs()), "{took:?}");
        // Init is the parent of those that stay.
        let parents = world.sh("for p in $(pidof sleep); do grep PPid /proc/$p/status; done");
        let of_init = parents.lines().filter(|line| line.ends_with("\t1")).count();
        assert!(of_init >= 2, "{parents}");
        world.sh("for p in $(pidof sleep); do grep -q '60[34]' /proc/$p/cmdline && kill -9 $p; done; true");
        wait_until(Duration::from_secs(60), "they are gone", || sleeps().is_empty());
    }
}

#[test]
fn nobody_inside_waits_for_who_is_outside() {
    if !needs() {
        return;
    }
    let world = World::new(9448, |_| {});
    let init = world.start(world.script("exec sleep 600"));
    // The parent of a command is inside.
    assert_ne!(world.sh("echo $PPID").trim(), "0");
    // With its supervisor killed, a command is hung up by who is inside.
    let mut session = world.begin(&[
        "sh",
        "-c",
        "exec 2>/dev/null; trap 'echo hup > /tmp/hup; exit' HUP; echo up; while :; do sleep 0.1; done",
    ]);
    session.until("up");
    assert_eq!(world.signal_supervisors(rustix::process::Signal::KILL).len(), 1);
    wait_until(Duration::from_secs(60), "it heard", || {
        world.exec(&["cat", "/tmp/hup"]).text() == "hup\n"
    });
    // With its supervisor stopped, a command ends, and so does the container.
    let mut session = world.begin(&["sh", "-c", "echo up; sleep 0.5"]);
    session.until("up");
    let before = world.count_pids();
    let mut stopped = world.signal_supervisors(rustix::process::Signal::STOP);
    wait_until(Duration::from_secs(60), "nothing is left of it", || {
        world.count_pids() < before - 1
    });
    let mut another = world.begin(&["sh", "-c", "echo up; sleep 600"]);
    another.until("up");
    stopped.extend(world.signal_supervisors(rustix::process::Signal::STOP));
    world.stop(0);
    assert!(!alive(init));
    assert_eq!(stopped.len(), 2);
    for supervisor in stopped {
        rustix::process::kill_process(supervisor, rustix::process::Signal::CONT).expect("it waits");
    }
}

#[test]
fn a_session_ends_with_its_container() {
    if !needs() {
        return;
    }
    let world = World::new(9434, |_| {});
    world.start(world.script(IDLE));
    let mut session = world.begin(&["sh", "-c", "echo up; sleep 600"]);
    session.until("up");
    world.stop(0);
    assert_eq!(session.finish().ended, Ok(Ended::Signal(9)));
    let failure = world.exec(&["true"]).ended.expect_err("it does not run");
    assert_eq!(failure.step, "enter the container");
}

#[test]
fn nothing_of_the_node_is_inside() {
    if !needs() {
        return;
    }
    let world = World::new(9435, |_| {});
    let init = world.start(world.script(IDLE));
    // Descriptors: the three, and that of the directory that is being listed.
    assert_eq!(
        world.sh("ls /proc/self/fd").split_whitespace().collect::<Vec<_>>(),
        ["0", "1", "2", "3"]
    );
    assert_eq!(world.sh("ls /proc/1/fd").split_whitespace().collect::<Vec<_>>(), ["0", "1", "2"]);
    let targets = world.sh("for n in 0 1 2; do readlink /proc/1/fd/$n; done");
    assert!(targets.lines().all(|t| t == "/dev/console"), "{targets}");
    // Environment of init.
    let env = world.sh("tr '\\0' '\\n' < /proc/1/environ");
    let mut names: Vec<_> = env.lines().filter_map(|l| l.split('=').next()).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        ["HOME", "MEMORY_PRESSURE_WATCH", "NOTIFY_SOCKET", "PATH", "TERM", "container"]
    );
    // What is inside for a session tells nothing of the node either.
    let words = world
        .sh("p=$PPID; cat /proc/$p/comm; tr -d '\\0' < /proc/$p/cmdline; ls /proc/$p/fd; true");
    assert_eq!(words, "ves-session\n", "by its name, no word and no descriptor");
    // Mounts, groups, processes, network.
    let mounts = world.sh("cat /proc/1/mountinfo /proc/self/mountinfo");
    let here = world.layout().run_dir().to_str().expect("text").to_owned();
    let sources = env!("CARGO_MANIFEST_DIR");
    for word in
        [here.as_str(), sources, "/tmp/ves", "/run/ves", "/home", "/var/lib", "ext4", "devtmpfs"]
    {
        assert!(!mounts.contains(word), "{word}: {mounts}");
    }
    assert!(!world.sh("cat /proc/1/cgroup").contains("ves"));
    let pids = world.sh("ls /proc | grep -c '^[0-9]'");
    assert!(pids.trim().parse::<u32>().expect("a number") < 10, "{pids}");
    assert_eq!(world.sh("ls /sys/class/net").trim(), "lo");
    // Its own identity: all namespaces differ from ours, ids are mapped, no id is ours.
    for ns in ["user", "pid", "mnt", "net", "ipc", "uts", "cgroup"] {
        let theirs = std::fs::read_link(format!("/proc/{init}/ns/{ns}")).expect("a namespace");
        let ours = std::fs::read_link(format!("/proc/self/ns/{ns}")).expect("a namespace");
        assert_ne!(theirs, ours, "{ns}");
        let exec = world.sh(&format!("readlink /proc/self/ns/{ns}"));
        assert_eq!(exec.trim(), theirs.to_str().expect("text"), "a command is in the same {ns}");
    }
    let map = world.sh("cat /proc/self/uid_map");
    let map: Vec<_> = map.split_whitespace().collect();
    assert_eq!(map, ["0", &world.slot.base().to_string(), "65535"]);
    let status = std::fs::read_to_string(format!("/proc/{init}/status")).expect("read");
    assert!(status.contains(&format!("Uid:\t{0}\t{0}\t{0}\t{0}", world.slot.base())), "{status}");
    // The helper that enters cannot be looked into: nobody undumpable is ever left inside.
    let score = std::fs::read_to_string(format!("/proc/{init}/oom_score_adj")).expect("read");
    assert_eq!(score.trim(), "0");
}

#[test]
fn what_is_masked_and_denied_is() {
    if !needs() {
        return;
    }
    let world = World::new(9436, |root| {
        for applet in ["nsenter", "swapoff", "date", "chroot", "mknod", "dmesg", "insmod"] {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).ok();
        }
        // That of busybox, which its shell prefers to a program, does not know all kinds.
        install(root, "unshare");
    });
    world.start(world.script(IDLE));
    for file in ["kcore", "keys", "kallsyms", "timer_list", "sysrq-trigger", "sched_debug"] {
        let text = world.sh(&format!("cat /proc/{file} 2>/dev/null | wc -c"));
        assert_eq!(text.trim(), "0", "/proc/{file}");
        let write = world.exec(&["sh", "-c", &format!("echo b > /proc/{file}")]);
        let there = world.exec(&["test", "-c", &format!("/proc/{file}")]).ended;
        assert!(write.ended != Ok(Ended::Code(0)) || there == Ok(Ended::Code(0)), "/proc/{file}");
    }
    for dir in [
        "/proc/acpi",
        "/sys/block",
        "/sys/class/block",
        "/sys/dev/block",
        "/sys/firmware",
        "/sys/kernel/debug",
        "/sys/kernel/security",
    ] {
        assert_eq!(world.sh(&format!("ls {dir} 2>/dev/null | wc -l")).trim(), "0", "{dir}");
    }
    let fails = |script: &str| {
        let outcome = world.exec(&["sh", "-c", script]);
        assert_ne!(outcome.ended, Ok(Ended::Code(0)), "{script}: {outcome:?}");
        String::from_utf8_lossy(&outcome.error).into_owned()
    };
    for file in ["kernel/core_pattern", "kernel/panic", "vm/drop_caches", "kernel/modprobe"] {
        fails(&format!("echo 1 > /proc/sys/{file}"));
    }
    fails("echo 1 > /sys/kernel/mm/ksm/run");
    for flag in ["-U", "-p -f", "-u", "-i", "-C", "-T"] {
        let error = fails(&format!("/bin/unshare {flag} /bin/true"));
        assert!(error.contains("not permitted"), "{flag}: {error}");
    }
    fails("mknod /root/sda b 8 0");
    fails("mknod /dev/sda b 8 0");
    let date = world.exec(&["date", "-s", "2001-01-01"]);
    assert!(String::from_utf8_lossy(&date.error).contains("not permitted"), "{date:?}");
    // Of whoever may, the kernel would say that it is not in use.
    let error = fails("swapoff /dev/null");
    assert!(error.contains("not permitted"), "{error}");
    // What must work: mounts of its own, host name, its own sysctls, network in its own namespace.
    world.sh("mkdir -p /mnt/t && mount -t tmpfs t /mnt/t && touch /mnt/t/x && umount /mnt/t");
    world.sh("/bin/unshare -m /bin/true && /bin/unshare -n /bin/true");
    world.sh("hostname other && hostname && echo 1 > /proc/sys/net/ipv4/ip_forward");
    world.sh("echo 2048 > /proc/sys/kernel/shmmni && ip link set lo up && ip addr add 192.0.2.1/32 dev lo");
    world.sh("touch /dev/shm/x && test -c /dev/null && echo x > /dev/null && ls /dev/mqueue");
    let caps =
        world.sh("grep -E 'Cap(Bnd|Eff)|NoNewPrivs|Seccomp:' /proc/self/status /proc/1/status");
    for line in caps.lines().filter(|l| l.contains("Cap")) {
        let hex = line.split_whitespace().last().expect("a number");
        let bits = u64::from_str_radix(hex, 16).expect("hexadecimal");
        assert_eq!(bits & Capability::never(), 0, "{line}");
    }
    assert_eq!(caps.matches("Seccomp:\t2").count(), 2, "{caps}");
    assert_eq!(caps.matches("NoNewPrivs:\t0").count(), 2, "{caps}");
}

#[test]
fn hostile_terminals_and_directories_do_not_confuse_a_command() {
    if !needs() {
        return;
    }
    let world = World::new(9437, |_| {});
    world.start(world.script(IDLE));
    // Something else in the place of the terminals: refused, and nothing hangs.
    world.sh("mount -t tmpfs t /dev/pts && mknod /dev/pts/ptmx p");
    let outcome = Session::begin(&world, &with_terminal(&["true"])).finish();
    let failure = outcome.ended.expect_err("there is no terminal");
    assert!(failure.message.contains("multiplexer"), "{failure:?}");
    world.sh("umount /dev/pts; rm -rf /root; ln -s /nonexistent /root; true");
    assert_eq!(world.sh("pwd").trim(), "/", "no home is no hindrance");
    // A /proc that lies concerns nobody outside.
    world.sh("mount -t tmpfs t /proc");
    assert_eq!(world.exec(&["true"]).ended, Ok(Ended::Code(0)));
    let monitor = world.observe().monitor.expect("it runs");
    assert!(alive(monitor.init_pid));
}

/// A 32-bit program that makes one system call and ends with its error as status, or 256 less what it
/// answered.
pub(super) fn one_call_32(call: u32, arguments: [u32; 3]) -> Vec<u8> {
    const BASE: u32 = 0x0804_8000;
    const HEADERS: u32 = 52 + 32;
    let le = u32::to_le_bytes;
    let mut code = vec![0xb8]; // mov eax
    code.extend(le(call));
    for (register, argument) in [0xbb, 0xb9, 0xba].into_iter().zip(arguments) {
        code.push(register); // mov ebx, ecx, edx
        code.extend(le(argument));
    }
    code.extend([0xcd, 0x80, 0x89, 0xc3, 0xf7, 0xdb]); // int 0x80; mov ebx, eax; neg ebx
    code.extend([0xb8, 1, 0, 0, 0, 0xcd, 0x80]); // exit
    let length = HEADERS + u32::try_from(code.len()).expect("short");
    let mut file = b"\x7fELF\x01\x01\x01".to_vec();
    file.resize(16, 0);
    file.extend([2, 0, 3, 0]); // executable, i386
    file.extend([1, BASE + HEADERS, 52, 0, 0].map(le).concat());
    file.extend([52, 32, 1, 0, 0, 0].map(u16::to_le_bytes).concat());
    file.extend([1, 0, BASE, BASE, length, length, 5, 0x1000].map(le).concat());
    file.extend(code);
    file
}

/// What 32-bit programs may, whatever the numbers they and the C libraries use.
#[test]
#[cfg(target_arch = "x86_64")]
fn a_32_bit_program_runs_and_is_refused_the_same() {
    const CALLS: [(&str, u32, [u32; 3], u32); 9] = [
        ("getuid", 24, [0; 3], 0),
        ("socket of IPv4", 359, [2, 2, 0], 256 - 3),
        ("socket of AF_ALG", 359, [38, 5, 0], 97),
        ("socket by socketcall", 102, [1, 0, 0], 38),
        ("unshare a user namespace", 310, [0x1000_0000, 0, 0], 1),
        ("unshare mounts", 310, [0x0002_0000, 0, 0], 0),
        ("keyctl", 288, [0; 3], 1),
        ("bpf", 357, [0; 3], 1),
        ("clone3", 435, [0; 3], 38),
    ];
    if !needs() {
        return;
    }
    let file = |name: &str| format!("bin/{}", name.replace(' ', "-"));
    let mut here = None;
    let world = World::new(9449, |root| {
        for (name, call, arguments, _) in CALLS {
            let path = root.join(file(name));
            std::fs::write(&path, one_call_32(call, arguments)).expect("written");
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("set");
        }
        here = std::process::Command::new(root.join(file("getuid"))).status().ok();
    });
    world.start(world.script(IDLE));
    for (name, .., status) in CALLS {
        let ended = world.exec(&[&format!("/{}", file(name))]).ended;
        match here {
            Some(_) => assert_eq!(ended, Ok(Ended::Code(status)), "{name}"),
            // This kernel runs none: that is said, and nobody is killed for it.
            None => assert_eq!(ended.expect_err("refused").errno, 8, "{name}"),
        }
    }
}

#[test]
fn many_commands_at_once_leave_no_processes() {
    if !needs() {
        return;
    }
    let world = World::new(9438, |_| {});
    world.start(world.script("exec sleep 600"));
    let before = world.count_pids();
    let sessions: Vec<_> =
        (0..20).map(|n| (n, world.begin(&["sh", "-c", &format!("sleep 0.2; exit {n}")]))).collect();
    for (n, session) in sessions {
        assert_eq!(session.finish().ended, Ok(Ended::Code(n)));
    }
    wait_until(Duration::from_secs(60), "all are reaped", || world.count_pids() == before);
}

#[test]
fn terminals_are_counted_and_shared_memory_is_bounded() {
    if !needs() {
        return;
    }
    let world = World::new(9439, |_| {});
    let spec = ves_lifecycle::plan::Spec {
        max_ptys: Some(2),
        shm_bytes: Some(1 << 20),
        ..world.script(IDLE)
    };
    world.start(spec);
    let mut open: Vec<_> = (0..2)
        .map(|_| Session::begin(&world, &with_terminal(&["sh", "-c", "echo up; sleep 600"])))
        .collect();
    open.iter_mut().for_each(|s| s.until("up"));
    let failure = Session::begin(&world, &with_terminal(&["true"])).finish().ended;
    assert_eq!(failure.expect_err("no third").errno, 28);
    let full = world.exec(&["dd", "if=/dev/zero", "of=/dev/shm/x", "bs=1M", "count=2"]);
    assert_eq!(full.ended, Ok(Ended::Code(1)));
}

#[test]
fn outputs_can_be_opened_by_their_names() {
    if !needs() {
        return;
    }
    let world = World::new(9440, |_| {});
    world.start(world.script(IDLE));
    let script = "echo x > /dev/stdout; echo y > /dev/stderr; echo z > /proc/self/fd/1";
    let outcome = world.exec(&["sh", "-c", script]);
    let both = (outcome.output.as_slice(), outcome.error.as_slice());
    assert_eq!(both, (&b"x\nz\n"[..], &b"y\n"[..]));
    let mut session = world.begin(&["sh", "-c", "cat /dev/stdin"]);
    session.send(&Frame::new(Tag::Input, b"hello".to_vec()));
    session.send(&Frame::new(Tag::InputEnd, []));
    assert_eq!(session.finish().text(), "hello");
}

#[test]
fn a_command_ends_whoever_goes_on_writing() {
    if !needs() {
        return;
    }
    let world = World::new(9441, |_| {});
    world.start(world.script(IDLE));
    let begun = std::time::Instant::now();
    let outcome = world.exec(&["sh", "-c", "yes & sleep 0.1; exit 3"]);
    assert_eq!(outcome.ended, Ok(Ended::Code(3)));
    assert!(begun.elapsed() < Duration::from_secs(60));
    assert!(!outcome.output.is_empty(), "what was written before is there");
}

#[test]
fn a_frozen_container_starts_no_command_and_none_is_left() {
    if !needs() {
        return;
    }
    let world = World::new(9442, |_| {});
    world.start(world.script("exec sleep 600"));
    let before = world.count_pids();
    world.host.apply(world.ct, &Step::Freeze).expect("frozen");
    let left = world.begin(&["true"]);
    drop(left);
    let failure = world.exec(&["touch", "/tmp/late"]).ended.expect_err("it is frozen");
    assert!(failure.message.contains("is it frozen?"), "{failure:?}");
    world.host.apply(world.ct, &Step::Thaw).expect("thawed");
    wait_until(Duration::from_secs(60), "all are gone", || world.count_pids() == before);
    assert_eq!(world.exec(&["test", "-e", "/tmp/late"]).ended, Ok(Ended::Code(1)));
}

#[test]
fn a_link_to_the_program_that_enters_is_no_program() {
    if !needs() {
        return;
    }
    let world = World::new(9443, |root| {
        std::os::unix::fs::symlink("/proc/self/exe", root.join("bin/bash")).expect("linked");
    });
    world.start(world.script(IDLE));
    let failure = world.exec(&["/bin/bash", "exec"]).ended.expect_err("it is refused");
    assert_eq!((failure.step.as_str(), failure.errno), ("execute /bin/bash", 13));
    let mut shell = Session::begin(&world, &with_terminal(&[]));
    shell.until("# ");
    shell.send(&Frame::new(Tag::Input, b"exit 4\n".to_vec()));
    assert_eq!(shell.finish().ended, Ok(Ended::Code(4)), "the next shell is taken");
}

#[test]
fn a_full_container_says_so() {
    if !needs() {
        return;
    }
    let world = World::new(9444, |_| {});
    world.start(world.script("exec sleep 600"));
    world.limit_pids(1);
    let failure = world.exec(&["true"]).ended.expect_err("there is no room");
    assert_eq!((failure.step.as_str(), failure.errno), ("enter the container", 11), "{failure:?}");
}
