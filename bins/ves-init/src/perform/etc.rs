//! Small files of the container's configuration, written by its own root inside it.
//!
//! A file is replaced by a new one, never written through, so that a symbolic link, pipe or device
//! at its place is replaced and not followed. Files are bytes: what the tenant wrote stays as it is, to
//! the last byte, with its mode and owner. Never here: anything outside the container.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;

use rustix::fs::OFlags;
use ves_host::{Attempt, HostError};
use ves_init_proto::EtcFile;

/// The longest file that is read so that a line of it can be changed; a longer one is left alone.
const MOST: u64 = 4 << 20;

/// Writes one of the files below `etc`, which is made where it is missing.
///
/// # Errors
/// [`HostError::Sys`].
pub(super) fn write(etc: &Path, file: &EtcFile) -> Result<(), HostError> {
    match std::fs::create_dir(etc) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
        other => other.attempt(|| format!("make {}", etc.display()))?,
    }
    match file {
        EtcFile::Hostname(name) => replace(&etc.join("hostname"), format!("{name}\n").as_bytes()),
        EtcFile::Resolv(text) => replace(&etc.join("resolv.conf"), text.as_bytes()),
        EtcFile::Hosts(name) => {
            let path = etc.join("hosts");
            let old = match open(&path) {
                Some(old) => whole(old).attempt(|| format!("read {}", path.display()))?,
                None => Vec::new(),
            };
            replace(&path, &with_host(&old, name))
        }
    }
}

/// A hosts file with the line for the container's own name; all other lines as they were.
fn with_host(old: &[u8], name: &str) -> Vec<u8> {
    let short = name.split('.').next().unwrap_or(name);
    let names = if short == name { name.to_owned() } else { format!("{name} {short}") };
    let own = format!("127.0.1.1\t{names}\n");
    let is_own = |line: &[u8]| {
        let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
        words.next() == Some(b"127.0.1.1")
    };
    let mut text = Vec::new();
    if old.iter().all(u8::is_ascii_whitespace) {
        text.extend(b"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    }
    let mut written = false;
    for line in old.split_inclusive(|b| *b == b'\n') {
        if !is_own(line) {
            text.extend(line);
        } else if !written {
            text.extend(own.as_bytes());
            written = true;
        }
    }
    if !written {
        if text.last().is_some_and(|b| *b != b'\n') {
            text.push(b'\n');
        }
        text.extend(own.as_bytes());
    }
    text
}

/// A regular file, to be read; `None` for anything else.
fn open(path: &Path) -> Option<File> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed())
        .open(path)
        .ok()?;
    file.metadata().ok()?.is_file().then_some(file)
}

/// All of a file, where that is not more than [`MOST`].
fn whole(file: File) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(MOST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST {
        return Err(std::io::Error::other("it is too long to be changed, and left as it is"));
    }
    Ok(bytes)
}

fn replace(path: &Path, text: &[u8]) -> Result<(), HostError> {
    let old = open(path);
    let kept = old.as_ref().and_then(|file| file.metadata().ok());
    if kept.as_ref().is_some_and(|kept| kept.len() == text.len() as u64)
        && old.is_some_and(|file| whole(file).is_ok_and(|bytes| bytes == text))
    {
        return Ok(());
    }
    let what = || format!("write {}", path.display());
    let mut new = path.as_os_str().to_owned();
    new.push(".ves-new");
    let new = Path::new(&new);
    let begin = || -> std::io::Result<File> {
        OpenOptions::new().write(true).create_new(true).mode(0o644).open(new)
    };
    let mut file = match begin() {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {
            std::fs::remove_file(new).attempt(what)?;
            begin().attempt(what)?
        }
        other => other.attempt(what)?,
    };
    let mut fill = || {
        file.write_all(text)?;
        if let Some(kept) = &kept {
            fchown(&file, Some(kept.uid()), Some(kept.gid()))?;
            file.set_permissions(PermissionsExt::from_mode(kept.mode() & 0o7777))?;
        }
        std::fs::rename(new, path)
    };
    let done = fill();
    if done.is_err() {
        // What is half written helps nobody; the failure itself is reported.
        std::fs::remove_file(new).ok();
    }
    done.attempt(what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_keep_what_is_theirs() {
        let old = b"127.0.0.1 localhost\n127.0.1.1 old\n\x00\xff 10.0.0.1 db\r\n# end";
        let text = with_host(old, "web.example.org");
        let wanted =
            b"127.0.0.1 localhost\n127.0.1.1\tweb.example.org web\n\x00\xff 10.0.0.1 db\r\n# end";
        assert_eq!(text, wanted);
        assert_eq!(with_host(&text, "web.example.org"), text);
        assert_eq!(with_host(b"# end", "a"), b"# end\n127.0.1.1\ta\n");
        assert!(with_host(b"", "a").starts_with(b"127.0.0.1\tlocalhost\n"));
    }

    #[test]
    fn a_long_file_loses_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let hosts = dir.path().join("hosts");
        let line = b"10.0.0.1 some-name-that-is-blocked\n";
        let long = line.repeat(40_000);
        std::fs::write(&hosts, &long).expect("written");
        std::fs::set_permissions(&hosts, PermissionsExt::from_mode(0o640)).expect("set");
        write(dir.path(), &EtcFile::Hosts("web".into())).expect("written");
        let now = std::fs::read(&hosts).expect("there");
        assert!(now.starts_with(&long) && now.ends_with(b"127.0.1.1\tweb\n"), "{}", now.len());
        assert_eq!(std::fs::metadata(&hosts).expect("there").mode() & 0o7777, 0o640);

        let longer = line.repeat(200_000);
        std::fs::write(&hosts, &longer).expect("written");
        assert!(write(dir.path(), &EtcFile::Hosts("web".into())).is_err(), "it is left alone");
        assert!(std::fs::read(&hosts).expect("there") == longer);
    }

    #[test]
    fn what_is_in_the_way_is_an_error_and_stays() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(dir.path().join("hostname.ves-new")).expect("made");
        assert!(write(dir.path(), &EtcFile::Hostname("web".into())).is_err());
        assert!(dir.path().join("hostname.ves-new").is_dir());
    }

    #[test]
    fn links_and_pipes_are_replaced_not_followed() {
        let dir = tempfile::tempdir().expect("a directory");
        let (etc, victim) = (dir.path().join("etc"), dir.path().join("victim"));
        std::fs::write(&victim, "untouched").expect("written");
        std::fs::create_dir(&etc).expect("made");
        std::os::unix::fs::symlink(&victim, etc.join("resolv.conf")).expect("linked");
        std::os::unix::fs::symlink(&victim, etc.join("hosts.ves-new")).expect("linked");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            etc.join("hosts"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RWXU,
            0,
        )
        .expect("a pipe");
        write(&etc, &EtcFile::Resolv("nameserver ::1\n".into())).expect("replaced");
        write(&etc, &EtcFile::Hosts("web".into())).expect("replaced");
        assert_eq!(std::fs::read_to_string(&victim).expect("there"), "untouched");
        assert_eq!(
            std::fs::read_to_string(etc.join("resolv.conf")).expect("there"),
            "nameserver ::1\n"
        );
    }
}
