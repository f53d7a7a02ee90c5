//! What the programs of `ves-init` are told when they start: which one, and its plan.
//!
//! Never here: what they tell.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use ves_host::seccomp::Refuse;

use crate::limit::ProcessLimit;
use crate::step::InitStep;

/// All that `ves-init monitor` is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MonitorPlan {
    /// The container's volatile directory: socket, lock and records are in it.
    pub dir: PathBuf,
    /// The number of this run of the container.
    pub incarnation: u64,
    /// What the daemon wants to remember about it, word by word.
    #[serde(rename = "memo")]
    pub opaque_spec: String,
    /// What to do.
    pub steps: Vec<InitStep>,
}

/// What the starter is asked to start; the descriptors it gets come with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Launch {
    /// `ves-init monitor`: its plan, and where it reports.
    Monitor {
        /// The container, for people who look at the list of processes.
        ct: u32,
    },
    /// `ves-init exec`: its session.
    Exec,
}

/// All that `ves-init exec` is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecPlan {
    /// The container's volatile directory.
    pub dir: PathBuf,
    /// The container's version 1 groups.
    pub groups: Vec<PathBuf>,
    /// Where the version 2 hierarchy is mounted, and the container's delegated group below it.
    pub unified: Option<(PathBuf, String)>,
    /// The program and its arguments; none: a login shell.
    pub argv: Vec<String>,
    /// The environment.
    pub env: Vec<(String, String)>,
    /// Rows and columns, if it gets a terminal.
    pub terminal: Option<(u16, u16)>,
    /// The limits it gets.
    pub limits: Vec<ProcessLimit>,
    /// Capabilities it may not have, by bit.
    pub drop: u64,
    /// The system calls it may not make.
    pub refuse: Vec<Refuse>,
}
