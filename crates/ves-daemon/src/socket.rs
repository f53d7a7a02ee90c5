//! A daemon's socket: bound once, by one daemon at a time, and seen by callers when it may be.

use std::fs::{File, OpenOptions, Permissions};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use ves_types::layout::{COORDINATOR_USER, Daemon, Layout};

use crate::BuildError;

/// Of a service's directory: the group looks, and what is made in it has that group too.
const OWN_AND_GROUP: u32 = 0o2750;

/// Where a socket is until its daemon has given up what it does not need.
fn unpublished(socket: &Path) -> PathBuf {
    socket.with_extension("new")
}

/// Lets callers see the socket: only now, since a caller must never meet a daemon with more power
/// than it declares.
pub(crate) fn publish(layout: &Layout, service: Daemon) -> Result<(), BuildError> {
    let socket = layout.socket(service);
    std::fs::rename(unpublished(&socket), &socket)
        .map_err(|e| format!("publish {}: {e}", socket.display()).into())
}

/// Takes the daemon's lock, so that there is one of it, and binds its socket, not yet at its place.
/// A socket that is left there from a daemon that was killed is replaced when the new one is
/// published; anything else there is left alone.
pub(crate) fn bind(
    layout: &Layout,
    service: Daemon,
) -> Result<(Flock<File>, UnixListener), BuildError> {
    let (socket, dir) = (layout.socket(service), layout.socket_dir(service));
    prepare(&dir, service).map_err(|e| format!("make {}: {e}", dir.display()))?;
    let lock = socket.with_extension("lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&lock)
        .map_err(|e| format!("open {}: {e}", lock.display()))?;
    let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock)
        .map_err(|(_, e)| format!("another daemon holds {}: {e}", lock.display()))?;
    match std::fs::symlink_metadata(&socket) {
        Ok(there) if there.file_type().is_socket() => {}
        Ok(_) => return Err(format!("{} is in the way and no socket", socket.display()).into()),
        Err(_) => {}
    }
    let socket = unpublished(&socket);
    let listener = replace(&socket).map_err(|e| format!("bind {}: {e}", socket.display()))?;
    // Anybody may connect to the coordinator, where the gate decides by credentials. A service's socket
    // has the group of its directory.
    let mode = if service == Daemon::Coordinator { 0o666 } else { 0o660 };
    std::fs::set_permissions(&socket, Permissions::from_mode(mode))?;
    Ok((lock, listener))
}

/// Makes the directory of the socket. Where a package made it, it has its owner and mode; of a daemon that
/// is started by hand it lets the coordinator's group through and nobody else.
fn prepare(dir: &Path, service: Daemon) -> Result<(), std::io::Error> {
    std::fs::create_dir_all(dir)?;
    let there = std::fs::metadata(dir)?;
    if service == Daemon::Coordinator || there.uid() != nix::unistd::geteuid().as_raw() {
        return Ok(());
    }
    if let Some(user) = nix::unistd::User::from_name(COORDINATOR_USER)?
        && nix::unistd::geteuid().is_root()
        && there.gid() != user.gid.as_raw()
    {
        chown(dir, None, Some(user.gid.as_raw()))?;
    }
    if there.mode() & 0o7777 != OWN_AND_GROUP {
        std::fs::set_permissions(dir, Permissions::from_mode(OWN_AND_GROUP))?;
    }
    Ok(())
}

/// Binds a socket in the place of one that an earlier daemon left.
pub(crate) fn replace(socket: &Path) -> Result<UnixListener, std::io::Error> {
    match std::fs::remove_file(socket) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
        Ok(()) | Err(_) => {}
    }
    UnixListener::bind(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_the_way_is_left_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let layout = Layout::new(dir.path(), dir.path());
        let socket = layout.socket(Daemon::Storage);
        std::fs::create_dir(layout.socket_dir(Daemon::Storage)).expect("made");
        std::fs::write(&socket, "not a socket").expect("written");
        assert!(bind(&layout, Daemon::Storage).is_err());
        assert_eq!(std::fs::read(&socket).expect("still there"), b"not a socket");
    }

    #[test]
    fn only_the_group_gets_through_to_a_services_socket() {
        let dir = tempfile::tempdir().expect("a directory");
        let layout = Layout::new(dir.path(), dir.path());
        let mode = |path: &Path| std::fs::metadata(path).expect("there").mode() & 0o7777;
        // As an earlier release left it.
        std::fs::create_dir(layout.socket_dir(Daemon::Network)).expect("made");
        for service in Daemon::SERVICES {
            let _bound = bind(&layout, service).expect("bound");
            publish(&layout, service).expect("published");
            let (place, socket) = (layout.socket_dir(service), layout.socket(service));
            assert_eq!((mode(&place), mode(&socket)), (0o2750, 0o660), "{}", service.name());
            let group = |path: &Path| std::fs::metadata(path).expect("there").gid();
            assert_eq!(group(&socket), group(&place));
            if let Ok(Some(user)) = nix::unistd::User::from_name(COORDINATOR_USER)
                && nix::unistd::geteuid().is_root()
            {
                assert_eq!(group(&socket), user.gid.as_raw());
            }
        }
        let _bound = bind(&layout, Daemon::Coordinator).expect("bound");
        publish(&layout, Daemon::Coordinator).expect("published");
        assert_eq!(mode(&layout.socket(Daemon::Coordinator)), 0o666);
    }
}
