//! The real binary, speaking to a coordinator.
//!
//! Never here: a terminal.

use std::path::Path;

use assert_cmd::Command;

use crate::fake::Fake;

/// virtctl speaking to `fake`.
pub(crate) fn virtctl(fake: &Fake) -> Command {
    virtctl_at(&fake.socket())
}

/// virtctl speaking to whoever listens at a socket.
pub(crate) fn virtctl_at(socket: &Path) -> Command {
    let mut command = assert_cmd::cargo::cargo_bin_cmd!("virtctl");
    command.env("VES_SOCKET", socket).env("TZ", "UTC").env_remove("TERM");
    command.env("COLUMNS", "100").timeout(std::time::Duration::from_secs(30));
    command
}

/// Exit status, stdout, stderr.
pub(crate) fn run(fake: &Fake, line: &str) -> (i32, String, String) {
    out(virtctl(fake).args(line.split_whitespace()))
}

/// The same of a command that is made already.
pub(crate) fn out(command: &mut Command) -> (i32, String, String) {
    let out = command.output().expect("virtctl runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("it prints text");
    (out.status.code().expect("it exits by itself"), text(out.stdout), text(out.stderr))
}

/// What it prints as JSON, when all goes well.
pub(crate) fn json(fake: &Fake, line: &str) -> serde_json::Value {
    let (status, stdout, stderr) = run(fake, &format!("{line} -o json"));
    assert_eq!(status, 0, "{line}: {stderr}");
    serde_json::from_str(&stdout).expect(&stdout)
}
