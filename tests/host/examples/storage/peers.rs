//! What is compared with: bare calls on the same file system, a btrfs, tar.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// The size of the btrfs, sparse.
const BTRFS: u64 = 4 << 30;

/// What is done beside the volumes, on the same file system.
#[derive(Debug)]
pub(crate) struct Peers<'a> {
    /// The image volumes are made from.
    pub(crate) base_image: &'a Path,
    /// The archive it was made from.
    pub(crate) archive: &'a Path,
}

impl Peers<'_> {
    fn dir(&self) -> &Path {
        self.base_image.parent().unwrap_or_else(|| Path::new("/"))
    }
    fn copy(&self) -> PathBuf {
        self.dir().join("copy")
    }
    fn tree(&self) -> PathBuf {
        self.dir().join("tree")
    }

    /// `cp --reflink` and `fsync`, without a program around them.
    pub(crate) fn clone_image(&self) -> Result<()> {
        let (from, to) = (File::open(self.base_image)?, File::create_new(self.copy())?);
        rustix::fs::ioctl_ficlone(&to, &from)?;
        Ok(to.sync_all()?)
    }

    /// Takes the clone away, durably.
    pub(crate) fn unlink(&self) -> Result<()> {
        std::fs::remove_file(self.copy())?;
        Ok(File::open(self.dir())?.sync_all()?)
    }

    /// Unpacks the archive and writes it out.
    pub(crate) fn unpack(&self) -> Result<()> {
        std::fs::create_dir(self.tree())?;
        extract(self.archive, &self.tree())
    }

    /// Takes away what was unpacked.
    pub(crate) fn clean(&self) -> Result<()> {
        Ok(std::fs::remove_dir_all(self.tree())?)
    }
}

/// A btrfs with the same files in a subvolume, until this goes.
#[derive(Debug)]
pub(crate) struct Btrfs {
    mounted: PathBuf,
}

impl Btrfs {
    /// A new one; `None` where this machine cannot have one.
    pub(crate) fn new(dir: &Path, archive: &Path) -> Result<Option<Self>> {
        let here = |program: &str| {
            let path = std::env::var_os("PATH").unwrap_or_default();
            std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
        };
        if !here("mkfs.btrfs") || !here("btrfs") {
            return Ok(None);
        }
        let (image, mounted) = (dir.join("btrfs.img"), dir.join("btrfs"));
        File::create(&image)?.set_len(BTRFS)?;
        std::fs::create_dir(&mounted)?;
        run(Command::new("mkfs.btrfs").arg("--quiet").arg(&image))?;
        // A kernel that has none says so here.
        if run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&mounted)).is_err() {
            return Ok(None);
        }
        let btrfs = Self { mounted };
        run(Command::new("btrfs").args(["--quiet", "subvolume", "create"]).arg(btrfs.origin()))?;
        extract(archive, &btrfs.origin())?;
        Ok(Some(btrfs))
    }

    fn origin(&self) -> PathBuf {
        self.mounted.join("origin")
    }
    fn clone(&self) -> PathBuf {
        self.mounted.join("clone")
    }

    /// A snapshot of the subvolume, durably.
    pub(crate) fn snapshot(&self) -> Result<()> {
        let mut btrfs = Command::new("btrfs");
        btrfs.args(["--quiet", "subvolume", "snapshot"]).arg(self.origin()).arg(self.clone());
        run(&mut btrfs)?;
        sync(&self.mounted)
    }

    /// Deletes it again, durably.
    pub(crate) fn delete(&self) -> Result<()> {
        let mut btrfs = Command::new("btrfs");
        run(btrfs.args(["--quiet", "subvolume", "delete", "--commit-after"]).arg(self.clone()))
    }
}

impl Drop for Btrfs {
    fn drop(&mut self) {
        run(Command::new("umount").arg(&self.mounted)).ok();
    }
}

/// Writes out the file system that a directory is on.
fn sync(dir: &Path) -> Result<()> {
    Ok(rustix::fs::syncfs(File::open(dir)?)?)
}

fn extract(archive: &Path, to: &Path) -> Result<()> {
    run(Command::new("tar").args(["--numeric-owner", "-xzf"]).arg(archive).arg("-C").arg(to))?;
    sync(to)
}

fn run(command: &mut Command) -> Result<()> {
    let name = format!("{command:?}");
    let out = command.stdin(Stdio::null()).output().with_context(|| name.clone())?;
    let said = String::from_utf8_lossy(&out.stderr);
    ensure!(out.status.success(), "{name} failed ({}): {}", out.status, said.trim());
    Ok(())
}
