//! Why there is no plan. Pure.

use ves_types::{Bytes, SnapshotId, TemplateName};

/// Why nothing is done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no such template.
    #[error("there is no template {0}; `virtctl template list` shows those there are")]
    TemplateUnknown(TemplateName),
    /// The volume is larger already.
    #[error("the volume has {} and would have to shrink to {}, which is not possible", Bytes(*have), Bytes(*want))]
    WouldShrink {
        /// Bytes it has.
        have: u64,
        /// Bytes that are wanted.
        want: u64,
    },
    /// The template does not fit.
    #[error("the template needs a volume of at least {}, not {}", Bytes(*need), Bytes(*want))]
    TooSmall {
        /// Bytes that are needed.
        need: u64,
        /// Bytes that are wanted.
        want: u64,
    },
    /// The template's files are too many.
    #[error("at least {need} inodes are needed, and {max} are allowed")]
    NoInodes {
        /// Inodes that are needed.
        need: u64,
        /// Inodes that are wanted.
        max: u64,
    },
    /// The number of inodes of a volume is fixed.
    #[error("the volume was made with another number of inodes ({}), and ext4 cannot change it", have.map_or_else(|| "its default".to_owned(), |n| n.to_string()))]
    InodesFixed {
        /// What it was made with.
        have: Option<u64>,
    },
    /// It is mounted, and the kernel does not let us grow it like that.
    #[error(
        "this process may not grow a mounted file system (it lacks CAP_SYS_RESOURCE); stop the container, and it grows when it is started"
    )]
    NeedsUnmount,
    /// The pool has no room.
    #[error("{} are needed, and the pool can promise {} more", Bytes(*need), Bytes(*free))]
    PoolFull {
        /// Bytes that are needed.
        need: u64,
        /// Bytes that are left.
        free: u64,
    },
    /// There is no volume.
    #[error("there is no volume")]
    NoVolume,
    /// There is no such snapshot.
    #[error("there is no snapshot {0}; `virtctl snapshot-list` shows those there are")]
    SnapshotUnknown(SnapshotId),
    /// There are as many snapshots as there may be.
    #[error("there are {0} snapshots already, which is the most; delete one first")]
    TooManySnapshots(usize),
    /// It is in use, and would change while it is copied.
    #[error(
        "the pool cannot share blocks, so that a snapshot is a copy that takes time; stop the          container first"
    )]
    CopyInUse,
    /// It is mounted, and what is mounted is not replaced.
    #[error("the volume is mounted; stop the container first")]
    Mounted,
    /// It is damaged, and what is mounted is neither checked nor grown then.
    #[error("the file system is damaged and does not grow; restart the container, which checks it")]
    DamagedInUse,
    /// What is there is not ours.
    #[error("{0} is not ours and is left alone; move it away")]
    Foreign(String),
}
