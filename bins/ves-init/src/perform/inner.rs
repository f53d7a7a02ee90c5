//! The inner steps: what the process that becomes init does itself, in its namespaces.
//!
//! It holds no descriptor of the node's when it executes. Never here: what needs the node's
//! privileges.

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::mount::UnmountFlags;
use rustix::thread::CapabilitySet;
use ves_host::channel;
use ves_host::mount::{self, Change, FsContext, attr};
use ves_host::seccomp::Filter;
use ves_host::{Attempt, HostError, child, namespace};
use ves_init_proto::report::{Failure, Performed};
use ves_init_proto::{InitStep, RunFile, Side};

use super::execute::execute;
use super::outer::{Outer, no};
use super::place::{directory, existing, place};
use super::{Word, adapt, etc, failure, timed};

struct Inner<'a> {
    outer: &'a Outer,
    channel: &'a OwnedFd,
    notify: Option<UnixDatagram>,
    warnings: Vec<String>,
    performed: Vec<Performed>,
    /// The empty directory that covers what is masked.
    cover: Option<OwnedFd>,
}

/// The child's side: returns only when a step failed, or the monitor is gone.
pub(super) fn inner(outer: &Outer, channel: &OwnedFd, steps: &[InitStep]) -> Result<(), Failure> {
    let begin = || -> Result<bool, HostError> {
        namespace::hide()?;
        rustix::process::setsid().attempt(|| "begin a session".to_owned())?;
        Ok(channel::receive(channel)?.bytes == b"mapped")
    };
    if !begin().map_err(|e| failure("begin", &e))? {
        return Ok(());
    }
    let mut this = Inner {
        outer,
        channel,
        notify: None,
        warnings: Vec::new(),
        performed: Vec::new(),
        cover: None,
    };
    for step in steps.iter().filter(|s| s.side() == Side::Inner) {
        let (time, done) = timed(step, || this.perform(step));
        this.performed.push(time);
        match done {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err(e) if hinders_no_start(step) => {
                let Failure { step, message, .. } = failure(&step.to_string(), &e);
                this.warnings.push(format!("{step}: {message}"));
            }
            Err(e) => return Err(failure(&step.to_string(), &e)),
        }
    }
    Ok(())
}

/// Whatever the tenant put in the way, a full disk, or what this kernel lacks hinders no start.
fn hinders_no_start(step: &InitStep) -> bool {
    matches!(
        step,
        InitStep::OwnHostname(_)
            | InitStep::WriteEtc(_)
            | InitStep::SetSysctl { .. }
            | InitStep::ShowViews
    )
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
            InitStep::ShowConsole => self.show_console()?,
            InitStep::ShowViews => self.show_views()?,
            InitStep::EnterRoot => self.enter_root()?,
            InitStep::SetHostname(_)
            | InitStep::OwnHostname(_)
            | InitStep::WriteEtc(_)
            | InitStep::Resize { .. }
            | InitStep::ResizeUsers(_) => adapt::perform(step)?,
            InitStep::SetSysctl { name, value } => {
                let path = Path::new("/proc/sys").join(name);
                std::fs::write(&path, value).attempt(|| format!("write {}", path.display()))?;
            }
            InitStep::Introduce { files, notify } => self.introduce(files, *notify)?,
            InitStep::Drop(bits) => {
                let keep = CapabilitySet::from_bits_retain(!*bits);
                namespace::keep_capabilities(keep, CapabilitySet::SYS_ADMIN)?;
            }
            InitStep::Await => return self.await_release(),
            InitStep::Filter(refuse) => Filter::compile(refuse).install()?,
            InitStep::Exec { argv, env, abi32 } => {
                return self.exec(argv, env, *abi32).map(|()| false);
            }
            InitStep::Limit(_)
            | InitStep::TakeRoot { .. }
            | InitStep::MakeDev { .. }
            | InitStep::MakeConsole { .. }
            | InitStep::OpenGroups { .. }
            | InitStep::TakeViews { .. }
            | InitStep::FilterDevices { .. }
            | InitStep::GiveDevices { .. }
            | InitStep::GiveGroup { .. }
            | InitStep::Clone { .. }
            | InitStep::MapIds { .. }
            | InitStep::ResetOom
            | InitStep::PinNet(_) => return no("sense: an outer step came to the inner side"),
        }
        Ok(true)
    }

    /// A mount can be copied only where it is attached, so that of the console is, for a moment.
    fn show_console(&self) -> Result<(), HostError> {
        let Some(console) = &self.outer.console else { return no("a console") };
        let root = self.root()?;
        mount::attach_at(&console.instance, place(root, "dev/pts", true)?, Path::new(""))?;
        let node = mount::clone_tree_at(&console.pty.slave, Path::new(""), false)?;
        mount::attach_at(node, place(root, "dev/console", false)?, Path::new(""))?;
        let what = || "let go of the console's instance".to_owned();
        rustix::process::fchdir(directory(root, "dev")?).attempt(what)?;
        rustix::mount::unmount("pts", UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).attempt(what)
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

    fn show_views(&self) -> Result<(), HostError> {
        match &self.outer.views {
            Some(Ok(views)) => views.show(self.root()?),
            Some(Err(e)) => Err(std::io::Error::other(failure("", e).message))
                .attempt(|| "take views".to_owned()),
            None => no("views"),
        }
    }

    fn enter_root(&self) -> Result<(), HostError> {
        let what = || "enter the container's root".to_owned();
        rustix::process::fchdir(self.root()?).attempt(what)?;
        // The old root comes to lie on the new one, from where it is taken away with all below it.
        rustix::process::pivot_root(".", ".").attempt(what)?;
        rustix::mount::unmount(".", UnmountFlags::DETACH).attempt(what)?;
        rustix::process::chdir("/").attempt(what)
    }

    /// Nothing of the tenant's is in /run yet.
    fn introduce(&mut self, files: &[RunFile], notify: bool) -> Result<(), HostError> {
        for RunFile { path, text, unless } in files {
            if unless.iter().any(etc::stands) {
                continue;
            }
            let path = Path::new("/run").join(path);
            let dir = path.parent().unwrap_or(&path);
            std::fs::create_dir_all(dir).attempt(|| format!("make {}", dir.display()))?;
            std::fs::write(&path, text).attempt(|| format!("write {}", path.display()))?;
        }
        if notify {
            let socket = UnixDatagram::bind("/run/host/notify")
                .attempt(|| "listen at /run/host/notify".to_owned())?;
            socket.set_nonblocking(true).attempt(|| "set up /run/host/notify".to_owned())?;
            self.notify = Some(socket);
        }
        Ok(())
    }

    fn await_release(&mut self) -> Result<bool, HostError> {
        let warnings = std::mem::take(&mut self.warnings);
        let word = Word::Waiting { warnings, performed: std::mem::take(&mut self.performed) };
        let word = serde_json::to_vec(&word).unwrap_or_default();
        let fds: Vec<_> = self.notify.iter().map(AsFd::as_fd).collect();
        channel::send(self.channel, &word, &fds)?;
        self.notify = None;
        Ok(channel::receive(self.channel)?.bytes == b"go")
    }

    fn exec(
        &self,
        argv: &[String],
        env: &[(String, String)],
        abi32: bool,
    ) -> Result<(), HostError> {
        // By its name inside, which programs ask for.
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let console = rustix::fs::open("/dev/console", flags, Mode::empty())
            .attempt(|| "open /dev/console".to_owned())?;
        for number in 0..3 {
            namespace::place(&console, number)?;
        }
        rustix::process::umask(Mode::from_raw_mode(0o022));
        Err(execute(argv.first().map_or("", String::as_str), argv, env, abi32))
    }
}
