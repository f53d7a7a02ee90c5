//! What a test needs of the machine, and the record of tests that were skipped for want of it.
//!
//! A skip is written to the file named by `VES_SKIPS`, one line `test<TAB>kind<TAB>what<TAB>why`, and
//! counted and printed at the end of `cargo xtask test`. Where nobody keeps that record, a test that
//! lacks something fails: it would otherwise look passed. Where `VES_STRICT=1` is set, as that command
//! does under `CI=true`, only what the kernel lacks may be skipped; what could have been installed or
//! granted fails the test instead.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// How often a mirror is asked, and how long to wait in between.
const ROUNDS: u32 = 3;
const PAUSE: Duration = Duration::from_secs(10);

/// Whose fault it is that something is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// This kernel or machine cannot have it; skipping is honest everywhere.
    Kernel,
    /// It can be installed or granted; skipping is a failure under `VES_STRICT=1`.
    Setup,
}

/// Something a test needs and this machine has not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lack {
    /// Whose fault it is.
    pub kind: Kind,
    /// What is lacking.
    pub what: String,
    /// How that was found out, or what brings it.
    pub why: String,
}

/// Something that this kernel must have.
///
/// # Errors
/// The lack, where `there` is false.
pub fn kernel(what: &str, there: bool, why: &str) -> Result<(), Lack> {
    lack(Kind::Kernel, what, there, why)
}

/// Something that whoever prepares the machine must have done.
///
/// # Errors
/// The lack, where `there` is false.
pub fn setup(what: &str, there: bool, why: &str) -> Result<(), Lack> {
    lack(Kind::Setup, what, there, why)
}

fn lack(kind: Kind, what: &str, there: bool, why: &str) -> Result<(), Lack> {
    if there { Ok(()) } else { Err(Lack { kind, what: what.to_owned(), why: why.to_owned() }) }
}

/// Root with its capabilities.
pub fn root() -> Result<(), Lack> {
    let root = rustix::process::geteuid().is_root();
    setup("root", root, "run `cargo xtask test` as root")
}

/// Somebody's word that tests may make mounts, links and control groups on this machine.
pub fn disposable() -> Result<(), Lack> {
    let said = match std::env::var_os("VES_DISPOSABLE") {
        Some(word) => word == "1",
        None => Path::new("/run/ves-disposable").exists(),
    };
    setup(
        "a machine that may be used for this",
        said,
        "run `cargo xtask test` as root, or create /run/ves-disposable",
    )
}

/// A program of the distribution.
pub fn program(name: &str, package: &str) -> Result<(), Lack> {
    let there = ["/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/bin"]
        .iter()
        .any(|dir| Path::new(dir).join(name).is_file());
    setup(name, there, &format!("`apt-get install {package}` brings it"))
}

/// A program of this workspace, built.
pub fn built(name: &str) -> Result<(), Lack> {
    let there = crate::node::bin_dir().join(name).is_file();
    setup(name, there, "`cargo build` makes it; VES_BIN_DIR says where")
}

/// A file system this kernel can mount.
pub fn filesystem(name: &str) -> Result<(), Lack> {
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let there = known.lines().any(|l| l.split_whitespace().last() == Some(name));
    kernel(&format!("file system {name}"), there, "it is not in /proc/filesystems")
}

/// A file or device node the kernel provides.
pub fn path(path: &str) -> Result<(), Lack> {
    kernel(path, Path::new(path).exists(), "there is no such file")
}

/// The Debian mirror apt is configured with, where it serves a suite; apt's own downloader asks, so
/// that a proxy apt goes through is gone through here as well.
pub fn mirror(suite: &str) -> Result<String, Lack> {
    let what = format!("a Debian mirror with {suite}");
    let lacking = |why: &str| Lack { kind: Kind::Setup, what: what.clone(), why: why.to_owned() };
    let format = "$(REPO_URI) $(ORIGIN) $(CODENAME)";
    let targets = Command::new("apt-get")
        .args(["indextargets", "--format", format, "Created-By: Packages"])
        .output()
        .map_err(|e| lacking(&format!("apt-get cannot be asked: {e}")))?;
    let mirror = parse_mirror(&String::from_utf8_lossy(&targets.stdout)).ok_or_else(|| {
        lacking("apt knows of none; add one to its sources, run `apt-get update`")
    })?;
    let release = format!("{}/dists/{suite}/InRelease", mirror.trim_end_matches('/'));
    let dir = tempfile::tempdir().map_err(|e| lacking(&e.to_string()))?;
    let mut why = String::new();
    for round in 0..ROUNDS {
        // A mirror may be away for a moment.
        if round > 0 {
            std::thread::sleep(PAUSE);
        }
        let asked = Command::new("/usr/lib/apt/apt-helper")
            .args(["-oAcquire::Retries=5", "-oAcquire::http::Timeout=20", "download-file"])
            .arg(&release)
            .arg(dir.path().join("InRelease"))
            .output()
            .map_err(|e| lacking(&format!("apt-helper cannot be started: {e}")))?;
        if asked.status.success() {
            return Ok(mirror);
        }
        let said = String::from_utf8_lossy(&asked.stderr);
        why = said.trim().lines().last().unwrap_or("no answer").to_owned();
    }
    Err(lacking(&why))
}

/// The first mirror of Debian itself among apt's index targets.
fn parse_mirror(targets: &str) -> Option<String> {
    let line = targets.lines().find(|l| l.contains(" Debian ") && !l.contains("security"))?;
    line.split(' ').next().map(str::to_owned)
}

/// Whether the test may go on. If not, the skip is recorded; it fails where nobody keeps the record, and
/// under `VES_STRICT=1` where the lack was avoidable. Use it through [`need!`](crate::need!).
///
/// # Panics
/// Without `VES_SKIPS` for any lack, under `VES_STRICT=1` for a [`Kind::Setup`] lack.
pub fn check(needs: &[Result<(), Lack>]) -> bool {
    let Some(lack) = needs.iter().find_map(|n| n.as_ref().err()) else { return true };
    let strict = std::env::var_os("VES_STRICT").is_some_and(|v| v == "1");
    let record = std::env::var_os("VES_SKIPS");
    skip(lack, record.as_deref().map(Path::new), strict);
    false
}

/// Skips the test that this thread runs.
fn skip(lack: &Lack, to: Option<&Path>, strict: bool) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("unnamed test");
    let Lack { kind, what, why } = lack;
    let to = to.unwrap_or_else(|| {
        panic!("{test} needs {what}: {why} (`cargo xtask test` would record that it was skipped)")
    });
    assert!(
        !strict || *kind == Kind::Kernel,
        "{test} needs {what}, and where all can be had that is no reason to skip: {why}"
    );
    eprintln!("skipped: {test} needs {what}: {why}");
    record(to, test, lack).expect("the file of skips can be written");
}

/// One line, written by one system call, so that tests of several processes can share the file.
fn record(file: &Path, test: &str, lack: &Lack) -> std::io::Result<()> {
    let kind = match lack.kind {
        Kind::Kernel => "kernel",
        Kind::Setup => "setup",
    };
    let line = format!("{test}\t{kind}\t{}\t{}\n", lack.what, lack.why);
    OpenOptions::new().append(true).create(true).open(file)?.write_all(line.as_bytes())
}

/// Goes on only if this machine has all that is named; otherwise the skip is recorded and it returns, or
/// it fails: see [`check`].
///
/// ```no_run
/// # use ves_kit::need;
/// need!(need::root(), need::filesystem("ext4"));
/// ```
/// A test that returns a `Result` says what to return: `need!(need::root() => Ok(()))`.
#[macro_export]
macro_rules! need {
    ($($need:expr),+ $(,)?) => {
        if !$crate::check(&[$($need),+]) { return; }
    };
    ($($need:expr),+ => $skipped:expr) => {
        if !$crate::check(&[$($need),+]) { return $skipped; }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_no_lack_and_what_is_not_is_named() {
        assert_eq!(program("sh", "dash"), Ok(()));
        let lack = program("no-such-program", "none").expect_err("it does not exist");
        assert_eq!((lack.kind, lack.what.as_str()), (Kind::Setup, "no-such-program"));
        assert_eq!(filesystem("no-such-fs").expect_err("unknown").kind, Kind::Kernel);
        assert!(check(&[Ok(()), Ok(())]));
    }

    #[test]
    fn the_mirror_is_of_debian_itself() {
        let targets = "http://a.example/debian-security/ Debian trixie-security\n\
                       http://b.example/tools/ Tools trixie\nhttp://c.example/debian/ Debian trixie\n";
        assert_eq!(parse_mirror(targets).as_deref(), Some("http://c.example/debian/"));
        assert_eq!(parse_mirror(""), None);
    }

    #[test]
    #[should_panic(expected = "would record that it was skipped")]
    fn a_skip_that_nobody_records_is_a_failure() {
        skip(&kernel("netkit", false, "no such link kind").expect_err("lacking"), None, false);
    }

    #[test]
    #[should_panic(expected = "no reason to skip")]
    fn what_could_be_had_is_not_skipped_where_all_can() {
        let lack = setup("crun", false, "install it").expect_err("lacking");
        skip(&lack, Some(Path::new("/dev/null")), true);
    }

    #[test]
    fn skips_are_recorded_a_line_each() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("skips");
        let lack = kernel("netkit", false, "no such link kind").expect_err("it is lacking");
        record(&file, "one", &lack).expect("written");
        record(&file, "two", &lack).expect("written");
        let text = std::fs::read_to_string(&file).expect("readable");
        assert_eq!(text.lines().count(), 2);
        assert_eq!(text.lines().next(), Some("one\tkernel\tnetkit\tno such link kind"));
    }
}
