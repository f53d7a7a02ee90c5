//! A command's user: looked up in the files of the container, by the command's own process, and become.
//!
//! What these files are is the container's making: a pipe or a device in their place is not waited for, and of a
//! file no more is read than users have use for. Never here: what is in them, which is [`ves_init_proto::user`]'s.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::{Gid, Uid};
use ves_host::{Attempt, HostError, namespace};
use ves_init_proto::report::{FIND_USER, Failure};
use ves_init_proto::user::{Account, UserSpec};

use crate::perform;

/// The most of a file: some tens of thousands of users.
const LONGEST: u64 = 4 << 20;

/// Who that is here.
pub(super) fn find(spec: &UserSpec) -> Result<Account, Failure> {
    let unread = |e: HostError| perform::failure(FIND_USER, &e);
    let passwd = read("/etc/passwd").map_err(unread)?;
    let groups = read("/etc/group").map_err(unread)?;
    spec.resolve(&passwd, &groups).map_err(|unknown| Failure {
        step: FIND_USER.to_owned(),
        message: unknown.to_string(),
        errno: 0,
    })
}

/// What a file says; one that is not there says nothing.
fn read(path: &str) -> Result<String, HostError> {
    let what = || format!("read {path}");
    let nonblocking = OFlags::NONBLOCK.bits().cast_signed();
    let file = match OpenOptions::new().read(true).custom_flags(nonblocking).open(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(String::new()),
        other => other.attempt(what)?,
    };
    if !file.metadata().attempt(what)?.is_file() {
        return Err(Errno::INVAL).attempt(|| format!("read {path}, which is no file"));
    }
    let mut bytes = Vec::new();
    file.take(LONGEST + 1).read_to_end(&mut bytes).attempt(what)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > LONGEST {
        return Err(Errno::FBIG).attempt(what);
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Gives what it reads and writes to the user, so that it can be opened again, as /dev/stdout and the like.
/// A terminal keeps its group.
pub(super) fn give(
    account: &Account,
    fds: &[OwnedFd],
    terminal: Option<&OwnedFd>,
) -> Result<(), HostError> {
    let (user, group) = (Uid::from_raw(account.uid), Gid::from_raw(account.gid));
    let what = || "give its input and output to its user".to_owned();
    fds.iter().try_for_each(|fd| rustix::fs::fchown(fd, Some(user), Some(group)).attempt(what))?;
    terminal.map_or(Ok(()), |fd| rustix::fs::fchown(fd, Some(user), None).attempt(what))
}

/// Makes this process the user's. The kernel takes away all capabilities of who is not root any more.
pub(super) fn become_user(account: &Account) -> Result<(), HostError> {
    let what = || "become its user".to_owned();
    let (user, group) = (Uid::from_raw(account.uid), Gid::from_raw(account.gid));
    let groups: Vec<Gid> = account.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    rustix::thread::set_thread_groups(&groups).attempt(what)?;
    rustix::thread::set_thread_res_gid(group, group, group).attempt(what)?;
    rustix::thread::set_thread_res_uid(user, user, user).attempt(what)?;
    // The change of identity may have made it visible again.
    namespace::hide()
}
