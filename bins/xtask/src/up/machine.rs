//! What `up` does to the machine before there is a daemon: packages, the release build, the
//! coordinator's account. Each is looked at first and left alone where it is there.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};
use ves_kit::stack;
use ves_types::layout::COORDINATOR_USER;

use super::progress::Line;
use crate::tool;

/// The Debian packages Ves needs on a node, with a program of each: no program, no package.
const PACKAGES: [(&str, &str); 7] = [
    ("mmdebstrap", "mmdebstrap"),
    ("e2fsprogs", "mke2fs"),
    ("xfsprogs", "mkfs.xfs"),
    ("nftables", "nft"),
    ("iproute2", "ip"),
    ("lxcfs", "lxcfs"),
    ("passwd", "useradd"),
];

/// The repository's root.
fn repository() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_path_buf()
}

/// Where cargo puts what it builds.
pub(crate) fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| repository().join("target"), Into::into)
}

/// Where the release programs are: `VES_BIN_DIR` if it is set, so that tests need no second build.
pub(crate) fn bin_dir() -> PathBuf {
    std::env::var_os("VES_BIN_DIR").map_or_else(|| target_dir().join("release"), Into::into)
}

/// Where the programs are that tests use.
pub(crate) fn test_bin_dir() -> PathBuf {
    std::env::var_os("VES_BIN_DIR").map_or_else(|| target_dir().join("debug"), Into::into)
}

/// Refuses early what would fail late.
pub(crate) fn require_root() -> anyhow::Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "this makes mounts, links and control groups and must run as root; use `sudo -E cargo xtask …`"
    );
    Ok(())
}

/// Installs the packages that are missing, ours and `more`.
pub(crate) fn packages(more: &[(&str, &str)], line: &Line) -> anyhow::Result<((), String)> {
    let all = PACKAGES.iter().chain(more);
    let missing: Vec<_> =
        all.filter(|(_, program)| !on_path(program)).map(|(name, _)| *name).collect();
    if missing.is_empty() {
        return Ok(((), "all installed".to_owned()));
    }
    ensure!(on_path("apt-get"), "this is no Debian; install {} yourself", missing.join(", "));
    let words = [&["install", "--no-install-recommends"], missing.as_slice()].concat();
    let mut install = tool::apt_get(&words);
    if watch(&mut install, line).is_err() {
        // Most often the package lists are old or were never fetched.
        tool::apt_update(|mut update| watch(&mut update, line).map(drop))?;
        watch(&mut install, line)?;
    }
    Ok(((), format!("installed {}", missing.join(", "))))
}

/// The cargo that runs us, in the repository.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(repository());
    command
}

/// Builds the daemons, `ves-init` and `virtctl`.
pub(crate) fn build(line: &Line) -> anyhow::Result<((), String)> {
    if let Some(dir) = std::env::var_os("VES_BIN_DIR") {
        return Ok(((), format!("not built: VES_BIN_DIR is {}", Path::new(&dir).display())));
    }
    let mut command = cargo();
    command.args(["build", "--release", "--color", "never"]);
    for program in stack::programs() {
        command.args(["--package", program]);
    }
    let said = watch(&mut command, line)?;
    let count = said.lines().filter(|said| said.trim_start().starts_with("Compiling")).count();
    let note = match count {
        0 => "up to date".to_owned(),
        1 => "1 package compiled".to_owned(),
        _ => format!("{count} packages compiled"),
    };
    Ok(((), note))
}

/// Creates the coordinator's system account where it is missing; says whether it was.
pub(crate) fn make_account() -> anyhow::Result<bool> {
    if stack::account(COORDINATOR_USER)?.is_some() {
        return Ok(false);
    }
    let mut add = Command::new("useradd");
    add.args(["--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent"]);
    add.args(["--shell", "/usr/sbin/nologin", COORDINATOR_USER]);
    tool::quietly(add)?;
    Ok(true)
}

/// Runs a program, shows the last line it said, and hands back all of it.
pub(crate) fn watch(command: &mut Command, line: &Line) -> anyhow::Result<String> {
    let name = words(command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start `{name}`"))?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let said = std::thread::scope(|scope| {
        let (send, lines) = std::sync::mpsc::channel();
        let read = |pipe: Option<Box<dyn Read + Send>>, send: std::sync::mpsc::Sender<String>| {
            scope.spawn(move || {
                let Some(pipe) = pipe else { return };
                for piece in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
                    // A progress bar overwrites its line; the last state counts.
                    let text = String::from_utf8_lossy(&piece).into_owned();
                    let text = text.trim_end().rsplit('\r').next().unwrap_or_default().to_owned();
                    if send.send(text).is_err() {
                        return;
                    }
                }
            });
        };
        read(out.map(|pipe| Box::new(pipe) as Box<dyn Read + Send>), send.clone());
        read(err.map(|pipe| Box::new(pipe) as Box<dyn Read + Send>), send);
        let mut said = String::new();
        for text in lines {
            line.says(&text);
            said.push_str(&text);
            said.push('\n');
        }
        said
    });
    let status = child.wait().with_context(|| format!("wait for `{name}`"))?;
    if !status.success() {
        let lines: Vec<_> = said.lines().filter(|line| !line.trim().is_empty()).collect();
        let last = lines.get(lines.len().saturating_sub(20)..).unwrap_or_default().join("\n");
        bail!("`{name}` failed ({status}) and said:\n{last}");
    }
    Ok(said)
}

/// A command as one would type it, shortened.
pub(crate) fn words(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default();
    let words = std::iter::once(program).chain(command.get_args());
    let text = words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ");
    if text.chars().count() > 120 {
        text.chars().take(117).chain("…".chars()).collect()
    } else {
        text
    }
}

fn on_path(program: &str) -> bool {
    ["/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/sbin", "/usr/local/bin"]
        .iter()
        .any(|dir| Path::new(dir).join(program).is_file())
}

/// The machine in a few words: what a figure is worth depends on it.
pub(crate) fn description() -> String {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let os = read("/etc/os-release");
    let os = os
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .map_or("an unknown system", |name| name.trim_matches('"'))
        .to_owned();
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let memory: u64 = read("/proc/meminfo")
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse().ok())
        .unwrap_or_default();
    let kernel = read("/proc/sys/kernel/osrelease");
    format!("{os}, kernel {}, {cpus} processors, {} GiB", kernel.trim(), memory >> 20)
}
