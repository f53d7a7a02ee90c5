//! The pool: where images are, and what file system is under them.
//!
//! Either a directory of the state directory's file system, or, where that cannot share blocks, an
//! image file with one that can, mounted there. What exists is used as it is, whatever is
//! configured; the choice is made once.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use ves_daemon::FenceStore;
use ves_host::cmd::find;
use ves_host::loopdev::{self, FileId};
use ves_host::mount::{self, FsContext, attr};
use ves_host::{Attempt, Cmd, HostError, file};
use ves_types::layout::{Daemon, Layout};

use super::file::until;
use crate::config::{Config, PoolKind};
use crate::error::Error;
use crate::kernel::file::{directory, sync_dir};
use crate::observe::knows_filesystem;
use crate::plan::room::Room;

/// The pool.
#[derive(Debug)]
pub struct Pool {
    /// Its directory.
    pub dir: PathBuf,
    /// Whether its file system shares blocks.
    pub reflink: bool,
    /// Whether it is a file system of its own.
    pub own: bool,
    /// The most it may use, where it shares a file system with others.
    limit: Option<u64>,
    overcommit_percent: u64,
}

fn places(layout: &Layout) -> (PathBuf, PathBuf, PathBuf) {
    let base = layout.service_dir(Daemon::Storage);
    (base.join("pool.img"), base.join("pool"), base)
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

impl Pool {
    /// Attaches the pool; makes it where there is none.
    pub fn open(config: &Config, layout: &Layout) -> Result<Self, Error> {
        let (image, dir, base) = places(layout);
        directory(&base)?;
        directory(&dir)?;
        let overcommit_percent = config.overcommit_percent;
        let plain = |reflink| {
            let limit = config.pool_bytes;
            Self { dir: dir.clone(), reflink, own: false, limit, overcommit_percent }
        };
        let mounted = mount::is_mount_point(&dir)?;
        if !is_there(&image)? {
            if mounted {
                return Err(Error::Foreign(format!("what is mounted on {}", dir.display())));
            }
            let used = is_there(&dir.join("volumes"))?;
            if !used && had_volumes(&base.join("fence"))? {
                return Err(Error::PoolGone(image));
            }
            let reflink = config.pool != PoolKind::ImageCopy && shares_blocks(&base)?;
            if used || reflink || config.pool == PoolKind::ImageCopy {
                return Ok(plain(reflink).ready()?);
            }
            match (image_filesystem()?, config.pool) {
                (Some(fs), _) => make_image(&image, fs, config.pool_bytes)?,
                (None, PoolKind::Auto) => return Ok(plain(false).ready()?),
                (None, _) => {
                    return Err(HostError::Lacks {
                        feature: "shared blocks".to_owned(),
                        why: "neither the state directory's file system nor xfs or btrfs can be used; \
                              install xfsprogs, or configure pool = \"image-copy\""
                            .to_owned(),
                    }
                    .into());
                }
            }
        }
        let number = match attach_image(&image) {
            // A symbolic link to what is not mounted.
            Err(e) if e.is(Errno::NOENT) && !image.exists() => {
                return Err(Error::PoolGone(image));
            }
            other => other?,
        };
        let device = loopdev::device_number(number)?;
        if mounted {
            let there = std::fs::metadata(&dir).attempt(|| format!("look at {}", dir.display()))?;
            // btrfs shows a number of its own; the mount table knows the device's.
            let entry = mount::mounted_at(&dir)?;
            let same =
                there.dev() == device || entry.is_some_and(|m| m.source == loopdev::path(number));
            if !same {
                return Err(Error::Foreign(format!("what is mounted on {}", dir.display())));
            }
        } else {
            mount_image(number, &dir)?;
            // In use, it is only marked to go with its last user: whoever unmounts the pool leaves
            // no device behind.
            loopdev::detach(number)?;
        }
        let reflink = shares_blocks(&dir)?;
        Ok(Self { dir, reflink, own: true, limit: None, overcommit_percent }.ready()?)
    }

    fn ready(self) -> Result<Self, HostError> {
        directory(&self.volumes())?;
        directory(&self.templates())?;
        directory(&self.snapshots())?;
        Ok(self)
    }

    /// Takes the pool's mount and device away; its contents stay. Says whether there was one.
    ///
    /// # Errors
    /// `EBUSY` while a volume is attached.
    pub fn detach(layout: &Layout) -> Result<bool, Error> {
        let (image, dir, _) = places(layout);
        let mut was = false;
        if mount::is_mount_point(&dir)? {
            mount::node::unmount(&dir, false)?;
            was = true;
        }
        let backing = match File::open(&image) {
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

    /// Its room.
    pub fn room(&self) -> Result<Room, HostError> {
        let what = || format!("ask for the room on {}", self.dir.display());
        let here = rustix::fs::statvfs(&self.dir).attempt(what)?;
        let (size, mut free) = (here.f_blocks * here.f_frsize, here.f_bavail * here.f_frsize);
        if let (true, Some(below)) = (self.own, self.dir.parent()) {
            // The image is sparse: what is under it can run out first.
            let below = rustix::fs::statvfs(below).attempt(what)?;
            free = free.min(below.f_bavail * below.f_frsize);
        }
        let limit = self.limit.unwrap_or(u64::MAX);
        let overcommit_percent = self.overcommit_percent;
        Ok(Room { size: size.min(limit), free: free.min(limit), overcommit_percent })
    }
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

/// A file system with shared blocks that this machine can make and mount.
fn image_filesystem() -> Result<Option<&'static str>, HostError> {
    let table = std::fs::read_to_string("/proc/filesystems")
        .attempt(|| "read the list of file systems".to_owned())?;
    let usable = |fs: &str| {
        // A module is loaded by mounting; the file system is then in the list of modules.
        let known = knows_filesystem(&table, fs) || Path::new("/lib/modules").exists();
        known && find(&format!("mkfs.{fs}"), "").is_ok()
    };
    Ok(["xfs", "btrfs"].into_iter().find(|fs| usable(fs)))
}

fn make_image(image: &Path, fs: &str, bytes: Option<u64>) -> Result<(), HostError> {
    let new = image.with_extension("img.new");
    let what = || format!("make the pool image {}", new.display());
    file::remove_if_exists(&new)?;
    let below =
        rustix::fs::statvfs(image.parent().unwrap_or_else(|| Path::new("/"))).attempt(what)?;
    let bytes = bytes.unwrap_or_else(|| below.f_bavail * below.f_frsize / 5 * 4);
    // A file system grows in steps of its own; a whole number of MiB suits both.
    let bytes = (bytes >> 20 << 20).max(1 << 30);
    let pool =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new).attempt(what)?;
    pool.set_len(bytes).attempt(what)?;
    let program =
        find(&format!("mkfs.{fs}"), if fs == "xfs" { "xfsprogs" } else { "btrfs-progs" })?;
    let cmd = Cmd::new(program).arg("-q");
    let cmd = if fs == "xfs" {
        cmd.args(["-m", "reflink=1", "-s", "size=4096", "-L", "ves-pool"])
    } else {
        cmd.args(["-m", "single", "-s", "4096", "-L", "ves-pool"])
    };
    cmd.arg(&new).run()?;
    pool.sync_all().attempt(what)?;
    renameat_with(CWD, &new, CWD, image, RenameFlags::NOREPLACE).attempt(what)?;
    sync_dir(image.parent().unwrap_or_else(|| Path::new("/")))
}

fn attach_image(image: &Path) -> Result<u32, HostError> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(image)
        .attempt(|| format!("open {}", image.display()))?;
    let id = FileId::of(&file)?;
    match loopdev::all()?.into_iter().find(|(_, backing)| *backing == id) {
        Some((number, _)) => Ok(number),
        // Through the page cache: blocks that volumes share are then in memory once.
        None => loopdev::attach(&file, false),
    }
}

fn mount_image(number: u32, dir: &Path) -> Result<(), HostError> {
    let mut failed = None;
    for fs in ["xfs", "btrfs"] {
        let tree = FsContext::new(fs)
            .and_then(|c| c.set("source", loopdev::path(number)))
            .and_then(|c| c.flag("discard"))
            .and_then(|c| c.mount(attr::NOSUID | attr::NODEV | attr::NOEXEC));
        match tree {
            Ok(tree) => return mount::node::attach(&tree, dir),
            // The first failure tells more: that of the file system which is tried first.
            Err(e) => failed = failed.or(Some(e)),
        }
    }
    Err(failed.unwrap_or_else(|| HostError::parse("mount the pool", "no file system")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(dir: &tempfile::TempDir) -> (Layout, PathBuf) {
        let layout = Layout::new(dir.path().join("run"), dir.path().join("state"));
        let base = layout.service_dir(Daemon::Storage);
        std::fs::create_dir_all(base.join("fence")).expect("made");
        (layout, base)
    }

    #[test]
    fn a_pool_on_a_disk_that_is_not_mounted_is_not_made_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let (layout, base) = layout(&dir);
        let image = base.join("pool.img");
        std::os::unix::fs::symlink(dir.path().join("disk/pool.img"), &image).expect("made");
        for pool in [PoolKind::Auto, PoolKind::ImageCopy] {
            let error =
                Pool::open(&Config { pool, ..Config::default() }, &layout).expect_err("gone");
            assert!(matches!(error, Error::PoolGone(_)), "{error} is another failure");
        }
        assert!(image.is_symlink());
    }

    #[test]
    fn where_volumes_were_no_empty_pool_is_made() {
        let dir = tempfile::tempdir().expect("a directory");
        let (layout, base) = layout(&dir);
        let config = Config { pool: PoolKind::ImageCopy, ..Config::default() };
        let fence = base.join("fence/101");
        std::fs::write(&fence, b"{}").expect("written");
        let error = Pool::open(&config, &layout).expect_err("gone");
        assert!(error.to_string().contains("mount or restore it"), "{error}");
        let removed = br#"{"generation":1,"epoch":1,"removed":true}"#;
        std::fs::write(&fence, removed).expect("written");
        Pool::open(&config, &layout).expect("a first pool");
        std::fs::write(&fence, b"{}").expect("written");
        Pool::open(&config, &layout).expect("the same pool");
    }
}
