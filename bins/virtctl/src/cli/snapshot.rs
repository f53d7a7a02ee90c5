//! Words of the verbs about snapshots.
//!
//! Owns their options, and the two ways an id is written. Never here: what a verb does.

use clap::Args;
use ves_types::{ParseError, SnapshotId, SnapshotName};

use super::change::Change;
use super::list_args::ListArgs;
use crate::ct::Ct;

#[derive(Debug, Args)]
pub(crate) struct SnapshotArgs {
    #[command(flatten)]
    pub(crate) change: Change,
    /// Its name, for people; not unique
    #[arg(long)]
    pub(crate) name: Option<SnapshotName>,
    /// Memory too (not built yet)
    #[arg(long, conflicts_with = "skip_suspend")]
    pub(crate) with_memory: bool,
    /// Its id (not built yet: it is chosen for you)
    #[arg(long, value_parser = snapshot_id, hide = true)]
    pub(crate) id: Option<SnapshotId>,
    /// What it is for (not built yet)
    #[arg(long, hide = true)]
    pub(crate) description: Option<String>,
    /// Disk only, as always
    #[arg(long, hide = true)]
    pub(crate) skip_suspend: bool,
    /// Not the parameters, as always
    #[arg(long, hide = true)]
    pub(crate) skip_config: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SnapshotListArgs {
    /// Container, by id or name
    #[arg(value_name = "CT")]
    pub(crate) ct: Ct,
    /// This snapshot only
    #[arg(long, value_parser = snapshot_id)]
    pub(crate) id: Option<SnapshotId>,
    /// Print the names of all fields
    #[arg(short = 'L', long)]
    pub(crate) list_fields: bool,
    #[command(flatten)]
    pub(crate) list: ListArgs,
}

/// A snapshot of a container.
#[derive(Debug, Args)]
pub(crate) struct SnapshotOne {
    #[command(flatten)]
    pub(crate) change: Change,
    /// The snapshot's id
    #[arg(long, value_parser = snapshot_id)]
    pub(crate) id: SnapshotId,
}

#[derive(Debug, Args)]
pub(crate) struct SnapshotSwitchArgs {
    #[command(flatten)]
    pub(crate) snapshot: SnapshotOne,
    /// Do not go on with its memory, as always
    #[arg(long, conflicts_with = "must_resume", hide = true)]
    pub(crate) skip_resume: bool,
    /// Fail if it has no memory (not built yet)
    #[arg(long, hide = true)]
    pub(crate) must_resume: bool,
    /// Keep the parameters there are now, as always
    #[arg(long, hide = true)]
    pub(crate) skip_config: bool,
}

/// Also as vzctl writes it, in braces, and in capitals.
fn snapshot_id(s: &str) -> Result<SnapshotId, ParseError> {
    let bare = s.strip_prefix('{').and_then(|s| s.strip_suffix('}')).unwrap_or(s);
    bare.to_ascii_lowercase().parse()
}
