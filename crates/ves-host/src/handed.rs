//! Descriptors that a service manager hands over by name (`OpenFile=`, sd_listen_fds(3)).
//!
//! Never here: what they are for.

#![allow(unsafe_code, reason = "an inherited descriptor")]

use std::os::fd::{FromRawFd, OwnedFd};

use rustix::io::FdFlags;

/// The first descriptor a service manager hands over.
const FIRST: i32 = 3;

/// The descriptor that was handed over by this name. Each name is asked for in one place and once, before
/// the first child process, which otherwise inherits it.
pub(crate) fn by_name(name: &str) -> Option<OwnedFd> {
    let variable = |name| std::env::var(name).ok();
    if variable("LISTEN_PID")?.parse() != Ok(std::process::id()) {
        return None;
    }
    let number = place(name, &variable("LISTEN_FDS")?, &variable("LISTEN_FDNAMES")?)?;
    // SAFETY: the service manager opened it for this process, which takes it here, once, and nowhere
    // else.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    rustix::io::fcntl_setfd(&fd, FdFlags::CLOEXEC).ok()?;
    Some(fd)
}

/// The number of the descriptor among those handed over.
fn place(name: &str, count: &str, names: &str) -> Option<i32> {
    let at = i32::try_from(names.split(':').position(|n| n == name)?).ok()?;
    (at < count.parse().ok()?).then_some(FIRST + at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_is_found_by_its_name() {
        let place = |count, names| place("node-mnt", count, names);
        assert_eq!(place("1", "node-mnt"), Some(3));
        assert_eq!(place("3", "api.socket::node-mnt"), Some(5));
        assert_eq!(place("1", "other:node-mnt"), None, "named, not there");
        assert_eq!(place("1", "node-mnt2"), None);
        assert_eq!(place("", "node-mnt"), None);
    }
}
