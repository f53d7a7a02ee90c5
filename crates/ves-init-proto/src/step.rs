//! The steps that turn a fresh process into a container's init.
//!
//! Never here: which there are and in which order, which is planned; their performance.

use std::fmt;
use std::path::PathBuf;

use ves_host::namespace::Namespace;
use ves_host::seccomp::Refusals;
use ves_types::{Device, DevicePattern};

use crate::limit::ProcessLimit;
use crate::memory::Size;

/// A file to write below /etc, as root of the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EtcFile {
    /// `hostname`, of one line.
    Hostname(String),
    /// The line of 127.0.1.1 in `hosts`.
    Hosts(String),
    /// The lines of `resolv.conf` that are the operator's; none: those of before are taken away.
    Resolv(String),
}

/// What in the container's files stands against a file of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unless {
    /// A line of /etc/fstab for this place.
    Mounted(String),
    /// Anything at this path.
    There(String),
}

/// A small file for the container, below its /run, which is empty at each start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunFile {
    /// Where, relative to /run.
    pub path: String,
    /// Its contents.
    pub text: String,
    /// What makes it needless: where any of these is, the tenant has decided.
    pub unless: Vec<Unless>,
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InitStep {
    /// Set the limits the process will inherit.
    Limit(Vec<ProcessLimit>),
    /// Take a detached copy of the mounted volume.
    TakeRoot {
        /// Where the mount namespace is kept that it is mounted in.
        volumes: PathBuf,
        /// What it is called there.
        name: String,
    },
    /// Make the file system of /dev with its nodes, owned by the container's root.
    MakeDev {
        /// The container's root on the node.
        owner: u32,
    },
    /// Make the console, in an instance of devpts that has nothing else. As one of the node's it may come
    /// from the terminals that the kernel reserves for that.
    MakeConsole {
        /// The container's root on the node.
        owner: u32,
        /// Its group of terminals.
        group: u32,
    },
    /// Open the container's control groups.
    OpenGroups {
        /// Directories in version 1 hierarchies.
        v1: Vec<PathBuf>,
        /// The directory in the version 2 hierarchy.
        v2: Option<PathBuf>,
    },
    /// Take a copy of each view of the node's that is there; see [`crate::views`].
    TakeViews {
        /// Where they are mounted.
        dir: PathBuf,
    },
    /// Let the version 1 group open these devices and no others, whatever it could before.
    FilterDevices {
        /// Its directory in the hierarchy of the devices controller.
        group: PathBuf,
        /// The devices, as the kernel writes them: `c 1:3 rwm`.
        allow: Vec<String>,
    },
    /// Make nodes of the node's devices in the prepared /dev, and let the version 1 group open them.
    GiveDevices {
        /// The container's root on the node.
        owner: u32,
        /// Which, and what may be done with them.
        devices: Vec<Device>,
        /// Those that this node gives besides the usual ones.
        allow: Vec<DevicePattern>,
        /// Its directory in the hierarchy of the devices controller, if there is one.
        group: Option<PathBuf>,
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
        /// Attributes of [`ves_host::mount::attr`].
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
    /// Show the console as /dev/console.
    ShowConsole,
    /// Lay the views that were taken over the files of the kernel's that they stand for, in place of those of
    /// a provider that lie there.
    ShowViews,
    /// Make the mounted copy the root and let go of the node's mounts.
    EnterRoot,
    /// Set the host name.
    SetHostname(String),
    /// Set the host name to what `/etc/hostname` says, or to this where it says none.
    OwnHostname(String),
    /// Set what the kernel keeps for one of the namespaces.
    SetSysctl {
        /// Where below /proc/sys.
        name: String,
        /// Its new value.
        value: String,
    },
    /// Write a file below /etc.
    WriteEtc(EtcFile),
    /// Give a memory file system that is mounted there another size, but none below what it holds.
    Resize {
        /// Where.
        at: String,
        /// Its new size.
        size: Size,
        /// What makes it needless, as of a file.
        unless: Vec<Unless>,
    },
    /// The same for what each user has who is logged in, in /run/user.
    ResizeUsers(Size),
    /// Tell programs inside who manages the container, and how.
    Introduce {
        /// Small files.
        files: Vec<RunFile>,
        /// Whether to listen for init's notifications at /run/host/notify.
        notify: bool,
    },
    /// Give up capabilities, by bit.
    Drop(u64),
    /// Wait until the monitor lets it go.
    Await,
    /// Put the system call filter on.
    Filter(Refusals),
    /// Become init.
    Exec {
        /// The program and its arguments.
        argv: Vec<String>,
        /// Its environment.
        env: Vec<(String, String)>,
        /// Whether it may be a 32-bit program.
        abi32: bool,
    },
}

impl InitStep {
    /// Who performs it.
    pub const fn side(&self) -> Side {
        match self {
            Self::Limit(_)
            | Self::TakeRoot { .. }
            | Self::MakeDev { .. }
            | Self::MakeConsole { .. }
            | Self::OpenGroups { .. }
            | Self::TakeViews { .. }
            | Self::FilterDevices { .. }
            | Self::GiveDevices { .. }
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
            | Self::ShowConsole
            | Self::ShowViews
            | Self::EnterRoot
            | Self::SetHostname(_)
            | Self::OwnHostname(_)
            | Self::SetSysctl { .. }
            | Self::WriteEtc(_)
            | Self::Resize { .. }
            | Self::ResizeUsers(_)
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
            Self::TakeRoot { name, .. } => write!(f, "take volume {name}"),
            Self::MakeDev { owner } => write!(f, "make /dev for user {owner}"),
            Self::MakeConsole { owner, .. } => write!(f, "make a console for user {owner}"),
            Self::OpenGroups { v1, v2 } => {
                write!(f, "open {} control groups", v1.len() + usize::from(v2.is_some()))
            }
            Self::TakeViews { .. } => write!(f, "take views"),
            Self::FilterDevices { allow, .. } => {
                write!(f, "let the control group open {} kinds of devices only", allow.len())
            }
            Self::GiveDevices { devices, .. } => {
                let all: Vec<_> = devices.iter().map(ToString::to_string).collect();
                write!(f, "give devices {}", all.join(", "))
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
            Self::ShowConsole => write!(f, "show the console"),
            Self::ShowViews => write!(f, "lay views over /proc and /sys"),
            Self::EnterRoot => write!(f, "enter the root"),
            Self::SetHostname(name) => write!(f, "set the host name {name}"),
            Self::OwnHostname(name) => write!(f, "set its own host name, else {name}"),
            Self::SetSysctl { name, value } => write!(f, "set {name} to {value}"),
            Self::Resize { at, size, .. } => write!(f, "let {at} hold {} bytes", size.bytes),
            Self::ResizeUsers(size) => write!(f, "let each of /run/user hold {} bytes", size.bytes),
            Self::WriteEtc(EtcFile::Hostname(_)) => write!(f, "write /etc/hostname"),
            Self::WriteEtc(EtcFile::Hosts(_)) => write!(f, "write /etc/hosts"),
            Self::WriteEtc(EtcFile::Resolv(_)) => write!(f, "write /etc/resolv.conf"),
            Self::Introduce { .. } => write!(f, "fill /run"),
            Self::Drop(_) => write!(f, "drop capabilities"),
            Self::Await => write!(f, "wait for release"),
            Self::Filter(Refusals { native, compat }) => {
                let rules = native.len() + compat.as_ref().map_or(0, Vec::len);
                write!(f, "refuse system calls by {rules} rules")
            }
            Self::Exec { argv, .. } => {
                write!(f, "execute {}", argv.first().map_or("nothing", String::as_str))
            }
        }
    }
}
