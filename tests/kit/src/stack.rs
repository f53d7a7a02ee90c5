//! The five daemons of one node as separate, detached processes: starting, finding again,
//! waiting for, stopping and killing them.
//!
//! `cargo xtask up`, `down` and `bench` use it with the node's own layout; tests use it with
//! directories of their own. A daemon is recognised by its pid file (pid, start time and
//! executable must all fit) or, where that is lost, by who listens on its socket: nothing here
//! ever signals a process by name. What the daemons do for containers is no matter of this file.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use ves_types::layout::{COORDINATOR_USER, Daemon, Layout};

/// How long a daemon may take to listen.
pub const READY: Duration = Duration::from_secs(60);
/// How long a daemon may take to drain before it is killed.
pub const DRAIN: Duration = Duration::from_secs(20);

/// What is handed on from the caller's environment; everything else is left out.
const ENVIRONMENT: [&str; 1] = ["VES_LOG"];

/// The programs of a node.
pub fn programs() -> impl Iterator<Item = &'static str> {
    Daemon::ALL.into_iter().map(Daemon::program).chain(["ves-init", "virtctl"])
}

/// What [`Stack::start`] found or did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Started {
    /// It runs already, from this executable.
    Already,
    /// It was not running and is now.
    Fresh,
    /// It ran from an executable that has since been replaced, was stopped and started again.
    Upgraded,
}

/// The five daemons of one node.
#[derive(Debug)]
pub struct Stack {
    layout: Layout,
    bin_dir: PathBuf,
    work_dir: PathBuf,
    config_dir: Option<PathBuf>,
    children: Mutex<BTreeMap<Daemon, Child>>,
}

impl Stack {
    /// The daemons in `bin_dir` serving `layout`, with logs and pid files in `work_dir`.
    pub fn new(layout: Layout, bin_dir: impl Into<PathBuf>, work_dir: impl Into<PathBuf>) -> Self {
        Self {
            layout,
            bin_dir: bin_dir.into(),
            work_dir: work_dir.into(),
            config_dir: None,
            children: Mutex::new(BTreeMap::new()),
        }
    }

    /// With configuration files `<service>.toml` from `dir`; a daemon without one has its defaults.
    #[must_use]
    pub fn with_configs(mut self, dir: impl Into<PathBuf>) -> Self {
        self.config_dir = Some(dir.into());
        self
    }

    /// Where the daemons have their sockets and state.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The directory the programs are started from; the one given, unless [`Self::prepare`] had to
    /// copy them because the coordinator's user could not reach it.
    pub fn bin_dir(&self) -> &Path {
        &self.bin_dir
    }

    /// The file a service writes its log to.
    pub fn log(&self, service: Daemon) -> PathBuf {
        self.work_dir.join(format!("{}.log", service.program()))
    }

    fn pid_file(&self, service: Daemon) -> PathBuf {
        self.work_dir.join(format!("{}.pid", service.program()))
    }

    /// Makes the directories the daemons expect, with their owners.
    pub fn prepare(&mut self) -> anyhow::Result<()> {
        let (uid, gid) = account(COORDINATOR_USER)?
            .with_context(|| format!("there is no user `{COORDINATOR_USER}`"))?;
        directory(&self.work_dir, 0o755, None)?;
        directory(self.layout.run_dir(), 0o755, None)?;
        directory(&self.layout.api_dir(), 0o755, Some((uid, gid)))?;
        directory(self.layout.state_dir(), 0o755, None)?;
        directory(&self.layout.service_dir(Daemon::Coordinator), 0o700, Some((uid, gid)))?;
        if !open_to_all(&self.bin_dir) {
            let copies = self.layout.state_dir().join("bin");
            directory(&copies, 0o755, None)?;
            for name in programs() {
                copy_if_other(&self.bin_dir.join(name), &copies.join(name))?;
            }
            self.bin_dir = copies;
        }
        Ok(())
    }

    /// Makes sure that a daemon runs; does not wait until it listens.
    pub fn start(&self, service: Daemon) -> anyhow::Result<Started> {
        let mut started = Started::Fresh;
        if let Some(found) = self.find(service)? {
            if !found.replaced {
                return Ok(Started::Already);
            }
            self.stop(service)?;
            started = Started::Upgraded;
        }
        let child = self.spawn(service)?;
        let pid = child.id();
        let record = format!("{pid} {}\n", start_time(pid).unwrap_or_default());
        fs::write(self.pid_file(service), record)
            .with_context(|| format!("write {}", self.pid_file(service).display()))?;
        self.children().insert(service, child);
        Ok(started)
    }

    /// Starts what does not run, waits until all listen.
    pub fn start_all(&self) -> anyhow::Result<BTreeMap<Daemon, Started>> {
        let mut all = BTreeMap::new();
        for service in Daemon::ALL {
            all.insert(service, self.start(service)?);
        }
        for service in Daemon::ALL {
            self.wait_ready(service, READY)?;
        }
        Ok(all)
    }

    /// The pid of a daemon that runs.
    ///
    /// # Errors
    /// A pid file or `/proc` that cannot be read.
    pub fn pid(&self, service: Daemon) -> anyhow::Result<Option<u32>> {
        Ok(self.find(service)?.map(|found| found.pid))
    }

    /// Waits until the daemon that was started listens on its socket.
    pub fn wait_ready(&self, service: Daemon, patience: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + patience;
        loop {
            let Some(found) = self.find(service)? else {
                bail!("{} ended at once; its log says:\n{}", service.program(), self.tail(service));
            };
            if listener(&self.layout.socket(service)) == Some(found.pid) {
                return Ok(());
            }
            ensure!(
                Instant::now() < end,
                "{} does not listen on {} after {} s; its log says:\n{}",
                service.program(),
                self.layout.socket(service).display(),
                patience.as_secs(),
                self.tail(service)
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Asks a daemon to end, waits, kills it if it is too slow. `false`: it did not run.
    pub fn stop(&self, service: Daemon) -> anyhow::Result<bool> {
        self.end(service, Signal::TERM)
    }

    /// Kills a daemon as a crash would. `false`: it did not run.
    pub fn kill(&self, service: Daemon) -> anyhow::Result<bool> {
        self.end(service, Signal::KILL)
    }

    /// The last lines of a daemon's log.
    pub fn tail(&self, service: Daemon) -> String {
        let text = fs::read_to_string(self.log(service)).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        let last = lines.iter().skip(lines.len().saturating_sub(8));
        let last: Vec<_> = last.map(|line| line.chars().take(400).collect::<String>()).collect();
        if last.is_empty() { "(nothing)".to_owned() } else { last.join("\n") }
    }

    fn end(&self, service: Daemon, signal: Signal) -> anyhow::Result<bool> {
        let name = service.program();
        let found = self.find(service)?;
        if let Some(found) = &found {
            let pid = i32::try_from(found.pid).ok().and_then(Pid::from_raw).context("a pid")?;
            match pidfd_open(pid, PidfdFlags::empty()) {
                // Gone in this moment.
                Err(rustix::io::Errno::SRCH) => {}
                Err(e) => return Err(e).with_context(|| format!("watch {name}")),
                Ok(fd) => {
                    // The pidfd names one process for good: look once more that it is ours.
                    if self.find(service)?.is_some_and(|again| again.pid == found.pid) {
                        let send = |signal| match pidfd_send_signal(&fd, signal) {
                            Err(rustix::io::Errno::SRCH) => Ok(()),
                            other => other.with_context(|| format!("signal {name}")),
                        };
                        send(signal)?;
                        if !exited(&fd, DRAIN)? {
                            send(Signal::KILL)?;
                            ensure!(exited(&fd, DRAIN)?, "{name} cannot be killed");
                        }
                    }
                }
            }
        }
        if let Some(mut child) = self.children().remove(&service) {
            child.wait().with_context(|| format!("reap {name}"))?;
        }
        match fs::remove_file(self.pid_file(service)) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                return Err(e)
                    .with_context(|| format!("remove {}", self.pid_file(service).display()));
            }
            _ => {}
        }
        Ok(found.is_some())
    }

    fn spawn(&self, service: Daemon) -> anyhow::Result<Child> {
        let exe = self.bin_dir.join(service.program());
        let log = self.log(service);
        ensure!(exe.is_file(), "{} is not there; `cargo build --release` makes it", exe.display());
        let out = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("open {}", log.display()))?;
        // Both programs only change themselves and then become the daemon, so its pid is theirs.
        let mut command = Command::new("/usr/bin/setsid");
        if service == Daemon::Coordinator {
            command.args(["/usr/bin/setpriv", "--reuid", COORDINATOR_USER, "--regid"]);
            command.args([COORDINATOR_USER, "--init-groups", "--bounding-set=-all"]);
            command.args(["--inh-caps=-all", "--ambient-caps=-all", "--no-new-privs", "--"]);
        }
        command.arg(&exe).arg("--run-dir").arg(self.layout.run_dir());
        command.arg("--state-dir").arg(self.layout.state_dir());
        if let Some(dir) = &self.config_dir {
            let config = dir.join(format!("{}.toml", service.name()));
            if config.is_file() {
                command.arg("--config").arg(config);
            }
        }
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .envs(std::env::vars_os().filter(|(name, _)| {
                let name = name.to_string_lossy();
                ENVIRONMENT.contains(&name.as_ref()) || name.starts_with("OTEL_")
            }))
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(out.try_clone().context("duplicate the log's descriptor")?)
            .stderr(out);
        command.spawn().with_context(|| format!("start {}", exe.display()))
    }

    fn children(&self) -> std::sync::MutexGuard<'_, BTreeMap<Daemon, Child>> {
        self.children.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, service: Daemon) -> anyhow::Result<Option<Found>> {
        if let Some(child) = self.children().get_mut(&service) {
            // Reaps it if it ended, so that it does not look alive below.
            child.try_wait().with_context(|| format!("look after {}", service.program()))?;
        }
        let file = self.pid_file(service);
        let text = match fs::read_to_string(&file) {
            Err(e) if e.kind() == ErrorKind::NotFound => String::new(),
            other => other.with_context(|| format!("read {}", file.display()))?,
        };
        let mut words = text.split_whitespace().map(str::parse::<u64>);
        if let (Some(Ok(pid)), Some(Ok(since))) = (words.next(), words.next())
            && let Ok(pid) = u32::try_from(pid)
            && start_time(pid) == Some(since)
        {
            return Ok(Some(Found { pid, replaced: self.replaced(service, pid) }));
        }
        // The file is lost or tells of a process that ended: whoever holds the socket counts.
        let holder = listener(&self.layout.socket(service));
        Ok(holder
            .filter(|&pid| {
                exe(pid).is_some_and(|exe| exe.to_string_lossy().contains(service.program()))
            })
            .map(|pid| Found { pid, replaced: self.replaced(service, pid) }))
    }

    fn replaced(&self, service: Daemon, pid: u32) -> bool {
        let ours = fs::metadata(self.bin_dir.join(service.program()));
        let its = fs::metadata(format!("/proc/{pid}/exe"));
        match (ours, its) {
            (Ok(ours), Ok(its)) => {
                // While it is still on its way to becoming the daemon its executable is neither.
                let becoming =
                    exe(pid).is_some_and(|exe| exe.ends_with("setsid") || exe.ends_with("setpriv"));
                !becoming && (ours.dev(), ours.ino()) != (its.dev(), its.ino())
            }
            _ => false,
        }
    }
}

#[derive(Debug)]
struct Found {
    pid: u32,
    replaced: bool,
}

/// The uid and gid of a system account, or `None` where there is none.
///
/// # Errors
/// `/etc/passwd` that cannot be read.
pub fn account(name: &str) -> anyhow::Result<Option<(u32, u32)>> {
    let passwd = fs::read_to_string("/etc/passwd").context("read /etc/passwd")?;
    Ok(passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (user, uid, gid) = (fields.next()?, fields.nth(1)?, fields.next()?);
        (user == name).then(|| Some((uid.parse().ok()?, gid.parse().ok()?)))?
    }))
}

/// The process that listens on a unix socket, if one does.
pub fn listener(socket: &Path) -> Option<u32> {
    let stream = UnixStream::connect(socket).ok()?;
    let peer = rustix::net::sockopt::socket_peercred(&stream).ok()?;
    u32::try_from(peer.pid.as_raw_nonzero().get()).ok()
}

/// When a process that lives was started, in clock ticks since boot; `None` of one that ended.
pub fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, so count from the last one.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

fn exe(pid: u32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/exe")).ok()
}

fn exited(pidfd: &rustix::fd::OwnedFd, patience: Duration) -> anyhow::Result<bool> {
    let end = Instant::now() + patience;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let left = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        match poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&left)) {
            Err(rustix::io::Errno::INTR) => {}
            other => return Ok(other.context("wait for a process")? > 0),
        }
    }
}

fn directory(path: &Path, mode: u32, owner: Option<(u32, u32)>) -> anyhow::Result<()> {
    let what = || format!("make the directory {}", path.display());
    fs::create_dir_all(path).with_context(what)?;
    fs::set_permissions(path, Permissions::from_mode(mode)).with_context(what)?;
    if let Some((uid, gid)) = owner {
        std::os::unix::fs::chown(path, Some(uid), Some(gid)).with_context(what)?;
    }
    Ok(())
}

/// Whether everybody may search `path` and all directories above it.
fn open_to_all(path: &Path) -> bool {
    let Ok(path) = path.canonicalize() else { return true };
    path.ancestors().all(|dir| fs::metadata(dir).is_ok_and(|meta| meta.mode() & 0o001 != 0))
}

fn copy_if_other(from: &Path, to: &Path) -> anyhow::Result<()> {
    let same = match (fs::metadata(from), fs::metadata(to)) {
        (Ok(a), Ok(b)) => a.len() == b.len() && a.mtime() <= b.mtime(),
        _ => false,
    };
    if same {
        return Ok(());
    }
    let what = || format!("copy {} to {}", from.display(), to.display());
    let new = to.with_extension("new");
    // A running program cannot be written to, but it can be replaced.
    let copy = || -> io::Result<()> {
        io::copy(&mut File::open(from)?, &mut File::create(&new)?)?;
        fs::set_permissions(&new, Permissions::from_mode(0o755))?;
        fs::rename(&new, to)
    };
    copy().with_context(what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn accounts() {
        assert_eq!(account("root").expect("passwd"), Some((0, 0)));
        assert_eq!(account("no-such-user").expect("passwd"), None);
    }

    #[test]
    fn a_listener_is_found_by_its_socket() {
        let dir = std::env::temp_dir().join(format!("ves-stack-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("a directory");
        let socket = dir.join("x.sock");
        assert_eq!(listener(&socket), None);
        let listening = UnixListener::bind(&socket).expect("a socket");
        assert_eq!(listener(&socket), Some(std::process::id()));
        drop(listening);
        assert_eq!(listener(&socket), None);
        fs::remove_dir_all(&dir).expect("removed");
    }

    #[test]
    fn start_times_tell_processes_apart() {
        assert!(start_time(std::process::id()).is_some());
        let mut child = Command::new("/bin/true").spawn().expect("true runs");
        let pid = child.id();
        child.wait().expect("reaped");
        assert_eq!(start_time(pid), None);
    }
}
