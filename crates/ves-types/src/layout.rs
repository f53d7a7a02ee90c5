//! Every host name and path that belongs to a container, as a pure function of its id.
//!
//! A service never receives a path: it derives it here, so a confused or stolen coordinator can
//! name a wrong container but not `/etc`. Nothing here looks at the machine.
//!
//! ```text
//! /run/ves/network/network.sock   and so on: each service has a directory of its own
//! /run/ves/api/coordinator.sock   in a directory that belongs to the coordinator's user
//! /run/ves/api/telemetry.sock     what daemons without a network report by     (coordinator)
//! /run/ves/volumes            the mount namespace in which volumes are mounted, pinned (storage);
//!                             in it, at /101, the container's volume, idmapped
//! /run/ves/lxcfs              who provides views, mounted                  (ves-lxcfs)
//! /run/ves/views              what containers see in place of the node's   (lifecycle)
//! /run/ves/ct/101/netns       the container's network namespace, pinned    (lifecycle)
//! /run/ves/ct/101/...         monitor socket, state                        (lifecycle)
//! /var/lib/ves/storage        pool: templates/, volumes/                   (storage)
//! /var/lib/ves/lifecycle      console scroll-back                          (lifecycle)
//! /var/lib/ves/coordinator    the desired state                            (coordinator)
//! ```

use std::path::{Path, PathBuf};

use crate::id::CtId;

/// Where the two trees begin. Tests use a directory of their own; daemons use the default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    run: PathBuf,
    state: PathBuf,
}

impl Default for Layout {
    fn default() -> Self {
        Self::new("/run/ves", "/var/lib/ves")
    }
}

/// The five daemons, in the order of their sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Daemon {
    /// Volumes and templates.
    Storage,
    /// Interfaces, addresses, routes.
    Network,
    /// Limits and accounting.
    Resources,
    /// Processes.
    Lifecycle,
    /// The unprivileged brain.
    Coordinator,
}

impl Daemon {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Storage, Self::Network, Self::Resources, Self::Lifecycle, Self::Coordinator];

    /// Those that the coordinator asks.
    pub const SERVICES: [Self; 4] =
        [Self::Storage, Self::Network, Self::Resources, Self::Lifecycle];

    /// Its one-word name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Storage => "storage",
            Self::Network => "network",
            Self::Resources => "resources",
            Self::Lifecycle => "lifecycle",
            Self::Coordinator => "coordinator",
        }
    }

    /// The name of its program.
    pub const fn program(self) -> &'static str {
        match self {
            Self::Storage => "ves-storaged",
            Self::Network => "ves-networkd",
            Self::Resources => "ves-resourced",
            Self::Lifecycle => "ves-lifecycled",
            Self::Coordinator => "ves-coordinatord",
        }
    }

    /// The account its unit gives it.
    pub const fn user(self) -> &'static str {
        match self {
            Self::Storage => "ves-storage",
            Self::Network => "ves-network",
            Self::Resources => "ves-resources",
            Self::Lifecycle => "ves-lifecycle",
            Self::Coordinator => COORDINATOR_USER,
        }
    }
}

impl Layout {
    /// A layout whose volatile things live under `run` and durable ones under `state`.
    pub fn new(run: impl Into<PathBuf>, state: impl Into<PathBuf>) -> Self {
        Self { run: run.into(), state: state.into() }
    }
    /// The directory of volatile things.
    pub fn run_dir(&self) -> &Path {
        &self.run
    }
    /// The directory of durable things.
    pub fn state_dir(&self) -> &Path {
        &self.state
    }
    /// The unix socket a service listens on.
    pub fn socket(&self, service: Daemon) -> PathBuf {
        self.socket_dir(service).join(format!("{}.sock", service.name()))
    }
    /// Where that is: a directory of each daemon's own, so that none can stand in for another. Who gets
    /// through those of services is the coordinator.
    pub fn socket_dir(&self, service: Daemon) -> PathBuf {
        match service {
            Daemon::Coordinator => self.api_dir(),
            _ => self.run.join(service.name()),
        }
    }
    /// The socket of who starts containers' processes outside of the lifecycle daemon's sandbox.
    pub fn starter_socket(&self) -> PathBuf {
        self.run.join("starter.sock")
    }
    /// The socket of who builds templates outside of the storage daemon's sandbox.
    pub fn builder_socket(&self) -> PathBuf {
        self.run.join("builder.sock")
    }
    /// The directory of the public socket; belongs to [`COORDINATOR_USER`].
    pub fn api_dir(&self) -> PathBuf {
        self.run.join("api")
    }
    /// The socket by which privileged daemons, which have no network, reach the receiver of the
    /// coordinator's telemetry.
    pub fn telemetry_socket(&self) -> PathBuf {
        self.api_dir().join("telemetry.sock")
    }
    /// A service's own durable directory.
    pub fn service_dir(&self, service: Daemon) -> PathBuf {
        self.state.join(service.name())
    }
    /// The parent of all [`Self::ct_dir`]s.
    pub fn cts_dir(&self) -> PathBuf {
        self.run.join("ct")
    }
    /// A container's volatile directory; owned by root, mode 0700.
    pub fn ct_dir(&self, ct: CtId) -> PathBuf {
        self.cts_dir().join(ct.to_string())
    }
    /// Where storage keeps the mount namespace in which volumes are mounted.
    pub fn volumes_dir(&self) -> PathBuf {
        self.run.join("volumes")
    }
    /// Where lifecycle has mounted, each on a file of its own, what is laid over files of each container's
    /// /proc and /sys.
    pub fn views_dir(&self) -> PathBuf {
        self.run.join("views")
    }
    /// Where the file system of their provider is mounted, which the node's unit starts.
    pub fn views_provider(&self) -> PathBuf {
        self.run.join("lxcfs")
    }
    /// Where the container's volume was mounted in the node's own mount namespace by releases up to 0.1.
    pub fn ct_old_root(&self, ct: CtId) -> PathBuf {
        self.ct_dir(ct).join("root")
    }
    /// Where lifecycle pins the container's network namespace.
    pub fn ct_netns(&self, ct: CtId) -> PathBuf {
        self.ct_dir(ct).join("netns")
    }
}

/// What the container's volume is called in the volumes' mount namespace, where it is mounted.
pub fn volume(ct: CtId) -> String {
    ct.to_string()
}

/// The node's end of a container's venet link; at most 13 of the 15 characters a link name has.
pub fn host_link(ct: CtId) -> String {
    format!("ves{ct}")
}

/// The container's end of its venet link.
pub const CT_LINK: &str = "venet0";

/// The container's control group, relative to a hierarchy's mount point. Limits are set here;
/// in cgroup v2 processes live in the delegated child [`CGROUP_DELEGATED`], since a v2 group with
/// controllers for its children may hold no processes itself.
pub fn cgroup(ct: CtId) -> String {
    format!("ves/ct-{ct}")
}

/// The control group that holds all containers'.
pub const CGROUP_ROOT: &str = "ves";
/// The delegated child of [`cgroup`] in the v2 hierarchy that the container sees as its root.
pub const CGROUP_DELEGATED: &str = "payload";

/// The unprivileged account the coordinator runs as, and the group by which it reaches the services' sockets.
pub const COORDINATOR_USER: &str = "ves";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_names_fit() {
        let longest = host_link(CtId::try_from(CtId::MAX).expect("the greatest id"));
        assert!(longest.len() <= 15, "{longest}");
    }

    #[test]
    fn paths() {
        let ct = CtId::try_from(101).expect("valid");
        let layout = Layout::default();
        assert_eq!(layout.volumes_dir(), Path::new("/run/ves/volumes"));
        assert_eq!(volume(ct), "101");
        assert_eq!(layout.socket(Daemon::Storage), Path::new("/run/ves/storage/storage.sock"));
        assert_eq!(layout.socket(Daemon::Coordinator), Path::new("/run/ves/api/coordinator.sock"));
        assert_eq!(cgroup(ct), "ves/ct-101");
    }
}
