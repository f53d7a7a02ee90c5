//! What can go wrong, and what of it the caller hears.

use std::path::{Path, PathBuf};

use ves_archive::{Entries, Refused};
use ves_host::HostError;
use ves_proto::{Fault, Reason};
use ves_types::{Bytes, CtId, TemplateName};

use crate::plan::{Refusal, node};

/// A failure below the service.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A kernel call or a program failed.
    #[error(transparent)]
    Host(#[from] HostError),
    /// An archive was not taken.
    #[error(transparent)]
    Archive(#[from] Refused),
    /// An archive has another hash than it should.
    #[error("the archive's SHA-256 is {got}, not {want}; fetch it again")]
    Hash {
        /// What it should have.
        want: String,
        /// What it has.
        got: String,
    },
    /// The device is still used by somebody.
    #[error("the volume of container {ct} is still held by {holder}; end that, then try again")]
    InUse {
        /// The container.
        ct: CtId,
        /// By whom.
        holder: String,
    },
    /// A file system is damaged, and not all of that could be mended.
    #[error("{}", damaged(*.ct, .said, *.all))]
    Damaged {
        /// The container.
        ct: CtId,
        /// The last of what was said of it.
        said: String,
        /// Whether all was to be mended, whatever is lost.
        all: bool,
    },
    /// The pool has no room.
    #[error("{} are needed, and the pool can promise {} more", Bytes(*need), Bytes(*free))]
    NoRoom {
        /// Bytes that are needed.
        need: u64,
        /// Bytes it can promise.
        free: u64,
    },
    /// What a volume is made from is larger than it.
    #[error("the template needs a volume of at least {}, not {}", Bytes(*need), Bytes(*want))]
    TooSmall {
        /// Bytes that are needed.
        need: u64,
        /// Bytes that are wanted.
        want: u64,
    },
    /// There were volumes, and the pool they were in is not there.
    #[error(
        "the pool is gone: there were volumes, and {} is not there; mount or restore it, and start \
         again",
        .0.display()
    )]
    PoolGone(PathBuf),
    /// There is no such template.
    #[error("there is no template {0}; `virtctl template list` shows those there are")]
    TemplateUnknown(TemplateName),
    /// There is one already.
    #[error("there is a template {0} already; delete it or take another name")]
    TemplateExists(TemplateName),
    /// A record of ours cannot be understood.
    #[error("the record {record} cannot be understood: {why}")]
    Record {
        /// Which.
        record: String,
        /// What is wrong.
        why: String,
    },
    /// What is there is not ours.
    #[error("{0} is not ours and is left alone; move it away")]
    Foreign(String),
}

impl Error {
    /// Why there is no pool whose image is, or would be, this.
    pub fn of_node(refusal: node::Refusal, image: &Path) -> Self {
        match refusal {
            node::Refusal::Foreign(what) => Self::Foreign(what),
            node::Refusal::Gone => Self::PoolGone(image.to_owned()),
            node::Refusal::SharesNoBlocks => Self::Host(HostError::Lacks {
                feature: "shared blocks".to_owned(),
                why: "neither the state directory's file system nor xfs or btrfs can be used; install \
                      xfsprogs, or configure pool = \"image-copy\""
                    .to_owned(),
            }),
        }
    }

    /// What the caller hears; `step` is what was being done.
    pub fn fault(&self, step: &str) -> Fault {
        let of = |reason| Fault::new(reason, ves_proto::fault::chain(self));
        match self {
            Self::Host(HostError::Lacks { feature, .. }) => {
                of(Reason::KernelLacks).fact("feature", feature)
            }
            Self::Host(error) | Self::Archive(Refused::Host(error)) => host_fault(error, step),
            Self::Archive(Refused::Bad { entry, why }) => {
                of(Reason::BadArchive).fact("entry", entry).fact("why", why)
            }
            Self::Archive(Refused::TooLarge { entry, limit }) => {
                of(Reason::ArchiveTooLarge).fact("entry", entry).fact("limit", limit)
            }
            Self::Archive(Refused::Entries(entries)) => {
                let Entries { count, first, why, ids, said: _ } = entries;
                let fault = of(Reason::BadArchive).fact("entry", first).fact("why", why);
                let ids = ids.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
                fault
                    .fact("entries", count)
                    .fact_if_known("ids", Some(ids).filter(|i| !i.is_empty()))
            }
            Self::Archive(Refused::NoRoom) => of(Reason::PoolFull),
            Self::Archive(Refused::Io { source, .. }) => {
                // Whoever sent the archive knew better what was wrong.
                if let Some(fault) = source.get_ref().and_then(|e| e.downcast_ref::<Fault>()) {
                    return fault.clone();
                }
                let fault = of(if source.raw_os_error() == Some(28) {
                    Reason::PoolFull
                } else {
                    Reason::HostFailed
                });
                fault.fact("step", step)
            }
            Self::Hash { want, got } => of(Reason::BadArchive)
                .fact("entry", "")
                .fact("why", format!("its SHA-256 is {got}, not {want}")),
            Self::InUse { ct, holder } => of(Reason::Mounted).fact("ct", ct).fact("holder", holder),
            Self::Damaged { ct, said, all } => {
                let fault = of(Reason::VolumeDamaged).fact("ct", ct).fact("said", said);
                if *all { fault.fact("mend", "all") } else { fault }
            }
            Self::NoRoom { need, free } => {
                of(Reason::PoolFull).fact("need_bytes", need).fact("free_bytes", free)
            }
            Self::TooSmall { need, want } => {
                of(Reason::VolumeTooSmall).fact("need_bytes", need).fact("want_bytes", want)
            }
            Self::PoolGone(_) => of(Reason::HostFailed).fact("step", step),
            Self::TemplateUnknown(name) => of(Reason::TemplateUnknown).fact("template", name),
            Self::TemplateExists(name) => of(Reason::TemplateExists).fact("template", name),
            Self::Record { record, .. } => of(Reason::RecordCorrupt).fact("record", record),
            Self::Foreign(what) => of(Reason::ForeignContents).fact("what", what),
        }
    }
}

fn damaged(ct: CtId, said: &str, all: bool) -> String {
    let last = said.lines().next_back().unwrap_or_default().trim();
    let what = match all {
        true => "cannot be mended; go back to a snapshot, or restore a backup",
        false => "mending it may lose files, so that it is done only when it is asked for",
    };
    format!("the file system of container {ct} is damaged, and {what} ({last})")
}

fn host_fault(error: &HostError, step: &str) -> Fault {
    if error.is(rustix::io::Errno::NOSPC) {
        return Fault::new(Reason::PoolFull, ves_proto::fault::chain(error)).fact("step", step);
    }
    let fault = Fault::host(error).fact("step", step);
    match error {
        HostError::Sys { .. } => fault.fact_if_known("errno", error.errno()),
        HostError::Command { status, stderr, .. } => {
            fault.fact("status", status).fact("stderr", stderr)
        }
        HostError::Deadline { .. } | HostError::Parse { .. } | HostError::Lacks { .. } => fault,
    }
}

impl Refusal {
    /// What the caller hears.
    pub fn fault(&self, ct: CtId) -> Fault {
        let of = |reason| Fault::new(reason, format!("container {ct}: {self}")).fact("ct", ct);
        match self {
            Self::TemplateUnknown(name) => of(Reason::TemplateUnknown).fact("template", name),
            Self::WouldShrink { have, want } => {
                of(Reason::WouldShrink).fact("have_bytes", have).fact("want_bytes", want)
            }
            Self::TooSmall { need, want } => {
                of(Reason::VolumeTooSmall).fact("need_bytes", need).fact("want_bytes", want)
            }
            Self::NoInodes { need, max } => {
                of(Reason::NoInodes).fact("need_inodes", need).fact("max_inodes", max)
            }
            Self::InodesFixed { .. } => {
                of(Reason::NotBuilt).fact("what", "changing the number of inodes of a volume")
            }
            Self::NoVolume => of(Reason::VolumeUnknown),
            Self::SnapshotUnknown(id) => of(Reason::SnapshotUnknown).fact("snapshot", id),
            Self::TooManySnapshots(limit) => of(Reason::TooMany).fact("limit", limit),
            Self::CopyInUse | Self::Mounted => of(Reason::Mounted),
            Self::DamagedInUse => of(Reason::VolumeDamaged).fact("said", "").fact("mounted", true),
            Self::NeedsUnmount => of(Reason::NeedsRestart).fact("field", "size_bytes"),
            Self::PoolFull { need, free } => {
                of(Reason::PoolFull).fact("need_bytes", need).fact("free_bytes", free)
            }
            Self::Foreign(what) => of(Reason::ForeignContents).fact("what", what),
        }
    }
}
