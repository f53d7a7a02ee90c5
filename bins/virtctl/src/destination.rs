//! The file that a verb writes where the user says: standard output, a file, or whatever else has that name.
//!
//! ```text
//! -                         stdout, as it comes
//! a file, or nothing there  beside it, under another name, until it is whole
//! a link                    the same where it leads; the link stays
//! device, pipe, socket      as it comes
//! ```
//!
//! What was begun and is not whole is removed when it is this one's own, and nothing else ever is.
//! Never here: what is written.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

/// Where a verb writes. Dropped before [`Self::finish`], nothing of a file is left.
#[derive(Debug)]
pub(crate) enum Destination {
    /// What goes on to somebody as it comes.
    Stream(File),
    /// A file, under another name until it is whole.
    File {
        /// What is written.
        file: File,
        /// Its name until then.
        part: Part,
        /// Its name afterwards.
        whole: PathBuf,
    },
}

/// A file that is removed unless it was renamed.
#[derive(Debug)]
pub(crate) struct Part(PathBuf);

impl Drop for Part {
    fn drop(&mut self) {
        fs::remove_file(&self.0).ok(); // it may have its name by now
    }
}

impl Destination {
    /// Opens it. A pipe is waited for until somebody reads it.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        if path.as_os_str() == "-" {
            return Ok(Self::Stream(io::stdout().as_fd().try_clone_to_owned()?.into()));
        }
        let there = match fs::metadata(path) {
            Ok(meta) => Some(meta),
            Err(e) if e.kind() == ErrorKind::NotFound => None,
            Err(e) => return Err(e),
        };
        if there.as_ref().is_some_and(|meta| !meta.is_file()) {
            return Ok(Self::Stream(OpenOptions::new().write(true).open(path)?));
        }
        let whole = leads_to(path)?;
        let mut part = whole.clone().into_os_string();
        part.push(".part");
        let part = PathBuf::from(part);
        let file = File::create_new(&part)
            .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", part.display())))?;
        let part = Part(part);
        if let Some(meta) = there {
            file.set_permissions(meta.permissions())?;
        }
        Ok(Self::File { file, part, whole })
    }

    /// Whether something would have to be removed if it were not finished.
    pub(crate) const fn is_file(&self) -> bool {
        matches!(self, Self::File { .. })
    }

    /// Lets all that was written be there, durably and under its name.
    pub(crate) fn finish(self) -> io::Result<()> {
        match self {
            Self::Stream(_) => Ok(()),
            Self::File { file, part, whole } => {
                file.sync_all()?;
                fs::rename(&part.0, whole)
            }
        }
    }
}

impl Write for Destination {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (Self::Stream(file) | Self::File { file, .. }) = self;
        file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        let (Self::Stream(file) | Self::File { file, .. }) = self;
        file.flush()
    }
}

/// Where links lead, also one to what is not there yet.
fn leads_to(path: &Path) -> io::Result<PathBuf> {
    // As many as the kernel follows.
    const LINKS: usize = 40;
    let mut path = path.to_owned();
    for _ in 0..LINKS {
        match fs::read_link(&path) {
            Ok(to) => path = path.parent().map_or_else(|| to.clone(), |dir| dir.join(&to)),
            // No link, or nothing there.
            Err(e) if matches!(e.kind(), ErrorKind::InvalidInput | ErrorKind::NotFound) => {
                return Ok(path);
            }
            Err(e) => return Err(e),
        }
    }
    Err(io::Error::other("too many links"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};

    use super::*;

    fn write(path: &Path, text: &str) -> io::Result<()> {
        let mut to = Destination::open(path)?;
        to.write_all(text.as_bytes())?;
        to.finish()
    }

    #[test]
    fn files_are_whole_or_as_they_were() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("file");
        fs::write(&file, "old").expect("written");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).expect("set");
        let mut half = Destination::open(&file).expect("opened");
        half.write_all(b"ne").expect("written");
        let second = Destination::open(&file).expect_err("one at a time");
        assert_eq!(second.kind(), ErrorKind::AlreadyExists);
        drop(half);
        assert_eq!(fs::read_to_string(&file).expect("there"), "old");
        write(&file, "new").expect("written");
        assert_eq!(fs::read_to_string(&file).expect("there"), "new");
        assert_eq!(fs::metadata(&file).expect("there").permissions().mode() & 0o777, 0o640);
        assert_eq!(fs::read_dir(dir.path()).expect("there").count(), 1);
        assert!(write(dir.path(), "x").is_err(), "a directory is no file");
        assert!(write(&dir.path().join("no/file"), "x").is_err());
    }

    #[test]
    fn links_stay_and_what_they_lead_to_is_written() {
        let dir = tempfile::tempdir().expect("a directory");
        let [real, link, other] = ["real", "link", "other"].map(|name| dir.path().join(name));
        symlink("other", &link).expect("linked");
        symlink("real", &other).expect("linked");
        for text in ["first", "second"] {
            write(&link, text).expect("written");
            assert_eq!(fs::read_to_string(&real).expect("there"), text);
        }
        assert!(fs::symlink_metadata(&link).expect("there").is_symlink());
        symlink("round", dir.path().join("round")).expect("linked");
        assert!(write(&dir.path().join("round"), "x").is_err());
    }

    #[test]
    fn pipes_and_devices_stay_what_they_are() {
        let dir = tempfile::tempdir().expect("a directory");
        let pipe = dir.path().join("pipe");
        let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::from(0o600));
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, kind, mode, 0).expect("a pipe");
        let from = pipe.clone();
        let reader = std::thread::spawn(move || fs::read_to_string(from).expect("read"));
        write(&pipe, "through").expect("written");
        assert_eq!(reader.join().expect("ended"), "through");
        assert!(fs::symlink_metadata(&pipe).expect("there").file_type().is_fifo());
        write(Path::new("/dev/null"), "away").expect("written");
        assert!(!Path::new("/dev/null.part").exists());
        assert!(!Destination::open(Path::new("/dev/null")).expect("opened").is_file());
        assert!(write(Path::new("/dev/full"), "no room").is_err());
    }
}
