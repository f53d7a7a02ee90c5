//! The container's host name and the small files of its configuration that go with it, written by its own
//! root inside it, at its start or later.
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
use ves_init_proto::{EtcFile, InitStep, Unless};
use ves_types::Hostname;

use super::outer::no;

/// The longest file that is read so that a line of it can be changed; a longer one is left alone.
const MOST: u64 = 4 << 20;

/// What stands before and after the operator's lines of `resolv.conf`.
const OWN: [&[u8]; 2] = [
    b"# Set by the operator of this container (Ves), who may change it at any time:\n",
    b"# What follows is the container's own.\n",
];

/// Performs a step that gives a container one of its names, by a process whose root is the container's.
pub(super) fn name(step: &InitStep) -> Result<(), HostError> {
    let etc = Path::new("/etc");
    let set = |name: &str| {
        let what = || format!("set the host name {name}");
        rustix::system::sethostname(name.as_bytes()).attempt(what)
    };
    match step {
        InitStep::SetHostname(name) => set(name),
        InitStep::OwnHostname(fallback) => {
            set(own_hostname(etc).as_deref().unwrap_or(fallback))?;
            write_first(etc, fallback)
        }
        InitStep::WriteEtc(file) => write(etc, file),
        _ => no("a name: a step of another kind"),
    }
}

/// The host name that the container gave itself, if it is one.
fn own_hostname(etc: &Path) -> Option<String> {
    let bytes = whole(open(&etc.join("hostname"))?).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let line = text.lines().map(str::trim).find(|l| !l.is_empty() && !l.starts_with('#'))?;
    line.parse::<Hostname>().ok().map(|name| name.to_string())
}

/// Writes this host name down where there is none yet: programs read it there.
fn write_first(etc: &Path, name: &str) -> Result<(), HostError> {
    let there = std::fs::symlink_metadata(etc.join("hostname"));
    if !there.is_err_and(|e| e.kind() == ErrorKind::NotFound) {
        return Ok(());
    }
    write(etc, &EtcFile::Hostname(name.to_owned()))?;
    write(etc, &EtcFile::Hosts(name.to_owned()))
}

/// Writes one of the files below `etc`, which is made where it is missing.
///
/// # Errors
/// [`HostError::Sys`].
fn write(etc: &Path, file: &EtcFile) -> Result<(), HostError> {
    let old = |path: &Path| match open(path) {
        Some(old) => whole(old).map(Some).attempt(|| format!("read {}", path.display())),
        None => Ok(None),
    };
    let made = || match std::fs::create_dir(etc) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(()),
        other => other.attempt(|| format!("make {}", etc.display())),
    };
    match file {
        EtcFile::Hostname(name) => {
            made()?;
            replace(&etc.join("hostname"), format!("{name}\n").as_bytes())
        }
        EtcFile::Resolv(own) => {
            let path = etc.join("resolv.conf");
            let old = old(&path)?;
            if own.is_empty() && old.is_none() {
                return Ok(());
            }
            made()?;
            replace(&path, &with_resolv(&old.unwrap_or_default(), own))
        }
        EtcFile::Hosts(name) => {
            made()?;
            let path = etc.join("hosts");
            replace(&path, &with_host(&old(&path)?.unwrap_or_default(), name))
        }
    }
}

/// Whether the tenant has decided otherwise. What cannot be read decides nothing.
pub(super) fn stands(unless: &Unless) -> bool {
    match unless {
        Unless::There(path) => std::fs::symlink_metadata(path).is_ok(),
        Unless::Mounted(place) => open(Path::new("/etc/fstab"))
            .and_then(|table| whole(table).ok())
            .is_some_and(|table| mounts(&table, place)),
    }
}

/// Whether a line of a table of file systems is for this place.
fn mounts(table: &[u8], place: &str) -> bool {
    table.split(|b| *b == b'\n').any(|line| {
        let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
        let what = words.next();
        what.is_some_and(|what| !what.starts_with(b"#")) && words.next() == Some(place.as_bytes())
    })
}

/// The first word of a line.
fn first_word(line: &[u8]) -> Option<&[u8]> {
    line.split(u8::is_ascii_whitespace).find(|word| !word.is_empty())
}

/// A resolv.conf with these lines of the operator's, in place of those he had there before and of the
/// container's of the same kinds; all other lines as they were.
fn with_resolv(old: &[u8], own: &str) -> Vec<u8> {
    let kinds: Vec<&str> = own.lines().filter_map(|line| line.split(' ').next()).collect();
    let searches = kinds.contains(&"search");
    let is_set =
        |kind: &[u8]| kinds.iter().any(|k| k.as_bytes() == kind) || (searches && kind == b"domain");
    let [begin, end] = OWN;
    let mut rest = Vec::new();
    let mut inside = false;
    for line in old.split_inclusive(|b| *b == b'\n') {
        if line == begin || line == end {
            inside = line == begin;
        } else if !first_word(line).is_some_and(|kind| {
            is_set(kind) || (inside && matches!(kind, b"nameserver" | b"search"))
        }) {
            rest.extend(line);
        }
    }
    match (own.is_empty(), rest.is_empty()) {
        (true, _) => rest,
        (false, true) => [begin, own.as_bytes()].concat(),
        (false, false) => [begin, own.as_bytes(), end, &rest].concat(),
    }
}

/// A hosts file with a line for the container's own name; one that has that name already may have others
/// too, and all other lines stay as they were.
fn with_host(old: &[u8], name: &str) -> Vec<u8> {
    let short = name.split('.').next().unwrap_or(name);
    let names = if short == name { name.to_owned() } else { format!("{name} {short}") };
    let own = format!("127.0.1.1\t{names}\n");
    let is_own = |line: &[u8]| first_word(line) == Some(b"127.0.1.1");
    let has_name = |line: &[u8]| line.split(u8::is_ascii_whitespace).any(|w| w == name.as_bytes());
    if old.split(|b| *b == b'\n').any(|line| is_own(line) && has_name(line)) {
        return old.to_vec();
    }
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
    fn a_name_is_written_down_once() {
        let dir = tempfile::tempdir().expect("a directory");
        let etc = dir.path().join("etc");
        let text = |name: &str| std::fs::read_to_string(etc.join(name)).expect("there");
        write_first(&etc, "ct101").expect("written");
        assert_eq!(text("hostname"), "ct101\n");
        assert!(text("hosts").ends_with("127.0.1.1\tct101\n"));
        std::fs::write(etc.join("hostname"), "").expect("written");
        std::fs::write(etc.join("hosts"), "").expect("written");
        write_first(&etc, "ct101").expect("nothing to do");
        assert_eq!(text("hostname") + &text("hosts"), "", "the tenant's own");
    }

    #[test]
    fn what_the_tenant_decided_stands() {
        let table =
            b"# none /tmp tmpfs\n/dev/root / ext4 defaults 0 1\n\tnone\t/tmp tmpfs size=1g\n\xff";
        assert!(mounts(table, "/tmp") && mounts(table, "/"));
        assert!(
            !mounts(table, "/run") && !mounts(b"#none /tmp tmpfs\n/tmp /mnt none bind\n", "/tmp")
        );
        let dir = tempfile::tempdir().expect("a directory");
        let unit = dir.path().join("tmp.mount");
        let there = || stands(&Unless::There(unit.to_str().expect("text").to_owned()));
        assert!(!there());
        // As masked units are.
        std::os::unix::fs::symlink("/no/such/file", &unit).expect("made");
        assert!(there());
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
        let resolv = std::fs::read_to_string(etc.join("resolv.conf")).expect("there");
        assert!(resolv.ends_with(":\nnameserver ::1\n"), "{resolv}");
    }

    #[test]
    fn a_line_that_names_the_container_may_name_it_otherwise_too() {
        let old = b"127.0.1.1 web.example.org web shop\n127.0.1.1 more\n";
        assert_eq!(with_host(old, "web.example.org"), old);
        assert_eq!(with_host(old, "web2"), b"127.0.1.1\tweb2\n");
    }

    #[test]
    fn lines_of_resolv_conf_have_their_owner() {
        let theirs = b"# mine\noptions rotate\ndomain a\nnameserver 10.0.0.1";
        let set = with_resolv(theirs, "search b\n");
        assert!(set.ends_with(b"# mine\noptions rotate\nnameserver 10.0.0.1"));
        assert!(set.starts_with(&[OWN[0], b"search b\n"].concat()));
        assert_eq!(with_resolv(&set, "search b\n"), set);
        let more = with_resolv(&set, "search c\nnameserver ::1\n");
        let more_wanted =
            [OWN[0], b"search c\nnameserver ::1\n", OWN[1], b"# mine\noptions rotate\n"].concat();
        assert_eq!(more, more_wanted);
        assert_eq!(with_resolv(&more, ""), b"# mine\noptions rotate\n");
        assert_eq!(with_resolv(theirs, ""), theirs);
        assert_eq!(with_resolv(&with_resolv(b"", "nameserver ::1\n"), ""), b"");
    }

    #[test]
    fn what_is_not_the_operators_is_not_touched() {
        let dir = tempfile::tempdir().expect("a directory");
        let etc = dir.path().join("etc");
        write(&etc, &EtcFile::Resolv(String::new())).expect("nothing to do");
        assert!(!etc.exists());
        std::fs::create_dir(&etc).expect("made");
        std::os::unix::fs::symlink("/run/x", etc.join("resolv.conf")).expect("linked");
        write(&etc, &EtcFile::Resolv(String::new())).expect("nothing to do");
        assert!(etc.join("resolv.conf").is_symlink());
    }

    #[test]
    fn a_container_says_its_name_itself() {
        let dir = tempfile::tempdir().expect("a directory");
        let said = |text: &str| {
            std::fs::write(dir.path().join("hostname"), text).expect("written");
            own_hostname(dir.path())
        };
        assert_eq!(said("# c\n\n mine.example.com \n").as_deref(), Some("mine.example.com"));
        for none in ["", "\n", "# c", "a b", "-x", "\u{1b}[2J"] {
            assert_eq!(said(none), None, "{none:?}");
        }
        std::fs::remove_file(dir.path().join("hostname")).expect("removed");
        std::os::unix::fs::symlink("/proc/sys/kernel/hostname", dir.path().join("hostname"))
            .expect("linked");
        assert_eq!(own_hostname(dir.path()), None);
    }
}
