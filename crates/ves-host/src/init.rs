//! The steps that turn a fresh process into a container's init, as the daemon plans them and
//! `ves-init` performs them.
//!
//! Owns the vocabulary between the two: [`InitStep`], the [`report`]s and the [`frame`]s of
//! sessions. Never here: which steps there are and in which order, which is planned; their
//! performance.

pub mod frame;
pub mod report;

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::namespace::Namespace;
use crate::seccomp::Refuse;

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

/// A resource limit of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessLimit {
    /// What.
    pub what: Limited,
    /// What it is at first; none: unlimited.
    pub soft: Option<u64>,
    /// How far the process may raise it.
    pub hard: Option<u64>,
}

/// What a [`ProcessLimit`] limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limited {
    /// Open files.
    Files,
    /// Size of core dumps.
    Core,
    /// Locked memory.
    Memlock,
    /// Stack.
    Stack,
    /// Processes of the user.
    Processes,
    /// Pending signals of the user.
    Signals,
}

/// A file to write below /etc, as root of the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EtcFile {
    /// `hostname`, of one line.
    Hostname(String),
    /// The line of 127.0.1.1 in `hosts`.
    Hosts(String),
    /// `resolv.conf`, whole.
    Resolv(String),
}

/// Who performs a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// The monitor, with the node's privileges, before or just after the process exists.
    Outer,
    /// The process itself, in its namespaces.
    Inner,
}

/// One thing to do on the way to init. Paths of [`Side::Inner`] steps are relative to the
/// container's root and never follow a symbolic link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InitStep {
    /// Set the limits the process will inherit.
    Limit(Vec<ProcessLimit>),
    /// Take a detached copy of the mounted volume.
    TakeRoot(PathBuf),
    /// Make the file system of /dev with its nodes, owned by the container's root.
    MakeDev {
        /// The container's root on the node.
        owner: u32,
    },
    /// Open the container's control groups.
    OpenGroups {
        /// Directories in version 1 hierarchies.
        v1: Vec<PathBuf>,
        /// The directory in the version 2 hierarchy.
        v2: Option<PathBuf>,
    },
    /// Let the version 1 group open these devices and no others, whatever it could before.
    FilterDevices {
        /// Its directory in the hierarchy of the devices controller.
        group: PathBuf,
        /// The devices, as the kernel writes them: `c 1:3 rwm`.
        allow: Vec<String>,
    },
    /// Give the opened version 2 group to the container's root.
    GiveGroup {
        /// The container's root on the node.
        owner: u32,
    },
    /// Make the process, in the version 2 group and in new namespaces.
    Clone {
        /// Which.
        namespaces: Vec<Namespace>,
        /// The user that creates the user namespace.
        creator: u32,
    },
    /// Map the ids of the user namespace.
    MapIds {
        /// The first id on the node.
        base: u32,
        /// How many.
        count: u32,
    },
    /// Let the process be chosen when memory runs out, as any other.
    ResetOom,
    /// Keep the network namespace at a path.
    PinNet(PathBuf),
    /// Become root inside.
    BecomeRoot,
    /// Die with the monitor.
    DieWithMonitor,
    /// Join the version 1 groups.
    JoinGroups,
    /// Take the group as root of the groups that are seen.
    NewGroupNamespace,
    /// Let no mount event in or out.
    IsolateMounts,
    /// Mount the copy of the volume over the root.
    AttachRoot,
    /// Mount the prepared /dev.
    AttachDev,
    /// Mount a new file system.
    Mount {
        /// Its type.
        fs: String,
        /// Where.
        at: String,
        /// Attributes of [`crate::mount::attr`].
        attributes: u64,
        /// Its options.
        options: Vec<(String, String)>,
    },
    /// Make a part of a file system read-only, with exceptions below it.
    ReadOnly {
        /// The part.
        at: String,
        /// What below it stays writable, relative to it.
        except: Vec<String>,
    },
    /// Hide a file or directory, if it is there.
    Mask(String),
    /// Make the console in /dev/pts and show it as /dev/console.
    MakeConsole,
    /// Make the mounted copy the root and let go of the node's mounts.
    EnterRoot,
    /// Set the host name.
    SetHostname(String),
    /// Write a file below /etc.
    WriteEtc(EtcFile),
    /// Tell programs inside who manages the container.
    Introduce {
        /// Contents of small files in /run/host.
        files: Vec<(String, String)>,
        /// Whether to listen for init's notifications there.
        notify: bool,
    },
    /// Give up capabilities, by bit.
    Drop(u64),
    /// Wait until the monitor lets it go.
    Await,
    /// Put the system call filter on.
    Filter(Vec<Refuse>),
    /// Become init.
    Exec {
        /// The program and its arguments.
        argv: Vec<String>,
        /// Its environment.
        env: Vec<(String, String)>,
    },
}

impl InitStep {
    /// Who performs it.
    pub const fn side(&self) -> Side {
        match self {
            Self::Limit(_)
            | Self::TakeRoot(_)
            | Self::MakeDev { .. }
            | Self::OpenGroups { .. }
            | Self::FilterDevices { .. }
            | Self::GiveGroup { .. }
            | Self::Clone { .. }
            | Self::MapIds { .. }
            | Self::ResetOom
            | Self::PinNet(_) => Side::Outer,
            Self::BecomeRoot
            | Self::DieWithMonitor
            | Self::JoinGroups
            | Self::NewGroupNamespace
            | Self::IsolateMounts
            | Self::AttachRoot
            | Self::AttachDev
            | Self::Mount { .. }
            | Self::ReadOnly { .. }
            | Self::Mask(_)
            | Self::MakeConsole
            | Self::EnterRoot
            | Self::SetHostname(_)
            | Self::WriteEtc(_)
            | Self::Introduce { .. }
            | Self::Drop(_)
            | Self::Await
            | Self::Filter(_)
            | Self::Exec { .. } => Side::Inner,
        }
    }
}

impl fmt::Display for InitStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Limit(limits) => write!(f, "set {} process limits", limits.len()),
            Self::TakeRoot(path) => write!(f, "take the volume at {}", path.display()),
            Self::MakeDev { owner } => write!(f, "make /dev for user {owner}"),
            Self::OpenGroups { v1, v2 } => {
                write!(f, "open {} control groups", v1.len() + usize::from(v2.is_some()))
            }
            Self::FilterDevices { allow, .. } => {
                write!(f, "let the control group open {} kinds of devices only", allow.len())
            }
            Self::GiveGroup { owner } => write!(f, "give the control group to user {owner}"),
            Self::Clone { namespaces, creator } => {
                write!(f, "clone into {} namespaces as user {creator}", namespaces.len())
            }
            Self::MapIds { base, count } => write!(f, "map {count} ids from {base}"),
            Self::ResetOom => write!(f, "reset the oom score"),
            Self::PinNet(path) => write!(f, "pin the network namespace at {}", path.display()),
            Self::BecomeRoot => write!(f, "become root"),
            Self::DieWithMonitor => write!(f, "die with the monitor"),
            Self::JoinGroups => write!(f, "join the control groups"),
            Self::NewGroupNamespace => write!(f, "make a control group namespace"),
            Self::IsolateMounts => write!(f, "isolate mounts"),
            Self::AttachRoot => write!(f, "mount the volume"),
            Self::AttachDev => write!(f, "mount /dev"),
            Self::Mount { fs, at, .. } => write!(f, "mount {fs} on /{at}"),
            Self::ReadOnly { at, .. } => write!(f, "make /{at} read-only"),
            Self::Mask(at) => write!(f, "mask /{at}"),
            Self::MakeConsole => write!(f, "make the console"),
            Self::EnterRoot => write!(f, "enter the root"),
            Self::SetHostname(name) => write!(f, "set the host name {name}"),
            Self::WriteEtc(EtcFile::Hostname(_)) => write!(f, "write /etc/hostname"),
            Self::WriteEtc(EtcFile::Hosts(_)) => write!(f, "write /etc/hosts"),
            Self::WriteEtc(EtcFile::Resolv(_)) => write!(f, "write /etc/resolv.conf"),
            Self::Introduce { .. } => write!(f, "fill /run/host"),
            Self::Drop(_) => write!(f, "drop capabilities"),
            Self::Await => write!(f, "wait for release"),
            Self::Filter(refuse) => write!(f, "refuse system calls by {} rules", refuse.len()),
            Self::Exec { argv, .. } => {
                write!(f, "execute {}", argv.first().map_or("nothing", String::as_str))
            }
        }
    }
}
