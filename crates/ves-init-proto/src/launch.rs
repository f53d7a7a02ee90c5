//! What the programs of `ves-init` are asked for when they start: a container, a command in one.
//!
//! Never here: how that is done, which they plan themselves, so that nobody who can ask them can ask for
//! anything else; what they tell.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use ves_types::{CtId, Hostname, IdSlot, InitArgv, SearchDomain};

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
}

/// What a container's processes should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// Its range of ids.
    pub slot: IdSlot,
    /// Its host name.
    pub hostname: Hostname,
    /// Its init and arguments.
    pub init: InitArgv,
    /// Name servers for its resolv.conf; none: left alone.
    pub nameservers: Vec<IpAddr>,
    /// Search domains.
    pub search: Vec<SearchDomain>,
    /// Most pseudo-terminals.
    pub max_ptys: Option<u32>,
    /// Size of /dev/shm and /run.
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
}

/// All that `ves-init exec` is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecRequest {
    /// The container.
    pub ct: CtId,
    /// What to run in it.
    pub command: Command,
}
