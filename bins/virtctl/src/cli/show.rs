//! Words of the verbs that show containers and change nothing.
//!
//! Owns their options. Never here: what a list has to show.

use clap::Args;

use super::list_args::ListArgs;
use crate::ct::Ct;

/// One container.
#[derive(Debug, Args)]
pub(crate) struct One {
    /// Container, by id or name
    #[arg(value_name = "CT")]
    pub(crate) ct: Ct,
}

#[derive(Debug, Args)]
pub(crate) struct ListVerb {
    /// Stopped ones too
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Stopped ones only
    #[arg(short = 'S', long, conflicts_with = "all")]
    pub(crate) stopped: bool,
    /// Names in place of host names
    #[arg(short = 'n', long)]
    pub(crate) names: bool,
    /// Ids only
    #[arg(short = '1', long, conflicts_with_all = ["fields", "names"])]
    pub(crate) ids: bool,
    /// The same as -o json
    #[arg(short = 'j', long)]
    pub(crate) json: bool,
    /// Print the names of all fields
    #[arg(short = 'L', long)]
    pub(crate) list_fields: bool,
    /// Those that this finds, running or not, such as 'labels.customer="17" AND state=STOPPED'
    #[arg(long, value_name = "EXPR")]
    pub(crate) filter: Option<String>,
    /// A column of each of these labels
    #[arg(long, value_name = "KEY,KEY", value_delimiter = ',', conflicts_with = "ids")]
    pub(crate) labels: Vec<String>,
    #[command(flatten)]
    pub(crate) list: ListArgs,
    /// Only these containers
    #[arg(value_name = "CT")]
    pub(crate) cts: Vec<Ct>,
}

#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    /// Show it once; also done where stdout is no terminal
    #[arg(short = '1', long)]
    pub(crate) once: bool,
    /// Do not clear the screen
    #[arg(short, long)]
    pub(crate) batch: bool,
    /// Seconds from one view to the next
    #[arg(short, long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub(crate) delay: u32,
    /// End after so many views
    #[arg(long, value_name = "N")]
    pub(crate) iterations: Option<u32>,
    #[command(flatten)]
    pub(crate) list: ListArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ResourcesArgs {
    /// Container, by id or name
    #[arg(value_name = "CT", required_unless_present = "all", conflicts_with = "all")]
    pub(crate) ct: Option<Ct>,
    /// All running containers
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Exactly as /proc/bc/ID/resources of OpenVZ
    #[arg(short, long)]
    pub(crate) raw: bool,
    #[command(flatten)]
    pub(crate) list: ListArgs,
}

#[derive(Debug, Args)]
pub(crate) struct WatchArgs {
    /// Go on until Ctrl-C
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Begin after this revision
    #[arg(long, value_name = "REVISION", default_value = "0", requires = "follow")]
    pub(crate) since: String,
    /// Leave the header out
    #[arg(short = 'H', long)]
    pub(crate) no_header: bool,
}
