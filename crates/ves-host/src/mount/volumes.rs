//! A mount namespace of its own, in which file systems are mounted that nobody of the node is to hold.
//!
//! ```text
//! node's namespace   DIR ── bound on itself, private ── DIR/ns ── the other namespace's file
//!                                                          │ entered by a thread, for one piece of work
//! the namespace      / ── a small tmpfs, root's ── /101, /102, … ── what is mounted
//! ```
//!
//! Whoever copies the node's namespace, as any user may in a user namespace of his own, gets all that is
//! mounted in it and keeps it mounted. The file of a namespace is not copied (the kernel leaves it out), so
//! what is in here is held by who enters only. Nothing of the node is in it either: it pins nothing there.
//! The kernel takes such a file on a private mount only. Looking needs the namespace's root directory and no
//! entering. Never here: whose file systems they are; a thread that stays inside.

#![allow(unsafe_code, reason = "a thread's own root and mounts")]

use std::fs::{DirBuilder, File, OpenOptions};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, FlockOperation, Mode, OFlags, StatVfs, StatxAttributes, StatxFlags, openat, statx,
};
use rustix::io::Errno;
use rustix::thread::{
    CpuSet, LinkNameSpaceType, UnshareFlags, move_into_link_name_space, sched_getaffinity,
    sched_setaffinity,
};

use super::{Change, FsContext, Propagation, attr, node};
use crate::error::{Attempt, HostError};
use crate::thread;

/// Directories to mount on are all that is in the namespace's own file system.
const OPTIONS: [(&str, &str); 3] = [("mode", "0700"), ("size", "64k"), ("nr_inodes", "262144")];

/// Where such a namespace is kept.
#[derive(Debug, Clone)]
pub struct Volumes {
    dir: PathBuf,
}

impl Volumes {
    /// The one kept in this directory of the node, which has nothing else.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    fn pin(&self) -> PathBuf {
        self.dir.join("ns")
    }

    /// Makes the namespace where it is not there; tells whether it was made. One that somebody took the pin
    /// of ends with what is mounted in it, and another takes its place.
    ///
    /// # Errors
    /// [`HostError::Sys`].
    pub fn make(&self) -> Result<bool, HostError> {
        if self.enter()?.is_some() {
            return Ok(false);
        }
        node::within(|| {
            let what = || format!("make {}", self.dir.display());
            DirBuilder::new().recursive(true).mode(0o700).create(&self.dir).attempt(what)?;
            // One at a time: the bound directory is the same file.
            let lock = File::open(&self.dir).attempt(what)?;
            rustix::fs::flock(&lock, FlockOperation::LockExclusive).attempt(what)?;
            if !super::is_mount_point(&self.dir)? {
                rustix::mount::mount_bind(&self.dir, &self.dir).attempt(what)?;
            }
            let own = Change { propagation: Some(Propagation::Private), ..Change::default() };
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let bound = rustix::fs::open(&self.dir, flags, Mode::empty()).attempt(what)?;
            super::change(&bound, own, &self.dir.display().to_string())?;
            let pin = self.pin();
            if open_root(&pin)?.is_some() {
                return Ok(false);
            }
            let what = || format!("pin the volumes' mount namespace at {}", pin.display());
            let file = OpenOptions::new().create(true).truncate(false).write(true).open(&pin);
            drop(file.attempt(what)?);
            let make = |on| {
                let namespace =
                    thread::on_own_thread("new-volumes", || new_namespace(&self.dir, on))?;
                let file = format!("/proc/self/fd/{}", namespace.as_raw_fd());
                rustix::mount::mount_bind(file, &pin).attempt(what)
            };
            match make(None) {
                // The kernel binds a namespace in one with a lower number only, and since Linux 6.18 each
                // processor has its own range of them. The first namespace of a machine has the lowest of
                // all; where the node's is another, some processor's numbers are beyond it.
                Err(e) if e.is(Errno::INVAL) => {
                    let mut made = processors()?.into_iter().map(|one| make(Some(one)));
                    made.find(Result::is_ok).unwrap_or(Err(e))?;
                }
                made => made?,
            }
            Ok(true)
        })
    }

    /// The namespace as it is now; `None` where there is none. While the answer lives, so does the
    /// namespace.
    ///
    /// # Errors
    /// [`HostError::Sys`].
    pub fn enter(&self) -> Result<Option<Inside>, HostError> {
        node::within(|| open_root(&self.pin()))
    }

    /// Ends the namespace, where nothing is mounted in it; tells whether there is none any more.
    ///
    /// # Errors
    /// [`HostError::Sys`].
    pub fn end(&self) -> Result<bool, HostError> {
        if self.enter()?.map_or(Ok(false), |inside| inside.is_used())? {
            return Ok(false);
        }
        // The pin lies on the bound directory, and goes with it.
        match node::unmount(&self.dir, true) {
            Err(e) if e.is(Errno::INVAL) || e.is(Errno::NOENT) => {}
            other => other?,
        }
        crate::file::remove_if_exists(&self.pin())?;
        match std::fs::remove_dir(&self.dir) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(true),
            other => other.map(|()| true).attempt(|| format!("remove {}", self.dir.display())),
        }
    }

    /// [`Self::enter`] for whoever cannot go on without.
    ///
    /// # Errors
    /// [`HostError::Sys`].
    pub fn need(&self) -> Result<Inside, HostError> {
        self.enter()?
            .ok_or(Errno::NOENT)
            .attempt(|| format!("enter the volumes' mount namespace at {}", self.pin().display()))
    }
}

/// The namespace whose file is at this path, on a thread of its own; `None` where there is none.
fn open_root(pin: &Path) -> Result<Option<Inside>, HostError> {
    let what = || format!("enter the mount namespace at {}", pin.display());
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let namespace = match rustix::fs::open(pin, flags, Mode::empty()) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        other => other.attempt(what)?,
    };
    let root = inside(&namespace, || {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open("/", flags, Mode::empty()).attempt(what)
    });
    match root {
        // The file that was to be bound over, or of another kind of namespace.
        Err(e) if e.is(Errno::INVAL) => Ok(None),
        root => Ok(Some(Inside { namespace, root: root? })),
    }
}

/// Does `work` in a mount namespace, on a thread made for it.
fn inside<T: Send>(
    namespace: &OwnedFd,
    work: impl FnOnce() -> Result<T, HostError> + Send,
) -> Result<T, HostError> {
    thread::on_own_thread("volumes", || {
        let what = || "enter the volumes' mount namespace".to_owned();
        // SAFETY: only this thread's root, working directory and umask become its own; it ends here.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS) }.attempt(what)?;
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Mount))
            .attempt(what)?;
        work()
    })
}

/// The processors that this process may use.
fn processors() -> Result<Vec<usize>, HostError> {
    let usable = sched_getaffinity(None).attempt(|| "list the processors".to_owned())?;
    Ok((0..CpuSet::MAX_CPU).filter(|processor| usable.is_set(*processor)).collect())
}

/// Moves this thread to a new mount namespace that has nothing of the one before, and answers its file.
/// `dir` is a directory to stand on meanwhile, and `on` the one processor to make it on.
fn new_namespace(dir: &Path, on: Option<usize>) -> Result<OwnedFd, HostError> {
    let what = || "make the volumes' mount namespace".to_owned();
    if let Some(processor) = on {
        let mut only = CpuSet::new();
        only.set(processor);
        sched_setaffinity(None, &only).attempt(what)?;
    }
    // SAFETY: the thread was made for this, and what becomes its own are its root and its mounts.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }.attempt(what)?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let namespace =
        rustix::fs::open("/proc/thread-self/ns/mnt", flags, Mode::empty()).attempt(what)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open("/", flags, Mode::empty()).attempt(what)?;
    // What is unmounted here stays mounted there.
    let alone =
        Change { propagation: Some(Propagation::Private), recursive: true, ..Change::default() };
    super::change(&root, alone, "a mount namespace")?;
    let mut context = FsContext::new("tmpfs")?.set("source", "ves-volumes")?;
    for (name, value) in OPTIONS {
        context = context.set(name, value)?;
    }
    let new = context.mount(attr::NOSUID | attr::NODEV | attr::NOEXEC)?;
    super::attach(&new, dir)?;
    super::pivot_root(&new)?;
    Ok(namespace)
}

/// What is at a name in the namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Whether something is mounted there.
    pub mounted: bool,
    /// Whether it is a directory.
    pub directory: bool,
    /// The device of what is mounted.
    pub device: u64,
    /// The owner of its root.
    pub owner: u32,
}

/// The namespace, to look into and to work in. Names are single words.
#[derive(Debug)]
pub struct Inside {
    namespace: OwnedFd,
    root: OwnedFd,
}

impl AsFd for Inside {
    /// Its root directory, as a place only: from here all that is mounted can be reached.
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.root.as_fd()
    }
}

impl Inside {
    /// What is there; `None`: nothing.
    ///
    /// # Errors
    /// [`HostError::Sys`].
    pub fn look(&self, name: &str) -> Result<Option<Place>, HostError> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        let stat = match statx(&self.root, name, flags, StatxFlags::BASIC_STATS) {
            Err(Errno::NOENT) => return Ok(None),
            other => other.attempt(|| format!("look at volume {name}"))?,
        };
        Ok(Some(Place {
            mounted: stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT),
            directory: rustix::fs::FileType::from_raw_mode(stat.stx_mode.into())
                == rustix::fs::FileType::Directory,
            device: rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor),
            owner: stat.stx_uid,
        }))
    }

    /// The names that there are.
    ///
    /// # Errors
    /// [`HostError::Sys`].
    pub fn names(&self) -> Result<Vec<String>, HostError> {
        let what = || "list the places of volumes".to_owned();
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(self.open(".")?).attempt(what)? {
            let name = entry.attempt(what)?.file_name().to_string_lossy().into_owned();
            if name != "." && name != ".." {
                names.push(name);
            }
        }
        Ok(names)
    }

    /// Whether anything is mounted.
    fn is_used(&self) -> Result<bool, HostError> {
        for name in self.names()? {
            if self.look(&name)?.is_some_and(|place| place.mounted) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The directory there, to be read and to speak to its file system by.
    ///
    /// # Errors
    /// [`HostError::Sys`].
    pub fn open(&self, name: &str) -> Result<OwnedFd, HostError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(&self.root, name, flags, Mode::empty())
            .attempt(|| format!("open the root directory of volume {name}"))
    }

    /// How full the file system there is.
    ///
    /// # Errors
    /// [`HostError::Sys`].
    pub fn usage(&self, name: &str) -> Result<StatVfs, HostError> {
        let what = || format!("ask for the usage of volume {name}");
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let place = openat(&self.root, name, flags, Mode::empty()).attempt(what)?;
        rustix::fs::fstatvfs(place).attempt(what)
    }

    /// Attaches a detached mount there; the directory is made.
    ///
    /// # Errors
    /// [`HostError::Sys`].
    pub fn attach(&self, mount: impl AsFd + Sync, name: &str) -> Result<(), HostError> {
        inside(&self.namespace, || {
            match rustix::fs::mkdir(at(name), Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(e) => return Err(e).attempt(|| format!("make a place for volume {name}")),
            }
            super::attach(&mount, &at(name))
        })
    }

    /// Takes away all that is mounted there, whoever uses it: a file system that is used elsewhere goes on
    /// there. Nothing mounted is no failure.
    ///
    /// # Errors
    /// [`HostError::Sys`].
    pub fn unmount(&self, name: &str) -> Result<(), HostError> {
        inside(&self.namespace, || {
            loop {
                match super::unmount(&at(name), true) {
                    Ok(()) => {}
                    Err(e) if e.is(Errno::INVAL) || e.is(Errno::NOENT) => return Ok(()),
                    Err(e) => return Err(e),
                }
            }
        })
    }

    /// Removes the directory there. None is no failure.
    ///
    /// # Errors
    /// [`HostError::Sys`]: `EBUSY` where something is mounted on it.
    pub fn remove(&self, name: &str) -> Result<(), HostError> {
        // From outside, the kernel would take away what is mounted on it as well.
        inside(&self.namespace, || match rustix::fs::rmdir(at(name)) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(e).attempt(|| format!("remove the place of volume {name}")),
        })
    }

    /// A detached copy of what is mounted there.
    ///
    /// # Errors
    /// [`HostError::Sys`]: `ENOENT` where nothing is.
    pub fn clone_mount(&self, name: &str) -> Result<OwnedFd, HostError> {
        if !self.look(name)?.is_some_and(|place| place.mounted) {
            return Err(Errno::NOENT).attempt(|| format!("copy the mount of volume {name}"));
        }
        inside(&self.namespace, || super::clone_tree(&at(name), false))
    }
}

fn at(name: &str) -> PathBuf {
    Path::new("/").join(name)
}
