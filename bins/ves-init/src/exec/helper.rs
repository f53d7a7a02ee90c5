//! The helper: joins the container's groups, enters its namespaces and makes the command's parent inside.
//!
//! Never here: what that does then.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use ves_host::child::{self, How, Life, Why};
use ves_host::{Attempt, HostError, namespace};
use ves_init_proto::memory::OOM_SCORE;

use super::handshake;
use super::reaper::Reaper;
use crate::perform;

/// The helper, and the parent it makes for the command.
pub(super) struct Helper<'a> {
    pub(super) reaper: Reaper<'a>,
    /// Control groups of version 1 to join.
    pub(super) groups: &'a [File],
    /// The container's init.
    pub(super) init: &'a OwnedFd,
}

impl Helper<'_> {
    /// The descriptors it needs.
    pub(super) fn fds(&self) -> Vec<BorrowedFd<'_>> {
        let groups = self.groups.iter().map(AsFd::as_fd);
        std::iter::once(self.init.as_fd()).chain(groups).chain(self.reaper.fds()).collect()
    }

    /// Makes the command's parent inside. Answers the status to exit with.
    pub(super) fn run(&self) -> i32 {
        let status = self.reaper.command.status;
        match self.enter() {
            Ok(()) => 0,
            Err(e) => handshake::report(status, perform::failure("enter the container", &e)),
        }
    }

    /// Goes inside and makes a process there; who did it is only half inside.
    fn enter(&self) -> Result<(), HostError> {
        namespace::hide()?;
        for mut file in self.groups {
            file.write_all(b"0").attempt(|| "join a control group".to_owned())?;
        }
        // Its child inherits it. A kernel without it kills in another order, that is all.
        std::fs::write("/proc/self/oom_score_adj", OOM_SCORE.to_string()).ok();
        namespace::enter(self.init)?;
        namespace::become_root()?;
        // The change of identity may have made it visible again.
        namespace::hide()?;
        let keep = self.reaper.fds();
        let life = Life::Free(Why::Command);
        let how = How { sibling: true, keep: &keep, life, ..How::default() };
        child::fork(how, || self.reaper.run()).map(drop)
    }
}
