//! The performance of init steps: the outer ones by the monitor, the inner ones by the process that
//! becomes init.
//!
//! The process holds no descriptor of the node's when it executes, and every place below its root
//! is resolved without following symbolic links, since the root's contents belong to the tenant.
//! Never here: an order of its own; the list is performed as it is.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::mount::UnmountFlags;
use rustix::process::{Resource, Rlimit, Signal};
use rustix::thread::CapabilitySet;
use serde::{Deserialize, Serialize};

use super::report::Failure;
use super::{InitStep, Limited, ProcessLimit, Side, channel, dev, etc};
use crate::cgroup;
use crate::child::{self, Child, How, Life};
use crate::error::{Attempt, HostError};
use crate::id_map;
use crate::mount::{self, Change, FsContext, Propagation, attr};
use crate::namespace;
use crate::pty::{self, Pty};
use crate::seccomp::Filter;

/// How long the process may take from its birth to waiting for release.
const PREPARE: Duration = Duration::from_secs(30);

/// What the process tells the monitor.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Word {
    /// It waits; with it come the console's two ends and the notification socket.
    Waiting(Vec<String>),
    /// A step failed.
    Failed(Failure),
}

/// A process that waits to become init.
#[derive(Debug)]
pub struct Waiting {
    /// It.
    pub child: Child,
    /// The way to let it go; ends when it executes.
    channel: OwnedFd,
    /// Its console.
    pub console: Pty,
    /// Where it tells how far it is.
    pub notify: Option<UnixDatagram>,
    /// What could not be done but does not matter.
    pub warnings: Vec<String>,
}

impl Waiting {
    /// Lets it become init, and waits until it executes.
    ///
    /// # Errors
    /// Why it could not; it is killed then.
    pub fn release(&self) -> Result<(), Failure> {
        let failed = |e: HostError| failure("execute init", &e);
        let go = || {
            channel::send(&self.channel, b"go", &[]).map_err(failed)?;
            if !channel::wait(&self.channel, PREPARE).map_err(failed)? {
                return Err(late("execute init"));
            }
            let packet = channel::receive(&self.channel).map_err(failed)?;
            match serde_json::from_slice(&packet.bytes) {
                Ok(Word::Failed(failure)) => Err(failure),
                // The end without a word: it executes.
                Ok(Word::Waiting(_)) | Err(_) => Ok(()),
            }
        };
        go().inspect_err(|_| {
            // It may yet execute; nobody would know then that it runs. The monitor reaps it.
            rustix::process::pidfd_send_signal(&self.child.pidfd, Signal::KILL).ok();
        })
    }
}

fn late(step: &str) -> Failure {
    Failure { step: step.to_owned(), message: "it took too long".to_owned(), errno: 0 }
}

/// A failure in the form that travels.
pub fn failure(step: &str, error: &HostError) -> Failure {
    let mut message = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(source) = next {
        message.push_str(": ");
        message.push_str(&source.to_string());
        next = source.source();
    }
    Failure { step: step.to_owned(), message, errno: error.errno().unwrap_or_default() }
}

#[derive(Debug, Default)]
struct Outer {
    root: Option<OwnedFd>,
    dev: Option<OwnedFd>,
    groups: Vec<File>,
    unified: Option<OwnedFd>,
}

impl Outer {
    /// What the process needs of it.
    fn held(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let places = self.root.iter().chain(&self.dev).map(AsFd::as_fd);
        places.chain(self.groups.iter().map(AsFd::as_fd))
    }
}

fn no<T>(what: &str) -> Result<T, HostError> {
    Err(std::io::Error::other(format!("the plan lacks {what}")))
        .attempt(|| "perform the plan".to_owned())
}

/// Performs all steps up to waiting for release. In the child this never returns.
///
/// # Errors
/// The step that failed and why; nothing runs any more then.
pub fn launch(steps: &[InitStep]) -> Result<Waiting, Failure> {
    let mut outer = Outer::default();
    let mut born: Option<(Child, OwnedFd)> = None;
    for step in steps.iter().filter(|s| s.side() == Side::Outer) {
        let done = match (step, &born) {
            (InitStep::Clone { namespaces, creator }, None) => {
                clone(&outer, namespaces, *creator, steps).map(|b| born = Some(b))
            }
            (_, born) => perform_outer(step, &mut outer, born.as_ref().map(|(child, _)| child)),
        };
        if let Err(e) = done {
            if let Some((child, _)) = &born {
                end(child);
            }
            return Err(failure(&step.to_string(), &e));
        }
    }
    let prepare = "prepare the container";
    let Some((child, near)) = born else {
        return Err(Failure {
            step: prepare.to_owned(),
            message: "the plan makes no process".to_owned(),
            errno: 0,
        });
    };
    drop(outer);
    greet(child, near, prepare)
}

/// Tells the new process that its identity is there, and hears how far it comes.
fn greet(child: Child, near: OwnedFd, prepare: &str) -> Result<Waiting, Failure> {
    let hear = || -> Result<channel::Packet, Failure> {
        let failed = |e: HostError| failure(prepare, &e);
        channel::send(&near, b"mapped", &[]).map_err(failed)?;
        if !channel::wait(&near, PREPARE).map_err(failed)? {
            return Err(late(prepare));
        }
        channel::receive(&near).map_err(failed)
    };
    let heard = hear().and_then(|packet| match serde_json::from_slice(&packet.bytes) {
        Ok(Word::Waiting(warnings)) => Ok((packet.fds, warnings)),
        Ok(Word::Failed(failure)) => Err(failure),
        Err(_) => Err(Failure {
            step: prepare.to_owned(),
            message: "the process died".to_owned(),
            errno: 0,
        }),
    });
    let mut fds = match heard {
        Ok((fds, warnings)) => (fds.into_iter(), warnings),
        Err(failure) => {
            end(&child);
            return Err(failure);
        }
    };
    match (fds.0.next(), fds.0.next()) {
        (Some(master), Some(slave)) => Ok(Waiting {
            child,
            channel: near,
            console: Pty { master, slave },
            notify: fds.0.next().map(UnixDatagram::from),
            warnings: fds.1,
        }),
        _ => {
            end(&child);
            Err(Failure {
                step: prepare.to_owned(),
                message: "the process has no console".to_owned(),
                errno: 0,
            })
        }
    }
}

/// Kills a process and waits for it.
fn end(child: &Child) {
    // It may have died by itself.
    rustix::process::pidfd_send_signal(&child.pidfd, Signal::KILL).ok();
    if channel::wait(&child.pidfd, PREPARE).unwrap_or(false) {
        child::reap(child).ok();
    }
}

fn clone(
    outer: &Outer,
    namespaces: &[namespace::Namespace],
    creator: u32,
    steps: &[InitStep],
) -> Result<(Child, OwnedFd), HostError> {
    let (near, far) = channel::pair()?;
    let keep: Vec<BorrowedFd<'_>> = outer.held().collect();
    let how = How {
        new: namespaces,
        group: outer.unified.as_ref().map(AsFd::as_fd),
        keep: &keep,
        // The change of identity that follows undoes it, and a step does it again.
        life: Life::BoundBy(far.as_fd()),
        ..How::default()
    };
    let child = child::fork_as(creator, how, || match inner(outer, &far, steps) {
        Ok(()) => 0,
        Err(failure) => {
            let word = serde_json::to_vec(&Word::Failed(failure)).unwrap_or_default();
            // The monitor may be gone; then nobody wants to know.
            channel::send(&far, &word, &[]).ok();
            1
        }
    })?;
    Ok((child, near))
}

fn perform_outer(
    step: &InitStep,
    outer: &mut Outer,
    child: Option<&Child>,
) -> Result<(), HostError> {
    match (step, child) {
        (InitStep::Limit(limits), _) => limit(limits),
        (InitStep::TakeRoot(path), _) => {
            let root = mount::clone_tree(path, false)?;
            // A copy of a shared mount is its peer: what is mounted on it would come to lie on the
            // volume too and keep it busy, and it could not become a root.
            let alone = Change {
                propagation: Some(Propagation::Private),
                recursive: true,
                ..Change::default()
            };
            mount::change(&root, alone, &path.display().to_string())?;
            outer.root = Some(root);
            Ok(())
        }
        (InitStep::MakeDev { owner }, _) => {
            outer.dev = Some(dev::make(*owner)?);
            Ok(())
        }
        (InitStep::OpenGroups { v1, v2 }, _) => {
            for dir in v1 {
                // A process that moves only itself by `tasks` spares the kernel a wait for RCU.
                let path = dir.join("tasks");
                let file = OpenOptions::new().write(true).open(&path);
                outer.groups.push(file.attempt(|| format!("open {}", path.display()))?);
            }
            if let Some(dir) = v2 {
                let file = File::open(dir).attempt(|| format!("open {}", dir.display()))?;
                outer.unified = Some(file.into());
            }
            Ok(())
        }
        (InitStep::FilterDevices { group, allow }, _) => {
            // Nobody is in the group yet, so that what is allowed may be away for a moment.
            cgroup::write(&group.join("devices.deny"), "a")?;
            allow.iter().try_for_each(|rule| cgroup::write(&group.join("devices.allow"), rule))
        }
        (InitStep::GiveGroup { owner }, _) => match &outer.unified {
            Some(group) => cgroup::delegate(group, *owner),
            None => no("a version 2 group"),
        },
        (InitStep::MapIds { base, count }, Some(child)) => {
            id_map::map_ids(child.pid, *base, *count)
        }
        (InitStep::ResetOom, Some(child)) => {
            let path = format!("/proc/{}/oom_score_adj", child.pid.as_raw_pid());
            std::fs::write(&path, "0").attempt(|| format!("write {path}"))
        }
        (InitStep::PinNet(path), Some(child)) => namespace::pin_net(child.pid, path),
        (step, _) => no(&format!("a process before it can {step}")),
    }
}

/// Sets limits of this process.
///
/// # Errors
/// [`HostError::Sys`].
pub fn limit(limits: &[ProcessLimit]) -> Result<(), HostError> {
    for ProcessLimit { what, soft, hard } in limits {
        let resource = match what {
            Limited::Files => Resource::Nofile,
            Limited::Core => Resource::Core,
            Limited::Memlock => Resource::Memlock,
            Limited::Stack => Resource::Stack,
            Limited::Processes => Resource::Nproc,
            Limited::Signals => Resource::Sigpending,
        };
        let set = |soft, hard| {
            let value = Rlimit { current: soft, maximum: hard };
            rustix::process::setrlimit(resource, value)
        };
        let done = match set(*soft, *hard) {
            Err(rustix::io::Errno::PERM) => {
                // Without CAP_SYS_RESOURCE no limit can be raised; as far as possible will do.
                let most = rustix::process::getrlimit(resource).maximum;
                let least = |a: Option<u64>, b: Option<u64>| match (a, b) {
                    (Some(a), Some(b)) => Some(a.min(b)),
                    (a, b) => a.or(b),
                };
                set(least(*soft, most), least(*hard, most))
            }
            done => done,
        };
        done.attempt(|| format!("set the limit {what:?} to {soft:?}"))?;
    }
    Ok(())
}

struct Inner<'a> {
    outer: &'a Outer,
    channel: &'a OwnedFd,
    console: Option<Pty>,
    notify: Option<UnixDatagram>,
    warnings: Vec<String>,
    /// The empty directory that covers what is masked.
    cover: Option<OwnedFd>,
}

/// The child's side: returns only when a step failed, or the monitor is gone.
fn inner(outer: &Outer, channel: &OwnedFd, steps: &[InitStep]) -> Result<(), Failure> {
    let begin = || -> Result<bool, HostError> {
        namespace::hide()?;
        rustix::process::setsid().attempt(|| "begin a session".to_owned())?;
        Ok(channel::receive(channel)?.bytes == b"mapped")
    };
    if !begin().map_err(|e| failure("begin", &e))? {
        return Ok(());
    }
    let mut this =
        Inner { outer, channel, console: None, notify: None, warnings: Vec::new(), cover: None };
    for step in steps.iter().filter(|s| s.side() == Side::Inner) {
        match this.perform(step) {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err(e) if optional(step, &e) => {
                let Failure { step, message, .. } = failure(&step.to_string(), &e);
                this.warnings.push(format!("{step}: {message}"));
            }
            Err(e) => return Err(failure(&step.to_string(), &e)),
        }
    }
    Ok(())
}

/// A full or read-only disk hinders no start.
fn optional(step: &InitStep, error: &HostError) -> bool {
    use rustix::io::Errno;
    matches!(step, InitStep::WriteEtc(_))
        && [Errno::NOSPC, Errno::DQUOT, Errno::ROFS].into_iter().any(|e| error.is(e))
}

impl Inner<'_> {
    fn root(&self) -> Result<&OwnedFd, HostError> {
        self.outer.root.as_ref().map_or_else(|| no("a root"), Ok)
    }

    /// Performs a step; answers whether to go on.
    fn perform(&mut self, step: &InitStep) -> Result<bool, HostError> {
        match step {
            InitStep::BecomeRoot => namespace::become_root()?,
            InitStep::DieWithMonitor => child::die_with_parent(self.channel.as_fd())?,
            InitStep::JoinGroups => {
                for mut file in &self.outer.groups {
                    file.write_all(b"0").attempt(|| "join a control group".to_owned())?;
                }
            }
            InitStep::NewGroupNamespace => namespace::unshare_cgroup()?,
            InitStep::IsolateMounts => {
                let private = rustix::mount::MountPropagationFlags::PRIVATE
                    | rustix::mount::MountPropagationFlags::REC;
                rustix::mount::mount_change("/", private)
                    .attempt(|| "make all mounts private".to_owned())?;
            }
            InitStep::AttachRoot => mount::attach(self.root()?, Path::new("/"))?,
            InitStep::AttachDev => {
                let Some(dev) = &self.outer.dev else { return no("a /dev") };
                mount::attach_at(dev, place(self.root()?, "dev", true)?, Path::new(""))?;
            }
            InitStep::Mount { fs, at, attributes, options } => {
                let target = place(self.root()?, at, true)?;
                let mut context = FsContext::new(fs)?.set("source", fs)?;
                for (key, value) in options {
                    context = context.set(key, value)?;
                }
                mount::attach_at(context.mount(*attributes)?, target, Path::new(""))?;
            }
            InitStep::ReadOnly { at, except } => self.read_only(at, except)?,
            InitStep::Mask(at) => self.mask(at)?,
            InitStep::MakeConsole => {
                let pts = directory(self.root()?, "dev/pts")?;
                let console = pty::open(pts)?;
                let node = mount::clone_tree_at(&console.slave, Path::new(""), false)?;
                let target = place(self.root()?, "dev/console", false)?;
                mount::attach_at(node, target, Path::new(""))?;
                self.console = Some(console);
            }
            InitStep::EnterRoot => self.enter_root()?,
            InitStep::SetHostname(name) => rustix::system::sethostname(name.as_bytes())
                .attempt(|| format!("set the host name {name}"))?,
            InitStep::WriteEtc(file) => etc::write(Path::new("/etc"), file)?,
            InitStep::Introduce { files, notify } => self.introduce(files, *notify)?,
            InitStep::Drop(bits) => {
                namespace::keep_capabilities(CapabilitySet::from_bits_retain(!*bits))?;
            }
            InitStep::Await => return self.await_release(),
            InitStep::Filter(refuse) => Filter::compile(refuse).install()?,
            InitStep::Exec { argv, env } => return self.exec(argv, env).map(|()| false),
            InitStep::Limit(_)
            | InitStep::TakeRoot(_)
            | InitStep::MakeDev { .. }
            | InitStep::OpenGroups { .. }
            | InitStep::FilterDevices { .. }
            | InitStep::GiveGroup { .. }
            | InitStep::Clone { .. }
            | InitStep::MapIds { .. }
            | InitStep::ResetOom
            | InitStep::PinNet(_) => return no("sense: an outer step came to the inner side"),
        }
        Ok(true)
    }

    fn read_only(&self, at: &str, except: &[String]) -> Result<(), HostError> {
        let root = self.root()?;
        let Some(part) = existing(root, at)? else { return Ok(()) };
        let mut kept = Vec::new();
        for name in except {
            let path = format!("{at}/{name}");
            if let Some(fd) = existing(root, &path)? {
                kept.push((path, mount::clone_tree_at(fd, Path::new(""), false)?));
            }
        }
        let copy = mount::clone_tree_at(&part, Path::new(""), false)?;
        mount::change(&copy, Change { set: attr::RDONLY, ..Change::default() }, at)?;
        mount::attach_at(copy, part, Path::new(""))?;
        for (path, copy) in kept {
            mount::attach_at(copy, place(root, &path, false)?, Path::new(""))?;
        }
        Ok(())
    }

    fn mask(&mut self, at: &str) -> Result<(), HostError> {
        let Some(root) = self.outer.root.as_ref() else { return no("a root") };
        let Some(part) = existing(root, at)? else { return Ok(()) };
        let stat = rustix::fs::fstat(&part).attempt(|| format!("look at /{at}"))?;
        if !FileType::from_raw_mode(stat.st_mode).is_dir() {
            let null = place(root, "dev/null", false)?;
            let cover = mount::clone_tree_at(null, Path::new(""), false)?;
            return mount::attach_at(cover, part, Path::new(""));
        }
        // One empty directory covers all.
        let cover = match &self.cover {
            Some(cover) => mount::clone_tree_at(cover, Path::new(""), false)?,
            None => FsContext::new("tmpfs")?
                .set("source", "tmpfs")?
                .set("size", "4k")?
                .set("nr_inodes", "2")?
                .set("mode", "0555")?
                .flag("ro")?
                .mount(attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC)?,
        };
        mount::attach_at(&cover, part, Path::new(""))?;
        self.cover = Some(cover);
        Ok(())
    }

    fn enter_root(&self) -> Result<(), HostError> {
        let what = || "enter the container's root".to_owned();
        rustix::process::fchdir(self.root()?).attempt(what)?;
        // The old root comes to lie on the new one, from where it is taken away with all below it.
        rustix::process::pivot_root(".", ".").attempt(what)?;
        rustix::mount::unmount(".", UnmountFlags::DETACH).attempt(what)?;
        rustix::process::chdir("/").attempt(what)
    }

    fn introduce(&mut self, files: &[(String, String)], notify: bool) -> Result<(), HostError> {
        let dir = Path::new("/run/host");
        std::fs::create_dir_all(dir).attempt(|| "make /run/host".to_owned())?;
        for (name, text) in files {
            let path = dir.join(name);
            std::fs::write(&path, text).attempt(|| format!("write {}", path.display()))?;
        }
        if notify {
            let socket = UnixDatagram::bind(dir.join("notify"))
                .attempt(|| "listen at /run/host/notify".to_owned())?;
            socket.set_nonblocking(true).attempt(|| "set up /run/host/notify".to_owned())?;
            self.notify = Some(socket);
        }
        Ok(())
    }

    fn await_release(&mut self) -> Result<bool, HostError> {
        let Some(console) = &self.console else { return no("a console") };
        let word = Word::Waiting(std::mem::take(&mut self.warnings));
        let word = serde_json::to_vec(&word).unwrap_or_default();
        let mut fds = vec![console.master.as_fd(), console.slave.as_fd()];
        fds.extend(self.notify.as_ref().map(AsFd::as_fd));
        channel::send(self.channel, &word, &fds)?;
        self.notify = None;
        Ok(channel::receive(self.channel)?.bytes == b"go")
    }

    fn exec(&self, argv: &[String], env: &[(String, String)]) -> Result<(), HostError> {
        if let Some(console) = &self.console {
            for number in 0..3 {
                namespace::place(&console.slave, number)?;
            }
        }
        rustix::process::umask(Mode::from_raw_mode(0o022));
        Err(execute(argv.first().map_or("", String::as_str), argv, env))
    }
}

/// The file this program is, by device and inode.
static OWN: OnceLock<(u64, u64)> = OnceLock::new();

/// Remembers which file this program is, to be called on the node.
pub fn remember_program() {
    if let Ok(stat) = rustix::fs::stat("/proc/self/exe") {
        OWN.get_or_init(|| (stat.st_dev, stat.st_ino));
    }
}

/// Whether a path leads to this program, by a link to /proc/self/exe. A guard against accidents:
/// a tenant can change the link in time. That this program's file belongs to the node's root, who
/// is nobody inside, is the wall.
fn leads_here(path: &str) -> bool {
    rustix::fs::stat(path).is_ok_and(|s| OWN.get() == Some(&(s.st_dev, s.st_ino)))
}

/// Executes a program by its path, with default signal actions. Returns only the reason why it
/// could not.
pub fn execute(path: &str, argv: &[String], env: &[(String, String)]) -> HostError {
    let text = |s: &str| CString::new(s).map_err(std::io::Error::from);
    let strings = || -> std::io::Result<_> {
        let argv: Vec<_> = argv.iter().map(|a| text(a)).collect::<Result<_, _>>()?;
        let env = env.iter().map(|(k, v)| text(&format!("{k}={v}"))).collect::<Result<_, _>>()?;
        Ok::<(CString, Vec<_>, Vec<_>), _>((text(path)?, argv, env))
    };
    let source = match strings() {
        Ok(_) if leads_here(path) => rustix::io::Errno::ACCESS.into(),
        Ok((path, argv, env)) => {
            child::reset_signals();
            namespace::exec(&path, &argv, &env)
        }
        Err(e) => e,
    };
    HostError::Sys { what: format!("execute {path}"), source }
}

/// Opens what is at a path below the root, as a place; `None` where nothing is.
fn existing(root: impl AsFd, path: &str) -> Result<Option<OwnedFd>, HostError> {
    match open(root, path) {
        Ok(fd) => Ok(Some(fd)),
        // Not only the last part may be missing.
        Err(rustix::io::Errno::NOENT) => Ok(None),
        Err(e) => Err(e).attempt(|| unusable(path, e)),
    }
}

fn open(root: impl AsFd, path: &str) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat2(root, path, flags, Mode::empty(), resolve)
}

fn unusable(path: &str, e: rustix::io::Errno) -> String {
    if e == rustix::io::Errno::LOOP {
        format!("use /{path} of the container, which is or lies behind a symbolic link")
    } else {
        format!("use /{path} of the container")
    }
}

/// Opens a place below the root; directories that are missing are made where `make` says so.
fn place(root: impl AsFd, path: &str, make: bool) -> Result<OwnedFd, HostError> {
    if let Some(found) = existing(&root, path)? {
        let stat = rustix::fs::fstat(&found).attempt(|| format!("look at /{path}"))?;
        if FileType::from_raw_mode(stat.st_mode).is_symlink() {
            return Err(rustix::io::Errno::LOOP)
                .attempt(|| unusable(path, rustix::io::Errno::LOOP));
        }
        if make && !FileType::from_raw_mode(stat.st_mode).is_dir() {
            return Err(rustix::io::Errno::NOTDIR)
                .attempt(|| unusable(path, rustix::io::Errno::NOTDIR));
        }
        return Ok(found);
    }
    if !make {
        return Err(rustix::io::Errno::NOENT).attempt(|| unusable(path, rustix::io::Errno::NOENT));
    }
    let mut at = open(&root, ".").attempt(|| "open the container's root".to_owned())?;
    for part in path.split('/') {
        match rustix::fs::mkdirat(&at, part, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(e) => return Err(e).attempt(|| format!("make /{path} in the container")),
        }
        at = open(&at, part).attempt(|| format!("open /{path} in the container"))?;
    }
    Ok(at)
}

/// Opens a directory below the root for use by `openat2`.
fn directory(root: impl AsFd, path: &str) -> Result<OwnedFd, HostError> {
    let found = place(root, path, false)?;
    rustix::fs::openat(
        found,
        c".",
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .attempt(|| format!("open /{path}"))
}
