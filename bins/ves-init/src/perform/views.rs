//! Views of the node's in a container: copies of their mounts, laid over files of its /proc and /sys.
//!
//! Nothing here waits for the provider of the views, which may be dead or hang: mounts are copied, attached and
//! taken away without asking it. Never here: which views there are; the node's mounts of them.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::mount::UnmountFlags;
use ves_host::mount::{self, MountEntry, Propagation};
use ves_host::{Attempt, HostError};
use ves_init_proto::views::{self, Change, Device, VIEWS, View};

use super::place::{directory, existing};

/// What is done at the place of a view.
#[derive(Debug)]
struct Todo {
    view: View,
    /// How many mounts are taken away.
    detach: usize,
    /// What is laid there.
    copy: Option<OwnedFd>,
}

/// What is done for the views of one container.
#[derive(Debug, Default)]
pub(crate) struct Views {
    todo: Vec<Todo>,
}

impl Views {
    /// The views that are mounted in this directory of the node, for a container that has none.
    pub(crate) fn take(dir: &Path) -> Result<Self, HostError> {
        Self::take_for(dir, &[])
    }

    /// The same for one that runs: what in its mounts is not as it should be.
    pub(crate) fn take_for(dir: &Path, table: &[MountEntry]) -> Result<Self, HostError> {
        let mut todo = Vec::new();
        for view in VIEWS {
            let at = dir.join(view.name);
            let Change { detach, attach } = views::change(table, &view, mounted(&at)?);
            let copy = attach.then(|| copy(&at)).transpose()?;
            if detach > 0 || copy.is_some() {
                todo.push(Todo { view, detach, copy });
            }
        }
        Ok(Self { todo })
    }

    /// What the process that is inside needs of it.
    pub(crate) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.todo.iter().filter_map(|todo| todo.copy.as_ref().map(AsFd::as_fd))
    }

    /// Does it below the container's root. What fails at one place hinders no other.
    pub(super) fn show(&self, root: impl AsFd) -> Result<(), HostError> {
        let mut done = Ok(());
        for todo in &self.todo {
            let shown = show(&root, todo);
            done = done.and(shown);
        }
        done
    }
}

/// The provider whose view is mounted at a path, if any is.
pub(crate) fn mounted(at: &Path) -> Result<Option<Device>, HostError> {
    let device = mount::device_at(at)?;
    Ok(device.map(|(major, minor)| Device { major, minor }))
}

/// A copy that is nobody's peer.
fn copy(at: &Path) -> Result<OwnedFd, HostError> {
    let copy = mount::clone_tree(at, false)?;
    let alone =
        mount::Change { propagation: Some(Propagation::Private), ..mount::Change::default() };
    mount::change(&copy, alone, &at.display().to_string())?;
    Ok(copy)
}

fn show(root: impl AsFd, todo: &Todo) -> Result<(), HostError> {
    let Todo { view, detach, copy } = todo;
    if *detach > 0 {
        let what = || format!("take away what is laid over /{}", view.at);
        let (dir, name) = view.at.rsplit_once('/').unwrap_or((".", view.at));
        rustix::process::fchdir(directory(&root, dir)?).attempt(what)?;
        for _ in 0..*detach {
            let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
            rustix::mount::unmount(name, flags).attempt(what)?;
        }
        rustix::process::chdir("/").attempt(what)?;
    }
    let (Some(copy), Some(place)) = (copy, existing(&root, view.at)?) else { return Ok(()) };
    mount::attach_at(copy, place, Path::new(""))
}

/// Does it in this process's root.
pub(super) fn show_here(views: &Views) -> Result<(), HostError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open("/", flags, Mode::empty())
        .attempt(|| "open the container's root".to_owned())?;
    views.show(root)
}
