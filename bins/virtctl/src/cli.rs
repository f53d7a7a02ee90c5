//! The grammar: every verb and option of the contract, built or not.
//!
//! Owns words, not meaning: values are parsed by the vocabulary's own constructors. Verbs that are
//! not built yet live in [`crate::unbuilt`] and are flattened in.

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand};
use clap_complete::Shell;
use ves_types::{ParseError, SnapshotId, SnapshotName, TemplateName};

use crate::ct::Ct;
use crate::exit;
use crate::output::Selection;
use crate::params::{CreateParams, SetParams};
use crate::unbuilt::Unbuilt;

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
        alias = "endpoint",
        global = true,
        value_name = "PATH",
        env = "VES_SOCKET",
        hide_env_values = true,
        help = "The coordinator's socket [also: --endpoint; default: /run/ves/api/coordinator.sock]"
    )]
    pub(crate) socket: Option<String>,
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

/// One container.
#[derive(Debug, Args)]
pub(crate) struct One {
    /// Container, by id or name
    #[arg(value_name = "CT")]
    pub(crate) ct: Ct,
}

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

/// How to show a list.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Columns to show, in this order
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    pub(crate) fields: Vec<String>,
    /// Leave the header out
    #[arg(short = 'H', long)]
    pub(crate) no_header: bool,
    /// Sort by this field; with - in front, backwards
    #[arg(short, long, value_name = "[-]FIELD", allow_hyphen_values = true)]
    pub(crate) sort: Option<String>,
}

impl ListArgs {
    pub(crate) fn selection(self, from_output: Vec<String>) -> Selection {
        let Self { fields, no_header, sort } = self;
        let sort = sort.map(|s| match s.strip_prefix('-') {
            Some(name) => (name.to_owned(), true),
            None => (s, false),
        });
        Selection { fields: if fields.is_empty() { from_output } else { fields }, no_header, sort }
    }
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
    /// What happens to containers
    Events(EventsArgs),
    /// Long work: what is being done and what was
    #[command(subcommand)]
    Operation(OperationVerb),
    /// Nodes
    #[command(subcommand)]
    Node(NodeVerb),
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

#[derive(Debug, Args)]
pub(crate) struct EnterArgs {
    /// Container, by id or name
    #[arg(value_name = "CT")]
    pub(crate) ct: Ct,
    /// Run this first; the shell comes after it
    #[arg(long, value_name = "CMD", num_args = 1.., allow_hyphen_values = true)]
    pub(crate) exec: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ExecArgs {
    /// Give it a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Do not read stdin
    #[arg(short = 'n', long)]
    pub(crate) no_stdin: bool,
    /// Set a variable of its environment
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = variable)]
    pub(crate) env: Vec<String>,
    /// Container, by id or name
    #[arg(value_name = "CT")]
    pub(crate) ct: Ct,
    /// Program and arguments; one argument with spaces or other special characters is a line of
    /// shell; "-" reads lines of shell from stdin
    #[arg(value_name = "CMD", required = true, trailing_var_arg = true)]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct RunscriptArgs {
    /// Container, by id or name
    #[arg(value_name = "CT")]
    pub(crate) ct: Ct,
    /// The script, a file of this machine
    pub(crate) file: PathBuf,
    /// Its arguments
    #[arg(value_name = "ARG", trailing_var_arg = true)]
    pub(crate) args: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ConsoleArgs {
    /// Container, by id or name
    #[arg(value_name = "CT")]
    pub(crate) ct: Ct,
    /// Which console; there is one
    #[arg(value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2), hide = true)]
    pub(crate) number: u8,
    /// Print what was last on it, and end
    #[arg(long)]
    pub(crate) scrollback: bool,
}

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
pub(crate) struct EventsArgs {
    /// Go on until Ctrl-C
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Begin after this revision
    #[arg(long, value_name = "REVISION", default_value_t = 0, requires = "follow")]
    pub(crate) since: u64,
    /// Leave the header out
    #[arg(short = 'H', long)]
    pub(crate) no_header: bool,
}

/// What to do with templates.
#[derive(Debug, Subcommand)]
pub(crate) enum TemplateVerb {
    /// All templates
    List(ListArgs),
    /// Build one from the Debian mirror
    Build {
        /// Its name
        name: TemplateName,
        /// The Debian suite
        #[arg(long)]
        suite: String,
        /// The init system it gets
        #[arg(long, value_parser = ["systemd", "sysvinit"])]
        init: Option<String>,
        /// A further package; may be repeated
        #[arg(long = "package", value_name = "PACKAGE", value_delimiter = ',')]
        packages: Vec<String>,
        /// Change nothing; print the steps that would be done
        #[arg(long)]
        dry_run: bool,
    },
    /// Make one from a tar archive (plain, gzip, xz, zstd), a directory, or "-" for stdin
    Import {
        /// Archive or directory
        source: PathBuf,
        /// Its name; otherwise made from the file's
        #[arg(long)]
        name: Option<TemplateName>,
        /// The SHA-256 the archive must have
        #[arg(long, value_name = "HEX")]
        sha256: Option<String>,
        /// Change nothing; print the steps that would be done
        #[arg(long)]
        dry_run: bool,
    },
    /// Write one to a tar.zst archive
    Export {
        /// Its name
        name: TemplateName,
        /// Where to; "-" is stdout
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Delete one
    #[command(visible_alias = "remove")]
    Delete {
        /// Its name
        name: TemplateName,
        /// Change nothing; print the steps that would be done
        #[arg(long)]
        dry_run: bool,
    },
}

/// What to do with operations.
#[derive(Debug, Subcommand)]
pub(crate) enum OperationVerb {
    /// Operations, newest first
    List(ListArgs),
    /// One operation and its steps
    Show {
        /// Its id
        id: String,
    },
    /// Ask it to stop
    Cancel {
        /// Its id
        id: String,
    },
    /// Wait until it is done
    Wait {
        /// Its id
        id: String,
    },
}

/// What to do with nodes.
#[derive(Debug, Subcommand)]
pub(crate) enum NodeVerb {
    /// All nodes
    List(ListArgs),
    /// What a node has, what is promised, and what it can enforce
    Capacity,
    /// Take a machine in (not built yet)
    Add {
        /// Its name or address
        node: String,
    },
    /// Move all containers away (not built yet)
    Drain {
        /// Its name
        node: String,
    },
    /// Let containers come again (not built yet)
    Undrain {
        /// Its name
        node: String,
    },
    /// Let a machine go (not built yet)
    Remove {
        /// Its name
        node: String,
    },
}

/// Also as vzctl writes it, in braces, and in capitals.
fn snapshot_id(s: &str) -> Result<SnapshotId, ParseError> {
    let bare = s.strip_prefix('{').and_then(|s| s.strip_suffix('}')).unwrap_or(s);
    bare.to_ascii_lowercase().parse()
}

fn variable(s: &str) -> Result<String, ParseError> {
    match s.split_once('=') {
        Some((name, _)) if !name.is_empty() && !s.contains('\0') => Ok(s.to_owned()),
        _ => Err(ParseError::new("variable", s, "it must be NAME=VALUE")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_grammar_is_sound() {
        Cli::command().debug_assert();
    }

    fn ok(line: &str) -> Cli {
        Cli::try_parse_from(line.split(' ')).unwrap_or_else(|e| panic!("{line}: {e}"))
    }

    #[test]
    fn lines_of_the_contract_parse() {
        for line in [
            "virtctl template list",
            "virtctl template build deb --suite trixie --init systemd",
            "virtctl template import a.tar.zst --name n",
            "virtctl template export n",
            "virtctl template delete n",
            "virtctl create 101 --ostemplate t --name w --hostname h --ipadd 192.0.2.1 --ipadd 2001:db8::1 --nameserver 192.0.2.53 --diskspace 10G --diskinodes 100000 --config basic",
            "virtctl convert --from ssh://host 101",
            "virtctl set 101 --numproc 100:200 --save --setmode restart",
            "virtctl set web --netif_add eth0 --features nfs:on --bindmount_add /a",
            "virtctl start 101 --wait",
            "virtctl stop 101 --fast",
            "virtctl restart 101",
            "virtctl destroy 101",
            "virtctl delete 101",
            "virtctl mount 101",
            "virtctl umount 101",
            "virtctl status 101",
            "virtctl enter 101",
            "virtctl enter 101 --exec ls -l",
            "virtctl exec 101 ls -l /",
            "virtctl exec2 101 sh -c true",
            "virtctl runscript 101 file a -b",
            "virtctl console 101 1",
            "virtctl suspend 101",
            "virtctl resume 101",
            "virtctl checkpoint 101",
            "virtctl chkpnt 101 --dumpfile f",
            "virtctl restore 101",
            "virtctl restore file 101",
            "virtctl pause 101",
            "virtctl unpause 101",
            "virtctl snapshot 101 --name n --with-memory",
            "virtctl snapshot-list 101",
            "virtctl snapshot-list 101 -H -o id,name --id {019AB4A0-0000-7000-8000-00000000000F}",
            "virtctl snapshot-switch 101 --id 019ab4a0-0000-7000-8000-00000000000f --skip-resume",
            "virtctl snapshot-delete 101 --id {019ab4a0-0000-7000-8000-00000000000f}",
            "virtctl snapshot-mount 101 --id i --target d",
            "virtctl snapshot-umount 101 --id i",
            "virtctl migrate 101 node2 --online --times",
            "virtctl migrate 101 node2 --check-only",
            "virtctl backup 101 file",
            "virtctl list -a -H --fields ctid,ip",
            "virtctl list -a -o ctid,ip",
            "virtctl top",
            "virtctl resources 101 -r",
            "virtctl resources --all",
            "virtctl events --follow",
            "virtctl operation list",
            "virtctl operation show x",
            "virtctl operation cancel x",
            "virtctl node list",
            "virtctl node add n2",
            "virtctl node drain n2",
            "virtctl node undrain n2",
            "virtctl node remove n2",
            "virtctl node capacity",
            "virtctl verify",
            "virtctl verify 101",
            "virtctl import --openvz file",
            "virtctl --quiet start 101 --verbose --dry-run --socket /s -o json",
            "virtctl completion bash",
            "virtctl man dir",
        ] {
            let line =
                if line.contains("--quiet") { &line.replace(" --verbose", "") } else { line };
            ok(line);
        }
    }

    #[test]
    fn options_of_the_command_inside_are_its_own() {
        let Verb::Exec(args) = ok("virtctl exec -t 101 ls -o json --socket x -t").verb else {
            panic!("exec is exec")
        };
        assert_eq!(args.command, ["ls", "-o", "json", "--socket", "x", "-t"]);
        assert!(args.tty);
    }

    #[test]
    fn lines_that_are_wrong() {
        for line in [
            "virtctl",
            "virtctl nonsense",
            "virtctl start",
            "virtctl start 0",
            "virtctl start -1",
            "virtctl start 2147483645",
            "virtctl start 101 102",
            "virtctl start ../etc",
            "virtctl create 101",
            "virtctl create 101 --ostemplate ../x",
            "virtctl exec 101",
            "virtctl exec -e NOEQUALS 101 ls",
            "virtctl resources",
            "virtctl resources 101 --all",
            "virtctl list -a -S",
            "virtctl set 101 --setmode sometimes",
            "virtctl --quiet --verbose status 101",
            "virtctl stop 101 --timeout 0",
            "virtctl console 101 9",
            "virtctl snapshot-switch 101",
            "virtctl snapshot-switch 101 --id i",
            "virtctl snapshot-delete 101 --id ../x",
            "virtctl snapshot 101 --with-memory --skip-suspend",
            "virtctl template build T --suite trixie",
            "virtctl completion tcsh",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }
}
