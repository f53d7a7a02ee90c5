//! What the contract has and this build has not: it parses, and answers with NOT_BUILT.
//!
//! When a verb or option is built, its entry moves from here to the grammar or the parameters.
//! Never here: a question to the coordinator.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use ves_proto::{Fault, Reason};

use crate::ct::Ct;

/// Verbs that are not built yet.
#[derive(Debug, Subcommand)]
pub(crate) enum Unbuilt {
    /// Make an existing system a container (not built yet)
    Convert {
        /// DIR, TAR, ssh://HOST or openvz:/path/ID.conf
        #[arg(long)]
        from: String,
        /// The container to make
        ct: Ct,
    },
    /// Save a running container's memory and stop it (not built yet)
    #[command(visible_aliases = ["checkpoint", "chkpnt"])]
    Suspend(Dump),
    /// Go on with a suspended container (not built yet)
    Resume(Dump),
    /// Make a container from a backup, or go on with a suspended one (not built yet)
    Restore {
        /// Backup file, or container
        file: String,
        /// The container to make
        ct: Option<Ct>,
        /// The dump to go on with
        #[arg(long)]
        dumpfile: Option<PathBuf>,
    },
    /// Freeze a container (not built yet)
    Pause(Planned),
    /// Go on with a frozen container (not built yet)
    Unpause(Planned),
    /// Mount a snapshot read-only (not built yet)
    SnapshotMount {
        #[command(flatten)]
        snapshot: Snapshot,
        /// Where
        #[arg(long)]
        target: Option<PathBuf>,
    },
    /// Unmount a snapshot (not built yet)
    SnapshotUmount(Snapshot),
    /// Move a container to another node (not built yet)
    Migrate {
        #[command(flatten)]
        ct: Planned,
        /// The node to move to
        node: String,
        /// Without stopping it
        #[arg(long, alias = "live", conflicts_with_all = ["warm", "offline"])]
        online: bool,
        /// With a short stop
        #[arg(long, conflicts_with = "offline")]
        warm: bool,
        /// Stopped
        #[arg(long)]
        offline: bool,
        /// Only say what stands in the way
        #[arg(long)]
        check_only: bool,
        /// Print how long each phase took
        #[arg(long)]
        times: bool,
    },
    /// Write a container to a file (not built yet)
    Backup {
        #[command(flatten)]
        ct: Planned,
        /// Where to
        file: PathBuf,
    },
    /// Check records and host against each other (not built yet)
    Verify {
        /// One container only
        ct: Option<Ct>,
    },
    /// Take over containers described elsewhere (not built yet)
    Import {
        /// An OpenVZ container's ID.conf
        #[arg(long, value_name = "FILE")]
        openvz: PathBuf,
        /// Change nothing; print the steps that would be done
        #[arg(long)]
        dry_run: bool,
    },
}

/// A container, and only to plan.
#[derive(Debug, Args)]
pub(crate) struct Planned {
    /// Container, by id or name
    ct: Ct,
    /// Change nothing; print the steps that would be done
    #[arg(long)]
    dry_run: bool,
}

/// A container and the file of its memory.
#[derive(Debug, Args)]
pub(crate) struct Dump {
    #[command(flatten)]
    ct: Planned,
    /// The file its memory is in
    #[arg(long)]
    dumpfile: Option<PathBuf>,
    /// Only this part of the work
    #[arg(long, hide = true)]
    suspend: bool,
    /// Only this part of the work
    #[arg(long, hide = true)]
    dump: bool,
    /// Only this part of the work
    #[arg(long, hide = true)]
    undump: bool,
    /// Only this part of the work
    #[arg(long, hide = true)]
    kill: bool,
    /// Only this part of the work
    #[arg(long, hide = true)]
    resume: bool,
}

/// A snapshot of a container.
#[derive(Debug, Args)]
pub(crate) struct Snapshot {
    #[command(flatten)]
    ct: Planned,
    /// The snapshot's id
    #[arg(long)]
    id: String,
}

impl Unbuilt {
    /// The verb's name.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Convert { .. } => "convert",
            Self::Suspend(_) => "suspend",
            Self::Resume(_) => "resume",
            Self::Restore { .. } => "restore",
            Self::Pause(_) => "pause",
            Self::Unpause(_) => "unpause",
            Self::SnapshotMount { .. } => "snapshot-mount",
            Self::SnapshotUmount(_) => "snapshot-umount",
            Self::Migrate { .. } => "migrate",
            Self::Backup { .. } => "backup",
            Self::Verify { .. } => "verify",
            Self::Import { .. } => "import",
        }
    }
}

/// The answer to what is not built; nothing was asked of the coordinator.
pub(crate) fn not_built(what: &str) -> Fault {
    let message =
        format!("{what} is not built yet in this version of virtctl; nothing was changed");
    Fault::new(Reason::NotBuilt, message).fact("what", what)
}

macro_rules! options {
    ($($id:ident $name:literal $value:literal $help:literal;)*) => {
        /// Options of `set` and `create` that are not built yet.
        #[derive(Debug, Args)]
        #[command(next_help_heading = "Parameters of vzctl that are answered with the reason why not, and what instead")]
        pub(crate) struct UnbuiltOptions { $(
            #[arg(long = $name, value_name = $value, help = $help, allow_hyphen_values = true)]
            $id: Vec<String>,
        )* }

        impl UnbuiltOptions {
            /// Those that were given, with their values.
            pub(crate) fn given(&self) -> impl Iterator<Item = (&'static str, &[String])> {
                [$((concat!("--", $name), self.$id.as_slice())),*]
                    .into_iter()
                    .filter(|(_, values)| !values.is_empty())
            }
        }

        #[cfg(test)]
        pub(crate) const OPTIONS: &[&str] = &[$(concat!("--", $name)),*];
    };
}

options! {
    memguarantee "memguarantee" "auto|PERCENT" "Memory it is guaranteed";
    vm_overcommit "vm_overcommit" "FACTOR" "Address space in proportion to memory and swap";
    meminfo "meminfo" "MODE" "What /proc/meminfo shows";
    cpuguarantee "cpuguarantee" "PERCENT" "Processor time it is guaranteed";
    diskquota "diskquota" "yes|no" "Whether its volume has a limit";
    quotatime "quotatime" "SECONDS" "Grace period of the soft disk limits";
    quotaugidlimit "quotaugidlimit" "N" "User and group quotas inside";
    jquota "jquota" "yes|no" "Journal its quotas";
    netif_add "netif_add" "IF[,MAC,HOST_IF,HOST_MAC[,BRIDGE]]" "Give it an Ethernet interface";
    netif_del "netif_del" "IF|all" "Take an Ethernet interface away";
    ifname "ifname" "IF" "The Ethernet interface the following are about";
    mac "mac" "MAC" "Its hardware address inside";
    host_ifname "host_ifname" "IF" "Its name on the node";
    host_mac "host_mac" "MAC" "Its hardware address on the node";
    bridge "bridge" "BRIDGE" "The bridge it is on";
    vlan "vlan" "N" "The VLAN it is in";
    mac_filter "mac_filter" "on|off" "Whether only its own hardware address may be used";
    netdev_add "netdev_add" "IF" "Move an interface of the node inside";
    netdev_del "netdev_del" "IF" "Move it back";
    ext_ipadd "ext_ipadd" "A" "An address it may use and not be given";
    ext_ipdel "ext_ipdel" "A|all" "Take such an address away";
    rate "rate" "DEV:CLASS:KBIT" "Bandwidth it is guaranteed";
    ratebound "ratebound" "yes|no" "Whether that is also its limit";
    netfilter "netfilter" "disabled|stateless|stateful|full" "Which packet filters it may have";
    iptables "iptables" "LIST" "Which packet filters it may have, in the old words";
    bindmount_add "bindmount_add" "[SRC:]DST[,FLAGS]" "Show a directory of the node inside";
    bindmount_del "bindmount_del" "DST|all" "Show it no more";
    pci_add "pci_add" "[DOM:]BUS:SLOT.FUNC" "Give it a PCI device";
    pci_del "pci_del" "[DOM:]BUS:SLOT.FUNC" "Take a PCI device away";
    mount_opts "mount_opts" "LIST" "Options its volume is mounted with";
    root "root" "PATH" "Where its volume is mounted";
    private "private" "PATH" "Where its files are";
    layout "layout" "LAYOUT" "How its files are kept";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_names_what_is_missing() {
        let fault = not_built("suspend");
        assert_eq!(fault.reason, Reason::NotBuilt);
        assert!(fault.message.starts_with("suspend is not built yet"));
        assert_eq!(fault.facts["what"], "suspend");
    }
}
