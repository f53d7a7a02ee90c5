//! Whose a command is, where it begins, how long it may run, and what becomes of it without its caller, on the real
//! kernel.

use std::time::Duration;

use ves_init_proto::OnDisconnect;
use ves_init_proto::frame::{Frame, Tag};
use ves_init_proto::report::{Ended, FIND_USER, GO_TO_DIRECTORY};
use ves_kit::wait_until;
use ves_lifecycle::init_plan::Command;

use super::support::{Session, World, needs};

const PATIENCE: Duration = Duration::from_secs(60);

fn shell(script: &str) -> Command {
    Command { argv: ["sh", "-c", script].map(str::to_owned).to_vec(), ..Command::default() }
}

fn of(user: &str, command: Command) -> Command {
    Command { user: Some(user.parse().expect("a user")), ..command }
}

#[test]
fn commands_keep_to_their_terms() {
    if !needs() {
        return;
    }
    let world = World::new(9453, |root| {
        let group = "root:x:0:\ntty:x:5:\nuser:x:1000:\nfriends:x:44:user\n";
        std::fs::write(root.join("etc/group"), group).expect("written");
    });
    world.start(world.script("while :; do sleep 0.2; done"));
    let begin = |command: &Command| Session::begin(&world, command);
    let there = |path: &str| world.exec(&["test", "-e", path]).ended == Ok(Ended::Code(0));

    // These take their time, beside all others.
    let limited = |script: &str| Command { timeout_ms: Some(1_000), ..shell(script) };
    let heeds = begin(&limited("trap 'echo bye; exit 3' HUP; while :; do sleep 0.1; done"));
    let stubborn = begin(&limited("trap '' HUP; (sleep 612 &); sleep 612"));
    let leave = |command: Command| Command { on_disconnect: OnDisconnect::Leave, ..command };
    let mut left = begin(&leave(shell(
        "echo up; cat > /tmp/said; sleep 0.5; yes | head -c 300000 && touch /tmp/left",
    )));
    let mut left_for_long = begin(&leave(limited("echo up; exec sleep 613")));
    left.until("up");
    left_for_long.until("up");
    left.send(&Frame::new(Tag::Input, b"last words".to_vec()));
    drop((left, left_for_long));

    // Another user, with its groups and without capabilities, where it was told to begin.
    let script = "id -u; id -g; id -G; pwd; echo $HOME $USER $LOGNAME $SHELL; echo out > /dev/stdout; \
                  grep -E 'Cap(Eff|Prm|Inh|Amb)' /proc/self/status | sort -u -k2; touch /root/x || echo no";
    let command = Command { cwd: Some("/var/tmp".to_owned()), ..of("user", shell(script)) };
    let seen = begin(&command).finish();
    let lines: Vec<_> = seen.text().lines().map(str::to_owned).collect();
    let same = ["1000", "1000", "1000 44", "/var/tmp", "/tmp user user /bin/sh", "out"];
    let mut groups: Vec<_> = lines.get(2).expect("groups").split(' ').collect();
    groups.sort_unstable();
    assert_eq!(groups, ["1000", "44"], "{seen:?}");
    for (line, same) in
        lines.iter().zip(same).filter(|(_, same)| !same.contains(' ') || same.contains('/'))
    {
        assert_eq!(line, same, "{seen:?}");
    }
    assert!(lines.get(6).is_some_and(|caps| caps.ends_with("\t0000000000000000")), "{seen:?}");
    assert_eq!(lines.get(7..), Some(&["no".to_owned()][..]), "{seen:?}");
    let only = begin(&of("user:5", shell("id -G; pwd"))).finish();
    assert_eq!(only.text(), "5\n/tmp\n", "in that group only, and at home");
    // A terminal and a login shell are its own.
    let login = of("1000", Command { terminal: Some((31, 97)), ..Command::default() });
    let mut login = begin(&login);
    login.until("$ ");
    login.send(&Frame::new(Tag::Input, b"echo $0:$(id -u) > $(tty); exit 4\n".to_vec()));
    let ended = login.finish();
    assert!(ended.text().contains("-sh:1000"), "{ended:?}");
    assert_eq!(ended.ended, Ok(Ended::Code(4)));

    // Nobody and nowhere.
    world.sh("chmod 700 /root; mkdir -p /tmp/odd; cp /etc/group /tmp/odd/");
    let refused = |command: &Command| {
        let failure = begin(command).finish().ended.expect_err("refused");
        (failure.step, failure.errno)
    };
    for user in ["stranger", "user:strangers", "4321"] {
        assert_eq!(refused(&of(user, shell("true"))).0, FIND_USER, "{user}");
    }
    for (cwd, errno) in [("/nowhere", 2), ("/etc/passwd", 20), ("/root", 13)] {
        let command = Command { cwd: Some(cwd.to_owned()), ..of("user", shell("true")) };
        assert_eq!(refused(&command), (GO_TO_DIRECTORY.to_owned(), errno), "{cwd}");
    }
    // What a container puts in the place of its files keeps nobody waiting.
    world.sh("mv /etc/passwd /etc/kept; mknod /etc/passwd p");
    let begun = std::time::Instant::now();
    assert_eq!(refused(&of("user", shell("true"))).0, FIND_USER);
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    world.sh("rm /etc/passwd; ln -s /dev/zero /etc/passwd");
    assert_eq!(refused(&of("user", shell("true"))).0, FIND_USER);
    world.sh("rm /etc/passwd; mv /etc/kept /etc/passwd");

    // What was left ran to its end, though nobody took what it wrote; but not beyond its time.
    wait_until(PATIENCE, "what was left ended", || there("/tmp/left"));
    assert_eq!(world.sh("cat /tmp/said"), "last words", "its input ended with its caller");
    wait_until(PATIENCE, "its time was over", || !world.sh("ps -o args").contains("sleep 613"));
    let heeded = heeds.finish();
    assert_eq!(
        (heeded.text().as_str(), &heeded.ended, heeded.timed_out),
        ("bye\n", &Ok(Ended::Code(3)), true)
    );
    let killed = stubborn.finish();
    assert_eq!((&killed.ended, killed.timed_out), (&Ok(Ended::Signal(9)), true));
    assert!(!world.sh("ps -o args").contains("sleep 612"), "nothing of it stays");
    let in_time = begin(&limited("exit 5")).finish();
    assert_eq!((&in_time.ended, in_time.timed_out), (&Ok(Ended::Code(5)), false));
}
