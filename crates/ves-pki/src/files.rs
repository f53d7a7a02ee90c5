//! A directory whose files are one's own: nothing that is somebody else's, or a link, is written or replaced.
//!
//! Never here: what is in the files.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use crate::{Lock, PkiError};

/// The most bytes of a file.
const MOST: u64 = 64 << 20;

/// Who may read a file, beside its owner.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Mode {
    /// Nobody.
    Own,
    /// A group, where there is one.
    Group(Option<u32>),
    /// Everybody.
    Public,
}

/// A directory.
#[derive(Debug)]
pub(crate) struct Dir {
    path: PathBuf,
}

impl Dir {
    /// The one at `path`, made if it is not there, that only its owner, who asks, may change.
    pub(crate) fn make(path: &Path) -> Result<Self, PkiError> {
        create(path, 0o755)?;
        Self::open(path)
    }

    /// The one at `path`, whose owner alone may change it, and who asks.
    pub(crate) fn open(path: &Path) -> Result<Self, PkiError> {
        let there = fs::symlink_metadata(path).map_err(PkiError::file("look at", path))?;
        let foreign = |why| Err(PkiError::Foreign { path: path.to_owned(), why });
        if !there.is_dir() {
            return foreign("is no directory; name one");
        }
        if there.uid() != rustix::process::geteuid().as_raw() {
            return foreign("is somebody else's; ask as its owner, or name another directory");
        }
        if there.mode() & 0o022 != 0 {
            return foreign("may be changed by others than its owner; take that away (chmod go-w)");
        }
        Ok(Self { path: path.to_owned() })
    }

    /// The one at `path`, made if it is not there, whoever's it is.
    pub(crate) fn make_anywhere(path: &Path) -> Result<Self, PkiError> {
        create(path, 0o700)?;
        Ok(Self { path: path.to_owned() })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Waits until nobody else changes anything here, and keeps it so.
    pub(crate) fn lock(&self) -> Result<Lock, PkiError> {
        let path = self.path.join("lock");
        let failed = || PkiError::file("lock", &path);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(flags())
            .open(&path)
            .map_err(failed())?;
        file.lock().map_err(failed())?;
        Ok(file)
    }

    pub(crate) fn has(&self, name: &str) -> Result<bool, PkiError> {
        let path = self.path.join(name);
        match fs::symlink_metadata(&path) {
            Ok(_) => Ok(true),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
            Err(e) => Err(PkiError::file("look at", &path)(e)),
        }
    }

    pub(crate) fn read(&self, name: &str) -> Result<String, PkiError> {
        let path = self.path.join(name);
        let read = || -> io::Result<String> {
            let file = OpenOptions::new().read(true).custom_flags(flags()).open(&path)?;
            let mut text = String::new();
            file.take(MOST + 1).read_to_string(&mut text)?;
            if text.len() as u64 > MOST {
                return Err(ErrorKind::FileTooLarge.into());
            }
            Ok(text)
        };
        read().map_err(PkiError::file("read", &path))
    }

    /// Lets a file be this, whole or not at all. What has its name already is replaced where it is a file of
    /// ours, and left alone otherwise.
    pub(crate) fn write(&self, name: &str, text: &str, mode: Mode) -> Result<(), PkiError> {
        let path = self.path.join(name);
        self.check_own(&path)?;
        let new = format!("{name}.new");
        // Of one who was killed; the lock is ours.
        self.check_own(&self.path.join(&new))?;
        self.remove(&new)?;
        self.write_new(&new, text, mode)?;
        let renamed = fs::rename(self.path.join(&new), &path);
        renamed.map_err(PkiError::file("write", &path))?;
        self.sync()
    }

    /// The same of a file that is not there.
    pub(crate) fn write_new(&self, name: &str, text: &str, mode: Mode) -> Result<(), PkiError> {
        let path = self.path.join(name);
        let opened = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags(flags())
            .open(&path);
        let file = opened.map_err(PkiError::file("make", &path))?;
        fill(file, text, mode).map_err(|e| {
            // It is ours: it was not there.
            fs::remove_file(&path).ok();
            PkiError::file("write", &path)(e)
        })?;
        self.sync()
    }

    /// Removes a file, if it is there.
    pub(crate) fn remove(&self, name: &str) -> Result<(), PkiError> {
        let path = self.path.join(name);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(PkiError::file("remove", &path)(e)),
            _ => Ok(()),
        }
    }

    fn check_own(&self, path: &Path) -> Result<(), PkiError> {
        match fs::symlink_metadata(path) {
            Ok(there) => {
                let own = there.uid() == rustix::process::geteuid().as_raw();
                let why = "is no file of ours and was left alone; move it away";
                let foreign = || PkiError::Foreign { path: path.to_owned(), why };
                (there.is_file() && own && there.nlink() == 1).then_some(()).ok_or_else(foreign)
            }
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            Err(e) => Err(PkiError::file("look at", path)(e)),
        }
    }

    fn sync(&self) -> Result<(), PkiError> {
        let synced = File::open(&self.path).and_then(|dir| dir.sync_all());
        synced.map_err(PkiError::file("sync", &self.path))
    }
}

fn create(path: &Path, mode: u32) -> Result<(), PkiError> {
    match DirBuilder::new().mode(mode).create(path) {
        Err(e) if e.kind() != ErrorKind::AlreadyExists => Err(PkiError::file("make", path)(e)),
        _ => Ok(()),
    }
}

/// No link is followed, and nobody waited for.
fn flags() -> i32 {
    let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    flags.bits().cast_signed()
}

fn fill(mut file: File, text: &str, mode: Mode) -> io::Result<()> {
    let bits = match mode {
        Mode::Own | Mode::Group(None) => 0o600,
        Mode::Group(Some(group)) => {
            fchown(&file, None, Some(group))?;
            0o640
        }
        Mode::Public => 0o644,
    };
    file.set_permissions(Permissions::from_mode(bits))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}
