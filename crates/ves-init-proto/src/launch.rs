//! What the programs of `ves-init` are asked for when they start: a container, a command in one.
//!
//! Never here: how that is done, which they plan themselves, so that nobody who can ask them can ask for
//! anything else; what they tell.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use ves_types::{
    Capability, CtId, Device, DevicePattern, Features, Hostname, IdSlot, InitArgv, SearchDomain,
};

use crate::user::UserSpec;

/// What the starter is asked to start; the descriptors it gets come with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Launch {
    /// `ves-init monitor`: its [`StartRequest`], and where it reports.
    Monitor {
        /// The container.
        ct: CtId,
    },
    /// `ves-init exec`: its session, which begins with an [`ExecRequest`].
    Exec,
    /// `ves-init views`: a channel of [`crate::views`]' words.
    Views,
}

/// What a container's processes should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// Its range of ids.
    pub slot: IdSlot,
    /// Its host name; none: what it says of itself.
    pub hostname: Option<Hostname>,
    /// Its init and arguments.
    pub init: InitArgv,
    /// Name servers for its resolv.conf; none: its own.
    pub nameservers: Vec<IpAddr>,
    /// Search domains; none: its own.
    pub search: Vec<SearchDomain>,
    /// Most pseudo-terminals.
    pub max_ptys: Option<u32>,
    /// The most that /dev/shm and /run may hold each.
    pub shm_bytes: Option<u64>,
    /// The memory it may have, of which each memory file system gets a share. Absent in what an older
    /// release wrote.
    #[serde(default)]
    pub ram_bytes: Option<u64>,
    /// Devices of the node that it has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<Device>,
    /// Capabilities that it has not, of those that containers have.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub capabilities_off: BTreeSet<Capability>,
    /// What of the kernel it may use. Absent in what an older release wrote.
    #[serde(default)]
    pub features: Features,
}

/// What a container is called and whom it asks for names, as far as the operator says so. Alone of a
/// [`Spec`] it can change while the container runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Names {
    /// See [`Spec::hostname`].
    pub hostname: Option<Hostname>,
    /// See [`Spec::nameservers`].
    pub nameservers: Vec<IpAddr>,
    /// See [`Spec::search`].
    pub search: Vec<SearchDomain>,
}

impl Spec {
    /// Its names.
    pub fn names(&self) -> Names {
        Names {
            hostname: self.hostname.clone(),
            nameservers: self.nameservers.clone(),
            search: self.search.clone(),
        }
    }

    /// How much memory it may have.
    pub const fn memory(&self) -> Memory {
        Memory { ram_bytes: self.ram_bytes, shm_bytes: self.shm_bytes }
    }

    /// The same with other names.
    #[must_use]
    pub fn with_names(self, names: Names) -> Self {
        let Names { hostname, nameservers, search } = names;
        Self { hostname, nameservers, search, ..self }
    }
}

/// What decides how large a container's memory file systems are; see [`crate::memory`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    /// See [`Spec::ram_bytes`].
    pub ram_bytes: Option<u64>,
    /// See [`Spec::shm_bytes`].
    pub shm_bytes: Option<u64>,
}

/// All that `ves-init monitor` is told of its container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartRequest {
    /// The number of this run of the container.
    pub incarnation: u64,
    /// What it should be.
    pub spec: Spec,
    /// Devices that whoever runs the node lets containers have, besides the usual ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_devices: Vec<DevicePattern>,
}

/// What a command inside is to be.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Command {
    /// Program and arguments; none: a login shell.
    pub argv: Vec<String>,
    /// Environment, on top of a clean one unless `bare`.
    pub env: Vec<(String, String)>,
    /// Rows and columns of its terminal, if it has one.
    pub terminal: Option<(u16, u16)>,
    /// Whether `env` is all there is.
    pub bare: bool,
    /// Where it begins; none: the home of its user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// Whose it is; none: root's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserSpec>,
    /// What becomes of it when its caller is gone before it has ended.
    #[serde(default, skip_serializing_if = "OnDisconnect::is_kill")]
    pub on_disconnect: OnDisconnect,
    /// How long it may run, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

/// What becomes of a command whose caller is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnDisconnect {
    /// Its session is hung up, and killed a little later.
    #[default]
    Kill,
    /// It runs on without input; what it writes is thrown away.
    Leave,
}

impl OnDisconnect {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
    fn is_kill(&self) -> bool {
        *self == Self::Kill
    }
}

/// What is done inside a running container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Work {
    /// A command.
    Run(Command),
    /// It gets these names.
    Name(Names),
    /// Its memory file systems are made to fit this.
    Fit(Memory),
    /// What is laid over files of its /proc and /sys becomes what the node has for that.
    Views,
}

/// All that `ves-init exec` is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecRequest {
    /// The container.
    pub ct: CtId,
    /// What is done in it.
    pub work: Work,
}
