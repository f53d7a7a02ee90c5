//! A daemon's socket: bound once, by one daemon at a time, and seen by callers when it may be.

use std::fs::{File, OpenOptions, Permissions};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use ves_types::layout::{COORDINATOR_USER, Daemon, Layout};

use crate::BuildError;

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
    let socket = layout.socket(service);
    let dir = socket.parent().unwrap_or_else(|| Path::new("/"));
    std::fs::create_dir_all(dir).map_err(|e| format!("make {}: {e}", dir.display()))?;
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
    let mode = if service == Daemon::Coordinator {
        // Anybody may connect; the gate decides by credentials.
        0o666
    } else {
        // A service manager may have started this daemon with that group.
        let group = std::fs::metadata(&socket).map(|there| there.gid())?;
        if let Some(user) = nix::unistd::User::from_name(COORDINATOR_USER)?
            && nix::unistd::geteuid().is_root()
            && user.gid.as_raw() != group
        {
            chown(&socket, None, Some(user.gid.as_raw()))?;
        }
        0o660
    };
    std::fs::set_permissions(&socket, Permissions::from_mode(mode))?;
    Ok((lock, listener))
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
        std::fs::write(&socket, "not a socket").expect("written");
        assert!(bind(&layout, Daemon::Storage).is_err());
        assert_eq!(std::fs::read(&socket).expect("still there"), b"not a socket");
    }
}
