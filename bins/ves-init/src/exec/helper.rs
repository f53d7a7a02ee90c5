//! The helper: joins the container's groups, enters its namespaces and makes the command's process.
//!
//! Never here: what the command's process does then.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use ves_host::child::{self, Child, How, Life, Why};
use ves_host::{Attempt, HostError, namespace};

use super::command::Command;
use super::handshake::{self, Message};
use crate::perform;

/// The helper, and the command it makes.
pub(super) struct Helper<'a> {
    pub(super) command: Command<'a>,
    /// Control groups of version 1 to join.
    pub(super) groups: &'a [File],
    /// The container's init.
    pub(super) init: &'a OwnedFd,
}

impl Helper<'_> {
    /// The descriptors it needs.
    pub(super) fn fds(&self) -> Vec<BorrowedFd<'_>> {
        let groups = self.groups.iter().map(AsFd::as_fd);
        [self.init.as_fd(), self.command.status.as_fd()]
            .into_iter()
            .chain(groups)
            .chain(self.command.io.iter().map(AsFd::as_fd))
            .collect()
    }

    /// Makes the command's process inside. Answers the status to exit with.
    pub(super) fn run(&self) -> i32 {
        let status = self.command.status;
        let spawned = self.enter().and_then(|child| {
            Message::Spawned(child.pid.as_raw_pid()).send(status, &[child.pidfd.as_fd()])
        });
        match spawned {
            Ok(()) => 0,
            Err(e) => handshake::report(status, perform::failure("enter the container", &e)),
        }
    }

    /// Goes inside and makes the command's process there; who did it is only half inside.
    fn enter(&self) -> Result<Child, HostError> {
        namespace::hide()?;
        for mut file in self.groups {
            file.write_all(b"0").attempt(|| "join a control group".to_owned())?;
        }
        namespace::enter(self.init)?;
        namespace::become_root()?;
        // The change of identity may have made it visible again.
        namespace::hide()?;
        let keep = self.command.fds();
        let life = Life::Free(Why::Command);
        child::fork(How { sibling: true, keep: &keep, life, ..How::default() }, || {
            self.command.run()
        })
    }
}
