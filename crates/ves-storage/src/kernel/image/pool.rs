//! The pool: where images are, and what file system is under them.
//!
//! Either a directory of the state directory's file system, or, where that cannot share blocks, an
//! image file with one that can, mounted there. [`Place`] is looked at and changed as
//! [`crate::plan::node`] plans. Never here: which of both, how large, what is foreign.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::{CWD, FallocateFlags, RenameFlags, fallocate, renameat_with};
use rustix::io::Errno;
use rustix::thread::CapabilitySet;
use ves_daemon::FenceStore;
use ves_host::cmd::find;
use ves_host::loopdev::{self, FileId};
use ves_host::mount::{self, FsContext, attr};
use ves_host::{Attempt, Cmd, HostError, file, id_map};
use ves_types::layout::{Daemon, Layout};

use super::file::until;
use crate::config::{Config, PoolKind};
use crate::error::Error;
use crate::kernel::file::{directory, sync_dir};
use crate::observe::{knows_filesystem, parse_xfs_reach};
use crate::plan::node::{FileSystem, Image, Mount, Observed, Step};
use crate::plan::room::Room;

/// The pool.
#[derive(Debug)]
pub struct Pool {
    /// Its directory.
    pub dir: PathBuf,
    /// Whether its file system shares blocks.
    pub reflink: bool,
    /// The most it may use, where it shares a file system with others.
    limit: Option<u64>,
    overcommit_percent: u64,
    image: Option<Backing>,
}

/// The image of a pool that is a file system of its own.
#[derive(Debug)]
struct Backing {
    file: File,
    /// How far the file system in it reaches. Who only asks does not wait until it has grown.
    reach: AtomicU64,
    /// Held while it grows.
    growing: Mutex<()>,
}

/// Where a pool is, or will be.
#[derive(Debug)]
pub struct Place {
    image: PathBuf,
    dir: PathBuf,
    base: PathBuf,
}

/// Whether a name is taken, be it by a symbolic link to nothing.
fn is_there(path: &Path) -> Result<bool, HostError> {
    match std::fs::symlink_metadata(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
        other => other.map(|_| true).attempt(|| format!("look at {}", path.display())),
    }
}

/// Whether there are volumes by what was decided here: one that was not removed since.
fn had_volumes(fences: &Path) -> Result<bool, HostError> {
    let what = || format!("read the fences in {}", fences.display());
    Ok(FenceStore::open(fences.to_owned()).attempt(what)?.any_left())
}

/// The directories of a pool.
const DIRECTORIES: [&str; 3] = ["volumes", "templates", "snapshots"];

impl Place {
    /// Of this daemon.
    pub fn new(layout: &Layout) -> Self {
        let base = layout.service_dir(Daemon::Storage);
        Self { image: base.join("pool.img"), dir: base.join("pool"), base }
    }

    /// The image of a pool.
    pub fn image(&self) -> &Path {
        &self.image
    }

    /// What there is of a pool.
    pub fn observe(&self) -> Result<Observed, Error> {
        directory(&self.base)?;
        directory(&self.dir)?;
        let image = self.observe_image()?;
        let mut seen = Observed {
            image,
            mount: self.observe_mount(image)?,
            ready: true,
            used: false,
            had_volumes: false,
            shares_blocks: false,
            makes: Vec::new(),
            below: 0,
        };
        for name in DIRECTORIES {
            seen.ready &= is_there(&self.dir.join(name))?;
        }
        if image == Image::Absent {
            seen.used = is_there(&self.dir.join("volumes"))?;
            seen.had_volumes = had_volumes(&self.base.join("fence"))?;
            seen.shares_blocks = shares_blocks(&self.base)?;
            seen.makes = file_systems()?;
            let what = || format!("ask for the room on {}", self.base.display());
            let below = rustix::fs::statvfs(&self.base).attempt(what)?;
            seen.below = below.f_bavail * below.f_frsize;
        }
        Ok(seen)
    }

    fn observe_image(&self) -> Result<Image, HostError> {
        if !is_there(&self.image)? {
            return Ok(Image::Absent);
        }
        Ok(match self.open_image()? {
            None => Image::Dangling,
            Some(file) => Image::There { attached: device_of(&file)?.is_some() },
        })
    }

    fn observe_mount(&self, image: Image) -> Result<Mount, HostError> {
        if !mount::is_mount_point(&self.dir)? {
            return Ok(Mount::None);
        }
        let what = || format!("look at {}", self.dir.display());
        if image == (Image::There { attached: true })
            && let Some(file) = self.open_image()?
            && let Some(number) = device_of(&file)?
        {
            let there = std::fs::metadata(&self.dir).attempt(what)?;
            // btrfs shows a number of its own; the mount table knows the device's.
            let entry = mount::mounted_at(&self.dir)?;
            if there.dev() == loopdev::device_number(number)?
                || entry.is_some_and(|m| m.source == loopdev::path(number))
            {
                return Ok(Mount::Image);
            }
        }
        Ok(Mount::Foreign(format!("what is mounted on {}", self.dir.display())))
    }

    /// The image, where it is one.
    fn open_image(&self) -> Result<Option<File>, HostError> {
        match OpenOptions::new().read(true).write(true).open(&self.image) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            other => other.map(Some).attempt(|| format!("open {}", self.image.display())),
        }
    }

    fn need_image(&self) -> Result<File, Error> {
        self.open_image()?.ok_or_else(|| Error::PoolGone(self.image.clone()))
    }

    /// Does one step.
    pub fn apply(&self, step: &Step) -> Result<(), Error> {
        match *step {
            Step::MakeImage { fs, bytes, reach } => make_image(&self.image, fs, bytes, reach)?,
            Step::Attach => {
                let image = self.need_image()?;
                if device_of(&image)?.is_none() {
                    // Through the page cache: blocks that volumes share are then in memory once.
                    loopdev::attach(&image, false)?;
                }
            }
            Step::Mount => {
                let gone = || HostError::parse("mount the pool image", "it has no device");
                let number = device_of(&self.need_image()?)?.ok_or_else(gone)?;
                mount_image(number, &self.dir)?;
                // In use, it is only marked to go with its last user: whoever unmounts the pool leaves
                // no device behind.
                loopdev::detach(number)?;
            }
            Step::MakeDirectories => {
                DIRECTORIES.iter().try_for_each(|name| directory(&self.dir.join(name)))?;
            }
        }
        Ok(())
    }

    /// The pool that is there now.
    pub fn pool(&self, config: &Config) -> Result<Pool, Error> {
        let (dir, overcommit_percent) = (self.dir.clone(), config.overcommit_percent);
        if let Some(image) = self.open_image()? {
            let reflink = match shares_blocks(&dir) {
                // Not to be found out now; those that are made here do.
                Err(e) if e.is(Errno::NOSPC) => true,
                other => other?,
            };
            let reach = AtomicU64::new(reach(&dir)?.unwrap_or(length(&image)?));
            let image = Some(Backing { file: image, reach, growing: Mutex::default() });
            return Ok(Pool { dir, reflink, limit: None, overcommit_percent, image });
        }
        let reflink = config.pool != PoolKind::ImageCopy && shares_blocks(&self.base)?;
        Ok(Pool { dir, reflink, limit: config.pool_bytes, overcommit_percent, image: None })
    }

    /// Takes the pool's mount and device away; its contents stay. Says whether there was one.
    ///
    /// # Errors
    /// `EBUSY` while a volume is attached.
    pub fn detach(&self) -> Result<bool, Error> {
        let Self { image, dir, .. } = self;
        let mut was = false;
        if mount::is_mount_point(dir)? {
            mount::node::unmount(dir, false)?;
            was = true;
        }
        let backing = match File::open(image) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(was),
            other => FileId::of(&other.attempt(|| format!("open {}", image.display()))?)?,
        };
        for (number, file) in loopdev::all()? {
            if file == backing {
                loopdev::detach(number)?;
                let gone = || Ok(loopdev::backing(number)? != Some(backing));
                if !until(Duration::from_secs(5), gone)? {
                    return Err(Error::Foreign(format!("what uses loop{number}")));
                }
                was = true;
            }
        }
        Ok(was)
    }
}

impl Pool {
    /// Where volumes are.
    pub fn volumes(&self) -> PathBuf {
        self.dir.join("volumes")
    }
    /// Where snapshots are, in a directory for each container.
    pub fn snapshots(&self) -> PathBuf {
        self.dir.join("snapshots")
    }
    /// Where templates are.
    pub fn templates(&self) -> PathBuf {
        self.dir.join("templates")
    }
    /// The number of the pool's file system.
    pub fn device(&self) -> Result<u64, HostError> {
        let meta = std::fs::metadata(self.volumes());
        Ok(meta.attempt(|| format!("look at {}", self.dir.display()))?.dev())
    }

    /// Whether it is a file system of its own.
    pub fn own(&self) -> bool {
        self.image.is_some()
    }

    /// Its room.
    pub fn room(&self) -> Result<Room, HostError> {
        let what = || format!("ask for the room on {}", self.dir.display());
        let here = rustix::fs::statvfs(&self.dir).attempt(what)?;
        let (size, free) = (here.f_blocks * here.f_frsize, here.f_bavail * here.f_frsize);
        let (used, overcommit_percent) = (size.saturating_sub(free), self.overcommit_percent);
        let Some(Backing { file: image, reach, .. }) = &self.image else {
            let limit = size.min(self.limit.unwrap_or(u64::MAX));
            let (reach, below) = (limit, free);
            return Ok(Room {
                own: false,
                limit,
                reach,
                backed: 0,
                below,
                used,
                overcommit_percent,
            });
        };
        let meta = image.metadata().attempt(what)?;
        let (limit, backed) = (meta.len(), meta.blocks() * 512);
        // It may be a link to another file system than the state directory's.
        let below = rustix::fs::fstatvfs(image).attempt(what)?;
        let below = below.f_bavail * below.f_frsize;
        let reach = reach.load(Ordering::Acquire);
        // What the file system keeps for its log is in use too.
        let used = used.saturating_add(reach.saturating_sub(size));
        Ok(Room { own: true, limit, reach, backed, below, used, overcommit_percent })
    }

    /// Gives the image its blocks up to there, and lets the file system reach so far.
    pub fn back(&self, bytes: u64) -> Result<(), HostError> {
        let Some(Backing { file, reach, growing }) = &self.image else { return Ok(()) };
        let _one = growing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = reach.load(Ordering::Acquire);
        let what = || format!("reserve {bytes} bytes for the pool");
        fallocate(file, FallocateFlags::empty(), 0, bytes.max(before)).attempt(what)?;
        if bytes > before {
            let blocks = (bytes / 4096).to_string();
            let program = find("xfs_growfs", "xfsprogs")?;
            let grow = Cmd::new(program).args(["-D", &blocks]).arg(&self.dir);
            grow.capabilities(CapabilitySet::SYS_ADMIN).run()?;
            reach.store(bytes, Ordering::Release);
        }
        Ok(())
    }
}

/// How far the file system mounted there reaches, where it is one that was made to grow.
fn reach(dir: &Path) -> Result<Option<u64>, HostError> {
    let Ok(program) = find("xfs_growfs", "xfsprogs") else { return Ok(None) };
    let said = Cmd::new(program).arg("-n").arg(dir).run();
    // Another file system than its own.
    Ok(said.ok().and_then(|said| parse_xfs_reach(&String::from_utf8_lossy(&said.stdout))))
}

fn length(file: &File) -> Result<u64, HostError> {
    Ok(file.metadata().attempt(|| "look at the pool image".to_owned())?.len())
}

/// Whether two files in a directory can share blocks; found out by trying.
fn shares_blocks(dir: &Path) -> Result<bool, HostError> {
    let (from, to) = (dir.join(".probe"), dir.join(".probe.new"));
    let what = || format!("try to share blocks in {}", dir.display());
    let probe = || -> Result<bool, HostError> {
        file::write_atomic(&from, &[1; 4096])?;
        let source = File::open(&from).attempt(what)?;
        let target = File::create(&to).attempt(what)?;
        Ok(rustix::fs::ioctl_ficlone(&target, &source).is_ok())
    };
    let answer = probe();
    file::remove_if_exists(&from)?;
    file::remove_if_exists(&to)?;
    answer
}

/// The file systems with shared blocks that this machine can make and mount.
fn file_systems() -> Result<Vec<FileSystem>, HostError> {
    let table = std::fs::read_to_string("/proc/filesystems")
        .attempt(|| "read the list of file systems".to_owned())?;
    let usable = |fs: &FileSystem| {
        let fs = fs.name();
        // A module is loaded by mounting; the file system is then in the list of modules.
        let known = knows_filesystem(&table, fs) || Path::new("/lib/modules").exists();
        known && find(&format!("mkfs.{fs}"), "").is_ok()
    };
    Ok(FileSystem::ALL.into_iter().filter(usable).collect())
}

fn make_image(image: &Path, fs: FileSystem, bytes: u64, reach: u64) -> Result<(), HostError> {
    let new = image.with_extension("img.new");
    let what = || format!("make the pool image {}", new.display());
    file::remove_if_exists(&new)?;
    let pool =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new).attempt(what)?;
    pool.set_len(bytes).attempt(what)?;
    let cmd = match fs {
        FileSystem::Xfs => Cmd::new(find("mkfs.xfs", "xfsprogs")?)
            .args(["-q", "-K", "-m", "reflink=1", "-s", "size=4096", "-L", "ves-pool"])
            .args(["-d", &format!("size={reach}")]),
        FileSystem::Btrfs => Cmd::new(find("mkfs.btrfs", "btrfs-progs")?)
            .args(["-q", "-K", "-m", "single", "-s", "4096", "-L", "ves-pool"]),
    };
    cmd.arg(&new).run()?;
    fallocate(&pool, FallocateFlags::empty(), 0, reach).attempt(what)?;
    pool.sync_all().attempt(what)?;
    match renameat_with(CWD, &new, CWD, image, RenameFlags::NOREPLACE) {
        // Made before, by a call that was not heard of.
        Err(Errno::EXIST) => return file::remove_if_exists(&new),
        other => other.attempt(what)?,
    }
    sync_dir(image.parent().unwrap_or_else(|| Path::new("/")))
}

/// The loop device that shows an image.
fn device_of(image: &File) -> Result<Option<u32>, HostError> {
    let id = FileId::of(image)?;
    Ok(loopdev::all()?.into_iter().find(|(_, file)| *file == id).map(|(number, _)| number))
}

fn mount_image(number: u32, dir: &Path) -> Result<(), HostError> {
    let mut failed = None;
    for fs in FileSystem::ALL {
        let tree = FsContext::new(fs.name())
            .and_then(|c| c.set("source", loopdev::path(number)))
            .and_then(|c| c.mount(attr::NOSUID | attr::NODEV | attr::NOEXEC));
        match tree {
            Ok(tree) => {
                // Whoever made it, and an earlier daemon, may have been root.
                id_map::show_as_own(&tree, &dir.display().to_string())?;
                return mount::node::attach(&tree, dir);
            }
            // The first failure tells more: that of the file system which is tried first.
            Err(e) => failed = failed.or(Some(e)),
        }
    }
    Err(failed.unwrap_or_else(|| HostError::parse("mount the pool", "no file system")))
}
