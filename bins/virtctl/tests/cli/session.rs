//! Commands and scripts inside a container, without a terminal.
//!
//! Never here: a terminal.

use crate::fake::Fake;
use crate::program::{out, run, virtctl};

#[test]
fn commands_inside_end_as_they_end() {
    let fake = Fake::started();
    for (line, status) in [
        ("exec 101 -- exit 0", 0),
        ("exec 101 -- exit 7", 7),
        ("exec2 101 -- exit 255", 255),
        ("exec 101 -- die 9", 137),
        ("exec 101 -- missing", 127),
        ("exec 101 -- cut", 200),
        ("exec 999 exit 0", 14),
    ] {
        assert_eq!(run(&fake, line).0, status, "{line}");
    }
    assert_eq!(run(&fake, "exec 101 -- both"), (0, "out\n".into(), "err\n".into()));
    let mut input = vec![b'x'; 200_000];
    input.push(b'\n');
    let cat = out(virtctl(&fake).args(["exec", "101", "--", "cat"]).write_stdin(input.clone()));
    assert_eq!((cat.0, cat.1.len()), (0, input.len()));
    let none = out(virtctl(&fake).args(["exec", "-n", "101", "--", "cat"]).write_stdin("lost"));
    assert_eq!((none.0, none.1.as_str()), (0, ""));
    fake.calls();
    run(&fake, "exec2 -e A=1 101 -- exit 0");
    let call = fake.calls().remove(0);
    assert!(call.contains("bare_env: true") && call.contains("\"A=1\""), "{call}");
    assert!(call.contains("\"HOME=/root\"") && call.contains("argv: [\"exit\", \"0\"]"), "{call}");
    for words in [&["ls | wc"][..], &["ls", "|", "wc"]] {
        out(virtctl(&fake).args(["exec", "101"]).args(words).write_stdin(""));
        let call = fake.calls().remove(0);
        assert!(call.contains("argv: [\"/bin/sh\", \"-c\", \"ls | wc\"]"), "{call}");
    }
    out(virtctl(&fake).args(["enter", "101"]).write_stdin("exit\n"));
    let call = fake.calls().remove(0);
    assert!(
        call.contains("argv: [], env: [], bare_env: false") && call.contains("tty: None"),
        "{call}"
    );
    let script = fake.dir().join("script");
    std::fs::write(&script, "#!/bin/sh\nexit 3\n").expect("a script");
    fake.state().input.clear();
    let status = out(virtctl(&fake).args(["runscript", "101"]).arg(&script).arg("arg")).0;
    assert_eq!(status, 0);
    assert_eq!(fake.state().input, b"#!/bin/sh\nexit 3\n");
    assert!(fake.calls()[0].contains("\"sh\", \"arg\"]"));
    assert_eq!(run(&fake, "console 101 --scrollback").1, "login: ");
}
