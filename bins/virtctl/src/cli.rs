//! The grammar: every verb and option of the contract, built or not.
//!
//! Owns words, not meaning: values are parsed by the vocabulary's own constructors. Verbs that are
//! not built yet live in [`crate::unbuilt`] and are flattened in.
//!
//! Never here: anything that is done.

mod access;
mod change;
mod events;
mod inside;
mod list_args;
mod node;
mod operation;
mod show;
mod snapshot;
mod template;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand};
use clap_complete::Shell;

use crate::exit;
use crate::unbuilt::Unbuilt;

pub(crate) use access::{CertVerb, ContextVerb, GrantArgs, InitCaArgs, TokenVerb};
pub(crate) use change::{Change, CreateArgs, RestartArgs, SetArgs, StartArgs, StopArgs};
pub(crate) use events::{EventType, EventsArgs};
pub(crate) use inside::{ConsoleArgs, EnterArgs, ExecArgs, RunscriptArgs};
pub(crate) use node::NodeVerb;
pub(crate) use operation::OperationVerb;
pub(crate) use show::{ListVerb, One, ResourcesArgs, TopArgs, WatchArgs};
pub(crate) use snapshot::{SnapshotArgs, SnapshotListArgs, SnapshotOne, SnapshotSwitchArgs};
pub(crate) use template::TemplateVerb;

/// Manage system containers: a whole Linux each, with addresses, limits and accounting of its own.
#[derive(Debug, Parser)]
#[command(
    name = "virtctl",
    version,
    max_term_width = 100,
    after_help = exit::HELP,
    subcommand_required = true,
    arg_required_else_help = true,
    disable_help_subcommand = true
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

impl Cli {
    /// Reads a command line, whose first word is the program's name; a request for help is an error too.
    pub(crate) fn read(line: &[OsString]) -> Result<Self, clap::Error> {
        let mut cli = Self::try_parse_from(line)?;
        if let Verb::Exec(args) | Verb::Exec2(args) = &mut cli.verb {
            args.see_exact(line);
        }
        Ok(cli)
    }
}

/// Options every verb takes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options of every command")]
pub(crate) struct Global {
    /// How to answer: table, json or yaml; lists also csv, or a list of fields as --fields
    #[arg(short, long, global = true, value_name = "FORMAT", default_value = "table")]
    pub(crate) output: String,
    /// The coordinator's socket
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        env = "VES_SOCKET",
        hide_env_values = true,
        help = "The coordinator's socket [default: /run/ves/api/coordinator.sock]"
    )]
    pub(crate) socket: Option<String>,
    /// A coordinator in the network, as https://HOST:PORT, instead of a context (VES_CONTEXT)
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) endpoint: Option<String>,
    /// The authority of its certificate
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// The certificate to show to it
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) cert: Option<PathBuf>,
    /// That certificate's key
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) key: Option<PathBuf>,
    /// A file with a token, instead of a certificate
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Say nothing but errors and what was asked for
    #[arg(long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Say each step
    #[arg(long, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,
    /// How many seconds to wait for a coordinator that is restarting
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 5, hide = true)]
    pub(crate) patience: u32,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Templates: what containers are created from
    #[command(subcommand)]
    Template(TemplateVerb),
    /// Make a container
    Create(Box<CreateArgs>),
    /// Change a container, running or not
    Set(Box<SetArgs>),
    /// Start a container
    Start(StartArgs),
    /// Stop a container
    Stop(StopArgs),
    /// Stop and start a container
    Restart(RestartArgs),
    /// Destroy a stopped container and all its files
    #[command(visible_alias = "delete")]
    Destroy(Change),
    /// Mount a stopped container's volume
    Mount(Change),
    /// Unmount a stopped container's volume
    Umount(Change),
    /// Check a stopped container's file system and mend it
    Fsck(Change),
    /// One line: CTID 101 exist mounted running
    Status(One),
    /// Open a shell of root inside
    Enter(EnterArgs),
    /// Run a command inside, in a clean environment
    Exec(ExecArgs),
    /// Run a command inside, with no environment but PATH, HOME, TERM and what -e gives
    #[command(alias = "exec3")]
    Exec2(ExecArgs),
    /// Run a script of this machine inside
    Runscript(RunscriptArgs),
    /// Take a snapshot of a container's disk, also while it runs; its parameters are not in it
    Snapshot(SnapshotArgs),
    /// Snapshots of a container, oldest first
    SnapshotList(SnapshotListArgs),
    /// Put a stopped container's disk back to a snapshot; what the disk holds now is lost
    SnapshotSwitch(SnapshotSwitchArgs),
    /// Delete a snapshot; the container stays as it is
    SnapshotDelete(SnapshotOne),
    /// Attach to the console; Ctrl-] leaves it, and so do ~. and Esc . after Enter
    Console(ConsoleArgs),
    /// Containers: running ones, or all
    List(ListVerb),
    /// Running containers and what they use, again and again
    Top(TopArgs),
    /// The 21 UBC rows of a container
    Resources(ResourcesArgs),
    /// Containers as they are and, with --follow, as they change
    Watch(WatchArgs),
    /// What happened, oldest first: to containers, templates and the node, who opened sessions, what failed
    Events(EventsArgs),
    /// Long work: what is being done and what was
    #[command(subcommand)]
    Operation(OperationVerb),
    /// Nodes
    #[command(subcommand)]
    Node(NodeVerb),
    /// Coordinators in the network that are known by name
    #[command(subcommand)]
    Context(ContextVerb),
    /// Print the completion of a shell
    Completion {
        /// Which shell
        shell: Shell,
    },
    /// Write man pages into a directory
    Man {
        /// Where; it is made if it is not there
        dir: PathBuf,
    },
    #[command(flatten)]
    Unbuilt(Unbuilt),
}
