//! Guards: what a test makes goes away with them, also when the test panics.

use std::fs::File;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::fs::{FlockOperation, flock};
use ves_types::id::{CtId, IdSlot};
use ves_types::layout::{Daemon, Layout};

use crate::stack::{READY, listener};
use crate::wait::wait_until;

/// Runs a program of the host and answers its standard output.
///
/// # Panics
/// When it cannot be started or fails; the message carries its error output.
#[track_caller]
pub fn run(program: &str, args: &[&str]) -> String {
    let out = Command::new(program)
        .args(args)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|e| panic!("{program} cannot be started: {e}"));
    assert!(
        out.status.success(),
        "{program} {args:?}: {}: {}",
        out.status,
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// The same where failing is expected and of no interest, such as in a guard's `drop`.
fn attempt(program: &str, args: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// A container id and an id slot that no other test of this machine uses while this lives.
#[derive(Debug)]
pub struct TestId {
    ct: CtId,
    // Locked; the lock goes with the descriptor.
    _lock: File,
}

impl TestId {
    const FIRST: u32 = 9_500;
    const LAST: u32 = 9_999;

    /// Takes the first free one of 9500 to 9999.
    ///
    /// # Panics
    /// When all are taken, or the lock directory cannot be written.
    pub fn take() -> Self {
        let dir = std::env::temp_dir().join("ves-kit-ids");
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .expect("lock directory");
        (Self::FIRST..=Self::LAST)
            .find_map(|n| {
                let lock = File::create(dir.join(n.to_string())).ok()?;
                flock(&lock, FlockOperation::NonBlockingLockExclusive).ok()?;
                Some(Self { ct: CtId::try_from(n).ok()?, _lock: lock })
            })
            .expect("one of 500 test ids is free")
    }
    /// The container id.
    pub const fn ct(&self) -> CtId {
        self.ct
    }
    /// An id slot, as unique as the container id.
    ///
    /// # Panics
    /// Never: the slots of all test ids are valid.
    pub fn slot(&self) -> IdSlot {
        IdSlot::try_from(30_000 + self.ct.get()).expect("the range of slots reaches 65533")
    }
}

/// A [`Layout`] in a directory of its own. When it goes, whatever is still mounted below is
/// unmounted first.
#[derive(Debug)]
pub struct TestLayout {
    layout: Layout,
    dir: PathBuf,
    _remove: tempfile::TempDir,
}

impl TestLayout {
    /// A new one, with both directories made. The path is short: socket names have 107 bytes.
    ///
    /// # Panics
    /// When the directory for temporary files cannot be written.
    #[expect(clippy::new_without_default, reason = "it makes directories, which no default should")]
    pub fn new() -> Self {
        let remove =
            tempfile::Builder::new().prefix("ves-").tempdir().expect("temporary directory");
        let dir = remove.path().canonicalize().expect("it was just made");
        let layout = Layout::new(dir.join("run"), dir.join("state"));
        for sub in [layout.run_dir(), layout.state_dir()] {
            std::fs::create_dir(sub).expect("it was just made and is empty");
        }
        Self { layout, dir, _remove: remove }
    }
    /// The layout.
    pub const fn layout(&self) -> &Layout {
        &self.layout
    }
    /// The directory around both, for further files of the test.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for TestLayout {
    fn drop(&mut self) {
        let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let below = crate::inventory::mount_points(&text);
        for point in below.iter().rev().filter(|p| Path::new(p).starts_with(&self.dir)) {
            attempt("umount", &["-l", point]);
        }
    }
}

/// Something mounted, until this goes.
#[derive(Debug)]
pub struct MountGuard {
    point: PathBuf,
}

impl MountGuard {
    /// Mounts with `mount(8)`: `args` are all but the mount point.
    ///
    /// # Panics
    /// When that fails.
    #[track_caller]
    pub fn mount(args: &[&str], point: &Path) -> Self {
        let text = point.to_str().expect("test paths are text");
        run("mount", &[args, &[text]].concat());
        Self { point: point.to_owned() }
    }
    /// Where.
    pub fn point(&self) -> &Path {
        &self.point
    }
}

impl Drop for MountGuard {
    fn drop(&mut self) {
        let point = self.point.to_string_lossy();
        if !attempt("umount", &[&point]) {
            attempt("umount", &["-l", &point]);
        }
    }
}

/// A file attached to a loop device, until this goes.
#[derive(Debug)]
pub struct LoopFile {
    device: PathBuf,
}

impl LoopFile {
    /// Attaches an existing file.
    ///
    /// # Panics
    /// When `losetup` fails.
    #[track_caller]
    pub fn attach(file: &Path) -> Self {
        let file = file.to_str().expect("test paths are text");
        let device = run("losetup", &["--find", "--show", "--", file]);
        Self { device: device.trim().into() }
    }
    /// Makes a sparse file of so many bytes and attaches it.
    ///
    /// # Panics
    /// When the file or the device cannot be made.
    #[track_caller]
    pub fn create(file: &Path, bytes: u64) -> Self {
        File::create_new(file).and_then(|f| f.set_len(bytes)).expect("a sparse file");
        Self::attach(file)
    }
    /// The device, such as `/dev/loop3`.
    pub fn device(&self) -> &Path {
        &self.device
    }
}

impl Drop for LoopFile {
    fn drop(&mut self) {
        attempt("losetup", &["--detach", &self.device.to_string_lossy()]);
    }
}

/// A command that is run when this goes, whatever its outcome.
#[derive(Debug)]
pub struct Undo {
    program: String,
    args: Vec<String>,
}

impl Undo {
    /// Will run this.
    pub fn by(program: &str, args: &[&str]) -> Self {
        Self { program: program.to_owned(), args: args.iter().map(|a| (*a).to_owned()).collect() }
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        attempt(&self.program, &self.args.iter().map(String::as_str).collect::<Vec<_>>());
    }
}

/// A process that is killed and reaped when this goes.
#[derive(Debug)]
pub struct Proc(Child);

impl Proc {
    /// Starts it.
    ///
    /// # Panics
    /// When it cannot be started.
    #[track_caller]
    pub fn spawn(mut command: Command) -> Self {
        match command.spawn() {
            Ok(child) => Self(child),
            Err(e) => panic!("{command:?} cannot be started: {e}"),
        }
    }
    /// Starts a daemon of ours with these further arguments, and waits until it listens.
    ///
    /// # Panics
    /// When it cannot be started or does not come to listen.
    #[track_caller]
    pub fn daemon(program: &Path, service: Daemon, layout: &Layout, more: &[&str]) -> Self {
        let mut command = Command::new(program);
        command.arg("--run-dir").arg(layout.run_dir()).arg("--state-dir").arg(layout.state_dir());
        command.args(more).stdin(Stdio::null());
        let daemon = Self::spawn(command);
        wait_until(READY, "the daemon listens", || {
            listener(&layout.socket(service)) == Some(daemon.id())
        });
        daemon
    }
    /// Its process id; no other process has it while this lives.
    pub fn id(&self) -> u32 {
        self.0.id()
    }
    /// The child, to read its output.
    pub const fn child(&mut self) -> &mut Child {
        &mut self.0
    }
    /// Whether it has not ended.
    ///
    /// # Panics
    /// Never: it is a child of ours.
    pub fn alive(&mut self) -> bool {
        self.0.try_wait().expect("it is a child of ours").is_none()
    }
    /// Waits for its end.
    ///
    /// # Panics
    /// Never: it is a child of ours.
    pub fn wait(&mut self) -> ExitStatus {
        self.0.wait().expect("it is a child of ours")
    }
    /// Kills it the hard way now.
    pub fn kill(&mut self) {
        // Both fail only when it has ended and was reaped already.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

impl Drop for Proc {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_ids_differ_while_they_live() {
        let (a, b) = (TestId::take(), TestId::take());
        assert_ne!(a.ct(), b.ct());
        assert_ne!(a.slot(), b.slot());
    }

    #[test]
    fn a_layout_leaves_nothing() {
        let dir = {
            let layout = TestLayout::new();
            std::fs::write(layout.layout().run_dir().join("x"), "x").expect("writable");
            layout.dir().to_owned()
        };
        assert!(!dir.exists());
    }

    #[test]
    fn a_process_ends_with_its_guard() {
        let mut command = Command::new("sleep");
        command.arg("600");
        let proc = Proc::spawn(command);
        let path = PathBuf::from(format!("/proc/{}", proc.id()));
        assert!(path.exists());
        drop(proc);
        assert!(!path.exists());
    }
}
