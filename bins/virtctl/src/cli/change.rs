//! Words of the verbs that change a container as a whole.
//!
//! Owns their options. Never here: parameters, or what a verb does.

use clap::Args;
use ves_types::TemplateName;

use crate::ct::Ct;
use crate::params::{CreateParams, SetParams};

/// One container and whether only to plan.
#[derive(Debug, Args)]
pub(crate) struct Change {
    /// Container, by id or name
    #[arg(value_name = "CT")]
    pub(crate) ct: Ct,
    /// Change nothing; print the steps that would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// Its id, or a name: then the lowest free id from 101 on
    #[arg(value_name = "CT")]
    pub(crate) ct: Ct,
    /// The template it is made from
    #[arg(long, value_name = "TEMPLATE")]
    pub(crate) ostemplate: TemplateName,
    /// Start from a built-in sample of parameters: vswap-256m or basic
    #[arg(long, value_name = "SAMPLE")]
    pub(crate) config: Option<String>,
    /// Change nothing; print the steps that would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) params: CreateParams,
}

#[derive(Debug, Args)]
pub(crate) struct SetArgs {
    /// Container, by id or name
    #[arg(value_name = "CT")]
    pub(crate) ct: Ct,
    /// Keep the change for later starts; without it, it lasts until the container stops
    #[arg(long)]
    pub(crate) save: bool,
    /// What to do about a change that takes a restart: do it, or let it wait for the next start
    #[arg(long, value_name = "MODE", value_parser = ["restart", "ignore"])]
    pub(crate) setmode: Option<String>,
    /// Set the limits of a built-in sample of parameters
    #[arg(long, value_name = "SAMPLE")]
    pub(crate) applyconfig: Option<String>,
    /// Change nothing; print the steps that would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) params: SetParams,
}

#[derive(Debug, Args)]
pub(crate) struct StartArgs {
    #[command(flatten)]
    pub(crate) change: Change,
    /// Return when it has booted, not when its init runs
    #[arg(long)]
    pub(crate) wait: bool,
    /// Start it though it is disabled
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct StopArgs {
    #[command(flatten)]
    pub(crate) change: Change,
    /// Kill it rather than ask its init
    #[arg(long)]
    pub(crate) fast: bool,
    /// How many seconds its init may take
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub(crate) timeout: Option<u32>,
    /// Leave its volume mounted
    #[arg(long)]
    pub(crate) skip_umount: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RestartArgs {
    #[command(flatten)]
    pub(crate) change: Change,
    /// Kill it rather than ask its init
    #[arg(long)]
    pub(crate) fast: bool,
    /// Return when it has booted, not when its init runs
    #[arg(long)]
    pub(crate) wait: bool,
}
