//! The outer steps: what the monitor does with the node's privileges, before the process exists and
//! just after.
//!
//! Owns what it holds for the process. Never here: what is done inside.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::process::{Resource, Rlimit};
use ves_host::child::Child;
use ves_host::mount::volumes::Volumes;
use ves_host::mount::{self, Change, FsContext, Propagation, attr};
use ves_host::pty::{self, Pty};
use ves_host::{Attempt, HostError, cgroup, id_map, namespace};
use ves_init_proto::{InitStep, Limited, ProcessLimit};

use super::{Views, dev, devices};

/// What was taken and made for the process.
#[derive(Debug, Default)]
pub(super) struct Outer {
    /// The copy of the volume.
    pub(super) root: Option<OwnedFd>,
    /// The file system of /dev.
    pub(super) dev: Option<OwnedFd>,
    /// Its views, or why it has none.
    pub(super) views: Option<Result<Views, HostError>>,
    /// The console.
    pub(super) console: Option<Console>,
    /// The `tasks` files of the version 1 groups.
    pub(super) groups: Vec<File>,
    /// The version 2 group.
    pub(super) unified: Option<OwnedFd>,
}

impl Outer {
    /// What the process needs of it.
    pub(super) fn held(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let places = self.root.iter().chain(&self.dev).map(AsFd::as_fd);
        let console = self.console.iter().flat_map(|c| [c.instance.as_fd(), c.pty.slave.as_fd()]);
        let views = self.views.iter().flatten().flat_map(Views::fds);
        places.chain(views).chain(console).chain(self.groups.iter().map(AsFd::as_fd))
    }
}

/// A terminal and the instance of devpts that is there for it.
#[derive(Debug)]
pub(super) struct Console {
    pub(super) instance: OwnedFd,
    pub(super) pty: Pty,
}

/// Nobody inside can make another terminal of the instance, whose maker is the node.
fn console(owner: u32, group: u32) -> Result<Console, HostError> {
    let instance = FsContext::new("devpts")?
        .set("source", "devpts")?
        .set("max", "1")?
        .set("ptmxmode", "0000")?
        .set("mode", "0620")?
        .set("uid", owner.to_string())?
        .set("gid", group.to_string())?
        .mount(attr::NOSUID | attr::NOEXEC)?;
    Ok(Console { pty: pty::open(&instance)?, instance })
}

/// The plan cannot be performed, for it lacks something.
pub(super) fn no<T>(what: &str) -> Result<T, HostError> {
    Err(std::io::Error::other(format!("the plan lacks {what}")))
        .attempt(|| "perform the plan".to_owned())
}

/// Performs a step; `child` is the process, once it exists.
pub(super) fn perform_outer(
    step: &InitStep,
    outer: &mut Outer,
    child: Option<&Child>,
) -> Result<(), HostError> {
    match (step, child) {
        (InitStep::Limit(limits), _) => limit(limits),
        (InitStep::TakeRoot { volumes, name }, _) => {
            let root = Volumes::new(volumes).need()?.clone_mount(name)?;
            // A copy of a shared mount is its peer: what is mounted on it would come to lie on the
            // volume too and keep it busy, and it could not become a root.
            let alone = Change {
                propagation: Some(Propagation::Private),
                recursive: true,
                ..Change::default()
            };
            mount::change(&root, alone, &format!("volume {name}"))?;
            outer.root = Some(root);
            Ok(())
        }
        (InitStep::MakeDev { owner }, _) => {
            outer.dev = Some(dev::make(*owner)?);
            Ok(())
        }
        (InitStep::MakeConsole { owner, group }, _) => {
            outer.console = Some(console(*owner, *group)?);
            Ok(())
        }
        (InitStep::OpenGroups { v1, v2 }, _) => {
            for dir in v1 {
                // A process that moves only itself by `tasks` spares the kernel a wait for RCU.
                let path = dir.join("tasks");
                let file = OpenOptions::new().write(true).open(&path);
                outer.groups.push(file.attempt(|| format!("open {}", path.display()))?);
            }
            if let Some(dir) = v2 {
                let file = File::open(dir).attempt(|| format!("open {}", dir.display()))?;
                outer.unified = Some(file.into());
            }
            Ok(())
        }
        (InitStep::TakeViews { dir }, _) => {
            // Without them it shows what the kernel does; the step that lays them tells.
            outer.views = Some(Views::take(dir));
            Ok(())
        }
        (InitStep::FilterDevices { group, allow }, _) => {
            // Nobody is in the group yet, so that what is allowed may be away for a moment.
            cgroup::write(&group.join("devices.deny"), "a")?;
            allow.iter().try_for_each(|rule| cgroup::write(&group.join("devices.allow"), rule))
        }
        (InitStep::GiveDevices { owner, devices: list, allow, group }, _) => match &outer.dev {
            Some(dev) => {
                let node = devices::Node::own();
                devices::give(&node, dev, *owner, (list, allow), group.as_deref())
            }
            None => no("a /dev"),
        },
        (InitStep::GiveGroup { owner }, _) => match &outer.unified {
            Some(group) => cgroup::delegate(group, *owner),
            None => no("a version 2 group"),
        },
        (InitStep::MapIds { base, count }, Some(child)) => {
            id_map::map_ids(child.pid, *base, *count)
        }
        (InitStep::ResetOom, Some(child)) => {
            let path = format!("/proc/{}/oom_score_adj", child.pid.as_raw_pid());
            std::fs::write(&path, "0").attempt(|| format!("write {path}"))
        }
        (InitStep::PinNet(path), Some(child)) => namespace::pin_net(child.pid, path),
        (step, _) => no(&format!("a process before it can {step}")),
    }
}

/// Sets limits of this process.
///
/// # Errors
/// [`HostError::Sys`].
pub(crate) fn limit(limits: &[ProcessLimit]) -> Result<(), HostError> {
    for ProcessLimit { what, soft, hard } in limits {
        let resource = match what {
            Limited::Files => Resource::Nofile,
            Limited::Core => Resource::Core,
            Limited::Memlock => Resource::Memlock,
            Limited::Stack => Resource::Stack,
            Limited::Processes => Resource::Nproc,
            Limited::Signals => Resource::Sigpending,
        };
        let set = |soft, hard| {
            let value = Rlimit { current: soft, maximum: hard };
            rustix::process::setrlimit(resource, value)
        };
        let done = match set(*soft, *hard) {
            Err(rustix::io::Errno::PERM) => {
                // Without CAP_SYS_RESOURCE no limit can be raised; as far as possible will do.
                let most = rustix::process::getrlimit(resource).maximum;
                let least = |a: Option<u64>, b: Option<u64>| match (a, b) {
                    (Some(a), Some(b)) => Some(a.min(b)),
                    (a, b) => a.or(b),
                };
                set(least(*soft, most), least(*hard, most))
            }
            done => done,
        };
        done.attempt(|| format!("set the limit {what:?} to {soft:?}"))?;
    }
    Ok(())
}
