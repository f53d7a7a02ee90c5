//! Help, completion and man pages.
//!
//! Never here: what a verb does.

use assert_cmd::Command;

use crate::fake::Fake;
use crate::program::{out, run};

/// What bash offers at the end of `line`.
fn complete(fake: &Fake, script: &std::path::Path, line: &str) -> (i32, String, String) {
    let program = assert_cmd::cargo::cargo_bin!("virtctl");
    let path = program.parent().expect("it is in a directory").display();
    let words: Vec<&str> = line.split(' ').collect();
    let shell = format!(
        "PATH={path}:$PATH; source {}; COMP_WORDS=({line}); COMP_CWORD={}; _virtctl_names virtctl {} \
         {}; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        script.display(),
        words.len() - 1,
        words[words.len() - 1],
        words[words.len() - 2],
    );
    out(Command::new("bash").args(["--norc", "-c", &shell]).env("VES_SOCKET", fake.socket()))
}

#[test]
fn help_completion_and_man_pages() {
    let fake = Fake::new();
    let (status, help, _) = run(&fake, "--help");
    assert_eq!(status, 0);
    let golden = include_str!("../golden/help.txt");
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/help.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(file, &help).expect("the golden file");
    } else {
        assert_eq!(help, golden, "UPDATE_GOLDEN=1 cargo test -p virtctl takes the new text");
    }
    assert_eq!(run(&fake, "--version").1, concat!("virtctl ", env!("CARGO_PKG_VERSION"), "\n"));
    for (shell, mark) in [
        ("bash", "complete -F _virtctl"),
        ("zsh", "#compdef virtctl"),
        ("fish", "complete -c virtctl"),
    ] {
        let (status, script, _) = run(&fake, &format!("completion {shell}"));
        assert_eq!(status, 0);
        assert!(script.contains(mark) && script.contains("numothersock"), "{shell}");
    }
    let bash = fake.dir().join("completion");
    std::fs::write(&bash, run(&fake, "completion bash").1).expect("the script");
    let (status, names, stderr) = complete(&Fake::started(), &bash, "virtctl start 10");
    assert_eq!((status, names.as_str(), stderr.as_str()), (0, "101\n102\n103\n", ""));
    assert_eq!(complete(&Fake::started(), &bash, "virtctl stop w").1, "web\n");
    assert_eq!(complete(&fake, &bash, "virtctl resta").1, "restart\n");
    let dir = fake.dir().join("man");
    assert_eq!(run(&fake, &format!("man {}", dir.display())).0, 0);
    for page in ["virtctl.1", "virtctl-set.1", "virtctl-template-import.1"] {
        let text = std::fs::read_to_string(dir.join(page)).expect(page);
        assert_eq!(text.contains(".SH EXAMPLES"), page != "virtctl.1", "{page}");
    }
}
