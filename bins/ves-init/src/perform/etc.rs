//! Small files of the container's configuration, written by its own root inside it.
//!
//! A file is replaced by a new one, never written through, so that a symbolic link, pipe or device
//! at its place is replaced and not followed. Never here: anything outside the container.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;
use ves_host::{Attempt, HostError};
use ves_init_proto::EtcFile;

/// The most that is read of a file before it is replaced.
const MOST: u64 = 256 * 1024;

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
        EtcFile::Hostname(name) => replace(&etc.join("hostname"), &format!("{name}\n")),
        EtcFile::Resolv(text) => replace(&etc.join("resolv.conf"), text),
        EtcFile::Hosts(name) => {
            let path = etc.join("hosts");
            let old = read(&path).unwrap_or_default();
            replace(&path, &with_host(&old, name))
        }
    }
}

/// The text of a hosts file with the line for the container's own name.
fn with_host(old: &str, name: &str) -> String {
    let short = name.split('.').next().unwrap_or(name);
    let names = if short == name { name.to_owned() } else { format!("{name} {short}") };
    let mut text = String::new();
    if old.trim().is_empty() {
        text.push_str("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    }
    let own = |line: &str| line.split_ascii_whitespace().next() == Some("127.0.1.1");
    for line in old.lines().filter(|l| !own(l)) {
        text.push_str(line);
        text.push('\n');
    }
    text.push_str(&format!("127.0.1.1\t{names}\n"));
    text
}

/// A regular file's text; `None` for anything else.
fn read(path: &Path) -> Option<String> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed())
        .open(path)
        .ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(MOST).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn replace(path: &Path, text: &str) -> Result<(), HostError> {
    if read(path).as_deref() == Some(text) {
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
    let done = file.write_all(text.as_bytes()).and_then(|()| std::fs::rename(new, path));
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
        let text =
            with_host("127.0.0.1 localhost\n127.0.1.1 old\n10.0.0.1 db\n", "web.example.org");
        assert_eq!(text, "127.0.0.1 localhost\n10.0.0.1 db\n127.0.1.1\tweb.example.org web\n");
        assert_eq!(with_host(&text, "web.example.org"), text);
        assert!(with_host("", "a").starts_with("127.0.0.1\tlocalhost\n"));
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
